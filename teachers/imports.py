"""Takes an expert trained elsewhere into the registry: checked, measured against its base, copied."""

from __future__ import annotations

import datetime
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from common.errors import ConfigError, RunFailed
from common.files import new_folder, write_json
from common.models import resolve_model
from configs.schema import MergeConfig
from routing.modes.mode_check import refused_modes
from teachers import evaluation
from teachers.models import adapters
from teachers.models import fingerprint as fp
from teachers.models.distance import is_unchanged, refuse_not_finite, weight_distance
from teachers.provenance import versions
from teachers.registry.local import Registry, expert_files
from teachers.registry.merged import merged_model
from teachers.registry.records import MODEL, RECORD, ExpertRecord, expert_id, record_json

OnProgress = Callable[[str, str, int, int], None]
"""Model, benchmark, answers so far, answers wanted."""


@dataclass(frozen=True)
class ImportOrder:
    """One expert to be taken in for a domain of a config."""

    source: str
    """Folder or hub name (of the local cache) of a full model, or of an adapter in peft's format."""
    domain: str
    config: MergeConfig
    base: str | None = None
    """What it was trained from, where that is not the config's student."""
    evaluate: bool = True
    admit_worse: bool = False


@dataclass(frozen=True)
class _Candidate:
    """An expert that fits the student."""

    folder: Path
    weights_sha256: str
    base: fp.ModelFingerprint
    facts: dict[str, Any]
    is_adapter: bool


def import_expert(
    registry: Registry, order: ImportOrder, on_progress: OnProgress = lambda *progress: None, **how: Any
) -> ExpertRecord:
    """Checks, measures and stores the expert; one that is there already is only scored, if it was not.

    Raises ConfigError for an expert that does not fit the student, is its base, or is worse than it. `how`
    goes to `eval.suite.evaluate`.
    """
    candidate = _candidate(order)
    distance = _distance(candidate)
    identity = _identity(order.domain, candidate)
    id = expert_id(identity)
    there = registry.find(id)
    measured = None
    if order.evaluate and (there is None or there.evaluation is None):
        measured = _evaluate(registry, order, candidate, id, on_progress, how)
    with registry.building(id) as work:
        record = registry.find(id)
        if record is None:
            _store(registry, order, candidate, identity, distance, measured)
            record = registry.publish(id)
        work.rmdir()
    assert record is not None
    if record.evaluation is None and measured is not None:
        settings = evaluation.settings(order.config, order.domain)
        record = replace(record, evaluation=measured, evaluation_settings=settings)
        registry.update(record)
    return registry.fetch(record)


# ------------------------------------------------------------------------------------------- checks


def _candidate(order: ImportOrder) -> _Candidate:
    config, place = order.config, f"expert {order.source}"
    if order.domain not in config.domains:
        raise ConfigError(f"--domain {order.domain}: the config's domains are {', '.join(config.domains)}")
    if order.evaluate and not config.domains[order.domain].benchmarks:
        raise ConfigError(
            f"domains.{order.domain} has no benchmarks, so the expert cannot be scored; give it some, or "
            "--no-evaluation"
        )
    student = fp.fingerprint(config.student)
    if order.evaluate and (refused := refused_modes(config, Path(student.path))):
        raise ConfigError(*refused)
    folder = resolve_model(order.source).resolve()
    if adapters.is_adapter(folder):
        if order.base is not None:
            raise ConfigError(f"--base {order.base}: an adapter lies on the config's student; leave it out")
        own = adapters.fingerprint(folder)
        adapters.check_adapter(student, own, place)
        facts = fp.facts(student) | {"parameters": own.parameters}
        return _Candidate(folder, own.weights_sha256, student, facts, True)
    model = fp.fingerprint(folder)
    base = student if order.base is None else fp.fingerprint(order.base)
    training = config.training
    tokens = max(training.max_response_tokens, config.evaluation_tokens())
    for checked, name in ((model, place), (base, f"--base {order.base}")):
        fp.check_tensors(checked, name)
        fp.check_vocabulary(checked, name)
        fp.check_compatible(student, checked, name)
        fp.check_context(checked, training.max_prompt_tokens, tokens, name)
    return _Candidate(folder, model.weights_sha256, base, fp.facts(model), False)


