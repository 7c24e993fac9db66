"""`fit`: it learns, measures, chooses, stops where it must, and leaves the caller's world as found."""

from __future__ import annotations

import copy
import errno
import json
import math
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from safetensors.torch import load_file
from torch import Tensor, nn

from protoat.attacks import FGSM, PGD
from protoat.functional.losses import cross_entropy
from protoat.merging import MergeSchedule
from protoat.methods import AWP, DAJAT, FastAT, Standard
from protoat.objective import Objective
from protoat.storage.files import Folder
from protoat.threats import Linf
from protoat.training import Cyclic, DiskError, NonFiniteLossError, StepDecay, fit, load_weights
from protoat.training.seeding import derived_seed
from protoat.types import Output


def accuracy(model: nn.Module, data: Any, attack: PGD | None = None) -> float:
    model.eval()
    x = data.images.float() / 255
    x = x if attack is None else attack.perturb(model, x, data.labels)
    return float((model(x).logits.argmax(1) == data.labels).float().mean())


def test_learns_digits(small: ModuleType) -> None:
    """Real 8x8 digits: well above chance (10 %) under PGD-10 at eps = 0.15, and better there than clean training."""
    robust = {}
    for method in ("pgd", "standard"):
        net, goal, optimizer = small.built(method)
        goal.method.ramp_epochs = 3
        fit(net, small.loader(1200, 60), goal, epochs=8, optimizer=optimizer, schedule=Cyclic())
        test = small.digits(1300, 1700)
        assert accuracy(net, test) > 0.75
        robust[method] = accuracy(net, test, PGD(small.THREAT, steps=10))
    assert robust["pgd"] > max(0.3, robust["standard"] + 0.1)


