"""`protege route` and `check` with a router that decides: counts, examples, how good and how sure it is."""

from __future__ import annotations

import json
import re

import pytest
import yaml
from pydantic import TypeAdapter

from common.errors import ConfigError
from configs.blocks.routing import Routing
from configs.load import load_config
from merging.checks.preflight import preflight
from routing.routers.by_rules import check_examples, matcher
from routing.routers.wording import confusion_table, histogram_rows, told
from tests.helpers.cli_runner import ROOT, protege, refused
from tests.helpers.messages import say_each, says
from tests.helpers.tiny_model import config_dict, write_config, write_jsonl

pytestmark = pytest.mark.usefixtures("in_tmp")

LEARNED = "routing={kind: learned, otherwise: drop, threshold: 0.55}"


@pytest.fixture
def config(tmp_path):
    """Twelve labelled prompts of each domain and a file of six without labels, two of them strange."""
    found = config_dict(tmp_path)
    write_jsonl(tmp_path / "math.jsonl", [{"prompt": f"add {i} to {i}", "answer": "1"} for i in range(12)])
    write_jsonl(tmp_path / "code.jsonl", [{"prompt": f"def f{i} list", "answer": "x"} for i in range(12)])
    texts = ["add 77 to 5", "add 8 to 99", "def g list", "def h7 list", "zzz", "???"]
    write_jsonl(tmp_path / "open.jsonl", [{"prompt": text, "answer": None} for text in texts])
    found["prompts"] = {"kind": "file", "path": "open.jsonl"}
    return write_config(tmp_path, found)


def test_without_a_router_they_are_refused(config):
    says(refused("route", config), "open.jsonl, row 1", "no label", "column 'domain'")


def test_learned_in_text_and_json(config):
    result = protege("route", config, "--set", LEARNED, "--examples", "1")
    assert result.code == 0, result.err
    says(result.out, "2 by the router", "learned (tfidf)", "6 prompts", "accuracy on labelled prompts")
    says(result.out, "confidence", "####", "routed to code")
    found = json.loads(protege("route", config, "--set", LEARNED, "--json").out)
    assert sum(found["prompts"].values()) + found["dropped"].get("router", {}).get("no domain", 0) == 30
    assert found["decided_by"]["label"] == 24 and found["router"]["kind"] == "learned"
    assert len(found["examples"]["math"]) == 2
    assert (
        len(
            json.loads(protege("route", config, "--set", LEARNED, "--json", "--examples", "5").out)[
                "examples"
            ]["math"]
        )
        == 5
    )


def test_left_out_prompts_are_shown_and_counted(config):
    result = protege("route", config, "--set", "routing={kind: learned, otherwise: drop, threshold: 0.97}")
    says(result.out, "dropped (no domain", "left out: row", "under routing.threshold 0.97")


def test_agreement_is_told_as_open(config):
    result = protege("route", config, "--set", "routing={kind: agreement}")
    says(result.out, "undecided: 6 prompts", "experts")
    checked = protege("check", config, "--set", "routing={kind: agreement}")
    assert checked.code == 0, checked.err
    says(checked.out, "6 prompts", "experts", "(agreement)")


@pytest.fixture
def open_only(tmp_path):
    """No prompt has a label."""
    found = config_dict(tmp_path)
    write_jsonl(tmp_path / "open.jsonl", [{"prompt": f"p {i}", "answer": "x"} for i in range(8)])
    found["prompts"] = {"kind": "file", "path": "open.jsonl"}
    found["routing"] = {"kind": "agreement"}
    for domain in found["domains"].values():
        del domain["prompts"]
    return write_config(tmp_path, found)


@pytest.mark.parametrize("mixing", ["balanced", "{kind: temperature, temperature: 2.0}"])
def test_no_prompt_may_have_a_domain_before_agreement_decides(open_only, mixing):
    for command in (["check"], ["plan"], ["plan", "--json"], ["route"], ["route", "--json"]):
        result = protege(command[0], open_only, *command[1:], "--set", f"mixing={mixing}")
        assert result.code == 0, (command, result.err)


@pytest.mark.parametrize(
    "routing", ["{kind: agreement}", "{kind: rules, rules: [{domain: math, min_chars: 1}]}"]
)
def test_an_expert_without_a_prompt_to_be_built_on_is_refused(open_only, tmp_path, routing):
    write_jsonl(tmp_path / "open.jsonl", [{"prompt": f"p {i}", "answer": None} for i in range(8)])
    built = "domains.math.expert={kind: rl, steps: 1, prompts_per_step: 2, samples_per_prompt: 2}"
    sets = [
        "--set",
        built,
        "--set",
        f"routing={routing}",
        "--set",
        "domains.code.prompts={kind: file, path: code.jsonl}",
    ]
    says(refused("check", open_only, *sets, prints=True), "domains.math.expert", "none")


