"""A gateway in a few lines: whatever dialect comes in, one chain behind it."""

from __future__ import annotations

from types import TracebackType
from typing import Any, Self

import orjson
from aiohttp import web
from attrs import evolve

from llmpipe import Chain, dialects
from llmpipe.dialects import Dialect
from llmpipe.errors import LLMError
from llmpipe.testing.simulator.doors import DOORS, Door, body_of, open_door
from llmpipe.types import EmbeddingRequest, Request, RerankRequest

__all__ = ("Gateway",)


class Gateway:
    """Every dialect's server on a loopback port; all is asked of `chain`, under the name of its model."""

    def __init__(self, chain: Chain) -> None:
        self.chain = chain
        self.url = ""
        self.warnings: list[str] = []

    async def __aenter__(self) -> Self:
        app = web.Application()
        for path in DOORS:
            app.router.add_post(path, self._answer)
        self._runner = web.AppRunner(app, handler_cancellation=True, access_log=None, shutdown_timeout=0.2)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0).start()
        self.url = f"http://127.0.0.1:{self._runner.addresses[0][1]}"
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._runner.cleanup()

    async def _answer(self, http: web.Request) -> web.StreamResponse:
        door = Door(dialects.get("openai.chat"), "chat")
        try:
            door = open_door(http)
            request: Any = evolve(door.read(await body_of(http)), model=self.chain.model)
            if isinstance(request, EmbeddingRequest):
                found = await self.chain.embed(request)
                return _json(door.dialect.encode_embeddings(found, request))
            if isinstance(request, RerankRequest):
                call = self.chain.new_call(request)
                ranked = await (await self.chain(call)).full()
                return _json(door.dialect.encode_ranking(ranked, request))
            if request.stream:
                return await self._stream(http, door.dialect, request)
            done = await self.chain.complete(request)
            self.warnings += done.warnings
            return _json(door.dialect.encode_reply(done))
        except LLMError as error:
            status, headers, body = door.dialect.encode_error(error)
            return _json(body, status, headers)

    async def _stream(self, http: web.Request, dialect: Dialect, request: Request) -> web.StreamResponse:
        encoder = dialect.encoder(request)
        async with self.chain.stream(request) as reply:  # what fails before its first content has a status
            response = web.StreamResponse(headers={"content-type": "text/event-stream"})
            await response.prepare(http)
            try:
                async for event in reply:
                    await response.write(encoder.feed(event))
                await response.write(encoder.close())
            except LLMError as error:
                await response.write(encoder.fail(error))
        await response.write_eof()
        return response


def _json(body: Any, status: int = 200, headers: Any = None) -> web.Response:
    headers = {"content-type": "application/json", **(headers or {})}
    return web.Response(body=orjson.dumps(body), status=status, headers=headers)
