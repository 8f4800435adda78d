"""LoRA adapters on the student: what their folder holds, whether they fit, and how a model carries them."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, FiniteFloat

from common import reading
from common.digests import json_sha256
from common.errors import ConfigError
from common.models import resolve_model
from common.remote import first_line
from common.words import counted
from teachers.models import files
from teachers.models import fingerprint as fp
from teachers.models.patterns import unmatchable

if TYPE_CHECKING:
    import torch
    from peft import PeftModel
    from transformers import PreTrainedModel


CONFIG = "adapter_config.json"
WEIGHTS = "adapter_model.safetensors"

UNSUPPORTED = {
    "use_dora": "DoRA",
    "modules_to_save": "modules trained in full",
    "trainable_token_indices": "embeddings of single tokens",
    "target_parameters": "adapters on bare parameters",
    "layer_replication": "layers used more than once",
    "alora_invocation_tokens": "adapters that some tokens switch on",
    "lora_bias": "a bias in the adapter",
    "use_qalora": "QALoRA",
    "use_bdlora": "BD-LoRA",
    "kasa_config": "KaSA",
    "velora_config": "VeLoRA",
    "monteclora_config": "Monte Carlo LoRA",
    "arrow_config": "Arrow routing",
}
"""Settings of adapter_config.json that change a model in a way this project does not follow."""

PLAIN_STARTS = (True, False, None, "gaussian", "orthogonal", "eva")
"""Values of `init_lora_weights` with which the base's own weights stay what they were."""

UNIMPORTANT = ("auto_mapping", "base_model_name_or_path", "inference_mode", "lora_dropout", "peft_version",
               "revision")  # fmt: skip
"""Settings of an adapter that change none of its log-probabilities."""

TENSOR = re.compile(r"base_model\.model\.(?P<module>.+)\.lora_(?P<side>[AB])\.weight")


@dataclass(frozen=True)
class AdapterFingerprint:
    """Identity and size of an adapter."""

    weights_sha256: str
    """Over its weights' bytes and every setting that changes what it computes."""
    parameters: int
    """Number of its weights."""
    settings: Mapping[str, Any]
    """The content of adapter_config.json."""
    shapes: Mapping[str, tuple[int, ...]]
    """Shape of every tensor in its file."""
    path: str
    """The folder."""


class _Settings(BaseModel):
    """What is read of an adapter_config.json."""

    peft_type: str | None = None
    r: int | None = None
    lora_alpha: FiniteFloat | None = None
    target_modules: str | list[str] | None = None
    exclude_modules: str | list[str] | None = None
    rank_pattern: dict[str, int] | None = None
    layers_pattern: str | list[str] | None = None
    alpha_pattern: dict[str, FiniteFloat] | None = None
    fan_in_fan_out: bool | None = None
    use_rslora: bool | None = None
    bias: str | None = None
    task_type: str | None = None


def is_adapter(folder: str | Path) -> bool:
    """Whether the folder holds an adapter and no full model; a `config.json` there is its base's."""
    return (Path(folder) / CONFIG).is_file()


def fingerprint(path: str | Path) -> AdapterFingerprint:
    """The fingerprint of an adapter folder, or of a hub name in the local cache.

    Raises ConfigError if it is no complete adapter.
    """
    folder = resolve_model(str(path))
    if not (folder / CONFIG).is_file():
        kind = "a full model (kind: model)" if (folder / "config.json").is_file() else "no adapter"
        raise ConfigError(f"{folder}: no {CONFIG}; this is {kind}; peft's save_pretrained writes an adapter")
    settings, file = files.read_json(folder / CONFIG), folder / WEIGHTS
    if not file.is_file():
        raise ConfigError(
            f"{folder}: no adapter weights ({WEIGHTS}); peft's save_pretrained writes them (the older "
            "adapter_model.bin is not read)"
        )
    reading.typed_value(settings, _Settings, str(folder / CONFIG))
    shapes = {name: tuple(shape) for name, shape in files.tensor_shapes([file]).items()}
    return AdapterFingerprint(
        weights_sha256=json_sha256([files.file_sha256(file), _important(settings)]),
        parameters=sum(math.prod(shape) for shape in shapes.values()),
        settings=settings,
        shapes=shapes,
        path=str(folder),
    )


