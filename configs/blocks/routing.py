"""How prompts find their domain, and so their teacher, as declared.

Every router keeps the labels that are there: it decides on rows without one only.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, ClassVar, Literal

from pydantic import (
    BeforeValidator,
    Discriminator,
    Field,
    NonNegativeFloat,
    Tag,
    model_validator,
)

from configs.blocks.strict import Name, NonNegativeInt, PositiveInt, Seed, Strict, by_kind


class Fallback(Strict):
    """One domain for every prompt that the router does not decide on."""

    domain: Name
    """The domain."""


def _form(value: object) -> str:
    return "block" if isinstance(value, dict | Strict) else "name"


Otherwise = Annotated[
    Annotated[Literal["refuse", "drop"], Tag("name")] | Annotated[Fallback, Tag("block")],
    Discriminator(_form),
]


class CommonRouting(Strict):
    """What every router is told."""

    decides_late: ClassVar[bool] = False
    """Whether it decides once the experts are there, which then are not built on what it decides."""

    kind: str
    field: str = "domain"
    """Column with the domain's name; rows of a domain's own `prompts` may leave it out."""

    def named_domains(self) -> list[tuple[str, str]]:
        """(place in the section, domain) of every domain that it names."""
        return []

    def otherwise_text(self) -> str:
        """What happens to a prompt that it does not decide on, in words."""
        return "refuse"

    @property
    def fallback(self) -> str | None:
        """The domain of the prompts that it does not decide on, if there is one."""
        return None


class DecidingRouting(CommonRouting):
    """A router that decides on prompts without a label."""

    otherwise: Otherwise = "refuse"
    """A prompt that it does not decide on: nothing starts, or such prompts are left out (`drop`), or go to
    one domain (`{domain: math}`)."""

    def named_domains(self) -> list[tuple[str, str]]:
        """(place in the section, domain) of every domain that it names."""
        return [] if self.fallback is None else [("otherwise.domain", self.fallback)]

    def otherwise_text(self) -> str:
        """`otherwise` in words."""
        return str(self.otherwise) if self.fallback is None else f"domain {self.fallback}"

    @property
    def fallback(self) -> str | None:
        """The domain of the prompts that it does not decide on, if there is one."""
        return self.otherwise.domain if isinstance(self.otherwise, Fallback) else None


class LabelRouting(CommonRouting):
    """Each prompt's own label names its domain; a prompt without one is refused."""

    kind: Literal["label"] = "label"


class Rule(Strict):
    """A prompt for which all that is given holds goes to the domain."""

    domain: Name
    """The domain."""
    regex: str | None = None
    """A regular expression (Python's `re`) that is found somewhere in what the user says."""
    keywords: Annotated[tuple[Annotated[str, Field(min_length=1)], ...], Field(min_length=1)] | None = None
    """Words or phrases of which one stands there as a whole word, in upper or lower case."""
    min_chars: PositiveInt | None = None
    """Characters that it has at least."""
    max_chars: PositiveInt | None = None
    """Characters that it has at most."""

    @model_validator(mode="after")
    def _says_something_sound(self) -> Rule:
        if self.model_fields_set <= {"domain"}:
            raise ValueError("a rule needs a condition: regex, keywords, min_chars or max_chars")
        if self.regex is not None:
            try:
                re.compile(self.regex)
            except re.error as error:
                raise ValueError(f"regex {self.regex!r}: {error}") from None
        if self.min_chars and self.max_chars and self.min_chars > self.max_chars:
            raise ValueError(f"min_chars {self.min_chars} is above max_chars {self.max_chars}")
        return self


class RuleExample(Strict):
    """A text and what the rules must make of it, tested before anything starts."""

    text: str
    """What the user says."""
    domain: Name | None
    """The domain that it must go to; null: no rule must match it."""


