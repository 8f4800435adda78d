"""Answers with verdicts of the test's own."""

from __future__ import annotations

from eval.records import Sample, Verdict


def answers(right: list[int | None], mode: str = "sampled", each: int = 1) -> list[Sample]:
    """One list entry a problem: 1 right, 0 wrong, None unscored."""
    verdicts = {1: Verdict.PASS, 0: Verdict.FAIL, None: Verdict.UNSCORED}
    return [
        Sample("bench", f"p{i}", mode, index, "q", "a", 3, True, verdicts[value], "")
        for i, value in enumerate(right)
        for index in range(each)
    ]
