"""What only Redis has: scripts, expiry, event loops, encryption, and clocks that are not ours."""

from __future__ import annotations

import asyncio
import gc
import re
import ssl
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import trustme

from llmpipe.errors import StoreUnavailable
from llmpipe.state import Ask, Balance, Draw, Entry, Item, Level, Spend, Trip
from llmpipe.testing.servers.redis import RedisServer
from llmpipe.types import Completion, Message
from llmpipe_redis import RedisState, lua, open_redis

pytestmark = pytest.mark.real_time

ENTRY = Entry(Completion(message=Message("assistant", "hi"), finish_reason="stop"), 5)
SCRIPTS = Path(lua.__file__).parent / "scripts"


async def use(state: RedisState) -> None:
    """One of everything."""
    ledger, limits, queue = state.ledger("n"), state.limits("n"), state.queue("n")
    draws = [Draw("day", 0, 5, limit=100, likely=2, ends=86_400.0)]
    assert await ledger.reserve("h", draws, 600.0) is None
    assert await ledger.reserve("late", draws, 600.0) is None
    assert await ledger.settle("h", draws, [Spend(id="s", at=1.0, nano=5)])
    asks = [Ask("rate", 5.0, 10.0, 60.0, 10.0), Ask("slot", 1.0, 3.0)]
    assert (await limits.take("t", asks, 600.0)).refused is None
    assert (await limits.take("t2", asks, 600.0)).refused is None
    assert await limits.settle("t", {"rate": 2.0})
    await limits.reset(["other"])
    await state.breakers("n").trip("k", Trip(60.0, 2))
    await state.cache("n", max_entries=1, max_bytes=1).put(b"k", ENTRY, 60.0)
    await queue.put(Item(id="i", payload=b"p", order="o", expires_in=600.0))
    await queue.put(Item(id="j", payload=b"p", delay=60.0))
    (leased,) = await queue.lease("w")
    assert await queue.done(leased.id, leased.token)
    assert await queue.forget(0.0) == 1


async def test_scripts_that_the_server_has_forgotten_are_sent_again(
    harness: Any, server: RedisServer
) -> None:
    for _ in range(2):
        server.ask("SCRIPT", "FLUSH")
        await use(await harness.open())
    server.ask("SCRIPT", "FLUSH")
    state = await harness.open()
    ledger = state.ledger("n")
    granted = [ledger.reserve(f"h{number}", [Draw("a", 0, 1, limit=10)], 60.0) for number in range(64)]
    assert (await asyncio.gather(*granted)).count(None) == 10


async def test_every_script_is_one_that_this_server_compiles(server: RedisServer) -> None:
    names = [path.stem for path in SCRIPTS.glob("*.lua")]
    assert len(names) > 20
    for name in names:
        if not name.startswith("_"):
            text = lua.script(name).text
            assert server.ask("SCRIPT", "LOAD", text).split(b"\r\n")[1] == lua.script(name).sha


def test_no_script_uses_what_redis_6_2_lacks() -> None:
    newer = re.compile(r"'(NX|XX|GT|LT|EXPIRETIME|PEXPIRETIME|ZMPOP|LMPOP|SINTERCARD|HEXPIRE|FUNCTION)'")
    used = {path.stem: set(newer.findall(path.read_text())) for path in SCRIPTS.glob("*.lua")}
    assert {name: words for name, words in used.items() if words} == {"settle": {"NX"}}  # ZADD's, of 3.0.2


# What has no expiry, for its life has no bound: balances are kept for their hold, items until they are done.
LASTING = re.compile(r":ledger:n\}(holds|journal|lines|hold:late)$|:queue:n\}|\}:format$")


async def test_keys_whose_life_is_bounded_expire(harness: Any, server: RedisServer, opened: Any) -> None:
    state = await harness.open()
    await use(state)
    prefix = state.settings.prefix
    _, keys = await state.link().ask(
        (b"SCAN", b"0", b"MATCH", b"{%b:*" % prefix.encode(), b"COUNT", b"100000")
    )
    lives = {key.decode(): await state.link().ask((b"PTTL", key)) for key in keys}
    assert len(lives) > 15
    for key, life in lives.items():
        if LASTING.search(key):
            assert life == -1, key
        else:
            assert 0 < life < 40 * 86_400_000, key
    # And what is over leaves nothing: slots that nobody holds, buckets that are full, circuits that closed.
    await state.limits("n").settle("t2", {"rate": 0.0})
    await state.limits("n").reset(["rate"])
    await state.breakers("n").close("k")
    for key in (b"limits:n}slots", b"limits:n}leases", b"limits:n}rate:rate", b"breakers:n}open"):
        assert await state.link().ask((b"EXISTS", b"{%b:%b" % (prefix.encode(), key))) == 0


