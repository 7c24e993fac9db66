"""What `import protoat` gives: every public name of the sub-packages, on first use, without torch until then."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

import protoat

STUB = Path(protoat.__file__).with_name("__init__.pyi")
FLAT = [name for name in protoat._PACKAGES if name not in ("functional", "plots")]


@pytest.mark.parametrize("package", FLAT)
def test_every_public_name_of_a_package_is_at_the_door(package: str) -> None:
    module = import_module(f"protoat.{package}")
    for name in module.__all__:
        assert name in protoat.__all__, f"give {name} a place in protoat/__init__.py"
        assert getattr(protoat, name) is getattr(module, name)


def test_every_name_is_there_and_hides_no_module() -> None:
    modules = {path.stem for path in Path(protoat.__file__).parent.iterdir()} - set(protoat._PACKAGES)
    for name in protoat.__all__:
        assert getattr(protoat, name) is not None
        assert name not in modules, f"protoat.{name} is a module and a name of its front door"
    assert dir(protoat) == protoat.__all__
    with pytest.raises(AttributeError, match="module 'protoat' has no attribute 'PDG'"):
        protoat.PDG  # noqa: B018


def test_the_stub_names_the_same() -> None:
    told: set[str] = set()
    for node in ast.parse(STUB.read_text()).body:
        assert isinstance(node, ast.ImportFrom)
        names = {alias.name for alias in node.names}
        assert all(alias.asname in (None, alias.name) for alias in node.names)
        told |= set(import_module(str(node.module)).__all__) if names == {"*"} else names
    assert told == set(protoat.__all__)


@pytest.mark.parametrize("program", ["import protoat; dir(protoat)", "from protoat.cli import main; main(['--help'])"])
def test_nothing_loads_torch_before_it_is_needed(program: str) -> None:
    watch = "import atexit, sys; atexit.register(lambda: print('loaded', 'torch' in sys.modules)); "
    run = subprocess.run([sys.executable, "-c", watch + program], capture_output=True, text=True, check=True)
    assert re.search(r"^loaded False$", run.stdout, re.MULTILINE)
