"""A run's folder: what lies where, and whether it belongs to this config."""

from __future__ import annotations

import json
import re
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from configs.load import ConfigError, LoadedConfig, load_config
from configs.objective import AUTO
from configs.rewards import needs_answer, reward_record
from configs.schema import MergeConfig
from merging import prompt_data
from merging.measure import Measured
from merging.prompt_data import json_lines
from merging.trained_rows import check_written
from trainer.files import write_json, write_text

if TYPE_CHECKING:
    from eval.suite import ModelUnderTest
    from merging.preflight import Preflight
    from merging.run import Teacher
    from routing.routers import RoutedPrompt

RESOLVED = "config.resolved.yaml"
CHECKPOINT_HARDWARE = ("device", "gpus", "nodes")
"""Hardware that verl's checkpoints depend on: one file a rank."""
LATER_SECTIONS = ("evaluation", "baselines", "registry", "tracking")
"""Sections that may change between two runs of one folder: no trained weight depends on them."""


@dataclass(frozen=True)
class RunFolder:
    """The folder of one run; paths are absolute."""

    path: Path
    config: MergeConfig
    measured: Measured

    @classmethod
    def open(cls, path: Path, loaded: LoadedConfig, found: Preflight) -> RunFolder:
        """Creates the folder, or continues it; raises ConfigError if it holds another merge."""
        resolved = _plain(loaded.config)
        stored = path / RESOLVED
        if stored.exists():
            _refuse_other_merge(path, _stored(stored), resolved)
        if loaded.path != stored.absolute():  # `eval` and `report` start from the folder itself
            write_text(path / "config.yaml", loaded.text + _overrides_note(loaded))
        write_text(stored, yaml.dump(resolved, Dumper=_Dumper, sort_keys=False, allow_unicode=True))
        from merging.reward_scales import with_chosen

        return cls(path, with_chosen(found.with_folders(loaded.config), path), Measured(path))

    @property
    def prompts_file(self) -> Path:
        """The merge's training rows."""
        return self.path / "prompts" / "train.parquet"

    @property
    def train(self) -> Path:
        """verl's checkpoints and raw metrics of the merge."""
        return self.path / "train"

    @property
    def student(self) -> Path:
        """The merged model."""
        return self.path / "student"

    @property
    def samples(self) -> Path:
        """Every answer and verdict of the evaluation."""
        return self.path / "samples"

    def baseline(self, name: str) -> Path:
        """A baseline's model; its name is its kind."""
        return self.path / "baselines" / name

    def models(self, teachers: list[Teacher]) -> list[ModelUnderTest]:
        """All models that are evaluated: base, teachers, student, baselines."""
        from eval.suite import ModelUnderTest

        names = self.teacher_names()
        return [
            ModelUnderTest("base", self.config.student, "base"),
            *(ModelUnderTest(names[t.domain], t.model_path, "teacher", t.domain) for t in teachers),
            ModelUnderTest("student", self.student, "student"),
            *(
                ModelUnderTest(baseline.kind, self.baseline(baseline.kind), "baseline")
                for baseline in self.config.model_baselines()
            ),
        ]

    def teacher_names(self) -> dict[str, str]:
        """Name of each domain's teacher in samples and report."""
        return {domain: f"{domain}-teacher" for domain in self.config.domains}

    def write_counts(self, rows: list[RoutedPrompt], found: Preflight) -> None:
        """Keeps what became of the prompts: counts by domain, and the lists of those that were dropped and
        of those that repeat a benchmark's problem."""
        counts, domains = prompt_data.summary(self.config, found), self.config.domains
        check_written(Counter(row.domain for row in rows), counts["rows"])
        counts["rewards"] = {name: reward_record(domain.reward) for name, domain in domains.items()}
        counts["all_answered"] = all(
            row.prompt.answer is not None or not needs_answer(domains[row.domain].reward) for row in rows
        )
        folder = self.path / "prompts"
        write_text(folder / "dropped.jsonl", json_lines(item.to_json() for item in found.dropped))
        if found.router is not None:
            write_json(folder / "router.json", found.router)
        write_json(folder / "counts.json", counts)
        self.write_overlaps(found)

    def write_overlaps(self, found: Preflight) -> None:
        """Keeps which prompts repeat a problem of the benchmarks that the config names now: benchmarks may
        be added when the prompts are long written."""
        folder, dropping = self.path / "prompts", found.overlap_action == "drop"
        write_text(folder / "overlaps.jsonl", json_lines(item.to_json(dropping) for item in found.overlaps))
        write_json(folder / "counts.json", {**self.counts(), **prompt_data.overlap_record(found)})

    def counts(self) -> dict[str, Any]:
        """What `write_counts` kept."""
        return json.loads((self.path / "prompts" / "counts.json").read_text(encoding="utf-8"))

    def router(self) -> dict[str, Any] | None:
        """What the router told of itself; None where it had nothing to decide."""
        path = self.path / "prompts" / "router.json"
        return json.loads(path.read_text(encoding="utf-8")) if path.exists() else None

    def write_metrics(self, name: str, lines: list[dict[str, float]]) -> None:
        """Keeps one line a step: `metrics.jsonl` for the merge, `metrics.<name>.jsonl` for a baseline."""
        write_text(self._metrics_file(name), "".join(json.dumps(line) + "\n" for line in lines))

    def read_metrics(self, name: str) -> list[dict[str, float]]:
        """What `write_metrics` kept; empty where nothing was."""
        path = self._metrics_file(name)
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []

    def _metrics_file(self, name: str) -> Path:
        return self.path / ("metrics.jsonl" if name == "merge" else f"metrics.{name}.jsonl")


