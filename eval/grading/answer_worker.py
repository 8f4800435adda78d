"""The process in which `eval.grading.answer_graders` judges what could hang it, or what is not its own code.

`python -m eval.grading.answer_worker KIND`; each line on stdin is a question, each on stdout its reply:
{"value": number in [0, 1], "detail"} or {"error"}, which says that this answer could not be judged.
"""

from __future__ import annotations

import contextlib
import inspect
import json
import math
import numbers
import os
import resource
import signal
import sys
import types
from collections.abc import Callable
from functools import lru_cache
from typing import Any

MEMORY_BYTES = 8 << 30
REPLY_BYTES = 1 << 12
GYM_CPU_SECONDS = 10
"""Processor time of a verifier for one answer, which can be `9**9**9`. The helper goes on, and need not
import the package again."""
LAST_SECONDS = 120
"""When a question has taken so long, the kernel ends this process. Its client does so far earlier, unless it
was killed itself, and a function that hangs never sees that stdin has ended."""

PROBES = ("The answer is 42.", "")
"""Completions that a user's function is tried on, finished and not."""

INVALID = "not valid: "
"""Beginning of a reply's detail on JSON that a schema refuses."""

Reply = dict[str, Any]


# -------------------------------------------------------------------------------------- json_schema


def json_schema() -> Callable[[dict[str, Any]], Reply]:
    """Judges whether a text is JSON that a schema, and perhaps the answer, agrees with."""
    from configs.blocks.json_schemas import json_equal, validator

    prepared = lru_cache(maxsize=16)(lambda schema: validator(json.loads(schema)))

    def judge(question: dict[str, Any]) -> Reply:
        try:
            value = json.loads(question["text"], parse_constant=_refuse_constant)
        except (ValueError, RecursionError) as error:
            return {"value": 0.0, "detail": f"no JSON: {error}"[:120]}
        try:
            error = next(prepared(json.dumps(question["schema"])).iter_errors(value), None)
            if error is not None:
                return {"value": 0.0, "detail": f"{INVALID}{error.json_path}: {error.message}"[:120]}
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
    """Judges by the verifier of the row's task, each answer in a confined process of its own.

    No verifier runs an answer (`eval.grading.gym_verifiers`), so a verdict is the verifier's own.
    """
    from configs.blocks.gym import open_task, unpack
    from eval.grading.gym_verifiers import guard, is_infinite
    from eval.sandbox.confinement import Confinement

    with contextlib.suppress(ImportError):  # told by `open_task`
        guard()  # and the package imported, before the forks, which could not read it so fast

    opened = lru_cache(maxsize=16)(lambda task, parameters: open_task(task, json.loads(parameters)))
    confinement = Confinement()

    def judge(question: dict[str, Any]) -> Reply:
        row, given = question["answer"], question["given"]
        try:
            task, entry = opened(row["task"], json.dumps(row["parameters"])), unpack(row["entry"])
        except Exception as error:
            return {"error": f"the task cannot be opened: {type(error).__name__}: {error}"[:300]}
        if given is None:
            given = entry["answer"] if isinstance(entry["answer"], str) else ""
        elif is_infinite(given) and given != entry["answer"]:
            return {"value": 0.0, "detail": "no finite number"}
        return in_child(lambda: _verified(task, given, entry), confinement)

    return judge


def _verified(task: Any, given: str, entry: Any) -> Reply:
    try:
        value = task.score_answer(given, entry)
    except Exception as error:
        return {"error": f"the verifier raised {type(error).__name__}: {error}"[:300]}
    return _checked(value, f"the verifier returned {value!r:.80}")


def in_child(judge: Callable[[], Reply], confinement: Any) -> Reply:
    """The reply of a forked, confined process. Whatever becomes of it, this one goes on."""
    read, write = os.pipe()
    own_pid, pid = os.getpid(), os.fork()
    if pid == 0:
        try:
            null = os.open(os.devnull, os.O_RDWR)
            for descriptor in (0, 1, 2):
                os.dup2(null, descriptor)
            confinement.die_with(own_pid)
            resource.setrlimit(resource.RLIMIT_CPU, (GYM_CPU_SECONDS, GYM_CPU_SECONDS))
            confinement.apply()
            os.dup2(write, 3)
            os.closerange(4, 1 << 20)
            os.write(3, json.dumps(judge()).encode()[:REPLY_BYTES])
        finally:
            os._exit(0)
    os.close(write)
    with os.fdopen(read, "rb") as pipe:
        text = pipe.read(REPLY_BYTES)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    try:
        reply = json.loads(text)
        return {"error": str(reply["error"])} if "error" in reply else _checked(reply["value"], "returned")
    except (ValueError, TypeError, KeyError, RecursionError):
        return {"error": "the verifier's process ended without a verdict"}


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
    for line in sys.stdin:
        signal.alarm(LAST_SECONDS)
        replies.write(json.dumps(judge(json.loads(line))) + "\n")
        replies.flush()
        signal.alarm(0)


if __name__ == "__main__":
    main()
