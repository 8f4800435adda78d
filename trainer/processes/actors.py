"""Which actor of a run died first, as Ray's control service knows it.

What verl notices of a dead part may be a consequence: a rank that lost its peer says that a connection was
closed. Ray records how each actor ended; one that nobody has ended died by itself, or with its node.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

WORKER_DIED, NODE_DIED = 1, 3
"""Ray's numbers for the ends that nobody has asked for (`ActorDiedErrorContext.Reason`)."""

ORDERLY = ("INTENDED_SYSTEM_EXIT", "INTENDED_USER_EXIT")
"""Ray's types of an exit that a process has chosen."""

ADVICE = " Some common causes include"
"""Where Ray's guesses begin, after what it knows."""


@dataclass(frozen=True)
class DeadActor:
    """An actor that ended without being asked to."""

    seconds: float
    """When, in seconds since the epoch; of a node that died, when Ray noticed it."""
    with_its_node: bool
    text: str
    """What it was, where, and how it ended."""


def first_dead(since: float) -> DeadActor | None:
    """The first actor of this process's job that died after `since` (seconds since the epoch)."""
    import ray
    from ray._private.state import state
    from ray.exceptions import RayError

    if not ray.is_initialized():
        return None
    job = ray.JobID.from_hex(ray.get_runtime_context().get_job_id())
    try:
        table = state.actor_table(None, job, "DEAD")
    except (RayError, RuntimeError):  # the control service is gone itself
        return None
    return first_among(table.values(), since)


def first_among(actors: Iterable[Mapping[str, Any]], since: float) -> DeadActor | None:
    """The same of rows of Ray's table of actors; one that died with its node comes before all others."""
    found = [dead for actor in actors if (dead := _dead(actor)) is not None and dead.seconds >= since]
    return min(found, key=lambda dead: (not dead.with_its_node, dead.seconds), default=None)


def _dead(actor: Mapping[str, Any]) -> DeadActor | None:
    end = actor["DeathCause"].actor_died_error_context
    if end.reason not in (WORKER_DIED, NODE_DIED) or any(kind in end.error_message for kind in ORDERLY):
        return None
    name = actor["ActorClassName"].rsplit(".", 1)[-1]
    place = f"{actor['Address']['IPAddress']} ({actor['Address']['NodeID'][:6]})"
    reason = end.error_message.split(ADVICE)[0].strip()
    text = f"{name} (pid {actor['Pid']}) died on node {place} of the Ray cluster: {reason}"
    return DeadActor(actor["EndTime"] / 1000, end.reason == NODE_DIED, text)
