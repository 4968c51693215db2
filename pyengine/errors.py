"""The errors that pyengine raises on purpose; anything else that escapes is a bug."""


class PyengineError(Exception):
    """Base class. The command line prints these in one sentence and exits with status 2."""


class CheckpointError(PyengineError, ValueError):
    """A checkpoint is missing, damaged, unsafe or not one that pyengine reads."""


class ConfigError(CheckpointError):
    """A config file has a missing, unknown or impossible field."""


class NotFiniteError(CheckpointError, ArithmeticError):
    """A run came to NaN or infinity: damaged weights, a narrow dtype or extreme settings."""


class RequestError(PyengineError, ValueError):
    """An argument of a call (prompt, size, seed, image...) cannot be used."""


class UnknownArgumentError(RequestError, TypeError):
    """A call was given an argument by a name that it does not know."""


class OutOfMemoryError(PyengineError, MemoryError):
    """A device has too little memory for what was asked; the process can go on."""


class BusyError(PyengineError, TimeoutError):
    """A call's `timeout` was over before the pipeline's other calls were done."""


class RefusedError(BusyError):
    """An engine has no room or no time for a request. retry_after: seconds, above 0, after which
    it may be worth to come again.
    """

    def __init__(self, message: str, retry_after: float = 1.0):
        super().__init__(message)
        self.retry_after = retry_after


class QueueFullError(RefusedError):
    """As many requests wait as an engine lets wait."""


class DeadlineError(RefusedError):
    """A request's deadline cannot be met, or has passed."""


class TooLongError(DeadlineError):
    """A request would take longer than its deadline with nothing beside it: to come again does not
    help.
    """


class CancelledError(PyengineError):
    """A call was interrupted before its run began: there are no pictures to give back."""


class UnavailableError(PyengineError, RuntimeError):
    """A device, backend or optional package that was asked for is not there."""
