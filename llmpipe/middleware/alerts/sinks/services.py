"""Alerts in the words of Slack and PagerDuty."""

from __future__ import annotations

from hashlib import sha256
from typing import Any

from attrs import field, frozen

from llmpipe.middleware.alerts.alert import SEVERITIES, Alert, Severity, check_severity, span, stamp
from llmpipe.middleware.alerts.sinks.webhook import address, post, secret
from llmpipe.secret import Secret

__all__ = ("PagerDuty", "Slack")

_COLOURS = dict(zip(SEVERITIES, ("#439fe0", "#daa038", "#d00000", "#7b0000"), strict=True))
_GREEN = "#2eb67d"
_MAX_SUMMARY_CHARS = 1024  # PagerDuty's, of payload.summary
_MAX_KEY_CHARS = 255  # PagerDuty's, of dedup_key


@frozen(kw_only=True)
class Slack:
    """Posts alerts to an incoming webhook of Slack, or of a service that takes the same body (Mattermost).

    Attributes:
        url: of the webhook. It is a secret: whoever has it can post.
        source: who says so.
        plain_http: allow an address without encryption.
        ca_file: certificates to trust in place of the system's.
        at_least: the mildest severity it is given.

    Source: "Sending messages using incoming webhooks", docs.slack.dev.
    """

    url: Secret = field(converter=secret)
    source: str = "llmpipe"
    plain_http: bool = False
    ca_file: str | None = None
    at_least: Severity = "info"
    name: str = "slack"

    def __attrs_post_init__(self) -> None:
        check_severity(self.at_least, f"alert sink {self.name}: at_least")
        address(self.url, self.name, plain=self.plain_http)

    async def send(self, alert: Alert) -> None:
        """Post it. Raises: Undelivered."""
        await post(self.url, self.body(alert), ca_file=self.ca_file)

    def body(self, alert: Alert) -> dict[str, Any]:
        """What is posted."""
        over = alert.state == "resolved"
        word = "RESOLVED" if over else alert.severity.upper()
        facts = [("Rule", alert.rule), ("About", alert.key), ("Since", stamp(alert.since))]
        if over:
            facts += [("Lasted", span(alert.lasted)), ("Was", alert.was)]
        elif alert.count > 1:
            facts.append(("Seen", f"{alert.count} times"))
        return {
            "text": f"[{word}] {_plain(self.source)}: {_plain(alert.summary)}",
            "attachments": [
                {
                    "color": _GREEN if over else _COLOURS[alert.severity],
                    "fallback": _plain(alert.summary),
                    "fields": [{"title": name, "value": _plain(text), "short": True} for name, text in facts],
                    "ts": int(alert.at),
                }
            ],
        }


@frozen(kw_only=True)
class PagerDuty:
    """Triggers and resolves incidents through PagerDuty's Events API v2.

    All notices of one trouble have the same ``dedup_key``, so a repeated one opens no second incident.

    Attributes:
        routing_key: of the integration; a secret.
        source: the affected system.
        url: where events go; another one for the EU service region.
        plain_http: allow an address without encryption.
        ca_file: certificates to trust in place of the system's.
        at_least: the mildest severity it is given.

    Source: "Events API v2: send an alert event", developer.pagerduty.com.
    """

    routing_key: Secret = field(converter=secret)
    source: str = "llmpipe"
    url: Secret = field(default=Secret("https://events.pagerduty.com/v2/enqueue"), converter=secret)
    plain_http: bool = False
    ca_file: str | None = None
    at_least: Severity = "error"
    name: str = "pagerduty"

    def __attrs_post_init__(self) -> None:
        check_severity(self.at_least, f"alert sink {self.name}: at_least")
        address(self.url, self.name, plain=self.plain_http)

    async def send(self, alert: Alert) -> None:
        """Post it. Raises: Undelivered."""
        await post(self.url, self.body(alert), ca_file=self.ca_file)

    def body(self, alert: Alert) -> dict[str, Any]:
        """What is posted."""
        told: dict[str, Any] = {
            "routing_key": self.routing_key.reveal(),
            "event_action": "resolve" if alert.state == "resolved" else "trigger",
            "dedup_key": _key(f"{self.source}:{alert.id}"),
        }
        if alert.state == "firing":  # a resolve event takes no payload
            measured = {"value": alert.value, "limit": alert.limit, "count": alert.count}
            told["payload"] = {
                "summary": alert.summary[:_MAX_SUMMARY_CHARS],
                "source": self.source,
                "severity": alert.severity,
                "timestamp": stamp(alert.at),
                "component": alert.key,
                "class": alert.rule,
                "custom_details": {**{k: v for k, v in measured.items() if v is not None}, **alert.details},
            }
        return told


def _key(whole: str) -> str:
    """What tells troubles apart, short enough: two that begin alike are two all the same."""
    if len(whole) <= _MAX_KEY_CHARS:
        return whole
    sign = sha256(whole.encode("utf-8", "replace")).hexdigest()[:16]
    return f"{whole[: _MAX_KEY_CHARS - 17]}#{sign}"


def _plain(text: str) -> str:
    """Text that Slack takes for text: ``<!channel>`` in a provider's message must not wake a channel."""
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
