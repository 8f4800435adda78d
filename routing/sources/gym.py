"""Prompts that the package reasoning-gym generates."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from common.errors import ConfigError
from configs.blocks.gym import generate
from configs.blocks.prompts import ReasoningGymPrompts


def read_reasoning_gym(cfg: ReasoningGymPrompts) -> Iterator[tuple[int, dict[str, Any]]]:
    """The generated rows, numbered from 1; raises ConfigError for a task or parameter that is not there."""
    try:
        rows = generate(cfg)
    except ConfigError as error:
        raise ConfigError(*(f"prompts: {problem}" for problem in error.problems)) from None
    yield from enumerate(rows, start=1)
