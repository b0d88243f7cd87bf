"""A secret in every slot that holds one, through everything that can go wrong: it shows nowhere.

A prompt may stand where a cache keeps it, and nowhere else: the logs and the trail have it masked. The tag
``key`` names a key, by its id; where somebody puts the key itself, budgets and logs know it by a digest.
"""

from __future__ import annotations

import asyncio
import json
import logging
import ssl
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any
from urllib.parse import quote

import asyncpg  # type: ignore[import-untyped]  # has no types of its own
import pytest
import trustme

from llmpipe.errors import ConfigError, LLMError
from llmpipe.keys import KeyVault
from llmpipe.middleware.alerts import Alerts, Email, PagerDuty, Slack, Webhook
from llmpipe.middleware.audit import Audit
from llmpipe.middleware.breaker import Breaker
from llmpipe.middleware.budget import Budget, Rule
from llmpipe.middleware.cache import Cache
from llmpipe.middleware.cost import Cost
from llmpipe.middleware.limits import Limit, Limits
from llmpipe.middleware.log import JSONFormatter, Log
from llmpipe.middleware.metrics import Metrics
from llmpipe.middleware.retry import Retry
from llmpipe.middleware.trace import Trace
from llmpipe.pipeline.chain import Chain
from llmpipe.providers.factory import provider
from llmpipe.providers.mock import MockProvider
from llmpipe.state import open_state
from llmpipe.testing.servers.postgres import PostgresServer
from llmpipe.testing.servers.redis import RedisServer
from tests.fleet.sinks import WINDOW, Ears, Sinks, Witness, dresses
from tests.providers.kit import response, saying, serving

pytestmark = pytest.mark.real_time


@pytest.fixture
def sinks() -> Iterator[Sinks]:
    """All that is told in the test. Its end is the test: no canary shows."""
    made = Sinks()
    ears, root = Ears(made), logging.getLogger()
    level = root.level
    root.addHandler(ears)
    root.setLevel(logging.DEBUG)
    yield made
    root.removeHandler(ears)
    root.setLevel(level)
    made.finish()
    assert made.canaries
    assert {"log", "error", "trace"} & set(made.told), "nothing was heard"
    shown = made.shows()
    assert not shown, "\n".join(shown)


def whole(core: Any, sinks: Sinks, home: Path, store: str, *more: Any) -> Chain:
    """A chain with all that tells, or keeps, anything."""
    trail = f"sqlite:///{home}/trail.db"
    shown = {"*": {"input": 1.0, "output": 1.0}}
    return Chain(
        core, Witness(sinks), Trace(tracer_provider=sinks.tracer, content=True), Metrics(users=True), *more,
        Log(level="DEBUG", requests=True, bodies=True), Audit(store=trail, bodies=True, flush=0.01),
        Cost(), Retry(attempts=2, base=0.001), Breaker(),
        Limits(limits=(Limit(per="key", requests_per_minute=1000),), store=store),
        Budget(rules=Rule(usd=1, per="key", action="alert"), store=store, prices=shown),
    )  # fmt: skip


async def use(chain: Chain, sinks: Sinks, prompt: str = "hello", **options: Any) -> None:
    """A call and a stream, whatever comes of them."""
    for _ in range(2):
        try:
            await chain.complete(prompt, **options)
        except LLMError as error:
            sinks.error(error)
        try:
            async with chain.stream(prompt, **options) as reply:
                async for event in reply:
                    sinks.add("events", repr(event)) if prompt == "hello" else None
        except LLMError as error:
            sinks.error(error)


async def look(chain: Chain, sinks: Sinks, *objects: Any) -> None:
    """What a chain, and all in it, says of itself; then close it."""
    sinks.add("explain", str(chain.explain()), repr(chain.explain()), repr(chain.lint()))
    sinks.add("repr", chain, chain.provider, chain.runtime, *chain.middleware, *objects)
    for middleware in chain.middleware:
        if isinstance(middleware, Metrics):
            sinks.add(
                "metrics", middleware.prometheus(chain.runtime), repr(middleware.snapshot(chain.runtime))
            )
            sinks.add("dashboard", json.dumps(middleware.dashboard(chain.runtime), default=repr))
        if isinstance(middleware, Alerts):
            sinks.add("alerts", repr(middleware.status(chain.runtime)))
    for (kind, name), state in chain.runtime._state.items():
        sinks.add("repr", kind, name if "://" not in name else "", repr(state))
    await chain.aclose()


