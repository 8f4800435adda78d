"""The real command on two devices of one machine, and on a joined cluster whose head has none.

The reference is the same merge on one device. Its rollouts are sampled anew, so that only counts are equal
exactly; `tests/unit/trainer/test_two_ranks.py` compares a step on the very same rows.
"""

from __future__ import annotations

import json
import math
import re
import shutil
import signal
import subprocess
import time
from collections import Counter
from pathlib import Path
from typing import Any

import psutil
import pyarrow.parquet
import pytest
import yaml

from tests.helpers.model_copies import STUDENT, noisy_copy, weights_of
from tests.helpers.paths import ROOT
from tests.helpers.processes import (
    ended,
    files_left,
    left_behind,
    protege,
    run_files,
    run_to_end,
    steps_in,
    wait_for,
)
from tests.helpers.ray_nodes import RayNodes, left_on_nodes, ray_nodes
from tests.helpers.small_merge import with_open_prompts
from trainer.processes import reaper

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(1500)]

DEMO = ROOT / "configs" / "demo"
PROMPTS, SAMPLES, STEPS = 8, 4, 5
ROLLOUTS = PROMPTS * SAMPLES // 2
"""Rollouts of each domain in a step."""
START_SECONDS = 400
TWO_REPLICAS = {"replicas": 2}
HEAD = (0, 8)
"""Devices and CPUs of a head without devices."""


@pytest.fixture(scope="module")
def home(tmp_path_factory) -> Path:
    """Working folder and registry of all runs here, and a math expert that is plainly not the base."""
    home = tmp_path_factory.mktemp("home")
    noisy_copy(home / "math-expert", seed=1)
    return home


@pytest.fixture(scope="module")
def cluster():
    with ray_nodes(HEAD, (1, 32), (1, 32)) as nodes:
        yield nodes


def config(home: Path, name: str, hardware: dict[str, Any], **changes: Any) -> Path:
    """A few steps with a given math expert and a code expert that is built."""
    code = {"kind": "rl", "steps": 1, "prompts_per_step": 2, "samples_per_prompt": 8, "learning_rate": 1e-4}
    experts = {"math": {"kind": "model", "path": str(home / "math-expert")}, "code": code}
    benchmarks = {
        "math": {"kind": "math", "name": "math_heldout", "path": str(DEMO / "math.heldout.jsonl")},
        "code": {"kind": "evalplus", "name": "code_heldout", "completion": "append",
                 "path": str(DEMO / "code.heldout.evalplus.jsonl"), "prompt_field": "instruction"},
    }  # fmt: skip
    domains = {
        domain: {
            "expert": expert,
            "prompts": {"kind": "file", "path": str(DEMO / f"{domain}.train.jsonl")},
            "reward": domain,
            "benchmarks": [benchmarks[domain] | {"limit": 4}],
        }
        for domain, expert in experts.items()
    }
    training = {"steps": STEPS, "prompts_per_step": PROMPTS, "samples_per_prompt": SAMPLES, "save_every": 1,
                "learning_rate": 1e-3, "max_prompt_tokens": 72, "max_response_tokens": 48}  # fmt: skip
    values = {
        "name": name, "student": str(STUDENT), "domains": domains, "training": training,
        "hardware": {"device": "cpu", **hardware},
        "evaluation": {"samples_per_problem": 1, "greedy": False}, "baselines": [], **changes,
    }  # fmt: skip
    path = home / f"{name}.yaml"
    path.write_text(yaml.safe_dump(values, sort_keys=False))
    return path


def lines_of(run: Path, name: str = "metrics.jsonl") -> list[dict[str, float]]:
    return [json.loads(line) for line in (run / name).read_text().splitlines()]


def rows_of(run: Path) -> list[dict[str, Any]]:
    return pyarrow.parquet.read_table(run / "prompts" / "train.parquet").to_pylist()


