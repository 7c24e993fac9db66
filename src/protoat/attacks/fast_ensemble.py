"""A fast ensemble of attacks that continues with AutoAttack where anything hints at masked gradients."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor

from protoat.arguments import check_flag
from protoat.attacks.active import Run, attempts, is_adversarial, select
from protoat.attacks.apgd import APGD
from protoat.attacks.autoattack import AutoAttack
from protoat.attacks.base import Attack
from protoat.attacks.ensemble import Ensemble, run_of
from protoat.attacks.examination import examine
from protoat.attacks.gradient import input_gradient
from protoat.attacks.malt import MALT
from protoat.attacks.noise import CornerNoise
from protoat.attacks.pma import PMA
from protoat.attacks.problem import Problem
from protoat.attacks.square import Square
from protoat.functional.batch import leading
from protoat.functional.forward import as_module
from protoat.functional.losses import cross_entropy
from protoat.functional.norms import Norm
from protoat.threats import ThreatModel

_KEPT = 0.7  # share of the robust images, those closest to being adversarial, that the next run of MALT attacks
_TENTH = 10  # one in so many robust images is attacked by Square, and at least so many


class FastEnsemble(Ensemble):
    """APGD-CE, PMA and MALT, each on the images still robust, then Square on a tenth; AutoAttack after an alarm.

    AutoAttack spends most of its time on images that no attack breaks. Here each further run of MALT attacks the 70 %
    of the robust images that are closest to being adversarial, and Square a tenth of them, ten at least, stratified
    by class and by how close they are. AutoAttack follows on all robust images after an alarm:

    * `examine` finds fault with the model (random, batch statistics, saturated, no gradient, ...);
    * the gradient at a robust image is 0;
    * FGSM, 20 random corners of the ball, or Square on its tenth, break an image that the attacks before left.

    The result is an upper bound of robust accuracy as any other, and never AutoAttack's number.

    Args:
        threat: norm and radius.
        escalate: go on to AutoAttack after an alarm. Without it, a model that masks its gradients is flattered.
        batch_size: images in one forward.
        seed: repeats a call when no generator is passed.

    Attributes:
        num_classes: of the model attacked last, None before the first call; `parameters` describes that run.
        alarms: what was raised on the batch attacked last, in words; empty where nothing was.

    Raises:
        ValueError: an empty batch size; a model with fewer than two logits.

    `evaluate` collects alarms over all batches, and one alarm sends every robust image of the data to AutoAttack.

    Source: PMA and MALT, see there; discarding images: Liu et al., CVPR 2022, "Practical evaluation of adversarial
    robustness via adaptive auto attack", online statistics-based discarding; checks: Carlini et al., 2019, "On
    evaluating adversarial robustness".

    >>> from protoat.threats import Linf
    >>> list(FastEnsemble(Linf("8/255")).parts(10))
    ['apgd-ce', 'pma', 'malt', 'corner', 'square']
    """

    def __init__(self, threat: ThreatModel, *, escalate: bool = True, batch_size: int = 256, seed: int = 0) -> None:
        super().__init__(threat, batch_size=batch_size, seed=seed)
        check_flag(escalate=escalate)
        self.escalate = escalate
        self.alarms: tuple[str, ...] = ()

    def _parts(self, num_classes: int) -> dict[str, Attack]:
        threat, wrong = self.threat, num_classes - 1
        return {
            "apgd-ce": APGD(threat, steps=25),
            "pma": PMA(threat),
            # Three runs at least, also where there are fewer targets.
            "malt": MALT(threat, num_targets=min(wrong, 6), restarts=-(-3 // wrong)),
            "corner": CornerNoise(threat, draws=20),
            "square": Square(threat, queries=1000),
        }

    @property
    def stages(self) -> tuple[Attack, Attack | None]:
        if not self.escalate:
            return self, None
        first = FastEnsemble(self.threat, escalate=False, batch_size=self.batch_size, seed=self.seed)
        whole = AutoAttack(self.threat, batch_size=self.batch_size, seed=self.seed)
        first.num_classes = whole.num_classes = self.num_classes
        return first, whole

    @property
    def coarse_runs(self) -> bool:
        return True

    @torch.no_grad()
    def run(self, problem: Problem) -> Tensor:
        state = _State(problem, self.threat.geometry, self.batch_size)
        self.num_classes = state.classes
        parts = self.parts(state.classes)
        state.apply(run_of(parts["apgd-ce"]), state.active)
        state.apply(run_of(parts["pma"]), state.active)
        malt = parts["malt"]
        assert isinstance(malt, MALT)
        _in_turn(malt, state)
        self.alarms = tuple(_alarms(state, parts["corner"], parts["square"]))
        _, whole = self.stages
        if self.alarms and whole is not None:
            state.apply(run_of(whole), state.active)
        return state.worst


class _State:
    """The state of the attack on a batch.

    Attributes:
        worst: (B, ...) the image closest to being adversarial, or the first that is.
        lead: (B,) by how much the best wrong class leads; infinite where the attack has succeeded.
    """

    def __init__(self, problem: Problem, norm: Norm, size: int) -> None:
        self.problem = problem
        self.norm = norm
        self.size = size
        self.worst = problem.x.clone()
        self.lead = torch.full((len(problem.x),), -torch.inf, device=problem.x.device)
        self.classes = 0
        self.apply(lambda piece, _: piece.x, torch.arange(len(self.worst), device=self.worst.device))

    @property
    def active(self) -> Tensor:
        """The images that no attack has broken, as indices."""
        return (self.lead < torch.inf).nonzero().squeeze(1)

    def apply(self, run: Run, rows: Tensor) -> int:
        """Attacks some of the images; returns how many it broke."""
        broken = 0
        for part, piece, x_adv, output in attempts(self.problem, self.norm, run, rows, self.size):
            self.classes = output.logits.shape[1]
            adversarial = is_adversarial(piece, output.logits)
            lead = piece.lead(output).to(self.lead).where(~adversarial, torch.inf)
            closer = lead > self.lead[part]
            self.worst[part] = torch.where(leading(closer, x_adv), x_adv, self.worst[part])
            self.lead[part] = torch.where(closer, lead, self.lead[part])
            broken += int(adversarial.sum())
        return broken


def _in_turn(malt: MALT, state: _State) -> None:
    """Runs towards each target; after each, the images furthest from being adversarial are left out."""
    rows = state.active
    if not len(rows):
        return
    targets = torch.cat([malt.ranked(select(state.problem, part)) for part in rows.split(state.size)])
    aims = torch.zeros(len(state.lead), targets.shape[1], dtype=torch.int64, device=rows.device)
    aims[rows] = targets
    for turn in range(aims.shape[1] * malt.restarts):
        own = aims[:, turn // malt.restarts]
        state.apply(partial(_towards, malt, own), rows)
        rows = rows[state.lead[rows] < torch.inf]
        if not len(rows):
            return
        closest = state.lead[rows].argsort(descending=True, stable=True)
        rows = rows[closest[: max(1, round(_KEPT * len(rows)))]]


def _towards(malt: MALT, aims: Tensor, piece: Problem, rows: Tensor) -> Tensor:
    return malt.towards(piece, aims[rows])


def _alarms(state: _State, noise: Attack, square: Attack) -> list[str]:
    """What hints at masked gradients, in words."""
    problem = state.problem
    network = as_module(getattr(problem.model, "network", problem.model))
    alarms = [found.code for found in examine(network, problem.x[:4]).findings if found.severity != "note"]
    flat = 0

    def one_step(piece: Problem, _: Tensor) -> Tensor:
        nonlocal flat
        gradient = input_gradient(piece.model, piece.x, piece.y, cross_entropy).gradient
        flat += int((gradient == 0).flatten(1).all(1).sum())
        return piece.x + state.norm.step(gradient, piece.eps, piece.x)

    if state.apply(one_step, state.active):
        alarms.append("one step breaks what many steps leave")
    if flat:
        alarms.append("gradients are zero")
    if state.apply(run_of(noise), state.active):
        alarms.append("random points break what gradients leave")
    if state.apply(run_of(square), _tenth(problem.y, state)):
        alarms.append("square breaks what gradients leave")
    return alarms


def _tenth(y: Tensor, state: _State) -> Tensor:
    """A tenth of the robust images, ten at least, spread over classes and over their leads."""
    rows = state.active
    rows = rows[state.lead[rows].argsort(stable=True)]
    rows = rows[y[rows].argsort(stable=True)]
    count = min(len(rows), max(_TENTH, -(-len(rows) // _TENTH)))
    return rows[torch.linspace(0, len(rows) - 1, count, device=rows.device).long()] if count else rows
