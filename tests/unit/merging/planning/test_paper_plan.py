"""The plan of paper.yaml: its numbers by docs/planning.md, and what each setting changes in it."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from merging.planning.devices import chosen_device
from merging.planning.memory import scored_models
from merging.planning.plan import costs_of
from merging.planning.text import show
from tests.helpers.messages import says
from tests.helpers.paper_plan import (
    PAGE,
    QWEN3_4B,
    model_of_widths,
    page,
    paper_config,
    paper_found,
    paper_plan,
)

H100 = "hardware.device_kind=H100-80GB"


@pytest.fixture
def plan(tmp_path):
    """The plan with these overrides, on H100s."""
    return lambda *overrides, **models: paper_plan(tmp_path, H100, *overrides, **models)


@pytest.fixture
def costs(tmp_path):
    """What makes the plan's seconds, with these overrides."""

    def costs(*overrides):
        loaded = paper_config(tmp_path, H100, *overrides)
        chosen = chosen_device(loaded.config.hardware)
        return costs_of(loaded.config, paper_found(tmp_path, loaded), tmp_path / "run", chosen, {})

    return costs


def stage(plan, name):
    return next(stage for stage in plan.stages if stage.name == name)


def held(plan, title="merge"):
    return next(held for held in plan.memory if held.title == title)


def in_gb(parts):
    return {part: round(size / 1e9, 1) for part, size in parts.items() if size}


# ---------------------------------------------------------------------------------- as docs show it


def test_seconds_of_a_step(plan):
    """1,024 rollouts of 256 + 2,731 tokens; the log-probabilities are one forward pass on eight devices."""
    paper = plan()
    parts = {name: round(value, 1) for name, value in stage(paper, "merge").step_seconds.items()}
    assert parts == {
        "rollout": 115.7, "scoring": 18.7, "log-probabilities": 9.3, "update": 37.3,
        "weights to the rollout": 3.2, "checkpoints": 4.8, "other": 1.8,
    }  # fmt: skip
    opd = stage(paper, "baseline opd").step_seconds
    assert opd["scoring"] == pytest.approx(parts["scoring"] / 2, abs=0.05)


def test_the_forward_pass_by_hand(plan):
    answer = 16384 / 6
    tokens = 1024 * (256 + answer)
    squares = 256**2 + 2 * 256 * answer + 2 * answer**2
    flops = 2 * 4_022_272_000 * tokens + 4 * 36 * 4096 * 1024 * squares / 2
    one = flops / (8 * 0.4 * 989e12)
    parts = stage(plan(), "merge").step_seconds
    assert parts["log-probabilities"] == pytest.approx(one, abs=1e-3)
    assert parts["update"] == pytest.approx(4 * one, abs=1e-3)
    assert parts["scoring"] == pytest.approx(2 * one, abs=1e-2)  # two passes, on all devices


def test_the_rollout_by_hand(plan):
    """128 answers an engine; the longest of all reaches the limit. 36.9 GB of cache hold them."""
    answer = 16384 / 6
    weights = 16384 * 2 * 4_022_272_000
    cached = 128 * (256 * answer + answer**2) * 2 * 2 * 36 * 1024
    prompts = 128 * (2 * 4_022_272_000 * 256 + 4 * 36 * 4096 * 256**2 / 2) / (0.4 * 989e12)
    at_once = int((0.5 * 80e9 - 2e9 - 2 * 4_022_468_096) / (2 * 2 * 36 * 1024 * (256 + answer / 2)))
    assert at_once == 125
    waiting = 3 * answer / at_once
    expected = (
        (weights * (1 + waiting / 16384) + cached) / (0.8 * 3350e9) + (16384 + waiting) * 5e-4 + prompts
    )
    assert stage(plan(), "merge").step_seconds["rollout"] == pytest.approx(expected, abs=1e-3)


