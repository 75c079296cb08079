"""Trains a fleet on a Ray cluster, whose machines all see the same disk and this program at the same place.

Ray is no requirement: it is imported when it is asked for. Every scene is one Ray task, which runs its
training as a process, as everywhere else, and tries it again where that may help. A task whose worker or
machine is lost is handed to Ray again.
"""

from __future__ import annotations

import importlib
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from typing import Any

from errors import UserError
from fleet.folder import ELSEWHERE, FleetFolder, Outcome
from fleet.processes import ROOT
from fleet.running import Plan, Signals, run_jobs
from fleet.scenes import Job

_LOOK_EVERY_S = 1.0
"""How long Ray is waited for before signals are looked at again."""


def run_on_ray(
    jobs: Sequence[Job],
    folder: FleetFolder,
    plan: Plan,
    ended: Callable[[Job, Outcome], None],
    signals: Signals,
) -> None:
    """As `run_jobs`, on the cluster; `plan.jobs` = 0: as many at a time as it has cores for.

    Raises:
        UserError: Ray is not installed.
    """
    try:
        ray: Any = importlib.import_module("ray")
    except ImportError as error:
        raise UserError(
            "--launcher ray: the package ray is not installed: pip install ray, or leave --launcher out"
        ) from error
    ray.init(
        ignore_reinit_error=True,
        log_to_driver=False,
        runtime_env={"env_vars": {"PYTHONPATH": str(ROOT), "OMP_WAIT_POLICY": "PASSIVE"}},
    )
    has = ray.cluster_resources()
    threads = plan.threads or 1
    gpus = 1 if has.get("GPU", 0) >= 1 else 0
    room = int(has["GPU"]) if gpus else max(1, int(has.get("CPU", 1)) // threads)
    plan = replace(plan, jobs=plan.jobs or room, threads=threads)
    remote = ray.remote(num_cpus=threads, num_gpus=gpus, max_retries=0)(_train)
    waiting, losses = deque(jobs), dict.fromkeys((job.name for job in jobs), 0)
    running: dict[Any, Job] = {}
    try:
        while running or (waiting and not signals.count):
            while waiting and len(running) < plan.jobs and not signals.count:
                job = waiting.popleft()
                running[remote.remote(job, str(folder.path), asdict(replace(plan, jobs=1)))] = job
            ready, _ = ray.wait(list(running), num_returns=1, timeout=_LOOK_EVERY_S)
            for reference in ready:
                job = running.pop(reference)
                try:
                    outcome = Outcome(**ray.get(reference))
                except Exception as error:  # a lost worker or machine, whatever Ray calls it
                    losses[job.name] += 1
                    if losses[job.name] <= plan.retries:
                        waiting.append(job)
                        continue
                    lost = f"its Ray task was lost: {' '.join(str(error).split())[:200]}"
                    known = folder.outcome_or_why_not(job.name) or Outcome()
                    outcome = replace(known, status="failed", error=lost)
                    folder.write(job, outcome)
                if outcome.status in ("done", "failed") or outcome.error == ELSEWHERE:
                    ended(job, outcome)
            if signals.count:
                break
    finally:
        for reference in running:
            ray.cancel(reference)  # a KeyboardInterrupt in the task, which ends its training


def _train(job: Job, path: str, plan: dict[str, Any]) -> dict[str, Any]:
    """In a worker: one scene, to its end; the outcome as plain values."""
    from pathlib import Path

    folder = FleetFolder(Path(path))
    last: list[Outcome] = []
    run_jobs([job], folder, Plan(**plan), lambda _, outcome: last.append(outcome))
    return asdict(last[-1] if last else folder.outcome_or_why_not(job.name) or Outcome())
