"""The vLLM plug-in, against stand-ins for the two vLLM modules that it touches."""

from __future__ import annotations

import importlib.metadata
import sys
from types import ModuleType, SimpleNamespace

import pytest
import torch

from trainer.cpu import vllm_hook


@pytest.fixture
def utils(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """A stand-in for vllm.model_executor.layers.utils, on the CPU platform."""
    platforms = ModuleType("vllm.platforms")
    platforms.current_platform = SimpleNamespace(is_cpu=lambda: True)
    utils = ModuleType("vllm.model_executor.layers.utils")
    utils.dispatch_cpu_unquantized_gemm = lambda layer, remove_weight: layer.calls.append(remove_weight)
    layers = ModuleType("vllm.model_executor.layers")
    layers.utils = utils
    vllm = ModuleType("vllm")
    vllm.__version__ = "0.0"
    modules = (vllm, platforms, ModuleType("vllm.model_executor"), layers, utils)
    for module in modules:
        monkeypatch.setitem(sys.modules, module.__name__, module)
    return utils


def test_a_matrix_stays_and_is_multiplied_by(utils: ModuleType) -> None:
    vllm_hook.register()
    layer = SimpleNamespace(weight=torch.tensor([[1.0, 2.0], [3.0, 4.0]]), calls=[])
    utils.dispatch_cpu_unquantized_gemm(layer, remove_weight=True)
    layer.weight = torch.tensor([[10.0, 0.0], [0.0, 1.0]])  # new weights
    out = layer.cpu_linear(torch.tensor([1.0, 2.0]), layer.weight, torch.tensor([0.5, 0.5]))
    assert out.tolist() == [10.5, 2.5]
    assert layer.calls == []


def test_other_weights_are_left_to_vllm(utils: ModuleType) -> None:
    vllm_hook.register()
    vllm_hook.register()
    layer = SimpleNamespace(weight=torch.zeros(2, 1, 4), calls=[])
    utils.dispatch_cpu_unquantized_gemm(layer, False)
    assert layer.calls == [False] and not hasattr(layer, "cpu_linear")


def test_registering_again_replaces_nothing(utils: ModuleType) -> None:
    vllm_hook.register()
    replaced = utils.dispatch_cpu_unquantized_gemm
    vllm_hook.register()
    assert utils.dispatch_cpu_unquantized_gemm is replaced


def test_a_vllm_without_the_function_is_an_error(utils: ModuleType) -> None:
    del utils.dispatch_cpu_unquantized_gemm
    with pytest.raises(RuntimeError, match="dispatch_cpu_unquantized_gemm does not exist"):
        vllm_hook.register()


def test_another_platform_is_left_alone(utils: ModuleType) -> None:
    sys.modules["vllm.platforms"].current_platform.is_cpu = lambda: False
    original = utils.dispatch_cpu_unquantized_gemm
    vllm_hook.register()
    assert utils.dispatch_cpu_unquantized_gemm is original


def test_vllm_finds_the_plug_in_by_its_entry_point() -> None:
    [entry] = [
        e for e in importlib.metadata.entry_points(group="vllm.general_plugins") if e.name == "protege_cpu"
    ]
    assert entry.load() is vllm_hook.register
