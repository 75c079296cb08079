"""Structure from motion in a process of its own: features, matches, poses, with settings for few photographs.

    python -m photos.reconstruct JOB.json

Called by `photos.prepare` only. Progress goes to stdout, one JSON object a line; what pycolmap prints goes to
stderr. The model of the best attempt is written to the job's output folder, what was found to result.json in
its work folder.

What differs from COLMAP's own defaults, which are made for hundreds of photographs:

    tracks of two photographs count, as with three photographs nearly all are such; a model of two is one
    photographs of one camera, lens and zoom share their intrinsics
    lens distortion stays 0 below six photographs, where it would only take up errors of the poses
    where no EXIF data tells the focal length, several are tried, and looser thresholds where strict ones
    leave photographs out; the attempt that places most photographs, and then most points, is kept
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pycolmap
from numpy.typing import NDArray

from photos.collect import link_or_copy
from photos.turning import Matched, unexplained_by_turns

EXHAUSTIVE = 60
"""Photographs up to which every pair is matched."""
OVERLAP = (1, 2, 3, 4, 5, 6, 8, 12, 16, 24, 32)
"""Above: each photograph is matched with those so many after it ..."""
LANDMARKS = 16
"""... and so many photographs, evenly spread, with each other, so that a round trip closes."""
STRONG = 30
"""Matches from which on a pair says something about how the camera moved."""
FEW = 8
"""Photographs up to which all focal lengths are tried: an attempt takes a second, a wrong one may pass."""
FEWEST_FOR_DISTORTION = 6
ABOUT_AS_MANY = 0.98
"""Share of the most points seen, from which on the reprojection error decides between two attempts."""
FOCAL_LENGTHS = (1.2, 0.8, 1.8)
"""Starts without EXIF data, in longer sides of the picture: COLMAP's, a phone's, a portrait lens's."""


@dataclass(frozen=True)
class Strictness:
    """Thresholds of the incremental mapper (COLMAP's names)."""

    init_min_num_inliers: int
    init_min_tri_angle: float
    abs_pose_min_num_inliers: int
    abs_pose_min_inlier_ratio: float


STRICTNESS = (Strictness(100, 16.0, 30, 0.25), Strictness(50, 6.0, 20, 0.2), Strictness(25, 2.0, 12, 0.12))
"""COLMAP's own thresholds first."""


def run(job: dict[str, Any], say: Callable[[str, int, int], None]) -> dict[str, Any]:
    """All three stages.

    Args:
        job: see `photos.prepare._job`.
        say: is told stage, what is done, and what there is to do.

    Returns:
        What was found: see `photos.advice`.
    """
    work = Path(job["work"])
    job, own_names = _plainly_named(job)
    names = list(own_names)
    database = work / "database.db"
    pycolmap.set_random_seed(job["seed"])
    _extract(job, database, say)
    _match(job, database, say)
    found = _describe(database, names)
    best, attempts = _map(job, database, found["prior_focal"], say)
    found |= {"attempts": attempts, "registered": [], "points": 0, "error": 0.0, "cameras": []}
    if best is not None:
        for image in best.images.values():
            image.name = own_names[image.name]
        output = Path(job["output"])
        output.mkdir(parents=True)
        best.write_binary(str(output))
        found |= {
            "registered": sorted(image.name for image in best.images.values()),
            "points": best.num_points3D(),
            "error": best.compute_mean_reprojection_error(),
            "cameras": [
                {
                    "model": camera.model_name,
                    "params": [float(value) for value in camera.params],
                    "width": camera.width,
                    "height": camera.height,
                }
                for camera in best.cameras.values()
            ],
        }
    found["features"] = {own_names[name]: count for name, count in found["features"].items()}
    found["pairs"] = [[own_names[one], own_names[other], count] for one, other, count in found["pairs"]]
    return found


def _plainly_named(job: dict[str, Any]) -> tuple[dict[str, Any], dict[str, str]]:
    """The job with numbers for names, and what these stand for: in COLMAP's lists a name ends at a space."""
    folder = Path(job["work"]) / "images"
    folder.mkdir()
    own_names: dict[str, str] = {}
    photos = []
    for number, photo in enumerate(job["photos"]):
        path = Path(job["images"], photo["name"])
        name = f"{number:06d}{path.suffix.lower()}"
        link_or_copy(path, folder / name)
        own_names[name] = photo["name"]
        photos.append({**photo, "name": name})
    return {**job, "images": str(folder), "photos": photos}, own_names


