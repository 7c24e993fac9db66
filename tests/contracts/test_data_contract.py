"""What every data set must hold. Sources are found by class: a new one without a maker fails here."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import replace
from importlib.util import module_from_spec, spec_from_file_location
from inspect import isabstract, signature
from pathlib import Path
from types import ModuleType

import pytest
import torch
from torch import Tensor

from protoat.data import (
    Augment,
    DataNotFoundError,
    HFDataset,
    ImageData,
    ImageFolder,
    ImageLoader,
    Source,
    regroup,
    split_validation,
)


def load_makers() -> ModuleType:
    path = Path(__file__).parents[1] / "data" / "official.py"
    spec = spec_from_file_location("official", path)
    assert spec is not None and spec.loader is not None
    module = sys.modules["official"] = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


MAKERS = load_makers().MAKERS


def subclasses(cls: type[Source]) -> Iterator[type[Source]]:
    for sub in cls.__subclasses__():
        yield sub
        yield from subclasses(sub)


SOURCES = [
    source for source in subclasses(Source) if source.__module__.startswith("protoat.") and not isabstract(source)
]


@pytest.fixture(scope="module", params=SOURCES, ids=lambda source: source.__name__)
def source(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Source]:
    root = tmp_path_factory.mktemp(request.param.__name__)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PROTOAT_CACHE", str(root / "cache"))
        yield MAKERS[request.param](root, patch)


@pytest.fixture(scope="module")
def train(source: Source) -> ImageData:
    return source.load("train")


@pytest.fixture(scope="module")
def test(source: Source) -> ImageData:
    return source.load("test")


def test_every_source_has_a_maker() -> None:
    assert len(SOURCES) >= 7
    assert set(SOURCES) == set(MAKERS)


@pytest.mark.parametrize("cls", SOURCES, ids=lambda cls: cls.__name__)
def test_constructor_is_keyword_only_with_defaults(cls: type[Source], monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in ("PROTOAT_DATA", "HF_HOME", "HF_DATASETS_CACHE"):
        monkeypatch.delenv(variable, raising=False)
    parameters = list(signature(cls).parameters.values())
    assert {"root", "download"} <= {parameter.name for parameter in parameters}
    assert all(p.kind is p.KEYWORD_ONLY and p.default is not p.empty for p in parameters)
    source = cls()
    assert isinstance(source.augment, Augment)
    cache = "huggingface/datasets" if cls is HFDataset else "protoat/data"
    assert source.location() is None or str(source.location()).startswith(str(Path.home() / ".cache" / cache))


@pytest.mark.parametrize("cls", SOURCES, ids=lambda cls: cls.__name__)
def test_missing_files_give_one_error_that_says_what_to_do(
    cls: type[Source], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for variable in ("PROTOAT_DATA", "HF_DATASETS_CACHE"):
        monkeypatch.setenv(variable, str(tmp_path))
    source = cls()
    if source.location() is None:
        assert source.available()
        return
    assert not source.available()
    with pytest.raises(DataNotFoundError) as caught:
        source.load("train")
    message = str(caught.value)
    assert isinstance(caught.value, FileNotFoundError)
    assert str(tmp_path) in str(source.location())
    assert cls is HFDataset or str(source.location()) in message  # of which nobody said which data set
    advice = {ImageFolder: ["by path"], HFDataset: ["--data HF:NAME"]}.get(cls, ["PROTOAT_DATA", "--download"])
    assert all(word in message for word in advice) and "\n" not in message
    assert list(tmp_path.iterdir()) == []


def test_unknown_split(source: Source) -> None:
    with pytest.raises(ValueError, match="split='validation' is unknown; write 'train' or 'test'"):
        source.load("validation")  # type: ignore[arg-type]


def test_shapes_types_and_ranges(train: ImageData, test: ImageData) -> None:
    for data in (train, test):
        assert len(data) > 0
        assert data.images.dtype == torch.uint8 and data.images.shape == (len(data), *data.shape)
        assert data.images.is_contiguous() and data.shape[0] in (1, 3)
        assert data.labels.dtype == data.modes.dtype == torch.int64
        assert data.labels.shape == data.modes.shape == (len(data),)
        assert data.num_classes == len(data.class_names) >= 2
        assert data.labels.unique().tolist() == list(range(data.num_classes))
        assert data.modes.min() >= 0 and data.modes.max() < len(data.mode_names)
        assert torch.equal(data.mode_class[data.modes], data.labels)
        assert all(isinstance(name, str) for name in data.class_names + data.mode_names)
    assert train.class_names == test.class_names and train.mode_names == test.mode_names
    assert train.shape == test.shape
    assert train.images.float().std() > 0


def test_loading_twice_gives_the_same(source: Source, train: ImageData) -> None:
    again = source.load("train")
    assert torch.equal(again.images, train.images) and torch.equal(again.labels, train.labels)
    assert torch.equal(again.modes, train.modes)


def test_two_classes_by_regrouping(train: ImageData) -> None:
    two = regroup(train, 2)
    half = train.num_classes // 2
    assert two.num_classes == 2
    assert two.labels.tolist() == [int(label >= half) for label in train.labels.tolist()]
    assert torch.equal(two.modes, train.modes) and two.mode_names == train.mode_names
    assert torch.equal(two.images, train.images)


def test_validation_comes_out_of_train(train: ImageData) -> None:
    rest, validation = split_validation(train, len(train) // 4, seed=0)
    assert len(validation) == len(train) // 4 and len(rest) == len(train) - len(validation)


def numbered(data: ImageData) -> ImageData:
    """The same labels, with images that tell their own index."""
    index = torch.arange(len(data))
    pixels = torch.stack([index // 256, index % 256], 1).to(torch.uint8)
    return replace(data, images=pixels.view(-1, 2, 1, 1))


def indices(batches: Iterator[tuple[Tensor, Tensor]]) -> list[int]:
    return [int(i) for x, _ in batches for i in (x[:, 0, 0, 0] * 255 * 256 + x[:, 1, 0, 0] * 255).round()]


def test_same_seed_gives_same_batches_and_epochs_differ(source: Source, train: ImageData) -> None:
    def batches(seed: int, epoch: int) -> list[tuple[Tensor, Tensor]]:
        loader = ImageLoader(train, batch_size=7, augment=Augment(padding=1, flip=True), seed=seed)
        loader.set_epoch(epoch)
        return list(loader)

    first = batches(0, 0)
    for x, y in first:
        assert x.dtype == torch.float32 and y.dtype == torch.int64
        assert x.min() >= 0 and x.max() <= 1 and x.shape == (len(y), *train.shape)
    for (x, y), (again_x, again_y) in zip(first, batches(0, 0), strict=True):
        assert torch.equal(x, again_x) and torch.equal(y, again_y)
    for other in (batches(0, 1), batches(1, 0)):
        assert not torch.equal(torch.cat([x for x, _ in first]), torch.cat([x for x, _ in other]))


def test_ranks_share_an_epoch_without_overlap(train: ImageData) -> None:
    data = numbered(train)
    loaders = [ImageLoader(data, batch_size=3, rank=rank, world_size=3) for rank in range(3)]
    shares = [indices(iter(loader)) for loader in loaders]
    assert len({len(loader) for loader in loaders}) == 1
    assert len({len(share) for share in shares}) == 1
    together = [index for share in shares for index in share]
    assert len(set(together)) == len(together) >= len(data) - 2