@pytest.fixture(scope="module")
def alone(home, two_devices) -> Path:
    """The same merge on one device, with the experts of the two devices' run."""
    file, log = config(home, "one", {}), home / "one.log"
    text = yaml.safe_load(file.read_text())
    for domain in text["domains"].values():
        del domain["benchmarks"]
    file.write_text(yaml.safe_dump(text, sort_keys=False))
    assert run_to_end("merge", str(file), home=home, log=log, timeout=900) == 0, log.read_text()[-3000:]
    assert "expert code: found in the registry" in log.read_text()
    return home / "runs" / "one"


@pytest.fixture(scope="module")
def two_devices(home) -> Path:
    """A whole run with `gpus: 2`: an expert, the merge, a baseline that is trained, the report."""
    baselines = ["average", {"kind": "grpo", "samples_per_prompt": 4}]
    file, log = config(home, "two", {"gpus": 2}, baselines=baselines, scorer=TWO_REPLICAS), home / "two.log"
    assert run_to_end("merge", str(file), home=home, log=log, timeout=1200) == 0, log.read_text()[-3000:]
    assert left_behind(home) == []
    return home / "runs" / "two"


def test_two_devices_run_to_the_report(two_devices, home):
    report = json.loads((two_devices / "report.json").read_text())
    assert {name: model["role"] for name, model in report["models"].items()} == {
        "base": "base", "math-teacher": "teacher", "code-teacher": "teacher", "student": "student",
        "average": "baseline", "grpo": "baseline",
    }  # fmt: skip
    assert all(model["benchmarks"]["math_heldout"]["n"] == 4 for model in report["models"].values())
    assert (two_devices / "manifest.json").exists() and (two_devices / "report.html").exists()
    (expert,) = (home / "experts").iterdir()
    assert moved(expert / "model") and moved(two_devices / "student")
    grpo = lines_of(two_devices, "metrics.grpo.jsonl")
    assert [line["step"] for line in grpo] == list(range(1, STEPS + 1))
    assert all(0 <= line["task_reward"] <= 1 and 8 < line["length"] < 48 for line in grpo)
    shards = (two_devices / "train" / "checkpoints" / f"global_step_{STEPS}" / "actor").glob("model_*")
    assert sorted(file.name for file in shards) == [f"model_world_size_2_rank_{rank}.pt" for rank in (0, 1)]


def moved(folder: Path) -> bool:
    """Whether the model's weights are not the student's any more."""
    before = weights_of(STUDENT)
    return any((value != before[name]).any() for name, value in weights_of(folder).items())


def test_two_devices_train_what_one_does(two_devices, alone):
    check_same_training(two_devices, alone)


def test_both_replicas_score_and_give_their_memory_back_in_every_step(two_devices, alone):
    for run, replicas in ((two_devices, (0, 1)), (alone, (0,))):
        for line in lines_of(run):
            assert line["scorer/passes"] == 2 * PROMPTS * SAMPLES, "teacher and reference, once a rollout"
            assert 0 < line["seconds_scoring_exposed"] < line["seconds_rollout_and_scoring"]
            swaps = [line[f"scorer/{replica}/swaps"] for replica in replicas]
            assert 0 < sum(swaps) <= line["scorer/passes"]
        busy = [sum(line[f"scorer/{replica}/busy_seconds"] for line in lines_of(run)) for replica in replicas]
        assert min(busy) > 0
        assert f"scorer/{len(replicas)}/swaps" not in lines_of(run)[0]
    assert not (two_devices / "train" / "scorer_weights").exists()


def check_same_training(run: Path, alone: Path, stopped: int = 0) -> None:
    """Planned and trained rows exactly, and what is measured in step 1 within the noise of its rollouts.

    verl writes a step's checkpoint before its metrics, so each of the `stopped` attempts may have lost those
    of its last step.
    """
    assert rows_of(run) == rows_of(alone)
    counts = [json.loads((each / "prompts" / "counts.json").read_text()) for each in (run, alone)]
    assert counts[0]["rows"] == counts[1]["rows"] == Counter(row["teacher"] for row in rows_of(run))
    lines, reference = lines_of(run), lines_of(alone)
    steps = [line["step"] for line in lines]
    assert steps == sorted(set(steps)) and (steps[0], steps[-1]) == (1, STEPS), steps
    assert len(steps) >= STEPS - stopped, steps
    for line in lines + reference:
        assert line["teacher/math/sequences"] == line["teacher/code/sequences"] == ROLLOUTS
        assert line["teacher/math/token_share"] + line["teacher/code/token_share"] == pytest.approx(1)
        assert line["teacher/math/gradient_share"] + line["teacher/code/gradient_share"] == pytest.approx(1)
        assert line["sampler_trainer_probability_difference"] < 1e-5
    for domain in ("math", "code"):
        check_first_step(lines[0], reference[0], f"teacher/{domain}/")
    teacher = weights_of(run.parent.parent / "math-expert")
    assert any((value != teacher[name]).any() for name, value in weights_of(run / "student").items())


