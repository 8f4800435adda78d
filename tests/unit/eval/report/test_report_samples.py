"""From graded samples and training metrics to what the report shows."""

from __future__ import annotations

import dataclasses
import json
import sys
import types

import pytest

from eval.records import Sample, Verdict
from eval.report.data import BenchmarkInfo, ModelInfo, primary_benchmark
from eval.report.from_samples import from_samples
from eval.report.render import to_json
from eval.report.sections.curves import panels
from eval.report.sections.disagreements import find_disagreements
from tests.helpers.report_example import CURVES, hand_made


def test_panels_take_what_the_trainer_logged():
    found = {panel.key: panel for panel in panels(CURVES)}
    assert list(found) == ["expert-reward", "merge-implicit_reward", "merge-entropy"]
    reward = found["expert-reward"].series[0]
    assert (reward.label, reward.steps, reward.values) == ("math", (1, 2, 3, 4, 5), (0.1, 0.2, 0.3, 0.4, 0.5))
    implicit = found["merge-implicit_reward"].series
    assert [s.label for s in implicit] == ["math", "code"], "OPD's reference was not scored: no curve of it"
    assert implicit[1].values == (-0.25, -0.5, -0.75)
    entropy = {s.label: s for s in found["merge-entropy"].series}
    assert entropy["math"].steps == (1, 3), "a NaN is no value"
    assert entropy["all, opd"].values == (0.3,), "without a metric by domain, verl's own over all"


def test_names_of_the_stored_metrics_are_known():
    """Names as `teachers.build` stores an expert's curve and `merging.training.metrics` a merge's steps."""
    expert = {"step": 1, "reward": 0.4, "response_length": 31.0, "entropy": 0.7, "seconds": 2.0}
    means = {"implicit_reward": 0.2, "student_minus_teacher": 0.3, "length": 40.0, "finish_rate": 1.0}
    merge = {
        "step": 1,
        "entropy": 0.6,
        "task_reward": 0.5,
        **{f"teacher/math/{k}": v for k, v in means.items()},
    }
    found = {p.key: [s.values for s in p.series] for p in panels({"expert math": [expert], "merge": [merge]})}
    assert found == {
        "expert-reward": [(0.4,)],
        "expert-length": [(31.0,)],
        "expert-entropy": [(0.7,)],
        "merge-implicit_reward": [(0.2,)],
        "merge-student_minus_teacher": [(0.3,)],
        "merge-length": [(40.0,)],
        "merge-finish_rate": [(1.0,)],
        "merge-entropy": [(0.6,)],
        "merge-task_reward": [(0.5,)],
    }


def test_an_unknown_teacher_metric_gets_a_panel_of_its_own():
    rows = [{"step": 1, "teacher/math/gradient_share": 0.5, "timing/x": 1.0}]
    (panel,) = panels({"merge": rows})
    assert (panel.title, panel.main, panel.series[0].values) == ("Gradient share", False, (0.5,))


@dataclasses.dataclass(frozen=True)
class FakeSample:
    """The fields of `eval.records.Sample`."""

    benchmark: str
    problem_id: str
    verdict: str
    mode: str = "sampled"
    index: int = 0
    prompt: str = "prompt"
    completion: str = "completion"
    tokens: int = 5
    finished: bool = True
    detail: str = ""


def answers(benchmark: str, verdicts: str, mode: str = "sampled", sample=FakeSample) -> list:
    """One answer a problem; p, f and u stand for pass, fail and unscored."""
    words = {"p": "pass", "f": "fail", "u": "unscored"}
    return [sample(benchmark, f"q{i}", words[v], mode) for i, v in enumerate(verdicts)]


def fake_compare_module() -> types.ModuleType:
    """`eval.statistics.compare` with its interface and the plainest arithmetic."""
    module = types.ModuleType("eval.statistics.compare")

    def judged(samples):
        return {s.problem_id: float(s.verdict == "pass") for s in samples if s.verdict != "unscored"}

    def summarise(samples):
        marks = judged(samples)
        mean = sum(marks.values()) / len(marks) if marks else None
        return types.SimpleNamespace(
            accuracy=mean,
            lo=None if mean is None else mean - 0.1,
            hi=None if mean is None else mean + 0.1,
            n=len(marks),
            problems=len(marks),
            unscored=len(samples) - len(marks),
            finish_rate=1.0,
            mean_tokens=5.0,
            accuracy_when_finished=mean,
        )

    def compare(ours, theirs, seed):
        a, b = judged(ours), judged(theirs)
        common = sorted(a.keys() & b.keys())
        mean = sum(a[k] - b[k] for k in common) / len(common)
        return types.SimpleNamespace(
            difference=mean,
            lo=mean - 0.1,
            hi=mean + 0.1,
            n=len(common),
            p_value=0.5,
            spread=0.5,
            unscored=0,
        )

    module.summarise, module.compare, module.recover = summarise, compare, lambda *_: None
    module.recover_over = lambda *_: (None, None)
    return module


