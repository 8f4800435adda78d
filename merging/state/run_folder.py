"""A run's folder: what lies where, and whether it belongs to this config."""

from __future__ import annotations

import json
import re
from collections import Counter
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from common.errors import ConfigError
from common.files import json_lines, write_json, write_text
from common.reading import read_json, read_json_lines, read_text
from configs.blocks.objective import AUTO
from configs.blocks.rewards import reward_record
from configs.load import LoadedConfig, load_config
from configs.schema import MergeConfig
from configs.training import ModelStart
from configs.verl_settings import dotted
from eval.report.data import DISTILLED
from merging.checks.found import overlap_record, summary
from merging.state.adapted import as_full
from merging.state.counts import Counts, read_counts, read_router
from merging.state.measure import Measured
from merging.state.polished import STUDENT, Control, controls, distilled_folder
from merging.state.served import read_facts, served_model
from merging.state.teacher import Teacher
from routing.judged import can_be_judged
from routing.trained_rows import check_written
from trainer.settings.owned import weight_settings

if TYPE_CHECKING:
    from eval.jobs import Served
    from eval.suite import ModelUnderTest
    from merging.checks.found import Preflight
    from routing.routers.decisions import RoutedPrompt

RESOLVED, TEACHERS = "config.resolved.yaml", "teachers.json"
FIXED_HARDWARE = ("device", "gpus", "nodes", "rollout_quantization")
"""Hardware that verl's checkpoints depend on (one file a rank), or what is sampled."""
ASKING = ("url", "api_key_env", "max_requests", "patience_seconds", "canary_tolerance")
"""Keys of a served model that may change between two runs of one folder."""
LATER_SECTIONS = ("evaluation", "baselines", "registry", "tracking", "metrics")
"""Sections that may change between two runs of one folder: no trained weight depends on them. Of `evaluation`
the margin may not: it is declared before the results are known."""


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
            text = yaml.dump(resolved, Dumper=_Dumper, sort_keys=False, allow_unicode=True)
            if not stored.exists() or read_text(stored) != text:
                write_text(stored, text)
        from merging.state.chosen_scales import with_chosen

        return cls(path, with_chosen(found.with_folders(loaded.config), path), Measured(path))

    @property
    def prompts_file(self) -> Path:
        """The merge's training rows; where its shares are decided while it trains, those of equal shares."""
        return self.path / "prompts" / "train.parquet"

    @property
    def pool(self) -> Path:
        """Every prompt once, where the merge's shares are decided while it trains."""
        return self.path / "prompts" / "pool.parquet"

    @property
    def train(self) -> Path:
        """verl's checkpoints and raw metrics of the merge."""
        return self.path / "train"

    @property
    def start(self) -> Path:
        """The model at whose weights the student's training begins; `merging.training.start` makes it."""
        declared = self.config.training.start
        if isinstance(declared, ModelStart):
            return Path(declared.path)
        return Path(self.config.student) if declared.kind == "student" else self.path / "start"

    @property
    def student(self) -> Path:
        """The merged model, polished where the config says so."""
        return self.path / STUDENT

    @property
    def distilled(self) -> Path:
        """The model that distillation makes: the student itself, unless it is polished."""
        return distilled_folder(self.path, self.config)

    @property
    def polish_prompts(self) -> Path:
        """The rows of the polish."""
        return self.path / "prompts" / "polish.parquet"

    @property
    def validation_prompts(self) -> Path:
        """What validations while training ask."""
        return self.path / "prompts" / "validation.parquet"

    @property
    def polish(self) -> Path:
        """verl's checkpoints and raw metrics of the polish."""
        return self.path / "polish"

    def polish_rows(self) -> dict[str, int]:
        """Rows of each domain in the polish; empty without one."""
        return self.counts().get("polish", {})

    @property
    def samples(self) -> Path:
        """Every answer and verdict of the evaluation."""
        return self.path / "samples"

    def baseline(self, name: str) -> Path:
        """A baseline's model; its name is its kind."""
        return self.path / "baselines" / name

    def teacher_more(self, domain: str) -> Path:
        """The model of the baseline `teacher_more` for this domain."""
        return self.baseline("teacher_more") / domain

    def models(self, teachers: list[Teacher]) -> list[ModelUnderTest]:
        """All models that are evaluated: base, teachers, student, the distilled one, baselines."""
        from eval.suite import ModelUnderTest

        names = self.teacher_names()
        return [
            ModelUnderTest("base", self.config.student, "base"),
            *(
                ModelUnderTest(names[t.domain], t.model_path, "teacher", t.domain, self._served(t))
                for t in teachers
            ),
            ModelUnderTest(STUDENT, self.full(self.student), "student"),
            *(
                ModelUnderTest(DISTILLED, self.full(self.distilled), "baseline")
                for _ in range(self.config.polish is not None)
            ),
            *(
                ModelUnderTest(
                    control.name, self.full(self.teacher_more(control.domain)), "baseline", control.domain
                )
                for control in self.controls()
            ),
            *(
                ModelUnderTest(baseline.kind, self.full(self.baseline(baseline.kind)), "baseline")
                for baseline in self.config.model_baselines()
            ),
        ]

    def full(self, model: Path) -> Path:
        """The folder of a model of the run as a full model (`merging.state.adapted.as_full`)."""
        return as_full(self.config, model)

    def works(self) -> dict[str, Path]:
        """Folder of each training of the run, by the name of its stage."""
        works = {"merge": self.train} | ({"polish": self.polish} if self.config.polish else {})
        works |= {f"baseline {each.kind}": self.path / each.kind for each in self.config.trained_baselines()}
        return works | {each.stage: self.path / "teacher_more" / each.domain for each in self.controls()}

    def controls(self) -> list[Control]:
        """What the baseline `teacher_more` trains."""
        return controls(self.config, self.polish_rows()) if self.config.teacher_more() else []

    def _served(self, teacher: Teacher) -> Served | None:
        """Who answers for a teacher without a folder."""
        if teacher.model_path is not None:
            return None
        from teachers.served.generation import ServedAnswers

        config, facts = self.config, read_facts(self.path)[teacher.domain]
        endpoint = config.served()[teacher.domain]
        return ServedAnswers(
            served_model(teacher.domain, endpoint, facts),
            facts.sha256,
            facts.max_model_len,
            config.student,
        )

    def write_teachers(self, teachers: list[Teacher]) -> None:
        """Keeps which experts were evaluated, for a report that finds or builds none."""
        write_json(self.path / TEACHERS, [asdict(teacher) for teacher in teachers])

    def read_teachers(self) -> list[Teacher]:
        """What `write_teachers` kept; raises ConfigError where nothing was."""
        path = self.path / TEACHERS
        if not path.exists():
            raise ConfigError(f"{TEACHERS} is missing, so the evaluated experts are unknown")
        teachers = read_json(path, list[Teacher], "the experts that were evaluated")
        if sorted(found := [teacher.domain for teacher in teachers]) != sorted(self.config.domains):
            wanted = ", ".join(self.config.domains)
            raise ConfigError(f"{path}: holds the experts of {', '.join(found) or 'none'}, not of {wanted}")
        return teachers

    def teacher_names(self) -> dict[str, str]:
        """Name of each domain's teacher in samples and report."""
        return {domain: f"{domain}-teacher" for domain in self.config.domains}

    def write_counts(self, rows: list[RoutedPrompt], found: Preflight) -> None:
        """Keeps what became of the prompts: counts by domain, and the lists of those that were dropped and
        of those that repeat a benchmark's problem."""
        counts, domains = summary(self.config, found), self.config.domains
        check_written(Counter(row.domain for row in rows), counts["rows"])
        counts["rewards"] = {name: reward_record(domain.reward) for name, domain in domains.items()}
        counts["all_answered"] = all(can_be_judged(row, domains[row.domain].reward) for row in rows)
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
        write_json(folder / "counts.json", {**self.counts(), **overlap_record(found)})

    def counts(self) -> Counts:
        """What `write_counts` kept."""
        return read_counts(self.path)

    def router(self) -> dict[str, Any] | None:
        """What the router told of itself; None where it had nothing to decide."""
        path = self.path / "prompts" / "router.json"
        return read_router(path) if path.exists() else None

    def write_metrics(self, name: str, lines: list[dict[str, float]]) -> None:
        """Keeps one line a step: `metrics.jsonl` for the merge, `metrics.<name>.jsonl` for a baseline."""
        write_text(self._metrics_file(name), "".join(json.dumps(line) + "\n" for line in lines))

    def read_metrics(self, name: str) -> list[dict[str, float]]:
        """What `write_metrics` kept; empty where nothing was."""
        return read_json_lines(self._metrics_file(name), dict[str, float], "metrics, one step a line")

    def _metrics_file(self, name: str) -> Path:
        return self.path / ("metrics.jsonl" if name == "merge" else f"metrics.{name}.jsonl")


