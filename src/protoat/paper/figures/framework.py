"""The paper's Figure 2: the framework, drawn from the objects of a recipe."""

from __future__ import annotations

import html
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from torch import nn

from protoat.attacks import Attack
from protoat.errors import UserError
from protoat.functional.forward import output_of
from protoat.methods import Method
from protoat.plots.style import colour, names
from protoat.recipes.recipe import Recipe
from protoat.regularizers import Regularizer, SoftTriple
from protoat.runs.images import load_images
from protoat.runs.network import build_network
from protoat.runs.run import Run

__all__ = ["framework", "framework_of_recipe"]

_MOST_CLASSES, _MOST_MODES = 3, 6
_CHARACTERS = 33  # of a line in a box
# Corners of the shape that stands for a class, around (0, 0); the first class is a circle.
_SHAPES = ("", "-5,-5 5,-5 5,5 -5,5", "0,-7 6,5 -6,5")


class _Facts(NamedTuple):
    """What a recipe does not say but its data does."""

    class_names: Sequence[str]
    mode_names: Sequence[str]
    shape: tuple[int, int, int]


class _Box(NamedTuple):
    """A part of the framework: where it stands, what it is, what its object says of itself."""

    x: int
    y: int
    height: int
    title: str
    lines: Sequence[str]
    inside: str = ""


