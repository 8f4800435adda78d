"""Replicas of the shared scorer against one of them: `python -m benchmarks.scorer_replicas`.

The real thing but for the training: Ray's actors on logical devices, the broker between, and a client that
asks for all rollouts at the same time, each by its teacher and by the reference. One thread a replica. Rounds
with one and with all replicas take turns, and a pair of them gives one ratio of wall seconds: that wants idle
cores, one for each replica. A second ratio compares CPU seconds, of the one replica and of the busiest of
several: how evenly the work is shared out, whatever else runs on the machine.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import statistics
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil

from benchmarks.scorer import make_rollouts
from benchmarks.scorer_models import SIZES, make_models
from common.words import counted
from teachers.provenance import machine

if TYPE_CHECKING:
    from merging.exopd.replicas.start import Bundle, RunningScorer
    from teachers.scoring.scorer import Scored

SIZE = "large"
TEACHERS = 2
TOKENS_PER_BATCH = 512
MIB = 2**20


def main(arguments: Sequence[str] | None = None) -> None:
    """Measures, and prints the ratio of one replica's wall time to that of several."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.scorer_replicas", description=main.__doc__)
    parser.add_argument("--quick", action="store_true", help="48 rollouts and 3 rounds, not 128 and 7")
    parser.add_argument("--replicas", type=int, default=2)
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the figures here")
    options = parser.parse_args(arguments)
    if options.replicas < 2:
        parser.error("--replicas: one is what several are compared with; give 2 or more")
    rollouts, rounds = (48, 3) if options.quick else (128, 7)
    print(machine())
    print(
        f"{rollouts} rollouts, {TEACHERS} teachers; {rounds} rounds; load {os.getloadavg()[0]:.1f} at start"
    )
    with tempfile.TemporaryDirectory() as folder:
        models = make_models(Path(folder) / "models", "full", SIZE, TEACHERS)
        found = measure(models, make_rollouts(rollouts, SIZES[SIZE]["vocab_size"]), rounds, options.replicas)
    print(text(found))
    if options.json:
        options.json.write_text(json.dumps({"machine": machine(), **found}, indent=1))


def measure(models: dict[str, str], rollouts: Sequence[Scored], rounds: int, replicas: int) -> dict[str, Any]:
    """Wall seconds of each round by the number of replicas, ratios of wall and of CPU seconds (of the busiest
    replica), and the bytes that each of several has alone.

    `scores_differ_by` is the largest difference between the two ways' log-probabilities, in nats.
    """
    seconds: dict[int, list[float]] = {1: [], replicas: []}
    cpu: dict[int, list[float]] = {1: [], replicas: []}
    with devices(replicas) as bundles, tempfile.TemporaryDirectory() as folder:
        running = {
            count: started(models, bundles[count], count, Path(folder) / str(count)) for count in seconds
        }
        answers = {count: ask(scorer, rollouts)[1] for count, scorer in running.items()}  # not timed
        processes = {
            count: [psutil.Process(place.process) for place in scorer.wait()]
            for count, scorer in running.items()
        }
        for _ in range(rounds):
            for count, scorer in running.items():
                scorer.release()
                before = cpu_seconds(processes[count])
                seconds[count].append(ask(scorer, rollouts)[0])
                after = cpu_seconds(processes[count])
                cpu[count].append(max(now - then for now, then in zip(after, before, strict=True)))
        private = [process.memory_full_info().uss for process in processes[replicas]]
        scoring = running[replicas].release()
    return {
        "replicas": replicas,
        "seconds": {str(count): values for count, values in seconds.items()},
        "ratios": ratios(seconds[1], seconds[replicas]),
        "cpu_ratios": ratios(cpu[1], cpu[replicas]),
        "response_tokens": sum(rollout.response_tokens for rollout in rollouts),
        "private_bytes": private,
        "weights_bytes": sum(file.stat().st_size for path in models.values() for file in weights(path)),
        "last_round": scoring,
        "scores_differ_by": difference(answers[1], answers[replicas]),
    }


def cpu_seconds(processes: Sequence[psutil.Process]) -> list[float]:
    """What each process has computed so far."""
    return [sum(process.cpu_times()[:2]) for process in processes]


def ratios(alone: Sequence[float], several: Sequence[float]) -> list[float]:
    """Of each pair of rounds, how many times as long one replica takes."""
    return [one / other for one, other in zip(alone, several, strict=True)]


