"""How an answer is judged, as declared: a shipped reward by name, or a block with settings of its own.

What judges is in `eval.grading.answer_graders`; `teachers.rewards` makes rewards of it. A reward is rebuilt
wherever an answer is judged, so `grader_settings` turns a block into plain data without paths.
"""

from __future__ import annotations

import hashlib
import json
import warnings
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, Tag, model_validator

from common.digests import json_sha256
from common.reading import read_json, read_text
from configs.blocks.json_schemas import check_schema
from configs.blocks.strict import NonNegativeInt, Strict

REWARDS = ("math", "code", "exact", "number")
"""Names of the shipped rewards; `teachers.rewards.REWARDS` holds their implementations."""

RewardName = Literal["math", "code", "exact", "number"]


class RegexReward(Strict):
    """1 where a regular expression matches and what it captures is the row's answer, else 0."""

    kind: Literal["regex"]
    pattern: str
    """The expression, in the syntax of the package `regex` (that of Python's `re`, and more)."""
    group: NonNegativeInt | None = None
    """Group whose text must be the row's answer, white space around both aside (0: the whole match).
    Without it a match alone is right, and no answer is read."""
    flags: tuple[Literal["ignorecase", "multiline", "dotall", "verbose"], ...] = ()
    """Flags of the expression."""
    match: Literal["last", "first", "full"] = "last"
    """Which match counts: the last or the first in the completion; `full`: the completion as a whole, white
    space around it aside."""

    @model_validator(mode="after")
    def _pattern_is_sound(self) -> RegexReward:
        import regex

        try:
            compiled = compiled_pattern(self.pattern, self.flags)
        except regex.error as error:
            said: Any = error  # the stubs leave out its attributes
            place = "" if said.pos is None else f" at position {said.pos} (from 0)"
            raise ValueError(f"pattern {self.pattern!r}: {said.msg}{place}") from None
        if self.group is not None and self.group > compiled.groups:
            raise ValueError(
                f"group {self.group}: pattern {self.pattern!r} has {compiled.groups} groups; valid: 0 to "
                f"{compiled.groups}"
            )
        if self.group is None and self._accepts_nothing(compiled):
            raise ValueError(
                f"pattern {self.pattern!r} matches the empty text, so every answer would be right; give a "
                "pattern that needs some text, or `group` to compare what it captures"
            )
        return self

    def _accepts_nothing(self, compiled: Any) -> bool:
        find = compiled.fullmatch if self.match == "full" else compiled.search
        return find("") is not None


with warnings.catch_warnings():  # pydantic has an old method `schema` that nothing here uses
    warnings.filterwarnings("ignore", message='Field name "schema"')

    class JsonSchemaReward(Strict):
        """1 where the completion is JSON that is valid under a JSON Schema, else 0."""

        kind: Literal["json_schema"]
        schema: dict[str, Any] | None = None  # pyright: ignore[reportIncompatibleMethodOverride]
        """The schema itself."""
        schema_path: Path | None = None
        """A `.json` file with the schema, in place of `schema`."""
        extract: Literal["fence", "whole"] = "fence"
        """What must be JSON: the last fenced block (```` ```json ````), or the whole completion."""
        compare_answer: bool = False
        """The value must also equal the row's answer, as JSON values (1 is 1.0, but not true and not "1")."""

        @model_validator(mode="after")
        def _one_sound_schema(self) -> JsonSchemaReward:
            if (self.schema is None) == (self.schema_path is None):
                raise ValueError("give one of `schema` (the schema itself) and `schema_path` (a .json file)")
            if self.schema is not None:
                check_schema(self.schema)
            return self


class PythonReward(Strict):
    """A function of the user's own: `(completion: str, answer, finished: bool) -> float` in [0, 1].

    It runs in a helper process, with the rights of the run.
    """

    kind: Literal["python"]
    path: Path
    """The `.py` file. It is loaded alone: it can import installed packages, not files beside it. Another
    content is another reward, so an expert is built anew."""
    function: Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")] = "reward"
    """Name of the function."""
    needs_answer: bool = True
    """Whether the function needs the row's answer. If not, prompts without an answer are taken, and the
    function is given None for it."""


