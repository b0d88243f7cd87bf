"""A Redis that fails: how long anybody waits, what is said, and that all goes on when it is back."""

from __future__ import annotations

import asyncio
import logging
import re
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from llmpipe.errors import StoreDamaged, StoreUnavailable
from llmpipe.state import Ask, Balance, Draw, Entry, Item, Trip
from llmpipe.testing.servers.redis import RedisServer
from llmpipe.types import Completion, Message
from llmpipe_redis import RedisState

pytestmark = pytest.mark.real_time

ASK = Ask("k", 1.0, 1e9, 1.0, 1e9)
ENTRY = Entry(Completion(message=Message("assistant", "hi"), finish_reason="stop"))
OPERATIONS: dict[str, Callable[[RedisState], Awaitable[Any]]] = {
    "take": lambda state: state.limits("n").take("t", [ASK], 60.0),
    "settle": lambda state: state.ledger("n").settle("h", [Draw("a", 0, 5)]),
    "reserve": lambda state: state.ledger("n").reserve("h2", [Draw("a", 0, 5)], 60.0),
    "put": lambda state: state.queue("n").put(Item(id="i", payload=b"p")),
    "trip": lambda state: state.breakers("n").trip("k", Trip(60.0)),
}


async def back(state: RedisState) -> None:
    """Wait until the state is answered again, without telling it that it could be."""
    async with asyncio.timeout(30):
        while True:
            try:
                await state.breakers("n").read()
            except StoreUnavailable:
                await asyncio.sleep(0.02)
            else:
                return


def closed_port() -> int:
    """A port on which nobody listens."""
    import socket

    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


@pytest.mark.parametrize("name", sorted(OPERATIONS))
async def test_where_nobody_listens_an_operation_is_refused_and_the_next_one_at_once(
    name: str, opened: Any
) -> None:
    state = opened(f"redis://:secret-word@127.0.0.1:{closed_port()}/0")
    with pytest.raises(StoreUnavailable, match="out of reach") as caught:
        await OPERATIONS[name](state)
    assert caught.value.retry_after is not None
    assert 0 < caught.value.retry_after <= 0.05
    state.link()._refuse_until += 60.0  # however long this machine takes until the next
    with pytest.raises(StoreUnavailable, match="left alone") as refused:
        await OPERATIONS[name](state)
    assert refused.value.retry_after is not None
    assert 0 < refused.value.retry_after <= 60.05
    error: BaseException | None = caught.value
    while error is not None:
        assert "secret-word" not in f"{error!r} {error}"
        error = error.__cause__ or error.__context__
    assert "secret-word" not in f"{state!r}{state.settings!r}"


async def test_a_frozen_redis_holds_nobody_longer_than_the_timeout_and_recovery_needs_nobody(
    own_server: RedisServer, opened: Any
) -> None:
    timeout = 1.0
    state = opened(f"{own_server.url}?timeout={timeout}&connections=8")
    limits = state.limits("n")
    waits: list[float] = []
    outcomes: list[str] = []
    stop = asyncio.Event()

    async def worker(number: int) -> None:
        turn = 0
        while not stop.is_set():
            turn += 1
            began = time.perf_counter()
            try:
                await limits.take(f"{number}-{turn}", [ASK], 60.0)
                outcomes.append("ok")
            except StoreUnavailable as error:
                outcomes.append("refused" if "left alone" in str(error) else "late")
                await asyncio.sleep(0.005)
            waits.append(time.perf_counter() - began)

    async def until(outcome: str, count: int) -> None:
        async with asyncio.timeout(60):
            while outcomes.count(outcome) < count:
                await asyncio.sleep(0.01)

    workers = [asyncio.create_task(worker(number)) for number in range(32)]
    await until("ok", 100)
    own_server.pause()
    await until("late", 1)
    await asyncio.sleep(2 * timeout)  # those who asked before it was paused have given up as well
    outcomes.clear()
    began = time.perf_counter()
    await until("late", 2)
    await until("refused", 100)
    # Nobody waits but those who try whether it is back, one at a time.
    assert outcomes.count("ok") == 0
    assert outcomes.count("late") <= 1 + (time.perf_counter() - began) / timeout
    own_server.resume()
    outcomes.clear()
    await until("ok", 100)
    stop.set()
    await asyncio.gather(*workers)
    assert max(waits) < timeout + 3.0  # three seconds for a machine that has other things to do


