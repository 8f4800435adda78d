"""EvalPlus's published problem files, in EvalPlus's own cache folder."""

from __future__ import annotations

import gzip
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from common.errors import ConfigError
from common.files import new_file
from common.remote import Remote, first_line

SILENT_SECONDS = 30.0
"""A download in which nothing arrives for so long has failed."""


@dataclass(frozen=True)
class EvalPlusRelease(Remote):
    """HumanEval+ or MBPP+ in the version that the installed EvalPlus grades."""

    dataset: str
    """EvalPlus's name: `humaneval` or `mbpp`."""
    release: str
    """Its name among EvalPlus's releases: `HumanEvalPlus` or `MbppPlus`."""
    n_problems: int
    """How many problems it has; another number is refused."""

    @property
    def title(self) -> str:
        return f"EvalPlus's {self.release} {self.version}"

    @property
    def server(self) -> str:
        parts = urlsplit(self._place()[0])
        return f"{parts.scheme}://{parts.netloc}"

    @property
    def version(self) -> str:
        """Version of the problems, such as `v0.1.10`."""
        from evalplus.data.humaneval import HUMANEVAL_PLUS_VERSION
        from evalplus.data.mbpp import MBPP_PLUS_VERSION

        return {"humaneval": HUMANEVAL_PLUS_VERSION, "mbpp": MBPP_PLUS_VERSION}[self.dataset]

    def cached(self) -> Path | None:
        path = self._place()[1]
        return path if path.is_file() else None

    def missing_bytes(self) -> int | None:
        """The release does not say how large its file is once unpacked."""
        return None if self.cached() is None else 0

    def download(self) -> Path:
        url, path = self._place()
        if path.is_file():
            return path
        # not by EvalPlus's own function: it writes the file in place, where a kill leaves a part of it
        try:
            with urllib.request.urlopen(url, timeout=SILENT_SECONDS) as answer:
                content = gzip.decompress(answer.read())
            with new_file(path) as temporary:
                temporary.write_bytes(content)
        except (OSError, EOFError, ValueError) as error:
            raise ConfigError(f"{url}: {first_line(error)}") from error
        return path

    def _place(self) -> tuple[str, Path]:
        """URL of the packed file, and where EvalPlus keeps it unpacked."""
        from evalplus.data.utils import get_dataset_metadata

        url, path = get_dataset_metadata(self.release, self.version, False)
        return url, Path(path)
