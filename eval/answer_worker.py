"""The process in which `eval.answer_graders` judges what could hang it, or what is not its own code.

`python -m eval.answer_worker KIND`; each line on stdin is a question, each on stdout its reply:
{"value": number in [0, 1], "detail"} or {"error"}, which says that this answer could not be judged.
"""

from __future__ import annotations

import inspect
import json
import math
import numbers
import os
import resource
import sys
import types
from collections.abc import Callable
from functools import lru_cache
from typing import Any

MEMORY_BYTES = 8 << 30

PROBES = ("The answer is 42.", "")
"""Completions that a user's function is tried on, finished and not."""

Reply = dict[str, Any]


# -------------------------------------------------------------------------------------- json_schema


def json_schema() -> Callable[[dict[str, Any]], Reply]:
    """Judges whether a text is JSON that a schema, and perhaps the answer, agrees with."""
    from configs.json_schemas import json_equal, validator

    prepared = lru_cache(maxsize=16)(lambda schema: validator(json.loads(schema)))

    def judge(question: dict[str, Any]) -> Reply:
        try:
            value = json.loads(question["text"], parse_constant=_refuse_constant)
        except (ValueError, RecursionError) as error:
            return {"value": 0.0, "detail": f"no JSON: {error}"[:120]}
        try:
            error = next(prepared(json.dumps(question["schema"])).iter_errors(value), None)
            if error is not None:
                return {"value": 0.0, "detail": f"not valid: {error.json_path}: {error.message}"[:120]}
            right = not question["compare"] or json_equal(value, question["answer"])
        except RecursionError:
            return {"value": 0.0, "detail": "nested too deeply"}
        shown = f"answered {json.dumps(value)[:60]}" if question["compare"] else "valid"
        return {"value": float(right), "detail": shown}

    return judge


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is no JSON")


# ------------------------------------------------------------------------------------------- python


def python() -> Callable[[dict[str, Any]], Reply]:
    """Judges by a user's function, whose file is handed over with each question and run once."""
    loaded = lru_cache(maxsize=1)(_load)

    def judge(question: dict[str, Any]) -> Reply:
        try:
            function = loaded(question["source"], question["path"], question["function"])
        except (Exception, SystemExit) as error:
            told = str(error) if type(error) is LookupError else f"{type(error).__name__}: {error}"
            return {"error": f"cannot be loaded: {told}"[:400]}
        if question.get("check"):
            return _tried(function, question["answer"])
        return _called(function, question["text"], question["answer"], question["finished"])

    return judge


def _tried(function: Callable[..., Any], answer: Any) -> Reply:
    """The first error of some probe calls, else the first reply."""
    try:
        inspect.signature(function).bind("", None, True)
    except TypeError as error:
        return {"error": f"must take (completion, answer, finished): {error}"}
    replies = [_called(function, text, answer, done) for done in (True, False) for text in PROBES]
    return next((reply for reply in replies if "error" in reply), replies[0])


def _load(source: str, path: str, function: str) -> Callable[..., Any]:
    module = types.ModuleType("protege_reward")
    module.__file__ = path
    sys.modules[module.__name__] = module  # dataclasses and pickle look it up
    exec(compile(source, path, "exec"), module.__dict__)
    found = getattr(module, function, None)
    if not callable(found):
        names = [
            n for n, v in vars(module).items() if inspect.isfunction(v) and v.__module__ == module.__name__
        ]
        raise LookupError(f"no function {function!r}; functions there: {', '.join(names) or 'none'}")
    return found


def _called(judge: Callable[..., Any], text: str, answer: Any, finished: bool) -> Reply:
    try:
        value = judge(text, answer, finished)
    except (Exception, SystemExit) as error:
        return {"error": f"raised {type(error).__name__}: {error} (completion {text[:60]!r})"[:400]}
    return _checked(value, f"returned {value!r:.80}")


def _checked(value: Any, said: str) -> Reply:
    """The number as a reply, if it is one in [0, 1]."""
    if not (isinstance(value, numbers.Real) or type(value).__name__ == "bool_"):
        return {"error": f"{said}, which is no number; valid: 0 to 1"}
    value = float(value)
    if math.isnan(value) or not 0.0 <= value <= 1.0:
        return {"error": f"{said}; valid: 0 to 1"}
    return {"value": value, "detail": f"score {value:g}"}


# ------------------------------------------------------------------------------------ reasoning_gym


def reasoning_gym() -> Callable[[dict[str, Any]], Reply]:
    """Judges by the verifier of the row's task. Some of those evaluate the answer's text: see `main`."""
    from configs.gym import open_task, unpack

    opened = lru_cache(maxsize=16)(lambda task, parameters: open_task(task, json.loads(parameters)))

    def judge(question: dict[str, Any]) -> Reply:
        row, given = question["answer"], question["given"]
        try:
            task = opened(row["task"], json.dumps(row["parameters"]))
            entry = unpack(row["entry"])
            if given is None:
                given = entry["answer"] if isinstance(entry["answer"], str) else ""
            value = task.score_answer(given, entry)
        except Exception as error:
            return {"error": f"the verifier raised {type(error).__name__}: {error}"[:300]}
        return _checked(value, f"the verifier returned {value!r:.80}")

    return judge


# --------------------------------------------------------------------------------------------- main

KINDS: dict[str, Callable[[], Callable[[dict[str, Any]], Reply]]] = {
    "json_schema": json_schema,
    "python": python,
    "reasoning_gym": reasoning_gym,
}


def main() -> None:
    replies = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # what a function prints is no reply
    kind = sys.argv[1]
    judge = KINDS[kind]()
    if kind != "python":  # a user's own function may need more, and may write
        resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, resource.getrlimit(resource.RLIMIT_AS)[1]))
    if kind == "reasoning_gym":
        import reasoning_gym as _loaded  # noqa: F401  before nothing can be written or started any more

        from eval.confinement import Confinement

        Confinement().apply()
    for line in sys.stdin:
        replies.write(json.dumps(judge(json.loads(line))) + "\n")
        replies.flush()


if __name__ == "__main__":
    main()
