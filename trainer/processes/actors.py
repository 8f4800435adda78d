"""What Ray's control service knows of actors: which one of a run died first, and whose turn it is to train.

What verl notices of a dead part may be a consequence: a rank that lost its peer says that a connection was
closed. Ray records how each actor ended; one that nobody has ended died by itself, or with its node.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

WORKER_DIED, NODE_DIED = 1, 3
"""Ray's numbers for the ends that nobody has asked for (`ActorDiedErrorContext.Reason`)."""

ORDERLY = ("INTENDED_SYSTEM_EXIT", "INTENDED_USER_EXIT")
"""Ray's types of an exit that a process has chosen."""

ADVICE = " Some common causes include"
"""Where Ray's guesses begin, after what it knows."""

QUEUE = ("TransferQueueController", "transfer_queue")
"""Name and namespace of the actor that verl moves a training's data through: a Ray cluster has one."""

TURN = ("turn_to_train", "protege")
"""The same of the actor that whoever trains in a joined cluster holds."""

POLL_SECONDS, ENDING_SECONDS = 0.5, 60.0
"""Between two looks, and how long the queue of a training that is over may take to go."""


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


class Turn:
    """Whose turn it is: Ray gives a name to one actor, and frees it when the process that made it is gone."""

    def __init__(self, holder: str) -> None:
        self.holder = holder

    def who(self) -> str:
        """The process that trains."""
        return self.holder


@contextmanager
def turn_to_train(folder: Path, on_wait: Callable[[str], None]) -> Iterator[None]:
    """Holds the turn of a joined Ray cluster, and waits for it: two trainings of one cluster would read each
    other's rows from the one queue. `on_wait` gets a line that says for whom; `folder` tells others who this
    is."""
    import ray

    name, namespace = TURN
    actor = ray.remote(num_cpus=0)(Turn).options(name=name, namespace=namespace)
    said = False
    while True:
        try:
            turn: Any = actor.remote(f"process {os.getpid()} on {socket.gethostname()}, {folder}")
            break
        except ValueError:  # the name is taken
            if not said:
                on_wait(
                    f"waiting: another run trains on this Ray cluster ({_holder()}), and verl trains one "
                    "model of a cluster at a time"
                )
                said = True
            time.sleep(POLL_SECONDS)
    try:
        yield
    finally:
        ray.kill(turn)


def _holder() -> str:
    """Who has the turn, as far as that can be told: it may just have ended."""
    import ray
    from ray.exceptions import RayError

    with suppress(ValueError, RayError):
        return str(ray.get(ray.get_actor(*TURN).who.remote(), timeout=5))
    return "which has just ended"


def wait_for_queue(seconds: float = ENDING_SECONDS) -> None:
    """Returns once no training has verl's queue: a new one would take the old one for its own.

    Raises RuntimeError where it is still there after so many seconds.
    """
    import ray

    deadline = time.monotonic() + seconds
    while ray.is_initialized():  # asked without, Ray would start a cluster
        try:
            ray.get_actor(*QUEUE)
        except ValueError:
            return
        if time.monotonic() > deadline:
            raise RuntimeError(
                f"the Ray cluster has an actor {QUEUE[0]} already, so another program trains there "
                "with verl, which trains one model of a cluster at a time; wait for its end, or use another "
                "cluster"
            )
        time.sleep(POLL_SECONDS)
