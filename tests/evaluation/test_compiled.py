"""Evaluation with compiled passes of attacks: the same results, few graphs, said in the report."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from protoat.attacks import PGD, DeepFool, Square, Transfer
from protoat.errors import UserError
from protoat.evaluation import evaluate
from protoat.evaluation.compiled import CompiledNetwork
from protoat.evaluation.folding import FoldedBatchNorm
from protoat.evaluation.micro_batches import MicroBatched
from protoat.threats import Linf
from tests.compiling import counted

from .small import Kept, digits

THREAT = Linf(0.1)


def test_two_graphs_serve_attacks_that_images_leave_and_the_last_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    """One graph of passes with gradient, one of passes without."""
    graphs = counted(monkeypatch)
    net, data = digits(10, 53)
    attacks = {
        "pgd": PGD(THREAT, steps=4),
        "restarts": PGD(Linf(0.2), steps=4, restarts=4),
        "square": Square(THREAT, queries=30),
        "deepfool": DeepFool(THREAT, steps=4),  # goes back through a pass once for each class
    }
    exact = evaluate(net, data, attacks, batch_size=20)
    assert graphs.frame_count == 0
    found = evaluate(net, data, attacks, batch_size=20, compile=True)
    assert graphs.frame_count == 2
    assert 0 < exact["restarts"].count.correct < 20  # of 53, so batches became smaller than 16
    for name in attacks:
        assert found[name].parameters == exact[name].parameters | {"compiled": True}
        assert torch.equal(found[name].correct_mask, exact[name].correct_mask)


def assert_same_images(net: nn.Module, x: Tensor, y: Tensor) -> None:
    """Nine images are filled up to sixteen, whose own gradients must not change."""
    network = MicroBatched(net)
    folded = FoldedBatchNorm(network, x[:4])
    compiled = CompiledNetwork(network, folded, x[:4], batch_size=20, found=())
    attack, kept = PGD(Linf(0.05), steps=3), net.state_dict()
    with folded.in_place():
        exact = attack.perturb(network, x, y)
    with compiled.in_place():
        found = attack.perturb(network, x, y)
    assert network.network is net and folded.count == 2
    assert all(torch.equal(value, kept[name]) for name, value in net.state_dict().items())
    # The sign of a gradient that is 0 up to rounding may turn.
    assert ((found - exact).abs() < 1e-5).float().mean() > 0.99


def test_adversarial_images_are_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    counted(monkeypatch)
    net, data = digits(10, 9)
    assert_same_images(net, data.pixels(torch.arange(9), torch.device("cpu")), data.labels)


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="compiles for a CPU, which takes g++")
def test_adversarial_images_of_the_real_compiler_are_the_same() -> None:
    torch._dynamo.reset()
    net, data = digits(10, 9)
    assert_same_images(net, data.pixels(torch.arange(9), torch.device("cpu")), data.labels)


def test_attacks_on_batch_statistics_or_another_network_run_as_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    graphs = counted(monkeypatch)
    net, data = digits(10, 30)
    surrogate, _ = digits(10)
    attacks = {
        "batch": PGD(THREAT, steps=2, bn="train_frozen"),
        "transfer": Transfer(PGD(THREAT, steps=2), surrogate, name="itself"),
    }
    exact = evaluate(net, data, attacks)
    found = evaluate(net, data, attacks, compile=True)
    assert graphs.frame_count == 0
    for name in attacks:
        assert found[name].parameters == exact[name].parameters
        assert torch.equal(found[name].correct_mask, exact[name].correct_mask)


def test_the_ninth_network_is_compiled_too(monkeypatch: pytest.MonkeyPatch) -> None:
    graphs = counted(monkeypatch, "eager")
    _, data = digits(10, 30)
    for number in range(1, 10):
        net = nn.Sequential(nn.Flatten(), nn.Linear(64, number), nn.ReLU(), nn.Linear(number, 10)).eval()
        evaluate(net, data, {"pgd": PGD(THREAT, steps=1)}, compile=True)
        assert graphs.frame_count == number


class Centred(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        logits = x.flatten(1)[:, 20:30]
        return logits - logits.mean(0)


class Random(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        logits = x.flatten(1)[:, 20:30]
        return logits + torch.rand_like(logits)


@pytest.mark.parametrize(("kind", "reason"), [(Centred, "changes with the batch"), (Random, "is random")])
def test_networks_that_further_images_may_change_are_refused(kind: type[nn.Module], reason: str) -> None:
    _, data = digits(10, 30)
    with pytest.raises(UserError, match=f"leave out compile, which adds images to small batches: .*{reason}"):
        evaluate(kind().eval(), data, {"pgd": PGD(THREAT)}, compile=True)


def test_what_the_compiler_refuses_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from torch._inductor import config

    torch._dynamo.reset()
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr(config.cpp, "cxx", ("no-such-compiler",))
    net, data = digits(10, 30)
    with pytest.raises(UserError, match=r"cannot be compiled here: .*no-such-compiler.* leave out compile") as caught:
        evaluate(net, data, {"pgd": PGD(THREAT)}, compile=True)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 400


def test_outcomes_that_were_saved_are_kept_apart_and_serve_again(monkeypatch: pytest.MonkeyPatch) -> None:
    counted(monkeypatch, "eager")
    net, data = digits(10, 20)
    saved = Kept()
    for flag, entries in ((False, 2), (True, 3), (True, 3), (False, 3)):
        evaluate(net, data, {"pgd": PGD(THREAT, steps=2)}, compile=flag, saved=saved)
        assert len(saved) == entries


def test_memory_that_runs_out_is_shared_out_here_too(monkeypatch: pytest.MonkeyPatch) -> None:
    graphs = counted(monkeypatch, "eager")
    net, data = digits(10, 53)
    exact = evaluate(net, data, {"pgd": PGD(THREAT, steps=3)}, batch_size=53)
    forward = MicroBatched.forward

    def short_of_memory(self: MicroBatched, x: Tensor) -> object:
        if self.size is None and len(x) > 40:
            raise torch.OutOfMemoryError
        return forward(self, x)

    monkeypatch.setattr(MicroBatched, "forward", short_of_memory)
    found = evaluate(net, data, {"pgd": PGD(THREAT, steps=3)}, batch_size=53, compile=True)
    assert torch.equal(found["pgd"].correct_mask, exact["pgd"].correct_mask)
    assert graphs.frame_count <= 2
