"""vLLM plug-in (entry point `vllm.general_plugins`): weights of a CPU engine can be replaced.

vLLM's CPU platform repacks the weight of every Linear layer into an opaque kernel handle when the
model is loaded, and drops the weight itself. New weights loaded later, as a rollout engine gets after
every optimizer step and an evaluation engine for every next model, would never reach that handle.
With this plug-in a Linear layer keeps its plain weight and multiplies by it.

vLLM calls `register` in each of its processes, through the entry point of the installed `protege`.
"""

from __future__ import annotations

from typing import Any

REPLACED = "dispatch_cpu_unquantized_gemm"


def register() -> None:
    """Keep Linear weights un-prepacked on the CPU platform; elsewhere do nothing.

    May be called more than once in a process, as vLLM does.

    Raises RuntimeError if this vLLM has no function of the replaced name.
    """
    from vllm.platforms import current_platform

    if not current_platform.is_cpu():
        return
    import vllm
    from vllm.model_executor.layers import utils

    original = getattr(utils, REPLACED, None)
    if original is None:
        raise RuntimeError(
            f"vllm.model_executor.layers.utils.{REPLACED} does not exist in vLLM {vllm.__version__}: without "
            "replacing it the CPU engine would keep its first weights; install the version in requirements/"
        )
    if not getattr(original, "keeps_weights", False):
        setattr(utils, REPLACED, _plain_linear(original))


def _plain_linear(original: Any) -> Any:
    """The replacement: matrix weights stay as they are, anything else is left to `original`."""
    from torch.nn.functional import linear

    def keep_weight(layer: Any, remove_weight: bool) -> None:
        if layer.weight.ndim == 2:
            layer.cpu_linear = linear
        else:
            original(layer, remove_weight)

    vars(keep_weight)["keeps_weights"] = True
    return keep_weight
