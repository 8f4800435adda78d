"""From a YAML file and command-line overrides to a `MergeConfig`, or to one clear refusal a problem."""

from __future__ import annotations

import hashlib
import math
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import yaml

    from configs.schema import MergeConfig

Loc = tuple[str | int, ...]
"""Where a value stands in the config: keys and list positions from the root."""


class ConfigError(ValueError):
    """The user's input is refused; each message says what, where, and what would be valid (exit code 2)."""

    def __init__(self, *problems: str) -> None:
        super().__init__(*problems)
        self.problems = problems

    def __str__(self) -> str:
        return "\n".join(self.problems)


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
    path = Path(path).expanduser().absolute()
    return load_text(_read(path), path, overrides)


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


HOME = "~/.protege"
"""Registry, and local copies of remote ones, where nothing else is said."""


def is_url(place: object) -> bool:
    """Whether a registry is named by a URL, such as `s3://bucket/experts`, rather than by a folder."""
    return isinstance(place, str) and "://" in place


def registry_place(registry: Path | str | None = None) -> Path | str:
    """Where the experts are: the given folder or URL, else `$PROTEGE_HOME`, else `~/.protege`."""
    place = registry or os.environ.get("PROTEGE_HOME") or HOME
    return str(place) if is_url(place) else Path(place).expanduser()


def registry_root(registry: Path | str | None = None) -> Path:
    """The registry's folder on this machine; for a URL that of its local copies, by the URL's digest."""
    place = registry_place(registry)
    if isinstance(place, Path):
        return place
    home = os.environ.get("PROTEGE_HOME") or HOME
    digest = hashlib.sha256(place.rstrip("/").encode()).hexdigest()[:16]
    return Path(HOME if is_url(home) else home).expanduser() / "remote" / digest


# ------------------------------------------------------------------------------------------ reading


def _read(path: Path) -> str:
    if path.is_dir():
        raise ConfigError(f"{path}: is a folder; a config is a YAML file")
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such file") from None
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: not UTF-8 text (byte {error.start})") from None
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from None


FLOAT = re.compile(r"[-+]?(?:[0-9]+\.[0-9]*|\.[0-9]+|[0-9]+(?=[eE]))(?:[eE][-+]?[0-9]+)?$")
"""A plain text that is a number; who writes YAML must quote it where text is meant."""


def yaml_loader() -> type[yaml.SafeLoader]:
    """A safe loader that reads `1e-6` as a number, as YAML 1.2 does."""
    import yaml

    class Loader(yaml.SafeLoader):
        pass

    Loader.add_implicit_resolver("tag:yaml.org,2002:float", FLOAT, list("-+.0123456789"))
    return Loader


def _parse(text: str, path: Path) -> tuple[dict[str, Any], dict[Loc, str]]:
    """The file's mapping, and the place (`file:line`) of every value in it."""
    import yaml

    loader = yaml_loader()(text)
    try:
        root = loader.get_single_node()
        if root is None:
            raise ConfigError(f"{path}: empty; a config needs at least `name`, `student` and `domains`")
        if not isinstance(root, yaml.MappingNode):
            raise ConfigError(f"{path}:{_line(root)}: expected a mapping (`name: ...`), got {_shape(root)}")
        _refuse_duplicate_keys(root, path)
        data = loader.construct_document(root)
    except yaml.YAMLError as error:
        from configs.yaml_errors import explain_yaml

        line, what = explain_yaml(error, text)
        raise ConfigError(f"{f'{path}:{line}' if line else path}: not valid YAML: {what}") from None
    finally:
        loader.dispose()
    # constructing has expanded merge keys (<<) in the nodes, so these are the keys of `data`
    return data, {loc: f"{path}:{line}" for loc, line in _lines(root, loader)}


def _line(node: yaml.Node) -> int:
    return node.start_mark.line + 1


def _shape(node: yaml.Node) -> str:
    return "a list" if node.id == "sequence" else f"the value {node.value!r}"


def _refuse_duplicate_keys(root: yaml.Node, path: Path) -> None:
    """Raise for keys given twice, for keys that are not scalars, and for an alias inside itself."""

    def visit(node: yaml.Node, above: tuple[int, ...]) -> None:
        if id(node) in above:
            raise ConfigError(f"{path}:{_line(node)}: a YAML alias refers to a value that contains it")
        if node.id == "sequence":
            for item in node.value:
                visit(item, (*above, id(node)))
        if node.id != "mapping":
            return
        first: dict[str, int] = {}
        for key, value in node.value:
            if key.id != "scalar":
                raise ConfigError(f"{path}:{_line(key)}: a key must be a plain name, not {key.id}")
            if key.value in first:
                raise ConfigError(
                    f"{path}:{_line(key)}: key {key.value!r} is given twice; first on line {first[key.value]}"
                )
            first[key.value] = _line(key)
            visit(value, (*above, id(node)))

    visit(root, ())


def _lines(node: yaml.Node, loader: yaml.SafeLoader, loc: Loc = ()) -> Iterator[tuple[Loc, int]]:
    """Every value's location with its line; a mapping's entry is placed at its key."""
    if not loc:
        yield (), _line(node)
    if node.id == "mapping":
        for key, value in node.value:
            below = (*loc, loader.construct_object(key))
            yield below, _line(key)
            yield from _lines(value, loader, below)
    elif node.id == "sequence":
        for position, value in enumerate(node.value):
            yield (*loc, position), _line(value)
            yield from _lines(value, loader, (*loc, position))


