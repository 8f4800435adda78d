"""The loss over whole distributions, as verl's engine and loss call it."""

from types import SimpleNamespace

import pytest
import torch

from merging.exopd.objective import gopd_advantage, optimum_logp
from tests.helpers.loss_batches import (
    EOS,
    WEIGHTS,
    actor_config,
    jagged,
    micro_batch,
    over_ranks,
    response_part,
    rollouts,
)

pytestmark = pytest.mark.filterwarnings("ignore")

V = 10


@pytest.fixture(scope="module")
def verl():
    from verl.trainer.distillation import losses
    from verl.workers.config import DistillationLossConfig

    import merging.exopd.loss  # noqa: F401

    loss = DistillationLossConfig(
        loss_mode="exopd_distribution",
        use_policy_gradient=False,
        use_task_rewards=False,
        loss_max_clamp=None,
        log_prob_min_clamp=None,
    )
    return SimpleNamespace(
        losses=losses,
        config=SimpleNamespace(distillation_loss=loss, teacher_models={"math": None, "code": None}),
    )


@pytest.fixture(scope="module")
def kl_to_optimum():
    """The engine's divergence as a function of whole padded logits."""
    from merging.exopd.engine import kl_measure, optimum_rows
    from trainer.engine.scoring_engine import scored_places

    def divergence(logits_BTV, data):
        lengths, places_N = data["input_ids"].offsets().diff().tolist(), scored_places(data)
        logits_TV = torch.cat([row[:length] for row, length in zip(logits_BTV, lengths, strict=True)])
        student_NV = logits_TV[places_N].float().log_softmax(dim=-1)
        kl_N = kl_measure(data)(student_NV, optimum_rows(data, places_N))
        values_T = torch.zeros(len(logits_TV)).index_copy(0, places_N, kl_N)
        return torch.nested.nested_tensor_from_jagged(values_T, data["input_ids"].offsets())

    return divergence


def distributions(rows, seed=1):
    """Student logits, T and B over the vocabulary for each rollout, [tokens, V], in double precision."""
    generator = torch.Generator().manual_seed(seed)
    draw = lambda row: torch.randn(row.prompt + row.response, V, generator=generator, dtype=torch.float64)  # noqa: E731
    return [
        SimpleNamespace(
            logits=draw(row).requires_grad_(),
            teacher=draw(row).log_softmax(-1),
            reference=draw(row).log_softmax(-1),
        )
        for row in rows
    ]


def batch_of(rows, whole, top_k=None, dp_size=1):
    """verl's micro-batch with what the agent loop attaches, and padded logits [rows, tokens, V]."""
    data, output, _ = micro_batch(rows, dp_size=dp_size)
    data["input_ids"] = jagged(row.tokens for row in rows)
    columns, ids = [], []
    for row, values in zip(rows, whole, strict=True):
        following = row.tokens.roll(-1)[:, None]
        sampled = [p.gather(1, following) for p in (values.teacher, values.reference)]
        log_q = optimum_logp(values.teacher, values.reference, row.scale)
        if top_k is not None:
            log_q, chosen = log_q.topk(top_k)
            ids.append(chosen.int())
            sampled.append((1 - log_q.exp().sum(-1, keepdim=True)).log())
        columns.append(torch.cat([*sampled, log_q], dim=-1).float())
    data["teacher_logprobs"] = jagged(columns)
    if ids:
        data["teacher_ids"] = jagged(ids)
    longest = max(len(row.tokens) for row in rows)
    logits = torch.stack(
        [torch.nn.functional.pad(v.logits, (0, 0, 0, longest - len(v.logits))) for v in whole]
    )
    return data, output, logits


def loss_of(verl, kl_to_optimum, rows, whole, top_k=None):
    data, output, logits = batch_of(rows, whole, top_k)
    output["kl_to_optimum"] = kl_to_optimum(logits, data)
    loss, metrics = verl.losses.distillation_loss(actor_config(), verl.config, output, data)
    gradients = torch.autograd.grad(loss, [values.logits for values in whole])
    return loss.detach(), gradients, metrics


def expected_gradients(rows, whole):
    """By hand: minus the expected policy gradient at each position, by sequence mean of token means."""
    found = []
    for row, values in zip(rows, whole, strict=True):
        logits = values.logits.detach().requires_grad_()
        student = logits.log_softmax(-1)
        advantage = gopd_advantage(student.detach(), values.teacher, values.reference, row.scale)
        per_position = (student.exp().detach() * advantage * student).sum(-1)
        value = -WEIGHTS[row.teacher] * response_part(row, per_position).sum() / row.response / 3
        found.append(torch.autograd.grad(value, logits)[0])
    return found


