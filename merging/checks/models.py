"""Whether the models that a config names are there and fit the student."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from common.errors import ConfigError
from configs.schema import MergeConfig
from configs.training import ModelStart
from merging.checks.found import Preflight, needs_student
from merging.exopd.names import REFERENCE, START
from merging.expert_kinds.kind import NamedModel
from merging.expert_kinds.kinds import experts_of
from merging.state.baseline_record import is_made
from merging.state.polished import distilled_folder
from merging.state.served import read_facts, served_model
from teachers.models import files
from teachers.models import fingerprint as fp
from teachers.models.files import text_settings
from teachers.registry.opening import open_registry
from teachers.served.canary import drift
from teachers.served.client import ServedError, ServedModel
from teachers.served.examine import ServedFacts, examine

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@contextmanager
def collecting(problems: list[str], place: str = "") -> Iterator[None]:
    """Adds a ConfigError's messages, with their place, to `problems`, so that what follows is checked too."""
    try:
        yield
    except ConfigError as error:
        problems += [f"{place}: {problem}" if place else problem for problem in error.problems]


def registry_experts(found: Preflight) -> Preflight:
    """Refuses a registry that cannot be opened, and experts of it that are missing, damaged or do not fit."""
    registry, problems, experts, records = open_registry(found.config.registry), [], {}, {}
    for name, expert in experts_of(found.config).items():
        with collecting(problems, expert.place):
            block, record = expert.resolved(registry)
            if block is not expert.block:
                experts[name] = block
            if record is not None:
                records[name] = record
    return found.refusing(*problems, records=records, config=found.config.with_experts(experts))


def named_models(config: MergeConfig) -> dict[str, NamedModel]:
    """Every full model that the config names, by key."""
    models = {"student": NamedModel("student", config.student)}
    for expert in experts_of(config).values():
        models |= expert.named_models()
    if (path := config.objective.reference.path) is not None:
        models[REFERENCE] = NamedModel("objective.reference", path, is_prompted=False)
    if isinstance(config.training.start, ModelStart):
        models[START] = NamedModel("training.start", config.training.start.path)
    return models


def models(found: Preflight) -> Preflight:
    """Refuses models that cannot be read, whose context is too short, or that do not fit the student."""
    config, problems = found.config, []
    named, experts = named_models(config), experts_of(config).values()
    read: dict[str, fp.ModelFingerprint] = {}
    for key, model in named.items():
        with collecting(problems, model.place):
            read[key] = fp.fingerprint(model.path)
    own = [expert.response_tokens for expert in experts if expert.response_tokens]
    longest = max(config.training.max_response_tokens, config.evaluation_tokens(), *own)
    student = read.get("student")
    for key, model in read.items():
        place = named[key].place
        with collecting(problems):
            fp.check_tensors(model, place)
        with collecting(problems):
            fp.check_vocabulary(model, place)
        with collecting(problems):
            fp.check_context(model, config.training.max_prompt_tokens, longest, place)
        if student is not None and key != "student":
            check = fp.check_compatible if named[key].is_prompted else fp.check_reference
            with collecting(problems):
                check(student, model, place)
    for expert in experts:
        with collecting(problems):
            if student is not None and (own_one := expert.own_fingerprint(student)) is not None:
                read[expert.domain] = own_one
    return found.refusing(*problems, fingerprints=read)


@needs_student
def scored_models(found: Preflight) -> None:
    """Refuses models that the scorer cannot read beside the student."""
    kind, student = found.config.scorer.kind, found.fingerprints["student"]
    if kind == "pool":
        return
    named, problems = named_models(found.config), []
    read_elsewhere = found.config.served()
    for key, model in found.fingerprints.items():
        if key in named and key not in read_elsewhere:
            reasons = [*_unscored_logits(model, kind), *_other_vocabulary(student, model)]
            reasons += _unreadable_by_shard(model) if kind == "sharded" else ()
            problems += [f"{named[key].place} ({model.path}): {reason}" for reason in reasons]
    if problems:
        raise ConfigError(*problems)


def _unreadable_by_shard(model: fp.ModelFingerprint) -> Iterator[str]:
    others = "scorer.kind: sharded does not read it; use shared or pool"
    folder = Path(model.path)
    whole, config = files.read_json(folder / "config.json"), text_settings(folder)
    if model.shapes_sha256 is None:
        yield f"has no safetensors files; {others}"
    if "quantization_config" in whole:
        yield f"has quantized weights; {others}"
    if any("expert" in setting for setting in config):
        yield f"is a mixture of experts, whose weights are rearranged on loading; {others}"


def _unscored_logits(model: fp.ModelFingerprint, kind: str) -> Iterator[str]:
    config = text_settings(Path(model.path))
    changed = [name for name in LOGIT_SETTINGS if config.get(name) not in (None, 1.0)]
    if changed:
        yield (
            f"changes its logits after the output head ({', '.join(changed)}); scorer.kind: {kind} does not "
            "do that; use pool"
        )


