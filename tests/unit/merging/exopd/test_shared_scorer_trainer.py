"""When the trainer mode starts the scorer, takes its memory back, and ends it; verl's own steps stand in."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from omegaconf import OmegaConf

pytest.importorskip("torch")

from merging.exopd import trainer as trainer_module
from merging.exopd.replicas.actor import Usage
from merging.exopd.replicas.broker import scoring_metrics
from merging.exopd.replicas.start import spread
from merging.exopd.trainer import SharedScorerTrainer
from merging.exopd.without_pool import WithoutTeacherPool


class Scorer:
    """Notes what it is asked for."""

    def __init__(self, done: list[str]) -> None:
        self.done = done

    def wait(self) -> None:
        self.done.append("wait")

    def release(self) -> dict[str, float]:
        self.done.append("release")
        return {"scorer/passes": float(len(self.done))}

    def end(self) -> None:
        self.done.append("end")


@pytest.fixture
def done(monkeypatch) -> list[str]:
    """What happens, in order: verl's steps by their names, and the scorer's."""
    done: list[str] = []

    def verls(name: str, fails: bool = False):
        def step(self, *_args, **_kwargs):
            done.append(f"verl {name}")
            if fails:
                raise RuntimeError(name)

        return step

    base = WithoutTeacherPool
    for name in ("_setup", "on_init_end", "on_sample_end", "fit"):
        monkeypatch.setattr(base, name, verls(name), raising=False)
    return done


@pytest.fixture
def trainer(done):
    made = object.__new__(SharedScorerTrainer)
    made.scoring, made.scorer = {}, Scorer(done)
    return made


def test_the_scorer_starts_once_vllm_has_measured_its_memory(trainer, done, monkeypatch, tmp_path):
    def start(settings, replicas, bundles, shared):
        done.append("start")
        asked.update(settings=settings, replicas=replicas, bundles=bundles, shared=shared)
        return Scorer(done)

    asked: dict = {}
    monkeypatch.setattr(trainer_module, "start_scorer", start)
    group = SimpleNamespace(bundle_count=2)
    pool = SimpleNamespace(pgs=[group, group], max_colocate_count=3)
    trainer.resource_pool_manager = SimpleNamespace(resource_pool_dict={"global_pool": pool})
    scorer = {"models": {"math": "/m"}, "base": "/b", "device": "cuda", "dtype": "bfloat16",
              "tokens_per_batch": 7, "canary": True, "replicas": 4, "top_k": None}  # fmt: skip
    trainer.config = OmegaConf.create(
        {"protege": {"scorer": scorer}, "distillation": {},
         "trainer": {"default_local_dir": f"{tmp_path}/train/checkpoints"}}
    )  # fmt: skip
    trainer.init()
    assert done == ["verl _setup", "start", "verl on_init_end", "wait", "release"]
    assert asked["replicas"] == 4 and asked["shared"] == tmp_path / "train" / "scorer_weights"
    assert asked["settings"] == {name: scorer[name] for name in scorer if name not in ("replicas", "top_k")}
    places = [(bundle.index, bundle.processes) for bundle in asked["bundles"]]
    assert places == [(0, 3), (1, 3), (0, 3), (1, 3)] and asked["bundles"][3].group is group


def test_memory_is_given_back_before_the_update_and_the_step_is_measured(trainer, done):
    trainer.on_sample_end()
    assert done == ["release", "verl on_sample_end"]
    assert trainer.scoring == {"scorer/passes": 1.0}


def test_what_verl_logs_of_a_steps_scoring():
    usages = [Usage(1.5, 3, {"math": 4, "reference": 5}), Usage(0.5, 0, {"reference": 2})]
    assert scoring_metrics(0.25, usages) == {
        "scorer/exposed_seconds": 0.25, "scorer/passes": 11.0,
        "scorer/0/busy_seconds": 1.5, "scorer/0/swaps": 3.0,
        "scorer/1/busy_seconds": 0.5, "scorer/1/swaps": 0.0,
    }  # fmt: skip


@pytest.mark.parametrize("fails", [False, True])
def test_the_scorer_ends_with_the_training(trainer, done, monkeypatch, fails):
    if fails:
        monkeypatch.setattr(WithoutTeacherPool, "fit", lambda *_: (_ for _ in ()).throw(RuntimeError("fit")))
        with pytest.raises(RuntimeError, match="fit"):
            trainer.fit(None)
    else:
        trainer.fit(None)
    assert done[-1] == "end"


@pytest.mark.parametrize(
    ("replicas", "bundles", "expected"),
    [
        (1, 8, [0]),
        (2, 2, [0, 1]),
        (2, 8, [0, 4]),  # of two nodes with four devices each, one on each
        (3, 4, [0, 1, 2]),
        (8, 8, list(range(8))),
        (5, 2, [0, 1, 0, 1, 0]),
    ],
)
def test_replicas_are_spread_over_the_devices(replicas, bundles, expected):
    assert spread(replicas, bundles) == expected
