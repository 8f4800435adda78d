"""The domains of `protege init`: from the user's files and flags to blocks, counts and what is held out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from common.errors import ConfigError
from common.words import did_you_mean
from configs.blocks.prompts import FilePrompts
from merging.init import blocks as parts
from merging.init import data

LABEL = "domain"
"""Column of the labels where nothing else is said, as `routing.field` has it."""


@dataclass(frozen=True)
class DomainWish:
    """What the user says of one domain, as written after the flags."""

    name: str
    prompts: Path | None = None
    columns: str | None = None
    reward: str | None = None
    expert: str = "rl"
    benchmarks: tuple[str, ...] = ()


@dataclass(frozen=True)
class Wish:
    """What the user says of a merge."""

    folder: Path
    student: str
    domains: tuple[DomainWish, ...]
    shared: Path | None = None
    shared_columns: str | None = None
    route: str | None = None
    label_field: str | None = None
    hold_out: float | None = None
    device: str = "cpu"
    gpus: int = 1
    name: str | None = None


@dataclass(frozen=True)
class Table:
    """A prompt file, read."""

    path: Path
    rows: Sequence[data.Row]
    columns: data.Columns

    @classmethod
    def read(cls, path: Path, flag: str, columns: str | None, columns_flag: str) -> Table:
        """Raises ConfigError if the file cannot be read, or no column looks like the prompt."""
        rows = data.read_prompt_rows(path.expanduser(), flag)
        return cls(path, rows, data.find_columns(rows, str(path), columns, columns_flag))

    def keys(self) -> list[str]:
        """What each row asks, as a digest."""
        return [data.prompt_key(data.value_at(row, self.columns.prompt)) for row in self.rows]

    def block(self, path: Path | str) -> parts.Block:
        """The source's block, at a path; columns of the usual names are left out."""
        named = {"prompt": self.columns.prompt, "answer": self.columns.answer}
        usual = named == {"prompt": "prompt", "answer": "answer"}
        return {"kind": "file", "path": str(path)} | ({} if usual else {"columns": named})

    def source(self) -> FilePrompts:
        """The file as it is given."""
        return FilePrompts.model_validate(self.block(self.path.expanduser().absolute()))


@dataclass(frozen=True)
class Part:
    """A domain, or the shared prompts: what the template shows, and what is written beside it."""

    shown: dict[str, Any]
    said: str
    """What was guessed and counted."""
    owner: str | None = None
    """The domain; None for the shared prompts."""
    table: Table | None = None
    """Its prompts, before anything is held out."""
    held_out: frozenset[str] = frozenset()
    """What the held-out rows ask, as digests."""
    files: Mapping[str, str] = field(default_factory=dict)
    """What is written beside the config, by file name."""


# ------------------------------------------------------------------------------------------ domains


def domain_part(wish: Wish, domain: DomainWish, label: str) -> Part:
    """The domain's block and files; raises ConfigError for what the user must change."""
    expert = parts.expert_block(domain.expert, f"--expert {domain.name}", wish.folder)
    built = expert.get("kind") == "rl"
    table = None
    if domain.prompts is not None:
        flags = f"--prompts {domain.name}={domain.prompts}", f"--columns {domain.name}"
        table = Table.read(domain.prompts, flags[0], domain.columns, flags[1])
        _check_labels(domain, table, label)
    elif domain.columns is not None:
        raise ConfigError(f"--columns {domain.name}: the domain has no --prompts whose columns it could name")
    reward, why = _reward(domain, table, built)
    shown = {
        "name": domain.name,
        "expert": expert,
        "expert_why": "built here by reinforcement learning on its prompts" if built else "given",
        "reward": reward,
        "reward_why": why,
        "prompts": None,
        "validation": None,
        "benchmarks": _given_benchmarks(wish, domain, reward, table),
        "benchmarks_missing": "`protege init` takes --benchmark, or --hold-out 0.1 to split the prompts",
    }
    judged = f"reward {reward if isinstance(reward, str) else reward.get('kind')} ({why})"
    if table is None:
        return Part(shown, f"{domain.name}: prompts among the shared ones; {judged}", domain.name)
    if domain.benchmarks or wish.hold_out is None:
        counted = f"{len(table.rows)} prompts, {table.columns}"
        shown |= {
            "prompts": table.block(parts.relative(table.path, wish.folder)),
            "prompts_why": counted,
        }
        return Part(shown, f"{domain.name}: {counted}; {judged}", domain.name, table)
    part = _held_out(wish.hold_out, domain.name, table, reward)
    return replace(part, shown=shown | part.shown, said=f"{domain.name}: {part.said}; {judged}")