def _other_vocabulary(student: fp.ModelFingerprint, model: fp.ModelFingerprint) -> Iterator[str]:
    if model.vocab_size != student.vocab_size:
        yield (
            f"has a vocabulary of {model.vocab_size}, the student one of {student.vocab_size}; their "
            "log-probabilities cannot be compared"
        )


LOGIT_SETTINGS = ("final_logit_softcapping", "logit_scale", "logits_scaling")
"""Those of `trainer.engine.chunked_head`, which imports torch; a test compares them."""


@needs_student
def weight_baselines(found: Preflight) -> None:
    """Refuses baselines made of weights where an expert's tensors have other names or shapes."""
    config = found.config
    merged = config.weight_baselines()
    kinds = [baseline.kind for baseline in merged]
    rest = [baseline.kind for baseline in config.baselines if baseline not in merged]
    named, verb = ", ".join(f"`{kind}`" for kind in kinds), "needs" if len(kinds) == 1 else "need"
    for place, model in experts_of_other_shape(found) if kinds else ():
        raise ConfigError(
            f"baselines: {named} {verb} experts of the student's shape, and {place} "
            f"({model.path}) has other tensors; leave {named} out (baselines: [{', '.join(rest)}])"
        )


def experts_of_other_shape(found: Preflight) -> Iterator[tuple[str, fp.ModelFingerprint]]:
    """Place and model of each expert whose tensors are known to have other names or shapes than the
    student's."""
    student = found.fingerprints["student"]
    for expert in experts_of(found.config).values():
        place, model = expert.shaped_like(found.fingerprints)
        known = None not in (student.shapes_sha256, model.shapes_sha256)
        if known and model.shapes_sha256 != student.shapes_sha256:
            yield place, model


@needs_student
def chat_template(found: Preflight) -> None:
    """Refuses a student without a chat template."""
    student = found.fingerprints["student"]
    if student.chat_template_sha256 is None:
        raise ConfigError(f"student ({student.path}): has no chat template, so it cannot be prompted")


# ----------------------------------------------------------------------------------- served models


def needs_weights(found: Preflight) -> None:
    """Refuses what reads a teacher's weights where a server holds them and no folder is given."""
    config = found.config
    bare = [expert.place for expert in experts_of(config).values() if not expert.has_weights]
    if not bare:
        return
    wants = [f"baselines: `{baseline.kind}`" for baseline in config.baselines_of_folders()]
    wants += ["objective.reward_scale: auto"] * any(config.reward_scale_of(d) is None for d in config.domains)
    wants += ["routing: agreement"] * config.routing.decides_late
    wants += [f"training.start: {start.kind}"] if (start := config.training.merged_start) else []
    if wants:
        raise ConfigError(
            f"{bare[0]}.path: {', '.join(wants)} read{'s' * (len(wants) == 1)} this teacher's weights, "
            f"which a "
            "server holds; give `path`, the folder of the same model, or leave that out"
        )


@needs_student
def served_models(found: Preflight) -> Preflight:
    """Refuses servers that do not answer as the run needs it, or hold other weights than when it began."""
    config = found.config
    if not config.served():
        return found
    known = read_facts(found.run_dir)
    if _is_scored(found):  # nothing is asked of the servers any more
        return found.refusing(served=known)
    from transformers import AutoTokenizer

    tokenizer, problems = AutoTokenizer.from_pretrained(str(found.student)), []
    response = max(config.training.max_response_tokens, config.evaluation_tokens())
    needed = config.training.max_prompt_tokens + response + 1
    facts: dict[str, ServedFacts] = {}
    for name, endpoint in config.served().items():
        model = served_model(name, endpoint)
        with collecting(problems):
            facts[name] = _as_remembered(model, known.get(name), _examined(model, tokenizer, needed))
    return found.refusing(*problems, served=facts)


def _is_scored(found: Preflight) -> bool:
    """Whether the distilled student and every baseline that teachers score are there."""
    folder = found.run_dir
    return distilled_folder(folder, found.config).exists() and all(
        is_made(baseline, folder / "baselines" / baseline.kind)
        for baseline in found.config.scored_baselines()
    )


def _examined(model: ServedModel, tokenizer: PreTrainedTokenizerBase, needed: int) -> ServedFacts:
    try:
        return examine(model, tokenizer, needed)
    except ServedError as error:
        raise ConfigError(str(error)) from None


def _as_remembered(model: ServedModel, before: ServedFacts | None, now: ServedFacts) -> ServedFacts:
    """What the server says now, with the canary that the run began with; ConfigError for other weights."""
    if before is None or before.canary_ids != now.canary_ids:
        return now
    if (moved := drift(before.canary_logp, now.canary_logp)) > model.canary_tolerance:
        raise ConfigError(
            f"{model.named()}: has other weights than when this run began: on {len(now.canary_ids)} fixed "
            f"tokens its log-probabilities have moved by {moved:.3g} nats in the mean, above "
            f"canary_tolerance {model.canary_tolerance:g}; "
            "serve the same weights, or choose another --run-dir"
        )
    return replace(now, canary_logp=before.canary_logp)
