"""Which prompts are trained on, by duplicates, conflicts, overlap and length, and what is said of it."""

from __future__ import annotations

import json
from typing import Any

import pytest

from configs.load import load_config
from merging import run as run_module
from merging.checks.preflight import preflight
from merging.state.run_folder import RunFolder
from routing import kept, overlap
from routing.sources.collect import Prompt
from tests.helpers.messages import problems_of, refuses, say_each, says
from tests.helpers.prompt_sources import paper_row, write_parquet_rows
from tests.helpers.tiny_model import config_dict, sum_rows, write_config, write_jsonl, write_model


@pytest.fixture
def run(tmp_path):
    """preflight of a config with these rows of `math` and `code`, and problems of a benchmark of each."""
    config = config_dict(tmp_path)

    def run(math, code, *overrides, problems=(), code_problems=()):
        write_jsonl(tmp_path / "math.jsonl", math)
        write_jsonl(tmp_path / "code.jsonl", code)
        for name, texts in (("math", problems), ("code", code_problems)):
            rows = [{"id": f"p{i}", "prompt": text, "answer": "1"} for i, text in enumerate(texts)]
            path = str(write_jsonl(tmp_path / f"{name}.bench.jsonl", rows))
            benchmark = {"kind": "math", "name": f"{name}_bench", "path": path}
            config["domains"][name]["benchmarks"] = [benchmark] if texts else []
        return preflight(load_config(write_config(tmp_path, config), overrides), tmp_path / "run")

    return run


def rows(*texts: str, answer: Any = "x") -> list[dict[str, Any]]:
    return [{"prompt": text, "answer": answer} for text in texts]


def texts(found, domain: str) -> list[str]:
    return [item.prompt.text for item in found.routed if item.domain == domain]


def dropped(found) -> list[tuple[str, str, int]]:
    return [(item.reason, item.domain, item.prompt.row) for item in found.dropped]


def details(found) -> list[str]:
    return [item.detail for item in found.dropped]


# ---------------------------------------------------------------------------------------- duplicates


def test_duplicates_are_dropped_and_another_answer_is_told(run, tmp_path):
    math = [*rows("1+1", "2+1"), {"prompt": "1+1", "answer": "y"}, *rows("1+1")]
    found = run(math, rows("a", "b"))
    assert texts(found, "math") == ["1+1", "2+1"]
    assert dropped(found) == [("duplicate", "math", 3), ("duplicate", "math", 4)]
    first = f"{tmp_path}/math.jsonl, row 1"
    say_each(details(found), (first, "another answer"), (first,))
    says(details(found)[1], absent=("another answer",))
    say_each(found.notes, ("2 duplicate", "math 2"), ("1", "duplicates", "another answer"))


# ----------------------------------------------------------------------------------------- conflicts

MATH, CODE = rows("1+1", "both", "too", "2+1"), rows("a", "too", "both", "b")


def test_a_prompt_of_two_domains_is_refused_with_both_rows(run, tmp_path):
    ours, theirs = f"{tmp_path}/code.jsonl, row 2", f"{tmp_path}/math.jsonl, row 3"
    facts = ("domain 'code'", "domain 'math'", "two teachers", "2 such prompts", "conflicts: drop", "keep")
    say_each(problems_of(run, MATH, CODE), (ours, theirs, *facts))


def test_prompts_of_two_domains_are_dropped_from_both(run, tmp_path):
    found = run(MATH, CODE, "conflicts=drop")
    assert (texts(found, "math"), texts(found, "code")) == (["1+1", "2+1"], ["a", "b"])
    assert dropped(found) == [
        ("conflict", "math", 2),
        ("conflict", "math", 3),
        ("conflict", "code", 2),
        ("conflict", "code", 3),
    ]
    math, code = (f"domain {d}: {tmp_path}/{d}.jsonl, row" for d in ("math", "code"))
    say_each(details(found), (f"{code} 3",), (f"{code} 2",), (f"{math} 3",), (f"{math} 2",))
    assert found.conflicts == {"math": 2, "code": 2}
    say_each(found.notes, ("4 prompts", "several domains", "math 2", "code 2"))


def test_prompts_of_two_domains_are_kept_on_request(run):
    found = run(MATH, CODE, "conflicts=keep")
    assert (texts(found, "math"), texts(found, "code")) == (
        [row["prompt"] for row in MATH], [row["prompt"] for row in CODE]
    )  # fmt: skip
    assert (found.conflicts, found.dropped) == ({"math": 2, "code": 2}, ())
    say_each(found.notes, ("4 prompts", "another domain", "math 2", "code 2"))
    assert len({item.prompt.id for item in found.routed}) == 8


