"""Alerts to the standard library's logging."""

from __future__ import annotations

import logging

from attrs import frozen

from llmpipe.middleware.alerts.alert import Alert, Severity, check_severity

__all__ = ("LogSink",)

_LEVELS = {
    "info": logging.INFO,
    "warning": logging.WARNING,
    "error": logging.ERROR,
    "critical": logging.CRITICAL,
}


@frozen(kw_only=True)
class LogSink:
    """A record of each alert, with its fields as the attribute ``llmpipe``, at the level of its severity.

    That something is right again is INFO.
    """

    logger: str = "llmpipe.alert"
    at_least: Severity = "info"
    name: str = "log"

    def __attrs_post_init__(self) -> None:
        check_severity(self.at_least, f"alert sink {self.name}: at_least")

    async def send(self, alert: Alert) -> None:
        """Log it."""
        level = logging.INFO if alert.state == "resolved" else _LEVELS[alert.severity]
        told = {"event": "alert", **alert.json("")}
        logging.getLogger(self.logger).log(
            level, "%s %s: %s", alert.state, alert.rule, alert.summary, extra={"llmpipe": told}
        )
