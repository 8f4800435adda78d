"""`reward_scale: auto`: what is chosen, that it is chosen once, and what depends on it."""

from __future__ import annotations

import json

import pytest

from configs.blocks.objective import Probe
from configs.load import load_config
from eval.report.sections.probed import from_json
from merging.checks.preflight import preflight
from merging.state.chosen_scales import read_choices, with_chosen
from merging.state.run_folder import RunFolder
from merging.state.teacher import Teacher
from merging.training import reward_scales
from merging.training.probe import Answered, ProbeResult
from merging.training.reward_scales import choose, choose_reward_scales
from tests.helpers.messages import problems_of, refuses, say_each, says
from tests.helpers.tiny_model import config_dict, write_config, write_jsonl


def answered(right: list[int], each: int) -> Answered:
    """Twenty prompts with `each` answers, `right[i]` of them right (the list is repeated)."""
    scores = {f"p{i}": tuple(float(k < right[i % len(right)]) for k in range(each)) for i in range(20)}
    mean = sum(sum(values) for values in scores.values()) / (20 * each)
    return Answered(mean, (mean, mean), 20 * each, 10.0, 1.0, scores)


def result(
    scale: float, right: list[int], domain: str = "math", greedy: list[int] | None = None
) -> ProbeResult:
    """Four sampled answers to each prompt, and a greedy one, which by default is right where half are."""
    likeliest = [int(count >= 2) for count in right] if greedy is None else greedy
    return ProbeResult(domain, scale, 20, 1.0, answered(right, 4), answered(likeliest, 1))


def test_the_best_lambda_is_taken_where_it_is_better_beyond_noise():
    choice = choose([result(0.5, [4, 3]), result(1.25, [2, 1]), result(2.0, [0])], seed=0)
    assert choice.reward_scale == 0.5
    facts = ("lambda 0.5", "93.8% in the mean of sampled (87.5%) and greedy (100.0%)", "n = 20 prompts",
             "43.8% in the mean of sampled (37.5%) and greedy (50.0%) at 1.25", "+50.0")  # fmt: skip
    says(choice.reason, *facts, absent=["within noise"])


def test_both_decodings_count_alike_however_many_answers_they_have():
    """Sampled alone would choose 2, greedy alone 0.5; the mean of both chooses 1."""
    curve = [
        result(2.0, [4], greedy=[0]),  # 100% and 0%: 50%
        result(1.0, [3], greedy=[1, 1, 1, 0]),  # 75% and 75%
        result(0.5, [1], greedy=[1]),  # 25% and 100%: 62.5%
        result(1.25, [2], greedy=[0]),  # 50% and 0%: 25%
    ]
    assert [one.accuracy for one in curve] == [0.5, 0.75, 0.625, 0.25]
    choice = choose(curve, seed=0)
    assert choice.reward_scale == 1.0
    says(choice.reason, "75.0% in the mean of sampled (75.0%) and greedy (75.0%)", "+50.0 points")
    kept = choice.to_json()["curve"][0]
    assert (kept["accuracy"], kept["answers"], kept["temperature"]) == (1.0, 80, 1.0)
    assert (kept["greedy"]["accuracy"], kept["greedy"]["answers"], kept["prompts"]) == (0.0, 20, 20)


def test_a_gain_within_noise_keeps_the_papers():
    noisy = [result(1.25, [2, 2], greedy=[1, 0]), result(1.5, [4, 0, 4, 0, 4, 1, 3])]
    assert noisy[1].accuracy > noisy[0].accuracy
    choice = choose(noisy, seed=0)
    assert choice.reward_scale == 1.25
    says(choice.reason, "within noise", "paper's")


def test_the_paper_s_own_best_needs_no_comparison_and_wins_ties():
    choice = choose([result(1.0, [3]), result(1.25, [3]), result(1.5, [2])], seed=0)
    assert choice.reward_scale == 1.25
    says(choice.reason, "3 lambdas", "87.5%", "sampled (75.0%)", "greedy (100.0%)", "n = 20 prompts")


# ------------------------------------------------------------------------------------------ in a run


@pytest.fixture
def data(tmp_path):
    return config_dict(tmp_path)


