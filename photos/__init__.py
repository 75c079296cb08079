"""From photographs or a video to a scene with poses: structure from motion by pycolmap.

What comes out is an ordinary COLMAP scene (`images/`, `sparse/0/`), which the room `scene` reads as any
other. Nothing here knows Gaussians. pycolmap runs in a process of its own, so that what it prints and how it
ends harm nobody.
"""

from __future__ import annotations

from photos.prepare import SfmConfig, convert, scene_of

__all__ = ["SfmConfig", "convert", "scene_of"]
