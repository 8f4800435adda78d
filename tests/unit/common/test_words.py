"""Words for counts, times and sizes, and what a misspelt name may have meant."""

from __future__ import annotations

import pytest

from common import words
from common.words import printable


@pytest.mark.parametrize(
    ("seconds", "said"),
    [
        (0, "0.0 s"),
        (59.94, "59.9 s"),
        (60, "1 min 00 s"),
        (152.04, "2 min 32 s"),
        (3599.4, "59 min 59 s"),
        (3599.8, "1 h 00 min"),
        (8000, "2 h 13 min"),
        (100 * 3600, "100 h 00 min"),
    ],
)
def test_durations(seconds, said):
    assert words.duration(seconds) == said


def test_sizes():
    assert words.gib(5 * 2**30) == "5.0 GiB" and words.gib(2**28) == "0.2 GiB"
    assert words.mib(300.6 * 2**20) == "301 MiB"


@pytest.mark.parametrize(
    ("size", "said"),
    [
        (0, "0 B"),
        (1023, "1023 B"),
        (1024, "1.0 KiB"),
        (1536, "1.5 KiB"),
        (3 * 2**20, "3.0 MiB"),
        (2.5 * 2**30, "2.5 GiB"),
        (5000 * 2**40, "5000.0 TiB"),
    ],
)
def test_a_size_in_the_unit_that_suits_it(size, said):
    assert words.in_its_unit(size) == said


def test_counts():
    said = [words.counted(count, "seed") for count in (0, 1, 2)]
    assert said == ["0 seeds", "1 seed", "2 seeds"]


def test_a_misspelt_name():
    valid = ["math", "Code", "logic"]
    assert words.nearest("CODE", valid) == "Code"
    assert words.nearest("mats", valid) == "math"
    assert words.nearest("chemistry", valid) is None
    assert words.did_you_mean("mats", valid) == "did you mean 'math'? "
    assert words.did_you_mean("chemistry", valid) == ""


def test_a_message_holds_nothing_that_moves_a_terminal_and_no_megabyte():
    assert printable("a: 'é', 1 € 2\nb") == "a: 'é', 1 € 2\nb"
    assert printable("a\x1b[31m\0\r\u202e\ud800") == "a\\x1b[31m\\x00\\r\\u202e\\ud800"
    assert printable("x" * 10, longest=4) == "xxxx ... (10 characters)"