async def test_what_was_settled_and_accepted_outlives_a_kill_with_appendonly_always(
    own_server: RedisServer, opened: Any
) -> None:
    state = opened(f"{own_server.url}?timeout=5")
    ledger, queue = state.ledger("n"), state.queue("n")
    accepted: list[str] = []
    settled = 0
    for number in range(200):
        assert await ledger.reserve(f"h{number}", [Draw("a", 0, 10, limit=10**6)], 600.0) is None
        assert await ledger.settle(f"h{number}", [Draw("a", 0, 7)])
        settled += 7
        assert await queue.put(Item(id=f"i{number}", payload=b"x"))
        accepted.append(f"i{number}")
    await ledger.reserve("open", [Draw("a", 0, 3)], 600.0)
    (leased,) = await queue.lease("w")
    own_server.kill()
    with pytest.raises(StoreUnavailable):
        await ledger.balances([("a", 0)])
    own_server.start()
    await back(state)
    assert await ledger.balances([("a", 0)]) == [Balance(settled, 3)]
    assert await ledger.settle("h7", [Draw("a", 0, 7)]) is False
    assert await ledger.settle("open", [])
    assert await queue.done(leased.id, leased.token)
    rest = [item.id for item in await queue.lease("w", count=1000)]
    assert [leased.id, *rest] == accepted


async def test_idle_connections_that_a_restart_has_closed_fail_nobody(
    own_server: RedisServer, opened: Any
) -> None:
    state = opened(f"{own_server.url}?timeout=5&connections=8")
    await asyncio.gather(*[state.breakers("n").read() for _ in range(50)])
    own_server.restart()
    await asyncio.gather(*[state.breakers("n").read() for _ in range(50)])


async def test_a_replica_refuses_until_it_is_the_master(own_server: RedisServer, opened: Any) -> None:
    state = opened(f"{own_server.url}?timeout=5")
    await state.limits("n").take("t", [ASK], 60.0)
    own_server.ask("REPLICAOF", "127.0.0.1", str(closed_port()))
    with pytest.raises(StoreUnavailable, match="is a replica"):
        await state.limits("n").take("t2", [ASK], 60.0)
    own_server.ask("REPLICAOF", "NO", "ONE")
    await back(state)
    await state.limits("n").take("t2", [ASK], 60.0)


@pytest.mark.parametrize("name", sorted({*OPERATIONS} - {"settle"}))
async def test_a_full_redis_refuses_and_goes_on_when_there_is_room(
    own_server: RedisServer, name: str, opened: Any
) -> None:
    state = opened(f"{own_server.url}?timeout=5")
    own_server.ask("CONFIG", "SET", "maxmemory", "1")
    for _ in range(2):  # it answers, so it is not left alone
        with pytest.raises(StoreUnavailable, match="maxmemory"):
            await OPERATIONS[name](state)
    # What was spent is kept all the same: Redis refuses only a script whose first change needs room.
    assert await state.ledger("n").settle(f"for {name}", [Draw("a", 0, 5)])
    own_server.ask("CONFIG", "SET", "maxmemory", "0")
    await OPERATIONS[name](state)


async def test_a_user_who_may_not_is_told_so(own_server: RedisServer, opened: Any) -> None:
    own_server.ask("ACL", "SETUSER", "bob", "on", ">word", "~*", "+@all", "-@scripting")
    state = opened(own_server.url.replace("//", "//bob:word@"))
    with pytest.raises(StoreUnavailable, match="permit"):
        await state.limits("n").take("t", [ASK], 60.0)
    own_server.ask("ACL", "SETUSER", "eve", "on", ">word", "~other", "+@all")
    with pytest.raises(StoreUnavailable, match="permit"):
        await opened(own_server.url.replace("//", "//eve:word@")).limits("n").take("t", [ASK], 60.0)
    own_server.ask("ACL", "SETUSER", "tom", "on", ">word", "~*", "+@all", "-time")
    with pytest.raises(StoreUnavailable, match="permit"):
        await opened(own_server.url.replace("//", "//tom:word@")).limits("n").take("t", [ASK], 60.0)
    wrong = opened(own_server.url.replace("//", "//bob:wrong-word@"))
    with pytest.raises(StoreUnavailable, match="refuses user name and password") as caught:
        await wrong.limits("n").take("t", [ASK], 60.0)
    assert "wrong-word" not in str(caught.value)


