"""How accurate the objective's optimum is at each lambda, before anything is trained.

The optimum is known: at each token q = softmax(lambda*T + (1 - lambda)*B). Sampling answers from q and
judging them tells, in the time of an evaluation, which lambda is worth a training. It is where the objective
leads a student in the limit, not what a training of some steps reaches.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from configs.experts import RLExpert
from configs.load import ConfigError, LoadedConfig
from configs.rewards import grader_settings, needs_answer, reward_title

if TYPE_CHECKING:
    from configs.schema import MergeConfig
    from merging.preflight import Preflight
    from routing.routers import RoutedPrompt
    from routing.sources import Prompt

OnResult = Callable[["ProbeResult"], None]


@dataclass(frozen=True)
class ProbeResult:
    """One domain at one lambda."""

    domain: str
    reward_scale: float
    accuracy: float
    """Mean reward of the answers, in [0, 1]; an answer that did not finish counts as wrong."""
    interval: tuple[float, float]
    """95%, clustered by prompt."""
    prompts: int
    answers: int
    length: float
    """Mean tokens of an answer."""
    finish_rate: float
    scores: Mapping[str, tuple[float, ...]] = field(default_factory=dict, repr=False)
    """Reward of every answer, by prompt."""

    def to_json(self) -> dict[str, Any]:
        """Plain values; `scores` are left out."""
        values = {key: value for key, value in vars(self).items() if key != "scores"}
        return {**values, "interval": list(self.interval)}


def probe(
    loaded: LoadedConfig,
    run_dir: Path,
    reward_scales: Sequence[float] | None = None,
    prompts_per_domain: int | None = None,
    samples_per_prompt: int | None = None,
    on_result: OnResult = lambda result: None,
) -> list[ProbeResult]:
    """Samples from the optimum of every domain at every lambda and judges by the domain's reward.

    What is not given is the config's `probe`. Raises ConfigError for an expert that is not built.
    """
    from merging.preflight import preflight

    found = preflight(loaded, run_dir)
    config = found.with_folders(loaded.config)
    given = {
        "reward_scales": reward_scales,
        "prompts": prompts_per_domain,
        "samples_per_prompt": samples_per_prompt,
    }
    settings = {key: value for key, value in given.items() if value is not None}
    config = config.model_copy(update={"probe": config.probe.model_copy(update=settings)})
    teachers = {name: _teacher(config, found, name) for name in config.domains}
    return sample_optima(config, found.routed, teachers, config.probe.reward_scales, on_result)


def sample_optima(
    config: MergeConfig,
    routed: Sequence[RoutedPrompt],
    teachers: Mapping[str, str],
    reward_scales: Sequence[float],
    on_result: OnResult = lambda result: None,
) -> list[ProbeResult]:
    """One result for each of the teachers' domains (domain to model folder) and each lambda.

    `config` names models by folder. Prompts are those of `domains.<name>.validation`, else training prompts;
    at most `probe.prompts`, the same for every lambda, as are the random numbers. Raises ConfigError for a
    domain without answered prompts.
    """
    from merging.exopd import references as reference_models
    from merging.exopd import scorer_dtype
    from teachers.mixture import MixtureDecoder

    prompts = {name: _prompts(config, routed, name, config.probe.prompts) for name in teachers}
    names, references = reference_models(config)
    read = {names[domain] for domain in teachers}
    models = {name: path for name, path in references.items() if name in read} | dict(teachers)
    decoder = MixtureDecoder(models, config.hardware.device, scorer_dtype(config))
    tokenizer, end_ids = student_tokenizer(Path(config.student))
    results = []
    for domain in teachers:
        for scale in reward_scales:
            answers = _answers(
                config, decoder, tokenizer, end_ids, (domain, names[domain]), prompts[domain], scale,
                config.probe.samples_per_prompt,
            )  # fmt: skip
            results.append(_result(config, domain, scale, prompts[domain], answers, tokenizer))
            on_result(results[-1])
    return results


def check_prompts(
    config: MergeConfig, routed: Sequence[RoutedPrompt], domains: Iterable[str] | None = None
) -> None:
    """Raises ConfigError for one of the domains without an answered prompt to be probed with.

    By default those whose lambda is `auto`.
    """
    automatic = [name for name in config.domains if config.reward_scale_of(name) is None]
    for domain in automatic if domains is None else domains:
        _prompts(config, routed, domain, 1)


def _prompts(config: MergeConfig, routed: Sequence[RoutedPrompt], domain: str, most: int) -> list[Prompt]:
    from routing.sources import load_prompts

    source = config.domains[domain].validation
    if source is not None:
        prompts = load_prompts(source, domain, label_field=config.routing.field)
        strange = next((prompt for prompt in prompts if prompt.label not in (None, domain)), None)
        if strange is not None:
            raise ConfigError(
                f"{strange.where}: label {strange.label!r} (column {strange.label_column!r}) contradicts the "
                f"source, which is domains.{domain}.validation"
            )
    else:
        prompts = [item.prompt for item in routed if item.domain == domain]
    reward = config.domains[domain].reward
    answered = [prompt for prompt in prompts if prompt.answer is not None or not needs_answer(reward)]
    if not answered:
        raise ConfigError(
            f"domains.{domain}: no prompt has an answer, and the probe judges by reward "
            f"{reward_title(reward)!r}; give domains.{domain}.validation"
        )
    return random.Random(f"probe:{config.training.seed}:{domain}").sample(answered, min(most, len(answered)))


def _teacher(config: MergeConfig, found: Preflight, domain: str) -> str:
    from merging.adapters import full_model
    from merging.experts import orders
    from teachers.build import find_expert
    from teachers.registry import open_registry

    if not isinstance(config.domains[domain].expert, RLExpert):
        return full_model(config, found.fingerprints[domain].path)
    registry = open_registry(config.registry)
    record = find_expert(registry, orders(config, found)[domain])
    if record is None:
        raise ConfigError(
            f"domains.{domain}.expert is not built yet; `protege experts build CONFIG` builds it"
        )
    return full_model(config, registry.check(registry.fetch(record)).model_path)


def encoded_prompts(
    tokenizer, prompts: Sequence[Prompt], chat_template: Mapping[str, Any]
) -> list[list[int]]:
    """Token ids of each prompt up to where the answer begins, by the student's chat template."""
    return [
        tokenizer.apply_chat_template(
            list(prompt.messages), add_generation_prompt=True, return_dict=True, **chat_template
        )["input_ids"]
        for prompt in prompts
    ]


