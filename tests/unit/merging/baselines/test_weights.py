"""Baselines in weight space as folders: the right numbers, in the base's format, with its tokenizer."""

from __future__ import annotations

import numpy as np
import pytest

from configs.blocks.baselines import (
    AverageBaseline,
    DareBaseline,
    OpdBaseline,
    TaskArithmeticBaseline,
    TiesBaseline,
)
from merging.baselines.weights import merge_weights, named_weights
from merging.state.baseline_record import RECORD, is_made
from tests.helpers.messages import refuses
from tests.helpers.model_copies import changed_copy, noisy_copy, weights_of
from tests.helpers.paths import STUDENT
from tests.helpers.tiny_model import write_model

torch = pytest.importorskip("torch")


def average(models, target, base=STUDENT):
    return merge_weights(AverageBaseline(kind="average"), base, models, target)


def constant(folder, value):
    return changed_copy(folder, lambda _, tensor: np.full_like(tensor, value))


def test_mean_of_three_by_hand(tmp_path):
    models = [constant(tmp_path / name, value) for name, value in (("a", 1.0), ("b", 2.0), ("c", 6.0))]
    target = average(models, tmp_path / "mean")
    assert target == tmp_path / "mean"
    found = weights_of(target)
    assert found.keys() == weights_of(STUDENT).keys()
    assert all((tensor == 3.0).all() and tensor.dtype == np.float32 for tensor in found.values())
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a", "b", "c", "mean"]


def test_mean_tensor_by_tensor_and_symmetric(tmp_path):
    a, b = (noisy_copy(tmp_path / name, seed) for name, seed in (("a", 1), ("b", 2)))
    found, reverse = (
        weights_of(average([a, b], tmp_path / "ab")),
        weights_of(average([b, a], tmp_path / "ba")),
    )
    first, second = weights_of(a), weights_of(b)
    for name in first:
        expected = (first[name].astype(np.float64) + second[name]) / 2
        np.testing.assert_allclose(found[name], expected, atol=1e-7)
        np.testing.assert_array_equal(found[name], reverse[name])


def test_mean_of_one_is_itself(tmp_path):
    a = noisy_copy(tmp_path / "a", 1)
    found = weights_of(average([a], tmp_path / "mean"))
    assert all((found[name] == value).all() for name, value in weights_of(a).items())


def test_the_sources_are_not_changed(tmp_path):
    a, b = (noisy_copy(tmp_path / name, seed) for name, seed in (("a", 1), ("b", 2)))
    before = [(folder / "model.safetensors").read_bytes() for folder in (a, b)]
    average([a, b], tmp_path / "mean")
    assert [(folder / "model.safetensors").read_bytes() for folder in (a, b)] == before


def test_the_sum_is_taken_in_float32_and_stored_in_the_bases_format(tmp_path):
    """In bfloat16 1 + 2**-8 is 1 already, so a mean summed there would lose the small parts."""
    from safetensors.torch import load_file
    from transformers import LlamaConfig, LlamaForCausalLM

    values = (1.0, 1.0 + 2**-7, 1.0 + 2**-7)  # mean 1.0052 rounds to 1 + 2**-7 = 1.0078 in bfloat16
    sizes = {"hidden_size": 8, "intermediate_size": 8, "num_attention_heads": 1, "num_hidden_layers": 1}
    for number, value in enumerate(values):
        model = LlamaForCausalLM(LlamaConfig(vocab_size=5, **sizes)).to(torch.bfloat16)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.fill_(value)
        model.save_pretrained(tmp_path / str(number))
    mean = average([tmp_path / str(number) for number in range(3)], tmp_path / "mean", base=tmp_path / "0")
    found = load_file(mean / "model.safetensors")
    assert {value.dtype for value in found.values()} == {torch.bfloat16}
    assert all((value == 1.0 + 2**-7).all() for value in found.values())


def test_the_folder_loads_with_the_bases_tokenizer(tmp_path):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    experts = [noisy_copy(tmp_path / name, seed) for name, seed in (("a", 1), ("b", 2))]
    for expert in experts:
        (expert / "chat_template.jinja").unlink()
    folder = average(experts, tmp_path / "mean")
    model = AutoModelForCausalLM.from_pretrained(folder)
    assert model.generation_config.eos_token_id == 1 and model.dtype == torch.float32
    tokenizer = AutoTokenizer.from_pretrained(folder)
    assert tokenizer.encode("a+b") == AutoTokenizer.from_pretrained(STUDENT).encode("a+b")
    assert (folder / "chat_template.jinja").exists()


