"""`protege doctor`: what this installation is, and live proof that its parts work."""

from __future__ import annotations

import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from common.digests import installed_version
from common.words import gib

PACKAGES = ("torch", "transformers", "verl", "ray", "vllm", "math-verify", "evalplus")
PROBE_SECONDS = 180
"""Longest wait for one live check; importing verl or vLLM takes 6 to 20 s on two cores."""

State = Literal["ok", "failed", "info"]


@dataclass(frozen=True)
class Check:
    """One line of the table; `failed` makes the exit code 1."""

    part: str
    state: State
    detail: str


def examine() -> bool:
    """Print the table; whether every required part works."""
    checks = [*machine(), *versions()]
    with ThreadPoolExecutor(2) as pool:
        running = [pool.submit(_live, part, probe) for part, probe in LIVE.items()]
        checks += [future.result() for future in running]
    _print(checks)
    return all(check.state != "failed" for check in checks)


def machine() -> list[Check]:
    """Python, cores, memory, disk and GPUs; for information, except the Python version."""
    import psutil

    memory = psutil.virtual_memory()
    disk = shutil.disk_usage(Path.cwd())
    first, needed = ((3, 12), "3.12") if is_gpu_stack() else ((3, 11), "3.11 or 3.12")
    supported = first <= sys.version_info[:2] < (3, 13)
    return [
        Check("python", "ok" if supported else "failed", f"{platform.python_version()} ({needed} needed)"),
        Check("cores", "info", f"{len(os.sched_getaffinity(0))} usable"),
        Check("memory", "info", f"{memory.available / 2**30:.1f} of {gib(memory.total)} available"),
        Check("disk", "info", f"{gib(disk.free)} free at {Path.cwd()}"),
        Check("gpu", "info", _gpus()),
        Check("attention", "info", attention()),
    ]


def versions() -> list[Check]:
    """Installed versions; a missing package is a failure."""
    found = {name: installed_version(name) for name in PACKAGES}
    missing = "not installed; see requirements/"
    return [Check(name, "ok" if version else "failed", version or missing) for name, version in found.items()]


def attention() -> str:
    """What keeps packed sequences apart on each device."""
    from trainer.engine.attention import attention_of

    flash = installed_version("flash-attn") or "not installed"
    return f"cpu: {attention_of('cpu')}; cuda: {attention_of('cuda')} (flash-attn: {flash})"


def is_gpu_stack() -> bool:
    """Whether the installed vLLM is that of requirements/gpu.txt; the CPU's calls itself `+cpu`."""
    found = installed_version("vllm")
    return found is not None and "cpu" not in found


def _gpus() -> str:
    if not shutil.which("nvidia-smi"):
        return "none (hardware.device: cpu)"
    query = ["nvidia-smi", "--query-gpu=name,memory.total,driver_version", "--format=csv,noheader"]
    found = subprocess.run(query, capture_output=True, text=True, timeout=30, check=False)
    return "; ".join(found.stdout.split("\n")).strip("; ") or "nvidia-smi lists none"


# ---------------------------------------------------------------------------------------- live checks


def verl_plugin() -> str:
    """verl, imported for the CPU, knows our platform and our loss (verl hides plug-ins that fail)."""
    found = in_fresh_python(_VERL_PROBE, VERL_PLATFORM="cpu")
    problems = [f"{what} is not registered" for what, there in found.items() if not there]
    if problems:
        raise RuntimeError("; ".join(problems) + " (is `protege` installed, with its entry points?)")
    return "platform 'cpu' and loss 'exopd' are registered"


_VERL_PROBE = """
import verl
from verl.plugin.platform import PlatformRegistry
from verl.trainer.distillation.losses import DISTILLATION_LOSS_REGISTRY
from verl.trainer.ppo.core_algos import ADV_ESTIMATOR_REGISTRY, POLICY_LOSS_REGISTRY
losses = [*DISTILLATION_LOSS_REGISTRY, *ADV_ESTIMATOR_REGISTRY, *POLICY_LOSS_REGISTRY]
found = {"platform 'cpu'": "cpu" in PlatformRegistry._platforms, "loss 'exopd'": "exopd" in losses}
"""


def vllm_plugin() -> str:
    """vLLM detects its platform and loads our plug-in."""
    found = in_fresh_python(_VLLM_PROBE)
    if not found["plugin"]:
        raise RuntimeError("the general plug-in 'protege_cpu' is not found (is `protege` installed?)")
    if found["platform"] == "cpu" and not found["keeps_weights"]:
        raise RuntimeError("the plug-in left vLLM's weight packing in place; new weights would be ignored")
    if found["platform"] not in ("cpu", "cuda"):
        raise RuntimeError(f"platform {found['platform']!r}; expected cpu or cuda")
    return f"platform {found['platform']}, plug-in loaded"