async def test_what_the_readme_says_a_user_needs_is_enough(own_server: RedisServer, opened: Any) -> None:
    readme = (Path(__file__).parents[1] / "README.md").read_text()
    needs = re.search(r"The user needs `(.*?)`\s+on\s+`(.*?)` and `(.*?)`", readme)
    assert needs is not None
    rights, *patterns = needs.groups()
    keys = [pattern.replace("prefix", "llmpipe") for pattern in patterns]
    own_server.ask("ACL", "SETUSER", "bob", "on", ">word", *keys, *rights.split())
    state = opened(own_server.url.replace("//", "//bob:word@").replace("/0", "/1") + "?timeout=5")
    await state.check()
    for operation in OPERATIONS.values():
        await operation(state)
    cache = state.cache("n", max_entries=1, max_bytes=1)
    await cache.put(b"k", ENTRY, 60.0)
    assert await cache.get(b"k") is not None
    await cache.clear()
    assert await cache.get(b"k") is None
    await state.breakers("n").close("k")


async def test_a_key_that_is_something_else_is_damage_and_nothing_changes(
    own_server: RedisServer, opened: Any
) -> None:
    state = opened(f"{own_server.url}?timeout=5")
    own_server.ask("SET", "{llmpipe:ledger:n}sum:0|bad", "text")
    ledger = state.ledger("n")
    draws = [Draw("good", 0, 5), Draw("bad", 0, 5)]
    with pytest.raises(StoreDamaged, match="another type"):
        await ledger.reserve("h", draws, 60.0)
    with pytest.raises(StoreDamaged, match="another type"):
        await ledger.settle("h", draws)
    assert await ledger.balances([("good", 0)]) == [Balance()]
    assert await ledger.holds() == []
    own_server.ask("SET", "{llmpipe}:format", "2")
    with pytest.raises(StoreDamaged, match="newer"):
        await state.check()


