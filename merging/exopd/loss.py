"""The ExOPD loss in verl's distillation-loss registry (entry point `verl.plugins`).

verl loads this module in every process that imports it, which is what a distillation loss needs: its
name is looked up wherever the configuration is built. It holds no other work, so the import is cheap.

Why the loss registry and not an advantage estimator: the estimator that verl calls receives neither the
student's log-probabilities nor our columns, so the objective would have to be split over two places and
verl's reward metrics would show log-probabilities. The loss sees the whole micro-batch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from verl.trainer.distillation.losses import (
    DISTILLATION_LOSS_REGISTRY,
    DistillationLossSettings,
    register_distillation_loss,
)
from verl.utils.metric import AggregationType, Metric
from verl.workers.utils.padding import no_padding_2_padding

from merging.exopd.names import (
    CLIP_COLUMN,
    DISTRIBUTION_LOSS_NAME,
    GATE_COLUMN,
    LOSS_NAME,
    REWARD_WEIGHT_COLUMN,
)
from merging.exopd.objective import (
    added_advantage,
    aggregation_weights,
    clipped_teacher_logp,
    gated_advantage,
    gopd_cost,
)

if TYPE_CHECKING:
    from tensordict import TensorDict
    from verl.workers.config import ActorConfig, DistillationConfig

Columns = dict[str, torch.Tensor]
"""What is known of each sampled token by name: values_BR."""

METRIC_PREFIX = "teacher/"


def exopd_loss(
    config: ActorConfig,
    distillation_config: DistillationConfig,
    model_output: dict[str, Any],
    data: TensorDict,
) -> tuple[torch.Tensor, dict[str, Any]]:
    """Token costs of G-OPD, cost_BR, and per-teacher sums as metrics.

    `data` is one micro-batch, nested (verl's V1 trainer) or padded, with `teacher_logprobs` [B, T, 2] (column
    0 the routed teacher's T, column 1 the reference's B, aligned like verl's model output: position t scores
    token t+1) and the rows' `teacher` and `reward_scale`.
    """
    columns, mask_BR = _token_columns(model_output, data)
    cost_BR = -_verified(columns, data) * _loss_weights(data)
    weights_BR = _pad_importance_weights(data)
    columns["gradient_share"] = (cost_BR * weights_BR).abs() if weights_BR is not None else cost_BR.abs()
    if weights_BR is not None:
        columns["importance_weight"] = weights_BR
        columns["importance_weight_capped"] = (_uncapped_weights(data) > weights_BR * (1 + 1e-6)).float()
    return cost_BR, _metrics(config, distillation_config, data, columns, mask_BR)


def exopd_distribution_loss(
    config: ActorConfig,
    distillation_config: DistillationConfig,
    model_output: dict[str, Any],
    data: TensorDict,
) -> tuple[torch.Tensor, dict[str, Any]]:
    """KL from the student to the objective's optimum at each token, cost_BR.

    A direct loss: verl differentiates it. The engine of `merging.exopd.engine` has computed it
    where the logits were (`model_output["kl_to_optimum"]`); the sampled tokens' T, B and S are metrics.
    """
    columns, mask_BR = _token_columns(model_output, data)
    divergence_BR = no_padding_2_padding(model_output["kl_to_optimum"], data)
    cost_BR = divergence_BR * _loss_weights(data)
    columns["kl_to_optimum"], columns["gradient_share"] = divergence_BR.detach(), cost_BR.detach().abs()
    # measured only: the loss is an expectation over the next token, whoever sampled it
    sampler_logp_BR = _padded(data["rollout_log_probs"])
    student_logp_BR = no_padding_2_padding(model_output["log_probs"], data).detach()
    columns["importance_weight"] = (student_logp_BR - sampler_logp_BR).exp()
    return cost_BR, _metrics(config, distillation_config, data, columns, mask_BR)


def _verified(columns: Columns, data: TensorDict) -> torch.Tensor:
    """The advantages with what the rows' rewards do to them, advantage_BR; adds metrics to the columns."""
    advantage_BR = columns["advantage"]
    if GATE_COLUMN in data:
        reward_B1 = _padded(data["rm_scores"]).sum(dim=1, keepdim=True)
        gates_B1 = _row_numbers(data, GATE_COLUMN).bool()
        columns["gate_open"] = (~gates_B1 | (gated_advantage(advantage_BR, reward_B1) != 0)).float()
        advantage_BR = torch.where(gates_B1, gated_advantage(advantage_BR, reward_B1), advantage_BR)
    if REWARD_WEIGHT_COLUMN in data:
        weights_B1 = _row_numbers(data, REWARD_WEIGHT_COLUMN)
        found_BR = added_advantage(advantage_BR, _padded(data["advantages"]), weights_B1)
        columns["added_advantage"] = (found_BR - advantage_BR).abs()
        advantage_BR = found_BR
    return advantage_BR


