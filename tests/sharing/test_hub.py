"""Runs go to the Hub and come back whole: a server on loopback that speaks its API; the real one is not reached."""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import safetensors.torch
import torch
from PIL import Image

import protoat as pa
from protoat.cli import main
from protoat.reports.html import report
from protoat.runs.hub import Reference, asking, hub_folder, listing, pull
from protoat.sharing.push import push
from protoat.storage.manifest import manifest_of
from protoat.storage.places import without_places
from tests.sharing.hub_server import TOKEN, Hub, serving
from tests.whole import attacked, checked, edit

huggingface_hub = pytest.importorskip("huggingface_hub")

pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")  # of huggingface_hub by httpx2
ZOO = Path(pa.__file__).parent / "zoo" / "digits-2"
FILES = {path.name: path.read_bytes() for path in sorted(ZOO.iterdir())}
REPO = "user/digits-2"
ON_HUB = f"hf://{REPO}"


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Hub]:
    with serving() as server:
        monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", server.url)
        resolved = f"{server.url}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
        monkeypatch.setattr("huggingface_hub.constants.HUGGINGFACE_CO_URL_TEMPLATE", resolved)
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DISABLE_XET", True)
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "theirs"))
        monkeypatch.setattr("huggingface_hub.file_download.time.sleep", lambda _: None)
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        monkeypatch.setenv("HF_ENDPOINT", server.url)  # of other processes
        monkeypatch.setenv("PROTOAT_CACHE", str(tmp_path / "cache"))
        monkeypatch.chdir(tmp_path)
        yield server


@pytest.fixture
def run(tmp_path: Path) -> pa.Run:
    """A run that has ended, as training leaves it."""
    shutil.copytree(ZOO, tmp_path / "run")
    facts = json.loads(FILES["run.json"])
    facts["sessions"][0] |= {"command": ["/home/me/bin/protoat", "train"], "machine": "mine"}
    edit(tmp_path / "run" / "run.json", facts)
    return pa.Run(tmp_path / "run")


def left(tmp_path: Path) -> list[str]:
    """Everything that fetching has left in the cache."""
    return sorted(str(path.relative_to(tmp_path)) for path in (tmp_path / "cache").rglob("*"))


def test_a_run_comes_back_as_it_was_pushed(hub: Hub, run: pa.Run) -> None:
    pushed = run.push(REPO)
    assert pushed.url == f"{hub.url}/{REPO}"
    there = hub.files(REPO)
    assert set(there) == {*FILES, "README.md", ".gitattributes"}
    back = pa.Run(ON_HUB)
    assert {path.name for path in back.path.iterdir()} == set(FILES)
    back.check()
    assert back.name == "digits-2"
    assert back.complete
    assert not back.outdated
    assert back.evaluation is not None
    assert back.evaluation.to_json()["attacks"] == run.evaluation.to_json()["attacks"]
    images = pa.Digits().load("test").pixels(slice(40))
    assert torch.equal(back.predict(images).labels, run.predict(images).labels)
    assert torch.equal(back.predict(images).probabilities, run.predict(images).probabilities)
    assert back.recipe_text == run.recipe_text
    assert back.fingerprint == run.fingerprint


def test_the_card_says_accuracy_by_attack_and_mode_audit_and_digests(hub: Hub, run: pa.Run) -> None:
    run.push(REPO)
    text = hub.files(REPO)["README.md"].decode()
    assert text.startswith("---\nlibrary_name: protoat\n")
    for attack, found in run.evaluation.entries.items():
        (row,) = re.findall(rf"^\| {re.escape(attack).replace('_', '._')} \| (.*)$", text, re.MULTILINE)[:1]
        assert f"{100 * found.accuracy:.1f} \\[" in row
    assert all(f"| {mode} |" in text for mode in run.facts["mode_names"])
    assert "No check failed" in text
    for digest in (*run.facts["data_sha256"], run.weights().sha256):
        assert digest in text
    assert f'pa.Run("{ON_HUB}")' in text


