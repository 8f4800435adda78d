"""Which prompts are trained on, by duplicates, conflicts, overlap and length, and what is said of it."""

from __future__ import annotations

import json
from typing import Any

import pytest

from configs.load import ConfigError, load_config
from merging import prompt_data
from merging import run as run_module
from merging.preflight import preflight
from merging.run_folder import RunFolder
from routing import overlap
from routing.sources import Prompt
from tests.contracts.test_sources import write_parquet_rows
from tests.unit.tiny_model import config_dict, sum_rows, write_config, write_jsonl, write_model


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


def dropped(found) -> list[tuple[str, str, int, str]]:
    return [(item.reason, item.domain, item.prompt.row, item.detail) for item in found.dropped]


def problems_of(run, *arguments, **more) -> tuple[str, ...]:
    with pytest.raises(ConfigError) as caught:
        run(*arguments, **more)
    return caught.value.problems


# ---------------------------------------------------------------------------------------- duplicates


def test_duplicates_are_dropped_and_another_answer_is_told(run, tmp_path):
    math = [*rows("1+1", "2+1"), {"prompt": "1+1", "answer": "y"}, *rows("1+1")]
    found = run(math, rows("a", "b"))
    assert texts(found, "math") == ["1+1", "2+1"]
    first = f"repeats {tmp_path}/math.jsonl, row 1"
    assert dropped(found) == [
        ("duplicate", "math", 3, f"{first}, which has another answer"),
        ("duplicate", "math", 4, first),
    ]
    assert found.notes == [
        "2 duplicate prompts dropped (math 2)",
        "1 of the duplicates have another answer than the row that is kept",
    ]


# ----------------------------------------------------------------------------------------- conflicts

MATH, CODE = rows("1+1", "both", "too", "2+1"), rows("a", "too", "both", "b")


def test_a_prompt_of_two_domains_is_refused_with_both_rows(run, tmp_path):
    (problem,) = problems_of(run, MATH, CODE)
    assert problem == (
        f"{tmp_path}/code.jsonl, row 2: domain 'code' has the same prompt as {tmp_path}/math.jsonl, row 3, "
        "which belongs to domain 'math', so two teachers would score it (2 such prompts); correct the "
        "labels, or set conflicts: drop, or keep"
    )


def test_prompts_of_two_domains_are_dropped_from_both(run, tmp_path):
    found = run(MATH, CODE, "conflicts=drop")
    assert (texts(found, "math"), texts(found, "code")) == (["1+1", "2+1"], ["a", "b"])
    math, code = (f"the same prompt in domain {d}: {tmp_path}/{d}.jsonl, row" for d in ("math", "code"))
    assert dropped(found) == [
        ("conflict", "math", 2, f"{code} 3"),
        ("conflict", "math", 3, f"{code} 2"),
        ("conflict", "code", 2, f"{math} 3"),
        ("conflict", "code", 3, f"{math} 2"),
    ]
    assert found.conflicts == {"math": 2, "code": 2}
    assert found.notes == ["4 prompts of several domains dropped (math 2, code 2)"]


def test_prompts_of_two_domains_are_kept_on_request(run):
    found = run(MATH, CODE, "conflicts=keep")
    assert (texts(found, "math"), texts(found, "code")) == (
        [row["prompt"] for row in MATH], [row["prompt"] for row in CODE]
    )  # fmt: skip
    assert (found.conflicts, found.dropped) == ({"math": 2, "code": 2}, [])
    assert found.notes == [
        "4 prompts (math 2, code 2) stand in another domain too, and each domain's teacher scores its own"
    ]
    assert len({item.prompt.id for item in found.routed}) == 8


def test_a_domain_that_loses_all_its_prompts_is_refused_with_the_reasons(run):
    assert problems_of(run, rows("a", "b", "1+1", "b"), rows("a", "b", "a"), "conflicts=drop") == (
        "domain 'code': no prompt is left; dropped: duplicate 1, conflict 2",
    )


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


SENTENCES = (
    "2 training prompts repeat problems of benchmark math_bench (first: {folder}/math.jsonl, row 2, 13-gram, "
    "problem p1; by domain: math 2)",
    "1 training prompts repeat problems of benchmark code_bench (first: {folder}/code.jsonl, row 2, exact, "
    "problem p0; by domain: code 1)",
)


def test_repeats_are_trained_on_and_told(roomy, tmp_path):
    found = overlapping("warn", roomy)
    assert found.counts() == {"math": 4, "code": 3} and found.dropped == []
    sentences = [sentence.format(folder=tmp_path) for sentence in SENTENCES]
    assert found.notes == [f"{sentence}; its scores may be inflated" for sentence in sentences]
    assert prompt_data.by_benchmark(found.overlaps) == {"math_bench": {"math": 2}, "code_bench": {"code": 1}}
    assert [item.to_json(dropped=False) for item in found.overlaps][1] == {
        "id": found.routed[2].prompt.id, "source": f"{tmp_path}/math.jsonl", "row": 3, "domain": "math",
        "benchmark": "math_bench", "problem": "p0", "kind": "exact", "shared": "3 + 1", "dropped": False,
    }  # fmt: skip


