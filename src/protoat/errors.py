"""The errors that are meant for a user, who can do something about them; any other is a defect of the program.

The command line prints a `UserError` as one line, and every other error with its traceback. So no module of protoat
raises a plain ``ValueError``, and one of another library that is the user's mistake is turned into a `UserError` where
it arises.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from protoat.spelling import argument


class UserError(ValueError):
    """An input that cannot be used; the message says what came, what was expected, and what to do."""


class MissingFileError(UserError, FileNotFoundError):
    """A file is not there."""


class NonFiniteLossError(UserError, RuntimeError):
    """A term of the loss, or a weight, became infinite or not a number, so no further step can help.

    Attributes:
        term: ``"base"``, ``"metric"``, ``"norm"``, ``"mode"``, ``"total"`` when only their sum overflowed, or
            ``"weights"`` when the loss was finite and its gradient was not.
        value: what it was.
        update: index of the optimizer step, from 0.
        epoch: from 1.
    """

    def __init__(self, term: str, value: float, update: int, epoch: int) -> None:
        lower = "lower the learning rate"
        advice = {
            "base": f"{lower}, let the radius grow over the first epochs ({argument('ramp_epochs')}), "
            "or leave half precision",
            "mode": f"{lower}, the scale of the head or {argument('mode_weight')}",
            "metric": f"{lower}, {argument('prototype_lr_factor')} or the objective's weight",
            "norm": f"{lower} or the objective's {argument('norm_weight')}",
        }.get(term, lower)
        subject = "a weight" if term == "weights" else f"the {term} term of the loss"
        super().__init__(f"{subject} is {value} at update {update} of epoch {epoch}; to avoid it, {advice}")
        self.term = term
        self.value = value
        self.update = update
        self.epoch = epoch


class CheckpointError(UserError, RuntimeError):
    """A checkpoint cannot be used: truncated, altered, or of another layout."""


class DiskError(UserError, RuntimeError):
    """A file could not be written, as on a full disk; what was there before is untouched."""


class Interrupted(KeyboardInterrupt):
    """SIGINT or SIGTERM arrived; the step was finished and saved.

    Attributes:
        signal: number of the signal; a shell expects the exit code ``128 + signal``.
    """

    def __init__(self, message: str, signal: int) -> None:
        super().__init__(message)
        self.signal = signal


class NoGradientError(UserError):
    """No gradient comes from a model's logits back to its images, so an attack that follows gradients cannot run."""

    def __init__(self, reason: str) -> None:
        super().__init__(
            f"no gradient comes from the model's logits back to the image: {reason}; use an attack without gradients "
            "(Square, noise), or transfer from another model"
        )
        self.reason = reason


def in_a_line(error: BaseException) -> str:
    """What an error says, on one line; its class where it says nothing.

    >>> in_a_line(ValueError("two\\nlines")), in_a_line(KeyError())
    ('two lines', 'KeyError')
    """
    return " ".join(str(error).split()) or type(error).__name__


@contextmanager
def on_disk(what: str, *, more: str = "") -> Iterator[None]:
    """Turns what the system refuses meanwhile into a `DiskError`: ``could not write runs/x: No space left on device``.

    Args:
        what: is done, such as ``write runs/x``.
        more: ends the message.
    """
    try:
        yield
    except UserError:
        raise
    except OSError as error:
        raise DiskError(f"could not {what}: {error.strerror or error}{more}") from error
