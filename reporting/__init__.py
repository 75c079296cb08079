"""The story of a training run on one page: report.html, which opens anywhere, offline.

    from reporting import write_page
    write_page(Path("output/garden"))

It only reads what the run's folder holds (config.yaml, figures, TensorBoard events, rendered pictures), so
that a page can be made of any run at any time. Nothing here knows a model or renders.
"""

from __future__ import annotations

from reporting.report_error import ReportError
from reporting.write import NAME, write_page

__all__ = ["NAME", "ReportError", "write_page"]
