"""The rest of the kit: seeded runtimes, no network, traces of chains, leak checks."""

from __future__ import annotations

import asyncio
import socket
from typing import Any, cast

import aiohttp
import pytest

import llmpipe.testing
from llmpipe.errors import RateLimited
from llmpipe.pipeline.call import Call
from llmpipe.pipeline.chain import Chain
from llmpipe.pipeline.function import layer
from llmpipe.pipeline.linker import Handler
from llmpipe.providers.mock import MockProvider
from llmpipe.testing import (
    NetworkUsed,
    ScriptedProvider,
    VirtualTimeLoop,
    assert_explain,
    no_leaks,
    no_network,
    recorded,
    seeded_runtime,
)
from tests.testing.test_conform import returning

# ------------------------------------------------------------ the face


def test_every_name_loads_and_the_list_is_sorted():
    assert list(llmpipe.testing.__all__) == sorted(llmpipe.testing.__all__)
    for name in llmpipe.testing.__all__:
        assert getattr(llmpipe.testing, name) is not None
    assert set(llmpipe.testing.__all__) <= set(dir(llmpipe.testing))
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        llmpipe.testing.nothing  # noqa: B018  it is the looking up that fails


async def test_conform_is_the_function_whichever_way_it_was_imported():
    """A module of the same name is found first, once somebody has imported it."""
    from importlib import import_module

    from llmpipe.testing import conform

    module = cast("Any", import_module("llmpipe.testing.conform"))
    for form in (module, conform, module.conform):
        report = await form(returning, only="full/ok/read")
        assert report.calls
    assert module.LAWS is llmpipe.testing.LAWS


async def test_conform_is_a_fixture_too(conform: Any):
    assert (await conform(returning, only="full/ok/read")).calls


def test_a_scripted_provider_is_the_mock():
    assert ScriptedProvider is MockProvider


# ------------------------------------------------------------ seeded runtimes


def test_a_seeded_runtime_repeats_itself():
    one, two = seeded_runtime(3), seeded_runtime(3)
    assert [one.new_id(), one.random.random()] == [two.new_id(), two.random.random()]
    assert one.wall() == two.wall() == 1_750_000_000.0


async def test_its_wall_clock_goes_with_the_loops():
    runtime = seeded_runtime(3, wall_start=100.0)
    began = runtime.wall()
    await asyncio.sleep(3600)
    assert runtime.wall() - began == 3600.0


# ------------------------------------------------------------ no network


@pytest.mark.real_time
async def test_nothing_outside_this_machine_is_reached_and_loopback_is():
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi")
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    with no_network():
        async with aiohttp.ClientSession() as session:
            for host in ("127.0.0.1", "localhost"):
                async with session.get(f"http://{host}:{port}/") as response:
                    assert await response.text() == "hi"
            for url in ("http://192.0.2.1/", "http://example.com/", "http://[2001:db8::1]/"):
                with pytest.raises(NetworkUsed, match="the network is closed"):
                    await session.get(url)
    server.close()
    await server.wait_closed()


def test_every_way_out_is_closed_and_opened_again():
    before = socket.socket.connect, socket.socket.connect_ex, socket.socket.sendto, socket.getaddrinfo
    with no_network():
        with socket.socket() as used:
            with pytest.raises(NetworkUsed, match=r"'192\.0\.2\.1' is not this machine"):
                used.connect(("192.0.2.1", 80))
            with pytest.raises(NetworkUsed):
                used.connect_ex(("192.0.2.1", 80))
            assert used.connect_ex(("127.0.0.1", 1)) != 0
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as used:
            with pytest.raises(NetworkUsed):
                used.sendto(b"x", ("192.0.2.1", 53))
            assert used.sendto(b"x", ("127.0.0.1", 9)) == 1
        with pytest.raises(NetworkUsed):
            socket.getaddrinfo(b"example.com", 443)
        assert socket.getaddrinfo("localhost", 80)
        assert socket.getaddrinfo(None, 80)
        left, right = socket.socketpair()
        left.close()
        right.close()
    after = socket.socket.connect, socket.socket.connect_ex, socket.socket.sendto, socket.getaddrinfo
    assert after == before


