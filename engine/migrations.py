"""The formats of checkpoints so far, and the steps from each to the next.

1 (0.1.0): kind, format, program (not in the first files), iteration, scene, config, gaussians, optimizer,
densifier, sampler, random; see checkpoint.py.

To change the format: raise FORMAT, add a step here and a line above, and leave a checkpoint of the old format
in tests/engine/data, which the tests go on resuming from.
"""

from __future__ import annotations

from versions import Step

FORMAT = 1
STEPS: dict[int, Step] = {}
