"""The precision of attacks is part of a run: chosen once, said, kept, and gone on with."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from protoat import Objective, fit
from protoat.attacks import Attack, DeepFool, timed_precision
from protoat.attacks.precision import present_precision
from protoat.methods import AWP, PGDAT, AdversarialTraining, FreeAT, Method, NuAT, Standard
from protoat.pretraining import RoCL
from protoat.threats import Linf
from protoat.training import parameter_groups

BATCHES = [(torch.rand(8, 1, 4, 4), torch.arange(8) % 2) for _ in range(3)]


class Noting(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layer = nn.Linear(16, 2)
        self.seen: set[tuple[bool, torch.dtype]] = set()

    def forward(self, x: Tensor) -> Tensor:
        logits = self.layer(x.flatten(1))
        self.seen.add((self.training, logits.dtype))
        return logits


def run(out: Path | None = None, epochs: int = 2, goal: Objective | None = None, **options: Any) -> Noting:
    net, goal = Noting(), goal or Objective(PGDAT(Linf(0.1), steps=4))
    optimizer = torch.optim.SGD(parameter_groups(net, goal, lr=0.1))
    fit(net, BATCHES, goal, epochs=epochs, optimizer=optimizer, out=out, progress=False, **options)
    return net


def test_it_is_float32_unless_asked() -> None:
    assert {dtype for _, dtype in run().seen} == {torch.float32}


def test_attacks_are_bfloat16_and_weights_learn_in_float32() -> None:
    net = run(attack_precision="bf16")
    assert {dtype for training, dtype in net.seen if training} == {torch.float32}
    assert {dtype for training, dtype in net.seen if not training} == {torch.bfloat16}
    assert present_precision() == "fp32"


def test_validation_attacks_end_in_float32_and_judge_in_it() -> None:
    net = run(attack_precision="bf16", validation=BATCHES)
    assert (False, torch.float32) in net.seen


@pytest.mark.parametrize("faster", ["bf16", "fp32"])
def test_auto_takes_what_is_faster_says_it_and_goes_on_with_it(
    faster: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(timed_precision, "faster_precision", lambda one_pass, device: (one_pass(), (faster, 0.5))[1])
    with caplog.at_level(logging.INFO):
        net = run(tmp_path / "run", attack_precision="auto")
    assert f"attacks run in {faster}: a pass in bfloat16 takes 0.50 of one in float32 here" in caplog.text
    assert ((False, torch.bfloat16) in net.seen) == (faster == "bf16")
    assert torch.equal(net.layer.weight, run(attack_precision=faster).layer.weight)
    other = "fp32" if faster == "bf16" else "bf16"
    monkeypatch.setattr(timed_precision, "faster_precision", lambda one_pass, device: (other, 2.0))
    run(tmp_path / "run", attack_precision="auto")  # done; on a machine where it is otherwise
    with pytest.raises(ValueError, match=f"attack_precision {faster} there, {other} here"):
        run(tmp_path / "run", attack_precision=other)


@pytest.mark.parametrize("method", [Standard, FreeAT, partial(AdversarialTraining, DeepFool(Linf(0.1)))])
def test_auto_times_nothing_where_no_attack_is_for_bfloat16(
    method: Callable[[Linf], Method], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.delattr(timed_precision, "faster_precision")
    with caplog.at_level(logging.INFO):
        net = run(
            goal=Objective(method() if isinstance(method, partial) else method(Linf(0.1))), attack_precision="auto"
        )
    assert "attacks run in" not in caplog.text
    assert {dtype for _, dtype in net.seen} == {torch.float32}


@pytest.mark.parametrize("method", [partial(AWP, Linf(0.1)), partial(NuAT, Linf(0.1)), partial(RoCL, Linf(0.1))])
def test_auto_finds_the_attacks_of_methods(method: Callable[[], Method]) -> None:
    attack = method().attack
    assert isinstance(attack, Attack) and attack.gradient_steps is not None


def test_the_record_of_a_run_names_bfloat16(tmp_path: Path) -> None:
    for precision, said in (("fp32", None), ("bf16", "bf16")):
        run(tmp_path / precision, attack_precision=precision)
        lines = (tmp_path / precision / "metrics.jsonl").read_text().splitlines()
        assert [json.loads(line).get("attack_precision") for line in lines] == [said, said]


def test_the_real_probe_measures_this_network() -> None:
    assert run(attack_precision="auto").layer.weight.isfinite().all()


def test_another_word_is_refused() -> None:
    with pytest.raises(ValueError, match="attack_precision='half' is unknown; write 'fp32', 'bf16' or 'auto'"):
        run(attack_precision="half")
