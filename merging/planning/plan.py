"""What a merge would do, what it would hold and what it would cost, before anything starts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

from configs.blocks.objective import PAPER_REWARD_SCALE
from configs.load import LoadedConfig
from configs.schema import MergeConfig
from merging.checks.found import Preflight, summary
from merging.checks.machine import scored_parameters
from merging.checks.preflight import preflight
from merging.planning.costs import Costs, replicas_of, total_devices
from merging.planning.device_memory import device_memory
from merging.planning.devices import Chosen, Device, chosen_device
from merging.planning.held import Held
from merging.planning.lengths import mean_prompts
from merging.planning.measured import SCALED, Experts, answer_length
from merging.planning.memory import disk_parts, main_memory
from merging.planning.stages import passes, stages_left, validation_rollouts
from merging.state.chosen_scales import with_chosen, with_scales
from merging.state.counts import read_counts
from merging.state.planned import PlannedStage
from merging.state.served import served_notes
from merging.training.alarms import schedule_of
from routing.judged import polish_counts
from routing.kept import gap_note
from teachers.registry.opening import open_registry
from trainer.memory import Parts


@dataclass(frozen=True)
class MergePlan:
    """All stages, and what they rest on."""

    run: str
    stages: tuple[PlannedStage, ...]
    scorer_passes_per_rollout: dict[str, int]
    """By domain: 2 (routed teacher and reference), 1 at lambda 0 or 1; whatever the number of teachers."""
    scorer_bytes: int
    """Reference and teachers in the scorer's number format."""
    memory: tuple[Held, ...]
    """By training on its fullest device, on GPUs; and main memory."""
    disk: Parts
    """Bytes of the run folder and the registry, by part."""
    devices: int
    """Training devices on all nodes, and those of the pool's servers."""
    device: str
    """What one is taken to be."""
    prompts: dict[str, Any]
    """By domain: prompts that may be used, rows of the whole training and share of every step; what is
    dropped, by reason, and overlaps, by benchmark. Of a run whose rows are written: as they were written."""
    assumptions: tuple[str, ...]

    @property
    def seconds(self) -> float | None:
        """Of all stages whose time is known; None where none is."""
        return _sum([stage.seconds for stage in self.stages])

    @property
    def device_hours(self) -> float | None:
        """The same in device-hours."""
        return _sum([stage.device_hours for stage in self.stages], 3)

    @property
    def price(self) -> float | None:
        """Of all stages that have one."""
        return _sum([stage.price for stage in self.stages], 2)

    def to_json(self) -> dict[str, Any]:
        """Plain values, as in `plan.json`; totals are over the stages whose time is known."""
        totals = {"seconds": self.seconds, "device_hours": self.device_hours, "price": self.price}
        return {**asdict(self), "memory": [held.to_json() for held in self.memory], **totals}


def _sum(values: Sequence[float | None], digits: int = 1) -> float | None:
    known = [value for value in values if value is not None]
    return round(sum(known), digits) if known else None


def make_plan(loaded: LoadedConfig, run_dir: Path, found: Preflight | None = None) -> MergePlan:
    """The plan of `protege merge` with this config into this folder.

    Raises ConfigError like it, but for GPUs that this machine lacks.
    """
    found = found or preflight(loaded, run_dir, is_elsewhere=True)
    config = found.resolved(with_chosen(loaded.config, run_dir))
    automatic = [name for name in config.domains if config.reward_scale_of(name) is None]
    config = with_scales(config, dict.fromkeys(automatic, PAPER_REWARD_SCALE))
    prompts, chosen = _prompts(config, found, run_dir), chosen_device(config.hardware)
    costs = costs_of(config, found, run_dir, chosen, prompts)
    devices, models = total_devices(config), found.fingerprints
    scored, rows = scored_parameters(config, models), prompts.get("polish")
    stages = [costs.of(stage) for stage in stages_left(config, found, run_dir, automatic, rows)]
    return MergePlan(
        run=config.name,
        stages=tuple(_priced(stage, devices, config.hardware.price_per_device_hour) for stage in stages),
        scorer_passes_per_rollout={
            name: passes(scale) for name, scale in schedule_of(config, run_dir / "train").settled().items()
        },
        scorer_bytes=(4 if config.hardware.device == "cpu" else 2) * scored,
        memory=(*_on_devices(config, found, chosen), main_memory(config, models, scored)),
        disk=disk_parts(config, models),
        devices=devices,
        device=chosen.device.name,
        prompts=prompts,
        assumptions=(
            *_assumptions(costs, chosen, stages, automatic),
            *gap_note(config),
            *served_notes(config),
        ),
    )


