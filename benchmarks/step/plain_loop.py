"""On-policy distillation as a plain loop of transformers and torch, with nothing of this project in it.

The baseline of `python -m benchmarks.step`: generate, read teacher and reference, KL to the optimum over the
whole vocabulary, AdamW. Run as a program it takes its settings as JSON, and prints a line of JSON a step.
"""

from __future__ import annotations

import json
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

PARTS = ("rollout", "scoring", "update")


@dataclass(frozen=True)
class Settings:
    """What the loop trains, as `merge` would."""

    student: str
    teachers: dict[str, str]
    """Model folder by domain."""
    steps: list[list[tuple[str, str]]]
    """(domain, prompt) of every rollout of every step."""
    max_response_tokens: int
    learning_rate: float
    reward_scale: float
    rows_per_pass: int
    """Sequences that go through a model together in scoring and update."""
    gradient_clip: float = 1.0
    weight_decay: float = 0.01


@dataclass
class Loop:
    """The loop's models and optimizer."""

    settings: Settings
    seconds: dict[str, float] = field(default_factory=dict)
    """Of the current step, by part."""

    def __post_init__(self) -> None:
        import torch
        from transformers import AutoModelForCausalLM, AutoTokenizer

        def model(path: str) -> Any:
            return AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32).eval()

        self.student, self.reference = model(self.settings.student), model(self.settings.student)
        self.teachers = {domain: model(path) for domain, path in self.settings.teachers.items()}
        self.tokenizer = AutoTokenizer.from_pretrained(self.settings.student, padding_side="left")
        self.optimizer = torch.optim.AdamW(
            self.student.parameters(), self.settings.learning_rate, weight_decay=self.settings.weight_decay
        )

    def step(self, rows: list[tuple[str, str]]) -> dict[str, float]:
        """One update; returns seconds by part, the processor's seconds, response tokens and the loss."""
        self.seconds, cpu = {}, time.process_time()
        began = time.perf_counter()
        ids_BT, prompt_tokens, responses_BR = self.rollout([prompt for _, prompt in rows])
        self._took("rollout", began)
        began = time.perf_counter()
        targets = self.targets([domain for domain, _ in rows], ids_BT, prompt_tokens)
        self._took("scoring", began)
        began = time.perf_counter()
        loss = self.update(ids_BT, prompt_tokens, responses_BR, targets)
        self._took("update", began)
        tokens = int(responses_BR.sum())
        return self.seconds | {"cpu": time.process_time() - cpu, "tokens": tokens, "loss": loss}

    def rollout(self, prompts: list[str]) -> tuple[Tensor, int, Tensor]:
        """Sampled answers: ids_BT padded on the left, tokens of the padded prompts, mask_BR of the answers up
        to their end token."""
        import torch

        texts = [
            self.tokenizer.apply_chat_template(
                [{"role": "user", "content": prompt}], add_generation_prompt=True, tokenize=False
            )
            for prompt in prompts
        ]
        inputs = self.tokenizer(texts, return_tensors="pt", padding=True, add_special_tokens=False)
        with torch.inference_mode():
            ids_BT = self.student.generate(
                input_ids=inputs["input_ids"],
                attention_mask=inputs["attention_mask"],
                do_sample=True,
                temperature=1.0,
                top_k=0,
                top_p=1.0,
                max_new_tokens=self.settings.max_response_tokens,
            )
        width = inputs["input_ids"].shape[1]
        answers_BR = ids_BT[:, width:]
        ended_BR = (answers_BR == self.tokenizer.eos_token_id).cumsum(1)
        responses_BR = (ended_BR - (answers_BR == self.tokenizer.eos_token_id).long()) == 0
        return ids_BT.clone(), width, responses_BR

    def targets(self, domains: list[str], ids_BT: Tensor, prompt_tokens: int) -> list[Tensor]:
        """log q_RV of every row: the objective's optimum of teacher and reference."""
        import torch

        scale, found = self.settings.reward_scale, [torch.empty(0)] * len(domains)
        with torch.inference_mode():
            for domain, teacher in self.teachers.items():
                own = [place for place, name in enumerate(domains) if name == domain]
                for start in range(0, len(own), self.settings.rows_per_pass):
                    places = own[start : start + self.settings.rows_per_pass]
                    teacher_BRV, reference_BRV = (
                        self._logp(model, ids_BT[places], prompt_tokens)
                        for model in (teacher, self.reference)
                    )
                    q_BRV = (scale * teacher_BRV + (1 - scale) * reference_BRV).log_softmax(-1)
                    for place, q_RV in zip(places, q_BRV, strict=True):
                        found[place] = q_RV
        return found

    def update(
        self, ids_BT: Tensor, prompt_tokens: int, responses_BR: Tensor, targets: list[Tensor]
    ) -> float:
        """One AdamW step on the mean over sequences of the mean KL(student || q) of a sequence's tokens."""
        import torch

        total, rows = 0.0, len(ids_BT)
        for start in range(0, rows, self.settings.rows_per_pass):
            some = slice(start, start + self.settings.rows_per_pass)
            student_BRV = self._logp(self.student, ids_BT[some], prompt_tokens)
            kl_BR = (student_BRV.exp() * (student_BRV - torch.stack(targets[some]))).sum(-1)
            mask_BR = responses_BR[some]
            loss = ((kl_BR * mask_BR).sum(1) / mask_BR.sum(1)).sum() / rows
            loss.backward()
            total += loss.item()
        torch.nn.utils.clip_grad_norm_(self.student.parameters(), self.settings.gradient_clip)
        self.optimizer.step()
        self.optimizer.zero_grad()
        return total

    def _logp(self, model: Any, ids_BT: Tensor, prompt_tokens: int) -> Tensor:
        """logp_BRV of the answers' tokens."""
        mask_BT = ids_BT != self.tokenizer.pad_token_id
        positions_BT = (mask_BT.cumsum(1) - 1).clamp(min=0)
        kept = ids_BT.shape[1] - prompt_tokens + 1
        logits = model(
            input_ids=ids_BT,
            attention_mask=mask_BT,
            position_ids=positions_BT,
            logits_to_keep=kept,
            use_cache=False,
        ).logits
        return logits[:, :-1].log_softmax(-1)

    def _took(self, part: str, began: float) -> None:
        self.seconds[part] = time.perf_counter() - began


def main() -> None:
    """Trains; the settings are in the file that is named on the command line."""
    began = time.time()
    settings = Settings(**json.loads(Path(sys.argv[1]).read_text(encoding="utf-8")))
    loop = Loop(settings)
    print(json.dumps({"start": time.time() - began}), flush=True)
    for rows in settings.steps:
        print(json.dumps(loop.step([(domain, prompt) for domain, prompt in rows])), flush=True)


if __name__ == "__main__":
    main()
