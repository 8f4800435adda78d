"""YAML as a config's author means it: numbers, tags, aliases, nesting, and what no config can hold."""

import itertools
import time

import pytest

from common.errors import ConfigError
from configs.load import load_config
from configs.reading.yaml_text import LARGEST_NESTING, parse_yaml
from tests.helpers.messages import refuses, says
from tests.helpers.paths import ROOT

QUICKSTART = ROOT / "configs" / "runs" / "quickstart.yaml"


@pytest.mark.parametrize(
    ("written", "value"),
    [
        ("10", 10),
        ("-3", -3),
        ("1_000", 1000),
        ("0x1F", 31),
        ("1e-6", 1e-6),
        ("1.5", 1.5),
        (".5", 0.5),
        ("yes", True),
        ("~", None),
        ("010", "010"),
        ("1:30", "1:30"),
        ("1:30.5", "1:30.5"),
        ("0b11", "0b11"),
        ("0o17", "0o17"),
        ("'5'", "5"),
        ("!!str 5", "5"),
    ],
)
def test_values(written, value):
    found, lines = parse_yaml(f"a:\n  b: {written}\n", "c.yaml")
    assert found == {"a": {"b": value}} and type(found["a"]["b"]) is type(value)
    assert lines == {(): 1, ("a",): 1, ("a", "b"): 2}


@pytest.mark.parametrize("steps", ["010", "1:30", "5000_", "0b11"])
def test_what_is_no_number_to_a_reader_is_none(steps):
    with refuses("training.steps", "whole number", steps):
        load_config(QUICKSTART, [f"training.steps={steps}"])


def doubling(first: str, each: str) -> str:
    """Ten lines, each of which refers nine times to the one before."""
    pairs = itertools.pairwise("abcdefghij")
    return first + "".join(f"{b}: &{b} {each.format(','.join([f'*{a}'] * 9))}\n" for a, b in pairs)


REFUSED = {
    "aliases that multiply": (doubling("a: &a [x]\n", "[{}]"), ("c.yaml:1", "aliases", "100000")),
    "merges that multiply": (doubling("a: &a {p: 1}\n", "{{<<: [{}]}}"), ("c.yaml:1", "aliases")),
    "an alias in itself": ("x: 1\na: &a [*a]\n", ("c.yaml:2", "alias", "contains it")),
    "deep": ("a: " + "[" * LARGEST_NESTING + "]" * LARGEST_NESTING, ("c.yaml:1", "deeper", "50")),
    "very deep": ("a: " + "[" * 5000, ("c.yaml", "nested too deeply")),
    "deep in one line": ("- " * 5000, ("c.yaml", "nested too deeply")),
    "deep by aliases": (
        "a0: &a0 x\n" + "".join(f"a{i + 1}: &a{i + 1} [*a{i}]\n" for i in range(60)),
        ("c.yaml:1", "deeper", "50"),
    ),
    "a tag": ("a: 1\nb: !!set {x}\n", ("c.yaml:2", "YAML", "!!set")),
    "a tag that lies": ("a: !!bool maybe\n", ("c.yaml:1", "!!bool")),
    "a tag of the author's": ("a: !mine 3\n", ("c.yaml:1", "!mine")),
    "a Python object": ("a: !!python/object/apply:os.system [id]\n", ("c.yaml:1", "python/object")),
    "half a character": ('a: "\\ud800"\n', ("c.yaml:1", "surrogate")),
    "a NUL": ("a: 1\nb: \0\n", ("c.yaml:2", "U+0000")),
    "a day that is none": ("a: 2001-99-99\n", ("c.yaml", "YAML", "month")),
    "a number of 5,000 digits": ("a: " + "9" * 5000, ("c.yaml", "4300 digits")),
    "two documents": ("a: 1\n---\nb: 2\n", ("c.yaml:2", "another document")),
    "a key that is a list": ("? [a]\n: 1\n", ("c.yaml:1", "plain name")),
    "a key twice": ("a: 1\nb: 2\na: 3\n", ("c.yaml:3", "'a'", "twice", "line 1")),
}


@pytest.mark.parametrize("what", REFUSED)
def test_one_message_with_its_line(what):
    text, facts = REFUSED[what]
    began = time.monotonic()
    with pytest.raises(ConfigError) as caught:
        parse_yaml(text, "c.yaml")
    (problem,) = caught.value.problems
    says(problem, *facts)
    assert "\n" not in problem and time.monotonic() - began < 5


def test_the_deepest_that_is_read():
    value, _ = parse_yaml("a: " + "[" * (LARGEST_NESTING - 1) + "]" * (LARGEST_NESTING - 1), "c.yaml")
    assert isinstance(value["a"][0], list)


def test_a_shared_value_is_read_wherever_it_is_referred_to():
    value, lines = parse_yaml("a: &a {x: 1}\nb: *a\nc: {<<: *a, y: 2}\n", "c.yaml")
    assert value == {"a": {"x": 1}, "b": {"x": 1}, "c": {"x": 1, "y": 2}}
    assert (lines["b",], lines["c", "y"]) == (2, 3)


def test_many_problems_are_told_in_part(tmp_path):
    path = tmp_path / "c.yaml"
    path.write_text("".join(f"k{i}: 1\n" for i in range(2000)))
    with pytest.raises(ConfigError) as caught:
        load_config(path)
    assert len(caught.value.problems) == 51 and "1953 more problems" in caught.value.problems[-1]


@pytest.mark.parametrize("value", ["a" * 300, '"a\\0b"', "/".join(["d" * 200] * 30)])
def test_names_that_no_file_can_have(tmp_path, value):
    path = tmp_path / "c.yaml"
    path.write_text(f"student: {value}\n")
    with refuses("no file"):
        load_config(path)
