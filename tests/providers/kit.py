"""A server that says exactly the bytes it is told to, and what the provider tests share."""

from __future__ import annotations

import asyncio
import socket
import ssl
import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any, Self

import orjson

from llmpipe.pipeline.chain import Chain
from llmpipe.providers.factory import provider
from llmpipe.types import Request

KEY = "sk-canary-0123456789abcdef"
"""Wherever this shows up, a key has leaked."""

DONE = {
    "id": "chatcmpl-1",
    "object": "chat.completion",
    "created": 1_700_000_000,
    "model": "m",
    "choices": [
        {"index": 0, "message": {"role": "assistant", "content": "Hello there."}, "finish_reason": "stop"}
    ],
    "usage": {"prompt_tokens": 3, "completion_tokens": 4, "total_tokens": 7},
}
BODY = orjson.dumps(DONE)


def response(
    body: bytes = BODY,
    *,
    status: str = "200 OK",
    kind: str | None = "application/json",
    length: bool = True,
    extra: bytes = b"",
) -> bytes:
    """A whole response, with a Content-Length unless told otherwise."""
    head = [f"HTTP/1.1 {status}"]
    if kind is not None:
        head.append(f"Content-Type: {kind}")
    if length:
        head.append(f"Content-Length: {len(body)}")
    return "\r\n".join(head).encode() + b"\r\n" + extra + b"\r\n" + body


def chunk(**delta: Any) -> bytes:
    """One event of an OpenAI stream."""
    return sse({"id": "c1", "model": "m", "choices": [{"index": 0, "delta": delta, "finish_reason": None}]})


def sse(value: object) -> bytes:
    return b"data: " + orjson.dumps(value) + b"\n\n"