def _important(settings: Mapping[str, Any]) -> dict[str, Any]:
    """What changes the adapter's numbers: peft writes a set of modules in any order, and, from version to
    version, other settings that are off."""
    kept = {key: value for key, value in settings.items() if value and key not in UNIMPORTANT}
    sets = ("target_modules", "exclude_modules")
    return {
        key: sorted(value) if key in sets and isinstance(value, list) else value
        for key, value in kept.items()
    }


def weights_sha256(path: str | Path) -> str:
    """The digest that identifies the weights of a folder with an adapter or a full model."""
    return (fingerprint(path) if is_adapter(path) else fp.fingerprint(path)).weights_sha256


# -------------------------------------------------------------------------------------------- checks


def check_adapter(student: fp.ModelFingerprint, adapter: AdapterFingerprint, name: str) -> None:
    """Raise ConfigError, one message a difference, unless the adapter is a LoRA that fits the student.

    `name` names the adapter in the messages.
    """
    problems = list(_unsupported(adapter.settings))
    if not problems:
        problems = [*_misfits(student, adapter), *_other_tokens(student, Path(adapter.path))]
    if problems:
        raise ConfigError(*(f"{name} ({adapter.path}): {problem}" for problem in problems))


def _unsupported(settings: Mapping[str, Any]) -> Iterator[str]:
    valid = "valid is plain LoRA (peft_type LORA) on the student's linear layers"
    if (kind := settings.get("peft_type")) != "LORA":
        yield f"{CONFIG}: peft_type {kind!r}; {valid}"
        return
    for key, meaning in UNSUPPORTED.items():
        if settings.get(key):
            yield f"{CONFIG}: {key} ({meaning}) is not supported; {valid}"
    if (bias := settings.get("bias", "none")) != "none":
        yield f"{CONFIG}: bias {bias!r} is not supported, it changes the student itself; valid is 'none'"
    if (task := settings.get("task_type")) not in (None, "CAUSAL_LM"):
        yield f"{CONFIG}: task_type {task!r} is no language model's; valid is CAUSAL_LM"
    if (start := settings.get("init_lora_weights", True)) not in PLAIN_STARTS:
        yield (
            f"{CONFIG}: init_lora_weights {start!r} changes the student's own weights; save the adapter with "
            "peft's `path_initial_model_for_weight_conversion`, which makes it plain LoRA"
        )
    rank = settings.get("r")
    if not isinstance(rank, int) or rank < 1:
        yield f"{CONFIG}: r is {rank!r}; valid is a whole number of at least 1"
    if "lora_alpha" in settings and not settings["lora_alpha"]:
        yield f"{CONFIG}: lora_alpha is {settings['lora_alpha']!r}; valid is a number other than 0"


def _misfits(student: fp.ModelFingerprint, adapter: AdapterFingerprint) -> Iterator[str]:
    """What does not fit: first of all tensors without a place, then shapes, then layers left out."""
    names = {name: TENSOR.fullmatch(name) for name in sorted(adapter.shapes)}
    if strange := [name for name, match in names.items() if match is None]:
        yield (
            f"{WEIGHTS}: {len(strange)} tensors are no LoRA on a linear layer, the first is {strange[0]!r}; "
            "valid are base_model.model.<layer>.lora_A.weight and .lora_B.weight"
        )
        return
    if not names:
        yield f"{WEIGHTS}: holds no tensors"
        return
    layers = _layers(Path(student.path))
    if problem := unmatchable(adapter.settings, list(layers)):
        yield f"{CONFIG}: {problem}"
        return
    adapted = dict.fromkeys(match["module"] for match in names.values() if match is not None)
    for module in adapted:
        if (problem := _misfit(module, layers, adapter)) is not None:
            yield f"{WEIGHTS}: {problem}"
            return
    targets = adapter.settings.get("target_modules")
    for target in targets if isinstance(targets, list) else ():
        if not any(_named(module, target) for module in adapted):
            known = ", ".join(sorted({module.rsplit(".", 1)[-1] for module in adapted}))
            yield f"{CONFIG}: target_modules names {target!r}, and {WEIGHTS} has tensors of {known} only"
            return
    yield from _other_layers(Path(student.path), adapter)


