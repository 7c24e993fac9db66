"""Fast adversarial training: where it starts, and its guard; its update is tested in `test_pgd.py`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from protoat.attacks import FFGSM, FGSM, PGD, RFGSM
from protoat.data import MNIST, ImageData, ImageLoader
from protoat.methods import FGSMAT, NFGSM, AdversarialTraining, FastAT
from protoat.models import LeNet
from protoat.objective import Objective
from protoat.threats import Linf
from protoat.training import FitResult, fit
from protoat.types import Output


class Threshold(nn.Module):
    """Tells pixels above a threshold from those below: how far the threshold lies from them is its robustness."""

    def __init__(self, threshold: float = 0.5) -> None:
        super().__init__()
        self.threshold = nn.Parameter(torch.tensor(threshold))
        self.dropout = nn.Dropout(0.9)

    def forward(self, x: Tensor) -> Output:
        score = self.dropout(20 * (x.flatten(1) - self.threshold))
        return Output(torch.cat([-score, score], 1), score)


# Half of the images are at 0.2 and half at 0.8, of classes 0 and 1.
X = torch.tensor([0.2, 0.8, 0.2, 0.8]).view(4, 1, 1, 1)
Y = torch.tensor([0, 1, 0, 1])


def epoch(method: FastAT, model: Threshold, threshold: float, x: Tensor = X, y: Tensor = Y) -> str | None:
    """One pass of two batches, of which the guard should watch the first, ending with this threshold."""
    model.train()
    for batch in ((x, y), (1 - x, y)):
        for views in method.updates(model, *batch):
            method.loss(views, batch[1]).backward()
    with torch.no_grad():
        model.threshold.fill_(threshold)
    return method.end_epoch(model)


def test_collapse_stops_the_run() -> None:
    method, model = FastAT(Linf(0.1)), Threshold()
    assert epoch(method, model, 0.5) is None
    assert epoch(method, model, 0.4) is None
    # Clean accuracy is still perfect, but 0.8 falls below the threshold when it is moved by 0.1.
    reason = epoch(method, model, 0.75)
    assert reason is not None
    assert "catastrophic overfitting" in reason and "from 100.0% to 50.0%" in reason
    assert model.training and model.dropout.training


@pytest.mark.parametrize(("drop", "stops"), [(0.2, True), (0.45, True), (0.55, False)])
def test_how_far_it_may_fall(drop: float, stops: bool) -> None:
    method, model = FastAT(Linf(0.1), guard_drop=drop), Threshold()
    assert epoch(method, model, 0.5) is None
    assert (epoch(method, model, 0.75) is not None) == stops


def test_a_fall_is_measured_from_the_epoch_before() -> None:
    method, model = FastAT(Linf(0.1), guard_drop=0.3), Threshold()
    x, y = torch.tensor([0.2, 0.6, 0.7, 0.8]).view(4, 1, 1, 1), torch.tensor([0, 1, 1, 1])
    # Accuracy 100, 75 and 50 %: never more than 25 points at once.
    assert [epoch(method, model, t, x, y) for t in (0.4, 0.55, 0.65)] == [None, None, None]


def test_a_low_start_is_no_fall() -> None:
    method, model = FastAT(Linf(0.1)), Threshold()
    assert epoch(method, model, 0.75) is None


def test_the_ramp_holds_for_the_guard() -> None:
    method, model = FastAT(Linf(0.1), ramp_epochs=4), Threshold()
    method.at_epoch(1)
    assert epoch(method, model, 0.5) is None
    assert epoch(method, model, 0.75) is None  # 0.025 does not carry 0.8 over the threshold.
    method.at_epoch(4)
    assert epoch(method, model, 0.75) is None  # accuracy fell, because the radius grew
    method.at_epoch(5)
    assert epoch(method, model, 0.5) is None
    method.at_epoch(6)
    assert epoch(method, model, 0.75) is not None  # the same fall at a radius that stayed


def test_without_guard() -> None:
    method, model = FastAT(Linf(0.1), guard=False), Threshold()
    assert [epoch(method, model, t) for t in (0.5, 0.75)] == [None, None]
    assert set(method.state_dict()) <= {"previous"}


@pytest.mark.parametrize("moment", ["inside", "between"])
def test_the_guard_goes_on_from_its_state(moment: str) -> None:
    method, model = FastAT(Linf(0.1)), Threshold()
    assert epoch(method, model, 0.5) is None
    resumed = FastAT(Linf(0.1))
    if moment == "inside":
        model.train()
        for views in method.updates(model, X, Y):
            method.loss(views, Y).backward()
        resumed.load_state_dict({key: value.clone() for key, value in method.state_dict().items()})
        with torch.no_grad():
            model.threshold.fill_(0.75)
        assert resumed.end_epoch(model) == method.end_epoch(model) is not None
    else:
        resumed.load_state_dict(method.state_dict())
        assert epoch(resumed, model, 0.75) is not None


def test_from_the_image_itself_it_is_fgsm() -> None:
    model, x = Threshold(), torch.linspace(0.15, 0.85, 8).view(8, 1, 1, 1)
    y = torch.tensor([0, 1] * 4)
    images = []
    for method in (FGSMAT(Linf(0.1)), FastAT(Linf(0.1), random_start=False), FastAT(Linf(0.1))):
        images.append(next(method.updates(model.train(), x, y)).x_adv)
    torch.testing.assert_close(images[0], images[1])
    assert not torch.allclose(images[0], images[2])


def wong(model: nn.Module, x: Tensor, y: Tensor, *, eps: float, alpha: float, generator: torch.Generator) -> Tensor:
    """The example of the authors' code for MNIST, line by line: only the last two lines cut to the box."""
    delta = torch.zeros_like(x).uniform_(-1, 1, generator=generator) * eps
    delta.requires_grad_()
    gradient = torch.autograd.grad(F.cross_entropy(model(x + delta), y), delta)[0]
    delta = (delta.detach() + alpha * gradient.sign()).clamp(-eps, eps)
    delta = torch.max(torch.min(1 - x, delta), 0 - x)
    return (x + delta).clamp(0, 1)


