"""What a user may choose about depth, confidence, and the points that training starts from."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from depth_priors.midas import MODELS
from errors import UserError

PROVIDERS = ("auto", "files", *(f"midas:{name}" for name in MODELS), "onnx:PATH", "mvs", "sfm", "none")


@dataclass(frozen=True)
class DepthConfig:
    """Options of the depth priors.

    Raises:
        UserError: from `check`, for a value that has no meaning, or a file that is not there.
    """

    init: str = "auto"
    """Points to start from: `sfm` (the scene's own), `mvs` (dense ones by stereo between the training views,
    and the scene's), `random`, or a .ply file of coloured points (COLMAP's fused.ply). auto: sfm, or mvs
    where the scene has no points. What cannot be had is replaced by the other, or by random points."""
    init_spacing: float = 4.0
    """mvs: distance of neighbouring points, in pixels of the photographs."""
    depth_prior: str = "auto"
    """Where the depth of the depth loss comes from: `files` (--depth_dir), `midas:dpt_hybrid`,
    `midas:dpt_large`, `midas:small`, `onnx:PATH`, `mvs` (the built-in stereo), `sfm` (the scene's points),
    `none`. auto: files if --depth_dir is given, else MiDaS if its weights are on disk, else mvs, sfm, none.
    Unused where no loss asks for depth."""
    depth_dir: str = ""
    """Folder of depth maps, one a photograph, by its name or stem (.png, .npy, .npz, .pfm, .tif,
    .geometric.bin); depth_params.json as 3DGS has it is read."""
    depth_kind: Literal["auto", "inverse", "depth"] = "auto"
    """What the numbers in --depth_dir are. auto: by the format, inverse for .png and .pfm."""
    depth_frame: Literal["auto", "affine", "scale", "world"] = "auto"
    """How they relate to the scene's units: equal (world), up to a factor (scale), up to a factor and an
    offset (affine). auto: by the format, affine for .png and .pfm, world for COLMAP's, else scale."""
    depth_weights: str = ""
    """MiDaS weights: the file, or a folder of such files. Else $FEWSPLAT_WEIGHTS and torch hub's cache are
    searched."""
    depth_download: bool = False
    """Fetch the weights of the MiDaS model named by --depth_prior where they are not on disk."""
    midas_resize: Literal["native", "fsgs"] = "native"
    """Image size in MiDaS: its own rule, or 512x384 always as in FSGS."""
    depth_align: bool = True
    """Fit priors of unknown scale or shift to the stereo's or the scene's depth."""
    depth_cache: str = ""
    """Folder in which computed maps are kept between runs ("" = the user's cache, none = keep nothing)."""
    confidence: Literal["none", "auto", "files", "augment", "mvs"] = "none"
    """Weight of each pixel in the image loss: `files` (--confidence_dir), `augment` (how little a depth
    network's answer varies when the image is changed), `mvs` (whether other views agree). auto: files if
    --confidence_dir is given, augment where there is a network, else mvs."""
    confidence_dir: str = ""
    """Folder of confidence maps, 0 to 1, one a photograph, by its name or stem (.png, .npy, .npz)."""
    confidence_map: str = ""
    """JSON file {image name: file below --confidence_dir} for maps that are named otherwise."""

    def absolute(self) -> DepthConfig:
        """The same with whole paths, so that a run may be resumed from another folder."""

        def whole(path: str) -> str:
            return str(Path(path).expanduser().absolute()) if path else path

        prior, init, cache = self.depth_prior, self.init, self.depth_cache
        if prior.startswith("onnx:") and len(prior) > len("onnx:"):
            prior = f"onnx:{whole(prior.removeprefix('onnx:'))}"
        return dataclasses.replace(
            self,
            init=whole(init) if init.lower().endswith(".ply") else init,
            depth_prior=prior,
            depth_dir=whole(self.depth_dir),
            depth_weights=whole(self.depth_weights),
            depth_cache=cache if cache.lower() == "none" else whole(cache),
            confidence_dir=whole(self.confidence_dir),
            confidence_map=whole(self.confidence_map),
        )

    @property
    def may_ask_network(self) -> bool:
        """Whether --depth_prior lets a depth network be asked."""
        return self.depth_prior == "auto" or self.depth_prior.startswith(("midas:", "onnx:"))

    def check(self) -> None:
        """Refuses values that are wrong for every scene."""
        if not self.init_spacing >= 0.5 or not math.isfinite(self.init_spacing):
            raise UserError(f"--init_spacing: expected at least 0.5 (pixels), got {self.init_spacing}")
        self.check_points()
        self.check_maps()

    def check_points(self, *, again: bool = False) -> None:
        """Refuses a wrong --init; `again`: a run that was stopped among its teachers starts from it again."""
        if self.init not in ("auto", "sfm", "mvs", "random") and not self.init.lower().endswith(".ply"):
            raise UserError(
                f"--init: expected auto, sfm, mvs, random or a .ply file of points, got {self.init!r}"
            )
        if self.init.lower().endswith(".ply") and not Path(self.init).expanduser().is_file():
            advice = "give a .ply of points, or auto, sfm, mvs or random"
            if again:
                advice = (
                    "the run was stopped among its teachers, and those that are missing start from it too: "
                    "put it back, or start anew with --overwrite"
                )
            raise UserError(f"--init: {self.init}: no such file: {advice}")

    def check_maps(self) -> None:
        """Refuses values about depth and confidence maps; a resumed run needs these again."""
        chosen = self.depth_prior
        if chosen not in PROVIDERS and not (chosen.startswith("onnx:") and len(chosen) > 5):
            raise UserError(f"--depth_prior: expected one of {', '.join(PROVIDERS)}, got {chosen!r}")
        if chosen == "files" and not self.depth_dir:
            raise UserError("--depth_prior files: expected --depth_dir FOLDER too: add it")
        if self.depth_dir and chosen not in ("auto", "files"):
            raise UserError(
                f"--depth_dir: it is read for --depth_prior files or auto, got {chosen}: leave one out"
            )
        if self.depth_download and not chosen.startswith("midas:"):
            raise UserError(
                f"--depth_download: expected --depth_prior midas:NAME, which says what to fetch, got {chosen}"
            )
        read_for = chosen == "auto" or chosen.startswith("midas:") or self.confidence in ("augment", "auto")
        if self.depth_weights and not read_for:
            raise UserError(
                f"--depth_weights: read for --depth_prior midas:NAME or auto, got {chosen}: leave one out"
            )
        if self.confidence == "files" and not self.confidence_dir:
            raise UserError("--confidence files: expected --confidence_dir FOLDER too: add it")
        for name, value in (("confidence_dir", self.confidence_dir), ("confidence_map", self.confidence_map)):
            if value and self.confidence not in ("files", "auto"):
                raise UserError(
                    f"--{name}: it is read for --confidence files, got {self.confidence}: add that"
                )
        if self.confidence_map and not self.confidence_dir:
            raise UserError("--confidence_map: expected --confidence_dir FOLDER too: add it")
        for name, value in (("depth_dir", self.depth_dir), ("confidence_dir", self.confidence_dir)):
            if value and not Path(value).expanduser().is_dir():
                raise UserError(f"--{name}: {value}: no such folder: check the path")
