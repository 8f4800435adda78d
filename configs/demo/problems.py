"""Problems of the demo: two domains whose answers can be checked, split once and for all by a hash.

    Math: 37+48                                  7+8=15,3+4+1=8;\\boxed{85}
    Math: 6*7+5                                  6*7=42,42+5=47;\\boxed{47}
    Code: sum of squares of even numbers in xs   sum(x**2 for x in xs if x%2==0)

A problem has a class, which is what the split hashes: `37+48` and `48+37` are one class, so an answer
cannot be read off a training problem with its operands swapped. Within each kind (additions,
multiplications, programs of one aggregate) the classes are ordered by SHA-256, and every eighth goes
to `heldout`, the next to `validation`: each split has the mix of kinds of the whole.

`python -m configs.demo.problems --write` writes the JSONL files of this folder.
"""

from __future__ import annotations

import hashlib
import json
import random
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import product
from pathlib import Path
from typing import Any

from common.files import write_text

FOLDER = Path(__file__).parent
"""Where the committed files are."""

Files = dict[str, Callable[[], Iterable[dict[str, Any]]]]
"""What makes the rows of each file, by its name."""

SPLITS = ("train", "validation", "heldout")
SPLIT_PERIOD = 8
"""One class in eight is held out, another one in eight validates."""

ADDITION_SHARE = 0.6
"""Share of additions among the math problems of every file; the rest are `a*b+c`."""
TRAIN_ROWS = 3000
"""Most rows of `math.train.jsonl`: the 576 multiplications allow fewer at the share above."""

MATH_ANSWER_CHARACTERS = 32
CODE_ANSWER_CHARACTERS = 44
"""Longest demonstrations, without EOS."""

CODE_PREFIX = "def f(xs):\n    return "
"""What a model's completion continues, to make a program."""

BASE_INPUTS: tuple[tuple[int, ...], ...] = (
    (9, 3, 7, 4, 6, 5),
    (-7, -6, 4, -7, -8, -5),
    (),
    (20, 16, -2, 12, 18, -1),
    (-9, -8, -3, -11),
    (9, 8, 6, 11, 11),
)
"""Lists that decide about a program: they tell all 693 programs apart."""

PLUS_INPUTS: tuple[tuple[int, ...], ...] = (
    (0,),
    (1,),
    (-1,),
    (8,),
    (5, 5, 5),
    (-2, -2, 4, 4),
    (9, 6, 3, 0, -3, -6),
    (100, -100, 37, -53),
    (10, 9, 8, 7, 6, 5, 4, 3, 2, 1),
    (-11, 22, -33, 44, -55, 66),
    (2, 4, 6, 8, 10, 12),
    (17, 1, 19, 5, 13, 5, 17),
)
"""Further lists of the EvalPlus files: one element, repeats, one sign or parity only, large numbers."""


# ---------------------------------------------------------------------------------------- splits


def digest(text: str) -> int:
    """SHA-256 of a text as a number: the same in every process and Python version."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest(), "big")


def split_of_classes(classes: Iterable[str]) -> dict[str, str]:
    """Each class's split: by SHA-256 order, every eighth is held out and the next one validates."""
    special = {0: "heldout", 1: "validation"}
    ordered = sorted(set(classes), key=digest)
    return {name: special.get(place % SPLIT_PERIOD, "train") for place, name in enumerate(ordered)}


def _of_split(problems: Sequence[Any], split: str) -> list[Any]:
    """Those of one kind's problems that are in the split, in SHA-256 order of their keys."""
    if split not in SPLITS:
        raise ValueError(f"split is {split!r}; expected one of {', '.join(SPLITS)}")
    splits = split_of_classes(problem.class_key for problem in problems)
    return sorted((p for p in problems if splits[p.class_key] == split), key=lambda p: digest(p.key))


# ------------------------------------------------------------------------------------------ math


@dataclass(frozen=True)
class Arithmetic:
    """`a+b`, or `a*b+c` where c is given."""

    number: int
    """Place among all 8676 problems."""
    a: int
    b: int
    c: int | None = None

    @property
    def key(self) -> str:
        """What is asked, such as `37+48`."""
        return f"{self.a}+{self.b}" if self.c is None else f"{self.a}*{self.b}+{self.c}"

    @property
    def class_key(self) -> str:
        """The key with its operands in order: `48+37` is in the class of `37+48`."""
        low, high = sorted((self.a, self.b))
        return Arithmetic(0, low, high, self.c).key

    @property
    def prompt(self) -> str:
        """What the model is asked."""
        return f"Math: {self.key}"

    @property
    def answer(self) -> str:
        """The result in decimal."""
        return str(self.a + self.b if self.c is None else self.a * self.b + self.c)

    def demonstration(self, error: int = 0) -> str:
        """Chain of thought and boxed answer, of at most 32 characters.

        An addition goes by units and tens, a multiplication by its product. `error` is added to the
        first intermediate result, from which the rest follows: anything but 0 makes the answer wrong.
        """
        if self.c is not None:
            first = self.a * self.b + error
            result = first + self.c
            steps = f"{self.a}*{self.b}={first},{first}+{self.c}={result}"
        else:
            (tens_a, units_a), (tens_b, units_b) = divmod(self.a, 10), divmod(self.b, 10)
            first = units_a + units_b + error
            carry, units = divmod(first, 10)
            tens = tens_a + tens_b + carry
            result = 10 * tens + units
            steps = f"{units_a}+{units_b}={first},{tens_a}+{tens_b}{'+1' if carry == 1 else ''}={tens}"
            assert carry in (0, 1), f"no error of {error} in {self.key}: the units' sum leaves 0..19"
        return f"{steps};\\boxed{{{result}}}"

    def corrupted(self, rng: random.Random) -> str:
        """A demonstration with a slip of 1 or 2 in its first step, and so a wrong answer."""
        slips = [-2, -1, 1, 2]
        if self.c is None:
            slips = [slip for slip in slips if 0 <= self.a % 10 + self.b % 10 + slip <= 19]
        return self.demonstration(rng.choice(slips))


