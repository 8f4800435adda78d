"""Failures of a run that has started."""


class RunFailed(RuntimeError):
    """The run failed (exit code 1); the message ends with the first real error."""
