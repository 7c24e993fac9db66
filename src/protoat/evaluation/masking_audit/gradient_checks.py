"""Audit checks that compare attacks: gradient attacks must beat single steps, noise and transfer."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import combinations, pairwise

import torch
from torch import Tensor

from protoat.attacks import PGD
from protoat.evaluation.masking_audit.check import (
    Check,
    Verdict,
    all_of,
    at_most,
    judged,
    not_above,
    not_run,
    percent,
    too_many,
)
from protoat.evaluation.masking_audit.context import AuditContext, Surrogate

_RADII = (1 / 8, 1 / 4, 1 / 2, 1.0, 2.0, 4.0, 8.0)
_NO_SURROGATE = "needs another model: --surrogate RUN"


def _beats(attack: str, reference: str, trouble: str) -> Callable[[AuditContext], Verdict]:
    """A check that an attack leaves no more images right than a reference attack, both by name."""

    def run(context: AuditContext) -> Verdict:
        left, left_there = context.correct_under(attack), context.correct_under(reference)
        return not_above((attack, left), (reference, left_there), 1.0, trouble)

    return run


def white_box_beats_black_box(context: AuditContext) -> Verdict:
    """Square on a few images and, where there are other models, their adversarial images on all."""
    trouble = "it needs no gradient of the model, and does better than those that have it"
    square = ("square", context.correct_under("square", few=True))
    found = [not_above(("white box", context.white_box(few=True)), square, 1.0, trouble)]
    return all_of(found + _transfers(context, trouble))


def _transfers(context: AuditContext, trouble: str) -> list[Verdict]:
    references = map(context.transferred, context.surrogates)
    return [not_above(("white box", context.white_box()), reference, 1.0, trouble) for reference in references]


def unbounded_attack_breaks_everything(context: AuditContext) -> Verdict:
    name = _at("pgd100x5", context.anywhere)
    left = context.correct_under(name)
    count = int(left.sum())
    reason = f"{name}, which knows no limit, leaves {count} of {len(left)} images"
    trouble = ", though it may turn each image into any other: the attack is led astray"
    return at_most(0.001, count, len(left), reason, trouble, **{name: count})


def noise_finds_nothing(context: AuditContext) -> Verdict:
    rows = context.white_box().nonzero()[:, 0]
    if not len(rows):
        return not_run("needs an image that withstands gradients, and none does")
    rows = rows[torch.linspace(0, len(rows) - 1, min(100, len(rows))).long()]
    noises = {name: context.among(rows, name) for name in ("noise5000", "corner5000")}
    broken = int((~torch.stack([*noises.values()]).all(0)).sum())
    reason = f"10,000 random points break {broken} of {len(rows)} images that gradients left"
    trouble = ": gradients do not find what a blind search finds"
    figures = {name: int(left.sum()) for name, left in noises.items()}
    return at_most(0.005, broken, len(rows), reason, trouble, broken=broken, **figures)


def larger_radius_breaks_more(context: AuditContext) -> Verdict:
    curve = _curve(context)
    pairs = combinations(curve.items(), 2)
    found = [not_above(wide, narrow, 1.0, "a larger radius must not help the model") for narrow, wide in pairs]
    worst = next((verdict for verdict in found if verdict.status == "fail"), None)
    shares = ", ".join(f"{percent(left)} at {name.partition('@')[2] or 'eps'}" for name, left in curve.items())
    reason = worst.reason if worst else f"pgd20 leaves {shares}"
    counts = {name: int(left.sum()) for name, left in curve.items()}
    return judged(worst is None, reason, images=len(context), **counts, limit_points=1.0)


def _curve(context: AuditContext) -> dict[str, Tensor]:
    """Robust images under PGD-20 of growing radius, by the attack's name."""
    radii = dict.fromkeys(min(factor * context.threat.eps, context.anywhere) for factor in _RADII)
    names = ["pgd20" if radius == context.threat.eps else _at("pgd20", radius) for radius in radii]
    return {name: context.correct_under(name) for name in names}


def _at(attack: str, radius: float) -> str:
    """Name of an attack at another radius, as on the command line."""
    return f"{attack}@{radius:.6g}"


def more_restarts_change_nothing(context: AuditContext) -> Verdict:
    """Restarts on top of the white-box attacks: what one of these finds needs no lucky start."""
    ten = context.white_box() & context.correct_under("pgd20x10")
    rows, twenty = ten.nonzero()[:, 0], ten.clone()
    if len(rows):
        twenty[rows] = context.among(rows, "pgd20x10", PGD(context.threat, steps=20, restarts=10, seed=1))
    trouble = "starts matter this much, so report more restarts"
    names = ("white box and 10 restarts", "white box and 20 restarts")
    return not_above((names[0], ten), (names[1], twenty), 0.5, trouble)


def high_distortion_leaves_chance(context: AuditContext) -> Verdict:
    name = _at("pgd100", 0.5 * context.anywhere)
    left = context.correct_under(name)
    chance = float(torch.bincount(context.y).max() / len(context))
    beyond = too_many(int(left.sum()), len(left), min(chance + 0.03, 1.0))
    trouble = ", though every image can be made grey: the attack is led astray" if beyond else ""
    reason = f"{name} leaves {percent(left)}, chance is {100 * chance:.1f} %{trouble}"
    return judged(not beyond, reason, images=len(left), **{name: int(left.sum())}, chance=chance, limit_points=3.0)


