"""The chunked engine against verl's own path: padded micro-batches and whole logits, on one and two ranks."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.helpers.paths import ROOT
from tests.helpers.ranks import on_ranks
from tests.helpers.training_engines import (
    LENGTHS,
    jagged,
    make_engine,
    old_pass,
    rollout_batch,
    update_pass,
    write_causal_model,
)
from tests.helpers.whole_logits import whole_logits_engine

torch = pytest.importorskip("torch")

VOCABULARY = 151
POSITIONS_AT_ONCE = 5


@dataclass(frozen=True)
class Case:
    """A model and how it is trained."""

    tied: bool = False
    lora_rank: int = 0
    temperature: float = 1.0
    gradient_checkpointing: bool = False

    def __str__(self) -> str:
        words = ["tied" if self.tied else "untied", f"temperature {self.temperature}"]
        words += ["LoRA"] * bool(self.lora_rank) + ["gradient checkpointing"] * self.gradient_checkpointing
        return ", ".join(words)


CASES = [
    Case(),
    Case(tied=True, temperature=0.7, gradient_checkpointing=True),
    Case(lora_rank=4, temperature=1.3),
    Case(tied=True, lora_rank=4, gradient_checkpointing=True),
]


def with_small_chunks() -> None:
    """Several chunks a micro-batch, of which the last is not full."""
    import trainer.engine.chunked_head as chunked_head

    chunked_head.LOGITS_AT_ONCE = VOCABULARY * POSITIONS_AT_ONCE


def loss(values, mask):
    """Reads log-probabilities and entropy, each token with a weight of its own."""
    weights = torch.linspace(0.5, 1.5, mask.numel()).view_as(mask) * mask
    return (values["log_probs"] * weights).sum() + 0.1 * (values["entropy"] * weights).sum()


def compared(folders: dict[bool, Path]) -> dict[str, dict[str, float]]:
    """Largest differences between verl's engine and ours, by case; runs on each rank."""
    from trainer.engine.registered import engine_class

    with_small_chunks()
    rank = torch.distributed.get_rank()
    differences = {}
    for case in CASES:
        made = {"lora_rank": case.lora_rank, "gradient_checkpointing": case.gradient_checkpointing}
        plain = make_engine(whole_logits_engine(), folders[case.tied], packed=False, attention="sdpa", **made)
        ours = make_engine(engine_class(), folders[case.tied], **made)
        found = []
        for engine, packed in ((plain, False), (ours, True)):
            batch = rollout_batch(
                seed=rank, use_remove_padding=packed, temperature=case.temperature, calculate_entropy=True,
                max_token_len_per_gpu=32,
            )  # fmt: skip
            found.append((old_pass(engine, batch), *update_pass(engine, batch, loss)))
        (plain_old, plain_loss, plain_gradients), (old, value, gradients) = found
        assert gradients.keys() == plain_gradients.keys() and gradients
        assert all(gradient.abs().max() > 0 for gradient in gradients.values()), "an empty comparison"
        differences[str(case)] = {
            name: (old[name] - plain_old[name]).abs().max().item() for name in ("log_probs", "entropy")
        } | {
            "loss": abs(value - plain_loss),
            "gradient": max(
                ((gradients[name] - expected).abs().max() / expected.abs().max()).item()
                for name, expected in plain_gradients.items()
            ),
        }
    return differences


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("models")
    return {tied: write_causal_model(root / str(tied), tied=tied) for tied in (True, False)}


@pytest.mark.parametrize("ranks", [1, 2])
def test_values_and_gradients_are_those_of_verls_own_path(folders, ranks):
    limits = {"log_probs": 1e-5, "entropy": 1e-5, "loss": 1e-4, "gradient": 1e-5}
    for answer in on_ranks(compared, ranks, folders):
        assert len(answer) == len(CASES)
        for case, found in answer.items():
            assert all(found[name] <= limit for name, limit in limits.items()), (case, found)


# ------------------------------------------------------------------------------- what a batch may ask for


