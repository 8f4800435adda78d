"""What a device can do: data sheets of GPUs, which of them a config means, and what is assumed of a CPU."""

from __future__ import annotations

import csv
import os
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass, replace

from configs.blocks.hardware import DeviceKind, Hardware

GB, GBPS, TFLOPS = 10**9, 10**9, 10**12


@dataclass(frozen=True)
class Device:
    """One device; the shares and seconds are assumptions, docs/planning.md tells where each is from."""

    name: str
    flops: float
    """Peak of a dense matrix product with the numbers that are trained in, FLOP/s."""
    bandwidth: float
    """Of the device's memory, bytes/s."""
    memory: int
    """Bytes; 0 for a CPU, whose memory is the machine's."""
    compute_share: float = 0.4
    """Share of the peak that long packed sequences reach: published trainings of dense models of some billion
    parameters reach 0.35 to 0.5."""
    bandwidth_share: float = 0.8
    """Share of the bandwidth that decoding reaches with CUDA graphs and a paged cache."""
    token_seconds: float = 0.0005
    """Added to each decoding step: scheduling and sampling, which vLLM partly overlaps."""
    step_seconds: float = 1.8
    """Added to each training step: a step of the demonstration's 0.8M weights on an H100, where nothing else
    takes time (docs/gpu_and_cluster.md, measured)."""
    start_seconds: float = 170.0
    """From the start of a training to its first step: Ray, imports, vLLM's compilation (measured there)."""
    engine_seconds: float = 74.0
    """Start of a rollout engine alone (measured there)."""
    eager_seconds: float = 0.03
    """Of a decoding step by transformers, without graphs: the probe's, per model. Assumed."""
    number_bytes: int = 2
    """Of a weight that is read, in rollout and scorer."""
    recomputes: bool = True
    """Whether the update computes the layers' activations again (gradient checkpointing)."""


def _gpu(name: str, teraflops: float, gigabytes_a_second: float, gigabytes: int) -> Device:
    return Device(name, teraflops * TFLOPS, gigabytes_a_second * GBPS, gigabytes * GB)


GPUS: dict[DeviceKind, Device] = {
    "A100-40GB": _gpu("A100-40GB", 312, 1555, 40),
    "A100-80GB": _gpu("A100-80GB", 312, 2039, 80),
    "H100-80GB": _gpu("H100-80GB", 989, 3350, 80),
    "H200-141GB": _gpu("H200-141GB", 989, 4800, 141),
    "B200-180GB": _gpu("B200-180GB", 2250, 7700, 180),
    "L40S-48GB": _gpu("L40S-48GB", 362, 864, 48),
    "L4-24GB": _gpu("L4-24GB", 121, 300, 24),
    "RTX-4090-24GB": _gpu("RTX-4090-24GB", 165, 1008, 24),
}
"""By `hardware.device_kind`. Source: the makers' data sheets, dense bfloat16 with float32 accumulation, the
SXM variant where there are several; memory as it is sold, in 10^9 bytes (devices show up to 7% more)."""

ASSUMED: DeviceKind = "H100-80GB"
"""Whose times are shown where nothing tells the device."""

CPU = Device(
    "cpu",
    flops=2e10,
    bandwidth=5e9,
    memory=0,
    compute_share=1.0,
    bandwidth_share=1.0,
    token_seconds=0.035,
    step_seconds=0.3,
    start_seconds=30.0,
    engine_seconds=15.0,
    eager_seconds=0.013,
    number_bytes=4,
    recomputes=False,
)
"""One rank, a thread: what the quickstart's steps came to on two idle cores (docs/LOG.md), as rates that are
reached: 96 rollouts of 0.8M weights in 4.6 s, of which rollout and scoring 2.7 s and the update 1.7 s."""


@dataclass(frozen=True)
class Chosen:
    """The device that a plan reckons with."""

    device: Device
    because: str
    """How it was found, for the plan's assumptions."""
    has_known_memory: bool
    """Whether its memory is that of the devices of the run, and not only assumed."""


def chosen_device(hardware: Hardware) -> Chosen:
    """The device that a config declares, else one that this machine shows, else an H100."""
    if hardware.device == "cpu":
        return Chosen(CPU, "a CPU's rates are those of the quickstart on two idle cores", False)
    if hardware.device_kind is not None:
        return Chosen(GPUS[hardware.device_kind], f"hardware.device_kind: {hardware.device_kind}", True)
    shown = visible_devices()
    if not shown:
        return Chosen(
            GPUS[ASSUMED], f"{ASSUMED} assumed: no device is shown here; name it by device_kind", False
        )
    name, memory = min(shown, key=lambda item: item[1])  # the smallest decides what fits
    own = hardware.ray_address is None
    place = (
        "this machine shows it" if own else "this node shows it, those of the cluster are taken to be like it"
    )
    kind = kind_of(name, memory)
    if kind is None:
        unknown = replace(GPUS[ASSUMED], name=name, memory=memory)
        return Chosen(unknown, f"{name}, {place}; its speed is not known, {ASSUMED}'s is assumed", own)
    return Chosen(replace(GPUS[kind], memory=memory), f"{kind}: {place}", own)


def kind_of(name: str, memory: int) -> DeviceKind | None:
    """The known GPU of this name (as drivers give it) whose memory is nearest; None for another one."""
    plain = name.upper().replace("-", " ").split()
    known: list[DeviceKind] = [kind for kind in GPUS if set(_words(kind)) <= set(plain)]
    return min(known, key=lambda kind: abs(GPUS[kind].memory - memory)) if known else None


def _words(kind: str) -> list[str]:
    """The model's words, without its memory: `RTX`, `4090`."""
    return kind.upper().split("-")[:-1]


def visible_devices() -> list[tuple[str, int]]:
    """Name and bytes of each NVIDIA GPU that `CUDA_VISIBLE_DEVICES` leaves visible, as the driver tells."""
    command = ["nvidia-smi", "--query-gpu=name,memory.total", "--format=csv,noheader,nounits"]
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        command.append(f"--id={visible}")
    if shutil.which(command[0]) is None or visible == "":
        return []
    try:
        told = subprocess.run(command, capture_output=True, text=True, check=True, timeout=20).stdout
    except (OSError, subprocess.SubprocessError):
        return []
    return parsed(told.splitlines())


def parsed(lines: Sequence[str]) -> list[tuple[str, int]]:
    """Rows of `name, MiB`; others are left out."""
    rows = [[cell.strip() for cell in row] for row in csv.reader(lines)]
    return [(row[0], int(row[1]) * 2**20) for row in rows if len(row) == 2 and row[1].isdecimal()]
