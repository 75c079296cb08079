"""The parsers of depth, confidence, their mappings, and of .ply files."""

from __future__ import annotations

import io
import json
import logging
from functools import cache
from pathlib import Path

import cv2
import numpy as np
import numpy.lib.recfunctions
import torch

from depth_priors import DepthConfig, MapCache
from depth_priors.confidence import file_confidence
from depth_priors.files import file_priors
from depth_priors.point_file import read_points
from exporting.compressed_ply import encode
from exporting.source import load_source
from exporting.splats import Splats
from gaussian_model import Gaussians, load_ply, save_ply
from scene import Camera, View
from stress.fuzz_containers import in_archive, in_png
from stress.fuzz_headers import in_npy, in_ply, in_tiff
from stress.fuzz_mutations import Mutator, damaged, regrown
from stress.fuzz_parser import Parser, Seed, expect

WIDTH, HEIGHT = 24, 18
_log = logging.getLogger(__name__)


@cache
def _view() -> View:
    K = torch.tensor([[30.0, 0.0, 12.0], [0.0, 30.0, 9.0], [0.0, 0.0, 1.0]])
    pixels = torch.full((HEIGHT, WIDTH, 3), 128, dtype=torch.uint8)
    return View("view_000.png", Camera(torch.eye(4), K, WIDTH, HEIGHT), pixels)


def _saved(array: np.ndarray) -> bytes:
    data = io.BytesIO()
    np.save(data, array)
    return data.getvalue()


def _zipped(**arrays: np.ndarray) -> bytes:
    data = io.BytesIO()
    np.savez(data, **arrays)  # type: ignore[arg-type]
    return data.getvalue()


def _pfm(depth: np.ndarray) -> bytes:
    return f"Pf\n{WIDTH} {HEIGHT}\n-1.0\n".encode() + depth[::-1].astype("<f4").tobytes()


def _maps(rng: np.random.Generator) -> list[tuple[str, bytes, Mutator]]:
    """(ending, content, how it is damaged) of a map in each format."""
    depth = rng.uniform(0.5, 1.0, (HEIGHT, WIDTH)).astype(np.float32)
    eight, sixteen = (depth * 255).astype(np.uint8), (depth * 65535).astype(np.uint16)
    png = [cv2.imencode(".png", image)[1].tobytes() for image in (eight, sixteen)]
    inside = in_archive(lambda _: in_npy)
    return [
        (".npy", _saved(depth), in_npy),
        (".npy", _saved(depth.astype(np.float64)[..., None]), in_npy),
        (".npy", _saved((depth * 1000).astype(">i8")), in_npy),
        (".npz", _zipped(depth=depth, confidence=np.ones_like(depth)), inside),
        (".npz", _zipped(confidence=depth.astype(np.float16)), inside),
        (".png", png[0], in_png),
        (".png", png[1], in_png),
        (".pfm", _pfm(depth), damaged),
        (".tif", cv2.imencode(".tif", depth)[1].tobytes(), in_tiff),
        (".tif", cv2.imencode(".tif", sixteen)[1].tobytes(), in_tiff),
        (".png.geometric.bin", f"{WIDTH}&{HEIGHT}&1&".encode() + depth.astype("<f4").tobytes(), damaged),
    ]


def _depth_seeds(work: Path) -> list[Seed]:
    found = [one for one in _maps(np.random.default_rng(0)) if b"depth" in one[1] or one[0] != ".npz"]
    return [Seed({f"maps/view_000{end}": data}, {f"maps/view_000{end}": how}) for end, data, how in found]


def _confidence_seeds(work: Path) -> list[Seed]:
    found = [one for one in _maps(np.random.default_rng(0)) if one[0] in (".npy", ".npz", ".png", ".tif")]
    return [  # whole numbers beyond 1 are no confidence
        Seed({f"maps/view_000{end}": data}, {f"maps/view_000{end}": how}, refused=b">i8" in data)
        for end, data, how in found
    ]


