"""The loss as verl calls it: nested and padded batches, several domains, micro-batches, and verl's own k1."""

from types import SimpleNamespace

import pytest
import torch
from tensordict import NonTensorData, TensorDict

from tests.helpers.loss_batches import WEIGHTS, actor_config, jagged, micro_batch, response_part, rollouts

pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture(scope="module")
def verl():
    """verl's distillation loss and its configuration class; importing registers ours."""
    from verl.trainer.distillation import losses
    from verl.workers.config import DistillationLossConfig

    import merging.exopd.loss  # noqa: F401

    return SimpleNamespace(losses=losses, config=DistillationLossConfig)


def padded(data):
    """The same micro-batch in verl's padded layout: prompts left, responses right."""
    prompts, responses = data["prompts"].to_padded_tensor(0), data["responses"].to_padded_tensor(0)
    wide = [torch.nn.functional.pad(p, (prompts.shape[1] - len(p), 0)) for p in data["prompts"].unbind()]
    mask_p = torch.stack([torch.nn.functional.pad(torch.ones(len(p)), (prompts.shape[1] - len(p), 0))
                          for p in data["prompts"].unbind()])  # fmt: skip
    mask = data["response_mask"].to_padded_tensor(0)
    result = TensorDict(
        {
            "prompts": torch.stack(wide),
            "responses": responses,
            "response_mask": mask,
            "attention_mask": torch.cat([mask_p.long(), mask], dim=1),
            "old_log_probs": data["old_log_probs"].to_padded_tensor(0),
            "rollout_log_probs": data["rollout_log_probs"].to_padded_tensor(0),
            "teacher_logprobs": data["teacher_logprobs"],
        },
        batch_size=len(data),
    )
    for key in ("teacher", "reward_scale", "loss_weight"):
        result[key] = data.get(key)
    for key in ("dp_size", "batch_num_tokens", "global_batch_size"):
        result[key] = NonTensorData(data[key])
    return result


def distillation_config(verl, mode):
    loss = verl.config(loss_mode=mode, use_policy_gradient=True, use_task_rewards=False,
                       loss_max_clamp=None, log_prob_min_clamp=None)  # fmt: skip
    return SimpleNamespace(distillation_loss=loss, teacher_models={"math": None, "code": None})


def loss_of(verl, rows, mode="exopd", weights=None, as_padded=False, data_hook=lambda data: data):
    data, output, leaves = micro_batch(rows, weights)
    data = data_hook(padded(data) if as_padded else data)
    loss, metrics = verl.losses.distillation_loss(
        actor_config(), distillation_config(verl, mode), output, data
    )
    gradients = torch.autograd.grad(loss, leaves)
    return loss.detach(), torch.cat(gradients), metrics


def expected_gradient(rows, weights=None):
    """d loss / d S by hand: -A*w / (response tokens * sequences of the batch) at response positions."""
    pieces = []
    for index, row in enumerate(rows):
        s, t, b = (response_part(row, values) for values in (row.student, row.teacher_logp, row.reference))
        advantage = row.scale * (t - b) - (s - b)
        weight = WEIGHTS[row.teacher] * (weights[index] if weights is not None else 1.0)
        gradient = torch.zeros(row.prompt + row.response, dtype=torch.float64)
        gradient[row.prompt - 1 : -1] = -advantage * weight / row.response / 3
        pieces.append(gradient)
    return torch.cat(pieces)


def test_gradient_is_the_objectives_with_a_lambda_of_its_own_for_each_domain(verl):
    rows = rollouts([1.25, 0.5, 1.25])
    _, gradient, _ = loss_of(verl, rows)
    torch.testing.assert_close(gradient, expected_gradient(rows), rtol=1e-5, atol=1e-7)


def test_lambda_one_equals_verls_own_k1_in_loss_and_gradient(verl, monkeypatch):
    monkeypatch.setitem(WEIGHTS, "code", 1.0)
    rows = rollouts([1.0, 1.0, 1.0])
    ours_loss, ours_gradient, _ = loss_of(verl, rows)
    one_column = lambda data: data.set("teacher_logprobs", jagged(r.teacher_logp[:, None] for r in rows))  # noqa: E731
    k1_loss, k1_gradient, _ = loss_of(verl, rows, mode="k1", data_hook=one_column)
    torch.testing.assert_close(ours_loss, k1_loss, rtol=1e-6, atol=1e-8)
    torch.testing.assert_close(ours_gradient, k1_gradient, rtol=1e-6, atol=1e-8)
    _, extrapolated, _ = loss_of(verl, rollouts([1.25] * 3))
    assert (extrapolated - k1_gradient).abs().max() > 1e-3


