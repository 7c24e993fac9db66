"""``protoat pretrain``."""

from __future__ import annotations

from protoat.cli.say import say
from protoat.cli.train import start

__all__ = ["main"]


def main(args: list[str]) -> None:
    """Pre-trains an encoder without labels, ``digits-acl`` when no recipe is named."""
    _, out = start("protoat pretrain", args, "digits-acl", pretrains=True)
    say(f"files are in {out}; next: protoat evaluate {out} --linear-probe, or protoat train --initialise.run {out}")
