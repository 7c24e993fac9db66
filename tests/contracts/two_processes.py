"""One of two processes that train together: every method alone, and every regularizer, found by class.

Run by `test_method_contract.py` with the process group's variables set, for all checks in two processes that need no
command, since to start two takes longer than to make them. Every check is on values that both processes have exchanged,
so one failure ends both with an error.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from unittest import mock

import torch
import torch.distributed as dist
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parents[2]))

from protoat.methods import AWP, PGDAT, Method
from protoat.regularizers import Regularizer
from protoat.training import fit, parameter_groups
from protoat.weighting import CFOL, GroupDRO, Weighting
from tests.contracts.test_method_contract import METHODS, REGULARIZERS, batch, net, objective, where
from tests.methods import two_processes as of_some_methods
from tests.modes import two_processes as of_modes
from tests.two_processes import check as check_objective
from tests.two_processes import equal_on_both


def both_learn_the_same(
    kind: type[Method], regularizer: type[Regularizer] | None, weighting: Weighting | None = None
) -> None:
    """From images of their own: weights, batch norm, and what method, regularizer and weighting learn."""
    name = f"{kind.__name__} with {regularizer and regularizer.__name__}, {weighting}"
    torch.manual_seed(dist.get_rank())
    model, goal = net(), objective(kind, regularizer)
    goal.weighting = weighting
    before = model.head.weight.detach().clone()
    optimizer = torch.optim.SGD(parameter_groups(model, goal, lr=0.02))
    pairs = [batch(8, seed=10 * dist.get_rank() + number) for number in range(2)]
    batches = [(x, y, where(x)) for x, y in pairs]
    fit(model, batches, goal, epochs=2, optimizer=optimizer, progress=False)
    assert not torch.equal(model.head.weight, before), name
    equal_on_both(model.state_dict(), name)
    equal_on_both({str(i): value for i, value in enumerate(goal.parameters())}, name)
    if weighting is not None:
        equal_on_both(weighting.state_dict(), name)
        assert weighting.log_weights is not None and bool((weighting.log_weights != 0).all())


def weights_are_those_of_one_process() -> None:
    """That sees the images of both."""
    for weighting, alone in ((GroupDRO(step=0.5), GroupDRO(step=0.5)), (CFOL(step=0.1), CFOL(step=0.1))):
        for number in range(3):
            generator = torch.Generator().manual_seed(number)
            groups, losses = torch.randint(4, (16,), generator=generator), torch.rand(16, generator=generator)
            mine = slice(8 * dist.get_rank(), 8 * dist.get_rank() + 8)
            found = weighting.weights(groups[mine], losses[mine], losses[mine] > 0.5, 4)
            expected = _without_processes(lambda: alone.weights(groups, losses, losses > 0.5, 4))  # noqa: B023
            torch.testing.assert_close(found, expected[mine])
        equal_on_both(weighting.state_dict(), repr(weighting))


def _without_processes(call: Callable[[], Tensor]) -> Tensor:
    """What a process alone would get."""
    with mock.patch("protoat.weighting.base.sum_over_processes", lambda value: value):
        return call()


def main() -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    check_objective()
    of_some_methods.check()
    of_modes.check()
    for kind in METHODS:
        both_learn_the_same(kind, None)
    for regularizer in REGULARIZERS[1:]:
        both_learn_the_same(PGDAT, regularizer)
    for kind in (PGDAT, AWP):
        both_learn_the_same(kind, None, GroupDRO(step=0.5))
    weights_are_those_of_one_process()
    dist.barrier()  # a process that leaves early takes its peer's connection with it
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