def test_at_lambda_zero_the_teachers_column_may_repeat_the_references(verl):
    """As the agent loop has it, which does not read the teacher there."""
    rows = rollouts([0.0, 0.0, 0.0])
    read = loss_of(verl, rows)
    torch.testing.assert_close(read[1], expected_gradient(rows), rtol=1e-5, atol=1e-7)
    for row in rows:
        row.teacher_logp = row.reference
    repeated = loss_of(verl, rows)
    torch.testing.assert_close(repeated[0], read[0])
    torch.testing.assert_close(repeated[1], read[1])


def test_padded_batches_give_the_same_loss_and_gradient_as_nested_ones(verl):
    rows = rollouts([1.25, 0.5, 1.25])
    nested, padded_batch = loss_of(verl, rows), loss_of(verl, rows, as_padded=True)
    torch.testing.assert_close(nested[0], padded_batch[0])
    torch.testing.assert_close(nested[1], padded_batch[1])


def test_micro_batches_of_several_domains_add_up_to_the_whole_batch(verl):
    rows = rollouts([1.25, 0.5, 1.25])
    whole_loss, whole_gradient, whole = loss_of(verl, rows)
    parts = [loss_of(verl, part) for part in (rows[:1], rows[1:])]
    torch.testing.assert_close(sum(part[0] for part in parts), whole_loss)
    torch.testing.assert_close(torch.cat([part[1] for part in parts]), whole_gradient)
    for key, metric in whole.items():
        if key.startswith("teacher/"):
            assert sum(part[2][key].aggregate() for part in parts) == pytest.approx(
                metric.aggregate(), rel=1e-6
            )


def test_gradient_shares_are_those_of_the_aggregated_loss(verl):
    rows = rollouts([1.25, 0.5, 1.25])
    _, gradient, metrics = loss_of(verl, rows)
    for domain in ("math", "code"):
        pieces = zip(rows, gradient.split([row.prompt + row.response for row in rows]), strict=True)
        own = sum(float(piece.abs().sum()) for row, piece in pieces if row.teacher == domain)
        share = metrics[f"teacher/{domain}/gradient_share"].aggregate()
        assert share == pytest.approx(own * len(rows), rel=1e-5)


def test_importance_weights_multiply_each_token_once(verl):
    rows = rollouts([1.25, 0.5, 1.25])
    weights = [torch.linspace(0.5, 2.0, row.response).double() for row in rows]
    _, gradient, metrics = loss_of(verl, rows, weights=weights)
    torch.testing.assert_close(gradient, expected_gradient(rows, weights), rtol=1e-5, atol=1e-7)
    math_tokens = torch.cat([weights[0], weights[2]])
    assert metrics["teacher/math/importance_weight"].aggregate() == pytest.approx(
        math_tokens.sum().item(), rel=1e-5
    )


def test_verl_caps_the_importance_weight_where_we_ask_it_to():
    from verl.trainer.ppo.rollout_corr_helper import compute_rollout_correction_and_rejection_mask

    trainer = torch.log(torch.tensor([[0.3, 0.9, 0.5]]))
    sampler = torch.log(torch.tensor([[0.2, 0.01, 0.5]]))
    mask = torch.ones(1, 3)
    weights, _, _ = compute_rollout_correction_and_rejection_mask(
        trainer, sampler, mask, rollout_is="token", rollout_is_threshold=5.0
    )
    weights = weights.batch["rollout_is_weights"] if hasattr(weights, "batch") else weights
    torch.testing.assert_close(weights, torch.tensor([[1.5, 5.0, 1.0]]))


def test_metrics_hold_each_teachers_own_sums(verl):
    rows = rollouts([1.25, 0.5, 1.25])
    _, _, metrics = loss_of(verl, rows)
    code = rows[1]
    expected = (response_part(code, code.teacher_logp) - response_part(code, code.reference)).sum().item()
    assert metrics["teacher/code/implicit_reward"].aggregate() == pytest.approx(expected, rel=1e-5)
    assert metrics["teacher/code/tokens"].aggregate() == 2
    assert metrics["teacher/math/sequences"].aggregate() == 2
    assert metrics["teacher/math/finished"].aggregate() == 1
    assert metrics["teacher/code/finished"].aggregate() == 0
    last = response_part(rows[0], rows[0].teacher_logp)[-1].item()
    assert metrics["teacher/math/end_teacher_logp"].aggregate() == pytest.approx(last, rel=1e-5)
    assert metrics["teacher/code/end_teacher_logp"].aggregate() == 0