def student_tokenizer(student: Path):
    """The student's tokenizer, and the ids that end an answer."""
    from transformers import AutoTokenizer

    from teachers.fingerprint import fingerprint

    return AutoTokenizer.from_pretrained(student), list(fingerprint(str(student)).eos_token_ids)


def joined(reward_scale: float) -> tuple[list[int], Callable]:
    """Which of (teacher, reference) are read at this lambda, and what joins their log-probabilities."""
    from merging.objective import optimum

    if reward_scale == 0.0:
        return [1], lambda reference: reference
    return ([0] if reward_scale == 1.0 else [0, 1]), optimum(reward_scale)


def _answers(config, decoder, tokenizer, end_ids, models, prompts, scale, samples) -> list[list]:
    """`samples` answers to each prompt, [prompts][samples]."""
    read, join = joined(scale)
    names = [models[place] for place in read]
    encoded = encoded_prompts(tokenizer, prompts, config.chat_template)
    every = [ids for ids in encoded for _ in range(samples)]
    decoded = decoder.decode(names, join, every, config.evaluation_tokens(), end_ids, config.evaluation.seed)
    return [decoded[place : place + samples] for place in range(0, len(decoded), samples)]


def _result(config, domain, scale, prompts, answers, tokenizer) -> ProbeResult:
    from eval.statistics import mean_interval
    from teachers.rewards import reward_of

    reward = reward_of(grader_settings(config.domains[domain].reward))
    scores = {
        prompt.id: [
            reward(
                tokenizer.decode(list(answer.token_ids), skip_special_tokens=True),
                prompt.answer,
                answer.finished,
            )
            for answer in own
        ]
        for prompt, own in zip(prompts, answers, strict=True)
    }
    every = [answer for own in answers for answer in own]
    estimate = mean_interval(scores)
    return ProbeResult(
        domain=domain,
        reward_scale=scale,
        accuracy=estimate.mean,
        interval=(estimate.lo, estimate.hi),
        prompts=len(prompts),
        answers=len(every),
        length=sum(answer.tokens for answer in every) / len(every),
        finish_rate=sum(answer.finished for answer in every) / len(every),
        scores={prompt: tuple(values) for prompt, values in scores.items()},
    )


def table_row(result: ProbeResult) -> str:
    """One result as a line of text."""
    lo, hi = result.interval
    return (
        f"{result.domain:12} lambda {result.reward_scale:<5g} accuracy {result.accuracy:6.1%} "
        f"(95% {lo:.1%} to {hi:.1%}, n = {result.prompts} prompts, {result.answers} answers), "
        f"{result.length:.1f} tokens, {result.finish_rate:.0%} finished"
    )
