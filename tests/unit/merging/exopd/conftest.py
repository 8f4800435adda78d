"""Fixtures of the tests of what verl is told."""

from __future__ import annotations

from pathlib import Path

import pytest

from merging.exopd.job import merge_job
from tests.helpers.merge_jobs import TEACHERS, config_with
from tests.helpers.verl_configs import composed_once, verl_values


@pytest.fixture(scope="module")
def compiled():
    """verl's full configuration of a merge config, by dotted path."""
    with composed_once():
        yield lambda config: verl_values(
            merge_job(config, "merge", TEACHERS, Path("/run/train.parquet"), Path("/run/train"))
        )


@pytest.fixture(scope="module")
def cpu(compiled):
    return compiled(config_with())
