"""Guards at every door: what is wrong with a model or its images is answered alike wherever they come in."""

from __future__ import annotations

import importlib
import io
import itertools
import json
import logging
import sys
import tempfile
import warnings
from collections import UserDict
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from protoat.attacks import APGD, APGDT, FAB, FABT, JSMA, PGD, AutoAttack, Square, UniformNoise
from protoat.attacks.examination import examine
from protoat.cli import main
from protoat.data import Digits, ImageData
from protoat.evaluation import evaluate
from protoat.evaluation.masking_audit import audit
from protoat.evaluation.threat_lint import lint
from protoat.functional.margins import dlr
from protoat.threats import Linf
from protoat.training.validation import Validation

from . import parts

THREAT = Linf(0.1)
PGD3 = PGD(THREAT, steps=3)
Wrap = Callable[[nn.Module], nn.Module]


class Through(nn.Module):
    """A network behind a function of its images, of its output, or both."""

    def __init__(
        self, network: nn.Module, before: Callable[[Tensor], Tensor] | None, after: Callable[[Tensor], Any] | None
    ) -> None:
        super().__init__()
        self.network = network
        self.before = before
        self.after = after

    def forward(self, x: Tensor) -> Any:
        logits = self.network(x if self.before is None else self.before(x)).logits
        return logits if self.after is None else self.after(logits)


def behind(after: Callable[[Tensor], Any], before: Callable[[Tensor], Tensor] | None = None) -> Wrap:
    return lambda network: Through(network, before, after).eval()


def before(function: Callable[[Tensor], Tensor]) -> Wrap:
    return lambda network: Through(network, function, None).eval()


class NoGrad(nn.Module):
    def __init__(self, network: nn.Module, context: Any) -> None:
        super().__init__()
        self.network = network
        self.context = context

    def forward(self, x: Tensor) -> Tensor:
        with self.context():
            return self.network(x).logits


class Held(nn.Module):
    """A network with batch norm in train mode, held where `eval()` does not look."""

    def __init__(self, network: nn.Module, hold: Callable[[nn.Module], Any], call: Callable[[Any], Any]) -> None:
        super().__init__()
        self.held = hold(network.train())
        self.call = call

    def forward(self, x: Tensor) -> Tensor:
        return self.call(self.held)(x).logits


class Plain:
    def __init__(self, network: nn.Module) -> None:
        self.network = network

    def answer(self, x: Tensor) -> Any:
        return self.network(x)


HIDING: dict[str, Wrap] = {
    "list": lambda net: Held(net, lambda n: [n], lambda h: h[0]).eval(),
    "dictionary": lambda net: Held(net, lambda n: {"a": {"b": n}}, lambda h: h["a"]["b"]).eval(),
    "closure": lambda net: Held(net, lambda n: lambda x, scale=1: n(x * scale), lambda h: h).eval(),
    "partial": lambda net: Held(net, lambda n: partial(lambda m, x: m(x), n), lambda h: h).eval(),
    "bound method": lambda net: Held(net, lambda n: n.forward, lambda h: h).eval(),
    "plain object": lambda net: Held(net, Plain, lambda h: h.answer).eval(),
    "method of a plain object": lambda net: Held(net, lambda n: Plain(n).answer, lambda h: h).eval(),
}

# What is found, and said alike by every door; the number stays, so it is a warning with this code.
FOUND: dict[str, tuple[Wrap, str]] = {
    "saturated": (behind(lambda z: 1000 * z), "saturated"),
    "far saturated": (behind(lambda z: 1e6 * z), "saturated"),
    "saturated log-probabilities": (behind(lambda z: (1000 * z).log_softmax(1)), "saturated"),
    "probabilities": (behind(lambda z: z.softmax(1)), "probabilities"),
    "noise": (before(lambda x: x + 0.1 * torch.randn_like(x)), "random"),
    "dropout that is forced": (behind(lambda z: F.dropout(z, 0.3, training=True)), "random"),
    "one draw for a batch": (behind(lambda z: z * (1 + torch.rand(()))), "batch"),
    "batch statistics": (before(lambda x: F.batch_norm(x, None, None, training=True)), "batch"),
    "batch norm without running ones": (
        lambda net: nn.Sequential(nn.BatchNorm2d(1, track_running_stats=False), parts.Logits(net)).eval(),
        "batch",
    ),
    "rounded pixels": (before(lambda x: (4 * x).round() / 4), "zero-gradient"),
    "logits of NaN for some": (
        behind(lambda z: z.masked_fill(z.argmax(1, keepdim=True) % 2 == 1, torch.nan)),
        "finite",
    ),
    **{f"in a {name}": (wrap, "unreached") for name, wrap in HIDING.items()},
}

