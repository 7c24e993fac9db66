"""Transfer attacks: adversarial examples made on another model."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from protoat.arguments import check_kind
from protoat.attacks.base import Attack
from protoat.attacks.problem import Problem


class Transfer(Attack):
    """Makes adversarial images on a surrogate and shows them to the model under test, whose gradients are not used.

    Args:
        attack: how to attack the surrogate; its threat model is used.
        surrogate: images in [0, 1] -> `Output` or logits, on the device of the images, with the same classes.
        name: what the record calls the surrogate, such as the folder of its run; another one for each surrogate.

    Source: Papernot et al. 2016; a defence that does worse here than under white-box attack masks its gradients.

    >>> import torch
    >>> from protoat.attacks import PGD
    >>> from protoat.threats import Linf
    >>> Transfer(PGD(Linf("8/255")), torch.nn.Flatten(), name="runs/plain").parameters()["surrogate"]
    'runs/plain'
    """

    def __init__(self, attack: Attack, surrogate: nn.Module, *, name: str) -> None:
        check_kind(Attack, attack=attack)
        check_kind(nn.Module, surrogate=surrogate)
        super().__init__(attack.threat, bn=attack.bn, seed=attack.seed)
        self.can_target = attack.can_target  # type: ignore[misc]
        self.attack = attack
        self.surrogate = surrogate
        self.name = name

    @property
    def follows_gradients(self) -> bool:
        return False

    def run(self, problem: Problem) -> Tensor:
        return self.attack.craft(
            self.surrogate,
            problem.x,
            problem.y,
            targets=problem.targets,
            eps=problem.eps,
            generator=problem.generator,
        )

    def parameters(self) -> dict[str, Any]:
        return {"attack": "Transfer", "surrogate": self.name, "of": self.attack.parameters()}
