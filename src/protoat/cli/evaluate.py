"""``protoat evaluate``."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Literal

from accelerate import PartialState
from jsonargparse import Namespace

from protoat.attacks.precision import AttackPrecision
from protoat.cli.advice import advise, options_of_data
from protoat.cli.log_with import add_log_with, check_log_with, numbers_of, numbers_of_heads, tell
from protoat.cli.printing import linear_heads, measurements
from protoat.cli.progress import Shown
from protoat.cli.say import say
from protoat.errors import UserError
from protoat.evaluation.measurement import Advance
from protoat.runs.claims import called, find_run
from protoat.runs.measure import audit_verdict, measure
from protoat.runs.named_attacks import HELP, default_names
from protoat.runs.probe import probe_run
from protoat.runs.subject_options import check_weights_of_run, subject_of, subject_parser

logger = logging.getLogger(__name__)

_OF_PROBE = ("run", "weights", "attacks", "n", "batch_size", "linear_probe", "log_with", "trust")


def main(args: list[str]) -> None:
    """Attacks a run or any other model, prints a table and writes ``evaluation.json``."""
    if "--attacks.help" in args:
        say(HELP, lines=True)
        return
    advise(lambda: {**options_of_data(), "compile": ["compile"]})
    parser = subject_parser("protoat evaluate")
    parser.add_argument(
        "--attacks",
        nargs="+",
        type=str,
        help="such as clean, fgsm, pgd10, pgd100x10 (100 steps, 10 restarts), pgd10@4/255 (another radius), aa "
        "(AutoAttack); --attacks.help lists all. Default: clean fgsm pgd10 aa, and adaptive where there are prototypes",
    )
    parser.add_argument("--n", type=int | None, help="measure this many test images, a share of each mode")
    parser.add_argument("--batch-size", type=int, default=256, help="images attacked at once")
    parser.add_argument(
        "--budget-seconds", type=float | None, help="begin no further batch after this time; a later call goes on"
    )
    parser.add_argument(
        "--attack-precision",
        type=AttackPrecision | Literal["auto"],
        default="fp32",
        help="bf16 lets PGD with one run, BIM, MIM, PMA, APGD and FAB take gradients and Square screen its queries in "
        "bfloat16, also within aa and aa-fast, but for the last quarter of the steps (FAB: half); all else is float32. "
        "auto times a pass and takes the faster. "
        "The record says which",
    )
    parser.add_argument(
        "--compile",
        action="store_true",
        help="run the passes of attacks through torch.compile, with CUDA graphs on a GPU: takes a minute or so once, "
        "and does not pay on a CPU. The record says so",
    )
    parser.add_argument(
        "--linear-probe",
        action="store_true",
        help="of a run: train linear heads on its frozen encoder, clean and robust, and on a random one for comparison",
    )
    add_log_with(parser, "the accuracies of each attack, class and mode, and the record")
    options = parser.parse_args(args)
    check_log_with(options.log_with)
    for name in ("n", "batch_size", "budget_seconds"):
        if options[name] is not None and options[name] <= 0:
            raise UserError(f"--{name.replace('_', '-')} {options[name]:g} must be more than 0")
    if options.linear_probe:
        _probe(options, given=parser.parse_args(args, defaults=False))
        return
    subject = subject_of(parser, options)
    if subject.inventory is not None:
        logger.info("%s", subject.inventory)
    with Shown() as shown:
        record = measure(
            subject,
            options.attacks or default_names(subject),
            limit=options.n,
            batch_size=options.batch_size,
            budget_seconds=options.budget_seconds,
            attack_precision=options.attack_precision,
            compile=options.compile,
            advance=_running(shown),
        )
    if not PartialState().is_main_process:
        return
    measurements(subject.name, record)
    say(audit_verdict(subject))
    tell(options.log_with, subject.folder, "evaluation", [subject.folder / "evaluation.json"], numbers_of(record))
    say(f"{subject.folder / 'evaluation.json'} holds counts for each class, mode and image")


def _probe(options: Namespace, given: Namespace) -> None:
    if options.run is None:
        raise UserError("--linear-probe needs a run folder, whose recipe says what images there are")
    for key in sorted(given.keys()):
        if key not in _OF_PROBE:
            option = key.removesuffix(".class_path").replace("init_args.", "").replace("_", "-")
            raise UserError(f"leave out --{option}: --linear-probe goes by the recipe of the run")
    check_weights_of_run(options.weights)
    run = find_run(options.run)
    chosen = {} if options.attacks is None else {"attacks": options.attacks}
    with Shown() as shown:
        record = probe_run(
            run,
            weights=options.weights,
            limit=options.n,
            batch_size=options.batch_size,
            advance=shown.at,
            **chosen,
        )
    linear_heads(called(run), record)
    tell(options.log_with, run, "probe", [run / "probe.json"], numbers_of_heads(record))
    say(f"{run / 'probe.json'} holds counts for each class, mode and image")


def _running(shown: Shown) -> Callable[[Advance], None]:
    """Shows the accuracies so far to the one who waits."""
    counts: dict[str, tuple[int, int]] = {}

    def advance(step: Advance) -> None:
        correct, images = counts.get(step.attack, (0, 0))
        counts[step.attack] = correct + step.correct, images + step.images
        shares = ", ".join(f"{name} {100 * right / seen:.1f} %" for name, (right, seen) in counts.items())
        shown.at(step.done, step.total, shares)

    return advance
