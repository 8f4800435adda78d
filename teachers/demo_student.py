"""The demo's base student: 0.8M parameters that learned from careless demonstrations.

A base made from clean and plentiful demonstrations either fails or leaves reinforcement learning
nothing to find. This one saw fresh math problems for too few steps, only 200 programs again and
again, and a wrong demonstration in three of ten cases.

`python -m teachers.demo_student --out DIR` builds it in two minutes of one core. `--size large` builds
one of 1.8M parameters with the same tokenizer, in eight: what experts larger than the student start from.
It saw more programs, and is better at code and worse at math than the shipped one (docs/LOG.md).
"""

from __future__ import annotations

import argparse
import random
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from common.errors import ConfigError
from common.files import new_folder, share
from configs.demo import problems

if TYPE_CHECKING:
    import torch
    from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

PAD, EOS, BOS = "␀", "␃", "␂"
"""Special tokens, outside printable ASCII: no text of a user can spell one."""

CHARACTERS = "\n" + "".join(map(chr, range(32, 127)))
"""What the tokenizer can write; any other character is read as `?`."""

CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{{ message['content'] }}{{ eos_token if message['role'] == 'assistant' else '\\n' }}"
    "{% endfor %}"
)
"""A prompt is its text and one newline; an answer ends with EOS."""

CONTEXT_TOKENS = 160

LEARNING_RATE = 2e-3
MICRO_BATCH = 8
"""Examples of one domain that go through the model together: longer batches would be mostly padding."""
CORRUPTED_SHARE = 0.3
"""Share of demonstrations that are wrong."""


@dataclass(frozen=True)
class Size:
    """Width of a demo base, and the demonstrations that it sees; all else is the same for every size."""

    hidden: int
    heads: int
    """Of 32 dimensions each: vLLM on a CPU refuses 16."""
    feed_forward: int
    steps: int
    """Supervised steps, unless the command line says otherwise."""
    math_per_step: int
    """Fresh math problems of a step; a multiple of MICRO_BATCH."""
    code_per_step: int
    """Programs of a step; a multiple of MICRO_BATCH."""
    code_programs: int
    """Programs that are demonstrated at all, of those of the train split."""


SIZES = {
    "small": Size(128, 4, 352, steps=360, math_per_step=64, code_per_step=8, code_programs=200),
    "large": Size(192, 6, 528, steps=300, math_per_step=64, code_per_step=16, code_programs=320),
}
"""`small` is the shipped student."""

SMALL = SIZES["small"]


def tokenizer() -> PreTrainedTokenizerFast:
    """One token a character: PAD, EOS, BOS, newline, then printable ASCII in order (99 tokens)."""
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    vocabulary = {token: number for number, token in enumerate((PAD, EOS, BOS, *CHARACTERS))}
    characters = Tokenizer(models.WordLevel(vocabulary, unk_token="?"))
    characters.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), behavior="isolated")
    characters.decoder = decoders.Fuse()
    return PreTrainedTokenizerFast(
        tokenizer_object=characters,
        pad_token=PAD,
        eos_token=EOS,
        bos_token=BOS,
        clean_up_tokenization_spaces=False,
        model_max_length=CONTEXT_TOKENS,
        padding_side="left",
        chat_template=CHAT_TEMPLATE,
    )


def untrained(seed: int, size: Size = SMALL) -> LlamaForCausalLM:
    """A Llama of random float32 weights, with the sizes that vLLM serves on a CPU (head_dim 32)."""
    from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM, set_seed

    special: dict[str, Any] = {"pad_token_id": 0, "eos_token_id": 1, "bos_token_id": 2}
    set_seed(seed)
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=3 + len(CHARACTERS),
            hidden_size=size.hidden,
            num_hidden_layers=4,
            num_attention_heads=size.heads,
            num_key_value_heads=size.heads,
            head_dim=32,
            intermediate_size=size.feed_forward,
            max_position_embeddings=CONTEXT_TOKENS,
            tie_word_embeddings=False,
            dtype="float32",
            **special,
        )
    )
    model.generation_config = GenerationConfig(**special)
    return model


def demonstrations(steps: int, seed: int, size: Size = SMALL) -> list[tuple[str, str]]:
    """Prompt and demonstration of every example, in training order: a step's math, then its code.

    Only problems of the train split are drawn; 30% of the demonstrations, at random, are corrupted.
    """
    rng = random.Random(seed)
    additions, multiplications = problems.math_pools("train")
    few_programs = rng.sample(problems.code_problems("train"), size.code_programs)

    def example(problem: problems.Arithmetic | problems.Program) -> tuple[str, str]:
        if rng.random() < CORRUPTED_SHARE:
            return problem.prompt, problem.corrupted(rng)
        return problem.prompt, problem.demonstration()

    examples = []
    for _ in range(steps):
        for _ in range(size.math_per_step):
            adds = rng.random() < problems.ADDITION_SHARE
            examples.append(example(rng.choice(additions if adds else multiplications)))
        examples.extend(example(program) for program in rng.sample(few_programs, size.code_per_step))
    return examples