def test_grpo_needs_answers_of_open_prompts_too(config):
    sets = ["--set", "routing={kind: agreement}", "--set", "baselines=[{kind: grpo, samples_per_prompt: 2}]"]
    message = refused("check", config, *sets, prints=True)
    says(message, "open.jsonl, row 1", "no label", "no answer", "`grpo`")


def test_a_domain_that_a_rule_names_must_be_there(config):
    rules = "routing={kind: rules, rules: [{domain: maths, keywords: [add]}], otherwise: {domain: code}}"
    says(refused("route", config, "--set", rules), "routing.rules.0.domain", "'maths'", "math, code")


@pytest.mark.parametrize(
    "routing, facts",
    [
        ("{kind: learner}", ("routing.kind", "unknown", "'learner'", "'learned'")),
        ("{kind: learned, treshold: 0.5}", ("routing.treshold", "unknown", "'threshold'")),
        ("{kind: learned, threshold: 1.5}", ("routing.threshold", "1.5")),
        ("{kind: learned, otherwise: keep}", ("routing.otherwise", "'keep'")),
        ("{kind: learned, otherwise: {domain: cod}}", ("routing.otherwise.domain", "'cod'")),
        ("{kind: learned, features: bert}", ("routing.features", "unknown", "'bert'")),
        ("{kind: rules}", ("routing.rules", "required", "missing")),
        ("{kind: rules, rules: []}", ("routing.rules",)),
        ("{kind: rules, rules: [{domain: math, regex: '('}]}", ("routing.rules", "regex '('")),
        ("{kind: agreement, otherwise: drop}", ("routing", "otherwise", "margin", "0")),
        ("{kind: agreement, signal: loss}", ("routing.signal", "'loss'")),
    ],
)
def test_a_router_that_is_none_is_refused_in_one_message(config, routing, facts):
    says(refused("route", config, "--set", f"routing={routing}"), *facts)


def test_an_expert_is_built_on_prompts_with_answers(config, tmp_path):
    """Prompts that a router gave to a domain need no answer; those with a label do."""
    built = "domains.math.expert={kind: rl, steps: 1, prompts_per_step: 2, samples_per_prompt: 2}"
    found = preflight(load_config(config, [LEARNED, built]), tmp_path / "run")
    routed = [item for item in found.routed if item.domain == "math"]
    order = found.experts(load_config(config, [LEARNED, built]).config)["math"].order()
    assert len(order.prompts) == 12 and len(routed) > 12
    assert found.unanswered == {"math": len(routed) - 12}
    assert any("math" in note and "no answer" in note and "expert" in note for note in found.notes)


def test_the_words_of_a_measurement():
    router = {
        "kind": "learned", "features": "tfidf", "unlabelled": 9, "undecided": 3, "unlike": 1,
        "threshold": 0.8, "otherwise": "drop", "against": "labelled prompts", "temperature": 2.0,
        "tested": {"n": 10, "right": 9, "accuracy": 0.9, "interval": [0.6, 0.98]},
        "tested_above_threshold": {"n": 8, "right": 8, "accuracy": 1.0, "interval": [0.67, 1.0]},
        "confusion": {"math": {"math": 5}, "code": {"math": 1, "code": 4}},
        "calibration_error": {"before": 0.2, "after": 0.1},
        "histogram": [{"from": 0.0, "to": 0.5, "prompts": 0}, {"from": 0.5, "to": 1.0, "prompts": 9}],
    }  # fmt: skip
    say_each(
        told(router),
        ("learned (tfidf)", "9 prompts", "3", "1", "2 under the threshold 0.8", "otherwise: drop"),
        ("accuracy on labelled prompts", "90.0%", "95% interval 60.0% to 98.0%", "n = 10"),
        ("threshold", "100.0%", "95% interval 67.0% to 100.0%", "n = 8"),
        ("calibration error", "0.100", "0.200 uncalibrated", "temperature 2.00"),
    )
    assert confusion_table(router) == [
        ["label", "routed to code", "routed to math"], ["math", "0", "5"], ["code", "4", "1"],
    ]  # fmt: skip
    assert histogram_rows(router) == [("0.5 to 1.0", 9)]


def test_the_examples_of_the_docs_are_routers():
    text = (ROOT / "docs" / "routers.md").read_text()
    blocks = [yaml.safe_load(block) for block in re.findall(r"```yaml\n(.*?)```", text, re.DOTALL)]
    found = [TypeAdapter(Routing).validate_python(block["routing"]) for block in blocks]
    assert [router.kind for router in found] == ["rules", "learned", "agreement"]
    rules = found[0]
    check_examples(rules, [matcher(rule) for rule in rules.rules])
    with pytest.raises(ConfigError):
        check_examples(rules, [matcher(rule) for rule in reversed(rules.rules)][:1] * 2)