def _other_layers(student: Path, adapter: AdapterFingerprint) -> Iterator[str]:
    """Tensors that peft would make by the adapter's settings and its file lacks, or holds in other shapes."""
    import torch
    from peft import LoraConfig, PeftModel, get_peft_model_state_dict
    from transformers import AutoConfig, AutoModelForCausalLM

    try:
        with torch.device("meta"):
            module = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(student))
            peft = PeftModel(module, LoraConfig.from_pretrained(adapter.path))
        wanted = {name: tuple(value.shape) for name, value in get_peft_model_state_dict(peft).items()}
    except Exception as error:  # of many kinds, for settings that no adapter can have
        yield f"{CONFIG}: peft cannot make an adapter of it: {first_line(error)}"
        return
    if lacking := sorted(wanted.keys() - adapter.shapes.keys()):
        yield (
            f"{WEIGHTS}: lacks {counted(len(lacking), 'tensor')} that {CONFIG} names, such as {lacking[0]}; "
            "peft would start them anew"
        )
    if more := sorted(adapter.shapes.keys() - wanted.keys()):
        number = counted(len(more), "tensor")
        yield f"{WEIGHTS}: holds {number} that {CONFIG} does not name, such as {more[0]}"


def _misfit(module: str, layers: Mapping[str, tuple[int, ...]], adapter: AdapterFingerprint) -> str | None:
    if _is_embedding(module):
        return (
            f"an adapter on {module!r} is not supported: embedding and output layer may share their weights; "
            "leave it out of target_modules"
        )
    if module not in layers:
        return f"the student has no layer {module!r}; the adapter was made for another model"
    own = tuple(adapter.shapes.get(f"base_model.model.{module}.lora_{side}.weight") for side in "AB")
    rank = _rank(module, adapter.settings)
    rows, columns = (*layers[module], 0, 0)[:2]
    if adapter.settings.get("fan_in_fan_out"):
        rows, columns = columns, rows
    fitting = ((rank, columns), (rows, rank))
    if own != fitting:
        return (
            f"lora_A and lora_B of layer {module!r} have the shapes {_shapes(own)}; the student's weight "
            f"there is {list(layers[module])}, so at rank {rank} they must be {_shapes(fitting)}"
        )
    return None


def _shapes(shapes: tuple[tuple[int, ...] | None, ...]) -> str:
    return " and ".join("none" if shape is None else str(list(shape)) for shape in shapes)


def _rank(module: str, settings: Mapping[str, Any]) -> int:
    """The rank of one layer's adapter, by peft's rule for `rank_pattern`."""
    for pattern, rank in (settings.get("rank_pattern") or {}).items():
        if re.match(rf"(.*\.)?({pattern})$", module):
            return rank
    return settings["r"]


def _named(module: str, target: str) -> bool:
    return module == target or module.endswith(f".{target}")


def _layers(student: Path) -> dict[str, tuple[int, ...]]:
    """Shape of the weight of every layer of the student, by the layer's name."""
    shapes = {name: tuple(shape) for name, shape in files.tensor_shapes(files.weight_files(student)).items()}
    if not shapes:  # PyTorch's own format tells nothing before it is loaded
        import torch
        from transformers import AutoConfig, AutoModelForCausalLM

        with torch.device("meta"):
            module = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(student))
        shapes = {name: tuple(value.shape) for name, value in module.state_dict().items()}
    return {name.removesuffix(".weight"): shape for name, shape in shapes.items() if name.endswith(".weight")}


