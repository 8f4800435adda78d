"""Runs the real command line for the tests."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

from typer.testing import CliRunner

from merging.cli import app

ROOT = Path(__file__).resolve().parents[2]


def protege(*arguments: object) -> SimpleNamespace:
    """The real app in this process; `errors` are stderr's lines."""
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return SimpleNamespace(
        code=result.exit_code, out=result.stdout, err=result.stderr, errors=result.stderr.splitlines()
    )


def subprocess_protege(*arguments: object, **settings) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "merging.cli", *map(str, arguments)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.run(command, capture_output=True, text=True, env=environment, check=False, **settings)
