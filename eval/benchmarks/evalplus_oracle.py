"""When EvalPlus takes an output for right: equality, tolerances, and its exceptions for single problems."""

from __future__ import annotations

from typing import Any

from eval.sandbox.values import Opaque, decode

RELATIVE_TOLERANCE = 1e-7
FLOAT_TOLERANCE = 1e-6
"""EvalPlus's least absolute tolerance where floats are expected."""


class Oracle:
    """Judges the outputs of one program, in order: as in EvalPlus, a tolerance for floats stays once used.

    dataset: "humaneval" or "mbpp".
    entry_point: name of the problem's function.
    atol: the problem's absolute tolerance.
    """

    def __init__(self, dataset: str, entry_point: str, atol: float) -> None:
        self.dataset, self.entry_point, self.atol = dataset, entry_point, atol

    def accepts(self, encoded: Any, expected: Any, arguments: list[Any]) -> bool:
        """Whether an output, as `eval.sandbox.values.encode` describes it, is right. Never raises."""
        try:
            is_safe = _is_safe(encoded, expected, self._is_compared_as_a_set())
            output = decode(encoded) if is_safe else Opaque()
            return self._is_right(output, expected, arguments)
        except (Exception, MemoryError):  # an output that cannot be compared is wrong
            return False

    def _is_compared_as_a_set(self) -> bool:
        from evalplus.eval._special_oracle import MBPP_OUTPUT_SET_EQ_TASKS

        return self.dataset == "mbpp" and self.entry_point in MBPP_OUTPUT_SET_EQ_TASKS

    def _is_right(self, output: Any, expected: Any, arguments: list[Any]) -> bool:
        if self.dataset == "humaneval" and self.entry_point == "find_zero":
            return False  # EvalPlus leaves these tests unrecorded, and then counts no answer as right
        is_equal = self._is_equal(output, expected, arguments)
        from evalplus.eval import is_floats

        if self.atol == 0 and is_floats(expected):
            self.atol = FLOAT_TOLERANCE
        return is_equal or (self.atol != 0 and self._is_close(output, expected))

    def _is_equal(self, output: Any, expected: Any, arguments: list[Any]) -> bool:
        """Equality, or what an exception of MBPP+ asks for instead."""
        from evalplus.eval import _special_oracle as special

        if self.dataset != "mbpp":
            return output == expected
        if self._is_compared_as_a_set():
            return set(output) == set(expected)
        if self.entry_point in special.MBPP_OUTPUT_NOT_NONE_TASKS:
            return output == expected if isinstance(output, bool) else expected == (output is not None)
        if output == expected:
            return True
        match self.entry_point:
            case "are_equivalent":
                return True
            case "sum_div":
                return output == 0
            case "surface_Area":
                return abs(output - special._surface_Area(*arguments)) <= self.atol
            case "digit_distance_nums":
                return output == special._digit_distance_nums(*arguments)
        return False

    def _is_close(self, output: Any, expected: Any) -> bool:
        import numpy

        if type(output) is not type(expected) or isinstance(output, Opaque):
            return False
        if not _are_numbers(output) or numpy.shape(output) != numpy.shape(expected):
            return False  # numpy would stretch an empty list over any other
        return bool(numpy.allclose(output, expected, rtol=RELATIVE_TOLERANCE, atol=self.atol))


def _is_safe(encoded: Any, expected: Any, as_set: bool) -> bool:
    """Whether an output can be built: a program can choose members of sets and dicts that take long to hash.

    So those must have as many members as the expected ones at their place; else they cannot be equal.
    """
    if not isinstance(encoded, list):
        return True
    kind, content = encoded
    if kind in ("set", "frozenset", "dict"):
        is_set = isinstance(expected, set | frozenset | dict) or as_set
        return is_set and len(content) <= len(expected) + (len(expected) + 100) * as_set
    if kind not in ("list", "tuple"):
        return True
    if as_set and len(content) > 10 * len(expected) + 1_000:
        return False
    if isinstance(expected, list | tuple) and len(expected) == len(content):
        return all(_is_safe(item, other, False) for item, other in zip(content, expected, strict=True))
    return all(_is_safe(item, None, False) for item in content)


def _are_numbers(value: Any) -> bool:
    """Whether it is a number, or lists of nothing else."""
    if isinstance(value, list | tuple):
        return all(map(_are_numbers, value))
    return isinstance(value, int | float | complex)
