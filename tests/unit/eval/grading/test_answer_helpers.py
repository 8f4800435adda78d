"""The helper of a user's function ends with all that it started, and never outlives its client for long."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time

import psutil
import pytest

from eval.grading import answer_graders
from eval.grading.answer_graders import score
from eval.grading.workers import Worker, WorkerLost
from eval.records import Completion
from tests.helpers.paths import ROOT

HANGS = "import re, time\ndef reward(completion, answer, finished):\n    {body}\n"


def test_what_a_function_has_started_ends_when_its_time_is_over(monkeypatch, tmp_path):
    monkeypatch.setattr(answer_graders, "PYTHON_LIMIT_S", 1.5)
    told = tmp_path / "pid"
    body = (
        "import subprocess\n    p = subprocess.Popen(['sleep', '77'])\n"
        f"    open({str(told)!r}, 'w').write(str(p.pid))\n    p.wait()\n    return 1.0"
    )
    settings = {"kind": "python", "source": HANGS.format(body=body), "path": "judge.py", "function": "reward"}
    found = score(settings, Completion("x", 1, True), None)
    assert found.value is None and "no answer within 1.5 s" in found.detail
    pid = int(told.read_text())
    for _ in range(50):
        if not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE:
            return
        time.sleep(0.1)
    pytest.fail("a process of the function goes on")


@pytest.mark.parametrize("body", ["time.sleep(60)", "re.match('(a+)+$', 'a' * 40 + 'b')"])
def test_a_helper_that_nobody_ends_is_ended_by_the_kernel(body):
    question = {"source": HANGS.format(body=body), "path": "judge.py", "function": "reward", "text": "x"}
    script = (
        "import sys; from eval.grading import answer_worker as w; "
        "w.LAST_SECONDS = 1; sys.argv[1:] = ['python']; w.main()"
    )
    helper = subprocess.Popen([sys.executable, "-c", script], cwd=ROOT, stdin=subprocess.PIPE, text=True)
    helper.communicate(json.dumps({**question, "answer": None, "finished": True}) + "\n", timeout=30)
    assert helper.returncode == -signal.SIGALRM


def test_tags_are_found_in_no_time():
    started = time.monotonic()
    assert answer_graders.last_tag("<answer>" * 50_000) is None
    many = "<answer>a</answer>" * 50_000 + "<answer>b <answer>c</answer>d</answer>"
    assert answer_graders.last_tag(many) == "b <answer>c"
    assert time.monotonic() - started < 5


@pytest.mark.parametrize("print_more", ["print('{}')", "print(3)", "print('[' * 100_000)"])
@pytest.mark.parametrize("unbuffered", [False, True])
def test_a_helper_that_writes_what_is_no_answer_is_lost_and_the_next_one_is_right(
    tmp_path, print_more, unbuffered
):
    """An object on a line of its own cannot be told from the answer; it is not taken for the next one."""
    (tmp_path / "twice.py").write_text(
        "import json, sys\n"
        "for line in sys.stdin:\n"
        "    question = json.loads(line)\n"
        f"    if question['twice']: {print_more}\n"
        "    print(json.dumps(question), flush=True)\n"
    )
    buffering = {"PYTHONUNBUFFERED": "1" if unbuffered else ""}
    worker = Worker("twice", environment={"PYTHONPATH": str(tmp_path), **buffering})
    try:
        assert (worker.ask({"number": 1, "twice": True}, 20), print_more) == (
            {},
            "print('{}')",
        ) and unbuffered
    except WorkerLost as error:
        assert "no answer" in str(error)
    time.sleep(0.3)
    assert worker.ask({"number": 2, "twice": False}, 20) == {"number": 2, "twice": False}
    worker.close()
