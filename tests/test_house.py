"""The laws of the house that no linter knows. Each names what breaks it."""

from __future__ import annotations

import ast
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest
from importlinter.cli import EXIT_STATUS_SUCCESS, lint_imports

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "llmpipe"
MAX_FILE_LINES = 400
MAX_FUNCTION_LINES = 80


@cache
def parsed() -> dict[Path, ast.Module]:
    """Every module of the package and of the plugins, as a syntax tree."""
    files = [*PACKAGE.rglob("*.py"), *ROOT.glob("plugins/*/src/**/*.py")]
    return {path.relative_to(ROOT): ast.parse(path.read_text()) for path in sorted(files)}


def test_imports_point_down_and_in_no_circle(capsys, monkeypatch):
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr("logging.config.dictConfig", dict)  # it would switch off everybody else's loggers
    status = lint_imports(no_cache=True, no_logo=True)
    assert status == EXIT_STATUS_SUCCESS, capsys.readouterr().out


# -- public names


def _all_of(tree: ast.Module) -> ast.expr | None:
    for node in tree.body:
        if isinstance(node, ast.Assign) and any(
            isinstance(t, ast.Name) and t.id == "__all__" for t in node.targets
        ):
            return node.value
    return None


def test_every_public_module_says_what_is_public_in_a_sorted_tuple():
    wrong = []
    for path, tree in parsed().items():
        public = any(
            isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef)
            and not node.name.startswith("_")
            for node in tree.body
        )
        names = _all_of(tree)
        if names is None:
            if public and not any(part.startswith("_") and part != "__init__.py" for part in path.parts):
                wrong.append(f"{path}: no __all__")
            continue
        listed = ast.literal_eval(names)
        if not isinstance(listed, tuple):
            wrong.append(f"{path}: __all__ is a {type(listed).__name__}")
        elif list(listed) != sorted(listed):
            stray = next(name for name, right in zip(listed, sorted(listed), strict=True) if name != right)
            wrong.append(f"{path}: __all__ is not sorted from {stray!r} on")
        elif len(set(listed)) != len(listed):
            wrong.append(f"{path}: __all__ names something twice")
    assert not wrong, "\n".join(wrong)


def test_every_name_of_the_front_door_loads():
    import llmpipe

    missing = [name for name in llmpipe.__all__ if not hasattr(llmpipe, name)]
    assert not missing
    assert set(llmpipe.__all__) <= set(dir(llmpipe))


# -- importing


def _loaded_by(statement: str) -> tuple[set[str], float]:
    """Which modules `statement` loads in a fresh interpreter, and the CPU seconds it takes."""
    code = (
        "import sys, time; before = set(sys.modules); began = time.process_time()\n"
        f"{statement}\n"
        "spent = time.process_time() - began\n"
        "import json; print(json.dumps([sorted(set(sys.modules) - before), spent]))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    modules, seconds = json.loads(done.stdout)
    return set(modules), seconds


HEAVY = {
    "aiohttp",
    "anthropic",
    "matplotlib",
    "openai",
    "opentelemetry",
    "pydantic",
    "pytest",
    "rich",
    "sqlite3",
    "ssl",
}


def test_importing_the_package_loads_nothing_but_itself():
    modules, _ = _loaded_by("import llmpipe")
    assert {name for name in modules if name.startswith("llmpipe.")} == set()
    assert not modules & (HEAVY | {"asyncio", "attr", "cattrs", "orjson"})


def test_importing_the_pytest_plugin_loads_nothing_heavy():
    modules, _ = _loaded_by("import asyncio, pytest; import llmpipe.testing.pytest_plugin")
    ours = {name for name in modules if name.startswith("llmpipe.")}
    assert ours == {"llmpipe.testing", "llmpipe.testing.loop", "llmpipe.testing.pytest_plugin"}


def test_the_front_door_opens_without_http_and_without_extras():
    modules, _ = _loaded_by("from llmpipe import *")
    assert not modules & (HEAVY - {"ssl"})  # asyncio itself loads ssl


def test_importing_costs_little_beside_what_the_interpreter_costs():
    """CPU seconds, least of five in turn; a machine that is slow is slow for both."""
    ours = min(_loaded_by("import llmpipe")[1] for _ in range(5))
    theirs = min(_loaded_by("import asyncio")[1] for _ in range(5))
    assert ours < theirs, f"import llmpipe takes {ours:.4f} s, import asyncio {theirs:.4f} s"


# -- size


def test_no_file_is_long():
    lengths = {path: len((ROOT / path).read_text().splitlines()) for path in parsed()}
    long = {str(path): lines for path, lines in lengths.items() if lines > MAX_FILE_LINES}
    assert not long


def test_no_function_is_longer_than_a_screen():
    long = [
        f"{path}:{node.lineno} {node.name}: {lines} lines"
        for path, tree in parsed().items()
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        if (lines := (node.end_lineno or 0) - node.lineno + 1) > MAX_FUNCTION_LINES
    ]
    assert not long, "\n".join(long)


# -- what stands in files

BARE_NOQA = re.compile(r"# noqa(?:: *[A-Z]+\d+(?:, *[A-Z]+\d+)*)? *$")
BARE_IGNORE = re.compile(r"# type: ignore(?:\[[a-z, -]+\])? *(?:# noqa.*)?$")


def test_whoever_silences_a_checker_says_why():
    bare = [
        f"{path}:{number} {line.strip()}"
        for path in parsed()
        for number, line in enumerate((ROOT / path).read_text().splitlines(), 1)
        if BARE_NOQA.search(line) or BARE_IGNORE.search(line)
    ]
    assert not bare, "\n".join(bare)


FOREIGN = {
    "a package registry's host": re.compile(r"pypi\.org|pythonhosted\.org|registry\.npmjs|deb\.debian\.org"),
    "a path of somebody's machine": re.compile(
        r"(?:^|[^A-Za-z0-9_.])/(?:work|farm|root|home/\w+|Users/\w+)/"
    ),
}


def _files() -> Iterator[Path]:
    """What git knows or would add; where there is no git, such as in a source archive, everything."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    names = listed.stdout.split("\0") if listed.returncode == 0 else []
    paths = [ROOT / name for name in names if name] or [
        path
        for path in ROOT.rglob("*")
        if not any(part.startswith(".") for part in path.relative_to(ROOT).parts)
    ]
    return (path for path in paths if path.is_file())


@pytest.mark.parametrize("what", FOREIGN)
def test_no_file_names(what: str):
    found = []
    for path in _files():
        try:
            text = path.read_text()
        except UnicodeDecodeError:
            continue  # bytes: recorded traffic, pictures
        for number, line in enumerate(text.splitlines(), 1):
            if FOREIGN[what].search(line):
                found.append(f"{path.relative_to(ROOT)}:{number} {line.strip()[:100]}")
    assert not found, "\n".join(found)
