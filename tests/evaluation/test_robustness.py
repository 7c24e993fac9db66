"""`evaluate` against a loop over single images, and what it must leave alone."""

from __future__ import annotations

import itertools
import json
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor, nn

from protoat.attacks import (
    APGD,
    BIM,
    FAB,
    FGSM,
    MIM,
    PGD,
    Attack,
    AutoAttack,
    DeepFool,
    Square,
    Targeted,
    Transfer,
    UniformNoise,
)
from protoat.data import Digits, ImageData
from protoat.evaluation import Count, evaluate, fair_order
from protoat.evaluation.embedding import embed
from protoat.evaluation.measurement import Advance
from protoat.functional.losses import margin
from protoat.threats import L2, Linf
from protoat.training.validation import Validation
from protoat.types import Output

from .small import MODES, NAMES, Halves, Kept, digits, halves


@pytest.fixture
def data() -> ImageData:
    return halves()


def test_counts_equal_a_loop_over_images(data: ImageData) -> None:
    model = Halves().eval()
    attack = FGSM(Linf("12/255"))
    report = evaluate(model, data, {"clean": None, "fgsm": attack}, batch_size=7)
    for name in ("clean", "fgsm"):
        right = []
        for i in range(len(data)):
            x, y = data.images[i : i + 1].float() / 255, data.labels[i : i + 1]
            clean = int(model(x).logits.argmax()) == int(y)
            x = attack.perturb(model, x, y) if name == "fgsm" else x
            right.append(clean and int(model(x).logits.argmax()) == int(y))
        found = report[name]
        assert found.correct_mask.tolist() == right
        assert found.count == (sum(right), 60)
        for group, index, labels in (("per_class", data.labels, NAMES), ("per_mode", data.modes, MODES[:4])):
            expected = {
                label: Count(sum(r for r, i in zip(right, index.tolist(), strict=True) if i == k), 60 // len(labels))
                for k, label in enumerate(labels)
            }
            assert getattr(found, group) == expected
    assert 0 < report["fgsm"].accuracy < report["clean"].accuracy < 1
    assert torch.equal(report.indices, torch.arange(60))


def test_a_mode_without_images_is_not_the_worst(data: ImageData) -> None:
    report = evaluate(Halves(), data, {"clean": None})
    assert "right/none" not in report["clean"].per_mode
    assert report["clean"].worst_mode[1].total == 15


def test_everything_is_left_as_found(data: ImageData) -> None:
    model = Halves().train()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    state = torch.get_rng_state()
    evaluate(model, data, {"clean": None, "pgd": PGD(Linf(0.1), steps=2)})
    assert model.training
    assert model.norm.training
    assert all(parameter.requires_grad and parameter.grad is None for parameter in model.parameters())
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


def test_random_starts_repeat_and_differ_between_batches(data: ImageData) -> None:
    seen: list[Tensor] = []

    class Spy(PGD):
        def perturb(self, model, x, y, **options):
            x_adv = super().perturb(model, x, y, **options)
            seen.append(x_adv - x)
            return x_adv

    same = data.subset(torch.ones(6, dtype=torch.int64))
    attack = Spy(Linf(0.1), steps=1, step_size=0.001)
    first = evaluate(Halves(), same, {"a": attack, "b": attack}, batch_size=3)
    assert torch.equal(seen[0], seen[1])
    assert torch.equal(seen[2], seen[3])
    assert not torch.equal(seen[0], seen[2])
    assert torch.equal(first["a"].correct_mask, first["b"].correct_mask)


def test_limit_takes_a_share_of_each_mode(data: ImageData) -> None:
    report = evaluate(Halves(), data, {"clean": None}, limit=20)
    assert [count.total for count in report["clean"].per_mode.values()] == [5, 5, 5, 5]
    assert torch.equal(report.indices, fair_order(data)[:20].sort().values)
    assert evaluate(Halves(), data, {"clean": None}, limit=600)["clean"].count.total == 60


def test_json_has_the_documented_form(data: ImageData) -> None:
    report = evaluate(Halves(), data, {"clean": None, "pgd10": PGD(Linf("8/255"), steps=10)})
    content = json.loads(json.dumps(report.to_json()))["attacks"]
    assert content["clean"]["parameters"] == {"attack": None}
    pgd = content["pgd10"]
    assert {"attack": "PGD", "steps": 10, "norm": "linf"}.items() <= pgd["parameters"].items()
    assert pgd["parameters"]["loss"].endswith("cross_entropy")
    assert pgd["correct"] == pgd["outcomes"].count("1") == report["pgd10"].count.correct
    assert pgd["total"] == len(pgd["outcomes"]) == 60
    assert pgd["per_class"].keys() == set(NAMES)
    assert sum(mode["correct"] for mode in pgd["per_mode"].values()) == pgd["correct"]


def test_progress_is_told_batch_by_batch(data: ImageData) -> None:
    told: list[Advance] = []
    report = evaluate(Halves(), data, {"fgsm": FGSM(Linf("12/255"))}, batch_size=40, advance=told.append)
    assert [(step.attack, step.images, step.done, step.total) for step in told] == [
        ("clean", 40, 40, 120),
        ("fgsm", 40, 80, 120),
        ("clean", 20, 100, 120),
        ("fgsm", 20, 120, 120),
    ]
    assert told[1].correct + told[3].correct == report["fgsm"].count.correct


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"attacks": {}}, "no attack to measure"),
        ({"batch_size": 0}, "batch_size=0"),
        ({"limit": 0}, "limit=0"),
        ({"budget_seconds": -1}, "budget_seconds=-1 must be positive"),
    ],
)
def test_bad_settings_are_refused(data: ImageData, options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        evaluate(Halves(), data, **({"attacks": {"clean": None}} | options))


class Says(nn.Module):
    """A model that gives the same thing whatever it sees."""

    def __init__(self, result: object) -> None:
        super().__init__()
        self.result = result

    def forward(self, x: Tensor) -> object:
        return self.result


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (nn.Sequential(nn.Flatten(), nn.Linear(16, 3)), r"gives \(1, 3\) for one image, expected \(1, 2\)"),
        (nn.Sequential(nn.Flatten(), nn.Linear(7, 2)), r"cannot take an image of shape \(1, 1, 4, 4\): RuntimeError"),
        (nn.Identity(), r"gives \(1, 1, 4, 4\) for one image"),
        (Says((torch.zeros(1, 2), None)), "the model returned a tuple, expected logits"),
        (Says(torch.tensor([[0.0, torch.nan]])), "logits are not finite"),
    ],
)
def test_a_model_that_does_not_fit_is_refused(data: ImageData, model: nn.Module, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        evaluate(model, data, {"clean": None})


def test_no_images_and_other_data_are_refused(data: ImageData) -> None:
    with pytest.raises(ValueError, match="no images"):
        evaluate(Halves(), data.subset(torch.zeros(0, dtype=torch.int64)), {"clean": None})
    with pytest.raises(ValueError, match="no images"):
        evaluate(nn.Flatten(), [], "clean")
    with pytest.raises(
        TypeError, match=r"data is a int, expected a DataLoader, \(x, y\) of tensors or arrays, a Dataset"
    ):
        evaluate(nn.Flatten(), 3, "clean")  # type: ignore[arg-type]


class SpoiltBright(nn.Module):
    """Says class 0, but nothing of images that are bright."""

    def forward(self, x: Tensor) -> Tensor:
        level = x.flatten(1).mean(1, keepdim=True)
        return torch.cat([level + 1, level], 1).masked_fill(level > 0.5, float("nan"))


@pytest.mark.filterwarnings("ignore:finite.*:RuntimeWarning", "ignore:zero-gradient.*:RuntimeWarning")
def test_logits_that_are_no_numbers_are_never_right() -> None:
    images = torch.tensor([0, 50, 200, 250], dtype=torch.uint8).view(4, 1, 1, 1).expand(4, 1, 2, 2).contiguous()
    data = ImageData(images, torch.zeros(4, dtype=torch.int64), ("a", "b"))
    report = evaluate(SpoiltBright(), data, {"noise": UniformNoise(Linf(0.01), draws=2)})
    assert report["clean"].correct_mask.tolist() == report["noise"].correct_mask.tolist() == [True, True, False, False]
    validation = Validation(data, PGD(Linf(0.01), steps=1), device=torch.device("cpu"))
    assert validation(SpoiltBright()) == {"images": 4, "clean": 0.5, "robust": 0.5}
    result = PGD(Linf(0.01), steps=1)(SpoiltBright(), images.float() / 255, data.labels, targets=1 - data.labels)
    assert (result.correct.tolist(), result.success.any().item()) == ([True, True, False, False], False)


@pytest.mark.parametrize(
    "wrap", [lambda a: a, lambda a: Targeted(a, "next"), lambda a: Transfer(a, Halves(), name="x")]
)
def test_an_attack_that_moves_the_running_statistics_is_refused(data: ImageData, wrap) -> None:
    attack = wrap(PGD(Linf(0.1), bn="train"))
    with pytest.raises(ValueError, match=r"attack 'moves' .* mode 'train', .*write bn='train_frozen'"):
        evaluate(Halves().eval(), data, {"moves": attack})
    with pytest.raises(ValueError, match="write bn='train_frozen'"):
        embed(Halves().eval(), data, torch.arange(2), attack=attack)


def test_any_callable_and_any_object_with_logits_will_do(data: ImageData) -> None:
    model, attacks = Halves().eval(), {"fgsm": FGSM(Linf("12/255"))}
    expected = evaluate(model, data, attacks).to_json()["attacks"]["fgsm"]["outcomes"]
    for other in (
        model.forward,
        lambda x: model(x).logits,
        lambda x: SimpleNamespace(logits=model(x).logits),
        nn.DataParallel(model),
    ):
        assert evaluate(other, data, attacks).to_json()["attacks"]["fgsm"]["outcomes"] == expected


def test_outcomes_do_not_depend_on_what_else_is_measured(data: ImageData) -> None:
    attack = PGD(Linf("12/255"), steps=1, restarts=2)
    alone = evaluate(Halves(), data, {"pgd": attack}, batch_size=16)["pgd"]
    among = evaluate(Halves(), data, {"other": attack, "clean": None, "pgd": attack}, batch_size=16)["pgd"]
    assert torch.equal(alone.correct_mask, among.correct_mask)
    assert 0 < alone.count.correct < 60


def test_clean_images_are_always_measured_and_wrong_ones_never_attacked(data: ImageData) -> None:
    sizes: list[int] = []

    class Spy(FGSM):
        def perturb(self, model, x, y, **options):
            sizes.append(len(x))
            return super().perturb(model, x, y, **options)

    report = evaluate(Halves(), data, {"fgsm": Spy(Linf("1/255"))}, batch_size=60)
    assert list(report.attacks) == ["clean", "fgsm"]
    assert report["clean"].count == (56, 60)
    assert sizes == [56]


# Interruption.


class Interrupting(Kept):
    """Fails when a number of outcomes have been kept."""

    def __init__(self, left: int) -> None:
        super().__init__()
        self.left = left

    def put(self, key: str, outcomes: str, seconds: float, alarms: Sequence[str]) -> None:
        super().put(key, outcomes, seconds, alarms)
        self.left -= 1
        if not self.left:
            raise KeyboardInterrupt


@pytest.mark.parametrize("killed_after", range(1, 9, 2))
def test_a_killed_measurement_goes_on_and_ends_alike(killed_after: int) -> None:
    model, data = digits(4)
    attacks = {"pgd": PGD(Linf(0.2), steps=2), "aa": Square(Linf(0.2), queries=5), "fgsm": FGSM(Linf(0.2))}
    expected = evaluate(model, data, attacks, batch_size=40)
    saved = Interrupting(killed_after)
    with pytest.raises(KeyboardInterrupt):
        evaluate(model, data, attacks, batch_size=40, saved=saved)
    before = dict(saved)
    found = evaluate(model, data, attacks, batch_size=40, saved=saved)
    for name in expected.attacks:
        assert torch.equal(found[name].correct_mask, expected[name].correct_mask)
    assert len(before) == killed_after
    assert before.items() <= saved.items()
    assert len(saved) == 8


def test_nothing_is_attacked_twice_nor_mixed_up() -> None:
    model, data = digits(2)
    saved, weak, strong = Kept(), FGSM(Linf(0.01)), FGSM(Linf(0.3))
    sizes: list[int] = []
    first = evaluate(model, data, {"a": weak, "aa": AutoAttack(Linf(0.5))}, saved=saved)
    handle = model.register_forward_pre_hook(lambda module, inputs: sizes.append(len(inputs[0])))
    again = evaluate(model, data, {"a": weak, "aa": AutoAttack(Linf(0.5))}, saved=saved)
    assert max(sizes) <= 4 < len(data)  # a look at the model, and no batch
    handle.remove()
    assert again["aa"].parameters == first["aa"].parameters
    assert "parts" in again["aa"].parameters
    other = evaluate(model, data, {"a": strong}, saved=saved)
    assert torch.equal(first["a"].correct_mask, again["a"].correct_mask)
    assert other["a"].count.correct < first["a"].count.correct


def test_attacks_whose_records_agree_keep_their_own_outcomes() -> None:
    model, data = digits(2)
    one, two = (PGD(Linf(0.3), steps=2, loss=lambda output, y, sign=sign: sign * margin(output, y)) for sign in (1, -1))
    assert one.parameters() == two.parameters()
    kept, fresh = (evaluate(model, data, {"up": one, "down": two}, saved=saved) for saved in (Kept(), None))
    assert fresh["up"].count.correct < fresh["down"].count.correct
    assert [kept[name].count for name in ("up", "down")] == [fresh[name].count for name in ("up", "down")]


def test_the_budget_leaves_all_attacks_with_the_same_images(data: ImageData, monkeypatch: pytest.MonkeyPatch) -> None:
    def look() -> float:
        clock.now += 1e-4
        return clock.now

    clock = SimpleNamespace(now=0.0, perf_counter=look)
    monkeypatch.setattr("protoat.evaluation.measurement.time", clock)

    class Slow(Halves):
        def forward(self, x: Tensor) -> Output:
            clock.now += 0.02
            return super().forward(x)

    attacks = {"clean": None, "fgsm": FGSM(Linf("12/255"))}
    whole, saved = evaluate(Halves(), data, attacks, batch_size=10), Kept()
    part = evaluate(Slow(), data, attacks, batch_size=10, budget_seconds=0.1, saved=saved)
    images = len(part.indices)
    assert images in (20, 30)
    assert torch.equal(part.indices, fair_order(data)[:images].sort().values)
    for name in attacks:
        assert torch.equal(part[name].correct_mask, whole[name].correct_mask[part.indices])
    assert part.worst_case.count.total == images
    rest = evaluate(Slow(), data, attacks, batch_size=10, budget_seconds=1e-6, saved=saved)
    assert len(rest.indices) == images or len(rest.indices) == 10
    assert torch.equal(
        evaluate(Halves(), data, attacks, batch_size=10, saved=saved)["fgsm"].correct_mask, whole["fgsm"].correct_mask
    )


def test_a_batch_that_another_process_missed_ends_what_is_reported(
    data: ImageData, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("protoat.evaluation.measurement.mean_over_processes", lambda value: value / 2)
    told: list[Advance] = []
    first = SimpleNamespace(process_index=0, num_processes=2, device=torch.device("cpu"))
    report = evaluate(Halves(), data, {"clean": None}, batch_size=20, accelerator=first, advance=told.append)
    assert [(step.done, step.total) for step in told] == [(20, 40), (40, 40)]  # batches 0 and 2
    assert torch.equal(report.indices, fair_order(data)[:20].sort().values)
    assert report["clean"].count.correct == told[0].correct


# Memory.


class Cramped(nn.Module):
    """Memory runs out above a number of images."""

    def __init__(self, network: nn.Module, most: int, error: type[RuntimeError] = torch.OutOfMemoryError) -> None:
        super().__init__()
        self.network = network
        self.most = most
        self.error = error

    def forward(self, x: Tensor) -> Output:
        if len(x) > self.most:
            raise self.error(f"CUDA out of memory. Tried to allocate {len(x)} images")
        return self.network(x)


@pytest.mark.parametrize("error", [torch.OutOfMemoryError, RuntimeError])
def test_pieces_found_by_themselves_change_no_outcome(error: type[RuntimeError]) -> None:
    model, data = digits(4)
    model.double()
    wide = wide_module(model)  # no rounding that depends on the size of a piece
    attacks: dict[str, Attack] = {
        "pgd": PGD(Linf(0.15), steps=3, restarts=2),
        "fab": FAB(Linf(0.15), steps=5),
        "deepfool": DeepFool(L2(0.8), steps=4),
        "apgd": APGD(L2(0.8), steps=5),
        "square": Square(Linf(0.15), queries=10),
    }
    expected = evaluate(wide, data, attacks, batch_size=50)
    found = evaluate(Cramped(wide, 7, error), data, attacks, batch_size=50)
    for name, report in expected.attacks.items():
        assert torch.equal(found[name].correct_mask, report.correct_mask), name
        assert 0 < report.count.correct < 64


def wide_module(model: nn.Module) -> nn.Module:
    class Wide(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, x: Tensor) -> Output:
            return self.model(x.double())

    return Wide()


def test_other_errors_and_too_little_memory_are_not_retried(data: ImageData) -> None:
    class Broken(Halves):
        def forward(self, x: Tensor) -> Output:
            if len(x) > 1:
                raise RuntimeError("shapes do not fit")
            return super().forward(x)

    with pytest.raises(RuntimeError, match="shapes do not fit"):
        evaluate(Broken(), data, {"clean": None})

    class NoGradients(Halves):
        def forward(self, x: Tensor) -> Output:
            if x.requires_grad:
                raise torch.OutOfMemoryError("no room for activations")
            return super().forward(x)

    with pytest.raises(ValueError, match="memory runs out with a single image"):
        evaluate(NoGradients(), data, {"fgsm": FGSM(Linf(0.1))})


def test_memory_does_not_grow_with_the_number_of_images() -> None:
    """Resident memory at each forward; as floats the images would take 370 MB."""
    status = Path("/proc/self/statm")
    if not status.exists():
        pytest.skip("needs /proc")
    resident: list[int] = []

    class Watching(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            resident.append(int(status.read_text().split()[1]) * 4096)
            return x.flatten(1)[:, :2]

    images = torch.zeros(1, 3, 32, 32, dtype=torch.uint8).expand(30_000, -1, -1, -1)
    data = ImageData(images, torch.arange(30_000) % 2, ("a", "b"))
    evaluate(Watching(), data, {"fgsm": FGSM(Linf(0.1))}, batch_size=100)
    assert len(resident) == 2 + 300 * 3  # those of the look before
    assert max(resident) - resident[8] < 40e6


# The world around.


def test_device_mode_and_layout_are_those_from_before(data: ImageData) -> None:
    model = nn.Sequential(nn.Conv2d(1, 8, 3), nn.BatchNorm2d(8), nn.Flatten(), nn.Linear(32, 2))
    model = model.to(memory_format=torch.channels_last).train()
    model[1].eval()
    model[3].weight.requires_grad_(False)
    layouts = {
        name: p.is_contiguous(memory_format=torch.channels_last) for name, p in model.named_parameters() if p.dim() == 4
    }
    attacks = {"pgd": PGD(Linf(0.1), steps=2), "broken": Raising(Linf(0.1))}
    with pytest.raises(ZeroDivisionError):
        evaluate(model, data, attacks, device="cpu")
    assert [module.training for module in model] == [True, False, True, True]
    assert not model[3].weight.requires_grad
    assert model[0].weight.requires_grad
    assert layouts == {"0.weight": True}
    assert model[0].weight.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize(("bn", "norms"), [("eval", 0), ("train_frozen", 1)])
def test_batch_norm_is_folded_for_attacks_in_eval_mode_only(data: ImageData, bn: str, norms: int) -> None:
    model = nn.Sequential(nn.Conv2d(1, 8, 3), nn.BatchNorm2d(8), nn.Flatten(), nn.Linear(32, 2))
    seen: list[int] = []

    class Spy(PGD):
        def run(self, problem):
            seen.append(sum(isinstance(module, nn.BatchNorm2d) for module in model.modules()))
            return super().run(problem)

    evaluate(model, data, {"spy": Spy(Linf(0.1), steps=1, bn=bn)}, batch_size=60)
    assert seen == [norms]
    assert isinstance(model[1], nn.BatchNorm2d)


def test_a_model_that_was_moved_is_moved_back(data: ImageData) -> None:
    moves: list[str] = []

    class Recording(Halves):
        def to(self, device: torch.device) -> Recording:
            moves.append(str(device))
            return self

    evaluate(Recording(), data, {"clean": None})
    assert moves == []
    with pytest.raises(ValueError, match="cannot take an image"):  # of the only other device that every machine has
        evaluate(Recording(), data, {"clean": None}, device="meta")
    assert moves == ["meta", "cpu"]


class Raising(FGSM):
    def run(self, problem):
        raise ZeroDivisionError


def test_a_random_model_sees_fresh_noise_and_leaves_the_global_state(data: ImageData) -> None:
    drawn: list[float] = []

    class Noisy(Halves):
        def forward(self, x: Tensor) -> Output:
            noise = torch.rand(2)
            drawn.append(float(noise[0]))
            return super().forward(x + 0 * noise[0])

    state = torch.get_rng_state()
    first = evaluate(Noisy(), data, {"pgd": PGD(Linf("12/255"), steps=5)}, batch_size=60)
    assert torch.equal(torch.get_rng_state(), state)
    within = drawn[4:9]  # behind the look at one image, the two at several, and the clean ones, before the judgement
    assert len(set(within)) == 5
    before = list(drawn)
    drawn.clear()
    again = evaluate(Noisy(), data, {"pgd": PGD(Linf("12/255"), steps=5)}, batch_size=60)
    assert drawn[1:] == before[1:]
    assert torch.equal(first["pgd"].correct_mask, again["pgd"].correct_mask)


# The worst case.


def test_the_worst_case_is_that_of_each_image_and_no_attack_raises_it() -> None:
    model, data = digits(4)
    attacks: dict[str, Attack | None] = {
        "square": Square(Linf(0.1), queries=30),
        "clean": None,
        "noise": UniformNoise(Linf(0.3), draws=30),
        "mim": MIM(Linf(0.05), steps=3),
        "bim": Targeted(BIM(Linf(0.15), steps=3), "next"),
    }
    report = evaluate(model, data, attacks)
    masks = torch.stack([found.correct_mask for found in report.attacks.values()])
    assert report.worst_case.correct_mask.tolist() == [all(column) for column in masks.T.tolist()]
    assert report.worst_case.parameters["attacks"] == list(attacks)
    counts = []
    for many in range(1, len(attacks) + 1):
        some = dict(itertools.islice(attacks.items(), many))
        counts.append(evaluate(model, data, some).worst_case.count.correct)
    assert counts == sorted(counts, reverse=True)
    assert counts[-1] == report.worst_case.count.correct < min(found.count.correct for found in report.attacks.values())


def test_only_what_the_threat_model_allows_enters_the_worst_case() -> None:
    model, data = digits(4)
    attacks = {
        "inside": FGSM(Linf(0.1)),
        "exact": PGD(Linf(0.2), steps=2),
        "larger": FGSM(Linf(0.21)),
        "targeted": Targeted(PGD(Linf(0.2), steps=2), "next"),
        "larger, targeted": Targeted(PGD(Linf(0.3), steps=2), "next"),
        "other norm": PGD(L2(0.1), steps=2),
    }
    report = evaluate(model, data, attacks, threat=Linf(0.2))
    entering = ["clean", "inside", "exact", "targeted"]
    assert report.worst_case.parameters["attacks"] == entering
    masks = torch.stack([report[name].correct_mask for name in entering])
    assert torch.equal(report.worst_case.correct_mask, masks.all(0))
    assert evaluate(model, data, attacks).worst_case.parameters["attacks"] == ["clean", *attacks]


def test_a_worst_case_that_no_attack_enters_is_said(data: ImageData, caplog: pytest.LogCaptureFixture) -> None:
    attacks = {"clean": None, "larger": FGSM(Linf(0.2))}
    for eps, expected in ((0.2, 0), (0.1, 1)):
        caplog.clear()
        evaluate(Halves().eval(), data, attacks, threat=Linf(eps))
        assert caplog.text.count("no attack enters the worst case, which is clean accuracy") == expected
    evaluate(Halves().eval(), data, {"clean": None}, threat=Linf(0.1))
    assert caplog.text.count("no attack enters the worst case") == 1


def test_a_function_over_a_network_in_train_mode_is_said(data: ImageData, caplog: pytest.LogCaptureFixture) -> None:
    net = nn.Sequential(
        nn.Conv2d(data.shape[0], 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.LazyLinear(data.num_classes)
    )
    net(torch.rand(2, *data.shape))
    for training, model, expected in ((True, net, 0), (False, net.forward, 0), (True, net.forward, 1)):
        caplog.clear()
        net.train(training)
        evaluate(model, data, {"clean": None})
        assert caplog.text.count("unreached: model.eval() does not reach") == expected


@pytest.mark.parametrize(
    ("weak", "strong"),
    [
        (PGD(Linf(0.15), steps=2, step_size=0.05), PGD(Linf(0.15), steps=20, step_size=0.05)),
        (PGD(Linf(0.15), steps=3), PGD(Linf(0.15), steps=3, restarts=5)),
        (PGD(Linf(0.1), steps=5), PGD(Linf(0.2), steps=5)),
        (Square(Linf(0.15), queries=5), Square(Linf(0.15), queries=100)),
        (FAB(Linf(0.1), steps=10), FAB(Linf(0.2), steps=10)),
        (APGD(L2(0.5), steps=3), APGD(L2(0.5), steps=30)),
    ],
)
def test_more_steps_restarts_or_radius_leave_no_more(weak: Attack, strong: Attack) -> None:
    model, data = digits(4)
    report = evaluate(model, data, {"weak": weak, "strong": strong})
    assert report["strong"].count.correct <= report["weak"].count.correct + 1
    assert report["weak"].count.correct > 0


@pytest.mark.parametrize("classes", [2, 3, 4, 7])
def test_few_classes_run_to_the_end(classes: int) -> None:
    model, data = digits(classes, 12)
    threat = Linf(0.35)
    attacks: dict[str, Attack] = {"aa": AutoAttack(threat), "pgd": PGD(threat, steps=10), "fab": FAB(threat, steps=10)}
    report = evaluate(model, data, attacks, threat=threat)
    assert report["aa"].parameters["version"] == f"aa-k{classes}"
    assert report.worst_case.count.correct <= report["aa"].count.correct <= report["pgd"].count.correct
    assert report["clean"].accuracy > 0.8
    assert json.dumps(report.to_json())


def test_a_report_is_a_mapping_of_its_attacks() -> None:
    data = Digits().load("test")
    report = evaluate(nn.Sequential(nn.Flatten(), nn.Linear(64, 10)), data, ["fgsm"], threat=Linf(0.1), limit=20)
    assert list(report) == ["clean", "fgsm"] and len(report) == 2
    assert "fgsm" in report and "pgd10" not in report
    assert dict(report) == report.attacks
