"""The ExOPD loss in verl's distillation-loss registry (entry point `verl.plugins`).

verl loads this module in every process that imports it, which is what a distillation loss needs: its
name is looked up wherever the configuration is built. It holds no other work, so the import is cheap.

Why the loss registry and not an advantage estimator: the estimator that verl calls receives neither the
student's log-probabilities nor our columns, so the objective would have to be split over two places and
verl's reward metrics would show log-probabilities. The loss sees the whole micro-batch.
"""

from __future__ import annotations

from typing import Any

import torch
from verl.trainer.distillation.losses import (
    DISTILLATION_LOSS_REGISTRY,
    DistillationLossSettings,
    register_distillation_loss,
)
from verl.utils.metric import AggregationType, Metric
from verl.workers.utils.padding import no_padding_2_padding

from merging.names import DISTRIBUTION_LOSS_NAME, LOSS_NAME
from merging.objective import gopd_cost

METRIC_PREFIX = "teacher/"


def exopd_loss(config, distillation_config, model_output: dict, data) -> tuple[torch.Tensor, dict[str, Any]]:
    """Token costs of G-OPD, [sequences, response tokens], and per-teacher sums as metrics.

    `data` is one micro-batch, nested (verl's V1 trainer) or padded, with `teacher_logprobs`
    [sequences, tokens, 2] (column 0 the routed teacher's T, column 1 the reference's B, aligned like
    verl's model output: position t scores token t+1) and the rows' `teacher` and `reward_scale`.
    """
    columns, mask = _token_columns(model_output, data)
    cost = -columns["advantage"] * _loss_weights(data)
    weights = _pad_importance_weights(data)
    columns["gradient_share"] = (cost * weights).abs() if weights is not None else cost.abs()
    if weights is not None:
        columns["importance_weight"] = weights
        columns["importance_weight_capped"] = (_uncapped_weights(data) > weights * (1 + 1e-6)).float()
    return cost, _metrics(config, distillation_config, data, columns, mask)


def exopd_distribution_loss(
    config, distillation_config, model_output: dict, data
) -> tuple[torch.Tensor, dict[str, Any]]:
    """KL from the student to the objective's optimum at each token, [sequences, response tokens].

    A direct loss: verl differentiates it. The engine of `merging.distribution_engine` has computed it
    where the logits were (`model_output["kl_to_optimum"]`); the sampled tokens' T, B and S are metrics.
    """
    columns, mask = _token_columns(model_output, data)
    divergence = no_padding_2_padding(model_output["kl_to_optimum"], data)
    cost = divergence * _loss_weights(data)
    columns["kl_to_optimum"], columns["gradient_share"] = divergence.detach(), cost.detach().abs()
    # measured only: the loss is an expectation over the next token, whoever sampled it
    sampler_logp = _padded(data["rollout_log_probs"])
    student_logp = no_padding_2_padding(model_output["log_probs"], data).detach()
    columns["importance_weight"] = (student_logp - sampler_logp).exp()
    return cost, _metrics(config, distillation_config, data, columns, mask)


def _token_columns(model_output: dict, data) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
    """What is known of each sampled token, [sequences, response tokens], and which tokens count."""
    student_logp = no_padding_2_padding(model_output["log_probs"], data)
    scores = no_padding_2_padding(data["teacher_logprobs"], data).float()
    teacher_logp, reference_logp = scores[..., 0], scores[..., 1]
    mask = _padded(data["response_mask"]).bool()
    assert student_logp.shape == teacher_logp.shape == mask.shape, (
        student_logp.shape,
        teacher_logp.shape,
        mask.shape,
    )
    reward_scale = torch.tensor(
        _rows(data, "reward_scale"), dtype=student_logp.dtype, device=student_logp.device
    )
    cost = gopd_cost(student_logp, teacher_logp, reference_logp, reward_scale[:, None])
    columns = {
        "teacher_logp": teacher_logp,
        "implicit_reward": teacher_logp - reference_logp,
        "student_minus_teacher": student_logp - teacher_logp,
        "student_reference_distance": (student_logp - reference_logp).abs(),
        "advantage": -cost,
        "advantage_squared": cost.square(),
    }
    if "entropy" in model_output:  # of the update's own forward pass
        columns["entropy"] = no_padding_2_padding(model_output["entropy"], data)
    elif "entropy" in data:
        columns["entropy"] = _padded(data["entropy"])
    return columns, mask