def test_totals_near_the_audit(plan, costs):
    """An audit's own arithmetic: 160 s a step once the scorer uses all devices, 36 device-hours for ExOPD and
    OPD, 16 for the evaluation."""
    paper, spread = plan(), replace(costs(), replicas=8)
    assert 10 < stage(paper, "evaluation").device_hours < 20
    merge, opd = (spread.of(stage(paper, name)) for name in ("merge", "baseline opd"))
    assert 150 < sum(merge.step_seconds.values()) < 200
    assert 30 < (merge.seconds + opd.seconds) * 8 / 3600 < 45


def test_the_scorers_processes_share_its_work(plan):
    merge = stage(plan(), "merge")
    one = stage(plan("scorer.replicas=1"), "merge").step_seconds["scoring"]
    assert merge.step_seconds["scoring"] == pytest.approx(one / 8, abs=1e-3)


def test_memory_by_part(plan):
    """docs/memory.md shows these numbers."""
    merge = held(plan())
    assert {phase: in_gb(parts) for phase, parts in merge.phases.items()} == {
        "rollout": {"weights": 2.0, "optimizer": 4.0, "rollout and its cache": 40.0, "scorer": 8.0,
                    "scoring": 2.4, "processes": 3.0},
        "update": {"weights": 2.0, "optimizer": 4.0, "gradients": 5.1, "gathered weights": 1.2,
                   "activations": 12.9, "logits": 3.9, "rollout asleep": 2.0,
                   "processes": 3.0},
    }  # fmt: skip
    assert (merge.phase, round(merge.bytes / 1e9)) == ("rollout", 59)
    assert round(sum(merge.phases["update"].values()) / 1e9) == 34


def test_main_memory_and_disk(plan, tmp_path):
    """A tied head makes each of 8 ranks read the model in float32."""
    paper = plan()
    host = held(paper, "main memory")
    assert in_gb(host.phases["loading"]) == {"weights in float32": 128.7, "scorer": 24.1, "processes": 96.0}
    assert in_gb(host.phases["baselines of weights"])["models"] == 80.4
    assert in_gb(paper.disk) == {"checkpoints": 193.1, "models": 64.4, "samples and logs": 0.3}
    untied = model_of_widths(tmp_path / "untied", QWEN3_4B | {"tie_word_embeddings": False}, 4_411_228_160)
    assert in_gb(held(plan(student=untied), "main memory").phases["loading"])["weights in float32"] == 17.6


# ------------------------------------------------------------------------------ what settings change


