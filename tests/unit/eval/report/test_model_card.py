"""The model card says what the report says."""

from __future__ import annotations

import re

import pytest
import yaml

from eval.report.data import ReportData
from eval.report.model_card import model_card, write_model_card
from eval.report.render import to_json
from tests.helpers.report_example import MINUS, hand_made


@pytest.fixture(scope="module")
def data() -> ReportData:
    return hand_made()


def test_model_card(tmp_path, data):
    path = write_model_card(tmp_path, to_json(data), data.config_yaml)
    assert path == tmp_path / "README.md"
    _, front, body = path.read_text().split("---\n", 2)
    assert yaml.safe_load(front) == {
        "library_name": "transformers",
        "pipeline_tag": "text-generation",
        "base_model": "Qwen/Qwen3-4B",
        "base_model_relation": "finetune",
        "tags": ["on-policy-distillation", "exopd", "arxiv:2602.12125"],
    }
    plain = re.sub(r"\\(.)", r"\1", body)
    assert "| the student | 72.2% (70.2 to 74.2) | 80.0% (78.0 to 82.0) | 63.1% (61.1 to 65.1) |" in plain
    assert "| teacher math | 71.0% (69.0 to 73.0) | not measured | 0.0% (0.0 to 1.1) |" in plain
    assert "unscored (344 answers)" in plain and "6.0% (4.0 to 8.0, 4 unscored)" in plain
    row = f"| teacher code | lists | {MINUS}7.1 | {MINUS}11.0 to {MINUS}3.2 | 86 | 0.003 | below (primary) |"
    assert row in plain
    assert "arXiv 2602.12125" in plain and "math 1.25, code 1.5" in plain
    report = to_json(data)
    for said in [report["headline"], *report["questions"]]:
        assert said["sentence"] in plain
    assert "one training run" in plain and data.limits[0] in plain


def test_the_card_says_what_the_reference_was(data):
    report = to_json(data)
    assert "by the student's starting weights (B)" in model_card(report, data.config_yaml)
    assert "by one reference model (B)" in model_card(report, data.config_yaml, "one reference model")


def test_the_card_of_an_adapter_says_what_it_lies_on_and_how_it_is_loaded(data):
    words = "a LoRA adapter of rank 16 and alpha 32"
    _, front, body = model_card(to_json(data), data.config_yaml, adapter=words).split("---\n", 2)
    described = yaml.safe_load(front)
    assert (described["library_name"], described["base_model_relation"]) == ("peft", "adapter")
    assert described["base_model"] == "Qwen/Qwen3-4B"
    plain = re.sub(r"\\(.)", r"\1", body)
    assert f"This folder holds {words} on Qwen/Qwen3-4B" in plain
    assert "base = AutoModelForCausalLM.from_pretrained('Qwen/Qwen3-4B')" in plain
    assert "peft" not in model_card(to_json(data), data.config_yaml)


def test_the_card_says_how_each_domain_is_asked(data):
    report = to_json(data)
    assert "How to ask it" not in model_card(report, data.config_yaml, modes={"math": "", "code": ""})
    modes = {"math": 'system_prompt "Be short."', "code": ""}
    plain = re.sub(r"\\(.)", r"\1", model_card(report, data.config_yaml, modes=modes))
    section = plain.split("## How to ask it")[1].split("## ")[0]
    assert '- math: system_prompt "Be short."' in section
    assert "- code: as the chat template does by itself" in section


def test_a_local_base_model_is_not_published_as_a_hub_name(tmp_path, data):
    (tmp_path / "org" / "model").mkdir(parents=True)
    for student in (str(tmp_path / "org" / "model"), "./student"):
        card = model_card(to_json(data), f"student: {student}\n")
        assert "base_model" not in yaml.safe_load(card.split("---\n")[1])
