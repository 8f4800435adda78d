import hashlib
import json
import random
import subprocess
import sys
from pathlib import Path

import pytest

from common.errors import ConfigError
from configs.demo import problems
from teachers import demo_student

STUDENT = problems.FOLDER / "student"


@pytest.fixture(scope="module")
def tokenizer():
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(STUDENT)


@pytest.fixture(scope="module")
def model():
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(STUDENT)


def test_vocabulary_is_the_models(tokenizer, model) -> None:
    assert len(tokenizer) == model.config.vocab_size == 99
    assert model.get_input_embeddings().weight.shape == (99, 128)
    assert (tokenizer.pad_token_id, tokenizer.eos_token_id, tokenizer.bos_token_id) == (0, 1, 2)
    assert (model.generation_config.eos_token_id, model.generation_config.pad_token_id) == (1, 0)
    assert model.config.use_cache


def test_shape_and_size(model) -> None:
    import torch

    config = model.config
    assert (config.hidden_size, config.num_hidden_layers, config.head_dim) == (128, 4, 32)
    assert config.max_position_embeddings == 160
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    assert model.lm_head.weight.data_ptr() != model.model.embed_tokens.weight.data_ptr()
    assert (STUDENT / "model.safetensors").stat().st_size < 5_000_000


def test_text_survives_the_round_trip(tokenizer) -> None:
    rng = random.Random(0)
    texts = ["".join(rng.choices(demo_student.CHARACTERS, k=60)) for _ in range(50)]
    for text in [*texts, "", " ", "  a , b .\n\n", "don't <|eos|> [PAD] </s> n't", demo_student.CHARACTERS]:
        ids = tokenizer.encode(text)
        assert len(ids) == len(text)
        assert tokenizer.decode(ids) == text
        assert tokenizer.decode([*ids, 1, 0, 0], skip_special_tokens=True) == text


def test_other_characters_are_read_as_question_marks(tokenizer) -> None:
    assert tokenizer.decode(tokenizer.encode("café\t")) == "caf??"


def test_the_committed_tokenizer_is_the_modules() -> None:
    committed = (STUDENT / "tokenizer.json").read_text()
    assert committed == demo_student.tokenizer().backend_tokenizer.to_str(pretty=True)
    assert (STUDENT / "chat_template.jinja").read_text() == demo_student.CHAT_TEMPLATE


def test_template_gives_the_prompt_and_one_newline(tokenizer) -> None:
    chat = [{"role": "user", "content": "Math: 37+48"}]
    assert tokenizer.apply_chat_template(chat, add_generation_prompt=True, tokenize=False) == "Math: 37+48\n"
    ids = tokenizer.apply_chat_template(chat, add_generation_prompt=True, return_dict=False)
    assert tokenizer.decode(ids) == "Math: 37+48\n"
    chat.append({"role": "assistant", "content": "85"})
    assert tokenizer.apply_chat_template(chat, return_dict=False)[-3:] == [*tokenizer.encode("85"), 1]


def test_longest_problem_fits_the_context() -> None:
    longest = max(len(program.prompt) for program in problems.programs())
    assert longest + 1 + problems.CODE_ANSWER_CHARACTERS + 1 <= demo_student.CONTEXT_TOKENS


