"""What the processes of one training tell each other, and how they end together.

Everything here is a collective: all processes call it, in the same order. Where there is one process alone,
nothing is sent and torch.distributed is not even imported.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import timedelta
from typing import Any, TypeVar

import torch
from torch import Tensor

from errors import SaidElsewhere, UserError
from replicas.place import Place

PATIENCE = timedelta(hours=24)
"""How long a process waits for the others: one may evaluate, or be paused in the viewer. One that dies closes
its connections, which ends the wait at once."""
_log = logging.getLogger(__name__)
T = TypeVar("T")


class ReplicaLost(UserError):
    """Another process of the training has ended, or cannot be reached."""

    exit_code = 5


class ReplicasDiffer(UserError):
    """Two processes have different models, which must not happen."""

    exit_code = 5


class Team:
    """The processes of one training, as one of them sees them; made by `form_team`.

    Attributes:
        place: this process's.
        device: where the tensors that are sent have to lie.
    """

    def __init__(self, place: Place, device: torch.device) -> None:
        self.place, self.device = place, device

    @property
    def size(self) -> int:
        """Number of processes."""
        return self.place.size

    @property
    def leads(self) -> bool:
        """Whether this process writes the files."""
        return self.place.leads

    def share(self, items: Sequence[T]) -> Iterator[T | None]:
        """Item by item, those that this process takes: one of each round of as many as there are processes.

        All processes get equally many; the last may be None.
        """
        rank, size = self.place.rank, self.place.size
        for start in range(0, len(items), size):
            yield items[start + rank] if start + rank < len(items) else None

    def any(self, flag: bool) -> bool:
        """Whether the flag is set in any process."""
        return flag if self.size == 1 else any(row[0] for row in self.numbers([int(flag)]))

    def numbers(self, own: Sequence[int]) -> list[list[int]]:
        """Whole numbers of every process, by rank; equally many of each."""
        if self.size == 1:
            return [list(own)]
        return self.tensors(torch.tensor(own, dtype=torch.int64, device=self.device)).tolist()

    def tensors(self, own: Tensor) -> Tensor:
        """A tensor [...] of every process as [size, ...]; of equal shape and type in each."""
        if self.size == 1:
            return own.unsqueeze(0)
        import torch.distributed as distributed

        own = own.to(self.device).contiguous()
        rows = [torch.empty_like(own) for _ in range(self.size)]
        with _reached():
            distributed.all_gather(rows, own)
        return torch.stack(rows)

    def pieces(self, own: Tensor) -> Tensor:
        """This process's piece of everybody's tensor [size * n], equally large in each: [size, n]."""
        if self.size == 1:
            return own.unsqueeze(0)
        import torch.distributed as distributed

        own = own.to(self.device).contiguous()
        got = torch.empty_like(own)
        with _reached():
            distributed.all_to_all_single(got, own)
        return got.view(self.size, -1)

    @torch.no_grad()
    def to_leader(self, own: Tensor) -> list[Tensor]:
        """A tensor [n, ...] of every process on process 0's CPU, by rank; no rows in the other processes.

        Of equal type, and shape but for n. They come one after the other, so that a GPU holds one at a time.
        """
        if self.size == 1:
            return [own.cpu()]
        import torch.distributed as distributed

        lengths = [row[0] for row in self.numbers([len(own)])]
        own = own.detach().to(self.device).contiguous()
        found = [own.cpu()] if self.leads else [own[:0].cpu()]
        for rank in range(1, self.size):
            with _reached():
                if rank == self.place.rank and lengths[rank]:
                    distributed.send(own, 0)
                elif self.leads:
                    part = own.new_empty(lengths[rank], *own.shape[1:])
                    if lengths[rank]:
                        distributed.recv(part, rank)
                    found.append(part.cpu())
        return found

    def tell(self, own: Any) -> list[Any]:
        """A value of every process, by rank; sent as JSON."""
        if self.size == 1:
            return [own]
        words = json.dumps(own).encode()
        longest = max(row[0] for row in self.numbers([len(words)]))
        padded = torch.zeros(longest, dtype=torch.uint8)
        padded[: len(words)] = torch.frombuffer(bytearray(words), dtype=torch.uint8)
        rows = self.tensors(padded).cpu().numpy()
        return [json.loads(row.tobytes().rstrip(b"\0")) for row in rows]

    @contextlib.contextmanager
    def agreed(self) -> Iterator[None]:
        """A block that counts as failed in all processes where a `UserError` ends it in one.

        Of those whose block has failed, the first with the earliest `UserError.moment` says why; the others
        end with its exit code, silently. Not for a block that holds collectives.

        Raises:
            SaidElsewhere: it failed in another process.
        """
        if self.size == 1:
            yield
            return
        mine: UserError | None = None
        try:
            yield
        except UserError as error:
            mine = error
        rows = self.numbers([0, 0] if mine is None else [mine.exit_code, mine.moment])
        failed = [rank for rank, (code, _) in enumerate(rows) if code]
        if not failed:
            return
        first = min(failed, key=lambda rank: (rows[rank][1], rank))
        if mine is not None and first == self.place.rank:
            raise mine
        raise SaidElsewhere(rows[first][0])

    def led(self, task: Callable[[], T]) -> T:
        """What `task` returns: done by process 0, then by the others, who find what it has kept on disk.

        Raises:
            SaidElsewhere: it failed in another process.
        """
        if self.size == 1:
            return task()
        result: list[T] = []
        with self.agreed():
            if self.leads:
                result.append(task())
        with self.agreed():
            if not self.leads:
                result.append(task())
        return result[0]

    def check_same(self, what: Mapping[str, Tensor], when: str) -> None:
        """Ends all processes where these tensors are not the same bits in all of them.

        Raises:
            ReplicasDiffer: names the first tensor, and the processes that differ from process 0.
        """
        if self.size == 1:
            return
        rows = self.numbers([_digest(value) for value in what.values()])
        for column, name in enumerate(what):
            wrong = [str(rank) for rank, row in enumerate(rows) if row[column] != rows[0][column]]
            if wrong:
                raise ReplicasDiffer(
                    f"{when}: {name} of process {', '.join(wrong)} has other bits than process 0's: earlier "
                    "checkpoints are intact; use machines with the same kind of processor or GPU, the same "
                    "program and the same photographs, and go on with --resume"
                )

    def check_same_words(self, words: str, what: str) -> None:
        """Ends all processes where a text is not the same in all of them.

        Raises:
            UserError: in the first process that differs; SaidElsewhere: in the others.
        """
        numbers = [row[0] for row in self.numbers([_number(words)])]
        with self.agreed():
            if numbers[self.place.rank] != numbers[0]:
                raise UserError(
                    f"{self.place}: {what} is another than process 0's: all machines need the same files "
                    "(a shared disk)"
                )

    def wait(self) -> None:
        """Returns when all processes have come here."""
        self.numbers([0])


ALONE = Team(Place(), torch.device("cpu"))


@contextlib.contextmanager
def form_team(place: Place, device: torch.device) -> Iterator[Team]:
    """Connects the processes that torchrun has started; gloo on the CPU, NCCL on GPUs.

    Args:
        place: this process's.
        device: where it trains; of a GPU the local rank's is taken.

    Raises:
        ReplicaLost: the others cannot be reached, or end before the block does.
    """
    if place.size == 1:
        yield ALONE
        return
    import torch.distributed as distributed

    on_gpu = device.type == "cuda"
    if on_gpu:
        if place.local_rank >= torch.cuda.device_count():
            raise UserError(
                f"--nproc-per-node {place.local_size}: expected at most a process per GPU, and this machine "
                f"has {torch.cuda.device_count()}: start fewer"
            )
        torch.cuda.set_device(place.local_rank)
    with _reached():
        distributed.init_process_group(
            "nccl" if on_gpu else "gloo", rank=place.rank, world_size=place.size, timeout=PATIENCE
        )
    yield Team(place, device)
    with contextlib.suppress(
        Exception
    ):  # all is done and written: how the connection closes is nobody's care
        distributed.destroy_process_group()


@contextlib.contextmanager
def connected() -> Iterator[None]:
    """A block with collectives that are not a team's, among other work that may fail for its own reasons.

    Raises:
        ReplicaLost: one of the collectives has failed.
    """
    try:
        yield
    except RuntimeError as error:
        import torch.distributed as distributed

        if not isinstance(error, distributed.DistError) and "gloo" not in str(error):
            raise
        with _reached():
            raise


@contextlib.contextmanager
def _reached() -> Iterator[None]:
    try:
        yield
    except (RuntimeError, ValueError) as error:  # whatever gloo and NCCL raise where an end is gone
        if isinstance(error, torch.OutOfMemoryError):
            raise
        _log.debug("collective: %s", error)
        raise ReplicaLost(
            "another process of this training has ended or cannot be reached: see what it said; the last "
            "checkpoint is intact: call the same command with --resume"
        ) from error


def _digest(value: Tensor) -> int:
    return _number(value.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy())


def _number(content: Any) -> int:
    data = content.encode() if isinstance(content, str) else content
    return int.from_bytes(hashlib.sha256(data).digest()[:7], "little")  # seven bytes: it fits int64
