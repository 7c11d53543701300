"""One offline HTML file per run, that says how good a network is, on what it fails and what it costs."""

from convatlas.report.run_report import write_report

__all__ = ["write_report"]