def _distance(candidate: _Candidate) -> dict[str, Any]:
    refuse_not_finite(candidate.folder, "expert")
    distance = weight_distance(Path(candidate.base.path), candidate.folder)
    if candidate.weights_sha256 == candidate.base.weights_sha256 or is_unchanged(distance):
        raise ConfigError(
            f"expert {candidate.folder}: its weights are those of its base ({candidate.base.path}), so it "
            "teaches nothing; name the trained model, or what it was trained from with --base"
        )
    return distance


def _identity(domain: str, candidate: _Candidate) -> dict[str, Any]:
    facts = candidate.facts
    return {
        "imported": candidate.weights_sha256,
        "domain": domain,
        "base_weights": candidate.base.weights_sha256,
        "tokenizer": facts["tokenizer_sha256"],
        "chat_template": facts["chat_template_sha256"],
        "eos_token_ids": facts["eos_token_ids"],
    }


# --------------------------------------------------------------------------------------- evaluation


def _evaluate(
    registry: Registry, order: ImportOrder, candidate: _Candidate, id: str, on_progress: OnProgress, how: dict
) -> evaluation.Scores:
    """Expert and base on the domain's benchmarks, by the merge's own evaluation."""
    from eval.suite import ModelUnderTest, evaluate

    config, base = order.config, candidate.base.path
    path = candidate.folder
    if candidate.is_adapter:
        path = merged_model(config.student, candidate.folder, registry)
    benchmarks = config.domains[order.domain].benchmarks
    try:
        samples = evaluate(
            [ModelUnderTest("base", base, "base"), ModelUnderTest("expert", path, "teacher", order.domain)],
            [(order.domain, benchmark) for benchmark in benchmarks],
            config.evaluation,
            config.evaluation_tokens(),
            config.hardware,
            registry.root / "imports" / id,
            on_progress,
            cache_dir=registry.root / "samples",
            modes=config.prompt_modes(),
            **how,
        )
    except RuntimeError as error:
        raise RunFailed(f"evaluation stopped: {error}") from error
    ours, theirs = ({b.name: samples[name, b.name] for b in benchmarks} for name in ("expert", "base"))
    found = evaluation.scores(ours, theirs, config.evaluation.seed)
    if missing := evaluation.unmeasured(found):
        raise ConfigError(
            f"expert {order.source}: no answer could be judged on {', '.join(missing)}; the answers and why "
            f"are in {registry.root / 'imports' / id}; --no-evaluation admits it unmeasured"
        )
    if (below := evaluation.worse(found)) and not order.admit_worse:
        raise ConfigError(
            f"expert {order.source} is worse than its base {base}: {'; '.join(below)}. --admit-worse takes "
            "it nevertheless"
        )
    return found


# ------------------------------------------------------------------------------------------- storing


def _store(
    registry: Registry,
    order: ImportOrder,
    candidate: _Candidate,
    identity: dict[str, Any],
    distance: dict[str, Any],
    measured: evaluation.Scores | None,
) -> None:
    id = expert_id(identity)
    with new_folder(registry.folder(id)) as folder:
        expert_files.copy_model(candidate.folder, folder / MODEL)
        if (copied := adapters.weights_sha256(folder / MODEL)) != candidate.weights_sha256:
            raise ConfigError(
                f"expert {candidate.folder}: its weights changed while they were copied (digest "
                f"{copied[:12]}, before {candidate.weights_sha256[:12]}); import it when nothing writes there"
            )
        record = ExpertRecord(
            id=id,
            domain=order.domain,
            identity=identity,
            weights_sha256=candidate.weights_sha256,
            prompts=None,
            final_reward=None,
            wall_seconds=None,
            attempts=None,
            created=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            versions=versions(),
            path=str(registry.folder(id)),
            kind="imported",
            source=order.source,
            declaration=order.config.domains[order.domain].model_dump(mode="json"),
            base={"path": candidate.base.path, "weights_sha256": candidate.base.weights_sha256},
            parent=registry.parent_of(candidate.base.weights_sha256),
            fingerprint=candidate.facts,
            evaluation=measured,
            evaluation_settings=None if measured is None else evaluation.settings(order.config, order.domain),
            distance=distance,
            size_bytes=expert_files.size(folder),
            files=expert_files.digests(folder),
        )
        write_json(folder / RECORD, record_json(record))