def check_first_step(line: dict[str, float], reference: dict[str, float], key: str) -> None:
    """The student is the reference there, and the same in both runs; their rollouts are drawn anew.

    A mean over tokens has the error std / sqrt(tokens) for tokens drawn independently. Those of a rollout are
    not, hence twice that; and five of it, for eight comparisons in each of two runs.
    """
    reward = line[f"{key}implicit_reward"]
    assert line[f"{key}student_minus_teacher"] == pytest.approx(-reward, abs=1e-4)
    assert line[f"{key}advantage_mean"] == pytest.approx(1.25 * reward, abs=1e-4)
    assert line[f"{key}student_reference_distance"] < 1e-4
    tokens = [each[f"{key}length"] * each[f"{key}sequences"] for each in (line, reference)]
    assert all(count == pytest.approx(round(count), abs=1e-6) for count in tokens)
    error = 2 * line[f"{key}advantage_std"] * math.sqrt(sum(1 / count for count in tokens))
    assert abs(line[f"{key}advantage_mean"] - reference[f"{key}advantage_mean"]) < 5 * error
    # answers of the base have 26 tokens (math) and 33 (code), one of them by up to a third more or less
    spread = line[f"{key}length"] / 3 * math.sqrt(2 / ROLLOUTS)
    assert abs(line[f"{key}length"] - reference[f"{key}length"]) < 5 * spread
    assert abs(line[f"{key}finish_rate"] - reference[f"{key}finish_rate"]) < 0.5


def on_cluster(home: Path, cluster: RayNodes) -> Path:
    """With the experts that the two devices' run has built, another trained baseline, and a probe, which runs
    on a node and has one lambda to choose from."""
    stall = {"after": 2, "at_least_seconds": 6}
    hardware = {"gpus": 1, "nodes": 2, "ray_address": cluster.address, "stall": stall}
    chosen = {"objective": {"reward_scale": "auto"}, "probe": {"reward_scales": [1.25], "prompts": 2}}
    return config(home, "nodes", hardware, baselines=["sft"], scorer=TWO_REPLICAS, **chosen)


def test_an_engine_that_hangs_is_said_and_one_that_dies_ends_the_run(home, cluster, two_devices):
    file, log, files = on_cluster(home, cluster), home / "nodes.log", run_files()
    process = protege("merge", str(file), home=home, log=log)
    steps = home / "runs" / "nodes" / "train" / "metrics.jsonl"
    wait_for(lambda: steps_in(steps) >= 2, START_SECONDS, process, log)  # of one no usual time is known
    running = reaper.processes_of(cluster.mark())
    replicas = [cluster.node_of(part) for part in cluster.parts("ray::ScorerReplica")]
    assert sorted(replicas) == sorted(cluster.raylets[1:]), "one on each device, and none on the head"
    engine = cluster.part("VLLM::EngineCore")
    engine.send_signal(signal.SIGSTOP)
    wait_for(lambda: "stopped: VLLM::EngineCore" in log.read_text(), 120, process, log)
    assert re.search(r"stalled: no step for \d+ s, .*; node .*ray::WorkerDict", log.read_text())
    probed = json.loads((home / "runs" / "nodes" / "probe.json").read_text())
    assert probed["math"]["reward_scale"] == 1.25 and probed["math"]["curve"][0]["prompts"] == 2
    assert last_error_after(engine, process, log).count("Engine")
    assert left_behind(home) == [] and left_on_nodes(running) == [] and files_left(files) == []


