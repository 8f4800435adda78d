"""The real commands against a hub on this machine: one that serves, one that hangs, and none at all."""

from __future__ import annotations

import subprocess
import sys
import time

import pytest

from tests.helpers.hub_server import COMMIT, LoopbackHub, hub_environment, silent_server
from tests.helpers.messages import says
from tests.helpers.paths import ROOT
from tests.helpers.tiny_model import config_dict, sum_rows, write_config, write_jsonl

SECONDS = 60.0
"""Room for a slow machine; the hub's client alone retries for a minute, and `check` took three."""


def command(name, config, environment, *more):
    return [sys.executable, "-m", "merging.cli.main", name, str(config), *more], {
        "env": environment | {"PYTHONPATH": str(ROOT)}, "cwd": config.parent, "text": True,
    }  # fmt: skip


def run(name, config, environment, *more):
    arguments, settings = command(name, config, environment, *more)
    return subprocess.run(arguments, capture_output=True, timeout=120, check=False, **settings)


@pytest.fixture
def hub(tmp_path):
    """Has the student, an expert and the prompts of `config`."""
    given = config_dict(tmp_path)
    files = {
        name: {file.name: file.read_bytes() for file in (tmp_path / name).iterdir()}
        for name in ("student", "math_expert")
    }
    rows = write_jsonl(tmp_path / "rows.jsonl", sum_rows(6)).read_bytes()
    given["student"] = "org/student"
    given["baselines"] = []
    given["domains"].pop("code")
    given["domains"]["math"]["expert"]["path"] = "org/expert"
    given["domains"]["math"]["prompts"] = {"kind": "hub", "path": "org/prompts"}
    write_config(tmp_path, given)
    return LoopbackHub({
        ("models", "org/student"): files["student"] | {"sub/weights.safetensors": b"not wanted"},
        ("models", "org/expert"): files["math_expert"],
        ("datasets", "org/prompts"): {"README.md": b"# Sums", "data/train.jsonl": rows},
    })  # fmt: skip


@pytest.fixture
def config(hub, tmp_path):
    (path,) = tmp_path.glob("*.yaml")
    return path


def contents(hub, *names) -> list[str]:
    """Files whose content was asked for."""
    asked = [line for line in hub.requests if line.startswith("GET") and "/resolve/" in line]
    return [name for name in (line.rpartition("/")[2] for line in asked) if not names or name in names]


def test_what_was_fetched_is_enough_for_check_without_a_network(hub, config, tmp_path):
    with hub.serving() as url:
        environment = hub_environment(url, tmp_path)
        fetched = run("fetch", config, environment)
        assert fetched.returncode == 0, fetched.stdout + fetched.stderr
        says(fetched.stdout, "downloaded model org/student (student)", "downloaded data set org/prompts")
        assert "%|" not in fetched.stderr  # bars are for terminals
        assert "weights.safetensors" not in contents(hub) and "train.jsonl" in contents(hub)
        hub.requests.clear()
        again = run("fetch", config, environment)
        assert again.returncode == 0 and again.stdout.count("in the cache") == 3
        assert contents(hub) == []
    # the server is gone
    began = time.monotonic()
    checked = run("check", config, environment)
    assert checked.returncode == 0, checked.stderr
    says(checked.stdout, "prompts math: 6", "demo: ready")
    assert time.monotonic() - began < SECONDS


def test_a_killed_fetch_is_continued_and_leaves_no_file_that_only_looks_whole(hub, config, tmp_path):
    hub.files["models", "org/expert"]["long.json"] = b"{}" + bytes(24_000_000)
    hub.stalls = {"long.json"}
    others = set(hub.files["models", "org/expert"]) - {"long.json"}
    snapshot = tmp_path / "hf" / "hub" / "models--org--expert" / "snapshots" / COMMIT
    with hub.serving() as url:
        environment = hub_environment(url, tmp_path)
        arguments, settings = command("fetch", config, environment)
        process = subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, **settings)
        blobs = snapshot.parents[1] / "blobs"
        _wait(lambda: all((snapshot / name).exists() for name in others))
        _wait(lambda: any(file.stat().st_size for file in blobs.glob("*.incomplete")))
        process.kill()
        process.communicate()
        assert not (snapshot / "long.json").exists()
        says(run("fetch", config, environment, "--dry-run").stdout, "to download model org/expert")
        hub.stalls, asked = set(), len(hub.requests)
        continued = run("fetch", config, environment)
    assert continued.returncode == 0, continued.stdout + continued.stderr
    assert (snapshot / "long.json").stat().st_size == 24_000_002
    del hub.requests[:asked]
    assert contents(hub, "long.json") == ["long.json"] and contents(hub, *others) == []


def _wait(condition, seconds: float = 60) -> None:
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until, "it did not get there"
        time.sleep(0.05)


@pytest.mark.parametrize("name", ["check", "plan", "route", "probe"])
def test_a_hub_that_hangs_costs_seconds_and_one_message_names_the_thing(name, hub, config, tmp_path):
    local = ("--set", f"student={tmp_path / 'student'}")
    local += ("--set", f"domains.math.expert.path={tmp_path / 'math_expert'}")
    with silent_server() as url:
        began = time.monotonic()
        result = run(name, config, hub_environment(url, tmp_path), *local)
        seconds = time.monotonic() - began
    assert result.returncode == 2 and seconds < SECONDS
    (message,) = [line for line in result.stderr.splitlines() if line]
    says(message, "data set org/prompts", "local cache", url, "protege fetch CONFIG")


def test_check_never_downloads_a_model(hub, config, tmp_path):
    with hub.serving() as url:
        result = run("check", config, hub_environment(url, tmp_path))
    assert result.returncode == 2
    says(result.stderr, "student: org/student", "domains.math.expert: org/expert", "protege fetch CONFIG")
    assert not [line for line in hub.requests if "/api/models" in line or "safetensors" in line]


def test_who_works_offline_is_told_so_at_once(hub, config, tmp_path):
    with hub.serving() as url:
        environment = hub_environment(url, tmp_path) | {"HF_HUB_OFFLINE": "1"}
        result = run("fetch", config, environment)
    assert result.returncode == 1 and hub.requests == []
    says(result.stdout, "HF_HUB_OFFLINE")
    says(result.stderr, "3 of 3 things")
