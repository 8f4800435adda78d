"""How long prompts are: a chat template is a program, and fails in any way."""

from __future__ import annotations

import time

import psutil
import pytest

from configs.prompt_mode import PLAIN
from routing import lengths
from routing.lengths import longest_prompts, prompts_above
from routing.modes import chat_text
from routing.routers.decisions import RoutedPrompt
from routing.sources.collect import Prompt
from tests.helpers.messages import refuses
from tests.helpers.tiny_model import TEMPLATE, write_model

FAILING = {
    "a division by zero": "{{ 1 / 0 }}",
    "too long a range": "{% for i in range(10**9) %}x{% endfor %}",
    "no end": "{% macro a() %}{{ a() }}{% endmacro %}{{ a() }}",
    "another file": "{% include 'other' %}",
    "half a statement": "{% if %}",
    "a name of nothing": "{{ a.b.c }}",
    "its own refusal": "{{ raise_exception('no') }}",
    "a wrong type": "{{ messages + 1 }}",
    "Python's inside": "{{ ''.__class__.__mro__.x.y }}",
}


MODES = {"math": [PLAIN]}


def routed(text: str) -> RoutedPrompt:
    prompt = Prompt("id", ({"role": "user", "content": text},), "1", None, "math.jsonl", 1, "math")
    return RoutedPrompt(prompt, "math", "test")


ENDLESS = {
    "a loop in a loop": ("{% for i in range(90000) %}" * 3 + "{% endfor %}" * 3, "has not ended after 1 s"),
    "one call that takes for ever": ("{{ 10 ** (10 ** 10) }}", "has not ended after 1 s"),
    "more memory than there is": ("{{ ('a' * 10 ** 11) | length }}", "asks for more than 2 GiB"),
}


@pytest.mark.parametrize("template, told", ENDLESS.values(), ids=ENDLESS)
def test_a_chat_template_that_does_not_end_is_refused(tmp_path, monkeypatch, template, told):
    monkeypatch.setattr(chat_text, "TRIAL_SECONDS", 1)
    write_model(tmp_path / "student", template=template)
    began, running = time.monotonic(), psutil.Process().children()
    with refuses("math.jsonl, row 1", "chat template", tmp_path / "student", told):
        longest_prompts([routed("1+1")], tmp_path / "student", MODES)
    assert time.monotonic() - began < 20 and psutil.Process().children() == running


@pytest.mark.parametrize("template", FAILING.values(), ids=FAILING)
def test_a_chat_template_that_fails_is_told_with_prompt_and_student(tmp_path, template):
    write_model(tmp_path / "student", template=template)
    with refuses("math.jsonl, row 1", "chat template", tmp_path / "student") as caught:
        longest_prompts([routed("1+1")], tmp_path / "student", MODES)
    assert len(str(caught.value)) < 1000


def test_a_chat_template_that_adds_more_than_any_instruction_is_refused_at_the_first_prompt(tmp_path):
    many = "{% for i in range(90000) %}xyz{% endfor %}{{ messages[0]['content'] }}"
    write_model(tmp_path / "student", template=many)
    with refuses("math.jsonl, row 1", "chat template", tmp_path / "student", "270,003", "262,144"):
        longest_prompts([routed("1+1")], tmp_path / "student", MODES)
    few = many.replace("90000", "80000")
    write_model(tmp_path / "other", template=few)
    assert longest_prompts([routed("1+1")], tmp_path / "other", MODES)["math"][0] > 1000


def test_of_a_text_that_no_model_reads_only_the_beginning_is_counted(tmp_path, monkeypatch):
    monkeypatch.setattr(lengths, "LARGEST_TEXT", 50)
    student = write_model(tmp_path / "student", template=TEMPLATE)
    assert longest_prompts([routed("1" * 3000)], student, MODES)["math"][0] == 50
    assert [tokens for tokens, _ in prompts_above([routed("1" * 3000)], student, MODES, 40)] == [50]
    assert (
        longest_prompts([routed("1" * 9)], student, MODES)["math"][0] == 10
    )  # with the template's line break


def test_long_texts_are_not_all_read_at_once(tmp_path, monkeypatch):
    read: list[list[int]] = []
    student = write_model(tmp_path / "student", template=TEMPLATE)
    monkeypatch.setattr(lengths, "BATCH_BYTES", 100)
    monkeypatch.setattr(lengths, "BATCH", 3)

    class Tokenizer:
        def apply_chat_template(self, messages, **_):
            return messages[0]["content"]

        def __call__(self, texts, **_):
            read.append([len(text) for text in texts])
            return {"input_ids": [[0] for _ in texts]}  # each text is one token, so all are read

    monkeypatch.setattr("transformers.PreTrainedTokenizerFast.from_pretrained", lambda *_, **__: Tokenizer())
    rows = [routed("1" * size) for size in (10, 200, 60, 30, 50, 90, 9, 11)]
    longest_prompts(rows, student, MODES)
    assert read == [[200], [90], [60], [50, 30, 11], [10, 9]]