def assert_close(found, expected, tolerance=1e-6):
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one.double(), other, atol=tolerance, rtol=1e-4)


def test_gradient_is_the_expected_policy_gradient_of_each_domains_objective(verl, kl_to_optimum):
    rows = rollouts([1.25, 0.5, 1.25])
    whole = distributions(rows)
    _, gradients, _ = loss_of(verl, kl_to_optimum, rows, whole)
    assert_close(gradients, expected_gradients(rows, whole))
    assert gradients[0][: rows[0].prompt - 1].eq(0).all(), "a prompt's positions are no part of the loss"


def test_micro_batches_add_up(verl, kl_to_optimum):
    rows = rollouts([1.25, 0.5, 1.25])
    whole = distributions(rows)
    loss, gradients, metrics = loss_of(verl, kl_to_optimum, rows, whole)
    parts = [loss_of(verl, kl_to_optimum, rows[a:b], whole[a:b]) for a, b in ((0, 2), (2, 3))]
    torch.testing.assert_close(sum(part[0] for part in parts), loss)
    assert_close([g.double() for part in parts for g in part[1]], [g.double() for g in gradients])
    for key in ("kl_to_optimum", "implicit_reward", "tokens", "finished"):
        name = f"teacher/math/{key}"
        assert sum(part[2][name].aggregate() for part in parts) == pytest.approx(metrics[name].aggregate())


def test_two_ranks_add_up(verl, kl_to_optimum):
    """verl takes the mean of the ranks' losses and sums; one of them has no row of `code`."""
    rows = rollouts([1.25, 0.5, 1.25])
    whole = distributions(rows)

    def rank(indices, ranks):
        data, output, logits = batch_of(
            [rows[index] for index in indices], [whole[index] for index in indices], dp_size=ranks
        )
        output["kl_to_optimum"] = kl_to_optimum(logits, data)
        loss, metrics = verl.losses.distillation_loss(actor_config(), verl.config, output, data)
        return loss.detach(), metrics

    loss, alone = rank([0, 1, 2], 1)
    parts = [rank([1], 2), rank([0, 2], 2)]
    torch.testing.assert_close((parts[0][0] + parts[1][0]) / 2, loss)
    found = over_ranks([part[1] for part in parts])
    assert found == pytest.approx(over_ranks([alone]), rel=1e-6)
    assert found["teacher/math/sequences"] == 2 and found["teacher/code/sequences"] == 1


def test_topk_of_all_tokens_but_one_is_the_full_loss(verl, kl_to_optimum):
    rows = rollouts([1.25, 0.5, 1.25])
    whole = distributions(rows)
    full = loss_of(verl, kl_to_optimum, rows, whole)
    nearly = loss_of(verl, kl_to_optimum, rows, whole, top_k=V - 1)
    torch.testing.assert_close(nearly[0], full[0], atol=1e-4, rtol=1e-4)
    assert_close([g.double() for g in nearly[1]], [g.double() for g in full[1]], tolerance=1e-4)
    few = loss_of(verl, kl_to_optimum, rows, whole, top_k=2)
    assert 0 < few[0] < full[0] - 1e-3


def test_a_student_at_the_optimum_has_no_loss_and_no_gradient(verl, kl_to_optimum):
    rows = rollouts([1.25, 0.5, 1.25])
    whole = distributions(rows)
    for row, values in zip(rows, whole, strict=True):
        values.logits = optimum_logp(values.teacher, values.reference, row.scale).requires_grad_()
    loss, gradients, _ = loss_of(verl, kl_to_optimum, rows, whole)
    assert loss.abs() < 1e-6 and max(g.abs().max() for g in gradients) < 1e-6


def test_metrics_of_sampled_tokens_are_those_of_the_other_estimator(verl, kl_to_optimum):
    rows = rollouts([1.25, 0.5, 1.25])
    whole = distributions(rows)
    _, _, metrics = loss_of(verl, kl_to_optimum, rows, whole)
    row, values = rows[1], whole[1]
    following = row.tokens.roll(-1)[:, None]
    reward = (values.teacher - values.reference).gather(1, following).squeeze(1)
    expected = response_part(row, reward).sum().item()
    assert metrics["teacher/code/implicit_reward"].aggregate() == pytest.approx(expected, rel=1e-5)
    ratio = (response_part(row, row.student) - response_part(row, row.sampler)).exp().sum().item()
    assert metrics["teacher/code/importance_weight"].aggregate() == pytest.approx(ratio, rel=1e-5)
    assert metrics["teacher/math/finished"].aggregate() == 1 and rows[0].tokens[-1] == EOS
