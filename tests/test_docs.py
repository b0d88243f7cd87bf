"""Code that a page shows is a file in examples/, so that it runs and cannot go stale."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from textwrap import dedent

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
EXAMPLES = ROOT / "examples"

FENCE = re.compile(
    r"^(?P<fence>`{3,}|:{3,}|~{3,})(?P<info>[^\n`]*)\n(?P<body>.*?)^(?P=fence) *$", re.MULTILINE | re.DOTALL
)
PYTHON = re.compile(r"\b(?:python|py|pycon|python3)\b")
OPTION = re.compile(r"^:(?P<name>[a-z-]+): *(?P<value>.*)$", re.MULTILINE)


def pages() -> Iterator[Path]:
    return (page for page in sorted(DOCS.rglob("*.md")) if "_build" not in page.parts)


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
