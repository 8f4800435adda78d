"""What the report says of the prompts and of each training's rows, the same in all three formats."""

from __future__ import annotations

import json
import re
from types import SimpleNamespace

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from common.errors import RunFailed
from configs.load import load_config
from eval.report.render import to_html, to_json, to_markdown
from eval.report.sections import prompts as prompts_module
from eval.report.sections.prompts import PromptUse, TrainingRows
from merging.baselines import grpo
from merging.reports.prompt_report import prompt_use
from merging.state.run_folder import RunFolder
from merging.training import rewarded
from routing.trained_rows import check_file
from tests.helpers.grpo_runs import grpo_config
from tests.helpers.messages import refuses
from tests.helpers.report_example import Reader, hand_made, text_of
from tests.helpers.stand_in_trainers import FakeCluster, GrpoTrainer
from tests.helpers.tiny_model import config_dict, write_config

USE = PromptUse(
    prompts={"math": 90, "code": 70},
    shares={"math": 0.75, "code": 0.25},
    dropped={"duplicate": {"math": 11}, "too long": {"math": 2, "code": 5}},
    conflicts={"code": 3},
    overlaps={"sums": {"math": 4}},
    trainings=(
        TrainingRows("merge", {"math": 60, "code": 20}, {"math": 54, "code": 18}, 10, 9, "loss"),
        TrainingRows("baseline sft", {"math": 60, "code": 20}, {"math": 60, "code": 20}, 10, 10, "file"),
        TrainingRows("baseline grpo", {"math": 15, "code": 5}, {}, 10, 0, "file"),
    ),
)

PROMPT_ROWS = [
    ["Domain", "Share of every step", "Prompts", "Dropped: duplicate", "Dropped: too long",
     "Also in another domain", "Repeats of sums"],
    ["math", "75.0%", "90", "11", "2", "0", "4"],
    ["code", "25.0%", "70", "0", "5", "3", "0"],
]  # fmt: skip
TRAINING_ROWS = [
    ["Training", "Domain", "Rows planned", "Rows trained", "Steps counted", "Counted by"],
    ["merge", "math", "60", "54", "9 of 10", "loss"],
    ["merge", "code", "20", "18", "9 of 10", "loss"],
    ["baseline sft", "math", "60", "60", "10 of 10", "file"],
    ["baseline sft", "code", "20", "20", "10 of 10", "file"],
    ["baseline grpo", "math", "15", "not measured", "0 of 10", "file"],
    ["baseline grpo", "code", "5", "not measured", "0 of 10", "file"],
]


def test_markdown_html_and_json_tell_the_same():
    data = hand_made(prompts=USE)
    markdown, page = to_markdown(data), to_html(data)
    for row in PROMPT_ROWS + TRAINING_ROWS:
        assert f"| {' | '.join(row)} |\n" in markdown
        assert " ".join(row) in text_of(page)
    for title in ("What became of the prompts", "Rows planned and trained"):
        assert f"### {title}\n" in markdown and title in text_of(page)
        assert title in {attributes.get("aria-label") for _, attributes in Reader(page).tags}
    assert json.loads(json.dumps(to_json(data)))["prompts"] == {
        "found": {"math": 90, "code": 70},
        "shares": {"math": 0.75, "code": 0.25},
        "dropped": {"duplicate": {"math": 11}, "too long": {"math": 2, "code": 5}},
        "conflicts": {"code": 3},
        "overlaps": {"sums": {"math": 4}},
        "trainings": {
            "merge": {"planned": {"math": 60, "code": 20}, "trained": {"math": 54, "code": 18},
                      "steps": 10, "measured_steps": 9, "counted": "loss"},
            "baseline sft": {"planned": {"math": 60, "code": 20}, "trained": {"math": 60, "code": 20},
                             "steps": 10, "measured_steps": 10, "counted": "file"},
            "baseline grpo": {"planned": {"math": 15, "code": 5}, "trained": {}, "steps": 10,
                              "measured_steps": 0, "counted": "file"},
        },
    }  # fmt: skip


def test_the_tables_of_markdown_are_well_formed():
    rows = [line for line in to_markdown(hand_made(prompts=USE)).splitlines() if line.startswith("|")]
    for table, head in ((PROMPT_ROWS, PROMPT_ROWS[0]), (TRAINING_ROWS, TRAINING_ROWS[0])):
        start = rows.index(f"| {' | '.join(head)} |")
        assert re.fullmatch(r"\|---\|(--:\|)+", rows[start + 1])
        assert {row.count("|") for row in rows[start : start + len(table) + 1]} == {len(head) + 1}


def test_names_are_escaped():
    use = PromptUse(prompts={"<b>": 1}, overlaps={"x|y": {"<b>": 1}})
    assert (
        "&lt;b&gt;" in to_html(hand_made(prompts=use))
        and "<b>" not in to_html(hand_made(prompts=use))[-9000:]
    )
    assert r"| \<b\> | not measured | 1 | 1 |" in to_markdown(hand_made(prompts=use))
    assert r"Repeats of x\|y" in to_markdown(hand_made(prompts=use))


def test_of_a_run_that_kept_nothing_there_is_no_table():
    assert prompts_module.domain_table(PromptUse()) is prompts_module.training_table(PromptUse()) is None
    assert "What became of the prompts" not in to_markdown(hand_made())
    assert "Rows planned and trained" not in text_of(to_html(hand_made()))


def test_a_domain_all_of_whose_prompts_are_gone_is_shown():
    table = prompts_module.domain_table(PromptUse(prompts={"math": 1}, dropped={"overlap": {"code": 7}}))
    assert table.rows == [["math", "not measured", "1", "0"], ["code", "not measured", "0", "7"]]


