"""What one process holds, others do not get; a process that ends holds nothing."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from common.errors import ConfigError
from common.locks import RunLock, check_free, command, lock, this_process
from tests.helpers.paths import ROOT

HOLD = """
import sys, time
from pathlib import Path
from common.locks import lock
with lock(Path(sys.argv[1]), "the first", print):
    print("held", flush=True)
    time.sleep(60)
"""

HOLD_AND_FORK = """
import os, sys, time
from pathlib import Path
from common.locks import lock
with lock(Path(sys.argv[1]), "the first", print):
    if child := os.fork():
        print(child, flush=True)
    time.sleep(60)
"""

HOLD_RUN = """
import sys, time
from common.locks import RunLock
with RunLock(sys.argv[1]):
    print("held", flush=True)
    time.sleep(60)
"""

HOLD_RUN_BY_FLOCK = """
import fcntl, json, os, sys, time
with open(sys.argv[1] + "/.lock", "a+") as file:
    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    file.truncate(0)
    file.write(json.dumps({"pid": os.getpid(), "started": 1800000000}))
    file.flush()
    print("held", flush=True)
    time.sleep(60)
"""
"""A holder that knows nothing of `common.locks` and follows the same protocol."""


@contextmanager
def holder(code: str, place: Path) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """Another live process that holds a place, and the line that it said then."""
    process = subprocess.Popen(
        [sys.executable, "-c", code, str(place)], cwd=ROOT, stdout=subprocess.PIPE, text=True
    )
    try:
        yield process, process.stdout.readline().strip()
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


def refuse(text: str) -> None:
    raise RuntimeError(f"held by {text}")


def is_free(path: Path) -> bool:
    """Asked of the kernel, not of the code under test."""
    with path.open() as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
    return True


# ---------------------------------------------------------------------------------------------- lock


def test_a_held_lock_is_refused_with_the_holder_s_words(tmp_path):
    path = tmp_path / "lock"
    with holder(HOLD, path) as (_, said):
        assert said == "held"
        for _ in range(2):  # a refused attempt leaves the holder's words where they are
            with pytest.raises(RuntimeError, match=r"^held by the first$"), lock(path, "the second", refuse):
                pytest.fail("two hold it")
    with lock(path, "2nd", refuse):
        assert path.read_text() == "2nd"


def test_a_lock_is_refused_within_its_own_process_too(tmp_path):
    with lock(tmp_path / "lock", "outer", refuse):
        with pytest.raises(RuntimeError, match="held by outer"), lock(tmp_path / "lock", "inner", refuse):
            pytest.fail("two hold it")
        assert not is_free(tmp_path / "lock")  # the refused one has not released it


def test_who_does_not_refuse_waits_until_the_holder_is_killed(tmp_path):
    said, entered = [], threading.Event()

    def second() -> None:
        with lock(tmp_path / "lock", "the second", said.append):
            entered.set()

    with holder(HOLD, tmp_path / "lock") as (first, _):
        waiting = threading.Thread(target=second)
        waiting.start()
        assert not entered.wait(0.5)
        assert said == ["the first"]  # told once, however long it takes
        first.send_signal(signal.SIGKILL)
        assert entered.wait(10)
        waiting.join()
    assert said == ["the first"]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_an_error_frees_the_lock(tmp_path, error):
    with pytest.raises(error), lock(tmp_path / "lock", "", refuse):
        raise error
    assert is_free(tmp_path / "lock")


def test_a_forked_child_does_not_hold_what_its_parent_held(tmp_path):
    path = tmp_path / "lock"
    with holder(HOLD_AND_FORK, path) as (parent, child):
        try:
            assert not is_free(path)
            parent.kill()
            parent.wait()
            deadline = time.monotonic() + 20
            while not is_free(path):  # the child may still be at its first instruction
                assert time.monotonic() < deadline
                time.sleep(0.05)
            os.kill(int(child), 0)  # it is alive
        finally:
            os.kill(int(child), signal.SIGKILL)


@pytest.mark.parametrize(("for_all_users", "mode"), [(True, 0o666), (False, 0o600)])
def test_other_users_may_take_a_lock_that_is_for_all(tmp_path, for_all_users, mode):
    before = os.umask(0o077)
    try:
        with lock(tmp_path / "lock", "", refuse, for_all_users=for_all_users):
            assert (tmp_path / "lock").stat().st_mode & 0o777 == mode
    finally:
        os.umask(before)


def test_a_file_that_may_not_be_opened_is_an_error_or_no_lock(tmp_path):
    (tmp_path / "lock").mkdir()
    with pytest.raises(ConfigError, match="cannot be locked"), lock(tmp_path / "lock", "", refuse):
        pytest.fail("nothing was locked")
    with lock(tmp_path / "lock", "", refuse, for_all_users=True):
        pass
    with pytest.raises(OSError, match="block"), lock(tmp_path / "lock", "", refuse, for_all_users=True):
        raise OSError("raised in the block")


# --------------------------------------------------------------------------------------- run folders


def attempts(run_dir: Path) -> list[Callable[[], object]]:
    return [lambda: RunLock(run_dir).__enter__(), lambda: check_free(run_dir)]


def test_a_live_run_keeps_others_out(tmp_path):
    with holder(HOLD_RUN, tmp_path / "run") as (process, said):
        assert said == "held"
        for attempt in attempts(tmp_path / "run"):
            with pytest.raises(
                ConfigError, match=rf"in use by a live run \(process {process.pid}, started 20"
            ):
                attempt()


def test_kill_9_frees_the_folder(tmp_path):
    with holder(HOLD_RUN, tmp_path / "run") as (process, _):
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        check_free(tmp_path / "run")
        with RunLock(tmp_path / "run"):
            pass


def test_a_run_that_locks_by_flock_alone_keeps_others_out(tmp_path):
    with holder(HOLD_RUN_BY_FLOCK, tmp_path) as (process, said):
        assert said == "held"
        for attempt in attempts(tmp_path):
            with pytest.raises(ConfigError, match=rf"\(process {process.pid}, started 2027-01-1"):
                attempt()


def test_a_run_that_locks_by_flock_alone_is_kept_out_and_reads_who_holds_it(tmp_path):
    with RunLock(tmp_path):
        assert not is_free(tmp_path / ".lock")
        record = json.loads((tmp_path / ".lock").read_text())
        assert record["pid"] == os.getpid() and record["started"] > 1.7e9
    assert is_free(tmp_path / ".lock")


def test_the_holder_itself_may_preflight(tmp_path):
    with RunLock(tmp_path / "run"):
        check_free(tmp_path / "run")
        with pytest.raises(ConfigError, match="in use by a live run"), RunLock(tmp_path / "run"):
            pass
        check_free(tmp_path / "run")
    with RunLock(tmp_path / "run"):
        pass


def test_a_check_changes_nothing_on_disk(tmp_path):
    check_free(tmp_path / "none")
    assert list(tmp_path.iterdir()) == []
    with RunLock(tmp_path / "run"):
        pass
    file = tmp_path / "run" / ".lock"
    before = file.read_text(), file.stat().st_mtime_ns
    check_free(tmp_path / "run")
    assert before == (file.read_text(), file.stat().st_mtime_ns)
    assert [path.name for path in (tmp_path / "run").iterdir()] == [".lock"]


def test_a_lock_file_that_does_not_say_who_holds_it(tmp_path):
    with lock(tmp_path / ".lock", "half a rec", refuse), pytest.raises(ConfigError) as caught:
        check_free(tmp_path)
    assert str(caught.value).startswith(f"run folder {tmp_path}: in use by a live run; wait for it")


DAMAGED_RECORDS = (
    "3",
    "null",
    "[]",
    '{"pid": 1}',
    '{"pid": "x", "started": 1}',
    '{"pid": 1, "started": null}',
    '{"pid": 1, "started": 1e300}',
    '{"pid": 1, "started": -1e15}',
    "[" * 100_000,
    "\x1b[31m",
)


@pytest.mark.parametrize("record", DAMAGED_RECORDS, ids=lambda text: text[:20])
def test_a_held_lock_of_damaged_content_is_held_all_the_same(tmp_path, record):
    with lock(tmp_path / ".lock", record, refuse):
        for attempt in attempts(tmp_path):
            with pytest.raises(ConfigError) as caught:
                attempt()
            assert str(caught.value).startswith(f"run folder {tmp_path}: in use by a live run; wait for it")


def test_a_command_that_no_terminal_should_be_sent_is_told_without_its_signs(tmp_path):
    record = json.dumps({"pid": 7, "started": 1, "command": "protege\n\x1b[31m " + "x" * 5000})
    with lock(tmp_path / ".lock", record[:4000] + '"}', refuse), pytest.raises(ConfigError) as caught:
        check_free(tmp_path)
    said = str(caught.value)
    assert "process 7" in said and "protege [31m xxx" in said and said.isprintable() and len(said) < 600


NOT_A_LOCK = {
    "a pipe": os.mkfifo,
    "a folder": os.mkdir,
    "a link to nowhere": lambda path: os.symlink("nowhere", path),
    "a link to itself": lambda path: os.symlink(path.name, path),
    "a device": lambda path: os.symlink("/dev/zero", path),
    "a terminal": lambda path: os.symlink("/dev/tty", path),
}


@pytest.mark.parametrize("make", NOT_A_LOCK.values(), ids=NOT_A_LOCK)
def test_what_is_no_file_is_no_lock_and_nobody_waits_for_it(tmp_path, make):
    make(tmp_path / ".lock")
    kind = (tmp_path / ".lock").lstat().st_mode
    for attempt in attempts(tmp_path):
        with pytest.raises(ConfigError, match=re.escape(str(tmp_path / ".lock"))):
            attempt()
    with lock(tmp_path / ".lock", "", refuse, for_all_users=True):
        assert (tmp_path / ".lock").lstat().st_mode == kind


def test_a_full_disk_that_takes_no_lock_is_told_as_one(tmp_path, monkeypatch):
    def full(*_arguments, **_named):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("common.locks.FileLock.acquire", full)
    with pytest.raises(OSError, match="No space left"), lock(tmp_path / "lock", "", refuse):
        pytest.fail("nothing was locked")


def test_a_file_is_no_run_folder(tmp_path):
    (tmp_path / "run").write_text("")
    with pytest.raises(ConfigError, match="is a file"):
        check_free(tmp_path / "run")


# --------------------------------------------------------------------------------- who holds it


def test_a_process_tells_its_command_and_since_when(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["/opt/bin/protege", "merge", "my config.yaml"])
    assert re.fullmatch(
        rf"pid {os.getpid()}, protege merge 'my config.yaml', since \d{{4}}(-\d\d){{2}} \d\d:\d\d:\d\d",
        this_process(),
    )
    monkeypatch.setattr(sys, "argv", ["protege", "x" * 1000])
    assert len(command()) == 200 and command().endswith("...")


def test_a_run_folder_in_use_tells_the_command_that_uses_it(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["protege", "merge", "config.yaml"])
    with RunLock(tmp_path), pytest.raises(ConfigError, match=r"started .*, protege merge config\.yaml\)"):
        RunLock(tmp_path).__enter__()


def test_a_full_disk_takes_the_holder_s_text_and_not_the_lock(tmp_path, monkeypatch):
    def full(*_args: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "pwrite", full)
    for for_all_users in (True, False):
        with lock(tmp_path / "lock", "text", refuse, for_all_users=for_all_users):
            assert not is_free(tmp_path / "lock")