class RulesRouting(DecidingRouting):
    """The first rule that matches decides."""

    kind: Literal["rules"]
    rules: tuple[Rule, ...]
    """The rules, in order."""
    examples: tuple[RuleExample, ...] = ()
    """Texts with the domain that the rules must find."""

    @model_validator(mode="after")
    def _has_a_rule(self) -> RulesRouting:
        if not self.rules:
            raise ValueError(
                "`rules` is empty; give at least one rule, such as {domain: ..., keywords: [...]}"
            )
        return self

    def named_domains(self) -> list[tuple[str, str]]:
        """(place in the section, domain) of every domain that it names."""
        rules = [(f"rules.{place}.domain", rule.domain) for place, rule in enumerate(self.rules)]
        examples = [
            (f"examples.{place}.domain", example.domain)
            for place, example in enumerate(self.examples)
            if example.domain is not None
        ]
        return [*rules, *examples, *super().named_domains()]


class TfidfFeatures(Strict):
    """Words, pairs of words and short runs of characters, weighted by how telling they are."""

    kind: Literal["tfidf"]


class EmbeddingFeatures(Strict):
    """The mean of a model's last hidden states."""

    kind: Literal["embeddings"]
    path: Path
    """Folder of an encoder that transformers loads, such as a sentence-embedding model."""


OneFeatures = Annotated[TfidfFeatures | EmbeddingFeatures, Field(discriminator="kind")]
FeaturesName = Literal["tfidf"]  # the other needs more than its kind
Features = Annotated[OneFeatures, BeforeValidator(by_kind, json_schema_input_type=FeaturesName | OneFeatures)]
"""A block, or a kind alone."""


class LearnedRouting(DecidingRouting):
    """A classifier (logistic regression), trained on the labelled prompts, decides."""

    kind: Literal["learned"]
    features: Features = TfidfFeatures(kind="tfidf")
    """What it reads of a prompt, by name or as a block."""
    threshold: Annotated[float, Field(ge=0, lt=1)] = 0.8
    """Calibrated confidence under which it does not decide."""
    novelty: Annotated[float, Field(ge=0, le=1)] = 0.7
    """It does not decide on a prompt that is less like its nearest labelled one than this, as a part of what
    95% of the labelled prompts reach among themselves; 0: it decides on any."""
    held_out: Annotated[float, Field(gt=0, le=0.5)] = 0.2
    """Part of the labelled prompts that it is tested on before it is trained on all of them."""
    seed: Seed = 0
    """Seed of that split."""


class AgreementRouting(DecidingRouting):
    """Experimental: the teacher that moved away the most from its reference on the student's own answers
    decides, once the experts are there."""

    decides_late: ClassVar[bool] = True

    kind: Literal["agreement"]
    signal: Literal["change", "reward"] = "change"
    """What is compared, a mean over the answers' tokens: |T-B|, or T-B itself."""
    samples_per_prompt: PositiveInt = 1
    """Answers that the student gives to each prompt."""
    max_tokens: PositiveInt | None = None
    """Length of an answer at most; by default `training.max_response_tokens`."""
    margin: NonNegativeFloat = 0.0
    """Lead of the first teacher over the second under which it does not decide."""
    measured_on: NonNegativeInt = 64
    """Labelled prompts of each domain that it is tested on; 0 leaves it unmeasured."""

    @model_validator(mode="after")
    def _otherwise_can_happen(self) -> AgreementRouting:
        if self.otherwise != "refuse" and not self.margin:
            raise ValueError("`otherwise` changes nothing where margin is 0; give a margin, or leave it out")
        return self


OneRouting = Annotated[
    LabelRouting | RulesRouting | LearnedRouting | AgreementRouting, Field(discriminator="kind")
]
RoutingName = Literal["label", "learned", "agreement"]  # `rules` needs more than its kind
Routing = Annotated[OneRouting, BeforeValidator(by_kind, json_schema_input_type=RoutingName | OneRouting)]
"""A block, or a kind alone."""
