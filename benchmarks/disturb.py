"""Disturbs a real merge at random moments: `python -m benchmarks.disturb CONFIG [--moments 20] [--seed 0]`.

Runs the config's merge again and again, and at a random moment of each stage in turn (an expert's build, the
merge, its polish, a baseline, evaluation, report) kills it (`kill -9`), asks it to end (SIGTERM, once and
twice), or fills its disk. Then the same command goes on. After each moment all must be as before: the process
table, /tmp and /dev/shm; no model that was whole may be lost or changed, no checkpoint be behind the one
before; the exit code and the last line must be those of the way it ended. Each run must end with a report.
Prints a table, and exits with 1 where anything of this does not hold.

To fill a disk it mounts a small one of its own, as root only; others leave this way out. Run it alone, or
where nothing else is: `unshare -mpf --mount-proc sh -c 'mount -t tmpfs tmpfs /tmp; mount -t tmpfs tmpfs
/dev/shm; exec python -m benchmarks.disturb CONFIG'`.
"""

from __future__ import annotations

import argparse
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import psutil
import yaml

from common.digests import file_sha256
from trainer.run import last_checkpoint

STAGES = {
    "expert": r"^expert \S+ \(GRPO\): starting",
    "merge": r"^merge \(.*starting",
    "polish": r"^polish \(GRPO\): starting",
    "baseline": r"^(opd|baseline \S+) ?(\(.*)?: starting",
    "evaluation": r"^evaluation: starting",
    "report": r"^evaluation: .*done",
}
"""In the order of a run: the line of its output that says that the stage has begun."""

SPREAD_SECONDS = {
    "expert": 45.0,
    "merge": 45.0,
    "polish": 45.0,
    "baseline": 45.0,
    "evaluation": 40.0,
    "report": 3.0,
}
"""The moment lies this much later at most."""

CODES = {"kill": -signal.SIGKILL, "term": 143, "term twice": 143, "full disk": 1}
"""Ways to disturb, and the exit code of the command."""

LAST_LINE = {
    "term": r"interrupted; the same command continues",
    "term twice": r"interrupted; the same command continues",
    "full disk": r"no space left on device: \S+ .* the same command continues",
}
"""What its last line must say."""

SETTLE_SECONDS = 20.0
"""In which the reapers end what a killed command has left."""
END_SECONDS = 240.0
DISK = "1g"


@dataclass
class Run:
    """One merge, in a folder of its own with a registry of its own."""

    config: Path
    overrides: tuple[str, ...]
    home: Path
    models: dict[str, str] = field(default_factory=dict)
    """SHA-256 of every model that was whole, by its path."""
    steps: dict[str, int] = field(default_factory=dict)
    """Last checkpoint of each training."""

    @property
    def log(self) -> Path:
        return self.home / "log.txt"

    def start(self) -> subprocess.Popen[bytes]:
        """The command in a session of its own; its output goes to `log.txt`."""
        command = [sys.executable, "-m", "merging.cli.main", "merge", str(self.config)]
        command += ["--run-dir", str(self.home / "run")]
        command += [part for override in self.overrides for part in ("--set", override)]
        path = os.pathsep.join(filter(None, [str(Path.cwd()), os.environ.get("PYTHONPATH")]))
        environment = {**os.environ, "PROTEGE_HOME": str(self.home), "TERM": "dumb", "PYTHONPATH": path}
        with self.log.open("a") as log:
            return subprocess.Popen(
                command, env=environment, stdout=log, stderr=subprocess.STDOUT, start_new_session=True
            )

    def losses(self) -> list[str]:
        """What is not as it was at the last call, in words."""
        models = {
            str(file.relative_to(self.home)): file_sha256(file)
            for file in self.home.rglob("*.safetensors")
            if not any(part.startswith(".") for part in file.relative_to(self.home).parts)
        }
        steps = {
            str(folder.relative_to(self.home)): last_checkpoint(folder)
            for folder in self.home.rglob("checkpoints")
        }
        lost = [f"{name} is lost or changed" for name in self.models if models.get(name) != self.models[name]]
        # the work of an expert's build goes when the expert is whole
        lost += [f"{name} is behind" for name, step in self.steps.items() if steps.get(name, step) < step]
        self.models, self.steps = models, steps
        return lost