def _token_columns(model_output: dict[str, Any], data: TensorDict) -> tuple[Columns, torch.Tensor]:
    """What is known of each sampled token, and mask_BR of the tokens that count."""
    student_logp_BR = no_padding_2_padding(model_output["log_probs"], data)
    scores_BRC = no_padding_2_padding(data["teacher_logprobs"], data).float()
    teacher_logp_BR, reference_logp_BR = scores_BRC[..., 0], scores_BRC[..., 1]
    mask_BR = _padded(data["response_mask"]).bool()
    shapes = {tensor.shape for tensor in (student_logp_BR, teacher_logp_BR, mask_BR)}
    assert len(shapes) == 1, shapes
    reward_scale_B1 = _row_numbers(data, "reward_scale", student_logp_BR.dtype)
    clipped_BR = teacher_logp_BR
    if CLIP_COLUMN in data:
        clipped_BR = clipped_teacher_logp(teacher_logp_BR, reference_logp_BR, _row_numbers(data, CLIP_COLUMN))
    cost_BR = gopd_cost(student_logp_BR, clipped_BR, reference_logp_BR, reward_scale_B1)
    columns = {
        "teacher_logp": teacher_logp_BR,
        "implicit_reward": teacher_logp_BR - reference_logp_BR,
        "student_minus_teacher": student_logp_BR - teacher_logp_BR,
        "student_reference_distance": (student_logp_BR - reference_logp_BR).abs(),
        "advantage": -cost_BR,
        "advantage_squared": cost_BR.square(),
    }
    if CLIP_COLUMN in data:
        columns["log_ratio_clipped"] = (clipped_BR != teacher_logp_BR).float()
    if "entropy" in model_output:  # of the update's own forward pass
        columns["entropy"] = no_padding_2_padding(model_output["entropy"], data)
    elif "entropy" in data:
        columns["entropy"] = _padded(data["entropy"])
    return columns, mask_BR


def _metrics(
    config: ActorConfig,
    distillation_config: DistillationConfig,
    data: TensorDict,
    columns: Columns,
    mask_BR: torch.Tensor,
) -> dict[str, Metric]:
    columns["gradient_share"] = columns["gradient_share"] * aggregation_weights(mask_BR, config.loss_agg_mode)
    finished_B = _finished(data, mask_BR, config)
    ends_B = finished_B * columns.pop("teacher_logp").gather(1, _last_places(mask_BR)).squeeze(1)
    rows = {"finished": finished_B, "end_teacher_logp": ends_B}
    teachers = list(distillation_config.teacher_models)
    sums = _sums_by_teacher(teachers, _rows(data, "teacher"), columns, mask_BR, rows)
    return {name: _summed_over_ranks(value, data["dp_size"]) for name, value in sums.items()}


def _summed_over_ranks(value: float, ranks: int) -> Metric:
    """A rank's share of a sum over the whole batch.

    verl adds up a rank's micro-batches, but takes the mean over the data-parallel ranks also of sums
    (`Metric.aggregate_dp`), as its losses, which are multiplied by the number of ranks, want it. That number
    leaves out the ranks of one Ulysses group: they see the same rows, and verl asks one of them.
    """
    return Metric(AggregationType.SUM, value * ranks)


