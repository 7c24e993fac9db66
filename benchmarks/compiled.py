"""What compiling the passes of attacks saves and costs: PGD-20 on one batch, eager and compiled in turns.

    PROTOAT_DATA=... OMP_NUM_THREADS=1 python -m benchmarks.compiled

Prints a row for each network: what it takes to compile a first pass, with nothing compiled before, and the median ratio
after that, in processor time. Batch norm is folded on both sides, as in `evaluate`. Networks are not trained.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from pathlib import Path
from statistics import median

import torch

from benchmarks.bench_pgd_step import processor
from benchmarks.subjects import NAMES, THREATS, images, network
from protoat import PGD
from protoat.evaluation.compiled import CompiledNetwork
from protoat.evaluation.folding import FoldedBatchNorm
from protoat.evaluation.micro_batches import MicroBatched


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.compiled", description=__doc__)
    parser.add_argument("names", nargs="*", default=NAMES, help=f"some of {', '.join(NAMES)}")
    parser.add_argument("--batch-size", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--root", type=Path, help="folder with data; default PROTOAT_DATA")
    given = parser.parse_args()
    os.environ["TORCHINDUCTOR_COMPILE_THREADS"] = "1"  # none in processes whose time nobody knows
    print(
        f"processor: {processor()}\n\n| network | to compile | eager | compiled / eager |\n{'| --- ' * 4}|", flush=True
    )
    for name in given.names:
        torch.manual_seed(0)
        model = MicroBatched(network(name).eval())
        data = images(name, 1, given.batch_size, given.root)[1]
        rows = torch.arange(len(data))
        x, y = data.pixels(rows, torch.device("cpu")), data.labels
        folded = FoldedBatchNorm(model, x[:4])
        with tempfile.TemporaryDirectory() as empty:
            os.environ["TORCHINDUCTOR_CACHE_DIR"] = empty
            started = sum(os.times()[:4])
            compiled = CompiledNetwork(model, folded, x[:4], batch_size=len(x), found=())
            took = sum(os.times()[:4]) - started  # with the C++ compiler, which runs in processes that are awaited
        attack = PGD(THREATS[name], steps=20)
        seconds: dict[str, list[float]] = {"eager": [], "compiled": []}
        for turn in range(given.rounds + 1):
            for side, stand_in in (("eager", folded), ("compiled", compiled)):
                started = time.process_time()
                with stand_in.in_place():
                    attack.craft(model, x, y)
                seconds[side] += [time.process_time() - started] * (turn > 0)  # the first turn warms up
        ratio = median(b / a for a, b in zip(seconds["eager"], seconds["compiled"], strict=True))
        print(f"| {name} | {took:.0f} s | {median(seconds['eager']):.2f} s | {ratio:.2f} |", flush=True)


if __name__ == "__main__":
    main()
