"""What `write_page` refuses."""

from __future__ import annotations

from errors import UserError


class ReportError(UserError):
    """A folder of which there is nothing to tell."""
