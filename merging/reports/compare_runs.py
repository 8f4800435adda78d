"""`protege report --compare`: two finished runs, read from their folders as they are."""

from __future__ import annotations

import datetime
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

from pydantic import AfterValidator, BaseModel, FiniteFloat

from common.digests import file_sha256
from common.errors import ConfigError
from common.files import is_file_name
from common.progress import say
from common.reading import read_json
from common.words import printable
from eval.report.sections.trained_lambda import Phase
from merging.state.run_folder import RESOLVED, load_resolved

if TYPE_CHECKING:
    from eval.compared.data import BenchmarkRecord, RunRecord
    from eval.records import Sample

T = TypeVar("T")

FILES = ("report.json", "manifest.json", RESOLVED)
"""What a finished run has; the manifest is written last."""
CONTENT_DIGEST = re.compile(r"\bdigest ([0-9a-f]{12})\b")
"""In a benchmark's source, as `eval.benchmarks` writes it."""
ROUNDING = 1e-9


def compare_runs(first: Path, second: Path, out: Path | None) -> Path:
    """Writes `compare.{md,html,json}` into `out`, prints the findings, and returns the page.

    Nothing is evaluated again. Raises ConfigError for a run that is not finished, or whose answers are not
    those of its report.
    """
    from eval.compared.data import build
    from eval.compared.render import write_compared
    from eval.compared.wording import sentences

    if first.resolve() == second.resolve():
        raise ConfigError(f"{first}: compared with itself; name two runs")
    labels = run_labels(first, second)
    created = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    data = build(read_run(first, labels[0]), read_run(second, labels[1]), created)
    out = out or first / f"compare-{second.name}"
    try:
        files = write_compared(data, out)
    except OSError as error:
        raise ConfigError(f"{out}: cannot be written ({error.strerror}); choose another --out") from None
    for sentence in sentences(data):
        say(sentence)
    say(f"comparison: {files['html']}")
    return files["html"]


def run_labels(first: Path, second: Path) -> tuple[str, str]:
    """The ends of two different paths, as short as they differ."""
    ours, theirs = first.parts, second.parts
    for length in range(1, max(len(ours), len(theirs)) + 1):
        if ours[-length:] != theirs[-length:]:
            return "/".join(ours[-length:]), "/".join(theirs[-length:])
    raise AssertionError("the same path twice")


def read_run(path: Path, label: str) -> RunRecord:
    """What a finished run left behind. Raises ConfigError, with what to do, for any other folder."""
    from eval.compared.data import RunRecord
    from eval.report.sections.trained_lambda import from_json

    for name in FILES:
        if not (path / name).is_file():
            raise ConfigError(
                f"{path}: has no finished report (no {name}); `protege merge` with its config finishes it, "
                f"`protege eval {path}` evaluates a trained run and writes its report"
            )
    config = load_resolved(path).config
    report = _read(path, "report.json", dict[str, Any])
    _read(path, "report.json", _Report)
    _read(path, "manifest.json", dict[str, Any])
    try:
        roles = {name: model["role"] for name, model in report["models"].items()}
        samples, grading = _answers(path, report)
        return RunRecord(
            label=label,
            path=str(path),
            created=report["created"],
            config=json.loads(config.model_dump_json()),
            max_tokens=config.evaluation_tokens(),
            reward_scales=report["objective"]["reward_scale"],
            trained_lambda=from_json(report["objective"].get("trained", {})),  # absent before it was kept
            roles=roles,
            benchmarks=_benchmarks(report, grading),
            samples=samples,
            wall_seconds=report["wall_seconds"],
            peak_memory_bytes=report["peak_memory_bytes"],
            provenance=report["provenance"],
        )
    except (KeyError, TypeError, AttributeError):
        raise _not_as_reported(path, "report.json is not as this version writes it") from None


def _read(run: Path, name: str, shape: type[T]) -> T:
    try:
        return read_json(run / name, shape)
    except ConfigError as error:
        raise _not_as_reported(run, f"{name} is damaged ({error})") from None


class _Score(BaseModel):
    n: int
    unscored: int
    accuracy: FiniteFloat | None = None


class _Model(BaseModel):
    role: str
    benchmarks: dict[str, _Score | None]


class _Benchmark(BaseModel):
    domain: str | None
    mode: str
    pools: list[str] | None
    description: str