async def test_a_balance_is_kept_as_long_as_a_hold_needs_it(harness: Any) -> None:
    state = await harness.open()
    ledger = state.ledger("n")
    await ledger.reserve("long", [Draw("a", 0, 5, ends=60.0)], 30 * 86_400.0)
    await ledger.settle("short", [Draw("a", 0, 1, ends=60.0)])
    life = await state.link().ask((b"PTTL", state.settings.base("ledger", "n").encode() + b"sum:0|a"))
    assert life > 30 * 86_400_000
    await ledger.settle("for good", [Draw("a", 0, 1)])
    life = await state.link().ask((b"PTTL", state.settings.base("ledger", "n").encode() + b"sum:0|a"))
    assert life == -1


async def test_a_lost_balance_is_never_below_nothing(harness: Any) -> None:
    state = await harness.open()
    ledger = state.ledger("n")
    await ledger.reserve("h", [Draw("a", 0, 5)], 600.0)
    await state.link().ask((b"DEL", state.settings.base("ledger", "n").encode() + b"sum:0|a"))
    await ledger.settle("h", [Draw("a", 0, 3)])
    assert await ledger.balances([("a", 0)]) == [Balance(3, 0)]


async def test_what_was_likely_is_not_taken_back_from_a_lost_balance(harness: Any) -> None:
    """Neither when it settles nor when it opens again: below 0 there would be room beyond the limit."""
    state = await harness.open()
    ledger = state.ledger("n")
    key = state.settings.base("ledger", "n").encode() + b"sum:0|a"
    for name in ("late", "again"):
        await ledger.reserve(name, [Draw("a", 0, 80, 1000, likely=60)], 60.0)
    await harness.pass_time(61.0)
    assert await ledger.sweep() == 2
    await state.link().ask((b"DEL", key))
    assert await ledger.settle("late", [Draw("a", 0, 7)])
    assert await ledger.balances([("a", 0)]) == [Balance(7, 0)]
    await state.link().ask((b"DEL", key))
    assert await ledger.reserve("again", [Draw("a", 0, 101, 100, likely=60)], 60.0) is not None
    assert await ledger.reserve("again", [Draw("a", 0, 100, 100, likely=60)], 60.0) is None
    assert await ledger.balances([("a", 0)]) == [Balance(0, 100)]
    # What somebody has paid back on purpose is below 0 all the same.
    await ledger.settle("again", [Draw("a", 0, -5)])
    assert await ledger.balances([("a", 0)]) == [Balance(-5, 0)]


async def test_a_hold_that_opens_again_is_charged_the_most_that_was_ever_likely(harness: Any) -> None:
    ledger = (await harness.open()).ledger("n")
    for likely, charged in ((20, 20), (50, 50), (10, 50)):
        assert await ledger.reserve("h", [Draw("a", 0, 80, likely=likely)], 60.0) is None
        assert await ledger.balances([("a", 0)]) == [Balance(0, 80)]
        await harness.pass_time(61.0)
        assert await ledger.sweep() == 1
        assert await ledger.balances([("a", 0)]) == [Balance(charged, 0)]
    assert await ledger.settle("h", [Draw("a", 0, 30)])
    assert await ledger.balances([("a", 0)]) == [Balance(30, 0)]


async def test_a_queue_that_was_emptied_leaves_its_counters_and_nothing_else(harness: Any) -> None:
    """However many orders there were: what is kept of one goes with the last of its items."""
    state = await harness.open()
    queue = state.queue("n")
    for number in range(9):
        await queue.put(Item(id=f"i{number}", payload=b"p", order=f"o{number % 3}", attempts=1))
    while leased := await queue.lease("w", count=9, seconds=60.0):
        for place, item in enumerate(leased):
            if place == 0:
                assert await queue.done(item.id, item.token, b"r")
            elif place == 1:
                assert await queue.fail(item.id, item.token, "no")
        await harness.pass_time(61.0)  # the third lease of each three ends by itself
    assert await queue.forget(0.0) == 9
    base = state.settings.base("queue", "n").encode()
    assert await state.link().ask((b"KEYS", b"\\" + base + b"*")) == [base + b"counts"]
    assert (await queue.counts()).bytes == 0


