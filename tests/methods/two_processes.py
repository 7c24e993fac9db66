"""What only some methods hold in two processes that train together; run by `contracts/two_processes.py`.

Every check is on values that both processes have exchanged, so one failure ends both with an error.
"""

from __future__ import annotations

from functools import partial

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from protoat import Objective
from protoat.data import Augment, ImageData, ImageLoader
from protoat.methods import ATTA, AWP, CFA, FGSMPGI, BiaMAT, Method
from protoat.threats import Linf
from protoat.training import fit, parameter_groups
from protoat.types import Output
from tests.two_processes import equal_on_both

THREAT = Linf(0.1)
AUXILIARY = ImageData(
    torch.randint(256, (20, 3, 4, 4), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)),
    torch.arange(20) % 4,
    tuple("abcd"),
)
METHODS = {
    "CFA": partial(CFA, start_epoch=1, steps=1),
    "BiaMAT": partial(BiaMAT, auxiliary=AUXILIARY, warmup_epochs=1, steps=1),
}


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Flatten(), nn.Linear(48, 8), nn.BatchNorm1d(8), nn.ReLU())
        self.head = nn.Linear(8, 2)

    def forward(self, x: Tensor) -> Output:
        embedding = self.body(x)
        return Output(self.head(embedding), embedding)


def awp_moves_both_alike() -> None:
    """On different images; the moved weights, not only the ones after the step."""
    torch.manual_seed(0)
    model = DistributedDataParallel(Net(), broadcast_buffers=False)
    before = {name: value.detach().clone() for name, value in model.module.named_parameters()}
    x = torch.rand(6, 3, 4, 4, generator=torch.Generator().manual_seed(dist.get_rank()))
    running = AWP(THREAT, gamma=0.3).updates(model, x, torch.tensor([0, 1, 0, 1, 1, 0]))
    next(running)
    moved = dict(model.module.named_parameters())
    assert not torch.equal(moved["head.weight"], before["head.weight"])
    equal_on_both(moved, "AWP")
    running.close()


def what_is_measured_is_common(name: str, method: Method) -> None:
    """The rates of classes, the threshold of the gate, and the weights that follow from them."""
    torch.manual_seed(dist.get_rank())
    y = torch.tensor([0, 1, 0, 1])
    net, objective = Net(), Objective(method)
    optimizer = torch.optim.SGD(parameter_groups(net, objective, lr=0.05))
    batches = [(torch.rand(4, 3, 4, 4), y) for _ in range(3)]
    fit(net, batches, objective, epochs=3, optimizer=optimizer, progress=False)
    equal_on_both(net.state_dict(), name)
    equal_on_both({str(i): value for i, value in enumerate(method.parameters())}, name)
    common = {key: value for key, value in method.state_dict().items() if key in ("rates", "threshold")}
    assert common
    equal_on_both(common, name)


def what_is_kept_of_images_is_exchanged(method: ATTA | FGSMPGI) -> None:
    """After each epoch both know of every image what either has found, though each saw one half."""
    torch.manual_seed(0)
    rank, net, objective = dist.get_rank(), Net(), Objective(method)
    optimizer = torch.optim.SGD(parameter_groups(net, objective, lr=0.05))
    augment = Augment(padding=1, flip=True)
    options = {"batch_size": 5, "origins": True, "rank": rank, "world_size": 2, "augment": augment}
    loader = ImageLoader(AUXILIARY, **options)
    for epoch in range(3):
        for x, y, origin in loader:
            for terms in objective.losses(net, x, y % 2, origin):
                optimizer.zero_grad()
                terms.total.backward()
                optimizer.step()
        seen = (method.kept.state_dict()["written"] == 2).sum() if epoch == 0 else 10
        assert int(seen) == 10
        method.end_epoch(net)
        state = method.kept.state_dict()
        equal_on_both(state, type(method).__name__)
        assert bool((state["written"] == 1).all()) and bool((state["perturbation"].flatten(1) != 0).any(1).all())


def check() -> None:
    for kept in (ATTA(THREAT), FGSMPGI(THREAT)):
        what_is_kept_of_images_is_exchanged(kept)

    awp_moves_both_alike()
    for name, build in METHODS.items():
        what_is_measured_is_common(name, build(THREAT))
