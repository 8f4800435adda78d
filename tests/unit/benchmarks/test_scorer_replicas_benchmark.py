"""The benchmark of replicas says what it found; Ray and the clock are not asked here."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks import scorer_replicas as benchmark


def test_what_is_printed():
    found = {
        "replicas": 2,
        "seconds": {"1": [4.0, 5.0, 6.0], "2": [2.0, 2.5, 4.0]},
        "ratios": [2.0, 2.0, 1.5],
        "cpu_ratios": [1.9, 1.8, 1.75],
        "response_tokens": 100,
        "private_bytes": [3 * 2**20, 4 * 2**20],
        "weights_bytes": 300 * 2**20,
        "last_round": {"scorer/0/busy_seconds": 1.5, "scorer/1/busy_seconds": 1.25, "scorer/0/swaps": 2.0,
                       "scorer/1/swaps": 1.0},
        "scores_differ_by": 2.5e-7,
    }  # fmt: skip
    assert benchmark.text(found).splitlines() == [
        "1 replica: 5.00 s (4.00 to 6.00), 20 response tokens a second",
        "2 replicas: 2.50 s (2.00 to 4.00), 40 response tokens a second",
        "2 replicas against 1: 2.00x (1.50 to 2.00) in wall seconds, 1.80x (1.75 to 1.90) in CPU seconds of "
        "the busiest",
        "last round: busy 1.50 s, 1.25 s; swaps 2, 1",
        "scores differ by 2.5e-07 nats at most",
        "weights 300 MiB; private to each replica: 3 MiB, 4 MiB",
    ]


def test_a_ratio_belongs_to_a_pair_of_rounds():
    assert benchmark.ratios([4.0, 5.0], [2.0, 4.0]) == [2.0, 1.25]


def test_the_largest_difference_of_answers():
    rows = [[np.array([0.0, -1.0]), np.array([2.0])], [np.array([3.0])]]
    other = [[np.array([0.5, -1.0]), np.array([2.0])], [np.array([2.25])]]
    assert benchmark.difference(rows, rows) == 0.0 and benchmark.difference(rows, other) == 0.75


def test_one_replica_is_compared_with_nothing(capsys):
    with pytest.raises(SystemExit):
        benchmark.main(["--replicas", "1"])
    assert "give 2 or more" in capsys.readouterr().err
