"""The experts stage: every declared expert is found in the registry, built, or the user's own."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

from configs.experts import RLExpert
from configs.load import ConfigError
from merging.preflight import Preflight
from merging.progress import bar, grpo_text, say
from merging.prompt_stage import is_for_expert
from merging.run_folder import RunFolder
from teachers.build import ExpertOrder, build_expert, find_expert
from teachers.registry import ExpertRecord, Registry, open_registry
from trainer.errors import RunFailed
from trainer.run import last_checkpoint

if TYPE_CHECKING:
    from merging.cluster import Cluster
    from merging.run import Teacher


def orders(folder_config, found: Preflight) -> dict[str, ExpertOrder]:
    """What has to be had for each domain whose expert is RL-built."""
    return {
        name: ExpertOrder(
            name,
            folder_config,
            domain.expert,
            tuple(
                item for item in found.routed if item.domain == name and is_for_expert(folder_config, item)
            ),
        )
        for name, domain in folder_config.domains.items()
        if isinstance(domain.expert, RLExpert)
    }


def build_or_find(
    folder: RunFolder, found: Preflight, cluster: Cluster
) -> Iterator[tuple[str, ExpertRecord | None]]:
    """Yields (domain, record); the record is None for the user's own model.

    Raises ConfigError for an expert of the registry whose files are not those recorded.
    """
    registry = open_registry(folder.config.registry)
    ordered = orders(folder.config, found)
    for domain in folder.config.domains:
        if domain not in ordered:
            record = found.registered.records.get(domain)  # checked by preflight
            if record is not None:
                registry.note_use(record.id, folder.path)
            yield domain, record
            continue
        record = find_expert(registry, ordered[domain])
        if record is not None:
            say(f"expert {domain}: found in the registry ({record.id})")
            registry.check(registry.fetch(record))
        else:
            record = _build(folder, registry, ordered[domain], cluster)
        registry.note_use(record.id, folder.path)
        yield domain, record


def record_scores(folder: RunFolder, teachers: list[Teacher], samples: Mapping) -> None:
    """Keeps what the evaluation found of each registry expert on its domain's benchmarks, where its record
    has no scores yet. A registry that cannot be read or written stays as it is, with a warning."""
    for teacher in teachers:
        try:
            _record_scores(folder, teacher, samples)
        except (OSError, RunFailed, ConfigError) as error:
            say(f"warning: the scores of expert {teacher.record_id} could not be kept in its record: {error}")


def _record_scores(folder: RunFolder, teacher: Teacher, samples: Mapping) -> None:
    from teachers.evaluation import scores, settings, without_base
    from teachers.fingerprint import fingerprint

    config, registry = folder.config, open_registry(folder.config.registry)
    benchmarks = [benchmark.name for benchmark in config.domains[teacher.domain].benchmarks]
    record = None if teacher.record_id is None else registry.find(teacher.record_id)
    if not benchmarks or record is None or record.evaluation is not None or record.domain != teacher.domain:
        return
    name = folder.teacher_names()[teacher.domain]
    own, base = ({each: samples[model, each] for each in benchmarks} for model in (name, "base"))
    found = scores(own, base, config.evaluation.seed)
    if record.base_sha256 != fingerprint(config.student).weights_sha256:
        found = without_base(found)  # the run's base is not what this expert was made from
    registry.update(replace(record, evaluation=found, evaluation_settings=settings(config)))


def _build(folder: RunFolder, registry: Registry, order: ExpertOrder, cluster: Cluster) -> ExpertRecord:
    from teachers.registry import expert_id

    work = registry.root / "building" / expert_id(order.identity()) / "checkpoints"
    with (
        folder.measured.stage(f"expert {order.domain}"),
        bar(f"expert {order.domain} (GRPO)", order.recipe.steps, last_checkpoint(work)) as shown,
    ):

        def on_step(step: int, raw: dict[str, float]) -> None:
            shown.update(step, grpo_text(raw))

        return build_expert(registry, order, cluster, on_step)
