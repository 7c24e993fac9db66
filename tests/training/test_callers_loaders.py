"""Whatever loader a caller brings: its batches are understood, and a resumed run ends where it would have ended."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import BatchSampler, DataLoader, Dataset, RandomSampler, Sampler, TensorDataset
from torch.utils.data.distributed import DistributedSampler

import protoat as pa
from protoat.data.batch_format import as_batch
from protoat.training import SWA, FitResult, fit

X = torch.rand(22, 1, 4, 4, generator=torch.Generator().manual_seed(0))
Y = torch.arange(22) % 3
SET = TensorDataset(X, Y)
EPOCHS = 3


class Killed(BaseException):
    pass


class Net(nn.Module):
    """Dies before a given forward in training, to stop a run at an exact place."""

    def __init__(self, dies_at: int | None = None) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.linear, self.dies_at, self.forwards = nn.Linear(16, 3), dies_at, 0

    def forward(self, x: Tensor) -> Tensor:
        self.forwards += self.training
        if self.forwards == self.dies_at:
            raise Killed
        return self.linear(x.flatten(1))


def train(loader: Any, out: Path | None = None, dies_at: int | None = None, **options: Any) -> tuple[Net, FitResult]:
    net = Net(dies_at)
    goal = pa.Objective(pa.methods.Standard(pa.Linf(0.1)))
    optimizer = torch.optim.SGD(net.parameters(), lr=0.5, momentum=0.9)
    options = {"epochs": EPOCHS, "loggers": [], "checkpoint_every": None if out is None else 1, **options}
    return net, fit(net, loader, goal, optimizer=optimizer, out=out, **options)


class Shuffled(Sampler[int]):
    """Draws its order from a generator of NumPy's that it keeps."""

    def __init__(self) -> None:
        self.random = np.random.default_rng(5)

    def __len__(self) -> int:
        return len(X)

    def __iter__(self) -> Iterator[int]:
        return iter(self.random.permutation(len(X)).tolist())


class Reshuffled(Sampler[int]):
    """Shuffles the order of the epoch before, which it keeps as a list, and counts."""

    def __init__(self) -> None:
        self.order, self.passes = list(range(len(X))), 0

    def __len__(self) -> int:
        return len(X)

    def __iter__(self) -> Iterator[int]:
        self.passes += 1
        random.Random(self.passes).shuffle(self.order)
        return iter(list(self.order))


class Remembers(Sampler[int]):
    """Gives and takes its state."""

    def __init__(self) -> None:
        self._hidden = {"epoch": 0}

    def __len__(self) -> int:
        return len(X)

    def __iter__(self) -> Iterator[int]:
        self._hidden["epoch"] += 1
        return iter(torch.randperm(len(X), generator=torch.Generator().manual_seed(self._hidden["epoch"])).tolist())

    def state_dict(self) -> dict[str, Any]:
        return dict(self._hidden)

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._hidden = dict(state)


class Noisy(Dataset[Any]):
    """Changes its images by a generator of its own, or by global ones."""

    def __init__(self, draw: Callable[[], float]) -> None:
        self.draw = draw

    def __len__(self) -> int:
        return len(X)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return X[index] * self.draw(), int(Y[index])


class Resumable:
    """A loader that goes on from the middle of an epoch by its own state, as torchdata's does."""

    def __init__(self) -> None:
        self._pass, self._batch, self._goes_on = 0, 0, False

    def __len__(self) -> int:
        return 6

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        if not self._goes_on:
            self._pass, self._batch = self._pass + 1, 0
        self._goes_on = False
        order = torch.randperm(len(X), generator=torch.Generator().manual_seed(self._pass)).split(4)
        while self._batch < len(order):
            self._batch += 1
            rows = order[self._batch - 1]
            yield X[rows], Y[rows]
        self._batch = 0

    def state_dict(self) -> dict[str, Any]:
        return {"pass": self._pass, "batch": self._batch}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._pass, self._batch = state["pass"], state["batch"]
        self._goes_on = bool(self._batch)


class Handmade:
    """No loader of torch's, with a generator and a counter."""

    def __init__(self) -> None:
        self.generator, self.calls = torch.Generator().manual_seed(2), 0

    def __len__(self) -> int:
        return 5

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        self.calls += 1
        for _ in range(5):
            rows = torch.randint(len(X), (4,), generator=self.generator)
            yield X[rows] / (1 + self.calls), Y[rows]


def generator() -> torch.Generator:
    return torch.Generator().manual_seed(1)


