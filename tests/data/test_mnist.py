from __future__ import annotations

import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import ModuleType

import pytest
import torch
from torchvision import datasets

from protoat.data import MNIST, DataNotFoundError, FashionMNIST, regroup


class _Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture
def mirror(tmp_path: Path) -> Iterator[tuple[Path, str]]:
    """A folder and the address it is served at."""
    folder = tmp_path / "mirror"
    folder.mkdir()
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(_Quiet, directory=folder)) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield folder, f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()
        thread.join()


def test_files_of_the_official_format(official: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = official.make_mnist(tmp_path, monkeypatch)
    train, test = source.load("train"), source.load("test")
    assert torch.equal(train.images[:, 0], torch.from_numpy(official.noise(40, 28, 28, seed=0)))
    assert torch.equal(test.images[:, 0], torch.from_numpy(official.noise(20, 28, 28, seed=1)))
    assert test.labels.tolist() == [*range(10), *range(10)]
    assert regroup(train, 2).class_names == ("0-4", "5-9")


def test_fashion_names_are_torchvisions(official: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = official.make_fashion(tmp_path, monkeypatch).load("test")
    assert list(data.class_names) == datasets.FashionMNIST.classes
    assert FashionMNIST(root=tmp_path).location() == tmp_path / "FashionMNIST" / "raw"


@pytest.mark.parametrize("part", ["images-idx3", "labels-idx1"])
def test_cut_file_is_a_clear_error(
    official: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, part: str
) -> None:
    source = official.make_mnist(tmp_path, monkeypatch)
    path = source.location() / f"train-{part}-ubyte"
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(ValueError, match=r"files in .*MNIST/raw are damaged \(.*\); delete the folder"):
        source.load("train")


def test_download_flag_fetches(
    official: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mirror: tuple[Path, str]
) -> None:
    folder, address = mirror
    official.write_idx(folder / "raw", {"train": 40, "t10k": 20})
    checksums = official.compress(folder / "raw")
    monkeypatch.setattr(datasets.MNIST, "mirrors", [f"{address}raw/"])
    monkeypatch.setattr(datasets.MNIST, "resources", [(n, checksums[n]) for n, _ in datasets.MNIST.resources])
    root = tmp_path / "fresh"
    with pytest.raises(DataNotFoundError):
        MNIST(root=root).load("train")
    assert len(MNIST(root=root, download=True).load("train")) == 40
    assert len(MNIST(root=root).load("test")) == 20


def test_download_of_another_content_is_refused(
    official: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mirror: tuple[Path, str]
) -> None:
    folder, address = mirror
    official.write_idx(folder / "raw", {"train": 40, "t10k": 20})
    official.compress(folder / "raw")
    monkeypatch.setattr(datasets.MNIST, "mirrors", [f"{address}raw/"])  # the published checksums stay
    with pytest.raises(DataNotFoundError, match="MNIST could not be downloaded to"):
        MNIST(root=tmp_path / "fresh").fetch()
    assert not MNIST(root=tmp_path / "fresh").available()


def test_real_mnist(data_root: Path) -> None:
    source = MNIST(root=data_root)
    if not source.available():
        pytest.skip(f"MNIST is not in {data_root}")
    train, test = source.load("train"), source.load("test")
    assert train.images.shape == (60_000, 1, 28, 28) and test.images.shape == (10_000, 1, 28, 28)
    assert train.labels[:8].tolist() == [5, 0, 4, 1, 9, 2, 1, 3] and test.labels[:4].tolist() == [7, 2, 1, 0]
    assert train.counts.tolist() == [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949]
    assert abs(train.images.float().mean().item() / 255 - 0.1307) < 1e-4


def test_tensors_of_an_old_version_beside_the_files_are_not_read(
    official: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = official.make_mnist(tmp_path, monkeypatch)
    right = source.load("test")
    legacy = source.location().parent / "processed"
    legacy.mkdir()
    for name in ("training.pt", "test.pt"):
        torch.save((torch.full((9, 28, 28), 7, dtype=torch.uint8), torch.full((9,), 3)), legacy / name)
    assert torch.equal(source.load("test").images, right.images)
