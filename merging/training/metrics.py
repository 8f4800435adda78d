"""From verl's raw metrics of a step to one line of `metrics.jsonl`, or of a trained baseline's."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

from merging.exopd.lambda_schedule import reads_reference, reads_teacher

SCORER = "scorer/"
"""Beginning of the shared scorer's own metrics."""
EXPOSED = f"{SCORER}exposed_seconds"

GLOBAL_KEYS = {
    "gradient_norm": "actor/grad_norm",
    "loss": "actor/distillation/loss",
    "entropy": "actor/entropy",
    "learning_rate": "actor/lr",
    "sampler_trainer_probability_difference": "training/rollout_probs_diff_mean",
    "staleness_mean": "training/off_policy/trajectory_staleness_worst/mean",
    "staleness_max": "training/off_policy/trajectory_staleness_worst/max",
    "task_reward": "critic/score/mean",
    "seconds": "timing_s/step",
    "seconds_rollout_and_scoring": "timing_s/gen",
    "seconds_scoring_exposed": EXPOSED,
    "seconds_scoring": "scorer/seconds",
    "scorer_swaps": "scorer/swaps",
    "scorer_bytes_read": "scorer/bytes_read",
    "seconds_old_logp": "timing_s/old_log_prob",
    "seconds_update": "timing_s/update_actor",
    "seconds_sync": "timing_s/update_weights",
}


DISTANCE = "student_reference_distance"
"""Mean |S - B| of a step's tokens."""


def step_metrics(step: int, raw: Mapping[str, float], reward_scales: Mapping[str, float]) -> dict[str, float]:
    """Means, shares and rates of one step; keys `teacher/<domain>/<name>` are per teacher.

    The raw values are sums over the step's tokens, so the means do not depend on micro-batches or ranks.
    `reward_scales` holds each domain's lambda in this step. Natural logs, per token. What needs a model that
    this lambda does not read was not measured and is absent: `implicit_reward` (T - B) at lambda 0 and 1,
    `student_minus_teacher` and `teacher_end_logp` at 0, `student_reference_distance` and `reference_kl` at 1,
    `log_ratio_clipped` at both.
    """
    line: dict[str, float] = {"step": step}
    line |= {name: raw[key] for name, key in GLOBAL_KEYS.items() if key in raw}
    named = set(GLOBAL_KEYS.values())
    line |= {key: value for key, value in raw.items() if key.startswith(SCORER) and key not in named}
    if math.isnan(line.get("entropy", 0.0)):  # `metrics.entropy` is off: not measured
        del line["entropy"]
    totals = {name: _total(raw, reward_scales, name) for name in ("tokens", "gradient_share")}
    for domain, scale in reward_scales.items():
        sums = _sums(raw, domain)
        for name, value in _teacher_means(sums, totals, scale).items():
            line[f"teacher/{domain}/{name}"] = value
    return line


def grpo_metrics(step: int, raw: Mapping[str, float], max_response_tokens: int) -> dict[str, float]:
    """One step of a GRPO training; every mean is over the rollouts or tokens of all domains together.

    `length` is in tokens. `finish_rate` counts an answer whose end token is the last one allowed as
    unfinished.
    """
    line = step_metrics(step, raw, {})
    if "response_length/mean" in raw:
        line["length"] = raw["response_length/mean"]
    longest, share = raw.get("response_length/max"), raw.get("response_length/clip_ratio")
    if longest is not None and share is not None:
        # verl's share is of the rollouts as long as the step's longest, whether that was cut off or not
        line["finish_rate"] = 1.0 if longest < max_response_tokens else 1.0 - share
    return line


def check_start(
    line: Mapping[str, float],
    largest: float,
    domains: Iterable[str],
    apart: Mapping[str, float] | None = None,
) -> None:
    """Raises ValueError where a reference is not as far from the trainer's student as it began.

    `line` is the first step that reads the reference of these domains, or an earlier one. In step 1 the
    student is the reference, or so many nats a token `apart` from it; before step N it was updated N - 1
    times, and each time it may have moved as far again as `largest`. What is expected was measured on other
    answers, so half of it is allowed too.
    """
    step = int(line["step"])
    for domain in domains:
        expected = (apart or {}).get(domain, 0.0)
        value = line.get(f"teacher/{domain}/{DISTANCE}", expected)
        if not abs(value - expected) <= largest * step + expected / 2:
            was = "the student is" if step == 1 else f"the student was, {step - 1} updates before,"
            where = f"{expected:.3g} nats a token from the reference" if expected else "the reference"
            raise ValueError(
                f"domain {domain!r}: in step {step} {was} {where}, but their log-probabilities "
                f"differ by {value:.3g} nats a token (objective.largest_start_difference = {largest:g}"
                f"{f', times {step}' * (step > 1)}): the scorer reads other tokens or another model than the "
                "trainer"
            )


