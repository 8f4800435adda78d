"""One folder for all temporary files of a command, and of what it starts, gone with it however it ends.

Ray's part of a run has a folder and a reaper of its own (`ray_cluster`): it ends before the command does.
"""

from __future__ import annotations

import getpass
import os
import subprocess
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from trainer.processes import reaper

USUAL = "PROTEGE_USUAL_TMPDIR"
"""Environment variable with the machine's folder for temporary files, where `TMPDIR` is a command's own."""

END_SECONDS = 30.0
"""How long a reaper may take."""


@contextmanager
def private_folder() -> Iterator[Path]:
    """A new folder that only this user may enter; in the block it is the one for temporary files.

    When the block ends, or this process by whatever cause, the reaper ends what was started in it and still
    runs, and removes the folder.
    """
    mark, usual = uuid.uuid4().hex, usual_folder()
    folder = usual / f"protege-{mark[:8]}"
    environment = {reaper.MARK: mark, "TMPDIR": str(folder), USUAL: str(usual), **compiled_code()}
    before = {key: os.environ.get(key) for key in environment}
    guard = reaper.start(mark, folder)
    folder.mkdir(mode=0o700)
    os.environ.update(environment)
    tempfile.tempdir = str(folder)
    try:
        yield folder
    finally:
        end(guard)
        tempfile.tempdir = None
        restore(before)


def folder() -> Path | None:
    """That of the `private_folder` block around, None outside of one."""
    return Path(os.environ["TMPDIR"]) if USUAL in os.environ else None


def usual_folder() -> Path:
    """The machine's folder for temporary files, also within a `private_folder`."""
    return Path(os.environ.get(USUAL) or tempfile.gettempdir())


def compiled_code() -> dict[str, str]:
    """Environment for what torch has compiled: it stays where the next run finds it."""
    usual = usual_folder() / f"torchinductor_{getpass.getuser()}"
    return {"TORCHINDUCTOR_CACHE_DIR": os.environ.get("TORCHINDUCTOR_CACHE_DIR", str(usual))}


def end(guard: subprocess.Popen[bytes]) -> None:
    """Has a reaper do its work and end; one that cannot is left to it."""
    assert guard.stdin is not None
    guard.stdin.close()
    with suppress(subprocess.TimeoutExpired):
        guard.wait(END_SECONDS)


def restore(before: dict[str, str | None]) -> None:
    """Sets these environment variables to what they were."""
    for key, value in before.items():
        if value is None:
            os.environ.pop(key, None)
        else:
            os.environ[key] = value


def verls_sockets(job: str) -> str:
    """Pattern of the sockets through which verl sends weights in this job of Ray's."""
    return f"/tmp/rl-colocate-zmq-{job}-*.sock"
