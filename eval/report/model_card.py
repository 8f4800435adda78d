"""The model card (`README.md`) that travels with the student's weights."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from common.files import write_text
from configs.reading.yaml_text import parse_yaml
from eval.report.headline import ONE_TRAINING
from eval.report.render import md, md_code
from eval.report.sections import polished, trained_lambda
from eval.report.wording import NOT_MEASURED, interval, label_of, p_number, percent, points

HUB_NAME = re.compile(r"^[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*$")
POLISHED = ", and then polished by reinforcement learning on the rewards of their domains"
STARTING_WEIGHTS = "the student's starting weights"
"""What B is read from unless the config names another reference."""


def write_model_card(
    student_dir: Path,
    report_json: Mapping[str, Any],
    config_yaml: str,
    reference: str = STARTING_WEIGHTS,
    adapter: str | None = None,
    modes: Mapping[str, str] | None = None,
) -> Path:
    """Writes `student_dir/README.md` from a report (`eval.report.render.to_json`) and the run's config.

    `reference` says in words which model B was read from, `adapter` which adapter the folder holds in place
    of a full model, `modes` how each domain was asked (empty for as the chat template does by itself).
    Replaces a card that is there; the file is written whole or not at all.
    """
    path = Path(student_dir) / "README.md"
    text = model_card(report_json, config_yaml, reference, adapter, modes or {})
    write_text(path, text, errors="replace")
    return path


def model_card(
    report: Mapping[str, Any],
    config_yaml: str,
    reference: str = STARTING_WEIGHTS,
    adapter: str | None = None,
    modes: Mapping[str, str] | None = None,
) -> str:
    """The card as Markdown with a YAML front matter."""
    import yaml

    config = parse_yaml(config_yaml, "config.yaml")[0] or {}
    front = yaml.safe_dump(_front_matter(config, adapter), sort_keys=False, allow_unicode=True)
    parts = [
        f"---\n{front}---",
        f"# {md(report['run'])}",
        _introduction(report, config),
        *_use_of(adapter, config),
        "## Results",
        *_results(report),
        "## Method",
        _method(report, reference),
        *_polish(report),
        *_modes(modes or {}),
        "## Limits",
        "\n".join(f"- {md(limit)}" for limit in [*report["notes"], *report["limits"]]),
        "## Config",
        md_code(config_yaml, "yaml"),
    ]
    return "\n\n".join(parts) + "\n"


def _front_matter(config: Mapping[str, Any], adapter: str | None) -> dict[str, Any]:
    """Only what is known: a base model that is a local folder has no place on the hub."""
    student, library = str(config.get("student", "")), "transformers" if adapter is None else "peft"
    front: dict[str, Any] = {"library_name": library, "pipeline_tag": "text-generation"}
    if HUB_NAME.match(student) and not Path(student).exists():
        relation = "finetune" if adapter is None else "adapter"
        front |= {"base_model": student, "base_model_relation": relation}
    return front | {"tags": ["on-policy-distillation", "exopd", "arxiv:2602.12125"]}


def _introduction(report: Mapping[str, Any], config: Mapping[str, Any]) -> str:
    teachers = [name for name, model in report["models"].items() if model["role"] == "teacher"]
    base = md(config.get("student", "an unnamed base model"))
    return (
        f"One student, trained from {base} to merge the domain experts {md(', '.join(teachers) or 'none')} "
        f"by on-policy distillation with reward extrapolation{POLISHED if report.get('polish') else ''}."
    )


def _use_of(adapter: str | None, config: Mapping[str, Any]) -> list[str]:
    """How an adapter is loaded; nothing for a full model."""
    if adapter is None:
        return []
    base = str(config.get("student", "the base model"))
    lines = [
        "from peft import PeftModel",
        "from transformers import AutoModelForCausalLM",
        "",
        f"base = AutoModelForCausalLM.from_pretrained({base!r})",
        'student = PeftModel.from_pretrained(base, "path/to/this/folder")',
    ]
    return [
        f"This folder holds {md(adapter)} on {md(base)}; base and adapter together are the student. The "
        "results below are those of both added into one model.",
        md_code("\n".join(lines), "python"),
    ]


def _results(report: Mapping[str, Any]) -> Iterator[str]:
    yield f"**{md(report['headline']['sentence'])}.**"
    yield f"{ONE_TRAINING}."
    if report["questions"]:
        yield "\n".join(f"- {md(question['sentence'])}." for question in report["questions"])
    yield md(report["opd"])
    if report["benchmarks"]:
        yield "Accuracy, with its 95% interval in parentheses:"
        yield _accuracy_table(report)
    if report["comparisons"]:
        yield "The student minus each other model, in percentage points, paired by problem:"
        yield _comparison_table(report)


def _accuracy_table(report: Mapping[str, Any]) -> str:
    keys = list(report["benchmarks"])
    rows = [["Model", *(md(_key_text(report, key)) for key in keys)], ["---", *("--:" for _ in keys)]]
    for name, model in report["models"].items():
        cells = [_score_text(model["benchmarks"].get(key)) for key in keys]
        rows.append([md(label_of(name, model["role"])), *cells])
    return _table(rows)


def _comparison_table(report: Mapping[str, Any]) -> str:
    rows = [["Against", "Benchmark", "Difference", "95% interval", "n", "Adjusted p", "Verdict"]]
    rows.append(["---", "---", "--:", "--:", "--:", "--:", "---"])
    for row in report["comparisons"]:
        other = label_of(row["against"], report["models"][row["against"]]["role"])
        numbers = [points(row["difference"], plus=True), interval(*row["interval"]), str(row["n"])]
        verdict = row["verdict"] + " (primary)" * row["primary"]
        rows.append(
            [
                md(other),
                md(_key_text(report, row["benchmark"])),
                *numbers,
                md(p_number(row["p_adjusted"])),
                verdict,
            ]
        )
    return _table(rows)


def _table(rows: list[list[str]]) -> str:
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def _key_text(report: Mapping[str, Any], key: str) -> str:
    info = report["benchmarks"][key]
    name = f"{info['domain']}, pooled" if info["pools"] else key.removesuffix("@greedy")
    return name + (" (greedy)" if info["mode"] == "greedy" else "")


def _score_text(score: Mapping[str, Any] | None) -> str:
    if score is None:
        return NOT_MEASURED
    if score["accuracy"] is None:
        return f"unscored ({score['unscored']} answers)"
    lo, hi = score["interval"]
    unscored = f", {score['unscored']} unscored" if score["unscored"] else ""
    return f"{percent(score['accuracy'])} ({100 * lo:.1f} to {100 * hi:.1f}{unscored})"


def _polish(report: Mapping[str, Any]) -> list[str]:
    """One paragraph on the polish; none where there was none."""
    sentences = polished.told(polished.from_json(report.get("polish")))
    return [md("The polish: " + "; ".join(sentences) + ".")] if sentences else []


def _modes(modes: Mapping[str, str]) -> list[str]:
    """How to ask the model; nothing where every domain is asked as the chat template does by itself."""
    if not any(modes.values()):
        return []
    lines = [
        f"- {md(name)}: {md(told or 'as the chat template does by itself')}" for name, told in modes.items()
    ]
    said = "Each domain was trained and measured in one mode; ask the model in the same one:"
    return ["## How to ask it", said, "\n".join(lines)]


def _method(report: Mapping[str, Any], reference: str) -> str:
    trained = trained_lambda.from_json(report["objective"]["trained"])
    found = trained_lambda.texts(report["objective"]["reward_scale"], trained)
    scales = trained_lambda.listed(f"{domain} {scale}" for domain, scale in found.items())
    return (
        "Generalized On-Policy Distillation with reward extrapolation (ExOPD, arXiv 2602.12125). The student "
        "answers prompts of every domain; each answer is scored token by token by the teacher of its domain "
        f"(T), by {md(reference)} (B) and by the student itself (S), and the student ascends "
        f"`lambda * (T - B) - (S - B)`. Reward scale lambda: {md(scales or NOT_MEASURED)}."
    )