_VLLM_PROBE = """
from vllm.platforms import current_platform
from vllm.plugins import load_general_plugins, load_plugins_by_group
plugin = "protege_cpu" in load_plugins_by_group("vllm.general_plugins")
load_general_plugins()
from vllm.model_executor.layers import utils
gemm = getattr(utils, "dispatch_cpu_unquantized_gemm", None)
found = {"platform": current_platform.device_type, "plugin": plugin,
         "keeps_weights": getattr(gemm, "keeps_weights", False)}
"""


def evalplus_grader() -> str:
    """EvalPlus's checker passes a right program and fails a wrong one."""
    from configs.blocks.benchmarks import EvalPlusBenchmark
    from eval.benchmarks import open_benchmark
    from eval.records import Completion

    problem = {
        "task_id": "HumanEval/0",
        "prompt": "def f(xs):\n    return ",
        "entry_point": "f",
        "canonical_solution": "sum(xs)",
        "base_input": [[[1, 2, 3]]],
        "plus_input": [[[]], [[-4, 4, 9]]],
        "atol": 0,
        "contract": "",
        "test": "",
    }
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "doctor.jsonl"
        path.write_text(json.dumps(problem) + "\n", encoding="utf-8")
        config = EvalPlusBenchmark(kind="evalplus", name="doctor", path=path, completion="append")
        task = open_benchmark(config)
        answers = [Completion(text, 8, True) for text in ("sum(xs)", "max(xs)")]
        grades = task.grade([(task.problems[0], answer) for answer in answers])
    return _expect_pass_then_fail([grade.verdict for grade in grades], [grade.detail for grade in grades])


def math_grader() -> str:
    """math-verify passes an equal answer and fails another."""
    from eval.grading.maths.grading import grade_math
    from eval.records import Completion

    grades = [grade_math(Completion(text, 8, True), "1/2") for text in (r"\boxed{0.5}", r"\boxed{2}")]
    return _expect_pass_then_fail([grade.verdict for grade in grades], [grade.detail for grade in grades])


def sandbox() -> str:
    """Programs run confined; which of its layers this kernel has."""
    from eval.sandbox.client import layers, run_tests

    result = run_tests("f = len", "f", [{"input": [[1, 2]], "output": 2}], 20)
    if result.status != "passed":
        raise RuntimeError(f"a right program {result.status}: {result.detail}")
    missing = [what for layer, what in WITHOUT.items() if layer not in layers()]
    return ", ".join([" and ".join(layers()), *missing])


WITHOUT = {
    "landlock": "no Landlock (Linux 5.13): programs can read what this user can",
    "namespaces": "no user namespaces: programs can see that other processes exist",
}
"""What a program can do where a layer of the sandbox is missing."""


def _expect_pass_then_fail(verdicts: list[str], details: list[str]) -> str:
    if list(map(str, verdicts)) != ["pass", "fail"]:
        got = "; ".join(f"{v} ({d})" for v, d in zip(verdicts, details, strict=True))
        raise RuntimeError(f"a right and a wrong answer were graded: {got}")
    return "a right answer passes, a wrong one fails"


LIVE: dict[str, Callable[[], str]] = {
    "verl plug-in": verl_plugin,
    "vllm plug-in": vllm_plugin,
    "evalplus grader": evalplus_grader,
    "math grader": math_grader,
    "sandbox": sandbox,
}
"""Each returns what it saw, or raises."""


def _live(part: str, probe: Callable[[], str]) -> Check:
    try:
        return Check(part, "ok", probe())
    except Exception as error:  # whatever is broken in the part is the finding
        lines = str(error).strip().splitlines() or [""]
        return Check(part, "failed", f"{type(error).__name__}: {lines[-1]}")


def in_fresh_python(code: str, **environment: str) -> dict:
    """Run code in a fresh interpreter; its variable `found`, by a file that stray prints cannot reach."""
    with tempfile.TemporaryDirectory() as folder:
        answer = Path(folder) / "found.json"
        script = f"{code}\nimport json\nopen({str(answer)!r}, 'w').write(json.dumps(found))\n"
        ended = subprocess.run(
            [sys.executable, "-c", script],
            env={**os.environ, "OMP_NUM_THREADS": "1", **environment},
            capture_output=True,
            text=True,
            timeout=PROBE_SECONDS,
            check=False,
        )
        if not answer.exists():
            raise RuntimeError(ended.stderr.strip() or f"ended with exit code {ended.returncode}")
        return json.loads(answer.read_text())


def _print(checks: list[Check]) -> None:
    width = max(len(check.part) for check in checks)
    for check in checks:
        print(f"{check.state:<7} {check.part:<{width}}  {check.detail}")
    failed = [check.part for check in checks if check.state == "failed"]
    print(f"not ready: {', '.join(failed)}" if failed else "ready")