LOADERS: dict[str, Callable[[], Any]] = {
    "generator of the loader": lambda: DataLoader(SET, batch_size=4, shuffle=True, generator=generator()),
    "generator of the sampler": lambda: DataLoader(SET, 4, sampler=RandomSampler(SET, generator=generator())),
    "batch sampler": lambda: DataLoader(
        SET, batch_sampler=BatchSampler(RandomSampler(SET, generator=generator()), 4, True)
    ),
    "sampler of NumPy": lambda: DataLoader(SET, batch_size=4, sampler=Shuffled()),
    "sampler that counts": lambda: DataLoader(SET, batch_size=4, sampler=Reshuffled()),
    "sampler with a state": lambda: DataLoader(SET, batch_size=4, sampler=Remembers()),
    "sampler with epochs": lambda: DataLoader(SET, 4, sampler=DistributedSampler(SET, num_replicas=1, rank=0)),
    "set with a generator": lambda: DataLoader(Noisy(np.random.default_rng(3).random), batch_size=4),
    "set with one of Python's": lambda: DataLoader(Noisy(random.Random(3).random), batch_size=4),
    "set and NumPy's state": lambda: DataLoader(Noisy(np.random.rand), batch_size=4, shuffle=True),
    "set and Python's state": lambda: DataLoader(Noisy(random.random), batch_size=4, shuffle=True),
    "loader with a state": Resumable,
    "loader by hand": Handmade,
    "plain": lambda: DataLoader(SET, batch_size=4, shuffle=True),
}


@pytest.mark.parametrize("dies_at", [7, 9, 14], ids=["between epochs", "in epoch 2", "in epoch 3"])
@pytest.mark.parametrize("shuffle", [False, True])
@pytest.mark.filterwarnings("ignore:'set_vital' is deprecated:UserWarning")  # torchdata calls it
def test_the_stateful_loader_of_torchdata_is_resumed(shuffle: bool, dies_at: int, tmp_path: Path) -> None:
    torchdata = pytest.importorskip("torchdata.stateful_dataloader")

    def loader() -> Any:
        return torchdata.StatefulDataLoader(SET, 4, shuffle=shuffle, generator=generator())

    whole, _ = train(loader())
    with pytest.raises(Killed):
        train(loader(), tmp_path, dies_at)
    resumed, _ = train(loader(), tmp_path)
    assert torch.equal(resumed.linear.weight, whole.linear.weight)


@pytest.mark.parametrize("dies_at", [7, 9, 14], ids=["between epochs", "in epoch 2", "in epoch 3"])
@pytest.mark.parametrize("name", LOADERS)
def test_resumed_is_as_never_stopped(name: str, dies_at: int, tmp_path: Path) -> None:
    with pytest.raises(Killed):
        train(LOADERS[name](), tmp_path, dies_at)
    resumed, _ = train(LOADERS[name](), tmp_path)
    assert torch.equal(resumed.linear.weight, never_stopped(name))


def test_estimating_batch_norm_anew_leaves_the_loader_where_it_was(tmp_path: Path) -> None:
    options = {"averaging": SWA(start_epoch=1, bn_batches=2)}
    whole, _ = train(Resumable(), **options)
    with pytest.raises(Killed):
        train(Resumable(), tmp_path, 7, **options)
    resumed, _ = train(Resumable(), tmp_path, **options)
    assert torch.equal(resumed.linear.weight, whole.linear.weight)


@cache
def never_stopped(name: str) -> Tensor:
    return train(LOADERS[name]())[0].linear.weight


