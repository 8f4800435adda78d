"""`protege init`: a commented config for the user's own domains, its JSON Schema, and what is held out."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from common.errors import ConfigError
from configs.blocks.strict import NAME_PATTERN
from configs.schema import RESERVED_NAMES
from merging.init.blocks import model_text
from merging.init.domains import LABEL, Part, Wish, domain_part, read_shared, shared_part
from merging.init.sizes import Sizes, Student, choose, longest_prompt
from merging.init.text import render

CONFIG, SCHEMA = "merge.yaml", "protege.schema.json"


@dataclass(frozen=True)
class Made:
    """The files of a config that loads, not yet written."""

    files: Mapping[Path, str]
    """Content by path, the config last."""
    said: tuple[str, ...]
    """What was guessed and counted, a line each."""


def make(wish: Wish) -> Made:
    """The config and all that goes with it; raises ConfigError for what the user must change.

    Nothing is written. The config has been loaded as it will stand.
    """
    from configs.json_schema import editor_schema

    wish = replace(wish, folder=wish.folder.expanduser().absolute())
    _check(wish)
    student = model_text(wish.student, "--student", wish.folder)
    table, label = read_shared(wish)
    domains = [domain_part(wish, domain, label or LABEL) for domain in wish.domains]
    if wish.hold_out is not None and not any(part.held_out for part in domains):
        raise ConfigError("--hold-out: no domain has prompts of its own and no benchmark to be held out for")
    shared = shared_part(wish, table, label, domains)
    read = [*domains, shared]
    sizes, lengths_why = _sizes(wish, read, label or LABEL)
    text = render(
        schema=SCHEMA,
        name=wish.name or _name_of(wish.folder),
        student=student,
        domains=[part.shown for part in domains],
        shared=shared.shown,
        device=wish.device,
        gpus=wish.gpus,
        sizes=sizes,
        lengths_why=lengths_why,
    )
    _check_text(text, wish.folder / CONFIG)
    files = {name: content for part in read for name, content in part.files.items()}
    files |= {SCHEMA: json.dumps(editor_schema(), indent=1) + "\n", CONFIG: text}
    said = [part.said for part in read if part.said]
    return Made({wish.folder / name: content for name, content in files.items()}, (*said, lengths_why))


def _check_text(text: str, path: Path) -> None:
    """Loads the config as it will stand; what is wrong with it came from a flag's block."""
    from configs.load import load_text

    try:
        load_text(text, path)
    except ConfigError as error:
        place = re.compile(rf"^{re.escape(str(path))}(:\d+)?: ")  # of a file that nobody has seen
        raise ConfigError(*(f"the flags make: {place.sub('', each)}" for each in error.problems)) from None


def _sizes(wish: Wish, read: Sequence[Part], label: str) -> tuple[Sizes, str]:
    """The sizes, and in words where the lengths come from.

    Reads every prompt as the merge will, so that what is wrong with one is refused here.
    """
    from common.models import resolve_model
    from routing.sources.collect import load_prompts

    sources = [(part.table.source(), part.owner) for part in read if part.table is not None]
    prompts = [p for source, owner in sources for p in load_prompts(source, owner, label_field=label)]
    student, longest = Student(), None
    try:
        folder = resolve_model(wish.student)
    except ConfigError:  # a name of the hub that is not on this machine yet
        why = "Lengths as usual on this device: the student is not on this machine, so nothing was measured"
    else:
        with _named("--student"):
            student, longest = Student.read(folder), longest_prompt(prompts, folder)
        measured = "the student has no chat template, so prompts were not measured"
        if longest is not None:
            measured = f"the longest prompt has {longest} tokens"
        context = "not known" if student.context is None else f"{student.context} tokens"
        why = f"Lengths: {measured}; the student's context is {context}"
    return choose(wish.device, wish.gpus, len(wish.domains), student, longest), why


@contextmanager
def _named(flag: str) -> Iterator[None]:
    """Puts the flag before what is wrong with its value."""
    try:
        yield
    except ConfigError as error:
        raise ConfigError(*(f"{flag}: {problem}" for problem in error.problems)) from None


def write(made: Made) -> None:
    """Writes all files, or none; raises ConfigError if one exists or cannot be written."""
    from common.files import write_text

    for path in made.files:
        if path.exists() or path.is_symlink():
            raise ConfigError(f"{path}: exists, and init overwrites nothing; name another folder")
    path = next(iter(made.files))
    folder = path.parent
    created = [place for place in (folder, *folder.parents) if not place.exists()]
    written: list[Path] = []
    try:
        for path, text in made.files.items():
            write_text(path, text)
            written.append(path)
    except OSError as error:
        raise ConfigError(f"{path}: cannot be written: {error.strerror}") from None
    finally:
        if len(written) < len(made.files):
            _remove(written, created)


def _remove(files: Sequence[Path], folders: Sequence[Path]) -> None:
    for path in files:
        path.unlink()
    for folder in folders:
        if folder.is_dir():
            folder.rmdir()


def _check(wish: Wish) -> None:
    if not wish.domains:
        raise ConfigError("no domain: --domain NAME and --prompts NAME=FILE, once for each domain")
    if wish.hold_out is not None and not 0 < wish.hold_out < 1:
        raise ConfigError(f"--hold-out: expected a share between 0 and 1, such as 0.1; got {wish.hold_out:g}")
    for what, name in [("--name", wish.name), *(("--domain", domain.name) for domain in wish.domains)]:
        if name is not None and (not re.fullmatch(NAME_PATTERN, name) or len(name) > 64 or "\n" in name):
            raise ConfigError(
                f"{what}: {name!r} is no valid name: use letters, digits, `_`, `.`, `-`, and no sign first"
            )
    for domain in wish.domains:
        if domain.name in RESERVED_NAMES:
            raise ConfigError(f"--domain: {domain.name!r} is the name of another model; choose another name")
        if domain.prompts is None and wish.shared is None:
            raise ConfigError(
                f"domain {domain.name!r} has no prompts: --prompts {domain.name}=FILE, or --shared-prompts "
                "FILE with its rows"
            )


def _name_of(folder: Path) -> str:
    return re.sub(r"[^A-Za-z0-9_.-]+", "_", folder.name).lstrip("_.-")[:64] or "merge"
