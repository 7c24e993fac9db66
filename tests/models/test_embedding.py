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
            barrier.wait(timeout=600)
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


def swin() -> nn.Module:
    return torchvision.models.SwinTransformer([4, 4], 24, [1, 1], [2, 2], [4, 4], num_classes=5).eval()


def vit() -> nn.Module:
    return torchvision.models.VisionTransformer(32, 8, 2, 2, 24, 48, num_classes=5).eval()


def convnext() -> nn.Module:
    settings = [
        torchvision.models.convnext.CNBlockConfig(16, 24, 1),
        torchvision.models.convnext.CNBlockConfig(24, None, 1),
    ]
    return torchvision.models.ConvNeXt(settings, num_classes=5).eval()


def maxvit() -> nn.Module:
    return torchvision.models.MaxVit((64, 64), 8, 2, [8, 16], [1, 1], 8, 0.0, num_classes=5).eval()


def colours(count: int = 3, side: int = 32) -> Tensor:
    return torch.rand(count, 3, side, side)


@pytest.mark.parametrize(
    ("make", "head", "side"),
    [
        (swin, lambda net: net.head, 32),
        (vit, lambda net: net.heads.head, 32),
        (convnext, lambda net: net.classifier[2], 32),
        (maxvit, lambda net: net.classifier[-1], 64),
        (lambda: torchvision.models.resnet18(num_classes=5).eval(), lambda net: net.fc, 32),
        (lambda: torchvision.models.mobilenet_v3_small(num_classes=5).eval(), lambda net: net.classifier[-1], 32),
        (lambda: torchvision.models.densenet121(num_classes=5).eval(), lambda net: net.classifier, 32),
    ],
)
def test_without_a_name_it_is_what_the_last_linear_layer_takes(make: Any, head: Any, side: int) -> None:
    network = make()
    model, x = with_embedding(network).eval(), colours(side=side)
    for _ in range(2):  # watched, and then not
        output = model(x)
        torch.testing.assert_close(head(network)(output.embedding), network(x))
        torch.testing.assert_close(output.logits, network(x))
    assert model.embedding_dim == head(network).in_features


@pytest.mark.parametrize(
    ("layer", "expected"),
    [
        ("norm", lambda net, x: net.norm(net.features(x)).mean((1, 2))),
        ("permute", lambda net, x: net.norm(net.features(x)).mean((1, 2))),
        ("features", lambda net, x: net.features(x).mean((1, 2))),
        ("features.1", lambda net, x: net.features[:2](x).mean((1, 2))),
        ("features.0.0", lambda net, x: net.features[0][0](x).mean((2, 3))),
        ("flatten", lambda net, x: net.norm(net.features(x)).mean((1, 2))),
    ],
)
def test_maps_of_either_layout(layer: str, expected: Any) -> None:
    network, x = swin(), colours(side=64)
    model = with_embedding(network, layer).eval()
    torch.testing.assert_close(model(x).embedding, expected(network, x))
    torch.testing.assert_close(model(x).embedding, expected(network, x))


def test_maps_between_layers_of_either_layout() -> None:
    network, x = convnext(), colours(side=96)
    for layer, expected in (
        ("features", network.features(x).mean((2, 3))),
        ("features.1", network.features[:2](x).mean((2, 3))),  # ends in a permutation
        ("features.1.0.block.2", None),  # a norm between two permutations
    ):
        embedding = with_embedding(network, layer).eval()(x).embedding
        assert embedding.shape[1] == (16 if expected is None else expected.shape[1])
        if expected is not None:
            torch.testing.assert_close(embedding, expected)


def test_tokens_are_told_by_the_head_or_asked_for() -> None:
    network, x = vit(), colours()
    tokens = network.encoder(torch.cat([network.class_token.expand(3, -1, -1), network._process_input(x)], 1))
    torch.testing.assert_close(with_embedding(network, "encoder").eval()(x).embedding, tokens[:, 0])
    early = "encoder.layers.encoder_layer_0"
    with pytest.raises(ValueError, match=r"shape \(3, 17, 24\), .* write pool='tokens' or pool='cls'"):
        with_embedding(network, early).eval()(x)
    mean, first = (with_embedding(network, early, pool=pool).eval()(x).embedding for pool in ("tokens", "cls"))
    assert mean.shape == first.shape == (3, 24) and not torch.allclose(mean, first)
    with pytest.raises(ValueError, match="which pool='nchw' is not for"):
        with_embedding(network, early, pool="nchw").eval()(x)
    with pytest.raises(ValueError, match="pool='mean' is unknown; write 'nchw'"):
        with_embedding(network, early, pool="mean")  # type: ignore[arg-type]


