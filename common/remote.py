"""What lies on a server and is kept in a cache here, such as files of the Hugging Face hub.

Commands that only look (`protege check`, `plan`, `route`) read the cache. Where it lacks a data set they ask
its server once, for a few seconds, and refuse with one message if it does not answer. `protege fetch`
downloads.
"""

from __future__ import annotations

import threading
import urllib.error
import urllib.request
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal

from common.errors import ConfigError
from common.progress import console

ANSWER_SECONDS = 4.0
"""A server that takes longer to answer a request counts as not reachable."""


class Remote(ABC):
    """One thing that is downloaded as a whole."""

    @property
    @abstractmethod
    def title(self) -> str:
        """What it is, for messages."""

    @property
    @abstractmethod
    def server(self) -> str:
        """URL of the server that has it."""

    @abstractmethod
    def cached(self) -> Path | None:
        """Where it lies on this machine; None if it is not here, or not whole as far as can be told here."""

    @abstractmethod
    def missing_bytes(self) -> int | None:
        """Bytes that the cache lacks, as the server has it; None if it does not say.

        Raises ConfigError, without the title, where the server refuses or does not have it.
        """

    @abstractmethod
    def download(self) -> Path:
        """Completes it from its server and returns where it lies; what is here already is not loaded again.

        Raises ConfigError, without the title.
        """


def local_copy(remote: Remote) -> Path:
    """Where it lies in the cache, downloaded if it is not there and its server answers at once.

    Raises ConfigError, with the title and the command that fetches it.
    """
    found = remote.cached()
    if found is not None:
        return found
    silent = silence(remote.server)
    if silent is not None:
        raise ConfigError(
            f"{remote.title} is not in the local cache and cannot be downloaded now: {silent}; "
            "`protege fetch CONFIG` downloads what a config names"
        )
    try:
        return remote.download()
    except ConfigError as error:
        raise ConfigError(f"{remote.title} cannot be downloaded: {error}") from None


@cache
def silence(url: str) -> str | None:
    """Why this server cannot be asked, after one try of `ANSWER_SECONDS` a process; None if it answers.

    Any answer counts, an error's too.
    """
    if _is_offline():
        return "HF_HUB_OFFLINE is set"
    answers: list[str | None] = []
    # looking up a name has no time limit of its own, so the whole request waits in a thread
    asking = threading.Thread(target=lambda: answers.append(_answer(url)), daemon=True)
    asking.start()
    asking.join(ANSWER_SECONDS)
    return answers[0] if answers else f"{url} does not answer within {ANSWER_SECONDS:g} s"


def _answer(url: str) -> str | None:
    try:
        urllib.request.urlopen(urllib.request.Request(url, method="HEAD"), timeout=ANSWER_SECONDS).close()
    except urllib.error.HTTPError:
        return None
    except (OSError, ValueError) as error:  # of the network, or of the URL itself
        return f"{url} does not answer ({getattr(error, 'reason', None) or error})"
    return None


def _is_offline() -> bool:
    from huggingface_hub import is_offline_mode

    return is_offline_mode()


# --------------------------------------------------------------------------------------------- hub

DATA_SET_CARD = "README.md"
"""File of a data set's repository that says which of its files belong to which configuration and split."""


@dataclass(frozen=True)
class HubFiles(Remote):
    """Files of a repository of the Hugging Face hub, in the cache that all of its libraries share.

    A file appears in the cache when it is whole. An interrupted download is continued with the files that are
    missing; one that was cut off begins again.
    """

    repository: str
    kind: Literal["model", "dataset"]
    allowed: tuple[str, ...] | None = None
    """Patterns (fnmatch) of the files that are wanted; None: all."""
    ignored: tuple[str, ...] = ()
    """Patterns of files that are not, though they are allowed."""
    revision: str | None = None
    """Branch, tag or commit; None: the main branch."""

    @property
    def title(self) -> str:
        name = {"model": "model", "dataset": "data set"}[self.kind]
        at = f" at {self.revision}" if self.revision not in (None, "main") else ""
        return f"{name} {self.repository}{at}"

    @property
    def server(self) -> str:
        from huggingface_hub import constants

        return constants.ENDPOINT

    def cached(self) -> Path | None:
        try:
            return Path(self._snapshot(self.revision, local_files_only=True))
        except Exception:  # of the name, the cache or the disk: the hub's client has many
            return None

    def missing_bytes(self) -> int:
        with _hub_errors(), _bars(shown=False):
            files: Any = self._snapshot(self._commit(), dry_run=True)
            return sum(file.file_size for file in files if file.will_download)

    def download(self) -> Path:
        with _hub_errors(), _bars(shown=console.is_terminal):
            return Path(self._snapshot(self._commit()))

    def _commit(self) -> str | None:
        """What is here already stays at its commit, so that a run's models do not change under it."""
        found = self.cached()
        return self.revision if found is None else found.name

    def _snapshot(self, revision: str | None, **options: Any) -> Any:
        import huggingface_hub

        patterns = {"allow_patterns": self.allowed, "ignore_patterns": self.ignored}
        given = {name: list(value) for name, value in patterns.items() if value}
        return huggingface_hub.snapshot_download(
            self.repository, repo_type=self.kind, revision=revision, **given, **options
        )


@contextmanager
def _hub_errors() -> Iterator[None]:
    """The hub's client raises errors of many kinds; their first line says what is wrong."""
    from huggingface_hub import errors

    try:
        yield
    except Exception as error:
        # the listing of what is missing puts an error of its own before the hub's
        cause = error.__cause__ if isinstance(error, errors.DryRunError) and error.__cause__ else error
        if isinstance(cause, errors.GatedRepoError):
            said = "it is gated: accept its terms on its page of the hub, then `hf auth login`"
        elif isinstance(cause, errors.RepositoryNotFoundError):
            said = "the hub has none of this name, or it is private (`hf auth login`)"
        elif isinstance(cause, errors.RevisionNotFoundError):
            said = "the hub has no such revision of it"
        else:
            said = first_line(cause)
        raise ConfigError(said) from error


def first_line(error: BaseException) -> str:
    """The kind of an error of a library's, and the first line of its message."""
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0] if lines else 'no message'}"


@contextmanager
def _bars(shown: bool) -> Iterator[None]:
    """The hub's own progress bars, where somebody sees them move."""
    from huggingface_hub.utils import (
        are_progress_bars_disabled,
        disable_progress_bars,
        enable_progress_bars,
    )

    if shown or are_progress_bars_disabled():
        yield
        return
    disable_progress_bars()
    try:
        yield
    finally:
        enable_progress_bars()


def bytes_of(files: Iterable[Path]) -> int:
    """Size of these files together, links followed."""
    return sum(file.stat().st_size for file in files if file.is_file())
