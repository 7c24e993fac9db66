"""How a command ends: exit codes, one line for a user's mistake, a traceback for a bug.

One line and exit code 2 is for a `UserError`, an error of the user's own model, and what the system refuses: memory, a
file that its error names, and output. Any other error is a defect, a plain ``ValueError`` too.
"""

from __future__ import annotations

import errno
import io
import json
import logging
import os
import sys
from collections.abc import Callable
from contextlib import nullcontext, redirect_stdout
from traceback import format_exception
from typing import Any

from protoat.cli.say import document
from protoat.errors import Interrupted, UserError
from protoat.names import printable
from protoat.recipes.own_code import allowing_own_code
from protoat.runs.cores import choosing_threads, threads_are_set
from protoat.spelling import spell_by

_EVERYWHERE = ("--traceback", "-q", "--quiet", "--json")
_OF_OUTPUT = (errno.EPIPE, errno.ENOSPC, errno.EFBIG, errno.EIO)
_LONGEST = 1500  # characters of a message; one of 5000 is a name that somebody has pasted by mistake


def run(command: str, main: Callable[[list[str]], int | None], args: list[str], *, own_process: bool = False) -> int:
    """Runs a command; returns its exit code: what it says itself, 2 for a mistake of the user's, else 128 + signal.

    Args:
        own_process: the process is there for this command alone, which may choose its number of threads then.
    """
    handler = _ToStderr()
    handler.setFormatter(_Printable("%(message)s"))
    logging.basicConfig(handlers=[handler])
    logging.getLogger("protoat").setLevel(logging.INFO)
    if sys.stderr.isatty():  # the progress bar says the same, above itself
        logging.getLogger("protoat.training.loop").setLevel(logging.WARNING)
    speaks = os.environ.get("RANK", "0") == "0"  # one process of a distributed run is enough
    if not speaks:
        logging.getLogger("protoat").setLevel(logging.ERROR)
    given, args = set(args) & set(_EVERYWHERE), [word for word in args if word not in _EVERYWHERE]
    if speaks and given - {"--traceback"}:
        logging.getLogger("protoat").setLevel(logging.WARNING)
    try:
        for stream in (sys.stdout, sys.stderr):
            if isinstance(stream, io.TextIOWrapper):
                stream.reconfigure(errors="backslashreplace")  # an ASCII terminal, or a name that is no UTF-8
        _check_words(args)
        jobs = 1 if own_process and not threads_are_set() else None
        with (
            nullcontext() if speaks else redirect_stdout(None),
            choosing_threads(jobs),
            allowing_own_code(args),
        ):
            try:
                code = (_as_document(command, main, args) if "--json" in given else main(args)) or 0
            except SystemExit:  # after --help
                sys.stdout.flush()
                raise
        if sys.stdout is not None:
            sys.stdout.flush()
        return code
    except (Exception, KeyboardInterrupt) as error:
        if "--traceback" in given and isinstance(error, Exception):
            print(printable("".join(format_exception(error)), lines=True), file=sys.stderr)
        answer = _answer(command, error)
        if answer is None:
            raise
        return answer
    finally:
        spell_by(None)  # a program that calls commands goes on with its own messages
        dist = sys.modules.get("torch.distributed")  # refusing a bad name takes no torch
        if dist is not None and dist.is_available() and dist.is_initialized():
            dist.destroy_process_group()  # left to the interpreter, its threads abort the process now and then


def _as_document(command: str, main: Callable[[list[str]], int | None], args: list[str]) -> int:
    """Runs a command and prints what it found as one JSON document; nothing where it ends in an error."""
    with document(command) as kept:
        code = main(args) or 0
    print(json.dumps({**kept, "exit_code": code}, indent=1))
    return code


class _ToStderr(logging.StreamHandler):
    """Writes to what standard error is now: while a progress bar is shown, above it."""

    def __init__(self) -> None:
        logging.Handler.__init__(self)

    @property
    def stream(self) -> Any:
        return sys.stderr


class _Printable(logging.Formatter):
    """Messages in which names from outside can do no harm."""

    def format(self, record: logging.LogRecord) -> str:
        return printable(super().format(record), lines=record.exc_info is not None)


def _answer(command: str, error: BaseException) -> int | None:
    """Says what has gone wrong and returns the exit code; None, and nothing is said, for a defect of the program."""
    if isinstance(error, KeyboardInterrupt):
        signal = error.signal if isinstance(error, Interrupted) else 2
        print(f"protoat {command}: {printable(str(error)) or 'interrupted'}", file=sys.stderr)
        return 128 + signal
    if _is_of_memory(error):
        reason = str(error).partition("\n")[0]
        return _complain(command, MemoryError(f"out of memory ({reason}); take smaller batches or a smaller network"))
    if getattr(error, "of_model", False) and not isinstance(error, UserError):
        error = UserError(f"the model raised {type(error).__name__}: {error}; --traceback shows where")
    if isinstance(error, UserError) or _is_of_a_file(error):
        return _complain(command, error)
    if isinstance(error, OSError) and error.errno in _OF_OUTPUT and _cannot_print():
        if isinstance(error, BrokenPipeError):
            return 1  # as rich says of its tables
        return _complain(command, OSError(f"could not print: {error.strerror}"))
    return None


def _cannot_print() -> bool:
    """Whether our output has no reader any more, as of ``| head``, or no room; what is left then goes nowhere."""
    try:
        print(flush=True)
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return True
    return False


def _is_of_a_file(error: BaseException) -> bool:
    """Whether the system refuses a file, which its error names: too long a name, a loop of links, no permission."""
    return isinstance(error, OSError) and error.filename is not None and error.strerror is not None


def _is_of_memory(error: BaseException) -> bool:
    """Whether there was no memory for something; torch has no class of its own for that on a CPU."""
    text = str(error).lower()
    said = "out of memory" in text or "can't allocate memory" in text
    return isinstance(error, MemoryError) or (isinstance(error, RuntimeError) and said)


def _check_words(args: list[str]) -> None:
    """Refuses an empty word, such as an unset variable in quotes leaves: as a path it would be the folder one is in.

    Raises:
        UserError: says where it stands.
    """
    if "" in args:
        place = args.index("")
        where = f"after {args[place - 1]}" if place else "at first"
        raise UserError(f"there is an empty word {where}; write a value, or leave it out")


def _complain(command: str, error: BaseException) -> int:
    text = f"{error.strerror}: {error.filename}" if isinstance(error, OSError) and _is_of_a_file(error) else str(error)
    line = printable(" ".join(text.split()))
    if len(line) > _LONGEST:
        line = f"{line[: _LONGEST // 2]} ... {line[-_LONGEST // 2 :]}"
    print(f"protoat {command}: error: {line}", file=sys.stderr)
    return 2
