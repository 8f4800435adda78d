"""A grader that refuses its benchmark's own solutions is said, or stops the run, before any training."""

from __future__ import annotations

import json
from types import SimpleNamespace

import pytest

import eval.benchmarks as benchmarks
import eval.benchmarks.task as task_module
from merging.state import harness
from tests.helpers.messages import refuses, say_each


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A run with two benchmarks, of which `weak` fails one solution in fifty; `checked` counts the checks."""
    tasks = {
        name: SimpleNamespace(name=name, digest=f"digest of {name}", canonical=lambda problem: "")
        for name in ("sound", "weak")
    }
    found = SimpleNamespace(checked=[], tasks=tasks, share={"sound": 1.0, "weak": 0.98})

    def check(task):
        found.checked.append(task.name)
        return found.share[task.name]

    monkeypatch.setattr(benchmarks, "open_benchmark", lambda declared: tasks[declared])
    monkeypatch.setattr(task_module, "self_check", check)
    found.config = SimpleNamespace(
        evaluation=SimpleNamespace(harness="warn"),
        domains={"d": SimpleNamespace(benchmarks=("sound", "weak"))},
    )
    found.path, found.said = tmp_path, []
    monkeypatch.setattr(harness, "say", found.said.append)
    return found


def test_a_low_ceiling_warns(folder):
    harness.check_harness(folder)
    say_each(
        folder.said,
        ("harness", "sound", "100.0%"),
        ("harness", "weak", "98.0%"),
        ("warning", "benchmark weak", "98.0%"),
    )


def test_a_low_ceiling_stops_where_the_config_says_so(folder):
    folder.config.evaluation.harness = "stop"
    with refuses("benchmark weak", "98.0%"):
        harness.check_harness(folder)
    folder.share["weak"] = 0.99
    folder.tasks["weak"].digest = "another"
    harness.check_harness(folder)


def test_it_is_asked_once_for_each_digest(folder):
    assert harness.ceilings(folder) == {"sound": 1.0, "weak": 0.98}
    assert harness.ceilings(folder) == {"sound": 1.0, "weak": 0.98}
    assert folder.checked == ["sound", "weak"]
    folder.tasks["weak"].digest, folder.share["weak"] = "changed", 0.5
    assert harness.ceilings(folder)["weak"] == 0.5
    assert folder.checked == ["sound", "weak", "weak"]
    assert json.loads((folder.path / "harness.json").read_text())["weak"]["digest"] == "changed"


def test_a_benchmark_without_solutions_has_no_ceiling(folder):
    folder.tasks["weak"].canonical = None
    assert harness.ceilings(folder) == {"sound": 1.0, "weak": None}
    harness.check_harness(folder)
    say_each(folder.said, ("harness", "sound", "100.0%"))