# What passes no gradient: attacks along gradients are refused, all others measured.
CUT: dict[str, Wrap] = {
    "detach": behind(lambda z: z.detach()),
    "no_grad": lambda net: NoGrad(net, torch.no_grad),
    "inference_mode": lambda net: NoGrad(net, torch.inference_mode),
    "argmax": behind(lambda z: F.one_hot(z.argmax(1), 10).float()),
    "numpy": behind(lambda z: torch.from_numpy(z.detach().numpy().copy())),
}

# What is no answer of a classifier of ten classes: refused in a line.
REFUSED: dict[str, tuple[Wrap, str]] = {
    "tuple": (behind(lambda z: (z, z)), "returned a tuple"),
    "dictionary": (behind(lambda z: {"scores": z, "loss": 0}), "returned a dict with the keys scores, loss"),
    "one logit": (behind(lambda z: z[:, :1]), "one logit"),
    "a row too few": (behind(lambda z: z[1:] if len(z) > 1 else z), r"gives \(\d+, 10\) for \d+ images"),
    "no classes": (behind(lambda z: z.amax(1)), r"gives \("),
    "classes, not scores": (behind(lambda z: z.argmax(1, keepdim=True).expand(-1, 10)), "returns torch.int64"),
}


@pytest.fixture(scope="module")
def data() -> ImageData:
    whole = Digits().load("test")
    return whole.subset(torch.arange(40))


def ten() -> nn.Module:
    return parts.trained(classes=10)[0]


def by_attack(model: nn.Module, data: ImageData, caplog: pytest.LogCaptureFixture) -> str:
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        PGD3(model, data.images.float() / 255, data.labels)
    return "\n".join(str(warning.message) for warning in told)


def by_perturb(model: nn.Module, data: ImageData, caplog: pytest.LogCaptureFixture) -> str:
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        FAB(THREAT, steps=2).closest(model, data.images.float() / 255, data.labels)
    return "\n".join(str(warning.message) for warning in told)


def by_evaluate(model: nn.Module, data: ImageData, caplog: pytest.LogCaptureFixture) -> str:
    report = evaluate(model, data, {"pgd3": PGD3, "noise": UniformNoise(THREAT, draws=2)})
    assert json.loads(json.dumps(report.to_json()))["lint"] == [found._asdict() for found in report.findings]
    return "\n".join(f"{found.code}: {found.text}" for found in report.findings)


def by_validation(model: nn.Module, data: ImageData, caplog: pytest.LogCaptureFixture) -> str:
    caplog.clear()
    with caplog.at_level(logging.WARNING):
        Validation(data, PGD3, device=torch.device("cpu"))(model)
    return caplog.text


def by_lint(model: nn.Module, data: ImageData, caplog: pytest.LogCaptureFixture) -> str:
    return "\n".join(f"{found.code}: {found.text}" for found in lint(model, data, THREAT, {"pgd3": PGD3}))


def by_audit(model: nn.Module, data: ImageData, caplog: pytest.LogCaptureFixture) -> str:
    report = audit(model, data, THREAT, images=20, only=["C15", "C16"])
    return "\n".join(f"{found.code}: {found.text}" for found in report.findings)


def by_command_line(model: nn.Module, data: ImageData, caplog: pytest.LogCaptureFixture) -> str:
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        (Path(folder) / "held_model.py").write_text("MODEL = None\ndef build(): return MODEL\n")
        patch.syspath_prepend(folder)
        patch.delitem(sys.modules, "held_model", raising=False)
        patch.setattr(importlib.import_module("held_model"), "MODEL", model)
        usual = ["--data", "Digits", "--threat.eps", "0.1", "--n", "40", "--out", f"{folder}/out"]
        attacks = ["--attacks", "clean", "pgd3", "{class_path: UniformNoise, init_args: {draws: 2}}"]
        with redirect_stderr(io.StringIO()) as said, redirect_stdout(io.StringIO()):
            code = main(["evaluate", "--model", "held_model:build", *usual, *attacks])
        del sys.modules["held_model"]
        if code == 2:
            assert len(said.getvalue().splitlines()) == 1
            raise ValueError(said.getvalue())
        record = json.loads((Path(folder) / "out" / "evaluation.json").read_text())
    assert code == 0
    # That the budget is above the gap between classes is of the images, and said of any model.
    return "\n".join(f"{each['code']}: {each['text']}" for each in record["lint"] if each["severity"] != "note")


