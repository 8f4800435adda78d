"""Rollouts with made-up log-probabilities, in the micro-batches that verl hands to a loss."""

from __future__ import annotations

from types import SimpleNamespace

import torch
from tensordict import NonTensorData, NonTensorStack, TensorDict

LENGTHS = [(3, 4), (2, 2), (4, 3)]
"""Prompt and response tokens of three rollouts."""
TEACHERS = ["math", "code", "math"]
WEIGHTS = {"math": 1.0, "code": 3.0}
EOS = 9


def jagged(rows):
    """A nested tensor of rows of their own lengths."""
    return torch.nested.as_nested_tensor(list(rows), layout=torch.jagged)


def rollouts(reward_scales, seed=0):
    """Log-probabilities by rollout, aligned like a model's output: position t scores token t+1."""
    generator = torch.Generator().manual_seed(seed)
    rows = []
    for (prompt, response), teacher, scale in zip(LENGTHS, TEACHERS, reward_scales, strict=True):
        total = prompt + response
        logp = -torch.rand(4, total, generator=generator).double() * 3 - 0.1
        tokens = torch.randint(0, EOS, (total,), generator=generator)
        rows.append(
            SimpleNamespace(prompt=prompt, response=response, teacher=teacher, scale=scale, tokens=tokens,
                            student=logp[0], teacher_logp=logp[1], reference=logp[2], sampler=logp[3])
        )  # fmt: skip
    rows[0].tokens[-1] = EOS
    return rows


def response_part(row, values):
    """The positions that score the response, as verl slices them."""
    total = row.prompt + row.response
    return values[total - row.response - 1 : total - 1]


def micro_batch(rows, weights=None, old=None, dp_size=1):
    """verl's nested micro-batch and model output for some of the rollouts, on one of `dp_size` ranks."""
    student = [row.student.clone().requires_grad_() for row in rows]
    old_logp = [response_part(row, row.student) for row in rows] if old is None else old
    data = TensorDict(
        {
            "prompts": jagged(row.tokens[: row.prompt] for row in rows),
            "responses": jagged(row.tokens[row.prompt :] for row in rows),
            "response_mask": jagged(torch.ones(row.response, dtype=torch.int64) for row in rows),
            "old_log_probs": jagged(old_logp),
            "rollout_log_probs": jagged(response_part(row, row.sampler) for row in rows),
            "teacher_logprobs": jagged(
                torch.stack([row.teacher_logp, row.reference], dim=-1) for row in rows
            ),
        },
        batch_size=len(rows),
    )
    if weights is not None:
        data["rollout_is_weights"] = jagged(weights)
    data["teacher"] = NonTensorStack(*[row.teacher for row in rows])
    data["reward_scale"] = NonTensorStack(*[row.scale for row in rows])
    data["loss_weight"] = NonTensorStack(*[WEIGHTS[row.teacher] for row in rows])
    for key, value in {"dp_size": dp_size, "batch_num_tokens": None, "global_batch_size": 3}.items():
        data[key] = NonTensorData(value)
    return data, {"log_probs": jagged(student)}, student


def actor_config(aggregation="seq-mean-token-mean"):
    """What a loss reads of verl's configuration of the actor."""
    model = SimpleNamespace(tokenizer=SimpleNamespace(eos_token_id=EOS), generation_config=None)
    return SimpleNamespace(
        loss_agg_mode=aggregation, global_batch_info={}, loss_scale_factor=None, model_config=model
    )


def over_ranks(parts):
    """The metrics by teacher of all ranks, put together as verl's `TrainingWorker.train_mini_batch` does."""
    from verl.utils.metric import Metric

    names = [name for name in parts[0] if name.startswith("teacher/")]
    return {name: Metric.aggregate_dp([part[name] for part in parts]) for name in names}
