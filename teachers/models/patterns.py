"""Whether the regular expressions of an adapter's settings can be matched against a model's layers.

Python's have no time limit, and peft matches them while an adapter is loaded, so they are tried in a process
that can be killed: `python -m teachers.models.patterns` answers each line of stdin with the problem.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from typing import Any

from eval.grading.workers import Worker, WorkerLost, WorkerTimeout

LIMIT_SECONDS = 30.0
"""Python's start included; those of any adapter that was trained take milliseconds."""

PLAIN = re.compile(r"[\w.]*")
"""What every name of a layer is, and no pattern that could take long."""

ONE_OR_SEVERAL = ("target_modules", "exclude_modules")
"""Settings that are a pattern where they are a text, and names where they are a list."""

BY_PATTERN = ("rank_pattern", "alpha_pattern")
"""Settings whose keys are patterns."""


def unmatchable(settings: Mapping[str, Any], layers: Sequence[str]) -> str:
    """What is wrong with a pattern in the settings, with its key; empty if nothing is."""
    for key, pattern in _patterns(settings):
        if not PLAIN.fullmatch(pattern) and (problem := _tried(pattern, tuple(layers))):
            return f"{key}: the pattern {pattern!r:.80} {problem}"
    return ""


def _patterns(settings: Mapping[str, Any]) -> Iterable[tuple[str, str]]:
    for key in ONE_OR_SEVERAL:
        if isinstance(pattern := settings.get(key), str):
            yield key, pattern
    for key in BY_PATTERN:
        yield from ((key, pattern) for pattern in settings.get(key) or {})
    found = settings.get("layers_pattern")
    yield from (("layers_pattern", each) for each in ([found] if isinstance(found, str) else found or []))


@lru_cache(maxsize=64)
def _tried(pattern: str, layers: tuple[str, ...]) -> str:
    helper = Worker(__name__)
    try:
        return helper.ask({"pattern": pattern, "layers": layers}, LIMIT_SECONDS)["problem"]
    except (WorkerTimeout, WorkerLost):
        return f"cannot be matched against the student's layers within {LIMIT_SECONDS:g} s"
    finally:
        helper.close()


def matched(pattern: str, layers: Iterable[str]) -> str:
    """Matches the layers in every way that peft does; returns the problem."""
    try:
        forms = [re.compile(form) for form in (pattern, rf"(.*\.)?({pattern})$", rf".*\.{pattern}\.(\d+)\.")]
    except (re.error, RecursionError, OverflowError) as error:
        return f"is no regular expression: {error}"
    for name in layers:
        for form in forms:
            form.fullmatch(name), form.match(name)
    return ""


def main() -> None:
    """Answers until stdin ends."""
    for line in sys.stdin:
        question = json.loads(line)
        print(json.dumps({"problem": matched(question["pattern"], question["layers"])}), flush=True)


if __name__ == "__main__":
    main()
