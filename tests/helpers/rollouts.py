"""Rollouts run by an agent-loop worker without Ray: a stand-in answers for the engine."""

from __future__ import annotations

import asyncio
import json
from typing import Any

from verl.utils.tensordict_utils import assign_non_tensor_data, get_tensordict
from verl.workers.rollout.llm_server import LLMServerClient
from verl.workers.rollout.replica import TokenOutput

PROMPTS = ("Math: 12+70", "Math: 3*4+11", "Math: 1+1")


class Engine(LLMServerClient):
    """Answers a prompt with tokens of its own; may fail at the second rollout of the second prompt."""

    def __init__(self, config: Any, fails: bool = False) -> None:
        super().__init__(config)
        self.fails, self.asked, self.seen = fails, [], {}
        self.answered = 0
        self.prompts: list[list[int]] = []

    async def generate(self, request_id, *, prompt_ids, sampling_params, **_kwargs):
        self.asked.append(sampling_params)
        self.prompts.append(list(prompt_ids))
        length = len(prompt_ids)
        self.seen[length] = self.seen.get(length, 0) + 1
        if self.fails and length == 13 and self.seen[length] == 2:
            raise RuntimeError("the engine is gone")
        await asyncio.sleep(0.01 * length)
        self.answered += 1
        tokens = [20 + length] * (length - 6) + [1]
        steps = {"global_steps": 4, "min_global_steps": 4, "max_global_steps": 4}
        return TokenOutput(token_ids=tokens, log_probs=[-0.5] * len(tokens), extra_fields=steps)


def roll_out(make_worker: Any, config: Any, fails: bool = False) -> Engine:
    """Runs all prompts to their end; `make_worker` is called as a worker's class. Returns the engine."""

    async def run():
        engine = Engine(config, fails)
        worker = make_worker(config, llm_client=engine)
        rows = get_tensordict(
            {
                "raw_prompt": [[{"role": "user", "content": text}] for text in PROMPTS],
                "uid": [f"prompt{number}" for number in range(len(PROMPTS))],
                "index": list(range(len(PROMPTS))),
                "data_source": ["math"] * 3, "ability": ["math"] * 3, "teacher": ["math"] * 3,
                "reward_scale": [1.25] * 3,
                "reward_model": [{"style": "rule", "ground_truth": json.dumps("82")}] * 3,
                "extra_info": [{"index": 0, "reward": "math"}] * 3,
            }
        )  # fmt: skip
        assign_non_tensor_data(rows, "global_steps", 4)
        await worker.generate_sequences(rows)
        await asyncio.gather(*worker.background_tasks)
        return engine

    return asyncio.run(run())