def _reward(domain: DomainWish, table: Table | None, built: bool) -> tuple[str | parts.Block, str]:
    """The reward as given or guessed, and why."""
    names = f"valid: {', '.join(parts.REWARDS)}"
    if table is not None and table.columns.answer is None and built:
        raise ConfigError(
            f"{table.path}: no column looks like the answer, which expert rl of domain {domain.name!r} is "
            f"trained on; --columns {domain.name}=PROMPT,ANSWER names it; columns there: "
            f"{', '.join(data.column_names(table.rows[0]))}"
        )
    if domain.reward is not None:
        return parts.reward_of(domain.reward, f"--reward {domain.name}"), "given"
    if table is None:
        raise ConfigError(
            f"--reward {domain.name}=NAME is missing: the domain has no --prompts whose answers could tell "
            f"it; {names}"
        )
    if table.columns.answer is None:
        return "exact", "read by nothing, since the prompts have no answers"
    guessed = data.guess_reward(table.rows, table.columns)
    if guessed is None:
        raise ConfigError(
            f"{table.path}: no reward can be told from answers such as "
            f"{data.value_at(table.rows[0], table.columns.answer)!r:.80}; --reward {domain.name}=NAME "
            f"names it; {names}"
        )
    return guessed


def _check_labels(domain: DomainWish, table: Table, column: str) -> None:
    """A row of a domain's own file must not name another one."""
    for number, row in enumerate(table.rows, start=1):
        label = data.value_at(row, column)
        if label not in (None, "", domain.name):
            raise ConfigError(
                f"{table.path}, row {number}: column {column!r} says {label!r:.60}, and the file is given "
                f"for domain {domain.name!r}; name the domain so, or another labels' column by --label-field"
            )


def _given_benchmarks(
    wish: Wish, domain: DomainWish, reward: str | parts.Block, table: Table | None
) -> list[dict[str, Any]]:
    continued = table is not None and parts.is_continued(table.rows, table.columns)
    flag = f"--benchmark {domain.name}"
    found: list[dict[str, Any]] = []
    for text in domain.benchmarks:
        if table is not None and Path(text).expanduser().absolute() == table.path.expanduser().absolute():
            raise ConfigError(f"{flag}={text}: is the file of the training prompts; --hold-out 0.1 splits it")
        block, why = parts.benchmark_block(text, flag, domain.name, reward, continued, wish.folder)
        found.append({"block": block, "why": why})
    return found


def _held_out(share: float, name: str, table: Table, reward: str | parts.Block) -> Part:
    """Splits the prompts: what is held out is a benchmark, or validation where none can judge it."""
    columns = table.columns
    trained, held = data.split(table.rows, columns.prompt, share)
    if not trained or not held:
        raise ConfigError(
            f"--hold-out {share:g} of the {len(table.rows)} prompts in {table.path} leaves none to "
            f"{'train on' if held else 'hold out'}; choose another share"
        )
    train_name, held_name = f"{name}.train.jsonl", f"{name}.heldout.jsonl"
    counted = f"{len(trained)} of {len(table.rows)} prompts for training, {len(held)} held out"
    shown: dict[str, Any] = {
        "prompts": table.block(train_name),
        "prompts_why": f"{counted}, from {table.path.name}; {columns}",
    }
    judge = parts.judged_as(reward) if columns.answer is not None else None
    if judge is None:
        said = "for `protege probe`, since no own kind of benchmark judges as this reward does"
        missing = "programs need a file in EvalPlus's format" if reward == "code" else "name a published one"
        shown |= {"validation": table.block(held_name), "validation_why": said, "benchmarks_missing": missing}
        written = held
    else:
        written = data.problems_of(held, columns)
        said = f"{len(written)} different problems as benchmark"
        block = {"kind": judge["kind"], "name": f"{name}_heldout"[-64:], "path": held_name, **judge}
        shown["benchmarks"] = [{"block": block, "why": said}]
    files = {
        train_name: data.as_jsonl(trained, str(table.path)),
        held_name: data.as_jsonl(written, str(table.path)),
    }
    keys = frozenset(data.prompt_key(data.value_at(row, columns.prompt)) for row in held)
    return Part(shown, f"{counted} ({said}), {columns}", name, table, keys, files)


