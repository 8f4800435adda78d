"""A student that is a LoRA adapter: it begins as the base, and an update trains the adapter alone.

On verl's own engines, on one rank; `tests/unit/trainer/test_two_ranks.py` has two.
"""

from __future__ import annotations

import pytest

from tests.helpers.ranks import on_ranks
from tests.helpers.training_engines import (
    add_optimum,
    make_engine,
    old_pass,
    rollout_batch,
    update_pass,
    write_causal_model,
)

torch = pytest.importorskip("torch")

VOCABULARY, RANK = 151, 4


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_causal_model(tmp_path_factory.mktemp("model") / "m")


def engines():
    """The engine of `sampled`, and that of `full` and `topk`."""
    from merging.exopd.engine import DistributionEngine
    from trainer.engine.registered import engine_class

    return {"sampled": engine_class(), "full": DistributionEngine}


def begun(folder):
    """Log-probabilities of rollouts by a student at its start, by the base in training, and by the scorer."""
    from teachers.scoring.scorer import Scored, SharedScorer

    batch, found = rollout_batch(), {}
    for name, engine in engines().items():
        for rank in (0, RANK):
            made = make_engine(engine, folder, lora_rank=rank, fresh_adapter=True)
            found[name, rank] = old_pass(made, batch)["log_probs"]
    scorer = SharedScorer({"reference": str(folder)}, "cpu", "float32", 256)
    responses = [len(row) for row in batch["responses"].unbind()]
    asked = [
        Scored(tuple(row.tolist()), length)
        for row, length in zip(batch["input_ids"].unbind(), responses, strict=True)
    ]
    scores = scorer.score("reference", asked)
    found["scorer"] = [
        logp_T[one.scoring_positions.start : one.scoring_positions.stop]
        for one, logp_T in zip(asked, scores, strict=True)
    ]
    return found, responses


def test_in_step_1_the_student_is_the_reference(folder):
    found, responses = on_ranks(begun, 1, folder)[0]
    for name in ("sampled", "full"):
        student_BR = found[name, RANK]
        assert torch.equal(student_BR, found[name, 0]), "a new adapter adds nothing, to the last bit"
        for row, length, reference in zip(student_BR, responses, found["scorer"], strict=True):
            # far below objective.largest_start_difference: the same sums in another order
            torch.testing.assert_close(row[:length], reference, atol=1e-5, rtol=0)


def updated(folder, kind, top_k):
    """One update: what has gradients and moments, and which tensors it moved."""
    engine = make_engine(engines()["sampled" if kind == "sampled" else "full"], folder, lora_rank=RANK)
    before = {name: weight.full_tensor().clone() for name, weight in engine.module.named_parameters()}
    batch, measured = rollout_batch(), "log_probs" if kind == "sampled" else "kl_to_optimum"
    if kind != "sampled":
        batch = add_optimum(batch, VOCABULARY, top_k)
    _, gradients = update_pass(engine, batch, lambda values, mask: (values[measured] * mask).sum())
    with engine.train_mode():
        engine.forward_backward_batch(batch.clone(), loss_function=lambda **given: _sum(measured, **given))
        engine.optimizer_step()
    after = {name: weight.full_tensor() for name, weight in engine.module.named_parameters()}
    moments = [
        value.numel()
        for state in engine.optimizer.state_dict()["state"].values()
        for name, value in state.items()
        if name != "step"
    ]
    return {
        "gradients": {name: bool(value.abs().max() > 0) for name, value in gradients.items()},
        "moved": sorted(name for name, value in after.items() if not torch.equal(value, before[name])),
        "adapter": {name: value.numel() for name, value in after.items() if "lora_" in name},
        "moments": sum(moments),
    }


def _sum(measured, model_output, data, dp_group=None):
    from verl.workers.utils.padding import no_padding_2_padding

    values = no_padding_2_padding(model_output[measured], data)
    return (values * data["response_mask"].to_padded_tensor(0)).sum(), {}


@pytest.mark.parametrize(("kind", "top_k"), [("sampled", None), ("full", None), ("topk", 7)])
def test_an_update_trains_the_adapter_alone(folder, kind, top_k):
    found = on_ranks(updated, 1, folder, kind, top_k)[0]
    assert found["gradients"] == dict.fromkeys(found["adapter"], True)
    assert found["moved"] == sorted(found["adapter"])
    assert found["moments"] == 2 * sum(found["adapter"].values()), "no optimizer state of the base"
