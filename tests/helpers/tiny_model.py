"""Tiny model folders and config files for the tests of what is refused."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

CHARACTERS = [chr(code) for code in range(32, 127)] + ["\n"]
TEMPLATE = "{% for m in messages %}{{ m['content'] }}\n{% endfor %}"


def write_model(
    folder: Path,
    *,
    extra_tokens: tuple[str, ...] = (),
    eos: str = "<eos>",
    template: str | None = TEMPLATE,
    vocab_size: int | None = None,
    context: int = 64,
    hidden: int = 4,
    value: float = 0.5,
    generation_eos: list[int] | int | None = None,
) -> Path:
    """A Hugging Face folder: character tokenizer, config, and a Llama of one layer, its head tied."""
    import numpy as np
    from safetensors.numpy import save_file
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    folder.mkdir(parents=True, exist_ok=True)
    tokens = [*CHARACTERS, "<pad>", "<eos>", "<end>", *extra_tokens]
    tokenizer = Tokenizer(models.WordLevel({token: i for i, token in enumerate(tokens)}, unk_token="<pad>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    tokenizer.decoder = decoders.Fuse()
    tokenizer.add_special_tokens(["<pad>", "<eos>", "<end>"])
    tokenizer.save(str(folder / "tokenizer.json"))
    settings: dict[str, Any] = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "eos_token": eos,
        "pad_token": "<pad>",
        "clean_up_tokenization_spaces": False,
    }
    if template is not None:
        settings["chat_template"] = template
    write_json(folder / "tokenizer_config.json", settings)
    write_json(
        folder / "config.json",
        {
            "architectures": ["LlamaForCausalLM"],
            "model_type": "llama",
            "vocab_size": len(tokens) if vocab_size is None else vocab_size,
            "hidden_size": hidden,
            "intermediate_size": INNER,
            "num_attention_heads": 1,
            "num_hidden_layers": 1,
            "max_position_embeddings": context,
            "tie_word_embeddings": True,
        },
    )
    eos_ids = tokens.index(eos) if generation_eos is None else generation_eos
    write_json(folder / "generation_config.json", {"eos_token_id": eos_ids})
    shapes = tensor_shapes(len(tokens) if vocab_size is None else vocab_size, hidden)
    weights = {name: np.full(shape, value, dtype=np.float32) for name, shape in shapes.items()}
    save_file(weights, str(folder / "model.safetensors"), metadata={"format": "pt"})
    return folder


def unmodelled(folder: Path) -> Path:
    """The model with a key in its config.json that only mixtures of experts have, which are not modelled."""
    path = folder / "config.json"
    write_json(path, json.loads(path.read_text()) | {"num_local_experts": None})
    return folder


INNER = 8
"""Width of the model's feed-forward layer."""


def tensor_shapes(vocabulary: int, hidden: int = 4) -> dict[str, tuple[int, ...]]:
    """Every tensor of the model that `write_model` writes."""
    layer = "model.layers.0"
    square = {f"{layer}.self_attn.{side}_proj.weight": (hidden, hidden) for side in "qkvo"}
    inner = {f"{layer}.mlp.{name}_proj.weight": (INNER, hidden) for name in ("gate", "up")}
    norms = ("input_layernorm", "post_attention_layernorm")
    return {
        "model.embed_tokens.weight": (vocabulary, hidden),
        **square,
        **inner,
        f"{layer}.mlp.down_proj.weight": (hidden, INNER),
        **{f"{layer}.{name}.weight": (hidden,) for name in norms},
        "model.norm.weight": (hidden,),
    }


def parameters(vocabulary: int, hidden: int = 4) -> int:
    """Number of its weights."""
    return sum(math.prod(shape) for shape in tensor_shapes(vocabulary, hidden).values())


def write_json(path: Path, content: object) -> Path:
    """Write one JSON document."""
    path.write_text(json.dumps(content), encoding="utf-8")
    return path


def write_jsonl(path: Path, rows: list[dict]) -> Path:
    """Write one row a line."""
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def sum_rows(count: int, **more: object) -> list[dict]:
    """Different prompts with their answers."""
    return [{"prompt": f"{i}+1", "answer": str(i + 1), **more} for i in range(count)]


def config_dict(folder: Path) -> dict[str, Any]:
    """A config that passes every check: student and two experts in `folder`, six prompts each."""
    for name, value in (("student", 0.5), ("math_expert", 0.6), ("code_expert", 0.7)):
        write_model(folder / name, value=value)
    write_jsonl(folder / "math.jsonl", sum_rows(6))
    write_jsonl(folder / "code.jsonl", [{"prompt": f"def f{i}", "answer": "x"} for i in range(6)])
    return {
        "name": "demo",
        "student": "./student",
        "domains": {
            name: {
                "expert": {"kind": "model", "path": f"./{name}_expert"},
                "prompts": {"kind": "file", "path": f"{name}.jsonl"},
                "reward": "exact",
            }
            for name in ("math", "code")
        },
        "training": {
            "steps": 2,
            "prompts_per_step": 4,
            "max_prompt_tokens": 16,
            "max_response_tokens": 16,
        },
        "hardware": {"device": "cpu"},
    }


def write_config(folder: Path, config: dict[str, Any]) -> Path:
    """Write the config as YAML."""
    import yaml

    path = folder / "config.yaml"
    path.write_text(yaml.safe_dump(config, sort_keys=False), encoding="utf-8")
    return path
