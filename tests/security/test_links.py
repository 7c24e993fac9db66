"""A link in a run folder: no command follows it, says so in one line, and leaves what it leads to as it is."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

from protoat import Objective, fit
from protoat.cli import main
from protoat.methods import Standard
from protoat.paper.job import Job, Task
from protoat.paper.laboratory import run_task
from protoat.recipes.reading import read_recipe
from protoat.runs.train import train
from protoat.threats import Linf
from protoat.training.checkpoint import load_latest

SHORT = ["--epochs", "1", "--validation_size", "50", "--method.steps", "1", "--schedule", "none", "--batch_size", "256"]
TRAIN = ["train", "--config", "digits-2", *SHORT, "--out", "{run}"]
EVALUATE = ["evaluate", "{run}", "--attacks", "clean", "--n", "20"]


@pytest.fixture(scope="module")
def complete(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "run"
    train(read_recipe("digits-2", SHORT), folder, progress=False)
    return folder


@pytest.fixture
def run(complete: Path, tmp_path: Path) -> Path:
    """A run that has ended."""
    shutil.copytree(complete, tmp_path / "run")
    return tmp_path / "run"


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return user_files(tmp_path / "home")


def user_files(folder: Path) -> Path:
    """What the user has elsewhere."""
    (folder / "deep").mkdir(parents=True)
    for name in ("thesis.tex", "deep/thesis.tex"):
        (folder / name).write_text("years of work")
    return folder


def everything(folder: Path) -> dict[str, object]:
    """Content and times of all files and folders."""
    paths = [folder, *sorted(folder.rglob("*"))]
    return {str(path): (path.lstat().st_mtime_ns, path.is_file() and path.read_bytes()) for path in paths}


def refused(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """The one line that a command ends with."""
    capsys.readouterr()
    began = time.process_time()
    assert main(arguments) == 2
    assert time.process_time() - began < 20
    (line,) = [line for line in capsys.readouterr().err.splitlines() if "error:" in line]
    return line


def interrupted(run: Path) -> None:
    """As at its beginning."""
    for checkpoint in (run / "checkpoints").glob("*[1-9]"):
        shutil.rmtree(checkpoint)
    for name in ("best.safetensors", "best.json", "last.safetensors", "last.json"):
        (run / name).unlink()


def linked(path: Path, target: Path) -> None:
    """A link in the place of whatever is there."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    path.unlink(missing_ok=True)
    path.parent.mkdir(exist_ok=True)
    path.symlink_to(target)


