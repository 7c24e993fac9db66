"""Running attacks on what still stands."""

from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from protoat.attacks.active import is_adversarial, select, worst_case
from protoat.attacks.problem import Problem
from protoat.functional.norms import norm_of
from protoat.types import Output


def model(x: Tensor) -> Output:
    """Class 1 where the single pixel is above a half."""
    value = x.flatten(1)[:, :1]
    return Output(torch.cat([torch.full_like(value, 0.5), value], 1), value)


def problem(values: list[float], eps: float | Tensor = 1.0, targets: Tensor | None = None) -> Problem:
    x = torch.tensor(values).view(-1, 1, 1, 1)
    return Problem(model, x, torch.zeros(len(values), dtype=torch.int64), targets, eps, torch.Generator())


def test_adversarial_means_left_or_reached() -> None:
    logits = torch.tensor([[2.0, 1.0, 0.0], [0.0, 2.0, 1.0], [0.0, 1.0, 2.0]])
    case = problem([0.1, 0.1, 0.1])
    assert is_adversarial(case, logits).tolist() == [False, True, True]
    assert is_adversarial(case._replace(targets=torch.tensor([1, 1, 1])), logits).tolist() == [False, True, False]


def test_select_takes_every_row_wise_field() -> None:
    case = problem([0.1, 0.2, 0.3], torch.tensor([1.0, 2.0, 3.0]), torch.tensor([1, 1, 1]))
    part = select(case, torch.tensor([True, False, True]))
    assert part.x.flatten().tolist() == torch.tensor([0.1, 0.3]).tolist()
    assert isinstance(part.eps, Tensor)
    assert part.targets is not None
    assert (part.eps.tolist(), part.targets.tolist(), len(part.y)) == ([1.0, 3.0], [1, 1], 2)


@given(
    clean=st.lists(st.floats(0, 1), min_size=1, max_size=8),
    moves=st.lists(st.floats(-0.6, 0.6), max_size=4),
    extra=st.floats(-0.6, 0.6),
    batch_size=st.sampled_from([None, 1, 3]),
)
@settings(max_examples=100)
def test_another_attack_never_raises_the_accuracy(
    clean: list[float], moves: list[float], extra: float, batch_size: int | None
) -> None:
    case = problem(clean, eps=0.5)

    def accuracy(steps: list[float]) -> int:
        runs = [lambda part, _, step=step: part.x + step for step in steps]
        result = worst_case(case, norm_of("linf"), runs, batch_size=batch_size)
        assert bool(((result - case.x).abs() <= 0.5).all())
        assert bool(((result >= 0) & (result <= 1)).all())
        return int((~is_adversarial(case, model(result).logits)).sum())

    assert accuracy([*moves, extra]) <= accuracy(moves) <= accuracy([])


def test_each_run_sees_robust_images_only_in_full_batches() -> None:
    seen: list[list[int]] = []

    def nudge(part: Problem, rows: Tensor) -> Tensor:
        seen.append(rows.tolist())
        return part.x + 0.2

    worst = worst_case(problem([0.9, 0.4, 0.1, 0.2, 0.45, 0.0]), norm_of("linf"), [nudge, nudge], batch_size=3)
    # 0 is wrong already; 1 and 4 fall to the first run; the second gets the three others in one batch.
    assert seen == [[1, 2, 3], [4, 5], [2, 3, 5]]
    torch.testing.assert_close(worst.flatten(), torch.tensor([0.9, 0.6, 0.3, 0.4, 0.65, 0.2]))


def test_no_images_are_no_problem() -> None:
    assert worst_case(problem([]), norm_of("linf"), [lambda part, _: part.x]).shape == (0, 1, 1, 1)
