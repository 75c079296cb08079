"""No number of a training is ever NaN or infinite: if one becomes so, the run ends, and says which and when.

Loss terms are kept as they come and read where that costs nothing: at once on a CPU, with the other figures
on a GPU. Parameters and Adam's averages are summed, which is enough to see whether any is not finite. Nothing
here changes or draws a number. A checkpoint refuses what is not finite by itself (checkpoint.py).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from errors import UserError

if TYPE_CHECKING:
    from engine.state import TrainingState


class CameToNothing(UserError):
    """A training that cannot go on; from its last checkpoint it would come to the same again."""


class NotFinite(CameToNothing):
    """A loss term, a parameter or an average of the optimizer has become NaN or infinite.

    Args:
        message: names it.
        moment: grows with the iteration; a term comes before the parameters that it spoils.
    """

    exit_code = 6

    def __init__(self, message: str, moment: int = 0) -> None:
        super().__init__(message)
        self.moment = moment


class Guard:
    """Watches the numbers of one training. Knows nothing of what the terms mean."""

    def __init__(self) -> None:
        self._seen: list[tuple[int, str, tuple[str, ...], Tensor]] = []
        self._last: tuple[str, tuple[str, ...], Tensor] | None = None

    def terms(self, iteration: int, view: str, terms: Mapping[str, Tensor]) -> None:
        """Keeps a view's loss terms (scalars) until `check`; on a CPU only where one is not finite."""
        values = torch.stack([value.detach() for value in terms.values()])
        self._last = view, tuple(terms), values
        if values.device.type == "cpu" and bool(values.isfinite().all()):
            return
        self._seen.append((iteration, view, tuple(terms), values))

    @property
    def alarmed(self) -> bool:
        """Whether a term is known not to be finite, before anything has been read from a GPU."""
        return any(values.device.type == "cpu" for *_, values in self._seen)

    @torch.no_grad()
    def check(self, state: TrainingState) -> None:
        """Reads what has been kept, and looks at all parameters and averages.

        Raises:
            NotFinite: names the first loss term, else the first parameter or average, that is not finite.
        """
        seen, self._seen = self._seen, []
        for iteration, view, names, values in seen:
            for name, value in zip(names, values.tolist(), strict=True):
                if not math.isfinite(value):
                    raise NotFinite(
                        f"iteration {iteration}, view {view}: the loss term {name} is {value}: start anew "
                        f"with a lower weight of that term or lower learning rates{_rates(state)}",
                        moment=2 * iteration,
                    )
        check_finite(state, self._largest)

    def _largest(self) -> str:
        """Words about the last view's largest term, which may be why a parameter is not finite."""
        if self._last is None:
            return ""
        view, names, values = self._last
        amounts = dict(zip(names, values.tolist(), strict=True))
        name = max(amounts, key=lambda one: abs(amounts[one]))
        return f" (largest loss term of the last view, {view}: {name} {amounts[name]:.3g})"


def check_finite(state: TrainingState, hint: Callable[[], str] = str) -> None:
    """Looks at all parameters and Adam's averages.

    Args:
        state: holds them.
        hint: more words for the message.

    Raises:
        NotFinite: names the first that is not finite, and how many Gaussians it concerns.
    """
    tensors = list(_tensors(state))
    sums = [value.detach().sum() for *_, value in tensors]  # which NaN and infinity survive; read once
    if not sums or bool(torch.stack(sums).isfinite().all()):
        return
    for key, what, value in tensors:
        bad = ~value.detach().isfinite()
        if not bool(bad.any()):  # finite numbers whose sum is too large for a float
            continue
        count = int(bad.reshape(len(bad), -1).any(1).sum())
        raise NotFinite(
            f"iteration {state.iteration}: {what} not finite in {count:,} of {len(bad):,} Gaussians{hint()}: "
            f"start anew with a lower --optim.{key}_lr, or lower weights of losses{_rates(state)}",
            moment=2 * state.iteration + 1,
        )


def _tensors(state: TrainingState) -> Iterator[tuple[str, str, Tensor]]:
    for key, value in state.gaussians.params.items():
        if value.numel():
            yield key, f"the parameter {key} is", value
    for group in state.optimizer.param_groups:
        moments = state.optimizer.state.get(group["params"][0], {})
        for name, words in (("exp_avg", "gradient's mean"), ("exp_avg_sq", "squared gradient's mean")):
            value = moments.get(name)
            if isinstance(value, Tensor) and value.numel():
                yield group["name"], f"the {words} of {group['name']} is", value


def _rates(state: TrainingState) -> str:
    """The rates of this moment, largest first."""
    rates = {group["name"]: float(group["lr"]) for group in state.optimizer.param_groups}
    ordered = sorted(rates, key=lambda name: -rates[name])
    return " (now " + ", ".join(f"{name} {rates[name]:.2g}" for name in ordered) + ")"