def _read_depth(folder: Path) -> None:
    (prior,) = file_priors([_view()], folder, DepthConfig(depth_dir=str(folder / "maps")))
    if prior is None:
        return
    expect(prior.value.shape == (HEIGHT, WIDTH), f"a prior of {list(prior.value.shape)}")
    expect(prior.value.isfinite().all() and (prior.value >= 0).all(), "depth that is not finite, or below 0")
    sure = prior.confidence
    expect(((sure >= 0) & (sure <= 1)).all(), "confidence beyond 0 to 1")
    expect(prior.depth().isfinite().all() and prior.inverse().isfinite().all(), "depth that has no inverse")


def _check_confidence(folder: Path, mapping: str = "") -> None:
    config = DepthConfig(confidence_dir=str(folder / "maps"), confidence_map=mapping)
    (found,) = file_confidence([_view()], config)
    if found is not None:
        expect(found.shape == (HEIGHT, WIDTH), f"confidence of {list(found.shape)}")
        expect(((found >= 0) & (found <= 1)).all(), "confidence beyond 0 to 1")


def _mapping_seeds(work: Path) -> list[Seed]:
    data = _saved(np.full((HEIGHT, WIDTH), 0.5, np.float32))
    content = {"view_000.png": "a/first.npy", "view_001.png": "second.npy"}
    files = {"maps/a/first.npy": data, "maps/second.npy": data, "map.json": json.dumps(content).encode()}
    return [Seed(files, {"map.json": regrown})]


def _params_seeds(work: Path) -> list[Seed]:
    depth = np.full((HEIGHT, WIDTH), 30000, np.uint16)
    content = {"view_000": {"scale": 0.5, "offset": 0.1}, "view_001": {"scale": 2, "offset": -1.0}}
    files = {
        "maps/view_000.png": cv2.imencode(".png", depth)[1].tobytes(),
        "maps/depth_params.json": json.dumps(content).encode(),
    }
    return [Seed(files, {"maps/depth_params.json": regrown})]


def _cache_seeds(work: Path) -> list[Seed]:
    return [
        Seed(
            {"cache/key.npz": _zipped(depth=np.ones((4, 5), np.float32))},
            {"cache/key.npz": in_archive(lambda _: in_npy)},
        )
    ]


def _read_cache(folder: Path) -> bool:
    found = MapCache(folder / "cache").load("key", {"depth": (4, 5)})
    expect(found is None or found["depth"].shape == (4, 5), "a map of another shape")
    return found is not None


def _point_seeds(work: Path) -> list[Seed]:
    rows = [(0.5 * i, 1.0, -2.0, 10 * i, 20, 30) for i in range(6)]
    head = "element vertex 6\n" + "".join(f"property float {axis}\n" for axis in "xyz")
    bytes_ = head + "".join(f"property uchar {name}\n" for name in ("red", "green", "blue")) + "end_header\n"
    floats = head + "".join(f"property float f_dc_{i}\n" for i in range(3)) + "end_header\n"
    lists = head.replace("\n", "\nproperty list uchar int n\n", 1) + "property uchar red\n"
    lists += "property uchar green\nproperty uchar blue\nend_header\n"
    text = "".join(" ".join(map(str, row)) + "\n" for row in rows)
    with_list = "".join("2 1 2 " + line for line in text.splitlines(True))
    little, big = "ply\nformat binary_little_endian 1.0\n", "ply\nformat binary_big_endian 1.0\n"
    kind = [(axis, "f4") for axis in "xyz"] + [(name, "u1") for name in "rgb"]
    packed = np.array(rows, dtype=[(n, f"<{k}") for n, k in kind])
    wide = np.array([(*row[:3], 0.1, 0.2, 0.3) for row in rows], np.float32)
    contents = (
        f"ply\nformat ascii 1.0\ncomment made by hand\n{bytes_}{text}".encode(),
        (little + bytes_).encode() + packed.tobytes(),
        (big + bytes_).encode() + packed.astype([(n, f">{k}") for n, k in kind]).tobytes(),
        (little + floats).encode() + wide.astype("<f4").tobytes(),
        f"ply\nformat ascii 1.0\n{lists}{with_list}".encode(),
    )
    return [Seed({"points.ply": content}, {"points.ply": in_ply}) for content in contents]


