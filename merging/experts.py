"""The experts stage: every declared expert is found in the registry, built, or the user's own."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

from common.errors import ConfigError, RunFailed
from common.progress import say
from merging.checks.found import Preflight
from merging.state.run_folder import RunFolder
from teachers.registry.local import ExpertRecord
from teachers.registry.opening import open_registry

if TYPE_CHECKING:
    from merging.state.cluster import Cluster
    from merging.state.teacher import Teacher


def build_or_find(
    folder: RunFolder, found: Preflight, cluster: Cluster
) -> Iterator[tuple[str, ExpertRecord | None]]:
    """Yields (domain, record); the record is None for the user's own model.

    Raises ConfigError for an expert of the registry whose files are not those recorded.
    """
    registry = open_registry(folder.config.registry)
    for domain, expert in found.experts(folder.config).items():
        record = expert.find(registry)
        if expert.is_built and record is not None:
            say(f"expert {domain}: found in the registry ({record.id})")
        elif expert.is_built:
            record = expert.build(registry, cluster, folder.measured)
        if record is not None:
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
    from teachers.models.fingerprint import fingerprint

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
    how = settings(config, teacher.domain)
    registry.update(replace(record, evaluation=found, evaluation_settings=how))
