"""The report of a run states the lambda that its student was trained at, not the declared one."""

from __future__ import annotations

import json
import re
import shutil

import pytest

from configs.load import load_config
from merging import run as run_module
from merging.checks.preflight import preflight
from merging.reports.reporting import write
from merging.state.run_folder import RunFolder
from merging.training.alarms import Alarm, AlarmLog
from tests.helpers.report_example import text_of
from tests.helpers.tiny_model import config_dict, write_config

LONG = Alarm("math", "length", 36, "answers of math have 40.0 tokens, 10.0 at first")


@pytest.fixture
def finished(tmp_path):
    """A run of 40 steps up to its report, without benchmarks; its folder and its teachers."""

    def finished(*overrides):
        settings = ("training.steps=40", "training.prompts_per_step=2", "baselines=[]", *overrides)
        loaded = load_config(write_config(tmp_path, config_dict(tmp_path)), settings)
        found = preflight(loaded, tmp_path / "run")
        folder = RunFolder.open(tmp_path / "run", loaded, found)
        run_module.write_prompts(folder, found)
        (folder.path / "harness.json").write_text("{}")
        shutil.copytree(tmp_path / "student", folder.student)
        return folder, run_module.experts(folder, found, run_module.NoCluster())

    return finished


def texts(folder, teachers) -> dict[str, str]:
    """Report and model card as a reader sees them, by file, and the JSON as it is."""
    write(folder, teachers, {})
    markdown = (folder.path / "report.md").read_text()
    card = (folder.student / "README.md").read_text()
    return {
        "md": re.sub(r"\\(.)", r"\1", markdown),
        "html": text_of((folder.path / "report.html").read_text()),
        "card": re.sub(r"\\(.)", r"\1", card),
        "json": (folder.path / "report.json").read_text(),
    }


def test_after_a_back_off_the_report_says_what_was_trained(finished):
    folder, teachers = finished("domains.code.objective={reward_scale: 1.5}")
    AlarmLog(folder.train).add(LONG, one_from=35)
    found = texts(folder, teachers)
    trained = "reward scale 1.25 until step 34, then 1 (math); 1.5 (code)"
    assert trained in found["md"] and trained in found["html"]
    assert "| math | 40 | not measured | 1.25 until step 34, then 1 |" in found["md"]
    assert "| code | 40 | not measured | 1.5 |" in found["md"]
    assert "math 40 not measured 1.25 until step 34, then 1 code 40 not measured 1.5" in found["html"]
    assert "Reward scale lambda: math 1.25 until step 34, then 1; code 1.5." in found["card"]
    objective = json.loads(found["json"])["objective"]
    assert objective["reward_scale"] == {"math": 1.25, "code": 1.5}, "as declared, as it always was"
    assert objective["trained"] == {
        "math": [
            {"first_step": 1, "last_step": 34, "at_first": 1.25, "at_last": 1.25},
            {"first_step": 35, "last_step": 40, "at_first": 1.0, "at_last": 1.0},
        ],
        "code": [{"first_step": 1, "last_step": 40, "at_first": 1.5, "at_last": 1.5}],
    }


def test_a_warm_up_and_a_back_off_from_the_same_run(finished):
    folder, teachers = finished("objective={reward_scale: 1.5, reward_scale_warmup_steps: 10}")
    AlarmLog(folder.train).add(LONG, one_from=35)
    found = texts(folder, teachers)
    warm = "1 rising to 1.5 until step 11, then 1.5"
    assert f"{warm} until step 34, then 1 (math); {warm} (code)" in found["md"]
    assert f"math {warm} until step 34, then 1; code {warm}." in found["card"]


def test_a_run_that_was_backed_off_throughout_is_plain_opd(finished):
    folder, teachers = finished()
    for domain in ("math", "code"):
        AlarmLog(folder.train).add(Alarm(domain, "length", 2, "long"), one_from=1)
    found = texts(folder, teachers)
    assert "merged into one student by ExOPD, reward scale 1." in found["md"]
    assert "Reward scale lambda: math 1, code 1." in found["card"]
    assert "which is plain OPD" in json.loads(found["json"])["opd"]
    assert json.loads(found["json"])["objective"]["reward_scale"] == {"math": 1.25, "code": 1.25}


def test_where_nothing_moved_lambda_is_one_number(finished):
    found = texts(*finished())
    assert "merged into one student by ExOPD, reward scale 1.25." in found["md"]
    assert "Reward scale lambda: math 1.25, code 1.25." in found["card"]