MODELS = [ModelInfo("base", "base"), ModelInfo("math", "teacher", "math"), ModelInfo("student", "student")]
INFOS = [
    BenchmarkInfo("a", "math", "sampled"),
    BenchmarkInfo("a@greedy", "math", "greedy"),
    BenchmarkInfo("b", "math", "sampled"),
]


def test_from_samples_scores_pools_and_compares(monkeypatch):
    monkeypatch.setitem(sys.modules, "eval.statistics.compare", fake_compare_module())
    evaluation = from_samples(
        {
            ("student", "a"): answers("a", "ppfu") + answers("a", "pppf", "greedy"),
            ("student", "b"): answers("b", "pp"),
            ("math", "a"): answers("a", "pfff") + answers("a", "fffp", "greedy"),
            ("math", "b"): answers("b", "fp"),
            ("base", "a"): answers("a", "uuuu"),
        },
        MODELS,
        INFOS,
        seed=1,
    )
    assert [m.name for m in evaluation.models] == ["student", "math", "base"]
    student, math, base = evaluation.models
    assert [b.name for b in evaluation.benchmarks] == ["domain:math", "a", "a@greedy", "b"]
    assert primary_benchmark(evaluation.benchmarks, "math").pools == ("a", "b")
    assert (student.scores["a"].accuracy, student.scores["a"].n, student.scores["a"].unscored) == (
        2 / 3,
        3,
        1,
    )
    assert student.scores["a@greedy"].accuracy == 0.75
    assert student.scores["domain:math"].accuracy == 0.8, "q0 of a and q0 of b are two problems"
    assert (base.scores["a"].accuracy, base.scores["a"].lo, base.scores["a"].unscored) == (None, None, 4)
    assert "b" not in base.scores and "domain:math" not in base.scores
    rows = {(c.against, c.benchmark): c for c in evaluation.comparisons}
    assert rows.keys() == {("math", key) for key in ("domain:math", "a", "a@greedy", "b")}
    assert (rows["math", "a"].difference, rows["math", "a"].n) == (1 / 3, 3)
    assert (rows["math", "domain:math"].difference, rows["math", "domain:math"].n) == (
        pytest.approx(2 / 5),
        5,
    )
    (disagreement,) = evaluation.disagreements
    assert (disagreement.mode, disagreement.problems) == ("greedy", 4)
    assert (disagreement.student_only, disagreement.teacher_only) == (3, 1)
    assert math.scores["b"].accuracy == 0.5


def test_from_samples_with_the_real_statistics():
    def sample(benchmark, problem_id, verdict, mode):
        return Sample(
            benchmark=benchmark,
            problem_id=problem_id,
            mode=mode,
            index=0,
            prompt="p",
            completion="c",
            tokens=5,
            finished=True,
            verdict=Verdict(verdict),
            detail="",
        )

    evaluation = from_samples(
        {
            ("student", "a"): answers("a", "p" * 60 + "f" * 30 + "u" * 10, sample=sample),
            ("math", "a"): answers("a", "f" * 60 + "p" * 10 + "f" * 30, sample=sample),
            ("base", "a"): answers("a", "u" * 100, sample=sample),
        },
        MODELS,
        INFOS[:1],
        seed=1,
    )
    student, _, base = evaluation.models
    assert student.scores["a"].accuracy == pytest.approx(60 / 90)
    assert (student.scores["a"].n, student.scores["a"].unscored) == (90, 10)
    assert student.scores["a"].lo < 60 / 90 < student.scores["a"].hi
    assert (base.scores["a"].accuracy, base.scores["a"].unscored) == (None, 100)
    (row,) = evaluation.comparisons
    assert (row.against, row.n) == ("math", 90) and row.p_value < 0.001
    assert row.difference == pytest.approx((60 - 10) / 90)
    report = hand_made(
        evaluation={f.name: getattr(evaluation, f.name) for f in dataclasses.fields(evaluation)}
    )
    stored = json.loads(json.dumps(to_json(report), allow_nan=False))
    (question,) = [q for q in stored["questions"] if q["domain"] == "math"]
    assert (question["against"], question["outcome"], question["n"]) == ("math", "beats", 90)


def test_votes_are_taken_on_final_answers_only():
    """Two answers to each problem; the details are those of the graders."""

    def twice(benchmark, verdict, detail):
        return [
            dataclasses.replace(answer, index=index, detail=detail, completion=r"\boxed{5}")
            for index in (0, 1)
            for answer in answers(benchmark, verdict * 6)
        ]

    infos = [
        *(BenchmarkInfo(name, "math", "sampled") for name in ("a", "b")),
        *(BenchmarkInfo(name, "code", "sampled") for name in ("c", "d")),
    ]
    found = from_samples(
        {
            ("student", "a"): twice("a", "p", "answered 5"),
            ("student", "b"): twice("b", "f", "answered 5"),
            ("student", "c"): twice("c", "p", ""),
            ("student", "d"): twice("d", "f", "base test 0 failed"),
            ("base", "a"): twice("a", "f", "no \\boxed{}"),
        },
        MODELS,
        infos,
        seed=1,
    )
    student, _, base = found.models
    votes = {key: score.majority and score.majority.accuracy for key, score in student.scores.items()}
    assert votes == {"domain:math": 0.5, "a": 1.0, "b": 0.0, "domain:code": None, "c": None, "d": None}
    assert base.scores["a"].majority.accuracy == 0.0, "in mathematics no answer is a wrong answer"
    assert [(r.k, r.accuracy, r.n) for r in student.scores["domain:code"].pass_at] == [
        (1, 0.5, 12),
        (2, 0.5, 12),
    ]