def test_repeats_are_dropped(roomy, tmp_path):
    found = overlapping("drop", roomy)
    assert (texts(found, "math"), texts(found, "code")) == (["1+1", "4+1"], ["a", "b"])
    assert dropped(found) == [
        ("overlap", "math", 2, "13-gram: problem p1 of benchmark math_bench"),
        ("overlap", "math", 3, "exact: problem p0 of benchmark math_bench"),
        ("overlap", "code", 2, "exact: problem p0 of benchmark code_bench"),
    ]
    sentences = [sentence.format(folder=tmp_path) for sentence in SENTENCES]
    assert found.notes == [f"{sentence}; they are dropped" for sentence in sentences]


def test_repeats_are_refused_one_message_a_benchmark(roomy, tmp_path):
    end = "; overlap.action: refuse (`drop` leaves them out, `warn` trains on them)"
    with pytest.raises(ConfigError) as caught:
        overlapping("refuse", roomy)
    assert list(caught.value.problems) == [sentence.format(folder=tmp_path) + end for sentence in SENTENCES]


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
    end = "tokens with the chat template, above training.max_prompt_tokens = 9"
    assert dropped(found) == [("too long", "math", 3, f"10 {end}"), ("too long", "math", 4, f"11 {end}")]
    assert found.longest_prompt == {"math": 9, "code": 2}
    assert found.notes == ["2 prompts above the length limit dropped (math 2)"]


def test_prompts_above_the_limit_are_refused_one_message_a_domain(run, tmp_path):
    math, code = rows("1+1", "123456789", "1234567890"), rows("a", "12345678x")
    problems = problems_of(run, math, code, "training.max_prompt_tokens=9")
    assert [problem.partition(" tokens")[0] for problem in problems] == [
        f"{tmp_path}/math.jsonl, row 3: the prompt has 11",
        f"{tmp_path}/code.jsonl, row 2: the prompt has 10",
    ]
    assert all("training.too_long: drop" in problem for problem in problems)


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


def paper_row(number: int, teacher: str | None, ability: str = "math") -> dict[str, Any]:
    """A row as the G-OPD paper's data has it: `ability` need not agree with the teacher."""
    return {
        "data_source": "set",
        "prompt": [{"role": "user", "content": f"q{number}"}],
        "ability": ability,
        "reward_model": {"style": "rule", "ground_truth": f"a{number}"},
        "extra_info": {"index": number, "opd_teacher": teacher},
    }


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
    ("teacher", "problem"),
    [
        ("code-rl", "label 'code-rl' (column 'extra_info.opd_teacher') names no domain"),
        (None, "no label (column 'extra_info.opd_teacher'); valid labels: math, code"),
    ],
)
def test_a_row_of_the_papers_data_without_a_known_teacher_is_refused(paper, teacher, problem):
    given = [paper_row(0, "math-rl-teacher"), paper_row(1, teacher), paper_row(2, "code-rl-teacher")]
    with pytest.raises(ConfigError) as caught:
        paper(given, labels=LABELS)
    (only,) = caught.value.problems
    assert f"rows.parquet, row 2: {problem}" in only


def test_a_label_map_to_no_domain_is_refused(paper):
    with pytest.raises(ConfigError, match=r"prompts\.labels: 'x' is mapped to 'maths', which is no domain"):
        paper([paper_row(0, "x")], labels={"x": "maths"})


# ---------------------------------------------------------------------------------- validation prompts


def test_labels_of_validation_prompts_are_read(run, tmp_path):
    held = write_jsonl(
        tmp_path / "held.jsonl", [*sum_rows(1), {"prompt": "f", "answer": "x", "domain": "code"}]
    )
    validation = ("objective.reward_scale=auto", f"domains.math.validation={{kind: file, path: {held}}}")
    given = (rows("1+1"), rows("a"))
    (problem,) = problems_of(run, *given, *validation)
    assert problem.endswith(
        "held.jsonl, row 2: label 'code' (column 'domain') contradicts the source, which is "
        "domains.math.validation"
    )
    mapped = f"domains.math.validation={{kind: file, path: {held}, labels: {{code: math}}}}"
    assert run(*given, validation[0], mapped).routed
    unknown = mapped.replace("code: math", "code: maths")
    (problem,) = problems_of(run, *given, unknown)
    assert "domains.math.validation.labels: 'code' is mapped to 'maths', which is no domain" in problem