def test_a_domain_that_loses_all_its_prompts_is_refused_with_the_reasons(run):
    problems = problems_of(run, rows("a", "b", "1+1", "b"), rows("a", "b", "a"), "conflicts=drop")
    say_each(problems, ("domain 'code'", "no prompt", "duplicate 1", "conflict 2"))


# ------------------------------------------------------------------------------------------- overlap

LONG = "a train leaves at noon and goes north at sixty miles an hour until it stops"
"""16 words; the prompts of these tests have room for more with this."""
ROOM = ("training.max_prompt_tokens=2000", "training.max_response_tokens=8", "training.steps=3")


@pytest.fixture
def roomy(run, tmp_path):
    """`run` with models of a long context."""

    def roomy(*arguments, **more):
        for name in ("student", "math_expert", "code_expert"):
            write_model(tmp_path / name, context=4096)
        return run(*arguments[:2], *ROOM, *arguments[2:], **more)

    return roomy


def overlapping(action: str, roomy, *more: str):
    math, code = rows("1+1", f"Hint: {LONG}. When?", "3 + 1", "4+1"), rows("a", "the list", "b")
    problems, code_problems = ("3+1", LONG), ("The  List",)
    overrides = (f"overlap.action={action}", *more)
    return roomy(math, code, *overrides, problems=problems, code_problems=code_problems)


def overlap_facts(folder):
    """What is said of the two benchmarks."""
    return (
        (
            "2 training prompts",
            "benchmark math_bench",
            f"{folder}/math.jsonl, row 2",
            "13-gram",
            "problem p1",
            "math 2",
        ),
        (
            "1 training prompts",
            "benchmark code_bench",
            f"{folder}/code.jsonl, row 2",
            "exact",
            "problem p0",
            "code 1",
        ),
    )


def test_repeats_are_trained_on_and_told(roomy, tmp_path):
    found = overlapping("warn", roomy)
    assert found.counts() == {"math": 4, "code": 3} and found.dropped == ()
    say_each(found.notes, *((*facts, "inflated") for facts in overlap_facts(tmp_path)))
    assert kept.by_benchmark(found.overlaps) == {"math_bench": {"math": 2}, "code_bench": {"code": 1}}
    assert [item.to_json(dropped=False) for item in found.overlaps][1] == {
        "id": found.routed[2].prompt.id, "source": f"{tmp_path}/math.jsonl", "row": 3, "domain": "math",
        "benchmark": "math_bench", "problem": "p0", "kind": "exact", "shared": "3 + 1", "dropped": False,
    }  # fmt: skip


def test_repeats_are_dropped(roomy, tmp_path):
    found = overlapping("drop", roomy)
    assert (texts(found, "math"), texts(found, "code")) == (["1+1", "4+1"], ["a", "b"])
    assert dropped(found) == [("overlap", "math", 2), ("overlap", "math", 3), ("overlap", "code", 2)]
    say_each(
        details(found),
        ("13-gram", "problem p1", "benchmark math_bench"),
        ("exact", "problem p0", "benchmark math_bench"),
        ("exact", "problem p0", "benchmark code_bench"),
    )
    say_each(found.notes, *((*facts, "dropped") for facts in overlap_facts(tmp_path)))


def test_repeats_are_refused_one_message_a_benchmark(roomy, tmp_path):
    ways = ("overlap.action: refuse", "`drop`", "`warn`")
    problems = problems_of(overlapping, "refuse", roomy)
    say_each(problems, *((*facts, *ways) for facts in overlap_facts(tmp_path)))


def test_a_config_that_loses_every_prompt_is_refused_with_the_reason(run):
    given = (rows("1+1"), rows("a"), "overlap.action=drop")
    (problem,) = problems_of(run, *given, problems=("1+1",), code_problems=("a",))
    assert "domain 'math'" in problem and "dropped: overlap 1" in problem


def test_the_length_of_the_n_gram_is_an_option(roomy):
    def kinds(length):
        return [item.overlap.kind for item in overlapping("warn", roomy, f"overlap.ngram={length}").overlaps]

    assert kinds(13) == ["13-gram", "exact", "exact"]
    assert kinds(16) == ["16-gram", "exact", "exact"] and kinds(17) == ["exact", "exact"]


BOX = "\nPlease reason step by step, and put your final answer within \\boxed{}."
"""What published benchmarks end with."""


