"""Identical requests at the same time are one request to the provider.

The request flies in a task of the runtime's, and every caller who asks the same rides along: a
cancelled caller stops no other, the last one to leave ends the flight.

- *Deadlines* are each caller's own. The flight has none, so an impatient leader cuts nobody short.
- *Priority* is the highest of those on board: a queue further in moves the flight forward.
- *Errors* go to all on board, and are not kept: the next caller starts afresh. So do callers who wanted
  the whole of a stream that broke, for they have had nothing of it; and callers of another user, or with
  other tags, than the one that was refused before anything was sent: its budget is not theirs.
- *A stream* that is joined late is given from its beginning, then follows. A caller who wants the whole
  reply waits for its end; one who wants a stream and finds a whole reply in flight gets it when it is done.
- *Attempts and cost* stand in the ledger of the leader. Who joined has no attempts and costs nothing. A
  budget further in charges the leader when the flight is over, also if it has left. One further out would
  settle when it leaves, and miss the rest: `Chain.lint` warns of that.

======================  ====================================================================
note                    detail
======================  ====================================================================
``coalesce.joined``     ``leader``: id of the call that sent the request
``coalesce.raised``     in the leader's ledger: ``priority`` that a caller on board has
======================  ====================================================================
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, ClassVar, Literal

from attrs import field, frozen

from llmpipe.errors import ConfigError, LLMError
from llmpipe.middleware.canonical import SERVER_STATE, deterministic, key_of, uses_server_state
from llmpipe.middleware.coalesce.flight import Flight
from llmpipe.middleware.names import names
from llmpipe.pipeline import bands

if TYPE_CHECKING:
    from llmpipe.pipeline.call import Call
    from llmpipe.pipeline.linker import Handler
    from llmpipe.pipeline.reply import Reply

__all__ = ("Coalesce",)

_MAX_FLIGHTS = 3  # that a call rides one after another, before it flies alone


@frozen(kw_only=True)
class Coalesce:
    """Sends identical requests that overlap in time once, and gives every caller the reply.

    Identical is what `llmpipe.middleware.canonical.key_of` says, tenant included; streamed or not
    makes no difference; calls with other `options` than the flight's get one of their own.

    Attributes:
        when: ``deterministic``: only requests whose answer is meant to be the same each time
            (temperature 0 or a seed; embeddings and rerankings); ``always``: all requests.
        vary: names of tags whose values must agree too.
        skip_extra: names in `request.extra` that tie a request to what a server remembers.

    Raises: DeadlineExceeded at the caller's own deadline; what the shared request raises.
    """

    when: Literal["deterministic", "always"] = "deterministic"
    vary: tuple[str, ...] = field(default=(), converter=names)
    skip_extra: tuple[str, ...] = field(default=SERVER_STATE, converter=names)
    name: str = "coalesce"
    priority: int = bands.SHORTCUT + 10

    why: ClassVar[str] = (
        "inside the cache, so that one reply fills it; outside the budget, so it is paid once"
    )
    traits: ClassVar[frozenset[str]] = frozenset({"shares"})

    def __attrs_post_init__(self) -> None:
        if self.when not in ("deterministic", "always"):
            raise ConfigError(f"{self.name}: when is 'deterministic' or 'always', not {self.when!r}")

    async def __call__(self, call: Call, call_next: Handler) -> Reply:
        """The reply of the flight that carries this request: one under way, or a new one."""
        cfg, request = call.opt(self), call.request
        if (cfg.when == "deterministic" and not deterministic(request)) or (
            request.extra and uses_server_state(request, cfg.skip_extra)
        ):
            return await call_next(call)
        key = key_of(call, vary=cfg.vary)
        if key is None:
            return await call_next(call)
        if call.options:  # one caller's own time limits or targets are not the others'
            key += repr(call.options).encode()
        flights: dict[bytes, Flight] = call.runtime.state("coalesce", self.name, dict)
        for _ in range(_MAX_FLIGHTS):
            flight = flights.get(key)
            if flight is None or flight.loop is not asyncio.get_running_loop():
                flight = Flight(call, key, flights)
                flight.start(call_next)
                return await flight.ride(call)
            if flight.call.ledger is call.ledger:  # this very call, in a chain within the chain
                return await call_next(call)
            call.note("coalesce.joined", leader=flight.call.id)
            if call.priority > flight.priority:
                flight.raise_priority(call.priority)
            try:
                return await flight.join(call)
            except LLMError as error:
                # A stream that broke is not asked for again, because others have had its beginning. Who
                # wants the whole has had nothing of it.
                if flight.streamed and flight.failed and not request.stream:
                    continue
                if not _of_another(error, flight.call, call):
                    raise
        return await call_next(call)


def _of_another(error: LLMError, leader: Call, call: Call) -> bool:
    """Whether `error` may be a matter of the leader's budget or limits, which are not the call's."""
    refused = error.phase == "admit" and not error.sent
    return refused and (leader.user != call.user or leader.tags != call.tags)
