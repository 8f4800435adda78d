"""`protege report --compare` through the command line: numbers by hand, what is refused, what is said."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from eval.compared.data import settings_that_differ
from merging.reports.compare_runs import run_labels
from tests.helpers.cli_runner import protege, refused
from tests.helpers.messages import say_each, says
from tests.helpers.run_folders import answers, config_of, write_key, write_run

pytestmark = pytest.mark.usefixtures("in_tmp")

RIGHT, HALF = [1] * 8, [1, 1, 0, 0, 0, 0, 0, 0]
WRONG = [0] * 8


def compared(first, second, *options) -> dict:
    """The comparison as JSON; the command must accept it."""
    result = protege("report", "--compare", first, second, *options)
    assert result.code == 0, result.err
    return json.loads((first / f"compare-{second.name}" / "compare.json").read_text())


def pair(tmp_path, ours=RIGHT, theirs=HALF, **second):
    """Two runs with a student, of other accuracies, and the same base."""
    first = write_run(tmp_path / "a", {"student": answers(ours), "base": answers(WRONG)})
    return first, write_run(tmp_path / "b", {"student": answers(theirs), "base": answers(WRONG)}, **second)


# ------------------------------------------------------------------------------------------ numbers


def test_differences_by_hand(tmp_path):
    student, base = compared(*pair(tmp_path))["comparisons"]
    assert (student["model"], student["benchmark"], student["mode"]) == ("student", "sums", "sampled")
    assert student["accuracy"] == {"first": 1.0, "second": 0.25}
    assert (student["difference"], student["n"]) == (0.75, 8)
    assert student["p_value"] == 2 / 2**6  # of the six problems that differ, all signs alike
    assert student["interval"][0] > 0 and student["verdict"] == "beats" and not student["same_answers"]
    assert (base["model"], base["difference"], base["interval"]) == ("base", 0.0, [0.0, 0.0])
    assert base["same_answers"] and base["p_value"] == 1.0


def test_the_second_run_is_subtracted(tmp_path):
    first, second = pair(tmp_path)
    (student, _), (swapped, _) = (
        compared(*runs)["comparisons"] for runs in ((first, second), (second, first))
    )
    assert swapped["difference"] == -student["difference"] and swapped["verdict"] == "below"
    assert swapped["interval"] == pytest.approx([-student["interval"][1], -student["interval"][0]])


def test_answers_are_paired_by_problem_not_by_position(tmp_path):
    first = write_run(tmp_path / "a", {"student": answers([1, 0, 1, 0, 1, 0])})
    second = write_run(tmp_path / "b", {"student": answers([1, 0, 1, 0, 1, 0])[::-1]})
    (row,) = compared(first, second)["comparisons"]
    assert row["same_answers"] and row["interval"] == [0.0, 0.0]


def test_other_numbers_of_samples_are_means_by_problem(tmp_path):
    settings = {**config_of("b"), "evaluation": {"samples_per_problem": 2, "greedy": False}}
    twice = [*answers(HALF), *answers(RIGHT, index=1)]
    first = write_run(tmp_path / "a", {"student": answers(RIGHT)})
    found = compared(first, write_run(tmp_path / "b", {"student": twice}, config=settings))
    assert found["comparisons"][0]["difference"] == 1 - (2 * 1.0 + 6 * 0.5) / 8
    say_each(found["caveats"], ("sampled answers", "1 in a", "2 in b"))


def test_what_cannot_be_judged_is_left_out_with_its_partner(tmp_path):
    first, second = pair(tmp_path, ours=[None, *RIGHT[1:]])
    student = compared(first, second)["comparisons"][0]
    assert (student["difference"], student["n"], student["unscored"]) == (6 / 7, 7, 2)


def test_greedy_and_sampled_answers_are_compared_apart(tmp_path):
    both = [*answers(RIGHT), *answers(WRONG, mode="greedy")]
    first = write_run(tmp_path / "a", {"student": both, "base": both})
    theirs = {"student": [*answers(WRONG), *answers(WRONG, mode="greedy")], "base": answers(RIGHT)}
    found = compared(first, write_run(tmp_path / "b", theirs))
    assert {(r["model"], r["mode"]): r["difference"] for r in found["comparisons"]} == {
        ("student", "sampled"): 1.0, ("student", "greedy"): 0.0, ("base", "sampled"): 0.0,
    }  # fmt: skip
    (left_out,) = found["not_compared"]
    says(left_out["what"], "base", "sums", "greedy")
    says(left_out["reason"], "only a")


# -------------------------------------------------------------------------------- what is comparable


def test_another_prompt_is_never_paired(tmp_path):
    changed = answers(HALF)
    changed[3] = replace(changed[3], prompt=({"role": "user", "content": "3+2"},))
    first = write_run(tmp_path / "a", {"student": answers(RIGHT)})
    found = compared(first, write_run(tmp_path / "b", {"student": changed}))
    assert found["comparisons"] == []
    (left_out,) = found["not_compared"]
    assert left_out["what"] == "sums"
    says(left_out["reason"], "1 of 8 problems", "another prompt", "p3")
    says(found["sentences"][0], "Nothing", "compared")
    assert any("sums" in said and left_out["reason"] in said for said in found["sentences"])


def test_fewer_problems_are_other_problems(tmp_path):
    first = write_run(tmp_path / "a", {"student": answers(RIGHT)})
    found = compared(first, write_run(tmp_path / "b", {"student": answers(RIGHT[:6])}))
    assert found["comparisons"] == []
    says(found["not_compared"][0]["reason"], "8 problems in a", "6 in b", "6 with the same id and prompt")


def test_other_reference_answers_are_other_problems(tmp_path):
    first, second = pair(tmp_path, digest="ba9876543210", grading="other")
    found = compared(first, second)
    assert found["comparisons"] == []
    digests = ("0123456789ab", "ba9876543210")
    says(found["not_compared"][0]["reason"], "reference answers", "grader settings", *digests)


def test_another_version_of_the_grader_is_a_caveat(tmp_path):
    found = compared(*pair(tmp_path, grading="other"))
    assert len(found["comparisons"]) == 2
    say_each(found["caveats"], ("sums", "version of the grader"))
    says(found["caveats"][0], absent=["reference answers"])
    unknown = compared(*pair(tmp_path / "x", grading="other", digest="unknown"))
    says(unknown["caveats"][0], "sums", "version of the grader", "reference answers")


def test_without_keys_the_prompts_tell(tmp_path):
    first, second = pair(tmp_path)
    for key in second.glob("samples/*/*.key.json"):
        key.unlink()
    found = compared(first, second)
    assert len(found["comparisons"]) == 2 and len(found["caveats"]) == 1


def test_benchmarks_and_models_of_one_run_are_named(tmp_path):
    ours = {"student": [*answers(RIGHT), *answers(RIGHT, "more")], "opd": answers(HALF)}
    first = write_run(tmp_path / "a", ours)
    second = write_run(tmp_path / "b", {"student": answers(HALF), "average": answers(HALF)})
    left_out = compared(first, second)["not_compared"]
    assert [row["what"] for row in left_out] == ["more", "model opd", "model average"]
    say_each([row["reason"] for row in left_out], ("only a",), ("only a",), ("only b",))


def test_pools_are_not_compared_twice(tmp_path):
    both = [*answers(RIGHT), *answers(HALF, "more")]
    runs = [write_run(tmp_path / name, {"student": both}) for name in "ab"]
    assert [row["benchmark"] for row in compared(*runs)["comparisons"]] == ["sums", "more"]


# ----------------------------------------------------------------------------------------- settings


def test_other_evaluation_settings_are_caveats_and_differences(tmp_path):
    config = config_of("b")
    config["evaluation"] |= {"temperature": 0.7, "max_response_tokens": 64}
    config |= {"chat_template": {"enable_thinking": False}, "objective": {"reward_scale": 1.0}}
    found = compared(*pair(tmp_path, config=config, provenance={"torch": "2.14.0", "commit": "abc"}))
    say_each(
        found["caveats"],
        ("temperature", "1 in a", "0.7 in b"),
        ("tokens", "16 in a", "64 in b"),
        ("chat template",),
    )
    assert found["config"] == [
        {"key": "name", "first": "a", "second": "b"},
        {"key": "chat_template.enable_thinking", "second": False},
        {"key": "objective.reward_scale", "first": 1.25, "second": 1.0},
        {"key": "evaluation.temperature", "first": 1.0, "second": 0.7},
        {"key": "evaluation.max_response_tokens", "first": None, "second": 64},
    ]
    assert found["provenance"] == [
        {"key": "torch", "first": "2.13.0", "second": "2.14.0"},
        {"key": "machine", "first": "vm"},
        {"key": "commit", "second": "abc"},
    ]
    assert (found["first"]["reward_scale"], found["second"]["reward_scale"]) == (
        {"math": 1.25},
        {"math": 1.0},
    )
    assert any(limit.startswith("4 config values") for limit in found["limits"])


def test_another_mode_is_a_caveat_and_is_compared(tmp_path):
    """The problems are the same: the system message stands before them."""
    config = config_of("b")
    config["domains"]["math"] |= {"system_prompt": "Be short.", "chat_template": {"think": True}}
    said = {"role": "system", "content": "Be short."}
    asked = [replace(sample, prompt=(said, *sample.prompt)) for sample in answers(HALF)]
    first = write_run(tmp_path / "a", {"student": answers(RIGHT)})
    second = write_run(tmp_path / "b", {"student": asked}, config=config)
    found = compared(first, second)
    assert len(found["comparisons"]) == 1 and found["not_compared"] == []
    (caveat,) = found["caveats"]
    says(caveat, "math", "another mode", "think: true", "Be short.", "in b")
    third = write_run(tmp_path / "c", {"student": asked}, config={**config, "name": "c"})
    assert compared(second, third)["caveats"] == []


def test_the_first_runs_margin_holds_and_another_one_is_a_caveat(tmp_path):
    config = config_of("b")
    config["evaluation"] |= {"margin": 5}
    found = compared(*pair(tmp_path, config=config))
    assert found["margin"] == 0.02
    say_each(found["caveats"], ("margin", "2 in a", "5 in b", "that of a"))


def test_the_comparisons_of_different_answers_are_one_family(tmp_path):
    """p = 2 / 2^6 for the student, 2 / 2^8 for the base: Holm takes the smaller times 2."""
    first = write_run(tmp_path / "a", {"student": answers(RIGHT), "base": answers(RIGHT)})
    second = write_run(tmp_path / "b", {"student": answers(HALF), "base": answers(WRONG)})
    rows = {row["model"]: row for row in compared(first, second)["comparisons"]}
    assert (rows["student"]["p_value"], rows["base"]["p_value"]) == (2 / 2**6, 2 / 2**8)
    assert (rows["student"]["p_adjusted"], rows["base"]["p_adjusted"]) == (2 / 2**6, 4 / 2**8)
    assert {row["verdict"] for row in rows.values()} == {"beats"}


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [
        ({"a": {"b": 1}}, {"a": {"b": 1}}, []),
        ({"a": {"b": 1, "c": 2}}, {"a": {"b": 3, "c": 2}}, [("a.b", {"first": 1, "second": 3})]),
        ({"a": None}, {"a": {"b": None}}, [("a.b", {"second": None})]),
        ({"a": None}, {"a": 0}, [("a", {"first": None, "second": 0})]),
        ({"a": True}, {"a": 1}, [("a", {"first": True, "second": 1})]),
        ({"a": [1, 2]}, {"a": [1]}, [("a", {"first": [1, 2], "second": [1]})]),
        ({"a": [{"k": 1}]}, {"a": [{"k": 1}, {"k": 2}]}, [("a.1.k", {"second": 2})]),
        ({"a": ["x"]}, {"a": [{"k": 1}]}, [("a", {"first": ["x"], "second": [{"k": 1}]})]),
        ({}, {"a": []}, [("a", {"second": []})]),
    ],
)
def test_settings_that_differ(first, second, expected):
    found = [(setting.key, dict(setting.values)) for setting in settings_that_differ(first, second)]
    assert found == expected


def test_time_and_memory_of_both(tmp_path):
    first, second = pair(tmp_path, wall_seconds={"merge": 60.0, "baseline opd": 30.5})
    found = compared(first, second)
    assert found["second"]["wall_seconds"] == {"merge": 60.0, "baseline opd": 30.5}
    text = (first / "compare-b/compare.md").read_text()
    assert "| merge | 1 min 30 s | 1 min 00 s |" in text and "| baseline opd | absent | 30.5 s |" in text
    assert "| in all | 1 min 30 s | 1 min 30 s |" in text and "| peak memory | 2.0 GiB | 2.0 GiB |" in text


# ------------------------------------------------------------------------------- the command's words


def test_the_terminal_shows_the_sentences_and_where_the_page_is(tmp_path, monkeypatch):
    lines = []
    monkeypatch.setattr("merging.reports.compare_runs.say", lines.append)
    first, second = pair(tmp_path)
    compared(first, second)
    say_each(
        lines,
        ("math (sums, sampled)", "student of a beats", "b", "+75.0 points", "95%", "n = 8", "p = 0.031"),
        ("base", "same answers"),
        (f"{first}/compare-b/compare.html",),
    )


def test_students_with_the_same_answers_are_said_to_have_them(tmp_path):
    first, second = pair(tmp_path, theirs=RIGHT)
    found = compared(first, second)["sentences"]
    says(found[0], "math (sums, sampled)", "student", "same answers", "a and b")


def test_out_names_the_folder(tmp_path):
    first, second = pair(tmp_path)
    assert protege("report", first, second, "--compare", "--out", "there").code == 0
    assert sorted(path.name for path in (tmp_path / "there").iterdir()) == [
        "compare.html", "compare.json", "compare.md",
    ]  # fmt: skip
    assert not (first / "compare-b").exists()


def test_nothing_else_is_written(tmp_path):
    first, second = pair(tmp_path)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*") if path.is_file()}
    compared(first, second)
    after = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*") if path.is_file()}
    assert {path for path in after if path.parent != first / "compare-b"} == before.keys()
    assert all(after[path] == stamp for path, stamp in before.items())


def test_runs_of_one_name_are_told_apart(tmp_path):
    assert run_labels(tmp_path / "a/run", tmp_path / "b/run") == ("a/run", "b/run")
    assert run_labels(tmp_path / "x", tmp_path / "y") == ("x", "y")


# ----------------------------------------------------------------------------------------- refusals


@pytest.mark.parametrize("name", ["report.json", "manifest.json", "config.resolved.yaml"])
@pytest.mark.parametrize("which", [0, 1])
def test_an_unfinished_run_is_refused(tmp_path, name, which):
    runs = pair(tmp_path)
    (runs[which] / name).unlink()
    message = refused("report", "--compare", *runs)
    says(message, runs[which], "no finished report", f"no {name}", "`protege merge`")
    assert not (runs[0] / "compare-b").exists()


def test_a_folder_that_is_no_run_is_refused(tmp_path):
    first, _ = pair(tmp_path)
    says(refused("report", "--compare", first, tmp_path), tmp_path, "not a run folder", "config.yaml")


def test_a_run_is_not_compared_with_itself(tmp_path):
    first, _ = pair(tmp_path)
    assert "compared with itself" in refused("report", "--compare", first, tmp_path / "b/../a")


def test_options_without_their_partner_are_refused(tmp_path):
    first, second = pair(tmp_path)
    says(refused("report", "--compare", first), "two runs", "protege report --compare RUN OTHER")
    says(refused("report", first, second), "--compare")
    says(refused("report", first, "--out", tmp_path / "x"), "--out", "--compare")


def rewrite(place, samples_text: str) -> None:
    """Other samples, with a key that vouches for them."""
    place.write_text(samples_text)
    write_key(place, "key")


def test_samples_that_are_not_the_reports_are_refused(tmp_path):
    first, second = pair(tmp_path)
    place = second / "samples/student/sums.jsonl"
    good = place.read_text()
    again, wrong = f"`protege eval {second}`", f"{second}: samples/student/sums.jsonl"

    def says_of_them(*facts):
        says(refused("report", "--compare", first, second), *facts)

    place.write_text(good.replace("answer 1", "answer 2"))
    says_of_them(wrong, "changed", again)
    rewrite(place, good.replace('"fail"', '"pass"'))
    says_of_them(wrong, "other answers", again)
    rewrite(place, good.replace("3+1", "3+2"))
    says_of_them(second, "different problems", "sums", again)
    rewrite(place, good[:-40])
    says_of_them(wrong, "damaged")
    place.unlink()
    says_of_them(wrong, "missing", again)


@pytest.mark.parametrize("text", ["{", "[]", "{}", '{"models": {"student": 1}}'])
def test_a_damaged_report_is_refused(tmp_path, text):
    first, second = pair(tmp_path)
    (second / "report.json").write_text(text)
    says(refused("report", "--compare", first, second), second, f"`protege eval {second}`")


@pytest.mark.parametrize("name", ["/etc", "../student", "a/b", "", "a\0b", "x" * 300])
@pytest.mark.parametrize("kind", ["models", "benchmarks"])
def test_a_name_that_is_no_files_is_refused(tmp_path, kind, name):
    """Answers are read from a file of that name below the run."""
    first, second = pair(tmp_path)
    report = json.loads((second / "report.json").read_text())
    report[kind] |= {name: next(iter(report[kind].values()))}
    (second / "report.json").write_text(json.dumps(report))
    says(refused("report", "--compare", first, second), second, "is no name of a file")


def test_a_damaged_key_is_refused(tmp_path):
    first, second = pair(tmp_path)
    (second / "samples/student/sums.key.json").write_text("{}")
    says(refused("report", "--compare", first, second), "samples/student/sums.key.json", "damaged")


def test_a_place_that_cannot_be_written_is_refused(tmp_path):
    first, second = pair(tmp_path)
    (tmp_path / "file").write_text("")
    message = refused("report", "--compare", first, second, "--out", "file")
    says(message, "file", "cannot be written", "another --out")