def last_error_after(part: psutil.Process, process: subprocess.Popen, log: Path) -> str:
    """The last line of a run that ends with an error within half a minute of the end of its part."""
    began = time.monotonic()
    part.send_signal(signal.SIGKILL)
    assert ended(process, 120, log) == 1, log.read_text()[-2000:]
    assert time.monotonic() - began < 30
    last = [line for line in log.read_text().splitlines() if line.strip()][-1]
    assert "first error:" in last, last
    return last


def test_a_training_worker_that_dies_on_a_node_is_named(home, cluster, two_devices):
    """Before it trains, the router reads the models on a node too: prompts without a label find a teacher."""
    hardware = {"gpus": 1, "nodes": 1, "ray_address": cluster.address}
    file, log = config(home, "worker", hardware), home / "worker.log"
    text = yaml.safe_load(file.read_text())
    with_open_prompts(text, home, {"kind": "agreement", "measured_on": 2})
    text["training"] |= {"steps": 30, "save_every": 30}
    file.write_text(yaml.safe_dump(text, sort_keys=False))
    process, run = protege("merge", str(file), home=home, log=log), home / "runs" / "worker"
    wait_for(lambda: steps_in(run / "train" / "metrics.jsonl") >= 1, START_SECONDS, process, log)
    assert json.loads((run / "prompts" / "router.json").read_text())["unlabelled"] == 12
    running, worker = reaper.processes_of(cluster.mark()), cluster.part("ray::WorkerDict")
    assert f"WorkerDict (pid {worker.pid}) died on node" in last_error_after(worker, process, log)
    assert left_behind(home) == [] and left_on_nodes(running) == []


def test_two_nodes_continue_the_run_to_the_report(home, cluster, two_devices, alone):
    file, log, run = on_cluster(home, cluster), home / "continued.log", home / "runs" / "nodes"
    assert 1 <= steps_in(run / "train" / "metrics.jsonl") < STEPS
    shutil.rmtree(home / "samples")  # the base's answers too are to come from the nodes
    assert run_to_end("merge", str(file), home=home, log=log, timeout=1200) == 0, log.read_text()[-3000:]
    assert left_behind(home) == []
    check_same_training(run, alone, stopped=1)
    assert all(sum(line[f"scorer/{n}/busy_seconds"] for line in lines_of(run)) > 0 for n in (0, 1))
    report = json.loads((run / "report.json").read_text())
    assert report["models"].keys() == {"base", "math-teacher", "code-teacher", "student", "sft"}
    sft = lines_of(run, "metrics.sft.jsonl")
    assert [line["step"] for line in sft] == list(range(1, STEPS + 1)) and all(x["loss"] > 0 for x in sft)
    assert moved(run / "baselines" / "sft")
    for benchmark in ("math_heldout", "code_heldout"):
        assert base_answers(run, benchmark) == base_answers(two_devices, benchmark)


def base_answers(run: Path, benchmark: str) -> list[str]:
    file = run / "samples" / "base" / f"{benchmark}.jsonl"
    return [json.loads(line)["completion"] for line in file.read_text().splitlines()]


@pytest.mark.parametrize(
    "hardware, told",
    [
        ({"gpus": 2}, ["2 GPUs on one node", "has 0 GPUs and 8 CPUs", "has 1 GPUs", "--num-gpus"]),
        ({"gpus": 1, "nodes": 3}, ["3 times 1 GPUs", "--num-gpus"]),
    ],
)
def test_a_cluster_without_room_is_refused_at_once(home, cluster, hardware, told):
    file = config(home, f"room{hardware['gpus']}", {**hardware, "ray_address": cluster.address}, training={
        "steps": 1, "prompts_per_step": 6, "max_prompt_tokens": 72, "max_response_tokens": 48})  # fmt: skip
    text = yaml.safe_load(file.read_text())
    del text["domains"]["code"]
    file.write_text(yaml.safe_dump(text, sort_keys=False))
    log = home / f"room{hardware['gpus']}.log"
    assert run_to_end("merge", str(file), home=home, log=log, timeout=300) == 2, log.read_text()[-2000:]
    assert all(part in log.read_text() for part in told), log.read_text()
