"""Read from the sources: imports go one way, files are short, no text becomes code, errors for users are of a class."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping
from functools import cache, lru_cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

import protoat

PACKAGE = Path(protoat.__file__).parent
SOURCES = sorted(PACKAGE.rglob("*.py"))
# Each may import from those before it; parts that stand together do not import each other.
LAYERS = [
    {"_version", "names", "reprs", "spelling"},
    {"errors"},
    {"arguments", "optional"},
    {"storage", "pixels"},
    {"types", "memory"},
    {"functional"},
    {"threats", "merging"},
    {"models", "attacks", "regularizers", "data"},
    {"methods", "modes", "weighting"},
    {"epochs"},
    {"objective"},
    {"training", "pretraining", "evaluation"},
    {"records"},
    {"recipes"},
    {"runs"},
    {"plots"},
    {"reports"},
    {"sharing", "estimator"},
    {"paper"},
    {"cli"},
]
RANK = {part: rank for rank, layer in enumerate(LAYERS) for part in layer}
# `protoat.fit` and its like: names of the package itself stand for the part they come from.
NAMES = {name: home.split(".")[1] for name, home in protoat._HOMES.items()} | {"__version__": "_version"}
# `Run.push` alone reaches upward, and only when it is called: a method is where users look for it.
UPWARD = {("runs", "protoat.sharing.push.push"), ("runs", "protoat.sharing.push.Pushed")}
FORBIDDEN_CALLS = {"eval", "exec", "compile", "__import__"}
FORBIDDEN_MODULES = {"pickle", "cPickle", "dill", "cloudpickle", "joblib", "shelve", "marshal"}


MODULES = {
    ".".join(("protoat", *path.relative_to(PACKAGE).with_suffix("").parts)).removesuffix(".__init__"): path
    for path in SOURCES
}
LONGEST = 300  # lines of a file


def part_of(path: Path) -> str:
    """Folder or module directly below the package."""
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


@lru_cache(maxsize=1)
def nodes(source: str) -> list[ast.AST]:
    """All that a module is made of, itself first."""
    return list(ast.walk(ast.parse(source)))


def imports(source: str) -> Iterator[tuple[int, str]]:
    """Every import, also inside functions, and every use of the package's own names, with its line, as dotted names."""
    for node in nodes(source):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"line {node.lineno}: write the import from protoat in full"
            yield from ((node.lineno, f"{node.module}.{alias.name}") for alias in node.names)
        elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "protoat":
            yield node.lineno, f"protoat.{node.attr}"


def wrong_imports(source: str, own: str) -> list[str]:
    """What a source of part `own` imports against the direction."""
    wrong = []
    for line, name in imports(source):
        package, _, rest = name.partition(".")
        if package != "protoat" or not rest:
            continue
        first = rest.split(".")[0]
        part = NAMES.get(first, first)
        assert part in RANK, f"line {line}: protoat.{first} has no place in the layers; give it one here"
        if part != own and RANK[part] >= RANK[own] and (own, name) not in UPWARD:
            wrong.append(f"line {line}: {own} imports {name}")
    return wrong


def at_once(tree: ast.AST) -> Iterator[ast.AST]:
    """What runs when a module is imported: neither the insides of functions nor what is for type checkers alone."""
    for node in ast.iter_child_nodes(tree):
        for_types = isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda) and not for_types:
            yield node
            yield from at_once(node)


def imported(own: str, source: str) -> set[str]:
    """The modules of the package that a module imports when it is imported."""
    names = {
        f"{node.module}.{alias.name}"
        for node in at_once(nodes(source)[0])
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    return {name if name in MODULES else name.rpartition(".")[0] for name in names} & MODULES.keys() - {own, "protoat"}


@cache
def defined(source: str) -> set[str]:
    """Names that a module gives to something itself, rather than by an import."""
    every = nodes(source)
    named = {node.name for node in every if isinstance(node, ast.FunctionDef | ast.ClassDef)}
    return named | {node.id for node in every if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)}


def cycle(imports_of: Mapping[str, set[str]]) -> list[str]:
    """Modules that import each other in a circle; none where there is no circle."""
    try:
        TopologicalSorter(imports_of).prepare()
    except CycleError as error:
        return list(error.args[1])
    return []


