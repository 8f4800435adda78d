"""From verl's raw metrics of a step to one line of `metrics.jsonl`, or of a trained baseline's."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

GLOBAL_KEYS = {
    "gradient_norm": "actor/grad_norm",
    "loss": "actor/distillation/loss",
    "entropy": "actor/entropy",
    "learning_rate": "actor/lr",
    "sampler_trainer_probability_difference": "training/rollout_probs_diff_mean",
    "task_reward": "critic/score/mean",
    "seconds": "timing_s/step",
    "seconds_rollout_and_scoring": "timing_s/gen",
    "seconds_old_logp": "timing_s/old_log_prob",
    "seconds_update": "timing_s/update_actor",
    "seconds_sync": "timing_s/update_weights",
}


def step_metrics(step: int, raw: Mapping[str, float], reward_scales: Mapping[str, float]) -> dict[str, float]:
    """Means, shares and rates of one step; keys `teacher/<domain>/<name>` are per teacher.

    The raw values are sums over the step's tokens, so the means do not depend on micro-batches or ranks.
    Natural logs, per token. A domain at lambda 1 has no `implicit_reward`: its reference is not scored.
    """
    line: dict[str, float] = {"step": step}
    line |= {name: raw[key] for name, key in GLOBAL_KEYS.items() if key in raw}
    totals = {name: _total(raw, reward_scales, name) for name in ("tokens", "gradient_share")}
    for domain, scale in reward_scales.items():
        sums = _sums(raw, domain)
        for name, value in _teacher_means(sums, totals, scored_reference=scale != 1.0).items():
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


def check_start(line: Mapping[str, float], largest: float, domains: Iterable[str]) -> None:
    """Raises ValueError where, in a merge's first step, the reference is not the trainer's student.

    `domains` are those whose reference should be the student's initial weights.
    """
    for domain in domains if line["step"] == 1 else ():
        value = line.get(f"teacher/{domain}/student_reference_distance", 0.0)
        if not value <= largest:
            raise ValueError(
                f"domain {domain!r}: in step 1 the student is the reference, but their log-probabilities "
                f"differ by {value:.3g} nats a token (objective.largest_start_difference = {largest:g}): the "
                "scorer reads other tokens or another model than the trainer"
            )


def _sums(raw: Mapping[str, float], domain: str) -> dict[str, float]:
    """The loss's sums for one teacher; verl puts `actor/` before the names a loss returns."""
    marker = f"teacher/{domain}/"
    return {key.split(marker, 1)[1]: value for key, value in raw.items() if marker in key}


def _total(raw: Mapping[str, float], domains: Mapping[str, float], name: str) -> float:
    return sum(_sums(raw, domain).get(name, 0.0) for domain in domains)


def _teacher_means(
    sums: Mapping[str, float], totals: Mapping[str, float], scored_reference: bool
) -> dict[str, float]:
    tokens, sequences = sums.get("tokens", 0.0), sums.get("sequences", 0.0)
    means = {"sequences": sequences, "token_share": tokens / max(totals["tokens"], 1.0)}
    if not tokens or not sequences:
        return means
    advantage = sums["advantage"] / tokens
    means |= {
        "student_minus_teacher": sums["student_minus_teacher"] / tokens,
        "advantage_mean": advantage,
        "advantage_std": max(sums["advantage_squared"] / tokens - advantage**2, 0.0) ** 0.5,
        "length": tokens / sequences,
        "finish_rate": sums["finished"] / sequences,
        "gradient_share": sums["gradient_share"] / max(totals["gradient_share"], 1e-12),
    }
    if scored_reference:
        means["implicit_reward"] = sums["implicit_reward"] / tokens
        means["student_reference_distance"] = sums["student_reference_distance"] / tokens
    if sums.get("finished") and "end_teacher_logp" in sums:
        means["teacher_end_logp"] = sums["end_teacher_logp"] / sums["finished"]
    for name, key in OPTIONAL_MEANS.items():
        if key in sums:
            means[name] = sums[key] / tokens
    return means


OPTIONAL_MEANS = {
    "kl_to_optimum": "kl_to_optimum",
    "entropy": "entropy",
    "importance_weight_mean": "importance_weight",
    "importance_weight_truncated": "importance_weight_capped",
}