@pytest.mark.parametrize("own", ["", " Think.", BOX])
@pytest.mark.parametrize("benchmark", ["", "\nAnswer with a number.", BOX])
def test_instructions_at_the_end_hide_no_repeat(run, tmp_path, own, benchmark):
    """Neither the source's suffix nor the benchmark's."""
    overrides = ["training.max_prompt_tokens=90", "training.max_response_tokens=8"]
    overrides += [f"domains.math.prompts.suffix={json.dumps(own)}"] * bool(own)
    path = write_jsonl(tmp_path / "bench.jsonl", [{"prompt": "2+1", "answer": "3"}])
    settings = {"kind": "math", "name": "bench", "path": str(path), "suffix": benchmark}
    for name in ("student", "math_expert", "code_expert"):
        write_model(tmp_path / name, context=256)
    given = (rows("1+1", "2+1", "3+1"), rows("a"))
    (repeat,) = run(*given, *overrides, f"domains.math.benchmarks=[{json.dumps(settings)}]").overlaps
    assert (repeat.overlap.prompt.row, repeat.overlap.kind) == (2, "exact")


def test_a_shared_instruction_is_no_repeat():
    """13 words and more in common, of one problem only; it would count if it were not declared."""
    wording = "please reason step by step and put your final answer within the box at the end"
    message = {"role": "user", "content": f"1+1 {wording}"}
    prompt, problems = Prompt("id", (message,), "2", None, "f.jsonl", 1), [f"7+8 {wording}"]
    assert len(overlap.check([prompt], problems)) == 1
    assert overlap.check([prompt], problems, endings=[f" {wording}"]) == []
    assert overlap.check([prompt], problems, endings=[problems[0]]) != []  # a whole text is no ending


# -------------------------------------------------------------------------------------------- length


def test_prompts_above_the_limit_are_dropped(run):
    """One token a character, and the template's newline."""
    math = rows("1+1", "12345678", "123456789", "1234567890")
    found = run(math, rows("a", "b"), "training.max_prompt_tokens=9", "training.too_long=drop")
    assert texts(found, "math") == ["1+1", "12345678"]
    assert dropped(found) == [("too long", "math", 3), ("too long", "math", 4)]
    limit = "training.max_prompt_tokens = 9"
    say_each(details(found), ("10 tokens", limit), ("11 tokens", limit))
    assert found.longest_prompt == {"math": 9, "code": 2}
    say_each(found.notes, ("2 prompts", "length limit", "dropped", "math 2"))


def test_prompts_above_the_limit_are_refused_one_message_a_domain(run, tmp_path):
    math, code = rows("1+1", "123456789", "1234567890"), rows("a", "12345678x")
    problems = problems_of(run, math, code, "training.max_prompt_tokens=9")
    way = "training.too_long: drop"
    math, code = f"{tmp_path}/math.jsonl, row 3", f"{tmp_path}/code.jsonl, row 2"
    say_each(problems, (math, "11 tokens", way), (code, "10 tokens", way))


def test_a_repeat_that_is_too_long_is_not_told_as_trained_on(run):
    given = (rows("1+1", "123456789"), rows("a"), "training.too_long=drop")
    one, none = (
        run(*given, f"training.max_prompt_tokens={limit}", problems=("123456789",)) for limit in (10, 9)
    )
    assert (len(one.overlaps), len(none.overlaps)) == (1, 0)
    assert [item.reason for item in none.dropped] == ["too long"]


# ---------------------------------------------------------------------------- what is kept in the run


@pytest.fixture
def written(roomy, tmp_path):
    """A run folder whose prompts are written."""
    loaded = None

    def written(action: str = "warn", *overrides: str):
        nonlocal loaded
        found = overlapping(action, roomy, "mixing={kind: weighted, weights: {math: 3, code: 1}}", *overrides)
        settings = (*ROOM, f"overlap.action={action}", "mixing={kind: weighted, weights: {math: 3, code: 1}}")
        loaded = load_config(tmp_path / "config.yaml", [*settings, *overrides])
        folder = RunFolder.open(tmp_path / "run", loaded, found)
        run_module.write_prompts(folder, found)
        return folder, found

    return written


