"""The real command with real verl, Ray and vLLM on two cores: killed, continued, broken, and whole."""

import hashlib
import json
import re
import signal
import time
from pathlib import Path

import pytest
import yaml

from tests.helpers.paths import DEMO
from tests.helpers.processes import (
    descendant,
    ended,
    files_left,
    kill_hard,
    left_behind,
    protege,
    run_files,
    run_to_end,
    steps_in,
    wait_for,
)
from tests.helpers.recompute import mismatches
from tests.helpers.small_merge import small_config, with_open_prompts

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(900)]

START_SECONDS = 240


@pytest.fixture(scope="module")
def home(tmp_path_factory) -> Path:
    """Working folder and registry of all runs here."""
    return tmp_path_factory.mktemp("home")


def auto_config(folder: Path) -> Path:
    """Lambda chosen by the probe, an alarm that is always raised, an adapter as one of the teachers, and a
    polish of one step with its rollouts spent on more distillation as a control."""
    alarms = {"action": "back_off", "window": 1, "length_factor": 1.0001}  # the slightest change of length
    probe = {"reward_scales": [1.5], "prompts": 4, "samples_per_prompt": 1}
    objective = {"reward_scale": "auto", "estimator": "full", "alarms": alarms}
    polish = {"steps": 1, "prompts_per_step": 8, "samples_per_prompt": 4, "learning_rate": 1e-4}
    parts = {"probe": probe, "objective": objective, "polish": polish, "baselines": ["opd_more"]}
    config = small_config(folder, name="auto", **parts)
    text = yaml.safe_load(config.read_text())
    text["training"] |= {"steps": 3, "save_every": 1}
    text["domains"]["math"]["expert"] |= {"lora_rank": 4, "learning_rate": 1e-3}
    with_open_prompts(text, folder, {"kind": "agreement", "measured_on": 4})
    config.write_text(yaml.safe_dump(text, sort_keys=False))
    return config


def test_a_build_that_is_killed_leaves_no_expert_and_no_process(home):
    config, log, files = auto_config(home), home / "build.log", run_files()
    process = protege("experts", "build", str(config), home=home, log=log)

    def has_trained() -> bool:
        return any(steps_in(metrics) >= 1 for metrics in (home / "building").glob("*/metrics.jsonl"))

    wait_for(has_trained, START_SECONDS, process, log)
    kill_hard(process)
    assert left_behind(home) == [] and files_left(files) == []
    assert not (home / "experts").exists() or not list((home / "experts").iterdir())


def test_a_merge_killed_while_it_trains_continues_and_ends_with_a_report(home):
    config, log = small_config(home), home / "small.log"
    run, files = home / "runs" / "small", run_files()

    process = protege("merge", str(config), home=home, log=log)
    wait_for(lambda: steps_in(run / "train" / "metrics.jsonl") >= 3, 3 * START_SECONDS, process, log)
    kill_hard(process)
    assert left_behind(home) == [] and files_left(files) == []
    assert not (run / "manifest.json").exists()

    assert run_to_end("merge", str(config), home=home, log=log, timeout=600) == 0, log.read_text()[-3000:]
    assert left_behind(home) == []
    assert "expert math: found in the registry" in log.read_text()
    check_artefacts(run)


def check_artefacts(run: Path) -> None:
    report = json.loads((run / "report.json").read_text())
    roles = {name: model["role"] for name, model in report["models"].items()}
    assert roles == {
        "base": "base", "math-teacher": "teacher", "code-teacher": "teacher", "student": "student",
        "average": "baseline", "opd": "baseline", "ties": "baseline", "oracle": "baseline",
    }  # fmt: skip
    for model in report["models"].values():
        assert (
            model["benchmarks"]["math_heldout"]["n"] + model["benchmarks"]["math_heldout"]["unscored"] == 24
        )
        assert model["benchmarks"]["code_heldout@greedy"]["n"] == 8
    asked = {(q["kind"], q["domain"], q["mode"]) for q in report["questions"]}
    assert len(asked) == len(report["questions"]) == 8, "of two domains at two decodings"
    assert all(q["p_adjusted"] is not None and q["margin"] == 0.02 for q in report["questions"])
    assert report["headline"]["p_value"] is not None and report["shares"].keys() == {"sampled", "greedy"}
    assert mismatches(run) == []
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    steps = [line["step"] for line in lines]
    # verl logs a step after its checkpoint: of a kill right in between, that step's line is lost
    assert steps == sorted(set(steps)) and {1, 2, 3, 4, 5, 6} - set(steps) <= {4}
    for domain in ("math", "code"):
        for name in ("implicit_reward", "student_minus_teacher", "advantage_std", "length", "finish_rate",
                     "entropy", "importance_weight_mean", "token_share", "kl_to_optimum"):  # fmt: skip
            assert f"teacher/{domain}/{name}" in lines[-1]
        assert lines[-1][f"teacher/{domain}/sequences"] == 4
        assert lines[0][f"teacher/{domain}/importance_weight_mean"] == pytest.approx(1, abs=1e-3)
    opd = [json.loads(line) for line in (run / "metrics.opd.jsonl").read_text().splitlines()]
    assert len(opd) == 6 and not any("implicit_reward" in key for key in opd[-1])
    assert weights(run / "baselines" / "opd") != weights(run / "student")
    for name in ("config.yaml", "plan.json", "prompts/train.parquet", "report.html", "report.md",
                 "manifest.json", "student/README.md", "samples/student/math_heldout.jsonl",
                 "samples/student/code_heldout.evalplus.jsonl",
                 "samples/student/code_heldout.evalplus.sampled.jsonl"):  # fmt: skip
        assert (run / name).exists(), name
    assert all(
        list((run / "tensorboard" / name).glob("events.*")) for name in ("merge", "opd", "expert-code")
    )
    assert len(list((run / "wandb").glob("offline-run-*"))) >= 3  # merge twice, since it was killed, and opd
    assert weights(run / "student") != weights(DEMO / "student")
    for domain in ("math", "code"):
        check_student_is_the_reference_before_the_first_update(run, domain)


