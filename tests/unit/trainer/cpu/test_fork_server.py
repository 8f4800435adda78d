"""Forked processes behave like started ones: arguments, files, exit codes, signals, and who ends whom."""

from __future__ import annotations

import contextlib
import fcntl
import os
import signal
import subprocess
import sys
import time

import pytest

from common.processes import WARM_PYTHON
from tests.helpers.paths import ROOT
from trainer.cpu import fork_server
from trainer.processes.reaper import MARK, marked_processes

PRELOADED = ("json", "decimal", "no_such_module_anywhere")


@pytest.fixture(scope="module")
def log(tmp_path_factory):
    return tmp_path_factory.mktemp("fork") / "logs" / "fork_server.log"


@pytest.fixture(scope="module")
def python(log):
    with fork_server.ForkServer(log, PRELOADED) as server:
        server.launch({"AT_IMPORT": "seen", MARK: "a" * 32})
        yield str(server.executable)


def run(python, *arguments, **options):
    return subprocess.run(
        [python, *arguments], capture_output=True, text=True, timeout=60, check=False, **options
    )


def test_imports_are_there_before_anything_runs(python, log):
    code = "import sys; print('decimal' in sys.modules, sys.modules['decimal'].__file__ is not None)"
    assert run(python, "-c", code).stdout == "True True\n"
    text = log.read_text()
    assert "not preloaded: no_such_module_anywhere: ModuleNotFoundError" in text
    assert "imported; 1 threads" in text


def test_runs_code_a_module_and_a_script(python, tmp_path):
    assert run(python, "-c", "import sys; print(sys.argv)", "a", "b").stdout == "['-c', 'a', 'b']\n"
    assert run(python, "-m", "json", "--help").stdout.startswith("usage:") or run(
        python, "-m", "json.tool", "--help"
    ).stdout.startswith("usage:")
    script = tmp_path / "script.py"
    (tmp_path / "beside.py").write_text("VALUE = 7\n")
    script.write_text("import sys, beside\nprint(sys.argv[1:], beside.VALUE, __name__)\n")
    assert run(python, "-u", str(script), "x").stdout == "['x'] 7 __main__\n"


def test_folder_environment_and_standard_streams_are_the_callers(python, tmp_path):
    code = "import os, sys; print(os.getcwd(), os.environ.get('ONLY'), len(os.environ), sys.stdin.read())"
    ended = run(python, "-c", code, cwd=tmp_path, env={"ONLY": "this", "PATH": "/bin"}, input="typed")
    folder, only, size, typed = ended.stdout.split()
    assert (folder, only, typed) == (str(tmp_path), "this", "typed")
    assert int(size) <= 6  # what sh and the client add
    assert run(python, "-c", "import sys; sys.stderr.write('oh')").stderr == "oh"


def test_open_files_keep_their_numbers(python):
    reading, writing = os.pipe()
    high = fcntl.fcntl(writing, fcntl.F_DUPFD, 57)  # a number that no other test's object will close
    ended = run(python, "-c", f"import os; os.write({high}, b'through')", pass_fds=[high])
    os.close(writing)
    os.close(high)
    assert ended.returncode == 0, ended.stderr
    assert os.read(reading, 100) == b"through"
    assert os.read(reading, 100) == b"", "somebody else keeps the pipe open"
    os.close(reading)


@pytest.mark.parametrize(
    ("code", "expected"),
    [("pass", 0), ("import sys; sys.exit(3)", 3), ("import sys; sys.exit('why')", 1), ("1/0", 1)],
)
def test_exit_codes(python, code, expected):
    ended = run(python, "-c", code)
    assert ended.returncode == expected
    assert ("why" in ended.stderr) == ("why" in code) and ("ZeroDivisionError" in ended.stderr) == (
        "1/0" in code
    )


def test_exit_handlers_run(python):
    assert (
        run(python, "-c", "import atexit; atexit.register(print, 'bye'); print('hi')").stdout == "hi\nbye\n"
    )


def test_two_processes_draw_different_numbers(python):
    drawn = {run(python, "-c", "import random; print(random.random())").stdout for _ in range(3)}
    assert len(drawn) == 3


