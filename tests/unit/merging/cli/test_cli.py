"""The command line: what each command does, how a run ends, and a fast --help."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time
from types import SimpleNamespace

import pytest

from merging.cli import doctor
from tests.helpers.cli_runner import ROOT, protege, refused, subprocess_protege
from tests.helpers.messages import says
from tests.helpers.tiny_model import (
    config_dict,
    sum_rows,
    unmodelled,
    write_config,
    write_json,
    write_jsonl,
    write_model,
)
from trainer.engine import attention

pytestmark = pytest.mark.usefixtures("in_tmp")


@pytest.fixture
def config(tmp_path):
    return config_dict(tmp_path)


# ------------------------------------------------------------------------------------- what works


def test_check_of_a_good_config(config, tmp_path):
    result = protege("check", write_config(tmp_path, config))
    assert (result.code, result.err) == (0, "")
    assert "model    student: LlamaForCausalLM, 568 parameters, context 64" in result.out
    used = "6 used, 50.0% of every step, 4 rows (0.7 passes)"
    assert f"prompts  code: 6, longest 7 tokens, {used}" in result.out
    assert result.out.endswith("demo: ready\n")


def test_check_shows_what_the_machine_must_have(config, tmp_path):
    path = write_config(tmp_path, config)
    unmodelled(tmp_path / "student")
    assert "machine  main memory about 4.3 GB\nmachine  disk about 0.3 GB\n" in protege("check", path).out
    elsewhere = ("hardware.device=cuda", "hardware.ray_address=x:1", "hardware.device_kind=L4-24GB")
    result = protege("check", path, *(part for override in elsewhere for part in ("--set", override)))
    assert "machine  merge not modelled (llama: the memory of a mixture of experts" in result.out
    assert "machine  main memory about" in result.out


def test_plan_needs_none_of_the_devices(config, tmp_path):
    """They may be rented once the plan is known; `check` is for the machine itself."""
    path = write_config(tmp_path, config)
    gpus = ("--set", "hardware.device=cuda", "--set", "hardware.gpus=4")
    says(refused("check", path, *gpus), "hardware.gpus = 4", "this machine shows")
    result = protege("plan", path, *gpus)
    assert (result.code, result.err) == (0, "")
    assert "demo on 4 x H100-80GB" in result.out and "assumes: device: H100-80GB assumed" in result.out
    stored = json.loads(protege("plan", path, "--json").out)
    assert (stored["device"], stored["devices"]) == ("cpu", 1)


def test_route_shows_counts_and_examples(config, tmp_path):
    write_jsonl(tmp_path / "math.jsonl", sum_rows(9))
    result = protege("route", write_config(tmp_path, config), "--examples", 1)
    assert result.out.splitlines() == [
        "math: 9 prompts, 6 used, 50.0% of every step, 4 rows (0.7 passes), lambda 1.25",
        "  row 1 (row of domains.math.prompts): 0+1",
        "code: 6 prompts, 6 used, 50.0% of every step, 4 rows (0.7 passes), lambda 1.25",
        "  row 1 (row of domains.code.prompts): def f0",
        "0 duplicate prompts dropped",
    ]


def test_set_overrides(config, tmp_path):
    path = write_config(tmp_path, config)
    shares = "mixing={kind: weighted, weights: {math: 3, code: 1}}"
    result = protege("route", path, "--set", shares, "--set", "objective.reward_scale=2")
    assert "math: 6 prompts, 6 used, 75.0% of every step, 6 rows (1.0 passes), lambda 2" in result.out
    assert "code: 6 prompts, 6 used, 25.0% of every step, 2 rows (0.3 passes), lambda 2" in result.out


def test_the_old_place_of_the_mixing_is_named(config, tmp_path):
    message = refused("route", write_config(tmp_path, config), "--set", "routing.balance=false")
    says(message, "routing.balance", "`mixing`", "{kind: balanced}", "default")


def test_version():
    result = protege("version")
    assert result.code == 0 and result.out.startswith("protege 0.")


def test_help_names_every_command():
    out = protege("--help").out
    for command in ("check", "doctor", "route", "merge", "eval", "report", "experts", "version"):
        assert f"\n  {command} " in out


def test_help_is_fast():
    seconds = []
    for _ in range(3):
        start = time.perf_counter()
        assert subprocess_protege("--help").returncode == 0
        seconds.append(time.perf_counter() - start)
    print(f"protege --help: {min(seconds):.2f} s")
    assert min(seconds) < 1.0


def test_help_imports_nothing_heavy():
    code = (
        "import sys\nfrom merging.cli.main import app\n"
        "try:\n    app(['--help'])\nexcept SystemExit:\n    pass\n"
        "heavy = 'torch transformers vllm verl ray datasets evalplus matplotlib numpy pydantic'.split()\n"
        "print(sorted(set(heavy) & sys.modules.keys()), file=sys.stderr)\n"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True)
    assert ended.stderr.strip() == "[]"


# --------------------------------------------------------------------------- how a started run ends


@pytest.fixture
def fake_run(monkeypatch):
    """merging.run with functions of the test's own."""

    def install(**functions):
        monkeypatch.setitem(sys.modules, "merging.run", SimpleNamespace(**functions))

    return install


