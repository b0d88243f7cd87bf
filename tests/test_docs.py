"""Code that a page shows is a file in examples/, so that it runs and cannot go stale."""

from __future__ import annotations

import ast
import re
import runpy
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from textwrap import dedent

import pytest

import llmpipe
from llmpipe import errors
from llmpipe.pipeline.registry import BUILT_IN

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
EXAMPLES = ROOT / "examples"

FENCE = re.compile(
    r"^(?P<fence>`{3,}|:{3,}|~{3,})(?P<info>[^\n`]*)\n(?P<body>.*?)^(?P=fence) *$", re.MULTILINE | re.DOTALL
)
PYTHON = re.compile(r"\b(?:python|py|pycon|python3)\b")
OPTION = re.compile(r"^:(?P<name>[a-z-]+): *(?P<value>.*)$", re.MULTILINE)


def pages() -> Iterator[Path]:
    """The pages that are written, not those that are made."""
    return (page for page in sorted(DOCS.rglob("*.md")) if not {"_build", "modules"} & set(page.parts))


def blocks(page: Path) -> Iterator[tuple[str, str, str]]:
    """Each fenced block of a page: where it is, what is written behind the fence, and its body."""
    text = page.read_text()
    for block in FENCE.finditer(text):
        line = text.count("\n", 0, block.start()) + 1
        yield f"{page.relative_to(ROOT)}:{line}", block["info"].strip(), block["body"]


def test_python_on_a_page_is_included_from_examples():
    loose = [
        where
        for page in pages()
        for where, info, _ in blocks(page)
        if PYTHON.search(info) and not info.startswith("{literalinclude}")
    ]
    assert not loose, "not from a file; use ```{literalinclude} ../examples/…```: " + ", ".join(loose)


def test_every_include_finds_its_file_and_its_part():
    wrong = []
    for page in pages():
        for where, info, body in blocks(page):
            if not info.startswith("{literalinclude}"):
                continue
            target = (page.parent / info.removeprefix("{literalinclude}").strip()).resolve()
            if not target.is_relative_to(ROOT):
                wrong.append(f"{where}: {target.name} lies outside the project")
            elif target.suffix == ".py" and not target.is_relative_to(EXAMPLES):
                wrong.append(f"{where}: {target.relative_to(ROOT)} is not in examples/")
            elif not target.is_file():
                wrong.append(f"{where}: no file {target.relative_to(ROOT)}")
            else:
                wrong += [f"{where}: {problem}" for problem in _missing(body, target.read_text())]
    assert not wrong, "\n".join(wrong)


def _missing(options: str, text: str) -> Iterator[str]:
    for option in OPTION.finditer(options):
        name, value = option["name"], option["value"].strip().strip("\"'")
        if name in ("start-after", "end-before", "start-at", "end-at") and value not in text:
            yield f"no {value!r} in the file"
        if name == "lines":
            yield "`lines` goes stale when the file changes; use start-after and end-before"


def test_python_in_the_readme_stands_in_an_example():
    """Where a README is read, nothing is included; so its code is compared instead."""
    examples = [dedent(path.read_text()) for path in EXAMPLES.rglob("*.py")]
    lost = [
        where
        for where, info, body in blocks(ROOT / "README.md")
        if PYTHON.search(info) and not any(body.strip() in example for example in examples)
    ]
    assert not lost, "not in any file of examples/: " + ", ".join(lost)


def test_links_between_pages_lead_somewhere():
    link = re.compile(r"\]\((?!https?:|mailto:|#)(?P<target>[^)#\s]+)(?:#[^)]*)?\)")
    broken = [
        f"{page.relative_to(ROOT)}: {found['target']}"
        for page in (*pages(), *ROOT.glob("*.md"), *ROOT.glob("plugins/*/README.md"))
        for found in link.finditer(page.read_text())
        if not (page.parent / found["target"]).exists()
    ]
    assert not broken, "\n".join(broken)


# -- what is made from the code

TABLES = runpy.run_path(str(DOCS / "tables.py"))


