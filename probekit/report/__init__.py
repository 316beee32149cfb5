"""The report: one HTML page that shows a trace and needs nothing else, no network, no server.

Knows traces, results of analysis, and the page's own scripts (`page/`); decides nothing about how
traces are recorded.

Its door: `write_report` and the `Report` that it gives.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
