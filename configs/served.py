"""A model that a server holds, as declared: where it is asked and with how much patience."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, PositiveFloat

from configs.blocks.strict import PositiveInt, Strict

REFERENCE = "reference"
"""The reference among the scored models; no domain may be called so."""

HttpUrl = Annotated[str, Field(pattern=r"^https?://[^\s/@]+(/[^\s@]*)?$")]
"""Without user and password: a key belongs in the environment."""

EnvironmentName = Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")]


class Endpoint(Strict):
    """A model of an OpenAI-compatible server that returns log-probabilities of a prompt's tokens, as vLLM's
    `/v1/completions` does with `prompt_logprobs`."""

    url: HttpUrl
    """The server's API, such as `http://host:8000/v1`."""
    model: Annotated[str, Field(min_length=1)]
    """The model's name there, as `/v1/models` lists it."""
    api_key_env: EnvironmentName | None = None
    """Environment variable that holds the server's key. The key itself is never stored or printed. On a
    cluster that is joined, every node needs it in the environment of its `ray start`."""
    max_requests: PositiveInt = 64
    """Most requests that wait for the server at a time, from all processes of the run together; further
    rollouts wait for their turn. At least one per agent-loop process."""
    patience_seconds: PositiveFloat = 300.0
    """How long one request may take, all its tries together: connection errors, 429 and 5xx are tried again
    until then. After that the run ends."""
    canary_tolerance: PositiveFloat = 0.1
    """Nats, in the mean over 16 fixed tokens, by which the server's log-probabilities may move while the run
    lasts. More means other weights, and ends the run."""


def served_place(name: str) -> str:
    """Where the config declares the served model of this name, which is a domain or `reference`."""
    return "objective.reference" if name == REFERENCE else f"domains.{name}.expert"
