"""Which actor died first, from rows as Ray's table of actors has them."""

from __future__ import annotations

from ray.core.generated import gcs_pb2

from trainer.processes.actors import first_among, first_dead

WORKER_DIED, OWNER_DIED, NODE_DIED, RAY_KILL = 1, 2, 3, 4
CRASH = "The actor is dead because its worker process has died. Worker exit type: SYSTEM_ERROR"
ADVICE = " Some common causes include: (1) the process was killed by the OOM killer."


def row(name: str, seconds: float, reason: int, message: str = CRASH + ADVICE) -> dict:
    data = gcs_pb2.ActorTableData()
    data.death_cause.actor_died_error_context.error_message = message
    data.death_cause.actor_died_error_context.reason = reason
    return {
        "ActorClassName": f"create_colocated_worker_cls.<locals>.{name}",
        "Address": {"IPAddress": "10.0.0.2", "NodeID": "46f39a7e0e29"},
        "EndTime": int(1000 * seconds),
        "Pid": 712,
        "DeathCause": data.death_cause,
    }


def test_the_first_that_nobody_has_ended():
    rows = [
        row("WorkerDict", 120.5, WORKER_DIED),
        row("ScorerActor", 110, RAY_KILL),
        row("Loop", 111, OWNER_DIED),
        row("Server", 130, WORKER_DIED),
        row("Earlier", 90, WORKER_DIED),
        row("Gone", 112, WORKER_DIED, "Worker exit type: INTENDED_USER_EXIT"),
    ]
    dead = first_among(rows, since=100)
    assert (dead.seconds, dead.with_its_node) == (120.5, False)
    assert dead.text == f"WorkerDict (pid 712) died on node 10.0.0.2 (46f39a) of the Ray cluster: {CRASH}"
    assert first_among(rows[1:3], since=100) is None


def test_a_node_that_died_is_the_cause_though_ray_notices_it_last():
    rows = [row("Server", 110, WORKER_DIED), row("WorkerDict", 130, NODE_DIED, "its node has died: lost")]
    dead = first_among(rows, since=100)
    assert dead.with_its_node and "WorkerDict" in dead.text and dead.text.endswith("its node has died: lost")


def test_without_a_connection_nothing_is_known():
    assert first_dead(0) is None
