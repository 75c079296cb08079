"""The Gaussians: six parameter tensors behind one small class, and the config of what they are.

No algorithm lives here. First values (init), rendering, optimisation, row edits and files are
neighbours in this room; the stored form of each tensor is in `parameters`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor, nn

from errors import UserError
from gaussian_model.init import point_parameters, random_points
from gaussian_model.parameters import KEYS, check_parameters, linear_opacities, linear_scales
from gaussian_model.render import render
from gaussian_model.spherical_harmonics import MAX_DEGREE, degree_of

if TYPE_CHECKING:
    from rasterizer import RenderOutput
    from scene import Camera, Points, Scene


@dataclass(frozen=True)
class ModelConfig:
    """What the Gaussians are, apart from how they are optimised."""

    sh_degree: int = 3
    """Highest spherical-harmonic degree of the colours, 0 (no view dependence) to 4."""
    background: Literal["black", "white", "random", "mean"] = "black"
    """Colour behind the Gaussians: `black`, `white`, `random` (drawn anew for each training image, so that
    what photographs show becomes opaque; black behind the finished ones), or `mean` (random in training;
    behind the finished ones the photographs' mean colour, for what none of them shows)."""
    antialiased: bool = False
    """Compensate the opacity of Gaussians that the 0.3 px screen filter widens (Mip-Splatting)."""
    init_opacity: float = 0.1
    """Opacity of every initial Gaussian, in (0, 1)."""
    init_scale: float = 1.0
    """Factor on the initial size, which is the mean distance to the 3 nearest points."""
    random_points: int = 10_000
    """Number of random points to start from where the scene has none."""
    depth_mode: Literal["ED", "D"] = "ED"
    """Rendered depth: `ED` expected (divided by alpha), `D` accumulated as the original FSGS does."""

    def __post_init__(self) -> None:
        """Refuse values with no meaning.

        Raises:
            UserError: a field is out of its range.
        """
        if not 0 <= self.sh_degree <= MAX_DEGREE:
            raise UserError(f"sh_degree: expected 0 to {MAX_DEGREE}, got {self.sh_degree}")
        if not 0.0 < self.init_opacity < 1.0:
            raise UserError(f"init_opacity: expected a number between 0 and 1, got {self.init_opacity}")
        if not self.init_scale > 0.0:
            raise UserError(f"init_scale: expected a positive factor, got {self.init_scale}")
        if self.random_points < 1:
            raise UserError(f"random_points: expected at least 1, got {self.random_points}")

    def evaluation_background(self, mean: Tensor) -> Tensor:
        """Colour [3] behind the finished Gaussians; `mean` is the photographs' mean colour."""
        if self.background == "mean":
            return mean
        return torch.full((3,), 1.0 if self.background == "white" else 0.0)

    def training_background(self, generator: torch.Generator) -> Tensor:
        """Colour [3] behind the Gaussians in one training image."""
        if self.background in ("random", "mean"):
            return torch.rand(3, generator=generator)
        return torch.full((3,), 1.0 if self.background == "white" else 0.0)


class Gaussians:
    """N anisotropic 3D Gaussians with view-dependent colour, as leaves that an optimizer can move.

    Attributes:
        params: exactly `KEYS`, in order. Row edits replace the tensors, so ask for them anew.
    """

    params: dict[str, nn.Parameter]

    def __init__(self, params: Mapping[str, Tensor]) -> None:
        """Take the tensors as parameters (no copy of contiguous ones).

        Raises:
            ValueError: a key is missing or unknown, or a shape does not fit.
        """
        check_parameters(params)
        self.params = {key: nn.Parameter(params[key].detach().contiguous()) for key in KEYS}

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, Tensor]) -> Gaussians:
        """Gaussians of given stored values; see `KEYS` for the shapes."""
        return cls(tensors)

    @classmethod
    def from_points(cls, points: Points, config: ModelConfig, *, extent: float = 1.0) -> Gaussians:
        """One isotropic Gaussian per finite point, as 3DGS starts.

        Args:
            points: positions [P,3] and colours [P,3] in [0, 1].
            config: SH degree, initial opacity and size factor.
            extent: scene extent in world units; sizes a lone point, which has no neighbour.
        """
        return cls(point_parameters(points, config, extent=extent))

    @classmethod
    def from_scene(cls, scene: Scene, config: ModelConfig, generator: torch.Generator) -> Gaussians:
        """From the scene's points or, where it has none, from random ones in the training frustums.

        Args:
            scene: its `points`, `train` views and `extent` are read.
            config: see `from_points`; `random_points` is how many are drawn.
            generator: CPU generator of the random points; untouched where the scene has points.
        """
        points = scene.points
        if not bool(points.xyz.isfinite().all(dim=-1).any()):
            points = random_points(scene.train, config.random_points, generator)
        return cls.from_points(points, config, extent=scene.extent)

    def __len__(self) -> int:
        """Number N of Gaussians."""
        return len(self.params["means"])

    @property
    def device(self) -> torch.device:
        """Where the parameters lie."""
        return self.params["means"].device

    @property
    def max_sh_degree(self) -> int:
        """The SH degree that the coefficients suffice for."""
        degree = degree_of(1 + self.params["shN"].shape[1])
        assert degree is not None, "checked at construction"
        return degree

    def to(self, device: torch.device | str) -> Gaussians:
        """Copies on `device` (or self, where they are there already); an optimizer does not follow."""
        if self.device == torch.device(device):
            return self
        return Gaussians({key: value.detach().to(device) for key, value in self.params.items()})

    def linear_scales(self) -> Tensor:
        """Standard deviations along the axes, world units. [N,3], differentiable."""
        return linear_scales(self.params["scales"])

    def linear_opacities(self) -> Tensor:
        """Opacities in (0, 1). [N], differentiable."""
        return linear_opacities(self.params["opacities"])

    def render(
        self,
        cameras: Camera | Sequence[Camera],
        *,
        background: Tensor | None = None,
        sh_degree: int | None = None,
        depth: Literal["ED", "D"] | None = "ED",
        absgrad: bool = False,
        opacity_factors: Tensor | None = None,
        antialiased: bool = False,
        distributed: bool = False,
        backend: str = "auto",
    ) -> RenderOutput:
        """Render; see `gaussian_model.render.render`."""
        return render(
            self,
            cameras,
            background=background,
            sh_degree=sh_degree,
            depth=depth,
            absgrad=absgrad,
            opacity_factors=opacity_factors,
            antialiased=antialiased,
            distributed=distributed,
            backend=backend,
        )

    def state_dict(self) -> dict[str, Tensor]:
        """The stored values, detached, sharing memory with the parameters."""
        return {key: value.detach() for key, value in self.params.items()}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Take saved values; N and K may change. The device stays.

        The `nn.Parameter` objects stay the same, so that an optimizer built before still owns them
        (its own state has to be loaded as well).

        Raises:
            ValueError: a key is missing or unknown, or a shape does not fit.
        """
        check_parameters(state)
        for key, parameter in self.params.items():
            parameter.grad = None
            parameter.data = state[key].detach().to(parameter.device, parameter.dtype, copy=True).contiguous()
