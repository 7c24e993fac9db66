"""Attacks that know the prototypes of a classification head."""

from __future__ import annotations

import copy

from torch import Tensor, nn

from protoat.attacks.adaptive import ApproachWrong, LeaveOwn
from protoat.attacks.apgd import APGD, APGDT
from protoat.attacks.base import Attack
from protoat.attacks.displacement import EmbeddingDisplacement
from protoat.attacks.problem import AttackLoss
from protoat.threats import ThreatModel
from protoat.types import Output


class LeaveMode:
    """Minus the log posterior of the likeliest prototype of a class, for the `loss` of `PGD` and `APGD`.

    The posterior is a softmax over the prototypes of all classes, so it also falls as another prototype of the same
    class takes over; success is still judged by classes.

    Args:
        head: with ``sub_logits``, such as `MultiPrototypeHead`; copied, so later training does not change the attack.

    >>> import torch
    >>> from protoat.models import MultiPrototypeHead
    >>> loss = LeaveMode(MultiPrototypeHead(4, 3, prototypes_per_class=1))
    >>> loss(Output(torch.zeros(2, 3), torch.randn(2, 4)), torch.tensor([0, 2])).shape
    torch.Size([2])
    """

    def __init__(self, head: nn.Module) -> None:
        self.head = copy.deepcopy(head).requires_grad_(False)
        self.__qualname__ = type(self).__name__  # by which `Attack.parameters` records it

    def __call__(self, output: Output, y: Tensor) -> Tensor:
        sub: Tensor = self.head.to(output.embedding.device).sub_logits(output.embedding)  # type: ignore[operator]
        own = sub.gather(1, y.view(-1, 1, 1).expand(-1, 1, sub.shape[2])).amax((1, 2))
        return sub.flatten(1).logsumexp(1) - own


def adaptive_head_attacks(
    threat: ThreatModel, head: nn.Module, *, steps: int = 100, restarts: int = 1, seed: int = 0
) -> dict[str, Attack]:
    """The attacks that know the prototypes of a head, by name; success is judged by the model's logits.

    Each wrong prototype near an image is climbed to in turn (``towards``), the posterior of the image's own prototype
    is lowered (``posterior``), its cosines to its own prototypes are lowered (``leave``), that to the nearest wrong one
    is raised (``approach``), and its embedding is driven away (``displace``).

    Args:
        threat: norm and radius.
        head: with ``sub_logits``, such as `MultiPrototypeHead`; the model's embedding is what it takes.
        steps, restarts, seed: of each attack; all take the steps of APGD.

    >>> from protoat.models import MultiPrototypeHead
    >>> from protoat.threats import Linf
    >>> list(adaptive_head_attacks(Linf("8/255"), MultiPrototypeHead(4, 3)))[:2]
    ['adaptive-head-towards', 'adaptive-head-posterior']
    """
    assert isinstance(head.prototypes, Tensor) and isinstance(head.active, Tensor)
    losses: dict[str, AttackLoss] = {
        "head-posterior": LeaveMode(head),
        "head-leave": LeaveOwn(head.prototypes, head.active, gamma=0.1),
        "head-approach": ApproachWrong(head.prototypes, head.active, gamma=0.1),
    }
    towards = APGDT(threat, head=head, steps=steps, restarts=restarts, seed=seed)
    others = {
        f"adaptive-{name}": APGD(threat, loss=loss, steps=steps, restarts=restarts, seed=seed)
        for name, loss in losses.items()
    }
    displace = EmbeddingDisplacement(threat, steps=steps, restarts=restarts, seed=seed)
    return {"adaptive-head-towards": towards, **others, "adaptive-displace": displace}