@pytest.mark.parametrize(
    "override, changed",
    [
        ("hardware.device_kind=A100-80GB", lambda p: stage(p, "merge").seconds),
        ("hardware.price_per_device_hour=2", lambda p: p.price),
        ("hardware.gpus=4", lambda p: (stage(p, "merge").seconds, held(p).phases["update"]["gradients"])),
        ("hardware.tokens_per_device=20000", lambda p: held(p).phases["update"]["activations"]),
        ("hardware.rollout_memory_fraction=0.4", lambda p: held(p).parts["rollout and its cache"]),
        ("hardware.rollout_memory_fraction=0.2", lambda p: stage(p, "merge").step_seconds["rollout"]),
        ("hardware.offload=optimizer", lambda p: "optimizer" in held(p).phases["rollout"]),
        ("hardware.offload=all", lambda p: held(p, "main memory").phases["training"]["offloaded"]),
        ("hardware.rollout_tensor_parallel=2", lambda p: stage(p, "evaluation").seconds),
        ("hardware.rollout_sequences=16", lambda p: stage(p, "merge").step_seconds["rollout"]),
        ("hardware.rollout_quantization=fp8", lambda p: stage(p, "merge").step_seconds["rollout"]),
        ("hardware.checkpoints=weights", lambda p: stage(p, "merge").step_seconds["checkpoints"]),
        ("scorer.kind=pool", lambda p: (p.devices, [held.title for held in p.memory])),
        ("scorer.tokens_per_batch=32768", lambda p: held(p).phases["rollout"]["scoring"]),
        ("training.max_response_tokens=8192", lambda p: stage(p, "merge").step_seconds["update"]),
        ("training.save_every=5", lambda p: stage(p, "merge").step_seconds["checkpoints"]),
        ("evaluation.samples_per_problem=8", lambda p: stage(p, "evaluation").seconds),
        ("evaluation.greedy=true", lambda p: stage(p, "evaluation").seconds),
        ("objective.reward_scale=1", lambda p: stage(p, "merge").step_seconds["scoring"]),
        ("baselines=[average]", lambda p: stage(p, "evaluation").seconds),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_each_setting_changes_its_number(plan, override, changed):
    assert changed(plan()) != changed(plan(override))


def test_sequence_parallel_lets_a_sequence_be_shared(plan):
    """18,432 tokens on one device, or 4,608 on each of four: the budget of 8,192 then holds."""
    alone, shared = (
        held(plan("hardware.tokens_per_device=8192", f"hardware.sequence_parallel={devices}"))
        for devices in (1, 4)
    )
    one = 2 * 36 * 2560 + 20 * 2560 + 12 * 4096 + 10 * 1024 + 10 * 9728
    assert alone.phases["update"]["activations"] == 18_432 * one
    assert shared.phases["update"]["activations"] == 8_192 * one


def test_settings_of_verls_that_memory_depends_on(plan):
    update = held(plan()).phases["update"]
    deferred = held(
        plan("verl={actor_rollout_ref.actor.fsdp_config.use_no_sync_for_gradient_accumulation: true}")
    ).phases["update"]
    assert in_gb(deferred)["gradients"] == 18.1
    kept = held(plan("verl={actor_rollout_ref.model.enable_gradient_checkpointing: false}")).phases["update"]
    assert kept["activations"] > 8 * update["activations"]


def test_whole_distributions_save_a_pass_and_wait_in_the_scorer(plan):
    sampled, compared = plan(), plan("objective.estimator={kind: topk, k: 64}")
    assert "log-probabilities" not in stage(compared, "merge").step_seconds
    more = held(compared).phases["rollout"]["scoring"] - held(sampled).phases["rollout"]["scoring"]
    assert more == 2**31 + 12 * 2**26


def test_servers_of_the_pool_have_devices_of_their_own(plan):
    pooled = plan("scorer.kind=pool")
    assert pooled.devices == 8 + 3
    assert "scorer" not in held(pooled).parts
    assert set(held(pooled, "teacher server").parts) == {
        "server and its cache", "logits of a chunk", "processes",
    }  # fmt: skip
    # the reference reads every rollout, a teacher half of them
    assert stage(pooled, "merge").step_seconds["scoring"] == pytest.approx(149.4 / 2, abs=0.1)


def test_the_reference_is_the_declared_one(tmp_path):
    """An expert's own base is read as one with `teacher_base` only."""
    own = "domains.math.expert={kind: rl, base: /own}"
    base = {"base of math": model_of_widths(tmp_path / "own", QWEN3_4B | {"num_hidden_layers": 40}, 1)}

    def reference(*overrides):
        loaded = paper_config(tmp_path, own, *overrides)
        models = paper_found(tmp_path, loaded).fingerprints | base
        return scored_models(loaded.config, models)["reference of math"]

    assert reference().path == str(tmp_path / "student")
    taught = ("objective.reference=teacher_base", "domains.code.expert={kind: rl}")
    assert reference(*taught).path == str(tmp_path / "own")


def test_every_kind_of_stage_has_seconds(plan):
    made = plan("objective.reward_scale=auto", "baselines=[sft, {kind: grpo, samples_per_prompt: 8}, dare]")
    assert all(stage.seconds for stage in made.stages if stage.is_left)
    sft, grpo, merge = (stage(made, name) for name in ("baseline sft", "baseline grpo", "merge"))
    assert "rollout" not in sft.step_seconds and "scoring" not in grpo.step_seconds
    assert sft.seconds > grpo.seconds - 50 * grpo.step_seconds["rollout"]
    assert grpo.seconds < merge.seconds
    assert any("counted as two passes" in line for line in made.assumptions)


# ------------------------------------------------------------------------------- measured, not modelled


def test_this_runs_own_steps_come_first(plan, tmp_path):
    work = tmp_path / "run" / "train"
    work.mkdir(parents=True)
    rows = [{"step": n, "timing_s/step": 100.0 + n, "response_length/mean": 1000.0} for n in (1, 2, 3)]
    (work / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    measured = plan()
    merge, evaluation = stage(measured, "merge"), stage(measured, "evaluation")
    assert (merge.seconds, merge.basis, merge.source) == (50 * 102.0, "measured", "3 steps of this run")
    assert merge.seconds_range is None and merge.device_hours == round(50 * 102 * 8 / 3600, 3)
    assert stage(measured, "baseline opd").basis == "measured"
    # answers are as long as measured: no range, in the evaluation either
    assert (evaluation.basis, evaluation.seconds_range) == ("estimated", None)
    assert any("answers of 1,000 tokens (measured: 3 steps of this run)" in a for a in measured.assumptions)
    assert not any("no scoring" in line or "nothing was measured" in line for line in measured.assumptions)


def test_both_ends_of_a_range(plan, costs):
    """Answers of half the assumed length, and of twice that."""
    merge = stage(plan(), "merge")
    low, high = (replace(costs(), answer_factor=factor).of(merge).seconds for factor in (0.5, 2.0))
    assert merge.seconds_range == (low, high)
    assert low < merge.seconds < high


def test_price_is_hours_times_devices_times_the_rate(plan):
    priced = plan("hardware.price_per_device_hour=2.5")
    merge = stage(priced, "merge")
    assert merge.device_hours == round(merge.seconds * 8 / 3600, 3)
    assert merge.price == round(merge.seconds * 8 / 3600 * 2.5, 2)
    assert priced.price == pytest.approx(priced.device_hours * 2.5, abs=0.05)
    assert plan().price is None


def test_what_is_not_modelled_says_so(plan, tmp_path, capsys):
    mixture = model_of_widths(tmp_path / "mixture", QWEN3_4B | {"num_experts": 128})
    made = plan(student=mixture)
    merge = stage(made, "merge")
    assert (merge.seconds, merge.basis, merge.device_hours) == (None, None, None)
    says(merge.source, "mixture of experts", "not modelled")
    says(held(made).not_modelled, "mixture of experts", "not modelled")
    assert stage(made, "evaluation").seconds is None  # the base is one of those that answer
    show(made)
    says(
        " ".join(capsys.readouterr().out.split()), "not known", "not modelled: qwen3: the memory of a mixture"
    )


# ----------------------------------------------------------------------------------------------- shown


def test_the_text_shows_stages_memory_and_assumptions(plan, capsys):
    show(plan("hardware.price_per_device_hour=2.5"))
    out = capsys.readouterr().out
    (merge,) = [line for line in out.splitlines() if line.startswith("│ merge") and "to do" in line]
    cells = [cell.strip() for cell in merge.strip("│").split("│")]
    assert cells == ["merge", "to do", "50", "51,200", "102,400", "2 h 42 min", "21.59", "53.98",
                     "estimated, 1.4 to 6.3 h"]  # fmt: skip
    for fact in ("memory of a device: merge, of 80.0 GB", "│ rollout and its cache │ 40.0 GB", "main memory",
                 "disk: 257.7 GB", "assumes: device: hardware.device_kind: H100-80GB",
                 "nothing was measured", "2,731 of 16,384 tokens on average (assumed"):  # fmt: skip
        assert fact in out


def test_json_holds_everything(plan):
    stored = json.loads(json.dumps(plan("hardware.price_per_device_hour=2.5").to_json()))
    assert {"run", "stages", "memory", "disk", "devices", "device", "seconds", "device_hours", "price",
            "prompts", "assumptions", "scorer_passes_per_rollout"} <= stored.keys()  # fmt: skip
    assert stored["memory"][0]["phases"]["update"]["logits"] > 0
    assert stored["memory"][0]["peak_phase"] == "rollout"
    merge = next(stage for stage in stored["stages"] if stage["name"] == "merge")
    assert {"step_seconds", "seconds_range", "basis", "source", "device_hours", "price"} <= merge.keys()


def test_the_page_shows_this_plan():
    """`python -m tests.helpers.paper_plan --update` writes it."""
    assert PAGE.read_text(encoding="utf-8") == page()