def code_from_text(source: str) -> list[str]:
    """Calls and imports that turn text or files into code, and `torch.load` that may."""
    found = []
    for line, name in imports(source):
        if name.split(".")[0] in FORBIDDEN_MODULES:
            found.append(f"line {line}: import of {name}")
    for node in nodes(source):
        if not isinstance(node, ast.Call):
            continue
        called = ast.unparse(node.func)
        safe = any(k.arg == "weights_only" and ast.unparse(k.value) == "True" for k in node.keywords)
        if called in FORBIDDEN_CALLS or (called in ("torch.load", "load_state_dict_from_url") and not safe):
            found.append(f"line {node.lineno}: {called}(...)")
    return found


def plain_value_errors(source: str) -> list[str]:
    """Errors that the command line would take for a defect of the program."""
    calls = [node for node in nodes(source) if isinstance(node, ast.Call)]
    plain = [node for node in calls if ast.unparse(node.func) in ("ValueError", "FileNotFoundError")]
    return [
        f"line {node.lineno}: raise protoat.errors.UserError in place of {ast.unparse(node.func)}" for node in plain
    ]


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_each_file_keeps_to_these_rules(path: Path) -> None:
    source = path.read_text()
    if path.parent != PACKAGE or path.stem not in ("__init__", "__main__"):  # the front door names every part
        assert wrong_imports(source, part_of(path)) == []
    assert code_from_text(source) == []
    assert plain_value_errors(source) == []


def test_no_modules_import_each_other_in_a_circle() -> None:
    assert cycle({name: imported(name, path.read_text()) for name, path in MODULES.items()}) == []


def test_names_are_imported_from_the_module_that_has_them() -> None:
    wrong = []
    for path in SOURCES:
        for node in nodes(path.read_text()):
            home = MODULES.get(str(node.module)) if isinstance(node, ast.ImportFrom) else None
            if isinstance(node, ast.ImportFrom) and home is not None and home.name != "__init__.py":
                wrong += [
                    f"{path}: {alias.name}" for alias in node.names if alias.name not in defined(home.read_text())
                ]
    assert wrong == []


def test_packages_alone_list_what_they_export() -> None:
    lists = {str(path.relative_to(PACKAGE)) for path in SOURCES if "\n__all__ = " in path.read_text()}
    # Of losses the list says which a recipe may name.
    assert {name for name in lists if not name.endswith("__init__.py")} == {"functional/losses.py"}


def test_no_file_is_long() -> None:
    lengths = {str(path.relative_to(PACKAGE)): len(path.read_text().splitlines()) for path in SOURCES}
    assert {name: lines for name, lines in lengths.items() if lines > LONGEST} == {}


@pytest.mark.parametrize(
    ("own", "line"),
    [
        ("functional", "from protoat.attacks import PGD"),
        ("models", "import protoat.attacks.base"),
        ("attacks", "from protoat import data"),
        ("methods", "from protoat import fit"),
        ("training", "def late():\n    from protoat.runs.train import train"),
        ("data", "from protoat.models import LeNet"),
        ("data", "import protoat\nprotoat.fit()"),
        ("reports", "from protoat.paper.rows import Row"),
    ],
)
def test_a_wrong_import_is_seen(own: str, line: str) -> None:
    assert len(wrong_imports(line, own)) == 1


def test_a_circle_is_seen() -> None:
    later = "def late():\n    from protoat.epochs import Epoch"
    types = "if TYPE_CHECKING:\n    from protoat.epochs import Epoch"
    assert imported("protoat.objective", f"{later}\n{types}") == set()
    assert imported("protoat.objective", "from protoat.epochs import Epoch") == {"protoat.epochs"}
    assert set(cycle({"a": {"b"}, "b": {"c"}, "c": {"a"}})) == {"a", "b", "c"}


@pytest.mark.parametrize(
    "line",
    [
        "eval('1')",
        "exec(x)",
        "torch.load(f)",
        "torch.load(f, weights_only=False)",
        "import pickle",
        "from dill import loads",
    ],
)
def test_code_from_text_is_seen(line: str) -> None:
    assert len(code_from_text(line)) == 1


@pytest.mark.parametrize("line", ["raise ValueError('x')", "raise FileNotFoundError(path) from None"])
def test_a_plain_value_error_is_seen(line: str) -> None:
    assert len(plain_value_errors(line)) == 1


def test_what_is_allowed_passes() -> None:
    assert wrong_imports("import torch\nfrom protoat.attacks import PGD\nfrom protoat import Linf", "methods") == []
    assert code_from_text("model.eval()\nre.compile('x')\ntorch.load(f, weights_only=True)") == []
    assert plain_value_errors("try:\n    f()\nexcept ValueError as error:\n    raise UserError(error) from error") == []
