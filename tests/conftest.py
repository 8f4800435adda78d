"""Settings of all tests, and the option with which a machine that has everything lets nothing be skipped."""

from __future__ import annotations

import os
from collections.abc import Generator
from pathlib import Path

import pytest

# On shared cores a second thread makes small models slower, not faster.
os.environ.setdefault("OMP_NUM_THREADS", "1")

MAY_SKIP = "--may-skip"


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        MAY_SKIP,
        metavar="MARK,...",
        help="only tests with one of these marks may be skipped; any other that is skipped counts as failed",
    )


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    marks = {mark.name for mark in item.iter_markers()}
    if report.skipped and not hasattr(report, "wasxfail") and not _may_skip(item.config, marks):
        _fail(report)
    return report


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_make_collect_report(
    collector: pytest.Collector,
) -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    report = yield
    marks = {mark.name for mark in collector.iter_markers()}
    if report.skipped and not _may_skip(collector.config, marks):
        _fail(report)
    return report


def _may_skip(config: pytest.Config, marks: set[str]) -> bool:
    allowed = config.getoption(MAY_SKIP)
    return allowed is None or bool(marks & set(allowed.split(",")))


def _fail(report: pytest.TestReport | pytest.CollectReport) -> None:
    reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
    report.outcome = "failed"
    report.longrepr = f"{reason}\n{MAY_SKIP} lets this test not be skipped: install what it needs"


@pytest.fixture
def in_tmp(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The test works in a folder of its own."""
    monkeypatch.chdir(tmp_path)