def sleeper(python):
    process = subprocess.Popen(
        [python, "-c", "import os, time; print(os.getpid(), flush=True); time.sleep(60)"],
        stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    return process, int(process.stdout.readline())


def gone(pid: int, seconds: float = 10) -> bool:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        try:
            with open(f"/proc/{pid}/stat") as file:
                if file.read().rsplit(")", 1)[1].split()[0] == "Z":
                    return True
        except OSError:
            return True
        time.sleep(0.05)
    return False


def test_a_signal_to_the_client_reaches_the_process(python):
    process, pid = sleeper(python)
    process.send_signal(signal.SIGTERM)
    assert process.wait(20) == 128 + signal.SIGTERM and gone(pid)


@pytest.mark.parametrize("victim", ["client", "process"])
def test_neither_outlives_the_other(python, victim):
    process, pid = sleeper(python)
    if victim == "client":
        process.kill()
        assert gone(pid)
        process.wait(20)
    else:
        os.kill(pid, signal.SIGKILL)
        assert process.wait(20) == 128 + signal.SIGKILL


def spawned(python, script, work: str, after: str = ""):
    """Runs a script whose spawned child puts what `work` computes into a queue; the script prints it."""
    script.write_text(
        "import multiprocessing as mp, sys\n"
        f"def work(queue):\n{work}\n"
        "if __name__ == '__main__':\n"
        "    context = mp.get_context('spawn')\n"
        "    queue = context.Queue()\n"
        "    child = context.Process(target=work, args=(queue,))\n"
        "    child.start()\n"
        "    print(queue.get(timeout=30), flush=True)\n"
        f"{after}"
    )
    return run(python, str(script))


def test_multiprocessing_starts_its_processes_here_too(python, tmp_path):
    ended = spawned(
        python,
        tmp_path / "spawns.py",
        "    queue.put('decimal' in sys.modules)",
        "    child.join(30)\n    print(child.exitcode)\n",
    )
    assert ended.stdout == "True\n0\n", ended.stderr


def test_without_a_server_the_client_becomes_python(tmp_path):
    ended = run(
        sys.executable, "-S", "-E", str(fork_server.CLIENT), str(tmp_path / "none.sock"), sys.executable,
        "-c", "print('plain')",
    )  # fmt: skip
    assert ended.stdout == "plain\n"


def test_nothing_is_left_of_a_server(tmp_path):
    with fork_server.ForkServer(tmp_path / "log", ("json",)) as server:
        server.launch()
        process, pid = sleeper(str(server.executable))
        folder = server.executable.parent
    assert gone(pid) and process.wait(20) != 0
    assert not folder.exists()


def test_a_server_that_outlives_its_owner_cleans_up_when_it_is_ended(tmp_path):
    with fork_server.ForkServer(tmp_path / "log", ("json",)) as server:
        server.launch()
        assert run(str(server.executable), "-c", "print(1)").stdout == "1\n"
        server.process.terminate()  # as the reaper does
        assert server.process.wait(20) == 0
        assert not server.executable.parent.exists()


def test_a_process_waits_for_a_server_that_is_launched_later(tmp_path):
    with fork_server.ForkServer(tmp_path / "log", ("json",)) as server:
        early = subprocess.Popen(
            [str(server.executable), "-c", "import sys; print('json' in sys.modules)"],
            stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        time.sleep(1)
        assert early.poll() is None
        server.launch()
        assert early.communicate(timeout=30)[0] == "True\n"


def test_a_server_that_was_never_launched_leaves_nothing(tmp_path):
    with fork_server.ForkServer(tmp_path / "log") as server:
        folder = server.executable.parent
        assert folder.exists()
    assert not folder.exists() and not (tmp_path / "log").exists()


def test_a_server_lies_where_the_reaper_removes_it(tmp_path):
    with fork_server.ForkServer(tmp_path / "log", within=tmp_path) as server:
        assert server.executable.parent.parent == tmp_path


def test_a_spawned_process_can_name_itself(python, tmp_path):
    pytest.importorskip("setproctitle")
    work = (
        "    import setproctitle\n"
        "    setproctitle.setproctitle('VLLM::Named')\n"
        "    queue.put(open('/proc/self/cmdline').read().rstrip(chr(0)))"
    )
    ended = spawned(python, tmp_path / "named.py", work)
    assert ended.stdout == "VLLM::Named\n", ended.stderr


@pytest.mark.parametrize("library", ["setproctitle", "ray._raylet"])
@pytest.mark.parametrize("forks", [1, 2])
def test_a_name_is_shown_whatever_variable_the_environment_begins_with(library, forks, tmp_path, monkeypatch):
    """Both libraries look for the place of a name beside the environment's first variable."""
    pytest.importorskip(library)
    code = f"import {library} as it; it.setproctitle('Named'); print(open('/proc/self/cmdline').read())"
    monkeypatch.setattr(os, "environ", {"FIRST": "x", **os.environ})
    with contextlib.ExitStack() as servers:
        for number in range(forks):
            server = servers.enter_context(fork_server.ForkServer(tmp_path / f"{number}.log", ("json",)))
            server.launch()
            monkeypatch.setitem(os.environ, WARM_PYTHON, str(server.executable))
            monkeypatch.setitem(os.environ, "FIRST", str(number))
        ended = run(str(server.executable), "-c", code, env={**os.environ, "FIRST": "another"})
    assert ended.stdout.rstrip("\0\n") == "Named", ended.stderr


def test_a_process_has_a_group_of_its_own(python):
    """Ray ends the group of a worker with it: the server and all others must not be in it."""
    assert run(python, "-c", "import os; print(os.getpgrp() == os.getpid())").stdout == "True\n"


def test_a_process_is_found_by_its_own_mark_and_not_by_the_servers(python):
    code = "import os; print(os.getpid(), flush=True); input()"
    marks = {"own": "b" * 32, "shorter": "b" * 31}
    found = {}
    for name, mark in marks.items():
        process = subprocess.Popen(
            [python, "-c", code], env={**os.environ, MARK: mark},
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        pid = int(process.stdout.readline())
        found[name] = [pid in marked_processes(each) for each in (mark, "a" * 32)]
        process.communicate("\n", timeout=20)
    assert found == {"own": [True, False], "shorter": [False, True]}  # no room in place for another length


def test_a_module_that_went_on_without_a_hidden_one_is_whole_for_who_needs_it(tmp_path):
    (tmp_path / "heavy.py").write_text("VALUE = 7\n")
    (tmp_path / "user.py").write_text("try:\n    import heavy\nexcept ImportError:\n    heavy = None\n")
    modules = ("user", "json")
    code = "print('user' in sys.modules, 'json' in sys.modules); import user; print(user.heavy.VALUE)"
    with fork_server.ForkServer(tmp_path / "log", modules, hidden=("heavy",)) as server:
        server.launch({"PYTHONPATH": f"{tmp_path}:{ROOT}"})
        environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
        ended = run(str(server.executable), "-c", f"import sys; sys.path.append({str(tmp_path)!r}); {code}",
                    env=environment)  # fmt: skip
    assert ended.stdout == "False True\n7\n", ended.stderr


@pytest.fixture
def nested(python, tmp_path, monkeypatch):
    """A server that is forked from the other one."""
    monkeypatch.setenv(WARM_PYTHON, python)
    monkeypatch.setenv(MARK, "c" * 32)
    with fork_server.ForkServer(tmp_path / "nested.log", ("fractions", "setproctitle")) as server:
        server.launch()
        yield str(server.executable)


def test_a_server_forked_from_another_has_what_both_import(nested, tmp_path):
    code = "import sys; print([name in sys.modules for name in ('decimal', 'fractions')])"
    assert run(nested, "-c", code).stdout == "[True, True]\n"
    code = "import os; print(os.environ['PROTEGE_RUN_MARK'] in open('/proc/self/environ').read())"
    assert run(nested, "-c", code).stdout == "True\n"
    pytest.importorskip("setproctitle")
    work = (
        "    import setproctitle\n"
        "    setproctitle.setproctitle('VLLM::Named')\n"
        "    queue.put(open('/proc/self/cmdline').read().rstrip(chr(0)))"
    )
    assert spawned(nested, tmp_path / "named.py", work).stdout == "VLLM::Named\n"


def test_a_server_that_goes_before_it_forks_leaves_the_process_to_python(tmp_path):
    with fork_server.ForkServer(tmp_path / "log", ("no_such_module",)) as server:
        process = subprocess.Popen(
            [str(server.executable), "-c", "print('plain')"], stdout=subprocess.PIPE, text=True
        )
        time.sleep(0.5)  # it has connected, and nobody accepts it
        server.listening.close()
        assert process.communicate(timeout=20)[0] == "plain\n"
