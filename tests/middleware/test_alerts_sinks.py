"""Sinks against real servers on this machine: HTTP, HTTPS and SMTP."""

from __future__ import annotations

import asyncio
import json
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from email import message_from_bytes, policy
from pathlib import Path
from typing import Any

import pytest
import trustme
from aiohttp import web

from llmpipe.middleware.alerts import Alert, Email, PagerDuty, Slack, Undelivered, Webhook

pytestmark = pytest.mark.real_time

FIRING = Alert(
    rule="error_rate",
    key="openai",
    severity="critical",
    summary="openai: 50.0% <!channel> & more",
    value=0.5,
    limit=0.1,
    at=1_800_000_000.0,
    since=1_799_999_940.5,
    count=3,
    details={"attempts": 20},
)
RESOLVED = Alert(rule="error_rate", key="openai", severity="critical", state="resolved", summary="was bad")


def refused(constant: str) -> None:
    raise ValueError(f"{constant} is no JSON")


class Door:
    """A server that keeps what it is posted, and answers as told."""

    def __init__(self) -> None:
        self.bodies: list[Any] = []
        self.headers: list[Any] = []
        self.answer: Callable[[], web.StreamResponse] = web.Response
        self.url = ""

    async def handle(self, request: web.Request) -> web.StreamResponse:
        self.bodies.append(json.loads(await request.read(), parse_constant=refused))
        self.headers.append({**request.headers, "path": request.path_qs})
        return self.answer()


@asynccontextmanager
async def door(tls: ssl.SSLContext | None = None) -> AsyncIterator[Door]:
    made = Door()
    app = web.Application()
    app.router.add_post("/{anything:.*}", made.handle)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0, ssl_context=tls)
    await site.start()
    port = runner.addresses[0][1]
    made.url = f"{'https' if tls else 'http'}://localhost:{port}"
    try:
        yield made
    finally:
        await runner.cleanup()


async def test_a_webhook_posts_the_alert_as_json():
    async with door() as server:
        url = f"{server.url}/hook?key=s3cret"
        await Webhook(url=url, headers={"X-Key": "k"}, source="shop", plain_http=True).send(FIRING)
    assert server.bodies == [
        {
            "id": "error_rate:openai",
            "source": "shop",
            "rule": "error_rate",
            "key": "openai",
            "severity": "critical",
            "state": "firing",
            "summary": "openai: 50.0% <!channel> & more",
            "was": "",
            "value": 0.5,
            "limit": 0.1,
            "count": 3,
            "at": "2027-01-15T08:00:00.000+00:00",
            "since": "2027-01-15T07:59:00.500+00:00",
            "lasted": 59.5,
            "details": {"attempts": 20},
        }
    ]
    assert server.headers[0]["X-Key"] == "k"
    assert server.headers[0]["Content-Type"] == "application/json"
    assert server.headers[0]["path"] == "/hook?key=s3cret"


async def test_slack_gets_a_message_that_wakes_no_channel():
    async with door() as server:
        sink = Slack(url=f"{server.url}/services/T/B/x", source="shop", plain_http=True)
        await sink.send(FIRING)
        await sink.send(RESOLVED)
    first, second = server.bodies
    assert first["text"] == "[CRITICAL] shop: openai: 50.0% &lt;!channel&gt; &amp; more"
    [attachment] = first["attachments"]
    assert {field["title"]: field["value"] for field in attachment["fields"]} == {
        "Rule": "error_rate",
        "About": "openai",
        "Since": "2027-01-15T07:59:00.500+00:00",
        "Seen": "3 times",
    }
    assert (attachment["color"], attachment["ts"]) == ("#7b0000", 1_800_000_000)
    assert second["text"] == "[RESOLVED] shop: was bad"
    assert second["attachments"][0]["color"] == "#2eb67d"


