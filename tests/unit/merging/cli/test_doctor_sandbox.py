"""`protege doctor` says which layers of the sandbox a machine has."""

import pytest

from eval.sandbox import client
from eval.sandbox.client import SandboxResult
from merging.cli import doctor


def test_the_layers_of_this_machine_are_named():
    said = doctor.sandbox()
    assert said.startswith("seccomp")
    assert ("no Landlock" in said) == ("landlock" not in client.layers())


@pytest.mark.parametrize(
    ("layers", "facts"),
    [
        (("seccomp", "landlock", "namespaces"), ()),
        (("seccomp", "namespaces"), ("no Landlock", "can read")),
        (("seccomp",), ("no Landlock", "no user namespaces")),
    ],
)
def test_what_is_missing_is_said(monkeypatch, layers, facts):
    monkeypatch.setattr(client, "layers", lambda: layers)
    said = doctor.sandbox()
    assert all(fact in said for fact in facts) and ("no " in said) == bool(facts)


def test_a_sandbox_that_does_not_run_a_right_program_is_a_failure(monkeypatch):
    monkeypatch.setattr(client, "run_tests", lambda *_: SandboxResult("crashed", 0, 1, "signal 31"))
    with pytest.raises(RuntimeError, match="signal 31"):
        doctor.sandbox()
