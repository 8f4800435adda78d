"""Figures of the report as inline SVG, drawn by matplotlib.

Text stays text and every colour is a CSS variable, so that a figure follows the page's theme. A series
is told apart by marker, dash and a label of its own, never by colour alone. The page that holds a figure
must define `--ink`, `--muted`, `--rule`, `--paper` and `--c0` to `--c5`.
"""

from __future__ import annotations

import functools
import html
import io
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Concatenate, ParamSpec

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.transforms import Bbox

Rest = ParamSpec("Rest")

Estimate = tuple[float, float, float]
"""Value and the two ends of its interval, in [0, 1]."""

WIDTH = 360
"""Width of a figure in SVG units, which are CSS pixels on a narrow phone."""

FONT_SIZE = 11.5

# Colours that matplotlib draws with; `_themed` replaces each by its CSS variable.
INK, MUTED, RULE, PAPER = "#000001", "#000002", "#000003", "#000004"
SERIES = tuple(f"#0000f{i}" for i in range(6))
VARIABLES = {INK: "--ink", MUTED: "--muted", RULE: "--rule", PAPER: "--paper"} | {
    colour: f"--c{i}" for i, colour in enumerate(SERIES)
}

LINE_MARKERS = ("o", "s", "^", "D", "v", "P")
LINE_DASHES = ("-", (0, (5, 2)), (0, (1, 1.5)), (0, (6, 2, 1, 2)))


@dataclass(frozen=True)
class RoleStyle:
    """How models of one role are drawn; the marker repeats what the colour says."""

    colour: str
    marker: str
    size: float
    hollow: bool = False


ROLE_STYLES = {
    "student": RoleStyle(SERIES[0], "D", 8),
    "teacher": RoleStyle(SERIES[1], "s", 7),
    "base": RoleStyle(SERIES[3], "o", 7, hollow=True),
    "baseline": RoleStyle(SERIES[2], "^", 8, hollow=True),
}


@dataclass(frozen=True)
class Point:
    """A model with its accuracy on one axis (dot plot) or two (scatter)."""

    label: str
    role: str
    x: Estimate
    y: Estimate | None = None
    then: Point | None = None
    """The same model decoded otherwise, for a scatter: drawn hollow, at the end of a dotted line."""

    @property
    def both(self) -> tuple[Estimate, Estimate]:
        """Its accuracies in a scatter."""
        assert self.y is not None, f"{self.label} has no second accuracy"
        return self.x, self.y


@dataclass(frozen=True)
class Line:
    """A curve. `colour` and `dash` are small integers: what shares a number looks alike there."""

    label: str
    x: Sequence[float]
    y: Sequence[float]
    colour: int = 0
    dash: int = 0
    whiskers: Sequence[tuple[float, float]] = ()
    """Lower and upper end of every value's interval, if it has one."""


def _styled(draw: Callable[Concatenate[str, Rest], str]) -> Callable[Concatenate[str, Rest], str]:
    """Draws under our own settings: a user's matplotlibrc must not change the report."""

    @functools.wraps(draw)
    def drawn(key: str, /, *args: Rest.args, **kwargs: Rest.kwargs) -> str:
        import matplotlib

        with matplotlib.rc_context():
            matplotlib.rcdefaults()
            matplotlib.rc("font", size=FONT_SIZE)
            matplotlib.rc("svg", fonttype="none", hashsalt=key)
            return draw(key, *args, **kwargs)

    return drawn


