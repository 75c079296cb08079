"""Several processes that train one model, each on its share of a batch's views.

    torchrun --nproc-per-node=2 train.py -s SCENE

Every process has the whole model and draws the same random numbers; each renders its own views of a batch.
Their gradients and density statistics are added up in the order of the views, so that every process takes
the same step, and on the CPU the very step that one process alone takes with that batch, bit for bit. Process
0 alone writes files.

With --sharded (GPUs, gsplat) each process has a part of the Gaussians instead, and renders its views of all
of them: `shards`.
"""

from __future__ import annotations

from replicas.place import Place, mute_parsing, place_of, usable_cores
from replicas.shards import ShardSums, own_rows, own_share, reseed, whole_rows
from replicas.sums import Sums
from replicas.team import ALONE, ReplicaLost, ReplicasDiffer, Team, connected, form_team

__all__ = [
    "ALONE",
    "Place",
    "ReplicaLost",
    "ReplicasDiffer",
    "ShardSums",
    "Sums",
    "Team",
    "connected",
    "form_team",
    "mute_parsing",
    "own_rows",
    "own_share",
    "place_of",
    "reseed",
    "usable_cores",
    "whole_rows",
]
