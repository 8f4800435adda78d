"""Digests of values and files, by hand from the text that is digested."""

from __future__ import annotations

import hashlib
import importlib.metadata

import pytest

from common.digests import file_sha256, installed_version, json_sha256
from common.errors import ConfigError


def test_a_value_s_digest_is_that_of_its_json_with_sorted_keys():
    expected = hashlib.sha256(rb'{"a": [1, null], "b": "\u00e9"}').hexdigest()
    assert json_sha256({"b": "é", "a": [1, None]}) == json_sha256({"a": (1, None), "b": "é"}) == expected


def test_a_file_s_digest_follows_its_bytes(tmp_path):
    file = tmp_path / "weights"
    for content in (b"", b"\x00\xff" * 100_000, b"\x00\xff" * 99_999 + b"\x00\xfe"):
        file.write_bytes(content)
        assert file_sha256(file) == hashlib.sha256(content).hexdigest()
    with pytest.raises(ConfigError, match="no such file"):
        file_sha256(tmp_path / "none")


def test_an_installed_version():
    assert installed_version("pytest") == importlib.metadata.version("pytest")
    assert installed_version("no-such-package-at-all") is None