def _on_devices(config: MergeConfig, found: Preflight, chosen: Chosen) -> list[Held]:
    if config.hardware.device == "cpu":
        return []
    device, polished = chosen.device.memory, polish_counts(config, found.routed)
    return device_memory(config, found.fingerprints, device, chosen.has_known_memory, polished)


def costs_of(
    config: MergeConfig, found: Preflight, run_dir: Path, chosen: Chosen, prompts: dict[str, Any]
) -> Costs:
    """What the stages of a resolved config cost; `prompts` as in the plan."""
    registry, on_cpu = open_registry(config.registry), config.hardware.device == "cpu"
    limit = config.training.max_prompt_tokens
    return Costs(
        config=config,
        found=found,
        run_dir=run_dir,
        device=chosen.device,
        prompts=mean_prompts(found.routed, found.longest_prompt, config.prompt_modes(), limit),
        shares=prompts.get("shares", {}),
        experts=cache(lambda base: Experts.of(registry, base, on_cpu)),
        replicas=replicas_of(config),
        polished=prompts.get("polish", {}),
        own_length=answer_length(run_dir / "train"),
    )


def _priced(stage: PlannedStage, devices: int, price: float | None) -> PlannedStage:
    """The stage with its device-hours, and what they cost."""
    if stage.seconds is None:
        return stage
    hours = stage.seconds * devices / 3600
    cost = None if price is None else round(hours * price, 2)
    return replace(stage, device_hours=round(hours, 3), price=cost)


def _assumptions(
    costs: Costs,
    chosen: Chosen,
    stages: Sequence[PlannedStage],
    automatic: Sequence[str],
) -> list[str]:
    bases = {stage.basis for stage in stages}
    told = [f"device: {chosen.because}"]
    if "estimated" in bases:
        told += _estimates(costs, chosen.device, "measured" in bases)
    if any(SCALED in stage.source and stage.scorer_passes for stage in stages):
        told.append(
            "times measured on experts hold no scoring, and are not corrected for other devices or lengths"
        )
    answers = validation_rollouts(costs.config, costs.found)
    told += [
        f"{stage.name}: {stage.validations} validations of {answers:,} answers each are among its rollouts; "
        "they need no further memory"
        for stage in stages
        if stage.validations
    ]
    if automatic:
        told.append(f"{', '.join(automatic)}: lambda is chosen by the probe; counted as two passes")
    return told


def _estimates(costs: Costs, device: Device, some_are_measured: bool) -> list[str]:
    """What the arithmetic rests on."""
    expected = costs.merge_lengths()
    prompt = f"prompts of {expected.lengths.prompt:,.0f} tokens"
    if expected.is_measured:
        answers = f"answers of {expected.lengths.answer:,.0f} tokens (measured: {expected.source})"
    else:
        answers = (
            f"answers of {expected.source} on average (assumed; ranges are for half and twice that), "
            "their lengths spread exponentially up to the limit"
        )
    nothing = "times are estimated, nothing was measured on this registry or in this run"
    return [
        *([] if some_are_measured else [nothing]),
        f"the merge's rollouts: {prompt}, {answers}",
        f"{device.name}: {_rates(device)}; parts of a step follow one another",
        "samples that the registry already holds are counted as if it did not",
    ]


def _rates(device: Device) -> str:
    compute, bandwidth = device.compute_share, device.bandwidth_share
    return (
        f"{compute:.0%} of {device.flops / 1e9:,.0f} GFLOP/s and {bandwidth:.0%} of "
        f"{device.bandwidth / 1e9:,.0f} GB/s are reached"
    )


def _prompts(config: MergeConfig, found: Preflight, run_dir: Path) -> dict[str, Any]:
    if (run_dir / "prompts" / "train.parquet").exists():
        return dict(read_counts(run_dir))
    return summary(config, found)
