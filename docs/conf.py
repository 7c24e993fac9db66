"""The documentation site: ``make docs`` builds it into docs/_build/html."""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path
from typing import Any

from pygments.lexers.shell import BashLexer
from sphinx.application import Sphinx
from sphinx.highlighting import lexers

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from protoat import Attack, __version__  # noqa: E402
from tools.docs_site.links import in_site, write_project_pages  # noqa: E402
from tools.docs_site.reference import constructor, write_reference  # noqa: E402

project = "protoat"
author = "the authors of protoat"
copyright = author
release = version = __version__

extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
    "sphinx_copybutton",
    "sphinx_gallery.gen_gallery",
]
exclude_patterns = ["_build", "gallery/*.ipynb", "gallery/*.py", "gallery/*.zip", "gallery/sg_execution_times.rst"]
default_role = "py:obj"  # docstrings name objects in single backticks
lexers["console"] = BashLexer()  # commands without prompts

myst_heading_anchors = 3
myst_enable_extensions = ["colon_fence", "attrs_block"]
nb_execution_mode = "cache"
nb_execution_raise_on_error = True
nb_execution_timeout = 120
nb_output_stderr = "remove"  # such as notes of progress bars, with paths of the machine

autodoc_typehints = "description"
autodoc_typehints_description_target = "documented_params"
autodoc_member_order = "bysource"
autosummary_generate = False
napoleon_use_ivar = True
napoleon_use_rtype = False
napoleon_custom_sections = ["Deviation"]

# `tests/test_examples.py` runs the scripts; the gallery runs them only where their output shall be shown.
sphinx_gallery_conf = {
    "examples_dirs": "../examples",
    "gallery_dirs": "gallery",
    "filename_pattern": r"\.py$",
    "plot_gallery": os.environ.get("GALLERY") == "run",
    "download_all_examples": False,
    "within_subsection_order": "FileNameSortKey",
    "show_memory": False,
    "write_computation_times": False,
}

html_theme = "furo"
html_title = f"protoat {release}"
html_show_sphinx = False
html_show_sourcelink = False
html_copy_source = False
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_js_files = [("site.js", {"defer": "defer"})]


def setup(app: Sphinx) -> None:
    """Pages that are written and links that change before Sphinx reads them."""
    write_reference(ROOT / "docs" / "api")
    write_project_pages(ROOT)
    app.connect("source-read", _links_in_site)
    app.connect("autodoc-skip-member", _not_ours)
    app.connect("autodoc-process-signature", _of_constructor)


def _links_in_site(app: Any, page: str, source: list[str]) -> None:
    file = Path(app.env.doc2path(page))
    if file.suffix == ".md" and file.parent == ROOT / "docs":
        source[0] = in_site(source[0], f"docs/{file.name}", file.name)


def _of_constructor(_app: Any, what: str, _name: str, value: Any, *_: Any) -> tuple[str, None] | None:
    """Attacks have a ``__new__`` that takes anything, to answer calls as of other libraries."""
    return (constructor(value), None) if what == "class" and issubclass(value, Attack) else None


def _not_ours(_app: Any, _what: str, name: str, *_: Any) -> bool | None:
    """Methods that scikit-learn writes into estimators refer to its own glossary."""
    return True if re.fullmatch(r"set_\w+_request", name) else None
