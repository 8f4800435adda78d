"""The process in which `eval.graders` runs math-verify, so that an endless computation can be killed.

In: {"expected", "given"}, two expressions. Out: {"result": "right" | "wrong" | "expected unparsed" |
"given unparsed"} or {"error"}.
"""

from __future__ import annotations

import json
import logging
import resource
import sys
from typing import Any

MEMORY_BYTES = 4 << 30


def judge(expected: str, given: str) -> dict[str, str]:
    """Compare two expressions."""
    from math_verify import verify

    try:
        expected_readings = parse_boxed(expected)
        if not expected_readings:
            return {"result": "expected unparsed"}
        given_readings = parse_boxed(given)
        if not given_readings:
            return {"result": "given unparsed"}
        right = verify(expected_readings, given_readings, timeout_seconds=None)
        return {"result": "right" if right else "wrong"}
    except Exception as error:
        return {"error": f"{type(error).__name__}: {error}"[:200]}


def parse_boxed(expression: str) -> list[Any]:
    """math-verify's readings of an expression: values and texts, empty if it has none."""
    from math_verify import ExprExtractionConfig, LatexExtractionConfig, parse

    targets = [LatexExtractionConfig(boxed_match_priority=0), ExprExtractionConfig()]
    return parse(f"\\boxed{{{expression}}}", targets, parsing_timeout=None)


def main() -> None:
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, resource.getrlimit(resource.RLIMIT_AS)[1]))
    logging.getLogger("math_verify").setLevel(logging.CRITICAL)  # it warns that its time limits are off
    logging.getLogger("math_verify").propagate = False
    for line in sys.stdin:
        question = json.loads(line)
        print(json.dumps(judge(question["expected"], question["given"])), flush=True)


if __name__ == "__main__":
    main()
