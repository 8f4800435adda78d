"""From a YAML file and command-line overrides to a `MergeConfig`, or to one clear refusal a problem."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Iterator, Sequence
from copy import copy
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from common.errors import ConfigError
from common.files import expanded
from common.reading import read_text
from configs.places import is_url
from configs.reading.yaml_text import Loc, parse_yaml

if TYPE_CHECKING:
    from configs.schema import MergeConfig


@dataclass(frozen=True)
class LoadedConfig:
    """A config with where it came from."""

    config: MergeConfig
    path: Path
    """The YAML file, absolute."""
    text: str
    """The file's content, verbatim."""
    overrides: tuple[str, ...] = ()
    """`key=value` texts that were laid over the file."""


def load_config(path: Path, overrides: Sequence[str] = ()) -> LoadedConfig:
    """Read, override, resolve and validate a config; see `load_text`."""
    path = expanded(path).absolute()
    return load_text(read_text(path, "a config, which is a YAML file", LARGEST_CONFIG), path, overrides)


def load_text(text: str, path: Path, overrides: Sequence[str] = ()) -> LoadedConfig:
    """Override, resolve and validate the text of a config that stands, or will stand, at `path`.

    `overrides` are `a.b.c=value` with a YAML value; a list is entered by position
    (`domains.math.benchmarks.0.limit=5`). Relative paths, also those of overrides, are read from the
    config file's folder. Raises ConfigError with one message a problem, each with its place.
    """
    data, places = _parse(text, path)
    for override in overrides:
        _apply(override, data, places)
    _resolve_paths(data, path.parent)
    return LoadedConfig(_validate(data, places, path), path, text, tuple(overrides))


# ------------------------------------------------------------------------------------------ reading


LARGEST_CONFIG = 2**17
"""Bytes: for more, PyYAML takes many seconds."""


def _parse(text: str, path: Path) -> tuple[dict[str, Any], dict[Loc, str]]:
    """The file's mapping, and the place (`file:line`) of every value in it."""
    data, lines = parse_yaml(text, str(path))
    if data is None:
        raise ConfigError(f"{path}: empty; a config needs at least `name`, `student` and `domains`")
    if not isinstance(data, dict):
        shape = "a list" if isinstance(data, list) else f"the value {data!r:.60}"
        raise ConfigError(f"{path}:{lines[()]}: expected a mapping (`name: ...`), got {shape}")
    return data, {loc: f"{path}:{line}" for loc, line in lines.items()}


# ---------------------------------------------------------------------------------------- overrides


def _apply(override: str, data: dict[str, Any], places: dict[Loc, str]) -> None:
    """Lay one `a.b.c=value` over the data, and remember that its values come from there."""
    dotted, equals, text = override.partition("=")
    where = f"--set {override}"
    if not equals or not dotted.strip():
        raise ConfigError(f"{where}: expected KEY=VALUE, such as training.steps=10")
    value, _lines = parse_yaml(text, where, lines=False)
    node: Any = data
    loc: Loc = ()
    rest = dotted.strip()
    while True:
        key, rest = _next_key(node, rest, where)
        loc = (*loc, key)
        places[loc] = where
        if not rest:
            break
        if isinstance(node, dict) and node.get(key) is None:
            _refuse_to_make(loc, rest, node, where)
            node[key] = {}
        below = node[key]
        if not isinstance(below, dict | list):
            raise ConfigError(f"{where}: {show(loc)} is the value {below!r}; nothing stands below it")
        node[key] = copy(below)  # an alias's value stands in other places too, and stays what it is there
        node = node[key]
    node[key] = value
    for old in [old for old in places if old[: len(loc)] == loc]:
        places[old] = where


def _refuse_to_make(loc: Loc, rest: str, node: dict[str, Any], where: str) -> None:
    """Raise where a key that is not in the file is entered and cannot be made by a part of it."""
    from common.words import did_you_mean

    if loc[:-1] == ("domains",):
        known = [str(name) for name in node]
        hint = did_you_mean(str(loc[-1]), known)
        raise ConfigError(f"{where}: no domain {loc[-1]!r}; {hint}domains: {', '.join(known)}")
    if rest.partition(".")[0].isdecimal() and loc != ("domains",):
        raise ConfigError(
            f"{where}: {show(loc)} is not in the file, so it has no position {rest.partition('.')[0]}; give "
            f"the whole list, {show(loc)}=[...]"
        )


def _next_key(node: dict | list, dotted: str, where: str) -> tuple[Any, str]:
    """The key that `dotted` starts with, and the rest; existing keys with a dot in them are found."""
    if isinstance(node, list):
        head, _, rest = dotted.partition(".")
        if not re.fullmatch(r"[0-9]{1,9}", head) or int(head) >= len(node):
            raise ConfigError(
                f"{where}: {head[:60]!r} is no position of a list of {len(node)} (counted from 0)"
            )
        return int(head), rest
    known = [key for key in node if isinstance(key, str) and (dotted + ".").startswith(key + ".")]
    head = max(known, key=len) if known else dotted.partition(".")[0]
    return head, dotted[len(head) + 1 :]


# -------------------------------------------------------------------------------------------- paths


