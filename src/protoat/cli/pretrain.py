"""``protoat pretrain``."""

from __future__ import annotations

from protoat.cli.say import say
from protoat.cli.train import start


def main(args: list[str]) -> None:
    """Pre-trains an encoder without labels, ``digits-acl`` when no recipe is named."""
    started = start("protoat pretrain", args, "digits-acl", pretrains=True)
    if started is None:
        return
    _, out = started
    say(f"files are in {out}; next: protoat evaluate {out} --linear-probe, or protoat train --initialise.run {out}")
