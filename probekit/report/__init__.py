"""The report: one HTML page that shows a trace and needs nothing else, no network, no server.

Knows traces; decides nothing about how they are recorded.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
