"""Where prompts come from, as declared."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, model_validator

from configs.blocks.gym import GymTask
from configs.blocks.strict import PositiveInt, Strict


class PromptColumns(Strict):
    """Where a prompt source keeps what we need; every named column must exist. A dot reaches into a nested
    column (`extra_info.answer`)."""

    prompt: str | None = None
    """Column with the prompt: text, or a list of chat messages. By default `prompt`, unless the source has a
    `template`."""
    answer: str | None = "answer"
    """Column with what the reward checks against (a text, a number, or any JSON value)."""
    label: str | None = None
    """Column with the domain's name, or with a value that `labels` names a domain for; by default
    `routing.field`."""


class VerlColumns(PromptColumns):
    """Where verl's format keeps what we need; every named column must exist."""

    answer: str | None = "reward_model.ground_truth"
    """Column with what the reward checks against (a text, a number, or any JSON value)."""
    label: str | None = None
    """Column with the domain's name, or with a value that `labels` names a domain for. By default the first
    of these that the data has: `routing.field`, `extra_info.opd_teacher`, and, where the source is no
    domain's own, `ability`."""


class PromptSource(Strict):
    """What every kind of source can be told."""

    kind: str
    columns: PromptColumns = PromptColumns()
    """Names of the columns."""
    labels: dict[str, str] = Field(default={})
    """Domain for a value of the label's column, such as `{math-teacher: math}`; other values must be names of
    domains themselves."""
    template: str | None = None
    """A Jinja template that makes the prompt from the row's columns, instead of `columns.prompt`:
    `"Solve: {{ question }}"`. A column that is missing or null is refused."""
    system: Annotated[str, Field(min_length=1)] | None = None
    """System message of every prompt; a prompt that has one already is refused."""
    suffix: Annotated[str, Field(min_length=1)] | None = None
    """Text at the end of every prompt's last message, as it stands: begin it with a space or a new line."""
    limit: PositiveInt | None = None
    """Use only the first so many rows."""

    @model_validator(mode="after")
    def _one_way_to_the_prompt(self) -> PromptSource:
        if self.template is None:
            return self
        if self.columns.prompt is not None:
            raise ValueError("`template` and `columns.prompt` both say what the prompt is; give one of them")
        import jinja2

        try:
            jinja2.Environment().from_string(self.template)
        except jinja2.TemplateSyntaxError as error:
            raise ValueError(
                f"`template` is no Jinja template: line {error.lineno}: {error.message}"
            ) from None
        return self

    @property
    def prompt_column(self) -> str:
        """Column with the prompt, where there is no template."""
        return self.columns.prompt or "prompt"

    def title(self) -> str:
        """The source's name in messages: its path, and its split where it has one."""
        path, split = getattr(self, "path", self.kind), getattr(self, "split", None)
        return f"{path}[{split}]" if split else str(path)

    def unfit_reward(self, kind: str) -> str | None:
        """The reward that would do, where one of this kind cannot judge this source's answers."""
        return None


class FilePrompts(PromptSource):
    """Prompts in local files: `.jsonl`, `.jsonl.gz`, `.json` (a list of objects), `.parquet` or `.csv`."""

    kind: Literal["file"] = "file"
    path: Path
    """File, pattern (`data/*.jsonl`) or folder, whose files of these kinds are read in the order of their
    names; a relative path is read from the config file's folder."""


class VerlPrompts(PromptSource):
    """Prompts in verl's format: Parquet with `prompt` (chat messages), `reward_model.ground_truth` and
    `extra_info`."""

    kind: Literal["verl"]
    path: Path
    """File, pattern (`data/*.parquet`) or folder; a relative path is read from the config file's folder."""
    columns: VerlColumns = VerlColumns()
    """Names of the columns."""


class LocalPrompts(PromptSource):
    """Prompts in a folder with a Hugging Face dataset: one that `save_to_disk` wrote, or one that
    `load_dataset` reads."""

    kind: Literal["local"]
    path: Path
    """Folder; a relative path is read from the config file's folder."""
    split: str | None = None
    """Split to read; needed where there are several."""


class HubPrompts(PromptSource):
    """Prompts in a Hugging Face dataset, from the hub or the local cache."""

    kind: Literal["hub"]
    path: str
    """Dataset name, such as `Keven16/G-OPD-Training-Data`."""
    split: str = "train"
    """Split to read."""
    revision: str | None = None
    """Commit or tag; pin it for a reproducible run."""
    data_files: str | None = None
    """File or pattern within the dataset's repository."""


class ReasoningGymPrompts(PromptSource, GymTask):
    """Prompts that the package reasoning-gym generates (extra `gym`), for the reward of the same kind.

    Their rows have the columns `prompt` and `answer`, which is what the task's verifier needs."""

    kind: Literal["reasoning_gym"]

    def title(self) -> str:
        """The task and its seed."""
        return f"reasoning_gym {self.task} (seed {self.seed})"

    def unfit_reward(self, kind: str) -> str | None:
        """Its own verifier; a function of the user's may read its answers too."""
        return None if kind in ("reasoning_gym", "python") else f"{{kind: reasoning_gym, task: {self.task}}}"


LOCAL_PATHS = ("file", "verl", "local")
"""Kinds whose `path` is read from the config file's folder."""

Prompts = Annotated[
    FilePrompts | VerlPrompts | LocalPrompts | HubPrompts | ReasoningGymPrompts, Field(discriminator="kind")
]


class OverlapCheck(Strict):
    """Training prompts are compared with the problems of every benchmark that the config names."""

    action: Literal["warn", "drop", "refuse"] = "warn"
    """`warn` trains on a prompt that repeats a problem and says so in check, run and report; `drop` leaves it
    out, of the experts' training too; `refuse` starts nothing."""
    ngram: Annotated[int, Field(ge=3)] = 13
    """So many words in a row are the same text; a whole prompt that is a problem counts at any length."""
