"""From what a run measured to the report's data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from eval.report import questions, wording
from eval.report.data import Evaluation, ReportData
from eval.report.sections import limits
from eval.report.sections.polished import PolishUse
from eval.report.sections.probed import ProbedDomain
from eval.report.sections.prompts import PromptUse
from eval.report.sections.router import RouterSection
from eval.report.sections.trained_lambda import Trained


def build(
    *,
    run: str,
    created: str,
    config_yaml: str,
    evaluation: Evaluation,
    margin: float,
    temperature: float,
    objective: Mapping[str, float],
    trained_lambda: Trained | None = None,
    routing: Mapping[str, int],
    trained: Mapping[str, int] | None = None,
    router: RouterSection | None = None,
    curves: Mapping[str, Sequence[Mapping[str, float]]],
    wall_seconds: Mapping[str, float],
    peak_memory_bytes: int | None,
    provenance: Mapping[str, str],
    notes: Sequence[str] = (),
    prompts: PromptUse | None = None,
    probed: Sequence[ProbedDomain] = (),
    polished: PolishUse | None = None,
) -> ReportData:
    """The report's data: what is given, and the verdicts and limits that follow from it.

    margin: the difference that does not matter, in [0, 1]; temperature: that of the sampled answers.
    """
    teachers = [m.domain for m in evaluation.models if m.role == "teacher" and m.domain is not None]
    domains = tuple(dict.fromkeys([*objective, *teachers, *(b.domain for b in evaluation.benchmarks)]))
    evaluation, asked = questions.judged(evaluation, domains, margin)
    data = ReportData(
        run=run,
        created=created,
        config_yaml=config_yaml,
        domains=domains,
        temperature=temperature,
        margin=margin,
        questions=asked,
        all_teachers=questions.all_teachers(asked),
        verdicts=wording.verdicts(evaluation, domains),
        opd_sentence=wording.opd_sentence(evaluation, domains, objective, trained_lambda or {}),
        models=evaluation.models,
        benchmarks=evaluation.benchmarks,
        comparisons=evaluation.comparisons,
        disagreements=evaluation.disagreements,
        curves=curves,
        wall_seconds=wall_seconds,
        peak_memory_bytes=peak_memory_bytes,
        provenance=provenance,
        notes=tuple(notes),
        objective=objective,
        trained_lambda=trained_lambda or {},
        routing=routing,
        trained=trained or {},
        prompts=prompts or PromptUse(),
        router=router,
        probed=tuple(probed),
        headroom=evaluation.headroom,
        before_polish=evaluation.before_polish,
        polished=polished,
        shares=evaluation.shares,
    )
    return replace(data, limits=tuple(limits.limits_of(data)))
