"""The list of a run's failures, and an error in one line, whichever process it comes from."""

import os

import pytest

from trainer.processes import failures


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


def test_the_first_failure_is_the_first_that_was_recorded(tmp_path):
    path = tmp_path / "failures.jsonl"
    assert failures.first(path) is None
    for text in ("the cause", "a\nconsequence"):
        try:
            raise ValueError(text)
        except ValueError as error:
            failures.record(path, "rollout", error)
    first = failures.first(path)
    assert (first["where"], first["error"]) == ("rollout", "ValueError: the cause")
    assert "test_failures.py" in first["traceback"] and "raise ValueError(text)" in first["traceback"]
    assert first["time"] > 1.7e9
    assert len(path.read_text().splitlines()) == 2  # one line each


def test_an_empty_failures_file_is_no_failure(tmp_path):
    (tmp_path / "failures.jsonl").write_text("\n")
    assert failures.first(tmp_path / "failures.jsonl") is None


def test_an_actor_that_did_not_start_is_explained_by_its_own_error():
    class ActorDiedError(Exception):
        pass

    text = (
        "The actor died because of an error raised in its creation task, \x1b[36mray::W.__init__()\x1b[39m\n"
        '  File "x.py", line 3, in __init__\nValueError: no engine for this device\n'
    )
    assert failures.summary(ActorDiedError(text)) == "ValueError: no engine for this device"
    assert failures.summary(ActorDiedError("The actor died: a node failed")) == (
        "ActorDiedError: The actor died: a node failed"
    )


def test_an_actor_that_died_is_named_with_its_machine_and_what_ray_knows_of_its_end():
    class ActorDiedError(Exception):
        pass

    text = (
        "The actor died unexpectedly before finishing this task.\n"
        "\tclass_name: create_colocated_worker_cls.<locals>.WorkerDict\n\tactor_id: 7f\n\tpid: 712\n"
        "\tname: x:0\n\tip: 10.0.0.2\n"
        "The actor is dead because its worker process has died. Worker exit type: SYSTEM_ERROR Worker exit "
        "detail: code 2. End of file. Some common causes include: (1) the process ..."
    )
    assert failures.summary(ActorDiedError(text)) == (
        "ActorDiedError: WorkerDict (pid 712 on 10.0.0.2) died: The actor is dead because its worker process "
        "has died. Worker exit type: SYSTEM_ERROR Worker exit detail: code 2. End of file."
    )


def test_a_full_disk_keeps_no_record_and_a_line_that_it_cut_is_none(tmp_path):
    failures.record("/dev/full", "rollout", KeyError("x"))  # every write to it fails
    path = tmp_path / "failures.jsonl"
    path.write_text('{"time": 1, "err\n')
    assert failures.first(path) is None
    failures.record(path, "trainer", KeyError("x"))
    assert failures.first(path)["where"] == "trainer"


DAMAGED_LINES = (
    b"3",
    b"null",
    b"[]",
    b"{}",
    b'{"time": "x", "where": "w", "error": "e", "traceback": "t"}',
    b'{"time": 1, "where": "w", "error": null, "traceback": "t"}',
    b"\xff\xfe",
    b"\0" * 9,
    b"[" * 100_000,
    b"9" * 6000,
)


@pytest.mark.parametrize("line", DAMAGED_LINES, ids=lambda line: repr(line[:20]))
def test_a_damaged_line_hides_no_other(tmp_path, line):
    path = tmp_path / "failures.jsonl"
    path.write_bytes(line + b"\n")
    assert failures.first(path) is None
    failures.record(path, "trainer", KeyError("x"))
    assert failures.first(path)["where"] == "trainer"


@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir, lambda path: os.symlink("/dev/zero", path)])
def test_what_is_no_file_of_failures_is_none(tmp_path, make):
    make(tmp_path / "failures.jsonl")
    assert failures.first(tmp_path / "failures.jsonl") is None