def check_student_is_the_reference_before_the_first_update(run: Path, domain: str) -> None:
    """At step 1 S = B, so S - T = -(T - B): wrong alignment or a wrong model would show here."""
    first = json.loads((run / "metrics.jsonl").read_text().splitlines()[0])
    reward = first[f"teacher/{domain}/implicit_reward"]
    assert first[f"teacher/{domain}/student_minus_teacher"] == pytest.approx(-reward, abs=1e-4)
    assert first[f"teacher/{domain}/advantage_mean"] == pytest.approx(1.25 * reward, abs=1e-4)
    # T - B is near 0 in the mean, after two small steps of the expert, but not token by token
    assert first[f"teacher/{domain}/advantage_std"] > 1e-3


def weights(folder: Path) -> str:
    return hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()


def test_a_finished_merge_run_again_changes_no_weight_and_trains_nothing(home):
    run, log = home / "runs" / "small", home / "again.log"
    before = weights(run / "student")
    began = time.monotonic()
    assert run_to_end("merge", str(home / "small.yaml"), home=home, log=log, timeout=200) == 0, (
        log.read_text()
    )
    assert "merge: found done" in log.read_text()
    assert weights(run / "student") == before
    assert time.monotonic() - began < 120


def test_the_student_loads_as_it_is_and_is_the_model_that_was_evaluated(home):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    run = home / "runs" / "small"
    tokenizer = AutoTokenizer.from_pretrained(run / "student")
    model = AutoModelForCausalLM.from_pretrained(run / "student")
    greedy = [
        sample
        for line in (run / "samples" / "student" / "math_heldout.jsonl").read_text().splitlines()
        if (sample := json.loads(line))["mode"] == "greedy"
    ]
    agree = 0
    for sample in greedy[:6]:
        ids = tokenizer.apply_chat_template(
            sample["prompt"], add_generation_prompt=True, return_tensors="pt", return_dict=True
        )
        answer = model.generate(**ids, max_new_tokens=48, do_sample=False)[0, ids["input_ids"].shape[1] :]
        agree += tokenizer.decode(answer, skip_special_tokens=True) == sample["completion"]
    assert agree == 6


def test_a_sweep_builds_no_expert_again_and_is_found_done(home):
    config = small_config(home, name="grid", baselines=["average"])
    options = ("--reward-scale", "1,1.5", "--seeds", "1", "--set", "training.steps=2", "--probe")
    options += ("--set", "probe.prompts=4", "--set", "probe.samples_per_prompt=1")
    log, folder = home / "grid.log", home / "runs" / "grid.sweep"
    assert run_to_end("sweep", str(config), *options, home=home, log=log, timeout=400) == 0, log.read_text()[
        -3000:
    ]
    assert left_behind(home) == []
    assert "expert math: found in the registry" in log.read_text()
    report = json.loads((folder / "sweep.json").read_text())
    assert (report["seeds"], report["reward_scales"]) == ([0], [1.0, 1.5])
    assert {(c["benchmark"], c["mode"]) for c in report["curves"]} == {
        (benchmark, mode) for benchmark in ("math_heldout", "code_heldout") for mode in ("sampled", "greedy")
    }
    for curve in report["curves"]:
        opd, extrapolated = curve["points"]
        assert opd["against_opd"] is None and extrapolated["against_opd"]["seeds"] == 1
        assert curve["fixed"].keys() == {"base", "math-teacher", "code-teacher", "average"}
    assert {(point["domain"], point["reward_scale"]) for point in report["probe"]} == {
        (domain, scale) for domain in ("math", "code") for scale in (1.0, 1.5)
    }
    runs = [folder / name for name in report["runs"]]
    assert weights(runs[0] / "student") != weights(runs[1] / "student")
    assert all((run / "report.html").exists() and (run / "manifest.json").exists() for run in runs)

    log.write_text("")
    assert run_to_end("sweep", str(config), *options, home=home, log=log, timeout=200) == 0, log.read_text()
    assert log.read_text().count("merge: found done") == 2


