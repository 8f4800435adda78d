"""The numbers that `protege init` writes: steps, batches and rates by device, lengths by measurement."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from common.errors import ConfigError
from configs.blocks.experts import RLExpert
from configs.prompt_mode import PLAIN
from configs.schema import Evaluation, Training

if TYPE_CHECKING:
    from pydantic import BaseModel

    from routing.sources.collect import Prompt

TINY_BYTES = 20_000_000
"""Weights of a model so small that it learns at the demonstration's rates."""

FULL_BYTES = 2**28
"""Most that the scorer may send in a step for the estimator `full` to be chosen; small vocabularies fit."""

LENGTHS = {"cuda": (2048, 16384), "cpu": (512, 256)}
"""Tokens of prompt and answer where nothing else is known: the paper's, and what a CPU writes in seconds."""

SHORTEST = 8
"""Fewest tokens of an answer that are worth a training."""


@dataclass(frozen=True)
class Student:
    """What decides the sizes, read from the student's folder; None for what is not known."""

    context: int | None = None
    vocabulary: int | None = None
    weight_bytes: int | None = None

    @classmethod
    def read(cls, folder: Path) -> Student:
        """Raises ConfigError for a folder without a `config.json`."""
        from teachers.models.files import read_json, weight_files

        config = read_json(folder / "config.json")
        size = sum(file.stat().st_size for file in weight_files(folder))
        return cls(_whole(config, "max_position_embeddings"), _whole(config, "vocab_size"), size)


def _whole(config: dict[str, Any], key: str) -> int | None:
    value = config.get(key)
    return value if isinstance(value, int) and not isinstance(value, bool) else None


@dataclass(frozen=True)
class Sizes:
    """Options of the sections, by key."""

    expert: dict[str, int | float]
    training: dict[str, int | float | str]
    evaluation: dict[str, int | float]
    estimator: str


def choose(device: str, gpus: int, domains: int, student: Student, longest: int | None) -> Sizes:
    """Small numbers for a CPU, the paper's for GPUs; `longest` is the longest prompt in tokens."""
    expert, training, evaluation = _small() if device == "cpu" else _papers()
    tiny = student.weight_bytes is not None and student.weight_bytes < TINY_BYTES
    if tiny:
        expert |= {"learning_rate": 3e-4, "warmup_steps": 5}
        training |= {"learning_rate": 7e-4, "warmup_steps": 5}
    training["prompts_per_step"] = max(training["prompts_per_step"], domains)
    for part in (expert, training):
        part["prompts_per_step"] = _divisible(part["prompts_per_step"], part["samples_per_prompt"], gpus)
    prompt, response = lengths(device, longest, student.context)
    training |= {"max_prompt_tokens": prompt, "max_response_tokens": response}
    rollouts = training["prompts_per_step"] * training["samples_per_prompt"]
    sent = None if student.vocabulary is None else 4 * rollouts * response * student.vocabulary
    estimator = "full" if sent is not None and sent <= FULL_BYTES else "sampled"
    return Sizes(expert, training, evaluation, estimator)


def lengths(device: str, longest: int | None, context: int | None) -> tuple[int, int]:
    """Limits of prompt and answer in tokens: what is usual on the device, as the student's context allows.

    Raises ConfigError where the context leaves no room for an answer.
    """
    prompt, response = LENGTHS[device]
    if longest is not None:
        measured = _up(longest, 8)
        prompt = measured if device == "cpu" else max(prompt, measured)
        if context is not None and prompt + response + 1 > context:
            prompt = measured
    if context is not None:
        response = min(response, (context - prompt - 1) // 8 * 8)
    if response < SHORTEST:
        raise ConfigError(
            f"the student's context of {context} tokens leaves no room for answers to prompts of {prompt} "
            "tokens; shorten the prompts, or choose another student"
        )
    return prompt, response


def longest_prompt(prompts: Sequence[Prompt], student: Path) -> int | None:
    """Tokens of the longest prompt, as the student reads it; None for a student without a chat template.

    The config that `protege init` writes has no modes, so every prompt is asked as it stands.
    """
    from routing.lengths import longest_prompts
    from routing.routers.decisions import RoutedPrompt
    from teachers.models.fingerprint import chat_template_sha256

    if chat_template_sha256(student) is None or not prompts:
        return None
    together = [RoutedPrompt(prompt, "all", "to be measured") for prompt in prompts]
    ((tokens, _),) = longest_prompts(together, student, {"all": [PLAIN]}).values()
    return tokens


def _small() -> Sequence[dict[str, Any]]:
    return (
        {"steps": 30, "prompts_per_step": 32, "samples_per_prompt": 8, "learning_rate": 1e-5},
        {
            "steps": 40, "prompts_per_step": 64, "samples_per_prompt": 1, "learning_rate": 1e-5,
            "schedule": "cosine",
        },
        {"samples_per_problem": 4, "temperature": 1.0},
    )  # fmt: skip


def _papers() -> Sequence[dict[str, Any]]:
    """The class defaults, which are the paper's."""
    return (
        _defaults(RLExpert, "steps", "prompts_per_step", "samples_per_prompt", "learning_rate"),
        _defaults(
            Training, "steps", "prompts_per_step", "samples_per_prompt", "learning_rate", "schedule"
        ),
        _defaults(Evaluation, "samples_per_problem", "temperature"),
    )  # fmt: skip


def _defaults(model: type[BaseModel], *names: str) -> dict[str, Any]:
    return {name: model.model_fields[name].default for name in names}


def _divisible(prompts: int, samples: int, devices: int) -> int:
    """The least number of prompts, not below the given, whose rollouts divide over the devices."""
    return next(n for n in range(prompts, prompts + devices + 1) if n * samples % devices == 0)


def _up(number: int, step: int) -> int:
    return -(-number // step) * step