def inked(count: int = 16, size: int = 12) -> tuple[Tensor, Tensor]:
    """Images that are mostly black, a fifth white, little grey; and labels."""
    grey = torch.rand(count, 1, size, size, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    return (1.5 * grey - 0.25).where(grey > 0.6, 0.0).clamp(0, 1), torch.arange(count) % 3


@pytest.mark.parametrize("alpha", [None, 0.2, 0.6])
def test_its_examples_are_those_of_the_authors_code(alpha: float | None) -> None:
    torch.manual_seed(0)
    x, y = inked()
    model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(400, 3)).double()
    torch.manual_seed(7)
    ours = FastAT(Linf(0.3), step_size=alpha).examples(model, x, y).x_adv
    torch.manual_seed(7)
    theirs = wong(model, x, y, eps=0.3, alpha=alpha or 0.375, generator=FastAT.generator(x))
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-9)


def inside(method: AdversarialTraining, colour: float) -> float:
    """Share of the pixels of one colour that end neither at the image nor at the radius, where half of them rise."""
    torch.manual_seed(0)
    x, y = torch.full((100, 1, 28, 28), colour), torch.zeros(100, dtype=torch.int64)
    model = nn.Sequential(nn.Flatten(), nn.Linear(784, 2))
    moved = (method.examples(model, x, y).x_adv - x).abs()
    return float(((moved > 1e-6) & (moved < method.eps - 1e-6)).float().mean())


@pytest.mark.parametrize("colour", [0.0, 1.0])
@pytest.mark.parametrize("long", [1.0, 1.25, 1.6])
def test_pixels_at_the_ends_of_the_range_end_inside_the_ball(colour: float, long: float) -> None:
    """Half climb away from the end; of those, the ones that began further outside than the step makes up for."""
    assert inside(FastAT(Linf(0.3), step_size=long * 0.3), colour) == pytest.approx((2 - long) / 4, abs=0.02)
    assert inside(AdversarialTraining(FFGSM(Linf(0.3), step_size=long * 0.3)), colour) > 0.08
    # From a start that is cut, as evaluation has it, they all end at a corner.
    assert inside(AdversarialTraining(PGD(Linf(0.3), steps=1, step_size=long * 0.3)), colour) == 0


