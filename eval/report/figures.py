"""Chooses the report's figures and says in words what each one shows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from common.words import duration
from eval.report import headline, plots, wording
from eval.report.data import BenchmarkInfo, ModelRow, ReportData, decodings, primary_benchmark
from eval.report.sections import trained_lambda
from eval.report.sections.curves import Panel, Series


@dataclass(frozen=True)
class Figure:
    """An inline SVG with its visible caption; `main` is False for one that is tucked away."""

    svg: str
    caption: str
    main: bool = True


def headline_figure(data: ReportData) -> Figure | None:
    """The models of the headline at every decoding: in two domains a scatter, otherwise the student minus
    each of the others. None where nothing was measured."""
    judged = _judged(data)
    if len(judged) == 2:
        return _both_decodings(data, *judged)
    return _forest(data)


def _both_decodings(data: ReportData, x_domain: str, y_domain: str) -> Figure | None:
    """Each model of the headline sampled, and a dotted line to where greedy decoding takes it."""
    rows = headline.head_rows(data)
    shown = {cell.model.name for row in rows for cell in row.cells.values() if cell.model}
    models = [model for model in data.models if model.name in shown]
    first, *rest = decodings(data.benchmarks)
    found: dict[str, list[plots.Point]] = {}
    for mode in (first, *rest):
        x, y = (primary_benchmark(data.benchmarks, domain, mode) for domain in (x_domain, y_domain))
        for point in _points(models, x, y) if x and y else ():
            if mode == first:
                found[point.label] = [point]
            elif point.label in found:
                found[point.label].append(point)
    points = [replace(own[0], then=own[1] if len(own) > 1 else None) for own in found.values()]
    if not points:
        return None
    named = [wording.decoding(mode, data.temperature) for mode in (first, *rest)]
    desc = "; ".join(
        f"{p.label}, {where}: {x_domain} {_said(p.both[0])}, {y_domain} {_said(p.both[1])}"
        for own in found.values()
        for p, where in zip(own, named, strict=False)
    )
    title = f"Accuracy in {x_domain} and {y_domain}"
    svg = plots.scatter("headline", points, x_domain, y_domain, title, desc)
    pairs = f" Filled: {named[0]}; hollow, at the end of the dotted line: {named[1]}." if rest else ""
    shapes = MARKS if rest else "Diamond: student; squares: teachers; circle: base; triangle: weight merge"
    return Figure(svg, f"{title}, up and to the right is better.{pairs} {shapes}. Whiskers: 95% intervals.")


MARKS = "Diamond: student; square: teacher; circle: base; triangle: weight merge"


def _forest(data: ReportData) -> Figure | None:
    roles = {"own teacher": "teacher", "best weight merge": "baseline"}
    points, said = [], []
    for asked in data.questions:
        if asked.row is None:
            continue
        estimate = (asked.row.difference, asked.row.lo, asked.row.hi)
        mode = "" if asked.mode == "sampled" else " greedy"
        points.append(plots.Point(f"{asked.domain}{mode}", roles[asked.kind], estimate))
        said.append(f"{asked.domain}{mode}, minus {asked.kind}: {wording.numbers(asked.row)}")
    if not points:
        return None
    title = "The student minus its own teacher and the best weight merge"
    svg = plots.forest("headline", points, data.margin, title, "; ".join(said))
    return Figure(
        svg,
        f"{title}, in points with 95% intervals. Right of the line the student is better; the band is the "
        f"margin of {wording.points(data.margin)} points. Squares: teacher; triangles: weight merge.",
    )


def accuracy_figures(data: ReportData) -> list[Figure]:
    """At each decoding a scatter for two benchmarked domains, a dot plot for each domain otherwise."""
    judged, found = _judged(data), []
    for mode in decodings(data.benchmarks):
        infos = [
            (domain, info)
            for domain in judged
            if (info := primary_benchmark(data.benchmarks, domain, mode)) is not None
        ]
        added = "" if mode == "sampled" else "-greedy"
        if len(judged) == len(infos) == 2:
            (x_domain, x), (y_domain, y) = infos
            found.append(_scatter(data.models, x_domain, x, y_domain, y, f"accuracy{added}"))
        else:
            found += [
                _dots(data.models, domain, info, f"accuracy{added}-{i}")
                for i, (domain, info) in enumerate(infos)
            ]
    figures = [figure for figure in found if figure]
    return [replace(figures[0], caption=f"{figures[0].caption} {LEGEND}"), *figures[1:]] if figures else []


def _judged(data: ReportData) -> list[str]:
    """Domains that have a benchmark."""
    return [domain for domain in data.domains if primary_benchmark(data.benchmarks, domain) is not None]


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
    models: Sequence[ModelRow], x_domain: str, x: BenchmarkInfo, y_domain: str, y: BenchmarkInfo, key: str
) -> Figure | None:
    points = _points(models, x, y)
    if not points:
        return None
    x_label, y_label = wording.benchmark_label(x), wording.benchmark_label(y)
    said = [[_said(estimate) for estimate in point.both] for point in points]
    desc = "; ".join(
        f"{p.label}: {x_label} {on_x}, {y_label} {on_y}" for p, (on_x, on_y) in zip(points, said, strict=True)
    )
    title = f"Accuracy in {x_domain} against accuracy in {y_domain}{_mode(x)}"
    return Figure(plots.scatter(key, points, x_label, y_label, title, desc), f"{title}.")


def _points(models: Sequence[ModelRow], x: BenchmarkInfo, y: BenchmarkInfo) -> list[plots.Point]:
    """The models with a score on both."""
    return [
        plots.Point(_point_label(model), model.role, on_x, on_y)
        for model in models
        if (on_x := _estimate(model, x)) and (on_y := _estimate(model, y))
    ]


def _mode(info: BenchmarkInfo) -> str:
    return ", greedy" if info.mode == "greedy" else ""


def _dots(models: Sequence[ModelRow], domain: str, info: BenchmarkInfo, key: str) -> Figure | None:
    points = [
        plots.Point(_point_label(model), model.role, estimate)
        for model in models
        if (estimate := _estimate(model, info))
    ]
    if not points:
        return None
    title = f"Accuracy in {domain}{_mode(info)}"
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
