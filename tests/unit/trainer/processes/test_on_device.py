"""A function that runs on a device of the cluster, with a stand-in for Ray: what it yields, how it fails."""

from __future__ import annotations

import pytest
import ray
from ray.exceptions import RayTaskError, WorkerCrashedError

from common.errors import ConfigError, RunFailed
from merging.state.cluster import Cluster
from tests.helpers.messages import refuses
from trainer.processes import on_device as module
from trainer.processes.on_device import on_device


def counted(most):
    yield from range(most)


def refused(most):
    yield most
    raise ConfigError("student: has no chat template")


def broken(most):
    yield most
    raise KeyError("lost")


class FakeTask:
    """Runs a generator here; what it yields or raises is got from references, as from Ray."""

    def __init__(self, function, given):
        self.function, self.given = function, given

    def options(self, **options):
        self.given.update(options)
        return self

    def remote(self, *arguments):
        answers, sent = self.function(*arguments), None
        while True:
            try:
                answer, sent = answers.send(sent), "ray's"  # Ray sends to the generator
                yield ("answer", answer)
            except StopIteration:
                return
            except Exception as error:
                yield ("error", RayTaskError("f", "ray's traceback", error))
                return


@pytest.fixture
def given(monkeypatch):
    options = {}
    monkeypatch.setattr(
        ray, "remote", lambda **given: lambda f: options.update(given) or FakeTask(f, options)
    )

    def get(reference):
        kind, value = reference
        if kind == "error":
            raise value
        return value

    monkeypatch.setattr(ray, "get", get)
    return options


def test_it_takes_one_device_and_hands_on_each_answer(given):
    assert list(on_device(counted, 3)) == [0, 1, 2]
    assert given.pop("name").endswith("test_on_device.counted")
    assert given == {"num_cpus": 1, "num_gpus": 1, "max_retries": 0, "num_returns": "streaming"}


def test_a_refusal_there_is_one_here(given):
    answers = on_device(refused, 1)
    assert next(answers) == 1
    with refuses("student", "no chat template", error=ConfigError):
        next(answers)


def test_another_error_fails_the_run(given, monkeypatch):
    with refuses("test_on_device.broken failed", "first error: KeyError: 'lost'", error=RunFailed):
        list(on_device(broken, 1))

    def crashed(_):
        raise WorkerCrashedError

    monkeypatch.setattr(ray, "get", crashed)
    with refuses("first error: WorkerCrashedError", "died unexpectedly", error=RunFailed):
        list(on_device(counted, 1))


def test_a_joined_cluster_is_asked_and_this_process_otherwise(monkeypatch, tmp_path):
    from types import SimpleNamespace

    monkeypatch.setattr(module, "on_device", lambda function, *arguments: iter(["there"]))
    joined = Cluster(SimpleNamespace(hardware=SimpleNamespace(ray_address="x:1")), tmp_path)
    monkeypatch.setattr(Cluster, "__call__", lambda self: None)
    assert list(joined.on_device(counted, 2)) == ["there"]
    alone = Cluster(SimpleNamespace(hardware=SimpleNamespace(ray_address=None)), tmp_path)
    assert list(alone.on_device(counted, 2)) == [0, 1]