def _read_points(folder: Path) -> None:
    points = read_points(folder / "points.ply")
    expect(len(points) > 0, "no points")
    expect(points.xyz.isfinite().all(), "points that are not finite")
    expect(((points.rgb >= 0) & (points.rgb <= 1)).all(), "colours beyond 0 to 1")


def some_gaussians(n: int, rest: int, seed: int = 0) -> Gaussians:
    """N random Gaussians with K - 1 = `rest` further SH coefficients."""
    generator = torch.Generator().manual_seed(seed)
    shapes = {"means": (3,), "quats": (4,), "scales": (3,), "opacities": (), "sh0": (1, 3), "shN": (rest, 3)}
    return Gaussians({key: torch.randn(n, *shape, generator=generator) for key, shape in shapes.items()})


def check_gaussians(gaussians: Gaussians) -> None:
    """Gaussians as the rest of the program expects them: finite, of one number."""
    expect(gaussians.max_sh_degree >= 0, "an SH degree")
    for key, value in gaussians.params.items():
        expect(value.isfinite().all(), f"{key} that are not finite")
        expect(value.dtype == torch.float32 and len(value) == len(gaussians), f"{key} of {list(value.shape)}")


def _gaussian_seeds(work: Path) -> list[Seed]:
    from plyfile import PlyData, PlyElement

    contents = []
    for rest in (0, 3, 8):
        path = work / f"{rest}.ply"
        save_ply(path, some_gaussians(5, rest))
        contents.append(path.read_bytes())
    for options in ({"text": True}, {"byte_order": ">"}):
        ply = PlyData.read(str(work / "3.ply"))
        for key, value in options.items():
            setattr(ply, key, value)
        ply.write(str(work / "other.ply"))
        contents.append((work / "other.ply").read_bytes())
    contents += [encode(Splats.of(some_gaussians(5, rest))) for rest in (0, 8)]  # compressed
    plain = PlyData.read(str(work / "3.ply"))["vertex"].data
    surfels = [name for name in plain.dtype.names if name != "scale_2"]
    smoothed = np.lib.recfunctions.append_fields(plain, "filter_3D", np.ones(5, np.float32), usemask=False)
    for rows, comment in ((plain[surfels], "SplatRenderMode: 2dgs"), (smoothed, "SplatRenderMode: mip")):
        packed = np.lib.recfunctions.repack_fields(rows)
        PlyData([PlyElement.describe(packed, "vertex")], comments=[comment]).write(str(work / "other.ply"))
        contents.append((work / "other.ply").read_bytes())
    return [Seed({"run/point_cloud.ply": content}, {"run/point_cloud.ply": in_ply}) for content in contents]


def _read_gaussians(folder: Path) -> None:
    check_gaussians(load_ply(folder / "run" / "point_cloud.ply"))
    check_gaussians(load_source(folder / "run" / "point_cloud.ply").gaussians)


PARSERS = (
    Parser("depth", "depth maps: .npy, .npz, .png, .pfm, .tif, .geometric.bin", _depth_seeds, _read_depth),
    Parser("confidence", "confidence maps: .npy, .npz, .png, .tif", _confidence_seeds, _check_confidence),
    Parser(
        "confidence_map",
        "confidence mapping (JSON)",
        _mapping_seeds,
        lambda f: _check_confidence(f, str(f / "map.json")),
    ),
    Parser("depth_params", "depth_params.json", _params_seeds, _read_depth),
    Parser("depth_cache", "depth maps kept between runs (.npz)", _cache_seeds, _read_cache),
    Parser("points_ply", "points to start from (.ply)", _point_seeds, _read_points),
    Parser("gaussians_ply", "Gaussians (.ply)", _gaussian_seeds, _read_gaussians),
)
