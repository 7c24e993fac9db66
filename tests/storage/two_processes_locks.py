"""Both processes hold the first folder, and both are refused the second; run by `test_locks.py`."""

from __future__ import annotations

import sys
from pathlib import Path

import torch.distributed as dist

from protoat.storage.locks import is_at_work, working_on
from protoat.training import make_accelerator


def main() -> None:
    free, taken = map(Path, sys.argv[1:])
    accelerator = make_accelerator()
    for _ in range(2):
        with working_on(free):
            assert is_at_work(free)
            accelerator.wait_for_everyone()
    try:
        with working_on(taken):
            raise AssertionError("it was free")
    except ValueError as error:
        assert "another process is at work" in str(error)
    accelerator.wait_for_everyone()
    assert not free.exists()
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
