"""Puts the page together and writes it: one file without any reference to another.

The page has one script and one style sheet, both its own and named by their sums in its content security
policy: whatever a file of the run may smuggle in, it neither runs nor loads anything.
"""

from __future__ import annotations

import base64
import hashlib
from functools import cache
from pathlib import Path

import jinja2
from markupsafe import Markup

from atomic import write_bytes
from reporting import pictures
from reporting.configuration import compare
from reporting.curves import curves, distributions, learning_rates, over_fit
from reporting.facts import about, date, tiles, worth_knowing
from reporting.files import commands, files
from reporting.run import read_run
from reporting.training import stages, training_views
from reporting.views import test_views

NAME = "report.html"
_SOURCES = Path(__file__).parent / "page"


def write_page(folder: Path) -> Path:
    """Writes `report.html`, the story of a run, into the run's folder.

    It reads what the folder holds and nothing else. What is missing or damaged is left out, with a sentence.

    Args:
        folder: the output folder of a run, whole, stopped or still going on, or one that render.py filled.

    Returns:
        The page's path.

    Raises:
        ReportError: there is no such folder, or nothing in it to tell of.
        OSError: the page cannot be written.
    """
    run = read_run(Path(folder))
    views = test_views(run)
    stem, taking_shape = stages(run)
    training, more_training = training_views(run)
    psnr = run.means.get(max(run.means, default=-1), {}).get("PSNR")
    script, style = (Markup((_SOURCES / name).read_text("utf-8")) for name in ("page.js", "page.css"))
    page = _template().render(
        run=run,
        script=script,
        style=style,
        script_sum=_sum(script),
        style_sum=_sum(style),
        date=date(run),
        about=about(run),
        tiles=tiles(run),
        views=views,
        stage_stem=stem,
        stages=taking_shape,
        curves=curves(run),
        over_fit=over_fit(run),
        distributions=distributions(run),
        learning_rates=learning_rates(run),
        training=training,
        has_priors=any(tag.startswith(("prior/", "confidence/")) for tag in run.events.pictures),
        psnr=psnr,
        # Below 0 dB there is no picture between 0 and 1: somebody has changed the figures.
        typical_error=None if psnr is None or psnr < 0 else 100 * 10 ** (-psnr / 20),
        more_training=more_training,
        worth_knowing=[*(views.notes if views else ()), *worth_knowing(run)],
        options=compare(run),
        files=files(run),
        commands=commands(run),
        error_scale=pictures.error_scale(),
        depth_scale=pictures.depth_scale(),
    )
    path = run.folder / NAME
    write_bytes(path, page.encode("utf-8", "replace"))
    return path


@cache  # compiling it takes longer than all else of a small page
def _template() -> jinja2.Template:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_SOURCES),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("page.html")


def _sum(text: str) -> str:
    """The sum by which a content security policy knows an inline script or style sheet."""
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