def test_student_loads_without_a_warning() -> None:
    code = (
        "from transformers import AutoModelForCausalLM, AutoTokenizer;"
        f"AutoTokenizer.from_pretrained({str(STUDENT)!r});"
        f"AutoModelForCausalLM.from_pretrained({str(STUDENT)!r})"
    )
    command = [sys.executable, "-W", "error::UserWarning", "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    spoken = [line for line in done.stderr.splitlines() if line.strip() and "Loading weights" not in line]
    assert spoken == []


def test_student_answers_in_the_form_of_its_domains(tokenizer, model) -> None:
    forms = {"Math: 23+45": r"\boxed{", "Code: sum of doubles of odd numbers in xs": " for x in xs"}
    for prompt, form in forms.items():
        ids = tokenizer.apply_chat_template(
            [{"role": "user", "content": prompt}], add_generation_prompt=True, return_tensors="pt"
        )
        out = model.generate(**ids, max_new_tokens=45, do_sample=False)[0, ids["input_ids"].shape[1] :]
        assert out[-1] == tokenizer.eos_token_id
        assert form in tokenizer.decode(out)


def test_demonstrations_are_of_the_train_split_and_30_percent_are_wrong() -> None:
    right = {p.prompt: p.demonstration() for kind in problems.math_pools("train") for p in kind}
    right |= {p.prompt: p.demonstration() for p in problems.code_problems("train")}
    examples = demo_student.demonstrations(steps=300, seed=3)
    assert {prompt for prompt, _ in examples} <= set(right)
    size = demo_student.SMALL
    per_step = size.math_per_step + size.code_per_step
    assert len(examples) == 300 * per_step
    for domain in ("Math", "Code"):
        of_domain = [(prompt, text) for prompt, text in examples if prompt.startswith(domain)]
        wrong = sum(text != right[prompt] for prompt, text in of_domain) / len(of_domain)
        assert wrong == pytest.approx(0.3, abs=0.03)
    shown = {prompt for prompt, _ in examples if prompt.startswith("Code")}
    assert len(shown) == size.code_programs
    adds = sum(prompt.startswith("Math") and "*" not in prompt for prompt, _ in examples)
    assert adds / (300 * size.math_per_step) == pytest.approx(0.6, abs=0.03)


def test_demonstrations_depend_on_the_seed_only() -> None:
    assert demo_student.demonstrations(3, seed=1) == demo_student.demonstrations(3, seed=1)
    assert demo_student.demonstrations(3, seed=1) != demo_student.demonstrations(3, seed=2)
    longer, shorter = demo_student.demonstrations(5, seed=1), demo_student.demonstrations(3, seed=1)
    assert longer[: len(shorter)] == shorter


def test_the_shipped_students_demonstrations_stay_what_they_are() -> None:
    """Its committed weights are what `--out DIR` alone makes: the recipe of that size must not move."""
    examples = demo_student.demonstrations(demo_student.SMALL.steps, seed=0)
    assert len(examples) == 360 * (64 + 8)
    assert hashlib.sha256(json.dumps(examples).encode()).hexdigest()[:16] == "df4d9ad3fcfd9ca2"


def test_the_large_size_is_wider_reads_the_same_tokens_and_sees_more_programs() -> None:
    small, large = (demo_student.untrained(0, size) for size in demo_student.SIZES.values())
    parameters = [sum(p.numel() for p in model.parameters()) for model in (small, large)]
    assert 2 <= parameters[1] / parameters[0] <= 3
    same = ("vocab_size", "num_hidden_layers", "head_dim", "max_position_embeddings", "eos_token_id")
    assert all(getattr(small.config, name) == getattr(large.config, name) for name in same)
    size = demo_student.SIZES["large"]
    examples = demo_student.demonstrations(200, 0, size)
    assert len(examples) == 200 * (size.math_per_step + size.code_per_step)
    shown = {prompt for prompt, _ in examples if prompt.startswith("Code")}
    assert len(shown) == size.code_programs > demo_student.SMALL.code_programs


def test_micro_batches_hold_one_domain() -> None:
    for size in demo_student.SIZES.values():
        assert (
            size.math_per_step % demo_student.MICRO_BATCH
            == size.code_per_step % demo_student.MICRO_BATCH
            == 0
        )


def test_the_command_builds_the_size_and_seed_it_is_told(tmp_path: Path, monkeypatch, capsys) -> None:
    asked = []
    monkeypatch.setattr(demo_student, "build", lambda *given: asked.append(given))
    monkeypatch.setattr("torch.set_num_threads", lambda _: None)
    demo_student.main(["--out", "here"])
    demo_student.main(["--out", "here", "--size", "large", "--seed", "1", "--steps", "3"])
    small, large = demo_student.SIZES["small"], demo_student.SIZES["large"]
    assert asked == [(Path("here"), 0, None, small), (Path("here"), 1, 3, large)]
    with pytest.raises(SystemExit):
        demo_student.main(["--out", "here", "--size", "huge"])
    assert "small" in capsys.readouterr().err


def test_loss_is_on_the_answer_only() -> None:
    characters = demo_student.tokenizer()
    row = demo_student.encode(characters, "ab", "c")
    a, b, c, newline = characters.encode("abc\n")
    assert row == {"input_ids": [a, b, newline, c, 1], "labels": [-100, -100, -100, c, 1]}
    batch = demo_student.collate([row, demo_student.encode(characters, "a", "")], pad=0)
    assert batch["input_ids"][1].tolist() == [a, newline, 1, 0, 0]
    assert batch["attention_mask"][1].tolist() == [1, 1, 1, 0, 0]
    assert batch["labels"][1].tolist() == [-100, -100, 1, -100, -100]


def test_build_is_reproducible_and_whole(tmp_path: Path) -> None:
    one = demo_student.build(tmp_path / "one", seed=5, steps=2)
    two = demo_student.build(tmp_path / "two", seed=5, steps=2)
    assert (one / "model.safetensors").read_bytes() == (two / "model.safetensors").read_bytes()
    assert {path.name for path in one.iterdir()} == {path.name for path in STUDENT.iterdir()}
    assert {path.name for path in tmp_path.iterdir()} == {"one", "two"}
    with pytest.raises(ConfigError, match="exists already"):
        demo_student.build(one)
