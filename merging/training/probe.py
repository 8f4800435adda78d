"""How accurate the objective's optimum is at each lambda, before anything is trained.

The optimum is known: at each token q = softmax(lambda*T + (1 - lambda)*B). Answering prompts with q and
judging the answers tells, in the time of an evaluation, which lambda is worth a training. The same prompts
are answered at every lambda by both of the evaluation's decodings: sampled at `evaluation.temperature`, and
greedy. It is where the objective leads a student in the limit, not what a training of some steps reaches.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any

from common.errors import ConfigError
from configs.blocks.rewards import grader_settings
from configs.load import LoadedConfig
from merging.checks.probe_prompts import check_probed, prompts_of_probe
from merging.exopd.lambda_schedule import models_read
from merging.state.cluster import Cluster, OnDevice, here
from merging.training.prompted import encoded_messages, student_tokenizer

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from configs.prompt_mode import PromptMode
    from configs.schema import MergeConfig
    from merging.checks.found import Preflight
    from routing.routers.decisions import RoutedPrompt
    from routing.sources.collect import Prompt
    from teachers.scoring.mixture import Decoded, Join

OnResult = Callable[["ProbeResult"], None]


@dataclass(frozen=True)
class Answered:
    """The answers of one decoding, judged."""

    accuracy: float
    """Mean reward of the answers, in [0, 1]; an answer that did not finish counts as wrong."""
    interval: tuple[float, float]
    """95%, clustered by prompt."""
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


@dataclass(frozen=True)
class ProbeResult:
    """One domain at one lambda."""

    domain: str
    reward_scale: float
    prompts: int
    temperature: float
    """Of the sampled answers."""
    sampled: Answered
    greedy: Answered
    """One answer to each prompt."""

    @property
    def accuracy(self) -> float:
        """Mean of the two decodings' accuracies, whatever their numbers of answers."""
        return (self.sampled.accuracy + self.greedy.accuracy) / 2

    @property
    def scores(self) -> dict[str, tuple[float]]:
        """The same for each prompt."""
        pairs = {prompt: (own, self.greedy.scores[prompt]) for prompt, own in self.sampled.scores.items()}
        return {prompt: ((fmean(one) + fmean(other)) / 2,) for prompt, (one, other) in pairs.items()}

    def to_json(self) -> dict[str, Any]:
        """Plain values: those of the sampled answers beside the domain's, those of the greedy ones below."""
        own = {"domain": self.domain, "reward_scale": self.reward_scale, "prompts": self.prompts}
        sampled = {"temperature": self.temperature, **self.sampled.to_json()}
        return {**own, **sampled, "greedy": self.greedy.to_json()}


def probe(
    loaded: LoadedConfig,
    run_dir: Path,
    reward_scales: Sequence[float] | None = None,
    prompts_per_domain: int | None = None,
    samples_per_prompt: int | None = None,
    on_result: OnResult = lambda result: None,
) -> list[ProbeResult]:
    """Answers by the optimum of every domain at every lambda, sampled and greedy, judged by its reward.

    What is not given is the config's `probe`. Raises ConfigError for an expert that is not built.
    """
    from merging.checks.preflight import preflight

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
    scales = config.probe.reward_scales
    with Cluster(config, Path(run_dir)) as cluster:
        return sample_optima(config, found.routed, teachers, scales, on_result, cluster.on_device)


def sample_optima(
    config: MergeConfig,
    routed: Sequence[RoutedPrompt],
    teachers: Mapping[str, str],
    reward_scales: Sequence[float],
    on_result: OnResult = lambda result: None,
    on_device: OnDevice = here,
) -> list[ProbeResult]:
    """One result for each of the teachers' domains (domain to model folder) and each lambda.

    `config` names models by folder. Prompts are those of `domains.<name>.validation`, else training prompts;
    at most `probe.prompts`, the same for every lambda, as are the random numbers. `on_device` says where the
    models are read. Raises ConfigError for a domain without answered prompts.
    """
    from merging.exopd.names import references as reference_models

    prompts = {name: prompts_of_probe(config, routed, name, config.probe.prompts) for name in teachers}
    tokenizer, end_ids = student_tokenizer(Path(config.student))
    names, references = reference_models(config)
    read = {names[domain] for domain in teachers}
    models = {name: path for name, path in references.items() if name in read} | dict(teachers)
    asked = [
        _Asked(domain, scale, tuple(models_read(scale, domain, names[domain])))
        for domain in teachers
        for scale in reward_scales
    ]
    modes = config.prompt_modes()
    encoded = {name: encoded_prompts(tokenizer, own, modes[name]) for name, own in prompts.items()}
    results = []
    drawn = on_device(_answers, config, models, asked, encoded, end_ids)
    for one, answers in zip(asked, drawn, strict=True):
        results.append(_result(config, one, prompts[one.domain], answers, tokenizer))
        on_result(results[-1])
    return results