DOORS = {
    "command line": by_command_line,
    "attack": by_attack,
    "closest": by_perturb,
    "evaluate": by_evaluate,
    "validation": by_validation,
    "lint": by_lint,
    "audit": by_audit,
}
each_door = pytest.mark.parametrize("door", DOORS.values(), ids=DOORS.keys())


# Commands and audits look through `evaluate` and `lint`: one model of each code will do for them.
FIRST = {code: name for name, (_, code) in reversed(FOUND.items())}.values()
MET = [(name, door) for name in FOUND for door in DOORS if name in FIRST or door not in ("command line", "audit")]


@pytest.mark.parametrize(("name", "door"), MET)
def test_what_is_found_has_the_same_code(name: str, door: str, data: ImageData, caplog: Any) -> None:
    wrap, code = FOUND[name]
    model = wrap(ten())
    assert f"{code}: " in DOORS[door](model, data, caplog)


@each_door
def test_a_sound_model_is_not_spoken_of(door: Any, data: ImageData, caplog: Any) -> None:
    assert door(ten(), data, caplog) == ""


HOLDERS: dict[str, Callable[[Tensor], Any]] = {
    "dictionary": lambda z: {"logits": z, "features": z.flatten(0)},
    "mapping of a library": lambda z: UserDict(loss=None, logits=z),
    "named fields": lambda z: SimpleNamespace(logits=z),
}


@each_door
@pytest.mark.parametrize("holder", HOLDERS)
def test_outputs_that_hold_logits_are_taken(holder: str, door: Any, data: ImageData, caplog: Any) -> None:
    assert door(behind(HOLDERS[holder])(ten()), data, caplog) == ""


@each_door
@pytest.mark.parametrize("name", CUT)
def test_what_passes_no_gradient(name: str, door: Any, data: ImageData, caplog: Any) -> None:
    model = CUT[name](ten())
    try:
        said = door(model, data, caplog)
    except ValueError as error:
        assert door in (by_attack, by_perturb, by_validation)
        said = str(error)
    assert "no gradient comes from the model's logits back to the image" in said


@each_door
@pytest.mark.parametrize("name", REFUSED)
def test_what_is_no_answer(name: str, door: Any, data: ImageData, caplog: Any) -> None:
    wrap, message = REFUSED[name]
    with pytest.raises(ValueError, match=message):
        door(wrap(ten()), data, caplog)


@pytest.mark.parametrize("name", CUT)
def test_attacks_without_gradients_are_measured_all_the_same(name: str, data: ImageData) -> None:
    attacks = {"pgd3": PGD3, "aa": AutoAttack(THREAT), "square": Square(THREAT, queries=20)}
    report = evaluate(CUT[name](ten()), data, attacks)
    assert [*report.attacks] == ["clean", "square"]
    (found,) = [found for found in report.findings if found.code == "not-applicable"]
    assert found.text.startswith("pgd3, aa follow gradients")
    expected = evaluate(ten(), data, {"square": attacks["square"]})
    if name != "argmax":  # whose scores say less
        assert torch.equal(report["square"].correct_mask, expected["square"].correct_mask)
    with pytest.raises(KeyError, match="not applicable"):
        report["pgd3"]


@pytest.mark.parametrize("name", HIDING)
def test_hidden_networks_are_measured_in_eval_mode_and_left_as_they_were(name: str, data: ImageData) -> None:
    network = ten()
    expected = evaluate(network, data, {"pgd3": PGD3})
    model = HIDING[name](network)
    before = parts.world(network)
    found = evaluate(model, data, {"pgd3": PGD3})
    assert parts.differences(before, parts.world(network)) == []
    assert torch.equal(found["clean"].correct_mask, expected["clean"].correct_mask)
    assert abs(found["pgd3"].accuracy - expected["pgd3"].accuracy) <= 0.05  # batch norm is folded in one of the two


def test_classes_that_are_ruled_out_are_legal() -> None:
    """Ten logits, of which six are -inf: the same as the four alone."""
    network, x, y = parts.trained(count=48)
    masked = behind(lambda z: torch.cat([z, z.new_full((len(z), 6), -torch.inf)], 1))(network)
    for attack in (PGD3, APGD(THREAT, steps=5), Square(THREAT, queries=30), APGD(THREAT, steps=5, loss=dlr)):
        assert int(attack(masked, x, y).correct.sum()) == pytest.approx(int(attack(network, x, y).correct.sum()), abs=1)
    for attack in (APGDT(THREAT, steps=5), FAB(THREAT, steps=5), FABT(THREAT, steps=3)):
        assert 0 < int(attack(masked, x[:8], y[:8]).correct.sum()) <= 8
    assert not AutoAttack(Linf(0.6))(masked, x, y).correct.any()


