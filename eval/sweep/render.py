"""Writes a sweep's report: `sweep.md`, `sweep.html` (one file, no network, no script) and `sweep.json`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from eval.report import plots
from eval.report.render import TEMPLATES as REPORT_FILES
from eval.report.render import dumps, environment, write_texts
from eval.report.wording import interval, percent, points
from eval.statistics.seeds import SeedEstimate
from eval.sweep.data import ProbePoint, SweepCurve, SweepData, SweepPoint, mean_metric, to_json
from eval.sweep.wording import most_accurate, sentences

if TYPE_CHECKING:
    from jinja2 import Environment

TEMPLATES = Path(__file__).parent
LAMBDA = "reward scale lambda"

DYNAMICS: Mapping[str, tuple[str, str]] = {
    "task_reward": ("Task reward of the rollouts", "mean reward"),
    "length": ("Response length", "tokens"),
    "entropy": ("Entropy", "nats per token"),
    "kl_to_optimum": ("Divergence KL(student, optimum)", "nats per token"),
}
"""Metric of the training -> title and unit. All but the first are by domain."""


def write_sweep(data: SweepData, folder: Path) -> dict[str, Path]:
    """Writes the three files into `folder`, each whole or not at all; returns them by suffix."""
    texts = {"md": to_markdown(data), "html": to_html(data), "json": dumps(to_json(data))}
    return write_texts(folder, "sweep", texts)


def to_markdown(data: SweepData) -> str:
    """The report without its figures."""
    return _environment(autoescape=False).get_template("sweep.md.jinja").render(_context(data))


def to_html(data: SweepData) -> str:
    """The report as one page that loads nothing; every text from outside is escaped."""
    css = (REPORT_FILES / "report.css").read_text(encoding="utf-8")
    page = _environment(autoescape=True).get_template("sweep.html.jinja")
    return page.render(
        _context(data),
        css=css,
        accuracy_figures=[accuracy_figure(data, domain) for domain in _measured(data)],
        length_figures=[length_figure(data, domain) for domain in _measured(data)],
        dynamics_figures=list(dynamics_figures(data)),
    )


def _environment(autoescape: bool) -> Environment:
    made = environment(autoescape, TEMPLATES)
    for function in (estimate_text, estimate_range, difference_text, spread_text):
        made.filters[function.__name__] = function
    return made


def _context(data: SweepData) -> dict[str, Any]:
    return {
        "data": data,
        "sentences": sentences(data),
        "comparisons": len(data.judged),
        "best": {(c.benchmark, c.mode): most_accurate(c) for c in data.curves},
        "total_seconds": sum(data.wall_seconds.values()),
    }


# ------------------------------------------------------------------------------------------ numbers


def estimate_text(estimate: SeedEstimate | None) -> str:
    """A mean accuracy in percent."""
    return percent(None if estimate is None else estimate.mean)


def estimate_range(estimate: SeedEstimate | None) -> str:
    """Its 95% interval in percent, empty where there is none."""
    return "" if estimate is None else f"{100 * estimate.lo:.1f} to {100 * estimate.hi:.1f}"


def difference_text(estimate: SeedEstimate | None) -> str:
    """A difference in points with its 95% interval."""
    if estimate is None:
        return "not measured"
    return f"{points(estimate.mean, plus=True)} ({interval(estimate.lo, estimate.hi)})"


def spread_text(estimate: SeedEstimate | None) -> str:
    """Standard deviation between the seeds in points."""
    deviation = None if estimate is None else estimate.seed_deviation
    return "not measured" if deviation is None else f"{100 * deviation:.1f}"


# ------------------------------------------------------------------------------------------ figures


def _measured(data: SweepData) -> list[str]:
    """Domains that have a benchmark."""
    return [domain for domain in data.domains if any(c.domain == domain for c in data.curves)]


def accuracy_figure(data: SweepData, domain: str) -> dict[str, str]:
    """Accuracy against lambda: students by benchmark and mode, the optimum, teacher and base."""
    lines, said = [], []
    for curve in (c for c in data.curves if c.domain == domain):
        judged = _judged(curve)
        if not judged:
            continue
        label = f"student, {_curve_label(data, curve)}"
        lines.append(
            plots.Line(
                label,
                [p.reward_scale for p, _ in judged],
                [100 * accuracy.mean for _, accuracy in judged],
                len(lines),
                whiskers=[(100 * accuracy.lo, 100 * accuracy.hi) for _, accuracy in judged],
            )
        )
        said += [f"{label} at {p.reward_scale:g}: {percent(accuracy.mean)}" for p, accuracy in judged]
        lines += _level(data, curve, len(lines) - 1, said)
    lines += _optimum([p for p in data.probe if p.domain == domain], said)
    title = f"{domain}: accuracy against lambda"
    svg = plots.line_plot(f"lambda-{domain}", lines, "accuracy (%)", title, "; ".join(said), LAMBDA)
    return {"svg": svg, "caption": title}


def _optimum(probed: Sequence[ProbePoint], said: list[str]) -> list[plots.Line]:
    """The probe's curve of each decoding that it measured."""
    found = []
    sampled = [(p.reward_scale, (p.accuracy, p.lo, p.hi)) for p in probed]
    greedy = [(p.reward_scale, p.greedy) for p in probed if p.greedy]
    for dash, (decoding, curve) in enumerate((("", sampled), (", greedy", greedy)), 2):
        if curve:
            scales, values = [scale for scale, _ in curve], [100 * value for _, (value, _, _) in curve]
            whiskers = [(100 * lo, 100 * hi) for _, (_, lo, hi) in curve]
            found.append(plots.Line(f"optimum (probe){decoding}", scales, values, 4, dash, whiskers=whiskers))
            said += [f"optimum at {x:g}{decoding}: {percent(value)}" for x, (value, _, _) in curve]
    return found


