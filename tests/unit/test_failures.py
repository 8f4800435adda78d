"""Errors are recorded where they happen, each in one line with its traceback beside it."""

import json

from trainer import failures


class RemoteError(Exception):
    """As Ray raises it: the text is a whole traceback, the cause is beside it."""

    def __init__(self, cause):
        super().__init__("\x1b[36mray::Server.generate()\x1b[39m\n  File ...\n  raise output")
        self.cause = cause


def test_a_remote_error_is_its_cause():
    error = RemoteError(RemoteError(ValueError("the engine is dead\nsee above")))
    assert failures.summary(error) == "ValueError: the engine is dead"


def test_an_error_without_a_text_keeps_its_name():
    assert failures.summary(TimeoutError()) == "TimeoutError: "
    assert failures.summary(RemoteError(None)) == "RemoteError: \x1b[36mray::Server.generate()\x1b[39m"


def test_the_first_of_several_is_found_and_none_where_nothing_failed(tmp_path):
    path = tmp_path / "failures.jsonl"
    assert failures.first(path) is None
    for number in (1, 2):
        failures.record(path, "rollout", ValueError(f"number {number}\nmore"))
    assert failures.first(path)["error"] == "ValueError: number 1"
    assert "more" in json.loads(path.read_text().splitlines()[1])["traceback"]
