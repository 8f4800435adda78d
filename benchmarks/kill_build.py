"""Kills a real build at random moments: `python -m benchmarks.kill_build CONFIG [--kills 10] [--seed 0]`.

Builds the config's experts several times undisturbed, each in a registry of its own, and once in another
registry with `kill -9` of the command at random moments. Then every expert must be there once, verified, with
nothing left of the builds, and its weights be those of an undisturbed build. Sampling on several processes is
not repeated to the last bit: where weights differ, held-out accuracy must lie where a further undisturbed
build's would, in the 95% prediction intervals of those that were made. Exits with 1 where anything of this
does not hold.
"""

from __future__ import annotations

import argparse
import math
import os
import random
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from configs.blocks.benchmarks import Benchmark
from configs.load import load_config
from configs.schema import MergeConfig
from teachers.registry.local import Registry
from teachers.registry.records import ExpertRecord

SETTLE_SECONDS = 5.0
"""After a kill: the reaper ends the processes that were left."""


@dataclass(frozen=True)
class Build:
    """`protege experts build CONFIG` in a registry of its own."""

    config: Path
    overrides: tuple[str, ...]
    home: Path

    @property
    def registry(self) -> Registry:
        return Registry(self.home)

    def start(self) -> subprocess.Popen:
        """The command in a session of its own; its output goes to `log.txt`."""
        self.home.mkdir(parents=True, exist_ok=True)
        command = [str(Path(sys.executable).with_name("protege")), "experts", "build", str(self.config)]
        for override in self.overrides:
            command += ["--set", override]
        environment = {**os.environ, "PROTEGE_HOME": str(self.home), "TERM": "dumb"}
        with (self.home / "log.txt").open("a") as log:
            return subprocess.Popen(
                [*command, "--registry", str(self.home)],
                env=environment,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def to_end(self) -> float:
        """Runs to the end; seconds that it took. Exits where it fails."""
        began = time.monotonic()
        code = self.start().wait()
        if code != 0:
            sys.exit(f"the build in {self.home} ended with {code}; see {self.home / 'log.txt'}")
        return time.monotonic() - began

    def killed(self, seconds: float) -> bool:
        """Kills the command after this time; False where it had ended by then."""
        process = self.start()
        try:
            code = process.wait(seconds)
            if code != 0:
                sys.exit(f"the build in {self.home} ended with {code}; see {self.home / 'log.txt'}")
            return False
        except subprocess.TimeoutExpired:
            os.kill(process.pid, signal.SIGKILL)
            process.wait()
            time.sleep(SETTLE_SECONDS)
            return True


def main() -> None:
    """Builds, kills, compares, and prints one line a finding."""
    options = read_options()
    builds = [
        Build(options.config, tuple(options.set), options.out / f"undisturbed-{number}")
        for number in range(1, options.undisturbed + 1)
    ]
    disturbed = Build(options.config, tuple(options.set), options.out / "killed")
    times = [build.to_end() for build in builds]
    print(f"undisturbed: {', '.join(f'{t:.0f} s' for t in times)}, experts {_ids(builds[0])}", flush=True)
    kills = _kill(disturbed, options.kills, options.longest or 0.6 * min(times), random.Random(options.seed))
    last = disturbed.to_end()
    print(f"killed {kills} times, then {last:.0f} s to the end, experts {_ids(disturbed)}", flush=True)
    problems = [*_problems(builds, disturbed), *_compare(options, builds, disturbed)]
    if kills < options.kills:
        problems.append(
            f"only {kills} of {options.kills} kills: the build ended before; give a shorter --longest"
        )
    for problem in problems:
        print(f"FAILED: {problem}")
    print("passed" if not problems else f"{len(problems)} problems")
    sys.exit(1 if problems else 0)


def read_options() -> argparse.Namespace:
    """The command line; ends the program on one that makes no sense."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.kill_build", description=__doc__)
    parser.add_argument("config", type=Path)
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--undisturbed", type=int, default=4, help="builds to compare with, 3 or more")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--longest", type=float, help="seconds before a kill at most [0.6 of the build]")
    parser.add_argument(
        "--out", type=Path, default=Path("runs/kill_build"), help="new folder of both registries"
    )
    options = parser.parse_args()
    options.config, options.out = options.config.absolute(), options.out.absolute()
    if options.undisturbed < 3:
        parser.error("--undisturbed: fewer than 3 builds tell nothing of how much builds differ")
    if options.out.exists():
        parser.error(f"{options.out} exists already")
    return options


def _kill(build: Build, kills: int, longest: float, chance: random.Random) -> int:
    done = 0
    while done < kills:
        seconds = chance.uniform(0, longest)
        if not build.killed(seconds):
            break
        done += 1
        for record in build.registry.list():  # whatever is visible is whole
            build.registry.verify(record.id)
        stopped = ", ".join(f"{id} at step {_step(build, id)}" for id in build.registry.stopped())
        print(
            f"kill {done}: after {seconds:.1f} s; experts {_ids(build)}; stopped builds: {stopped or 'none'}",
            flush=True,
        )
    return done


def _step(build: Build, id: str) -> int:
    from trainer.run import last_checkpoint

    return last_checkpoint(build.home / "building" / id / "checkpoints")


def _ids(build: Build) -> str:
    return ", ".join(record.id for record in build.registry.list()) or "none"


def _problems(builds: Sequence[Build], disturbed: Build) -> list[str]:
    expected = {record.id for record in builds[0].registry.list()}
    problems = []
    for build in (*builds, disturbed):
        found = {record.id for record in build.registry.list()}
        if found != expected:
            problems.append(f"{build.home}: the experts are {found}, expected {expected}")
        for record in build.registry.list():
            build.registry.verify(record.id)
            print(f"{record.id} in {build.home.name}: verified, resumed {record.resumed} times")
        left = [*build.registry.stopped(), *(path.name for path in (build.home / "experts").glob(".*"))]
        if left:
            problems.append(f"{build.home}: left behind {', '.join(left)}")
    return problems


def _compare(options: argparse.Namespace, builds: Sequence[Build], disturbed: Build) -> list[str]:
    """Weights by digest; where they differ from every undisturbed build's, held-out accuracy."""
    problems = []
    for record in disturbed.registry.list():
        others = [build.registry.find(record.id) for build in builds]
        same = [other for other in others if other and other.weights_sha256 == record.weights_sha256]
        if same:
            print(f"{record.id}: weights of an undisturbed build, {record.weights_sha256[:12]}")
            continue
        different = len({other.weights_sha256 for other in others if other})
        print(f"{record.id}: weights of no undisturbed build; those have {different} different ones")
        problems += _compare_answers(options, record, [other for other in others if other])
    return problems


def _compare_answers(
    options: argparse.Namespace, record: ExpertRecord, others: Sequence[ExpertRecord]
) -> list[str]:
    config = load_config(options.config, options.set).config
    benchmarks = config.domains[record.domain].benchmarks
    if not benchmarks:
        return [f"{record.id}: domain {record.domain} has no benchmarks to compare other weights on"]
    accuracies = _accuracies(options, config, [record, *others], benchmarks)
    problems = []
    confidence = 1 - 0.05 / len(accuracies[0])  # Bonferroni's: one of several is outside more often
    for key in accuracies[0]:
        own, *undisturbed = (found[key] for found in accuracies)
        low, high = prediction_interval(undisturbed, confidence)
        said = (
            f"{record.id}: {key}: killed {own:.1%}, undisturbed {', '.join(f'{a:.1%}' for a in undisturbed)} "
            f"(a further one, {confidence:.1%}: {low:.1%} to {high:.1%})"
        )
        print(said)
        if not low <= own <= high:
            problems.append(said)
    return problems


def prediction_interval(values: Sequence[float], confidence: float = 0.95) -> tuple[float, float]:
    """Where a further value of the same normal distribution lies: mean +- t * s * sqrt(1 + 1/n)."""
    from scipy.stats import t

    n, center = len(values), statistics.mean(values)
    half = t.ppf((1 + confidence) / 2, n - 1) * statistics.stdev(values) * math.sqrt(1 + 1 / n)
    return float(center - half), float(center + half)


def _accuracies(
    options: argparse.Namespace,
    config: MergeConfig,
    records: Sequence[ExpertRecord],
    benchmarks: Sequence[Benchmark],
) -> list[dict[str, float]]:
    """Mean accuracy of each record's model by benchmark and mode."""
    from eval.suite import ModelUnderTest, evaluate
    from teachers.evaluation import scores
    from teachers.models.adapters import is_adapter
    from teachers.registry.merged import merged_model

    domain = records[0].domain
    paths = [record.model_path for record in records]
    merged = Registry(options.out / "merged")
    paths = [str(merged_model(config.student, p, merged)) if is_adapter(p) else p for p in paths]
    names = ["killed", *(f"undisturbed-{number}" for number in range(1, len(records)))]
    samples = evaluate(
        [ModelUnderTest(n, p, "teacher", domain) for n, p in zip(names, paths, strict=True)],
        [(domain, benchmark) for benchmark in benchmarks],
        config.evaluation,
        config.evaluation_tokens(),
        config.hardware,
        options.out / "samples" / records[0].id,
        lambda *progress: None,
        modes=config.prompt_modes(),
    )
    found = []
    for name in names:
        own = {b.name: samples[name, b.name] for b in benchmarks}
        scored = scores(own, own, config.evaluation.seed)
        found.append({key: values["accuracy"] for key, values in scored.items()})
    return found


if __name__ == "__main__":
    main()
