"""Trains on request, each time in a process of its own that may be killed: one import serves all of them.

Says ``ready`` first. Reads lines ``["method", "folder", seconds]`` and answers ``[exit code, seconds]``, the processor
time of the process, which is killed after so much of it unless that is null.
"""

from __future__ import annotations

import json
import os
import signal
import sys

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
            if seconds is not None:
                signal.setitimer(signal.ITIMER_PROF, seconds)  # nobody handles its signal, which ends all at once
            small.train(method, out)
            os._exit(0)
        _, status, used = os.wait4(child, 0)
        print(json.dumps([os.waitstatus_to_exitcode(status), used.ru_utime + used.ru_stime]), flush=True)


if __name__ == "__main__":
    main()
