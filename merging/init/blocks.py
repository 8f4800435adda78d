"""From what a user writes after a flag of `protege init` to a block of the config."""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from common.errors import ConfigError
from common.words import did_you_mean
from configs.blocks.benchmarks import StandardName
from configs.reading.shape import blocks, names
from configs.schema import Domain, MergeConfig
from merging.init.data import EVALPLUS_FIELDS, Columns, Row, find_columns, value_at

if TYPE_CHECKING:
    from pydantic import BaseModel

Block = dict[str, Any]

EXPERTS = blocks(Domain.model_fields["expert"].annotation)
BENCHMARKS = blocks(Domain.model_fields["benchmarks"].annotation)
ROUTERS = blocks(MergeConfig.model_fields["routing"].annotation)
REWARDS = names(Domain.model_fields["reward"].annotation)
REWARD_BLOCKS = blocks(Domain.model_fields["reward"].annotation)
STANDARD = names(StandardName)
"""What there is, as the schema has it."""

JUDGES: dict[str, Block] = {
    "math": {"kind": "math", "grader": "boxed"},
    "number": {"kind": "math", "grader": "number"},
    "exact": {"kind": "graded", "grader": "exact"},
}
"""The benchmark that judges as a reward does; programs need a file in EvalPlus's format."""

HUB_NAME = re.compile(r"[\w][\w.-]*(/[\w][\w.-]*)?")


def expert_block(text: str, flag: str, folder: Path) -> Block:
    """`rl`, `model:PATH`, `KIND:VALUE` for any kind of expert, or a block as the config has it."""
    if (block := written_block(text, flag)) is not None:
        return block
    kind, _, value = text.partition(":")
    _known(kind, EXPERTS, flag, text, "expert", ", ".join(expert_forms()))
    needed = _needed(EXPERTS[kind])
    if not needed and value:
        raise ConfigError(f"{flag}={text}: {kind} takes no value; options are a block, {{kind: {kind}, ...}}")
    if needed and not value:
        raise ConfigError(f"{flag}={text}: needs a value, {kind}:{needed[0].upper()}")
    if not needed:
        return {"kind": kind}
    return {"kind": kind, needed[0]: model_text(value, flag, folder) if needed[0] == "path" else value}


def expert_forms() -> list[str]:
    """How each kind of expert is written after the flag."""
    return [f"{kind}:{needed[0].upper()}" if (needed := _needed(m)) else kind for kind, m in EXPERTS.items()]


def reward_of(text: str, flag: str) -> str | Block:
    """A reward's name, or a block as the config has it."""
    if (block := written_block(text, flag)) is not None:
        return block
    _known(text, REWARDS, flag, text, "reward")
    return text


def routing_block(text: str, flag: str, field: str | None) -> Block:
    """A router's kind, or a block as the config has it; `field` is the label's column where it is known."""
    block = written_block(text, flag)
    if block is None:
        _known(text, ROUTERS, flag, text, "router")
        if needed := _needed(ROUTERS[text]):
            raise ConfigError(f"{flag}={text}: needs {needed[0]}; give {{kind: {text}, {needed[0]}: ...}}")
        block = {"kind": text}
    return block if field is None else block | {"field": field}


def benchmark_block(
    text: str, flag: str, domain: str, reward: str | Block, is_continued: bool, folder: Path
) -> tuple[Block | str, str]:
    """A standard benchmark by name, a file of problems, or a block; and what it is, in words."""
    if (block := written_block(text, flag)) is not None:
        return block, "as given"
    path = Path(text).expanduser()
    if text in STANDARD and not path.exists():
        return text, "published"
    if not path.is_file():
        raise ConfigError(
            f"{flag}={text}: no such file, and no standard benchmark; {did_you_mean(text, STANDARD)}standard "
            f"benchmarks: {', '.join(STANDARD)}"
        )
    from eval.benchmarks.task import read_rows

    rows = read_rows(path, f"{domain} ({flag})")
    where = {"name": _benchmark_name(path, domain), "path": relative(path, folder)}
    if set(EVALPLUS_FIELDS) <= rows[0].keys():
        sent = {"prompt_field": "instruction"} if "instruction" in rows[0] else {}
        how = {"completion": "append"} if is_continued else {}
        return {"kind": "evalplus", **where, **sent, **how}, f"{len(rows)} problems in EvalPlus's format"
    judge = judged_as(reward)
    if judge is None:
        raise ConfigError(
            f"{flag}={text}: reward {_named(reward)} is judged by a file in EvalPlus's format (fields "
            f"{', '.join(EVALPLUS_FIELDS)}, ...); fields there: {', '.join(rows[0])}"
        )
    columns = find_columns(rows, str(path), None, f"{flag}={{kind: {judge['kind']}, problem_field: ...}}")
    _require_texts(rows, columns, f"{flag}={text}")
    fields = {"problem_field": columns.prompt, "answer_field": columns.answer}
    usual = {"problem_field": "prompt", "answer_field": "answer"}
    fields = {key: column for key, column in fields.items() if column != usual[key]}
    return {"kind": judge["kind"], **where, **fields, **judge}, f"{len(rows)} problems, {columns}"


