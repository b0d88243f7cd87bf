"""The simulator does what its script says, to the byte, and keeps books of it."""

from __future__ import annotations

import asyncio
from decimal import Decimal
from typing import Any

import orjson
import pytest

from llmpipe.errors import ConfigError
from llmpipe.testing.simulator import Fault, Rule, Simulator
from llmpipe.types import Completion, Message
from tests.providers.kit import open_sockets

pytestmark = pytest.mark.real_time

PATHS = {"openai": "/v1/chat/completions", "anthropic": "/v1/messages"}
MODELS = {"openai": "gpt-4o-mini", "anthropic": "claude-haiku-4-5"}
BOTH = pytest.mark.parametrize("kind", PATHS)


class Raw:
    """What a client sees of one response, with nothing between it and the socket."""

    def __init__(self, data: bytes, reset: bool, seconds: list[float]) -> None:
        head, _, self.wire = data.partition(b"\r\n\r\n")
        lines = head.decode().split("\r\n")
        self.status = int(lines[0].split()[1]) if data else 0
        self.headers = {k.lower(): v for k, _, v in (line.partition(": ") for line in lines[1:])}
        self.reset = reset
        self.seconds = seconds
        """Since the request, of each arrival of bytes."""
        self.body, self.whole = self.wire, len(self.wire) == int(self.headers.get("content-length", -1))
        if self.headers.get("transfer-encoding") == "chunked":
            self.body, self.whole = _unchunked(self.wire)

    @property
    def events(self) -> list[bytes]:
        return self.body.split(b"\n\n")[:-1]


def _unchunked(wire: bytes) -> tuple[bytes, bool]:
    body = b""
    while wire:
        size, _, wire = wire.partition(b"\r\n")
        count = int(size, 16)
        if count == 0:
            return body, wire == b"\r\n"
        body += wire[:count]
        wire = wire[count + 2 :]
    return body, False


async def ask(
    simulator: Simulator,
    kind: str = "openai",
    *,
    stream: bool = False,
    path: str | None = None,
    body: Any = None,
    key: str | None = None,
    leave_after: float | None = None,
) -> Raw:
    """One request on a connection of its own."""
    if body is None:
        body = {
            "model": MODELS[kind],
            "messages": [{"role": "user", "content": "Say hello"}],
            "stream": stream,
            "max_tokens": 100,
        }
    data = body if isinstance(body, bytes) else orjson.dumps(body)
    port = int(simulator.url.rpartition(":")[2])
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    auth = (
        ""
        if key is None
        else f"x-api-key: {key}\r\n"
        if kind == "anthropic"
        else f"Authorization: Bearer {key}\r\n"
    )
    head = f"POST {path or PATHS[kind]} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n{auth}"
    head += f"Content-Length: {len(data)}\r\n\r\n"
    writer.write(head.encode() + data)
    loop = asyncio.get_running_loop()
    began, seen, seconds, reset = loop.time(), b"", [], False
    try:
        async with asyncio.timeout(leave_after):
            while piece := await reader.read(65536):
                seconds.append(loop.time() - began)
                seen += piece
    except ConnectionResetError:
        reset = True
    except TimeoutError:
        pass
    writer.close()
    return Raw(seen, reset, seconds)


# -- what goes right


@BOTH
async def test_a_reply_is_the_same_each_time_and_depends_on_the_request(kind):
    async with Simulator() as simulator:
        one, two = await ask(simulator, kind), await ask(simulator, kind)
        assert one.status == 200
        assert one.whole
        other = {
            "model": MODELS[kind],
            "messages": [{"role": "user", "content": "Another"}],
            "max_tokens": 100,
        }
        three = await ask(simulator, kind, body=other)

        def text(raw: Raw) -> Any:
            reply = orjson.loads(raw.body)
            return (
                reply["content"][0]["text"]
                if kind == "anthropic"
                else reply["choices"][0]["message"]["content"]
            )

        assert text(one) == text(two) != text(three)


@BOTH
async def test_a_stream_says_what_the_reply_says(kind):
    async with Simulator(chunk_chars=4) as simulator:
        whole = orjson.loads((await ask(simulator, kind)).body)
        stream = await ask(simulator, kind, stream=True)
        assert stream.whole
        assert stream.headers["content-type"].startswith("text/event-stream")
        datas = [
            orjson.loads(event.partition(b"data: ")[2]) for event in stream.events if b"[DONE]" not in event
        ]
        if kind == "anthropic":
            said = "".join(
                data["delta"].get("text", "") for data in datas if data["type"] == "content_block_delta"
            )
            assert said == whole["content"][0]["text"]
            assert datas[0]["message"]["usage"]["input_tokens"] == whole["usage"]["input_tokens"]
        else:
            said = "".join(
                choice["delta"].get("content") or "" for data in datas for choice in data["choices"]
            )
            assert said == whole["choices"][0]["message"]["content"]
        assert len(stream.events) > len(said) / 4


