"""MiDaS: the official files' layout, sizes, gradients, and files that are wrong.

The weights cannot be part of the tests: the layout is checked with random ones, and the one test that needs
the real file names it where it is skipped. Whether our arithmetic equals the authors' on real weights is
checked nowhere else.
"""

from __future__ import annotations

import dataclasses
import hashlib
from typing import Any

import numpy as np
import pytest
import torch

from depth_priors.midas import MODELS, build, estimate, network_size, prepare
from depth_priors.midas_weights import download_weights, find_weights, load_network
from errors import UserError

# entries of the state dict and parameters of the published files
PUBLISHED = {"dpt_hybrid": (368, 123.15e6), "dpt_large": (368, 344.06e6), "small": (482, 21.3e6)}


pytestmark = pytest.mark.usefixtures("no_weights")


@pytest.fixture(scope="module")
def small_file(tmp_path_factory):
    """A file of random weights in the official layout, and its sum."""
    torch.manual_seed(0)
    network = build("small")
    path = tmp_path_factory.mktemp("weights") / "midas_v21_small_256.pt"
    torch.save(network.state_dict(), path)
    return path, hashlib.sha256(path.read_bytes()).hexdigest(), network


def _image(width=80, height=60):
    return torch.rand(height, width, 3, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("name", sorted(PUBLISHED))
def test_the_layout_is_that_of_the_published_files(name):
    with torch.device("meta"):  # no memory and no initialisation
        network = build(name)
    entries, parameters = PUBLISHED[name]
    state = network.state_dict()
    assert len(state) == entries
    # the published counts are rounded to the digits given
    assert sum(p.numel() for p in network.parameters()) == pytest.approx(parameters, rel=2e-3)
    assert not any(p.requires_grad for p in network.parameters()) and not network.training
    for key in (
        "scratch.layer1_rn.weight", "scratch.refinenet4.resConfUnit1.conv1.weight",
        "scratch.refinenet1.out_conv.bias", "scratch.output_conv.4.weight",
    ):  # fmt: skip
        assert key in state, key


def test_the_transformers_have_the_official_names_and_shapes():
    with torch.device("meta"):
        hybrid, large = (build(name).state_dict() for name in ("dpt_hybrid", "dpt_large"))
    expected = {
        "pretrained.model.head.weight": (1000, 768),
        "pretrained.model.pos_embed": (1, 577, 768),
        "pretrained.model.patch_embed.backbone.stem.conv.weight": (64, 3, 7, 7),
        "pretrained.model.patch_embed.proj.weight": (768, 1024, 1, 1),
        "pretrained.act_postprocess3.0.project.0.weight": (768, 1536),
        "pretrained.act_postprocess3.3.weight": (768, 768, 1, 1),
        "pretrained.act_postprocess4.4.weight": (768, 768, 3, 3),
        "scratch.layer2_rn.weight": (256, 512, 3, 3),
        "scratch.output_conv.2.weight": (32, 128, 3, 3),
    }
    assert {key: tuple(hybrid[key].shape) for key in expected} == expected
    assert not any(key.startswith("pretrained.act_postprocess1") for key in hybrid)
    assert tuple(large["pretrained.act_postprocess1.4.weight"].shape) == (256, 256, 4, 4)  # transposed
    assert tuple(large["pretrained.act_postprocess2.4.weight"].shape) == (512, 512, 2, 2)
    assert tuple(large["pretrained.act_postprocess1.0.project.0.weight"].shape) == (1024, 2048)
    assert "pretrained.act_postprocess3.4.weight" not in large


def _decoder_keys():
    """The decoder's entries by the authors' naming."""
    keys = {f"scratch.layer{i}_rn.weight" for i in (1, 2, 3, 4)}
    for i in (1, 2, 3, 4):
        convolutions = [f"resConfUnit{u}.conv{c}" for u in (1, 2) for c in (1, 2)]
        for name in ("out_conv", *convolutions):
            keys |= {f"scratch.refinenet{i}.{name}.{part}" for part in ("weight", "bias")}
    return keys | {f"scratch.output_conv.{i}.{part}" for i in (0, 2, 4) for part in ("weight", "bias")}


def _with_bias(*names):
    return {f"{name}.{part}" for name in names for part in ("weight", "bias")}


@pytest.mark.parametrize("name", sorted(PUBLISHED))
def test_the_list_of_entries_is_exactly_the_official_one(name):
    import timm

    with torch.device("meta"):
        ours = set(build(name).state_dict())
        backbone = timm.create_model(MODELS[name].backbone, pretrained=False).state_dict()
    if name == "small":
        places = {"conv_stem": "layer1.0", "bn1": "layer1.1", "blocks.0": "layer1.3", "blocks.1": "layer1.4"}
        places |= {"blocks.2": "layer2.0", "blocks.3": "layer3.0", "blocks.4": "layer3.1"}
        places |= {"blocks.5": "layer4.0", "blocks.6": "layer4.1"}
        expected = {
            f"pretrained.{place}.{key.removeprefix(old + '.')}"
            for old, place in places.items()
            for key in backbone
            if key.startswith(old + ".")
        }
    else:
        expected = {f"pretrained.model.{key}" for key in backbone}
        levels = (3, 4) if name == "dpt_hybrid" else (1, 2, 3, 4)
        for level in levels:
            post = f"pretrained.act_postprocess{level}"
            expected |= _with_bias(f"{post}.0.project.0", f"{post}.3")
            expected |= _with_bias(f"{post}.4") if level != 3 else set()
    assert ours == expected | _decoder_keys()


def test_the_small_net_keeps_the_official_slots():
    with torch.device("meta"):
        state = build("small").state_dict()
    slots = {key.split(".")[2] for key in state if key.startswith("pretrained.layer1.")}
    assert slots == {"0", "1", "3", "4"}  # 2 was the activation
    assert tuple(state["scratch.refinenet4.out_conv.weight"].shape) == (256, 512, 1, 1)
    assert tuple(state["scratch.refinenet1.out_conv.weight"].shape) == (64, 64, 1, 1)
    assert tuple(state["scratch.output_conv.0.weight"].shape) == (32, 64, 3, 3)


@pytest.mark.parametrize("name", ["dpt_hybrid", "dpt_large"])
def test_a_transformer_runs_on_any_size_and_takes_its_features_where_it_should(name):
    with torch.device("meta"):
        empty = build(name)
    network: Any = empty.to_empty(device="cpu")
    for parameter in network.parameters():
        parameter.data.fill_(1e-3)  # numbers are not looked at; random ones take seconds
    calls = []
    for index, block in enumerate(network.pretrained.model.blocks):
        block.register_forward_hook(lambda _m, _i, out, index=index: calls.append((index, out.shape[1])))
    with torch.no_grad():
        result = network(torch.randn(1, 3, 64, 96))
    assert result.shape == (1, 64, 96)
    assert calls == [(i, 1 + 4 * 6) for i in range(len(network.pretrained.model.blocks))]


def test_a_small_net_runs_and_is_not_negative(small_file):
    _, _, network = small_file
    with torch.no_grad():
        result = network(torch.randn(2, 3, 64, 96))
    assert result.shape == (2, 64, 96) and bool((result >= 0).all())


@pytest.mark.parametrize(
    ("name", "size", "expected"),
    [
        # DPT: the side whose factor is nearer to 1 becomes 384
        ("dpt_hybrid", (504, 378), (512, 384)),
        ("dpt_hybrid", (378, 504), (384, 512)),
        ("dpt_large", (384, 384), (384, 384)),
        ("dpt_hybrid", (1920, 1080), (672, 384)),  # 682.7: 21.3 times 32
        ("dpt_hybrid", (100, 50), (384, 192)),  # enlarging: factors 3.84 and 7.68, the first is nearer
        # small: the longer side becomes 256 at most
        ("small", (504, 378), (256, 192)),
        ("small", (1920, 1080), (256, 128)),  # 144 is 4.5 times 32: to the even multiple
        ("small", (378, 504), (192, 256)),
        ("small", (2000, 100), (256, 32)),
    ],
)
def test_sizes_follow_the_rule_of_the_models(name, size, expected):
    width, height = size
    assert network_size(name, width, height) == expected
    assert network_size(name, width, height, "fsgs") == (512, 384)


def test_sizes_are_whole_patches_on_every_aspect_ratio():
    for name in MODELS:
        for width in range(40, 2100, 91):
            for height in range(40, 2100, 113):
                w, h = network_size(name, width, height)
                assert w % 32 == 0 and h % 32 == 0 and w > 0 and h > 0
                if name == "small":
                    assert max(w, h) <= 256
                else:
                    assert min(abs(w - 384), abs(h - 384)) == 0


def test_images_are_normalised_as_each_model_expects():
    grey = torch.full((60, 80, 3), 0.5)
    assert torch.allclose(prepare("dpt_hybrid", grey), torch.zeros(1), atol=1e-6)
    means = prepare("small", grey).mean((0, 2, 3))
    expected = (0.5 - np.array([0.485, 0.456, 0.406])) / np.array([0.229, 0.224, 0.225])
    np.testing.assert_allclose(means.numpy(), expected, atol=1e-5)


def test_a_gradient_flows_to_the_image_if_and_only_if_it_is_asked_for(small_file):
    _, _, network = small_file
    image = _image()
    assert not estimate(network, "small", image).requires_grad
    image.requires_grad_(True)
    result = estimate(network, "small", image)
    assert result.shape == (60, 80)
    result.sum().backward()
    assert image.grad is not None and bool(image.grad.isfinite().all()) and float(image.grad.abs().sum()) > 0
    assert all(p.grad is None for p in network.parameters())


def test_saved_weights_load_strictly_and_give_the_same_map(small_file):
    path, sha256, network = small_file
    loaded = load_network("small", path, sha256=sha256)
    assert torch.equal(estimate(loaded, "small", _image()), estimate(network, "small", _image()))


def test_weights_in_a_training_checkpoint_are_unwrapped(small_file, tmp_path):
    path, _, network = small_file
    wrapped = tmp_path / "wrapped.pt"
    torch.save({"optimizer": {}, "model": torch.load(path, weights_only=True)}, wrapped)
    loaded = load_network("small", wrapped, sha256=hashlib.sha256(wrapped.read_bytes()).hexdigest())
    assert torch.equal(estimate(loaded, "small", _image()), estimate(network, "small", _image()))


def test_a_file_with_another_sum_is_refused_before_it_is_opened(small_file, tmp_path):
    path, _, _ = small_file
    with pytest.raises(UserError, match=r"midas_v21_small_256\.pt.*sha256 begins with 70d6b9c891758c67"):
        load_network("small", path)
    cut = tmp_path / "midas_v21_small_256.pt"
    cut.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(UserError, match="damaged or another one"):
        load_network("small", cut)


def test_weights_of_another_model_or_none_are_named(small_file, tmp_path):
    path, _, _ = small_file
    state = torch.load(path, weights_only=True)
    for change, words in (
        (lambda s: s.pop("scratch.layer1_rn.weight"), "482 entries.*got 481.*scratch.layer1_rn.weight"),
        (lambda s: s.update({"scratch.extra": torch.zeros(1)}), "scratch.extra"),
        (lambda s: s.update({"scratch.layer1_rn.weight": torch.zeros(1)}), "scratch.layer1_rn.weight"),
    ):
        wrong = dict(state)
        change(wrong)
        file = tmp_path / "wrong.pt"
        torch.save(wrong, file)
        with pytest.raises(UserError, match=words):
            load_network("small", file, sha256=hashlib.sha256(file.read_bytes()).hexdigest())
    for content in (b"no archive", b""):
        file.write_bytes(content)
        with pytest.raises(UserError, match=r"wrong\.pt"):
            load_network("small", file, sha256=hashlib.sha256(content).hexdigest())
    torch.save([1, 2], file)
    with pytest.raises(UserError, match="something else"):
        load_network("small", file, sha256=hashlib.sha256(file.read_bytes()).hexdigest())


def test_weights_are_looked_for_where_the_user_says_then_in_the_folder_then_in_the_hub(tmp_path, monkeypatch):
    assert find_weights("small") is None
    hub = tmp_path / "torch" / "hub" / "checkpoints" / "midas_v21_small-70d6b9c8.pt"
    hub.parent.mkdir(parents=True)
    hub.write_bytes(b"")
    assert find_weights("small") == hub  # the older name
    mine = tmp_path / "mine" / "midas_v21_small_256.pt"
    mine.parent.mkdir()
    mine.write_bytes(b"")
    monkeypatch.setenv("FEWSPLAT_WEIGHTS", str(mine.parent))
    assert find_weights("small") == mine
    assert find_weights("small", hub) == hub and find_weights("small", mine.parent) == mine
    with pytest.raises(UserError, match=r"--depth_weights.*missing"):
        find_weights("small", tmp_path / "missing.pt")


@pytest.mark.parametrize("name", sorted(MODELS))
def test_the_published_weights_where_they_are_on_disk(name, monkeypatch):
    monkeypatch.undo()  # this machine's folders
    path = find_weights(name)
    if path is None:
        pytest.skip(f"the weights of MiDaS {name} are not on this machine ({MODELS[name].files[0]})")
    network = load_network(name, path)
    # a road: sky far above, ground nearer towards the bottom
    image = torch.zeros(240, 320, 3)
    image[:120] = torch.tensor([0.5, 0.7, 1.0])
    image[120:] = torch.linspace(0.6, 0.3, 120)[:, None, None]
    inverse = estimate(network, name, image)
    assert inverse[200:].mean() > 1.5 * inverse[:100].mean()


def test_a_download_is_verified_before_it_gets_its_name(small_file, tmp_path, monkeypatch):
    path, sha256, _ = small_file
    target = tmp_path / "torch" / "hub" / "checkpoints" / "midas_v21_small_256.pt"
    good = dataclasses.replace(MODELS["small"], url=path.as_uri(), sha256=sha256)
    for model, words in (
        (dataclasses.replace(good, sha256="0" * 64), "expected the published weights"),
        (dataclasses.replace(good, url=(tmp_path / "gone.pt").as_uri()), r"cannot fetch it.*--depth_weights"),
    ):
        monkeypatch.setitem(MODELS, "small", model)
        with pytest.raises(UserError, match=words):
            download_weights("small")
        assert list(target.parent.iterdir()) == []  # not even a part of it
    monkeypatch.setitem(MODELS, "small", good)
    assert download_weights("small") == target and target.read_bytes() == path.read_bytes()
    assert find_weights("small") == target