class _Dumper(yaml.SafeDumper):
    """Quotes texts that a reader of numbers such as `1e-6` would take for one."""


def _represent_text(dumper: _Dumper, text: str) -> yaml.ScalarNode:
    like_a_number = re.fullmatch(r"[-+.\d]+[eE][-+]?\d+", text)
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style='"' if like_a_number else None)


_Dumper.add_representer(str, _represent_text)


def _stored(path: Path) -> dict[str, Any]:
    """The folder's config, with the defaults of fields that a newer version has added."""
    return _plain(load_config(path).config)


def load_resolved(run_dir: Path) -> LoadedConfig:
    """The config that a run's folder holds. Raises ConfigError for one that was cut off too: what it lacks
    would be taken for a default."""
    path = run_dir / RESOLVED
    loaded, last = load_config(path), list(MergeConfig.model_fields)[-1]
    if last not in loaded.config.model_fields_set or not loaded.text.endswith("\n"):
        raise ConfigError(
            f"{path}: cut off (it ends with the key `{last}` and a line break); delete it, and `protege "
            "merge` with the run's config writes it again"
        )
    return loaded


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
    fixed = ("benchmarks",) * (new["overlap"]["action"] == "drop") + ("validation",) * _reads_validation(new)
    differing = [key for key in new if key not in later and not _same(key, stored.get(key), new[key], fixed)]
    if (margin := new["evaluation"]["margin"]) != (declared := stored["evaluation"]["margin"]):
        differing.append(f"evaluation.margin, declared as {declared:g} and now {margin:g}")
    if differing:
        raise ConfigError(
            f"run folder {path}: holds another merge (differs in: {', '.join(differing)}); "
            "choose another --run-dir, or delete the folder"
        )


