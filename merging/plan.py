"""What a merge would do, stage by stage, before anything starts."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

from configs.load import LoadedConfig, registry_root
from configs.schema import MergeConfig
from merging.adapters import adapter_parameters
from merging.exopd import references
from merging.preflight import Preflight, preflight

TRAINING_BYTES = 16
"""Bytes a parameter while training in float32: weights, gradient, two Adam moments."""


@dataclass(frozen=True)
class PlannedStage:
    """One stage of the run."""

    name: str
    state: str
    """`done`, `found in the registry`, `given`, `continues at step N`, or `to do`."""
    steps: int = 0
    """Optimizer steps that are left."""
    rollouts: int = 0
    """Rollouts that are left."""
    scorer_passes: int = 0
    """Forward passes of teachers and reference that are left."""
    seconds: float | None = None
    """Estimate from steps measured before on this registry; None where nothing comparable was measured."""


@dataclass(frozen=True)
class MergePlan:
    """All stages, and what they rest on."""

    run: str
    stages: tuple[PlannedStage, ...]
    scorer_passes_per_rollout: dict[str, int]
    """By domain: 2 (routed teacher and reference), 1 at lambda 1; whatever the number of teachers."""
    training_bytes_per_device: int
    """Weights, gradients and Adam moments, split over the training devices."""
    scorer_bytes: int
    """Reference and teachers in the scorer's number format."""
    devices: int
    """Training devices on all nodes."""
    assumptions: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """Plain values, as in `plan.json`; `device_hours` over the stages whose time is known."""
        hours = [stage.seconds * self.devices / 3600 for stage in self.stages if stage.seconds is not None]
        return {**asdict(self), "device_hours": round(sum(hours), 3) if hours else None}


def make_plan(loaded: LoadedConfig, run_dir: Path, found: Preflight | None = None) -> MergePlan:
    """The plan of `protege merge` with this config into this folder; raises ConfigError like it."""
    config = loaded.config
    found = found or preflight(loaded, run_dir)
    passes = {name: 1 if config.reward_scale_of(name) == 1.0 else 2 for name in config.domains}
    parameters = found.fingerprints["student"].parameters
    number_bytes = 4 if config.hardware.device == "cpu" else 2
    stages = [
        *_expert_stages(config, found),
        *_training_stages(config, run_dir),
        *_last_stages(config, run_dir),
    ]
    return MergePlan(
        run=config.name,
        stages=tuple(stages),
        scorer_passes_per_rollout=passes,
        training_bytes_per_device=parameters
        * TRAINING_BYTES
        // (config.hardware.gpus * config.hardware.nodes),
        scorer_bytes=number_bytes * _scored_parameters(config, found),
        devices=config.hardware.gpus * config.hardware.nodes,
        assumptions=(
            "every teacher and reference has the student's size, adapters their own",
            "times are the median step of experts built here from this base, scaled by rollouts; "
            "none is shown where nothing was measured",
        ),
    )


def _scored_parameters(config: MergeConfig, found: Preflight) -> int:
    """Weights that the shared scorer holds; adapters lie on the student, whether it is read itself or not."""
    student = found.fingerprints["student"].parameters
    models = references(config)[1].values()
    own = adapter_parameters(config, found.fingerprints)
    carrier = bool(own) and config.student not in models
    return (len(config.domains) - len(own) + len(models) + carrier) * student + sum(own.values())


def _expert_stages(config: MergeConfig, found: Preflight) -> list[PlannedStage]:
    from merging.experts import orders
    from teachers.build import find_expert
    from teachers.registry import Registry, expert_id
    from trainer.run import last_checkpoint

    registry, ordered = Registry(registry_root(config.registry)), orders(config, found)
    stages = []
    for domain in config.domains:
        name = f"expert {domain}"
        if domain not in ordered:
            stages.append(PlannedStage(name, "given"))
            continue
        order = ordered[domain]
        if find_expert(registry, order) is not None:
            stages.append(PlannedStage(name, "found in the registry"))
            continue
        work = registry.root / "building" / expert_id(order.identity()) / "checkpoints"
        left = order.recipe.steps - (done := last_checkpoint(work))
        rollouts = left * order.recipe.prompts_per_step * order.recipe.samples_per_prompt
        stages.append(
            PlannedStage(name, _progress(done), left, rollouts, 0, _seconds(config, registry, rollouts))
        )
    return stages


def _training_stages(config: MergeConfig, run_dir: Path) -> list[PlannedStage]:
    from teachers.registry import Registry
    from trainer.run import last_checkpoint

    registry, training = Registry(registry_root(config.registry)), config.training
    stages = []
    for name in ("merge", *(baseline for baseline in config.baselines if baseline == "opd")):
        work, target = (run_dir / "train", run_dir / "student") if name == "merge" else (
            run_dir / name, run_dir / "baselines" / name)  # fmt: skip
        title = name if name == "merge" else f"baseline {name}"
        if target.exists():
            stages.append(PlannedStage(title, "done"))
            continue
        left = training.steps - (done := last_checkpoint(work / "checkpoints"))
        rollouts = left * training.prompts_per_step * training.samples_per_prompt
        each = 1.0 if name == "opd" else _passes_per_rollout(config, done)
        seconds = _seconds(config, registry, rollouts)
        stages.append(PlannedStage(title, _progress(done), left, rollouts, round(rollouts * each), seconds))
    return stages


def _passes_per_rollout(config: MergeConfig, done: int) -> float:
    """Mean over the steps that are left: at lambda 1, as in a warm-up's first step, one is enough."""
    left = range(done + 1, config.training.steps + 1)
    passes = [
        1 if config.reward_scale_at(name, step) == 1.0 else 2 for step in left for name in config.domains
    ]
    return sum(passes) / len(passes) if passes else 0.0


def _last_stages(config: MergeConfig, run_dir: Path) -> list[PlannedStage]:
    stages = []
    if "average" in config.baselines:
        done = (run_dir / "baselines" / "average").exists()
        stages.append(PlannedStage("baseline average", "done" if done else "to do"))
    complete = "done" if (run_dir / "manifest.json").exists() else "to do"
    return [*stages, PlannedStage("evaluation", complete), PlannedStage("report", complete)]


def _progress(done: int) -> str:
    return f"continues at step {done}" if done else "to do"


def _seconds(config: MergeConfig, registry, rollouts: int) -> float | None:
    """Rollouts times the seconds that one took in experts of this base on this registry."""
    from teachers.build import read_learning_curve
    from teachers.fingerprint import fingerprint

    base = fingerprint(config.student).weights_sha256
    each = []
    for record in registry.list():
        if record.identity["base_weights"] == base:
            recipe = record.identity["recipe"]
            steps = [row["step_seconds"] for row in read_learning_curve(record) if "step_seconds" in row]
            rollouts_per_step = recipe["prompts_per_step"] * recipe["samples_per_prompt"]
            each += [median(steps) / rollouts_per_step] if steps else []
    return round(rollouts * median(each), 1) if each else None