@cache
def additions() -> tuple[Arithmetic, ...]:
    """All 8100 sums of two numbers of two digits."""
    pairs = product(range(10, 100), repeat=2)
    return tuple(Arithmetic(number, a, b) for number, (a, b) in enumerate(pairs))


@cache
def multiplications() -> tuple[Arithmetic, ...]:
    """All 576 `a*b+c` with a, b in 2..9 and c in 1..9."""
    triples = product(range(2, 10), range(2, 10), range(1, 10))
    return tuple(Arithmetic(number, a, b, c) for number, (a, b, c) in enumerate(triples, start=8100))


@cache
def math_pools(split: str) -> tuple[tuple[Arithmetic, ...], tuple[Arithmetic, ...]]:
    """All additions and all multiplications of a split."""
    return tuple(_of_split(additions(), split)), tuple(_of_split(multiplications(), split))


def math_problems(split: str, most: int) -> list[Arithmetic]:
    """Unique problems of a split, at most so many, 60% of them additions, kinds interleaved by hash."""
    adds, multiplies = math_pools(split)
    total = min(most, int(len(adds) / ADDITION_SHARE), int(len(multiplies) / (1 - ADDITION_SHARE)))
    n_adds = round(total * ADDITION_SHARE)
    return sorted((*adds[:n_adds], *multiplies[: total - n_adds]), key=lambda p: digest(p.key))


# ------------------------------------------------------------------------------------------ code

# Phrases and Python parts. A filter of no condition keeps every number; an aggregate of an empty
# selection gives 0 or [], so that every program is total. No two combinations are the same function.
AGGREGATES: dict[str, str] = {
    "sum": "sum({})",
    "largest": "max(({}),default=0)",
    "smallest": "min(({}),default=0)",
    "first": "next(({}),0)",
    "list": "[{}]",
    "sorted list": "sorted({})",
    "reversed list": "[{}][::-1]",
}
MAPS: dict[str, str] = {
    "": "x",
    "squares": "x**2",
    "cubes": "x**3",
    "doubles": "x*2",
    "triples": "x*3",
    "halves": "x//2",
    "negations": "-x",
    "successors": "x+1",
    "predecessors": "x-1",
    "remainders by 5": "x%5",
    "complements to 10": "10-x",
}
FILTERS: dict[str, str] = {
    "numbers": "",
    "even numbers": "x%2==0",
    "odd numbers": "x%2==1",
    "positive numbers": "x>0",
    "negative numbers": "x<0",
    "numbers above 5": "x>5",
    "numbers below 5": "x<5",
    "multiples of 3": "x%3==0",
    "non-multiples of 3": "x%3!=0",
}


@dataclass(frozen=True)
class Program:
    """One aggregate of one map of one filter over the list `xs`, each by its phrase."""

    number: int
    """Place among all 693 programs."""
    aggregate: str
    map: str
    filter: str

    @property
    def key(self) -> str:
        """The sentence, such as `sum of squares of even numbers in xs`."""
        return " of ".join(part for part in (self.aggregate, self.map, self.filter) if part) + " in xs"

    @property
    def class_key(self) -> str:
        """The key itself: no two programs are the same function."""
        return self.key

    @property
    def prompt(self) -> str:
        """What the model is asked."""
        return f"Code: {self.key}"

    def demonstration(self) -> str:
        """The Python expression, of at most 44 characters."""
        condition = FILTERS[self.filter]
        selection = f"{MAPS[self.map]} for x in xs" + (f" if {condition}" if condition else "")
        return AGGREGATES[self.aggregate].format(selection)

    def corrupted(self, rng: random.Random) -> str:
        """The expression with its aggregate, map or filter exchanged: another function."""
        parts = [self.aggregate, self.map, self.filter]
        place = rng.randrange(3)
        table = (AGGREGATES, MAPS, FILTERS)[place]
        parts[place] = rng.choice([phrase for phrase in table if phrase != parts[place]])
        return Program(0, *parts).demonstration()

    def outputs(self, inputs: Sequence[Sequence[int]]) -> list[Any]:
        """The program's value on each list."""
        return evaluate_all(self.demonstration(), inputs)


