"""What a run prints where there is no terminal, and the text beside its bar."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from common import progress
from common.progress import bar, say


@pytest.fixture
def printed(monkeypatch):
    """Lines printed to a console that is no terminal."""
    stream = io.StringIO()
    monkeypatch.setattr(progress, "console", Console(file=stream, force_terminal=False, width=40))
    return lambda: stream.getvalue().splitlines()


@pytest.fixture
def clock(monkeypatch):
    """A clock that stands still until it is set."""
    state = {"now": 0.0}
    monkeypatch.setattr(progress.time, "monotonic", lambda: state["now"])
    return state


def test_lines_are_neither_wrapped_nor_read_as_markup(printed):
    text = "run folder [bold]/a/b[/bold] " + "x" * 60
    say(text)
    assert printed() == [text]


def test_a_line_now_and_then_and_at_the_end(printed, clock):
    with bar("merge", 10) as shown:
        for step in range(1, 11):
            clock["now"] = 5.0 * step
            shown.update(step, f"loss {step}")
    assert printed() == [
        "merge: starting",
        "merge: 3/10, about 35 s left loss 3",  # 5 s a step, 7 left
        "merge: 6/10, about 20 s left loss 6",
        "merge: 9/10, about 5 s left loss 9",
        "merge: 10/10, done loss 10",
    ]


def test_a_continued_stage_counts_only_its_own_steps_for_the_rest(printed, clock):
    with bar("merge", 10, done=4) as shown:
        clock["now"] = 20.0
        shown.update(6)
    assert printed() == ["merge: starting", "merge: 6/10, about 40 s left"]  # 10 s a step, 4 left


def test_before_its_first_step_it_is_starting(printed, clock):
    with bar("merge", 10, done=4) as shown:
        clock["now"] = 20.0
        shown.update(4, "engine loads")
    assert printed() == ["merge: starting", "merge: 4/10, starting engine loads"]


def test_an_error_passes_through(printed):
    with pytest.raises(ValueError), bar("merge", 3):
        raise ValueError
    assert printed() == ["merge: starting"]


def test_on_a_terminal_the_bar_shows_title_count_and_text(monkeypatch):
    stream = io.StringIO()
    monkeypatch.setattr(progress, "console", Console(file=stream, force_terminal=True, width=120))
    with bar("merge", 4, done=1) as shown:
        shown.update(3, "T-B +0.1")
    text = stream.getvalue()
    assert "merge" in text and "3/4" in text and "T-B +0.1" in text