def lines(path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_counts_and_lists_of_a_run(written):
    folder, found = written("drop")
    counts = folder.counts()
    assert counts["prompts"] == {"math": 2, "code": 2}
    assert counts["rows"] == {"math": 9, "code": 3} and counts["shares"] == {"math": 0.75, "code": 0.25}
    assert counts["dropped"] == {"overlap": {"math": 2, "code": 1}} and counts["conflicts"] == {}
    assert counts["overlaps"] == {"math_bench": {"math": 2}, "code_bench": {"code": 1}}
    assert counts["notes"] == [] and counts["overlap_notes"] == found.notes and len(found.notes) == 2
    assert [line["row"] for line in lines(folder.path / "prompts" / "dropped.jsonl")] == [2, 3, 2]
    assert {line["dropped"] for line in lines(folder.path / "prompts" / "overlaps.jsonl")} == {True}


def test_a_benchmark_that_is_added_later_is_compared_too(written):
    alone = "domains.code.benchmarks=[]"
    folder, _ = written("warn", alone)
    before = folder.counts()
    assert before["overlaps"] == {"math_bench": {"math": 2}} and len(before["overlap_notes"]) == 1
    rows_file = folder.prompts_file.read_bytes()
    folder, found = written("warn")
    after = folder.counts()
    assert after["overlaps"] == {"math_bench": {"math": 2}, "code_bench": {"code": 1}}
    assert after["overlap_notes"] == found.notes and len(found.notes) == 2
    own = ("overlaps", "overlap_notes")
    assert {k: v for k, v in after.items() if k not in own} == {
        k: v for k, v in before.items() if k not in own
    }
    assert len(lines(folder.path / "prompts" / "overlaps.jsonl")) == 3
    assert folder.prompts_file.read_bytes() == rows_file


# ----------------------------------------------------------------------------------- the paper's data


@pytest.fixture
def paper(tmp_path):
    """preflight of a config whose only prompts are a file in verl's format, with or without `labels`."""
    config = config_dict(tmp_path)
    for domain in config["domains"].values():
        del domain["prompts"]

    def paper(given, **settings):
        path = write_parquet_rows(tmp_path, given)
        config["prompts"] = {"kind": "verl", "path": path.name, **settings}
        return preflight(load_config(write_config(tmp_path, config)), tmp_path / "run")

    return paper


LABELS = {"math-rl-teacher": "math", "code-rl-teacher": "code"}


def test_the_papers_data_is_routed_by_its_teacher(paper):
    teachers = ("math-rl-teacher", "code-rl-teacher", "math-rl-teacher", "code")
    found = paper([paper_row(i, teacher) for i, teacher in enumerate(teachers)], labels=LABELS)
    assert [(item.prompt.text, item.prompt.answer, item.domain, item.reason) for item in found.routed] == [
        ("q0", "a0", "math", "label extra_info.opd_teacher=math"),
        ("q1", "a1", "code", "label extra_info.opd_teacher=code"),
        ("q2", "a2", "math", "label extra_info.opd_teacher=math"),
        ("q3", "a3", "code", "label extra_info.opd_teacher=code"),
    ]


@pytest.mark.parametrize(
    ("teacher", "facts"),
    [
        ("code-rl", ("label 'code-rl'", "no domain")),
        (None, ("no label", "math, code")),
    ],
)
def test_a_row_of_the_papers_data_without_a_known_teacher_is_refused(paper, teacher, facts):
    given = [paper_row(0, "math-rl-teacher"), paper_row(1, teacher), paper_row(2, "code-rl-teacher")]
    problems = problems_of(paper, given, labels=LABELS)
    say_each(problems, ("rows.parquet, row 2", "column 'extra_info.opd_teacher'", *facts))


def test_a_label_map_to_no_domain_is_refused(paper):
    with refuses("prompts.labels", "'x'", "'maths'", "no domain"):
        paper([paper_row(0, "x")], labels={"x": "maths"})


# ---------------------------------------------------------------------------------- validation prompts


def test_labels_of_validation_prompts_are_read(run, tmp_path):
    held = write_jsonl(
        tmp_path / "held.jsonl", [*sum_rows(1), {"prompt": "f", "answer": "x", "domain": "code"}]
    )
    validation = ("objective.reward_scale=auto", f"domains.math.validation={{kind: file, path: {held}}}")
    given = (rows("1+1"), rows("a"))
    facts = ("held.jsonl, row 2", "label 'code'", "column 'domain'", "domains.math.validation")
    say_each(problems_of(run, *given, *validation), facts)
    mapped = f"domains.math.validation={{kind: file, path: {held}, labels: {{code: math}}}}"
    assert run(*given, validation[0], mapped).routed
    unknown = mapped.replace("code: math", "code: maths")
    facts = ("domains.math.validation.labels", "'code'", "'maths'", "no domain")
    say_each(problems_of(run, *given, unknown), facts)