def weights(model: str) -> list[Path]:
    """The files that hold a model's weights."""
    return list(Path(model).glob("*.safetensors"))


def difference(some: Sequence[Any], others: Sequence[Any]) -> float:
    """The largest difference of two lists of answers to the same questions."""
    return max(
        float(abs(one - other).max())
        for rows, other_rows in zip(some, others, strict=True)
        for one, other in zip(rows, other_rows, strict=True)
    )


@contextmanager
def devices(replicas: int) -> Iterator[dict[int, list[Bundle]]]:
    """Logical devices of a Ray of its own, reserved as verl does it: one, and others for all replicas."""
    import ray
    from ray.util.placement_group import placement_group

    from merging.exopd.replicas.start import Bundle

    environment = {"OMP_NUM_THREADS": "1", "RAY_worker_niceness": "0", "HF_HUB_OFFLINE": "1"}
    os.environ.update(environment)
    options: dict[str, Any] = {"include_dashboard": False, "log_to_driver": False, "logging_level": "error"}
    ray.init("local", num_cpus=64, num_gpus=1 + replicas, runtime_env={"env_vars": environment}, **options)
    try:
        group = placement_group([{"CPU": 3, "GPU": 1}] * (1 + replicas), strategy="STRICT_PACK")
        ray.get(group.ready())
        made = [Bundle(group, index, processes=3) for index in range(1 + replicas)]
        yield {1: made[:1], replicas: made[1:]}
    finally:
        ray.shutdown()


def started(models: dict[str, str], bundles: list[Bundle], count: int, shared: Path) -> RunningScorer:
    """A scorer with so many replicas, which have loaded their models."""
    from merging.exopd.replicas.start import start_scorer

    settings = {"models": models, "base": models["reference"], "device": "cpu", "dtype": "float32",
                "tokens_per_batch": TOKENS_PER_BATCH, "canary": True}  # fmt: skip
    running = start_scorer(settings, count, bundles, shared, name=f"scorer-{count}")
    running.wait()
    return running


def ask(scorer: RunningScorer, rollouts: Sequence[Scored]) -> tuple[float, list[Any]]:
    """Wall seconds until all rollouts are scored, asked at the same time, and their scores."""
    from merging.exopd.replicas.client import Replicas

    async def all_of() -> list[Any]:
        client = Replicas(scorer.broker)
        asked = [
            client.score(
                [f"teacher_{number % TEACHERS}", "reference"], list(each.token_ids), each.response_tokens
            )
            for number, each in enumerate(rollouts)
        ]
        return await asyncio.gather(*asked)

    begin = time.perf_counter()
    answers = asyncio.run(all_of())
    return time.perf_counter() - begin, answers


def text(found: dict[str, Any]) -> str:
    """What is printed."""
    replicas, lines = found["replicas"], []
    for count, seconds in found["seconds"].items():
        tokens = found["response_tokens"] / statistics.median(seconds)
        spread = f"{min(seconds):.2f} to {max(seconds):.2f}"
        median = statistics.median(seconds)
        who = counted(int(count), "replica")
        lines.append(f"{who}: {median:.2f} s ({spread}), {tokens:.0f} response tokens a second")
    busy = [found["last_round"][f"scorer/{number}/busy_seconds"] for number in range(replicas)]
    swaps = [found["last_round"][f"scorer/{number}/swaps"] for number in range(replicas)]
    lines += [
        f"{replicas} replicas against 1: {_middle(found['ratios'])} in wall seconds, "
        f"{_middle(found['cpu_ratios'])} in CPU seconds of the busiest",
        f"last round: busy {', '.join(f'{value:.2f} s' for value in busy)}; "
        f"swaps {', '.join(f'{value:.0f}' for value in swaps)}",
        f"scores differ by {found['scores_differ_by']:.1e} nats at most",
        f"weights {found['weights_bytes'] / MIB:.0f} MiB; private to each replica: "
        + ", ".join(f"{value / MIB:.0f} MiB" for value in found["private_bytes"]),
    ]
    return "\n".join(lines)


def _middle(values: Sequence[float]) -> str:
    return f"{statistics.median(values):.2f}x ({min(values):.2f} to {max(values):.2f})"


if __name__ == "__main__":
    main()