def test_a_layout_that_cannot_be_told_is_asked_for() -> None:
    class Turns(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.permute(0, 3, 1, 2)

    square = nn.Sequential(nn.Conv2d(3, 8, 1), nn.Linear(8, 8), Turns(), nn.Flatten(), nn.Linear(512, 2))
    with pytest.raises(ValueError, match=r"shape \(2, 8, 8, 8\).* write pool='nchw' or pool='nhwc'"):
        with_embedding(square, "2")(torch.rand(2, 3, 8, 8))
    assert with_embedding(square, "2", pool="nhwc")(torch.rand(2, 3, 8, 8)).embedding.shape == (2, 8)
    with pytest.raises(ValueError, match="cannot be told"):  # three colours are no features
        with_embedding(nn.Sequential(nn.Identity(), nn.Flatten(), nn.Linear(192, 2)), "0")(torch.rand(2, 3, 8, 8))


class OfTimm(nn.Module):
    """The protocol of timm, with two heads whose mean is the answer, as in a distilled DeiT."""

    def __init__(self) -> None:
        super().__init__()
        self.patches, self.one, self.two = nn.Conv2d(3, 6, 8, 8), nn.Linear(6, 5), nn.Linear(6, 5)

    def forward_features(self, x: Tensor) -> Tensor:
        return self.patches(x).flatten(2).transpose(1, 2)

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        if pre_logits:
            return (x[:, 0] + x[:, 1]) / 2
        return (self.one(x[:, 0]) + self.two(x[:, 1])) / 2

    def forward(self, x: Tensor) -> Tensor:
        return self.forward_head(self.forward_features(x))


def test_two_heads_of_timm() -> None:
    network, x = OfTimm(), colours()
    for model in [with_embedding(network)] * 2:
        output = model(x)
        torch.testing.assert_close(output.logits, network(x))
        torch.testing.assert_close(output.embedding, network.forward_head(network.forward_features(x), pre_logits=True))


class OfHuggingFace(nn.Module):
    """A body that gives an object, and a head on what it pooled."""

    class Body(nn.Module):
        def __init__(self, pools: bool) -> None:
            super().__init__()
            self.patches, self.pools = nn.Conv2d(3, 6, 8, 8), pools

        def forward(self, x: Tensor) -> Any:
            hidden = self.patches(x).flatten(2).transpose(1, 2)
            return SimpleNamespace(last_hidden_state=hidden, pooler_output=hidden[:, 0].tanh() if self.pools else None)

    def __init__(self, pools: bool) -> None:
        super().__init__()
        self.body, self.classifier = self.Body(pools), nn.Linear(6, 5)

    def forward(self, x: Tensor) -> Any:
        found = self.body(x)
        pooled = found.last_hidden_state.mean(1) if found.pooler_output is None else found.pooler_output
        return SimpleNamespace(logits=self.classifier(pooled), loss=None)


@pytest.mark.parametrize("pools", [True, False])
@pytest.mark.parametrize("layer", [None, "body"])
def test_objects_of_hugging_face(pools: bool, layer: str | None) -> None:
    network, x = OfHuggingFace(pools), colours()
    found = network.body(x)
    expected = found.pooler_output if pools else found.last_hidden_state.mean(1)
    torch.testing.assert_close(with_embedding(network, layer)(x).embedding, expected)


def test_networks_of_timm_themselves() -> None:
    timm = pytest.importorskip("timm")
    for name in (
        "vit_tiny_patch16_224",
        "swin_tiny_patch4_window7_224",
        "convnext_atto",
        "deit_tiny_distilled_patch16_224",
    ):
        network, x = timm.create_model(name, num_classes=5).eval(), colours(side=224)
        output = with_embedding(network).eval()(x)
        expected = network.forward_head(network.forward_features(x), pre_logits=True)
        torch.testing.assert_close(output.embedding, expected)


def test_no_linear_head_asks_for_a_layer() -> None:
    network = nn.Sequential(nn.Conv2d(3, 5, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    with pytest.raises(ValueError, match=r"name the layer to embed by: .*'0'"):
        with_embedding(network)(colours())
    with pytest.raises(ValueError, match="pool='cls' is of a layer's output; name the layer"):
        with_embedding(vit(), pool="cls").eval()(colours())


def test_an_embedding_that_cannot_be_one_is_refused() -> None:
    class Zero(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return 0 * x + 1

    constant = nn.Sequential(nn.Flatten(), nn.Linear(192, 8), Zero(), nn.Linear(8, 2))
    x = torch.rand(3, 3, 8, 8)
    with pytest.raises(ValueError, match="layer '2' gave the same numbers for different images"):
        with_embedding(constant, "2")(x)
    model = with_embedding(constant, "2", example=torch.zeros(2, 3, 8, 8))  # alike, so nothing can be seen
    with pytest.raises(ValueError, match="the same numbers for different images"):
        model(x)
    wide = nn.Sequential(nn.Flatten(), nn.Linear(192, 2**17), nn.Linear(2**17, 2))
    with pytest.raises(ValueError, match="gave 131072 numbers for each image, too many"):
        with_embedding(wide, "1")(x)


def test_what_was_found_survives_copies_and_compilation() -> None:
    torch._dynamo.reset()
    model, x = with_embedding(swin(), "norm", example=colours()).eval(), colours()
    twin = copy.deepcopy(model)
    torch.testing.assert_close(twin(x), model(x))
    assert twin.pool == "nhwc" and twin.embedding_dim == 48
    net = nn.Sequential(nn.Flatten(), nn.Linear(12, 4), nn.ReLU(), nn.Linear(4, 2))
    automatic, small = with_embedding(net, example=torch.rand(2, 3, 2, 2)), torch.rand(4, 3, 2, 2)
    compiled = torch.compile(automatic, fullgraph=True, backend="eager")
    torch.testing.assert_close(compiled(small), automatic(small))
    torch.testing.assert_close(copy.deepcopy(automatic)(small), automatic(small))


@torch.no_grad()
def test_compilation_before_the_first_forward() -> None:
    torch._dynamo.reset()
    x = torch.rand(4, 3, 8, 8)
    net = nn.Sequential(nn.Conv2d(3, 6, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 5), nn.Linear(5, 2))
    pooled = net[:3](x)
    for model, expected in (
        (with_embedding(net), net[:4](x)),
        (with_embedding(net, "1"), pooled),
        (with_embedding(net, "0", pool="nchw"), pooled),
    ):
        compiled = torch.compile(model, backend="eager")
        for _ in range(2):
            torch.testing.assert_close(compiled(x).embedding, expected)
            torch.testing.assert_close(compiled(x).logits, net(x))
