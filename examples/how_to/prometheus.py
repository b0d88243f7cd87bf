"""Metrics as text that Prometheus reads, at /metrics of a small server of your own."""

# region use
import asyncio

import aiohttp
from aiohttp import web

from llmpipe import Chain, Cost, Metrics, MockProvider, Overloaded, Retry


async def main() -> None:
    metrics = Metrics(labels={"service": "website"})
    model = MockProvider([Overloaded("no capacity")], default="Hello!", name="openai", model="gpt-4o-mini")
    chain = Chain(model, metrics, Cost(), Retry(base=0.01))

    async def serve_metrics(request: web.Request) -> web.Response:
        text = metrics.prometheus(chain.runtime)
        return web.Response(text=text, headers={"Content-Type": "text/plain; version=0.0.4"})

    app = web.Application()
    app.router.add_get("/metrics", serve_metrics)
    # endregion use

    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    await chain.complete("Say hello")
    async with aiohttp.ClientSession() as session, session.get(f"{site.name}/metrics") as response:
        for line in (await response.text()).splitlines():
            if line.startswith(
                ("llmpipe_requests", "llmpipe_attempts", "llmpipe_tokens", "llmpipe_cost_usd")
            ):
                print(line)
    await runner.cleanup()
    await chain.aclose()


asyncio.run(main())
