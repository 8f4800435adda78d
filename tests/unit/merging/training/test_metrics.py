"""One merge step's line, by hand from the sums that the loss returns."""

from __future__ import annotations

import math

import pytest

from merging.training.metrics import GLOBAL_KEYS, check_start, merge_text, not_compared, step_metrics
from tests.helpers.messages import refuses

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
        "teacher/math/reference_kl": 0.25,  # (S - T) + (T - B) = -2 + 4
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
        "teacher/code/reference_kl": 1 / 12,
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
    assert "teacher/math/reference_kl" not in line
    assert line["teacher/code/implicit_reward"] == pytest.approx(1 / 6)
    assert line["teacher/math/advantage_mean"] == 0.5


def test_at_lambda_zero_the_teacher_was_not_scored():
    line = step_metrics(1, raw(math=MATH, code=CODE), {"math": 0.0, "code": 1.25})
    of_the_teacher = ("implicit_reward", "student_minus_teacher", "teacher_end_logp")
    assert not any(f"teacher/math/{name}" in line for name in of_the_teacher)
    assert line["teacher/math/student_reference_distance"] == 0.3  # 2.4 / 8
    assert line["teacher/code/teacher_end_logp"] == -1.0
    assert line["teacher/math/advantage_mean"] == 0.5
    assert step_metrics(1, raw(math=MATH), {"math": 0.01})["teacher/math/implicit_reward"] == 0.5


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


def test_what_the_shared_scorer_tells_of_a_step():
    scoring = {"scorer/passes": 64.0, "scorer/0/busy_seconds": 1.5, "scorer/0/swaps": 2.0}
    line = step_metrics(1, {**scoring, "scorer/exposed_seconds": 0.25, "timing_s/gen": 9.0}, {})
    seconds = {"seconds_scoring_exposed": 0.25, "seconds_rollout_and_scoring": 9.0}
    assert line == {"step": 1, **seconds, **scoring}


def test_optional_sums_may_be_absent():
    optional = {"entropy", "importance_weight", "importance_weight_capped", "kl_to_optimum"}
    line = step_metrics(1, raw(math={k: v for k, v in MATH.items() if k not in optional}), {"math": 1.25})
    assert not any(name in key for key in line for name in ("entropy", "importance_weight", "kl_to"))
    assert line["teacher/math/length"] == 4.0


def test_an_entropy_that_was_not_measured_is_left_out():
    nan = float("nan")
    line = step_metrics(1, {**raw(math={**MATH, "entropy": nan}), "actor/entropy": nan}, {"math": 1.25})
    assert not any("entropy" in key for key in line)
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
    with refuses("domain 'math'", "step 1", "0.3 nats", error=ValueError):
        check_start(line, 0.29, both)
    check_start({**line, "step": 3}, 0.29, both)
    with refuses("tokens", "model", error=ValueError):
        check_start({"step": 1, "teacher/math/student_reference_distance": math.nan}, 0.29, both)


def test_a_reference_that_is_first_read_later_is_compared_then():
    """Behind a warm-up from lambda 1; each update before may have moved the student by as much."""
    scales = {"math": 1.0, "code": 1.25}
    first = step_metrics(1, raw(math=MATH, code=CODE), scales)
    check_start(first, 0.29, ["math", "code"])
    left = not_compared([first], ["math", "code"])
    assert left == ["math"]
    second = step_metrics(2, raw(math=MATH, code=CODE), {"math": 1.1, "code": 1.25})
    check_start(second, 0.16, left)  # 0.3 after one update
    with refuses("domain 'math'", "step 2", "1 updates", "0.3 nats", "0.14", error=ValueError):
        check_start(second, 0.14, left)
    assert not_compared([first, second], ["math", "code"]) == []


def test_the_share_of_clipped_tokens_needs_both_models():
    clipped = {**MATH, "log_ratio_clipped": 2.0}
    assert step_metrics(1, raw(math=clipped), {"math": 1.25})["teacher/math/log_ratio_clipped"] == 0.25
    for scale in (0.0, 1.0):
        assert "teacher/math/log_ratio_clipped" not in step_metrics(1, raw(math=clipped), {"math": scale})


def test_what_verifiers_did():
    line = step_metrics(1, raw(math={**MATH, "gate_open": 6.0, "added_advantage": 2.0}), {"math": 1.25})
    assert (line["teacher/math/gate_open"], line["teacher/math/added_advantage"]) == (0.75, 0.25)


def test_text_of_a_merge_step():
    line = {
        "step": 3,
        "loss": 0.5,
        "teacher/math/implicit_reward": 0.1234,
        "teacher/math/length": 31.6,
        "teacher/math/finish_rate": 0.955,
        "teacher/code/length": 20.0,
        "teacher/code/finish_rate": 1.0,
        "teacher/empty/sequences": 0.0,
    }
    assert merge_text(line) == (
        "math: T-B +0.123, 32 tokens, 96% finished; code: T-B not scored, 20 tokens, 100% finished"
    )
    assert merge_text({**line, "teacher/math/implicit_reward": -0.5}).startswith("math: T-B -0.500")
    assert merge_text({"step": 1}) == ""
