"""Where alerts go: a function, the log, a webhook, Slack, PagerDuty, e-mail."""

from __future__ import annotations

from llmpipe.middleware.alerts.sinks.base import Sink, Undelivered
from llmpipe.middleware.alerts.sinks.callback import Callback
from llmpipe.middleware.alerts.sinks.email import Email
from llmpipe.middleware.alerts.sinks.log import LogSink
from llmpipe.middleware.alerts.sinks.services import PagerDuty, Slack
from llmpipe.middleware.alerts.sinks.webhook import Webhook

__all__ = ("Callback", "Email", "LogSink", "PagerDuty", "Sink", "Slack", "Undelivered", "Webhook")