@pytest.mark.parametrize("factor", [1000.0, 1e7])
def test_saturated_networks_fall_like_their_twins(factor: float) -> None:
    network, x, y = parts.trained(count=64)
    saturated = behind(lambda z: factor * z)(network)
    for attack in (PGD(THREAT, steps=1), PGD(THREAT, steps=10), APGD(THREAT, steps=10)):
        expected = int(attack(network, x, y).correct.sum())
        with pytest.warns(RuntimeWarning, match="saturated"):
            found = int(attack(saturated, x, y).correct.sum())
        assert found <= expected + 1
        assert expected < 64


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
def test_logits_of_any_precision(dtype: torch.dtype) -> None:
    network, x, y = parts.trained(count=24)
    other = behind(lambda z: z.to(dtype))(network)
    parts_of_autoattack = (APGDT(THREAT, steps=4), FABT(THREAT, steps=2), Square(THREAT, queries=20))
    for attack in (PGD3, APGD(THREAT, steps=4), *parts_of_autoattack):
        result = attack(other, x, y)
        assert result.x_adv.dtype == torch.float32
        assert int(result.correct.sum()) == pytest.approx(int(attack(network, x, y).correct.sum()), abs=2)
    assert not AutoAttack(Linf(0.6))(other, x, y).correct.any()  # all fall to its first part


@pytest.mark.filterwarnings("ignore:None of the inputs have requires_grad:UserWarning")
def test_reentrant_checkpoints() -> None:
    class Checkpointed(nn.Module):
        def __init__(self, network: nn.Module) -> None:
            super().__init__()
            self.network = network

        def forward(self, x: Tensor) -> Tensor:
            features = torch.utils.checkpoint.checkpoint(self.network.features, x, use_reentrant=True)
            return self.network.head(features)

    network, x, y = parts.trained()
    before = parts.world(network)
    for attack in (PGD3, APGD(THREAT, steps=3), FAB(THREAT, steps=3), JSMA(THREAT)):
        assert torch.equal(attack(Checkpointed(network).eval(), x, y).x_adv, attack(network, x, y).x_adv)
    assert parts.differences(before, parts.world(network)) == []


class TestRequirements:
    """Said before any attack of an evaluation has run."""

    def test_shapes(self, data: ImageData) -> None:
        flat = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
        for attack in (Square(THREAT), AutoAttack(THREAT)):
            with pytest.raises(ValueError, match=r"Square needs images of shape \(B, C, H, W\), got \(40, 64\)"):
                attack(flat, data.images.float().flatten(1) / 255, data.labels)

    def test_classes(self) -> None:
        network, x, y = parts.trained(classes=2)
        with pytest.raises(ValueError, match=r"APGD cannot be run on this model: .*at least 3 classes"):
            APGD(THREAT, loss=dlr)(network, x, y)

    def test_memory(self) -> None:
        model = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 4))
        with pytest.raises(ValueError, match=r"JSMA .*150528 pixels.*pairs"):
            JSMA(THREAT)(model, torch.rand(1, 3, 224, 224), torch.tensor([0]))


class TestErrorsOfTheModel:
    def test_in_one_batch_of_one_attack(self, data: ImageData) -> None:
        class Fails(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.network = ten()

            def forward(self, x: Tensor) -> Any:
                if x.requires_grad and len(x) in (6, 7):
                    raise RuntimeError("no luck with seven")
                return self.network(x)

        attacks = {"pgd3": PGD3, "noise": UniformNoise(THREAT, draws=2)}
        report = evaluate(Fails(), data.subset(torch.arange(23)), attacks, batch_size=16)
        assert [*report.attacks] == ["clean", "noise"]
        (found,) = report.findings
        assert found.code == "raised" and "RuntimeError: no luck with seven under pgd3" in found.text


@pytest.mark.parametrize("shift", [4e-4, -4e-4])
def test_rounding_beyond_the_range_is_cut_off(shift: float) -> None:
    network, x, y = parts.trained()
    x[0] = 1.0 if shift > 0 else 0.0
    result = PGD3(network, x + shift, y)
    assert float(result.x_adv.max()) <= 1 and float(result.x_adv.min()) >= 0
    with pytest.raises(ValueError, match=r"\[.*1\.004.*\], expected \[0, 1\]|\[-0\.004"):
        PGD3(network, x + 10 * shift, y)


def frozen(network: nn.Module) -> nn.Module:
    plain = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(144, 10)).eval()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that torch.jit is deprecated
        return torch.jit.freeze(torch.jit.script(plain))


