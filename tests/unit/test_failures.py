"""An error in one line, whichever process it comes from."""

from trainer import failures


class RemoteError(Exception):
    """As Ray raises it: the text is a whole traceback, the cause is beside it."""

    def __init__(self, cause):
        super().__init__("\x1b[36mray::Server.generate()\x1b[39m\n  File ...\n  raise output")
        self.cause = cause


def test_a_remote_error_is_its_cause():
    error = RemoteError(RemoteError(ValueError("the engine is dead\nsee above")))
    assert failures.summary(error) == "ValueError: the engine is dead"


def test_an_error_without_a_text_keeps_its_name():
    assert failures.summary(TimeoutError()) == "TimeoutError: "
    assert failures.summary(RemoteError(None)) == "RemoteError: \x1b[36mray::Server.generate()\x1b[39m"