def test_a_dead_engine_ends_the_run_with_the_cause_last(home):
    config, log = small_config(home, name="dead", objective={"reward_scale": 1.25}), home / "dead.log"
    config.write_text(config.read_text().replace("steps: 6", "steps: 500"))
    run = home / "runs" / "dead"
    process = protege("merge", str(config), home=home, log=log)
    wait_for(lambda: steps_in(run / "train" / "metrics.jsonl") >= 2, START_SECONDS, process, log)
    descendant(process, "VLLM::EngineCore").send_signal(signal.SIGKILL)
    began = time.monotonic()
    assert ended(process, 60, log) == 1, log.read_text()[-2000:]
    assert time.monotonic() - began < 30
    last = [line for line in log.read_text().splitlines() if line.strip()][-1]
    assert "first error:" in last and "Engine" in last, last
    assert left_behind(home) == []


def test_a_dead_scorer_ends_the_run_and_sigterm_leaves_nothing(home):
    config, log, files = home / "dead.yaml", home / "scorer.log", run_files()
    run = home / "runs" / "dead"
    done = steps_in(run / "train" / "metrics.jsonl")
    process = protege("merge", str(config), home=home, log=log)
    wait_for(lambda: steps_in(run / "train" / "metrics.jsonl") > done + 1, START_SECONDS, process, log)
    descendant(process, "ray::ScorerReplica").send_signal(signal.SIGKILL)
    began = time.monotonic()
    assert ended(process, 60, log) == 1, log.read_text()[-2000:]
    assert time.monotonic() - began < 30
    assert re.search(r"first error: .*ScorerReplica \(pid \d+.* died", log.read_text()), log.read_text()[
        -2000:
    ]
    assert list((run / "ray_logs").glob("gcs_server*")) and files_left(files) == []
    assert left_behind(home) == []

    process = protege("merge", str(config), home=home, log=log)
    time.sleep(25)
    for _ in range(2):  # a batch system asks more than once
        process.send_signal(signal.SIGTERM)
        time.sleep(0.3)
    assert ended(process, 40, log) == 143, log.read_text()[-2000:]
    assert "continues the run" in log.read_text().splitlines()[-1]
    assert left_behind(home) == [] and files_left(files) == []


def test_verls_own_teacher_pool_gives_the_same_scores_and_lambda_one_needs_no_reference(home):
    config = small_config(
        home, name="pool", scorer={"kind": "pool"}, objective={"reward_scale": 1.25}, baselines=[]
    )
    log, files = home / "pool.log", run_files()
    text = yaml.safe_load(config.read_text())
    text["domains"]["code"]["objective"] = {"reward_scale": 1.0}
    text["training"] |= {"steps": 2, "save_every": 1}
    text["hardware"]["checkpoints"] = "weights"
    text["verl"] = {"trainer.rollout_data_dir": str(home / "pool.rollouts")}
    with_open_prompts(text, home, {"kind": "learned"})
    config.write_text(yaml.safe_dump(text, sort_keys=False))
    assert run_to_end("merge", str(config), home=home, log=log, timeout=600) == 0, log.read_text()[-3000:]
    run = home / "runs" / "pool"
    check_student_is_the_reference_before_the_first_update(run, "math")
    line = json.loads((run / "metrics.jsonl").read_text().splitlines()[-1])
    assert "teacher/code/student_minus_teacher" in line
    assert "teacher/code/implicit_reward" not in line
    router = json.loads((run / "report.json").read_text())["router"]
    assert (router["kind"], router["unlabelled"], router["undecided"]) == ("learned", 12, 0)
    assert router["tested"]["accuracy"] > 0.9
    check_weights_alone_and_a_setting_of_verls(run, home / "pool.rollouts")
    assert left_behind(home) == [] and files_left(files) == []


