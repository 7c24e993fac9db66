"""The paper's Figure 2: the framework, drawn from the objects of a recipe."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch

from protoat.attacks import Attack
from protoat.errors import UserError
from protoat.functional.forward import output_of
from protoat.methods import Method
from protoat.plots.plot import Plot, styled
from protoat.plots.style import SOFT, TEXT, colour, label, names
from protoat.recipes.recipe import Recipe
from protoat.regularizers import Regularizer, SoftTriple
from protoat.runs.images import load_images
from protoat.runs.network import build_network
from protoat.runs.run import Run

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_MOST_CLASSES, _MOST_MODES = 3, 6
_CHARACTERS = 33  # of a line in a box
_SHAPES = ("o", "s", "^")  # that stand for classes


class _Facts(NamedTuple):
    """What a recipe does not say but its data does."""

    class_names: Sequence[str]
    mode_names: Sequence[str]
    shape: tuple[int, int, int]


class _Glyph(NamedTuple):
    """The shape of a class in a box; hollow where it has no colour."""

    place: int
    x: int
    y: int
    colour: str = ""


class _Box(NamedTuple):
    """A part of the framework: where it stands, what it is, what its object says of itself, and shapes in it."""

    x: int
    y: int
    height: int
    title: str
    lines: Sequence[str]
    glyphs: Sequence[_Glyph] = ()


@styled
def framework(run: Path | str) -> Plot:
    """The framework as a run has it.

    Args:
        run: the folder, finished or not; neither weights nor data are needed.

    Raises:
        ValueError: a folder that is no run, or whose facts are not recorded.
    """
    stored = Run(run)
    if "class_names" not in stored.facts:
        raise UserError(f"{run} has no run.json that names its classes; train it again: protoat train")
    facts = _Facts(*(stored.fact(key) for key in ("class_names", "mode_names", "shape")))
    return _drawn(stored.recipe, facts, names([Path(run)])[0])


@styled
def framework_of_recipe(recipe: Recipe, name: str) -> Plot:
    """The framework that a recipe will have; reads the test images for the names of classes.

    Args:
        recipe: from `protoat.recipes.reading.read_recipe`.
        name: what it is called.

    Raises:
        DataNotFoundError: the data is not there.

    >>> from protoat.recipes.reading import read_recipe
    >>> drawn = framework_of_recipe(read_recipe("digits-2", ["--method.steps", "9"]), "mine")
    >>> "steps 9" in drawn.about[1], "SoftTriple" in drawn.about[1]
    (True, True)
    """
    data = load_images(recipe, "test")
    return _drawn(recipe, _Facts(data.class_names, data.mode_names, data.shape), name)


def _drawn(recipe: Recipe, facts: _Facts, name: str) -> Plot:
    classes = len(facts.class_names)
    with torch.random.fork_rng():
        channels, height, width = facts.shape
        model = build_network(recipe, classes, (channels, height, width)).eval()
        with torch.no_grad():
            embedding = output_of(model, torch.zeros(1, *facts.shape)).embedding.shape[1]
        regularizer = None if recipe.regularizer is None else recipe.regularizer(classes, embedding)
    method = recipe.method(recipe.threat)
    size = "x".join(map(str, facts.shape))
    images = [
        f"{recipe.data.name}, {size}",
        f"{classes} classes: {', '.join(facts.class_names)}",
        f"{len(facts.mode_names)} modes",
    ]
    parameters = sum(parameter.numel() for parameter in model.parameters())
    network = [f"{parameters:,} parameters", f"input {size}", f"embedding z, D = {embedding}"]
    kind = type(method)
    usual = (kind.loss, kind.losses) == (Method.loss, Method.losses)
    base_loss = "cross-entropy" if usual else f"as {kind.__name__} defines it"
    boxes = [
        _Box(10, 130, 190, "images", images, _glyphs(facts)),
        _Box(270, 130, 190, f"method: {kind.__name__}", list(_of_method(method))),
        _Box(530, 130, 190, f"network: {type(model).__name__}", network),
        _Box(790, 45, 100, "head", [f"{classes} logits", f"base loss: {base_loss}"]),
        _metric_box(recipe, regularizer),
    ]
    arrows = [(210, 225, 270, 225, "x, y"), (470, 225, 530, 225, _views(recipe, method))]
    arrows += [(730, 200, 790, 95, ""), *([] if regularizer is None else [(730, 250, 790, 320, "z")])]
    said = ". ".join(f"{box.title}: {'; '.join(box.lines)}" for box in boxes)
    plot = Plot(f"Framework of {label(name)}", ["A shape is a class, a colour a mode.", f"{said}."], size=(10.1, 5))
    axes = plot.subplots()
    axes.set(xlim=(0, 1010), ylim=(500, 30), aspect="equal")
    axes.set_axis_off()
    for box in boxes:
        _draw_box(axes, box)
    for x, y, end_x, end_y, words in arrows:
        axes.annotate(
            "", (end_x, end_y), (x, y), arrowprops={"arrowstyle": "-|>", "color": TEXT, "shrinkA": 0, "shrinkB": 0}
        )
        axes.text((x + end_x) / 2, (y + end_y) / 2 - 8, words, ha="center", size=8)
    axes.text(10, 490, _loss(recipe), size=10)
    return plot


def _of_method(method: Method) -> Iterator[str]:
    """What the adversary may do, and the numbers of the method and of its attack."""
    yield f"{method.threat.norm}, eps {method.threat.eps:.4g}"
    attack = getattr(method, "attack", None)
    own = {key: value for key, value in vars(method).items() if not key.startswith("_")}
    inner = attack.parameters() if isinstance(attack, Attack) else {}
    for key, value in {**own, **inner}.items():
        if (
            key not in ("norm", "eps", "seed", "training")
            and isinstance(value, int | float | str)
            and value not in ("", False)
        ):
            shown = f"{value:.4g}" if isinstance(value, float) else str(value).rpartition(".")[2]
            yield f"{key.replace('_', ' ')} {shown}"


def _views(recipe: Recipe, method: Method) -> str:
    if type(method).__name__ == "Standard":
        return "x"
    return {"adv": "x_adv", "clean": "x, x_adv", "both": "x, x_adv"}[recipe.dml_input]


def _metric_box(recipe: Recipe, regularizer: Regularizer | None) -> _Box:
    if regularizer is None:
        return _Box(790, 280, 90, "no regularizer", ["embeddings only feed the head"])
    lines = [f"sees {recipe.dml_input} embeddings"]
    glyphs: list[_Glyph] = []
    if isinstance(regularizer, SoftTriple):
        counts = regularizer.active.sum(1).tolist()
        each = str(counts[0]) if len(set(counts)) == 1 else "/".join(map(str, counts))
        lines.append(f"prototypes per class: {each}")
        threshold = regularizer.merge_threshold
        lines.append(f"merge nearer than {threshold:g}" if threshold else "never merge")
        lines.append(f"scale {regularizer.scale:g}, margin {regularizer.margin:g}")
        lines.append(f"gamma {regularizer.gamma:g}, tau {regularizer.tau:g}")
        glyphs = _prototypes(counts)
    return _Box(790, 225, 215, type(regularizer).__name__, lines, glyphs)


def _loss(recipe: Recipe) -> str:
    terms = ["loss = base"]
    if recipe.regularizer is not None:
        terms.append(f"{recipe.weight:g} · metric")
        if recipe.norm_weight:
            terms.append(f"{recipe.norm_weight:g} · norm of {recipe.norm}")
    return " + ".join(terms)


def _glyphs(facts: _Facts) -> list[_Glyph]:
    """A shape for each class in the colours of its modes, as far as there is room."""
    classes = min(len(facts.class_names), _MOST_CLASSES)
    modes = min(max(1, len(facts.mode_names) // len(facts.class_names)), _MOST_MODES)
    return [
        _Glyph(place, 25 + 28 * mode, 120 + 24 * place, colour(place * modes + mode))
        for place in range(classes)
        for mode in range(modes)
    ]


def _prototypes(counts: Sequence[int]) -> list[_Glyph]:
    """Hollow shapes, as many for each class as it has prototypes, as far as there is room."""
    return [
        _Glyph(place, 16 + 18 * turn, 145 + 22 * place)
        for place, count in enumerate(counts[:_MOST_CLASSES])
        for turn in range(min(count, 10))
    ]


def _draw_box(axes: Axes, box: _Box) -> None:
    from matplotlib.patches import FancyBboxPatch

    style: dict[str, Any] = {"boxstyle": "round,pad=0,rounding_size=6", "facecolor": "none", "edgecolor": SOFT}
    axes.add_patch(FancyBboxPatch((box.x, box.y), 200, box.height, **style))
    axes.text(box.x + 10, box.y + 22, box.title, size=9, weight="bold")
    for row, line in enumerate(box.lines[: (box.height - 40) // 20]):
        axes.text(box.x + 10, box.y + 45 + 20 * row, label(line, longest=_CHARACTERS), size=7.5)
    for glyph in box.glyphs:
        face: dict[str, Any] = {"markerfacecolor": glyph.colour or "none", "markeredgecolor": glyph.colour or TEXT}
        axes.plot(box.x + glyph.x, box.y + glyph.y, _SHAPES[glyph.place], markersize=6, **face)
