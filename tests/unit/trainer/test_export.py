"""verl's checkpoint to a model folder: the same numbers, the base's format, or nothing at all."""

from __future__ import annotations

import json
import os
import shutil

import pytest

from tests.helpers.messages import refuses
from tests.helpers.model_copies import noisy_copy, weights_of
from tests.helpers.paths import STUDENT
from tests.helpers.verl_checkpoints import (
    FakeDTensor,
    Replicate,
    Shard,
    lora_weights,
    sharded,
    write_checkpoint,
)
from trainer.export import export, export_adapter
from trainer.job import Lora

torch = pytest.importorskip("torch")


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """The weights of a trained model, by name."""
    folder = noisy_copy(tmp_path_factory.mktemp("trained") / "model", seed=3)
    return {name: torch.from_numpy(value) for name, value in weights_of(folder).items()}


def assert_holds(folder, weights):
    found = weights_of(folder)
    assert found.keys() == weights.keys()
    for name, value in weights.items():
        assert torch.equal(torch.from_numpy(found[name]), value), name


def test_one_rank(tmp_path, trained):
    write_checkpoint(tmp_path / "checkpoints", 7, [trained])
    target = export(tmp_path / "checkpoints", 7, STUDENT, tmp_path / "student")
    assert target == tmp_path / "student"
    assert_holds(target, trained)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["checkpoints", "student"]


@pytest.mark.parametrize("ranks", [2, 3, 11])
def test_several_ranks_are_joined_in_order_of_their_number(tmp_path, trained, ranks):
    """99 rows over 3 and 11 ranks; with 11 ranks the file names sort 0, 1, 10, 2 as text."""
    write_checkpoint(tmp_path / "checkpoints", 1, sharded(trained, ranks))
    assert_holds(export(tmp_path / "checkpoints", 1, STUDENT, tmp_path / "student"), trained)


def test_other_placements(tmp_path, trained):
    """Split along dimension 1, replicated, and plain tensors."""
    ranks = [{}, {}]
    for number, (name, tensor) in enumerate(trained.items()):
        for rank, part in enumerate(ranks):
            if number % 3 == 0:
                part[name] = tensor
            elif number % 3 == 1:
                part[name] = FakeDTensor(tensor, Replicate())
            else:
                dim = tensor.dim() - 1
                part[name] = FakeDTensor(tensor.chunk(2, dim)[rank].clone(), Shard(dim))
    write_checkpoint(tmp_path / "checkpoints", 1, ranks)
    assert_holds(export(tmp_path / "checkpoints", 1, STUDENT, tmp_path / "student"), trained)


def test_copies_of_shards_count_once(tmp_path, trained):
    """Four ranks as two copies of two shards (verl's `fsdp_size: 2`): ranks 0 and 1 hold one copy."""
    mesh = torch.tensor([[0, 1], [2, 3]])
    other = {name: torch.full_like(value, float("nan")) for name, value in trained.items()}

    def half(weights, rank):
        return {
            name: FakeDTensor(value.chunk(2)[rank].clone(), Replicate(), Shard(0), mesh=mesh)
            for name, value in weights.items()
        }

    ranks = [half(weights, rank) for weights in (trained, other) for rank in (0, 1)]
    write_checkpoint(tmp_path / "checkpoints", 1, ranks)
    assert_holds(export(tmp_path / "checkpoints", 1, STUDENT, tmp_path / "student"), trained)


def test_transformers_loads_it_with_tokenizer_and_template(tmp_path, trained):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    write_checkpoint(tmp_path / "checkpoints", 1, [trained])
    folder = export(tmp_path / "checkpoints", 1, STUDENT, tmp_path / "student")
    model = AutoModelForCausalLM.from_pretrained(folder)
    assert model.dtype == torch.float32 and model.generation_config.eos_token_id == 1
    assert torch.equal(model.state_dict()["lm_head.weight"], trained["lm_head.weight"])
    ask = [{"role": "user", "content": "Math: 1+1"}]
    ours, base = (AutoTokenizer.from_pretrained(path) for path in (folder, STUDENT))
    assert ours.apply_chat_template(ask) == base.apply_chat_template(ask)
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        assert (folder / name).read_bytes() == (STUDENT / name).read_bytes()


def test_the_base_decides_the_number_format(tmp_path, trained):
    base = tmp_path / "base"
    shutil.copytree(STUDENT, base)
    settings = json.loads((base / "config.json").read_text())
    (base / "config.json").write_text(json.dumps({**settings, "dtype": "bfloat16"}))
    write_checkpoint(tmp_path / "checkpoints", 1, [trained])
    folder = export(tmp_path / "checkpoints", 1, base, tmp_path / "student")
    from safetensors.torch import load_file

    found = load_file(folder / "model.safetensors")
    assert {value.dtype for value in found.values()} == {torch.bfloat16}
    assert all(torch.equal(found[name], value.bfloat16()) for name, value in trained.items())
    assert json.loads((folder / "config.json").read_text())["dtype"] == "bfloat16"


@pytest.mark.parametrize("change", ["a tensor is missing", "a tensor too many"])
def test_other_tensors_are_refused_and_nothing_is_left(tmp_path, trained, change):
    weights = dict(trained)
    if change == "a tensor is missing":
        del weights["model.norm.weight"]
        name = "model.norm.weight"
    else:
        weights["model.extra.weight"] = torch.zeros(3)
        name = "model.extra.weight"
    write_checkpoint(tmp_path / "checkpoints", 1, [weights])
    with refuses("tensors", name, error=ValueError):
        export(tmp_path / "checkpoints", 1, STUDENT, tmp_path / "student")
    assert [p.name for p in tmp_path.iterdir()] == ["checkpoints"]


