"""The router `agreement`: the decision by hand, and the whole way with real models, kept and read again."""

from __future__ import annotations

import json

import pytest
from pydantic import ValidationError

from configs.blocks.routing import AgreementRouting
from configs.load import load_config
from merging import run as run_module
from merging.training import agreement
from merging.training.agreement import decide_open_prompts, prompt_signals, signal
from routing.routers.agreement import most_moved
from routing.routers.agreement_file import agreement_file
from routing.sources.collect import Prompt
from tests.helpers.messages import refuses
from tests.helpers.opened_runs import adapter_beside_model, open_run
from tests.helpers.tiny_model import write_config, write_jsonl


def test_the_largest_signal_decides_if_it_leads_by_the_margin():
    signals = {"math": 0.25, "code": 0.75, "logic": 0.5}
    found = most_moved(signals, margin=0.25)
    assert (found.domain, found.reason) == ("code", "signal code 0.750, logic 0.500, math 0.250")
    unsure = most_moved(signals, margin=0.26)
    assert unsure.domain is None and "within routing.margin 0.26" in unsure.reason
    assert most_moved({"math": -1.0}, margin=5.0).domain == "math"


def test_signals_by_hand():
    teacher, reference = [-1.0, -2.0, -3.0], [-2.0, -1.0, -5.0]
    assert signal(teacher, reference, "reward") == pytest.approx((1 - 1 + 2) / 3)
    assert signal(teacher, reference, "change") == pytest.approx((1 + 1 + 2) / 3)


def test_otherwise_without_a_margin_is_refused():
    with refuses("otherwise", "margin", "0", error=ValidationError):
        AgreementRouting(kind="agreement", otherwise="drop")


@pytest.fixture
def opened(tmp_path):
    """(folder, preflight, teachers) of a run with these overrides.

    Two domains with six labelled prompts each and a file of four without labels; math is an adapter.
    """
    open_rows = [{"prompt": f"{i} and {i}", "answer": "x"} for i in range(4)]
    write_jsonl(tmp_path / "open.jsonl", [*open_rows, {"prompt": "def f0", "answer": "x"}])
    config = adapter_beside_model(tmp_path)
    config |= {"prompts": {"kind": "file", "path": "open.jsonl"}, "routing": {"kind": "agreement"}}
    config["training"]["max_response_tokens"] = 8
    path = write_config(tmp_path, config)

    def opened(*overrides):
        run = open_run(load_config(path, overrides), tmp_path / "run")
        return run.folder, run.found, run.teachers()

    return opened


def test_prompts_stay_open_until_the_experts_are_there(opened):
    folder, found, teachers = opened()
    assert [item.prompt.text for item in found.undecided] == [f"{i} and {i}" for i in range(4)]
    assert found.counts() == {"math": 6, "code": 6}
    (twin,) = found.dropped  # has a label in code.jsonl
    assert (twin.reason, twin.domain, twin.prompt.text) == ("duplicate", "code", "def f0")
    assert any("4 prompts" in note and "experts" in note for note in found.notes)
    decided = decide_open_prompts(folder, found, teachers)
    assert not decided.undecided and sum(decided.counts().values()) == 16
    assert decided.router["tested"]["n"] == 12 and decided.router["unlabelled"] == 4
    run_module.write_prompts(folder, decided)
    assert folder.router() == decided.router
    assert sum(folder.counts()["prompts"].values()) == 16


def test_decisions_are_kept_and_made_again_only_where_something_changed(opened, tmp_path, monkeypatch):
    folder, found, teachers = opened()
    decided = decide_open_prompts(folder, found, teachers)
    stored = json.loads(agreement_file(tmp_path / "run").read_text())
    assert len(stored["decisions"]) == 4

    def never(*_):
        raise AssertionError("scored again")

    monkeypatch.setattr(agreement, "prompt_signals", never)
    folder, again, teachers = opened()
    assert not again.undecided and again.routed == decided.routed and again.router == decided.router
    assert decide_open_prompts(folder, again, teachers) is again
    agreement_file(tmp_path / "run").write_text(json.dumps(stored | {"key": "another router"}))
    _, anew, _ = opened()
    assert len(anew.undecided) == 4