# ------------------------------------------------------------------------------------------- shared


def read_shared(wish: Wish) -> tuple[Table | None, str | None]:
    """The prompts of several domains, and the column of their labels where they have one."""
    if wish.shared is None:
        for flag, value in (("--route", wish.route), ("--shared-columns", wish.shared_columns)):
            if value is not None:
                raise ConfigError(f"{flag}: is read with --shared-prompts only; leave it out")
        return None, wish.label_field
    table = Table.read(wish.shared, "--shared-prompts", wish.shared_columns, "--shared-columns")
    domains = [domain.name for domain in wish.domains]
    return table, wish.label_field or data.find_label_column(table.rows, domains)


def shared_part(wish: Wish, table: Table | None, label: str | None, domains: Sequence[Part]) -> Part:
    """The source of several domains, without what is held out, and how its rows find their teacher."""
    if table is None:
        return Part({"block": None, "why": "", "routing": {"kind": "label", "field": label or LABEL}}, "")
    labelled = _labelled(wish, table, label, domains)
    if wish.route is not None:
        routing = parts.routing_block(wish.route, "--route", label)
    else:
        routing = {"kind": "label", "field": label}
    held = frozenset().union(*(part.held_out for part in domains))
    kept = [row for row, key in zip(table.rows, table.keys(), strict=True) if key not in held]
    left_out = len(table.rows) - len(kept)
    said = f"{len(kept)} prompts, {labelled} of {len(table.rows)} labelled, {table.columns}"
    path, files = parts.relative(table.path, wish.folder), {}
    if left_out:
        said += f"; {left_out} left out, which are held out"
        path = "shared.train.jsonl"
        files = {path: data.as_jsonl(kept, str(table.path))}
    shown = {"block": table.block(path), "why": said, "routing": routing}
    return Part(shown, f"shared: {said}", None, table, files=files)


def _labelled(wish: Wish, table: Table, column: str | None, domains: Sequence[Part]) -> int:
    """How many rows name their domain; raises ConfigError where the router could not do its work."""
    place, names = (
        f"--shared-prompts: {table.path}",
        [part.owner for part in domains if part.owner is not None],
    )
    labels = [None if column is None else data.value_at(row, column) for row in table.rows]
    labelled = sum(label not in (None, "") for label in labels)
    for number, label in enumerate(labels, start=1):
        if label not in (None, "", *names):
            raise ConfigError(
                f"{place}, row {number}: label {label!r:.60} (column {column!r}) names no domain; "
                f"{did_you_mean(str(label), names)}domains: {', '.join(names)}"
            )
    if labelled < len(labels) and wish.route in (None, "label"):
        others = ", ".join(kind for kind in parts.ROUTERS if kind != "label")
        raise ConfigError(
            f"{place}: {len(labels) - labelled} of {len(labels)} rows name no domain in "
            f"{'any column' if column is None else f'column {column!r}'}; --label-field names the labels' "
            f"column{f', --route KIND routes rows without one ({others})' if others else ''}; domains: "
            f"{', '.join(names)}"
        )
    bare = [part.owner for part in domains if part.table is None and part.owner not in labels]
    if bare and labelled == len(labels):
        raise ConfigError(f"{place}: no row is labelled {bare[0]!r}, a domain without --prompts of its own")
    return labelled
