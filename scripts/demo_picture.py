"""Makes the README's picture from the demo's output: photograph, render and depth of two held-out views.

python scripts/demo_picture.py output/demo docs/images/demo.jpg
"""

from __future__ import annotations

import sys
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

COLUMNS = ("gt", "renders", "depth")
ROWS = 2


def main(output: Path, target: Path) -> None:
    """Stacks the first views of the newest test renders in `output` into the JPEG `target`.

    Raises:
        FileNotFoundError: there are no test renders: run scripts/demo first.
    """
    runs = sorted((output / "test").glob("ours_*"), key=lambda path: int(path.name.split("_")[1]))
    if not runs:
        raise FileNotFoundError(f"{output}/test: no renders; run scripts/demo first")
    names = sorted(path.name for path in (runs[-1] / "renders").glob("*.png"))[:ROWS]
    rows = [np.hstack([_read(runs[-1] / column / name) for column in COLUMNS]) for name in names]
    target.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(target), np.vstack(rows), [cv2.IMWRITE_JPEG_QUALITY, 88])


def _read(path: Path) -> NDArray[np.uint8]:
    image = cv2.imread(str(path))
    if image is None:
        raise FileNotFoundError(f"{path}: not a picture; run scripts/demo first")
    return image.astype(np.uint8)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
