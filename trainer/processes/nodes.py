"""The nodes of a Ray cluster that a run has joined: what they must have, and how its processes there fare.

A run that starts Ray itself finds all of its processes below its own, and all of their logs in one folder. Of
a joined cluster it sees one machine at most. So a watcher lives on every node: an actor that looks after the
processes and logs of this run there. Its end, by whatever cause, ends what the run has left on that node.
"""

from __future__ import annotations

import os
import shlex
import sys
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil

from common.errors import ConfigError
from trainer.cpu.fork_server import CLIENT, PRELOADED, ForkServer
from trainer.processes import private, reaper
from trainer.processes.devices import living, name_of
from trainer.processes.logs import collected, newest_error
from trainer.processes.stall import activity
from trainer.processes.watch import EngineErrors, PartsWatch, parts_among

CANNOT_RUN = (
    "node {name} of the Ray cluster cannot run Protege ({error}); every node needs the same environment, "
    "with Protege installed, at the same path"
)

LOST = "node {name} of the Ray cluster does not answer ({error})"

ANSWER_SECONDS = 8.0
"""How long a watcher may take to answer a run that is failing or stalled."""

WARM = "python"
"""In a run's folder: what stands for `python` on this machine (`common.processes.warm_python`)."""

START_SECONDS = 300.0
"""How long all watchers may take to start: each is one small process."""


class NodeWatcher:
    """Looks after one run on one node; every method but `activity` answers at once."""

    def __init__(
        self, mark: str, job: str, folder: Path, logs: Path | None = None, forks: bool = False
    ) -> None:
        """`folder` is for the run's temporary files; it is made here, and removed at the end. With `forks`
        this run's workers on this node are forked (`fork_client`)."""
        self.mark, self.job, self.logs = mark, job, logs if logs is not None else _own_logs()
        folder.mkdir(mode=0o700, exist_ok=True)
        reaper.note(folder, private.verls_sockets(job))
        # it holds a pipe to this process, and ends the run's processes on this node when the pipe closes
        self.reaper = reaper.start(mark, folder, detached=True)
        self.server = serve_forks(folder) if forks else None
        self.begin()

    def begin(self) -> None:
        """A training begins: parts and errors of an earlier one count no more."""
        self.parts = PartsWatch.from_now(lambda: parts_among(_processes(self.mark)))
        self.engines = EngineErrors(self.logs, self.job)

    def missing(self, paths: Sequence[str]) -> list[str]:
        """Those of the paths that do not exist here."""
        return [path for path in paths if not Path(path).exists()]

    def problem(self) -> str | None:
        """What has died, or which error an engine has had for long enough; None where all is well."""
        if (part := self.parts.dead()) is not None:
            return f"{part} died"
        if (error := self.engines.lasting()) is not None:
            return f"a vLLM engine failed: {error}"
        return None

    def activity(self) -> str:
        """As `stall.activity`, of this run's parts on this node; takes its second."""
        return activity(_processes(self.mark))

    def engine_error(self) -> str | None:
        """The first error that an engine logged in this training."""
        return self.engines.first()

    def newest_error(self) -> tuple[float, str] | None:
        """As `logs.newest_error`, of this run's workers on this node."""
        return newest_error(self.logs, self.job)

    def log_text(self) -> str:
        """As `logs.collected`, of this run's workers on this node."""
        return collected(self.logs, self.job)


def fork_client(folder: Path) -> str:
    """What the shell of a node runs instead of `python` for a worker of this run, in whose folder it is.

    Nodes of one machine share the folder: each has its own server, by the number of its raylet. Where a node
    has none yet, as for the watcher itself, the client becomes Python.
    """
    client = [sys.executable, "-S", "-E", str(CLIENT)]
    return (
        f"{shlex.join(client)} {shlex.quote(str(folder))}/$RAY_RAYLET_PID.sock {shlex.quote(sys.executable)}"
    )


def serve_forks(folder: Path, modules: Sequence[str] = PRELOADED) -> ForkServer:
    """A fork server of this process's node, where `fork_client` looks for it."""
    server = ForkServer(folder / f"fork_server-{os.environ['RAY_RAYLET_PID']}.log", modules, within=folder)
    server.launch(python=sys.executable)  # and not forked from that of another node, whose Ray it would have
    (folder / f"{os.environ['RAY_RAYLET_PID']}.sock").symlink_to(server.address)
    with suppress(FileExistsError):  # of another node on this machine
        (folder / WARM).symlink_to(server.executable)
    return server


def _processes(mark: str) -> Iterator[psutil.Process]:
    for process in reaper.processes_of(mark):
        with suppress(psutil.Error):
            yield psutil.Process(process.pid)


def _own_logs() -> Path:
    from ray._private import worker

    assert worker._global_node is not None, "not a process of Ray"
    return Path(worker._global_node.get_logs_dir_path())