def framework(run: Path | str) -> str:
    """The framework as a run has it, an HTML fragment with one SVG.

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


def framework_of_recipe(recipe: Recipe, name: str) -> str:
    """The framework that a recipe will have; reads the test images for the names of classes.

    Args:
        recipe: from `protoat.recipes.recipe.read_recipe`.
        name: what it is called.

    Raises:
        DataNotFoundError: the data is not there.

    >>> from protoat.recipes.reading import read_recipe
    >>> drawn = framework_of_recipe(read_recipe("digits-2", ["--method.steps", "9"]), "mine")
    >>> "steps 9" in drawn, "SoftTriple" in drawn
    (True, True)
    """
    data = load_images(recipe, "test")
    return _drawn(recipe, _Facts(data.class_names, data.mode_names, data.shape), name)


def _drawn(recipe: Recipe, facts: _Facts, name: str) -> str:
    classes = len(facts.class_names)
    with torch.random.fork_rng():
        channels, height, width = facts.shape
        model = build_network(recipe, classes, (channels, height, width)).eval()
        with torch.no_grad():
            embedding = output_of(model, torch.zeros(1, *facts.shape)).embedding.shape[1]
        regularizer = None if recipe.regularizer is None else recipe.regularizer(classes, embedding)
    method = recipe.method(recipe.threat)
    boxes = [
        _Box(10, 130, 190, "images", _of_data(recipe, facts), _glyphs(facts)),
        _Box(270, 130, 190, f"method: {type(method).__name__}", list(_of_method(method))),
        _Box(530, 130, 190, f"network: {type(model).__name__}", _of_model(model, facts, embedding)),
        _Box(790, 45, 100, "head", [f"{classes} logits", f"base loss: {_base_loss(method)}"]),
        _metric_box(recipe, regularizer),
    ]
    arrows = [(210, 225, 270, 225, "x, y"), (470, 225, 530, 225, _views(recipe, method))]
    arrows += [(730, 200, 790, 95, ""), *([] if regularizer is None else [(730, 250, 790, 320, "z")])]
    title = html.escape(f"Framework of {name}")
    text = html.escape(". ".join(f"{box.title}: {'; '.join(box.lines)}" for box in boxes) + f". {_loss(recipe)}.")
    return (
        '<figure class="protoat-framework" style="margin:0;overflow-x:auto"><svg viewBox="0 0 1010 500" role="img" '
        f'aria-label="{title}" style="width:100%;min-width:720px;font-family:sans-serif" fill="currentColor">'
        f'<defs><marker id="protoat-arrow" viewBox="0 0 8 8" refX="8" refY="4" markerWidth="8" markerHeight="8" '
        f'orient="auto"><path d="M0,0 L8,4 L0,8 z"/></marker></defs>'
        f"{''.join(map(_box, boxes))}{''.join(map(_arrow, arrows))}"
        f'<text x="10" y="490" font-size="15">{html.escape(_loss(recipe))}</text></svg>'
        f"<figcaption>{title}. A shape is a class, a colour a mode. {text}</figcaption></figure>"
    )


def _of_data(recipe: Recipe, facts: _Facts) -> list[str]:
    size = "x".join(map(str, facts.shape))
    return [
        f"{recipe.data.name}, {size}",
        f"{len(facts.class_names)} classes: {', '.join(facts.class_names)}",
        f"{len(facts.mode_names)} modes",
    ]


def _of_method(method: Method) -> Iterator[str]:
    """What the adversary may do, and the numbers of the method and of its attack."""
    yield f"{method.threat.norm}, eps {method.threat.eps:.4g}"
    attack = getattr(method, "attack", None)
    own = {key: value for key, value in vars(method).items() if not key.startswith("_")}
    inner = attack.parameters() if isinstance(attack, Attack) else {}
    for key, value in {**own, **inner}.items():
        if key not in ("norm", "eps", "seed") and isinstance(value, int | float | str) and value not in ("", False):
            shown = f"{value:.4g}" if isinstance(value, float) else str(value).rpartition(".")[2]
            yield f"{key.replace('_', ' ')} {shown}"


def _of_model(model: nn.Module, facts: _Facts, embedding: int) -> list[str]:
    size = sum(parameter.numel() for parameter in model.parameters())
    return [f"{size:,} parameters", f"input {'x'.join(map(str, facts.shape))}", f"embedding z, D = {embedding}"]


def _base_loss(method: Method) -> str:
    kind = type(method)
    usual = (kind.loss, kind.losses) == (Method.loss, Method.losses)
    return "cross-entropy" if usual else f"as {kind.__name__} defines it"


def _views(recipe: Recipe, method: Method) -> str:
    if type(method).__name__ == "Standard":
        return "x"
    return {"adv": "x_adv", "clean": "x, x_adv", "both": "x, x_adv"}[recipe.dml_input]


def _metric_box(recipe: Recipe, regularizer: Regularizer | None) -> _Box:
    if regularizer is None:
        return _Box(790, 280, 90, "no regularizer", ["embeddings only feed the head"])
    lines = [f"sees {recipe.dml_input} embeddings"]
    inside = ""
    if isinstance(regularizer, SoftTriple):
        counts = regularizer.active.sum(1).tolist()
        each = str(counts[0]) if len(set(counts)) == 1 else "/".join(map(str, counts))
        lines.append(f"prototypes per class: {each}")
        threshold = regularizer.merge_threshold
        lines.append(f"merge nearer than {threshold:g}" if threshold else "never merge")
        lines.append(f"scale {regularizer.scale:g}, margin {regularizer.margin:g}")
        lines.append(f"gamma {regularizer.gamma:g}, tau {regularizer.tau:g}")
        inside = _prototypes(counts)
    return _Box(790, 225, 215, type(regularizer).__name__, lines, inside)


def _loss(recipe: Recipe) -> str:
    terms = ["loss = base"]
    if recipe.regularizer is not None:
        terms.append(f"{recipe.weight:g} · metric")
        if recipe.norm_weight:
            terms.append(f"{recipe.norm_weight:g} · norm of {recipe.norm}")
    return " + ".join(terms)


def _glyphs(facts: _Facts) -> str:
    """A shape for each class in the colours of its modes, as far as there is room."""
    classes = min(len(facts.class_names), _MOST_CLASSES)
    modes = min(max(1, len(facts.mode_names) // len(facts.class_names)), _MOST_MODES)
    return "".join(
        _glyph(place, 25 + 28 * mode, 120 + 24 * place, f'fill="{colour(place * modes + mode)}"')
        for place in range(classes)
        for mode in range(modes)
    )


def _prototypes(counts: Sequence[int]) -> str:
    """Hollow shapes, as many for each class as it has prototypes, as far as there is room."""
    return "".join(
        _glyph(place, 16 + 18 * turn, 145 + 22 * place, 'fill="none" stroke="currentColor" stroke-width="1.5"')
        for place, count in enumerate(counts[:_MOST_CLASSES])
        for turn in range(min(count, 10))
    )


def _glyph(place: int, x: int, y: int, style: str) -> str:
    shape = f'<polygon points="{_SHAPES[place]}" {style}/>' if _SHAPES[place] else f'<circle r="6" {style}/>'
    return f'<g transform="translate({x},{y})">{shape}</g>'


def _box(box: _Box) -> str:
    lines = "".join(
        f'<text x="10" y="{45 + 20 * row}" font-size="12">{html.escape(_cut(line))}</text>'
        for row, line in enumerate(box.lines[: (box.height - 40) // 20])
    )
    return (
        f'<g transform="translate({box.x},{box.y})"><rect width="200" height="{box.height}" rx="6" fill="none" '
        f'stroke="currentColor"/><text x="10" y="22" font-size="15" font-weight="bold">{html.escape(box.title)}</text>'
        f"{lines}{box.inside}</g>"
    )


def _arrow(arrow: tuple[int, int, int, int, str]) -> str:
    x1, y1, x2, y2, words = arrow
    return (
        f'<line x1="{x1}" y1="{y1}" x2="{x2}" y2="{y2}" stroke="currentColor" marker-end="url(#protoat-arrow)"/>'
        f'<text x="{(x1 + x2) // 2}" y="{(y1 + y2) // 2 - 8}" font-size="12" text-anchor="middle">'
        f"{html.escape(words)}</text>"
    )


def _cut(line: str) -> str:
    return line if len(line) <= _CHARACTERS else line[: _CHARACTERS - 1] + "…"
