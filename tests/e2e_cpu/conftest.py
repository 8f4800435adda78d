"""What holds for all end-to-end tests."""

from collections.abc import Iterator

import pytest

from tests.helpers.processes import end_started


@pytest.fixture(autouse=True)
def _nothing_runs_on() -> Iterator[None]:
    yield
    end_started()