async def test_an_answer_of_one_s_own():
    def shout(request: Any) -> Completion:
        return Completion(
            message=Message("assistant", request.messages[-1].text.upper()), finish_reason="stop"
        )

    async with Simulator(answer=shout) as simulator:
        reply = orjson.loads((await ask(simulator)).body)
        assert reply["choices"][0]["message"]["content"] == "SAY HELLO"


async def test_keys_are_checked_where_they_are_given():
    async with Simulator(keys={"good"}) as simulator:
        for kind in PATHS:
            assert (await ask(simulator, kind, key="good")).status == 200
            assert (await ask(simulator, kind, key="bad")).status == 401
            assert (await ask(simulator, kind)).status == 401
        assert (await ask(simulator, path="/v1/embeddings", body={"model": "e", "input": "x"})).status == 401
        assert simulator.book.ends == {"ok": 2, "refused": 5}


@BOTH
@pytest.mark.parametrize(
    "body", [b"", b"{", b"[]", b"null", b'{"model": "m"}', b'{"messages": 7}', b"\xff", b"[" * 99999]
)
async def test_a_request_that_is_none_is_refused_politely(kind, body):
    async with Simulator() as simulator:
        raw = await ask(simulator, kind, body=body)
        assert raw.status == 400
        assert "message" in orjson.loads(raw.body)["error"]
        assert simulator.book.billed_nano == 0
        assert simulator.book.ends == {"refused": 1}


async def test_an_unknown_path_is_not_found():
    async with Simulator() as simulator:
        assert (await ask(simulator, path="/v2/other")).status == 404


# -- faults


@BOTH
@pytest.mark.parametrize("status", [400, 401, 404, 429, 500, 502, 503, 529])
async def test_a_status_with_the_dialects_own_error(kind, status):
    async with Simulator([Rule(Fault(status=status, headers={"Retry-After": "7"}))]) as simulator:
        for stream in (False, True):
            raw = await ask(simulator, kind, stream=stream)
            assert raw.status == status
            assert raw.headers["retry-after"] == "7"
            assert orjson.loads(raw.body)["error"]["message"] == f"simulated {status}"
        assert simulator.book.statuses == {status: 2}


@pytest.mark.parametrize("status", [204, 302, 304, 418, 599])
async def test_a_status_with_a_body_and_headers_of_the_script(status):
    fault = Fault(status=status, body=b"<html>", headers={"content-type": "text/html", "Location": "/x"})
    async with Simulator([Rule(fault)]) as simulator:
        raw = await ask(simulator)
        assert raw.status == status
        assert raw.headers["location"] == "/x"
        assert raw.headers.get("content-type", "text/html") == "text/html"
        assert raw.body == (b"" if status in {204, 304} else b"<html>")