def _reads_probe(config: dict[str, Any]) -> bool:
    """Whether a lambda, and so the student, depends on the probe."""
    objectives = [config["objective"], *(domain["objective"] or {} for domain in config["domains"].values())]
    return any(objective.get("reward_scale") == AUTO for objective in objectives)


def _reads_validation(config: dict[str, Any]) -> bool:
    """Whether validation prompts decide anything of the training, or are asked while it goes on."""
    return _reads_probe(config) or config["training"]["validate_every"] is not None


def _same(key: str, stored: Any, new: Any, fixed: tuple[str, ...]) -> bool:
    """A domain's benchmarks and validation prompts may change (nothing trains on them), and so may hardware
    that no checkpoint depends on, settings of verl's that no weight depends on, and what is exported beside
    the student. `fixed` are parts of a domain that may not change all the same."""
    if key == "domains" and isinstance(stored, dict):
        return _trained_on(stored, fixed) == _trained_on(new, fixed)
    if key == "objective" and isinstance(stored, dict):
        return _without_asking(stored) == _without_asking(new)
    if key == "training" and isinstance(stored, dict):
        return {**stored, "full_model": None} == {**new, "full_model": None}
    if key == "polish" and stored and new:
        return _weights_of(stored) == _weights_of(new)
    if key == "verl" and isinstance(stored, dict):
        return weight_settings(dotted(stored)) == weight_settings(dotted(new))
    if key == "hardware" and isinstance(stored, dict):
        return all(stored.get(name) == new[name] for name in FIXED_HARDWARE)
    return stored == new


def _trained_on(domains: dict[str, Any], fixed: tuple[str, ...]) -> dict[str, Any]:
    later = [part for part in ("benchmarks", "validation") if part not in fixed]
    trained = {name: {k: v for k, v in domain.items() if k not in later} for name, domain in domains.items()}
    return {name: {**domain, "expert": _weights_of(domain["expert"])} for name, domain in trained.items()}


def _without_asking(objective: dict[str, Any]) -> dict[str, Any]:
    reference = {key: value for key, value in objective["reference"].items() if key not in ASKING}
    return {**objective, "reference": reference}


def _weights_of(expert: dict[str, Any]) -> dict[str, Any]:
    """The block of an expert, or of the polish, without settings of verl's that no weight depends on, and
    without where and how a server is asked: what it answers is compared by the canary."""
    expert = {key: value for key, value in expert.items() if key not in ASKING}
    return {**expert, "verl": weight_settings(dotted(expert["verl"]))} if expert.get("verl") else expert