def _teacher(config: MergeConfig, found: Preflight, domain: str) -> str:
    from teachers.registry.merged import full_model
    from teachers.registry.opening import open_registry

    expert, registry = found.experts(config)[domain], open_registry(config.registry)
    record = expert.find(registry)
    if record is None and expert.is_built:
        raise ConfigError(f"{expert.place} is not built yet; `protege experts build CONFIG` builds it")
    check_probed(expert)
    path = found.fingerprints[domain].path if record is None else record.model_path
    return full_model(config.student, path, registry)


def encoded_prompts(
    tokenizer: PreTrainedTokenizerBase, prompts: Sequence[Prompt], mode: PromptMode
) -> list[list[int]]:
    """Token ids of each prompt in this mode up to where the answer begins, by the student's chat template."""
    return encoded_messages(tokenizer, [prompt.messages for prompt in prompts], mode)


@dataclass(frozen=True)
class _Asked:
    """One domain at one lambda, and the names of the models that are read there."""

    domain: str
    reward_scale: float
    names: tuple[str, ...]


@dataclass(frozen=True)
class _Drawn:
    """Answers to each prompt, by decoding."""

    sampled: list[list[Decoded]]
    greedy: list[list[Decoded]]


def _answers(
    config: MergeConfig,
    models: dict[str, str],
    asked: Sequence[_Asked],
    prompts: Mapping[str, Sequence[Sequence[int]]],
    end_ids: Sequence[int],
) -> Iterator[_Drawn]:
    """For each of what is asked, the answers to each of the domain's prompts, which are token ids."""
    from merging.exopd.job import scorer_dtype
    from merging.exopd.objective import optimum
    from teachers.scoring.mixture import MixtureDecoder

    hardware, samples = config.hardware, config.probe.samples_per_prompt
    decoder = MixtureDecoder(models, hardware.device, scorer_dtype(config), hardware.probe_cache_bytes)
    longest, seed = config.evaluation_tokens(), config.evaluation.seed
    temperature = config.evaluation.temperature
    for one in asked:
        own, best = prompts[one.domain], optimum(one.reward_scale)
        every = [ids for ids in own for _ in range(samples)]
        sampled = decoder.decode(one.names, at_temperature(best, temperature), every, longest, end_ids, seed)
        greedy = decoder.decode(one.names, best, own, longest, end_ids, None)
        yield _Drawn(
            [sampled[place : place + samples] for place in range(0, len(sampled), samples)],
            [[answer] for answer in greedy],
        )


def at_temperature(join: Join, temperature: float) -> Join:
    """The joined log-probabilities as they are sampled from at this temperature."""
    if temperature == 1:
        return join
    return lambda *logps: (join(*logps) / temperature).log_softmax(dim=-1)


def _result(
    config: MergeConfig,
    asked: _Asked,
    prompts: Sequence[Prompt],
    drawn: _Drawn,
    tokenizer: PreTrainedTokenizerBase,
) -> ProbeResult:
    judged = partial(_judged, config, asked.domain, prompts, tokenizer=tokenizer)
    return ProbeResult(
        domain=asked.domain,
        reward_scale=asked.reward_scale,
        prompts=len(prompts),
        temperature=config.evaluation.temperature,
        sampled=judged(drawn.sampled),
        greedy=judged(drawn.greedy),
    )


def _judged(
    config: MergeConfig,
    domain: str,
    prompts: Sequence[Prompt],
    answers: Sequence[Sequence[Decoded]],
    tokenizer: PreTrainedTokenizerBase,
) -> Answered:
    """The answers to each prompt by the domain's reward."""
    from eval.statistics.intervals import mean_interval
    from teachers.rewards import reward_of

    reward = reward_of(grader_settings(config.domains[domain].reward))
    scores = {
        prompt.id: [
            reward(
                str(tokenizer.decode(list(answer.token_ids), skip_special_tokens=True)),
                prompt.answer,
                answer.finished,
            )
            for answer in own
        ]
        for prompt, own in zip(prompts, answers, strict=True)
    }
    every = [answer for own in answers for answer in own]
    estimate = mean_interval(scores)
    return Answered(
        accuracy=estimate.mean,
        interval=(estimate.lo, estimate.hi),
        answers=len(every),
        length=sum(answer.tokens for answer in every) / len(every),
        finish_rate=sum(answer.finished for answer in every) / len(every),
        scores={prompt: tuple(values) for prompt, values in scores.items()},
    )


def table_row(result: ProbeResult) -> str:
    """One result as a line of text."""
    n = f"n = {result.prompts} prompts"
    return (
        f"{result.domain:12} lambda {result.reward_scale:<5g} mean {result.accuracy:6.1%} ({n}) of "
        f"sampled at {result.temperature:g} {_answered_text(result.sampled, n)} and "
        f"greedy {_answered_text(result.greedy, n)}"
    )


def _answered_text(answered: Answered, n: str) -> str:
    lo, hi = answered.interval
    return (
        f"{answered.accuracy:.1%} (95% {lo:.1%} to {hi:.1%}, {n}, {answered.answers} answers, "
        f"{answered.length:.1f} tokens, {answered.finish_rate:.0%} finished)"
    )
