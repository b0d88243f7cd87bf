"""Alerts to a function."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

from attrs import frozen

from llmpipe.errors import ConfigError
from llmpipe.middleware.alerts.alert import Alert, Severity, check_severity

__all__ = ("Callback",)


@frozen
class Callback:
    """Calls a function, plain or async, with each alert; a plain one must not block, it runs on the loop."""

    function: Callable[[Alert], Any]
    at_least: Severity = "info"
    name: str = "callback"

    def __attrs_post_init__(self) -> None:
        if not callable(self.function):
            raise ConfigError(f"alerts: a callback is a function of an alert, not {self.function!r}")
        check_severity(self.at_least, f"alert sink {self.name}: at_least")

    async def send(self, alert: Alert) -> None:
        """Call the function."""
        result = self.function(alert)
        if inspect.isawaitable(result):
            await result