async def test_pagerduty_gets_one_incident_and_its_end():
    async with door() as server:
        server.answer = lambda: web.json_response({"status": "success"}, status=202)
        sink = PagerDuty(routing_key="R" * 32, source="shop", url=f"{server.url}/v2/enqueue", plain_http=True)
        await sink.send(FIRING)
        await sink.send(RESOLVED)
    first, second = server.bodies
    assert first == {
        "routing_key": "R" * 32,
        "event_action": "trigger",
        "dedup_key": "shop:error_rate:openai",
        "payload": {
            "summary": "openai: 50.0% <!channel> & more",
            "source": "shop",
            "severity": "critical",
            "timestamp": "2027-01-15T08:00:00.000+00:00",
            "component": "openai",
            "class": "error_rate",
            "custom_details": {"attempts": 20, "value": 0.5, "limit": 0.1, "count": 3},
        },
    }
    assert second == {
        "routing_key": "R" * 32,
        "event_action": "resolve",
        "dedup_key": "shop:error_rate:openai",
    }


@pytest.mark.parametrize(
    ("status", "headers", "retryable", "wait"),
    [
        (400, {}, False, None),
        (404, {}, False, None),
        (429, {"Retry-After": "30"}, True, 30.0),
        (429, {"Retry-After": "86400"}, True, 300.0),
        (500, {"Retry-After": "soon"}, True, None),
        (503, {}, True, None),
    ],
)
async def test_any_status_but_a_success_is_a_failure(status: int, headers: Any, retryable: bool, wait: Any):
    async with door() as server:
        server.answer = lambda: web.Response(status=status, headers=headers)
        with pytest.raises(Undelivered) as caught:
            await Webhook(url=f"{server.url}/s3cret", plain_http=True).send(FIRING)
    assert (caught.value.retryable, caught.value.retry_after) == (retryable, wait)
    assert str(caught.value) == f"it was answered with status {status}"


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_a_redirect_is_not_followed(status: int):
    async with door() as elsewhere, door() as server:
        headers = {"Location": f"{elsewhere.url}/taken"}
        server.answer = lambda: web.Response(status=status, headers=headers)
        with pytest.raises(Undelivered, match=str(status)) as caught:
            await Webhook(url=f"{server.url}/s3cret", plain_http=True).send(FIRING)
    assert not caught.value.retryable
    assert elsewhere.bodies == []


async def test_no_proxy_of_the_environment_sees_the_address(monkeypatch: pytest.MonkeyPatch):
    async with door() as proxy, door() as server:
        for name in ("http_proxy", "HTTP_PROXY", "all_proxy"):
            monkeypatch.setenv(name, proxy.url)
        await Webhook(url=f"{server.url}/s3cret", plain_http=True).send(FIRING)
    assert (len(server.bodies), proxy.bodies) == (1, [])


async def test_an_address_that_nobody_serves_is_a_failure_that_does_not_name_it():
    with pytest.raises(Undelivered) as caught:
        await Webhook(url="http://localhost:9/s3cret", plain_http=True).send(FIRING)
    assert str(caught.value) == "it could not be reached: ConnectionRefusedError"
    assert caught.value.retryable


async def test_tls_is_checked(tmp_path: Path):
    authority = trustme.CA()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("localhost").configure_cert(context)
    trusted = tmp_path / "ca.pem"
    authority.cert_pem.write_to_path(str(trusted))
    async with door(context) as server:
        await Webhook(url=f"{server.url}/hook", ca_file=str(trusted)).send(FIRING)
        assert len(server.bodies) == 1
        with pytest.raises(Undelivered, match="SSLCertVerificationError"):
            await Webhook(url=f"{server.url}/hook").send(FIRING)
    assert len(server.bodies) == 1


