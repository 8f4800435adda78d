"""A fork server for a whole command: it imports while the command still checks, and serves all its stages.

What a command needs first is what every stage needs: torch, transformers and vLLM, which take most of the
imports' time. Processes of evaluation are forked from it, and so is the fork server of a training
(`trainer.processes.ray_cluster`), which adds Ray and verl: Ray reads its job's number when it is imported.
"""

from __future__ import annotations

import os

from common.processes import WARM_PYTHON
from configs.schema import Hardware
from trainer.cpu.fork_server import BEFORE_RAY, ForkServer
from trainer.processes import private
from trainer.processes.ray_cluster import process_environment

_kept: list[ForkServer] = []
"""This process's, whose folder would go with it."""


def start(hardware: Hardware) -> None:
    """Starts importing, once a command, where it trains on this machine's CPU; the command's end ends it.

    Only where the command has a folder for its temporary files (`private_folder`), whose reaper knows what
    was started in it.
    """
    within = private.folder()
    if within is None or WARM_PYTHON in os.environ:
        return
    if hardware.device != "cpu" or hardware.ray_address is not None:
        return
    server = ForkServer(within / "warm.log", BEFORE_RAY, within, hidden=("ray",))
    server.launch(process_environment(hardware, within))
    _kept.append(server)
    os.environ[WARM_PYTHON] = str(server.executable)
