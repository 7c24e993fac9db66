"""``protoat train``."""

from __future__ import annotations

from hashlib import sha256
from pathlib import Path

from protoat.experiments.recipe import recipe_parser, resolve
from protoat.experiments.run import train
from protoat.experiments.store import check_free, read_run

__all__ = ["main"]


def main(args: list[str]) -> None:
    """Trains a recipe, ``digits-2`` when none is named, with changes from the command line."""
    parser = recipe_parser("protoat train")
    parser.add_argument(
        "--out", type=Path | None, help="run folder; default runs/<recipe>-<digest>, the same for the same recipe"
    )
    if not any(arg == "--config" or arg.startswith("--config=") for arg in args):
        args = ["--config", "digits-2", *args]
    recipe, options = resolve(parser, args)
    out = options.out or Path("runs") / f"{Path(str(options.config[-1])).stem}-{_digest(recipe.text)}"
    check_free(out, recipe.text)
    if (out / "recipe.yaml").exists() and read_run(out).complete:
        print(f"{out} is complete already")
    else:
        result = train(recipe, out)
        if result.stopped:
            print(f"stopped early: {result.stopped}")
    best = read_run(out).best
    if best:
        measured = ", ".join(f"{name} {best[name]:.1%}" for name in ("clean", "robust") if name in best)
        print(f"best epoch {best['epoch']} of {recipe.epochs}, on {best['images']} held-out images: {measured}")
    print(f"files are in {out}; next: protoat evaluate {out} --attacks clean fgsm pgd10 pgd100")


def _digest(text: str) -> str:
    return sha256(text.encode()).hexdigest()[:8]
