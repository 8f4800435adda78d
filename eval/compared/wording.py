"""What is concluded from two runs, in sentences."""

from __future__ import annotations

import json
from typing import Literal

from common.words import counted
from eval.compared.data import STUDENT, Compared, ModelComparison, NotCompared, RunRecord, Setting
from eval.report.sections.trained_lambda import in_one_line
from eval.report.wording import claim, label_of, numbers, p_text, points

ABSENT = "absent"


def student_sentences(data: Compared) -> list[tuple[ModelComparison, str]]:
    """Every comparison of the two students with its sentence."""
    return [(row, sentence(data, row)) for row in data.rows if row.model == STUDENT]


def other_sentences(data: Compared) -> list[str]:
    """The other models; those whose answers are the same throughout share one sentence."""
    by_model: dict[str, list[ModelComparison]] = {}
    for row in data.rows:
        if row.model != STUDENT:
            by_model.setdefault(row.model, []).append(row)
    alike = [model for model, rows in by_model.items() if all(row.same_answers for row in rows)]
    said = [f"{', '.join(alike)}: the same answers in both runs"] if alike else []
    return said + [
        sentence(data, row) for model, rows in by_model.items() if model not in alike for row in rows
    ]


def sentence(data: Compared, row: ModelComparison) -> str:
    """One comparison, with its numbers."""
    where = f"{row.domain} ({row.benchmark}, {row.mode})"
    who = label_of(row.model, row.role)
    if row.same_answers:
        return f"{where}: {who} gives the same answers in {data.first.label} and {data.second.label}"
    said = claim(f"{who} of {data.first.label}", row.verdict, f"that of {data.second.label}")
    return f"{where}: {said}: {numbers(row)}, adjusted {p_text(row.p_adjusted)}"


def not_compared_sentence(item: NotCompared) -> str:
    """What is left out, and why."""
    return f"{item.what} is not compared: {item.reason}"


def sentences(data: Compared) -> list[str]:
    """All that the terminal shows, the students first."""
    if not data.rows:
        said = ["Nothing can be compared: the runs share no benchmark with the same problems"]
    else:
        said = [text for _, text in student_sentences(data)] + other_sentences(data)
    return [*said, *map(not_compared_sentence, data.not_compared), *data.caveats]


def limits(data: Compared) -> list[str]:
    """What the comparison does not show."""
    found = [
        "Each run is one training. The intervals cover the draw of problems and answers, not the training "
        "seed: another seed may move a student by more.",
    ]
    if data.rows:
        compared = sum(not row.same_answers for row in data.rows)
        found.append(
            f"The p-values of the {counted(compared, 'comparison')} of different answers are corrected for "
            "each other (Holm); the 95% intervals are not. Level means that an interval lies within "
            f"{points(data.margin)} points on both sides."
        )
    changed = [setting.key for setting in data.config if setting.key != "name"]
    if len(changed) > 1:
        found.append(f"{len(changed)} config values differ: no difference can be laid to one of them alone.")
    found.append(
        "Wall times are sums over all attempts. A stage that was found done, such as an expert of the "
        "registry, took no time, and other machines take other times."
    )
    return found


def value_text(setting: Setting, side: Literal["first", "second"]) -> str:
    """One side of a setting; texts as they are, everything else as JSON."""
    if side not in setting.values:
        return ABSENT
    value = setting.values[side]
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def scales_text(run: RunRecord) -> str:
    """Lambda that the run was trained at."""
    return in_one_line(run.reward_scales, run.trained_lambda)