def evaluate_all(expression: str, inputs: Sequence[Sequence[int]]) -> list[Any]:
    """Value of one of our own expressions on each list; never for text that a model wrote."""
    names: dict[str, Any] = {"__builtins__": {f.__name__: f for f in (sum, max, min, next, sorted)}}
    return [eval(expression, names, {"xs": list(xs)}) for xs in inputs]


@cache
def programs() -> tuple[Program, ...]:
    """All 693 programs."""
    parts = product(AGGREGATES, MAPS, FILTERS)
    return tuple(Program(number, *phrases) for number, phrases in enumerate(parts))


@cache
def code_problems(split: str) -> tuple[Program, ...]:
    """All programs of a split; every aggregate has the same share in each."""
    by_kind = [[p for p in programs() if p.aggregate == aggregate] for aggregate in AGGREGATES]
    chosen = [program for kind in by_kind for program in _of_split(kind, split)]
    return tuple(sorted(chosen, key=lambda p: digest(p.key)))


# ----------------------------------------------------------------------------------------- files


def math_row(problem: Arithmetic) -> dict[str, Any]:
    """A row of a math file."""
    return {
        "id": f"math-{problem.number:06d}",
        "domain": "math",
        "prompt": problem.prompt,
        "answer": problem.answer,
    }


def code_row(program: Program) -> dict[str, Any]:
    """A row of a code file; the tests are those that the reward runs."""
    outputs = program.outputs(BASE_INPUTS)
    tests = [{"input": [list(xs)], "output": out} for xs, out in zip(BASE_INPUTS, outputs, strict=True)]
    answer = {"prefix": CODE_PREFIX, "entry_point": "f", "tests": tests}
    return {
        "id": f"code-{program.number:06d}",
        "domain": "code",
        "prompt": program.prompt,
        "answer": answer,
    }


def evalplus_row(program: Program) -> dict[str, Any]:
    """The program as a HumanEval+ problem, with the model's prompt beside it (`instruction`)."""
    return {
        "task_id": f"HumanEval/{program.number}",
        "prompt": f'def f(xs):\n    """Return the {program.key}."""\n    return ',
        "entry_point": "f",
        "canonical_solution": program.demonstration() + "\n",
        "base_input": [[list(xs)] for xs in BASE_INPUTS],
        "plus_input": [[list(xs)] for xs in PLUS_INPUTS],
        "atol": 0,
        "contract": "",
        "test": "",
        "instruction": program.prompt,
    }


def _smollm2_rows(kind: str, split: str, most: int) -> Iterator[dict[str, Any]]:
    """Sums or products as a question to a pretrained chat model."""
    sign, problems = {
        "add": ("+", additions()),
        "multiply": ("*", tuple(Arithmetic(0, a, b) for a, b in product(range(2, 16), repeat=2))),
    }[kind]
    for p in _of_split(problems, split)[:most]:
        yield {
            "id": f"{kind}-{p.a}-{p.b}",
            "domain": kind,
            "prompt": f"What is {p.a} {sign} {p.b}? Answer with just the number.",
            "answer": str(p.a + p.b if kind == "add" else p.a * p.b),
        }


def _files() -> Files:
    files: Files = {
        "math.train.jsonl": lambda: map(math_row, math_problems("train", TRAIN_ROWS)),
        "math.validation.jsonl": lambda: map(math_row, math_problems("validation", 200)),
        "math.heldout.jsonl": lambda: map(math_row, math_problems("heldout", 250)),
        "smollm2.add.jsonl": lambda: _smollm2_rows("add", "train", 200),
        "smollm2.add.heldout.jsonl": lambda: _smollm2_rows("add", "heldout", 64),
        "smollm2.multiply.jsonl": lambda: _smollm2_rows("multiply", "train", 200),
        "smollm2.multiply.heldout.jsonl": lambda: _smollm2_rows("multiply", "heldout", 64),
    }
    for split in SPLITS:
        files[f"code.{split}.jsonl"] = lambda split=split: map(code_row, code_problems(split))
    for split in ("validation", "heldout"):
        files[f"code.{split}.evalplus.jsonl"] = lambda split=split: map(evalplus_row, code_problems(split))
    return files


FILES = _files()
"""Rows of every committed file, by name."""


def content(name: str, files: Files = FILES) -> str:
    """Text of one of the files, the same on every machine."""
    return "".join(json.dumps(row, separators=(", ", ": ")) + "\n" for row in files[name]())


def write_files(folder: Path = FOLDER, files: Files = FILES) -> None:
    """Write every file, each whole or not at all."""
    for name in files:
        write_text(folder / name, content(name, files))


if __name__ == "__main__":
    if sys.argv[1:] != ["--write"]:
        sys.exit("usage: python -m configs.demo.problems --write")
    write_files()
