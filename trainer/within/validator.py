"""Validations where the training runs: its engines answer, its workers judge."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from trainer.validation import (
    GREEDY,
    SAMPLED,
    Score,
    Validated,
    Validation,
    keep_best,
    read_validations,
    remember,
    stopped_at,
)
from trainer.within.agent_loop import Answered, Asked, LoudAgentLoopManager

Key = tuple[str, str]
"""Domain and decoding."""


class Validator:
    """Validates the weights that the engines have, each step's once over all attempts at the training."""

    def __init__(
        self, asked: Validation, checkpoints: Path, steps: int, manager: LoudAgentLoopManager
    ) -> None:
        import pyarrow.parquet

        self.asked, self.steps, self.manager = asked, steps, manager
        self.checkpoints, self.folder = checkpoints, checkpoints.parent
        self.rows: list[dict[str, Any]] = pyarrow.parquet.read_table(asked.prompts).to_pylist()
        self.done = read_validations(self.folder)

    def wants(self, step: int) -> bool:
        """Whether the weights after this step are still to be validated."""
        return self.asked.is_due(step, self.steps) and all(one.step != step for one in self.done)

    @property
    def has_lost_patience(self) -> bool:
        """Whether the training ends here, before its last step."""
        return stopped_at(self.done, self.asked.patience) is not None

    def validate(self, step: int) -> Validated:
        """All prompts in both decodings, remembered as the validation of this step."""
        began = time.perf_counter()
        keys, asked = map(list, zip(*self._asked(), strict=True))
        answers: dict[Key, list[Answered]] = defaultdict(list)
        for key, answer in zip(keys, self.manager.answer(asked), strict=True):
            answers[key].append(answer)
        found = Validated(step, time.perf_counter() - began, self._scores(answers))
        remember(self.folder, found)
        self.done.append(found)
        if self.asked.keep_best:
            keep_best(self.folder, self.checkpoints)
        return found

    def _asked(self) -> Iterator[tuple[Key, Asked]]:
        """Random numbers are an answer's own, the same at every validation: differences are the weights'."""
        for place, row in enumerate(self.rows):
            domain = row["data_source"]
            yield (domain, GREEDY), Asked(row=row, sampling={"temperature": 0.0})
            for number in range(self.asked.samples):
                seed = (self.asked.seed + place * self.asked.samples + number) % 2**31
                yield (domain, SAMPLED), Asked(row=row, sampling={"temperature": 1.0, "seed": seed})

    def _scores(self, answers: Mapping[Key, list[Answered]]) -> dict[str, dict[str, Score]]:
        scores: dict[str, dict[str, Score]] = defaultdict(dict)
        for (domain, decoding), own in answers.items():
            prompts = len(own) // (1 if decoding == GREEDY else self.asked.samples)
            scores[domain][decoding] = score_of(own, prompts)
        return dict(scores)


def score_of(answers: list[Answered], prompts: int) -> Score:
    """Means over the answers to so many prompts; of an unfinished answer too the reward says what it is."""
    count = len(answers)
    return Score(
        accuracy=sum(answer.score for answer in answers) / count,
        n=prompts,
        answers=count,
        length=sum(answer.tokens for answer in answers) / count,
        finish_rate=sum(answer.finished for answer in answers) / count,
    )