def _resolve_paths(data: dict[str, Any], folder: Path) -> None:
    """Make relative paths absolute, in place; values of a wrong type are left to the validation."""
    if not is_url(data.get("registry")):
        _resolve(data, "registry", folder)
    _resolve_model(data, "student", folder)
    _resolve_prompts(data.get("prompts"), folder)
    routing, objective = data.get("routing"), data.get("objective")
    _resolve(routing.get("features") if isinstance(routing, dict) else None, "path", folder)
    reference = objective.get("reference") if isinstance(objective, dict) else None
    if isinstance(reference, dict):
        _resolve_model(reference, "path", folder)
    training = data.get("training")
    start = training.get("start") if isinstance(training, dict) else None
    if isinstance(start, dict):
        _resolve_model(start, "path", folder)
    domains = data.get("domains")
    for domain in domains.values() if isinstance(domains, dict) else ():
        if not isinstance(domain, dict):
            continue
        _resolve_prompts(domain.get("prompts"), folder)
        _resolve_prompts(domain.get("validation"), folder)
        expert = domain.get("expert")
        if isinstance(expert, dict):
            _resolve_model(expert, "path", folder)
            _resolve_model(expert, "base", folder)
        _resolve_grader(domain.get("reward"), folder)
        benchmarks = domain.get("benchmarks")
        for benchmark in benchmarks if isinstance(benchmarks, list) else ():
            _resolve(benchmark, "path", folder)
            _resolve_grader(benchmark.get("grader") if isinstance(benchmark, dict) else None, folder)


def _resolve(mapping: object, key: str, folder: Path) -> None:
    if isinstance(mapping, dict) and isinstance(mapping.get(key), str):
        mapping[key] = os.path.normpath(folder / expanded(mapping[key]))


def _resolve_grader(grader: object, folder: Path) -> None:
    for key in ("path", "schema_path"):
        _resolve(grader, key, folder)


def _resolve_prompts(prompts: object, folder: Path) -> None:
    from configs.blocks.prompts import LOCAL_PATHS

    if isinstance(prompts, dict) and prompts.get("kind") in LOCAL_PATHS:
        _resolve(prompts, "path", folder)


def _resolve_model(mapping: dict[str, Any], key: str, folder: Path) -> None:
    """A model is local if it is written as a path or found from the config's folder, else a hub name."""
    value = mapping.get(key)
    if isinstance(value, str) and value and (value[0] in "./~" or (folder / expanded(value)).exists()):
        _resolve(mapping, key, folder)


# --------------------------------------------------------------------------------------- validation


MOST_PROBLEMS = 50
"""That one refusal tells."""


def show(loc: Loc) -> str:
    """A location as the user writes it: `domains.math.benchmarks[0].path`."""
    text = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in loc)
    return text.removeprefix(".") or "the config"


def _validate(data: dict[str, Any], places: dict[Loc, str], path: Path) -> MergeConfig:
    from pydantic import ValidationError

    from configs.reading.explain import explain
    from configs.schema import MergeConfig

    def place(loc: Loc) -> str:
        while loc not in places and loc:
            loc = loc[:-1]
        return places.get(loc, str(path))

    unreadable = [*_not_plain(data), *_replaced(data)]
    wrong = [f"{place(loc)}: {show(loc)}: {what}" for loc, what in unreadable]
    if wrong:
        raise ConfigError(*wrong)
    try:
        config = MergeConfig.model_validate(data)
    except ValidationError as error:
        items = error.errors(include_url=False)
        config, problems = None, [explain(item, data) for item in items[:MOST_PROBLEMS]]
        if len(items) > MOST_PROBLEMS:
            problems.append(((), f"has {len(items) - MOST_PROBLEMS} more problems"))
    else:
        problems = list(_coerced(config, data))
    if config is None or problems:
        raise ConfigError(*(f"{place(loc)}: {show(loc)}: {what}" for loc, what in problems))
    return config


def _coerced(valid: Any, given: object, loc: Loc = ()) -> Iterator[tuple[Loc, str]]:
    """Scalars that pydantic had to convert: `steps: "5"` and `steps: true` are mistakes, not 5 and 1."""
    if isinstance(given, dict):
        for key, below in given.items():
            inside = valid[key] if isinstance(valid, dict) else getattr(valid, key)
            yield from _coerced(inside, below, (*loc, key))
    elif isinstance(given, list):
        for position, (inside, below) in enumerate(zip(valid, given, strict=True)):
            yield from _coerced(inside, below, (*loc, position))
    elif isinstance(valid, int | float):
        whole = isinstance(given, int) and not isinstance(given, bool)
        if isinstance(valid, bool) and not isinstance(given, bool):
            yield loc, f"expected true or false, got {given!r}"
        elif isinstance(valid, int) and not isinstance(valid, bool) and not whole:
            yield loc, f"expected a whole number, got {given!r}"
        elif isinstance(valid, float) and not (whole or isinstance(given, float)):
            yield loc, f"expected a number, got {given!r}"


def _replaced(data: dict[str, Any]) -> Iterator[tuple[Loc, str]]:
    """Keys that have another place now."""
    if isinstance(data.get("routing"), dict) and "balance" in data["routing"]:
        message = (
            "the section `mixing` says this: {kind: balanced}, the default, down-samples every domain to "
            "the smallest; {kind: weighted, weights: {math: 1, code: 1}} uses all prompts, in equal shares; "
            "{kind: temperature, temperature: 1} uses all, in proportion to their numbers"
        )
        yield ("routing", "balance"), message


def _not_plain(value: object, loc: Loc = ()) -> Iterator[tuple[Loc, str]]:
    """What YAML can write and a config cannot hold: dates, binary, infinities, keys that are no text."""
    if isinstance(value, dict):
        for key, below in value.items():
            if not isinstance(key, str):
                yield (*loc, str(key)), f"a key must be text; write it in quotes (YAML reads it as {key!r})"
            else:
                yield from _not_plain(below, (*loc, key))
    elif isinstance(value, list):
        for position, below in enumerate(value):
            yield from _not_plain(below, (*loc, position))
    elif isinstance(value, float) and not math.isfinite(value):
        yield loc, f"expected a finite number, got {value}"
    elif not isinstance(value, str | int | float | bool | None):
        yield loc, f"YAML reads this as a {type(value).__name__}; write it in quotes if text is meant"