def by_hand(small: ModuleType, method: str, epochs: int) -> tuple[nn.Module, Any, list[dict[str, float]]]:
    """The same run as `small.train`, as a plain loop in the user's code."""
    net, goal, optimizer = small.built(method)
    loader, schedule, update, lines = small.loader(), Cyclic(), 0, []
    total = epochs * len(loader) * goal.updates_per_batch
    for epoch in goal.epochs(epochs, net, optimizer):
        sums: dict[str, float] = {}
        loader.set_epoch(epoch.number - 1)
        net.train()
        for x, y in epoch.batches(loader):
            torch.manual_seed(derived_seed("update", 11, update, 0))
            for terms in goal.losses(net, x, y):
                lr = schedule.lr(0.1, update, total, total // epochs)
                optimizer.param_groups[0]["lr"] = lr
                optimizer.param_groups[1]["lr"] = 2 * lr
                optimizer.zero_grad()
                terms.total.backward()
                optimizer.step()
                update += 1
                for name, value in terms.named().items():
                    sums[name] = sums.get(name, 0.0) + float(value)
        count = len(loader) * goal.updates_per_batch
        lines.append({name: value / count for name, value in sums.items()})
    return net, goal, lines


@pytest.mark.parametrize("method", ["standard", "pgd", "free", "fast"])
def test_is_the_plain_loop(method: str, small: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    net, goal, lines = by_hand(small, method, 2)
    built = small.built(method)
    monkeypatch.setattr(small, "built", lambda _: built)
    result = small.train(method, None, epochs=2, validation=None)
    for key, value in net.state_dict().items():
        assert torch.equal(value, built[0].state_dict()[key]), key
    for key, value in goal.state_dict().items():
        assert torch.equal(value, built[1].state_dict()[key]), key
    assert [{name: line[name] for name in lines[0]} for line in result.metrics] == lines


def test_metrics_best_and_last(tmp_path: Path, small: ModuleType) -> None:
    built = small.built("pgd")
    validation = small.digits(200, 260)
    result = fit(
        *(built[0], small.loader(), built[1]),
        epochs=5,
        optimizer=built[2],
        schedule=StepDecay([2, 3]),
        validation=validation,
        validate_every=2,
        out=tmp_path,
        loggers=[],
    )
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert lines == result.metrics
    assert [line["epoch"] for line in lines] == [1, 2, 3, 4, 5]
    assert [line["update"] for line in lines] == [5, 10, 15, 20, 25]
    assert [line["lr"] for line in lines] == pytest.approx([0.1, 0.1, 0.01, 0.001, 0.001])
    assert [line["eps"] for line in lines] == pytest.approx([0.15] * 5)
    assert [sorted(line["validation"]) if "validation" in line else None for line in lines] == [
        None,
        *[["clean", "images", "robust"], None] * 1,
        ["clean", "images", "robust"],
        ["clean", "images", "robust"],
    ]
    for line in lines:
        assert line["total"] == pytest.approx(line["base"] + line["metric"] + line["norm"], rel=1e-5)
        assert line["objective"]["prototype_counts"] and line["seconds"] > 0
    ranks = {line["epoch"]: (line["validation"]["robust"], line["validation"]["clean"]) for line in lines[1::2]}
    ranks[5] = (lines[4]["validation"]["robust"], lines[4]["validation"]["clean"])
    assert result.best_epoch == max(ranks, key=lambda epoch: (ranks[epoch], -epoch))
    best = json.loads((tmp_path / "best.json").read_text())
    assert best["epoch"] == result.best_epoch
    net = small.Net()
    load_weights(tmp_path / "best.safetensors", net)
    assert accuracy(net, validation) == pytest.approx(best["clean"])
    load_weights(tmp_path / "last.safetensors", net)
    assert torch.equal(net.head.weight, built[0].head.weight)
    assert json.loads((tmp_path / "last.json").read_text()) == {"epoch": 5, "update": 25}


@pytest.mark.parametrize(
    ("measured", "best"),
    [([(0.5, 0.9), (0.6, 0.7), (0.4, 1.0)], 2), ([(0.5, 0.7), (0.5, 0.9), (0.5, 0.9)], 2), ([(0.5, 0.9)] * 3, 1)],
)
def test_best_is_by_robust_then_clean_then_earlier(
    measured: list[tuple[float, float]], best: int, small: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    values = iter(measured)

    def measure(self: object, model: nn.Module) -> dict[str, float]:
        robust, clean = next(values)
        return {"images": 10, "clean": clean, "robust": robust}

    monkeypatch.setattr("protoat.training.validation.Validation.__call__", measure)
    assert small.train("pgd", None, epochs=3).best_epoch == best


def test_validation_of_images_and_batches_agree(small: ModuleType) -> None:
    data = small.digits(200, 260)
    batches = [(data.images.float() / 255, data.labels)]
    attack = FGSM(small.THREAT)
    runs = [small.train("pgd", None, epochs=1, validation=v, validation_attack=attack).metrics for v in (data, batches)]
    assert runs[0][0]["validation"] == runs[1][0]["validation"]
    net, goal, optimizer = small.built("pgd")
    fit(net, small.loader(), goal, epochs=1, optimizer=optimizer, schedule=Cyclic(), seed=11)
    assert runs[0][0]["validation"] == {
        "images": 60,
        "clean": pytest.approx(accuracy(net, data)),
        "robust": pytest.approx(accuracy(net, data, attack)),
    }
    with pytest.raises(ValueError, match="validation holds no images"):
        small.train("pgd", None, epochs=1, validation=[])


def test_standard_is_validated_on_clean_images_only(small: ModuleType) -> None:
    result = small.train("standard", None, epochs=2)
    assert all(line["validation"].keys() == {"images", "clean"} for line in result.metrics)
    assert result.best_epoch is not None


class Spoilt(nn.Module):
    """Its embedding or its logits turn to nan or inf at the given forward in training mode."""

    def __init__(self, inner: nn.Module, at: int, where: str, value: float) -> None:
        super().__init__()
        self.inner, self.left, self.where, self.value = inner, at, where, value

    def forward(self, x: Tensor) -> Output:
        output = self.inner(x)
        self.left -= self.training
        if self.left < 0:
            return output._replace(**{self.where: getattr(output, self.where) * self.value})
        return output


@pytest.mark.parametrize(
    ("where", "value", "term"), [("logits", math.nan, "base"), ("embedding", math.nan, "metric"), ("both", 0, "norm")]
)
def test_stops_before_the_step_on_a_loss_that_is_no_number(
    where: str, value: float, term: str, tmp_path: Path, small: ModuleType
) -> None:
    net, goal, _ = small.built("pgd")
    if where == "both":  # Only the norm of the embedding overflows float32, not what is made of its direction.
        goal.regularizer, where, value = None, "embedding", 1e30
    wrapped = Spoilt(net, 7, where, value)
    optimizer = torch.optim.SGD(small.parameter_groups(wrapped, goal, lr=0.01))
    with pytest.raises(NonFiniteLossError, match=f"the {term} term of the loss is .* at update 7 of epoch 2") as caught:
        fit(wrapped, small.loader(), goal, epochs=3, optimizer=optimizer, out=tmp_path, loggers=[])
    assert (caught.value.term, caught.value.update, caught.value.epoch) == (term, 7, 2)
    assert "lower the learning rate" in str(caught.value)
    assert all(value.isfinite().all() for value in net.state_dict().values())
    assert max(path.name for path in (tmp_path / "checkpoints").iterdir()) == "00000005"
    assert len((tmp_path / "metrics.jsonl").read_text().splitlines()) == 1


def test_displaced_weights_are_put_back_before_the_error_is_seen(tmp_path: Path, small: ModuleType) -> None:
    """AWP's second forward of the fourth update, at moved weights, is no number."""
    net = small.Net(dropout=0.0)
    wrapped = Spoilt(net, 7, "logits", math.nan)
    goal = small.Objective(AWP(small.THREAT, gamma=0.1))
    optimizer = torch.optim.SGD(wrapped.parameters(), lr=0.01)
    with pytest.raises(NonFiniteLossError) as caught:
        fit(wrapped, small.loader(), goal, epochs=1, optimizer=optimizer, out=tmp_path, checkpoint_every=1)
    assert caught.value.update == 3
    tensors = load_file(tmp_path / "checkpoints/00000003/common.safetensors")
    for key, value in net.named_parameters():
        assert torch.equal(value, tensors[f"model.inner.{key}"]), key


@pytest.mark.parametrize("stored", [True, False])
def test_an_epoch_that_collapses_is_taken_back(
    stored: bool, tmp_path: Path, small: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The guard sees accuracy 0.9, 0.8, 0.3: the third epoch is taken back."""
    good = small.train("fast", tmp_path / "good", epochs=5)
    assert good.stopped is None
    accuracies = iter([0.9, 0.8, 0.3])

    def guarded(self: object, model: nn.Module) -> str | None:
        accuracy = next(accuracies)
        fall = float(self.previous[0]) - accuracy
        self.previous[0] = accuracy
        return f"fell by {fall:.1f}" if fall > 0.2 else None

    monkeypatch.setattr("protoat.methods.FastAT.end_epoch", guarded)
    built = small.built("fast")
    copies = copy.deepcopy([built[0], built[1]])
    monkeypatch.setattr(small, "built", lambda _: built)
    out = tmp_path / "out" if stored else None
    result = small.train("fast", out, epochs=5)
    assert (result.epochs, result.stopped, len(result.metrics)) == (2, "fell by 0.5", 3)
    assert result.metrics[-1]["stopped"] == "fell by 0.5" and "validation" not in result.metrics[-1]

    # The weights are those after two epochs of a run that never collapsed.
    accuracies = iter([0.9, 0.8])
    net, goal = copies
    groups = small.parameter_groups(net, goal, lr=0.1, prototype_lr_factor=2.0, weight_decay=5e-4)

    class FirstTwoOfFive(Cyclic):
        def lr(self, base_lr: float, update: float, updates_total: int, updates_per_epoch: int) -> float:
            return super().lr(base_lr, update, 5 * updates_per_epoch, updates_per_epoch)

    goal.regularizer.schedule = MergeSchedule(1.3, start=1, stop=1)
    optimizer = torch.optim.SGD(groups, momentum=0.9)
    fit(net, small.loader(), goal, epochs=2, optimizer=optimizer, schedule=FirstTwoOfFive(), seed=11)
    for key, value in net.state_dict().items():
        assert torch.equal(value, built[0].state_dict()[key]), key
    for key, value in goal.state_dict().items():
        if "watched" not in key:
            assert torch.equal(value, built[1].state_dict()[key]), key
    expected, found = optimizer.state_dict()["state"], built[2].state_dict()["state"]
    assert all(torch.equal(found[i]["momentum_buffer"], expected[i]["momentum_buffer"]) for i in expected)
    if stored:
        accuracies = iter([])
        built = small.built("fast")
        assert small.train("fast", out, epochs=5) == result
        last = small.Net()
        load_weights(out / "last.safetensors", last)
        assert torch.equal(last.head.weight, net.head.weight)


def test_averaging(tmp_path: Path, small: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    """The model ends as the moving average of the weights after each update, which is also what is exported."""
    decay, history = 0.8, []
    built = small.built("pgd")
    monkeypatch.setattr(small, "built", lambda _: built)
    built[2].register_step_post_hook(lambda *_: history.append(copy.deepcopy(built[0].state_dict())))
    validation = small.digits(200, 260)
    result = small.train("pgd", tmp_path, epochs=2, averaging=decay)
    expected = {key: value.double() for key, value in history[0].items()}
    for taken, state in enumerate(history[1:], start=1):
        kept = min(decay, (1 + taken) / (10 + taken))
        for key, value in state.items():
            expected[key] = kept * expected[key] + (1 - kept) * value.double()
    for key, value in built[0].state_dict().items():
        if value.is_floating_point():
            torch.testing.assert_close(value.double(), expected[key], rtol=1e-4, atol=1e-6)
    assert not torch.allclose(built[0].head.weight, history[-1]["head.weight"], rtol=1e-3)
    exported = small.Net()
    load_weights(tmp_path / "last.safetensors", exported)
    assert torch.equal(exported.head.weight, built[0].head.weight)
    assert accuracy(exported, validation) == pytest.approx(result.metrics[-1]["validation"]["clean"])
    tensors, _, _ = small.outcome(tmp_path)
    assert torch.equal(tensors["common.safetensors:model.head.weight"], history[-1]["head.weight"])
    assert torch.equal(tensors["common.safetensors:average.module.head.weight"], exported.head.weight)


def test_bf16(small: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    """Forwards in training, in the attack and in validation run in bfloat16; weights and outputs stay float32."""
    seen = set()
    monkeypatch.setattr(
        nn.functional, "linear", _noting(nn.functional.linear, lambda *_: seen.add(torch.is_autocast_enabled("cpu")))
    )
    built = small.built("pgd")
    monkeypatch.setattr(small, "built", lambda _: built)
    result = small.train("pgd", None, accelerator=Accelerator(mixed_precision="bf16", cpu=True))
    assert seen == {True}
    assert result.metrics[-1]["total"] < result.metrics[0]["total"]
    assert all(p.dtype == torch.float32 for p in built[0].parameters())
    output = built[0].eval()(torch.zeros(1, 1, 8, 8))
    assert seen == {True, False} and output.logits.dtype == torch.float32


def _noting(function: Any, note: Any) -> Any:
    def call(*args: Any, **options: Any) -> Any:
        note(*args)
        return function(*args, **options)

    return call


def test_compile(tmp_path: Path, small: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only when asked, in place, and without changing what is computed or how weights are named."""
    compile_module, compiled = nn.Module.compile, []

    def with_cheap_backend(module: nn.Module) -> None:
        compiled.append(module)
        compile_module(module, backend="aot_eager")

    monkeypatch.setattr(nn.Module, "compile", with_cheap_backend)
    small.train("pgd", tmp_path / "plain", epochs=1)
    assert not compiled
    small.train("pgd", tmp_path / "compiled", epochs=1, compile=True)
    assert len(compiled) == 1 and isinstance(compiled[0], small.Net) and compiled[0]._compiled_call_impl is None
    plain, found = (small.outcome(tmp_path / name)[0] for name in ("plain", "compiled"))
    assert plain.keys() == found.keys()
    for key, value in plain.items():
        torch.testing.assert_close(found[key], value, rtol=1e-3, atol=1e-4)


def test_channels_last(small: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    formats = []
    convolve = nn.functional.conv2d
    monkeypatch.setattr(
        nn.functional,
        "conv2d",
        _noting(convolve, lambda x, *_: formats.append(x.is_contiguous(memory_format=torch.channels_last))),
    )
    colour = [(torch.rand(8, 3, 8, 8), torch.arange(8) % 2) for _ in range(2)]
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2))
    goal = small.Objective(small.METHODS["pgd"]())
    monkeypatch.setattr(nn.Conv2d, "_conv_forward", lambda self, x, w, b: nn.functional.conv2d(x, w, b))
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    fit(net, colour, goal, epochs=1, optimizer=optimizer, memory_format="channels_last")
    assert formats and all(formats)
    assert net[0].weight.is_contiguous(memory_format=torch.channels_last)


def test_channels_last_is_refused_where_a_cpu_may_crash(small: ModuleType, tmp_path: Path) -> None:
    net = nn.Sequential(nn.Conv2d(3, 4, 1, stride=2), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2))
    colour = [(torch.rand(8, 3, 8, 8), torch.arange(8) % 2)]
    options = {"epochs": 1, "optimizer": torch.optim.SGD(net.parameters(), lr=0.1), "out": tmp_path / "run"}
    with pytest.raises(ValueError, match="memory_format='channels_last' can crash on a CPU: layer 0 of the network"):
        fit(net, colour, small.Objective(small.METHODS["pgd"]()), memory_format="channels_last", **options)
    assert not (tmp_path / "run").exists()


def test_leaves_the_callers_world(small: ModuleType) -> None:
    net, goal, optimizer = small.built("pgd")
    net.eval()
    torch.manual_seed(5)
    before, attributes = torch.get_rng_state(), set(net.__dict__)
    for precision in ("bf16", "bf16"):
        accelerator = Accelerator(mixed_precision=precision, cpu=True)
        fit(net, small.loader(), goal, epochs=1, optimizer=optimizer, schedule=Cyclic(), accelerator=accelerator)
        assert torch.equal(torch.get_rng_state(), before)
        assert set(net.__dict__) == attributes and not net.training
        assert [group["lr"] for group in optimizer.param_groups] == [0.1, 0.2]
        assert all(parameter.requires_grad for parameter in net.parameters())
    assert net.features[1].num_batches_tracked == 10  # It was trained in the mode of training, though.


def test_the_second_run_in_half_precision_is_in_half_precision_too(small: ModuleType) -> None:
    runs = []
    for _ in range(2):
        net, goal, optimizer = small.built("pgd")
        for _ in range(2):
            accelerator = Accelerator(mixed_precision="bf16", cpu=True)
            result = fit(net, small.loader(), goal, epochs=1, optimizer=optimizer, accelerator=accelerator)
        runs.append(result.metrics[0]["total"])
    assert runs[0] == runs[1]


@pytest.mark.parametrize("failing", ["metrics.jsonl", "best.safetensors", "last.json", "common.safetensors"])
def test_full_disk(failing: str, tmp_path: Path, small: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever write fails, one clear error; with room again the run ends as if nothing had happened."""
    small.train("pgd", tmp_path / "whole")
    write, writes = Folder.write_new, []

    def full(folder: Folder, name: str, data: bytes) -> None:
        if failing in name:
            writes.append(name)
            if len(writes) == {"common.safetensors": 4}.get(failing, 1):
                write(folder, name, data[:10])
                raise OSError(errno.ENOSPC, "No space left on device")
        write(folder, name, data)

    with monkeypatch.context() as patch:
        patch.setattr(Folder, "write_new", full)
        with pytest.raises(
            DiskError, match=r"could not write .*No space left on device; what was saved before is intact"
        ):
            small.train("pgd", tmp_path / "full")
    small.train("pgd", tmp_path / "full")
    small.assert_same_outcome(tmp_path / "full", tmp_path / "whole")
    assert not list((tmp_path / "full").rglob(".*"))


def test_tensorboard(tmp_path: Path, small: ModuleType) -> None:
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    small.train("pgd", tmp_path, epochs=2, loggers=["tensorboard"])
    events = accumulator.EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    for tag in ("total", "lr"):
        scalars = events.Scalars(tag)
        assert [entry.step for entry in scalars] == [1, 2]
        assert [entry.value for entry in scalars] == pytest.approx([line[tag] for line in lines])
    assert events.Scalars("validation/robust")[1].value == pytest.approx(lines[1]["validation"]["robust"])


def test_progress_shows_terms_and_time_left(small: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    small.train("pgd", None, epochs=1, progress=True)
    shown = capsys.readouterr().err
    assert "epoch 1/1" in shown and "5/5" in shown and "metric" in shown


@pytest.mark.parametrize("progress", [None, True])
def test_each_epoch_is_a_line_with_its_accuracies(
    progress: bool | None, small: ModuleType, capsys: pytest.CaptureFixture[str]
) -> None:
    metrics = small.train("pgd", None, epochs=2, progress=progress).metrics
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("epoch 2 of 2: ")]
    assert len(lines) == 1
    assert f"held out: clean {metrics[1]['validation']['clean']:.1%}, robust " in lines[0]


def test_it_can_be_quiet_and_says_nothing_twice(
    small: ModuleType, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    small.train("pgd", None, epochs=1, progress=False)
    with caplog.at_level("INFO", "protoat"):
        small.train("pgd", None, epochs=1)
    assert capsys.readouterr().err == ""
    assert caplog.text.count("epoch 1 of 1: ") == 1


class Empty:
    def __len__(self) -> int:
        return 0

    def __iter__(self) -> Iterator[Any]:
        return iter(())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"epochs": 0}, "epochs=0"),
        ({"validate_every": 0}, "validate_every=0"),
        ({"averaging": 1.0}, "averaging=1 is outside"),
        ({"checkpoint_every": 3}, "needs a folder"),
        ({"train": Empty()}, "no batches"),
    ],
)
def test_bad_settings(options: dict[str, Any], message: str, small: ModuleType) -> None:
    with pytest.raises(ValueError, match=message):
        small.train("pgd", None, **options)


def test_a_loader_for_other_processes_is_refused(small: ModuleType) -> None:
    with pytest.raises(ValueError, match="shares data among 2 processes, and the run has 1"):
        small.train("pgd", None, train=small.loader(rank=0, world_size=2))


def test_a_parameter_missing_from_the_optimizer(small: ModuleType) -> None:
    net, goal, _ = small.built("pgd")
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    with pytest.raises(ValueError, match="lacks objective parameter 0"):
        fit(net, small.loader(), goal, epochs=1, optimizer=optimizer)


def test_the_loss_of_an_attack_does_not_touch_training(small: ModuleType) -> None:
    """An attack's own random state never depends on the model: two runs with different losses see the same batches."""
    order = []
    for loss in (cross_entropy, lambda output, y: -cross_entropy(output, y)):
        net, _, _ = small.built("pgd")
        goal = small.Objective(small.PGDAT(Linf(0.1), steps=1, loss=loss))
        seen = []
        net.register_forward_pre_hook(lambda module, args, seen=seen: seen.append(args[0].clone()))
        fit(net, small.loader(), goal, epochs=1, optimizer=torch.optim.SGD(net.parameters(), lr=0.1))
        order.append(seen[0])
    assert torch.equal(order[0], order[1])


@pytest.mark.parametrize("stored", [True, False])
def test_a_finite_loss_with_a_gradient_that_is_none_ends_the_run(
    stored: bool, tmp_path: Path, small: ModuleType
) -> None:
    """The last step of the second epoch spoils the weights, and no loss comes after it to show that."""
    net, goal, optimizer = small.built("pgd")
    steps = []

    def spoil(*_: object) -> None:
        steps.append(1)
        if len(steps) == 10:
            net.head.weight.grad[0, 0] = math.nan

    optimizer.register_step_pre_hook(spoil)
    out = tmp_path if stored else None
    with pytest.raises(NonFiniteLossError, match="a weight is nan at update 9 of epoch 2") as caught:
        fit(net, small.loader(), goal, epochs=2, optimizer=optimizer, out=out, loggers=[])
    assert caught.value.term == "weights"
    if stored:
        assert max(path.name for path in (tmp_path / "checkpoints").iterdir()) == "00000005"
        assert not (tmp_path / "last.safetensors").exists()


def test_a_taken_back_epoch_can_be_taken_back_again(
    tmp_path: Path, small: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The newest checkpoint is lost, and the one before lies inside the epoch that the guard takes back."""
    monkeypatch.setattr(FastAT, "end_epoch", lambda self, model: "collapsed" if self._epoch >= 3 else None)
    options = {"epochs": 5, "checkpoint_every": 4}
    first = small.train("fast", tmp_path, **options)
    newest = max((tmp_path / "checkpoints").iterdir())
    (newest / "common.safetensors").write_bytes(b"")
    with pytest.warns(UserWarning, match=newest.name):
        again = small.train("fast", tmp_path, **options)
    assert (again.epochs, again.stopped) == (first.epochs, "collapsed") == (2, "collapsed")


@pytest.mark.parametrize(
    ("norm", "decays", "warned"),
    [
        ("weights", (1e-3, 5e-4), True),
        ("weights", (1e-3, 0.0), False),
        ("weights", (0.0, 5e-4), False),
        ("embedding", (1.0, 5e-4), False),
    ],
)
def test_two_weight_decays_are_pointed_out(
    norm: Any, decays: tuple[float, float], warned: bool, small: ModuleType, caplog: pytest.LogCaptureFixture
) -> None:
    net, goal = small.Net(), Objective(Standard(small.THREAT), norm=norm, norm_weight=decays[0])
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1, weight_decay=decays[1])
    fit(net, small.loader(40), goal, epochs=1, optimizer=optimizer, progress=False)
    said = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    expected = (
        "kernels decay twice: by the norm term (norm='weights', norm_weight=0.001), which is a decay of twice its "
    )
    assert [line.startswith(expected) for line in said] == [True] * warned


def test_clipping_scales_the_gradient_of_all_that_learns(small: ModuleType) -> None:
    """Model, a second batch norm of the method, and prototypes: one step moves all of them together by lr * norm."""

    def moved(clip_norm: float | None) -> tuple[float, list[torch.Tensor]]:
        torch.manual_seed(7)
        net = small.Net()
        goal = small.Objective(DAJAT(small.THREAT, ramp_epochs=0), small.SoftTriple(10, 16, prototypes_per_class=4))
        goal.prepare(net)
        learnt = [*net.parameters(), *goal.parameters()]
        before = [value.detach().clone() for value in learnt]
        optimizer = torch.optim.SGD(learnt, lr=0.5)
        fit(net, small.loader(40), goal, epochs=1, optimizer=optimizer, clip_norm=clip_norm)
        steps = [(value.detach() - was).flatten() for value, was in zip(learnt, before, strict=True)]
        return float(torch.cat(steps).norm()), [value.detach() for value in learnt]

    assert moved(0.01)[0] == pytest.approx(0.5 * 0.01, rel=1e-3)
    free, freely = moved(None)
    assert free > 0.1
    assert all(torch.equal(a, b) for a, b in zip(freely, moved(1e6)[1], strict=True))


@pytest.mark.parametrize("clip_norm", [0.0, -1.0])
def test_a_norm_to_clip_to_is_positive(clip_norm: float, small: ModuleType) -> None:
    with pytest.raises(ValueError, match=f"clip_norm={clip_norm:g} must be positive"):
        small.train("pgd", None, clip_norm=clip_norm)