async def test_no_clock_of_this_machine_is_asked(harness: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    state, other = await harness.open(), await harness.reopen()
    await state.check()

    def jumping() -> float:
        raise AssertionError("the wall clock of a client says nothing")

    monkeypatch.setattr(time, "time", jumping)
    await use(state)
    # Two machines, one of which thinks it is another day: one bucket all the same.
    asks = [Ask("shared", 1.0, 4.0, 36_000.0, 4.0)]
    taken = [
        await side.limits("n").take(f"x{turn}", asks, 60.0) for turn, side in enumerate([state, other] * 4)
    ]
    monkeypatch.undo()
    assert [one.refused for one in taken] == [None] * 4 + [0] * 4


async def test_money_is_exact_up_to_what_a_double_holds_and_refused_beyond(harness: Any) -> None:
    ledger = (await harness.open()).ledger("n")
    most = 2**53
    assert await ledger.reserve("h", [Draw("a", 0, most - 1, limit=most)], 600.0) is None
    assert await ledger.settle("h", [Draw("a", 0, most - 1)])
    short = await ledger.reserve("h2", [Draw("a", 0, 2, limit=most)], 600.0)
    assert short is not None
    assert (short.spent, short.held) == (most - 1, 0)
    assert await ledger.reserve("h2", [Draw("a", 0, 1, limit=most)], 600.0) is None
    await ledger.settle("h3", [Draw("b", 0, most), Draw("b", 1, 1)])
    await ledger.settle("h4", [Draw("b", 0, most)])
    assert await ledger.balances([("b", 0), ("b", 1)]) == [Balance(2 * most), Balance(1)]
    for draw in (Draw("a", 0, most + 1), Draw("a", 0, 1, limit=most + 1), Draw("a", 0, 1, likely=most + 1)):
        with pytest.raises(ValueError, match=r"2\*\*53"):
            await ledger.reserve("h5", [draw], 600.0)
    with pytest.raises(ValueError, match=r"2\*\*53"):
        await ledger.settle("h5", [Draw("a", 0, most + 1)])


async def test_a_journal_keeps_its_last_lines(server: RedisServer, opened: Any) -> None:
    state = opened(f"{server.url}?prefix=short-journal&timeout=10&lines=5")
    ledger = state.ledger("n")
    for number in range(40):
        row = Spend(id=f"s{number:02}", at=float(number), nano=1)
        await ledger.settle(f"h{number}", [], [row])
    assert [row.id for row in await ledger.spends()] == ["s35", "s36", "s37", "s38", "s39"]


async def test_a_journal_keeps_to_its_bound_however_many_lines_come_at_once(
    server: RedisServer, opened: Any
) -> None:
    for lines in (70, 40):  # of one that is longer than allowed from now on, what is too much goes in steps
        ledger = opened(f"{server.url}?prefix=long-steps&timeout=10&lines={lines}").ledger("n")
        for number in range(10):
            rows = [Spend(id=f"{lines}-{number}-{row:02}", at=9.0, nano=1) for row in range(25)]
            await ledger.settle(f"h{lines}-{number}", [], rows)
        assert len(await ledger.spends()) == lines


async def test_a_damaged_entry_is_a_miss(harness: Any, caplog: pytest.LogCaptureFixture) -> None:
    state = await harness.open()
    cache = state.cache("n", max_entries=1, max_bytes=1)
    await cache.put(b"k", ENTRY, 60.0)
    key = state.settings.base("cache", "n").encode() + b"k"
    whole = await state.link().ask((b"GET", key))
    for damaged in (b"", b"x", whole[:16], whole[:-1], whole[:-1] + b"\x00", whole[:40] + b"!" + whole[41:]):
        await state.link().ask((b"SET", key, damaged))
        assert await cache.get(b"k") is None
    await state.link().ask((b"RENAME", key, key + b"2"))
    await state.link().ask((b"SET", key + b"2", whole))
    assert await cache.get(b"k2") is None  # whole, but of another key
    await cache.put(b"k", ENTRY, 60.0)
    assert (await cache.get(b"k") or [None])[0] == ENTRY


async def test_clearing_a_cache_leaves_what_is_not_its_own(server: RedisServer, opened: Any) -> None:
    state, other = (opened(f"{server.url}?prefix={name}&timeout=10") for name in ("a%5B*%5D", "a*"))
    caches = [state.cache("n", max_entries=1, max_bytes=1), state.cache("m", max_entries=1, max_bytes=1)]
    caches.append(other.cache("n", max_entries=1, max_bytes=1))
    for cache in caches:
        for number in range(1500):
            await cache.put(b"%d" % number, ENTRY, 60.0)
    await caches[0].clear()
    assert [await cache.get(b"7") is None for cache in caches] == [True, False, False]
    assert [await cache.get(b"1499") is None for cache in caches] == [True, False, False]


async def test_who_is_in_the_middle_of_several_commands_when_it_is_closed_goes_on_to_the_end(
    server: RedisServer, opened: Any, caplog: pytest.LogCaptureFixture
) -> None:
    state = opened(f"{server.url}?prefix=closed&timeout=20")
    cache = state.cache("n", max_entries=1, max_bytes=1)
    for number in range(20):
        await cache.put(b"%d" % number, ENTRY, 60.0)
    link, before = state.link(), state.link().ask
    begun = asyncio.Event()

    async def slowly(*command: Any) -> Any:
        begun.set()
        await asyncio.sleep(0.01)
        return await before(*command)

    link.ask = slowly
    clearing, checking = asyncio.create_task(cache.clear()), asyncio.create_task(state.check())
    await begun.wait()
    await state.aclose()
    await asyncio.gather(clearing, checking)
    assert [await cache.get(b"%d" % number) for number in range(20)] == [None] * 20
    assert caplog.records == []
    assert link._idle == []


def test_each_event_loop_has_connections_of_its_own(server: RedisServer) -> None:  # F95
    state = open_redis(f"{server.url}?prefix=loops&timeout=10")
    before = clients(server)

    async def one(turn: int) -> None:
        takes = [state.limits("n").levels([Ask("k", 1.0, 5.0)]) for _ in range(20)]
        assert await asyncio.gather(*takes) == [(Level(5.0, 0.0),)] * 20
        await state.aclose()

    for turn in range(5):
        asyncio.run(one(turn))
    gc.collect()
    assert clients(server) == before


def test_loops_that_are_over_leave_no_connection_though_nobody_closed_them(server: RedisServer) -> None:
    state = open_redis(f"{server.url}?prefix=gone&timeout=10")
    before = clients(server)

    async def one() -> None:
        assert await state.breakers("n").read() == {}

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)  # which is right: nobody closed them
        for _ in range(10):
            asyncio.run(one())
            gc.collect()
        assert clients(server, before + 1) == before + 1
        asyncio.run(state.aclose())
        gc.collect()
        assert clients(server, before) == before


