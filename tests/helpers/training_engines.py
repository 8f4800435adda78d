"""verl's FSDP2 engine on a small model of our own, and batches for it; in a process group that is up."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

LENGTHS = ((3, 9), (5, 4), (2, 11), (7, 6))
"""Prompt and response tokens of a few rollouts."""


def write_causal_model(
    folder: Path, *, vocabulary: int = 151, tied: bool = False, hidden: int = 32, layers: int = 2, **more: Any
) -> Path:
    """A Qwen3 with random weights."""
    from transformers import Qwen3Config, Qwen3ForCausalLM

    torch.manual_seed(0)
    config = Qwen3Config(
        vocab_size=vocabulary,
        hidden_size=hidden,
        intermediate_size=2 * hidden,
        num_hidden_layers=layers,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=16,
        tie_word_embeddings=tied,
        max_position_embeddings=4096,
        **more,
    )
    Qwen3ForCausalLM(config).save_pretrained(folder)
    return folder


def make_engine(
    engine_class: type,
    folder: Path,
    *,
    attention: str = "packed_sdpa",
    packed: bool = True,
    lora_rank: int = 0,
    fresh_adapter: bool = False,
    gradient_checkpointing: bool = False,
    number_format: str = "fp32",
    ranks_of_a_sequence: int = 1,
    padded_to: int | None = None,
) -> Any:
    """An initialised engine; two of one folder have the same weights, adapters included, which add something
    unless they are fresh.

    `padded_to` rounds the tokens of a packed micro-batch up to a multiple.
    """
    from verl.trainer.config import CheckpointConfig
    from verl.workers.config import FSDPEngineConfig, FSDPOptimizerConfig, HFModelConfig

    model_config = HFModelConfig(
        path=str(folder),
        load_tokenizer=False,
        override_config={"attn_implementation": attention},
        use_remove_padding=packed,
        enable_gradient_checkpointing=gradient_checkpointing,
        lora_rank=lora_rank,
        external_lib="trainer.engine.registered",
    )
    engine_config = FSDPEngineConfig(
        strategy="fsdp2",
        mixed_precision={"param_dtype": number_format, "reduce_dtype": "fp32"},
        model_dtype="fp32",
        use_torch_compile=False,
        ulysses_sequence_parallel_size=ranks_of_a_sequence,
        pad_to_length=padded_to is not None,
        pad_to_length_bucket=padded_to or 1,
    )
    optimizer_config = FSDPOptimizerConfig(lr=1e-3, total_training_steps=10, clip_grad=1.0)
    torch.manual_seed(1)
    checkpoint_config = CheckpointConfig(save_lora_only=bool(lora_rank))
    engine = engine_class(model_config, engine_config, optimizer_config, checkpoint_config)
    engine.initialize()
    if lora_rank and not fresh_adapter:
        _fill_adapters(engine)
    return engine


def _fill_adapters(engine: Any) -> None:
    """The second factor of a fresh adapter is 0, and so would be the gradient of the first."""
    for name, weight in sorted(engine.module.named_parameters()):
        if "lora_B" in name:
            local = getattr(weight, "to_local", lambda own=weight: own)()
            with torch.no_grad():
                local.copy_(torch.linspace(-0.1, 0.1, local.numel()).view_as(local))


def rollout_batch(
    lengths: Sequence[tuple[int, int]] = LENGTHS, *, vocabulary: int = 151, seed: int = 0, **settings: Any
) -> Any:
    """A nested batch as verl's V1 trainer has it; `settings` are its non-tensor entries."""
    from tensordict import TensorDict
    from verl.utils import tensordict_utils

    generator = torch.Generator().manual_seed(seed)
    tokens = [torch.randint(0, vocabulary, (p + r,), generator=generator) for p, r in lengths]
    masks = [torch.ones(r, dtype=torch.long) for _, r in lengths]
    columns = {
        "input_ids": tokens,
        "position_ids": [torch.arange(len(row)) for row in tokens],
        "prompts": [row[:p] for row, (p, _) in zip(tokens, lengths, strict=True)],
        "responses": [row[p:] for row, (p, _) in zip(tokens, lengths, strict=True)],
        "response_mask": masks,
        "loss_mask": masks,
    }
    batch = TensorDict({name: jagged(rows) for name, rows in columns.items()}, batch_size=len(lengths))
    defaults = {
        "use_remove_padding": True,
        "use_dynamic_bsz": True,
        "max_token_len_per_gpu": 10**9,
        "temperature": 1.0,
        "calculate_entropy": False,
    }
    tensordict_utils.assign_non_tensor(batch, **{**defaults, **settings})
    return batch


def add_optimum(batch: Any, vocabulary: int, top_k: int | None = None, seed: int = 9) -> Any:
    """Adds what the scorer attaches where distributions are compared, with random numbers: T, B and log q of
    the vocabulary, or of the rest and of K tokens, with their ids."""
    generator = torch.Generator().manual_seed(seed)
    columns, ids = [], []
    for tokens in batch["input_ids"].unbind():
        sampled = -torch.rand(len(tokens), 2, generator=generator)
        outcomes = vocabulary if top_k is None else 1 + top_k
        log_q = torch.randn(len(tokens), outcomes, generator=generator).log_softmax(dim=-1)
        columns.append(torch.cat([sampled, log_q], dim=1))
        if top_k is not None:
            first = torch.randint(0, vocabulary, (len(tokens), 1), generator=generator)
            ids.append(((first + torch.arange(top_k)) % vocabulary).int())
    batch["teacher_logprobs"] = jagged(columns)
    if ids:
        batch["teacher_ids"] = jagged(ids)
    return batch


def jagged(rows: Sequence[torch.Tensor]) -> torch.Tensor:
    """Rows of different lengths as one nested tensor."""
    return torch.nested.as_nested_tensor(list(rows), layout=torch.jagged)


def old_pass(engine: Any, batch: Any) -> dict[str, torch.Tensor]:
    """verl's pass before the update: values at response tokens, padded, [sequences, response tokens]."""
    from verl.workers.utils.padding import no_padding_2_padding

    with engine.eval_mode():
        found = engine.infer_batch(batch.clone(), loss_function=None)["model_output"]
    return {name: no_padding_2_padding(values, batch) for name, values in found.items()}


Loss = Callable[[dict[str, torch.Tensor], torch.Tensor], torch.Tensor]
"""(values at response tokens by name, mask), all [sequences, response tokens] -> the loss."""


def update_pass(engine: Any, batch: Any, loss: Loss) -> tuple[float, dict[str, torch.Tensor]]:
    """The loss, and the gradients by name, of one update over all micro-batches; no weight changes."""
    from verl.workers.utils.padding import no_padding_2_padding

    def loss_function(model_output, data, dp_group=None):
        values = {name: no_padding_2_padding(rows, data) for name, rows in model_output.items()}
        return loss(values, data["response_mask"].to_padded_tensor(0)), {}

    with engine.train_mode():
        engine.optimizer_zero_grad()
        found = engine.forward_backward_batch(batch.clone(), loss_function=loss_function)
        gradients = {name: _whole(weight.grad) for name, weight in engine.module.named_parameters()}
    return sum(found["loss"]), {name: value for name, value in gradients.items() if value is not None}


def _whole(gradient: torch.Tensor | None) -> torch.Tensor | None:
    if gradient is None:
        return None
    return getattr(gradient, "full_tensor", lambda: gradient)().clone()
