"""The output head in chunks: values and gradients of whole logits, whatever the chunk."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")

from trainer.engine import chunked_head as module  # noqa: E402
from trainer.engine.chunked_head import ChunkedHead, Question, entropy, in_chunks, token_logp  # noqa: E402

N, D, V = 11, 6, 17


@pytest.fixture
def inputs():
    """Hidden states, weight, bias and rows, in double precision where gradients are compared."""
    generator = torch.Generator().manual_seed(0)
    draw = lambda *shape: torch.randn(*shape, generator=generator)  # noqa: E731
    rows = {"next_ids": torch.randint(0, V, (N,), generator=generator), "temperature": draw(N).abs() + 0.5}
    return [draw(N, D).requires_grad_(), draw(V, D).requires_grad_(), draw(V).requires_grad_(), rows]


def question(rows, **measures):
    return Question(torch.arange(N), rows, measures or {"log_probs": token_logp, "entropy": entropy})


def by_hand(hidden, weight, bias, rows):
    """[N, 2]: log softmax at the next token, and the entropy, position by position."""
    found = []
    for n in range(N):
        logits = (weight @ hidden[n] + bias) / rows["temperature"][n]
        p = logits.exp() / logits.exp().sum()
        found.append(torch.stack([p[rows["next_ids"][n]].log(), -(p * p.log()).sum()]))
    return torch.stack(found)


@pytest.mark.parametrize("positions", [1, 4, 11, 100])
def test_values_and_gradients_do_not_depend_on_the_chunk(inputs, monkeypatch, positions):
    *tensors, rows = inputs
    monkeypatch.setattr(module, "LOGITS_AT_ONCE", positions * V)
    answers, expected = in_chunks(*tensors, question(rows)), by_hand(*tensors, rows)
    torch.testing.assert_close(answers, expected, atol=1e-5, rtol=1e-5)
    weights = torch.linspace(-1, 1, 2 * N).view(N, 2)
    ours, theirs = (torch.autograd.grad((v * weights).sum(), tensors) for v in (answers, expected))
    for own, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(own, other, atol=1e-5, rtol=1e-4)


def test_only_what_needs_a_gradient_gets_one(inputs, monkeypatch):
    """A frozen head, as that of a model with an adapter."""
    hidden, weight, _, rows = inputs
    monkeypatch.setattr(module, "LOGITS_AT_ONCE", 4 * V)
    answers = in_chunks(hidden, weight.detach(), None, question(rows))
    answers[:, 0].sum().backward()
    assert hidden.grad.abs().sum() > 0 and weight.grad is None
    assert not in_chunks(hidden.detach(), weight.detach(), None, question(rows)).requires_grad


def test_a_measure_that_the_loss_leaves_out_is_not_computed_again(inputs, monkeypatch):
    hidden, weight, bias, rows = inputs
    monkeypatch.setattr(module, "LOGITS_AT_ONCE", 4 * V)
    calls = []

    def counted(logp_NV, rows):
        calls.append(len(logp_NV))
        return entropy(logp_NV, rows)

    answers = in_chunks(hidden, weight, bias, question(rows, log_probs=token_logp, entropy=counted))
    assert calls == [4, 4, 3]
    (answers[:, 0].sum() + 0.0 * answers[:, 1].sum()).backward()
    assert calls == [4, 4, 3]
    assert weight.grad.abs().sum() > 0


def test_chunks_in_bfloat16_are_no_less_exact_than_one(monkeypatch):
    """A sum of 110 chunks in bfloat16 would be 6 times further from the exact gradient of the head."""
    generator = torch.Generator().manual_seed(0)
    positions = 1100
    hidden, weight = (torch.randn(n, D, generator=generator).bfloat16() for n in (positions, V))
    rows = {"next_ids": torch.randint(0, V, (positions,), generator=generator)}

    def gradient(number_format, at_once):
        monkeypatch.setattr(module, "LOGITS_AT_ONCE", at_once * V)
        states, head = hidden.to(number_format), weight.to(number_format).requires_grad_()
        question = Question(torch.arange(positions), rows, {"log_probs": token_logp})
        answers = in_chunks(states, head, None, question)
        assert answers.dtype == torch.float32
        (found,) = torch.autograd.grad(answers.sum(), head)
        assert found.dtype == number_format
        return found.float()

    exact = gradient(torch.float32, positions)
    one, many = ((gradient(torch.bfloat16, n) - exact).abs().max().item() for n in (positions, 10))
    assert 0 < many <= 1.1 * one


def test_autocast_of_the_forward_pass_holds_in_the_backward_pass(inputs, monkeypatch):
    hidden, weight, _, rows = inputs
    monkeypatch.setattr(module, "LOGITS_AT_ONCE", 4 * V)
    seen = []

    def seeing(logp_NV, rows):
        seen.append(torch.is_autocast_enabled("cpu"))
        return token_logp(logp_NV, rows)

    with torch.autocast("cpu", dtype=torch.bfloat16):
        answers = in_chunks(hidden, weight, None, question(rows, log_probs=seeing))
    answers.sum().backward()
    assert seen == [True] * 6


def small_model(**settings):
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    return LlamaForCausalLM(
        LlamaConfig(vocab_size=V, hidden_size=8, intermediate_size=8, num_hidden_layers=1,
                    num_attention_heads=1, num_key_value_heads=1, **settings)
    )  # fmt: skip


@pytest.mark.parametrize("tied", [True, False])
def test_a_head_takes_the_place_of_the_models_own_under_the_same_names(tied):
    model = small_model(tie_word_embeddings=tied)
    before = {name: tensor.data_ptr() for name, tensor in model.state_dict().items()}
    ids = torch.tensor([[1, 2, 3]])
    logits = model(ids).logits
    head = ChunkedHead.replace_in(model)
    assert model.get_output_embeddings() is head
    assert {name: tensor.data_ptr() for name, tensor in model.state_dict().items()} == before
    assert (head.weight is model.get_input_embeddings().weight) == tied
    assert torch.equal(model(ids).logits, logits), "unasked it gives logits"


def test_an_open_question_is_answered_at_its_places_alone():
    model = small_model()
    ids = torch.tensor([[1, 2, 3, 4]])
    logits = model(ids).logits[0]
    head = ChunkedHead.replace_in(model)
    next_ids = torch.tensor([3, 16])
    head.question = Question(torch.tensor([1, 2]), {"next_ids": next_ids}, {"log_probs": token_logp})
    answers = model(ids).logits
    assert answers.shape == (1, 4, 1) and answers.dtype == torch.float32
    expected = logits.log_softmax(-1)[[1, 2], next_ids]
    torch.testing.assert_close(answers[0, :, 0], torch.stack([torch.zeros(()), *expected, torch.zeros(())]))


def test_no_scored_position_is_no_error():
    model = small_model()
    head = ChunkedHead.replace_in(model)
    nowhere = torch.tensor([], dtype=torch.long)
    head.question = Question(nowhere, {"next_ids": nowhere}, {"log_probs": token_logp})
    answers = model(torch.tensor([[1, 2, 3]])).logits
    assert answers.eq(0).all()
    answers.sum().backward()
    assert head.weight.grad.eq(0).all() and model.get_input_embeddings().weight.grad.eq(0).all()


def test_models_that_change_their_logits_keep_their_head():
    model = small_model()
    model.config.final_logit_softcapping = 30.0
    plain = model.get_output_embeddings()
    assert ChunkedHead.replace_in(model) is None and model.get_output_embeddings() is plain

    class Scaled(torch.nn.Linear):
        pass

    other = small_model()
    other.set_output_embeddings(Scaled(8, V, bias=False))
    assert ChunkedHead.replace_in(other) is None


def test_a_chunk_of_a_large_vocabulary_has_about_a_thousand_positions():
    assert module.positions_at_once(151_936) == 883
    assert module.positions_at_once(2**30) == 1