@pytest.mark.parametrize("name", LOADERS)
def test_every_epoch_has_its_own_order(name: str) -> None:
    """Without it the test above could not fail."""
    seen: list[Tensor] = []

    class Watched(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(16, 3)

        def forward(self, x: Tensor) -> Tensor:
            seen.append(x.clone())
            return self.linear(x.flatten(1))

    net = Watched()
    goal = pa.Objective(pa.methods.Standard(pa.Linf(0.1)))
    fit(net, LOADERS[name](), goal, epochs=2, optimizer=torch.optim.SGD(net.parameters(), lr=0.1))
    assert not torch.equal(seen[0], seen[len(seen) // 2])


@pytest.mark.parametrize("persistent", [False, True])
def test_workers_are_resumed(persistent: bool, tmp_path: Path) -> None:
    def loader() -> Any:
        return DataLoader(
            Noisy(np.random.rand), 4, shuffle=True, num_workers=1, persistent_workers=persistent, generator=generator()
        )

    whole, _ = train(loader())
    with pytest.raises(Killed):
        train(loader(), tmp_path, 9)
    resumed, _ = train(loader(), tmp_path)
    assert torch.equal(resumed.linear.weight, whole.linear.weight)


def test_the_callers_random_states_stay() -> None:
    net = nn.Sequential(nn.Flatten(), nn.Linear(16, 3))
    goal = pa.Objective(pa.methods.Standard(pa.Linf(0.1)))
    states = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state()
    loader = DataLoader(Noisy(lambda: random.random() * np.random.rand()), batch_size=4, shuffle=True)
    fit(net, loader, goal, epochs=1, optimizer=torch.optim.SGD(net.parameters(), lr=0.1), validation=loader)
    assert random.getstate() == states[0]
    assert np.random.get_state()[1].tolist() == states[1]
    assert torch.equal(torch.get_rng_state(), states[2])


def test_a_validation_loader_with_a_generator_is_resumed(tmp_path: Path) -> None:
    def run(out: Path | None, dies_at: int | None = None) -> FitResult:
        held_out = DataLoader(Noisy(np.random.default_rng(0).random), batch_size=8)
        return train(LOADERS["plain"](), out, dies_at, validation=held_out)[1]

    def measured(result: FitResult) -> list[Any]:
        return [line["validation"] for line in result.metrics]

    whole = run(None)
    with pytest.raises(Killed):
        run(tmp_path, 13)
    assert measured(run(tmp_path)) == measured(whole)


def test_a_state_that_cannot_be_stored_is_refused_before_training(tmp_path: Path) -> None:
    class Odd(Remembers):
        def state_dict(self) -> dict[str, Any]:
            return {"open file": object()}

    with pytest.raises(ValueError, match=r"'open file'.*object, which no checkpoint can hold"):
        train(DataLoader(SET, batch_size=4, sampler=Odd()), tmp_path)
    assert not list(tmp_path.iterdir())


FORMS: dict[str, Callable[[Tensor, Tensor], Any]] = {
    "index": lambda x, y: (x, y, torch.arange(len(x))),
    "list": lambda x, y: [x, y],
    "image and label": lambda x, y: {"image": x, "label": y},
    "images and labels": lambda x, y: {"images": x, "labels": y, "index": 3},
    "pixel_values": lambda x, y: {"pixel_values": x, "labels": y.to(torch.int32)},
    "img": lambda x, y: {"img": x.numpy(), "label": y.tolist()},
    "numpy": lambda x, y: (x.numpy().astype(np.float64), y.numpy().astype(np.uint16)),
    "int8": lambda x, y: (x, y.to(torch.int8)),
    "uint8 labels": lambda x, y: (x, y.to(torch.uint8)),
}


@pytest.mark.parametrize("form", FORMS)
def test_forms_of_a_batch(form: str) -> None:
    plain = [(X[:8], Y[:8]), (X[8:], Y[8:])]
    expected, _ = train(plain, epochs=2, validation=plain)
    batches = [FORMS[form](x, y) for x, y in plain]
    found, result = train(batches, epochs=2, validation=batches)
    assert torch.equal(found.linear.weight, expected.linear.weight)
    assert result.metrics[-1]["validation"]["images"] == len(X)


def test_pixels_of_eight_bits_are_divided_by_255() -> None:
    pixels = (X * 255).round().to(torch.uint8)
    expected, _ = train([(pixels.float() / 255, Y)], epochs=1)
    found, _ = train([(pixels, Y)], epochs=1)
    assert torch.equal(found.linear.weight, expected.linear.weight)


def test_images_come_in_the_type_of_the_model() -> None:
    net = nn.Sequential(nn.Flatten(), nn.Linear(16, 3)).double()
    goal = pa.Objective(pa.methods.PGDAT(pa.Linf(0.1), steps=1))
    fit(net, [(X, Y)], goal, epochs=1, optimizer=torch.optim.SGD(net.parameters(), lr=0.1), validation=[(X, Y)])


BAD: dict[str, tuple[Any, str]] = {
    "0 to 255": ((X * 255, Y), r"\[0, 1\]"),
    "normalised": ((X - 0.5, Y), r"\[0, 1\]"),
    "nan": ((X / 0 * 0, Y), r"\[0, 1\]"),
    "int pixels": ((X.long(), Y), "torch.int64"),
    "float labels": ((X, Y.float()), "labels are torch.float32"),
    "one-hot": ((X, nn.functional.one_hot(Y, 3)), "argmax"),
    "column": ((X, Y[:, None]), "squeeze"),
    "too few labels": ((X, Y[:-1]), r"\(21,\)"),
    "negative": ((X, Y - 1), "-1"),
    "beyond the model": ((X, Y + 1), "3 classes"),
    "images alone": (X, "Tensor"),
    "one entry": ((X,), "tuple of 1"),
    "unknown keys": ({"x": X, "y": Y}, "keys x, y"),
    "two images": ({"image": X, "img": X, "label": Y}, "image and img"),
    "no label": ({"image": X}, "keys image"),
    "text": (("image.png", Y), "str"),
    "words for labels": ((X, ["a"] * len(X)), "labels"),
    "no image": ((X[:0], Y[:0]), "at least one image"),
}


@pytest.mark.parametrize("as_validation", [False, True], ids=["train", "validation"])
@pytest.mark.parametrize("name", BAD)
def test_other_batches_are_refused_at_the_door(name: str, as_validation: bool, tmp_path: Path) -> None:
    batch, message = BAD[name]
    if as_validation and name in ("beyond the model",):
        pytest.skip("counts as wrong")
    batches = {"loader": [(X, Y)], "validation": [batch]} if as_validation else {"loader": [batch]}
    with pytest.raises(ValueError, match=message) as caught:
        train(out=tmp_path, **batches)
    assert "\n" not in str(caught.value)
    if name != "beyond the model":
        assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("loader", "message"),
    [
        (lambda: iter([(X, Y)]), "without a length"),
        (lambda: ((X, Y) for _ in range(2)), "without a length"),
        (lambda: [], "no batches"),
        (lambda: SET, "DataLoader"),
        (lambda: pa.data.ImageData((X * 255).byte(), Y, ("a", "b", "c")), "ImageLoader"),
        (lambda: None, "NoneType"),
    ],
)
def test_no_loaders(loader: Callable[[], Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        train(loader())


def test_a_loader_shorter_than_it_says() -> None:
    class Short(Handmade):
        def __len__(self) -> int:
            return 7

    with pytest.raises(ValueError, match="length of 7 and ended after 5"):
        train(Short())


def test_what_can_be_read_only_once() -> None:
    class Once:
        def __len__(self) -> int:
            return 2

        def __iter__(self) -> Once:
            return self

        def __next__(self) -> Any:
            return X, Y

    with pytest.raises(ValueError, match="only once"):
        train(Once())


def test_images_alone_will_do_where_nothing_has_labels() -> None:
    x, y = as_batch(X, labelled=False)
    assert torch.equal(x, X)
    assert y.tolist() == [0] * len(X)
    assert as_batch({"image": X}, labelled=False)[0] is X
    with pytest.raises(ValueError, match="Tensor"):
        as_batch(X)


def test_labels_of_a_loop_of_ones_own() -> None:
    goal = pa.Objective(pa.methods.Standard(pa.Linf(0.1)))
    net = Net()
    (wide,) = goal.losses(net, X, Y)
    (narrow,) = goal.losses(net, X, Y.to(torch.int16))
    assert torch.equal(wide.total, narrow.total)
    for labels, message in ((Y.float(), "float32"), (Y - 100, "-100"), (Y + 5, "classes"), (Y[:4], "shape")):
        with pytest.raises(ValueError, match=message):
            next(goal.losses(net, X, labels))


def _last_of_one(**options: Any) -> Any:
    return partial(DataLoader, TensorDataset(X[:9], Y[:9]), **options)()


@pytest.mark.parametrize(
    "loader",
    [
        lambda: _last_of_one(batch_size=4),
        lambda: _last_of_one(batch_size=1),
        lambda: pa.data.ImageLoader(
            pa.data.ImageData((X[:9] * 255).byte(), Y[:9], ("a", "b", "c")), batch_size=4, shuffle=False
        ),
    ],
)
def test_a_last_batch_of_one_image(loader: Callable[[], Any], tmp_path: Path) -> None:
    def run(net: nn.Module, out: Path | None = None) -> None:
        goal = pa.Objective(pa.methods.Standard(pa.Linf(0.1)))
        fit(net, loader(), goal, epochs=1, optimizer=torch.optim.SGD(net.parameters(), lr=0.1), out=out)

    flat = nn.Sequential(nn.Flatten(), nn.Linear(16, 8), nn.BatchNorm1d(8), nn.Linear(8, 3))
    with pytest.raises(ValueError, match=r"holds one image.*'2'.*drop_last"):
        run(flat, tmp_path)
    assert not list(tmp_path.iterdir())
    flat[2].eval()  # frozen, so it takes no statistics
    run(flat)
    run(nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Flatten(), nn.Linear(8, 3)))  # has four values of each