def asked(folder):
    """Answers to batches of several kinds, by name; on one rank."""
    from verl.workers.utils.losses import sft_loss

    from trainer.engine.names import WITHOUT_OLD_ENTROPY
    from trainer.engine.registered import engine_class

    with_small_chunks()
    ours, plain = (
        make_engine(engine_class(), folder),
        make_engine(whole_logits_engine(), folder, packed=False, attention="sdpa"),
    )
    said = {}
    temperatures = torch.tensor([0.5, 1.0, 2.0, 0.7])
    by_row = [
        old_pass(engine, rollout_batch(use_remove_padding=packed, temperature=temperatures))["log_probs"]
        for engine, packed in ((ours, True), (plain, False))
    ]
    said["temperature by row"] = (by_row[0] - by_row[1]).abs().max().item()

    without = make_engine(engine_class_of(WITHOUT_OLD_ENTROPY), folder)
    batch = rollout_batch(calculate_entropy=True)
    old = old_pass(without, batch)["entropy"]
    mask = batch["response_mask"].to_padded_tensor(0).bool()
    said["entropy not measured"] = bool(old[mask].isnan().all())
    said["its log-probabilities"] = bool(
        torch.equal(old_pass(without, batch)["log_probs"], old_pass(ours, batch)["log_probs"])
    )
    kept = []
    update_pass(without, batch, lambda values, mask: kept.append(values["entropy"]) or loss(values, mask))
    said["entropy of the update"] = bool(kept[0][mask].isfinite().all())

    squared = old_pass(ours, rollout_batch(calculate_sum_pi_squared=True))
    said["verl's own path"] = sorted(squared)
    said["its difference"] = (
        (squared["log_probs"] - old_pass(ours, rollout_batch())["log_probs"])[mask].abs().max().item()
    )
    padded = [old_pass(e, rollout_batch(use_remove_padding=False))["log_probs"] for e in (ours, plain)]
    said["padded"] = (padded[0] - padded[1]).abs().max().item()

    rounded = make_engine(engine_class(), folder, padded_to=16)
    batch = rollout_batch(calculate_entropy=True)
    rounded_old, old = old_pass(rounded, batch), old_pass(ours, batch)
    said["rounded up"] = max((rounded_old[name] - old[name]).abs().max().item() for name in old)

    losses = []
    for engine, packed in ((ours, True), (plain, False)):
        rows = rollout_batch(use_remove_padding=packed)
        whole = [torch.cat([torch.zeros(p, dtype=torch.long), torch.ones(r, dtype=torch.long)])
                 for p, r in LENGTHS]  # fmt: skip
        rows["loss_mask"] = jagged(whole)
        rows = rows.exclude("prompts", "responses", "response_mask")
        with engine.train_mode():
            answer = engine.forward_backward_batch(
                rows, loss_function=lambda model_output, data, dp_group: sft_loss(None, model_output, data)
            )
        losses.append(sum(answer["loss"]))
    said["supervised"] = abs(losses[0] - losses[1])
    return said


def engine_class_of(model_type):
    from verl.workers.engine.base import EngineRegistry

    return EngineRegistry.get_engine_cls(model_type, "fsdp2")


def test_every_kind_of_batch_is_answered(folders):
    said = on_ranks(asked, 1, folders[False])[0]
    for name in ("temperature by row", "its difference", "padded", "rounded up", "supervised"):
        assert said[name] < 1e-5, (name, said)
    for name in ("entropy not measured", "its log-probabilities", "entropy of the update"):
        assert said[name] is True, (name, said)
    assert said["verl's own path"] == ["log_probs", "sum_pi_squared"]


