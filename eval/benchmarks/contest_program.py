"""How a contest answer is run and read: by its function, or by what it prints for what stands on stdin.

The source of this module is put before the answer in the sandbox, so it imports the standard library only.
What it returns is compared outside, so an answer that changes anything here gains nothing.
"""

import builtins
import io
import sys
from decimal import Decimal, InvalidOperation
from typing import Any

MODULES = (
    "string", "re", "datetime", "collections", "heapq", "bisect", "copy", "math", "random", "statistics",
    "itertools", "functools", "operator", "io", "sys", "json",
)  # fmt: skip
COMMON = "\n".join(
    [
        *(f"from {module} import *" for module in (*MODULES, "builtins", "typing")),
        *(f"import {module}" for module in MODULES),
        "sys.setrecursionlimit(50000)",
    ]
)
"""What the benchmark's own checker has ready before an answer begins: the names of these modules, and they
themselves; `pow` and its like stay the built-in ones."""


LONGEST_SHIFT = 400
"""Numbers with more places than that are compared as they are written."""


def run_function(source: str, name: str, arguments: list[Any]) -> Any:
    """What the method `name` of the answer's `Solution`, or else its function, returns, as JSON has it."""
    namespace: dict[str, Any] = {"__name__": "answer"}
    exec(compile(COMMON, "<common>", "exec"), namespace)
    exec(compile(source, "<answer>", "exec"), namespace)
    holder = namespace.get("Solution")
    function = getattr(holder(), name) if holder is not None else namespace[name]
    return _plain(function(*arguments))


def run_stdin(source: str, text: str) -> list[str | list[str]]:
    """Lines that the answer prints for this text on stdin, see `lines_of`."""
    namespace = {"__name__": "__main__"}
    sys.stdin = _stdin(text)
    builtins.open = _opens_stdin(text)
    sys.stdout = printed = io.TextIOWrapper(io.BytesIO(), encoding="utf-8", write_through=True)
    exec(compile(COMMON, "<common>", "exec"), namespace)
    try:
        exec(compile(source, "<answer>", "exec"), namespace)
    except SystemExit as end:
        if end.code not in (None, 0):
            raise
    printed.flush()
    return lines_of(printed.buffer.getvalue().decode("utf-8", "replace"))


def _stdin(text: str) -> io.TextIOWrapper:
    return io.TextIOWrapper(io.BytesIO(text.encode()), encoding="utf-8")


def _opens_stdin(text: str) -> Any:
    """`open`, for which descriptor 0 and `/dev/stdin` are this text too."""
    real = builtins.open

    def opened(file: Any, mode: str = "r", *arguments: Any, **options: Any) -> Any:
        if file in (0, "/dev/stdin", b"/dev/stdin"):
            return io.BytesIO(text.encode()) if "b" in mode else _stdin(text)
        return real(file, mode, *arguments, **options)

    return opened


def lines_of(text: str) -> list[str | list[str]]:
    """Its lines without white space around them and at the end; one of numbers alone as these numbers.

    So `1.0 2` and `1 2` are the same line, as the benchmark's own checker has it.
    """
    return [_line(line.strip()) for line in text.strip().split("\n")]


def _line(line: str) -> str | list[str]:
    try:
        numbers = [Decimal(word) for word in line.split()]
    except InvalidOperation:
        return line
    if not numbers or not all(number.is_finite() for number in numbers):
        return line
    return [_digits(number) for number in numbers]


def _digits(number: Decimal) -> str:
    """The number without needless zeros; every digit of it counts."""
    exponent = number.as_tuple().exponent
    if not isinstance(exponent, int) or abs(exponent) > LONGEST_SHIFT:
        return str(number)
    text = format(number, "f")
    text = text.rstrip("0").rstrip(".") if "." in text else text
    return text if text.strip("-0.") else "0"


def _plain(value: Any) -> Any:
    """Tuples as lists, which JSON does not tell apart."""
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return value
