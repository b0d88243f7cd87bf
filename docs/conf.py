"""Sphinx's settings: Markdown pages, code included from examples/, reference from docstrings.

Nothing is fetched, neither while building nor while reading: the theme uses the reader's own fonts.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import pkgutil
import re
import runpy
import sys
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent))

import llmpipe  # noqa: E402  found through the line above

project = "llmpipe"
release = version = importlib.metadata.version("llmpipe")
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx.ext.viewcode"]
exclude_patterns = ["_build"]
suppress_warnings = ["ref.python"]  # two classes of one name, both meant by it in their own module

html_theme = "furo"
html_title = "llmpipe"
html_show_copyright = html_show_sphinx = False

myst_enable_extensions = ["colon_fence", "deflist"]
myst_heading_anchors = 3
default_role = "code"  # `name` in a docstring is code, as in Markdown

autodoc_default_options = {"members": True, "member-order": "bysource", "show-inheritance": True}
autodoc_typehints = "signature"
napoleon_use_ivar = True
python_maximum_signature_line_length = 90

DEPTH = 2  # llmpipe.middleware.retry is shown, the parts of a dialect are its own business
TABLES = runpy.run_path(str(HERE / "tables.py"))
NOT_SHOWN = {"llmpipe.testing.pytest_plugin"}  # hooks that only pytest calls


def write_reference(target: Path) -> None:
    """A page for each module that says what is public, in `target`.

    A module whose names its package offers as well has no page: each name has one home, the nearest to
    the root package. (The root offers names of all modules, so that does not count.)
    """
    target.mkdir(parents=True, exist_ok=True)
    public = {}
    for found in pkgutil.walk_packages(llmpipe.__path__, "llmpipe."):
        names = getattr(importlib.import_module(found.name), "__all__", ())
        if names and found.name not in NOT_SHOWN and found.name.count(".") <= DEPTH:
            public[found.name] = set(names)
    wanted = {}
    for name, names in public.items():
        offered = public.get(name.rpartition(".")[0], set())
        if not names <= offered:
            wanted[f"{name}.md"] = (
                f"# `{name}`\n\n```{{eval-rst}}\n.. automodule:: {name}\n"
                + (f"   :exclude-members: {', '.join(sorted(names & offered))}\n" if names & offered else "")
                + "```\n"
            )
    for stale in {page.name for page in target.glob("*.md")} - wanted.keys():
        (target / stale).unlink()
    for page, text in wanted.items():
        path = target / page
        if not path.exists() or path.read_text() != text:  # an untouched page is not built again
            path.write_text(text)


def leave_out_unwritten(app: Any, docname: str, source: list[str]) -> None:
    """Drop from a page's tables of contents what has no page yet, and a table that is then empty."""
    here = (HERE / docname).parent

    def kept(table: re.Match[str]) -> str:
        lines = table.group().splitlines(keepends=True)
        entries = [line for line in lines[1:-1] if line.strip() and not line.startswith(":")]
        written = [line for line in entries if any(here.glob(f"{line.strip()}.md"))]
        return "".join(line for line in lines if line not in entries or line in written) if written else ""

    source[0] = re.sub(r"^```\{toctree\}\n.*?^```\n", kept, source[0], flags=re.MULTILINE | re.DOTALL)


def fill_in_tables(app: Any, docname: str, source: list[str]) -> None:
    """Put what `tables.py` makes in the place of ``<!-- made: error_table -->``."""
    source[0] = re.sub(
        r"^<!-- made: (\w+) -->$", lambda made: TABLES[made[1]](), source[0], flags=re.MULTILINE
    )


def with_tables(*about: Any) -> list[str]:
    """Pages that are built each time, since what they show is in no page."""
    return ["reference/index", "reference/errors", "reference/notes", "reference/providers"]


def join_shared_entries(*about: Any) -> None:
    """`provider, model: whose failure it is` in a docstring is one entry for both names."""
    lines: list[str] = about[-1]
    for number, line in enumerate(lines):
        if shared := re.match(r"( {4,})(\w+(?:, \w+)+)(: .*)", line):
            lines[number] = shared[1] + shared[2].replace(", ", "/") + shared[3]


def setup(app: Any) -> None:
    """Called by Sphinx."""
    write_reference(HERE / "reference" / "modules")
    app.connect("source-read", fill_in_tables)
    app.connect("source-read", leave_out_unwritten)
    app.connect("env-get-outdated", with_tables)
    app.connect("autodoc-process-docstring", join_shared_entries, priority=400)  # before napoleon's 500
