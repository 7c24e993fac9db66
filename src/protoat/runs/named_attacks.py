"""Attacks by name, including those that need a run (adaptive, transfer)."""

from __future__ import annotations

import logging
import re
from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import get_args

import torch

from protoat.attacks import Attack, AutoAttack, TargetRule, Transfer, adaptive_attacks, adaptive_head_attacks
from protoat.errors import UserError
from protoat.evaluation import attack_of_name
from protoat.evaluation.attack_names import Family, describe_names
from protoat.models import multi_prototype_head
from protoat.recipes.parser import Parser
from protoat.recipes.recipe import Recipe
from protoat.regularizers import SoftTriple
from protoat.runs.claims import is_elsewhere
from protoat.runs.run import Run
from protoat.runs.subject import Subject, blank_subject
from protoat.threats import ThreatModel

logger = logging.getLogger(__name__)

HELP = f"""\
clean                      No attack.
{describe_names()}
adaptive[N][xR]            All attacks that know the prototypes. Of SoftTriple: adaptive-combined, adaptive-leave,
                           adaptive-approach; of a MultiPrototypeHead: adaptive-head-towards, adaptive-head-posterior,
                           adaptive-head-leave, adaptive-head-approach; of both: adaptive-displace.
transfer:RUN               Adversarial images made on the model of another run, with pgd50; zoo:NAME and hf://user/name
                           are runs too.
transfer:ATTACK:RUN        The same with another attack, such as transfer:pgd10:next:RUN.
package.module.Class       Your own subclass of protoat.attacks.Attack.
{{class_path: PGD, init_args: {{steps: 20, step_size: 2/255}}}}
                           Any class with any arguments, as YAML; called after its class.

N: steps, queries or draws. R: restarts. STEP: size of a step in pixels, for PGD 2.5 * radius / N if not given.
RULE: least_likely, next, random or all wrong classes as targets.
All short names but clean may end in @RADIUS, such as pgd100x10@4/255, pgd20/2/255@4/255, transfer:pgd50@4/255:RUN."""


def default_names(subject: Subject) -> list[str]:
    """What is measured when nobody says what: AutoAttack beside two weaker ones, and whatever knows the prototypes."""
    return ["clean", "fgsm", "pgd10", "aa", *(["adaptive"] if has_prototypes(subject) else [])]


def has_prototypes(subject: Subject) -> bool:
    """Whether there are attacks that know its prototypes, of SoftTriple or of a head with several."""
    return isinstance(subject.regularizer, SoftTriple) or multi_prototype_head(subject.model) is not None


def knows_prototypes(recipe: Recipe) -> bool:
    """Whether there will be such attacks on a run of a recipe; told without images."""
    with torch.random.fork_rng():
        regularizer = None if recipe.regularizer is None else recipe.regularizer(2, 2)
        return has_prototypes(blank_subject("", recipe, 2, regularizer))


def named_attacks(names: Sequence[str], subject: Subject) -> dict[str, Attack | None]:
    """Attacks by the names a report gives them.

    Args:
        names: short names (`attack_of_name`); ``adaptive``, which is left out with a warning where there are no
            prototypes, so that one list serves runs with and without; ``transfer:RUN``; dotted paths of `Attack`
            classes, or YAML such as ``{class_path: PGD, init_args: {steps: 20}}``, which is called after its class.
            AutoAttack is called after its version, which depends on the number of classes.
        subject: what they will attack.

    Raises:
        ValueError: an unknown attack, with the nearest valid name; two attacks of one name; no prototypes for
            ``adaptive`` alone, or one of its attacks; a run of other classes or images for ``transfer``.
    """
    adaptive = _adaptive(subject)
    found = [_attack(name, subject, adaptive) for given in names for name in _expanded(given, subject, adaptive)]
    if names and not found:
        raise UserError(_without_prototypes(names[0], subject))
    repeated = [name for name, times in Counter(name for name, _ in found).items() if times > 1]
    if repeated:
        raise UserError(f"two attacks are called {repeated[0]!r}; measure them one after the other")
    return dict(found)


def one_attack(name: str, subject: Subject) -> Attack:
    """The attack of a name that stands for a single one.

    Raises:
        ValueError: see `named_attacks`; or a name that stands for none or several.
    """
    attack, *others = named_attacks([name], subject).values()
    if attack is None or others:
        number = "none" if attack is None else f"{1 + len(others)} attacks"
        raise UserError(f"attack {name!r} is {number}; name one, such as pgd10")
    return attack


