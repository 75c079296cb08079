"""MiDaS (Ranftl et al. 2020, 2021) on timm's backbones, laid out so that the official weights load strictly.

A network gives inverse depth of unknown scale and shift. Everything here is architecture and preprocessing;
midas_weights.py finds the files. Nothing loads at import.

Where module names look odd (`pretrained.act_postprocess3.0.project.0`), they are the official files' keys.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import cv2
import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

Resize = Literal["native", "fsgs"]


@dataclass(frozen=True)
class MidasModel:
    """One of the published models."""

    name: str
    backbone: str
    """timm's name."""
    size: int
    """Pixels of the side that is fitted, of the images that it was trained on."""
    files: tuple[str, ...]
    """Names of its file: of the latest release, and the older one of torch hub's cache."""
    url: str
    sha256: str
    mean: tuple[float, float, float]
    std: tuple[float, float, float]


_RELEASES = "https://github.com/isl-org/MiDaS/releases/download"
_HALF = (0.5, 0.5, 0.5)
MODELS = {
    model.name: model
    for model in (
        MidasModel(
            "dpt_hybrid", "vit_base_r50_s16_384", 384,
            ("dpt_hybrid_384.pt", "dpt_hybrid-midas-501f0c75.pt"), f"{_RELEASES}/v3/dpt_hybrid_384.pt",
            "501f0c75b3bca7daec6b3682c5054c09b366765aef6fa3a09d03a5cb4b230853", _HALF, _HALF,
        ),
        MidasModel(
            "dpt_large", "vit_large_patch16_384", 384,
            ("dpt_large_384.pt", "dpt_large-midas-2f21e586.pt"), f"{_RELEASES}/v3/dpt_large_384.pt",
            "2f21e586477d90cb9624c7eef5df7891edca49a1c4795ee2cb631fd4daa6ca69", _HALF, _HALF,
        ),
        MidasModel(
            "small", "tf_efficientnet_lite3", 256,
            ("midas_v21_small_256.pt", "midas_v21_small-70d6b9c8.pt"),
            f"{_RELEASES}/v2_1/midas_v21_small_256.pt",
            "70d6b9c891758c67f974a6097fb0c608c7ee67fb81ac3e5588847d5596d56fca",
            (0.485, 0.456, 0.406), (0.229, 0.224, 0.225),
        ),
    )
}  # fmt: skip


def build(name: str) -> nn.Module:
    """The network with random weights, frozen and in evaluation mode.

    It takes normalised images [B, 3, h, w], sides multiples of 32, and gives [B, h, w].
    """
    model = MODELS[name]
    network = _SmallNet(model.backbone) if name == "small" else _DPT(model.backbone, name == "dpt_hybrid")
    return network.eval().requires_grad_(False)


