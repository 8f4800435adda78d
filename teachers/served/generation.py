"""Answers of a served model to a benchmark's problems, as `eval.generation` has them of a folder's model."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from eval.generation.generate import sample_seed
from eval.records import Completion, Mode, Problem
from teachers.served.client import ServedClient, ServedError, ServedModel

PLAIN_SAMPLING = {"top_p": 1.0, "top_k": 0, "min_p": 0.0, "repetition_penalty": 1.0}
"""Sent along, because a server else samples as the model's generation_config.json says, and a worker of ours
does not."""


@dataclass(frozen=True)
class ServedAnswers:
    """A served model under test; it is prompted by the student's tokenizer and chat template."""

    served: ServedModel
    digest: str
    """Of the model, as the server told it."""
    context: int | None
    """Longest prompt with its answer, in tokens; None where the server states none."""
    student: str

    def generate(
        self,
        problems: Sequence[Problem],
        *,
        mode: Mode,
        n: int,
        temperature: float,
        seed: int,
        max_tokens: int,
        max_model_len: int,
        chat_template: Mapping[str, Any],
        on_progress: Callable[[int], None] = lambda done: None,
    ) -> dict[str, list[Completion]]:
        """As `eval.generation.generate.Generator.generate`, with these arguments of the chat template; raises
        ServedError."""
        from transformers import AutoTokenizer

        tokenizer = AutoTokenizer.from_pretrained(self.student)
        encode: Callable[..., Any] = tokenizer.apply_chat_template
        bodies, owners = [], []
        for problem in problems:
            ids = encode(
                list(problem.messages), add_generation_prompt=True, return_dict=True, **chat_template
            )["input_ids"]
            room = max_model_len - len(ids)
            if room < 1:
                raise ServedError(
                    f"{self.served.named()}: problem {problem.id!r} has {len(ids)} prompt tokens, which "
                    f"leaves no room for an answer in the context of {max_model_len}"
                )
            own = {"model": self.served.model, "prompt": ids, "max_tokens": min(room, max_tokens)}
            for index in range(n):
                drawn = {"temperature": temperature, "seed": sample_seed(seed, problem.id, index)}
                bodies.append(
                    {**own, **PLAIN_SAMPLING, **({"temperature": 0.0} if mode == "greedy" else drawn)}
                )
                owners.append(problem.id)
        found: dict[str, list[Completion]] = {problem.id: [] for problem in problems}
        for owner, answer in zip(owners, asyncio.run(self._ask(bodies, on_progress)), strict=True):
            found[owner].append(answer)
        return found

    async def _ask(
        self, bodies: Sequence[Mapping[str, Any]], on_progress: Callable[[int], None]
    ) -> list[Completion]:
        done = 0

        async def one(client: ServedClient, body: Mapping[str, Any]) -> Completion:
            nonlocal done
            answer = await client.complete(body)
            done += 1
            on_progress(done)
            return answer

        async with ServedClient(self.served) as client:
            return await asyncio.gather(*(one(client, body) for body in bodies))
