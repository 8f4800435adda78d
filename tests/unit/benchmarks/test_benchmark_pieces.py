"""Pieces of the other benchmarks at tiny sizes. Nothing is timed but what takes no time."""

from __future__ import annotations

import gzip
import importlib
import json
import sys

import pytest

from benchmarks import grading, routers, sandbox, threads
from benchmarks.__main__ import BENCHMARKS, QUICK, command
from benchmarks.timing import Cost, Spread, cpu_of_tree, in_turns, ratios, timed
from configs.load import load_config


def test_spread_and_ratios():
    assert Spread.of([3.0, 1.0, 2.0]) == Spread(2.0, 1.0, 3.0)
    assert Spread.of([3.0, 1.0]).text(1) == "2.0 (1.0 to 3.0)"
    assert ratios([(1.0, 2.0), (3.0, 2.0), (4.0, 4.0)]) == Spread(1.0, 0.5, 1.5)


def test_turns_alternate_who_goes_first_and_keep_who_is_who():
    order = []
    pairs = in_turns(lambda: order.append("ours"), lambda: order.append("baseline"), 3)
    assert order == ["ours", "baseline", "baseline", "ours", "ours", "baseline"]
    assert len(pairs) == 3 and all(isinstance(cost, Cost) for pair in pairs for cost in pair)


def test_processor_time_holds_that_of_a_child_that_has_ended():
    import subprocess

    busy = "import time\nwhile time.process_time() < 0.3: pass"
    before = cpu_of_tree()
    cost = timed(lambda: subprocess.run([sys.executable, "-I", "-S", "-c", busy], check=True))
    assert cost.cpu_seconds >= 0.25 and cpu_of_tree() - before >= 0.25


def test_every_benchmark_is_a_module_with_a_main_and_those_that_can_be_quick_say_so(capsys):
    for name in BENCHMARKS:
        module = importlib.import_module(
            f"benchmarks.{name}.__main__" if name == "step" else f"benchmarks.{name}"
        )
        with pytest.raises(SystemExit) as ended:
            module.main(["--help"])
        assert ended.value.code == 0
        assert ("--quick" in capsys.readouterr().out) == (name in QUICK)
    assert command("grading", quick=True)[1:] == ["-m", "benchmarks.grading", "--quick"]
    assert command("startup", quick=True)[1:] == ["-m", "benchmarks.startup"]


def test_an_unknown_name_is_refused(capsys):
    from benchmarks.__main__ import main

    with pytest.raises(SystemExit):
        main(["grades"])
    assert "unknown: grades; valid: step, " in capsys.readouterr().err


# ----------------------------------------------------------------------------------------- grading


def test_made_up_answers_are_half_right_by_both_graders():
    answers = grading.make_answers(10)
    assert grading.our_math(answers) == grading.plain_math(answers) == [False, True] * 5


def test_half_of_the_programs_are_spoilt_and_found_so_by_both(tmp_path):
    pytest.importorskip("evalplus")
    rows = [
        {
            "task_id": f"HumanEval/{number}", "prompt": "def f(x):\n", "entry_point": "f", "atol": 0,
            "canonical_solution": f"    return x + {number}\n", "base_input": [[1], [2]], "plus_input": [[3]],
            "contract": "", "test": "",
        }
        for number in range(3)
    ]  # fmt: skip
    with gzip.open(tmp_path / "problems.jsonl.gz", "wt") as file:
        file.writelines(json.dumps(row) + "\n" for row in rows)
    kept, samples = grading.make_programs(tmp_path / "problems.jsonl.gz", 3, tmp_path)
    expected = {"HumanEval/0": True, "HumanEval/1": False, "HumanEval/2": True}
    assert grading.grade_programs(kept, samples) == expected
    assert grading.evalplus_verdicts(kept, samples) == expected


def test_a_line_of_grading():
    pairs = [
        (Cost(1.0, 0.5), Cost(2.0, 1.0)),
        (Cost(3.0, 0.5), Cost(2.0, 2.0)),
        (Cost(2.0, 1.0), Cost(2.0, 1.0)),
    ]
    text = grading.line("programs", pairs, "3 of 3 verdicts equal")
    assert "ratio 1.00 (0.50 to 1.50), of processor seconds 0.50 (0.25 to 1.00)" in text


# ----------------------------------------------------------------------------------------- sandbox


def test_a_sandbox_is_compared_with_plain_processes_and_with_another_checkout():
    (plain,) = sandbox.lines(1, 1, None)
    assert plain.startswith("one at a time: ") and "ms a job, baseline" in plain
    kinds = [line.split(":")[0] for line in sandbox.lines(1, 1, sandbox.ROOT)]
    assert kinds == ["one at a time", "four threads", "long inputs"]


# ----------------------------------------------------------------------------------------- routers


def test_the_routers_configs_hold_so_many_prompts_that_differ_and_fit(tmp_path):
    path = routers.write_config(tmp_path, 50)
    config = load_config(path).config
    assert (
        config.routing.kind == "learned" and load_config(path.with_name("labels.yaml")).config.prompts is None
    )
    texts = [json.loads(row)["prompt"] for row in (tmp_path / "open.jsonl").read_text().splitlines()]
    assert len(set(texts)) == 50 and max(map(len, texts)) < config.training.max_prompt_tokens
    assert len((tmp_path / "math.all.jsonl").read_text().splitlines()) == 25


def test_the_baseline_classifier_reads_the_same_files(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(routers, "LABELLED", 12)
    routers.write_config(tmp_path, 20)
    routers.plain_classifier(tmp_path)
    assert capsys.readouterr().out.split() == ["20"]


def test_a_process_that_was_run():
    took = routers.run([sys.executable, "-I", "-S", "-c", "bytearray(200_000_000)"])
    assert took.peak_bytes > 190_000_000 and took.seconds >= took.cpu_seconds * 0.5
    assert "  20,000 prompts " in took.text(20_000)
    import subprocess

    with pytest.raises(subprocess.CalledProcessError):
        routers.run([sys.executable, "-c", "raise SystemExit(3)"])


# ----------------------------------------------------------------------------------------- threads


def test_the_plain_loop_trains_under_each_way_of_threads(tmp_path):
    settings = threads.write_settings(tmp_path, "demo", prompts=4, steps=3)
    assert [len(rows) for rows in json.loads(settings.read_text())["steps"]] == [4, 4, 4]
    assert threads.update_seconds(settings, "1 thread") > 0


def test_a_line_of_threads():
    rounds = [dict(zip(threads.WAYS, seconds, strict=True)) for seconds in ((1.0, 4.0, 0.5), (2.0, 4.0, 2.0))]
    assert threads.lines("demo", rounds)[1:] == [
        "update, demo, 2 threads: 4.00 (4.00 to 4.00) s, 3.00 (2.00 to 4.00) times 1 thread",
        "update, demo, 2 threads, passive: 1.25 (0.50 to 2.00) s, 0.75 (0.50 to 1.00) times 1 thread",
    ]
