"""The shared scorer: its batches, its chunks, whose weights are in the module, what it refuses."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

import teachers.scoring.scorer as scorer_module
from teachers.scoring.scorer import Scored, SharedScorer
from tests.helpers.messages import refuses
from tests.helpers.model_copies import noisy_copy, reconfigured_copy, weights_of
from tests.helpers.paths import STUDENT
from tests.helpers.tiny_model import write_model

torch = pytest.importorskip("torch")


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    return {"reference": str(STUDENT), "math": str(noisy_copy(folder / "math", seed=5))}


def shared(models, tokens_per_batch=4096, dtype="float32"):
    return SharedScorer(models, device="cpu", dtype=dtype, tokens_per_batch=tokens_per_batch)


@pytest.fixture(scope="module")
def scorer(folders):
    return shared(folders)


def rollout(text_tokens: int, response: int, seed: int = 0) -> Scored:
    generator = torch.Generator().manual_seed(seed)
    return Scored(tuple(torch.randint(3, 99, (text_tokens,), generator=generator).tolist()), response)


def test_alignment_fails_if_tokens_are_shifted_by_one(scorer):
    """The demo student knows its task; the same answer moved by one position is worth far less."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(STUDENT)
    prompt, answer = tokenizer.encode("Math: 37+48\n"), tokenizer.encode("7+8=15")
    assert tokenizer.decode(prompt) == "Math: 37+48\n"  # no special tokens
    aligned = Scored((*prompt, *answer), len(answer))
    shifted = Scored((*prompt, answer[-1], *answer[:-1]), len(answer))
    right, wrong = scorer.score("reference", [aligned, shifted])
    with torch.inference_mode():
        logits = scorer.module(torch.tensor([aligned.token_ids])).logits[0]
    position = len(prompt) + 2  # scores the next token, and no other
    own = logits[position].log_softmax(-1)[aligned.token_ids[position + 1]]
    neighbour = logits[position].log_softmax(-1)[aligned.token_ids[position]]
    assert right[position] == pytest.approx(own.item(), abs=1e-5)
    assert abs(right[position] - neighbour) > 0.1
    assert wrong.sum() < right.sum() - 5


def test_chunks_of_positions_change_nothing(scorer, monkeypatch):
    sequences = [rollout(30, 20, 1), rollout(25, 9, 2), rollout(12, 4, 3)]
    whole = scorer.score("math", sequences)
    for rows in (1, 7, 33):
        monkeypatch.setattr(scorer_module, "ROWS_PER_CHUNK", rows)
        for row, expected in zip(scorer.score("math", sequences), whole, strict=True):
            torch.testing.assert_close(row, expected, atol=1e-5, rtol=0)


def test_no_chunk_holds_more_logits_than_allowed(scorer, monkeypatch):
    monkeypatch.setattr(scorer_module, "ROWS_PER_CHUNK", 8)
    rows = []
    scorer.score("math", [])  # its weights, and their canary, are in
    head = scorer.module.get_output_embeddings()
    handle = head.register_forward_hook(lambda _m, _i, output: rows.append(tuple(output.shape)))
    try:
        scorer.score("math", [rollout(30, 20, 1)])
    finally:
        handle.remove()
    assert rows == [(8, 99), (8, 99), (4, 99)]


def test_teacher_that_is_the_reference_gives_zero_reward():
    same = shared({"reference": str(STUDENT), "math": str(STUDENT)})
    sequences = [rollout(40, 25, seed) for seed in range(4)]
    teacher, reference = same.score("math", sequences), same.score("reference", sequences)
    assert all(torch.equal(t, b) for t, b in zip(teacher, reference, strict=True))
    assert all(row.abs().sum() > 1 for row in teacher)


def test_passes_count_sequences_by_model(folders):
    scorer = shared(folders)
    scorer.score("math", [rollout(9, 3), rollout(5, 2)])
    scorer.score("reference", [rollout(9, 3)])
    scorer.score("math", [rollout(9, 3)])
    assert scorer.passes == {"math": 3, "reference": 1}


def test_weights_in_the_module_are_those_of_the_current_model(scorer, folders):
    for name in ("math", "reference", "math"):
        scorer.score(name, [rollout(5, 2)])
        assert scorer.current == name
        for key, expected in weights_of(Path(folders[name])).items():
            assert torch.equal(scorer.module.state_dict()[key], torch.from_numpy(expected))