@pytest.fixture
def sampled(monkeypatch):
    """The probe without models: lambda 0.5 is clearly best; counts its calls."""
    calls = []

    def sample_optima(config, routed, teachers, scales, on_result, on_device):
        calls.append((dict(teachers), list(scales)))
        return [
            result(scale, [4] if scale == 0.5 else [1], domain) for domain in teachers for scale in scales
        ]

    monkeypatch.setattr(reward_scales, "sample_optima", sample_optima)
    return calls


def opened(tmp_path, data, *overrides) -> tuple[RunFolder, list]:
    loaded = load_config(write_config(tmp_path, data), overrides)
    found = preflight(loaded, tmp_path / "run")
    return RunFolder.open(tmp_path / "run", loaded, found), found.routed


TEACHERS = [Teacher("math", "m", "weights", None), Teacher("code", "c", "weights", None)]


def test_auto_is_replaced_by_the_probe_s_choice_for_its_domains_only(tmp_path, data, sampled):
    folder, routed = opened(
        tmp_path,
        data,
        "objective.reward_scale=auto",
        "domains.code.objective={reward_scale: 2.0, weight: 3.0}",
    )
    assert folder.config.reward_scale_of("math") is None
    folder = choose_reward_scales(folder, TEACHERS, routed)
    assert sampled == [({"math": "m"}, sorted(Probe().reward_scales))]
    assert (folder.config.reward_scale_of("math"), folder.config.reward_scale_of("code")) == (0.5, 2.0)
    assert folder.config.loss_weight_of("code") == 3.0
    kept = json.loads((tmp_path / "run/probe.json").read_text())
    assert list(kept) == ["math"] and kept["math"]["reward_scale"] == 0.5
    assert len(kept["math"]["curve"]) == len(Probe().reward_scales)
    assert "probe" in folder.measured.wall_seconds


def test_a_run_that_goes_on_does_not_probe_again(tmp_path, data, sampled):
    choose_reward_scales(*_with_teachers(*opened(tmp_path, data, "objective.reward_scale=auto")))
    folder, routed = opened(tmp_path, data, "objective.reward_scale=auto")
    assert folder.config.reward_scale_of("math") == folder.config.reward_scale_of("code") == 0.5
    assert choose_reward_scales(folder, TEACHERS, routed).config.reward_scale_of("math") == 0.5
    assert len(sampled) == 1


def test_the_papers_lambda_is_tried_in_any_case(tmp_path, data, sampled):
    folder, routed = opened(tmp_path, data, "objective.reward_scale=auto", "probe.reward_scales=[0.5]")
    choose_reward_scales(folder, TEACHERS, routed)
    assert sampled[0][1] == [0.5, 1.25]


def test_without_auto_nothing_is_probed_and_the_probe_may_change(tmp_path, data, sampled):
    folder, routed = opened(tmp_path, data)
    assert choose_reward_scales(folder, TEACHERS, routed).config == folder.config
    assert sampled == [] and read_choices(tmp_path / "run") == {}
    opened(tmp_path, data, "probe.prompts=7")  # the same folder


def test_with_auto_another_probe_is_another_merge(tmp_path, data, sampled):
    opened(tmp_path, data, "objective.reward_scale=auto")
    with refuses("another merge", "probe"):
        opened(tmp_path, data, "objective.reward_scale=auto", "probe.prompts=7")


def test_auto_without_an_answered_prompt_is_refused_at_once(tmp_path, data):
    write_jsonl(tmp_path / "bare.jsonl", [{"prompt": "1+1", "answer": None}])
    data["domains"]["math"]["validation"] = {"kind": "file", "path": "bare.jsonl"}
    opened(tmp_path, data)  # nothing reads it
    with refuses("domains.math", "no prompt", "answer"):
        opened(tmp_path, data, "objective.reward_scale=auto")


def test_a_plan_counts_an_open_lambda_as_two_passes_and_says_so(tmp_path, data, sampled):
    from merging.planning.plan import make_plan

    loaded = load_config(write_config(tmp_path, data), ["objective.reward_scale=auto"])
    plan = make_plan(loaded, tmp_path / "run")
    assert [stage.state for stage in plan.stages if stage.name == "probe"] == ["to do"]
    assert set(plan.scorer_passes_per_rollout.values()) == {2}
    assert any("math, code" in text and "probe" in text for text in plan.assumptions)
    choose_reward_scales(*_with_teachers(*opened(tmp_path, data, "objective.reward_scale=auto")))
    plan = make_plan(loaded, tmp_path / "run")
    assert [stage.state for stage in plan.stages if stage.name == "probe"] == ["done"]
    assert not any("math, code" in text and "probe" in text for text in plan.assumptions)


