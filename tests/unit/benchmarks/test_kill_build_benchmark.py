"""What benchmarks/kill_build.py concludes from accuracies; the builds themselves are real and run by hand."""

from __future__ import annotations

import pytest

from benchmarks import kill_build
from benchmarks.kill_build import prediction_interval


def test_where_a_further_build_would_lie_by_hand():
    # t(0.975, 2) = 4.3027, s = 0.05, sqrt(1 + 1/3) = 1.1547
    assert prediction_interval([0.50, 0.60, 0.55]) == pytest.approx((0.3016, 0.7984), abs=1e-4)
    low, high = prediction_interval([0.5, 0.5, 0.5])
    assert low == high == 0.5


def test_too_few_undisturbed_builds_are_refused(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(
        "sys.argv", ["kill_build", "c.yaml", "--undisturbed", "2", "--out", str(tmp_path / "o")]
    )
    with pytest.raises(SystemExit) as ended:
        kill_build.read_options()
    assert ended.value.code == 2 and "fewer than 3 builds" in capsys.readouterr().err