def curve_runs_from_clean_to_zero(context: AuditContext) -> Verdict:
    clean, tiny = context.correct_under("clean"), _at("pgd20", context.threat.eps / 1000)
    trouble = "next to no change of the image changes answers"
    start = not_above(("clean", clean), (tiny, context.correct_under(tiny)), 1.0, trouble)
    found = all_of([start, larger_radius_breaks_more(context), unbounded_attack_breaks_everything(context)])
    reason = f"from {percent(clean)} without attack to none without limit, never rising"
    return found._replace(reason=reason) if found.status == "pass" else found


def weaker_attacks_break_nothing_else(context: AuditContext) -> Verdict:
    names = ("fgsm", "pgd20", "pgd100", "apgd-t20")
    only = {}
    for weak, strong in pairwise(names):
        only[f"{weak}, not {strong}"] = int((context.correct_under(strong) & ~context.correct_under(weak)).sum())
    most = max(only, key=lambda name: only[name])
    reason = f"at most {only[most]} of {len(context)} images are broken by the weaker of two only ({most})"
    trouble = ": the stronger attack is not stronger"
    return at_most(0.02, only[most], len(context), reason, trouble, broken_by=only)


def gradient_free_attack_adds_little(context: AuditContext) -> Verdict:
    """Images that Square alone breaks; and whether the reported worst case is above Square."""
    white, square = context.white_box(few=True), context.correct_under("square", few=True)
    only = int((white & ~square).sum())
    reason, trouble = (
        f"square breaks {only} of {len(white)} images that no gradient breaks",
        ": put it into the worst case",
    )
    found = [at_most(0.02, only, len(white), reason, trouble, square=int(square.sum()), only=only)]
    if context.reported is not None:
        known, right = context.reported[0][context.few], context.reported[1][context.few]
        claim = ("reported worst case", right[known])
        found.append(not_above(claim, ("square", square[known]), 1.0, "the reported number is too high"))
    return all_of(found)


def transfer_is_weaker(context: AuditContext) -> Verdict:
    if not context.surrogates:
        return not_run(_NO_SURROGATE)
    return all_of(_transfers(context, "images made on another model break more than the model's own gradients"))


def undefended_model_breaks(context: AuditContext) -> Verdict:
    """The published limit is for a radius at which images of an undefended model cannot survive, so it may grow."""
    undefended = [surrogate for surrogate in context.surrogates if surrogate.undefended]
    if not undefended:
        return not_run("needs a model without any defence: --surrogate RUN, of a run with the method Standard")
    return all_of([_breaks(context, surrogate) for surrogate in undefended])


def _breaks(context: AuditContext, surrogate: Surrogate) -> Verdict:
    left = {}
    for factor in (1.0, 2.0, 4.0):
        radius = min(factor * context.threat.eps, context.anywhere)
        attack = PGD(replace(context.threat, eps=radius), steps=20)
        right = torch.cat(
            [attack.judged(surrogate.model, attack.craft(surrogate.model, *b), b[1]).correct for b in context.batches()]
        )
        left[_at("pgd20", radius)] = count = int(right.sum())
        beyond = too_many(count, len(context), 0.01)
        if not beyond:
            break
    trouble = ": the attack does not even break a model without defence" if beyond else ""
    reason = f"{_at('pgd20', radius)} leaves {percent(right)} on {surrogate.name}{trouble}"
    return judged(not beyond, reason, images=len(context), surrogate=surrogate.name, **left, limit_share=0.01)


def adaptive_attacks_add_little(context: AuditContext) -> Verdict:
    if not context.adaptive:
        return not_run(
            "needs attacks that know the defence: prototypes of SoftTriple or of a head (library: adaptive=)"
        )
    trouble = "an attack that knows the defence breaks more, so its number is the one to report"
    white = ("white box", context.white_box())
    return all_of(
        [
            not_above(white, (name, context.correct_under(name, attack)), 1.0, trouble)
            for name, attack in context.adaptive.items()
        ]
    )


_ITERATIVE = _beats("pgd20", "fgsm", "one step beats twenty, so gradients mislead")
_MORE_STEPS = _beats("pgd50", "pgd100", "the attack has not converged, so report more steps")
_TARGETED = _beats("apgd-t20", "pgd20", "aiming at each wrong class in turn must not be weaker")

CHECKS = (
    Check("A1", "an iterative attack beats a single step", _ITERATIVE, growing=1.5),
    Check("A2", "white-box attacks beat black-box ones", white_box_beats_black_box, fixed=18, growing=2),
    Check("A3", "an attack without limit breaks every image", unbounded_attack_breaks_everything, growing=0.5),
    Check("A4", "random search finds nothing that gradients miss", noise_finds_nothing, fixed=31.5, growing=0),
    Check("A5", "a larger radius breaks more", larger_radius_breaks_more, growing=8),
    Check("C2", "twice the steps change nothing", _MORE_STEPS, growing=3.3),
    Check("C3", "twice the restarts change nothing", more_restarts_change_nothing, growing=25),
    Check("C4", "very high distortion leaves chance", high_distortion_leaves_chance, growing=6.5),
    Check("C5", "accuracy falls from clean to 0 as the radius grows", curve_runs_from_clean_to_zero, growing=1.4),
    Check("C7", "no image falls to the weaker attack only", weaker_attacks_break_nothing_else),
    Check("C8", "a gradient-free attack adds little", gradient_free_attack_adds_little),
    Check("C9", "transferred images are weaker", transfer_is_weaker),
    Check("C12", "targeted attacks are as strong as untargeted ones", _TARGETED),
    Check("C13", "the attack works on an undefended model", undefended_model_breaks),
    Check("C21", "attacks that know the defence add little", adaptive_attacks_add_little, growing=10),
)