# ---------------------------------------------------------------------------------------- overrides


def _apply(override: str, data: dict[str, Any], places: dict[Loc, str]) -> None:
    """Lay one `a.b.c=value` over the data, and remember that its values come from there."""
    import yaml

    dotted, equals, text = override.partition("=")
    where = f"--set {override}"
    if not equals or not dotted.strip():
        raise ConfigError(f"{where}: expected KEY=VALUE, such as training.steps=10")
    try:
        value = yaml.load(text, Loader=yaml_loader())
    except yaml.YAMLError as error:
        problem = getattr(error, "problem", None) or error
        raise ConfigError(f"{where}: the value is not valid YAML: {problem}") from None
    node, loc, rest = data, (), dotted.strip()
    while True:
        key, rest = _next_key(node, rest, where)
        loc = (*loc, key)
        places[loc] = where
        if not rest:
            break
        if isinstance(node, dict) and node.get(key) is None:
            _refuse_to_make(loc, rest, node, where)
            node[key] = {}
        node = node[key]
        if not isinstance(node, dict | list):
            raise ConfigError(f"{where}: {show(loc)} is the value {node!r}; nothing stands below it")
    node[key] = value
    for old in [old for old in places if old[: len(loc)] == loc]:
        places[old] = where


def _refuse_to_make(loc: Loc, rest: str, node: dict[str, Any], where: str) -> None:
    """Raise where a key that is not in the file is entered and cannot be made by a part of it."""
    from configs.explain import did_you_mean

    if loc[:-1] == ("domains",):
        raise ConfigError(
            f"{where}: no domain {loc[-1]!r}; {did_you_mean(str(loc[-1]), node)}domains: {', '.join(node)}"
        )
    if rest.partition(".")[0].isdecimal() and loc != ("domains",):
        raise ConfigError(
            f"{where}: {show(loc)} is not in the file, so it has no position {rest.partition('.')[0]}; give "
            f"the whole list, {show(loc)}=[...]"
        )


def _next_key(node: dict | list, dotted: str, where: str) -> tuple[str | int, str]:
    """The key that `dotted` starts with, and the rest; existing keys with a dot in them are found."""
    if isinstance(node, list):
        head, _, rest = dotted.partition(".")
        if not head.isdecimal() or int(head) >= len(node):
            raise ConfigError(f"{where}: {head!r} is no position of a list of {len(node)} (counted from 0)")
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
    domains = data.get("domains")
    for domain in domains.values() if isinstance(domains, dict) else ():
        if not isinstance(domain, dict):
            continue
        _resolve_prompts(domain.get("prompts"), folder)
        _resolve_prompts(domain.get("validation"), folder)
        expert = domain.get("expert")
        if isinstance(expert, dict) and expert.get("kind") in ("model", "rl", "adapter", "registered"):
            _resolve_model(expert, "path", folder)
            _resolve_model(expert, "base", folder)
        _resolve_grader(domain.get("reward"), folder)
        benchmarks = domain.get("benchmarks")
        for benchmark in benchmarks if isinstance(benchmarks, list) else ():
            _resolve(benchmark, "path", folder)
            _resolve_grader(benchmark.get("grader") if isinstance(benchmark, dict) else None, folder)


def _resolve(mapping: object, key: str, folder: Path) -> None:
    if isinstance(mapping, dict) and isinstance(mapping.get(key), str):
        mapping[key] = os.path.normpath(folder / Path(mapping[key]).expanduser())


def _resolve_grader(grader: object, folder: Path) -> None:
    for key in ("path", "schema_path"):
        _resolve(grader, key, folder)


def _resolve_prompts(prompts: object, folder: Path) -> None:
    from configs.prompts import LOCAL_PATHS

    if isinstance(prompts, dict) and prompts.get("kind") in LOCAL_PATHS:
        _resolve(prompts, "path", folder)


def _resolve_model(mapping: dict[str, Any], key: str, folder: Path) -> None:
    """A model is local if it is written as a path or found from the config's folder, else a hub name."""
    value = mapping.get(key)
    if isinstance(value, str) and value and (value[0] in "./~" or (folder / value).exists()):
        _resolve(mapping, key, folder)


# --------------------------------------------------------------------------------------- validation


def show(loc: Loc) -> str:
    """A location as the user writes it: `domains.math.benchmarks[0].path`."""
    text = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in loc)
    return text.removeprefix(".") or "the config"


def _validate(data: dict[str, Any], places: dict[Loc, str], path: Path) -> MergeConfig:
    from pydantic import ValidationError

    from configs.explain import explain
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
        problems = [explain(item, data) for item in error.errors(include_url=False)]
    else:
        problems = list(_coerced(config, data))
    if problems:
        raise ConfigError(*(f"{place(loc)}: {show(loc)}: {what}" for loc, what in problems))
    return config


def _coerced(valid: object, given: object, loc: Loc = ()) -> Iterator[tuple[Loc, str]]:
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
