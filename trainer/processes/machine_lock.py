"""Which runs of one machine train at the same time, where each starts its own Ray.

On GPUs every device has a lock, and a run takes those of the devices that it may use: two runs on disjoint
devices do not wait for each other. On a CPU a machine has one lock: logical devices are slots that name no
part of the machine, and two runs would share its cores and memory, which each of them counts on.

verl sends weights to its rollout engine through a socket in /tmp whose name holds the number of Ray's job.
The first job of every cluster is number 1, so runs that each start a cluster would read each other's weights,
or hang. So each takes a number that no other live run of the machine has (`job_number`), and its job gets it.
Runs that join a cluster have a job of it, and neither wait nor take a number.
"""

from __future__ import annotations

import glob
import os
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from common.errors import RunFailed
from common.locks import lock, this_process

FOLDER = Path("/tmp")
DRIVER = Path("/proc/driver/nvidia")
CPU = "cpu"
"""Name of the one lock of a machine that trains on its CPU."""

JOB_NUMBERS = 64
"""Most runs of a machine that each start a cluster."""


class _Held(Exception):
    """Another run holds a lock; the text is its holder's."""


@dataclass(frozen=True)
class Waiting:
    """For whom a run waits."""

    device: str
    holder: str

    def sentence(self) -> str:
        """One line: which device, who holds it since when, and why nothing else is possible."""
        if self.device == CPU:
            why = (
                "a run on a CPU has the machine to itself; to train at the same time, give both the same Ray "
                "cluster (hardware.ray_address)"
            )
            return f"waiting: another run trains on this machine's CPU ({self.holder}); {why}"
        return (
            f"waiting: another run trains on GPU {self.device} ({self.holder}); CUDA_VISIBLE_DEVICES chooses "
            "others"
        )


@contextmanager
def machine_lock(
    place: str, devices: Sequence[str], on_wait: Callable[[str], None], folder: Path = FOLDER
) -> Iterator[None]:
    """Holds the locks of all these devices, which the kernel releases however this process ends.

    Either all are held or none: a run that waits for one holds no other. Others are told this process and its
    `place`; `on_wait` gets one line where this process has to wait. Other users' runs take their turn too.
    Where a lock's file may not be opened there is no lock.
    """
    holder = f"{this_process()}, in {place}"
    said: set[Waiting] = set()
    with ExitStack() as held:
        while (waiting := _taken(held, devices, holder, folder)) is not None:
            if waiting not in said:
                said.add(waiting)
                on_wait(waiting.sentence())
            with lock(_path(folder, waiting.device), holder, lambda _: None, for_all_users=True):
                pass  # it is free: all are tried again
        yield


def _taken(held: ExitStack, devices: Sequence[str], holder: str, folder: Path) -> Waiting | None:
    """Takes all locks, in an order that all runs share; where one is not free takes none and says which."""
    with ExitStack() as taken:
        for device in sorted(set(devices)):
            try:
                taken.enter_context(lock(_path(folder, device), holder, _refuse, for_all_users=True))
            except _Held as error:
                return Waiting(device, str(error))
        held.push(taken.pop_all())
    return None


@contextmanager
def job_number(folder: Path = FOLDER) -> Iterator[int]:
    """A number from 1 on that no other live run on this machine holds; raises RunFailed if none is free."""
    for number in range(1, JOB_NUMBERS + 1):
        with ExitStack() as stack:
            path = folder / f"protege-job-{number}.lock"
            try:
                stack.enter_context(lock(path, str(os.getpid()), _refuse, for_all_users=True))
            except _Held:
                continue
            yield number
            return
    raise RunFailed(f"{JOB_NUMBERS} runs on this machine have started a Ray cluster; end one")


def visible_devices(device: str) -> list[str]:
    """What a run on this kind of device may use here: the CPU, or the GPUs that `CUDA_VISIBLE_DEVICES` names,
    by number or UUID, else all that the machine has."""
    if device == CPU:
        return [CPU]
    chosen, present = os.environ.get("CUDA_VISIBLE_DEVICES"), _gpus()
    if chosen is None:
        return present or [path.removeprefix("/dev/nvidia") for path in glob.glob("/dev/nvidia[0-9]*")]
    return [_uuid(part.strip(), present) for part in chosen.split(",") if part.strip()]


def _gpus() -> list[str]:
    """UUIDs of the machine's GPUs in the order of their numbers, as the driver tells them."""
    files = sorted(DRIVER.glob("gpus/*/information"))
    found = [re.search(r"^GPU UUID:\s*(\S+)", file.read_text(), re.MULTILINE) for file in files]
    return [match.group(1) for match in found if match is not None]


def _uuid(name: str, present: Sequence[str]) -> str:
    """The UUID of a GPU that is named by its number or the beginning of its UUID; else the name itself."""
    if name.isdecimal() and int(name) < len(present):
        return present[int(name)]
    return next((uuid for uuid in present if name.startswith("GPU-") and uuid.startswith(name)), name)


def _path(folder: Path, device: str) -> Path:
    return folder / f"protege-training-{device.replace('/', '-')}.lock"


def _refuse(holder: str) -> None:
    raise _Held(holder)