def build(out: Path, seed: int = 0, steps: int | None = None, size: Size = SMALL) -> Path:
    """Train the student and save it as a Hugging Face folder; returns that folder.

    `steps` are those of the size by default. The folder appears whole or not at all. Raises ConfigError
    if it exists already.
    """
    out, steps = Path(out).absolute(), size.steps if steps is None else steps
    if out.exists():
        raise ConfigError(f"{out}: exists already; give a folder that does not, or remove it")
    if steps < 1:
        raise ConfigError(f"steps: expected a whole number of at least 1, got {steps}")
    with new_folder(out, replace=False) as unfinished:
        model, characters = untrained(seed, size), tokenizer()
        batch = size.math_per_step + size.code_per_step
        _train(model, characters, demonstrations(steps, seed, size), batch, seed, unfinished / "trainer")
        shutil.rmtree(unfinished / "trainer", ignore_errors=True)
        model.save_pretrained(unfinished)
        characters.save_pretrained(unfinished)
        share(unfinished)
    return out


def _train(
    model: LlamaForCausalLM,
    characters: PreTrainedTokenizerFast,
    examples: Sequence[tuple[str, str]],
    batch: int,
    seed: int,
    folder: Path,
) -> None:
    """Supervised steps of `batch` examples, once over all, in their order; `folder` is the trainer's own."""
    from transformers import Trainer, TrainingArguments

    arguments = TrainingArguments(
        output_dir=str(folder),
        max_steps=len(examples) // batch,
        per_device_train_batch_size=MICRO_BATCH,
        gradient_accumulation_steps=batch // MICRO_BATCH,
        learning_rate=LEARNING_RATE,
        lr_scheduler_type="constant",
        optim="adamw_torch",
        max_grad_norm=1.0,
        train_sampling_strategy="sequential",
        remove_unused_columns=False,
        save_strategy="no",
        logging_steps=50,
        disable_tqdm=True,
        report_to="none",
        use_cpu=True,
        use_cache=True,
        seed=seed,
    )
    pad = characters.pad_token_id
    assert isinstance(pad, int), "the tokenizer pads"
    encoded: Any = [encode(characters, prompt, answer) for prompt, answer in examples]
    Trainer(
        model=model,
        args=arguments,
        train_dataset=encoded,
        data_collator=lambda rows: collate(rows, pad),
    ).train()


def encode(characters: PreTrainedTokenizerFast, prompt: str, answer: str) -> dict[str, list[int]]:
    """Token ids of the rendered prompt, answer and EOS; labels are -100 on the prompt."""
    head: Any = characters.apply_chat_template(
        [{"role": "user", "content": prompt}], add_generation_prompt=True, return_dict=False
    )
    tail: list[Any] = [*characters.encode(answer), characters.eos_token_id]
    return {"input_ids": head + tail, "labels": [-100] * len(head) + tail}


def collate(rows: Sequence[dict[str, list[int]]], pad: int) -> dict[str, torch.Tensor]:
    """Rows padded on the right to the longest: `input_ids`, `attention_mask`, `labels`, [rows, tokens]."""
    import torch

    longest = max(len(row["input_ids"]) for row in rows)

    def padded(values: list[list[int]], filler: int) -> torch.Tensor:
        return torch.tensor([v + [filler] * (longest - len(v)) for v in values])

    ids = [row["input_ids"] for row in rows]
    return {
        "input_ids": padded(ids, pad),
        "attention_mask": padded([[1] * len(v) for v in ids], 0),
        "labels": padded([row["labels"] for row in rows], -100),
    }


def main(arguments: Sequence[str] | None = None) -> None:
    """Command line: build the student into a new folder, on one thread."""
    parser = argparse.ArgumentParser(prog="python -m teachers.demo_student", description=main.__doc__)
    parser.add_argument("--out", type=Path, required=True, help="new folder for the model")
    parser.add_argument("--seed", type=int, default=0, help="seed of weights and demonstrations")
    parser.add_argument("--size", choices=list(SIZES), default="small", help="small is the shipped student")
    parser.add_argument("--steps", type=int, help="supervised steps; by default those of the size")
    given = parser.parse_args(arguments)

    import torch

    # several threads make so small a model slower, and their sums would depend on the machine
    torch.set_num_threads(1)
    try:
        print(build(given.out, given.seed, given.steps, SIZES[given.size]))
    except ConfigError as error:
        parser.error(str(error))


if __name__ == "__main__":
    main()