EVENTS = (
    chunk(role="assistant", content=""),
    chunk(content="Hel"),
    chunk(content="lo."),
    sse({"id": "c1", "model": "m", "choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]}),
    sse({"id": "c1", "model": "m", "choices": [], "usage": {"prompt_tokens": 3, "completion_tokens": 2}}),
    b"data: [DONE]\n\n",
)
STREAM_HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
LAST_CHUNK = b"0\r\n\r\n"


def chunked(data: bytes) -> bytes:
    """`data` as one chunk of a chunked body."""
    return b"%x\r\n%b\r\n" % (len(data), data)


class Peer:
    """One connection, as the server sees it."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    async def request(self) -> tuple[bytes, bytes]:
        """Head and body of the next request. Raises EOFError when there is none."""
        head = await self.reader.readuntil(b"\r\n\r\n")
        size = 0
        for line in head.lower().split(b"\r\n"):
            if line.startswith(b"content-length:"):
                size = int(line.partition(b":")[2])
        return head, await self.reader.readexactly(size)

    async def send(self, *data: bytes) -> None:
        for piece in data:
            self.writer.write(piece)
            await self.writer.drain()

    def reset(self) -> None:
        """Close with RST."""
        peer = self.writer.get_extra_info("socket")
        peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.writer.transport.abort()

    async def gone(self) -> None:
        """Returns when the client has closed the connection."""
        with suppress(ConnectionError):
            while await self.reader.read(65536):
                pass


Script = Callable[["Peer", int], Awaitable[None]]


class Server:
    """Runs `script(peer, number)` for each connection, then closes it; numbers count from 1.

    Attributes: `requests`, the heads of all requests read with `answer`; `connections`, how many there
    were; `open`, how many are; `failures`, what scripts raised that no peer explains.
    """

    def __init__(self, script: Script, *, tls: ssl.SSLContext | None = None) -> None:
        self._script = script
        self._tls = tls
        self.requests: list[bytes] = []
        self.bodies: list[bytes] = []
        self.connections = 0
        self.open = 0
        self.failures: list[BaseException] = []
        self._tasks: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(
            self._serve, "127.0.0.1", 0, ssl=self._tls, limit=2**20, backlog=200
        )
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        assert not self.failures, self.failures

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        self.connections += 1
        self.open += 1
        try:
            await self._script(Peer(reader, writer), self.connections)
        except (ConnectionError, EOFError, asyncio.CancelledError, ssl.SSLError):
            pass  # the client went away, or the test is over
        except Exception as error:  # noqa: BLE001  whatever it is fails the test, when the server ends
            self.failures.append(error)
        finally:
            self.open -= 1
            self._tasks.discard(task)
            writer.close()

    @property
    def url(self) -> str:
        return f"{'https' if self._tls else 'http'}://127.0.0.1:{self.port}/v1"


@asynccontextmanager
async def serving(script: Script, *, tls: ssl.SSLContext | None = None) -> AsyncIterator[Server]:
    """A `Server` that runs `script` for every connection."""
    async with Server(script, tls=tls) as server:
        yield server


def saying(*data: bytes, then: str = "keep") -> Script:
    """Reads a request and says `data`, again and again.

    `then`: ``keep`` the connection for the next, ``close`` it, ``reset`` it, or ``hang``.
    """

    async def script(peer: Peer, number: int) -> None:
        while True:
            await peer.request()
            await peer.send(*data)
            if then == "reset":
                peer.reset()
            if then == "hang":
                await peer.gone()
            if then != "keep":
                return

    return script


def first_saying(*data: bytes, then: str = "keep") -> Script:
    """The same for the first request; later ones get a good reply."""
    bad, good = saying(*data, then=then), saying(response())
    asked = False

    async def script(peer: Peer, number: int) -> None:
        nonlocal asked
        if asked:
            await good(peer, number)
        asked = True
        if then != "keep":
            await bad(peer, number)
            return
        await peer.request()
        await peer.send(*data)
        await good(peer, number)

    return script


def openai(url: str, **options: Any) -> Any:
    """The provider under test."""
    options.setdefault("api_key", KEY)
    return provider("openai", base_url=url, model="m", **options)


REQUEST = Request("m", "Say hello")


async def complete(core: Any, *middleware: Any, **options: Any) -> Any:
    return await Chain(core, *middleware).complete("Say hello", **options)


async def stream(core: Any, *middleware: Any) -> Any:
    """All of a stream; its completion."""
    async with Chain(core, *middleware).stream("Say hello") as reply:
        async for _ in reply:
            pass
        return reply.completion


def open_sockets() -> int:
    """Sockets that this process holds."""
    count = 0
    for descriptor in Path("/proc/self/fd").iterdir():
        with suppress(OSError):
            count += str(descriptor.readlink()).startswith("socket:")
    return count


async def nothing_left(core: Any, server: Server | None = None) -> None:
    """No connection in use and, once the provider is closed, no socket and no task of its own."""
    assert core.connections_in_use == 0
    await core.aclose()
    for _ in range(200):
        others = asyncio.all_tasks() - {asyncio.current_task()}
        ours = [task for task in others if server is None or task not in server._tasks]
        if not ours and (server is None or server.open == 0):
            break
        await asyncio.sleep(0.005)
    assert not ours, ours
    assert server is None or server.open == 0


def leaks(error: BaseException, *, frames: bool = True) -> list[str]:
    """Where the canary shows in an error: its words, fields, chain, and what its frames print."""
    found, seen = [], set()
    todo: list[BaseException] = [error]
    while todo:
        one = todo.pop()
        if id(one) in seen:
            continue
        seen.add(id(one))
        texts = {"str": str(one), "repr": repr(one), "vars": repr(vars(one)), "args": repr(one.args)}
        frame = one.__traceback__ if frames else None
        while frame is not None:
            for name, value in frame.tb_frame.f_locals.items():
                if frame.tb_frame.f_code.co_filename != __file__ and "/tests/" not in (
                    frame.tb_frame.f_code.co_filename
                ):
                    texts[f"{frame.tb_frame.f_code.co_name}:{name}"] = repr(value)
            frame = frame.tb_next
        found += [where for where, text in texts.items() if KEY in text]
        todo += [other for other in (one.__cause__, one.__context__) if other is not None]
    return found