async def test_an_endpoint_that_never_answers_is_left():
    seen, left = asyncio.Event(), asyncio.Event()

    async def hang(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        seen.set()
        while await reader.read(1000):
            pass
        left.set()  # the thread has closed its socket
        writer.close()

    server = await asyncio.start_server(hang, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    sending = asyncio.create_task(Webhook(url=f"http://127.0.0.1:{port}", plain_http=True).send(FIRING))
    await seen.wait()
    sending.cancel()
    with pytest.raises(asyncio.CancelledError):
        await sending
    await asyncio.wait_for(left.wait(), 5)
    server.close()
    await server.wait_closed()


@pytest.mark.parametrize("answer", [b"", b"nonsense\r\n\r\n", b"HTTP/1.1 200", b"SSH-2.0-x\r\n"])
async def test_what_is_no_answer_is_no_success(answer: bytes):
    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        # All of it: who closes with something unread resets the connection, and the answer with it.
        await reader.readexactly(int(head.lower().partition(b"content-length:")[2].split()[0]))
        writer.write(answer)
        writer.close()

    async with await asyncio.start_server(talk, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        sink = Webhook(url=f"http://127.0.0.1:{port}", plain_http=True)
        if answer == b"HTTP/1.1 200":  # http.client takes a status line without its end, and it says 200
            await sink.send(FIRING)
        else:
            with pytest.raises(Undelivered, match="could not be reached"):
                await sink.send(FIRING)


# -- e-mail


class Mailbox:
    """A handler of aiosmtpd that keeps what it is sent."""

    def __init__(self) -> None:
        self.got: list[tuple[str, list[str], bytes]] = []
        self.answer = "250 OK"

    async def handle_DATA(self, server: Any, session: Any, envelope: Any) -> str:
        self.got.append((envelope.mail_from, envelope.rcpt_tos, envelope.content))
        return self.answer


@asynccontextmanager
async def post_office(**options: Any) -> AsyncIterator[tuple[Mailbox, int]]:
    smtp = pytest.importorskip("aiosmtpd.smtp")
    mailbox = Mailbox()
    loop = asyncio.get_running_loop()
    server = await loop.create_server(
        lambda: smtp.SMTP(mailbox, hostname="localhost", **options), "127.0.0.1", 0
    )
    try:
        yield mailbox, server.sockets[0].getsockname()[1]
    finally:
        server.close()
        await server.wait_closed()


def mail(port: int, **settings: Any) -> Email:
    plain = {
        "host": "localhost",
        "port": port,
        "sender": "alerts@example.org",
        "to": ("a@example.org", "b@example.org"),
    }
    return Email(**{**plain, "security": "none", **settings})


async def test_an_alert_is_a_plain_message():
    async with post_office() as (mailbox, port):
        await mail(port, source="shop").send(FIRING)
    [(sender, recipients, content)] = mailbox.got
    assert (sender, recipients) == ("alerts@example.org", ["a@example.org", "b@example.org"])
    message = message_from_bytes(content, policy=policy.default)
    assert message["Subject"] == "[CRITICAL] shop: openai: 50.0% <!channel> & more"
    assert message["To"] == "a@example.org, b@example.org"
    assert message["Auto-Submitted"] == "auto-generated"
    assert message["Date"].datetime.timestamp() == 1_800_000_000
    body = message.get_content().splitlines()
    assert body[0] == "openai: 50.0% <!channel> & more"
    assert {"rule: error_rate", "about: openai", "seen: 3", "attempts: 20"} <= set(body)


async def test_starttls_and_a_password(tmp_path: Path):
    smtp = pytest.importorskip("aiosmtpd.smtp")
    authority = trustme.CA()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("localhost").configure_cert(context)
    trusted = tmp_path / "ca.pem"
    authority.cert_pem.write_to_path(str(trusted))
    seen = []

    def check(server: Any, session: Any, envelope: Any, mechanism: str, data: Any) -> Any:
        seen.append((data.login, data.password))
        return smtp.AuthResult(success=data.password == b"right", handled=False)

    options = {"tls_context": context, "require_starttls": True, "authenticator": check}
    async with post_office(**options) as (mailbox, port):
        settings = {"security": "starttls", "ca_file": str(trusted), "username": "u"}
        await mail(port, password="right", **settings).send(FIRING)
        with pytest.raises(Undelivered, match="535") as caught:
            await mail(port, password="wrong", **settings).send(FIRING)
        assert not caught.value.retryable
        with pytest.raises(Undelivered, match="SSLCertVerificationError"):
            await mail(port, security="starttls").send(FIRING)
    assert len(mailbox.got) == 1
    assert seen[0] == (b"u", b"right")


@pytest.mark.parametrize(
    ("answer", "retryable"), [("451 try again later", True), ("554 no spam, please", False)]
)
async def test_a_server_that_refuses_says_whether_for_good(answer: str, retryable: bool):
    async with post_office() as (mailbox, port):
        mailbox.answer = answer
        with pytest.raises(Undelivered, match=answer[:3]) as caught:
            await mail(port).send(FIRING)
    assert caught.value.retryable is retryable


async def test_a_summary_cannot_write_headers():
    async with post_office() as (mailbox, port):
        evil = Alert(rule="r", key="k", severity="error", summary="a\r\nBcc: evil@example.org\r\n\r\nb")
        await mail(port).send(evil)
    message = message_from_bytes(mailbox.got[0][2], policy=policy.default)
    assert message["Bcc"] is None
    assert mailbox.got[0][1] == ["a@example.org", "b@example.org"]


async def test_a_mail_that_was_taken_is_not_sent_again_because_of_a_bad_farewell():
    taken = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"220 here\r\n")
        while line := await reader.readline():
            word = line[:4].upper().strip()
            writer.write({b"DATA": b"354 go on\r\n", b"QUIT": b"451 busy\r\n"}.get(word, b"250 yes\r\n"))
            if word == b"DATA":
                taken.append(await reader.readuntil(b"\r\n.\r\n"))
                writer.write(b"250 taken\r\n")
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        await mail(server.sockets[0].getsockname()[1]).send(FIRING)
    assert len(taken) == 1


@pytest.mark.parametrize(
    ("url", "at"),
    [
        ("http://[::1]/hook", ("::1", 80)),
        ("https://[2001:db8::2]/hook", ("2001:db8::2", 443)),
        ("https://[2001:db8::2]:8443/hook", ("2001:db8::2", 8443)),
        ("https://example.org/hook", ("example.org", 443)),
    ],
)
async def test_an_address_is_reached_where_it_says(monkeypatch: pytest.MonkeyPatch, url: str, at: Any):
    reached = []

    def connect(self: Any) -> None:
        reached.append((self.host, self.port))
        raise OSError("not here")

    monkeypatch.setattr("http.client.HTTPConnection.connect", connect)
    monkeypatch.setattr("http.client.HTTPSConnection.connect", connect)
    with pytest.raises(Undelivered):
        await Webhook(url=url, plain_http=True).send(FIRING)
    assert reached == [at]


@pytest.mark.parametrize(
    "value", ["half a pair \ud800", 2**70, float("nan"), {"deep": ["\ud800", 2**70, float("inf")]}]
)
async def test_whatever_the_details_hold_is_delivered_as_json(value: Any):
    alert = Alert(rule="r", key="k", severity="error", summary="s", details={"what": value})
    async with door() as server:
        await Webhook(url=server.url, plain_http=True).send(alert)
        await PagerDuty(routing_key="r", url=server.url, plain_http=True).send(alert)
    assert len(server.bodies) == 2


def test_what_was_measured_does_not_hide_a_detail_of_that_name():
    details = {"limit": 5, "value": 3, "attempts": 2}
    noted = Alert(rule="r", key="k", severity="error", summary="s", count=4, details=details)
    told = PagerDuty(routing_key="r").body(noted)["payload"]["custom_details"]
    assert told == {"count": 4, "limit": 5, "value": 3, "attempts": 2}


def test_two_long_troubles_that_begin_alike_are_two_incidents():
    sink = PagerDuty(routing_key="r", source="a-system-with-a-long-name" * 3)
    alerts = [Alert(rule="error_rate", key="m" * 199 + end, severity="error", summary="s") for end in "xyx"]
    first, second, again = [sink.body(alert)["dedup_key"] for alert in alerts]
    assert first != second
    assert first == again
    assert len(first) == 255


async def test_that_one_of_the_recipients_is_refused_is_told_and_the_others_get_it_once():
    async with post_office() as (mailbox, port):

        async def refuse(server: Any, session: Any, envelope: Any, address: str, options: Any) -> str:
            if address.startswith("b@"):
                return "450 not now"
            envelope.rcpt_tos.append(address)
            return "250 yes"

        mailbox.handle_RCPT = refuse  # type: ignore[attr-defined]  # aiosmtpd finds its hooks by name
        with pytest.raises(Undelivered, match="450") as caught:
            await mail(port).send(FIRING)
    assert not caught.value.retryable
    assert [recipients for _, recipients, _ in mailbox.got] == [["a@example.org"]]