@BOTH
@pytest.mark.parametrize("stream", [False, True], ids=["full", "stream"])
async def test_cuts_are_exact_to_the_byte(kind, stream):
    async with Simulator() as simulator:
        body = (await ask(simulator, kind, stream=stream)).body
        for cut in (0, 1, 17, len(body) // 2, len(body) - 1):
            simulator.rules = (Rule(Fault(cut_at=cut)),)
            raw = await ask(simulator, kind, stream=stream)
            assert raw.status == 200
            assert len(raw.body) == cut
            # An id holds the number of the request, so bodies are compared without it.
            assert raw.body[:5] == body[: min(5, cut)]
            assert not raw.whole
            assert not raw.reset
        simulator.rules = (Rule(Fault(cut_at=len(body))),)
        raw = await ask(simulator, kind, stream=stream)
        assert len(raw.body) == len(body)
        assert raw.whole is not stream  # a stream is cut before its last chunk; a length is reached
        simulator.book.entries.pop()
        simulator.rules = (Rule(Fault(cut_at=len(body) + 500)),)
        assert (await ask(simulator, kind, stream=stream)).whole
        assert simulator.book.ends == {"ok": 2, "broken": 5}


@BOTH
@pytest.mark.parametrize("at", [0, 1, 100])
async def test_a_reset_is_one(kind, at):
    async with Simulator([Rule(Fault(reset_at=at))]) as simulator:
        raw = await ask(simulator, kind)
        assert raw.reset
        assert len(raw.body) in (0, at)  # a reset may overtake what was sent before it
        assert simulator.book.ends == {"broken": 1}


@BOTH
@pytest.mark.parametrize("after", [0, 1, 3])
async def test_a_stream_ends_after_so_many_events(kind, after):
    async with Simulator(chunk_chars=5) as simulator:
        simulator.rules = (Rule(Fault(cut_after=after)),)
        cut = await ask(simulator, kind, stream=True)
        assert not cut.whole
        assert not cut.reset
        assert cut.body.count(b"text_delta" if kind == "anthropic" else b'"delta":{"content":') == max(
            after - 1, 0
        )
        simulator.rules = (Rule(Fault(reset_after=after)),)
        assert (await ask(simulator, kind, stream=True)).reset


@BOTH
async def test_a_stream_goes_wrong_inside(kind):
    async with Simulator(chunk_chars=5) as simulator:
        simulator.rules = (Rule(Fault(malformed_after=2)),)
        raw = await ask(simulator, kind, stream=True)
        assert raw.whole
        with pytest.raises(orjson.JSONDecodeError):
            orjson.loads(raw.events[-1].partition(b"data: ")[2])

        simulator.rules = (Rule(Fault(error_after=2)),)
        raw = await ask(simulator, kind, stream=True)
        assert raw.whole
        error = orjson.loads(raw.events[-1].partition(b"data: ")[2])["error"]
        assert error["type"] == "overloaded_error"

        simulator.rules = (Rule(Fault(unfinished=True)),)
        raw = await ask(simulator, kind, stream=True)
        assert raw.whole
        assert b"[DONE]" not in raw.body
        assert b"message_stop" not in raw.body
        assert simulator.book.ends == {"broken": 3}


@BOTH
async def test_a_200_with_an_error_in_it(kind):
    async with Simulator([Rule(Fault(error_body=True))]) as simulator:
        raw = await ask(simulator, kind)
        assert raw.status == 200
        assert orjson.loads(raw.body)["error"]["type"] == "overloaded_error"
        assert simulator.book.billed_nano == 0


async def test_delays_are_where_they_are_said_to_be():
    async with Simulator(chunk_chars=20) as simulator:
        simulator.rules = (Rule(Fault(headers_delay=0.1)),)
        assert (await ask(simulator, stream=True)).seconds[0] >= 0.1
        simulator.rules = (Rule(Fault(first_delay=0.1)),)
        raw = await ask(simulator, stream=True)
        assert raw.seconds[-1] - raw.seconds[0] >= 0.08
        simulator.rules = (Rule(Fault(between_delay=0.03)),)
        raw = await ask(simulator, stream=True)
        gaps = [b - a for a, b in zip(raw.seconds, raw.seconds[1:], strict=False)]
        assert sum(gap >= 0.025 for gap in gaps) >= 3
        simulator.rules = (Rule(Fault(bytes_per_second=4000)),)
        raw = await ask(simulator)
        assert raw.seconds[-1] >= len(raw.body) / 4000 * 0.9
        assert len(raw.seconds) > 5


async def test_silence_lasts_until_the_client_leaves():
    async with Simulator([Rule(Fault(silent=True))]) as simulator:
        raw = await ask(simulator, leave_after=0.05)
        assert raw.status == 0
        for _ in range(100):
            if simulator.book.ends == {"aborted": 1}:
                break
            await asyncio.sleep(0.01)
        assert simulator.book.ends == {"aborted": 1}
        assert simulator.book.entries[0].status == 0
        assert simulator.book.billed_nano > 0


@pytest.mark.parametrize(
    ("fault", "status", "end"),
    [
        (Fault(status=503), 503, "refused"),
        (Fault(cut_at=10), 200, "broken"),
        (Fault(reset_at=10), 200, "broken"),
        (Fault(error_body=True), 200, "refused"),
        (Fault(headers_delay=0.01), 200, "ok"),
    ],
)
async def test_embeddings_go_wrong_too(fault, status, end):
    async with Simulator([Rule(fault)]) as simulator:
        body = {"model": "text-embedding-3-small", "input": ["one", "two"]}
        raw = await ask(simulator, path="/v1/embeddings", body=body)
        assert raw.status == status
        assert simulator.book.ends == {end: 1}
        if end == "ok":
            vectors = [item["embedding"] for item in orjson.loads(raw.body)["data"]]
            assert vectors[0] != vectors[1]
            assert {len(vector) for vector in vectors} == {8}


@pytest.mark.parametrize(
    "wrong",
    [
        {"status": 99},
        {"status": 1000},
        {"bytes_per_second": 0},
        {"cut_at": -1},
        {"first_delay": -1},
        {"first_delay": float("nan")},
        {"bytes_per_second": float("nan")},
    ],
)
def test_a_fault_that_cannot_be_is_refused(wrong):
    with pytest.raises(ConfigError):
        Fault(**wrong)


# -- rules


async def statuses(simulator: Simulator, count: int) -> list[int]:
    return [(await ask(simulator)).status for _ in range(count)]


async def test_rules_hold_for_numbers_of_requests_and_the_first_decides():
    rules = [
        Rule(Fault(status=500), first=2, last=3),
        Rule(Fault(status=503), first=3, last=5),
        Rule(Fault(status=429), first=6),
    ]
    async with Simulator(rules) as simulator:
        assert await statuses(simulator, 7) == [200, 500, 500, 503, 503, 429, 429]
        assert [entry.number for entry in simulator.book.entries] == [1, 2, 3, 4, 5, 6, 7]
        assert simulator.book.entries[0].fault == ""
        assert simulator.book.entries[1].fault == "status"


async def test_rules_hold_for_a_time():
    async with Simulator(
        [Rule(Fault(status=500), until=60), Rule(Fault(status=503), since=120)]
    ) as simulator:
        seen = []
        for seconds in (0, 90, 90):
            simulator._began -= seconds  # so much later
            seen += await statuses(simulator, 1)
        assert seen == [500, 200, 503]


async def test_rates_are_those_of_the_seed():
    async def run(seed: int) -> list[int]:
        async with Simulator([Rule(Fault(status=500), rate=0.3)], seed=seed) as simulator:
            return await statuses(simulator, 60)

    one, again, other = await run(1), await run(1), await run(2)
    assert one == again != other
    assert 6 <= one.count(500) <= 30


async def test_rules_hold_for_some_requests():
    rule = Rule(Fault(status=500), when=lambda request: getattr(request, "stream", False))
    async with Simulator([rule]) as simulator:
        assert (await ask(simulator, stream=True)).status == 500
        assert (await ask(simulator)).status == 200


@pytest.mark.parametrize("rate", [-0.1, 1.1])
def test_a_rate_is_a_share(rate):
    with pytest.raises(ConfigError, match="rate must lie between 0 and 1"):
        Rule(Fault(), rate=rate)


# -- books


@BOTH
async def test_the_books_have_every_request_and_its_price(kind):
    async with Simulator([Rule(Fault(status=429), first=3, last=3)]) as simulator:
        for stream in (False, True, False):
            await ask(simulator, kind, stream=stream)
        one, two, three = simulator.book.entries
        assert (one.model, one.path, one.stream, two.stream) == (MODELS[kind], PATHS[kind], False, True)
        assert one.usage == two.usage
        assert one.usage.input_tokens > 0
        assert one.usage.output_tokens > 0
        assert one.billed_nano == two.billed_nano > 0
        assert (three.usage, three.billed_nano) == (None, 0)
        assert simulator.book.billed_nano == 2 * one.billed_nano
        assert simulator.book.billed == Decimal(2 * one.billed_nano).scaleb(-9)
        assert simulator.book.usage.input_tokens == 2 * one.usage.input_tokens
        assert simulator.book.connections == 3


async def test_connections_are_counted_once():
    import aiohttp

    async with Simulator() as simulator, aiohttp.ClientSession() as session:
        for _ in range(5):
            async with session.get(f"{simulator.url}/v1/models") as response:
                assert [model["id"] for model in (await response.json())["data"]]
        body = {"model": "gpt-4o-mini", "messages": [{"role": "user", "content": "hi"}]}
        for _ in range(5):
            async with session.post(f"{simulator.url}/v1/chat/completions", json=body) as response:
                await response.read()
        assert simulator.book.connections == 1
        assert len(simulator.book.entries) == 5


async def test_nothing_is_left_when_it_ends():
    before = open_sockets()
    async with Simulator([Rule(Fault(silent=True))]) as simulator:
        tasks = [asyncio.create_task(ask(simulator)) for _ in range(3)]
        await asyncio.sleep(0.05)
    await asyncio.wait(tasks, timeout=2)
    await asyncio.sleep(0.02)
    assert len(asyncio.all_tasks()) == 1
    assert open_sockets() <= before
