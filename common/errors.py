"""What may go wrong: the user's input is refused, or a run that has started fails."""

from __future__ import annotations


class ConfigError(ValueError):
    """The user's input is refused; each message says what, where, and what would be valid (exit code 2)."""

    def __init__(self, *problems: str) -> None:
        super().__init__(*problems)
        self.problems = problems

    def __str__(self) -> str:
        return "\n".join(self.problems)


class RunFailed(RuntimeError):
    """The run failed (exit code 1); the message ends with the first real error."""


class TrainingHalted(RunFailed):
    """Raised by an `on_step` that ends the training on purpose; `train` hands it on as it is."""