# ------------------------------------------------------------ traces


def a_chain(*script: Any) -> Chain:
    @layer(priority=700)
    async def again(call: Call, call_next: Handler):
        try:
            return await call_next(call)
        except RateLimited:
            return await call_next(call)

    @layer(priority=100)
    async def watch(call: Call, call_next: Handler):
        yield await call_next(call)

    return Chain(MockProvider(script), again, watch, runtime=seeded_runtime(1))


async def test_a_recording_tells_who_ran_in_which_order_and_how_it_ended():
    recording = recorded(a_chain(RateLimited("slow"), "hello"))
    assert (await recording.chain.complete("x")).text == "hello"
    assert recording.log == [
        "watch in",
        "again in",
        "mock in",
        "mock raised RateLimited",
        "mock in",
        "mock out",
        "again out",
        "watch out",
        "mock ok",
        "again ok",
        "watch ok",
    ]
    assert recording.order == ["watch", "again", "mock", "mock"]


async def test_a_recording_of_an_abandoned_stream_and_of_a_failure():
    recording = recorded(a_chain("hello", RateLimited("1"), RateLimited("2")))
    async with recording.chain.stream("x"):
        pass
    assert recording.log[-3:] == ["mock abandoned", "again abandoned", "watch abandoned"]
    with pytest.raises(RateLimited):
        await recording.chain.complete("x")
    assert recording.log[-2:] == ["again raised RateLimited", "watch raised RateLimited"]


async def test_a_recording_leaves_the_chain_as_it_was_and_can_skip_the_same_names():
    chain = a_chain("hello")
    recording = recorded(chain)
    assert recording.chain.runtime is chain.runtime
    assert [layer.name for layer in chain.middleware] == ["watch", "again"]
    await recording.chain.complete("x", without=["again"])
    assert recording.order == ["watch", "again", "mock"]


def test_the_order_of_a_chain_can_be_asserted():
    chain = a_chain()
    for names in (
        ["watch", "again"],
        [...],
        [..., "again"],
        ["watch", ...],
        [..., "watch", ..., "again", ...],
    ):
        assert_explain(chain, names)
    for names in ([], ["watch"], ["again", "watch"], [..., "watch"], ["watch", "again", "more"]):
        with pytest.raises(AssertionError, match="the order is not as it should be"):
            assert_explain(chain, names)
    with pytest.raises(AssertionError, match=r"wanted: again, \.\.\.\n  is:     watch, again"):
        assert_explain(chain, ["again", ...])


# ------------------------------------------------------------ leaks


async def test_a_block_that_leaves_nothing_passes():
    async with no_leaks():
        async with Chain(MockProvider(default="hello")) as chain:
            await chain.complete("x")
            async with chain.stream("x"):
                pass
        asyncio.get_running_loop().call_later(5, print).cancel()
        task = asyncio.create_task(asyncio.sleep(0))
    assert task.done()


async def test_a_task_that_is_left_is_named():
    with pytest.raises(AssertionError, match="task forgotten"):
        async with no_leaks():
            task = asyncio.create_task(asyncio.sleep(100), name="forgotten")
    task.cancel()


async def test_a_timer_that_is_left_is_named():
    with pytest.raises(AssertionError, match=r"timer .*print"):
        async with no_leaks():
            timer = asyncio.get_running_loop().call_later(100, print)
    timer.cancel()


async def test_a_socket_that_is_left_is_named_unless_files_do_not_matter():
    with pytest.raises(AssertionError, match=r"file .*socket"):
        async with no_leaks():
            used = socket.socket()
    used.close()
    async with no_leaks(files=False):
        used = socket.socket()
    used.close()


async def test_what_a_block_raises_is_what_is_raised():
    with pytest.raises(ZeroDivisionError):
        async with no_leaks():
            task = asyncio.create_task(asyncio.sleep(100))
            raise ZeroDivisionError
    task.cancel()


def test_leaks_can_be_looked_for_under_virtual_time():
    async def main() -> None:
        async with no_leaks():
            await asyncio.sleep(1000)

    with asyncio.Runner(loop_factory=VirtualTimeLoop) as runner:
        runner.run(main())
