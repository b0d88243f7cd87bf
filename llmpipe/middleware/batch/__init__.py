"""Embeddings that are asked for at about the same time are one request to the provider.

The first call opens a batch and waits `window` seconds; calls that could have been one request with it
come on board. Then all inputs are sent as one, and each call gets its own vectors.

- *Who may share*: the same tenant, user, tags, target, model, dimensions, input type, metadata, extra,
  options and key. Never another tenant.
- *A cancelled caller* leaves; the others notice nothing. The last one to leave ends the request.
- *Deadlines* are each caller's own; the request has the latest. A call that is short of time does not wait.
- *Errors* go to all on board, to each an error of its own.
- *Usage and cost* are shared out by the calls' estimated tokens, and add up to the whole exactly. Each call
  has the attempts in its ledger, with its own part of them.
- *Guards* (budgets, limits) of each call are asked for its own part. Calls that they refuse, or send to
  another model, go on by themselves.

======================  ===============================================================================
note                    detail
======================  ===============================================================================
``batch.sent``          ``calls`` and ``inputs`` of the request, ``leader``: id of the first call
``batch.parted``        ``calls`` of an attempt, ``into`` how many requests they went on
======================  ===============================================================================
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, ClassVar

from attrs import frozen

from llmpipe.errors import ConfigError
from llmpipe.middleware.batch.flight import Flight
from llmpipe.middleware.canonical import key_of
from llmpipe.middleware.numeric import check_numbers
from llmpipe.pipeline import bands
from llmpipe.pipeline.reply import Reply
from llmpipe.tokens import estimate_request
from llmpipe.types import EmbeddingRequest
from llmpipe.types.copying import replace

if TYPE_CHECKING:
    from llmpipe.pipeline.call import Call
    from llmpipe.pipeline.linker import Handler

__all__ = ("Batch",)


@frozen(kw_only=True)
class Batch:
    """Sends embedding requests that come within a moment of each other as one.

    Attributes:
        window: seconds that the first call waits for others; 0 waits for one turn of the loop.
        max_inputs: of one request; a call with more goes alone.
        max_tokens: of one request, estimated; a call with more goes alone.
        across_users: whether calls of different users of a tenant may share. Limits and budgets further
            in then take them all for calls of the first one's user.

    Raises: DeadlineExceeded at the caller's own deadline; what the shared request raises.
    """

    window: float = 0.01
    max_inputs: int = 96  # what the narrowest of the well-known interfaces takes (Cohere's)
    max_tokens: int = 100_000
    across_users: bool = False
    name: str = "batch"
    priority: int = bands.SPEND + 90

    why: ClassVar[str] = (
        "inside budget and cost, so that each call pays its own part; outside routing, retries and limits, "
        "which see one request"
    )
    traits: ClassVar[frozenset[str]] = frozenset({"waits"})

    def __attrs_post_init__(self) -> None:
        check_numbers(self, f"{self.name}:")
        if not 0 <= self.window <= 60:
            raise ConfigError(f"{self.name}: window is seconds, from 0 to 60, not {self.window}")
        for name in ("max_inputs", "max_tokens"):
            if not getattr(self, name) >= 1:
                raise ConfigError(f"{self.name}: {name} is at least 1, not {getattr(self, name)}")

    async def __call__(self, call: Call, call_next: Handler) -> Reply:
        """The vectors of the call's own inputs."""
        request = call.request
        if not isinstance(request, EmbeddingRequest):
            return await call_next(call)
        cfg, count = call.opt(self), len(request.inputs)
        if count >= cfg.max_inputs or call.remaining() <= 2 * cfg.window:
            return await call_next(call)
        tokens = estimate_request(request)
        key = cfg.key(call, request, call_next) if tokens < cfg.max_tokens else None
        if key is None:
            return await call_next(call)
        flights: dict[bytes, Flight] = call.runtime.state("batch", self.name, dict)
        flight = flights.get(key)
        if flight is not None and flight.loop is not asyncio.get_running_loop():
            flight = None  # the chain is used in several threads: it goes its own way
        if flight is not None and (
            flight.inputs + count > cfg.max_inputs or flight.tokens + tokens > cfg.max_tokens
        ):
            flight.depart()
            flight = None
        if flight is None:
            flight = Flight(key, flights, call_next, cfg.window)
        return Reply.of(await flight.ride(call, tokens))

    def key(self, call: Call, request: EmbeddingRequest, call_next: Handler) -> bytes | None:
        """What calls of one batch have in common; None for a call that shares with nobody."""
        kinds = {isinstance(item, str) for item in request.inputs}
        if len(kinds) != 1:  # no interface takes texts and tokens in one request
            return None
        key = key_of(call.evolve(request=replace(request, inputs=())))
        if key is None:
            return None
        ring: Any = getattr(call_next, "func", call_next)  # two chains may share a runtime, and not a request
        rest = (
            kinds,
            "" if self.across_users else call.user,
            sorted(call.tags.items()),
            call.options,
            None if call.credential is None else call.credential.label,
            call.connect_timeout,
            call.spare,
            id(call.target),
            id(ring),
            self,
        )
        return key + repr(rest).encode("utf-8", "surrogatepass")

    def worst_seconds(self, inner: float) -> float:
        """How long a call may take when what is inside takes `inner`."""
        return self.window + inner
