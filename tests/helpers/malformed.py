"""A corpus of malformed inputs, made by kinds of damage to every file that the product reads.

Each case damages one file of a setting in which every command succeeds, and names the command that reads it.
"""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from merging.cli.main import app
from tests.helpers.damage import FILES, YAML_TEXTS, Damage, value_cases
from tests.helpers.damaged_setting import Setting

LIMIT_S = 30  # ten times what the slowest takes on a busy machine


@dataclass(frozen=True)
class Case:
    """One damaged file and the command that reads it."""

    target: str
    """The kind of file."""
    damage: str
    file: Path
    """Within the setting's folder."""
    apply: Damage
    command: tuple[str, ...]


@dataclass(frozen=True)
class Outcome:
    """What became of a case: `refused`, `accepted`, or what must not be."""

    kind: str
    said: str
    seconds: float

    @property
    def held(self) -> bool:
        return self.kind in ("refused", "accepted")


# ------------------------------------------------------------------------------------------- corpus

CHECK = ("check", "config.yaml", "--run-dir", "new")
COMPARE = ("report", "--compare", "one", "two", "--out", "out")

SAME = ("--set", "evaluation.samples_per_problem=1")
"""What the config of `run` says besides `config.yaml`."""

MODEL_FILES = ("config.json", "tokenizer.json", "tokenizer_config.json", "generation_config.json")


def targets(setting: Setting) -> dict[str, tuple[str, tuple[tuple[str, ...], ...]]]:
    """By kind of file: one of it, and the commands that read it."""
    ids = sorted(path.name for path in (setting.folder / "home" / "experts").iterdir())
    record = f"home/experts/{ids[0]}"
    plan, route = ("plan", *CHECK[1:], "--json"), ("route", *CHECK[1:])
    listed = ("experts", "list", "--registry", "home")
    shown = ("experts", "show", ids[0], "--registry", "home")
    verified = ("experts", "verify", "--all", "--registry", "home")
    imported = ("experts", "import", "code_expert", "--domain", "code", "--config", "config.yaml",
                "--no-evaluation", "--registry", "new_home")  # fmt: skip
    reported, resumed = ("report", "run"), ("plan", "config.yaml", "--run-dir", "run", *SAME, "--json")
    found = {
        "config": ("config.yaml", (CHECK, plan, route)),
        "prompts .jsonl": ("math.jsonl", (CHECK, route)),
        "benchmark": ("sums.jsonl", (CHECK,)),
        "record": (f"{record}/record.json", (listed, shown, verified, plan)),
        "learning curve": (f"{record}/learning_curve.jsonl", (plan, verified)),
        "an expert's config": (f"{record}/model/config.json", (verified,)),
        "an expert's weights": (f"{record}/model/model.safetensors", (verified,)),
        "weights": ("student/model.safetensors", (CHECK,)),
        "imported weights": ("code_expert/model.safetensors", (imported,)),
        "imported config": ("code_expert/config.json", (imported,)),
        "adapter config": ("adapter/adapter_config.json", (("check", "adapter.yaml"),)),
        "adapter weights": ("adapter/adapter_model.safetensors", (("check", "adapter.yaml"),)),
        "report": ("one/report.json", (COMPARE,)),
        "manifest": ("one/manifest.json", (COMPARE,)),
        "resolved config": ("one/config.resolved.yaml", (COMPARE,)),
        "a run's config": ("run/config.resolved.yaml", (reported, resumed)),
        "a run's lock": ("run/.lock", (reported, resumed)),
        "a run's config as written": ("run/config.yaml", (reported,)),
        "teachers": ("run/teachers.json", (reported,)),
        "counts": ("run/prompts/counts.json", (reported, resumed)),
        "metrics": ("run/metrics.jsonl", (reported,)),
        "alarms": ("run/train/alarms.jsonl", (reported,)),
        "measured": ("run/measured.json", (reported,)),
        "ceilings": ("run/harness.json", (reported,)),
        "a run's samples": ("run/samples/student/sums.jsonl", (reported,)),
        "a run's key of samples": ("run/samples/base/sums.key.json", (reported,)),
        "a baseline's model": ("run/baselines/average/config.json", (reported,)),
        "a run's student": ("run/student/model.safetensors", (reported,)),
        "samples": ("one/samples/student/sums.jsonl", (COMPARE,)),
        "key of samples": ("one/samples/student/sums.key.json", (COMPARE,)),
    }  # fmt: skip
    for end in ("json", "csv", "jsonl.gz", "parquet"):
        found[f"prompts .{end}"] = (f"rows.{end}", (("check", f"{end}.yaml", "--run-dir", "new"),))
    for name in MODEL_FILES:
        found[f"model's {name}"] = (f"student/{name}", (CHECK,))
    return found