def test_merge_gets_config_and_folder(config, tmp_path, fake_run):
    calls = []
    fake_run(merge=lambda loaded, run_dir: calls.append((loaded.config.training.steps, run_dir)))
    path = write_config(tmp_path, config)
    assert protege("merge", path, "--set", "training.steps=3").code == 0
    assert protege("merge", path, "--run-dir", "elsewhere").code == 0
    assert calls == [(3, tmp_path / "runs/demo"), (2, tmp_path / "elsewhere")]


def test_failed_run_is_exit_code_1_with_the_message_last(config, tmp_path, fake_run):
    from common.errors import RunFailed

    def merge(_loaded, _run_dir):
        print("step 1")
        raise RunFailed("expert math: engine died: out of memory")

    fake_run(merge=merge)
    result = protege("merge", write_config(tmp_path, config))
    assert (result.code, result.errors) == (1, ["error: expert math: engine died: out of memory"])


def test_interrupt_is_exit_code_130_and_says_how_to_go_on(config, tmp_path, fake_run):
    def merge(_loaded, _run_dir):
        raise KeyboardInterrupt

    fake_run(merge=merge)
    result = protege("merge", write_config(tmp_path, config))
    assert result.code == 130
    (line,) = result.errors
    says(line, "interrupted", "same command", "continues the run")


def test_our_own_bugs_keep_their_traceback(config, tmp_path, fake_run):
    def merge(_loaded, _run_dir):
        raise ZeroDivisionError

    fake_run(merge=merge)
    with pytest.raises(ZeroDivisionError):
        protege("merge", write_config(tmp_path, config))


def test_eval_and_report_get_the_folder(tmp_path, fake_run):
    calls = []
    fake_run(
        evaluate_run=lambda run: calls.append(("eval", run)),
        report_run=lambda run: calls.append(("report", run)),
    )
    (tmp_path / "config.yaml").write_text("name: x\n")
    assert [protege(command, ".").code for command in ("eval", "report")] == [0, 0]
    assert calls == [("eval", tmp_path), ("report", tmp_path)]


# ------------------------------------------------------------------------------------------ experts


@pytest.fixture
def registry(tmp_path):
    """A registry with one expert, as a build leaves it."""
    from teachers.models.fingerprint import fingerprint
    from teachers.registry.local import ExpertRecord, record_json

    folder = tmp_path / "registry/experts/abcd1234"
    write_model(folder / "model")
    record = ExpertRecord(
        id="abcd1234",
        domain="math",
        identity={"reward": "math"},
        weights_sha256=fingerprint(folder / "model").weights_sha256,
        prompts=6,
        final_reward=0.75,
        wall_seconds=61.4,
        attempts=1,
        created="2026-01-02T03:04:05+00:00",
        versions={},
        path=str(folder),
    )
    write_json(folder / "record.json", record_json(record))
    return tmp_path / "registry"


def test_experts_list(registry, monkeypatch):
    row = ["abcd1234", "math", "built", "not measured", "not recorded", "2026-01-02 03:04"]
    header, line = protege("experts", "list", "--registry", registry).out.splitlines()
    assert header.split() == ["id", "domain", "kind", "accuracy", "size", "created"]
    assert re.split(r"\s{2,}", line.strip()) == row
    monkeypatch.setenv("PROTEGE_HOME", str(registry))
    assert protege("experts", "list").out == f"{header}\n{line}\n"
    (listed,) = json.loads(protege("experts", "list", "--json").out)
    assert (listed["id"], listed["evaluation"], listed["size_bytes"]) == ("abcd1234", None, None)


def test_experts_list_of_an_empty_registry(tmp_path):
    result = protege("experts", "list", "--registry", tmp_path / "none")
    assert (result.code, result.out) == (0, f"no experts in {tmp_path}/none\n")