def check_one_attack(name: str, run: str, recipe: Recipe) -> None:
    """Refuses a name that `one_attack` would refuse once a run is trained, as far as can be told before.

    Raises:
        ValueError: see `one_attack`.
    """
    # The number of classes is not known without images, and decides on no name; any regularizer passes for SoftTriple.
    with torch.random.fork_rng():
        regularizer = None if recipe.regularizer is None else SoftTriple(2, 2)
    subject = blank_subject(run, recipe, 2, regularizer)
    if name.startswith("transfer:"):
        _ = Run(_made_by(name, subject.threat)[1]).model
    else:
        one_attack(name, subject)


def _adaptive(subject: Subject) -> dict[str, Family]:
    metric, head = subject.regularizer, multi_prototype_head(subject.model)

    def build(threat: ThreatModel, *, steps: int = 100, restarts: int = 1) -> dict[str, Attack]:
        found: dict[str, Attack] = {}
        if isinstance(metric, SoftTriple):
            found |= adaptive_attacks(
                threat,
                metric.prototypes,
                metric.active,
                scale=metric.scale,
                gamma=metric.gamma,
                margin=metric.margin,
                projection=metric.project,
                steps=steps,
                restarts=restarts,
            )
        if head is not None:
            found |= adaptive_head_attacks(threat, head, steps=steps, restarts=restarts)
        return found

    def one(threat: ThreatModel, *, name: str, steps: int = 100, restarts: int = 1) -> Attack:
        return build(threat, steps=steps, restarts=restarts)[name]

    return {name: partial(one, name=name) for name in build(subject.threat)}


def _expanded(name: str, subject: Subject, adaptive: dict[str, Family]) -> list[str]:
    """One name, or those that ``adaptive`` stands for."""
    if not name.startswith("adaptive"):
        return [name]
    numbers = name.removeprefix("adaptive")
    if not adaptive and numbers.startswith("-"):
        raise UserError(_without_prototypes(name, subject))
    if not adaptive:
        logger.warning("%s; it is left out", _without_prototypes(name, subject))
    return [name] if numbers.startswith("-") else [f"{each}{numbers}" for each in adaptive]


def _without_prototypes(name: str, subject: Subject) -> str:
    return f"attack {name!r} needs prototypes, and {subject.name} has none, of SoftTriple or of a head"


def _attack(name: str, subject: Subject, adaptive: dict[str, Family]) -> tuple[str, Attack | None]:
    attack: Attack | None
    if name.startswith("transfer:"):
        attack = _transfer(name, subject)
    elif "{" in name or "." in re.split("[/@]", name)[0]:
        if "{" not in name and set(name) & set("/@"):
            raise UserError(
                f"attack {name!r}: a class takes no numbers in its name; write its arguments as YAML, such as "
                "'{class_path: PGD, init_args: {steps: 20}}'"
            )
        parser = Parser()
        parser.add_argument("--attack", type=Callable[[ThreatModel], Attack])
        attack = parser.instantiate(parser.parse_args(["--attack", name])).attack(subject.threat)
        name = type(attack).__name__
    else:
        attack = attack_of_name(name, subject.threat, more=adaptive)
    if isinstance(attack, AutoAttack):
        name = "".join([attack.version(subject.data.num_classes), *name.partition("@")[1:]])
    return name, attack


def _transfer(name: str, subject: Subject) -> Transfer:
    attack, folder = _made_by(name, subject.threat)
    run = surrogate_run(folder, subject)
    weights = run.weights()
    return Transfer(attack, run.model, name=f"{folder}, {weights.path.name} {weights.sha256[:12]}")


def _made_by(name: str, threat: ThreatModel) -> tuple[Attack, str]:
    """Which attack on which run makes the images of a transfer."""
    rest = name.removeprefix("transfer:")
    made_by, colon, folder = rest.partition(":")
    if not colon or is_elsewhere(rest):  # the colon of zoo: or hf: is the run's own
        made_by, folder = "pgd50", rest
    else:
        rule, colon, run = folder.partition(":")
        if colon and rule.partition("@")[0] in get_args(TargetRule):
            made_by, folder = f"{made_by}:{rule}", run
    attack = attack_of_name(made_by, threat)
    if attack is None:
        raise UserError(f"attack {name!r} transfers clean images; write transfer:RUN, or transfer:pgd50:RUN")
    return attack, folder


def surrogate_run(folder: Path | str, subject: Subject) -> Run:
    """Another run, whose model is to transfer from.

    Raises:
        ValueError: see `Run.classifier`; or it was trained on other classes or images.
    """
    run = Run(folder)
    run.check()
    _ = run.model  # what names foreign code, or has no weights, is refused first
    for what, there, here in (
        ("classes", run.fact("class_names"), list(subject.data.class_names)),
        ("images of shape", run.fact("shape"), list(subject.data.shape)),
    ):
        if there != here:
            raise UserError(f"{folder} was trained on {what} {there}, and the data has {here}; nothing can transfer")
    return run