def in_bfloat16(folder):
    """Largest differences of log-probabilities from float32, of verl's path and of ours."""
    from trainer.engine.registered import engine_class

    with_small_chunks()
    exact = old_pass(make_engine(engine_class(), folder), rollout_batch())["log_probs"]
    rough = {"number_format": "bf16"}
    ours = old_pass(make_engine(engine_class(), folder, **rough), rollout_batch())["log_probs"]
    plain = make_engine(whole_logits_engine(), folder, packed=False, attention="sdpa", **rough)
    theirs = old_pass(plain, rollout_batch(use_remove_padding=False))["log_probs"]
    return {
        "format": str(ours.dtype),
        "ours": (ours - exact).abs().max().item(),
        "verl's": (theirs - exact).abs().max().item(),
    }


def test_bfloat16_is_no_further_from_float32_than_verls_path(folders):
    found = on_ranks(in_bfloat16, 1, folders[False])[0]
    assert found["format"] == "torch.float32"
    assert 0 < found["ours"] <= found["verl's"] + 1e-3 < 0.1, found


# ------------------------------------------------------------------------------ a sequence over two ranks


def over_ranks(folder, ranks):
    """Log-probabilities, entropies, loss and norms of gradients of one batch that all ranks share."""
    from trainer.engine.registered import engine_class

    with_small_chunks()
    engine = make_engine(engine_class(), folder, ranks_of_a_sequence=ranks)
    batch = rollout_batch(((3, 9), (5, 4), (2, 12)), calculate_entropy=True)  # 35 tokens: one rank is padded
    value, gradients = update_pass(engine, batch, loss)
    norms = {name: gradient.norm().item() for name, gradient in gradients.items()}
    return {name: rows.tolist() for name, rows in old_pass(engine, batch).items()}, value, norms


def test_ranks_may_share_the_tokens_of_a_sequence(folders):
    """verl's Ulysses; both ranks hold the whole answer, and gradients are those of one rank."""
    (alone,) = on_ranks(over_ranks, 1, folders[False], 1)
    shared = on_ranks(over_ranks, 2, folders[False], 2)
    for rank in shared:
        for name, rows in alone[0].items():
            torch.testing.assert_close(torch.tensor(rank[0][name]), torch.tensor(rows), atol=1e-5, rtol=0)
        assert rank[1] == pytest.approx(alone[1], abs=1e-4)
        assert rank[2] == pytest.approx(alone[2], rel=1e-4)


def with_plain_sdpa(folder):
    """What the engine says of an attention that verl does not extend over ranks."""
    from trainer.engine.registered import engine_class

    try:
        make_engine(engine_class(), folder, ranks_of_a_sequence=2, attention="sdpa")
    except ValueError as error:
        return str(error)


def test_an_attention_that_sees_its_own_share_alone_is_refused(folders):
    for said in on_ranks(with_plain_sdpa, 2, folders[False]):
        assert "hardware.sequence_parallel: attention 'sdpa' sees the tokens of its own device alone" in said


# ------------------------------------------------------------------------------------------ the registry

REGISTERED = """
import merging.exopd.engine
import trainer.engine.registered
from verl.workers.engine.base import EngineRegistry

for name in ("language_model", "language_model_without_old_entropy", "exopd_language_model"):
    found = EngineRegistry.get_engine_cls(name, "fsdp2")
    print(name, found.__name__, "CPUEngine" in str([base.__qualname__ for base in found.__mro__]))
"""


@pytest.mark.parametrize("platform", ["cpu", "nvidia"])
def test_verl_finds_the_engines_on_either_device(platform):
    """On CUDA ours stands before verl's own; nothing here opens a device."""
    ended = subprocess.run(
        [sys.executable, "-c", REGISTERED], cwd=ROOT, capture_output=True, text=True, check=False,
        env={**os.environ, "VERL_PLATFORM": platform},
    )  # fmt: skip
    assert ended.returncode == 0, ended.stderr[-2000:]
    on_cpu = platform == "cpu"
    assert ended.stdout.splitlines()[-3:] == [
        f"language_model ScoringEngine {on_cpu}",
        f"language_model_without_old_entropy ScoringEngineWithoutOldEntropy {on_cpu}",
        f"exopd_language_model DistributionEngine {on_cpu}",
    ]
