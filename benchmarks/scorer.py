"""Memory and speed of the shared scorer against the number of teachers: `python -m benchmarks.scorer`.

The baseline is every rollout scored by every teacher, by the same scorer, in turns with the routed way, on
the same rollouts. Each row is a process of its own, so that its memory is its own; it computes with one
thread. Speed is counted in CPU seconds, which other work on the machine disturbs less than wall seconds; on
an idle machine the two are nearly equal. `--kind lora` adds teachers that are LoRA adapters.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.scorer_models import SIZES, make_models
from teachers.provenance import machine

if TYPE_CHECKING:
    from teachers.scoring.scorer import Scored, SharedScorer

MEASURED = ("demo", "larger")
TEACHERS = (2, 4, 8)
PROMPT_TOKENS = 24
RESPONSE_TOKENS = (16, 64)
"""Shortest and longest response."""
TOKENS_PER_BATCH = 4096
MIB = 2**20
HEAD = (
    f"{'size':8}{'kind':6}{'teachers':>9}{'weights':>12}{'peak RSS':>12}{'passes a':>10}{'tokens a':>10}"
    f"{'against':>12}{'against every':>16}\n"
    f"{'':8}{'':6}{'':>9}{'MiB':>12}{'increase MiB':>13}{'rollout':>9}{'CPU s':>10}"
    f"{'2 teachers':>12}{'teacher scoring':>16}"
)


@dataclass(frozen=True)
class Work:
    """What one process measures."""

    models: str
    """Folder that `make_models` filled."""
    size: str
    kind: str
    teachers: int
    rollouts: int
    rounds: int


@dataclass(frozen=True)
class Measurement:
    """What it found. Times are the best of the rounds, in seconds for all rollouts."""

    weights_bytes: int
    """Bytes of all weights that the scorer holds, each storage counted once."""
    peak_rss_increase_bytes: int
    """Of the process, from before the models were loaded to the end of the first routed round."""
    passes_per_rollout: float
    baseline_passes_per_rollout: float
    rollout_tokens: int
    """Response tokens; each counts once, however many models read it."""
    cpu_seconds: float
    baseline_cpu_seconds: float
    wall_seconds: float
    baseline_wall_seconds: float


def main(arguments: Sequence[str] | None = None) -> None:
    """Measures and prints the table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.scorer", description=main.__doc__)
    parser.add_argument("--quick", action="store_true", help="32 rollouts and 3 rounds, not 128 and 7")
    parser.add_argument("--kind", choices=("full", "lora"), default="full", help="lora: adapters too")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the figures here")
    parser.add_argument("--measure", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.measure:
        print(json.dumps(asdict(measure(Work(**json.loads(options.measure))))))
        return
    rollouts, rounds = (32, 3) if options.quick else (128, 7)
    kinds = ("full", "lora") if options.kind == "lora" else ("full",)
    print(machine())
    print(
        f"{rollouts} rollouts, routed evenly; best of {rounds} rounds; load {os.getloadavg()[0]:.1f} at start"
    )
    print(HEAD)
    rows = []
    for size in MEASURED:
        for kind in kinds:
            rows += _measure_kind(size, kind, rollouts, rounds)
    if options.json:
        load = os.getloadavg()[0]
        options.json.write_text(
            json.dumps({"machine": machine(), "load_at_end": load, "rows": rows}, indent=1)
        )


def _measure_kind(size: str, kind: str, rollouts: int, rounds: int) -> list[dict]:
    """The rows of all numbers of teachers, each printed as it is found."""
    rows, two_teachers = [], None
    with tempfile.TemporaryDirectory() as folder:
        make_models(Path(folder), kind, size, max(TEACHERS))
        for teachers in TEACHERS:
            work = Work(folder, size, kind, teachers, rollouts, rounds)
            found = _in_own_process(work)
            two_teachers = two_teachers or found
            rows.append(asdict(work) | asdict(found) | ratios(found, two_teachers))
            print(line(rows[-1]), flush=True)
    return rows


def ratios(found: Measurement, two_teachers: Measurement) -> dict[str, float]:
    """Tokens a CPU second, and how many times as many as with two teachers and as the baseline."""
    return {
        "tokens_per_cpu_second": found.rollout_tokens / found.cpu_seconds,
        "speed_against_two_teachers": two_teachers.cpu_seconds / found.cpu_seconds,
        "speed_against_every_teacher": found.baseline_cpu_seconds / found.cpu_seconds,
    }


def line(row: dict) -> str:
    """One row of the table."""
    return (
        f"{row['size']:8}{row['kind']:6}{row['teachers']:9}{row['weights_bytes'] / MIB:12.1f}"
        f"{row['peak_rss_increase_bytes'] / MIB:12.1f}{row['passes_per_rollout']:10.1f}"
        f"{row['tokens_per_cpu_second']:10.0f}{row['speed_against_two_teachers']:11.2f}x"
        f"{row['speed_against_every_teacher']:15.2f}x"
    )


def _in_own_process(work: Work) -> Measurement:
    ended = subprocess.run(
        [sys.executable, "-m", "benchmarks.scorer", "--measure", json.dumps(asdict(work))],
        cwd=Path(__file__).resolve().parents[1],
        env=os.environ | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
    )
    if ended.returncode:
        sys.exit(f"{work} failed:\n{ended.stderr[-2000:]}")
    return Measurement(**json.loads(ended.stdout.splitlines()[-1]))


def measure(work: Work) -> Measurement:
    """Both ways of scoring, in turns, in this process."""
    from teachers.scoring.scorer import SharedScorer

    names = ("reference", *(f"teacher_{number}" for number in range(work.teachers)))
    models = {name: str(Path(work.models) / name) for name in names}
    rollouts = make_rollouts(work.rollouts, SIZES[work.size]["vocab_size"])
    _import_everything(models["reference"])
    before = _start_of_peak()
    scorer = SharedScorer(models, "cpu", "float32", TOKENS_PER_BATCH, base=models["reference"])
    routed = _timed(scorer, rollouts, score_routed)
    increase = _status_bytes("VmHWM") - before
    every = _timed(scorer, rollouts, score_by_every_teacher)
    for _ in range(work.rounds - 1):
        routed = routed.best(_timed(scorer, rollouts, score_routed))
        every = every.best(_timed(scorer, rollouts, score_by_every_teacher))
    return Measurement(
        weights_bytes=held_bytes(scorer),
        peak_rss_increase_bytes=increase,
        passes_per_rollout=routed.passes / len(rollouts),
        baseline_passes_per_rollout=every.passes / len(rollouts),
        rollout_tokens=sum(rollout.response_tokens for rollout in rollouts),
        cpu_seconds=routed.cpu,
        baseline_cpu_seconds=every.cpu,
        wall_seconds=routed.wall,
        baseline_wall_seconds=every.wall,
    )


@dataclass(frozen=True)
class _Round:
    cpu: float
    wall: float
    passes: int

    def best(self, other: _Round) -> _Round:
        return _Round(min(self.cpu, other.cpu), min(self.wall, other.wall), self.passes)


def _timed(scorer: SharedScorer, rollouts: list[Scored], way: Callable) -> _Round:
    passes, cpu, wall = scorer.passes.total(), time.process_time(), time.perf_counter()
    way(scorer, rollouts)
    return _Round(time.process_time() - cpu, time.perf_counter() - wall, scorer.passes.total() - passes)


def score_routed(scorer: SharedScorer, rollouts: list[Scored]) -> None:
    """Each rollout by its teacher, in turn, and by the reference."""
    teachers = [name for name in scorer.seat_of if name != "reference"]
    for number, teacher in enumerate(teachers):
        scorer.score(teacher, rollouts[number :: len(teachers)])
    scorer.score("reference", rollouts)


def score_by_every_teacher(scorer: SharedScorer, rollouts: list[Scored]) -> None:
    """The baseline: each rollout by all teachers, and by the reference."""
    for name in reversed(scorer.seat_of):  # the reference last, as above
        scorer.score(name, rollouts)


def make_rollouts(count: int, vocabulary: int, seed: int = 0) -> list[Scored]:
    """Random token ids; responses differ in length."""
    from teachers.scoring.scorer import Scored

    rng = random.Random(seed)
    lengths = [rng.randint(*RESPONSE_TOKENS) for _ in range(count)]
    return [Scored(tuple(rng.choices(range(vocabulary), k=PROMPT_TOKENS + n)), n) for n in lengths]


def held_bytes(scorer: SharedScorer) -> int:
    """Bytes of the weights of all models and modules; a storage that several share counts once."""
    tensors = [tensor for weights in scorer.weights.values() for tensor in weights.values()]
    tensors += [tensor for seat in scorer.seats for tensor in seat.module.state_dict().values()]
    storages = {tensor.untyped_storage().data_ptr(): tensor.untyped_storage() for tensor in tensors}
    return sum(storage.nbytes() for storage in storages.values())


def _import_everything(model: str) -> None:
    """What the first load and pass import is not the models' memory; the weights loaded here are freed."""
    from teachers.scoring.scorer import Scored, SharedScorer

    SharedScorer({"reference": model}, "cpu", "float32", TOKENS_PER_BATCH).score(
        "reference", [Scored((1, 2, 3), 1)]
    )


def _start_of_peak() -> int:
    """Lets the kernel's peak begin anew, where it can; returns the bytes that are resident now."""
    import gc

    gc.collect()
    try:
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    except OSError as error:
        print(f"the peak memory holds the imports too: {error}", file=sys.stderr)
    return _status_bytes("VmRSS")


def _status_bytes(field: str) -> int:
    """A line of /proc/self/status. Not getrusage: its peak outlives exec, and so is the parent's at first."""
    for text in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
        if text.startswith(field + ":"):
            return int(text.split()[1]) * 1024
    raise OSError(f"/proc/self/status has no {field}")


if __name__ == "__main__":
    main()
