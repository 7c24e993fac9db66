from __future__ import annotations

import shutil
from pathlib import Path
from types import ModuleType

import pytest
import torch

from protoat.data import DataNotFoundError, Source, TinyImageNet


@pytest.fixture(scope="module")
def made(official: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("tiny")
    with pytest.MonkeyPatch.context() as patch:
        official.make_tiny_imagenet(root, patch)
    return root


@pytest.fixture
def source(made: Path, tmp_path: Path) -> Source:
    """A copy of the index files over linked images, free to be damaged."""
    shutil.copytree(made, tmp_path / "root", copy_function=lambda a, b: Path(b).hardlink_to(a))
    folder = tmp_path / "root" / "tiny-imagenet-200"
    for path in (folder / "wnids.txt", folder / "words.txt", folder / "val" / "val_annotations.txt"):
        text = path.read_text()
        path.unlink()
        path.write_text(text)
    return TinyImageNet(root=tmp_path / "root")


def test_labels_come_from_the_folders_and_the_annotations(made: Path) -> None:
    source = TinyImageNet(root=made)
    ids = sorted((made / "tiny-imagenet-200" / "wnids.txt").read_text().split())
    test = source.load("test")
    assert len(test) == 10_000 and test.counts.tolist() == [50] * 200
    assert test.class_names == tuple(f"word {wnid}" for wnid in ids)
    # The maker paints every pixel of an image with the place of its class in wnids.txt, which is not sorted.
    number = torch.tensor([(9000 - int(wnid[1:])) // 3 for wnid in ids])
    shade = test.images.float().mean((1, 2, 3)).round().long()
    assert (shade - number[test.labels]).abs().max() <= 2
    train = source.load("train")
    assert train.counts.tolist() == [1 + int(n) % 3 for n in number]
    assert (train.images.float().mean((1, 2, 3)).round().long() - number[train.labels]).abs().max() <= 2
    assert "200 classes of 1 to 3" in repr(train)
    small = TinyImageNet(root=made, image_size=16).load("train")
    assert small.shape == (3, 16, 16) and torch.equal(small.labels, train.labels)
    assert (small.images.float().mean((1, 2, 3)).round().long() - number[small.labels]).abs().max() <= 2
    with pytest.raises(ValueError, match="image_size=0 must be at least 1"):
        TinyImageNet(root=made, image_size=0)


def test_a_missing_validation_image_is_found(source: Source) -> None:
    (source.location() / "val" / "images" / "val_17.JPEG").unlink()
    with pytest.raises(ValueError, match=r"has 50 validation images in .* and 49 of them on disk, expected 50"):
        source.load("test")


def test_a_missing_annotation_is_found(source: Source) -> None:
    path = source.location() / "val" / "val_annotations.txt"
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:-1]))
    with pytest.raises(ValueError, match="has 49 validation images"):
        source.load("test")


@pytest.mark.parametrize("row", ["val_1.JPEG\tn123\t0\t0\t1\t1\n", "\n"])
def test_an_annotation_of_an_unknown_class_is_found(source: Source, row: str) -> None:
    path = source.location() / "val" / "val_annotations.txt"
    path.write_text(row + path.read_text())
    with pytest.raises(ValueError, match=r"val_annotations.txt, line 1: '(n123)?' is not a class of wnids.txt"):
        source.load("test")


def test_a_missing_class_is_found(source: Source) -> None:
    folder = source.location()
    wnid = (folder / "wnids.txt").read_text().split()[5]
    shutil.rmtree(folder / "train" / wnid)
    with pytest.raises(ValueError, match=f"class folder .*{wnid}/images has no images"):
        source.load("train")
    (folder / "wnids.txt").write_text("n00000001")
    with pytest.raises(ValueError, match=r"wnids.txt lists 1 classes, expected 200"):
        source.load("test")


def test_download_appears_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def download(url: str, folder: str, md5: str, remove_finished: bool) -> None:
        part = Path(folder) / "tiny-imagenet-200" / "val"
        part.mkdir(parents=True)
        (part.parent / "wnids.txt").touch()
        if broken:
            raise RuntimeError("cut")
        (part.parent / "words.txt").touch()
        (part / "val_annotations.txt").touch()

    monkeypatch.setattr("torchvision.datasets.utils.download_and_extract_archive", download)
    source, broken = TinyImageNet(root=tmp_path / "sets", download=True), True
    with pytest.raises(DataNotFoundError, match=r"could not be downloaded to .*tiny-imagenet-200: cut"):
        source.load("train")
    assert list(source.root.iterdir()) == []
    broken = False
    (source.root / ".tiny-imagenet-200.partial" / "tiny-imagenet-200" / "train").mkdir(parents=True)  # left by a kill
    source.fetch()
    assert source.available() and [path.name for path in source.root.iterdir()] == ["tiny-imagenet-200"]
    broken = True
    source.fetch()  # what is there is kept


@pytest.mark.slow
def test_real_tiny_imagenet(data_root: Path) -> None:
    source = TinyImageNet(root=data_root)
    if not source.available():
        pytest.skip(f"Tiny ImageNet is not in {data_root}")
    train, test = source.load("train"), source.load("test")
    assert test.images.shape == (10_000, 3, 64, 64) and test.counts.tolist() == [50] * 200
    assert train.shape == (3, 64, 64) and train.counts.min() > 0 and len(train) == int(train.counts.sum())
    assert train.class_names[0] == "goldfish" and train.class_names == test.class_names
    # Labels of the two splits mean the same: colours of a class agree between them, over 200 classes.
    redness = [
        data.images[:, 0].float().mean((1, 2)) - data.images[:, 2].float().mean((1, 2)) for data in (train, test)
    ]
    by_class = [
        torch.zeros(200).index_add(0, data.labels, red) / data.counts
        for data, red in zip((train, test), redness, strict=True)
    ]
    assert torch.corrcoef(torch.stack(by_class))[0, 1] > 0.8
