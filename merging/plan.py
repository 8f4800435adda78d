"""What a merge would do, stage by stage, before anything starts."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

from configs.baselines import DistilledBaseline
from configs.load import LoadedConfig
from configs.objective import PAPER_REWARD_SCALE
from configs.schema import MergeConfig
from merging.model_checks import built_parameters, scored_parameters
from merging.preflight import Preflight, preflight
from merging.prompt_data import summary
from merging.reward_scales import probe_file, with_chosen
from merging.weights import is_made

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
    """Weights, gradients and Adam moments of the largest model that is trained, split over the devices."""
    scorer_bytes: int
    """Reference and teachers in the scorer's number format."""
    devices: int
    """Training devices on all nodes."""
    prompts: dict[str, Any]
    """By domain: prompts that may be used, rows of the whole training and share of every step; what is
    dropped, by reason, and overlaps, by benchmark. Of a run whose rows are written: as they were written."""
    assumptions: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """Plain values, as in `plan.json`; `device_hours` over the stages whose time is known."""
        hours = [stage.seconds * self.devices / 3600 for stage in self.stages if stage.seconds is not None]
        return {**asdict(self), "device_hours": round(sum(hours), 3) if hours else None}


def make_plan(loaded: LoadedConfig, run_dir: Path, found: Preflight | None = None) -> MergePlan:
    """The plan of `protege merge` with this config into this folder; raises ConfigError like it."""
    found = found or preflight(loaded, run_dir)
    config = found.registered.resolved(with_chosen(loaded.config, run_dir))
    automatic = [name for name in config.domains if config.reward_scale_of(name) is None]
    config = config.with_reward_scales(dict.fromkeys(automatic, PAPER_REWARD_SCALE))
    passes = {name: 1 if config.reward_scale_of(name) == 1.0 else 2 for name in config.domains}
    models = found.fingerprints
    trained = max([models["student"].parameters, *built_parameters(config, models).values()])
    number_bytes = 4 if config.hardware.device == "cpu" else 2
    stages = [
        *_expert_stages(config, found),
        *_probe_stages(automatic, run_dir),
        *_training_stages(config, run_dir),
        *_last_stages(config, run_dir),
    ]
    return MergePlan(
        run=config.name,
        stages=tuple(stages),
        scorer_passes_per_rollout=passes,
        training_bytes_per_device=trained * TRAINING_BYTES // (config.hardware.gpus * config.hardware.nodes),
        scorer_bytes=number_bytes * scored_parameters(config, models),
        devices=config.hardware.gpus * config.hardware.nodes,
        prompts=_prompts(config, found, run_dir),
        assumptions=(
            "times are the median step of experts built here from the same base, scaled by rollouts; "
            "none is shown where nothing was measured",
            *(
                [f"{', '.join(automatic)}: lambda is chosen by the probe; counted as two passes"]
                * bool(automatic)
            ),
        ),
    )


def _prompts(config: MergeConfig, found: Preflight, run_dir: Path) -> dict[str, Any]:
    written = run_dir / "prompts" / "counts.json"
    if (run_dir / "prompts" / "train.parquet").exists():
        return json.loads(written.read_text(encoding="utf-8"))
    return summary(config, found)


def _expert_stages(config: MergeConfig, found: Preflight) -> list[PlannedStage]:
    from merging.experts import orders
    from teachers.build import find_expert
    from teachers.registry import expert_id, open_registry
    from trainer.run import last_checkpoint

    registry, ordered = open_registry(config.registry), orders(config, found)
    stages = []
    for domain in config.domains:
        name = f"expert {domain}"
        if domain not in ordered:
            registered = domain in found.registered.records
            stages.append(PlannedStage(name, "found in the registry" if registered else "given"))
            continue
        order = ordered[domain]
        if find_expert(registry, order) is not None:
            stages.append(PlannedStage(name, "found in the registry"))
            continue
        work = registry.root / "building" / expert_id(order.identity()) / "checkpoints"
        left = order.recipe.steps - (done := last_checkpoint(work))
        rollouts = left * order.recipe.prompts_per_step * order.recipe.samples_per_prompt
        stages.append(
            PlannedStage(name, _progress(done), left, rollouts, 0, _seconds(order.base, registry, rollouts))
        )
    return stages


def _probe_stages(automatic: list[str], run_dir: Path) -> list[PlannedStage]:
    """`automatic` are the domains whose lambda a probe has yet to choose."""
    if automatic:
        return [PlannedStage("probe", "to do")]
    return [PlannedStage("probe", "done")] if probe_file(run_dir).exists() else []


def _training_stages(config: MergeConfig, run_dir: Path) -> list[PlannedStage]:
    from trainer.run import last_checkpoint

    done = last_checkpoint(run_dir / "train" / "checkpoints")
    made = (run_dir / "student").exists()
    stages = [_training_stage(config, "merge", made, done, _passes_per_rollout(config, done))]
    for baseline in config.trained_baselines():
        made = is_made(baseline, run_dir / "baselines" / baseline.kind)
        # a training by other options is not continued
        work = run_dir / baseline.kind
        done = last_checkpoint(work / "checkpoints") if is_made(baseline, work) else 0
        passes = 0.0
        if isinstance(baseline, DistilledBaseline):
            passes = 1.0 if baseline.reward_scale == 1.0 else 2.0
        stages.append(_training_stage(config, f"baseline {baseline.kind}", made, done, passes))
    return stages


def _training_stage(
    config: MergeConfig, title: str, made: bool, done: int, passes_per_rollout: float
) -> PlannedStage:
    """A training of the student with the merge's steps and rollouts, of which `done` steps are behind it."""
    from teachers.registry import open_registry

    if made:
        return PlannedStage(title, "done")
    training = config.training
    left = training.steps - done
    rollouts = left * training.prompts_per_step * training.samples_per_prompt
    seconds = _seconds(config.student, open_registry(config.registry), rollouts)
    return PlannedStage(title, _progress(done), left, rollouts, round(rollouts * passes_per_rollout), seconds)


def _passes_per_rollout(config: MergeConfig, done: int) -> float:
    """Mean over the steps that are left: at lambda 1, as in a warm-up's first step, one is enough."""
    left = range(done + 1, config.training.steps + 1)
    passes = [
        1 if config.reward_scale_at(name, step) == 1.0 else 2 for step in left for name in config.domains
    ]
    return sum(passes) / len(passes) if passes else 0.0


def _last_stages(config: MergeConfig, run_dir: Path) -> list[PlannedStage]:
    stages = []
    for baseline in config.weight_baselines():
        done = is_made(baseline, run_dir / "baselines" / baseline.kind)
        stages.append(PlannedStage(f"baseline {baseline.kind}", "done" if done else "to do"))
    complete = "done" if (run_dir / "manifest.json").exists() else "to do"
    return [*stages, PlannedStage("evaluation", complete), PlannedStage("report", complete)]


def _progress(done: int) -> str:
    return f"continues at step {done}" if done else "to do"


def _seconds(model: str, registry, rollouts: int) -> float | None:
    """Rollouts times the seconds that one took in experts of this base on this registry."""
    from teachers.fingerprint import fingerprint

    base = fingerprint(model).weights_sha256
    each = []
    for record in registry.list():
        recipe = record.identity.get("recipe")
        if recipe is not None and record.identity["base_weights"] == base:  # an imported one was not timed
            steps = [row["step_seconds"] for row in registry.curve(record) if "step_seconds" in row]
            rollouts_per_step = recipe["prompts_per_step"] * recipe["samples_per_prompt"]
            each += [median(steps) / rollouts_per_step] if steps else []
    return round(rollouts * median(each), 1) if each else None
