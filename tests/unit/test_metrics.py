"""One merge step's line, by hand from the sums that the loss returns."""

from __future__ import annotations

import math

import pytest

from merging.metrics import GLOBAL_KEYS, check_start, step_metrics

MATH = {  # 8 tokens in 2 sequences
    "tokens": 8.0,
    "sequences": 2.0,
    "finished": 1.0,
    "end_teacher_logp": -3.0,
    "implicit_reward": 4.0,
    "student_minus_teacher": -2.0,
    "student_reference_distance": 2.4,
    "advantage": 4.0,
    "advantage_squared": 10.0,
    "gradient_share": 6.0,
    "importance_weight": 8.8,
    "importance_weight_capped": 2.0,
    "entropy": 12.0,
    "kl_to_optimum": 1.6,
}
CODE = {
    **MATH,
    "tokens": 24.0,
    "sequences": 3.0,
    "finished": 3.0,
    "gradient_share": 2.0,
    "advantage_squared": 24.0,
}


def raw(**domains):
    return {
        f"actor/teacher/{domain}/{name}": v for domain, sums in domains.items() for name, v in sums.items()
    }


def test_two_domains_by_hand():
    line = step_metrics(7, raw(math=MATH, code=CODE), {"math": 1.25, "code": 1.5})
    assert line.pop("step") == 7
    expected = {
        "teacher/math/sequences": 2.0,
        "teacher/math/token_share": 0.25,
        "teacher/math/implicit_reward": 0.5,
        "teacher/math/student_minus_teacher": -0.25,
        "teacher/math/student_reference_distance": 0.3,
        "teacher/math/advantage_mean": 0.5,
        "teacher/math/advantage_std": 1.0,  # 10/8 - 0.5**2
        "teacher/math/length": 4.0,
        "teacher/math/finish_rate": 0.5,
        "teacher/math/teacher_end_logp": -3.0,
        "teacher/math/gradient_share": 0.75,
        "teacher/math/entropy": 1.5,
        "teacher/math/kl_to_optimum": 0.2,
        "teacher/math/importance_weight_mean": 1.1,
        "teacher/math/importance_weight_truncated": 0.25,
        "teacher/code/sequences": 3.0,
        "teacher/code/token_share": 0.75,
        "teacher/code/implicit_reward": 1 / 6,
        "teacher/code/student_minus_teacher": -1 / 12,
        "teacher/code/student_reference_distance": 0.1,
        "teacher/code/advantage_mean": 1 / 6,
        "teacher/code/advantage_std": math.sqrt(35) / 6,  # 1 - 1/36
        "teacher/code/length": 8.0,
        "teacher/code/finish_rate": 1.0,
        "teacher/code/teacher_end_logp": -1.0,
        "teacher/code/gradient_share": 0.25,
        "teacher/code/entropy": 0.5,
        "teacher/code/kl_to_optimum": 1.6 / 24,
        "teacher/code/importance_weight_mean": 8.8 / 24,
        "teacher/code/importance_weight_truncated": 1 / 12,
    }
    assert line == pytest.approx(expected)


def test_at_lambda_one_the_reference_was_not_scored():
    line = step_metrics(1, raw(math=MATH, code=CODE), {"math": 1.0, "code": 1.25})
    assert "teacher/math/implicit_reward" not in line
    assert "teacher/math/student_reference_distance" not in line
    assert line["teacher/code/implicit_reward"] == pytest.approx(1 / 6)
    assert line["teacher/math/advantage_mean"] == 0.5


def test_lambda_zero_still_scores_the_teacher():
    assert step_metrics(1, raw(math=MATH), {"math": 0.0})["teacher/math/implicit_reward"] == 0.5


def test_a_domain_without_rows_has_shares_and_no_means():
    nothing = dict.fromkeys(MATH, 0.0)
    line = step_metrics(1, raw(math=MATH, code=nothing), {"math": 1.25, "code": 1.25})
    assert {key: v for key, v in line.items() if "/code/" in key} == {
        "teacher/code/sequences": 0.0,
        "teacher/code/token_share": 0.0,
    }
    assert line["teacher/math/token_share"] == 1.0 and line["teacher/math/gradient_share"] == 1.0


def test_a_step_without_any_row():
    line = step_metrics(3, {}, {"math": 1.25})
    assert line == {"step": 3, "teacher/math/sequences": 0.0, "teacher/math/token_share": 0.0}


def test_optional_sums_may_be_absent():
    optional = {"entropy", "importance_weight", "importance_weight_capped", "kl_to_optimum"}
    line = step_metrics(1, raw(math={k: v for k, v in MATH.items() if k not in optional}), {"math": 1.25})
    assert not any(name in key for key in line for name in ("entropy", "importance_weight", "kl_to"))
    assert line["teacher/math/length"] == 4.0


def test_rounding_never_makes_the_spread_imaginary():
    sums = {**MATH, "tokens": 3.0, "advantage": 0.3, "advantage_squared": 0.03 - 1e-12}
    assert step_metrics(1, raw(math=sums), {"math": 1.25})["teacher/math/advantage_std"] == 0.0


def test_names_that_begin_alike_stay_apart():
    line = step_metrics(1, raw(math=MATH, **{"math-2": CODE}), {"math": 1.25, "math-2": 1.25})
    assert line["teacher/math/sequences"] == 2.0 and line["teacher/math-2/sequences"] == 3.0


def test_sums_of_micro_batches_give_the_means_of_the_whole():
    halves = [
        {name: value / 4 for name, value in MATH.items()},
        {name: value * 3 / 4 for name, value in MATH.items()},
    ]
    added = {name: sum(half[name] for half in halves) for name in MATH}
    scales = {"math": 1.25}
    assert step_metrics(1, raw(math=added), scales) == pytest.approx(step_metrics(1, raw(math=MATH), scales))


def test_verls_own_values_keep_their_number_under_our_name():
    values = {key: float(number) for number, key in enumerate(GLOBAL_KEYS.values())}
    line = step_metrics(1, {**values, "perf/unknown": 5.0}, {})
    assert line == {"step": 1, **{name: float(n) for n, name in enumerate(GLOBAL_KEYS)}}
    assert line["gradient_norm"] == values["actor/grad_norm"]
    assert "seconds" not in step_metrics(1, {"actor/lr": 1e-3}, {})


def test_a_first_step_whose_reference_is_not_the_student_is_refused():
    line = step_metrics(1, raw(math=MATH, code=CODE), {"math": 1.25, "code": 1.25})
    both = ["math", "code"]
    check_start(line, 0.31, both)
    check_start(line, 0.29, ["code"])  # math has another reference
    with pytest.raises(ValueError, match=r"domain 'math': in step 1 .* differ by 0\.3 nats a token"):
        check_start(line, 0.29, both)
    check_start({**line, "step": 2}, 0.29, both)
    with pytest.raises(ValueError, match="other tokens or another model"):
        check_start({"step": 1, "teacher/math/student_reference_distance": math.nan}, 0.29, both)