def test_a_missing_rank_is_not_exported(tmp_path, trained):
    actor = write_checkpoint(tmp_path / "checkpoints", 1, sharded(trained, 2))
    (actor / "model_world_size_2_rank_1.pt").unlink()
    with pytest.raises(ValueError, match=r"ranks \[0\] of \[2\]: .* all nodes must share"):
        export(tmp_path / "checkpoints", 1, STUDENT, tmp_path / "student")
    assert [p.name for p in tmp_path.iterdir()] == ["checkpoints"]


def test_a_failed_save_keeps_the_old_folder(tmp_path, trained, monkeypatch):
    from transformers import LlamaForCausalLM

    write_checkpoint(tmp_path / "checkpoints", 1, [trained])
    export(tmp_path / "checkpoints", 1, STUDENT, tmp_path / "student")

    def full_disk(self, folder, **_):
        (folder / "model.safetensors").write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(LlamaForCausalLM, "save_pretrained", full_disk)
    with pytest.raises(OSError, match="No space left"):
        export(tmp_path / "checkpoints", 1, STUDENT, tmp_path / "student")
    assert_holds(tmp_path / "student", trained)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["checkpoints", "student"]


def test_a_tied_head_may_be_absent(tmp_path):
    from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

    sizes = {"hidden_size": 8, "intermediate_size": 8, "num_attention_heads": 1, "num_hidden_layers": 1}
    LlamaForCausalLM(LlamaConfig(vocab_size=5, tie_word_embeddings=True, **sizes)).save_pretrained(
        tmp_path / "base"
    )
    model = LlamaForCausalLM(LlamaConfig(vocab_size=5, tie_word_embeddings=True, **sizes))
    weights = {name: value.detach() for name, value in model.state_dict().items() if name != "lm_head.weight"}
    write_checkpoint(tmp_path / "checkpoints", 1, [weights])
    folder = export(tmp_path / "checkpoints", 1, tmp_path / "base", tmp_path / "student")
    loaded = AutoModelForCausalLM.from_pretrained(folder)
    assert torch.equal(loaded.lm_head.weight, weights["model.embed_tokens.weight"])
    del weights["model.norm.weight"]
    write_checkpoint(tmp_path / "second", 1, [weights])
    with pytest.raises(ValueError, match=r"model\.norm\.weight"):
        export(tmp_path / "second", 1, tmp_path / "base", tmp_path / "other")


# ------------------------------------------------------------------------------------------ adapters


@pytest.mark.parametrize("ranks", [1, 3])
def test_an_adapter_is_written_as_peft_reads_it(tmp_path, ranks):
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    weights = lora_weights(4)
    write_checkpoint(tmp_path / "checkpoints", 2, sharded(weights, ranks))
    target = export_adapter(tmp_path / "checkpoints", 2, STUDENT, tmp_path / "adapter", Lora(4, 12))
    assert sorted(file.name for file in target.iterdir()) == [
        "adapter_config.json", "adapter_model.safetensors",
    ]  # fmt: skip
    model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(STUDENT), target)
    found = {name: value for name, value in model.state_dict().items() if "lora_" in name}
    assert found.keys() == weights.keys()
    assert all(torch.equal(found[name], value) for name, value in weights.items())
    layer = model.base_model.model.model.layers[0].self_attn.q_proj
    assert layer.scaling == {"default": 3.0}


def test_a_checkpoint_of_a_full_model_is_no_adapter(tmp_path, trained):
    write_checkpoint(tmp_path / "checkpoints", 2, [trained])
    with refuses("LoRA adapter", error=ValueError):
        export_adapter(tmp_path / "checkpoints", 2, STUDENT, tmp_path / "adapter", Lora(4, 8))
    assert not (tmp_path / "adapter").exists()


def test_a_checkpoint_without_tensors_is_no_adapter(tmp_path):
    write_checkpoint(tmp_path / "checkpoints", 2, [{}])
    with pytest.raises(ValueError, match="holds no LoRA adapter alone"):
        export_adapter(tmp_path / "checkpoints", 2, STUDENT, tmp_path / "adapter", Lora(4, 8))


@pytest.mark.parametrize("mask, mode", [(0o022, 0o644), (0o077, 0o600), (0o002, 0o664)])
def test_who_may_read_the_folder_may_read_the_model(tmp_path, trained, mask, mode):
    """safetensors makes its files for their owner alone."""
    write_checkpoint(tmp_path / "checkpoints", 7, [trained])
    write_checkpoint(tmp_path / "adapters", 7, [lora_weights(2)])
    before = os.umask(mask)
    try:
        export(tmp_path / "checkpoints", 7, STUDENT, tmp_path / "student")
        export_adapter(tmp_path / "adapters", 7, STUDENT, tmp_path / "adapter", Lora(2, 4))
    finally:
        os.umask(before)
    for folder, weights in (("student", "model.safetensors"), ("adapter", "adapter_model.safetensors")):
        modes = {file.name: file.stat().st_mode & 0o777 for file in (tmp_path / folder).iterdir()}
        assert modes[weights] == mode and all(found & mode == mode for found in modes.values())
