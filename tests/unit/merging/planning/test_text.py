"""How a plan and a check say sizes and times."""

from __future__ import annotations

from dataclasses import replace

import pytest

from common.words import gb
from merging.planning.held import Held, parts_text
from merging.planning.text import memory_lines, span
from tests.helpers.paper_plan import paper_config, paper_found


@pytest.mark.parametrize(
    "size, text",
    [(40 * 10**9, "40.0 GB"), (10**8, "0.1 GB"), (66 * 10**6, "66.0 MB"), (1584, "1.6 kB"), (0, "0.0 kB")],
)
def test_sizes(size, text):
    assert gb(size) == text


@pytest.mark.parametrize(
    "low, high, text",
    [(30, 100, "30.0 to 100.0 s"), (60, 600, "1.0 to 10.0 min"), (3600, 36_000, "1.0 to 10.0 h")],
)
def test_two_times_have_one_unit(low, high, text):
    assert span(low, high) == text


def test_parts_are_named_largest_first():
    assert parts_text({"small": 10**9, "large": 2 * 10**9, "none": 0}) == "large 2.0 GB, small 1.0 GB"


def test_a_check_says_where_memory_is_short(tmp_path):
    found = paper_found(tmp_path, paper_config(tmp_path))
    merge = Held("merge", {"update": {"weights": 10**9}})
    host = Held("main memory", {"loading": {"weights": 2 * 10**9}}, 10**9)
    unknown, short, disk = memory_lines(replace(found, device_memory=(merge,), main_memory=host))
    assert unknown.startswith("merge about 1.0 GB on a device in its update (not checked")
    assert short == "main memory about 2.0 GB; this machine has 1.0 GB"
    assert disk == "disk about 0.0 kB"
    known = replace(found, device_memory=(replace(merge, available=5 * 10**9),))
    assert memory_lines(known)[0] == "merge about 1.0 GB on a device in its update (of 5.0 GB)"
