"""Audit checks of the model: determinism, and gradients that predict its outputs."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from protoat.attacks.examination import are_probabilities
from protoat.evaluation.behaviour import eval_gradient, eval_logits, unlike_eval_mode, unlike_in_company, unlike_itself
from protoat.evaluation.masking_audit.check import Check, Verdict, at_most, judged, percent, too_many
from protoat.evaluation.masking_audit.context import AuditContext
from protoat.functional.forward import predicted
from protoat.functional.losses import STEEP, cross_entropy, margin
from protoat.types import as_output

_INSTEAD = "attack with a smooth stand-in for that part (BPDA), or transfer from an undefended model"


def perturbation_is_legal(context: AuditContext) -> Verdict:
    low, high = (float(value) for value in torch.aminmax(context.crafted.x_adv))
    moved = float(context.moved.max())
    legal = moved <= context.threat.eps + 1e-6 and low >= 0 and high <= 1
    reason = (
        f"pgd20 moves images by at most {moved:.6g} of {context.threat.eps:.6g} and stays in [{low:.3g}, {high:.3g}]"
    )
    return judged(legal, reason, images=len(context), moved=moved, eps=context.threat.eps, lowest=low, highest=high)


def answers_repeat(context: AuditContext) -> Verdict:
    causes: dict[str, tuple[Callable[[nn.Module, Tensor], Tensor], str]] = {
        "two forwards": (unlike_itself, "it is random in eval mode; attack and judge its MeanLogits (EOT)"),
        "the rest of the batch": (unlike_in_company, "it uses batch statistics in eval mode; let it use running ones"),
        "its mode": (unlike_eval_mode, "it came in train mode; call model.eval() before anyone measures it"),
    }
    counts = {
        name: sum(int(unlike(context.model, x).sum()) for x, _ in context.batches())
        for name, (unlike, _) in causes.items()
    }
    changed = next((name for name in causes if counts[name]), None)
    reason = "the model answers alike twice, in any batch, and in the mode in which it came"
    if changed is not None:
        reason = f"{counts[changed]} of {len(context)} answers change with {changed}: {causes[changed][1]}"
    return judged(changed is None, reason, images=len(context), changed_with=counts)


def gradients_are_healthy(context: AuditContext) -> Verdict:
    """Images whose gradient is zero or not finite, for cross-entropy, and for the margin to tell the cause."""
    if not context.differentiable:
        cut = "no gradient comes back to the image: something cuts it off (detach, rounding to integers, no_grad)"
        return judged(False, f"{cut}; {_INSTEAD}", images=len(context))
    zeros, spoilt = {}, 0
    for loss in (cross_entropy, margin):
        gradients = [eval_gradient(context.network, x, y, loss).flatten(1) for x, y in context.batches()]
        zeros[loss.__name__] = sum(int((gradient == 0).all(1).sum()) for gradient in gradients)
        spoilt += sum(int((~gradient.isfinite()).any(1).sum()) for gradient in gradients)
    # Attacks here climb on where cross-entropy, as the world computes it, has underflowed.
    behind = torch.cat([margin(as_output(eval_logits(context.network, x)), y) for x, y in context.batches()])
    zeros["cross_entropy"] = max(zeros["cross_entropy"], int((behind < -STEEP).sum()))
    flat, flat_margin = (too_many(count, len(context), 0.01) for count in zeros.values())
    reason = f"cross-entropy has no gradient for {zeros['cross_entropy']} of {len(context)} images"
    if spoilt:
        reason += f", and {spoilt} gradients are not finite: something overflows"
    elif flat_margin:
        reason += (
            f", nor has the margin for {zeros['margin']}: some part passes none (rounding, a threshold); {_INSTEAD}"
        )
    elif flat:
        reason += ", but the margin has: logits are saturated; attack the margin (cw, apgd-t)"
    return judged(
        not (flat or spoilt), reason, images=len(context), zero_gradient=zeros, not_finite=spoilt, limit_share=0.01
    )


def outputs_are_logits(context: AuditContext) -> Verdict:
    rows = sum(int(are_probabilities(eval_logits(context.network, x)).sum()) for x, _ in context.batches())
    reason = f"{rows} of {len(context)} outputs are probabilities" + ": take the softmax off" * (rows == len(context))
    return judged(rows < len(context), reason, images=len(context), probabilities=rows)


def attack_and_judge_agree(context: AuditContext) -> Verdict:
    """The crafted images once more, the other way round, past the code of attacks."""
    parts = zip(context.crafted.x_adv.flip(0).split(97), context.y.flip(0).split(97), strict=True)
    again = torch.cat([predicted(eval_logits(context.network, x)) == y for x, y in parts]).flip(0)
    changed = int((again != context.crafted.correct).sum())
    reason = f"pgd20 counts {percent(context.crafted.correct)} right, and its images, looked at again, {percent(again)}"
    return at_most(0.001, changed, len(context), reason, changed=changed)


def gradient_points_uphill(context: AuditContext) -> Verdict:
    """A small step along the gradient must raise the loss above what a step against it gives."""
    step, agreeing = context.threat.eps / 100, 0
    for x, y in context.batches():
        along = context.threat.geometry.step(eval_gradient(context.network, x, y, cross_entropy), step)
        ahead, behind = (
            cross_entropy(as_output(eval_logits(context.network, (x + sign * along).clamp(0, 1))), y)
            for sign in (1, -1)
        )
        agreeing += int((ahead > behind).sum())
    reason = f"a step along the gradient raises the loss of {agreeing} of {len(context)} images"
    return at_most(0.05, len(context) - agreeing, len(context), reason, agreeing=agreeing)


def broader_robustness(context: AuditContext) -> Verdict:
    """Reported, without a limit: noise as long as the radius on average, and slight moves."""
    noise = torch.randn(context.x.shape, generator=torch.Generator().manual_seed(0)).to(context.x)
    size = context.threat.eps / context.threat.geometry.across(context.x[0].numel())
    seen = {
        "noise": (context.x + size * noise).clamp(0, 1),
        "turned by 10 degrees": _moved(context.x, angle=10.0),
        "turned by -10 degrees": _moved(context.x, angle=-10.0),
        "shifted by a tenth": _moved(context.x, shift=0.1),
    }
    right = {
        name: torch.cat(
            [
                predicted(eval_logits(context.network, x)) == y
                for x, y in zip(images.split(97), context.y.split(97), strict=True)
            ]
        )
        for name, images in seen.items()
    }
    reason = ", ".join(f"{name} {percent(value)}" for name, value in right.items())
    return judged(True, reason, images=len(context), **{name: int(value.sum()) for name, value in right.items()})


def _moved(x: Tensor, *, angle: float = 0.0, shift: float = 0.0) -> Tensor:
    """Images turned by `angle` degrees and shifted right and down by a share of their size, black where nothing was."""
    turn = math.radians(angle)
    theta = x.new_tensor(
        [[math.cos(turn), -math.sin(turn), -2 * shift], [math.sin(turn), math.cos(turn), -2 * shift]]
    ).expand(len(x), 2, 3)
    grid = F.affine_grid(theta, list(x.shape), align_corners=False)
    return F.grid_sample(x, grid, align_corners=False)


CHECKS = (
    Check("C14", "the perturbation is legal", perturbation_is_legal, growing=1.8),
    Check("C15", "the model answers the same twice", answers_repeat, False),
    Check("C16", "gradients are healthy", gradients_are_healthy, False),
    Check("C17", "outputs are logits", outputs_are_logits, False),
    Check("C18", "attack and judge see the same model", attack_and_judge_agree),
    Check("C20", "noise and slight moves (reported only)", broader_robustness, False),
    Check("C22", "the gradient points uphill", gradient_points_uphill),
)
