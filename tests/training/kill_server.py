"""Trains on request, each time in a process of its own that may be killed: one import serves all of them.

Says ``ready`` first. Reads lines ``["method", "folder", seconds]`` and answers with the exit code of the process, which
is killed after so many seconds unless they are null.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time

import torch


def main() -> None:
    import small  # Beside this program; pytest, which looks for doctests here too, would not find it.

    torch.set_num_threads(1)
    small.train("pgd", None, epochs=1)  # what the first training imports takes longer than one
    print("ready", flush=True)
    for line in sys.stdin:
        method, out, seconds = json.loads(line)
        child = os.fork()
        if not child:
            small.train(method, out)
            os._exit(0)
        if seconds is not None:
            time.sleep(seconds)
            os.kill(child, signal.SIGKILL)  # A child that has ended stays until it is waited for, so this is safe.
        _, status = os.waitpid(child, 0)
        print(os.waitstatus_to_exitcode(status), flush=True)


if __name__ == "__main__":
    main()