def test_a_secret_is_seen_in_every_dress() -> None:
    for dress in dresses("0" * 40):
        for end in (0, 7, 20):
            sinks = Sinks()
            secret = dresses(sinks.plant("slot"))[dress]
            sinks.add("sink", b"some words " + secret[end : end + WINDOW - 1] + b"!")
            assert sinks.shows() == [], dress
            sinks.add("sink", b"some words " + secret[end : end + WINDOW] + b"!")
            assert sinks.shows(), dress


# ------------------------------------------------------------ the provider's key

FAULTS = ("401", "403", "500", "json", "html", "header", "redirect", "cut", "refused")


def echo(fault: str, key: str) -> bytes:
    """An answer that shows the key."""
    said = f"Incorrect API key provided: {key}. (Authorization: Bearer {key})"
    body = json.dumps({"error": {"message": said, "type": "x", "param": key, "code": key}}).encode()
    if fault == "json":
        return response(b'{"choices": "' + key.encode() + b'"}')
    if fault == "html":
        return response(f"<html>{said}</html>".encode(), status="502 Bad Gateway", kind="text/html")
    if fault == "header":
        return response(
            body, status="400 Bad Request", extra=f"x-request-id: {key}\r\nx-echo: {key}\r\n".encode()
        )
    if fault == "redirect":
        return response(b"", status="302 Found", extra=f"Location: http://127.0.0.1:9/{key}\r\n".encode())
    if fault == "cut":
        return (
            b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 900\r\n\r\n{"
            + key.encode()
        )
    return response(body, status=f"{fault} No")


@pytest.mark.parametrize("fault", FAULTS)
async def test_the_key_of_a_provider(sinks: Sinks, tmp_path: Path, fault: str) -> None:
    key = sinks.plant("provider key", "sk-proj-")
    plain = sinks.plant("provider key of no known form")
    for one in (key, plain):
        async with serving(saying(echo(fault, one), then="close")) as server:
            url = "http://127.0.0.1:9/v1" if fault == "refused" else server.url
            core = provider("openai", api_key=one, base_url=url, model="m")
            chain = whole(core, sinks, tmp_path, "memory://")
            await use(chain, sinks)
            await look(chain, sinks)
    sinks.files("trail", tmp_path)


# ------------------------------------------------------------ passwords of stores


async def outage(url: str, sinks: Sinks, home: Path) -> None:
    """A chain on a store, whatever that does; and what opening it says."""
    state = open_state(url)
    sinks.add("repr", state)
    try:
        await state.check()
    except LLMError as error:
        sinks.error(error)
    await state.aclose()
    chain = whole(MockProvider(default=["hel", "lo"]), sinks, home, url)
    await use(chain, sinks)
    await look(chain, sinks, state)


async def test_the_password_of_redis(sinks: Sinks, tmp_path: Path) -> None:
    right, wrong = sinks.plant("redis password"), sinks.plant("wrong redis password")
    with RedisServer(appendonly="always", requirepass=right) as server:
        place = f"@127.0.0.1:{server.port}/0?timeout=0.3"
        for url in (f"redis://:{right}{place}", f"redis://:{wrong}{place}", f"redis://user:{wrong}{place}"):
            await outage(url, sinks, tmp_path)
        server.pause()
        await outage(f"redis://:{right}{place}", sinks, tmp_path)
        server.resume()
        sinks.files("redis", server._home)
        assert any(b"EVALSHA" in text or b"SET" in text.upper() for text in sinks.told["redis"])
        server.kill()
        await outage(f"redis://:{right}{place}", sinks, tmp_path)
    sinks.files("trail", tmp_path)


async def test_the_password_of_postgres(sinks: Sinks, tmp_path: Path) -> None:
    right, wrong = sinks.plant("postgres password"), sinks.plant("wrong postgres password", special="@/ü%")
    with PostgresServer() as server:
        connection = await asyncpg.connect(server.url)
        await connection.execute("SET log_min_duration_statement = -1; SET log_min_error_statement = panic")
        await connection.execute(f"CREATE ROLE guarded LOGIN SUPERUSER PASSWORD '{right}'")
        place = f"@127.0.0.1:{server.port}/postgres?timeout=0.5"
        for password in (right, quote(wrong, safe="")):
            await outage(f"postgresql://guarded:{password}{place}", sinks, tmp_path)
        for table in await connection.fetch("SELECT tablename FROM pg_tables WHERE schemaname = 'llmpipe'"):
            rows = await connection.fetch(f"SELECT t::text FROM llmpipe.{table[0]} t")
            sinks.add("postgres", *[row[0] for row in rows])
        assert sinks.told["postgres"]
        await connection.close()
        sinks.add("postgres log", server.log)
        server.pause()
        await outage(f"postgresql://guarded:{right}{place}", sinks, tmp_path)
        server.resume()
        server.crash()
        await outage(f"postgresql://guarded:{right}{place}", sinks, tmp_path)
    sinks.files("trail", tmp_path)


@pytest.mark.parametrize(
    "url",
    [
        "redis://:{}@127.0.0.1:port/0", "redis://:{}@127.0.0.1:6379/zero", "redis://:{}@127.0.0.1/0?nonsense=1",
        "redis://:{}@[::1/0", "rediss://:{}@h/0?cert=/none", "redis://:{}", "postgresql://u:{}@h", "nothing://u:{}@h/d",
        "postgresql://u:{}@h:port/d", "postgresql://u:{}@h/d?x=1", "postgresql://u:{}@h/d#", "u:{}@h/d", "sqlite://u:{}@h",
    ],
)  # fmt: skip
def test_a_password_in_a_url_that_makes_no_sense(sinks: Sinks, url: str) -> None:
    with pytest.raises((LLMError, ConfigError)) as caught:
        open_state(url.format(sinks.plant("password")))
    sinks.error(caught.value)


# ------------------------------------------------------------ those who are told


@pytest.mark.parametrize("answer", ["refused", "500", "echo", "redirect"])
async def test_the_addresses_and_passwords_of_alerts(sinks: Sinks, tmp_path: Path, answer: str) -> None:
    hook, token, routing = sinks.plant("slack url"), sinks.plant("webhook header"), sinks.plant("routing key")
    password = sinks.plant("smtp password")
    said = {
        "echo": response(f"no such hook /services/T/B/{hook} {token} {routing}".encode(), status="404 No"),
        "500": response(b"", status="500 No"),
        "redirect": response(b"", status="302 Found", extra=f"Location: /services/{hook}\r\n".encode()),
    }

    async def mailbox(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"220 here\r\n")
        while line := await reader.readline():
            if line.startswith(b"EHLO"):
                writer.write(b"250-here\r\n250 AUTH PLAIN LOGIN\r\n")
            else:
                writer.write(b"535 5.7.8 not you: " + line.strip() + b" " + password.encode() + b"\r\n")
        writer.close()

    authority, tls = trustme.CA(), ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("localhost").configure_cert(tls)
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    mail = await asyncio.start_server(mailbox, "127.0.0.1", 0, ssl=tls)
    async with serving(saying(said.get(answer, said["500"]), then="close")) as server, mail:
        base = "http://127.0.0.1:9" if answer == "refused" else server.url.removesuffix("/v1")
        receivers = (
            Slack(url=f"{base}/services/T/B/{hook}", plain_http=True),
            Webhook(url=f"{base}/hook?key={token}", headers={"X-Token": f"Bearer {token}"}, plain_http=True),
            PagerDuty(routing_key=routing, url=f"{base}/v2/enqueue", plain_http=True),
            Email(host="localhost", port=mail.sockets[0].getsockname()[1], to="a@b.example",
                  sender="c@d.example", security="tls", username="me", password=password,
                  ca_file=str(tmp_path / "ca.pem")),
        )  # fmt: skip
        for one in receivers:
            sinks.add("repr", one)
        key = sinks.plant("provider key", "sk-proj-")
        async with serving(saying(echo("401", key), then="close")) as refusing:
            core = provider("openai", api_key=key, base_url=refusing.url, model="m")
            alerts = Alerts(sinks=receivers)
            chain = whole(core, sinks, tmp_path, "memory://", alerts)
            await use(chain, sinks)
            end = time.monotonic() + 10
            while time.monotonic() < end and not all(
                _failed(one) for one in alerts.status(chain.runtime).sinks
            ):
                await asyncio.sleep(0.02)
            assert all(_failed(one) for one in alerts.status(chain.runtime).sinks), alerts.status(
                chain.runtime
            )
            await look(chain, sinks, *receivers)
        bodies = b"".join(server.bodies)
        assert key.encode() not in bodies
    sinks.files("trail", tmp_path)


def _failed(status: Any) -> bool:
    return bool(status.failed or status.retries)


# ------------------------------------------------------------ the vault


@pytest.mark.parametrize("kind", ["memory", "sqlite", "postgres"])
async def test_the_master_and_the_keys_of_a_vault(
    sinks: Sinks, tmp_path: Path, kind: str, request: pytest.FixtureRequest
) -> None:
    master, other, key = (
        sinks.plant("master"),
        sinks.plant("another master"),
        sinks.plant("stored key", "sk-"),
    )
    url = {"memory": "memory://", "sqlite": f"sqlite:///{tmp_path}/vault.db"}.get(kind)
    if url is None:
        url = f"{request.getfixturevalue('postgres').url}?schema=canaries"
    state = open_state(url)
    vault = KeyVault(state, master)
    sinks.add("repr", vault, state)
    await vault.put("openai", key, tenant="acme")
    found = await vault.get("openai", tenant="acme")
    assert found is not None
    assert found.reveal() == key
    sinks.add("repr", found, await vault.keys(), await state.vault("keys").get("acme", "openai", "default"))
    wrong = KeyVault(state, other)
    for work in (
        wrong.get("openai", tenant="acme"),
        vault.find("openai", env="NO_SUCH", tenant="x", name="y"),
    ):
        with pytest.raises((LLMError, ConfigError)) as caught:
            await work
        sinks.error(caught.value)
    both = KeyVault(state, {"2": other, "1": master})
    sinks.add("repr", both, await both.rotate())
    await state.aclose()
    if kind == "postgres":
        connection = await asyncpg.connect(request.getfixturevalue("postgres").url)
        for table in ("vault", "llm_providers"):
            rows = await connection.fetch(f"SELECT t::text FROM canaries.{table} t")
            sinks.add("postgres", *[row[0] for row in rows])
        await connection.close()
    sinks.files("vault", tmp_path)


# ------------------------------------------------------------ what callers bring


@asynccontextmanager
async def _store(tmp_path: Path, kind: str, sinks: Sinks) -> AsyncIterator[str]:
    if kind == "redis":
        with RedisServer(appendonly="always") as server:
            yield server.url
            sinks.files("redis", server._home)
    else:
        yield f"sqlite:///{tmp_path}/state.db"


@pytest.mark.parametrize("kind", ["sqlite", "redis"])
async def test_a_key_of_the_gateway_in_a_tag(sinks: Sinks, tmp_path: Path, kind: str) -> None:
    key = sinks.plant("gateway key", "sk-")
    formatter = JSONFormatter()
    for handler in logging.getLogger().handlers:
        if isinstance(handler, Ears):
            handler.setFormatter(formatter)
    async with _store(tmp_path, kind, sinks) as store:
        chain = whole(
            MockProvider([OSError(f"cannot send {key}")], default=["hel", "lo"]), sinks, tmp_path, store
        )
        with suppress(OSError):  # what somebody else's provider raises is passed on as it is
            await chain.complete("hello", tags={"key": key})
        sinks.told.pop("error", None)
        sinks.told.pop("attempts", None)
        sinks.told.pop("traceback", None)
        await use(chain, sinks, tags={"key": key, "authorization": f"Bearer {key}"})
        await look(chain, sinks)
    sinks.files("state", tmp_path)


@pytest.mark.parametrize("kind", ["sqlite", "redis"])
async def test_a_key_in_a_prompt(sinks: Sinks, tmp_path: Path, kind: str) -> None:
    key = sinks.plant("key in a prompt", "sk-proj-")
    cached = tmp_path / "cache"
    cached.mkdir()
    async with _store(tmp_path, kind, sinks) as store:
        answers = MockProvider(default=lambda asked: f"you said {asked.messages[0].text}")
        cache = Cache(store=f"sqlite:///{cached}/cache.db")  # the one place where a prompt's answer may stand
        chain = whole(answers, sinks, tmp_path, store, cache)
        await use(chain, sinks, f"my key is {key}, keep it")
        sinks.told.pop("attempts", None)  # an attempt knows its request's reply, for those in the process
        await look(chain, sinks)
    for path in cached.iterdir():
        path.unlink()
    sinks.files("state", tmp_path)
