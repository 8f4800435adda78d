"""What a finished merge says in the terminal: the headline and the primary questions, nothing secondary."""

from __future__ import annotations

import json
from types import SimpleNamespace

from merging import run


def test_the_terminal_shows_the_headline_and_the_primary_questions_only(tmp_path, monkeypatch):
    report = {
        "headline": {"sentence": "it is not shown"},
        "questions": [{"sentence": "math teacher"}, {"sentence": "math merge"}],
        "verdicts": [{"sentence": "math base"}],
    }
    (tmp_path / "report.json").write_text(json.dumps(report))
    said = []
    monkeypatch.setattr(run, "say", said.append)
    monkeypatch.setattr("merging.reports.reporting.write", lambda *_: tmp_path / "report.html")
    run.report(SimpleNamespace(path=tmp_path), [], {})
    first, training, *questions, last = said
    assert (first, questions) == ("it is not shown", ["math teacher", "math merge"])
    assert "one training run" in training
    assert last == f"report: {tmp_path / 'report.html'}"