class Nodes:
    """The watchers of all nodes, from the command's side."""

    def __init__(self, watchers: Mapping[str, Any]) -> None:
        """`watchers` by the node's name; `join` starts them."""
        self.watchers = dict(watchers)
        self.asked: dict[str, Any] = {}

    @classmethod
    def join(cls, mark: str, folder: Path, forks: bool = False) -> Nodes:
        """Starts a watcher on every node, with a `folder` for temporary files there; `forks` as it has it.

        Raises ConfigError for a node where this code cannot run.
        """
        import ray
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        job = ray.get_runtime_context().get_job_id()
        actor = ray.remote(num_cpus=0)(NodeWatcher)
        watchers = {}
        for node in living(ray.nodes()):
            place = NodeAffinitySchedulingStrategy(node_id=node["NodeID"], soft=False)
            watchers[name_of(node)] = actor.options(scheduling_strategy=place).remote(
                mark, job, folder, forks=forks
            )
        nodes = cls(watchers)
        nodes.check_runnable()
        return nodes

    def check_runnable(self) -> None:
        """Raises ConfigError for a node whose watcher does not start: this code cannot run there."""
        self._ask("missing", [], seconds=START_SECONDS, refusal=CANNOT_RUN)

    def begin(self) -> None:
        """A training begins: see `NodeWatcher.begin`."""
        self.asked = {}
        self._ask("begin")

    def check_paths(self, paths: Sequence[str]) -> None:
        """Raises ConfigError for a path of this machine that another node does not have."""
        answers = self._ask("missing", list(paths))
        problems = [
            f"node {name} of the Ray cluster has no {', '.join(missing[:3])}: all nodes need the run folder, "
            "the registry and the models at the same paths, on a file system that they share"
            for name, missing in answers.items()
            if missing
        ]
        if problems:
            raise ConfigError(*problems)

    def problem(self) -> str | None:
        """What is wrong on a node, as far as the answers are there; asks again. Never waits."""
        import ray
        from ray.exceptions import RayError

        for name, watcher in self.watchers.items():
            reference = self.asked.get(name)
            if reference is not None:
                if not ray.wait([reference], timeout=0)[0]:
                    continue
                try:
                    answer = ray.get(reference)
                except RayError as error:
                    return f"node {name} of the Ray cluster is lost: {_last_line(error)}"
                if answer is not None:
                    return f"{answer} on node {name}"
            self.asked[name] = watcher.problem.remote()
        return None

    def activity(self) -> str:
        """What the parts of the run do on each node."""
        answers, errors = self._answers("activity", (), ANSWER_SECONDS)
        silent = {name: f"does not answer ({error})" for name, error in errors.items()}
        return "; ".join(f"node {names}: {told}" for names, told in _grouped({**answers, **silent}))

    def drop_silent(self) -> str | None:
        """Which nodes do not answer, None where all do; they are not asked again."""
        _, errors = self._answers("missing", ([],), ANSWER_SECONDS)
        self.watchers = {name: watcher for name, watcher in self.watchers.items() if name not in errors}
        return "; ".join(LOST.format(name=names, error=error) for names, error in _grouped(errors)) or None

    def engine_error(self) -> str | None:
        """The first error of an engine on any node."""
        return next(filter(None, self._ask_living("engine_error").values()), None)

    def newest_error(self) -> str | None:
        """The newest exception that a worker of this run wrote on any node."""
        found = [pair for pair in self._ask_living("newest_error").values() if pair is not None]
        return max(found)[1] if found else None

    def log_text(self) -> str:
        """The ends of this run's logs on all nodes; nodes of one machine share their logs."""
        texts = _grouped(self._ask_living("log_text"))
        return "\n".join(f"##### node {names}\n{text}" for names, text in texts)

    def _ask(
        self, method: str, *arguments: Any, seconds: float = 60.0, refusal: str = LOST
    ) -> dict[str, Any]:
        """Every watcher's answer; raises ConfigError for those without one."""
        answers, errors = self._answers(method, arguments, seconds)
        if errors:
            raise ConfigError(*(refusal.format(name=name, error=error) for name, error in errors.items()))
        return answers

    def _ask_living(self, method: str) -> dict[str, Any]:
        """The answers of those watchers that give one."""
        return self._answers(method, (), ANSWER_SECONDS)[0]

    def _answers(
        self, method: str, arguments: Iterable[Any], seconds: float
    ) -> tuple[dict[str, Any], dict[str, str]]:
        import ray
        from ray.exceptions import RayError

        deadline = time.monotonic() + seconds
        asked = {name: getattr(watcher, method).remote(*arguments) for name, watcher in self.watchers.items()}
        answers, errors = {}, {}
        for name, reference in asked.items():
            try:
                answers[name] = ray.get(reference, timeout=max(0.1, deadline - time.monotonic()))
            except RayError as error:
                errors[name] = _last_line(error)
        return answers, errors


def _grouped(answers: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    """The names of the nodes that answer the same, and the answer: nodes may share a machine."""
    nodes: dict[str, list[str]] = {}
    for name, text in answers.items():
        nodes.setdefault(text, []).append(name)
    return ((", ".join(names), text) for text, names in nodes.items())


def _last_line(error: BaseException) -> str:
    """The last line of Ray's text, which holds the remote error, or its class."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__
