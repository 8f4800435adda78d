"""The paper's merge, planned without its models: from their widths, and the sizes of its benchmarks.

`python -m tests.helpers.paper_plan [OVERRIDE ...]` prints it, as `protege plan` does where the models are;
`--update` writes it to docs/planning.md.
"""

from __future__ import annotations

import contextlib
import io
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

from common.files import write_text
from configs.load import load_config
from merging.checks.found import Preflight
from merging.planning.plan import MergePlan, make_plan
from merging.planning.text import show
from routing.kept import BenchmarkProblem
from teachers.models.fingerprint import ModelFingerprint
from tests.helpers.paths import ROOT

QWEN3_4B = {
    "model_type": "qwen3",
    "num_hidden_layers": 36,
    "hidden_size": 2560,
    "intermediate_size": 9728,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "head_dim": 128,
    "vocab_size": 151_936,
    "tie_word_embeddings": True,
}
QWEN3_4B_PARAMETERS = 4_022_468_096
"""In its files, norms included (its model card's 4.0B)."""

PROBLEMS = {
    "aime24": 30,
    "aime25": 30,
    "hmmt25_feb": 30,
    "hmmt25_nov": 30,
    "humaneval_plus": 164,
    "mbpp_plus": 378,
    "livecodebench_v6": 175,
}
"""By benchmark of paper.yaml."""


SHOWN = ("hardware.device_kind=H100-80GB", "hardware.price_per_device_hour=2.5")
"""What docs/planning.md prints it with."""


def model_of_widths(
    folder: Path, widths: dict[str, Any] = QWEN3_4B, parameters: int = QWEN3_4B_PARAMETERS
) -> ModelFingerprint:
    """A model of which only its `config.json` exists."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(widths), encoding="utf-8")
    return ModelFingerprint(
        weights_sha256=folder.name,
        tokenizer_sha256="tokenizer",
        eos_token_ids=(0,),
        chat_template_sha256="template",
        vocab_size=widths["vocab_size"],
        tokenizer_size=widths["vocab_size"],
        max_position_embeddings=40_960,
        architecture="Qwen3ForCausalLM",
        shapes_sha256="shapes",
        parameters=parameters,
        path=str(folder),
    )


def paper_config(folder: Path, *overrides: str) -> Any:
    """paper.yaml, with a registry of its own."""
    return load_config(
        ROOT / "configs" / "runs" / "paper.yaml", [f"registry={folder / 'registry'}", *overrides]
    )


def paper_found(folder: Path, loaded: Any, **models: ModelFingerprint) -> Preflight:
    """What the checks would find, with `models` in place of those of Qwen3-4B's widths."""
    names = ("student", *loaded.config.domains)
    usual = {name: model_of_widths(folder / name) for name in names}
    return Preflight(
        config=loaded.config,
        run_dir=folder / "run",
        fingerprints={**usual, **models},
        asked=tuple(
            BenchmarkProblem(name, str(number), "")
            for name, count in PROBLEMS.items()
            for number in range(count)
        ),
    )


def paper_plan(folder: Path, *overrides: str, **models: ModelFingerprint) -> MergePlan:
    """The plan of `protege merge configs/runs/paper.yaml`."""
    loaded = paper_config(folder, *overrides)
    return make_plan(loaded, folder / "run", paper_found(folder, loaded, **models))


def paper_text(*overrides: str) -> str:
    """The plan as text."""
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()) as printed:
        show(paper_plan(Path(folder), *overrides))
    return printed.getvalue()


PAGE = ROOT / "docs" / "planning.md"
FENCE = "```\n"


def page() -> str:
    """docs/planning.md with the plan as it is now in its only block."""
    before, _, after = PAGE.read_text(encoding="utf-8").split(FENCE)
    lines = (line.rstrip() for line in paper_text(*SHOWN).splitlines())
    return FENCE.join((before, "\n".join(lines) + "\n", after))


def main(arguments: list[str]) -> None:
    """Print the plan, or write it to the page."""
    if arguments == ["--update"]:
        write_text(PAGE, page())
    else:
        print(paper_text(*(arguments or SHOWN)), end="")


if __name__ == "__main__":
    main(sys.argv[1:])