class _Dumper(yaml.SafeDumper):
    """Quotes texts that a reader of numbers such as `1e-6` would take for one."""


def _represent_text(dumper: _Dumper, text: str):
    like_a_number = re.fullmatch(r"[-+.\d]+[eE][-+]?\d+", text)
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style='"' if like_a_number else None)


_Dumper.add_representer(str, _represent_text)


def _stored(path: Path) -> dict[str, Any]:
    """The folder's config, with the defaults of fields that a newer version has added."""
    return _plain(load_config(path).config)


def _plain(config: MergeConfig) -> dict[str, Any]:
    return json.loads(config.model_dump_json())


def _overrides_note(loaded: LoadedConfig) -> str:
    """The command line's overrides, as comments under the verbatim file."""
    if not loaded.overrides:
        return ""
    return "\n# laid over by --set:\n" + "".join(f"#   {override}\n" for override in loaded.overrides)


def _refuse_other_merge(path: Path, stored: dict[str, Any], new: dict[str, Any]) -> None:
    later = LATER_SECTIONS if _reads_probe(new) else (*LATER_SECTIONS, "probe")
    # prompts that repeat a benchmark's problem are dropped: then the benchmarks decide what is trained on
    fixed = ("benchmarks",) if new["overlap"]["action"] == "drop" else ()
    differing = [key for key in new if key not in later and not _same(key, stored.get(key), new[key], fixed)]
    if differing:
        raise ConfigError(
            f"run folder {path}: holds another merge (differs in: {', '.join(differing)}); "
            "choose another --run-dir, or delete the folder"
        )


def _reads_probe(config: dict[str, Any]) -> bool:
    """Whether a lambda, and so the student, depends on the probe."""
    objectives = [config["objective"], *(domain["objective"] or {} for domain in config["domains"].values())]
    return any(objective.get("reward_scale") == AUTO for objective in objectives)


def _same(key: str, stored: Any, new: Any, fixed: tuple[str, ...]) -> bool:
    """A domain's benchmarks and validation prompts may change (nothing trains on them), and so may hardware
    that no checkpoint depends on. `fixed` are parts of a domain that may not change all the same."""
    if key == "domains" and isinstance(stored, dict):
        return _trained_on(stored, fixed) == _trained_on(new, fixed)
    if key == "hardware" and isinstance(stored, dict):
        return all(stored.get(name) == new[name] for name in CHECKPOINT_HARDWARE)
    return stored == new


def _trained_on(domains: dict[str, Any], fixed: tuple[str, ...]) -> dict[str, Any]:
    later = [part for part in ("benchmarks", "validation") if part not in fixed]
    return {name: {k: v for k, v in domain.items() if k not in later} for name, domain in domains.items()}
