"""The order in which training views are shown."""

from __future__ import annotations

from typing import Any

import torch


class ViewSampler:
    """A stack of view indices popped at random and refilled when empty: each epoch shows each view once.

    Args:
        n: Number of views, at least 1.
        generator: Source of randomness, shared with the rest of training; its state is the caller's
            to save.
    """

    def __init__(self, n: int, generator: torch.Generator) -> None:
        """Starts with an empty stack."""
        if n < 1:
            raise ValueError(f"n: expected at least one view, got {n}")
        self._n = n
        self._generator = generator
        self._stack: list[int] = []

    def next(self) -> int:
        """The next view's index, in [0, n)."""
        if not self._stack:
            self._stack = list(range(self._n))
        at = int(
            torch.randint(len(self._stack), (1,), generator=self._generator, device=self._generator.device)
        )
        return self._stack.pop(at)

    def state_dict(self) -> dict[str, Any]:
        """The stack as primitives; with the generator's state it resumes bit for bit."""
        return {"n": self._n, "stack": list(self._stack)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores `state_dict`'s value.

        Raises:
            ValueError: If the state belongs to another number of views.
        """
        stack = [int(i) for i in state["stack"]]
        if (
            int(state["n"]) != self._n
            or len(set(stack)) != len(stack)
            or any(not 0 <= i < self._n for i in stack)
        ):
            raise ValueError(
                f"sampler state: expected a stack over {self._n} views, got one over {state['n']}"
            )
        self._stack = stack