def test_what_is_said_of_the_machine_stays_here(hub: Hub, run: pa.Run, caplog: pytest.LogCaptureFixture) -> None:
    facts = json.loads((run.path / "run.json").read_text()) | {"initialised": "/home/me/w.pt"}
    facts["sessions"][0]["command"] += ["--data.root=/home/me/images", "--store=~/runs", "--like", "hf://user/other"]
    edit(run.path / "run.json", facts)
    record = json.loads((run.path / "evaluation.json").read_text())
    record["attacks"]["transfer:pgd5:/home/me/other"] = record["attacks"]["pgd10"]
    edit(run.path / "evaluation.json", record)
    push(pa.Run(run.path), REPO)
    said = b"".join(content for name, content in hub.files(REPO).items() if name != "best.safetensors")
    for word in (b"/home/me/bin", b"mine", str(run.path).encode()):
        assert word not in said
    assert (
        "name paths of this machine, which others will read: /home/me/images, /home/me/other, /home/me/w.pt, ~/runs\n"
    ) in caplog.text


def test_classes_modes_and_attacks_may_be_called_as_places_are() -> None:
    counts, words = {"correct": 1, "total": 2}, ("machine", "platform", "command")
    groups = {"per_class": dict.fromkeys(words, counts), "per_mode": dict.fromkeys(words, counts)}
    attack = {**attacked(1, 2), **groups, "parameters": {"platform": 3}}
    made_with = {"machine": "mine", "torch": "2"}
    evaluation = {"attacks": dict.fromkeys(words, attack | made_with), "worst_case": attack}
    bare = attack | {"machine": "", "torch": "2"}
    assert without_places(evaluation) == {"attacks": dict.fromkeys(words, bare), "worst_case": attack}
    audit = {"checks": [checked("C1", "pass", figures={"machine": 0.5})]}
    assert without_places(audit | made_with) == {**audit, "machine": "", "torch": "2"}
    session = {"command": ["/home/me/bin/protoat", "train"], "machine": "mine", "platform": "Linux"}
    assert without_places({"class_names": list(words), "sessions": [session]}) == {
        "class_names": list(words),
        "sessions": [{"command": ["protoat", "train"], "machine": "", "platform": ""}],
    }


def test_records_of_other_weights_do_not_go(hub: Hub, run: pa.Run) -> None:
    tensors = safetensors.torch.load_file(run.path / "best.safetensors")
    (run.path / "best.safetensors").write_bytes(
        changed := safetensors.torch.save({k: v + 1 for k, v in tensors.items()})
    )
    (run.path / "manifest.json").write_bytes(
        manifest_of({path.name: path.read_bytes() for path in run.path.iterdir() if path.name != "manifest.json"})
    )
    pa.Run(run.path).push(REPO)
    there = hub.files(REPO)
    assert there["best.safetensors"] == changed
    assert not {"evaluation.json", "audit.json"} & set(there)
    assert f"Not measured; `protoat evaluate {ON_HUB}` does it.".encode() in there["README.md"]
    assert str(run.path).encode() not in there["README.md"]
    assert b"Not audited" in there["README.md"]


def test_a_second_push_replaces_what_is_stale_in_one_commit(hub: Hub, run: pa.Run) -> None:
    run.push(REPO)
    (run.path / "audit.json").unlink()
    before = len(hub.repos[REPO])
    second = pa.Run(run.path).push(REPO)
    assert len(hub.repos[REPO]) == before + 1
    assert "audit.json" not in hub.files(REPO)
    assert pa.Run(f"{ON_HUB}@{second.commit}").audit is None
    first = hub.repos[REPO][before - 1][0]
    assert pa.Run(f"{ON_HUB}@{first}").audit is not None


