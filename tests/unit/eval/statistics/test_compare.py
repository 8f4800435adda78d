"""From samples to scores and verdicts; the sample file survives a round trip."""

import pytest

from eval.records import Sample, Verdict, read_samples, write_samples
from eval.statistics.compare import compare, recover, recover_over, summarise


def sample(problem, verdict, index=0, finished=True, tokens=10, **changes):
    fields = {"benchmark": "b", "mode": "sampled", "prompt": "p", "completion": "c", "detail": ""}
    return Sample(
        problem_id=str(problem), index=index, tokens=tokens, finished=finished, verdict=Verdict(verdict),
        **{**fields, **changes},
    )  # fmt: skip


def test_summary_counts():
    score = summarise(
        [
            sample(0, "pass", tokens=10),
            sample(0, "fail", 1, finished=False, tokens=40),
            sample(1, "pass", tokens=20),
            sample(2, "unscored", tokens=10),
        ]
    )
    assert score.accuracy == 0.75  # problem 0: 1/2, problem 1: 1
    assert (score.n, score.problems, score.unscored) == (3, 2, 1)
    assert (score.finish_rate, score.mean_tokens) == (0.75, 20.0)
    assert score.accuracy_when_finished == 1.0
    assert 0 <= score.lo < 0.75 < score.hi <= 1


def test_nothing_judged_is_none_and_not_zero():
    score = summarise([sample(0, "unscored")])
    assert (score.accuracy, score.lo, score.hi, score.accuracy_when_finished) == (None,) * 4
    assert (score.n, score.unscored, score.finish_rate) == (0, 1, 1.0)
    assert summarise([]).finish_rate is None


@pytest.mark.parametrize(("ours", "theirs"), [("pass", "fail"), ("fail", "pass"), ("pass", "pass")])
def test_the_sign_is_ours_minus_theirs(ours, theirs):
    result = compare([sample(i, ours) for i in range(20)], [sample(i, theirs) for i in range(20)], seed=0)
    assert result.difference == (ours == "pass") - (theirs == "pass")
    assert (result.n, result.unscored, result.spread) == (20, 0, 0.0)


def test_the_spread_is_between_the_problems_differences():
    ours = [sample(i, "pass" if i % 2 else "fail") for i in range(20)]
    theirs = [sample(i, "fail") for i in range(20)]
    result = compare(ours, theirs, seed=0)
    assert result.spread == pytest.approx((20 * 0.25 / 19) ** 0.5)  # ten at 1, ten at 0
    assert result.lo < 0.5 < result.hi


def test_unscored_samples_are_left_out_on_both_sides():
    ours = [sample(0, "pass"), sample(0, "unscored", 1), sample(1, "pass"), sample(2, "unscored")]
    theirs = [sample(0, "pass"), sample(0, "fail", 1), sample(1, "fail"), sample(2, "pass")]
    result = compare(ours, theirs, seed=0)
    assert result.difference == 0.5  # problem 0: 1 - 1, problem 1: 1 - 0; problem 2 has no judged pair
    assert (result.n, result.unscored) == (2, 4)


def test_the_accuracy_is_finish_rate_times_accuracy_when_finished():
    unfinished = [sample(i, "fail", 1, finished=False) for i in range(4)]
    score = summarise([*(sample(i, "pass" if i else "fail") for i in range(4)), *unfinished])
    assert (score.finish_rate, score.accuracy_when_finished) == (0.5, 0.75)
    assert score.accuracy == 0.5 * 0.75


def test_recovery_leaves_out_unscored_samples_on_all_three_sides():
    student = [sample(i, "pass" if i < 4 else "fail") for i in range(10)]
    teacher = [sample(i, "unscored" if i == 9 else "pass") for i in range(10)]
    base = [sample(i, "unscored" if i == 8 else "fail") for i in range(10)]
    found = recover(student, teacher, base, seed=0)
    assert (found.ratio, found.gap, found.n_problems) == (0.5, 1.0, 8)
    assert recover(student, teacher, [], seed=0) is None


@pytest.mark.parametrize("prompt", ["text", ({"role": "user", "content": "text"},)])
def test_samples_survive_the_file(tmp_path, prompt):
    samples = [
        sample(0, "pass", prompt=prompt, completion="line\nä\ud800"),
        sample(1, "unscored", mode="greedy"),
    ]
    path = tmp_path / "new" / "s.jsonl"
    write_samples(path, samples)
    assert read_samples(path) == samples
    assert read_samples(path)[0].verdict is Verdict.PASS
    assert [p.name for p in path.parent.iterdir()] == ["s.jsonl"]


def test_a_failed_write_leaves_the_old_file(tmp_path):
    path = tmp_path / "s.jsonl"
    write_samples(path, [sample(0, "pass")])

    def broken():
        yield sample(1, "pass")
        raise RuntimeError

    with pytest.raises(RuntimeError):
        write_samples(path, broken())
    assert read_samples(path) == [sample(0, "pass")]
    assert [p.name for p in tmp_path.iterdir()] == ["s.jsonl"]


@pytest.mark.parametrize("line", ["", "[]", '{"benchmark": "b"}', "not json"])
def test_a_damaged_line_is_named(tmp_path, line):
    path = tmp_path / "s.jsonl"
    path.write_text(sample(0, "pass").to_json() + "\n" + line + "\n")
    with pytest.raises(ValueError, match="line 2"):
        read_samples(path)


def test_recovery_over_domains_leaves_out_what_is_unscored_too():
    student = [sample(i, "pass" if i < 4 else "fail") for i in range(10)]
    teacher = [sample(i, "unscored" if i == 9 else "pass") for i in range(10)]
    base = [sample(i, "unscored" if i == 8 else "fail") for i in range(10)]
    macro, worst = recover_over({"math": [student, teacher, base], "code": [teacher, teacher, base]}, seed=0)
    assert macro is not None and worst is not None
    assert (macro.ratio, macro.n_problems, worst.ratio) == (0.75, 8, 0.5)
    assert recover_over({"math": [student, teacher, []]}, seed=0) == (None, None)
