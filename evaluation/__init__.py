"""How good renders are, as figures and as pictures: metrics, reports, depth maps in colour, videos.

This room is handed a render function and never sees a model. Metrics are taken on 8-bit images, as
readers of the written pictures would take them.
"""

from __future__ import annotations

from evaluation.evaluate import evaluate
from evaluation.film import film
from evaluation.metrics import MAX_PSNR, psnr, to_8bit
from evaluation.perceptual import Perceptual, load_perceptual
from evaluation.pictures import colorize_depth, depth_limits, save_png
from evaluation.report import Report, Scores, write_report
from evaluation.video import Video, VideoError

__all__ = [
    "MAX_PSNR",
    "Perceptual",
    "Report",
    "Scores",
    "Video",
    "VideoError",
    "colorize_depth",
    "depth_limits",
    "evaluate",
    "film",
    "load_perceptual",
    "psnr",
    "save_png",
    "to_8bit",
    "write_report",
]