def _last_places(mask_BR: torch.Tensor) -> torch.Tensor:
    """Place of each response's last token, place_B1."""
    return (mask_BR.sum(dim=1, keepdim=True) - 1).clamp(min=0)


def _loss_weights(data: TensorDict) -> torch.Tensor:
    """Each row's factor of its token losses, weight_B1."""
    return _row_numbers(data, "loss_weight")


def _row_numbers(data: TensorDict, key: str, dtype: torch.dtype | None = None) -> torch.Tensor:
    """One number a row, values_B1."""
    return torch.tensor(_rows(data, key), dtype=dtype, device=data["responses"].device)[:, None]


def _rows(data: TensorDict, key: str) -> list[Any]:
    """One Python value a row, whichever container verl carries it in."""
    values = data[key]
    values = values.tolist() if hasattr(values, "tolist") else list(values)
    return [value.item() if hasattr(value, "item") else value for value in values]


def _padded(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.to_padded_tensor(0) if tensor.is_nested else tensor


def _pad_importance_weights(data: TensorDict) -> torch.Tensor | None:
    """The token weights, weights_BR, left padded in `data` too.

    verl's V1 trainer carries them nested, and its policy-gradient distillation hands them on to a loss
    that multiplies padded tensors; nothing reads them from `data` between this call and that one.
    """
    weights_BR = data.get("rollout_is_weights", None)
    if weights_BR is not None and weights_BR.is_nested:
        weights_BR = weights_BR.to_padded_tensor(0)
        data["rollout_is_weights"] = weights_BR
    return weights_BR


def _uncapped_weights(data: TensorDict) -> torch.Tensor:
    """exp(S_trainer - S_sampler) before the cap, weights_BR."""
    return (_padded(data["old_log_probs"]) - _padded(data["rollout_log_probs"])).exp()


def _finished(data: TensorDict, mask_BR: torch.Tensor, config: ActorConfig) -> torch.Tensor:
    """1.0 for each row whose response ends with an end-of-sequence token, finished_B."""
    last_B = _padded(data["responses"]).gather(1, _last_places(mask_BR)).squeeze(1)
    ends = torch.tensor(_end_tokens(config), device=last_B.device)
    return torch.isin(last_B, ends).float()


def _end_tokens(config: ActorConfig) -> list[int]:
    """End-of-sequence ids of the student (tokenizer's and generation config's)."""
    model = config.model_config
    ids = {model.tokenizer.eos_token_id}
    declared = getattr(getattr(model, "generation_config", None), "eos_token_id", None)
    ids.update(declared if isinstance(declared, list | tuple) else [declared])
    return sorted(token for token in ids if token is not None)


def _sums_by_teacher(
    teachers: list[str],
    routed: list[str],
    columns: Columns,
    mask_BR: torch.Tensor,
    row_values: dict[str, torch.Tensor],
) -> dict[str, float]:
    """Sums, so that any split into micro-batches and ranks adds up to the same means; `row_values`: values_B.

    Every teacher is reported in every micro-batch, also with no row: verl aligns metrics by position.
    """
    sums: dict[str, float] = {}
    for teacher in teachers:
        rows_B = torch.tensor([name == teacher for name in routed], device=mask_BR.device)
        tokens_BR = mask_BR & rows_B[:, None]
        values = {name: values_BR[tokens_BR].sum() for name, values_BR in columns.items()}
        values |= {"tokens": tokens_BR.sum(), "sequences": rows_B.sum()}
        values |= {name: (values_B * rows_B).sum() for name, values_B in row_values.items()}
        for name, value in values.items():
            sums[f"{METRIC_PREFIX}{teacher}/{name}"] = float(value)
    return sums


for _name, _loss in ((LOSS_NAME, exopd_loss), (DISTRIBUTION_LOSS_NAME, exopd_distribution_loss)):
    if _name not in DISTILLATION_LOSS_REGISTRY:
        register_distillation_loss(DistillationLossSettings(names=[_name], use_estimator=True))(_loss)