def test_what_was_chosen_stands_in_for_auto_only(tmp_path, data, sampled):
    choose_reward_scales(*_with_teachers(*opened(tmp_path, data, "objective.reward_scale=auto")))
    declared = load_config(write_config(tmp_path, data), ["objective.reward_scale=1.5"]).config
    assert with_chosen(declared, tmp_path / "run").reward_scale_of("math") == 1.5


def as_an_earlier_version(run):
    """Takes from the run's record what earlier versions did not keep."""
    kept = json.loads((run / "probe.json").read_text())
    for choice in kept.values():
        for point in choice["curve"]:
            del point["greedy"], point["temperature"]
    (run / "probe.json").write_text(json.dumps(kept))


def test_a_record_without_greedy_answers_is_made_anew_before_anything_is_trained(tmp_path, data, sampled):
    from merging.planning.plan import make_plan

    auto = "objective.reward_scale=auto"
    choose_reward_scales(*_with_teachers(*opened(tmp_path, data, auto)))
    as_an_earlier_version(tmp_path / "run")
    folder, routed = opened(tmp_path, data, auto)
    assert folder.config.reward_scale_of("math") is None
    plan = make_plan(load_config(write_config(tmp_path, data), [auto]), tmp_path / "run")
    assert [stage.state for stage in plan.stages if stage.name == "probe"] == ["to do"]
    assert choose_reward_scales(folder, TEACHERS, routed).config.reward_scale_of("math") == 0.5
    assert len(sampled) == 2
    (first, *_) = read_choices(tmp_path / "run")["math"]["curve"]
    assert first["greedy"]["answers"] == 20


def test_a_record_without_greedy_answers_that_rows_were_written_by_is_kept_and_said(
    tmp_path, data, sampled, monkeypatch
):
    said = []
    monkeypatch.setattr(reward_scales, "say", said.append)
    auto = "objective.reward_scale=auto"
    choose_reward_scales(*_with_teachers(*opened(tmp_path, data, auto)))
    as_an_earlier_version(tmp_path / "run")
    (tmp_path / "run" / "prompts").mkdir(exist_ok=True)
    (tmp_path / "run" / "prompts" / "train.parquet").touch()
    folder, routed = opened(tmp_path, data, auto)
    assert choose_reward_scales(folder, TEACHERS, routed).config.reward_scale_of("math") == 0.5
    assert len(sampled) == 1 and said[-2].startswith("lambda of math: 0.5")
    assert said[-2].endswith("greedy: not measured, by an earlier version)")
    (point, *_) = from_json(read_choices(tmp_path / "run"))[0].points
    assert point.greedy is None and point.mean is None


def test_validation_prompts_that_repeat_a_benchmark_are_refused(tmp_path, data):
    """Lambda would be chosen by the problems that the student is then judged by."""
    rows = [
        {"id": str(n), "prompt": f"how much is {n} plus {n + 1} in all?", "answer": "1"} for n in range(9)
    ]
    write_jsonl(tmp_path / "benchmark.jsonl", rows)
    write_jsonl(tmp_path / "valid.jsonl", [{"prompt": "2+2", "answer": "4"}, rows[7], rows[8]])
    benchmark = {"kind": "math", "name": "sums", "path": "benchmark.jsonl"}
    validation = {"kind": "file", "path": "valid.jsonl"}
    data["domains"]["math"] |= {"validation": validation, "benchmarks": [benchmark]}
    opened(tmp_path, data)  # nothing reads it
    with refuses("domains.math.validation", "2 of its 3 prompts", "7 of sums", "auto", "leave them out"):
        opened(tmp_path, data, "objective.reward_scale=auto")


@pytest.mark.parametrize("value", ["automatic", "-1", "true", "[1]"])
def test_what_is_no_lambda_is_refused_in_one_message(tmp_path, data, value):
    problems = problems_of(load_config, write_config(tmp_path, data), [f"objective.reward_scale={value}"])
    say_each(problems, (f"--set objective.reward_scale={value}", "at least 0", "`auto`"))


def _with_teachers(folder: RunFolder, routed: list):
    return folder, TEACHERS, routed
