"""What a finished merge says in the terminal: no line on the teachers of other domains."""

from __future__ import annotations

import json
from types import SimpleNamespace

from merging import run


def test_verdicts_on_other_domains_teachers_stand_in_the_report_only(tmp_path, monkeypatch):
    def verdict(domain, against, role):
        return {"domain": domain, "against": against, "role": role, "sentence": f"{domain} {against}"}

    verdicts = [
        verdict("math", "math-teacher", "teacher"),
        verdict("math", "base", "base"),
        verdict("math", "average", "baseline"),
        verdict("math", "code-teacher", "teacher"),
        verdict("prose", "prose", "teacher"),  # not measured: the domain has no teacher here
    ]
    (tmp_path / "report.json").write_text(json.dumps({"verdicts": verdicts}))
    said = []
    monkeypatch.setattr(run, "say", said.append)
    monkeypatch.setattr("merging.reports.reporting.write", lambda *_: tmp_path / "report.html")
    names = {"math": "math-teacher", "code": "code-teacher"}
    run.report(SimpleNamespace(path=tmp_path, teacher_names=lambda: names), [], {})
    assert said == [
        "math math-teacher", "math base", "math average", "prose prose",
        f"report: {tmp_path / 'report.html'}",
    ]  # fmt: skip
