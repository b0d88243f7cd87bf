"""What the documentation says of the whole: small middlewares, each held to the laws, and a light import."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from pkgutil import walk_packages
from typing import Any

import pytest
from attrs import fields_dict, has

import llmpipe.middleware
from llmpipe.pipeline import registry
from llmpipe.testing.conform import conform
from tests.middleware import test_conform_builtin as held
from tests.testing.wrong_middlewares import WRONG

ROOT = Path(__file__).parents[2]
TUTORIAL = sorted((ROOT / "examples" / "tutorial").glob("*.py"))
MAX_LINES = 10


def middleware_on_page(path: Path) -> list[str]:
    """The lines of code that a tutorial page shows as a middleware, imports included; none for no page."""
    region = re.search(r"# region middleware\n(.*?)\n *# endregion middleware", path.read_text(), re.DOTALL)
    if region is None:
        return []
    return [line for line in region[1].splitlines() if line.strip() and not line.strip().startswith("#")]


SHOWN = {path.name: lines for path in TUTORIAL if (lines := middleware_on_page(path))}


@pytest.mark.parametrize("name", SHOWN)
def test_a_middleware_of_the_tutorial_has_ten_lines_at_most(name: str):
    assert len(SHOWN[name]) <= MAX_LINES
    # It is the whole of it: the tutorial includes this part, and nothing else makes it work.
    pages = "\n".join(page.read_text() for page in (ROOT / "docs" / "tutorial").glob("*.md"))
    assert f"examples/tutorial/{name}" in pages
    functions = [node for node in ast.walk(ast.parse("\n".join(SHOWN[name]))) if is_layer(node)]
    assert len(functions) == 1


def is_layer(node: ast.AST) -> bool:
    return isinstance(node, ast.AsyncFunctionDef) and [arg.arg for arg in node.args.args] == [
        "call",
        "call_next",
    ]


def test_the_tutorial_shows_both_forms_of_a_middleware():
    text = {name: "\n".join(lines) for name, lines in SHOWN.items()}
    assert len(text) >= 3
    assert any("return await call_next" in code for code in text.values())
    assert any("yield await call_next" in code for code in text.values())


@pytest.mark.parametrize("path", TUTORIAL, ids=lambda path: path.name)
def test_no_function_middleware_of_the_tutorial_is_longer_than_that(path: Path):
    """Those that stand inside other parts of a page, too; their decorator counts."""
    for node in ast.walk(ast.parse(path.read_text())):
        if is_layer(node) and isinstance(node, ast.AsyncFunctionDef) and node.decorator_list:
            assert (node.end_lineno or 0) - node.decorator_list[0].lineno + 1 <= MAX_LINES


# ------------------------------------------------------------ every middleware there is


def middlewares() -> dict[str, type[Any]]:
    """Every public class of the package that a chain takes: with a name, a priority and a call."""
    found = {}
    for module in walk_packages(llmpipe.middleware.__path__, "llmpipe.middleware."):
        loaded = import_module(module.name)
        for name in getattr(loaded, "__all__", ()):
            thing = getattr(loaded, name)
            if not (isinstance(thing, type) and has(thing) and "__call__" in vars(thing)):
                continue
            if {"name", "priority"} <= fields_dict(thing).keys():
                found[f"{thing.__module__}:{thing.__qualname__}"] = thing
    return found


def test_every_middleware_of_the_package_is_in_the_registry_and_held_to_the_laws():
    """One that is not registered, or not in the table of those that `conform` is run on, is named here."""
    found = middlewares()
    assert set(found) == set(registry.BUILT_IN.values())
    assert set(registry.BUILT_IN) <= set(held.MADE)
    for name in registry.BUILT_IN:
        made = held.MADE[name]()
        assert type(made) is registry.get(name)
        assert made.name == name


def test_at_least_eight_wrong_middlewares_are_caught_each_by_a_law():
    assert len(WRONG) >= 8
    assert len({make for _, make, _ in WRONG.values()}) == len(WRONG)
    assert len({law for law, _, _ in WRONG.values()}) >= 8


async def vectors(texts: Sequence[str]) -> list[list[float]]:
    """Of each text, how long it is, and how many words it has."""
    return [[float(len(text)), 1.0 + text.count(" ")] for text in texts]


NEEDED: dict[str, dict[str, Any]] = {
    "semantic_cache": {"embedder": vectors, "mode": "on"},
    "word_limit": {"words": 3},
}
"""Settings without a default, of plugins that stand in this repository."""


@pytest.mark.parametrize("name", sorted({*registry.names()} - {*registry.BUILT_IN}) or ["none installed"])
async def test_an_installed_middleware_of_a_plugin_keeps_the_laws(name: str):
    if name == "none installed":
        pytest.skip("no plugin is installed here")
    report = await conform(lambda: registry.build(name, NEEDED.get(name, {})))
    assert report.cancellations > 350


# ------------------------------------------------------------ imports


def in_a_fresh_interpreter(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    return done.stdout.strip()


def test_importing_takes_less_than_a_tenth_of_a_second_and_loads_no_http():
    """CPU seconds, least of five: of the package, and of the whole front door."""
    code = (
        "import time, sys; began = time.process_time(); import llmpipe\n"
        "print(time.process_time() - began, 'aiohttp' in sys.modules)"
    )
    told = [in_a_fresh_interpreter(code).split() for _ in range(5)]
    assert min(float(seconds) for seconds, _ in told) < 0.1
    assert {loaded for _, loaded in told} == {"False"}


def test_building_explaining_and_asking_a_chain_loads_no_http_until_a_provider_connects():
    code = (
        "import asyncio, sys\n"
        "from llmpipe import Chain, Fallback, MockProvider, presets, provider\n"
        "real = provider('openai', api_key='sk-test', model='gpt-4o-mini')\n"
        "chain = Chain(MockProvider(default='hi'), *presets.production(), Fallback(real))\n"
        "assert str(chain.explain()) and chain.lint() == []\n"
        "assert asyncio.run(chain.complete('hello')).text == 'hi'\n"
        "print('aiohttp' in sys.modules)"
    )
    assert in_a_fresh_interpreter(code) == "False"
