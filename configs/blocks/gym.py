"""Problems of the package reasoning-gym, generated in a process of their own, always the same.

Some generators depend on the order of sets or on the global random state: the process has a fixed hash seed
and seeded generators. `python -m configs.blocks.gym` is that process (in: one JSON request; out: JSON).
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import fields
from functools import lru_cache
from pathlib import Path
from typing import Any

from pydantic import Field

from configs.blocks.strict import PositiveInt, Seed, Strict

GENERATION_LIMIT_S = 900.0
"""Most time for one source; the slowest tasks take about 0.1 s a problem."""


class GymTask(Strict):
    """Problems of one task of reasoning-gym."""

    task: str
    """Name of the task, such as `chain_sum`; those of the package are valid, `composite` aside."""
    size: PositiveInt = 500
    """How many problems are generated; those that repeat an earlier one are dropped afterwards."""
    seed: Seed = 0
    """Seed of the problems. Held-out problems need another one; of a small task they may still repeat."""
    parameters: dict[str, Any] = Field(default={})
    """The task's own settings, such as `{min_terms: 2, max_terms: 3}`."""


def generate(task: GymTask) -> list[dict[str, Any]]:
    """The problems, each with `prompt` (text) and `answer` (what the task's verifier needs, as JSON).

    Raises ConfigError for an unknown task or parameter, for values that the task refuses, and where the
    package is not installed.
    """
    request = {"task": task.task, "size": task.size, "seed": task.seed, "parameters": task.parameters}
    return json.loads(_generated(json.dumps(request, sort_keys=True)))


@lru_cache(maxsize=16)
def _generated(request: str) -> str:
    """The rows of a request as JSON text; raises ConfigError."""
    from common.errors import ConfigError

    root = str(Path(__file__).resolve().parents[2])
    paths = [root, *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = {**os.environ, "PYTHONHASHSEED": "0", "PYTHONPATH": os.pathsep.join(paths)}
    command = [sys.executable, "-P", "-W", "ignore", "-m", "configs.blocks.gym"]
    task = json.loads(request)["task"]
    try:
        ended = subprocess.run(
            command,
            input=request,
            env=environment,
            capture_output=True,
            text=True,
            timeout=GENERATION_LIMIT_S,
        )
    except subprocess.TimeoutExpired:
        raise ConfigError(
            f"reasoning_gym task {task!r}: not generated within {GENERATION_LIMIT_S:g} s; a smaller `size`, "
            "or easier `parameters`"
        ) from None
    reply = json.loads(ended.stdout) if ended.returncode == 0 else {"error": ended.stderr.strip()[-300:]}
    if "error" in reply:
        raise ConfigError(f"reasoning_gym task {task!r}: {reply['error']}")
    return json.dumps(reply["rows"])


# -------------------------------------------------------------------------- within the process


def pack(value: Any) -> Any:
    """A value of builtin types as JSON: tuples, sets and keys that are no text are written as such."""
    if isinstance(value, tuple):
        return {"tuple": [pack(item) for item in value]}
    if isinstance(value, set | frozenset):
        return {"set": sorted((pack(item) for item in value), key=json.dumps)}
    if isinstance(value, list):
        return [pack(item) for item in value]
    if isinstance(value, dict):
        return {"items": [[pack(key), pack(item)] for key, item in value.items()]}
    return value


def unpack(value: Any) -> Any:
    """What `pack` was given."""
    if isinstance(value, list):
        return [unpack(item) for item in value]
    if not isinstance(value, dict):
        return value
    ((form, items),) = value.items()
    if form == "items":
        return {unpack(key): unpack(item) for key, item in items}
    return {"tuple": tuple, "set": set}[form](unpack(item) for item in items)


def open_task(name: str, parameters: dict[str, Any], size: int = 1, seed: int = 0) -> Any:
    """The package's data set of a task; raises ValueError in the user's terms."""
    try:
        import reasoning_gym  # pyright: ignore[reportMissingImports]  (an extra)
    except ImportError as error:
        raise ValueError(f"needs the package reasoning-gym (extra `gym`): {error}") from None
    from reasoning_gym.factory import DATASETS  # pyright: ignore[reportMissingImports]  (an extra)

    known = sorted(DATASETS.keys() - {"composite"})  # made of others; several domains do that here
    if name not in known:
        raise ValueError(f"no such task; {_nearest(name, known)}")
    valid = sorted({field.name for field in fields(DATASETS[name][1])} - {"size", "seed"})
    for key in parameters:
        if key not in valid:
            raise ValueError(f"parameters: unknown key {key!r}; {_nearest(key, valid)}")
    try:
        return reasoning_gym.create_dataset(name, size=size, seed=seed, **parameters)
    except (AssertionError, TypeError, ValueError) as error:
        raise ValueError(f"parameters: {type(error).__name__}: {error}") from None


def _nearest(given: str, valid: list[str]) -> str:
    from common.words import did_you_mean

    return f"{did_you_mean(given, valid)}valid: {', '.join(valid)}"


def _rows(request: dict[str, Any]) -> list[dict[str, Any]]:
    import random

    import numpy

    random.seed(request["seed"])
    numpy.random.seed(request["seed"] % 2**32)
    name, parameters = request["task"], request["parameters"]
    problems = open_task(name, parameters, request["size"], request["seed"])
    entries = (problems[position] for position in range(request["size"]))
    return [
        {
            "prompt": e["question"],
            "answer": {"task": name, "parameters": parameters, "entry": pack(_placeless(e))},
        }
        for e in entries
    ]


def _placeless(entry: dict[str, Any]) -> dict[str, Any]:
    """Without its place among the generated ones: the same problem has the same answer wherever it stands."""
    metadata = {key: value for key, value in entry["metadata"].items() if key != "source_index"}
    return {**entry, "metadata": metadata}


def _answer(request: dict[str, Any]) -> dict[str, Any]:
    try:
        return {"rows": _rows(request)}
    except Exception as error:  # a generator's failure is the user's to read, without a traceback
        told = str(error) if type(error) is ValueError else f"{type(error).__name__}: {error}"
        return {"error": told[:2000]}


def main() -> None:
    """Answers the request on stdin."""
    out = os.dup(1)
    os.dup2(2, 1)  # what a generator prints is no answer
    reply = json.dumps(_answer(json.load(sys.stdin)))
    with os.fdopen(out, "w", encoding="utf-8") as stream:
        stream.write(reply)


if __name__ == "__main__":
    main()