def test_headroom_is_that_of_the_domains_own_teacher_on_its_primary_benchmark():
    models = [*MODELS, ModelInfo("code", "teacher", "code")]
    infos = [BenchmarkInfo("a", "math", "sampled"), BenchmarkInfo("c", "code", "sampled")]
    samples = {
        ("base", "a"): answers("a", "ffffffff"),
        ("math", "a"): answers("a", "ppppppff"),
        ("student", "a"): answers("a", "ppppffff"),
        ("code", "a"): answers("a", "pppppppp"),
        ("base", "c"): answers("c", "pfpfpfpf"),
        ("code", "c"): answers("c", "fpfpfppp"),
        ("student", "c"): answers("c", "pppppppp"),
    }
    math, code = from_samples(samples, models, infos, seed=1).headroom
    assert (math.domain, math.teacher, math.benchmark) == ("math", "math", "a")
    assert (math.recovery.ratio, math.recovery.gap) == (pytest.approx(4 / 6), 0.75)
    assert (code.teacher, code.recovery.ratio, code.recovery.gap) == ("code", None, 0.125)
    without_base = {key: value for key, value in samples.items() if key[0] != "base"}
    assert from_samples(without_base, models, infos, seed=1).headroom == ()


def test_problems_without_a_judged_pair_are_not_compared():
    crossed = {
        ("student", "a"): [FakeSample("a", "q0", "unscored"), FakeSample("a", "q0", "pass", index=1)],
        ("math", "a"): [FakeSample("a", "q0", "pass"), FakeSample("a", "q0", "unscored", index=1)],
    }
    assert from_samples(crossed, MODELS, INFOS[:1], seed=1).comparisons == ()
    crossed["student", "a"] += answers("a", "fpf")[1:]
    crossed["math", "a"] += answers("a", "ffp")[1:]
    row = from_samples(crossed, MODELS, INFOS[:1], seed=1).comparisons[0]
    assert (row.difference, row.n, row.unscored) == (0.0, 2, 4)


def test_chat_prompts_are_shown_as_text():
    def example(prompt):
        ours, theirs = (dataclasses.replace(a, prompt=prompt) for a in answers("a", "p") + answers("a", "f"))
        return find_disagreements("math", "math", [ours], [theirs]).examples[0].prompt

    question = {"role": "user", "content": "2+2?"}
    assert example("2+2?") == example((question,)) == "2+2?"
    assert (
        example(({"role": "system", "content": "Be brief."}, question)) == "system: Be brief.\n\nuser: 2+2?"
    )


def test_disagreements_use_first_judged_answers_only():
    ours = [*answers("a", "pfpu"), FakeSample("a", "q1", "pass", index=1)]
    theirs = answers("a", "fpff")
    found = find_disagreements("math", "math", ours, theirs)
    assert (found.mode, found.problems, found.student_only, found.teacher_only) == ("sampled", 3, 2, 1)
    assert {(e.right, e.problem_id) for e in found.examples} == {
        ("student", "q0"),
        ("student", "q2"),
        ("teacher", "q1"),
    }
    many = find_disagreements("math", "math", answers("a", "p" * 50), answers("a", "f" * 50))
    assert [e.problem_id for e in many.examples] != ["q0", "q1"], "by hash, not by order"
    assert many == find_disagreements("math", "math", answers("a", "p" * 50)[::-1], answers("a", "f" * 50))


def test_both_decodings_are_pooled_and_have_a_share():
    infos = [*INFOS, BenchmarkInfo("b@greedy", "math", "greedy")]
    samples = {}
    for name, right in (("student", "pppppppf"), ("math", "ppppppff"), ("base", "ffffffff")):
        for benchmark in ("a", "b"):
            samples[name, benchmark] = answers(benchmark, right) + answers(benchmark, right, "greedy")
    evaluation = from_samples(samples, MODELS, infos, seed=1)
    assert [b.name for b in evaluation.benchmarks if b.pools] == ["domain:math", "domain:math@greedy"]
    greedy = primary_benchmark(evaluation.benchmarks, "math", "greedy")
    assert (greedy.pools, greedy.mode) == (("a@greedy", "b@greedy"), "greedy")
    row = next(r for r in evaluation.comparisons if (r.against, r.benchmark) == ("math", greedy.name))
    assert (row.n, row.difference) == (16, pytest.approx(1 / 8))
    shares = {share.mode: share for share in evaluation.shares}
    assert shares.keys() == {"sampled", "greedy"}
    assert shares["greedy"].macro.ratio == shares["greedy"].worst.ratio == pytest.approx(7 / 6)
    without = {key: value for key, value in samples.items() if key[0] != "base"}
    (share, _) = from_samples(without, MODELS, infos, seed=1).shares
    assert share.macro is None and "base" in share.absent