def _metrics(config, distillation_config, data, columns: dict[str, torch.Tensor], mask: torch.Tensor) -> dict:
    finished = _finished(data, mask, config)
    ends = finished * columns.pop("teacher_logp").gather(1, _last_places(mask)).squeeze(1)
    rows = {"finished": finished, "end_teacher_logp": ends}
    teachers = list(distillation_config.teacher_models)
    return _sums_by_teacher(teachers, _rows(data, "teacher"), columns, mask, rows)


def _last_places(mask: torch.Tensor) -> torch.Tensor:
    """Place of each response's last token, [sequences, 1]."""
    return (mask.sum(dim=1, keepdim=True) - 1).clamp(min=0)


def _loss_weights(data) -> torch.Tensor:
    """Each row's factor of its token losses, [sequences, 1]."""
    return torch.tensor(_rows(data, "loss_weight"), device=data["responses"].device)[:, None]


def _rows(data, key: str) -> list[Any]:
    """One Python value a row, whichever container verl carries it in."""
    values = data[key]
    values = values.tolist() if hasattr(values, "tolist") else list(values)
    return [value.item() if hasattr(value, "item") else value for value in values]


def _padded(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.to_padded_tensor(0) if tensor.is_nested else tensor


def _pad_importance_weights(data) -> torch.Tensor | None:
    """The token weights, [sequences, response tokens], left padded in `data` too.

    verl's V1 trainer carries them nested, and its policy-gradient distillation hands them on to a loss
    that multiplies padded tensors; nothing reads them from `data` between this call and that one.
    """
    weights = data.get("rollout_is_weights", None)
    if weights is not None and weights.is_nested:
        weights = weights.to_padded_tensor(0)
        data["rollout_is_weights"] = weights
    return weights


def _uncapped_weights(data) -> torch.Tensor:
    """exp(S_trainer - S_sampler) before the cap, [sequences, response tokens]."""
    return (_padded(data["old_log_probs"]) - _padded(data["rollout_log_probs"])).exp()


def _finished(data, mask: torch.Tensor, config) -> torch.Tensor:
    """1.0 for each row whose response ends with an end-of-sequence token, [sequences]."""
    responses = _padded(data["responses"])
    last = responses.gather(1, _last_places(mask)).squeeze(1)
    ends = torch.tensor(_end_tokens(config), device=last.device)
    return torch.isin(last, ends).float()


def _end_tokens(config) -> list[int]:
    """End-of-sequence ids of the student (tokenizer's and generation config's)."""
    model = config.model_config
    ids = {model.tokenizer.eos_token_id}
    declared = getattr(getattr(model, "generation_config", None), "eos_token_id", None)
    ids.update(declared if isinstance(declared, list | tuple) else [declared])
    return sorted(token for token in ids if token is not None)


def _sums_by_teacher(
    teachers: list[str],
    routed: list[str],
    columns: dict[str, torch.Tensor],
    mask: torch.Tensor,
    row_values: dict[str, torch.Tensor],
) -> dict[str, Metric]:
    """Sums, so that any split into micro-batches and ranks adds up to the same means.

    Every teacher is reported in every micro-batch, also with no row: verl aligns metrics by position.
    """
    sums: dict[str, Metric] = {}
    for teacher in teachers:
        rows = torch.tensor([name == teacher for name in routed], device=mask.device)
        tokens = mask & rows[:, None]
        values = {name: column[tokens].sum() for name, column in columns.items()}
        values |= {"tokens": tokens.sum(), "sequences": rows.sum()}
        values |= {name: (value * rows).sum() for name, value in row_values.items()}
        for name, value in values.items():
            sums[f"{METRIC_PREFIX}{teacher}/{name}"] = Metric(AggregationType.SUM, float(value))
    return sums


for _name, _loss in ((LOSS_NAME, exopd_loss), (DISTRIBUTION_LOSS_NAME, exopd_distribution_loss)):
    if _name not in DISTILLATION_LOSS_REGISTRY:
        register_distillation_loss(DistillationLossSettings(names=[_name], use_estimator=True))(_loss)
