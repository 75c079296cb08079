"""Depth networks in ONNX files, on tiny models that are made here."""

from __future__ import annotations

import sys

import numpy as np
import pytest
import torch

from depth_priors import DepthConfig
from depth_priors.network import find_network
from depth_priors.onnx_model import MEAN, STD, OnnxModel
from errors import UserError

onnx = pytest.importorskip("onnx", reason="onnx is not installed (requirements-dev.txt)")
pytest.importorskip("onnxruntime", reason="onnxruntime is not installed (requirements-onnx.txt)")


def _write(path, shape=(1, 3, "h", "w"), out=(1, "h", "w"), keep=False, kind=None):
    """A model that gives the mean of the three channels."""
    from onnx import TensorProto, helper

    kind = TensorProto.FLOAT if kind is None else kind
    axes = helper.make_tensor("axes", TensorProto.INT64, [1], [1])
    node = helper.make_node("ReduceMean", ["image", "axes"], ["depth"], keepdims=int(keep))
    graph = helper.make_graph(
        [node],
        "mean",
        [helper.make_tensor_value_info("image", kind, shape)],
        [helper.make_tensor_value_info("depth", kind, out)],
        [axes],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    path.write_bytes(model.SerializeToString())
    return path


def _expected(colour):
    return float(np.mean((np.asarray(colour) - MEAN) / STD))


@pytest.mark.parametrize("keep", [False, True])
def test_an_image_is_normalised_and_its_map_has_its_size(tmp_path, keep):
    out = (1, 1, "h", "w") if keep else (1, "h", "w")
    model = OnnxModel(_write(tmp_path / "m.onnx", out=out, keep=keep))
    colour = [0.2, 0.5, 0.9]
    found = model(torch.tensor(colour).expand(60, 80, 3).contiguous())
    assert found.shape == (60, 80) and found.dtype == torch.float32
    assert torch.allclose(found, torch.tensor(_expected(colour)), atol=1e-5)


def test_where_things_are_stays_where_it_was(tmp_path):
    model = OnnxModel(_write(tmp_path / "m.onnx"))
    image = torch.zeros(60, 80, 3)
    image[:, 40:] = 1.0
    found = model(image)
    assert torch.allclose(found[:, :36], torch.tensor(_expected([0, 0, 0])), atol=1e-3)
    assert torch.allclose(found[:, 44:], torch.tensor(_expected([1, 1, 1])), atol=1e-3)


def test_sizes_are_those_of_the_model_or_multiples_of_a_patch(tmp_path):
    free = OnnxModel(_write(tmp_path / "free.onnx"))
    assert free.size(504, 378) == (686, 518)  # 690.7 is 49.3 patches of 14
    assert free.size(100, 100) == (518, 518)
    fixed = OnnxModel(_write(tmp_path / "fixed.onnx", shape=(1, 3, 28, 42), out=(1, 28, 42)))
    assert fixed.size(504, 378) == (42, 28)
    assert fixed(torch.rand(60, 80, 3)).shape == (60, 80)


def test_what_is_no_such_model_is_refused(tmp_path):
    with pytest.raises(UserError, match="no such file"):
        OnnxModel(tmp_path / "gone.onnx")
    (tmp_path / "bad.onnx").write_bytes(b"no model")
    with pytest.raises(UserError, match="not a model that onnxruntime reads"):
        OnnxModel(tmp_path / "bad.onnx")
    with pytest.raises(UserError, match=r"expected a model of one image.*got image"):
        OnnxModel(_write(tmp_path / "m.onnx", shape=(1, 4, "h", "w")))
    points = OnnxModel(_write(tmp_path / "p.onnx", shape=(1, 3, 28, "w"), out=(1, 1, 28, "w"), keep=True))
    points.session = type("S", (), {"run": lambda *_: [np.zeros((1, 3, 4, 4), np.float32)]})()
    with pytest.raises(UserError, match=r"expected one map.*\[1, 3, 4, 4\]"):
        points(torch.rand(60, 80, 3))


def test_without_onnxruntime_the_message_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(UserError, match=r"requirements-onnx\.txt"):
        OnnxModel(_write(tmp_path / "m.onnx"))


def test_the_option_names_the_file_and_its_content_is_the_key(tmp_path):
    path = _write(tmp_path / "m.onnx")
    network = find_network(DepthConfig(depth_prior=f"onnx:{path}"))
    assert network is not None and network.origin == str(path) and len(network.key) == 64
    assert network.load(torch.device("cpu"))(torch.rand(60, 80, 3)).shape == (60, 80)
