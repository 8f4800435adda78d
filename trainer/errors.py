"""Failures of a run that has started."""


class RunFailed(RuntimeError):
    """The run failed (exit code 1); the message ends with the first real error."""


class TrainingHalted(RunFailed):
    """Raised by an `on_step` that ends the training on purpose; `train` hands it on as it is."""