VALUED = (".json", ".jsonl", ".yaml")


def corpus(setting: Setting, seed: int, values: int, damages: int | None = None) -> Iterator[Case]:
    """For each kind of file: kinds of damage to the whole, then to so many of its values.

    `damages` is how many of the former are drawn; None takes all.
    """
    rng = random.Random(seed)
    for target, (name, commands) in targets(setting).items():
        path = setting.folder / name
        whole = list(FILES.items())
        whole = whole if damages is None else rng.sample(whole, damages)
        cases = whole
        if path.suffix in VALUED and path.exists():
            cases = [*whole, *value_cases(path, rng, values)]
        for number, (damage, apply) in enumerate(cases):
            yield Case(target, damage, Path(name), apply, commands[number % len(commands)])
    for damage, text in YAML_TEXTS.items():
        yield Case("YAML", damage, Path("config.yaml"), _as_text(text), CHECK)
        yield Case("YAML", f"{damage}, at the end", Path("config.yaml"), _appended(text), CHECK)


def _as_text(text: str) -> Damage:
    return lambda path: path.write_text(text) and None


def _appended(text: str) -> Damage:
    return lambda path: path.write_text(path.read_text() + text) and None


def outcome(setting: Setting, case: Case) -> Outcome:
    """Runs the command on the damaged file, and mends the file again."""
    path = setting.folder / case.file
    kept = path.with_name(f"{path.name}.kept")
    shutil.copy2(path, kept)
    try:
        case.apply(path)
        before = snapshot(setting.folder)
        kind, said, seconds = run_command(case.command, setting)
        if kind == "refused" and snapshot(setting.folder) != before:
            changed = {name for name, _ in snapshot(setting.folder).items() ^ before.items()}
            kind, said = "modified", f"{sorted(changed)}"
        return Outcome(kind, said, seconds)
    finally:
        if path.is_dir() and not path.is_symlink():
            path.rmdir()
        os.replace(kept, path)
        for made in ("new", "new_home", "out"):
            shutil.rmtree(setting.folder / made, ignore_errors=True)


class _TooLate(BaseException):
    """No handler of errors takes it for one of the command's own."""


def run_command(command: tuple[str, ...], setting: Setting) -> tuple[str, str, float]:
    """What became of a command in the setting's folder, what it said, and its seconds."""
    from typer.testing import CliRunner

    def late(*_: object) -> None:
        raise _TooLate(f"longer than {LIMIT_S} s")

    began, before = time.monotonic(), signal.signal(signal.SIGALRM, late)
    signal.alarm(LIMIT_S)
    try:
        with contextlib.chdir(setting.folder):
            result = CliRunner().invoke(app, list(command))
    except _TooLate as error:
        return "hang", str(error), LIMIT_S
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)
    seconds = time.monotonic() - began
    error = result.exception
    if error is not None and not isinstance(error, SystemExit):
        return "traceback", f"{type(error).__name__}: {error}", seconds
    if result.exit_code == 0:
        return "accepted", "", seconds
    told = [line for line in result.stderr.splitlines() if line.strip()]
    if result.exit_code != 2 or not told or not told[0].startswith("error: "):
        return "no message", f"exit {result.exit_code}: {result.stderr[-500:]}", seconds
    return "refused", result.stderr, seconds


LOCKS = (".lock",)
"""Ends of files that say who works in a folder; they stay when nobody does."""


def snapshot(folder: Path) -> dict[str, tuple[Any, ...]]:
    """Every file below, with what changes when it is written."""
    found = {}
    for path in folder.rglob("*"):
        if not path.name.endswith(LOCKS):
            status = path.lstat()
            is_folder = path.is_dir() and not path.is_symlink()
            found[str(path)] = (status.st_mode, 0 if is_folder else (status.st_size, status.st_mtime_ns))
    return found
