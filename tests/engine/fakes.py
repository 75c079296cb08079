"""A small training state without the rooms around it: plain tensors behind the engine's contract."""

from __future__ import annotations

from typing import Any

import torch

from engine import TrainingState

KEYS = {"means": (3,), "quats": (4,), "scales": (3,), "opacities": (), "sh0": (1, 3), "shN": (15, 3)}


class FakeGaussians:
    def __init__(self, n, sh_rest=15, seed=0):
        generator = torch.Generator().manual_seed(seed)
        shapes = {**KEYS, "shN": (sh_rest, 3)}
        self.params = {
            key: torch.nn.Parameter(torch.randn(n, *shape, generator=generator))
            for key, shape in shapes.items()
        }
        self.device = torch.device("cpu")

    def __len__(self):
        return len(self.params["means"])

    def linear_scales(self):
        return self.params["scales"].exp()

    def linear_opacities(self):
        return self.params["opacities"].sigmoid()

    def state_dict(self):
        return {key: value.detach() for key, value in self.params.items()}

    def load_state_dict(self, state):
        self.params = {key: torch.nn.Parameter(value.clone()) for key, value in state.items()}


class FakeDensifier:
    def __init__(self, n):
        self.counts = torch.zeros(n)

    def state_dict(self):
        return {"strategy": "fake", "statistics": {"counts": self.counts}}

    def load_state_dict(self, state):
        if state["strategy"] != "fake":
            raise ValueError("another strategy")
        self.counts = state["statistics"]["counts"].clone()


class FakeSampler:
    def __init__(self, n, generator):
        self.n, self.generator, self.stack = n, generator, []

    def next(self):
        if not self.stack:
            self.stack = torch.randperm(self.n, generator=self.generator).tolist()
        return self.stack.pop()

    def state_dict(self):
        return {"n": self.n, "stack": list(self.stack)}

    def load_state_dict(self, state):
        if state["n"] != self.n:
            raise ValueError(f"expected {self.n} views, got {state['n']}")
        self.stack = list(state["stack"])


def make_state(n=20, *, sh_rest=15, views=5, seed=0):
    gaussians = FakeGaussians(n, sh_rest, seed)
    groups = [{"params": [value], "name": key, "lr": 0.01} for key, value in gaussians.params.items()]
    generator = torch.Generator().manual_seed(seed)
    parts: dict[str, Any] = dict(  # the fakes are no subclasses of what they stand for
        gaussians=gaussians,
        optimizer=torch.optim.Adam(groups, eps=1e-15),
        densifier=FakeDensifier(n),
        sampler=FakeSampler(views, generator),
        generator=generator,
    )
    return TrainingState(**parts)


def train(state, iterations):
    """Runs iterations that use every part of the state, and returns the losses."""
    losses = []
    for _ in range(iterations):
        state.iteration += 1
        target = state.sampler.next() + torch.rand((), generator=state.generator) + torch.rand(())
        loss = sum(((value - target) ** 2).mean() for value in state.gaussians.params.values())
        state.optimizer.zero_grad()
        loss.backward()
        state.optimizer.step()
        state.densifier.counts += 1
        losses.append(loss.item())
    return losses


def tree_equal(a, b):
    """Says whether two trees of tensors and primitives are equal to the bit."""
    if isinstance(a, torch.Tensor):
        return isinstance(b, torch.Tensor) and a.dtype == b.dtype and torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(tree_equal(a[key], b[key]) for key in a)
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(tree_equal(x, y) for x, y in zip(a, b, strict=True))
    return a == b
