"""How accurate the objective's optimum is at each lambda, before anything is trained.

The optimum is known: at each token q = softmax(lambda*T + (1 - lambda)*B). Sampling answers from q and
judging them tells, in the time of an evaluation, which lambda is worth a training. It is where the objective
leads a student in the limit, not what a training of some steps reaches.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
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

    from configs.schema import MergeConfig
    from merging.checks.found import Preflight
    from routing.routers.decisions import RoutedPrompt
    from routing.sources.collect import Prompt
    from teachers.scoring.mixture import Decoded

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
    encoded = {name: encoded_prompts(tokenizer, own, config.chat_template) for name, own in prompts.items()}
    results = []
    drawn = on_device(_answers, config, models, asked, encoded, end_ids)
    for one, answers in zip(asked, drawn, strict=True):
        results.append(_result(config, one.domain, one.reward_scale, prompts[one.domain], answers, tokenizer))
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
    tokenizer: PreTrainedTokenizerBase, prompts: Sequence[Prompt], chat_template: Mapping[str, Any]
) -> list[list[int]]:
    """Token ids of each prompt up to where the answer begins, by the student's chat template."""
    return encoded_messages(tokenizer, [prompt.messages for prompt in prompts], chat_template)


@dataclass(frozen=True)
class _Asked:
    """One domain at one lambda, and the names of the models that are read there."""

    domain: str
    reward_scale: float
    names: tuple[str, ...]


def _answers(
    config: MergeConfig,
    models: dict[str, str],
    asked: Sequence[_Asked],
    prompts: Mapping[str, Sequence[Sequence[int]]],
    end_ids: Sequence[int],
) -> Iterator[list[list[Decoded]]]:
    """For each of what is asked, the answers to each of the domain's prompts, which are token ids."""
    from merging.exopd.job import scorer_dtype
    from merging.exopd.objective import optimum
    from teachers.scoring.mixture import MixtureDecoder

    hardware, samples = config.hardware, config.probe.samples_per_prompt
    decoder = MixtureDecoder(models, hardware.device, scorer_dtype(config), hardware.probe_cache_bytes)
    longest, seed = config.evaluation_tokens(), config.evaluation.seed
    for one in asked:
        every = [ids for ids in prompts[one.domain] for _ in range(samples)]
        decoded = decoder.decode(one.names, optimum(one.reward_scale), every, longest, end_ids, seed)
        yield [decoded[place : place + samples] for place in range(0, len(decoded), samples)]


def _result(
    config: MergeConfig,
    domain: str,
    scale: float,
    prompts: Sequence[Prompt],
    answers: Sequence[Sequence[Decoded]],
    tokenizer: PreTrainedTokenizerBase,
) -> ProbeResult:
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