@_styled
def scatter(key: str, points: Sequence[Point], x_label: str, y_label: str, title: str, desc: str) -> str:
    """Two accuracies of every model against each other, with interval whiskers and direct labels."""
    figure, axes = _figure(height=320)
    everywhere = [each for point in points for each in (point, point.then) if each]
    for each in everywhere:
        style = ROLE_STYLES[each.role]
        (x, x_lo, x_hi), (y, y_lo, y_hi) = (_percent(estimate) for estimate in each.both)
        axes.plot([x_lo, x_hi], [y, y], color=style.colour, linewidth=1.1)
        axes.plot([x, x], [y_lo, y_hi], color=style.colour, linewidth=1.1)
        if each.then:
            ends = zip((x, y), (100 * estimate[0] for estimate in each.then.both), strict=True)
            axes.plot(*ends, color=style.colour, linewidth=1.1, linestyle=LINE_DASHES[2])
    for each in everywhere:  # after all lines, which would cover a hollow mark
        style, is_pair = ROLE_STYLES[each.role], any(point.then for point in points)
        hollow = each not in points if is_pair else style.hollow
        x, y = (100 * estimate[0] for estimate in each.both)
        _mark(axes, x, y, replace(style, hollow=hollow))
    _limits(axes, everywhere)
    axes.set_xlabel(f"{x_label} accuracy (%)")
    axes.set_ylabel(f"{y_label} accuracy (%)")
    _label_points(figure, axes, points)
    return _svg(figure, key, title, desc)


@_styled
def forest(key: str, points: Sequence[Point], margin: float, title: str, desc: str) -> str:
    """Differences, one row each with its interval, the line of no difference and the margin around it."""
    figure, axes = _figure(height=62 + 25 * len(points))
    axes.axvspan(-100 * margin, 100 * margin, color=RULE, alpha=0.45, linewidth=0)
    axes.axvline(0, color=MUTED, linewidth=1)
    _rows(axes, points)
    axes.set_xlabel("difference in accuracy (points)")
    return _svg(figure, key, title, desc)


@_styled
def dot_plot(key: str, points: Sequence[Point], x_label: str, title: str, desc: str) -> str:
    """One accuracy of every model, one row each, with interval whiskers."""
    figure, axes = _figure(height=62 + 25 * len(points))
    _rows(axes, points)
    axes.set_xlabel(f"{x_label} accuracy (%)")
    return _svg(figure, key, title, desc)


