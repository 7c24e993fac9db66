"""How a command ends: a mistake of the user's is one line, a defect of the program keeps its traceback.

What counts as the user's mistake: every ``raise ValueError`` and ``raise FileNotFoundError`` that stands in protoat's
own code, since that is how it reports bad input, and the known ways in which a run can end early. A ValueError out of
an operation, of torch, or of the user's own class is none.
"""

from __future__ import annotations

import dis
import logging
import os
import sys
from collections.abc import Callable
from contextlib import nullcontext, redirect_stdout

from protoat.errors import CheckpointError, DiskError, Interrupted, NonFiniteLossError

__all__ = ["run"]


def run(command: str, main: Callable[[list[str]], int | None], args: list[str]) -> int:
    """Runs a command; returns its exit code: what it says itself, 2 for a mistake of the user's, else 128 + signal."""
    logging.basicConfig(format="%(message)s", stream=sys.stderr)
    logging.getLogger("protoat").setLevel(logging.INFO)
    if sys.stderr.isatty():  # the progress bar says the same
        logging.getLogger("protoat.training.loop").setLevel(logging.WARNING)
    speaks = os.environ.get("RANK", "0") == "0"  # one process of a distributed run is enough
    if not speaks:
        logging.getLogger("protoat").setLevel(logging.ERROR)
    try:
        with nullcontext() if speaks else redirect_stdout(None):
            code = main(args) or 0
        if sys.stdout is not None:
            sys.stdout.flush()
        return code
    except Interrupted as interruption:
        print(f"protoat {command}: {interruption}", file=sys.stderr)
        return 128 + interruption.signal
    except KeyboardInterrupt:
        print(f"protoat {command}: interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:
        if not _reader_has_left():
            raise
        return 1  # as rich says of its tables
    except (CheckpointError, DiskError, NonFiniteLossError) as error:
        return _complain(command, error)
    except (ValueError, FileNotFoundError) as error:
        if not _raised_by_protoat(error):
            raise
        return _complain(command, error)
    finally:
        dist = sys.modules.get("torch.distributed")  # refusing a bad name takes no torch
        if dist is not None and dist.is_available() and dist.is_initialized():
            dist.destroy_process_group()  # left to the interpreter, its threads abort the process now and then


def _reader_has_left() -> bool:
    """Whether what reads our output has ended, as ``| head`` does; what is left then goes nowhere."""
    try:
        print(flush=True)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return True
    return False


def _complain(command: str, error: Exception) -> int:
    print(f"protoat {command}: error: {' '.join(str(error).split())}", file=sys.stderr)
    return 2


def _raised_by_protoat(error: Exception) -> bool:
    """Whether the error comes from a ``raise`` statement in protoat's own code."""
    last = error.__traceback__
    while last is not None and last.tb_next is not None:
        last = last.tb_next
    if last is None or not str(last.tb_frame.f_globals.get("__name__", "")).startswith("protoat."):
        return False
    return dis.opname[last.tb_frame.f_code.co_code[last.tb_lasti]] == "RAISE_VARARGS"