@pytest.mark.parametrize(
    "lengths, limit, expected",
    [
        ([5, 5, 5], 10, [[0, 1], [2]]),
        ([9, 2, 3, 2], 6, [[0], [1, 2], [3]]),  # a sequence that is longer than the limit is alone
        ([2, 9, 2], 6, [[0], [1], [2]]),
        ([4, 4, 4, 4], 16, [[0, 1, 2, 3]]),
        ([100], 1, [[0]]),
        ([], 8, []),
    ],
)
def test_batches_hold_at_most_so_many_tokens(lengths, limit, expected):
    scorer = SharedScorer({}, device="cpu", dtype="float32", tokens_per_batch=limit)
    assert scorer.batches([rollout(length, 1) for length in lengths]) == expected


def test_sequences_are_packed_without_padding(folders):
    scorer = shared(folders, tokens_per_batch=48)
    scorer.score("math", [])  # its weights, and their canary, are in
    seen = []
    hook = scorer.module.base_model.register_forward_pre_hook(
        lambda _m, _a, kwargs: seen.append((tuple(kwargs["input_ids"].shape), kwargs.get("attention_mask"))),
        with_kwargs=True,
    )
    scorer.score("math", [rollout(n, 2, n) for n in (40, 8, 9, 10, 11, 12, 60, 24)])
    hook.remove()
    assert seen == [((1, 48), None), ((1, 42), None), ((1, 60), None), ((1, 24), None)]


def test_sequences_of_one_pack_are_scored_as_if_alone(scorer):
    sequences = [rollout(n, max(1, n // 2), n) for n in (30, 7, 19, 7)]
    together = scorer.score("math", sequences)
    for sequence, row in zip(sequences, together, strict=True):
        torch.testing.assert_close(row, scorer.score("math", [sequence])[0], atol=4e-6, rtol=0)


def test_number_format_is_the_one_asked_for(folders):
    scorer = shared(folders, dtype="bfloat16")
    assert scorer.module.dtype == torch.bfloat16
    (row,) = scorer.score("reference", [rollout(30, 20)])
    (exact,) = shared(folders).score("reference", [rollout(30, 20)])
    assert row.dtype == torch.float32
    assert 0 < (row - exact).abs().max() < 0.5


def test_models_of_another_size_have_a_module_of_their_own(tmp_path):
    """Strong to weak: a teacher of other depth beside a reference of the student's."""
    small = str(reconfigured_copy(tmp_path / "small", num_hidden_layers=2))
    both = shared({"reference": str(STUDENT), "math": small, "code": str(noisy_copy(tmp_path / "c", seed=2))})
    assert len(both.seats) == 2 and both.seat_of["code"] is both.seat_of["reference"]
    sequence = rollout(30, 20)
    for name, path in (("math", small), ("reference", str(STUDENT)), ("math", small)):
        (alone,) = shared({"only": path}).score("only", [sequence])
        torch.testing.assert_close(both.score(name, [sequence])[0], alone, atol=1e-6, rtol=0)
    (target,) = both.targets(["math", "reference"], lambda t, b: (2 * t - b).log_softmax(-1), [sequence])
    torch.testing.assert_close(target.teacher_logp_T, both.score("math", [sequence])[0], atol=1e-5, rtol=0)


def test_another_vocabulary_is_refused(tmp_path):
    other = str(write_model(tmp_path / "other", hidden=8, extra_tokens=("<x>",)))
    with refuses("model 'math'", "other", "100", "99", error=ValueError):
        shared({"reference": str(STUDENT), "math": other})


@pytest.mark.parametrize(
    "settings",
    [
        {"rope_parameters": {"rope_theta": 500.0, "rope_type": "default"}},
        {"num_attention_heads": 8, "num_key_value_heads": 8, "head_dim": 16},
        {"rms_norm_eps": 0.1},
    ],
    ids=lambda settings: next(iter(settings)),
)
def test_a_model_that_computes_otherwise_is_refused_or_scored_as_itself(settings, tmp_path):
    """Same tensor shapes, other settings: the same weights give other log-probabilities."""
    other = str(reconfigured_copy(tmp_path / "other", **settings))
    (alone,) = shared({"math": other}).score("math", [rollout(30, 20)])
    try:
        together = shared({"reference": str(STUDENT), "math": other})
    except ValueError:
        return
    torch.testing.assert_close(together.score("math", [rollout(30, 20)])[0], alone, atol=1e-5, rtol=0)


def test_a_sequence_cannot_be_changed():
    with pytest.raises(dataclasses.FrozenInstanceError):
        rollout(3, 1).response_tokens = 2


def test_a_rollout_without_a_response_scores_nothing():
    (row,) = shared({"reference": str(STUDENT)}).score("reference", [Scored((5, 6, 7), 0)])
    assert row.tolist() == [0.0, 0.0, 0.0]


def test_a_model_that_caps_its_logits_after_the_head_is_refused(tmp_path):
    capped = reconfigured_copy(tmp_path / "capped", final_logit_softcapping=30.0)
    with pytest.raises(ValueError, match="final_logit_softcapping"):
        shared({"reference": str(capped)})
