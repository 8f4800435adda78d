"""The demo's problems cut into eight small domains: three of arithmetic, five of programs.

Training rows are of the split `train` of `configs.demo.problems`; its split `validation` is held out here
too, because a domain of programs has few. All training rows stand in one file, each labelled with its
domain; every domain has held-out problems of its own. `python -m configs.demo.eight --write` writes them.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

from configs.demo.problems import (
    Arithmetic,
    Files,
    Program,
    code_problems,
    code_row,
    evalplus_row,
    math_pools,
    math_row,
    write_files,
)  # fmt: skip

MATH: dict[str, Callable[[Arithmetic], bool]] = {
    "add_plain": lambda p: p.c is None and p.a % 10 + p.b % 10 < 10,
    "add_carry": lambda p: p.c is None and p.a % 10 + p.b % 10 >= 10,
    "multiply": lambda p: p.c is not None,
}
"""Which arithmetic is a domain's."""

CODE: dict[str, tuple[str, ...]] = {
    "sum": ("sum",),
    "extreme": ("largest", "smallest"),
    "first": ("first",),
    "list": ("list",),
    "ordered": ("sorted list", "reversed list"),
}
"""Aggregates of the programs of a domain."""

TRAIN, HELDOUT = ("train",), ("heldout", "validation")

TRAIN_ROWS, HELDOUT_ROWS = 300, 60
"""Most problems of a domain in each file; programs are fewer."""


def math_problems_of(domain: str, splits: Sequence[str], most: int) -> list[Arithmetic]:
    """The domain's first problems of the splits, each in SHA-256 order."""
    return [p for split in splits for pool in math_pools(split) for p in pool if MATH[domain](p)][:most]


def programs_of(domain: str, splits: Sequence[str], most: int) -> list[Program]:
    """The domain's first programs of the splits, each in SHA-256 order."""
    return [p for split in splits for p in code_problems(split) if p.aggregate in CODE[domain]][:most]


def _train_rows() -> Iterator[dict[str, Any]]:
    for domain in MATH:
        yield from ({**math_row(p), "domain": domain} for p in math_problems_of(domain, TRAIN, TRAIN_ROWS))
    for domain in CODE:
        yield from ({**code_row(p), "domain": domain} for p in programs_of(domain, TRAIN, TRAIN_ROWS))


def _math_heldout(domain: str) -> Iterator[dict[str, Any]]:
    return ({**math_row(p), "domain": domain} for p in math_problems_of(domain, HELDOUT, HELDOUT_ROWS))


def _code_heldout(domain: str) -> Iterator[dict[str, Any]]:
    return map(evalplus_row, programs_of(domain, HELDOUT, HELDOUT_ROWS))


FILES: Files = {
    "eight.train.jsonl": _train_rows,
    **{f"eight.{domain}.heldout.jsonl": partial(_math_heldout, domain) for domain in MATH},
    **{f"eight.{domain}.heldout.evalplus.jsonl": partial(_code_heldout, domain) for domain in CODE},
}
"""Rows of every committed file, by name."""


if __name__ == "__main__":
    if sys.argv[1:] != ["--write"]:
        sys.exit("usage: python -m configs.demo.eight --write")
    write_files(files=FILES)