def _judged(curve: SweepCurve) -> list[tuple[SweepPoint, SeedEstimate]]:
    """The curve's points that could be judged, each with its accuracy."""
    return [(point, point.accuracy) for point in curve.points if point.accuracy is not None]


def _level(data: SweepData, curve: SweepCurve, colour: int, said: list[str]) -> list[plots.Line]:
    """The domain's own teacher, which no lambda changes, as a level line."""
    teacher = data.teacher_of(curve.domain)
    score = curve.fixed.get(teacher) if teacher else None
    if score is None or score.accuracy is None:
        return []
    label = f"teacher, {_curve_label(data, curve)}"
    said.append(f"{label}: {percent(score.accuracy)}")
    ends = [data.reward_scales[0], data.reward_scales[-1]]
    return [plots.Line(label, ends, [100 * score.accuracy] * 2, colour, 1)]


def length_figure(data: SweepData, domain: str) -> dict[str, str]:
    """Accuracy against length, a curve through the lambdas in their order."""
    lines, said = [], []
    for curve in (c for c in data.curves if c.domain == domain):
        judged = _judged(curve)
        if judged:
            x, y = [p.length for p, _ in judged], [100 * accuracy.mean for _, accuracy in judged]
            lines.append(plots.Line(_curve_label(data, curve), x, y, len(lines)))
            said += [
                f"lambda {p.reward_scale:g}: {p.length:.1f} tokens, {percent(accuracy.mean)}"
                for p, accuracy in judged
            ]
    title = f"{domain}: accuracy against answer length, lambda {data.reward_scales[0]:g} to "
    title += f"{data.reward_scales[-1]:g}"
    svg = plots.line_plot(f"length-{domain}", lines, "accuracy (%)", title, "; ".join(said), "mean tokens")
    return {"svg": svg, "caption": title}


def _curve_label(data: SweepData, curve: SweepCurve) -> str:
    """The mode, and the benchmark where the domain has several."""
    several = len({c.benchmark for c in data.curves if c.domain == curve.domain}) > 1
    return f"{curve.benchmark} {curve.mode}" if several else curve.mode


def dynamics_figures(data: SweepData) -> Iterator[dict[str, str]]:
    """How the trainings went: a panel for each metric and domain, a line for each lambda."""
    for metric, (title, unit) in DYNAMICS.items():
        for domain in [None] if metric == "task_reward" else data.domains:
            name = metric if domain is None else f"teacher/{domain}/{metric}"
            lines = []
            for place, scale in enumerate(data.reward_scales):
                steps, values = mean_metric(data.training, scale, name)
                if steps:
                    lines.append(plots.Line(f"lambda {scale:g}", steps, values, place, place))
            if lines:
                caption = title if domain is None else f"{domain}: {title[0].lower()}{title[1:]}"
                key = f"dynamics-{metric}-{domain or 'all'}"
                yield {
                    "svg": plots.line_plot(key, lines, unit, caption, _described(lines)),
                    "caption": caption,
                }


def _described(lines: Sequence[plots.Line]) -> str:
    return "; ".join(f"{line.label}: from {line.y[0]:.3g} to {line.y[-1]:.3g}" for line in lines)
