"""Evaluation with passes of attacks in bfloat16: judged in float32, said in the report, kept apart."""

from __future__ import annotations

import json
from collections.abc import Sequence

import pytest
import torch
from torch import Tensor, nn

from protoat.attacks import PGD, Attack, AutoAttack, DeepFool, Transfer
from protoat.data import Digits
from protoat.evaluation import attack_precision as module
from protoat.evaluation import evaluate
from protoat.threats import L1, L2, Linf, ThreatModel
from tests.contracts import parts
from tests.contracts import test_attack_contract as of_attacks

from .small import Kept

THREAT = Linf(0.1)
ATTACKS = {"pgd20": PGD(THREAT, steps=20), "deepfool": DeepFool(THREAT, steps=5)}


class Noting(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.net = parts.trained(classes=10)[0]
        self.types: list[tuple[bool, torch.dtype]] = []

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.net(x).logits
        self.types.append((x.requires_grad, logits.dtype))
        return logits


def test_it_is_judged_in_float32_and_says_what_it_did() -> None:
    data, model = Digits().load("test"), Noting().eval()
    exact = evaluate(model, data, ATTACKS, threat=THREAT, limit=200)
    assert {dtype for _, dtype in model.types} == {torch.float32}
    model.types.clear()
    coarse = evaluate(model, data, ATTACKS, threat=THREAT, limit=200, attack_precision="bf16")
    assert torch.bfloat16 in {dtype for gradient, dtype in model.types if gradient}
    assert model.types.count((False, torch.bfloat16)) == 1  # a look at what bfloat16 resolves; no judgement
    assert abs(coarse["pgd20"].accuracy - exact["pgd20"].accuracy) <= 0.02
    assert coarse["pgd20"].parameters == exact["pgd20"].parameters | {"precision": "bf16"}
    assert "precision" not in exact["pgd20"].parameters
    assert coarse["deepfool"].parameters == exact["deepfool"].parameters
    assert torch.equal(coarse["deepfool"].correct_mask, exact["deepfool"].correct_mask)
    json.dumps(coarse.to_json())


@pytest.mark.parametrize("threat", [Linf(0.1), L1(1.5)], ids=["linf", "l1"])
def test_autoattack_says_that_it_was_coarse(threat: ThreatModel) -> None:
    model, data = Noting().eval(), Digits().load("test")
    first, second = (
        evaluate(
            model,
            data,
            {"aa": of_attacks.build(AutoAttack, threat)},
            threat=threat,
            limit=4,
            attack_precision=precision,
        )["aa"]
        for precision in ("fp32", "bf16")
    )
    assert second.parameters == first.parameters | {"precision": "bf16"}
    assert second.count.correct <= first.count.correct


@pytest.mark.parametrize("faster", ["bf16", "fp32"])
def test_auto_takes_what_is_faster_and_keeps_to_it(faster: str, monkeypatch: pytest.MonkeyPatch) -> None:
    data, kept = Digits().load("test"), Kept()
    times = iter([(faster, 0.5), ("bf16" if faster == "fp32" else "fp32", 2.0)])
    monkeypatch.setattr(module, "timed_precision", lambda *_: next(times))
    for attack in ("square20", "pgd4", "pgd8"):  # times nothing, times, and goes on
        found = evaluate(Noting().eval(), data, [attack], threat=THREAT, limit=8, attack_precision="auto", saved=kept)[
            attack
        ]
        assert found.parameters.get("precision", "fp32") == ("fp32" if attack == "square20" else faster)


def test_auto_is_float32_for_searches_of_a_model_without_gradients() -> None:
    class Scores(Noting):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x).detach()

    model = Scores().eval()
    evaluate(model, Digits().load("test"), ["square20"], threat=THREAT, limit=8, attack_precision="auto")
    assert {dtype for _, dtype in model.types} == {torch.float32}


def test_outcomes_that_were_saved_in_another_precision_do_not_serve() -> None:
    kept: dict[str, tuple[str, float, Sequence[str]]] = {}

    class Saved:
        def get(self, key: str) -> tuple[str, float, Sequence[str]] | None:
            return kept.get(key)

        def put(self, key: str, outcomes: str, seconds: float, alarms: Sequence[str]) -> None:
            kept[key] = outcomes, seconds, alarms

    model, data = Noting().eval(), Digits().load("test")
    for precision, keys in (("fp32", 2), ("bf16", 3), ("fp32", 3)):
        evaluate(model, data, {"pgd": PGD(THREAT, steps=4)}, limit=20, saved=Saved(), attack_precision=precision)
        assert len(kept) == keys


def off_centre(scale: float = 5, offset: float = 8) -> tuple[nn.Module, tuple[Tensor, Tensor]]:
    """A network whose logits are far from 0 and close to each other, so that bfloat16 often misjudges, with images."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Flatten(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 4))
    for parameter in net.parameters():
        parameter.data *= scale
    net[3].bias.data += offset
    x = torch.rand(300, 1, 8, 8)
    with torch.no_grad():
        return net.eval(), (x, net(x).argmax(1))


RESOLVED, REFUSED = (5, 8), (3, 10)


@pytest.mark.parametrize(("case", "right"), [(RESOLVED, 0.985), (REFUSED, 0.98)])
def test_bfloat16_misjudges_here(case: tuple[float, float], right: float) -> None:
    net, (x, y) = off_centre(*case)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        assert float((net(x).argmax(1) == y).float().mean()) < right


@pytest.mark.parametrize("threat", [Linf(0.06), L2(0.4)], ids=["linf", "l2"])
@pytest.mark.parametrize("kind", of_attacks.ATTACKS, ids=lambda kind: kind.__name__)
def test_no_attack_leaves_more_images_right(kind: type[Attack], threat: ThreatModel) -> None:
    net, data = off_centre()
    attack = Transfer(PGD(threat, steps=8), net, name="itself") if kind is Transfer else of_attacks.build(kind, threat)
    exact, coarse = (
        evaluate(net, data, {"it": attack}, attack_precision=precision)["it"] for precision in ("fp32", "bf16")
    )
    if "precision" in coarse.parameters:
        assert coarse.count.correct <= exact.count.correct + 6
    else:
        assert torch.equal(coarse.correct_mask, exact.correct_mask)


@pytest.mark.parametrize("case", [RESOLVED, REFUSED], ids=["resolved", "refused"])
@pytest.mark.parametrize("name", ["pgd20", "mim10", "deepfool20", "fab20", "apgd20", "square100"])
def test_neither_do_attacks_of_usual_length(name: str, case: tuple[float, float]) -> None:
    net, data = off_centre(*case)
    exact, coarse = (
        evaluate(net, data, [name], threat=Linf(0.06), attack_precision=precision)[name].count.correct
        for precision in ("fp32", "bf16")
    )
    assert coarse <= exact + 6
    if case == REFUSED:
        assert coarse == exact


def test_one_step_is_float32_and_says_so() -> None:
    net, data = off_centre()
    exact, coarse = (
        evaluate(net, data, ["fgsm"], threat=THREAT, attack_precision=precision)["fgsm"]
        for precision in ("fp32", "bf16")
    )
    assert exact.parameters == coarse.parameters
    assert torch.equal(exact.correct_mask, coarse.correct_mask)


def test_another_word_is_refused() -> None:
    with pytest.raises(ValueError, match="attack_precision='fp16' is unknown; write 'fp32', 'bf16' or 'auto'"):
        evaluate(Noting().eval(), Digits().load("test"), ATTACKS, threat=THREAT, attack_precision="fp16")
