"""Test images come in many forms and are the same images in each."""

from __future__ import annotations

import logging
import random
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    Dataset,
    IterableDataset,
    RandomSampler,
    SubsetRandomSampler,
    TensorDataset,
    default_collate,
)

from protoat.data import Augment, ImageData, ImageLoader
from protoat.data.given import as_image_data, read_images

N = 30
BYTES = torch.randint(256, (N, 1, 4, 4), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
Y = torch.arange(N) % 3
X = BYTES.float() / 255
OFF_GRID = torch.rand(N, 1, 4, 4, generator=torch.Generator().manual_seed(1))


class Items(Dataset[Any]):
    """A data set of single items, as mappings."""

    classes = ("ant", "bee", "cat")

    def __init__(self, x: Any = X) -> None:
        self.x = x

    def __len__(self) -> int:
        return N

    def __getitem__(self, index: int) -> Any:
        return {"image": self.x[index], "label": int(Y[index])}


class Stream(IterableDataset[Any]):
    def __iter__(self) -> Iterator[Any]:
        yield from zip(X, Y, strict=True)


def batches(x: Tensor = X) -> list[Any]:
    return list(zip(x.split(7), Y.split(7), strict=True))


FORMS: dict[str, Any] = {
    "floats": (X, Y),
    "bytes": (BYTES, Y),
    "arrays": (X.numpy(), Y.numpy()),
    "arrays of bytes, short labels": [BYTES.numpy(), Y.numpy().astype(np.int16)],
    "half precision": (X.half(), Y),
    "a loader": DataLoader(TensorDataset(X, Y), batch_size=7),
    "a loader of mappings": DataLoader(Items(), batch_size=7),
    "batches": batches(),
    "two batches": [(X[:20], Y[:20]), (X[20:], Y[20:])],
    "batches with an index": [(x, y, torch.arange(len(x))) for x, y in batches()],
    "a data set": TensorDataset(X, Y),
    "a data set of mappings": Items(),
    "a stream": Stream(),
    "a shuffling loader": DataLoader(TensorDataset(X, Y), batch_size=7, shuffle=True),
    "a loader without the last": DataLoader(TensorDataset(X, Y), batch_size=7, drop_last=True),
    "images": ImageData(BYTES, Y, ("0", "1", "2")),
    "a loader of ours": ImageLoader(ImageData(BYTES, Y, ("0", "1", "2")), batch_size=7, augment=Augment(flip=True)),
}


@pytest.mark.parametrize("form", FORMS)
def test_every_form_gives_the_same_images(form: str) -> None:
    found = as_image_data(FORMS[form])
    if form == "half precision":
        assert torch.equal(found.pixels(), X.half().float())
    else:
        assert found.images.dtype == torch.uint8 and torch.equal(found.images, BYTES)
    assert torch.equal(found.labels, Y) and found.labels.dtype == torch.int64
    assert found.class_names == (Items.classes if "mapping" in form else ("0", "1", "2"))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_floats_keep_their_exact_values(dtype: torch.dtype) -> None:
    x = OFF_GRID.to(dtype)
    x[7:] = X[7:].to(dtype)  # that 8 bits hold the later batches must not round the first one
    for form in ((x, Y), batches(x)):
        found = as_image_data(form, dtypes=[dtype]).pixels()
        assert found.dtype == dtype and torch.equal(found, x)
    found = as_image_data(batches(x)[::-1], dtypes=[dtype]).pixels()
    assert torch.equal(found, torch.cat(x.split(7)[::-1]))


def test_the_model_decides_how_wide_floats_are() -> None:
    assert read_images((OFF_GRID.double(), Y)).images.dtype == torch.float32
    assert read_images((OFF_GRID, Y), dtypes=[torch.float64]).images.dtype == torch.float64


class TestLoadersThatAreRandom:
    @pytest.mark.parametrize(
        ("form", "said"),
        [
            ("a shuffling loader", "the loader shuffles: all images are measured, in the order of its data set"),
            ("a loader without the last", "the loader leaves out images at its end"),
            ("a loader of ours", "shuffles or augments"),
        ],
    )
    def test_say_so(self, form: str, said: str, caplog: pytest.LogCaptureFixture) -> None:
        as_image_data(FORMS[form])
        assert len(caplog.messages) == 1 and said in caplog.messages[0]

    def test_a_sampler_of_the_callers_is_kept_and_said(self, caplog: pytest.LogCaptureFixture) -> None:
        part = DataLoader(TensorDataset(X, Y), batch_size=7, sampler=SubsetRandomSampler(range(0, N, 2)))
        first, second = as_image_data(part), as_image_data(part)
        assert len(first) == N // 2 and torch.equal(first.images, second.images), "one order at every reading"
        assert "SubsetRandomSampler" in caplog.messages[0]
        caplog.clear()
        drawn = DataLoader(TensorDataset(X, Y), sampler=RandomSampler(X, replacement=True, num_samples=5))
        assert len(as_image_data(drawn)) == 5 and "RandomSampler" in caplog.messages[0]

    @pytest.mark.parametrize("source", ["torch", "numpy", "random"])
    def test_augmentation_is_seen_and_drawn_alike(self, source: str, caplog: pytest.LogCaptureFixture) -> None:
        draw = {"torch": lambda: float(torch.rand(())), "numpy": np.random.rand, "random": random.random}

        class Flipping(Items):
            def __getitem__(self, index: int) -> Any:
                item = super().__getitem__(index)
                return item | {"image": item["image"].flip(-1) if draw[source]() < 0.5 else item["image"]}

        first, second = (as_image_data(DataLoader(Flipping(), batch_size=7)) for _ in range(2))
        assert caplog.text.count("images differ when they are read twice") == 2
        assert torch.equal(first.images, second.images) and not torch.equal(first.images, BYTES)

    def test_fixed_ones_say_nothing_and_no_random_state_moves(self, caplog: pytest.LogCaptureFixture) -> None:
        states = torch.get_rng_state(), np.random.get_state()[1].copy(), random.getstate()
        for form in FORMS.keys() - {"a shuffling loader", "a loader without the last", "a loader of ours"}:
            as_image_data(FORMS[form])
        assert caplog.records == []
        as_image_data(FORMS["a shuffling loader"])
        assert torch.equal(torch.get_rng_state(), states[0])
        assert np.array_equal(np.random.get_state()[1], states[1]) and random.getstate() == states[2]


class TestModes:
    def test_within_one_class_keep_their_names(self) -> None:
        modes = [f"{label}{'xy'[i % 2]}" for i, label in enumerate(Y.tolist())]
        for found in (as_image_data((X, Y), modes=modes), as_image_data((X, Y, np.array(modes)))):
            assert found.mode_names == ("0x", "0y", "1x", "1y", "2x", "2y")
            assert [found.mode_names[mode] for mode in found.modes] == modes

    @pytest.mark.parametrize("form", ["a loader of mappings", "a stream", "images"])
    def test_that_classes_share_become_one_of_each(self, form: str) -> None:
        light = torch.arange(N) // 3 % 2
        found = as_image_data(FORMS[form], modes=light)
        names = found.class_names
        assert found.mode_names == tuple(f"{name}/{mode}" for name in names for mode in "01")
        assert all(found.mode_names[m] == f"{names[y]}/{k}" for m, y, k in zip(found.modes, Y, light, strict=True))

    def test_that_are_numbers_are_sorted_as_numbers(self) -> None:
        groups = torch.arange(N) // 3 % 10 + 5
        found = as_image_data((X, torch.zeros_like(Y)), modes=groups, classes=lambda x: 2)
        assert found.mode_names == tuple(map(str, range(5, 15)))
        assert [found.mode_names[mode] for mode in found.modes] == [str(group) for group in groups.tolist()]

    def test_one_for_each_image(self) -> None:
        with pytest.raises(ValueError, match="modes are 3, expected one for each of 30 images"):
            as_image_data((X, Y), modes=[0, 1, 2])


def test_the_model_says_how_many_classes_there_are() -> None:
    shown: list[Tensor] = []

    def classes(x: Tensor) -> int:
        shown.append(x)
        return 10

    assert as_image_data((BYTES, Y), classes=classes).num_classes == 10
    assert torch.equal(shown[0], X[:4])
    assert as_image_data(Items(), classes=lambda x: 10).class_names == tuple("0123456789")


@pytest.mark.parametrize(
    ("form", "error", "said"),
    [
        (3, TypeError, "data is a int, expected a DataLoader"),
        ("digits", TypeError, "data is a str"),
        ([], ValueError, "the data holds no images"),
        ((X, Y[:3]), ValueError, r"labels have shape \(3,\)"),
        ((X - 1, Y), ValueError, r"images lie in \[-1, .*put normalisation inside the model"),
        ((X.flatten(1), Y), ValueError, r"of shape \(30, 16\), expected shape \(N, C, H, W\)"),
        (
            [(X, Y), (X[..., :2], Y)],
            ValueError,
            r"images have shapes \(1, 4, 2\) and \(1, 4, 4\); bring them to one size",
        ),
        ([(X,)], ValueError, "a batch is a tuple of 1, expected"),
        (Items([Image.new("L", (4, 4))] * N), ValueError, r"give it transform=ToTensor\(\)"),
    ],
)
def test_other_data_is_refused(form: Any, error: type[Exception], said: str) -> None:
    with pytest.raises(error, match=said):
        as_image_data(form)


def test_errors_of_the_callers_loader_are_theirs() -> None:
    def broken(items: list[Any]) -> Any:
        raise TypeError("mine")

    with pytest.raises(TypeError, match="mine"):
        as_image_data(DataLoader(Items(), collate_fn=broken))
    kept = DataLoader(Items(), batch_size=7, shuffle=True, collate_fn=lambda items: default_collate(items)["image"])
    with pytest.raises(ValueError, match="a batch is a Tensor"):
        as_image_data(kept)


def test_it_logs_through_the_package(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, logger="protoat"):
        as_image_data(FORMS["a shuffling loader"])
    assert caplog.records[0].name.startswith("protoat.data")


@pytest.mark.parametrize(
    "loader",
    [
        DataLoader(TensorDataset(X, Y), batch_size=7, sampler=SubsetRandomSampler(range(N))),
        DataLoader(TensorDataset(X, Y), batch_sampler=type("Own", (BatchSampler,), {})(RandomSampler(X), 7, False)),
    ],
)
def test_modes_need_the_order_of_the_data_set(loader: Any, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        read_images(loader)
    assert "measured as they come" in caplog.text
    with pytest.raises(ValueError, match=r"modes are in the order of the data set, and the loader draws images by"):
        read_images(loader, modes=[0] * N)