class ReasoningGymReward(Strict):
    """The verifier of a task of the package reasoning-gym, with the partial credit that it gives."""

    kind: Literal["reasoning_gym"]
    task: str
    """Name of the task, as in the prompt source `reasoning_gym`, whose rows this reward judges."""
    answer: Literal["last_line", "boxed", "tag", "whole"] = "last_line"
    """What the verifier reads of the completion: its last line that is not empty, the content of the last
    \\boxed{}, of the last `<answer>` tag (`<answer>42</answer>`), or the whole completion."""


RewardBlock = Annotated[
    RegexReward | JsonSchemaReward | PythonReward | ReasoningGymReward, Field(discriminator="kind")
]


def _form(value: object) -> str:
    return "block" if isinstance(value, dict | Strict) else "name"


Reward = Annotated[
    Annotated[RewardName, Tag("name")] | Annotated[RewardBlock, Tag("block")], Discriminator(_form)
]

Grader = Annotated[
    Annotated[Literal["exact", "number"], Tag("name")] | Annotated[RewardBlock, Tag("block")],
    Discriminator(_form),
]
"""What judges the answers of a benchmark of the kind `graded`."""


def compiled_pattern(pattern: str, flags: tuple[str, ...] | list[str]) -> Any:
    """The compiled expression; raises `regex.error`."""
    import regex

    return regex.compile(pattern, sum(getattr(regex, flag.upper()) for flag in set(flags)))


def reward_title(reward: str | RewardBlock) -> str:
    """A reward in messages: its name, or what tells the block from others of its kind."""
    if isinstance(reward, str):
        return reward
    told = {"regex": "pattern", "json_schema": "schema_path", "python": "path", "reasoning_gym": "task"}
    value = getattr(reward, told[reward.kind])
    return reward.kind if value is None else f"{reward.kind} {value}"


def needs_answer(reward: str | RewardBlock) -> bool:
    """Whether a row without an answer cannot be judged by this reward."""
    if isinstance(reward, RegexReward):
        return reward.group is not None
    if isinstance(reward, JsonSchemaReward):
        return reward.compare_answer
    return reward.needs_answer if isinstance(reward, PythonReward) else True


def grader_settings(reward: str | RewardBlock) -> str | dict[str, Any]:
    """A named reward's name; a block as JSON data with all that judging needs, its file's content included.

    Raises ConfigError for a file that cannot be read or holds no valid schema.
    """
    if isinstance(reward, str):
        return reward
    plain = reward.model_dump(mode="json", exclude={"path", "schema_path"})
    plain["needs_answer"] = needs_answer(reward)
    if isinstance(reward, JsonSchemaReward) and reward.schema_path is not None:
        plain["schema"] = _read_schema(reward.schema_path)
    if isinstance(reward, PythonReward):
        plain |= {"path": str(reward.path), "source": read_text(reward.path, "a Python file with a reward")}
    return plain


def reward_identity(reward: str | RewardBlock) -> str | dict[str, Any]:
    """What decides this reward's judgements, for ids and digests: no path, a file by its sha256."""
    found = grader_settings(reward)
    if isinstance(found, str):
        return found
    source = found.pop("source", None)
    found.pop("path", None)
    if source is not None:
        found["sha256"] = hashlib.sha256(source.encode()).hexdigest()
    return found


def reward_record(reward: str | RewardBlock) -> str:
    """A reward in a run's records: its name, or a block's title with the sha256 of all that decides it."""
    decides = reward_identity(reward)
    if isinstance(decides, str):
        return decides
    digest = decides.get("sha256") or json_sha256(decides)
    return f"{reward_title(reward)} (sha256 {digest})"


def row_text(reward: str | RewardBlock) -> str:
    """What a row of a training file says of its reward: the name, or the block's settings as JSON text."""
    found = grader_settings(reward)
    return found if isinstance(found, str) else json.dumps(found, sort_keys=True)


# ------------------------------------------------------------------------------------------- files


def _read_schema(path: Path) -> dict[str, Any]:
    from common.errors import ConfigError

    schema = read_json(path, dict[str, Any], "a JSON Schema")
    try:
        check_schema(schema)
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{path}: {error}") from None
    return schema
