"""JSON Schemas that judge answers: what no value could be judged by is refused."""

from __future__ import annotations

import pytest

from configs.blocks.json_schemas import check_schema, validator
from eval.grading import answer_graders
from eval.grading.answer_graders import unusable_answer

pytest.importorskip("jsonschema")

ENDLESS = {
    "itself": {"$ref": "#"},
    "each other": {
        "$defs": {"a": {"$ref": "#/$defs/b"}, "b": {"$ref": "#/$defs/a"}},
        "$ref": "#/$defs/a",
    },
    "itself by a name": {"$anchor": "a", "$ref": "#a"},
    "itself among others": {"anyOf": [{"type": "integer", "minimum": 9}, {"$ref": "#"}]},
    "itself where it is negated": {"not": {"$ref": "#"}},
}


@pytest.mark.parametrize("schema", ENDLESS.values(), ids=ENDLESS)
def test_a_schema_that_leads_back_to_itself_is_refused(schema):
    with pytest.raises(ValueError, match="leads back to itself"):
        check_schema(schema)


def test_a_schema_of_values_in_values_is_sound():
    tree = {"type": "object", "properties": {"left": {"$ref": "#"}, "right": {"$ref": "#"}}}
    check_schema(tree)
    assert validator(tree).is_valid({"left": {"right": {}}}) and not validator(tree).is_valid({"left": 3})


def settings(schema: dict) -> dict:
    return {"kind": "json_schema", "schema": schema, "compare_answer": True, "extract": "whole"}


def test_an_expected_answer_is_held_against_its_schema():
    schema = {"properties": {"a": {"type": "integer"}}}
    assert unusable_answer(settings(schema), {"a": 1}) == ""
    told = "the answer is not valid under the schema, at $.a: 'x' is not of type 'integer'"
    assert unusable_answer(settings(schema), {"a": "x"}) == told


def test_a_pattern_that_takes_for_ever_ends_the_check_in_its_time(monkeypatch):
    monkeypatch.setattr(answer_graders, "SCHEMA_LIMIT_S", 1.5)
    schema = {"patternProperties": {"^(a+)+$": {}}}
    said = unusable_answer(settings(schema), {"a" * 40 + "!": 1})
    assert "cannot be held against the schema" in said
