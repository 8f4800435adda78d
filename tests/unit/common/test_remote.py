"""What lies on a server: asked once and not for long, kept at its commit, downloaded only where it may be."""

from __future__ import annotations

import socket
import time
from pathlib import Path

import huggingface_hub
import huggingface_hub.constants
import pytest

from common.errors import ConfigError
from common.remote import ANSWER_SECONDS, HubFiles, Remote, local_copy, silence
from tests.helpers.hub_server import COMMIT, HUB_CACHE, LoopbackHub, put_in_cache, silent_server
from tests.helpers.messages import refuses


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / HUB_CACHE))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    silence.cache_clear()
    yield
    silence.cache_clear()


# -------------------------------------------------------------------------------------------- asking


def test_a_server_that_never_answers_is_waited_for_once_and_not_longer_than_said():
    with silent_server() as url:
        began = time.monotonic()
        first = silence(url)
        once = time.monotonic() - began
        assert first == silence(url) and time.monotonic() - began - once < 0.1
    assert first is not None and url in first
    assert ANSWER_SECONDS - 0.5 < once < ANSWER_SECONDS + 1


def test_a_port_where_nobody_listens_is_told_at_once():
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    began = time.monotonic()
    assert "refused" in (silence(f"http://127.0.0.1:{port}") or "")
    assert time.monotonic() - began < 1


def test_any_answer_counts_an_error_too():
    with LoopbackHub({}).serving() as url:
        assert silence(url) is None
        assert silence(f"{url}/nothing/here") is None


def test_who_works_offline_asks_nobody(monkeypatch):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    hub = LoopbackHub({})
    with hub.serving() as url:
        assert "HF_HUB_OFFLINE" in (silence(url) or "")
    assert hub.requests == []


# ----------------------------------------------------------------------------------------- local copies


class Shelf(Remote):
    """Something that lies on `server`, and at `place` once it is downloaded."""

    title = "the shelf"

    def __init__(self, server: str, place: Path, problem: str | None = None) -> None:
        self.place, self.problem, self.downloads = place, problem, 0
        self._server = server

    @property
    def server(self) -> str:
        return self._server

    def cached(self) -> Path | None:
        return self.place if self.place.exists() else None

    def missing_bytes(self) -> int:
        return 1

    def download(self) -> Path:
        self.downloads += 1
        if self.problem is not None:
            raise ConfigError(self.problem)
        self.place.write_text("here")
        return self.place


def test_what_is_in_the_cache_needs_no_server(tmp_path):
    (tmp_path / "shelf").write_text("here")
    shelf = Shelf("http://never.asked.invalid", tmp_path / "shelf")
    began = time.monotonic()
    assert local_copy(shelf) == tmp_path / "shelf" and shelf.downloads == 0
    assert time.monotonic() - began < 0.1


def test_what_is_not_there_is_downloaded_only_from_a_server_that_answers(tmp_path):
    with silent_server() as url, refuses("the shelf", url, "protege fetch CONFIG"):
        local_copy(silent := Shelf(url, tmp_path / "shelf"))
    assert silent.downloads == 0
    with LoopbackHub({}).serving() as url:
        assert local_copy(Shelf(url, tmp_path / "shelf")) == tmp_path / "shelf"


def test_a_failed_download_names_the_thing_and_the_reason(tmp_path):
    with LoopbackHub({}).serving() as url, refuses("the shelf", "disk is full"):
        local_copy(Shelf(url, tmp_path / "shelf", "disk is full"))


# ---------------------------------------------------------------------------------------------- hub


@pytest.fixture
def asked(tmp_path, monkeypatch):
    """What the hub's client is asked for beyond the cache."""
    calls, real = [], huggingface_hub.snapshot_download

    def snapshot(name, **options):
        if options.get("local_files_only"):
            return real(name, **options)
        calls.append((name, options))
        return [] if options.get("dry_run") else str(tmp_path / "snapshot")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot)
    return calls


def test_the_hub_is_asked_for_the_wanted_files_of_a_revision(asked, tmp_path):
    files = HubFiles("org/set", "dataset", ("a/*.jsonl", "README.md"), ("*.bin",), "v2")
    assert files.cached() is None and files.title == "data set org/set at v2"
    assert files.download() == tmp_path / "snapshot"
    (name, options) = asked.pop()
    assert (name, options["repo_type"], options["revision"]) == ("org/set", "dataset", "v2")
    assert options["allow_patterns"] == ["a/*.jsonl", "README.md"] and options["ignore_patterns"] == ["*.bin"]


def test_what_is_here_already_stays_at_its_commit(asked, tmp_path):
    folder = put_in_cache(tmp_path / HUB_CACHE, "models", "org/model", {"config.json": b"{}"})
    files = HubFiles("org/model", "model")
    assert files.cached() == folder
    assert files.missing_bytes() == 0
    files.download()
    assert [options["revision"] for _, options in asked] == [COMMIT, COMMIT]


@pytest.mark.parametrize("ask", [HubFiles.missing_bytes, HubFiles.download])
@pytest.mark.parametrize(
    ("code", "said"), [("RepoNotFound", "private"), ("GatedRepo", "gated"), ("RevisionNotFound", "revision")]
)
def test_what_the_hub_refuses_is_told_in_words(monkeypatch, ask, code, said):
    hub = LoopbackHub({})
    hub.refusal = code
    with hub.serving() as url:
        monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", url)
        with refuses(said, absent=["Error"]):
            ask(HubFiles("org/secret", "model"))


@pytest.mark.parametrize("name", ["org/absent", "not a name at all!", "a/b/c"])
def test_a_name_that_the_cache_lacks_is_not_there(name):
    assert HubFiles(name, "model").cached() is None
