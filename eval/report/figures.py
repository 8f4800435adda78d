"""Chooses the report's figures and says in words what each one shows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from common.words import duration
from eval.report import plots, wording
from eval.report.data import BenchmarkInfo, ModelRow, ReportData, primary_benchmark
from eval.report.sections import trained_lambda
from eval.report.sections.curves import Panel, Series


@dataclass(frozen=True)
class Figure:
    """An inline SVG with its visible caption; `main` is False for one that is tucked away."""

    svg: str
    caption: str
    main: bool = True


def accuracy_figures(data: ReportData) -> list[Figure]:
    """A scatter for two benchmarked domains, a dot plot for each domain otherwise."""
    primary = [(domain, primary_benchmark(data.benchmarks, domain)) for domain in data.domains]
    judged = [(domain, info) for domain, info in primary if info is not None]
    if len(judged) == 2:
        (x_domain, x), (y_domain, y) = judged
        scatter = _scatter(data.models, x_domain, x, y_domain, y)
        return [scatter] if scatter else []
    dots = [_dots(data.models, domain, info, f"accuracy-{i}") for i, (domain, info) in enumerate(judged)]
    found = [figure for figure in dots if figure]
    return [replace(found[0], caption=f"{found[0].caption} {LEGEND}"), *found[1:]] if found else []


def curve_figures(found: Sequence[Panel], domains: Sequence[str]) -> list[Figure]:
    """A line plot for each panel; a domain keeps its colour and marker, a stage its dash."""
    figures = []
    for index, panel in enumerate(found):
        dashes = list(dict.fromkeys(_dash_group(s) for s in panel.series))
        lines = [
            plots.Line(
                label=s.label,
                x=s.steps,
                y=s.values,
                colour=domains.index(s.domain) if s.domain in domains else len(domains),
                dash=dashes.index(_dash_group(s)),
            )
            for s in panel.series
        ]
        desc = "; ".join(
            f"{s.label}: from {s.values[0]:.3g} at step {s.steps[0]:g} to {s.values[-1]:.3g} "
            f"at step {s.steps[-1]:g}"
            for s in panel.series
        )
        svg = plots.line_plot(f"curve-{index}", lines, panel.unit or panel.title, panel.title, desc)
        figures.append(Figure(svg, panel.title, panel.main))
    return figures


def probe_figure(data: ReportData) -> Figure | None:
    """Accuracy of the optimum against lambda, and the trained student's at the lambda that was taken."""
    if not data.probed:
        return None
    lines, said = [], []
    chosen = {probed.domain: probed.reward_scale for probed in data.probed}
    trained = trained_lambda.texts(chosen, data.trained_lambda)
    for probed in data.probed:
        colour = data.domains.index(probed.domain)
        lines.append(
            plots.Line(
                probed.domain,
                [point.reward_scale for point in probed.points],
                [100 * point.accuracy for point in probed.points],
                colour,
                whiskers=[(100 * point.lo, 100 * point.hi) for point in probed.points],
            )
        )
        said += [
            f"{probed.domain} at lambda {p.reward_scale:g}: {_said((p.accuracy, p.lo, p.hi))}"
            for p in probed.points
        ]
        if likeliest := [(p.reward_scale, p.greedy) for p in probed.points if p.greedy]:
            label, values = f"{probed.domain}, greedy", [100 * own.accuracy for _, own in likeliest]
            whiskers = [(100 * own.lo, 100 * own.hi) for _, own in likeliest]
            lines.append(plots.Line(label, [x for x, _ in likeliest], values, colour, 2, whiskers=whiskers))
            said += [
                f"{label} at lambda {x:g}: {_said((own.accuracy, own.lo, own.hi))}" for x, own in likeliest
            ]
        info = primary_benchmark(data.benchmarks, probed.domain)
        if info and (estimate := _estimate(data.student, info)):
            x, (value, lo, hi) = probed.reward_scale, estimate
            label = f"student on {wording.benchmark_label(info)}"
            whiskers = [(100 * lo, 100 * hi)]
            own_mark = len(data.domains) + colour  # or the point would pass for one of the curve
            lines.append(plots.Line(label, [x], [100 * value], own_mark, whiskers=whiskers))
            said.append(f"{label}, trained at lambda {trained[probed.domain]}: {_said((value, lo, hi))}")
    title = "Accuracy of the objective's optimum against lambda"
    svg = plots.line_plot("probe", lines, "accuracy (%)", title, "; ".join(said), "reward scale lambda")
    caption = (
        f"{title}, on the probe's prompts, beside the trained student on its benchmark (other problems). "
        "Whiskers: 95% intervals."
    )
    for domain, text in trained_lambda.moved(chosen, data.trained_lambda).items():
        caption += f" {domain} was trained at lambda {text}."
    return Figure(svg, caption)


def time_figure(wall_seconds: Mapping[str, float]) -> Figure | None:
    """Wall time by stage, None where no stage was timed."""
    if not wall_seconds:
        return None
    values = [(stage, seconds, duration(seconds)) for stage, seconds in wall_seconds.items()]
    desc = "; ".join(f"{stage}: {text}" for stage, _, text in values)
    return Figure(plots.bars("wall-time", values, "Wall time by stage", desc), "Wall time by stage.")


def _dash_group(series: Series) -> str:
    """Experts share one dash, every other stage has its own."""
    return "expert" if series.stage.startswith("expert ") else series.stage


def _scatter(
    models: Sequence[ModelRow], x_domain: str, x: BenchmarkInfo, y_domain: str, y: BenchmarkInfo
) -> Figure | None:
    points = [
        plots.Point(_point_label(model), model.role, on_x, on_y)
        for model in models
        if (on_x := _estimate(model, x)) and (on_y := _estimate(model, y))
    ]
    if not points:
        return None
    x_label, y_label = wording.benchmark_label(x), wording.benchmark_label(y)
    said = [[_said(estimate) for estimate in point.both] for point in points]
    desc = "; ".join(
        f"{p.label}: {x_label} {on_x}, {y_label} {on_y}" for p, (on_x, on_y) in zip(points, said, strict=True)
    )
    title = f"Accuracy in {x_domain} against accuracy in {y_domain}"
    svg = plots.scatter("accuracy", points, x_label, y_label, title, desc)
    return Figure(svg, f"{title}. {LEGEND}")


def _dots(models: Sequence[ModelRow], domain: str, info: BenchmarkInfo, key: str) -> Figure | None:
    points = [
        plots.Point(_point_label(model), model.role, estimate)
        for model in models
        if (estimate := _estimate(model, info))
    ]
    if not points:
        return None
    title = f"Accuracy in {domain}"
    desc = "; ".join(f"{p.label}: {_said(p.x)}" for p in points)
    svg = plots.dot_plot(key, points, wording.benchmark_label(info), title, desc)
    return Figure(svg, f"{title}.")


LEGEND = "Whiskers: 95% intervals. Diamond: student; squares: teachers; circle: base; triangles: baselines."


def _point_label(model: ModelRow) -> str:
    return wording.label(model).removeprefix("the ").removeprefix("baseline ")


def _estimate(model: ModelRow, info: BenchmarkInfo) -> plots.Estimate | None:
    score = model.scores.get(info.name)
    return None if score is None else score.estimate


def _said(estimate: plots.Estimate) -> str:
    value, lo, hi = (100 * end for end in estimate)
    return f"{value:.1f}% (95% interval {lo:.1f} to {hi:.1f})"