@pytest.mark.parametrize(
    ("command", "name", "target"),
    [
        (TRAIN, ".lock", "thesis.tex"),
        (TRAIN, ".lock", "nowhere"),
        (TRAIN, "run.json", "thesis.tex"),
        (TRAIN, ".run.json.partial", "thesis.tex"),
        (TRAIN, "checkpoints", ""),
        (TRAIN, "checkpoints/.partial", "deep"),
        (TRAIN, "checkpoints/.00000001", "deep"),
        (TRAIN, "metrics.jsonl", "thesis.tex"),
        (TRAIN, ".metrics.jsonl.partial", "thesis.tex"),
        (TRAIN, "tensorboard", ""),
        (TRAIN, "tensorboard/more", "deep"),
        (TRAIN, ".last.safetensors.partial", "thesis.tex"),
        (TRAIN, ".best.json.partial", "thesis.tex"),
        (EVALUATE, ".lock", "thesis.tex"),
        (EVALUATE, "evaluation.json", "nowhere"),
        (EVALUATE, ".evaluation.json.partial", "thesis.tex"),
        (EVALUATE, "evaluation.partial", "deep"),
        ([*EVALUATE, "--head", "prototypes"], "prototypes", ""),
        ([*EVALUATE, "--head", "prototypes"], "prototypes/evaluation.partial", "deep"),
        (["evaluate", "{run}", "--linear-probe"], ".lock", "thesis.tex"),
        (["audit", "{run}", "--n", "10"], ".lock", "thesis.tex"),
        (["audit", "{run}", "--n", "10", "--checks", "A1"], ".audit.json.partial", "thesis.tex"),
        (["report", "{run}", "--images", "20", "--out", "{run}/report.html"], "report.html", "thesis.tex"),
        (["report", "{run}", "--images", "20", "--out", "{run}/report.html"], ".report.html.partial", "thesis.tex"),
        (["table", "2", "--dry-run", "--store", "{run}/..", "--out", "{run}/t.md"], ".t.md.partial", "thesis.tex"),
        (["rm", "{run}", "--yes"], ".lock", "thesis.tex"),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else value,
)
def test_no_command_follows_a_link(
    command: list[str], name: str, target: str, run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    home = user_files(run.with_name("home"))
    if command is TRAIN:
        interrupted(run)
    linked(run / name, home / target)
    before = everything(home)
    line = refused([word.format(run=run) for word in command], capsys)
    assert str(run / name) in line, line
    assert everything(home) == before and (run / name).is_symlink() and not (home / "nowhere").exists()


@pytest.mark.parametrize("name", [".lock", ".run.json.partial", ".recipe.yaml.partial", "run.json"])
def test_a_new_folder_with_a_link_is_no_new_folder(
    name: str, home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    linked(tmp_path / "new" / name, home / "thesis.tex")
    before = everything(home)
    for command in ("train", "pretrain"):
        config = ["--config", "digits-2"] if command == "train" else ["--config", "digits-acl"]
        assert "new" in refused([command, *config, "--epochs", "1", "--out", str(tmp_path / "new")], capsys)
    assert everything(home) == before and [path.name for path in (tmp_path / "new").iterdir()] == [name]


@pytest.mark.parametrize("name", ["checkpoints", "metrics.jsonl", ".last.safetensors.partial", "tensorboard"])
def test_fit_follows_none(name: str, home: Path, tmp_path: Path) -> None:
    linked(tmp_path / "out" / name, home / ("thesis.tex" if "." in name else "deep"))
    before, net = everything(home), nn.Sequential(nn.Flatten(), nn.Linear(4, 2))
    batches = [(torch.rand(8, 1, 2, 2), torch.arange(8) % 2)]
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    with pytest.raises(ValueError, match=f"{tmp_path / 'out' / name} is a link"):
        fit(net, batches, Objective(Standard(Linf(0.1))), epochs=1, optimizer=optimizer, out=tmp_path / "out")
    assert everything(home) == before


def test_a_checkpoint_names_no_file_outside_of_it(home: Path, run: Path) -> None:
    """Whoever makes a checkpoint can make its checksums, too."""
    interrupted(run)
    first = run / "checkpoints/00000000"
    newest = Path(shutil.copytree(first, first.with_name("00000007")))
    linked(newest / "common.safetensors", home / "thesis.tex")
    with pytest.warns(UserWarning, match=r"common\.safetensors is a link"):
        found = load_latest(run / "checkpoints")
    assert found is not None and found.path == first


@pytest.mark.parametrize("name", [".locks", ".jobs"])
def test_a_table_writes_nothing_outside_of_its_store(name: str, home: Path, tmp_path: Path) -> None:
    linked(tmp_path / "store" / name, home)
    before = everything(home)
    with pytest.raises(ValueError, match=f"{name} is a link"):
        if name == ".locks":
            run_task(Task(Job("one", ("digits",), {"epochs": 1})), tmp_path / "store")
        else:
            main_of_jobs(tmp_path / "store")
    assert everything(home) == before


def main_of_jobs(store: Path) -> None:
    from protoat.paper.executors import EXECUTORS

    EXECUTORS["local"](store, 2, {})


def test_rm_removes_links_and_not_what_they_lead_to(run: Path, home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (run / "data").symlink_to(home)
    (run / "notes.tex").symlink_to(home / "thesis.tex")
    before = everything(home)
    assert main(["rm", str(run), "--yes"]) == 0
    assert not run.exists() and everything(home) == before


@pytest.mark.parametrize(
    "links",
    [
        {"run/checkpoints": "deep"},
        {"run/checkpoints/00000001": "deep"},
        {"run/.lock": "thesis.tex"},
        {"run/.best.json.partial": "thesis.tex"},
        {"run/evaluation.partial": "deep"},
        {".jobs": "", ".locks": "deep"},
        {".gone-7.removed": "deep"},
    ],
    ids=lambda links: next(iter(links)),
)
def test_gc_removes_nothing_that_a_link_leads_to(
    links: dict[str, str], run: Path, home: Path, at_rest: Callable[[Path], None]
) -> None:
    (home / "20250101-000000-here-7").mkdir()
    (home / "deep" / f"{64 * 'a'}.lock").write_text("")
    for name, target in links.items():
        linked(run.parent / name, home / target)
    at_rest(run.parent)
    before = everything(home)
    assert main(["gc", str(run.parent), "--incomplete", "--yes"]) == 0
    assert everything(home) == before
    assert all((run.parent / name).is_symlink() for name in links)
