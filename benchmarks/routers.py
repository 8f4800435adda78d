"""`check`, `route` and the learned router on many prompts: `python -m benchmarks.routers [--quick]`.

Each command is a process of its own, whose peak memory is its own. The baselines: of a command, itself on the
smaller number of prompts, by prompt (1 is linear); of the learned router, scikit-learn's same classifier,
fitted and asked in one piece.
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
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import yaml

from benchmarks.step.models import STUDENT
from teachers.provenance import machine

ROOT = Path(__file__).resolve().parents[1]
LABELLED = 2000
"""Prompts of each domain with a label."""
WORDS = {
    "math": ("sum", "product", "total", "apples", "pears", "cost", "price", "each", "metres", "hour", "half"),
    "code": ("list", "string", "reverse", "sort", "index", "append", "return", "largest", "keys", "loop"),
}
TOKENS = 72
"""Of a prompt at most; the demo's tokenizer makes one of each character."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.routers", description=main.__doc__)
    parser.add_argument("--prompts", nargs="+", type=int, default=[20_000, 100_000])
    parser.add_argument("--quick", action="store_true", help="2,000 and 10,000 prompts")
    parser.add_argument("--plain", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.plain:
        plain_classifier(options.plain)
        return
    counts = [2_000, 10_000] if options.quick else sorted(options.prompts)
    print(f"{machine()}; load {os.getloadavg()[0]:.1f} at start; {LABELLED} labelled prompts a domain")
    smallest: dict[str, Took] = {}
    for count in counts:
        with tempfile.TemporaryDirectory() as folder:
            config = write_config(Path(folder), count)
            for name, command in commands(config).items():
                took = run(command)
                first = smallest.setdefault(name, took)
                by_prompt = took.cpu_seconds / count / (first.cpu_seconds / counts[0])
                print(
                    f"{name:24}{took.text(count)}, {by_prompt:.2f} times {counts[0]:,} by prompt", flush=True
                )


@dataclass(frozen=True)
class Took:
    """What a process took."""

    seconds: float
    cpu_seconds: float
    peak_bytes: int

    def text(self, prompts: int) -> str:
        """One line."""
        return (
            f"{prompts:9,} prompts {self.seconds:8.1f} s {self.cpu_seconds:8.1f} processor s "
            f"{self.peak_bytes / 2**20:8.0f} MiB peak"
        )


def run(command: Sequence[str]) -> Took:
    """Runs a command to its end; raises where it fails."""
    began = time.perf_counter()
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    if code := os.waitstatus_to_exitcode(status):
        raise subprocess.CalledProcessError(code, command)
    return Took(time.perf_counter() - began, usage.ru_utime + usage.ru_stime, usage.ru_maxrss * 1024)


def commands(config: Path) -> dict[str, list[str]]:
    """What is measured, by name."""
    protege = [sys.executable, "-m", "merging.cli.main"]
    return {
        "check, labels": [*protege, "check", str(config.with_name("labels.yaml"))],
        "route, labels": [*protege, "route", str(config.with_name("labels.yaml"))],
        "route, learned": [*protege, "route", str(config)],
        "scikit-learn alone": [sys.executable, "-m", "benchmarks.routers", "--plain", str(config.parent)],
    }


def write_config(folder: Path, count: int, seed: int = 0) -> Path:
    """`learned.yaml`, with `count` prompts without a label, and `labels.yaml`, with as many labelled ones."""
    chance = random.Random(seed)
    models = _models(folder / "models")
    domains = {}
    for name in WORDS:
        _write(folder / f"{name}.jsonl", [name] * LABELLED, chance)
        _write(folder / f"{name}.all.jsonl", [name] * (count // 2), chance)
        domains[name] = {
            "expert": {"kind": "model", "path": models[name]},
            "prompts": {"kind": "file", "path": f"{name}.jsonl"},
            "reward": "exact",
        }
    _write(folder / "open.jsonl", chance.choices(list(WORDS), k=count), chance)
    config = {
        "name": "routers",
        "student": str(STUDENT),
        "domains": domains,
        "training": {
            "steps": 2,
            "prompts_per_step": 8,
            "max_prompt_tokens": TOKENS,
            "max_response_tokens": 16,
        },
        "hardware": {"device": "cpu"},
    }
    labelled = json.loads(json.dumps(config))
    for name, domain in labelled["domains"].items():
        domain["prompts"]["path"] = f"{name}.all.jsonl"
    config["prompts"] = {"kind": "file", "path": "open.jsonl", "columns": {"answer": None}}
    config["routing"] = {"kind": "learned", "otherwise": "drop"}
    (folder / "labels.yaml").write_text(yaml.safe_dump(labelled), encoding="utf-8")
    path = folder / "learned.yaml"
    path.write_text(yaml.safe_dump(config), encoding="utf-8")
    return path


def _models(folder: Path) -> dict[str, str]:
    """Made in another process: a process that is started has the peak memory of this one at first."""
    make = (
        "import json, pathlib, sys; from benchmarks.step.models import make_models; "
        "print(json.dumps(make_models(pathlib.Path(sys.argv[1]), 'demo')))"
    )
    made = subprocess.run(
        [sys.executable, "-c", make, str(folder)],
        cwd=ROOT,
        check=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    return json.loads(made.stdout.splitlines()[-1])


def _write(path: Path, domains: Sequence[str], chance: random.Random) -> None:
    rows = [json.dumps({"prompt": make_prompt(domain, chance), "answer": "1"}) for domain in domains]
    path.write_text("\n".join(rows) + "\n", encoding="utf-8")


def make_prompt(domain: str, chance: random.Random) -> str:
    """Words of the domain and numbers, which make prompts different."""
    words = [*chance.choices(WORDS[domain], k=7), str(chance.randrange(10**6))]
    chance.shuffle(words)
    return " ".join(words)[: TOKENS - 2]


def plain_classifier(folder: Path) -> None:
    """The learned router's features and classifier, fitted once and asked once."""
    from routing.routers.text_features import Tfidf

    def texts(name: str) -> list[str]:
        return [json.loads(row)["prompt"] for row in (folder / name).read_text().splitlines()]

    labelled = {name: texts(f"{name}.jsonl") for name in WORDS}
    features = Tfidf()
    model = features.classifier()
    model.fit(
        features.read([text for each in labelled.values() for text in each]),
        [name for name, each in labelled.items() for _ in each],
    )
    print(len(model.predict(features.read(texts("open.jsonl")))))


if __name__ == "__main__":
    main()