def test_what_was_dropped_without_a_domain_has_a_row_and_no_share():
    use = PromptUse({"math": 1}, {"math": 1.0}, dropped={"router": {"no domain": 7}})
    assert prompts_module.domain_table(use).rows == [
        ["math", "100.0%", "1", "0"],
        ["no domain", "none", "0", "7"],
    ]


# ---------------------------------------------------------------------------------- from a run folder


@pytest.fixture
def folder(tmp_path):
    """A run of three steps of four prompts, two rollouts each, with every trained baseline."""
    settings = (
        "training.steps=3", "training.samples_per_prompt=2",
        "baselines=[opd, {kind: interpolation, reward_scale: 0.5}, sft, {kind: grpo, samples_per_prompt: 4}]",
    )  # fmt: skip
    loaded = load_config(write_config(tmp_path, config_dict(tmp_path)), settings)
    folder = RunFolder.open(tmp_path / "run", loaded, SimpleNamespace(with_folders=lambda config: config))
    counts = {
        "prompts": {"math": 6, "code": 5}, "rows": {"math": 6, "code": 6},
        "shares": {"math": 0.5, "code": 0.5}, "dropped": {"conflict": {"code": 1}},
        "conflicts": {"code": 1}, "overlaps": {"b": {"math": 2}},
    }  # fmt: skip
    (folder.path / "prompts").mkdir()
    (folder.path / "prompts" / "counts.json").write_text(json.dumps(counts))
    return folder


def line(step: int, math: int, code: int) -> dict[str, float]:
    return {"step": step, "teacher/math/sequences": float(math), "teacher/code/sequences": float(code)}


def write_teachers(path, *teachers: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table({"teacher": list(teachers)}), path)


def test_every_training_of_a_run_is_counted(folder):
    folder.write_metrics("merge", [line(1, 4, 4), line(2, 4, 4), line(3, 4, 4)])
    folder.write_metrics("opd", [line(1, 4, 4), line(3, 4, 4)])
    write_teachers(folder.path / "sft" / "answers.parquet", *["math", "math", "code", "code"] * 6)
    write_teachers(folder.path / "grpo" / "prompts.parquet", "math", "code", "code", "math", "math", "code")
    (folder.path / "grpo" / "planned.json").write_text('{"math": 3, "code": 3}')
    use, planned = prompt_use(folder), {"math": 6, "code": 6}
    assert (use.prompts, use.shares) == ({"math": 6, "code": 5}, {"math": 0.5, "code": 0.5})
    assert (use.dropped, use.conflicts, use.overlaps) == (
        {"conflict": {"code": 1}}, {"code": 1}, {"b": {"math": 2}},
    )  # fmt: skip
    assert use.trainings == (
        TrainingRows("merge", planned, planned, 3, 3, "loss"),
        TrainingRows("baseline opd", planned, {"math": 4, "code": 4}, 3, 2, "loss"),
        TrainingRows("baseline interpolation", planned, {}, 3, 0, "loss"),
        TrainingRows("baseline sft", planned, planned, 3, 3, "file"),
        TrainingRows("baseline grpo", {"math": 3, "code": 3}, {"math": 3, "code": 3}, 3, 3, "file"),
    )


def test_files_that_are_gone_were_not_measured(folder):
    trainings = {rows.training: rows for rows in prompt_use(folder).trainings}
    assert trainings["baseline sft"].trained == {} and trainings["baseline sft"].measured_steps == 0
    assert trainings["baseline grpo"] == TrainingRows("baseline grpo", {}, {}, 3, 0, "file")


def test_a_run_of_an_earlier_version_is_told_as_far_as_it_is_known(folder):
    counts = {"prompts": {"math": 6, "code": 5}, "rows": {"math": 6, "code": 6}, "conflicts": 0}
    (folder.path / "prompts" / "counts.json").write_text(json.dumps(counts))
    use = prompt_use(folder)
    assert (use.prompts, use.shares, use.dropped, use.conflicts, use.overlaps) == (
        {"math": 6, "code": 5}, {}, {}, {}, {},
    )  # fmt: skip


def test_another_file_than_the_plans_is_refused(folder):
    write_teachers(folder.path / "sft" / "answers.parquet", *["math"] * 24)
    with refuses("math 24", "code 12, math 12", error=RunFailed):
        prompt_use(folder)


# --------------------------------------------------------------------------------------------- grpo


def test_grpo_keeps_its_plan_and_checks_its_file(tmp_path, monkeypatch):
    from merging.checks.preflight import preflight
    from merging.run import scheduled, write_prompts

    loaded = grpo_config(tmp_path)
    found = preflight(loaded, tmp_path / "run")
    folder = RunFolder.open(tmp_path / "run", loaded, found)
    write_prompts(folder, found)
    (baseline,) = folder.config.baselines
    rows = scheduled(folder.config, found.routed, 4)
    monkeypatch.setattr(rewarded, "train", GrpoTrainer())
    assert grpo.planned_grpo(folder) == {}
    grpo.train_grpo(folder, baseline, rows, FakeCluster(), folder.baseline("grpo"))
    assert grpo.planned_grpo(folder) == {"math": 4, "code": 4}
    teachers = check_file(folder.path / "grpo" / "prompts.parquet", {"math": 4, "code": 4})
    assert teachers == [row.domain for row in rows]

    def another(job, *_):
        write_teachers(job.train_file, *["math"] * 8)

    monkeypatch.setattr(rewarded, "train", another)
    with refuses("math 8", "code 4, math 4", error=RunFailed):
        grpo.train_grpo(folder, baseline, rows, FakeCluster(), tmp_path / "model")
    assert not (tmp_path / "model").exists()
