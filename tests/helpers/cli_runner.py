"""Runs the real command line for the tests."""

from __future__ import annotations

import os
import subprocess
import sys
from types import SimpleNamespace

from typer.testing import CliRunner

from merging.cli.main import app
from tests.helpers.paths import ROOT


def protege(*arguments: object) -> SimpleNamespace:
    """The real app in this process; `errors` are stderr's lines."""
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return SimpleNamespace(
        code=result.exit_code, out=result.stdout, err=result.stderr, errors=result.stderr.splitlines()
    )


def refused(*arguments: object, prints: bool = False) -> str:
    """The one message with which a command refuses; it may print before that only where `prints` is set."""
    result = protege(*arguments)
    assert result.code == 2, result.out + result.err
    assert "Traceback" not in result.err and (prints or result.out == "")
    (message,) = result.errors
    assert message.startswith("error: ")
    return message.removeprefix("error: ")


def subprocess_protege(*arguments: object, **settings) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "merging.cli.main", *map(str, arguments)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.run(command, capture_output=True, text=True, env=environment, check=False, **settings)
