"""Why a training ended: what to say first, and the first real error last."""

from __future__ import annotations

import re
import time
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from common import disk
from trainer.job import TrainingJob
from trainer.processes import failures, reaper
from trainer.processes.actors import DeadActor, first_dead
from trainer.processes.logs import collected, last_error_line
from trainer.processes.nodes import Nodes
from trainer.processes.ray_cluster import RayCluster
from trainer.processes.watch import EngineErrors
from trainer.sft import SftJob

ENGINE_DID_NOT_START = "See root cause above"
"""vLLM's words where an engine's process failed at its start; why stands in the engine's own log only."""

CONSEQUENCE = re.compile(r"connection|peer|socket|nccl|unavailable", re.IGNORECASE)
"""What a rank says when another one is gone."""

NOTICE_SECONDS = 15.0
"""How long Ray may take to notice that a node is gone, and that its actors are."""


def explain(
    job: TrainingJob | SftJob,
    error: Exception,
    failures_file: Path,
    cluster: RayCluster,
    engines: EngineErrors,
    since: float,
) -> str:
    """What failed, where to read more, and the first real error last.

    `since` is when this attempt began, in seconds since the epoch.
    """
    cause, nodes = failures.first(failures_file), cluster.nodes
    dead, silent = first_dead(since), None
    if nodes is not None:
        dead, silent = _lost(nodes, since, cause["error"] if cause is not None else str(error))
    logged = last_error_line(cluster.logs) if nodes is None else nodes.newest_error()
    found = silent or first_error(cause, dead) or logged or _short(error)
    if ENGINE_DID_NOT_START in found:
        found = (engines.first() if nodes is None else nodes.engine_error()) or found
    if (full := full_disk(job, cluster, [found, str(error), str(cause)])) is not None:
        found = f"{full} ({found})"
    log = job.folder / "log.txt"
    text = collected(cluster.logs) if nodes is None else nodes.log_text()
    with suppress(OSError):  # what is told matters more
        log.write_text(text, encoding="utf-8")
    what = f"{job.name} stopped: {_short(error)}"
    return f"{what}\n  more in {log}\n  first error: {found}"


def full_disk(job: TrainingJob | SftJob, cluster: RayCluster, told: Iterable[str]) -> str | None:
    """That a disk is full, where one has next to nothing free, or an error says so: what a worker could not
    write it may tell in any words, or die of."""
    places = disk.full_places([job.folder, cluster.logs, Path(reaper.SHARED_MEMORY)])
    if not places and any(map(disk.says_full, told)):
        places = [job.folder]
    return disk.sentence(places) if places else None


def _lost(nodes: Nodes, since: float, said: str) -> tuple[DeadActor | None, str | None]:
    """The actor that died first, and the nodes that do not answer; waits for either where what was said is a
    consequence of it."""
    deadline = time.monotonic() + (NOTICE_SECONDS if CONSEQUENCE.search(said) else 0.0)
    while True:
        silent, dead = nodes.drop_silent(), first_dead(since)
        if dead is not None or silent is not None or time.monotonic() > deadline:
            return dead, silent
        time.sleep(0.5)


def first_error(cause: failures.Failure | None, dead: DeadActor | None) -> str | None:
    """What was recorded first, unless an actor had died before, or a node, which Ray notices late."""
    if dead is not None and (cause is None or dead.with_its_node or dead.seconds <= cause["time"]):
        return dead.text
    return cause["error"] if cause is not None else None


def _short(error: Exception) -> str:
    lines = [line for line in str(error).splitlines() if line.strip()]
    return lines[-1].strip() if lines else type(error).__name__
