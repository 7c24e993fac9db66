"""Writes the pages of the API reference: the public names of ``protoat``, grouped as its packages are."""

from __future__ import annotations

import inspect
import pkgutil
import re
from collections import defaultdict
from importlib import import_module
from pathlib import Path

from sphinx.pycode import ModuleAnalyzer
from sphinx.util.inspect import signature, stringify_signature

import protoat

__all__ = ["constructor", "groups", "write_reference"]

# What a reader looks for first; a part that is not named here comes after these.
_FIRST = "threats attacks methods regularizers modes weighting objective training pretraining evaluation runs sharing"


def groups() -> dict[str, list[str]]:
    """The public names of each part of the package, the parts in the order of the reference.

    >>> groups()["modes"]
    ['DiscoveredModes', 'KnownModes', 'Modes']
    """
    found: dict[str, list[str]] = defaultdict(list)
    for name, home in vars(protoat)["_HOMES"].items():  # the stub has no place for it
        found[home.split(".")[1]].append(name)
    parts = [part for part in _FIRST.split() if part in found]
    return {part: sorted(found[part]) for part in [*parts, *sorted(found.keys() - set(parts))]}


def constructor(value: type) -> str:
    """The arguments of a class as its own ``__init__`` has them, whatever a ``__new__`` above it takes.

    >>> constructor(protoat.CornerNoise)
    "(threat, *, draws=100, batch_size=256, bn='eval', seed=0)"
    """
    return stringify_signature(signature(value.__init__, bound_method=True), show_annotation=False)  # type: ignore[misc]


def write_reference(folder: Path) -> None:
    """Writes a page for each part of the package, one for ``protoat.functional``, and their index."""
    folder.mkdir(exist_ok=True)
    pages = {part: _page(part, names) for part, names in groups().items()}
    pages["functional"] = _functional()
    pages["index"] = _index(list(pages))
    for stale in folder.glob("*.rst"):
        if stale.stem not in pages:
            stale.unlink()
    for name, text in pages.items():
        _write(folder / f"{name}.rst", text)


def _page(part: str, names: list[str]) -> str:
    about = inspect.getdoc(import_module(f"protoat.{part}")) or ""
    lines = [*_heading(part, "="), about, "", ".. currentmodule:: protoat", "", ".. autosummary::", ""]
    values = {name: getattr(protoat, name) for name in names}
    lines += [f"   {name}" for name, value in values.items() if inspect.isclass(value) or inspect.isroutine(value)]
    for name, value in values.items():
        if inspect.isclass(value):
            lines += ["", f".. autoclass:: {name}", "   :members:", "   :show-inheritance:"]
        elif inspect.isroutine(value):
            lines += ["", f".. autofunction:: {name}"]
        else:
            lines += ["", f".. data:: {name}", f"   :type: {_type_of(value)}", "", f"   {_comment(part, name)}"]
    return "\n".join(lines)


def _type_of(value: object) -> str:
    return type(value).__name__ if isinstance(value, dict) else re.sub(r"[a-z_]+\.", "", str(value))


def _comment(part: str, name: str) -> str:
    """What the comment ``#:`` above a value says, which its module alone has."""
    package = import_module(f"protoat.{part}")
    for module in pkgutil.iter_modules(package.__path__, f"{package.__name__}."):
        if comment := ModuleAnalyzer.for_module(module.name).find_attr_docs().get(("", name)):
            return " ".join(comment).strip()
    raise LookupError(f"write a comment that begins with '#:' above {name}")


def _functional() -> str:
    package = protoat.functional
    lines = [*_heading("functional", "="), inspect.getdoc(package) or "", ""]
    for module in pkgutil.iter_modules(package.__path__, f"{package.__name__}."):
        lines += [*_heading(module.name.rpartition(".")[2], "-"), f".. automodule:: {module.name}", "   :members:", ""]
    return "\n".join(lines)


def _index(pages: list[str]) -> str:
    about = "Every public name is one import away, ``import protoat as pa``; the pages follow the packages."
    return "\n".join([*_heading("Reference", "="), about, "", ".. toctree::", "", *(f"   {page}" for page in pages)])


def _heading(text: str, underline: str) -> list[str]:
    return [text, underline * len(text), ""]


def _write(file: Path, text: str) -> None:
    """Leaves a file as it is where nothing changed, so that Sphinx does not read it again."""
    if not file.exists() or file.read_text() != text:
        file.write_text(text)