@_styled
def line_plot(
    key: str, lines: Sequence[Line], y_label: str, title: str, desc: str, x_label: str = "step"
) -> str:
    """Metrics against the training step (or whatever `x_label` says); every line has its own marker, dash and
    legend entry."""
    legend_rows = (len(lines) + 1) // 2 if len(lines) > 1 else 0
    figure, axes = _figure(height=205 + 17 * legend_rows)
    for line in lines:
        axes.plot(
            line.x,
            line.y,
            color=SERIES[line.colour % len(SERIES)],
            linestyle=LINE_DASHES[line.dash % len(LINE_DASHES)],
            linewidth=1.6,
            marker=LINE_MARKERS[line.colour % len(LINE_MARKERS)],
            markersize=4.5,
            markevery=max(1, len(line.x) // 6),
            label=_short(line.label),
        )
        if line.whiskers:
            lows, highs = zip(*line.whiskers, strict=True)
            axes.vlines(
                line.x, lows, highs, color=SERIES[line.colour % len(SERIES)], linewidth=1.0, alpha=0.6
            )
    axes.set_xlabel(x_label)
    axes.set_ylabel(y_label)
    axes.locator_params(axis="x", integer=x_label == "step")
    if legend_rows:
        axes.legend(
            loc="lower left", bbox_to_anchor=(-0.02, 1.0), ncols=2, frameon=False, labelcolor=INK,
            handlelength=2.6, columnspacing=1.2, borderaxespad=0.1, borderpad=0.1, labelspacing=0.25,
        )  # fmt: skip
    return _svg(figure, key, title, desc)


@_styled
def bars(key: str, values: Sequence[tuple[str, float, str]], title: str, desc: str) -> str:
    """Horizontal bars of (label, value, value as text)."""
    figure, axes = _figure(height=16 + 24 * len(values))
    largest = max((value for _, value, _ in values), default=0) or 1
    for row, (_, value, text) in enumerate(values):
        axes.barh(row, value, height=0.55, color=SERIES[0])
        axes.text(value + 0.02 * largest, row, text, va="center", ha="left", color=INK)
    axes.set_yticks(range(len(values)), [_short(name) for name, _, _ in values])
    axes.tick_params(axis="y", labelcolor=INK)
    axes.set_ylim(len(values) - 0.5, -0.5)
    axes.set_xlim(0, 1.42 * largest)
    axes.grid(False)
    axes.set_xticks([])
    axes.spines["bottom"].set_visible(False)
    return _svg(figure, key, title, desc)


# ------------------------------------------------------------------------------------------ drawing


def _figure(height: float) -> tuple[Figure, Axes]:
    """A quiet figure of `WIDTH` x `height` units with one pair of axes."""
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine
    from matplotlib.ticker import MaxNLocator

    layout = ConstrainedLayoutEngine(w_pad=0.03, h_pad=0.03)
    figure = Figure(figsize=(WIDTH / 72, height / 72), dpi=72, layout=layout)
    FigureCanvasSVG(figure)
    figure.patch.set_visible(False)
    axes = figure.add_subplot()
    axes.patch.set_visible(False)
    axes.grid(color=RULE, linewidth=0.7)
    axes.set_axisbelow(True)
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    axes.spines["bottom"].set_color(MUTED)
    axes.tick_params(length=0, labelcolor=MUTED, pad=4)
    axes.xaxis.label.set_color(INK)
    axes.yaxis.label.set_color(INK)
    axes.xaxis.set_major_locator(MaxNLocator(5))
    axes.yaxis.set_major_locator(MaxNLocator(5))
    return figure, axes


def _percent(estimate: Estimate) -> Estimate:
    value, lo, hi = estimate
    return 100 * value, 100 * lo, 100 * hi


def _rows(axes: Axes, points: Sequence[Point]) -> None:
    """A row for each point: its name, its value, and a whisker."""
    for row, point in enumerate(points):
        style = ROLE_STYLES[point.role]
        x, lo, hi = _percent(point.x)
        axes.plot([lo, hi], [row, row], color=style.colour, linewidth=1.3)
        _mark(axes, x, row, style)
    axes.set_yticks(range(len(points)), [_short(point.label) for point in points])
    axes.set_ylim(len(points) - 0.4, -0.6)
    axes.tick_params(axis="y", labelcolor=INK)
    axes.margins(x=0.06)


def _mark(axes: Axes, x: float, y: float, style: RoleStyle) -> None:
    axes.plot(
        [x],
        [y],
        linestyle="none",
        marker=style.marker,
        markersize=style.size,
        markeredgecolor=style.colour,
        markeredgewidth=1.6 if style.hollow else 0,
        markerfacecolor=PAPER if style.hollow else style.colour,
    )


def _limits(axes: Axes, points: Sequence[Point]) -> None:
    """Room around the whiskers for labels, within what an accuracy can be."""
    xs, ys = zip(*(point.both for point in points), strict=True)
    for which, ends in (("x", xs), ("y", ys)):
        lo, hi = 100 * min(e[1] for e in ends), 100 * max(e[2] for e in ends)
        room = max(0.14 * (hi - lo), 2.0)
        getattr(axes, f"set_{which}lim")(max(lo - room, -4.0), min(hi + room, 104.0))


def _label_points(figure: Figure, axes: Axes, points: Sequence[Point]) -> None:
    """Puts each name beside its point, where it covers the fewest points, whiskers and other names."""
    figure.canvas.draw()
    figure.set_layout_engine("none")
    frame = axes.get_window_extent()
    taken = [box for p in points for each in (p, p.then) if each for box in _obstacles(axes, each)]
    for point in points:
        text = _short(point.label)
        x, y = axes.transData.transform([100 * estimate[0] for estimate in point.both])
        width, height = 0.58 * FONT_SIZE * len(text), 1.2 * FONT_SIZE
        boxes = {place: _label_box(x, y, width, height, place) for place in LABEL_PLACES}
        best = min(LABEL_PLACES, key=lambda p: (_cost(boxes[p], taken, frame), LABEL_PLACES.index(p)))
        taken.append(boxes[best])
        left, bottom, _, top = boxes[best]
        left, middle = axes.transData.inverted().transform((left, (bottom + top) / 2))
        axes.text(
            left,
            middle,
            text,
            ha="left",
            va="center",
            color=ROLE_STYLES[point.role].colour,
        )


Box = tuple[float, float, float, float]
LABEL_PLACES = [(dx, dy) for distance in (1, 2, 3) for dy in (distance, -distance) for dx in (1, -1, 0)] + [
    (1, 0),
    (-1, 0),
]
"""Where a label may go, in steps right and up from its point, the best first."""


def _label_box(x: float, y: float, width: float, height: float, place: tuple[int, int]) -> Box:
    dx, dy = place
    left = x + 7 if dx > 0 else x - 7 - width if dx < 0 else x - width / 2
    centre = y + dy * 0.95 * height
    return left, centre - height / 2, left + width, centre + height / 2


def _obstacles(axes: Axes, point: Point) -> Iterator[Box]:
    """The point and its two whiskers in canvas units."""
    (x, x_lo, x_hi), (y, y_lo, y_hi) = (_percent(estimate) for estimate in point.both)
    to_canvas = axes.transData.transform
    (left, middle), (right, _) = to_canvas((x_lo, y)), to_canvas((x_hi, y))
    (centre, bottom), (_, top) = to_canvas((x, y_lo)), to_canvas((x, y_hi))
    yield centre - 6, middle - 6, centre + 6, middle + 6
    yield left, middle - 1.5, right, middle + 1.5
    yield centre - 1.5, bottom, centre + 1.5, top
    if point.then:  # the dotted line, as a row of small boxes
        end_x, end_y = to_canvas([100 * estimate[0] for estimate in point.then.both])
        for part in (i / 12 for i in range(1, 12)):
            at_x, at_y = centre + part * (end_x - centre), middle + part * (end_y - middle)
            yield at_x - 3, at_y - 3, at_x + 3, at_y + 3


def _cost(box: Box, taken: Sequence[Box], frame: Bbox) -> float:
    """Area that `box` shares with what is there, and a high price for leaving the axes."""
    left, bottom, right, top = box
    covered = 0.0
    for other in taken:
        width = min(right, other[2]) - max(left, other[0])
        height = min(top, other[3]) - max(bottom, other[1])
        covered += max(width, 0) * max(height, 0)
    outside = max(frame.x0 - left, 0) + max(right - frame.x1, 0)
    outside += max(frame.y0 - bottom, 0) + max(top - frame.y1, 0)
    return covered + 100 * outside


def _short(text: str, limit: int = 24) -> str:
    """A label that fits; `$` would start a formula."""
    text = text if len(text) <= limit else text[: limit - 1] + "\N{HORIZONTAL ELLIPSIS}"
    return text.replace("$", r"\$")


# ------------------------------------------------------------------------------------------ to SVG


def _svg(figure: Figure, key: str, title: str, desc: str) -> str:
    """The figure as an `<svg>` element whose ids all start with `key`."""
    target = io.StringIO()
    figure.savefig(target, format="svg", metadata={"Date": None, "Creator": None})
    body = target.getvalue()
    view_box = re.findall(r'viewBox="([^"]+)"', body)[0]
    body = body[body.index(">", body.index("<svg")) + 1 : body.rindex("</svg>")]
    body = re.sub(r"<metadata>.*?</metadata>|<style.*?</style>|<!--.*?-->", "", body, flags=re.DOTALL)
    body = _themed(_with_own_ids(body, key))
    return (
        f'<svg class="plot" role="img" aria-labelledby="{key}-title {key}-desc" viewBox="{view_box}">'
        f'<title id="{key}-title">{html.escape(title)}</title>'
        f'<desc id="{key}-desc">{html.escape(desc)}</desc>{body}</svg>'
    )


def _with_own_ids(body: str, key: str) -> str:
    """Prefixes every id and every reference to one: several figures share a page."""
    body = re.sub(r'\bid="', f'id="{key}-', body)
    return re.sub(r'(?:xlink:)?href="#', f'href="#{key}-', re.sub(r"url\(#", f"url(#{key}-", body))


def _themed(body: str) -> str:
    """Colours become CSS variables and fonts the page's."""
    for colour, variable in VARIABLES.items():
        body = body.replace(colour, f"var({variable})")
    return re.sub(r" font-family: [^;]+;", "", body)
