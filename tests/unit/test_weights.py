"""The average of models: the exact mean, in the first one's format, with its tokenizer."""

from __future__ import annotations

import numpy as np
import pytest

from merging.weights import average
from tests.unit.model_copies import STUDENT, changed_copy, noisy_copy, weights_of
from tests.unit.tiny_model import write_model

torch = pytest.importorskip("torch")


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


def test_the_sum_is_taken_in_float32_and_stored_in_the_firsts_format(tmp_path):
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
    mean = average([tmp_path / str(number) for number in range(3)], tmp_path / "mean")
    found = load_file(mean / "model.safetensors")
    assert {value.dtype for value in found.values()} == {torch.bfloat16}
    assert all((value == 1.0 + 2**-7).all() for value in found.values())


def test_the_folder_loads_with_the_first_models_tokenizer(tmp_path):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = average([STUDENT, noisy_copy(tmp_path / "a", 1)], tmp_path / "mean")
    model = AutoModelForCausalLM.from_pretrained(folder)
    assert model.generation_config.eos_token_id == 1 and model.dtype == torch.float32
    tokenizer = AutoTokenizer.from_pretrained(folder)
    assert tokenizer.encode("a+b") == AutoTokenizer.from_pretrained(STUDENT).encode("a+b")
    assert (folder / "chat_template.jinja").exists()


def test_other_shapes_are_refused_and_nothing_is_left(tmp_path):
    other = write_model(tmp_path / "other", hidden=8)
    with pytest.raises(ValueError, match=r"other.*tensors of different names or shapes"):
        average([STUDENT, other], tmp_path / "mean")
    assert [p.name for p in tmp_path.iterdir()] == ["other"]