@pytest.mark.parametrize(
    "names",
    [{"model.bin"}, {"README.md"}, {"recipe.yaml", "manifest.json", "code.py"}, {"best.safetensors"}],
)
def test_a_repository_of_something_else_is_left_alone(hub: Hub, run: pa.Run, names: set[str]) -> None:
    hub.commit(REPO, dict.fromkeys(names, b"years of work"))
    with pytest.raises(pa.UserError, match=r"holds (model.bin|README.md|code.py|best.safetensors), which is of no run"):
        run.push(REPO)
    assert len(hub.repos[REPO]) == 1


def test_who_may_not_write_is_told(hub: Hub, run: pa.Run, monkeypatch: pytest.MonkeyPatch) -> None:
    wrong = r"does not let you at other/digits \(HTTP 403\); log in with a token that may write it"
    with pytest.raises(pa.UserError, match=wrong):
        run.push("other/digits")
    monkeypatch.setenv("HF_TOKEN", "hf_of_somebody")
    with pytest.raises(pa.UserError, match=r"HTTP 401"):
        run.push(REPO)
    assert hub.repos == {}


def test_a_run_that_has_not_ended_is_not_pushed(hub: Hub, run: pa.Run) -> None:
    (run.path / "best.safetensors").unlink()
    with pytest.raises(pa.UserError, match="cannot be pushed: its weights are not there"):
        pa.Run(run.path).push(REPO)
    (run.path / "checkpoints").mkdir()
    with pytest.raises(pa.UserError, match="cannot be pushed: 30 of 30 epochs are done"):
        pa.Run(run.path).push(REPO)
    assert hub.requests == []


def test_a_private_one_is_read_by_who_may(hub: Hub, run: pa.Run, monkeypatch: pytest.MonkeyPatch) -> None:
    run.push(REPO, private=True)
    assert hub.private == {REPO}
    assert pa.Run(ON_HUB).complete
    monkeypatch.setenv("HF_TOKEN", "hf_of_somebody")
    with pytest.raises(pa.UserError, match="no model user/digits-2 on the Hub that you may read"):
        pa.Run(ON_HUB)


def test_a_public_repository_takes_no_private_run(hub: Hub, run: pa.Run) -> None:
    hub.commit(REPO, FILES)
    with pytest.raises(pa.UserError, match="user/digits-2 on the Hub is there already and public"):
        run.push(REPO, private=True)
    assert len(hub.repos[REPO]) == 1
    hub.private.add(REPO)
    run.push(REPO, private=True)
    assert len(hub.repos[REPO]) == 2


def test_the_library_reports_runs_by_their_names(hub: Hub, tmp_path: Path) -> None:
    commit = hub.commit(REPO, {name: content for name, content in FILES.items() if name != "audit.json"})
    page = report([ON_HUB, "zoo:digits-2"], tmp_path / "page.html", images=0).read_text()
    assert f"protoat audit {ON_HUB}@{commit}" in page
    with pytest.raises(pa.UserError, match="none of them twice"):
        report(["zoo:digits-2", "zoo:digits-2"], tmp_path / "other.html", images=0)


@pytest.mark.parametrize("name", [ON_HUB, "zoo:digits-2", "zoo:none"])
def test_what_is_elsewhere_is_not_removed(
    hub: Hub, tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["rm", name, "--yes"]) == 2
    error = capsys.readouterr().err
    assert f"{name} is no run folder of yours" in error
    assert error.count("\n") == 1
    assert hub.requests == []
    assert left(tmp_path) == []


def test_images_are_transferred_from_a_run_of_the_hub(hub: Hub, capsys: pytest.CaptureFixture[str]) -> None:
    name = f"{ON_HUB}@{hub.commit(REPO, FILES)}"
    assert main(["evaluate", name, "--attacks", f"transfer:{name}", f"transfer:pgd2:{name}", "--n", "4"]) == 0
    assert {f"transfer:{name}", f"transfer:pgd2:{name}"} <= set(pa.Run(name).evaluation.attacks)