def lora_parameters(student: fp.ModelFingerprint, rank: int) -> int:
    """Weights of an adapter of this rank on all linear layers of the student but the output layer."""
    layers = _layers(Path(student.path))
    inner = [shape for name, shape in layers.items() if len(shape) == 2 and not _is_embedding(name)]
    return sum(rank * sum(shape) for shape in inner)


def _is_embedding(layer: str) -> bool:
    """Whether the layer turns tokens into vectors or vectors into logits."""
    last = layer.rsplit(".", 1)[-1]
    return last == "lm_head" or "embed" in last


def _other_tokens(student: fp.ModelFingerprint, folder: Path) -> Iterator[str]:
    """An adapter that brings a tokenizer along was trained with it."""
    if (folder / "tokenizer.json").is_file() and fp.tokenizer_sha256(folder) != student.tokenizer_sha256:
        yield "another tokenizer than the student's lies in the folder; it must be the student's"
    template = fp.chat_template_sha256(folder)
    if template not in (None, student.chat_template_sha256):
        yield "another chat template than the student's lies in the folder; it must be the student's"


# ----------------------------------------------------------------------------------- on a loaded model


class Adapters:
    """The adapters on one loaded model, of which one at most is switched on.

    The model's linear layers are replaced in place by ones that hold the old layer and the adapters' own
    weights; with all adapters off it computes exactly what it did before.

    Args:
        module: a transformers model.
    """

    def __init__(self, module: PreTrainedModel) -> None:
        self.module = module
        self.peft: PeftModel | None = None
        self.current: str | None = None
        """The adapter that is switched on."""

    def add(self, name: str, folder: str) -> None:
        """Reads an adapter under this name (without a dot), in the model's number format; it is off.

        Raises ValueError where its tensors are not exactly those that its settings name.
        """
        from peft import LoraConfig, PeftModel

        device = str(next(self.module.parameters()).device)
        if self.peft is None:
            # so that the first adapter is loaded, and checked, like the others
            config = LoraConfig.from_pretrained(folder)
            config.inference_mode = True
            self.peft = PeftModel(self.module, config, adapter_name=name, autocast_adapter_dtype=False)
        result = self.peft.load_adapter(folder, name, torch_device=device, autocast_adapter_dtype=False)
        # peft lists the missing tensors of other adapters too, where the names look alike
        missing = [key for key in result.missing_keys if key.endswith(f".{name}.weight")]
        if missing or result.unexpected_keys:
            raise ValueError(
                f"adapter {folder}: its tensors are not those that {CONFIG} names (missing {missing[:2]}, "
                f"too many {result.unexpected_keys[:2]})"
            )
        self.module.requires_grad_(False).eval()
        self.switch(None)

    def switch(self, name: str | None) -> None:
        """Switches this adapter on, and all others off; None leaves the bare model."""
        if self.peft is None:
            return
        self.current = name
        tuner: Any = self.peft.base_model  # a LoraModel, which peft does not declare
        if name is None:
            tuner.disable_adapter_layers()
        else:
            tuner.enable_adapter_layers()
            tuner.set_adapter(name, inference_mode=True)

    def load_full(self, weights: Mapping[str, torch.Tensor], assign: bool) -> None:
        """Puts other weights, named as in a model without adapters, into the model under the adapters.

        `assign` makes the module hold these very tensors instead of copying them.
        """
        places = self.module.state_dict().keys()
        own = {
            name if name in places else "{}.base_layer.{}".format(*name.rsplit(".", 1)): weight_P
            for name, weight_P in weights.items()
        }
        assert own.keys() <= places, "a weight without a place in the module"
        self.module.load_state_dict(own, strict=self.peft is None, assign=assign)
