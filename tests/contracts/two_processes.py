"""One of two processes that train together: every method alone, and every regularizer, found by class.

Run by `test_method_contract.py` with the process group's variables set, for all checks in two processes that need no
command, since to start two takes longer than to make them. Every check is on values that both processes have exchanged,
so one failure ends both with an error.
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch
import torch.distributed as dist

sys.path.insert(0, str(Path(__file__).parents[2]))

from protoat.methods import PGDAT, Method
from protoat.regularizers import Regularizer
from protoat.training import fit, parameter_groups
from tests.contracts.test_method_contract import METHODS, REGULARIZERS, batch, net, objective, where
from tests.methods import two_processes as of_some_methods
from tests.modes import two_processes as of_modes
from tests.two_processes import check as check_objective
from tests.two_processes import equal_on_both


def both_learn_the_same(kind: type[Method], regularizer: type[Regularizer] | None) -> None:
    """From images of their own: weights, batch norm, and what the method and the regularizer learn."""
    name = f"{kind.__name__} with {regularizer and regularizer.__name__}"
    torch.manual_seed(dist.get_rank())
    model, goal = net(), objective(kind, regularizer)
    before = model.head.weight.detach().clone()
    optimizer = torch.optim.SGD(parameter_groups(model, goal, lr=0.02))
    pairs = [batch(8, seed=10 * dist.get_rank() + number) for number in range(2)]
    batches = [(x, y, where(x)) for x, y in pairs]
    fit(model, batches, goal, epochs=2, optimizer=optimizer, progress=False)
    assert not torch.equal(model.head.weight, before), name
    equal_on_both(model.state_dict(), name)
    equal_on_both({str(i): value for i, value in enumerate(goal.parameters())}, name)


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
    dist.barrier()  # a process that leaves early takes its peer's connection with it
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
