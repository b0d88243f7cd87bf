"""What the tests of the rate limit share."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Sequence
from typing import Any

from llmpipe.errors import LLMError
from llmpipe.middleware.rate_limit import RateLimit
from llmpipe.pipeline.call import Call
from llmpipe.pipeline.chain import Chain
from llmpipe.pipeline.reply import Reply
from llmpipe.providers.mock import MockProvider
from llmpipe.types import Completion, EmbeddingRequest, Embeddings, Message, Request, Usage


class Timed(MockProvider):
    """Answers after `seconds`, and writes down when each request came, and how many were there at once.

    `refuses` are raised first, at once and unwritten. `headers` may be a function of the request's number.
    """

    def __init__(
        self,
        seconds: float = 0.0,
        usage: Usage | None = None,
        headers: Any = None,
        refuses: Sequence[LLMError] = (),
    ) -> None:
        super().__init__(default="ok")
        self.seconds, self.told, self.headers = seconds, usage or Usage(10, 10), headers
        self.refuses = list(refuses)
        self.came: list[tuple[float, str]] = []
        self.here = self.most = 0

    async def __call__(self, call: Call) -> Reply:
        if self.refuses:
            raise self.refuses.pop(0)
        request = call.request
        text = request.messages[0].text if isinstance(request, Request) else ""
        self.came.append((call.runtime.now(), text))
        number = len(self.came)
        self.here += 1
        self.most = max(self.most, self.here)
        try:
            await asyncio.sleep(self.seconds)
        finally:
            self.here -= 1
        if isinstance(request, EmbeddingRequest):
            return Reply.of(Embeddings(((1.0,),), usage=Usage(10)))
        headers = self.headers(number) if callable(self.headers) else self.headers or {}
        done = Completion(
            model=request.model,
            message=Message("assistant", "ok"),
            finish_reason="stop",
            usage=self.told,
            headers=headers,
        )
        return Reply.of(done)

    @property
    def times(self) -> list[float]:
        return [at for at, _ in self.came]

    @property
    def texts(self) -> list[str]:
        return [text for _, text in self.came]


def limited(provider: Any = None, **settings: Any) -> Any:
    return Chain(provider or Timed(), RateLimit(**settings))


async def outcome(chain: Chain, prompt: str = "hi", **options: Any) -> Any:
    """What became of a call: its completion, or its error."""
    try:
        return await chain.complete(prompt, **options)
    except LLMError as error:
        return error


def status(chain: Chain) -> Any:
    (layer,) = [item for item in chain.middleware if isinstance(item, RateLimit)]
    (only,) = layer.status(chain.runtime)
    return only


async def turns(count: int = 20) -> None:
    """Let everything that is ready run."""
    for _ in range(count):
        await asyncio.sleep(0)


async def started(*calls: Coroutine[Any, Any, Any]) -> list[asyncio.Task[Any]]:
    """Tasks of `calls`, which come one after the other whatever order the loop runs tasks in."""
    tasks = []
    for call in calls:
        tasks.append(asyncio.create_task(call))
        await turns()
    return tasks


async def in_turn(*calls: Coroutine[Any, Any, Any]) -> list[Any]:
    """What became of `calls`, which come one after the other: results, and errors."""
    return await asyncio.gather(*await started(*calls), return_exceptions=True)
