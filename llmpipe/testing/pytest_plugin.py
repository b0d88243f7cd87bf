"""Async tests under virtual time: `@pytest.mark.virtual_time`, or all of them by one setting.

The plugin is found by pytest wherever llmpipe is installed, and does nothing there until it is
asked to. It works through pytest-asyncio, whose fixtures and scopes stay as they are.

- ``@pytest.mark.virtual_time`` on an async test gives it a `VirtualTimeLoop`; keyword arguments
  of the marker are the loop's, such as ``seed=7``.
- ``llmpipe_virtual_time = true`` in pytest's configuration marks every async test, and
  ``@pytest.mark.real_time`` takes one out.
- ``--llmpipe-seed N`` runs the marked tests that name no seed in an order drawn from N. A test
  that passes under one seed and not under another has a race.
- The fixture ``conform`` is the suite that a middleware must pass: `llmpipe.testing.conform`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Generator, Mapping
from functools import partial
from inspect import iscoroutinefunction
from typing import Any

import pytest

from llmpipe.testing.loop import VirtualTimeLoop

__all__ = ("conform", "pytest_addoption", "pytest_configure", "pytest_generate_tests")

Factory = Callable[[], asyncio.AbstractEventLoop]


@pytest.fixture
def conform() -> Callable[..., Awaitable[Any]]:
    """The suite that a middleware must pass; see `llmpipe.testing.conform`."""
    from llmpipe.testing.conform import conform as suite  # noqa: PLC0415  loads more than a plugin should

    return suite


def pytest_addoption(parser: pytest.Parser) -> None:
    """The option and the setting."""
    parser.getgroup("llmpipe").addoption(
        "--llmpipe-seed",
        type=int,
        metavar="N",
        help="draw the order of ready tasks in virtual-time tests from this seed",
    )
    parser.addini("llmpipe_virtual_time", "run every async test under virtual time", "bool", default=False)


def pytest_configure(config: pytest.Config) -> None:
    """The markers."""
    config.addinivalue_line(
        "markers", "virtual_time(**options): run under llmpipe's VirtualTimeLoop with these options"
    )
    config.addinivalue_line("markers", "real_time: run under asyncio's own loop")


@pytest.hookimpl(wrapper=True)  # so it comes before pytest-asyncio's, which asks for loops here
def pytest_generate_tests(metafunc: pytest.Metafunc) -> Generator[None, None, None]:
    """Offer the loop to pytest-asyncio as soon as one test wants it.

    Not before: pytest-asyncio treats the tests of a project in another way once any plugin
    implements its hook.
    """
    if iscoroutinefunction(metafunc.function) and _wants_virtual_time(metafunc.definition):
        plugins = metafunc.config.pluginmanager
        if not hasattr(metafunc.config.hook, "pytest_asyncio_loop_factories"):
            nodeid = metafunc.definition.nodeid
            raise pytest.UsageError(f"{nodeid}: virtual time needs pytest-asyncio 1.4 or newer")
        if not plugins.has_plugin(_LoopFactories.name):
            plugins.register(_LoopFactories(), _LoopFactories.name)
    yield


class _LoopFactories:
    """The hook through which pytest-asyncio asks which loop a test gets."""

    name = "llmpipe-loop-factories"

    @pytest.hookimpl(wrapper=True, optionalhook=True)
    def pytest_asyncio_loop_factories(
        self, config: pytest.Config, item: pytest.Item
    ) -> Generator[None, Mapping[str, Factory] | None, Mapping[str, Factory]]:
        others = yield
        if not _wants_virtual_time(item):
            return others or {"asyncio": asyncio.new_event_loop}
        options: dict[str, Any] = {"seed": config.getoption("--llmpipe-seed")}
        marker = item.get_closest_marker("virtual_time")
        if marker is not None:
            options.update(marker.kwargs)
        return {"virtual_time": partial(VirtualTimeLoop, **options)}


def _wants_virtual_time(item: pytest.Item) -> bool:
    if item.get_closest_marker("real_time") is not None:
        return False
    return item.get_closest_marker("virtual_time") is not None or bool(
        item.config.getini("llmpipe_virtual_time")
    )
