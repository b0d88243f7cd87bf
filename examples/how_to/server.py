"""A chain in a server: made once, used by all requests, closed at the end. Here the server is aiohttp's."""

# region use
import asyncio
from collections.abc import AsyncIterator

from aiohttp import ClientSession, web

from llmpipe import Chain, LLMError, MockProvider, Overloaded, presets

CHAIN = web.AppKey("chain", Chain)


async def with_chain(app: web.Application) -> AsyncIterator[None]:
    model = MockProvider(["Good morning!"], default=Overloaded("no capacity"))  # yours: provider("openai")
    async with Chain(model, *presets.production()) as chain:
        app[CHAIN] = chain
        yield


async def tell(request: web.Request) -> web.StreamResponse:
    chain, question = request.app[CHAIN], await request.text()
    response = web.StreamResponse()
    try:
        async with chain.stream(question, tenant=request.headers.get("X-Tenant", "")) as reply:
            await response.prepare(request)
            async for text in reply.texts():
                await response.write(text.encode())
    except LLMError as error:
        if response.prepared:  # it broke after its first words: the client must not take it for whole
            raise
        return web.Response(text=error.type, status=error.status)
    return response


app = web.Application()
app.cleanup_ctx.append(with_chain)
app.router.add_post("/tell", tell)
# endregion use


async def main() -> None:
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    async with ClientSession() as session:
        for question in ("Good morning", "Are you still there?"):
            async with session.post(f"{site.name}/tell", data=question) as response:
                print(response.status, await response.text())
    await runner.cleanup()


asyncio.run(main())
