from __future__ import annotations

import tempfile
from hashlib import sha256
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from protoat.data import DataNotFoundError, ImageFolder, regroup


def save(path: Path, seed: int, shape: tuple[int, ...] = (6, 5, 3)) -> np.ndarray:
    pixels = np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)
    return pixels


def fill(folder: Path, *names: str, count: int = 5, shape: tuple[int, ...] = (6, 5, 3)) -> None:
    for place, name in enumerate(names):
        for image in range(count):
            save(folder / name / f"{image}.png", seed=100 * place + image, shape=shape)


def everything(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*.png"))


def test_train_and_test_folders(tmp_path: Path) -> None:
    for part, seed in (("train", 0), ("test", 50)):
        for name in ("b", "a", "10", "9"):
            pixels = save(tmp_path / part / name / "x.png", seed=seed)
    source = ImageFolder(path=tmp_path)
    train, test = source.load("train"), source.load("test")
    assert train.class_names == ("9", "10", "a", "b") and train.labels.tolist() == [0, 1, 2, 3]
    assert train.mode_names == train.class_names and train.shape == (3, 6, 5)
    assert torch.equal(test.images[3], torch.from_numpy(pixels).permute(2, 0, 1))
    assert not torch.equal(train.images, test.images)


@pytest.mark.parametrize("name", ["val", "valid", "validation"])
def test_val_stands_in_for_test(name: str, tmp_path: Path) -> None:
    fill(tmp_path / "train", "a", "b", count=3)
    fill(tmp_path / name, "a", "b", count=2)
    assert len(ImageFolder(path=tmp_path).load("train")) == 6 and len(ImageFolder(path=tmp_path).load("test")) == 4


def test_a_class_may_be_called_train(tmp_path: Path) -> None:
    fill(tmp_path / "flat", "bus", "train")
    assert ImageFolder(path=tmp_path / "flat").load("train").class_names == ("bus", "train")
    fill(tmp_path / "modes", "bus/red", "bus/blue", "train/steam", "train/red")
    assert ImageFolder(path=tmp_path / "modes").load("train").class_names == ("bus", "train")


def test_a_half_under_another_name_is_no_class(tmp_path: Path) -> None:
    halves = [("train", "holdout"), ("training", "test"), ("Train", "Test")]
    for number, (one, other) in enumerate(halves):
        folder = tmp_path / str(number)
        fill(folder / one, "a", "b")
        fill(folder / other, "a", "b")
        with pytest.raises(ValueError, match=r"has the same folders as .*; if these are splits, call one train and"):
            ImageFolder(path=folder).load("train")
    fill(tmp_path / "beside", "a", "b", "c", "test/a", "test/b")
    with pytest.raises(ValueError, match=r"the folders of .*test also stand beside it; if it is a split, move"):
        ImageFolder(path=tmp_path / "beside").load("train")
    fill(tmp_path / "classes", "valid/a", "valid/b", "broken/a", "broken/c")
    assert ImageFolder(path=tmp_path / "classes").load("train").class_names == ("broken", "valid")


def test_inner_folders_name_modes_and_stay_distinct(tmp_path: Path) -> None:
    fill(tmp_path / "train", "cat/black", "cat/white", "dog/black", "fish", count=2)
    fill(tmp_path / "test", "cat/red", "dog/black", "fish", count=1)
    train, test = (ImageFolder(path=tmp_path).load(split) for split in ("train", "test"))
    assert train.class_names == ("cat", "dog", "fish")
    assert train.mode_names == test.mode_names == ("cat/black", "cat/red", "cat/white", "dog/black", "fish")
    assert train.labels.tolist() == [0, 0, 0, 0, 1, 1, 2, 2] and train.modes.tolist() == [0, 0, 2, 2, 3, 3, 4, 4]
    assert test.modes.tolist() == [1, 3, 4] and test.mode_class.tolist() == [-1, 0, -1, 1, 2]
    joined = regroup(train, {"pet": ["cat", "dog"], "fish": ["fish"]})
    assert joined.labels.tolist() == [0] * 6 + [1] * 2 and torch.equal(joined.modes, train.modes)


def test_split_is_a_fifth_of_each_mode_by_content(tmp_path: Path) -> None:
    fill(tmp_path / "one", "a/x", "a/y", "b", count=10)
    source = ImageFolder(path=tmp_path / "one")
    train, test = source.load("train"), source.load("test")
    assert torch.bincount(test.modes).tolist() == [2, 2, 2] and torch.bincount(train.modes).tolist() == [8, 8, 8]
    # The rule of the docstring, by hand.
    expected = set()
    for mode in ("a/x", "a/y", "b"):
        paths = sorted((tmp_path / "one" / mode).glob("*.png"), key=lambda p: sha256(p.read_bytes()).digest())
        expected |= {np.asarray(Image.open(path)).tobytes() for path in paths[:2]}
    assert {image.permute(1, 2, 0).numpy().tobytes() for image in test.images} == expected
    # Other names, another place: the same split.
    for path in everything(tmp_path / "one"):
        target = tmp_path / "two" / path.parent.relative_to(tmp_path / "one") / f"{9 - int(path.stem)}.png"
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(path.read_bytes())
    moved = ImageFolder(path=tmp_path / "two").load("test")
    assert {image.permute(1, 2, 0).numpy().tobytes() for image in moved.images} == expected


def test_copies_stay_on_one_side_and_a_lone_image_trains(tmp_path: Path) -> None:
    for name in range(6):
        save(tmp_path / "a" / f"{name}.png", seed=name // 3)
    save(tmp_path / "b" / "only.png", seed=9)
    train, test = (ImageFolder(path=tmp_path).load(split) for split in ("train", "test"))
    assert train.counts.tolist() == [3, 1] and test.counts.tolist() == [3, 0]
    assert len({image.numpy().tobytes() for image in train.images[:3]}) == 1


def test_too_few_images_to_hold_out(tmp_path: Path) -> None:
    fill(tmp_path, "a", "b", count=1)
    assert len(ImageFolder(path=tmp_path).load("train")) == 2
    with pytest.raises(ValueError, match="too few images to hold some out; give it a train and a test folder"):
        ImageFolder(path=tmp_path).load("test")


def test_grey_colour_and_their_mix(tmp_path: Path) -> None:
    fill(tmp_path / "grey", "a", "b", shape=(6, 5))
    fill(tmp_path / "mixed", "a", "b", shape=(6, 5))
    save(tmp_path / "mixed" / "b" / "colour.png", seed=7)
    grey, mixed = (ImageFolder(path=tmp_path / name).load("train") for name in ("grey", "mixed"))
    assert grey.shape == (1, 6, 5) and mixed.shape == (3, 6, 5)
    of_a = mixed.images[mixed.labels == 0]
    assert torch.equal(of_a[:, :1], grey.images[grey.labels == 0]) and torch.equal(of_a[:, :1], of_a[:, 2:])


@pytest.mark.parametrize("suffix", ["jpg", "JPEG", "bmp", "gif", "webp", "tif", "PNG"])
def test_formats(tmp_path: Path, suffix: str) -> None:
    fill(tmp_path, "a", "b")
    save(tmp_path / "a" / f"z.{suffix}", seed=3)
    source = ImageFolder(path=tmp_path)
    assert len(source.load("train")) + len(source.load("test")) == 11


def test_transparency_shows_the_background(tmp_path: Path) -> None:
    fill(tmp_path, "a", "b", shape=(6, 5, 4))

    def images(**options: str) -> torch.Tensor:
        source = ImageFolder(path=tmp_path, **options)  # type: ignore[arg-type]
        return torch.cat([source.load(split).images for split in ("train", "test")])

    assert torch.equal(images(), images(background="white"))
    darker = images(background="black")
    assert bool((darker <= images()).all()) and not torch.equal(darker, images())
    with pytest.raises(ValueError, match="background='snow-white' is no colour"):
        ImageFolder(path=tmp_path, background="snow-white")


def test_links_hidden_files_and_other_files_are_passed_over(tmp_path: Path) -> None:
    fill(tmp_path, "a", "b")
    (tmp_path / "a" / "link.png").symlink_to(tmp_path / "b" / "0.png")
    (tmp_path / "linked").symlink_to(tmp_path / "a")
    (tmp_path / ".git").mkdir()
    (tmp_path / "a" / ".hidden").mkdir()
    for name in (".DS_Store", "._0.png", "notes.txt", "Thumbs.db"):
        (tmp_path / "a" / name).write_bytes(b"no image")
    (tmp_path / "README.md").write_text("hello")
    data = ImageFolder(path=tmp_path).load("train")
    assert data.class_names == ("a", "b") == data.mode_names and data.counts.tolist() == [4, 4]


def test_mixed_size_names_two_and_image_size_mends_it(tmp_path: Path) -> None:
    fill(tmp_path, "a", "b")
    save(tmp_path / "b" / "4.png", seed=1, shape=(9, 12, 3))
    with pytest.raises(ValueError, match=r"mixed size: .*a/0.png is 5x6 and .*b/4.png is 12x9; write image_size=32"):
        ImageFolder(path=tmp_path).load("train")
    assert ImageFolder(path=tmp_path, image_size=4).load("train").shape == (3, 4, 4)
    with pytest.raises(ValueError, match="image_size=0 must be at least 1"):
        ImageFolder(path=tmp_path, image_size=0)


def test_image_size_scales_and_crops_the_middle(tmp_path: Path) -> None:
    bars = np.zeros((4, 12, 3), dtype=np.uint8)
    bars[:, 4:8] = 200  # the middle third is what a square crop keeps
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        Image.fromarray(bars).save(tmp_path / name / "x.png")
    images = ImageFolder(path=tmp_path, image_size=2).load("train").images
    assert images.shape == (2, 3, 2, 2) and images.min() > 150


@pytest.mark.parametrize("content", [b"", b"no image at all", None])
def test_corrupt_image_is_named(tmp_path: Path, content: bytes | None, cache: Path) -> None:
    fill(tmp_path / "set", "a", "b")
    path = tmp_path / "set" / "b" / "3.png"
    path.write_bytes(path.read_bytes()[:-40] if content is None else content)
    with pytest.raises(ValueError, match=r"set/b/3.png cannot be read as an image .*repair or delete it") as caught:
        ImageFolder(path=tmp_path / "set").load("train")
    assert "\n" not in str(caught.value)
    assert list(cache.rglob("*.safetensors")) == []


@pytest.mark.parametrize("empty", ["c", "a/mode"])
def test_empty_class_or_mode_folder_is_named(tmp_path: Path, empty: str) -> None:
    fill(tmp_path, "a/full", "b")
    (tmp_path / empty).mkdir()
    with pytest.raises(ValueError, match=f"class folder .*/{empty} has no images"):
        ImageFolder(path=tmp_path).load("train")


def test_images_beside_mode_folders_are_of_unknown_mode(tmp_path: Path) -> None:
    fill(tmp_path, "a/mode", "a", "b", "c/(unknown)", "c")
    source = ImageFolder(path=tmp_path)
    halves = [source.load(split) for split in ("train", "test")]
    for data in halves:
        assert data.mode_names == ("a/(unknown)", "a/mode", "b", "c/(unknown)")
        assert data.mode_class.tolist() == [0, 0, 1, 2]
    of_mode = sum(torch.bincount(data.modes, minlength=4) for data in halves).tolist()
    files = {name: len(list((tmp_path / name).glob("*.png"))) for name in ("a", "a/mode", "b", "c", "c/(unknown)")}
    assert of_mode == [files["a"], files["a/mode"], files["b"], files["c"] + files["c/(unknown)"]]


def test_fewer_than_two_classes(tmp_path: Path) -> None:
    fill(tmp_path, "a")
    with pytest.raises(ValueError, match="has 1 class folders, expected at least two"):
        ImageFolder(path=tmp_path).load("train")
    (tmp_path / "none").mkdir()
    with pytest.raises(ValueError, match="has 0 class folders"):
        ImageFolder(path=tmp_path / "none").load("train")


def test_train_and_test_with_other_classes(tmp_path: Path) -> None:
    fill(tmp_path / "train", "a", "b", "c")
    fill(tmp_path / "test", "a", "b")
    with pytest.raises(ValueError, match=r"class 'c' is in only one of .*train and .*test"):
        ImageFolder(path=tmp_path).load("train")


def test_path_is_taken_as_it_stands_and_else_inside_root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PROTOAT_DATA", str(tmp_path / "sets"))
    fill(tmp_path / "sets" / "mine", "a", "b")
    assert ImageFolder(path="mine").location() == tmp_path / "sets" / "mine"
    monkeypatch.chdir(tmp_path / "sets")
    assert ImageFolder(path="mine", root="/nowhere").available()
    with pytest.raises(DataNotFoundError, match=f"no folder other nor {tmp_path}/sets/other; name one of .* by path$"):
        ImageFolder(path="other", download=True).load("train")
    with pytest.raises(DataNotFoundError, match="your own images"):
        ImageFolder(path="other").fetch()


@pytest.mark.slow
def test_real_cifar10_images(data_root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = ImageFolder(path=data_root / "cifar10-images")
    if not source.available():
        pytest.skip(f"cifar10-images is not in {data_root}")
    with tempfile.TemporaryDirectory() as folder:  # 180 MB that pytest would keep
        monkeypatch.setenv("PROTOAT_CACHE", folder)
        train, test = source.load("train"), source.load("test")
    assert train.images.shape == (50_000, 3, 32, 32) and test.images.shape == (10_000, 3, 32, 32)
    assert train.class_names == (
        "airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck",
    )  # fmt: skip
    assert train.counts.tolist() == [5000] * 10 and test.counts.tolist() == [1000] * 10
    mean = train.images.float().mean((0, 2, 3)) / 255
    assert torch.allclose(mean, torch.tensor([0.4914, 0.4822, 0.4465]), atol=2e-3)  # of the original, before JPEG
    first = np.asarray(Image.open(data_root / "cifar10-images" / "train" / "cat" / "0000.jpg").convert("RGB"))
    cats = train.images[train.labels == 3]
    assert torch.equal(cats[0], torch.from_numpy(first.copy()).permute(2, 0, 1))


def test_pretraining_takes_pictures_without_classes(tmp_path: Path) -> None:
    for shade in range(10):
        Image.new("L", (8, 8), 20 * shade).save(tmp_path / f"{shade}.png")
    source = ImageFolder(path=tmp_path)
    with pytest.raises(ValueError, match="expected at least two"):
        source.load("train")
    source.labelled = False
    train, test = source.load("train"), source.load("test")
    assert (train.num_classes, len(train) + len(test)) == (1, 10)