def test_commands_take_a_run_of_the_hub(hub: Hub, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    commit = hub.commit(REPO, FILES)
    name = f"{ON_HUB}@{commit}"
    assert main(["evaluate", name, "--attacks", "clean", "pgd2"]) == 0
    assert main(["show", name]) == 0
    assert "pgd2" in capsys.readouterr().out
    assert main(["compare", name, str(ZOO)]) == 0
    assert main(["export", name, "--format", "safetensors", "--n", "8", "--out", "served"]) == 0
    assert main(["report", name, "--images", "0", "--out", "report.html"]) == 0
    Image.new("L", (8, 8)).save(tmp_path / "a.png")
    assert main(["predict", name, "a.png"]) == 0
    assert (tmp_path / "served" / "model.safetensors").exists()
    assert len([request for request in hub.requests if request.startswith("HEAD")]) == len(FILES)  # fetched once


def test_push_and_pull_are_commands(hub: Hub, run: pa.Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["push", str(run.path), REPO]) == 0
    commit = hub.branches[REPO]["main"]
    assert f"{ON_HUB}@{commit} is this commit" in capsys.readouterr().out
    assert main(["pull", REPO]) == 0
    assert {path.name for path in (tmp_path / "runs" / "digits-2").iterdir()} == set(FILES)
    assert main(["show", "digits-2"]) == 0  # a run like any other, by its name
    assert main(["pull", REPO]) == 2
    assert "is there already; choose another folder" in capsys.readouterr().err
    assert main(["pull", f"{REPO}@v1", "--out", "other"]) == 2
    assert "has no revision 'v1'" in capsys.readouterr().err
    hub.branches[REPO]["v1"] = commit
    assert main(["pull", f"hf://{REPO}@v1", "--out", "other"]) == 0
    assert main(["rm", "other", "--yes"]) == 0


def test_an_interrupted_download_goes_on_where_it_was(hub: Hub) -> None:
    hub.commit(REPO, FILES)
    hub.cut = {"best.safetensors": [1000, 50_000], "evaluation.json": [10]}
    folder = hub_folder(ON_HUB)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == FILES
    assert hub.cut == {"best.safetensors": [], "evaluation.json": []}


def test_a_download_that_fails_leaves_nothing(hub: Hub, tmp_path: Path) -> None:
    hub.commit(REPO, FILES)
    hub.cut = {"best.safetensors": [0] * 20}
    with pytest.raises(pa.UserError, match="the Hub could not be asked for hf://user/digits-2"):
        hub_folder(ON_HUB)
    assert [name for name in left(tmp_path) if name.count("/") > 3] == []
    with pytest.raises(pa.UserError):
        pull(Reference(REPO), tmp_path / "mine")
    assert not (tmp_path / "mine").exists()
    hub.cut = {}
    assert {path.name for path in hub_folder(ON_HUB).iterdir()} == set(FILES)


def test_of_two_runs_that_are_pulled_into_one_folder_one_is_told(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.commit(REPO, FILES)
    hub.commit("user/other", FILES | {"metrics.jsonl": b""})
    asked = listing

    def late(reference: Reference) -> object:
        monkeypatch.setattr("protoat.runs.hub.listing", asked)
        pull(Reference(REPO), tmp_path / "mine")  # while the other is being asked for
        return asked(reference)

    monkeypatch.setattr("protoat.runs.hub.listing", late)
    with pytest.raises(pa.UserError, match="mine is there already; choose another folder"):
        pull(Reference("user/other"), tmp_path / "mine")
    assert (tmp_path / "mine" / "metrics.jsonl").read_bytes() == FILES["metrics.jsonl"]


@pytest.mark.slow
def test_a_killed_download_is_begun_anew(hub: Hub, tmp_path: Path) -> None:
    commit = hub.commit(REPO, FILES)
    hub.stalled = "best.safetensors"
    program = f"from protoat.runs.hub import hub_folder; hub_folder({ON_HUB!r})"
    process = subprocess.Popen([sys.executable, "-c", program], env=os.environ | {"HF_HUB_DISABLE_XET": "1"})
    try:
        assert hub.stands_still.wait(60)
    finally:
        process.kill()
        process.wait()
    assert not (tmp_path / "cache" / "hub" / commit / REPO).exists()
    hub.stalled = None
    folder = hub_folder(ON_HUB)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == FILES
    assert [path.name for path in folder.parent.iterdir()] == ["digits-2"]


@pytest.mark.parametrize("name", ["best.safetensors", "recipe.yaml", "manifest.json"])
def test_a_wrong_digest_is_refused_and_nothing_is_kept(hub: Hub, tmp_path: Path, name: str) -> None:
    hub.commit(REPO, FILES)
    hub.wrong = {name}
    with pytest.raises(pa.UserError, match=rf"{name} .*; nothing was kept"):
        hub_folder(ON_HUB)
    assert [found for found in left(tmp_path) if found.count("/") > 3] == []
    hub.wrong = set()
    assert pa.Run(ON_HUB).complete


def test_only_known_files_that_the_manifest_names_are_fetched(hub: Hub) -> None:
    code = {"mymodels.py": b"raise SystemExit", "../out": b"", "checkpoints/0001/state.json": b"{}", "README.md": b"hi"}
    hub.commit(REPO, {**FILES, **code})
    assert {path.name for path in hub_folder(ON_HUB).iterdir()} == set(FILES)
    assert not [request for request in hub.requests if any(name in request for name in code)]
    hub.commit(REPO, {**FILES, "probe.json": b"{}"})
    with pytest.raises(pa.UserError, match=r"probe.json has not the checksum"):
        hub_folder(ON_HUB)


def test_what_is_too_large_is_refused_before_it_is_fetched(hub: Hub) -> None:
    hub.commit(REPO, FILES)
    for name, size in {"best.safetensors": 2**33, "run.json": 2**26}.items():
        hub.sizes = {name: size}
        with pytest.raises(pa.UserError, match=rf"{name} has {size} bytes, and \d+ are allowed"):
            hub_folder(ON_HUB)
    hub.sizes = {"run.json": None}
    with pytest.raises(pa.UserError, match=r"run.json has a size that the Hub does not say, and \d+ are allowed"):
        hub_folder(ON_HUB)
    assert not [request for request in hub.requests if "/resolve/" in request]


def test_a_repository_without_a_run_is_refused(hub: Hub) -> None:
    hub.commit(REPO, {"README.md": b"hi", "model.safetensors": b""})
    with pytest.raises(pa.UserError, match=r"holds no run: no manifest.json and no recipe.yaml and no run.json"):
        hub_folder(ON_HUB)


def test_a_recipe_that_names_code_is_refused_unless_it_is_trusted(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mark = tmp_path / "ran"
    code = f"import protoat\nopen({str(mark)!r}, 'w').close()\nclass Net(protoat.LeNet): pass\n"
    (tmp_path / "planted.py").write_text(code)
    monkeypatch.syspath_prepend(tmp_path)
    files = FILES | {"recipe.yaml": FILES["recipe.yaml"].replace(b"protoat.models.LeNet", b"planted.Net")}
    hub.commit(REPO, {**files, "manifest.json": manifest_of({k: v for k, v in files.items() if k != "manifest.json"})})
    with pytest.raises(pa.UserError, match=r"planted\.Net"):
        _ = pa.Run(ON_HUB).model
    assert not mark.exists()
    assert isinstance(pa.Run(ON_HUB, trust=["planted.Net"]).model, pa.LeNet)
    assert mark.exists()


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EACCES, errno.EROFS, errno.EDQUOT])
def test_a_full_disk_is_called_one(hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    def fails(*_: object, **__: object) -> None:
        raise OSError(number, os.strerror(number))

    hub.commit(REPO, FILES)
    monkeypatch.setattr("huggingface_hub.HfApi.hf_hub_download", fails)
    with pytest.raises(pa.training.DiskError, match=rf"could not write .*/mine: {os.strerror(number)}$"):
        pull(Reference(REPO), tmp_path / "mine")
    assert not (tmp_path / "mine").exists()


def test_errors_are_called_what_they_are() -> None:
    reference, refused = Reference(REPO), huggingface_hub.errors.HTTPError("no way out")
    with (
        pytest.raises(pa.UserError, match=r"the Hub could not be asked for .* \(Permission denied\)"),
        asking(reference),
    ):
        raise refused from PermissionError("Permission denied")
    refused.__cause__ = PermissionError(errno.EACCES, "not of a file, but of a firewall")
    with pytest.raises(pa.UserError, match="not of a file, but of a firewall"), asking(reference):
        raise refused
    unread = PermissionError(errno.EACCES, os.strerror(errno.EACCES), "/home/me/token")
    with pytest.raises(pa.training.DiskError, match="could not read or write /home/me/token: Perm"), asking(reference):
        raise unread
    with pytest.raises(pa.UserError, match=r"the Hub could not be asked for .* \(of hf_xet\)"), asking(reference):
        raise RuntimeError("of hf_xet")
    for defect in (TypeError("ours"), KeyError("ours"), AttributeError("ours"), NotImplementedError("ours")):
        with pytest.raises(type(defect)), asking(reference):
            raise defect
    with pytest.raises(pa.UserError, match="the Hub could not be asked for"), asking(reference):
        json.loads("<html>of a proxy</html>")
    answer: Any = SimpleNamespace(status_code=403, headers={}, request=None)
    wrong = huggingface_hub.errors.HfHubHTTPError("no", response=answer)
    with pytest.raises(pa.UserError, match=r"\(HTTP 403\); log in with a token that may read it"), asking(reference):
        raise wrong


def test_without_a_network_a_commit_that_is_there_is_enough(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    commit = hub.commit(REPO, FILES)
    hub_folder(ON_HUB)
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    hub.requests.clear()
    with pytest.raises(pa.UserError, match=rf"could not be asked .*; without it, there is {ON_HUB}@{commit}$"):
        hub_folder(ON_HUB)
    assert hub_folder(f"{ON_HUB}@{commit}").is_dir()
    assert hub.requests == []


@pytest.mark.parametrize(
    "name", ["hf://", "hf://name", "hf://../x", "hf://user/..", "hf://a/b/c", "hf://a/b@", "hf:a/b"]
)
def test_a_name_that_is_none_is_one_line(hub: Hub, name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["show", name]) == 2
    error = capsys.readouterr().err
    assert "names no repository of the Hub; write user/name" in error
    assert error.count("\n") == 1
    assert hub.requests == []


def test_a_commit_that_is_none_makes_no_path(hub: Hub, tmp_path: Path) -> None:
    hub.repos[REPO], hub.branches[REPO] = [("../../out", FILES)], {"main": "../../out"}
    with pytest.raises(pa.UserError, match="expected the hash of a commit"):
        hub_folder(ON_HUB)
    assert left(tmp_path) == []


def test_a_network_with_our_head_goes_by_the_mixin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = (Path(__file__).parents[2] / "docs/serving.md").read_text()
    (program,) = re.findall(r"```python\n(class Net.*?)```", page, re.DOTALL)
    monkeypatch.chdir(tmp_path)
    names = {"torch": torch, "huggingface_hub": huggingface_hub, "pa": pa, "__name__": "theirs"}
    exec(program, names)
    net, x = names["Net"](classes=3), torch.rand(5, 1, 8, 8)
    with torch.no_grad():
        net.head.active[1, 2] = False  # as a merge leaves it
    net.save_pretrained(tmp_path / "merged")
    back = names["Net"].from_pretrained(tmp_path / "merged")
    assert back.head.num_classes == 3
    assert torch.equal(back.head.active, net.head.active)
    assert torch.equal(back(x), net.eval()(x))
