"""What the objective and `fit` hold in two processes that train together; run by `contracts/two_processes.py`.

Every check is on values that both processes have exchanged, so one failure ends both with an error.
"""

from __future__ import annotations

import copy

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from protoat import Objective
from protoat.methods import PGDAT, FreeAT
from protoat.models import MultiPrototypeHead
from protoat.regularizers import TLA, ProxyAnchor, SoftTriple, Triplet
from protoat.threats import Linf
from protoat.training import fit
from protoat.types import Output

THREAT = Linf(0.1)


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Flatten(), nn.Linear(12, 8), nn.BatchNorm1d(8), nn.ReLU())
        self.head = nn.Linear(8, 2)

    def forward(self, x: Tensor) -> Output:
        embedding = self.body(x)
        return Output(self.head(embedding), embedding)


def objectives() -> dict[str, tuple[Objective, int]]:
    """What is tried, and the forwards in training mode that each update makes."""
    method = PGDAT(THREAT, steps=2)
    return {
        "adv": (Objective(method, Triplet(2, 8, margin=1.0), norm_weight=0.1), 1),
        "clean": (Objective(method, Triplet(2, 8, margin=1.0), dml_input="clean"), 2),
        "both": (Objective(method, Triplet(2, 8, margin=1.0), dml_input="both"), 2),
        "free, both": (Objective(FreeAT(THREAT, replays=2), Triplet(2, 8, margin=1.0), dml_input="both"), 2),
        "weights": (Objective(method, Triplet(2, 8, margin=1.0), norm_weight=0.1, norm="weights"), 1),
        "TLA": (Objective(method, TLA(2, 8, margin=0.5, match_l2=0.1, mul_num=2)), 4),
        "TLA, free": (Objective(FreeAT(THREAT, replays=2), TLA(2, 8, margin=0.5)), 4),
    }


def equal_on_both(tensors: dict[str, Tensor], what: str) -> None:
    for name, value in tensors.items():
        every = [torch.empty_like(value) for _ in range(2)]
        dist.all_gather(every, value.detach().contiguous())
        if not torch.equal(*every):
            raise AssertionError(f"{what}: {name} differs between the processes")


def one_batch(model: nn.Module, objective: Objective, x: Tensor, seed: int, lr: float) -> list[dict[str, Tensor]]:
    """Runs the updates of a batch, averages gradients unless DDP has, and returns those gradients."""
    torch.manual_seed(seed)
    bare = model.module if isinstance(model, DistributedDataParallel) else model
    optimizer = torch.optim.SGD(bare.parameters(), lr=lr)
    gradients = []
    for terms in objective.losses(model, x, torch.tensor([0, 1, 0, 1, 1, 0])):
        optimizer.zero_grad()
        terms.total.backward()
        if bare is model:
            for p in bare.parameters():
                dist.all_reduce(p.grad)
                p.grad /= 2
        gradients.append({name: p.grad.clone() for name, p in bare.named_parameters()})
        optimizer.step()
    return gradients


def same_as_without_the_wrapper(name: str, objective: Objective, forwards: int) -> None:
    """Gradients are the processes' mean; batch norm moved exactly as in a model that nobody wrapped."""
    torch.manual_seed(0)
    plain = Net()
    wrapped = DistributedDataParallel(copy.deepcopy(plain), broadcast_buffers=False)
    other = copy.deepcopy(objective)
    for batch in range(3):
        x = torch.rand(6, 3, 2, 2, generator=torch.Generator().manual_seed(10 * batch + dist.get_rank()))
        expected = one_batch(plain, other, x, batch, 0.1)
        torch.testing.assert_close(one_batch(wrapped, objective, x, batch, 0.1), expected, msg=lambda m: f"{name}: {m}")
    for key, value in wrapped.module.named_buffers():
        torch.testing.assert_close(value, plain.get_buffer(key), msg=lambda m, key=key: f"{name}, {key}: {m}")
    equal_on_both(dict(wrapped.module.named_parameters()), name)
    count = wrapped.module.body[2].num_batches_tracked
    assert count.item() == 3 * objective.updates_per_batch * forwards, f"{name}: {count} forwards"


def fit_keeps_processes_together() -> None:
    """Through fit: weights, prototypes and, at the end of an epoch, batch norm are the same in both processes."""
    y = torch.tensor([0, 1, 0, 1])
    for regularizer, dml_input in ((TLA(2, 8), "adv"), (ProxyAnchor(2, 8), "clean"), (ProxyAnchor(2, 8), "both")):
        torch.manual_seed(dist.get_rank())
        net, objective = Net(), Objective(PGDAT(THREAT, steps=1), regularizer, dml_input=dml_input)
        optimizer = torch.optim.SGD([*net.parameters(), *objective.parameters()], lr=0.05)
        batches = [(torch.rand(4, 3, 2, 2), y) for _ in range(3)]
        fit(net, batches, objective, epochs=2, optimizer=optimizer, progress=False)
        equal_on_both(net.state_dict() | dict(objective.regularizer.named_parameters()), f"fit, {dml_input}")
    net = Net()
    net.head = MultiPrototypeHead(8, 2, prototypes_per_class=6, merge_threshold=1.4, merge_start=0.5, merge_stop=1)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.05, momentum=0.9)
    batches = [(torch.rand(4, 3, 2, 2), y) for _ in range(3)]
    fit(net, batches, Objective(PGDAT(THREAT, steps=1)), epochs=2, optimizer=optimizer, progress=False)
    equal_on_both({name: value.float() for name, value in net.state_dict().items()}, "fit, head")
    assert net.head.active.sum() < 12, "no prototypes merged"


def projections_see_one_batch() -> None:
    """Values, gradients and statistics with a part of a batch in each process are those of all of it in one."""
    torch.manual_seed(0)
    z = torch.randn(10, 8).relu()
    parts = [slice(0, 6), slice(6, 10)]
    own = parts[dist.get_rank()]
    joint = SoftTriple(2, 8, projection="mlp").project
    norms = [nn.BatchNorm1d(8, affine=layer.affine) if isinstance(layer, nn.BatchNorm1d) else None for layer in joint]
    alone = nn.Sequential(*(norm or copy.deepcopy(layer) for norm, layer in zip(norms, joint, strict=True)))
    mine, every = z[own].clone().requires_grad_(), z.clone().requires_grad_()
    seen, expected = joint(mine), alone(every)
    seen.sin().square().sum().backward()  # no loss of a part alone is that of the batch
    expected.sin().square().sum().backward()
    torch.testing.assert_close(seen, expected[own])
    torch.testing.assert_close(mine.grad, every.grad[own], rtol=1e-3, atol=1e-5)
    torch.testing.assert_close(joint.state_dict(), alone.state_dict())
    equal_on_both(joint.state_dict(), "projection")


def check() -> None:
    projections_see_one_batch()
    for name, (objective, forwards) in objectives().items():
        same_as_without_the_wrapper(name, objective, forwards)
    fit_keeps_processes_together()
