"""Kills a real build at random moments: `python -m benchmarks.kill_build CONFIG [--kills 10] [--seed 0]`.

Builds the config's experts once undisturbed, in a registry of their own, and once in another registry with
`kill -9` of the command at random moments. Then every expert must be there once, verified, with nothing left
of the builds, and its weights be those of the undisturbed build; sampling on several processes is not always
repeated to the last bit, so where they are not, the two are compared on their domain's benchmarks, paired by
problem. Exits with 1 where anything of this does not hold.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from configs.load import load_config
from teachers.records import ExpertRecord
from teachers.registry import Registry

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
    options = _options()
    undisturbed = Build(options.config, tuple(options.set), options.out / "undisturbed")
    disturbed = Build(options.config, tuple(options.set), options.out / "killed")
    seconds = undisturbed.to_end()
    print(f"undisturbed: {seconds:.0f} s, experts {_ids(undisturbed)}")
    kills = _kill(disturbed, options.kills, options.longest or 0.6 * seconds, random.Random(options.seed))
    last = disturbed.to_end()
    print(f"killed {kills} times, then {last:.0f} s to the end, experts {_ids(disturbed)}")
    problems = [*_problems(undisturbed, disturbed), *_compare(options, undisturbed, disturbed)]
    if kills < options.kills:
        problems.append(
            f"only {kills} of {options.kills} kills: the build ended before; give a shorter --longest"
        )
    for problem in problems:
        print(f"FAILED: {problem}")
    print("passed" if not problems else f"{len(problems)} problems")
    sys.exit(1 if problems else 0)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.kill_build", description=__doc__)
    parser.add_argument("config", type=Path)
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--longest", type=float, help="seconds before a kill at most [0.6 of the build]")
    parser.add_argument(
        "--out", type=Path, default=Path("runs/kill_build"), help="new folder of both registries"
    )
    options = parser.parse_args()
    options.config, options.out = options.config.absolute(), options.out.absolute()
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
            f"kill {done}: after {seconds:.1f} s; experts {_ids(build)}; stopped builds: {stopped or 'none'}"
        )
    return done


def _step(build: Build, id: str) -> int:
    from trainer.run import last_checkpoint

    return last_checkpoint(build.home / "building" / id / "checkpoints")


def _ids(build: Build) -> str:
    return ", ".join(record.id for record in build.registry.list()) or "none"


def _problems(undisturbed: Build, disturbed: Build) -> list[str]:
    ids = [{record.id for record in build.registry.list()} for build in (undisturbed, disturbed)]
    problems = [] if ids[0] == ids[1] else [f"the experts are {ids[1]}, undisturbed they are {ids[0]}"]
    for build in (undisturbed, disturbed):
        for record in build.registry.list():
            build.registry.verify(record.id)
            print(f"{record.id} in {build.home.name}: verified, resumed {record.resumed} times")
        left = [*build.registry.stopped(), *(path.name for path in (build.home / "experts").glob(".*"))]
        if left:
            problems.append(f"{build.home}: left behind {', '.join(left)}")
    return problems


def _compare(options: argparse.Namespace, undisturbed: Build, disturbed: Build) -> list[str]:
    """Weights by digest; where they differ, what both answer on the domain's benchmarks."""
    problems = []
    for record in undisturbed.registry.list():
        other = disturbed.registry.find(record.id)
        if other is None:
            continue
        if other.weights_sha256 == record.weights_sha256:
            print(f"{record.id}: the same weights, {record.weights_sha256[:12]}")
            continue
        print(f"{record.id}: other weights, {record.weights_sha256[:12]} and {other.weights_sha256[:12]}")
        problems += _compare_answers(options, record, other)
    return problems


def _compare_answers(options: argparse.Namespace, record: ExpertRecord, other: ExpertRecord) -> list[str]:
    from eval.suite import ModelUnderTest, evaluate
    from teachers.adapters import is_adapter, merged_model
    from teachers.evaluation import scores, worse

    config = load_config(options.config, options.set).config
    benchmarks = config.domains[record.domain].benchmarks
    if not benchmarks:
        return [f"{record.id}: domain {record.domain} has no benchmarks to compare other weights on"]
    paths = [r.model_path for r in (other, record)]
    paths = [
        str(merged_model(config.student, path, Registry(options.out / "merged")))
        if is_adapter(path)
        else path
        for path in paths
    ]
    models = [ModelUnderTest(n, p, "teacher", record.domain) for n, p in zip(NAMES, paths, strict=True)]
    samples = evaluate(
        models,
        [(record.domain, benchmark) for benchmark in benchmarks],
        config.evaluation,
        config.evaluation_tokens(),
        config.hardware,
        options.out / "samples" / record.id,
        lambda *progress: None,
        chat_template=config.chat_template,
    )
    killed, undisturbed = ({b.name: samples[name, b.name] for b in benchmarks} for name in NAMES)
    found = scores(killed, undisturbed, config.evaluation.seed)
    print(json.dumps({record.id: found}, indent=2))
    return [f"{record.id}: below the undisturbed build: {words}" for words in worse(found)]


NAMES = ("killed", "undisturbed")


if __name__ == "__main__":
    main()