def test_an_expert_is_the_same_before_and_after_the_decision(opened):
    """Prompts with answers, and yet not the expert's: it would be built anew in the middle of its run."""
    built = "domains.code.expert={kind: rl, steps: 1, prompts_per_step: 4, samples_per_prompt: 2}"
    routing = AgreementRouting(kind="agreement")
    folder, found, teachers = opened()
    config = folder.config.model_copy(update={"routing": routing})
    config = config.model_copy(
        update={"domains": load_config(folder.path / "config.yaml", [built]).config.domains}
    )
    decided = decide_open_prompts(folder, found, teachers)
    assert decided.counts() != found.counts()
    before, after = (each.experts(config)["code"].order().identity() for each in (found, decided))
    assert before == after


def test_a_margin_leaves_prompts_out_or_refuses_them(opened, tmp_path):
    folder, found, teachers = opened("routing={kind: agreement, margin: 100.0, otherwise: drop}")
    decided = decide_open_prompts(folder, found, teachers)
    assert sum(item.reason == "router" for item in decided.dropped) == 4
    assert decided.counts() == {"math": 6, "code": 6} and decided.router["under_margin"] == 4
    (tmp_path / "run" / "config.resolved.yaml").unlink()
    folder, found, teachers = opened("routing={kind: agreement, margin: 100.0}")
    with refuses("open.jsonl, row 1", "routing.margin 100", "4 of 4 prompts"):
        decide_open_prompts(folder, found, teachers)


def test_each_option_changes_the_signals(opened, tmp_path):
    folder, _, teachers = opened()
    prompts = [Prompt("a", ({"role": "user", "content": "1+1"},), None, None, "f", 1)]

    def signals(**options):
        routing = folder.config.routing.model_copy(update=options)
        return prompt_signals(folder.config.model_copy(update={"routing": routing}), prompts, teachers)[0]

    usual = signals()
    assert signals() == usual and all(value >= 0 for value in usual.values())
    for options in ({"signal": "reward"}, {"samples_per_prompt": 3}, {"max_tokens": 2}):
        assert signals(**options) != usual


def test_how_many_labelled_prompts_it_is_tested_on(opened):
    folder, found, teachers = opened("routing.measured_on=2")
    assert decide_open_prompts(folder, found, teachers).router["tested"]["n"] == 4


def test_untested_is_not_measured(opened):
    folder, found, teachers = opened("routing.measured_on=0")
    decided = decide_open_prompts(folder, found, teachers)
    assert decided.router["tested"] is None
    assert any("accuracy" in note and "not measured" in note for note in decided.notes)


def test_a_repeat_of_a_benchmark_gets_its_prompts_domain_or_goes_with_it(opened, tmp_path):
    write_jsonl(tmp_path / "sums.jsonl", [{"prompt": "1 and 1", "answer": "2"}])
    benchmark = "domains.math.benchmarks=[{kind: math, name: sums, path: sums.jsonl}]"
    folder, found, teachers = opened(benchmark)
    assert [item.domain for item in found.overlaps] == ["undecided"]
    decided = decide_open_prompts(folder, found, teachers)
    (own,) = [item.domain for item in decided.routed if item.prompt.text == "1 and 1"]
    assert [(item.domain, item.overlap.prompt.text) for item in decided.overlaps] == [(own, "1 and 1")]
    (tmp_path / "run" / "config.resolved.yaml").unlink()
    folder, found, teachers = opened(benchmark, "routing={kind: agreement, margin: 100.0, otherwise: drop}")
    assert len(found.overlaps) == 1 and decide_open_prompts(folder, found, teachers).overlaps == ()