def test_other_shapes_are_refused_and_nothing_is_left(tmp_path):
    other = write_model(tmp_path / "other", hidden=8)
    with refuses("other", "different names or shapes", error=ValueError):
        average([STUDENT, other], tmp_path / "mean")
    assert [p.name for p in tmp_path.iterdir()] == ["other"]


def test_task_vectors_are_taken_from_the_base(tmp_path):
    """Base 1, experts 2 and 4: 1 + 0.5 * (1 + 3) = 3."""
    base, *experts = [constant(tmp_path / str(value), value) for value in (1.0, 2.0, 4.0)]
    block = TaskArithmeticBaseline(kind="task_arithmetic", scale=0.5)
    found = weights_of(merge_weights(block, base, experts, tmp_path / "task_arithmetic"))
    assert found.keys() == weights_of(STUDENT).keys()
    assert all((tensor == 3.0).all() for tensor in found.values())


def write_llama(folder, value, tied):
    from transformers import LlamaConfig, LlamaForCausalLM

    sizes = {"hidden_size": 8, "intermediate_size": 8, "num_attention_heads": 1, "num_hidden_layers": 1}
    model = LlamaForCausalLM(LlamaConfig(vocab_size=50, tie_word_embeddings=tied, **sizes))
    generator = torch.Generator().manual_seed(value)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator))
    model.save_pretrained(folder)
    return folder


@pytest.mark.parametrize(
    "block", [DareBaseline(kind="dare"), TiesBaseline(kind="ties"), AverageBaseline(kind="average")]
)
def test_a_tied_output_layer_counts_once_and_stays_tied(tmp_path, block):
    from transformers import AutoModelForCausalLM

    from merging.baselines.weights import METHODS
    from merging.state.baseline_record import options

    folders = [write_llama(tmp_path / str(number), number, tied=True) for number in range(3)]
    saved = [AutoModelForCausalLM.from_pretrained(folder) for folder in folders]
    base, *experts = [{n: p.detach() for n, p in model.named_parameters()} for model in saved]
    assert "lm_head.weight" not in base
    model = AutoModelForCausalLM.from_pretrained(
        merge_weights(block, folders[0], folders[1:], tmp_path / "merged")
    )
    assert model.lm_head.weight is model.model.embed_tokens.weight
    expected = METHODS[block.kind](base, experts, **options(block))
    for name, value in model.named_parameters():
        torch.testing.assert_close(value.detach(), expected[name], rtol=0, atol=0)


def test_an_untied_expert_of_a_tied_base_is_refused(tmp_path):
    base, expert = (write_llama(tmp_path / name, 0, name == "tied") for name in ("tied", "untied"))
    with refuses("names or shapes", error=ValueError):
        average([expert], tmp_path / "mean", base)


def test_what_counts_as_weights():
    class Model(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.last = torch.nn.Linear(2, 2, bias=False), torch.nn.Linear(2, 2, bias=False)
            self.last.weight = self.first.weight
            self.register_buffer("scale", torch.ones(1))
            self.register_buffer("count", torch.ones(1, dtype=torch.long))
            self.register_buffer("derived", torch.ones(1), persistent=False)

    assert list(named_weights(Model())) == ["scale", "first.weight"]


# ------------------------------------------------------------------------------- made as it is declared


def test_a_folder_counts_for_the_options_that_it_was_made_with(tmp_path):
    block, target = TiesBaseline(kind="ties"), tmp_path / "ties"
    other = block.model_copy(update={"density": 0.5})
    expert = noisy_copy(tmp_path / "a", 1)
    assert not is_made(block, target)
    merge_weights(block, STUDENT, [expert], target)
    assert is_made(block, target) and not is_made(other, target)
    before = weights_of(target)
    merge_weights(other, STUDENT, [expert], target)
    assert is_made(other, target) and not is_made(block, target)
    assert any((value != before[name]).any() for name, value in weights_of(target).items())
    (target / RECORD).unlink()  # as after a stop between weights and record
    assert not is_made(other, target)


@pytest.mark.parametrize("block", [OpdBaseline(kind="opd"), AverageBaseline(kind="average")])
def test_without_options_the_folder_is_enough(tmp_path, block):
    assert not is_made(block, tmp_path / block.kind)
    (tmp_path / block.kind).mkdir()
    assert is_made(block, tmp_path / block.kind)
