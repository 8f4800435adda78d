"""Packed attention against separate sequences, and which implementation is chosen."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from trainer.engine import attention as attention_module
from trainer.engine.attention import FLASH, PACKED, attention_of, packed_sdpa, register_packed

torch = pytest.importorskip("torch")

LENGTHS = (5, 1, 12, 12, 3)


@pytest.fixture(scope="module", autouse=True)
def registered():
    register_packed()


def test_what_is_registered_stays_unless_another_is_given():
    """A trainer's process registers one that serves several ranks, and scorers in it ask for any."""
    from transformers import AttentionInterface

    def another(*arguments, **named):
        return packed_sdpa(*arguments, **named)

    try:
        register_packed(another)
        register_packed()
        assert AttentionInterface()[PACKED] is another
    finally:
        register_packed(packed_sdpa)
    assert AttentionInterface()[PACKED] is packed_sdpa


@pytest.fixture(scope="module", params=["qwen3", "llama", "mistral with a sliding window of 4"])
def model(request):
    """A small model with random weights and our attention."""
    import transformers

    sizes = {"vocab_size": 50, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2,
             "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8}  # fmt: skip
    name = request.param.split()[0].capitalize()
    more = {"sliding_window": 4} if name == "Mistral" else {}
    config = getattr(transformers, f"{name}Config")(**sizes, **more)
    torch.manual_seed(3)
    return transformers.AutoModelForCausalLM.from_config(config, attn_implementation=PACKED).eval()


def sequences(seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randint(0, 50, (length,), generator=generator) for length in LENGTHS]


def packed_logits(model, rows):
    positions = torch.cat([torch.arange(len(row)) for row in rows])
    return model(input_ids=torch.cat(rows)[None], position_ids=positions[None], use_cache=False).logits[0]


def test_packed_sequences_have_the_logits_of_separate_ones(model):
    """The separate ones are computed by transformers' own eager attention."""
    rows = sequences()
    packed = packed_logits(model, rows)
    model.set_attn_implementation("eager")
    try:
        alone = [model(input_ids=row[None], use_cache=False).logits[0] for row in rows]
    finally:
        model.set_attn_implementation(PACKED)
    torch.testing.assert_close(packed, torch.cat(alone), atol=4e-6, rtol=0)


def test_no_position_sees_another_sequence(model):
    """Other tokens in one sequence change its own logits and no bit of any other's."""
    rows = sequences()
    before = packed_logits(model, rows).split(LENGTHS)
    rows[2] = (rows[2] + 1) % 50
    after = packed_logits(model, rows).split(LENGTHS)
    assert [torch.equal(a, b) for a, b in zip(after, before, strict=True)] == [True, True, False, True, True]


def test_no_gradient_reaches_another_sequence(model):
    rows = sequences()
    states = model.get_input_embeddings()(torch.cat(rows)[None]).detach().requires_grad_()
    positions = torch.cat([torch.arange(length) for length in LENGTHS])[None]
    logits = model(inputs_embeds=states, position_ids=positions, use_cache=False).logits[0]
    logits.split(LENGTHS)[2].logsumexp(-1).sum().backward()
    moved = [part.abs().sum() > 0 for part in states.grad[0].split(LENGTHS)]
    assert moved == [False, False, True, False, False]


def test_padded_batches_are_those_of_sdpa(model):
    ids = torch.stack([torch.nn.functional.pad(row, (0, 12 - len(row))) for row in sequences()])
    mask = torch.tensor([[1] * length + [0] * (12 - length) for length in LENGTHS])
    ours = model(input_ids=ids, attention_mask=mask, use_cache=False).logits
    model.set_attn_implementation("sdpa")
    try:
        theirs = model(input_ids=ids, attention_mask=mask, use_cache=False).logits
    finally:
        model.set_attn_implementation(PACKED)
    torch.testing.assert_close(ours[mask.bool()], theirs[mask.bool()], atol=1e-6, rtol=0)


def test_a_model_that_hides_its_positions_is_refused():
    states = torch.zeros(1, 2, 6, 8)
    with pytest.raises(ValueError, match="SimpleNamespace does not pass position_ids to its attention"):
        packed_sdpa(SimpleNamespace(), states, states, states, None)


@pytest.mark.parametrize(
    "device, number_format, installed, expected",
    [
        ("cpu", "bfloat16", None, PACKED),
        ("cpu", "bfloat16", "2.8.3", PACKED),
        ("cuda", "bfloat16", None, PACKED),
        ("cuda", "bfloat16", "2.8.3", FLASH),
        ("cuda", "float32", "2.8.3", PACKED),
    ],
)
def test_flash_attention_where_it_is_installed_and_serves(
    monkeypatch, device, number_format, installed, expected
):
    monkeypatch.setattr(attention_module, "installed_version", {"flash-attn": installed}.get)
    assert attention_of(device, number_format) == expected
