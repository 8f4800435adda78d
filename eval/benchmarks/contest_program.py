"""How a contest answer is run and read: by its function, or by what it prints for what stands on stdin.

The source of this module is put before the answer in the sandbox, so it imports the standard library only.
What it returns is compared outside, so an answer that changes anything here gains nothing.
"""

import io
import sys
from decimal import Decimal, InvalidOperation

COMMON = """
import bisect, collections, copy, datetime, functools, heapq, itertools, json
import math, operator, random, re, string, sys
from bisect import *
from collections import *
from functools import *
from heapq import *
from itertools import *
from math import *
from typing import *
from builtins import *
sys.setrecursionlimit(50000)
"""
"""What the contest sites have ready before an answer begins; `pow` and its like stay the built-in ones."""


def run_function(source, name, arguments):
    """What the method `name` of the answer's `Solution`, or else its function, returns, as JSON has it."""
    namespace = {"__name__": "answer"}
    exec(compile(COMMON, "<common>", "exec"), namespace)
    exec(compile(source, "<answer>", "exec"), namespace)
    holder = namespace.get("Solution")
    function = getattr(holder(), name) if holder is not None else namespace[name]
    return _plain(function(*arguments))


def run_stdin(source, text):
    """Lines that the answer prints for this text on stdin, see `lines_of`."""
    namespace = {"__name__": "__main__"}
    sys.stdin = io.TextIOWrapper(io.BytesIO(text.encode()), encoding="utf-8")
    sys.stdout = printed = io.TextIOWrapper(io.BytesIO(), encoding="utf-8", write_through=True)
    exec(compile(COMMON, "<common>", "exec"), namespace)
    try:
        exec(compile(source, "<answer>", "exec"), namespace)
    except SystemExit as end:
        if end.code not in (None, 0):
            raise
    printed.flush()
    return lines_of(printed.buffer.getvalue().decode("utf-8", "replace"))


def lines_of(text):
    """Its lines without white space around them and at the end; one of numbers alone as these numbers.

    So `1.0 2` and `1 2` are the same line, as the benchmark's own checker has it.
    """
    return [_line(line.strip()) for line in text.strip().split("\n")]


def _line(line):
    try:
        numbers = [Decimal(word) for word in line.split()]
    except InvalidOperation:
        return line
    if not numbers or not all(number.is_finite() for number in numbers):
        return line
    return [str(number.normalize() + 0) for number in numbers]


def _plain(value):
    """Tuples as lists, which JSON does not tell apart."""
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return value