def pairs_of(count: int, matching: str) -> list[tuple[int, int]]:
    """Pairs of photographs, by rank, whose features are compared.

    Args:
        count: number of photographs, in the order in which they were taken.
        matching: `exhaustive`, `sequential`, or `auto`, which is the first for up to 60.
    """
    if matching == "exhaustive" or (matching == "auto" and count <= EXHAUSTIVE):
        return [(i, j) for i in range(count) for j in range(i + 1, count)]
    chosen = {(i, i + step) for step in OVERLAP for i in range(count - step)}
    spread = sorted({round(k * (count - 1) / (LANDMARKS - 1)) for k in range(LANDMARKS)})
    chosen |= {(i, j) for i in spread for j in spread if i < j}
    return sorted(chosen)


def _extract(job: dict[str, Any], database: Path, say: Callable[[str, int, int], None]) -> None:
    names = [photo["name"] for photo in job["photos"]]
    options = pycolmap.FeatureExtractionOptions()
    options.use_gpu = False
    options.num_threads = job["threads"]
    options.max_image_size = job["max_image_size"]
    options.sift.max_num_features = job["max_features"]
    reader = pycolmap.ImageReaderOptions()
    reader.camera_model = job["camera_model"]
    groups: dict[str, list[str]] = {}
    for photo in job["photos"]:
        groups.setdefault(photo["lens"], []).append(photo["name"])
    pycolmap.Database.open(database).close()  # makes the file
    done = 0
    for group in groups.values():
        pycolmap.import_images(
            database, job["images"], pycolmap.CameraMode.SINGLE, image_names=group, options=reader
        )
        for batch in _batches(group, job["threads"]):
            say("features", done, len(names))
            pycolmap.extract_features(
                database, job["images"], image_names=batch, camera_mode=pycolmap.CameraMode.SINGLE,
                reader_options=reader, extraction_options=options,
            )  # fmt: skip
            done += len(batch)
    say("features", done, len(names))


def _match(job: dict[str, Any], database: Path, say: Callable[[str, int, int], None]) -> None:
    names = [photo["name"] for photo in job["photos"]]
    pairs = pairs_of(len(names), job["matching"])
    matching = pycolmap.FeatureMatchingOptions()
    matching.use_gpu = False
    matching.num_threads = job["threads"]
    verifying = pycolmap.TwoViewGeometryOptions()
    verifying.ransac.random_seed = job["seed"]
    listed = Path(job["work"]) / "pairs.txt"
    pairing = pycolmap.ImportedPairingOptions()
    pairing.match_list_path = str(listed)
    done = 0
    for batch in _batches(pairs, 8 * job["threads"]):
        say("matches", done, len(pairs))
        listed.write_text("".join(f"{names[i]} {names[j]}\n" for i, j in batch), "utf-8")
        pycolmap.match_image_pairs(
            database, matching_options=matching, pairing_options=pairing, verification_options=verifying
        )
        done += len(batch)
    say("matches", done, len(pairs))


def _describe(database: Path, names: list[str]) -> dict[str, Any]:
    """Features of each photograph, and what each pair of them has in common."""
    with pycolmap.Database.open(database) as db:
        images = {image.image_id: image for image in db.read_all_images()}
        cameras = {camera.camera_id: camera for camera in db.read_all_cameras()}
        features = {image.name: db.num_keypoints_for_image(i) for i, image in images.items()}
        middled: dict[int, NDArray[np.float64]] = {}
        for i, image in images.items():
            camera = cameras[image.camera_id]
            half = np.array([camera.width, camera.height]) / 2
            middled[i] = (db.read_keypoints(i)[:, :2] - half) / max(camera.width, camera.height)
        pairs, strong = [], []
        for pair_id, geometry in zip(*db.read_two_view_geometries(), strict=True):
            one, other = pycolmap.pair_id_to_image_pair(pair_id)
            matches = np.asarray(geometry.inlier_matches)
            if len(matches) == 0:
                continue
            pairs.append([images[one].name, images[other].name, len(matches)])
            if len(matches) >= STRONG:
                strong.append(Matched(middled[one][matches[:, 0]], middled[other][matches[:, 1]]))
        prior = all(camera.has_prior_focal_length for camera in cameras.values())
    return {
        "features": {name: features.get(name, 0) for name in names},
        "pairs": pairs,
        "unexplained_by_turns": unexplained_by_turns(strong) if strong else None,
        "prior_focal": prior,
    }


