"""Alerts by e-mail."""

from __future__ import annotations

import ssl
from collections.abc import Mapping
from contextlib import suppress
from datetime import UTC, datetime
from email.message import EmailMessage
from email.utils import format_datetime, make_msgid
from smtplib import SMTP, SMTP_SSL, SMTPException, SMTPRecipientsRefused, SMTPResponseException
from socket import SHUT_RDWR
from typing import Any, Literal

from anyio import CapacityLimiter, to_thread
from attrs import field, frozen

from llmpipe.errors import ConfigError
from llmpipe.middleware.alerts.alert import Alert, Severity, check_severity, span, stamp
from llmpipe.middleware.alerts.sinks.base import Undelivered
from llmpipe.middleware.alerts.sinks.webhook import secret
from llmpipe.middleware.names import names
from llmpipe.secret import Secret

__all__ = ("Email",)

_PORTS = {"starttls": 587, "tls": 465, "none": 25}


def _password(value: Any) -> Secret | None:
    return None if value is None else secret(value)


@frozen(kw_only=True)
class Email:
    """Sends each alert as a plain message over SMTP, in a thread.

    Attributes:
        host, port: of the server; the port is by default the usual one of `security`.
        security: ``starttls``, ``tls`` from the first byte, or ``none``, with which no password is sent.
        username, password: for servers that ask for them; the password is never shown.
        sender: the address it comes from.
        to: the addresses it goes to.
        source: who says so, in the subject.
        ca_file: certificates to trust in place of the system's.
        at_least: the mildest severity it is given.
    """

    host: str
    to: tuple[str, ...] = field(converter=names)
    sender: str
    port: int | None = None
    security: Literal["starttls", "tls", "none"] = "starttls"
    username: str = ""
    password: Secret | None = field(default=None, converter=_password)
    source: str = "llmpipe"
    ca_file: str | None = None
    at_least: Severity = "error"
    name: str = "email"

    def __attrs_post_init__(self) -> None:
        check_severity(self.at_least, f"alert sink {self.name}: at_least")
        if self.security not in _PORTS:
            raise ConfigError(f"alert sink {self.name}: security is starttls, tls or none")
        if not self.host or not self.to or not all("@" in one for one in (*self.to, self.sender)):
            raise ConfigError(f"alert sink {self.name}: host, sender and to are a server and addresses")
        if bool(self.username) != (self.password is not None):
            raise ConfigError(f"alert sink {self.name}: username and password belong together")
        if self.password is not None and self.security == "none":
            raise ConfigError(f"alert sink {self.name}: a password is not sent without encryption")
        try:
            self.message(Alert(rule="r", key="k", severity="info", summary="s"))
        except ValueError:
            raise ConfigError(f"alert sink {self.name}: sender, to and source are single lines") from None

    async def send(self, alert: Alert) -> None:
        """Send it. Raises: Undelivered."""
        work = _Mail(self, self.message(alert))
        try:
            await to_thread.run_sync(work.run, abandon_on_cancel=True, limiter=CapacityLimiter(1))
        finally:
            work.shut()

    def message(self, alert: Alert) -> EmailMessage:
        """What is sent."""
        over = alert.state == "resolved"
        word = "RESOLVED" if over else alert.severity.upper()
        message = EmailMessage()
        summary = _one_line(alert.summary)
        message["Subject"] = f"[{word}] {self.source}: {summary[:200]}"
        message["From"] = self.sender
        message["To"] = ", ".join(self.to)
        message["Date"] = format_datetime(datetime.fromtimestamp(alert.at, UTC))
        message["Message-ID"] = make_msgid(domain=self.sender.rpartition("@")[2])
        message["Auto-Submitted"] = "auto-generated"  # RFC 3834: no out-of-office answers
        lines = [
            alert.summary,
            "",
            f"rule: {alert.rule}",
            f"about: {alert.key}",
            f"since: {stamp(alert.since)}",
            *((f"lasted: {span(alert.lasted)}", f"was: {_one_line(alert.was)}") if over else ()),
            f"seen: {alert.count}",
            *(f"{name}: {value}" for name, value in alert.details.items()),
        ]
        message.set_content("\n".join(lines) + "\n")
        return message


def _one_line(text: str) -> str:
    return " ".join(text.split())


class _Mail:
    """One exchange with a server, in a thread."""

    def __init__(self, cfg: Email, message: EmailMessage) -> None:
        self._cfg = cfg
        self._message = message
        self._server: SMTP | None = None
        self._over = self._taken = False
        self._refused: Mapping[str, tuple[int, bytes]] = {}

    def run(self) -> None:
        """Send the message. Raises: Undelivered."""
        try:
            self._send()
        except (OSError, SMTPException, ValueError) as error:
            if not self._taken:  # else it is there, whatever the server's farewell was
                raise _undelivered(error) from None
        if self._refused:  # not by all: once more would be twice for the others
            raise Undelivered(f"recipients refused: {_codes(self._refused)}", retryable=False)

    def _send(self) -> None:
        cfg = self._cfg
        port = cfg.port or _PORTS[cfg.security]
        if cfg.security == "tls":
            made: SMTP = SMTP_SSL(cfg.host, port, timeout=10.0, context=self._context())
        else:
            made = SMTP(cfg.host, port, timeout=10.0)
        with made as server:
            self._server = server
            if self._over:
                return
            if cfg.security == "starttls":
                server.starttls(context=self._context())
            if cfg.password is not None:
                server.login(cfg.username, cfg.password.reveal())
            self._refused = server.send_message(self._message)
            self._taken = True

    def _context(self) -> ssl.SSLContext:
        return ssl.create_default_context(cafile=self._cfg.ca_file)

    def shut(self) -> None:
        """Wake a thread that still waits for the other side."""
        self._over = True
        sock = None if self._server is None else self._server.sock
        if sock is not None:
            with suppress(OSError):  # it is closed already
                sock.shutdown(SHUT_RDWR)


def _codes(recipients: Mapping[str, tuple[int, bytes]]) -> list[int]:
    return sorted({code for code, _ in recipients.values()})


def _undelivered(error: Exception) -> Undelivered:
    """What went wrong, without the words of the server."""
    if isinstance(error, SMTPResponseException):
        return Undelivered(f"the server said {error.smtp_code}", retryable=error.smtp_code < 500)
    if isinstance(error, SMTPRecipientsRefused):
        codes = _codes(error.recipients)
        return Undelivered(f"recipients refused: {codes}", retryable=min(codes) < 500)
    return Undelivered(f"it could not be sent: {type(error).__name__}")