def not_compared(lines: Iterable[Mapping[str, float]], domains: Iterable[str]) -> list[str]:
    """The domains whose reference none of these steps has read."""
    read = {key for line in lines for key in line}
    return [domain for domain in domains if f"teacher/{domain}/{DISTANCE}" not in read]


def _sums(raw: Mapping[str, float], domain: str) -> dict[str, float]:
    """The loss's sums for one teacher; verl puts `actor/` before the names a loss returns."""
    marker = f"teacher/{domain}/"
    return {key.split(marker, 1)[1]: value for key, value in raw.items() if marker in key}


def _total(raw: Mapping[str, float], domains: Mapping[str, float], name: str) -> float:
    return sum(_sums(raw, domain).get(name, 0.0) for domain in domains)


def _teacher_means(
    sums: Mapping[str, float], totals: Mapping[str, float], reward_scale: float
) -> dict[str, float]:
    tokens, sequences = sums.get("tokens", 0.0), sums.get("sequences", 0.0)
    means = {"sequences": sequences, "token_share": tokens / max(totals["tokens"], 1.0)}
    if not tokens or not sequences:
        return means
    advantage = sums["advantage"] / tokens
    means |= {
        "advantage_mean": advantage,
        "advantage_std": max(sums["advantage_squared"] / tokens - advantage**2, 0.0) ** 0.5,
        "length": tokens / sequences,
        "finish_rate": sums["finished"] / sequences,
        "gradient_share": sums["gradient_share"] / max(totals["gradient_share"], 1e-12),
    }
    teacher, reference = reads_teacher(reward_scale), reads_reference(reward_scale)
    if teacher and reference:
        means["implicit_reward"] = sums["implicit_reward"] / tokens
        if "log_ratio_clipped" in sums:
            means["log_ratio_clipped"] = sums["log_ratio_clipped"] / tokens
    if teacher:
        means["student_minus_teacher"] = sums["student_minus_teacher"] / tokens
    if reference:
        means[DISTANCE] = sums[DISTANCE] / tokens
        # S - B; at lambda 0 the column of T repeats B
        means["reference_kl"] = (sums["student_minus_teacher"] + sums["implicit_reward"]) / tokens
    if teacher and sums.get("finished") and "end_teacher_logp" in sums:
        means["teacher_end_logp"] = sums["end_teacher_logp"] / sums["finished"]
    for name, key in OPTIONAL_MEANS.items():
        if key in sums and not (key == "entropy" and math.isnan(sums[key])):
            means[name] = sums[key] / tokens
    return means


OPTIONAL_MEANS = {
    "kl_to_optimum": "kl_to_optimum",
    "entropy": "entropy",
    "importance_weight_mean": "importance_weight",
    "importance_weight_truncated": "importance_weight_capped",
    "gate_open": "gate_open",
    "added_advantage": "added_advantage",
}


def merge_text(line: Mapping[str, float]) -> str:
    """Per-domain T-B (implicit reward), length and finish rate of one merge step, for the bar."""
    domains = dict.fromkeys(key.split("/")[1] for key in line if key.startswith("teacher/"))
    parts = []
    for domain in domains:
        values = {
            name: line.get(f"teacher/{domain}/{name}")
            for name in ("implicit_reward", "length", "finish_rate")
        }
        reward = (
            "T-B not scored" if values["implicit_reward"] is None else f"T-B {values['implicit_reward']:+.3f}"
        )
        if values["length"] is not None:
            parts.append(
                f"{domain}: {reward}, {values['length']:.0f} tokens, {values['finish_rate']:.0%} finished"
            )
    return "; ".join(parts)