@pytest.mark.parametrize(
    ("answer", "error", "match", "alone"),
    [
        (b"-LOADING Redis is loading the dataset in memory\r\n", StoreUnavailable, "loading", True),
        (b"-MISCONF Redis is configured to save RDB snapshots\r\n", StoreUnavailable, "save", False),
        (b"-BUSY Redis is busy running a script.\r\n", StoreUnavailable, "busy", True),
        (b"-MOVED 3999 127.0.0.1:6381\r\n", StoreUnavailable, "cluster", False),
        (b"-CLUSTERDOWN The cluster is down\r\n", StoreUnavailable, "cluster", True),
        (b"-MASTERDOWN Link with MASTER is down\r\n", StoreUnavailable, "master", True),
        (b"-NOREPLICAS Not enough good replicas to write.\r\n", StoreUnavailable, "replicas", False),
        (b"-NOAUTH Authentication required.\r\n", StoreUnavailable, "password", True),
        (b"-ERR max number of clients reached\r\n", StoreUnavailable, "out of reach", True),
        (b"-ERR Error running script (call to f_0): @user_script:9: -OOM command not allowed\r\n",
         StoreUnavailable, "maxmemory", False),
        (b"-ERR Error running script (call to f_0): @user_script:9: attempt to compare nil with number\r\n",
         StoreDamaged, "cannot be read", False),
        (b"-ERR unknown command `EVALSHA`\r\n", StoreUnavailable, "unknown command", False),
        (b"HTTP/1.1 400 Bad Request\r\n", StoreUnavailable, "does not speak", True),
        (b"$what\r\n", StoreUnavailable, "does not speak", True),
        (b":" + b"1" * 200_000, StoreUnavailable, "does not speak", True),
        (b"", StoreUnavailable, "out of reach", True),  # closed without a word
        (b"$100\r\nabc", StoreUnavailable, "out of reach", True),  # closed amid an answer
    ],
)  # fmt: skip
async def test_every_answer_that_is_none_has_a_type_of_its_own(
    listen: Any, answer: bytes, error: type[Exception], match: str, alone: bool, opened: Any
) -> None:
    async def answers(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(65536):
            if b"SETINFO" in data:  # what redis-py says of itself first
                writer.write(b"-ERR unknown subcommand\r\n" * data.count(b"SETINFO"))
                continue
            writer.write(answer)
            if not answer.startswith(b"-"):
                await writer.drain()
                break

    state = opened(f"redis://127.0.0.1:{await listen(answers)}/0?timeout=5")
    with pytest.raises(error, match=match):
        await state.limits("n").take("t", [ASK], 60.0)
    state.link()._refuse_until += 60.0  # however long this machine takes until the next
    with pytest.raises(StoreUnavailable) as again:
        await state.limits("n").take("t", [ASK], 60.0)
    assert ("left alone" in str(again.value)) is alone


async def test_a_cache_without_its_redis_misses_and_says_so_once_for_each_outage(
    own_server: RedisServer, caplog: pytest.LogCaptureFixture, opened: Any
) -> None:
    state = opened(f"{own_server.url}?timeout=5")
    cache = state.cache("n", max_entries=1, max_bytes=1)
    await cache.put(b"k", ENTRY, 60.0)
    for _ in range(2):
        own_server.kill()
        caplog.clear()
        for _ in range(20):
            assert await cache.get(b"k") is None
            await cache.put(b"k2", ENTRY, 60.0)
            assert await cache.delete(b"k") is False
        said = [record for record in caplog.records if record.levelno >= logging.WARNING]
        assert sum("cache misses" in record.message for record in said) == 1
        assert len(said) == 2  # and the store's own line
        own_server.start()
        await back(state)
        found = await cache.get(b"k")
        assert found is not None
        assert found[0] == ENTRY


async def test_one_who_finds_much_that_is_over_waits_no_longer_than_the_timeout_for_its_end(
    server: RedisServer, listen: Any, opened: Any
) -> None:
    """Each turn ends 250 holds, and takes 0.3 s here: five turns do not fit into one second."""
    delay = 0.0

    async def distant(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there, back = await asyncio.open_connection("127.0.0.1", server.port)

        async def forth() -> None:
            while data := await reader.read(65536):
                back.write(data)

        forwarding = asyncio.create_task(forth())
        try:
            while data := await there.read(65536):
                await asyncio.sleep(delay)
                writer.write(data)
        finally:
            forwarding.cancel()
            back.transport.abort()

    near = opened(f"{server.url}?prefix=distant&timeout=20")
    ledger, draws = near.ledger("n"), [Draw("a", 0, 1, 1000)]
    await asyncio.gather(*[ledger.reserve(f"h{number}", draws, 30.0) for number in range(1000)])
    far = opened(f"redis://127.0.0.1:{await listen(distant)}/0?prefix=distant&timeout=1")
    near.ahead = far.ahead = 60.0
    await far.breakers("n").read()
    delay = 0.3
    with pytest.raises(StoreUnavailable, match="in 1 s"):
        await far.ledger("n").reserve("more", draws, 60.0)
    delay = 0.0
    await back(far)
    assert await far.ledger("n").reserve("more", draws, 60.0) is None
    assert await ledger.sweep() == 0  # what was done of it in that second stays done


async def test_a_failing_redis_is_tried_again_ever_more_seldom(listen: Any, opened: Any) -> None:
    tries: list[float] = []

    async def closes(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        tries.append(asyncio.get_running_loop().time())

    state = opened(f"redis://127.0.0.1:{await listen(closes)}/0")
    waits: list[float] = []
    for _ in range(9):
        with pytest.raises(StoreUnavailable) as caught:
            await state.breakers("n").read()
        assert caught.value.retry_after is not None
        waits.append(caught.value.retry_after)
        state.link()._refuse_until = 0.0  # time has passed
    assert len(tries) == 9
    for wait, longest in zip(waits, [0.05, 0.1, 0.2, 0.4, 0.8, 1.5, 1.5, 1.5, 1.5], strict=True):
        assert 0.74 * longest <= wait <= longest


async def test_many_that_fail_together_are_one_failure(listen: Any, opened: Any) -> None:
    async def closes(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await asyncio.sleep(0.05)

    state = opened(f"redis://127.0.0.1:{await listen(closes)}/0?connections=64&timeout=10")
    errors = await asyncio.gather(*[state.breakers("n").read() for _ in range(64)], return_exceptions=True)
    assert all(isinstance(error, StoreUnavailable) for error in errors)
    assert state.link()._outage == 1
