"""The process in which `eval.grading.maths.grading` has expressions compared, so that it can be killed.

In: {"expected", "given"}, two texts in their normal form (`eval.grading.maths.reading.normal`). Out:
{"result": "right" | "wrong" | "undecided" | "expected unparsed"} or {"error"}.
"""

from __future__ import annotations

import json
import logging
import resource
import sys

from eval.grading.maths.comparing import Judge, compare
from eval.grading.maths.values import are_equal, is_answer
from eval.grading.maths.writing import answers_as_written, equals_as_written

MEMORY_BYTES = 4 << 30


def judge(expected: str, given: str) -> dict[str, str]:
    """Compare two texts."""
    reasons: list[str] = []

    def answers(expected: str, given: str) -> bool | None:
        is_right = answers_as_written(expected, given)
        if is_right is not None:
            return is_right
        result = is_answer(expected, given)
        if isinstance(result, str):
            reasons.append(result)
            return None
        return result

    def equals(expected: str, given: str) -> bool:
        return bool(equals_as_written(expected, given) or are_equal(expected, given))

    try:
        is_right = compare(expected, given, Judge(answers, equals))
    except Exception as error:
        return {"error": f"{type(error).__name__}: {error}"[:200]}
    if is_right is None:
        return {"result": reasons[0] if reasons else "undecided"}
    return {"result": "right" if is_right else "wrong"}


def main() -> None:
    """The process: answers until stdin ends."""
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, resource.getrlimit(resource.RLIMIT_AS)[1]))
    logging.getLogger("math_verify").setLevel(logging.CRITICAL)  # it warns that its time limits are off
    logging.getLogger("math_verify").propagate = False
    for line in sys.stdin:
        question = json.loads(line)
        print(json.dumps(judge(question["expected"], question["given"])), flush=True)


if __name__ == "__main__":
    main()