@dataclass(frozen=True)
class Outcome:
    """What came of one moment."""

    stage: str
    way: str
    after: float
    """Seconds after the stage began."""
    ended: float
    """Seconds that the command then took to end."""
    problems: tuple[str, ...]

    def row(self) -> str:
        """As a line of a table."""
        problems = "; ".join(self.problems) or "none"
        return f"| {self.stage} | {self.way} | {self.after:.1f} s | {self.ended:.1f} s | {problems} |"


def main() -> None:
    """Disturbs runs until there were enough moments, ends the last one, and prints a table."""
    options = read_options()
    chance, outcomes = random.Random(options.seed), list[Outcome]()
    with Disk(options.out) as disk:
        ways = [way for way in CODES if way != "full disk" or disk.mounted]
        run = new_run(options, disk, 1)
        print("| stage | way | after | ended | problems |\n|---|---|--:|--:|---|", flush=True)
        while len(outcomes) < options.moments:
            runs, place = divmod(len(outcomes), len(options.stage))
            stage = options.stage[place]
            if runs and not place:
                outcomes[-1:] = [with_end(outcomes[-1], run)]
                run = new_run(options, disk, runs + 1)
            # every way meets every stage in turn
            way = ways[(place + runs) % len(ways)]
            outcomes.append(disturb(run, stage, way, chance.uniform(0, SPREAD_SECONDS[stage]), disk))
            print(outcomes[-1].row(), flush=True)
        outcomes[-1:] = [with_end(outcomes[-1], run)]
    bad = [outcome for outcome in outcomes if outcome.problems]
    for outcome in bad:
        print(f"FAILED: {outcome.row()}")
    counts = Counter(outcome.way for outcome in outcomes)
    tried = ", ".join(f"{way} {count}" for way, count in counts.items())
    print(f"{len(outcomes)} moments ({tried}), {len(outcomes) - len(bad)} held")
    sys.exit(1 if bad else 0)


def read_options() -> argparse.Namespace:
    """The command line; ends the program on one that makes no sense."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.disturb", description=__doc__)
    parser.add_argument("config", type=Path)
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--moments", type=int, default=20)
    parser.add_argument("--stage", action="append", choices=list(STAGES), help="in which to disturb [all]")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("runs/disturb"), help="new folder of the runs")
    options = parser.parse_args()
    options.config, options.out = options.config.absolute(), options.out.absolute()
    options.stage = [stage for stage in STAGES if stage in (options.stage or stages_of(options.config))]
    if options.out.exists():
        parser.error(f"{options.out} exists already")
    return options


def stages_of(config: Path) -> list[str]:
    """All that this config's run has; what `--set` adds is named with `--stage`."""
    has_polish = bool(yaml.safe_load(config.read_text(encoding="utf-8")).get("polish"))
    return [stage for stage in STAGES if stage != "polish" or has_polish]


class Disk:
    """A small file system that can be full, where this user may mount one; else a plain folder."""

    def __init__(self, out: Path) -> None:
        self.folder = out / "disk"
        self.mounted = False

    def __enter__(self) -> Disk:
        self.folder.mkdir(parents=True)
        mount = ["mount", "-t", "tmpfs", "-o", f"size={DISK}", "tmpfs", str(self.folder)]
        self.mounted = subprocess.run(mount, capture_output=True).returncode == 0
        if not self.mounted:
            print("no disk can be mounted here: none will be full", flush=True)
        return self

    def __exit__(self, *_error: object) -> None:
        if self.mounted:
            shutil.copytree(self.folder, self.folder.with_name("kept"), symlinks=True, dirs_exist_ok=True)
            subprocess.run(["umount", str(self.folder)], check=False)

    def fill(self) -> None:
        """Takes all room that is left."""
        with suppress(OSError), (self.folder / "filler").open("ab", buffering=0) as file:
            for size in (1 << 20, 1 << 10, 1):
                with suppress(OSError):
                    while True:
                        file.write(b"x" * size)

    def empty(self) -> None:
        """Gives the room back."""
        (self.folder / "filler").unlink(missing_ok=True)


def new_run(options: argparse.Namespace, disk: Disk, number: int) -> Run:
    """The next run, with nothing built."""
    for old in disk.folder.iterdir():
        shutil.rmtree(old)
    home = disk.folder / f"run-{number}"
    home.mkdir()
    return Run(options.config, tuple(options.set), home)


