"""How training ends of itself, each way with the word by which the executor's policy acts (`cluster/policy.py`)."""

from athanor.artifacts.run import StageError


class NonFiniteError(StageError):
    """The loss or the gradient is no number any more, with any samples: the weights have diverged."""

    kind = "non-finite loss"


class BadDataError(StageError):
    """Samples whose loss or gradient is no number wherever they are computed."""

    kind = "bad data"


class HardwareError(StageError):
    """A rank that computes what others do not."""

    kind = "hardware fault"


class UnexplainedError(StageError):
    """No number, again and again, and no other rank to compare with: another machine may tell."""

    kind = "unexplained result"
