"""What verl is told for some sizes of merges, kept in files, and compared with published recipes.

`python -m tests.helpers.composed_configs` prints the comparison; with `--update` it writes the golden files
beside `tests/data/composed/*.yaml`, and docs/composed_config.md.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any
from unittest.mock import patch

import yaml

from common.files import write_text
from configs.load import load_config
from merging.exopd.job import merge_job
from tests.helpers.paths import ROOT
from trainer.engine import attention
from trainer.overrides import verl_config
from trainer.settings.defaults import PPO, default_values, flat

FOLDER = ROOT / "tests" / "data" / "composed"
PAGE = ROOT / "docs" / "composed_config.md"
CONFIGS = {
    "paper": ROOT / "configs" / "runs" / "paper.yaml",
    "qwen3_8b": FOLDER / "qwen3_8b.yaml",
    "qwen3_32b": FOLDER / "qwen3_32b.yaml",
    "large_teachers": FOLDER / "large_teachers.yaml",
}
ABSENT = "absent"


@cache
def composed(name: str) -> Any:
    """verl's configuration of the merge of this config, as if it lay in /run, and without flash-attn."""
    config = load_config(CONFIGS[name]).config
    teachers = {domain: declared.expert.path for domain, declared in config.domains.items()}
    job = merge_job(config, "merge", teachers, Path("/run/train.parquet"), Path("/run"))
    with patch.object(attention, "installed_version", return_value=None):
        return verl_config(job, "merge")


def changes(name: str) -> dict[str, Any]:
    """Keys that differ from verl's defaults, interpolations as they are written."""
    from omegaconf import OmegaConf

    values = flat(OmegaConf.to_container(composed(name), resolve=False))
    return {key: value for key, value in values.items() if _default(key) != value}


def golden_file(name: str) -> Path:
    """Where `changes` are kept."""
    return FOLDER / f"{name}.golden.yaml"


def golden_text(name: str) -> str:
    """The file's content."""
    head = f"# What differs from verl's defaults in {CONFIGS[name].relative_to(ROOT)}; written by\n"
    head += "# python -m tests.helpers.composed_configs --update\n"
    return head + yaml.safe_dump(changes(name), sort_keys=True, width=110)


# ----------------------------------------------------------------------------------------- recipes


@cache
def recipes() -> dict[str, dict[str, Any]]:
    """Published recipes by name: title, the config that they are compared with, and settings."""
    return yaml.safe_load((FOLDER / "recipes.yaml").read_text(encoding="utf-8"))


@cache
def reasons() -> dict[str, dict[str, str]]:
    """Why a setting deliberately differs: by recipe, and for all of them under `everywhere`."""
    return yaml.safe_load((FOLDER / "reasons.yaml").read_text(encoding="utf-8"))


def effective(name: str, key: str) -> Any:
    """What verl reads at a key of the composed configuration."""
    from omegaconf import OmegaConf

    value = OmegaConf.select(composed(name), key, default=ABSENT)
    return OmegaConf.to_container(value) if OmegaConf.is_config(value) else value


def deviations(recipe: str) -> dict[str, tuple[Any, Any]]:
    """Keys whose value in the recipe is not ours, with both."""
    declared = recipes()[recipe]
    pairs = {
        key: (value, effective(declared["compared_with"], key)) for key, value in declared["settings"].items()
    }
    return {key: pair for key, pair in pairs.items() if pair[0] != pair[1]}


def reason(recipe: str, key: str) -> str | None:
    """Why ours is another value; None where nobody has said so."""
    return reasons().get(recipe, {}).get(key) or reasons()["everywhere"].get(key)


# -------------------------------------------------------------------------------------------- page

HEAD = """# What verl is told

Written by `python -m tests.helpers.composed_configs --update`; a test fails where it is out of date. Four
merges are composed as `protege merge` composes them where flash-attn is not installed: the paper's
([paper.yaml](../configs/runs/paper.yaml), 8 GPUs), one of
[8B on 8 GPUs](../tests/data/composed/qwen3_8b.yaml), one of
[32B on two nodes](../tests/data/composed/qwen3_32b.yaml), and one of
[32B teachers of a 4B student](../tests/data/composed/large_teachers.yaml), read by shard. None of them has
been run here.

Each is compared with [published recipes](../tests/data/composed/recipes.yaml), key by key. What is not listed
as a difference is the same.
"""


def page() -> str:
    """docs/composed_config.md."""
    parts = [HEAD]
    for name, path in CONFIGS.items():
        parts.append(f"## {name}\n\n{_block(path)}")
        parts += [
            _compared(recipe) for recipe, declared in recipes().items() if declared["compared_with"] == name
        ]
        parts.append(_all(name))
    return "\n".join(parts)


def _all(name: str) -> str:
    """What differs from verl's defaults: a table for the paper's merge, for the others the file."""
    found, file = changes(name), golden_file(name)
    title = f"### All that Protege sets: {len(found)} keys\n\n"
    if name != "paper":
        return f"{title}[{file.name}](../{file.relative_to(ROOT)})\n"
    return title + _table(
        ("key", "verl's default", "here"), {key: (_default(key), value) for key, value in found.items()}
    )


def _block(path: Path) -> str:
    declared = yaml.safe_load(path.read_text(encoding="utf-8"))
    shown = {part: declared[part] for part in ("training", "hardware")}
    return "```yaml\n" + yaml.safe_dump(shown, sort_keys=False) + "```\n"


def _compared(recipe: str) -> str:
    declared, found = recipes()[recipe], deviations(recipe)
    same = len(declared["settings"]) - len(found)
    text = f"### Beside {declared['title']}\n\n"
    text += f"{same} of {len(declared['settings'])} settings are the same. These differ:\n\n"
    rows = {key: (*pair, reason(recipe, key) or "") for key, pair in found.items()}
    text += _table(("key", "recipe", "here", "why"), rows, words=("why",))
    if own := declared.get("own_keys"):
        rows = {key: (here,) for key, here in own.items()}
        text += "\nKeys that only the recipe's own verl knows:\n\n" + _table(
            ("key", "here"), rows, words=("here",)
        )
    return text


def _default(key: str) -> Any:
    return default_values(PPO).get(key, ABSENT)


def _table(head: tuple[str, ...], rows: Mapping[str, tuple], words: tuple[str, ...] = ()) -> str:
    """A markdown table; cells of columns in `words` are text, the others values."""
    lines = [f"| {' | '.join(head)} |", "|" + "---|" * len(head)]
    for key, cells in rows.items():
        shown = [
            str(cell) if name in words else _value(cell) for name, cell in zip(head[1:], cells, strict=True)
        ]
        lines.append("| " + " | ".join([f"`{key}`", *(cell.replace("|", "\\|") for cell in shown)]) + " |")
    return "\n".join(lines) + "\n"


def _value(value: Any) -> str:
    if value == ABSENT:
        return "-"
    return (
        "`" + yaml.safe_dump(value, default_flow_style=True, width=10_000).removesuffix("...\n").strip() + "`"
    )


def main() -> None:
    """Print or write everything."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--update", action="store_true", help="write the golden files and the page")
    if not parser.parse_args().update:
        print(page())
        return
    for name in CONFIGS:
        write_text(golden_file(name), golden_text(name))
    write_text(PAGE, page())


if __name__ == "__main__":
    main()
