"""A student that is a LoRA adapter: it begins as the base, an update trains the adapter alone, and that is
exported; and what eight experts that are adapters hold beside it.

On verl's own engines, on one rank; `tests/unit/trainer/test_two_ranks.py` has two.
"""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from merging.exopd.job import merge_job
from tests.helpers.live_storage import LiveStorage
from tests.helpers.lora_adapters import write_adapter
from tests.helpers.merge_jobs import TEACHERS, config_with
from tests.helpers.paths import STUDENT
from tests.helpers.ranks import on_ranks
from tests.helpers.training_engines import (
    add_optimum,
    make_engine,
    old_pass,
    rollout_batch,
    update_pass,
    write_causal_model,
)
from tests.helpers.verl_configs import difference, verl_values

torch = pytest.importorskip("torch")

VOCABULARY, RANK = 151, 4
MODEL = "actor_rollout_ref.model"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_causal_model(tmp_path_factory.mktemp("model") / "m")


def test_an_adapter_has_its_own_alpha_and_goes_on_from_where_one_ended(compiled, cpu, tmp_path):
    alpha = ("training.lora_rank", 4, "training.lora_alpha", 9)
    declared = config_with(*alpha)
    assert difference(cpu, compiled(declared)) == {
        f"{MODEL}.lora_rank": 4, f"{MODEL}.lora_alpha": 9, f"{MODEL}.lora.merge": True,
        "actor_rollout_ref.actor.checkpoint.save_lora_only": True,
    }  # fmt: skip
    assert difference(compiled(declared), compiled(config_with(*alpha, "training.full_model", True))) == {}
    begun = write_adapter(tmp_path / "distilled", rank=4, alpha=9)
    rows, work = Path("/run/train.parquet"), Path("/run/train")
    first, further = (
        verl_values(merge_job(declared, "merge", TEACHERS, rows, work, start=start))
        for start in (STUDENT, begun)
    )
    assert difference(first, further) == {f"{MODEL}.lora_adapter_path": str(begun)}


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


# -------------------------------------------------------------------------------------------- export


def exported(folder, work):
    """Log-probabilities of a trained student: in training, as adapter on the base, and as a full model."""
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    from teachers.registry.local import Registry
    from teachers.registry.merged import merged_model
    from trainer.export import export
    from trainer.job import Lora

    batch, engine = rollout_batch(vocabulary=99), make_engine(engines()["sampled"], folder, lora_rank=RANK)
    with engine.train_mode():
        engine.forward_backward_batch(batch.clone(), loss_function=lambda **given: _sum("log_probs", **given))
        engine.optimizer_step()
    engine.save_checkpoint(str(work / "checkpoints" / "global_step_1" / "actor"), global_step=1)
    alpha = engine.model_config.lora_alpha
    adapter = export(work / "checkpoints", 1, folder, work / "student", Lora(RANK, alpha))
    loaded = {
        "training": old_pass(engine, batch)["log_probs"],
        "base": AutoModelForCausalLM.from_pretrained(folder),
    }
    base = AutoModelForCausalLM.from_pretrained(folder)
    loaded["adapter"] = PeftModel.from_pretrained(base, adapter)
    full = merged_model(folder, adapter, Registry(work / "home"))
    loaded["full"] = AutoModelForCausalLM.from_pretrained(full)
    return {
        name: own if isinstance(own, torch.Tensor) else _response_logp(own, batch)
        for name, own in loaded.items()
    }


def _response_logp(model, batch):
    """logp_BR, padded with 0, of each rollout alone."""
    rows = []
    for ids, response in zip(batch["input_ids"].unbind(), batch["responses"].unbind(), strict=True):
        with torch.no_grad():
            logp_TV = model(ids[None]).logits[0].log_softmax(-1)
        start = len(ids) - len(response)
        rows.append(logp_TV[start - 1 : -1].gather(1, response[:, None]).squeeze(1))
    return torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)


def test_the_exported_adapter_on_its_base_is_the_student_that_was_trained(tmp_path):
    found = on_ranks(exported, 1, STUDENT, tmp_path)[0]
    for name in ("adapter", "full"):
        torch.testing.assert_close(found[name], found["training"], atol=1e-5, rtol=0)
    assert (found["base"] - found["training"]).abs().max() > 1e-3, "the student is not its base"


# -------------------------------------------------------------------------------------------- memory


def held(folder, experts, lora_rank):
    """Bytes of the scorer with these experts and the reference, and of a training of the student: all tensors
    that are held, and the most that scoring and an update allocate beside them."""
    from teachers.scoring.scorer import Scored, SharedScorer

    models = {"reference": str(folder), **experts}
    scorer = SharedScorer(models, "cpu", "float32", 64, base=str(folder))
    engine = make_engine(engines()["full"], folder, lora_rank=lora_rank)
    with LiveStorage() as storage:
        for name in models:
            scorer.score(name, [Scored(tuple(range(3, 24)), 9)])
        with engine.train_mode():
            engine.forward_backward_batch(
                rollout_batch(), loss_function=lambda **given: _sum("log_probs", **given)
            )
            gradients = [weight.grad for weight in engine.module.parameters() if weight.grad is not None]
            engine.optimizer_step()
    kept = [value for weights in scorer.weights.values() for value in weights.values()]
    kept += [value for seat in scorer.seats for value in seat.module.state_dict().values()]
    kept += [weight.to_local() for weight in (*engine.module.parameters(), *gradients)]
    states = engine.optimizer.state_dict()["state"].values()
    kept += [value.to_local() for state in states for name, value in state.items() if name != "step"]
    pieces = {value.untyped_storage().data_ptr(): value.untyped_storage().nbytes() for value in kept}
    # gradients and moments were allocated meanwhile, and are among the pieces: what is kept counts once
    return sum(pieces.values()) + storage.peak - storage.live


def test_eight_adapters_reference_and_student_take_little_more_memory_than_two(tmp_path):
    folder = write_causal_model(tmp_path / "m", hidden=64)
    paths = {f"d{n}": str(write_adapter(tmp_path / f"{n}", n, rank=2, base=folder)) for n in range(8)}
    two = {name: paths[name] for name in list(paths)[:2]}
    few, many = (on_ranks(held, 1, folder, experts, 2)[0] for experts in (two, paths))
    adapter = _bytes(Path(paths["d0"]) / "adapter_model.safetensors")
    assert many - few == pytest.approx(6 * adapter, rel=0.02), "an expert costs its adapter"
    assert many <= 1.5 * few
    # a student that is trained in full has gradients and moments of all weights
    whole = on_ranks(held, 1, folder, paths, 0)[0]
    assert whole - many > 2 * _bytes(folder / "model.safetensors")


def _bytes(file: Path) -> int:
    """Of all tensors in the file."""
    from safetensors.torch import load_file

    return sum(4 * math.prod(value.shape) for value in load_file(file).values())