def test_experts_show(registry):
    shown = json.loads(protege("experts", "show", "abcd", "--registry", registry, "--json").out)
    assert (shown["id"], shown["final_reward"], shown["identity"]) == ("abcd1234", 0.75, {"reward": "math"})


def test_experts_verify(registry):
    result = protege("experts", "verify", "abcd1234", "--registry", registry)
    assert (result.code, result.out) == (
        0,
        "abcd1234: intact (weights only: its record has no digests of other files)\n",
    )
    write_model(registry / "experts/abcd1234/model", value=0.9)
    result = protege("experts", "verify", "abcd1234", "--registry", registry)
    (message,) = result.errors
    assert result.code == 2 and "its weights have digest" in message


def test_experts_show_says_what_an_old_record_lacks(registry):
    lines = protege("experts", "show", "abcd", "--registry", registry).out.splitlines()
    told = dict(re.split(r"\s{2,}", line.strip(), maxsplit=1) for line in lines if "  " in line.strip())
    assert (told["id"], told["final reward"], told["time"]) == ("abcd1234", "0.750", "61 s")
    for name in ("base", "parent", "seed", "resumed", "files", "size", "tokenizer", "distance from base"):
        assert told[name] == "not recorded"
    assert told["accuracy"] == "not measured"


def test_unknown_expert(registry):
    message = refused("experts", "show", "zzz", "--registry", registry)
    says(message, "expert 'zzz'", "0 experts", "abcd1234")


def test_experts_build_prints_the_records(config, tmp_path, fake_run, registry):
    from teachers.registry.local import Registry

    steps = []

    def build_experts(loaded):
        steps.append(loaded.config.training.steps)
        return Registry(registry).list()

    fake_run(build_experts=build_experts)
    result = protege("experts", "build", write_config(tmp_path, config), "--set", "training.steps=9")
    assert result.out.startswith("abcd1234  math  reward 0.750")
    assert steps == [9]


# ------------------------------------------------------------------------------------------- doctor


def test_doctor_is_ready_when_every_part_works(monkeypatch):
    monkeypatch.setattr(doctor, "LIVE", {"part": lambda: "works"})
    result = protege("doctor")
    assert result.code == 0
    assert any(line.split() == ["ok", "part", "works"] for line in result.out.splitlines())
    assert result.out.endswith("\nready\n")


def test_doctor_fails_with_a_broken_part(monkeypatch):
    def broken():
        raise RuntimeError("first line\nloss 'exopd' is not registered")

    monkeypatch.setattr(doctor, "LIVE", {"part": broken, "other": lambda: "works"})
    result = protege("doctor")
    assert result.code == 1
    assert "failed  part" in result.out and "loss 'exopd' is not registered" in result.out
    assert result.out.endswith("\nnot ready: part\n")


@pytest.mark.parametrize(
    ("vllm", "needed"), [("0.32.0+cpu", "3.11 or 3.12"), ("0.24.0", "3.12"), (None, "3.11 or 3.12")]
)
def test_doctor_tells_which_python_the_installed_stack_needs(monkeypatch, vllm, needed):
    monkeypatch.setattr(doctor, "installed_version", lambda name: vllm)
    python = doctor.machine()[0]
    assert python.detail.endswith(f" ({needed} needed)")
    assert python.state == ("ok" if f"{sys.version_info[0]}.{sys.version_info[1]}" in needed else "failed")


def test_doctor_fails_with_a_missing_package(monkeypatch):
    monkeypatch.setattr(doctor, "LIVE", {})
    monkeypatch.setattr(doctor, "PACKAGES", ("typer", "no-such-package"))
    result = protege("doctor")
    assert result.code == 1 and result.out.endswith("\nnot ready: no-such-package\n")


def test_doctor_says_which_attention_each_device_gets(monkeypatch):
    monkeypatch.setattr(doctor, "LIVE", {})
    without = "cpu: packed_sdpa; cuda: packed_sdpa (flash-attn: not installed)"
    assert without in protege("doctor").out
    for module in (doctor, attention):
        monkeypatch.setattr(module, "installed_version", lambda name: "2.8.3")
    assert "cpu: packed_sdpa; cuda: flash_attention_2 (flash-attn: 2.8.3)" in protege("doctor").out


def test_probe_reads_what_a_noisy_process_found():
    assert doctor.in_fresh_python("print('noise')\nfound = {'a': 1}") == {"a": 1}
    with pytest.raises(RuntimeError, match="ValueError: broken"):
        doctor.in_fresh_python("raise ValueError('broken')")
