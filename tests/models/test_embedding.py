from __future__ import annotations

import copy
import threading
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torchvision
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from protoat.models import with_embedding


class Net(nn.Module):
    """A user's network: maps, pooled by hand, a hidden layer that the next one changes in place, a head."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 6, 3)
        self.hidden = nn.Linear(6, 5)
        self.relu = nn.ReLU(inplace=True)
        self.head = nn.Linear(5, 2)
        self.unused = nn.Linear(1, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.relu(self.hidden(self.conv(x).mean((2, 3)))))

    def parts(self, x: Tensor) -> tuple[Tensor, Tensor]:
        maps = self.conv(x)
        return maps.mean((2, 3)), self.hidden(maps.mean((2, 3)))


@pytest.fixture
def net() -> Net:
    return Net()


def images() -> Tensor:
    return torch.rand(4, 3, 8, 8)


def test_maps_are_pooled_and_vectors_taken_before_they_change(net: Net) -> None:
    x = images()
    pooled, hidden = net.parts(x)
    torch.testing.assert_close(with_embedding(net, "conv")(x).embedding, pooled)
    torch.testing.assert_close(with_embedding(net, "hidden")(x).embedding, hidden)
    assert (hidden < 0).any()
    torch.testing.assert_close(with_embedding(net, "hidden")(x).logits, net(x))


def test_torchvision_networks_work_at_once() -> None:
    network = torchvision.models.resnet18(num_classes=3).eval()
    model = with_embedding(network, example=torch.zeros(1, 3, 32, 32))
    assert model.embedding_dim == 512
    output = model(torch.rand(2, 3, 32, 32))
    torch.testing.assert_close(network.fc(output.embedding), output.logits)


def test_pixels_are_normalised_in_front(net: Net) -> None:
    x = images()
    model = with_embedding(net, "hidden", mean=[0.5] * 3, std=[0.25] * 3)
    torch.testing.assert_close(model(x).logits, net((x - 0.5) / 0.25))


def test_embedding_size_is_known_from_an_example_or_after_a_forward(net: Net) -> None:
    network = nn.Sequential(nn.Flatten(), nn.BatchNorm1d(4), nn.Dropout(), nn.Linear(4, 2))
    network[1].eval()
    modes = [part.training for part in network.modules()]
    model = with_embedding(network, "2", example=torch.rand(1, 1, 2, 2))
    assert model.embedding_dim == 4
    assert [part.training for part in network.modules()] == modes
    assert model.training
    assert network[1].num_batches_tracked == 0
    lazy = with_embedding(net, "hidden")
    assert lazy.embedding_dim is None
    lazy(images())
    assert lazy.embedding_dim == 5


def test_two_forwards_before_one_backward_do_not_mix(net: Net) -> None:
    model, one, two = with_embedding(net, "hidden"), images().requires_grad_(), images().requires_grad_()
    first, second = model(one), model(two)
    torch.testing.assert_close(first.embedding, net.parts(one)[1])
    torch.testing.assert_close(second.embedding, net.parts(two)[1])
    of_one, of_two = torch.autograd.grad(first.embedding.square().sum(), (one, two), allow_unused=True)
    assert of_one.abs().sum() > 0
    assert of_two is None


def test_gradient_goes_through_the_embedding(net: Net) -> None:
    model = with_embedding(net, "hidden")
    model(images()).embedding.sum().backward()
    assert net.hidden.weight.grad is not None
    assert net.conv.weight.grad is not None
    assert net.head.weight.grad is None


def test_a_copy_stands_alone(net: Net) -> None:
    model, x = with_embedding(net, "hidden"), images()
    expected = model(x)
    twin = copy.deepcopy(model)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
    torch.testing.assert_close(twin(x), expected)
    assert model(x).embedding.abs().sum() == 0
    assert twin.module is not net


def test_state_comes_back(net: Net) -> None:
    model, x = with_embedding(net, "hidden", mean=[0.1] * 3), images()
    other = with_embedding(Net(), "hidden", mean=[0.9] * 3)
    other.load_state_dict(model.state_dict())
    assert all(torch.equal(a, b) for a, b in zip(other(x), model(x), strict=True))


def test_wrapping_again_and_calling_the_bare_module_are_harmless(net: Net) -> None:
    outer, other, x = with_embedding(net, "hidden"), with_embedding(net, "conv"), images()
    net(x)
    assert outer._captured.outputs is None
    assert outer(x).embedding.shape == (4, 5)
    assert other(x).embedding.shape == (4, 6)


def test_threads_do_not_mix() -> None:
    barrier = threading.Barrier(2)

    class Waits(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            barrier.wait(timeout=10)
            return x

    model = with_embedding(nn.Sequential(nn.Flatten(), Waits(), nn.Identity(), Waits()), "2")
    got: dict[float, Any] = {}

    def run(value: float) -> None:
        got[value] = [model(torch.full((2, 1, 1, 1), value)).embedding for _ in range(20)]

    threads = [threading.Thread(target=run, args=(value,)) for value in (1.0, 2.0)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all((e == value).all() for value, embeddings in got.items() for e in embeddings)
    assert len(got) == 2


def test_it_compiles_without_a_break(net: Net) -> None:
    torch._dynamo.reset()
    model, x = with_embedding(net, "hidden"), images()
    compiled = torch.compile(model, fullgraph=True, backend="eager")
    torch.testing.assert_close(compiled(x), model(x))
    torch.testing.assert_close(compiled(x + 1), model(x + 1))


@pytest.fixture
def process_group(tmp_path: Path) -> Iterator[None]:
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    yield
    dist.destroy_process_group()


@pytest.mark.usefixtures("process_group")
def test_it_works_inside_distributed_data_parallel(net: Net) -> None:
    del net.unused
    model, x = with_embedding(net, "hidden"), images()
    expected = model(x)
    wrapped = DistributedDataParallel(model)
    got = wrapped(x)
    torch.testing.assert_close(got, expected)
    (got.logits.sum() + got.embedding.sum()).backward()
    assert net.hidden.weight.grad is not None


def test_an_object_with_logits_will_do() -> None:
    class Fancy(Net):
        def forward(self, x: Tensor) -> Any:
            return SimpleNamespace(logits=super().forward(x), loss=None)

    assert with_embedding(Fancy(), "hidden")(images()).logits.shape == (4, 2)


def test_an_unknown_layer_is_told_with_the_nearest_name_first(net: Net) -> None:
    with pytest.raises(ValueError, match=r"layer='hiden' is not in the module; it has 'hidden', .*'conv'"):
        with_embedding(net, "hiden")
    with pytest.raises(ValueError, match=r"it has 'layer4.0.conv1', .* and \d+ more$"):
        with_embedding(torchvision.models.resnet18(), "layer4.conv1")
    with pytest.raises(ValueError, match="it has no layers"):
        with_embedding(nn.Flatten(), "avgpool")


def test_a_layer_that_gives_no_embedding_is_told(net: Net) -> None:
    with pytest.raises(ValueError, match="layer 'unused' did not run"):
        with_embedding(net, "unused")(images())
    recurrent = nn.Sequential(nn.LSTM(3, 3))
    with pytest.raises(ValueError, match="layer '0' gave tuple, expected a tensor"):
        with_embedding(recurrent, "0")(torch.rand(2, 4, 3))
    folded = nn.Sequential(nn.Flatten(0, 1), nn.Identity(), nn.Flatten(), nn.Unflatten(0, (2, 3)), nn.Flatten())
    with pytest.raises(ValueError, match="layer '1' gave 6 rows for 2 images"):
        with_embedding(folded, "1")(torch.rand(2, 3, 4, 4))


def test_a_module_without_logits_is_told() -> None:
    class Pair(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.flat = nn.Flatten()

        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            return self.flat(x), x

    with pytest.raises(ValueError, match="the model returned a tuple, expected logits"):
        with_embedding(Pair(), "flat")(images())