def check_weights_alone_and_a_setting_of_verls(run: Path, rollouts: Path) -> None:
    """One checkpoint, of the last step, without an optimizer; verl wrote the rollouts where it was told."""
    (checkpoint,) = (run / "train" / "checkpoints").glob("global_step_*")
    kinds = {file.name.partition("_")[0] for file in (checkpoint / "actor").glob("*.pt")}
    assert (checkpoint.name, kinds) == ("global_step_2", {"model"})
    assert sorted(file.name for file in rollouts.iterdir()) == ["1.jsonl", "2.jsonl"]
    provenance = json.loads((run / "manifest.json").read_text())["provenance"]
    assert provenance["verl settings"] == f"trainer.rollout_data_dir={rollouts}"


def test_auto_probes_lambda_and_an_alarm_backs_it_off_with_an_adapter_as_one_teacher(home):
    config, log, run = auto_config(home), home / "auto.log", home / "runs" / "auto"
    assert run_to_end("merge", str(config), home=home, log=log, timeout=600) == 0, log.read_text()[-3000:]
    assert left_behind(home) == []

    manifest = json.loads((run / "manifest.json").read_text())
    (adapter,) = [expert for expert in manifest["experts"] if expert["domain"] == "math"]
    assert adapter["attempts"] == 2  # its build was killed above, and went on from its first step
    curve = (home / "experts" / adapter["id"] / "learning_curve.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in curve] == [1, 2]
    files = {file.name for file in (home / "experts" / adapter["id"] / "model").iterdir()}
    assert "adapter_config.json" in files and "model.safetensors" not in files
    first = json.loads((run / "metrics.jsonl").read_text().splitlines()[0])
    # without the adapter, teacher and reference would be one model in one engine: the difference exactly 0
    assert first["teacher/math/implicit_reward"] != 0

    report = json.loads((run / "report.json").read_text())
    assert (report["router"]["kind"], report["router"]["tested"]["n"]) == ("agreement", 8)
    decided = json.loads((run / "prompts" / "agreement.json").read_text())["decisions"]
    assert len(decided) == 12 and {found["domain"] for found in decided.values()} <= {"math", "code"}
    for domain in ("math", "code"):
        curve = report["probe"][domain]["curve"]
        assert [point["reward_scale"] for point in curve] == [1.25, 1.5]
        assert [(point["answers"], point["greedy"]["answers"]) for point in curve] == [(4, 4)] * 2
    kept = [json.loads(line) for line in (run / "train" / "alarms.jsonl").read_text().splitlines()]
    backed_off = {alarm["domain"]: alarm["one_from"] for alarm in kept if alarm["one_from"]}
    assert backed_off, "no answer's length changed"
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [1, 2, 3]
    for domain, one_from in backed_off.items():
        scored = [f"teacher/{domain}/implicit_reward" in line for line in lines]
        assert scored == [step < one_from for step in (1, 2, 3)]  # at lambda 1 the reference is not read
        trained = report["objective"]["trained"][domain]
        assert trained[-1] == {"first_step": one_from, "last_step": 3, "at_first": 1.0, "at_last": 1.0}
    assert any("lambda of" in note and "is 1 from step" in note for note in report["notes"])
    check_polish(run, report)


def check_polish(run: Path, report: dict) -> None:
    """The student is the distilled one and a step of reinforcement learning on the answered prompts."""
    assert weights(run / "distilled") != weights(run / "student")
    (line,) = [json.loads(line) for line in (run / "metrics.polish.jsonl").read_text().splitlines()]
    assert line["step"] == 1 and 0 <= line["task_reward"] <= 1
    assert report["models"]["distilled"]["role"] == "baseline"
    assert report["polish"]["rollouts"] == {"math": 16, "code": 16}
    trained = report["prompts"]["trainings"]["polish"]
    assert trained["planned"] == trained["trained"] == {"math": 4, "code": 4}
    check_opd_more(run, report)
    assert mismatches(run) == []


def check_opd_more(run: Path, report: dict) -> None:
    """The distilled student after as many rollouts of more distillation, at the lambda that the merge ended
    with."""
    made = weights(run / "baselines" / "opd_more")
    assert made not in (weights(run / "distilled"), weights(run / "student"))
    lines = [json.loads(line) for line in (run / "metrics.opd_more.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [1, 2, 3, 4]  # of 8 rollouts each
    for domain, phases in report["objective"]["trained"].items():
        # at lambda 1 the reference is not read
        assert (f"teacher/{domain}/implicit_reward" in lines[0]) == (phases[-1]["at_last"] != 1)
    more = report["polish"]["more"]
    assert (more["steps"], sum(more["rollouts"].values())) == (4, sum(report["polish"]["rollouts"].values()))
    scored = report["models"]["opd_more"]["benchmarks"]["math_heldout"]
    assert scored["n"] + scored["unscored"] == 24  # two answers to each problem
