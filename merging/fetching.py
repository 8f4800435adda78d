"""`protege fetch`: what a config names and this machine may lack, and how it is had."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from common.errors import ConfigError
from common.files import expanded
from common.models import is_hub_name, on_the_hub, resolve_model
from common.progress import say
from common.remote import Remote, bytes_of, silence
from common.words import in_its_unit
from configs.schema import MergeConfig
from eval.benchmarks import source_of
from merging.checks.models import named_models
from merging.expert_kinds.kinds import experts_of
from routing.sources.collect import remote_of
from teachers.models import adapters
from teachers.models.files import weight_files


@dataclass(frozen=True)
class Named:
    """One thing that a config names: a model, an adapter, or a data set or benchmark of a server."""

    places: tuple[str, ...]
    """Keys of the config that name it."""
    what: Remote | Path
    """What is downloaded; or, of something that is given as a folder or file, its path."""
    is_model: bool = False
    """Whether it is the folder of a model or adapter."""

    @property
    def title(self) -> str:
        """What it is, for messages."""
        return self.what.title if isinstance(self.what, Remote) else str(self.what)

    def check(self, place: Path) -> None:
        """Raises ConfigError where it is not there, or a model or adapter without its weights."""
        if not self.is_model:
            if not place.exists():
                raise ConfigError(f"{place}: no such file")
        elif adapters.is_adapter(folder := resolve_model(str(place))):
            adapters.fingerprint(folder)
        else:
            weight_files(folder)


@dataclass(frozen=True)
class Fetched:
    """What became of it."""

    named: Named
    state: str
    """`local`, `in the cache`, `downloaded`, `to download`, or `failed`."""
    size: int | None = None
    """Bytes of it on this machine, or still to come; None where that is not known."""
    seconds: float | None = None
    problem: str | None = None
    """Why it could not be had."""


def named_things(config: MergeConfig) -> list[Named]:
    """Everything that a merge with this config reads and that may have to be downloaded, each once.

    Prompts in local files are not among it; experts that are named by their id in the registry are the
    registry's.
    """
    by_what: dict[Remote | Path, Named] = {}
    for named in (*_models(config), *_prompts(config), *_benchmarks(config)):
        known = by_what.get(named.what)
        places = (*known.places, *named.places) if known else named.places
        by_what[named.what] = replace(named, places=tuple(dict.fromkeys(places)))
    return list(by_what.values())


def _models(config: MergeConfig) -> Iterator[Named]:
    experts = [model for expert in experts_of(config).values() for model in expert.named_folders()]
    for model in (*named_models(config).values(), *experts):
        on_hub = is_hub_name(model.path)
        what = on_the_hub(model.path) if on_hub else expanded(model.path)
        yield Named((model.place,), what, is_model=True)


def _prompts(config: MergeConfig) -> Iterator[Named]:
    sources = {"prompts": config.prompts}
    for name, domain in config.domains.items():
        sources[f"domains.{name}.prompts"] = domain.prompts
        sources[f"domains.{name}.validation"] = domain.validation
    for place, source in sources.items():
        if source is not None and (remote := remote_of(source)) is not None:
            yield Named((place,), remote)


def _benchmarks(config: MergeConfig) -> Iterator[Named]:
    for name, domain in config.domains.items():
        for position, benchmark in enumerate(domain.benchmarks):
            what = source_of(benchmark) or benchmark.path
            if what is not None:
                yield Named((f"domains.{name}.benchmarks[{position}]",), what)


# ------------------------------------------------------------------------------------------ fetching


def fetch(things: Sequence[Named], downloads: bool = True) -> Iterator[Fetched]:
    """What becomes of each thing, in order; without `downloads`, only what would.

    One that cannot be had does not keep the others from being tried.
    """
    for named in things:
        began = time.monotonic()
        try:
            fetched = _fetched(named, downloads)
        except ConfigError as error:
            fetched = Fetched(named, "failed", problem=str(error))
        loaded = fetched.state == "downloaded"
        yield replace(fetched, seconds=time.monotonic() - began) if loaded else fetched


def _fetched(named: Named, downloads: bool) -> Fetched:
    if isinstance(named.what, Path):
        named.check(named.what)
        return Fetched(named, "local", _size(named.what))
    remote, silent = named.what, silence(named.what.server)
    if silent is not None:
        return _unreachable(named, remote, silent, downloads)
    missing = remote.missing_bytes()
    if missing == 0:
        folder, state = remote.cached() or remote.download(), "in the cache"
    elif downloads:
        say(f"{named.title}: downloading" + (f" {in_its_unit(missing)}" if missing else ""))
        folder, state = remote.download(), "downloaded"
    else:
        return Fetched(named, "to download", missing)
    named.check(folder)
    size = missing if state == "downloaded" and missing is not None else _size(folder)
    return Fetched(named, state, size)


def _unreachable(named: Named, remote: Remote, silent: str, downloads: bool) -> Fetched:
    """What the cache has of it, whose completeness only the files themselves can tell now."""
    folder = remote.cached()
    if folder is not None:
        named.check(folder)
        return Fetched(named, "in the cache", _size(folder))
    if downloads:
        raise ConfigError(silent)
    return Fetched(named, "to download")


def _size(path: Path) -> int:
    return bytes_of(path.rglob("*") if path.is_dir() else [path])