def test_by_default_18_8_percent_of_black_pixels_end_inside_the_ball() -> None:
    assert inside(FastAT(Linf(0.3)), 0.0) == pytest.approx(0.188, abs=0.02)


@pytest.mark.parametrize("colour", [0.0, 1.0])
def test_starts_that_their_authors_cut(colour: float) -> None:
    """Without the cut R+FGSM would leave none inside, and N-FGSM a quarter."""
    # Half begin at the end, half eps / 2 from it. Of the first, half stay inside, others reach an end.
    assert inside(AdversarialTraining(RFGSM(Linf(0.3))), colour) == pytest.approx(0.25, abs=0.02)
    # Half begin at the end, half up to 2 eps from it; only the half of these beyond eps that step back end inside.
    assert inside(NFGSM(Linf(0.3)), colour) == pytest.approx(0.125, abs=0.02)
    assert inside(NFGSM(Linf(0.3), clip_noise=False), colour) == pytest.approx(0.25, abs=0.02)


def test_bad_values() -> None:
    for drop in (0.0, 1.0, 20):
        with pytest.raises(ValueError, match="guard_drop"):
            FastAT(Linf(0.1), guard_drop=drop)


class Remembering(FastAT):
    """Keeps the weights of every epoch's end."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.ends: list[dict[str, Tensor]] = []

    def end_epoch(self, model: nn.Module) -> str | None:
        self.ends.append({name: value.clone() for name, value in model.state_dict().items()})
        return super().end_epoch(model)


def collapsing(
    images: ImageData, seed: int, *, guard: bool, epochs: int
) -> tuple[FitResult, nn.Module, list[dict[str, Tensor]]]:
    """Steps twice as long as the radius, from the images themselves, at a constant learning rate."""
    torch.manual_seed(seed)
    model = LeNet(10, 1, 28)
    method = Remembering(Linf(0.3), step_size=0.6, random_start=False, guard=guard)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    loader = ImageLoader(images, batch_size=64, seed=0)
    result = fit(model, loader, Objective(method), epochs=epochs, optimizer=optimizer, progress=False)
    return result, model.eval(), method.ends


@pytest.mark.slow
def test_a_run_on_mnist_that_is_set_up_to_collapse(data_root: Path) -> None:
    source = MNIST(root=data_root)
    train, test = source.load("train"), source.load("test")
    train = ImageData(train.images[:4000], train.labels[:4000], train.class_names)
    x, y = test.images[:500] / 255, test.labels[:500]

    def right(model: nn.Module, attack: FGSM | PGD) -> float:
        return float(attack(model, x, y).correct.float().mean())

    pgd, fgsm = PGD(Linf(0.3), steps=10), FGSM(Linf(0.3))
    for seed in (1, 4, 0, 3, 6):  # a net that never resisted cannot lose it; which one does hangs on rounding
        result, guarded, _ = collapsing(train, seed, guard=True, epochs=12)
        if result.stopped is not None and right(guarded, pgd) > 0.15:
            break
    assert result.stopped is not None and "catastrophic overfitting" in result.stopped

    # The same run without the guard: one epoch later it resists nothing but the step it was trained on.
    _, collapsed, ends = collapsing(train, seed, guard=False, epochs=result.epochs + 1)
    assert right(collapsed, pgd) < 0.1
    assert right(collapsed, fgsm) > 0.3
    assert float((collapsed(x).logits.argmax(1) == y).float().mean()) > 0.7

    # The guard went back to where the run was before that epoch.
    assert right(guarded, pgd) > right(collapsed, pgd) + 0.1
    assert len(ends) == result.epochs + 1
    assert all(torch.equal(value, ends[-2][name]) for name, value in guarded.state_dict().items())
