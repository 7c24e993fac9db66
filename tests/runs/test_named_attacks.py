"""Names that need a run: adaptive attacks and transfer; and the other ways to name an attack."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from protoat.attacks import APGD, FGSM, PGD, AutoAttack, EmbeddingDisplacement, Targeted, Transfer
from protoat.data import Digits, regroup
from protoat.evaluation.attack_names import describe_names
from protoat.models import LeNet, MultiPrototypeHead, with_head
from protoat.paper.job import Job
from protoat.recipes.reading import read_recipe
from protoat.runs.named_attacks import HELP, check_one_attack, default_names, named_attacks, one_attack
from protoat.runs.run import Run
from protoat.runs.subject import Subject, blank_subject
from protoat.runs.train import train
from protoat.threats import Linf

SHORT = ["--epochs", "1", "--validation_size", "50", "--method.steps", "1", "--schedule", "none", "--batch_size", "512"]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "run"
    train(read_recipe("digits-2", SHORT), folder, progress=False)
    return folder


@pytest.fixture(scope="module")
def subject(run: Path) -> Subject:
    return replace(Run(run).subject(), threat=Linf("8/255"))


def test_names_paths_and_yaml_all_give_attacks(subject: Subject) -> None:
    found = named_attacks(
        [
            "clean",
            "pgd10",
            "pgd10/0.01@0.1",
            "protoat.attacks.FGSM",
            "{class_path: PGD, init_args: {steps: 3, step_size: 2/255}}",
        ],
        subject,
    )
    assert list(found) == ["clean", "pgd10", "pgd10/0.01@0.1", "FGSM", "PGD"]
    assert found["clean"] is None
    assert isinstance(found["pgd10/0.01@0.1"], PGD)
    assert found["pgd10/0.01@0.1"].step_size == 0.01
    assert isinstance(found["FGSM"], FGSM)
    assert isinstance(found["PGD"], PGD)
    assert (found["PGD"].steps, found["PGD"].step_size, found["PGD"].threat.eps) == (3, 2 / 255, 8 / 255)


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["pdg10"], "did you mean 'pgd10'"),
        (["pgd10", "pgd10"], "two attacks are called 'pgd10'"),
        (["aa", "autoattack"], "two attacks are called 'aa-k2'"),
        (["adaptive", "adaptive-leave"], "two attacks are called 'adaptive-leave'"),
        (["adaptive-leav"], "did you mean 'adaptive-leave'"),
        (["adaptive0"], "attack 'adaptive-combined0': steps=0"),
        (["no.such.Attack"], "No module named 'no'"),
        (["protoat.data.MNIST"], "is no Attack"),
        (["protoat.attacks.FGSM@0.1"], "attack 'protoat.attacks.FGSM@0.1': a class takes no numbers in its name"),
        (["{class_path: PGD, init_args: {stepz: 3}}"], "did you mean 'steps'"),
        (["transfer:nowhere"], "nowhere is not a run folder"),
        (["transfer:pdg10:nowhere"], "did you mean 'pgd10'"),
        (["transfer:clean:nowhere"], "transfers clean images"),
        (["transfer:pgd10:next:nowhere"], "^nowhere is not a run folder"),
        (["transfer:deepfool:next:nowhere"], "no targeted form"),
    ],
)
def test_what_is_no_attack_is_refused(names: list[str], message: str, subject: Subject) -> None:
    with pytest.raises(ValueError, match=message):
        named_attacks(names, subject)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("pdg10", "did you mean 'pgd10'"),
        ("clean", "attack 'clean' is none; name one, such as pgd10"),
        ("adaptive", "attack 'adaptive' is 4 attacks; name one"),
        ("adaptive-leav", "did you mean 'adaptive-leave'"),
        ("protoat.data.MNIST", "is no Attack"),
        ("transfer:nowhere", "nowhere is not a run folder"),
        ("transfer:pdg10:nowhere", "did you mean 'pgd10'"),
    ],
)
def test_what_is_no_single_attack_is_refused_before_the_run_is_trained(name: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        planned = Job("planned", ("digits-2",))
        check_one_attack(name, planned.name, planned.recipe)


def test_a_single_attack_passes_before_the_run_is_trained(run: Path) -> None:
    job = Job("planned", ("digits",), {"regularizer": {"init_args": {"prototypes_per_class": list(range(1, 11))}}})
    for name in ("pgd10@0.1", "aa", "adaptive-leave5", "protoat.attacks.FGSM", f"transfer:{run}"):
        check_one_attack(name, job.name, job.recipe)
    with pytest.raises(
        ValueError, match="'adaptive-leave' needs prototypes, and planned has none, of SoftTriple or of a h"
    ):
        planned = Job("planned", ("digits",), {"regularizer": None})
        check_one_attack("adaptive-leave", planned.name, planned.recipe)


def test_autoattack_is_called_after_its_version(subject: Subject) -> None:
    ten = replace(subject, data=Digits().load("test"))
    for given, classes, name in (
        ("aa", 2, "aa-k2"),
        ("aa@0.1", 2, "aa-k2@0.1"),
        ("protoat.attacks.AutoAttack", 10, "standard"),
    ):
        (found,) = named_attacks([given], ten if classes == 10 else subject).items()
        assert found[0] == name
        assert isinstance(found[1], AutoAttack)


def test_adaptive_attacks_know_the_prototypes_of_the_run(subject: Subject) -> None:
    found = named_attacks(["adaptive7x2@0.2"], subject)
    assert list(found) == [f"adaptive-{name}7x2@0.2" for name in ("combined", "leave", "approach", "displace")]
    for attack in found.values():
        assert isinstance(attack, (APGD, EmbeddingDisplacement))
        assert (attack.steps, attack.restarts, attack.threat) == (7, 2, Linf(0.2))
    (leave,) = named_attacks(["adaptive-leave"], subject).values()
    assert torch.equal(leave.loss.prototypes, subject.regularizer.prototypes)
    assert leave.loss.gamma == subject.regularizer.gamma
    assert default_names(subject)[-1] == "adaptive"
    without = replace(subject, regularizer=None)
    assert "adaptive" not in default_names(without)
    with pytest.raises(ValueError, match="has none, of SoftTriple or of a head"):
        named_attacks(["adaptive"], without)


def test_one_list_serves_a_run_without_prototypes(subject: Subject, caplog: pytest.LogCaptureFixture) -> None:
    without = replace(subject, regularizer=None)
    assert list(named_attacks(["clean", "adaptive", "pgd10"], without)) == ["clean", "pgd10"]
    assert "'adaptive' needs prototypes" in caplog.text and "it is left out" in caplog.text
    with pytest.raises(ValueError, match="'adaptive-leave' needs prototypes"):
        named_attacks(["clean", "adaptive-leave"], without)


def test_adaptive_attacks_know_the_prototypes_of_a_head(subject: Subject) -> None:
    head = MultiPrototypeHead(100, 2, prototypes_per_class=[2, 3])
    both = replace(subject, model=with_head(LeNet(2, image_size=8), head))
    alone = replace(both, regularizer=None)
    names = [f"adaptive-head-{name}5" for name in ("towards", "posterior", "leave", "approach")]
    found = named_attacks(["adaptive5"], alone)
    assert list(found) == [*names, "adaptive-displace5"] and default_names(alone)[-1] == "adaptive"
    soft = [f"adaptive-{name}5" for name in ("combined", "leave", "approach", "displace")]
    assert list(named_attacks(["adaptive5"], both)) == [*soft, *names]
    assert torch.equal(found["adaptive-head-towards5"].head.prototypes, head.prototypes)
    planned = read_recipe("digits-2", ["--regularizer", "none", "--head.prototypes_per_class", "[4, 5]"])
    check_one_attack("adaptive-head-towards", "planned", planned)
    told = named_attacks(["adaptive5"], blank_subject("planned", planned, 2, None))
    assert [a.parameters() for a in told.values()] == [
        {**a.parameters(), "eps": planned.threat.eps} for a in found.values()
    ]


def test_transfer_uses_the_model_of_another_run(run: Path, subject: Subject) -> None:
    found = named_attacks([f"transfer:{run}", f"transfer:bim3@0.2:{run}"], subject)
    first, second = found.values()
    assert isinstance(first, Transfer)
    assert first.attack.parameters() == PGD(Linf("8/255"), steps=50).parameters()
    assert isinstance(second, Transfer)
    assert (second.attack.steps, second.threat.eps) == (3, 0.2)
    assert first.parameters()["surrogate"] == f"{run}, best.safetensors {subject.identity['sha256'][:12]}"
    state = subject.model.state_dict()
    assert all(torch.equal(value, state[key]) for key, value in first.surrogate.state_dict().items())
    with pytest.raises(ValueError, match=r"was trained on classes \['0-4', '5-9'\], and the data has \['0-1', "):
        named_attacks([f"transfer:{run}"], replace(subject, data=regroup(Digits().load("test"), 5)))


def test_transfer_from_the_zoo(subject: Subject, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PROTOAT_CACHE", str(tmp_path / "cache"))
    names = ["transfer:zoo:digits-2", "transfer:bim3@0.2:zoo:digits-2"]
    first, second = named_attacks(names, subject).values()
    assert first.attack.parameters() == PGD(Linf("8/255"), steps=50).parameters()
    assert (second.attack.steps, second.threat.eps) == (3, 0.2)
    for attack in (first, second):
        assert attack.parameters()["surrogate"].startswith("zoo:digits-2, best.safetensors ")
    check_one_attack(names[0], "planned", read_recipe("digits-2"))
    name = "transfer:pgd2:next@0.2:zoo:digits-2"
    aimed = one_attack(name, subject)
    assert isinstance(aimed.attack, Targeted) and (aimed.attack.rule, aimed.threat.eps) == ("next", 0.2)
    x, y = subject.data.images[:4].float() / 255, subject.data.labels[:4]
    assert (aimed(subject.model, x, y).x_adv - x).abs().max() <= 0.2 + 1e-6
    check_one_attack(name, "planned", read_recipe("digits-2"))


def test_help_lists_every_name() -> None:
    assert describe_names() in HELP
    for name in ("clean ", "adaptive[", "transfer:RUN ", "RULE: least_likely, next, random or all", "@RADIUS"):
        assert name in HELP
