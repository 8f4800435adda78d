"""Plan, training file and what the loss saw: one number, or the run ends."""

from __future__ import annotations

from types import SimpleNamespace

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from common.errors import RunFailed
from routing.trained_rows import check_file, check_trained, check_written, trained_rows
from tests.helpers.messages import refuses

TEACHERS = ["math", "code", "math", "math", "code", "math", "math", "code"]
"""Two steps of four rows: three and one, then two and two."""

PLANNED = {"math": 5, "code": 3}


@pytest.fixture
def train_file(tmp_path):
    def train_file(teachers=TEACHERS):
        pq.write_table(pa.table({"teacher": teachers, "reward_scale": [1.0] * len(teachers)}), tmp_path / "t")
        return tmp_path / "t"

    return train_file


def line(step: int, **rollouts: float) -> dict[str, float]:
    """What the loss saw in a step: rollouts of each domain."""
    return {"step": step, "loss": 0.5} | {f"teacher/{d}/sequences": float(n) for d, n in rollouts.items()}


def test_rows_that_are_not_the_planned_ones_are_our_own_mistake():
    check_written({"math": 5, "code": 3}, PLANNED)
    with pytest.raises(AssertionError, match=r"planned .*'math': 5.*, written .*'math': 4"):
        check_written({"math": 4, "code": 4}, PLANNED)


def test_a_training_on_the_planned_rows_passes(train_file):
    two_rollouts = [line(1, math=6, code=2), line(2, math=4, code=4)]
    check_trained(train_file(), PLANNED, two_rollouts, 4, 2)


def test_a_step_without_a_line_is_not_compared(train_file):
    check_trained(train_file(), PLANNED, [line(2, math=2, code=2)], 4, 1)
    check_trained(train_file(), PLANNED, [], 4, 1)


def test_a_domain_that_a_step_lacks_counts_zero(train_file):
    file = train_file(["math"] * 4 + ["code"] * 4)
    check_trained(file, {"math": 4, "code": 4}, [line(1, math=4, code=0), line(2, code=4)], 4, 1)


@pytest.mark.parametrize(
    ("lines", "facts"),
    [
        # the steps' rows in another order: the sums over the training agree
        (
            [line(1, math=2, code=2), line(2, math=3, code=1)],
            ("step 1", "planned code 1, math 3", "trained on code 2, math 2"),
        ),
        ([line(1, math=3, code=1), line(2, math=2, code=1)], ("step 2", "planned code 2, math 2")),
        ([line(1, math=3, code=1), line(2)], ("step 2", "trained on code 0, math 0")),
        ([line(1, math=6, code=2)], ("step 1", "planned code 1, math 3", "trained on code 2, math 6")),
        ([line(3, math=3, code=1)], ("step 3", "planned code 0, math 0", "trained on code 1, math 3")),
    ],
    ids=["another order", "a row short", "nothing seen", "twice the rollouts", "no such rows"],
)
def test_a_training_on_other_rows_ends_the_run(train_file, lines, facts):
    with refuses(*facts, "t", error=RunFailed):
        check_trained(train_file(), PLANNED, lines, 4, 1)


@pytest.mark.parametrize("planned", [{"math": 4, "code": 4}, {"math": 5, "code": 3, "chat": 1}, {"math": 5}])
def test_a_file_that_is_not_the_plans_ends_the_run(train_file, planned):
    plan = ", ".join(f"{domain} {count}" for domain, count in sorted(planned.items()))
    with refuses("code 3, math 5", plan, error=RunFailed):
        check_trained(train_file(), planned, [], 4, 1)


def test_a_file_with_several_rows_a_prompt(train_file):
    teachers = ["math", "math", "code", "code", "math", "math"]
    assert check_file(train_file(teachers), {"math": 2, "code": 1}, 2) == teachers
    assert check_file(train_file(teachers), {"math": 4, "code": 2}) == teachers
    with refuses("code 2, math 4", "code 1, math 2", error=RunFailed):
        check_file(train_file(teachers), {"math": 2, "code": 1})


def test_rows_that_were_trained_on():
    lines = [line(1, math=6, code=2), line(2, math=4, code=4)]
    assert trained_rows(lines, ["math", "code"], 2) == {"math": 5, "code": 3}
    assert trained_rows([*lines, line(3, math=2)], ["math", "code"], 2) == {"math": 6, "code": 3}
    assert trained_rows([{"step": 1, "loss": 1.0}], ["math", "code"], 2) == {}
    assert trained_rows([], ["math"], 1) == {}


# ------------------------------------------------------------------------------- every distillation


@pytest.mark.parametrize("name", ["merge", "opd"])
def test_every_distillation_is_checked_before_its_model_is_exported(tmp_path, monkeypatch, train_file, name):
    """Of the merge and of the trained baselines; the training itself is left out here."""
    from merging.training import distil
    from trainer import export

    def lines(_):
        return [
            {"step": step, **{f"actor/teacher/{d}/sequences": 2 for d in ("math", "code")}} for step in (1, 2)
        ]

    training = SimpleNamespace(prompts_per_step=4, samples_per_prompt=1, steps=2, validate_every=None)
    domains = dict.fromkeys(("math", "code"))
    config = SimpleNamespace(
        training=training, domains=domains, student="s", reference_of=lambda domain: "s",
        starts_from=lambda model: model == "s", reward_scale_of=lambda domain: 1.0,
        objective=SimpleNamespace(reward_scale_warmup_steps=0), mixing=SimpleNamespace(kind="balanced"),
    )  # fmt: skip
    folder = SimpleNamespace(
        config=config, path=tmp_path, start=tmp_path, prompts_file="p",
        counts=lambda: {"rows": PLANNED, "all_answered": True},
    )  # fmt: skip
    job = SimpleNamespace(train_file=train_file(), checkpoints=tmp_path, steps=2)
    monkeypatch.setattr("merging.exopd.job.merge_job", lambda *_: job)
    monkeypatch.setattr("trainer.run.train", lambda *_: None)
    monkeypatch.setattr("trainer.run.read_metrics", lines)
    monkeypatch.setattr(export, "export", lambda *_: pytest.fail("exported"))
    with refuses("step 1", "code 1", "math 3", "code 2", error=RunFailed):
        distil.Distillation(folder, [], name, tmp_path).run(lambda: None, tmp_path / "model")