def judged_as(reward: str | Block) -> Block | None:
    """A benchmark of own problems that judges as the reward does; None where there is none."""
    judge = {"kind": "graded", "grader": reward} if isinstance(reward, dict) else JUDGES.get(reward)
    return judge if judge and judge["kind"] in BENCHMARKS else None


def _require_texts(rows: Sequence[Row], columns: Columns, flag: str) -> None:
    if columns.answer is None:
        raise ConfigError(f"{flag}: no column looks like the answer; columns there: {', '.join(rows[0])}")
    for name in (columns.prompt, columns.answer):
        if name not in rows[0]:
            raise ConfigError(f"{flag}: a benchmark's column must not be nested, {name!r} is")
    if not isinstance(rows[0][columns.prompt], str):
        raise ConfigError(f"{flag}: a benchmark's problem is text; column {columns.prompt!r} holds messages")


def is_continued(rows: Sequence[Row], columns: Columns) -> bool:
    """Whether the model's answers go on from a beginning that the row has (a function's header)."""
    answers = [value_at(row, columns.answer) for row in rows if columns.answer is not None]
    return any(isinstance(answer, dict) and answer.get("prefix") for answer in answers)


# -------------------------------------------------------------------------------------------- paths


def relative(path: Path, folder: Path) -> str:
    """The path as the config in `folder` names it: relative where the two lie near each other."""
    near = os.path.relpath(path.expanduser().absolute(), folder.absolute())
    return near if near.count("..") <= 3 else os.path.normpath(path.expanduser().absolute())


def model_text(value: str, flag: str, folder: Path) -> str:
    """A model as the config names it: a folder from the config's place, or a hub name as it is."""
    path = Path(value).expanduser()
    if path.is_dir():
        found = relative(path, folder)
        return found if found[0] in "./" else f"./{found}"
    if path.exists():
        raise ConfigError(f"{flag}: {value}: is a file; a model is a folder")
    if value[:1] in (".", "/", "~") or not HUB_NAME.fullmatch(value):
        raise ConfigError(f"{flag}: {value!r}: no such model folder, and no name of the hub (owner/name)")
    return value


# ---------------------------------------------------------------------------------------- in common


def written_block(text: str, flag: str) -> Block | None:
    """The block that is written out after a flag, `{kind: ...}`; None for anything else."""
    if not text.lstrip().startswith("{"):
        return None
    from configs.reading.yaml_text import parse_yaml

    block, _lines = parse_yaml(text, f"{flag}={text}", lines=False)
    if not isinstance(block, dict):
        raise ConfigError(f"{flag}={text}: expected a block, {{kind: ...}}")
    return block


def _known(
    name: str, valid: Collection[str], flag: str, text: str, what: str, shown: str | None = None
) -> None:
    if name not in valid:
        hint = did_you_mean(name, valid)
        raise ConfigError(f"{flag}={text}: unknown {what} {name!r}; {hint}valid: {shown or ', '.join(valid)}")


def _needed(model: type[BaseModel]) -> list[str]:
    return [name for name, field in model.model_fields.items() if field.is_required() and name != "kind"]


def _named(reward: str | Block) -> str:
    return repr(reward.get("kind") if isinstance(reward, dict) else reward)


def _benchmark_name(path: Path, domain: str) -> str:
    stem = re.sub(r"[^A-Za-z0-9_-]+", "_", path.name.removesuffix(".gz").removesuffix(".jsonl")).strip("_-")
    return (stem if stem.startswith(domain) else f"{domain}_{stem}")[:64]
