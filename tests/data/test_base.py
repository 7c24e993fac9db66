from __future__ import annotations

from pathlib import Path

import pytest
import torch

from protoat.data import MNIST, ImageData

IMAGES = torch.arange(6 * 2 * 2, dtype=torch.uint8).view(6, 1, 2, 2)
LABELS = torch.tensor([0, 1, 2, 0, 1, 2])
NAMES = ("a", "b", "c")


def test_modes_default_to_classes() -> None:
    data = ImageData(IMAGES, LABELS, NAMES)
    assert data.modes is LABELS and data.mode_names == NAMES
    assert data.mode_class.tolist() == [0, 1, 2] and data.counts.tolist() == [2, 2, 2]
    assert data.shape == (1, 2, 2) and data.num_classes == 3 and len(data) == 6


def test_subset_keeps_order_and_names() -> None:
    data = ImageData(IMAGES, LABELS, NAMES, torch.tensor([3, 1, 2, 0, 1, 2]), ("a/x", "b", "c", "a/y"))
    part = data.subset(torch.tensor([5, 0]))
    assert torch.equal(part.images, IMAGES[[5, 0]])
    assert part.labels.tolist() == [2, 0] and part.modes.tolist() == [2, 3]
    assert part.class_names == NAMES and part.mode_names == data.mode_names
    assert part.mode_class.tolist() == [-1, -1, 2, 0]
    assert part.counts.tolist() == [1, 0, 1]
    assert len(data.subset(torch.tensor([], dtype=torch.int64))) == 0


def test_to_moves_everything() -> None:
    moved = ImageData(IMAGES, LABELS, NAMES).to("cpu")
    assert torch.equal(moved.images, IMAGES) and moved.class_names == NAMES


@pytest.mark.parametrize(
    ("images", "labels", "names", "message"),
    [
        (IMAGES.int(), LABELS, NAMES, r"images are torch.int32 of shape \(6, 1, 2, 2\), .* torch.uint8 from 0 to 255"),
        (IMAGES.float() + 2, LABELS, NAMES, r"images lie in \[2, 2\d\], expected \[0, 1\]"),
        (IMAGES[:, 0], LABELS, NAMES, r"of shape \(6, 2, 2\), expected shape \(N, C, H, W\)"),
        (IMAGES, LABELS.int(), NAMES, "labels are torch.int32"),
        (IMAGES, LABELS[:5], NAMES, r"of shape \(5,\), expected torch.int64 of shape \(6,\)"),
        (IMAGES, LABELS, NAMES[:2], "labels outside range: found 0 to 2, expected 0 to 1 for 2 classes"),
        (IMAGES, LABELS - 1, NAMES, "labels outside range: found -1 to 1"),
        (IMAGES, LABELS, ("a", "b", "a"), "names of classes repeat: 'a'"),
    ],
)
def test_bad_values(images: torch.Tensor, labels: torch.Tensor, names: tuple[str, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ImageData(images, labels, names)


def test_names_in_a_list_are_those_in_a_tuple() -> None:
    modes = torch.tensor([3, 1, 2, 0, 1, 2])
    one = ImageData(IMAGES, LABELS, NAMES, modes, ("a/x", "b", "c", "a/y"))
    other = ImageData(IMAGES, LABELS, list(NAMES), modes, ["a/x", "b", "c", "a/y"])  # type: ignore[arg-type]
    assert other.class_names == NAMES and other.mode_names == one.mode_names
    assert one.digest() == other.digest()


def test_bad_modes() -> None:
    with pytest.raises(ValueError, match="modes outside range: found 0 to 2, expected 0 to 1 for 2 modes"):
        ImageData(IMAGES, LABELS, NAMES, LABELS, ("x", "y"))
    with pytest.raises(ValueError, match="modes are given and mode_names are not; give mode_names, one name for each"):
        ImageData(IMAGES, LABELS, NAMES, LABELS)
    with pytest.raises(ValueError, match="a mode has images of two classes"):
        ImageData(IMAGES, LABELS, NAMES, torch.zeros(6, dtype=torch.int64), ("x",))


def test_root_is_argument_then_variable_then_home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PROTOAT_DATA", str(tmp_path))
    assert MNIST(root="~/sets").root == Path.home() / "sets"
    assert MNIST().root == tmp_path
    monkeypatch.setenv("PROTOAT_DATA", "")
    assert MNIST().root == Path.home() / ".cache/protoat/data"


def test_failed_download_is_one_line_that_names_the_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def offline(*args: object, **kwargs: object) -> None:
        raise RuntimeError("Error downloading\nTried nowhere")

    monkeypatch.setattr(MNIST().dataset, "download", offline)
    with pytest.raises(
        FileNotFoundError, match=r"MNIST could not be downloaded to .*MNIST/raw: Error downloading Tried"
    ):
        MNIST(root=tmp_path, download=True).load("train")