def network_size(name: str, width: int, height: int, resize: Resize = "native") -> tuple[int, int]:
    """Width and height that an image is resized to: multiples of 32.

    native: MiDaS's own rule; the aspect ratio stays, about. DPT fits the side whose factor is nearer to 1
    to 384, small the longer side to 256 at most. fsgs: 512x384 always (Zhu et al. 2023).
    """
    if resize == "fsgs":
        return 512, 384
    size = MODELS[name].size
    by_width, by_height = size / width, size / height
    if name == "small":
        factor = min(by_width, by_height)
    else:
        factor = by_width if abs(1 - by_width) < abs(1 - by_height) else by_height

    def fitted(side: int) -> int:
        rounded = round(factor * side / 32) * 32
        if name == "small" and rounded > size:
            rounded = int(factor * side // 32) * 32
        return max(32, rounded)

    return fitted(width), fitted(height)


def prepare(name: str, image: Tensor, resize: Resize = "native") -> Tensor:
    """The network's input [1, 3, h, w] from an image [H, W, 3] in [0, 1].

    Differentiable in `image` where it requires a gradient (then torch resizes, bicubic as well; OpenCV's
    bicubic has another parameter, so the two differ a little).
    """
    model = MODELS[name]
    height, width = image.shape[:2]
    w, h = network_size(name, width, height, resize)
    if image.requires_grad:
        pixels = functional.interpolate(
            image.permute(2, 0, 1)[None], size=(h, w), mode="bicubic", align_corners=False
        )
    else:
        array = np.ascontiguousarray(image.cpu().numpy(), dtype=np.float32)
        fitted = cv2.resize(array, (w, h), interpolation=cv2.INTER_CUBIC)
        pixels = torch.from_numpy(fitted).permute(2, 0, 1)[None].to(image.device)
    mean, std = (
        torch.tensor(values, device=image.device)[:, None, None] for values in (model.mean, model.std)
    )
    return (pixels - mean) / std


def estimate(network: nn.Module, name: str, image: Tensor, resize: Resize = "native") -> Tensor:
    """Inverse depth [H, W], affine, of an image [H, W, 3] in [0, 1].

    A gradient flows to the image where it requires one; the network's weights get none.
    """
    with torch.set_grad_enabled(image.requires_grad):
        result = network(prepare(name, image, resize))
        return functional.interpolate(
            result[:, None], size=image.shape[:2], mode="bicubic", align_corners=False
        )[0, 0]


class _Interpolate(nn.Module):
    """Twice the size, bilinearly."""

    def __init__(self, align_corners: bool) -> None:
        super().__init__()
        self.align_corners = align_corners

    def forward(self, x: Tensor) -> Tensor:
        return functional.interpolate(x, scale_factor=2, mode="bilinear", align_corners=self.align_corners)


class _ResidualUnit(nn.Module):
    """Two 3x3 convolutions beside a shortcut. The first ReLU must not work in place: x is used again."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(width, width, 3, padding=1)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv2(functional.relu(self.conv1(functional.relu(x))))


class _Fusion(nn.Module):
    """A level of the decoder: what comes from below, the level's own features, twice the size."""

    def __init__(self, width: int, out: int) -> None:
        super().__init__()
        self.out_conv = nn.Conv2d(width, out, 1)
        self.resConfUnit1 = _ResidualUnit(width)
        self.resConfUnit2 = _ResidualUnit(width)

    def forward(self, x: Tensor, own: Tensor | None = None) -> Tensor:
        if own is not None:
            x = x + self.resConfUnit1(own)
        x = functional.interpolate(self.resConfUnit2(x), scale_factor=2, mode="bilinear", align_corners=True)
        return self.out_conv(x)


def _decoder(features: list[int], widths: list[int], head: nn.Sequential) -> nn.Module:
    """The decoder's modules under their official names.

    Args:
        features: channels of the four levels of the backbone, fine to coarse.
        widths: channels of the decoder at these.
        head: from the finest level to one number a pixel.
    """
    scratch = nn.Module()
    for level, (ins, width) in enumerate(zip(features, widths, strict=True), 1):
        setattr(scratch, f"layer{level}_rn", nn.Conv2d(ins, width, 3, padding=1, bias=False))
        setattr(scratch, f"refinenet{level}", _Fusion(width, widths[max(level - 2, 0)]))
    scratch.output_conv = head
    return scratch


def _decode(scratch: Any, levels: list[Tensor]) -> Tensor:
    """Inverse depth [B, h, w] from the backbone's four levels, fine to coarse."""
    path = None
    for level in (4, 3, 2, 1):
        own = getattr(scratch, f"layer{level}_rn")(levels[level - 1])
        fuse = getattr(scratch, f"refinenet{level}")
        path = fuse(own) if path is None else fuse(path, own)
    return scratch.output_conv(path).squeeze(1)


def _head(width: int, middle: int, align_corners: bool) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(width, middle, 3, padding=1),
        _Interpolate(align_corners),
        nn.Conv2d(middle, 32, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(32, 1, 1),
        nn.ReLU(),
        nn.Identity(),
    )


class _Readout(nn.Module):
    """Joins the class token to every patch's token."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.project = nn.Sequential(nn.Linear(2 * width, width), nn.GELU())

    def forward(self, tokens: Tensor) -> Tensor:
        patches = tokens[:, 1:]
        return self.project(torch.cat([patches, tokens[:, :1].expand_as(patches)], -1))


class _DPT(nn.Module):
    """Dense prediction transformer (Ranftl et al. 2021), large or with a ResNet in front (hybrid)."""

    def __init__(self, backbone: str, hybrid: bool) -> None:
        super().__init__()
        import timm

        self.hybrid = hybrid
        self.taps = (8, 11) if hybrid else (5, 11, 17, 23)
        features = [256, 512, 768, 768] if hybrid else [256, 512, 1024, 1024]
        self.pretrained: Any = nn.Module()
        model: Any = timm.create_model(backbone, pretrained=False)  # with its unused classifier
        self.pretrained.model = model
        width = int(model.embed_dim)
        for level, channels in enumerate(features, 1):
            stages: list[nn.Module] = []
            if not (hybrid and level < 3):
                stages = [_Readout(width), nn.Identity(), nn.Identity(), nn.Conv2d(width, channels, 1)]
                if level < 3:  # 4 and 2 times the size
                    scale = 8 >> level
                    stages.append(nn.ConvTranspose2d(channels, channels, scale, stride=scale))
                elif level == 4:  # half the size
                    stages.append(nn.Conv2d(channels, channels, 3, stride=2, padding=1))
            setattr(self.pretrained, f"act_postprocess{level}", nn.Sequential(*stages))
        self.scratch = _decoder(features, [256] * 4, _head(256, 128, align_corners=True))

    def forward(self, image: Tensor) -> Tensor:
        """[B, h, w] from [B, 3, h, w]."""
        vit = self.pretrained.model
        levels: list[Tensor] = []
        if self.hybrid:
            x = vit.patch_embed.backbone.stem(image)
            stages = vit.patch_embed.backbone.stages
            for index, stage in enumerate(stages):
                x = stage(x)
                if index < 2:
                    levels.append(x)
            x = vit.patch_embed.proj(vit.patch_embed.backbone.norm(x))
        else:
            x = vit.patch_embed.proj(image)
        rows, columns = x.shape[-2:]
        tokens = torch.cat([vit.cls_token.expand(len(x), -1, -1), x.flatten(2).transpose(1, 2)], 1)
        tokens = vit.norm_pre(tokens + _positions(vit.pos_embed, rows, columns))
        for index, block in enumerate(vit.blocks):
            tokens = block(tokens)
            if index in self.taps:
                levels.append(self._image(tokens, len(levels) + 1, rows, columns))
        return _decode(self.scratch, levels)

    def _image(self, tokens: Tensor, level: int, rows: int, columns: int) -> Tensor:
        """The features of a level as an image."""
        readout, *convolutions = getattr(self.pretrained, f"act_postprocess{level}")
        x = readout(tokens).transpose(1, 2).unflatten(2, (rows, columns))
        for convolution in convolutions:
            x = convolution(x)
        return x


def _positions(learned: Tensor, rows: int, columns: int) -> Tensor:
    """Position embeddings [1, 1 + P, D] of a square grid, at another grid."""
    side = round((learned.shape[1] - 1) ** 0.5)
    grid = learned[:, 1:].unflatten(1, (side, side)).permute(0, 3, 1, 2)
    grid = functional.interpolate(grid, size=(rows, columns), mode="bilinear", align_corners=False)
    return torch.cat([learned[:, :1], grid.flatten(2).transpose(1, 2)], 1)


class _SmallNet(nn.Module):
    """MiDaS v2.1 small: EfficientNet-Lite3 and a narrow decoder."""

    def __init__(self, backbone: str) -> None:
        super().__init__()
        import timm

        net: Any = timm.create_model(backbone, pretrained=False)
        self.pretrained: Any = nn.Module()
        # timm's BatchNormAct2d does the activation that had a place of its own
        self.pretrained.layer1 = nn.Sequential(
            net.conv_stem, net.bn1, nn.Identity(), net.blocks[0], net.blocks[1]
        )
        self.pretrained.layer2 = nn.Sequential(*net.blocks[2:3])
        self.pretrained.layer3 = nn.Sequential(*net.blocks[3:5])
        self.pretrained.layer4 = nn.Sequential(*net.blocks[5:9])
        self.scratch = _decoder([32, 48, 136, 384], [64, 128, 256, 512], _head(64, 32, align_corners=False))

    def forward(self, image: Tensor) -> Tensor:
        """[B, h, w] from [B, 3, h, w]."""
        levels: list[Tensor] = []
        x = image
        for level in (1, 2, 3, 4):
            x = getattr(self.pretrained, f"layer{level}")(x)
            levels.append(x)
        return _decode(self.scratch, levels)