def disturb(run: Run, stage: str, way: str, seconds: float, disk: Disk) -> Outcome:
    """Starts the command, disturbs it so long after the stage began, and looks at what is there then."""
    before, processes = files(), set(psutil.pids())
    said = run.log.stat().st_size if run.log.exists() else 0
    process = run.start()
    wait_for_stage(process, run, said, stage)
    with suppress(subprocess.TimeoutExpired):
        process.wait(seconds)
    if process.poll() is not None:  # it was quicker
        left = left_behind(before, processes)
        return Outcome(stage, "none: it had ended", seconds, 0.0, (*left, *run.losses()))
    began = time.monotonic()
    WAYS[way](process, disk)
    try:
        code = process.wait(END_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        code = process.wait()
    ended = time.monotonic() - began
    disk.empty()
    problems = [] if code == CODES[way] else [f"exit code {code}, expected {CODES[way]}"]
    text = run.log.read_text(errors="replace")[said:]
    last = next((line for line in reversed(text.splitlines()) if line.strip()), "")
    if way in LAST_LINE and not re.search(LAST_LINE[way], last):
        problems.append(f"the last line is {last!r}")
    if "Traceback" in text:
        problems.append("a traceback")
    return Outcome(stage, way, seconds, ended, (*problems, *left_behind(before, processes), *run.losses()))


def terminate_twice(process: subprocess.Popen[bytes], _disk: Disk) -> None:
    """As a batch system and a person do."""
    for _ in range(2):
        process.terminate()
        time.sleep(0.3)


WAYS: dict[str, Callable[[subprocess.Popen[bytes], Disk], None]] = {
    "kill": lambda process, disk: process.kill(),
    "term": lambda process, disk: process.terminate(),
    "term twice": terminate_twice,
    "full disk": lambda process, disk: disk.fill(),
}


def wait_for_stage(process: subprocess.Popen[bytes], run: Run, said: int, stage: str) -> None:
    """Until the output behind the first `said` bytes says that the stage, or a later one, has begun."""
    later = list(STAGES)[list(STAGES).index(stage) :]
    pattern = re.compile("|".join(STAGES[name] for name in later), re.MULTILINE)
    while process.poll() is None:
        if pattern.search(run.log.read_bytes()[said:].decode(errors="replace")):
            return
        time.sleep(0.1)


def with_end(last: Outcome, run: Run) -> Outcome:
    """The outcome with what is wrong with the run's end, once nothing disturbs it any more."""
    before, processes = files(), set(psutil.pids())
    code = run.start().wait()
    problems = [] if code == 0 else [f"then, undisturbed, it ended with {code}"]
    for name in ("report.html", "report.json", "manifest.json", "student/model.safetensors"):
        if not (run.home / "run" / name).is_file():
            problems.append(f"at the end there is no {name}")
    hidden = [path.name for path in run.home.rglob(".*.tmp")]
    print(
        f"{run.home.name}: to its end with {code}; hidden leftovers: {', '.join(hidden) or 'none'}",
        flush=True,
    )
    problems += [*left_behind(before, processes), *run.losses()]
    return Outcome(last.stage, last.way, last.after, last.ended, (*last.problems, *problems))


def files() -> set[str]:
    """What is in /tmp and /dev/shm, but for locks and compiled code, which stay."""
    found = [*Path("/tmp").iterdir(), *Path("/dev/shm").iterdir()]
    return {
        str(path) for path in found if path.suffix != ".lock" and not path.name.startswith("torchinductor_")
    }


def left_behind(before: set[str], processes: set[int]) -> list[str]:
    """What is there beside this once the time is over; empty as soon as there is nothing."""
    deadline = time.monotonic() + SETTLE_SECONDS
    while True:
        titles = {pid: title for pid in psutil.pids() if pid not in processes and (title := _title(pid))}
        left = [f"file {name}" for name in sorted(files() - before)]
        left += [f"process {pid} {title}" for pid, title in titles.items()]
        left += [f"file {name} is gone" for name in sorted(before - files())]
        if not left or time.monotonic() > deadline:
            return left
        time.sleep(0.2)


def _title(pid: int) -> str:
    with suppress(psutil.Error):
        process = psutil.Process(pid)
        if process.status() != psutil.STATUS_ZOMBIE:
            return " ".join(process.cmdline())[:80] or process.name()
    return ""


if __name__ == "__main__":
    main()
