"""Square attack: random search with square patches; it needs scores and no gradients."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from protoat.arguments import check_flag, check_number, check_whole
from protoat.attacks.active import among, select, worst_case
from protoat.attacks.base import Attack
from protoat.attacks.mode import BatchNormMode
from protoat.attacks.problem import Problem
from protoat.attacks.screening import Screen, screened
from protoat.attacks.square_bumps import Window, coin, move_budget, tile, window_at
from protoat.errors import UserError
from protoat.functional.batch import per_example
from protoat.threats import ThreatModel
from protoat.types import Output

Propose = Callable[[Problem, Tensor, int, list[float]], tuple[Tensor, Tensor]]


class Square(Attack):
    """Random search: each query changes one square and is kept where the margin grows.

    All images of a batch share the place of a query's square; each draws its own signs.

    Args:
        threat: norm and radius.
        queries: forwards for each restart.
        restarts: independent runs, each on the images that are still robust.
        p_init: share of the image that the first squares cover; halved after 10, 50, 200, 500, 1000, 2000, 4000, 6000
            and 8000 of 10,000 queries.
        rescale_schedule: halve at the same shares of `queries`, as the authors advise and do by default: a short search
            ends with small squares too. Without it, at these very queries, as AutoAttack has it with its 5000.
        bn: batch norm while attacking.
        seed: repeats a call when no generator is passed.

    Raises:
        ValueError: fewer than one query or restart, `p_init` outside (0, 1], images that are not (B, C, H, W).

    Source: Andriushchenko et al., ECCV 2020, with AutoAttack's margin objective; L1: Croce & Hein, ICML 2021. As in
    AutoAttack, a square that changes nothing spends a query, where the paper draws again; here it costs no forward.
    Deviation: squares also come to lie at the last row and column, which the authors' code never draws; this finds
    more. With attacks in bfloat16, queries that this finds no better are given up, but for the last quarter, see
    `Screen`.

    >>> from protoat.threats import Linf
    >>> Square(Linf("8/255")).parameters()["queries"]
    5000
    """

    def __init__(
        self,
        threat: ThreatModel,
        *,
        queries: int = 5000,
        restarts: int = 1,
        p_init: float = 0.8,
        rescale_schedule: bool = True,
        bn: BatchNormMode = "eval",
        seed: int = 0,
    ) -> None:
        super().__init__(threat, bn=bn, seed=seed)
        check_whole(queries=queries, restarts=restarts)
        check_number("(0, 1]", p_init=p_init)
        check_flag(rescale_schedule=rescale_schedule)
        self.queries = queries
        self.restarts = restarts
        self.p_init = p_init
        self.rescale_schedule = rescale_schedule

    @property
    def follows_gradients(self) -> bool:
        return False

    @property
    def coarse_runs(self) -> bool:
        return True

    def check(self, images: tuple[int, ...], output: Output) -> None:
        if len(images) != 4:
            raise UserError(f"Square needs images of shape (B, C, H, W), got {images}; reshape in the model")

    def run(self, problem: Problem) -> Tensor:
        return worst_case(problem, self.threat.geometry, [lambda part, _: self._search(part)] * self.restarts)

    def _search(self, problem: Problem) -> Tensor:
        norm = self.threat.geometry
        x_adv = tile(problem, norm) if norm.shared else _stripes(problem)
        propose: Propose = partial(move_budget, norm=norm) if norm.shared else _recolour
        result, rows = x_adv.clone(), torch.arange(len(x_adv), device=x_adv.device)
        lead = problem.lead(problem.model(x_adv))
        screen = Screen.of(problem, x_adv, lead)
        # Drawn at once, as the place of a window must be known on the host: corners of two windows, turn of a bump.
        draws = torch.rand(self.queries, 5, generator=problem.generator, device=x_adv.device).tolist()
        for query, draw in enumerate(draws, 1):
            adversarial = lead > 0
            if bool(adversarial.any()):
                result[rows[adversarial]] = x_adv[adversarial]
                problem, rows, x_adv, lead = among(~adversarial, problem, rows, x_adv, lead)
                if screen is not None:
                    screen.keep(~adversarial)
            if query > screened(self.queries):
                screen = None
            if not len(rows):
                return result
            moved, new = propose(problem, x_adv, self.side(query, *x_adv.shape[2:]), draw)
            part = select(problem, moved)
            if screen is not None and len(moved):
                part, moved, new, coarse = screen.likely(part, moved, new)
            if not len(moved):
                continue
            gained = part.lead(problem.model(new))
            better = gained > lead[moved]
            x_adv[moved[better]], lead[moved[better]] = new[better], gained[better]
            if screen is not None:
                screen.lead[moved[better]] = coarse[better]
        result[rows] = x_adv
        return result

    def side(self, query: int, height: int, width: int) -> int:
        """Side of the square at a query, counted from 1.

        >>> from protoat.threats import Linf
        >>> [Square(Linf(0.3), rescale_schedule=False).side(query, 28, 28) for query in (1, 11, 51, 4999)]
        [25, 18, 13, 2]
        >>> [Square(Linf(0.3), queries=250).side(query, 28, 28) for query in (1, 2, 6, 249)]
        [18, 13, 9, 1]
        """
        if self.rescale_schedule:
            query = int(query / self.queries * 10_000)
        halvings = sum(query > mark for mark in (10, 50, 200, 500, 1000, 2000, 4000, 6000, 8000))
        return min(max(round(math.sqrt(self.p_init / 2**halvings * height * width)), 1), height, width)


def _ends(problem: Problem, window: Window) -> tuple[Tensor, Tensor]:
    """Lowest and highest legal values inside a window."""
    eps, x = per_example(problem.eps, problem.x), problem.x[window]
    return (x - eps).clamp(0, 1), (x + eps).clamp(0, 1)


def _stripes(problem: Problem) -> Tensor:
    """The L-inf start: each column of each channel at one end of its range."""
    low, high = _ends(problem, (slice(None),))
    return torch.where(coin(problem, high.shape[1], 1, high.shape[3]), high, low)


def _recolour(problem: Problem, x_adv: Tensor, side: int, draw: list[float]) -> tuple[Tensor, Tensor]:
    """Sets a square to one end of its range for each channel: the rows that this changes, and their new images."""
    window = window_at(x_adv, side, draw[:2])
    low, high = _ends(problem, window)
    square = torch.where(coin(problem, x_adv.shape[1], 1, 1), high, low)
    moved = (square != x_adv[window]).flatten(1).any(1).nonzero().squeeze(1)
    new = x_adv[moved]
    new[window] = square[moved]
    return moved, new