def test_the_tree_of_errors_is_drawn_as_it_is():
    """Each line of the drawing is indented by four characters for each ancestor."""
    drawn, path = {}, [""]
    for line in TABLES["error_tree"]().splitlines()[1:-2]:  # without the fences, and ConfigError
        branch, name = re.match(r"([│├└─ ]*)(\w+)", line).groups()
        path[len(branch) // 4 :] = [name]
        drawn[name] = path[-2] if len(path) > 1 else "Exception"
    own = [kind for kind in TABLES["error_types"]() if kind.__module__ == errors.__name__]
    assert drawn == {kind.__name__: kind.__base__.__name__ for kind in own}


def test_the_table_of_errors_has_every_error_of_the_tree():
    table = TABLES["error_table"]()
    assert all(f"| `{name}` |" in table for name in errors.__all__ if name != "ConfigError")
    assert "| `Overloaded` | `SERVICE_UNAVAILABLE` | 503 | yes | failure | any | yes | no | no |" in table


def written_notes() -> Iterator[tuple[str, str]]:
    """The kinds of the notes that middlewares write, with the module; `{}` stands for what is filled in."""
    for path in sorted((ROOT / "llmpipe" / "middleware").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if (
                isinstance(node, ast.Call)
                and isinstance(node.func, ast.Attribute)
                and node.func.attr == "note"
            ):
                kind = node.args[0]
                if isinstance(kind, ast.JoinedStr):
                    parts = [p.value if isinstance(p, ast.Constant) else "{}" for p in kind.values]
                    yield path.name, "".join(map(str, parts))
                elif isinstance(kind, ast.Constant):
                    yield path.name, str(kind.value)


def test_every_note_that_a_middleware_writes_is_in_the_table():
    listed = {kind for rows in TABLES["note_kinds"]().values() for kind, _ in rows}
    missing = [
        f"{where}: {kind}"
        for where, kind in written_notes()
        if not any(re.fullmatch(re.escape(kind).replace(r"\{\}", r"\w+"), known) for known in listed)
    ]
    assert not missing, "not in the table of the module's docstring: " + ", ".join(missing)


def test_every_finding_of_lint_is_explained():
    source = (ROOT / "llmpipe" / "pipeline" / "lint.py").read_text()
    codes = set(re.findall(r'"([a-z]+(?:-[a-z]+)+)"', source))
    told = (DOCS / "explanation" / "ordering.md").read_text()
    assert len(codes) >= 8
    assert not {code for code in codes if f"`{code}`" not in told}


# -- the page of each middleware

HEADINGS = [
    "What it does",
    "Use",
    "Defaults",
    "Errors and notes",
    "Where it goes in the order",
    "When not to use it",
]


@pytest.mark.parametrize("name", sorted(BUILT_IN))
def test_a_middleware_has_a_page_with_the_usual_headings_and_its_example(name: str):
    text = (DOCS / "middleware" / f"{name}.md").read_text()
    assert re.findall(r"^## (.+?) *$", text, re.MULTILINE) == HEADINGS
    assert f"examples/middleware/{name}" in text
    assert list((EXAMPLES / "middleware").glob(f"{name}*.py"))


def test_every_page_can_be_found():
    """A page is named, or caught by a pattern, in a table of contents."""
    listed = set()
    for page in pages():
        for _, info, body in blocks(page):
            if info == "{toctree}":
                entries = [line.strip() for line in body.splitlines() if line.strip() and line[0] != ":"]
                listed |= {found for entry in entries for found in page.parent.glob(f"{entry}.md")}
    lost = [str(page.relative_to(ROOT)) for page in pages() if page not in listed | {DOCS / "index.md"}]
    assert not lost, "in no table of contents: " + ", ".join(lost)


def test_every_name_of_the_package_has_its_group():
    homes = {**llmpipe._MODULES, **llmpipe._MODULE_OF}
    groups = [pattern for _, pattern in TABLES["FACE"]]
    for name in llmpipe.__all__:
        assert any(re.match(pattern, homes[name]) for pattern in groups), name


def test_no_page_skips_a_level_of_headings():
    for page in sorted(DOCS.rglob("*.md")):
        text = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
        levels = [len(found) for found in re.findall(r"^(#+) ", text, re.MULTILINE)]
        assert levels[0] == 1, page
        assert all(next_ <= level + 1 for level, next_ in pairwise(levels)), page
