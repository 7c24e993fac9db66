"""``protoat audit``."""

from __future__ import annotations

import logging
import time

from protoat.cli.advice import advise, options_of_data
from protoat.cli.printing import print_table
from protoat.cli.progress import Shown
from protoat.cli.say import keep, say
from protoat.errors import UserError
from protoat.evaluation.masking_audit import CHECKS
from protoat.evaluation.masking_audit.report import expected_progress
from protoat.runs.audit import audit_subject, fuller_audit
from protoat.runs.subject_options import subject_of, subject_parser

logger = logging.getLogger(__name__)


def main(args: list[str]) -> int:
    """Audits a run or any other model, prints the checks and writes ``audit.json``; 0 only where it passed."""
    advise(options_of_data)
    parser = subject_parser("protoat audit")
    parser.add_argument("--n", type=int, default=1000, help="attack this many test images, a share of each mode")
    parser.add_argument("--batch-size", type=int, default=250, help="images attacked at once")
    parser.add_argument(
        "--surrogate",
        nargs="+",
        type=str,
        default=[],
        metavar="RUN",
        help="other runs on the same data to transfer from; one of the method Standard also shows that attacks work",
    )
    parser.add_argument("--checks", nargs="+", type=str, help="these only, such as A1 C15; default all")
    options = parser.parse_args(args)
    if unknown := sorted(set(options.checks or ()) - {check.id for check in CHECKS}):
        raise UserError(f"--checks {unknown[0]} is unknown; write of {', '.join(check.id for check in CHECKS)}")
    for name in ("n", "batch_size"):
        if options[name] < 1:
            raise UserError(f"--{name.replace('_', '-')} {options[name]} must be at least 1")
    subject = subject_of(parser, options)
    images = min(options.n, len(subject.data))
    logger.info(
        "%d checks on %d images: minutes for a small network, far longer for a large one%s",
        len(options.checks or CHECKS),
        images,
        "; --n 100 is quicker" if images > 100 else "",
    )
    started = time.monotonic()
    done = expected_progress(images, only=options.checks)
    with Shown() as shown:
        report = audit_subject(
            subject,
            images=options.n,
            batch_size=options.batch_size,
            surrogates=options.surrogate,
            only=options.checks,
            keep_fuller=bool(options.checks),
            advance=lambda check, attack: shown.at(done[check], 1, f"{check}: {attack}"),
        )
    keep("audit", report.to_json())
    title = f"{subject.name}: {report.images} images, {report.threat.norm} {report.threat.eps:g}"
    rows = [[check.id, check.title, check.status, check.reason] for check in report.checks]
    print_table(title, ["check", "what should hold", "result", "what was found"], rows, text=4)
    path = subject.folder / "audit.json"
    verdict = f"passed, {report.extent}, which rules out common mistakes only" if report.passed else "incomplete"
    if report.failed:
        verdict = f"FAILED: {', '.join(report.failed)}"
    say(f"audit {verdict}; {len(report.silent)} checks were not run; {time.monotonic() - started:.0f} s")
    fuller = fuller_audit(subject, report) if options.checks else None
    if fuller is None:
        say(f"{path} holds the figures; what to do: docs/audit.md")
    else:
        say(f"{path} stays as it was, {fuller.extent}; move it away or leave out --checks to replace it")
    if report.incomplete:
        command = subject.command("evaluate", "--attacks", "aa")
        say(
            f"the record lacks what is checked by {', '.join(report.incomplete)}; measure it and audit again: {command}"
        )
    return 0 if report.passed else 1
