"""The report: one HTML page that shows a trace and needs nothing else, no network, no server.

Knows traces; decides nothing about how they are recorded.
"""

from probekit.report.writing import Report, write_report

__all__ = ["Report", "write_report"]