@each_door
@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")
def test_frozen_torchscript_is_taken(door: Any, data: ImageData, caplog: Any) -> None:
    said = door(frozen(ten()), data, caplog)
    assert all(line.startswith("chance: ") for line in said.splitlines()), "its weights are as they were drawn"


@each_door
def test_parameters_without_a_size(door: Any, data: ImageData, caplog: Any) -> None:
    with pytest.raises(ValueError, match="parameters without a size, as of LazyLinear"):
        door(nn.Sequential(nn.Flatten(), nn.LazyLinear(10)), data, caplog)


def test_the_command_line_says_it_too(
    data: ImageData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "door_builders.py").write_text(
        "import torch\nfrom torch import nn\n"
        "class Cut(nn.Sequential):\n    def forward(self, x): return super().forward(x).detach()\n"
        "class Late(nn.Sequential):\n"
        "    def forward(self, x):\n"
        "        if len(x) == 11: raise RuntimeError('no eleven')\n"
        "        return super().forward(x)\n"
        "def cut(**kwargs): return made(Cut, **kwargs)\n"
        "def late(**kwargs): return made(Late, **kwargs)\n"
        "def made(kind, num_classes): return kind(nn.Flatten(), nn.Linear(64, num_classes))\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    usual = ["--data", "Digits", "--threat.eps", "0.1", "--n", "11"]
    out = ["--out", str(tmp_path / "cut")]
    code = main(["evaluate", "--model", "door_builders:cut", *usual, *out, "--attacks", "pgd3", "square20"])
    record = json.loads((tmp_path / "cut" / "evaluation.json").read_text())
    assert code == 0
    assert {"clean", "square20"} <= record["attacks"].keys() and "pgd3" not in record["attacks"]
    assert {"no-gradient", "not-applicable"} <= {finding["code"] for finding in record["lint"]}
    for extra in ([], ["--traceback"]):
        code = main(["evaluate", "--model", "door_builders:late", *usual, "--out", str(tmp_path / "late"), *extra])
        said = capsys.readouterr().err
        assert code == 2
        assert "the model raised RuntimeError: no eleven" in said
        assert ("Traceback" in said) == bool(extra)


def _of_arrays(data: ImageData) -> tuple[Tensor, Tensor]:
    return data.images.float() / 255, data.labels


@pytest.mark.parametrize(
    "call",
    {
        "attack": lambda net, data: PGD(THREAT, steps=1)(net, *_of_arrays(data)),
        "evaluate": lambda net, data: evaluate(net, data, PGD(THREAT, steps=1)),
        "evaluate arrays": lambda net, data: evaluate(net, _of_arrays(data), PGD(THREAT, steps=1)),
        "audit": lambda net, data: audit(net, data, THREAT, images=40, only=["C16"]),
        "audit arrays": lambda net, data: audit(net, _of_arrays(data), THREAT, images=40, only=["C16"]),
        "validation": lambda net, data: Validation(data, PGD3, device=torch.device("cpu"))(net),
    }.items(),
    ids=lambda call: call[0],
)
def test_the_look_at_a_model_passes_eight_images_at_most(call: tuple[str, Callable[..., Any]], data: ImageData) -> None:
    """And goes backward once; what an attack or a measurement passes after it comes in larger batches."""
    passed: list[tuple[int, bool]] = []
    network = nn.Sequential(nn.Flatten(), nn.Linear(64, 10)).eval()  # with batch norm, folding it takes passes too
    network.register_forward_pre_hook(lambda _, given: passed.append((len(given[0]), given[0].requires_grad)))
    call[1](network, data)
    look = list(itertools.takewhile(lambda one: one[0] <= 8, passed))
    assert look and len(passed) > len(look)
    assert sum(size for size, _ in look) <= 8
    assert sum(backward for _, backward in look) == 1


@pytest.mark.parametrize("name", FOUND)
def test_the_look_at_a_faulty_model_is_no_longer(name: str, data: ImageData) -> None:
    passed: list[int] = []
    model = FOUND[name][0](ten())
    model.register_forward_pre_hook(lambda _, given: passed.append(len(given[0])))
    assert FOUND[name][1] in {found.code for found in examine(model, data.pixels(torch.arange(4))).findings}
    assert sum(passed) <= 8