class _Objective(BaseModel):
    reward_scale: dict[str, FiniteFloat | None]
    trained: dict[str, list[Phase]] = {}


def _of_a_file(name: str) -> str:
    """A model's or benchmark's name is that of a folder or file with its answers, below the run's own."""
    if not is_file_name(name):
        raise ValueError(f"{printable(name, 60)} is no name of a file")
    return name


FileName = Annotated[str, AfterValidator(_of_a_file)]


class _Report(BaseModel):
    """What is read of a `report.json`."""

    created: str
    models: dict[FileName, _Model]
    benchmarks: dict[FileName, _Benchmark]
    objective: _Objective
    wall_seconds: dict[str, FiniteFloat]
    peak_memory_bytes: int | None
    provenance: dict[str, str]


def _not_as_reported(run: Path, why: str) -> ConfigError:
    return ConfigError(f"{run}: {why}; `protege eval {run}` writes the report again")


def _own_benchmarks(report: Mapping[str, Any]) -> dict[str, list[tuple[str, Mapping[str, Any]]]]:
    """(key, entry) of every mode by benchmark; pools repeat answers of their members and are left out."""
    found: dict[str, list[tuple[str, Mapping[str, Any]]]] = {}
    for key, entry in report["benchmarks"].items():
        if not entry["pools"]:
            found.setdefault(key.removesuffix("@greedy"), []).append((key, entry))
    return found


def _benchmarks(report: Mapping[str, Any], grading: Mapping[str, set[str]]) -> dict[str, BenchmarkRecord]:
    from eval.compared.data import BenchmarkRecord

    records = {}
    for name, ((_, entry), *_) in _own_benchmarks(report).items():
        digest = CONTENT_DIGEST.search(entry["description"])
        keys = grading[name]
        records[name] = BenchmarkRecord(
            entry["domain"], digest[1] if digest else None, next(iter(keys)) if len(keys) == 1 else None
        )
    return records


def _answers(
    run: Path, report: Mapping[str, Any]
) -> tuple[dict[tuple[str, str], list[Sample]], dict[str, set[str]]]:
    """Stored answers by (model, benchmark), checked against the report, and grading keys by benchmark."""
    samples, grading = {}, {}
    for name, modes in _own_benchmarks(report).items():
        grading[name] = set()
        prompts = None
        for model, row in report["models"].items():
            scores = {entry["mode"]: row["benchmarks"][key] for key, entry in modes}
            if not any(scores.values()):
                continue
            place = run / "samples" / model / f"{name}.jsonl"
            found, key = _stored(run, place)
            if any(not _agrees([s for s in found if s.mode == mode], scores[mode]) for mode in scores):
                raise _not_as_reported(
                    run, f"{_below(run, place)} holds other answers than the report counted"
                )
            asked = {sample.problem_id: sample.prompt for sample in found}
            if prompts is not None and asked != prompts:
                raise _not_as_reported(run, f"its models answered different problems on {name}")
            samples[model, name], prompts = found, asked
            grading[name].add(key)
    return samples, grading


def _stored(run: Path, place: Path) -> tuple[list[Sample], str | None]:
    """Answers of one file, and its grading key; None where no key is stored."""
    from eval.jobs import sidecar_of
    from eval.records import read_samples

    if not place.exists():
        raise _not_as_reported(run, f"{_below(run, place)} is missing")
    try:
        found = read_samples(place)
    except ConfigError as error:
        raise _not_as_reported(run, f"{_below(run, place)} is damaged ({error})") from None
    sidecar = sidecar_of(place)
    if not sidecar.exists():
        return found, None
    key = _read(run, _below(run, sidecar), _Graded)
    if key.samples != file_sha256(place):
        raise _not_as_reported(run, f"{_below(run, place)} was changed after it was written")
    return found, key.grading


class _Graded(BaseModel):
    samples: str
    grading: str | None


def _agrees(samples: list[Sample], score: Mapping[str, Any] | None) -> bool:
    """Whether these are the answers behind a score of the report; None is no score."""
    from eval.statistics.compare import summarise

    if score is None or not samples:
        return score is None and not samples
    found = summarise(samples)
    if (found.n, found.unscored) != (score["n"], score["unscored"]):
        return False
    return found.accuracy is None or abs(found.accuracy - score["accuracy"]) < ROUNDING


def _below(run: Path, place: Path) -> str:
    return str(place.relative_to(run))