def clients(server: RedisServer, wanted: int = 0) -> int:
    """How many connections the server has, without the one that asks."""
    for _ in range(100):  # it learns of closed ones in its own time
        count = server.ask("CLIENT", "LIST").count(b" addr=127.0.0.1") - 1
        if count == wanted:
            break
        time.sleep(0.01)
    return count


async def test_there_are_never_more_connections_than_said(server: RedisServer, opened: Any) -> None:
    state = opened(f"{server.url}?prefix=bounded&timeout=10&connections=3")
    name = b"bounded-test"
    most = 0

    async def one(number: int) -> None:
        nonlocal most
        await state.link().ask((b"CLIENT", b"SETNAME", name))
        most = max(most, (await state.link().ask((b"CLIENT", b"LIST"))).count(b"name=" + name))

    await asyncio.gather(*[one(number) for number in range(100)])
    assert most == 3


async def test_rediss_is_encrypted_and_believes_no_stranger(
    server: RedisServer, listen: Any, opened: Callable[[str], RedisState], tmp_path: Path
) -> None:
    authority = trustme.CA()
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("localhost").configure_cert(context)
    seen: list[bytes] = []

    async def ends(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there, back = await asyncio.open_connection("127.0.0.1", server.port)
        try:
            while data := await reader.read(65536):
                seen.append(data)
                back.write(data)
                writer.write(await there.read(65536))
        finally:
            back.transport.abort()

    port = await listen(ends, context)
    ca = tmp_path / "ca.pem"
    authority.cert_pem.write_to_path(str(ca))
    state = opened(f"rediss://localhost:{port}/0?prefix=tls&timeout=10&ca={ca}")
    assert await state.limits("n").levels([Ask("k", 1.0, 5.0)]) == (Level(5.0, 0.0),)
    assert seen
    seen.clear()
    for stranger in (
        f"rediss://localhost:{port}/0?timeout=10",
        f"rediss://127.0.0.1:{port}/0?timeout=10&ca={ca}",
    ):
        with pytest.raises(StoreUnavailable, match="out of reach"):
            await opened(stranger).limits("n").levels([Ask("k", 1.0, 5.0)])
    assert seen == []


async def test_a_check_warns_where_redis_may_throw_budgets_away(
    own_server: RedisServer, opened: Any, caplog: pytest.LogCaptureFixture
) -> None:
    state = opened(f"{own_server.url}?timeout=5")
    await state.check()
    assert not caplog.records
    own_server.ask("CONFIG", "SET", "maxmemory-policy", "allkeys-lru")
    await state.check()
    assert ["noeviction keeps them" in record.message for record in caplog.records] == [True]
