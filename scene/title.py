"""What a scene is called: by its folder, or by the photographs or the video that it was made of."""

from __future__ import annotations

from pathlib import Path

MADE = "colmap"
"""The folder beside photographs in which the scene made of them is kept; a video's is VIDEO_colmap."""


def title_of(source: Path) -> str:
    """The name of a scene's folder that says something to the user.

    Args:
        source: the folder; it need not exist.
    """
    if source.name == MADE and source.parent.name:
        return source.parent.name
    return source.name.removesuffix(f"_{MADE}") or source.name
