"""What surrounds a training loop: state, checkpoints, output folder, logs, and an honest end.

The room knows nothing of losses, rasterizers or the command line's options. It keeps a run safe (atomic
checkpoints, one run per folder), visible (TensorBoard and a progress bar) and repeatable (seeds and
generator states), and turns what went wrong into one line and an exit code. TensorBoard is imported when
a `Tracker` is made, not here.
"""

from engine.checkpoint import (
    CheckpointError,
    checkpoint_path,
    latest_checkpoint,
    load_checkpoint,
    prune_checkpoints,
    restore,
    save_checkpoint,
)
from engine.command import (
    DISK_FULL,
    Stopped,
    StopRequest,
    add_facts,
    end_at_once,
    end_with_parent,
    run_command,
)
from engine.device import device_for
from engine.finished import load_finished, load_iteration, saved_iterations
from engine.finite import CameToNothing, Guard, NotFinite
from engine.memory import peak_memory_gib
from engine.output import (
    OutputError,
    OutputFolder,
    claim_output,
    not_through_a_link,
    replaced_output,
)
from engine.schedule import is_due
from engine.seeding import generators_kept, seed_everything
from engine.state import TrainingState
from engine.tracker import Tracker
from engine.words import LogLevel, hear

__all__ = [
    "DISK_FULL",
    "CameToNothing",
    "CheckpointError",
    "Guard",
    "LogLevel",
    "NotFinite",
    "OutputError",
    "OutputFolder",
    "StopRequest",
    "Stopped",
    "Tracker",
    "TrainingState",
    "add_facts",
    "checkpoint_path",
    "claim_output",
    "device_for",
    "end_at_once",
    "end_with_parent",
    "generators_kept",
    "hear",
    "is_due",
    "latest_checkpoint",
    "load_checkpoint",
    "load_finished",
    "load_iteration",
    "not_through_a_link",
    "peak_memory_gib",
    "prune_checkpoints",
    "replaced_output",
    "restore",
    "run_command",
    "save_checkpoint",
    "saved_iterations",
    "seed_everything",
]
