"""docs/prompts_and_mixing.md: its examples load, its numbers are those of the code, its keys exist."""

from __future__ import annotations

import re
from collections import Counter
from fractions import Fraction
from math import ceil, floor

import pytest
import yaml
from pydantic import TypeAdapter

from configs.blocks.mixing import Mixing
from configs.blocks.prompts import Prompts, PromptSource
from configs.load import load_config
from configs.reading.shape import blocks
from routing.gap import GapBudget
from routing.mix import mix
from routing.routers.decisions import RoutedPrompt
from routing.sources.collect import SOURCES, Prompt
from tests.helpers.paths import ROOT
from tests.helpers.tiny_model import config_dict, write_config

DOCS = ROOT / "docs"
TEXT = (DOCS / "prompts_and_mixing.md").read_text(encoding="utf-8")
EXAMPLES = re.findall(r"^```yaml\n(.*?)^```$", TEXT, flags=re.MULTILINE | re.DOTALL)
NUMBERS = {"math": 9000, "code": 3000, "chat": 1000}


def laid_over(below, above):
    """A config with a part of another laid over it; a block of another kind takes its place whole."""
    if not (isinstance(below, dict) and isinstance(above, dict)) or "kind" in above:
        return above
    return below | {key: laid_over(below.get(key), value) for key, value in above.items()}


@pytest.mark.parametrize("example", EXAMPLES)
def test_every_example_loads(tmp_path, example):
    config = laid_over(config_dict(tmp_path), yaml.safe_load(example))
    load_config(write_config(tmp_path, config))


def test_every_kind_of_source_and_mixing_has_an_example():
    parsed = [yaml.safe_load(example) for example in EXAMPLES]
    sources = [part["prompts"] for part in parsed if "prompts" in part]
    sources += [part["domains"]["math"]["prompts"] for part in parsed if "domains" in part]
    assert {source["kind"] for source in sources} == SOURCES.keys() == blocks(Prompts).keys()
    for kind in [*blocks(Mixing), *SOURCES]:
        assert f"`{kind}`" in TEXT


def test_every_key_of_a_source_is_explained():
    for key in PromptSource.model_fields.keys() - {"kind", "columns"}:
        assert re.search(rf"^\| `{key}` \|", TEXT, flags=re.MULTILINE), key
    for key in ("prompt", "answer", "label"):
        assert f"| `columns.{key}` |" in TEXT


def table_rows() -> list[list[str]]:
    """Cells of the worked example, the mixing filled in where it stands in a row above."""
    lines = [line for line in TEXT.splitlines() if re.match(r"\| (`.*` )?\| (math|code|chat) \|", line)]
    rows, mixing = [], ""
    for line in lines:
        first, *rest = [cell.strip() for cell in line.strip("|").split("|")]
        mixing = first.strip("`") or mixing
        rows.append([mixing, *rest])
    return rows


def test_the_worked_example_is_what_the_code_does():
    prompts = [
        RoutedPrompt(Prompt(f"{name}{i}", (), None, name, "f", i), name, "test")
        for name, number in NUMBERS.items()
        for i in range(number)
    ]
    found = table_rows()
    assert len(found) == 12
    for block in dict.fromkeys(row[0] for row in found):
        mixed = mix(prompts, TypeAdapter(Mixing).validate_python(yaml.safe_load(block)), 42)
        used, rows = Counter(item.domain for item in mixed.prompts), mixed.counts(100, 64)
        expected = [
            [
                block, name, f"{used[name]:,}", f"{float(share):.1%}",
                " or ".join(str(n) for n in sorted({floor(share * 64), ceil(share * 64)})),
                f"{rows[name]:,}", f"{rows[name] / used[name]:.2f}",
            ]
            for name, share in mixed.shares.items()
        ]  # fmt: skip
        assert [row for row in found if row[0] == block] == expected


def test_the_table_of_distances_is_what_the_code_does():
    lines = re.findall(r"^\| (0\.\d, 0\.\d) \| (.*) \| (.*) \| (.*) \| (.*) \|$", TEXT, flags=re.MULTILINE)
    assert len(lines) == 4
    for *numbers, shares, with_half in lines:
        accuracy, optimum, distance = (
            dict(zip(("math", "code"), map(Fraction, pair.split(", ")), strict=True)) for pair in numbers
        )
        assert {name: max(optimum[name] - accuracy[name], 0) for name in optimum} == distance
        for least, told in (("1/4", shares), ("1/2", with_half)):
            budget = GapBudget(("math", "code"), Fraction(least), optimum, steps=1, size=8, every=1)
            assert ", ".join(f"{float(share):.1%}" for share in budget.shares(accuracy).values()) == told


def test_it_is_linked():
    for page in ("extending.md", "how_it_works.md", "run_folder.md"):
        assert "(prompts_and_mixing.md" in (DOCS / page).read_text(encoding="utf-8")
