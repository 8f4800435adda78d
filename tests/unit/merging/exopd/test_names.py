"""Names of references among the scored models."""

from merging.exopd.names import reference_names


def test_equal_references_have_one_name_and_the_students_is_the_plain_one():
    paths = {"a": "/base", "b": "/student", "c": "/other", "d": "/base"}
    assert reference_names(paths, "/student") == {
        "a": "reference:1",
        "b": "reference",
        "c": "reference:2",
        "d": "reference:1",
    }