def _map(
    job: dict[str, Any], database: Path, prior_focal: bool, say: Callable[[str, int, int], None]
) -> tuple[pycolmap.Reconstruction | None, list[dict[str, Any]]]:
    """The best of several attempts, and what each gave."""
    count = len(job["photos"])
    lengths: tuple[float | None, ...] = (None,) if prior_focal else FOCAL_LENGTHS
    models: list[pycolmap.Reconstruction] = []
    attempts: list[dict[str, Any]] = []
    for strictness in STRICTNESS:
        for length in lengths:
            if length is not None:
                _set_focal(database, length)
            model = _attempt(job, database, strictness, len(attempts), say)
            attempts.append({"start": length, "inliers": strictness.init_min_num_inliers, **_figures(model)})
            if model is not None:
                models.append(model)
            placed = max((m.num_reg_images() for m in models), default=0)
            models = [m for m in models if m.num_reg_images() == placed]  # no other can be the best one
            if placed == count and count > FEW:
                return _best(models), attempts
        if placed == count:
            break
    return _best(models), attempts


def _best(models: list[pycolmap.Reconstruction]) -> pycolmap.Reconstruction | None:
    """Of models of as many photographs and about as many points, the one of the least error."""
    seen = max((model.compute_num_observations() for model in models), default=0)
    rich = [model for model in models if model.compute_num_observations() >= ABOUT_AS_MANY * seen]
    return min(rich, key=lambda model: model.compute_mean_reprojection_error(), default=None)


def _figures(model: pycolmap.Reconstruction | None) -> dict[str, float]:
    if model is None:
        return {"images": 0}
    return {
        "images": model.num_reg_images(),
        "observations": model.compute_num_observations(),
        "focal": next(iter(model.cameras.values())).mean_focal_length(),
        "error": model.compute_mean_reprojection_error(),
    }


def _attempt(
    job: dict[str, Any],
    database: Path,
    strictness: Strictness,
    number: int,
    say: Callable[[str, int, int], None],
) -> pycolmap.Reconstruction | None:
    """The largest model that the mapper finds; None where it finds none."""
    count = len(job["photos"])
    options = pycolmap.IncrementalPipelineOptions()
    options.num_threads = job["threads"]
    options.random_seed = job["seed"]
    options.min_model_size = 2
    options.triangulation.ignore_two_view_tracks = False
    options.ba_refine_extra_params = count >= FEWEST_FOR_DISTORTION
    options.mapper.abs_pose_refine_extra_params = options.ba_refine_extra_params
    for name, value in vars(strictness).items():
        setattr(options.mapper, name, value)
    placed = 0

    def began() -> None:
        nonlocal placed
        placed = 2
        say("poses", placed, count)

    def next_one() -> None:
        nonlocal placed
        placed += 1
        say("poses", min(placed, count), count)

    folder = Path(job["work"]) / f"attempt_{number}"
    folder.mkdir()
    models = pycolmap.incremental_mapping(
        database, job["images"], folder, options,
        initial_image_pair_callback=began, next_image_callback=next_one,
    )  # fmt: skip
    return max(
        models.values(), key=lambda m: (m.num_reg_images(), m.compute_num_observations()), default=None
    )


def _set_focal(database: Path, share: float) -> None:
    """Starts all cameras at a focal length of so many longer sides."""
    with pycolmap.Database.open(database) as db:
        for camera in db.read_all_cameras():
            if not camera.has_prior_focal_length:
                params = [float(value) for value in camera.params]
                for i in camera.focal_length_idxs():
                    params[i] = share * max(camera.width, camera.height)
                camera.params = params
                db.update_camera(camera)


def _batches(items: list[Any], size: int) -> Iterator[list[Any]]:
    for first in range(0, len(items), size):
        yield items[first : first + size]


def _say(stage: str, done: int, total: int) -> None:
    print(json.dumps({"stage": stage, "done": done, "total": total}), flush=True)


if __name__ == "__main__":
    pycolmap.logging.minloglevel = 2  # errors only: they are shown where this process fails
    _job = json.loads(Path(sys.argv[1]).read_text("utf-8"))
    _result = run(_job, _say)
    (Path(_job["work"]) / "result.json").write_text(json.dumps(_result), "utf-8")
