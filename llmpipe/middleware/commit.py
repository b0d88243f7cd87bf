"""When a stream is committed: at its first content, a little later, or when all of it is there.

Until then a failure is still one that retry and fallback can replace unseen; from then on it is an error
with what had come in `error.partial`. The price is the wait for the first word.

==================  ================================================================
policy              a stream is handed on
==================  ================================================================
``first_token``     at its first content, as without this middleware
with a bound        when `events`, `seconds` or `chars` is reached, whichever is first
``whole``           when it is at its end
==================  ================================================================

While it is held the timers of the attempt go on: silence and standstill are judged as ever, and pings end
no hold. The breaker, the limits and the attempt in the ledger are told of the provider's own beginning
and end (`Attempt.committed_at` is its first content); who stands further out is told when the caller
got it (`Outcome.committed_at`). A full reply passes.

=======================  ====================================================================
note                     detail
=======================  ====================================================================
``commit.broken``        ``error`` type, ``events`` that were held: the stream broke unseen
``commit.early``         ``events`` that were held: there were more than `max_bytes` of them
=======================  ====================================================================
"""

from __future__ import annotations

from math import inf
from sys import getsizeof
from typing import TYPE_CHECKING, ClassVar, Literal

from attrs import frozen

from llmpipe.errors import ConfigError, LLMError
from llmpipe.middleware.numeric import check_numbers
from llmpipe.pipeline import bands
from llmpipe.pipeline.relay import Relay, batch, relayed
from llmpipe.types import (
    Event,
    Extra,
    Finish,
    Ping,
    ReasoningDelta,
    RefusalDelta,
    TextDelta,
    ToolDelta,
    is_content,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from llmpipe.pipeline.call import Call
    from llmpipe.pipeline.linker import Handler
    from llmpipe.pipeline.reply import Reply

__all__ = ("Commit",)

_EVENT_BYTES = 100  # an event without its text, and its places in three lists (64 to 96 and 24, measured)
_SAYING = (TextDelta, ReasoningDelta, RefusalDelta, ToolDelta)


@frozen(kw_only=True)
class Commit:
    """Holds a stream back until there is more of it, so that a failure until then can be replaced unseen.

    Attributes:
        policy: ``"first_token"`` or, to the end, ``"whole"``.
        events: pieces of content that are held at most; None for no such bound, as for the next two.
        seconds: after the first content; the next event that comes after them ends the hold, so a stream
            that has fallen silent is not committed by the clock alone.
        chars: of text, reasoning, refusals and tool arguments.
        max_bytes: a stream that is larger is handed on early, and noted, rather than refused.

    Raises: what the held stream broke with, without `partial`: nothing was given out. ConfigError for
    a bound together with ``"whole"``.
    """

    policy: Literal["first_token", "whole"] = "first_token"
    events: int | None = None
    seconds: float | None = None
    chars: int | None = None
    max_bytes: int = 8 * 1024 * 1024
    name: str = "commit"
    priority: int = bands.AGAIN + 50

    why: ClassVar[str] = (
        "inside retry and fallback, which replace what breaks while it is held; outside limits, breaker and "
        "timeouts, which judge the provider"
    )

    def __attrs_post_init__(self) -> None:
        check_numbers(self, f"{self.name}:")
        if self.policy not in ("first_token", "whole"):
            raise ConfigError(f"{self.name}: policy is 'first_token' or 'whole', not {self.policy!r}")
        for setting in ("events", "seconds", "chars", "max_bytes"):
            value = getattr(self, setting)
            if value is not None and not 0 < value < inf:
                raise ConfigError(f"{self.name}: {setting} must be above 0, not {value}")
        if self.policy == "whole" and self._bounded:
            raise ConfigError(
                f"{self.name}: 'whole' holds a stream to its end, so events, seconds and chars must be None"
            )

    @property
    def _bounded(self) -> bool:
        return self.events is not None or self.seconds is not None or self.chars is not None

    @property
    def holds(self) -> bool:
        """Whether anything is held at all."""
        return self.policy == "whole" or self._bounded

    @property
    def traits(self) -> frozenset[str]:
        """What it says of itself to lint and explain."""
        return frozenset({"buffers", "commits"}) if self.holds else frozenset()

    async def __call__(self, call: Call, call_next: Handler) -> Reply:
        """The reply, when enough of it is there."""
        reply = await call_next(call)
        cfg = call.opt(self)
        if not (cfg.holds and reply.streamed):
            return reply
        hold = _Hold(cfg, call.runtime.now())
        try:
            while not hold.over and (events := await batch(reply)):
                hold.add(events, call.runtime.now())
        except Exception as error:  # whatever broke the stream broke it unseen, and goes on
            if isinstance(error, LLMError):
                error.partial = None  # nobody has been given it, and no stage further out has seen it
            call.note(
                "commit.broken",
                error=error.type if isinstance(error, LLMError) else type(error).__name__,
                events=len(hold.events),
            )
            raise
        if hold.overfull:
            call.note("commit.early", events=len(hold.events))
        return relayed(Relay(reply), hold.events)

    def worst_seconds(self, inner: float) -> float:
        """Unbounded where it holds: a stream may go on for as long as the call may."""
        return inf if self.holds else inner


class _Hold:
    """What is held of one stream, and whether that is enough."""

    __slots__ = ("_bytes", "_cfg", "_chars", "_contents", "_ends", "events", "over", "overfull")

    def __init__(self, cfg: Commit, now: float) -> None:
        self._cfg = cfg
        self._ends = inf if cfg.seconds is None else now + cfg.seconds
        self._contents = self._chars = self._bytes = 0
        self.events: list[Event] = []
        self.over = self.overfull = False

    def add(self, events: Sequence[Event], now: float) -> None:
        """Hold `events` as well, which came at `now`."""
        cfg, before = self._cfg, self._contents
        for event in events:
            if isinstance(event, Ping):  # a sign of life that is old by the time it is given out
                continue
            self.events.append(event)
            self._contents += is_content(event)
            self._bytes += _EVENT_BYTES
            if isinstance(event, _SAYING):
                text = event.arguments if isinstance(event, ToolDelta) else event.text
                self._chars += len(text)
                self._bytes += getsizeof(text)
                if isinstance(event, ReasoningDelta):  # an encrypted thought is long
                    self._bytes += getsizeof(event.signature) + getsizeof(event.encrypted)
            elif isinstance(event, Extra):
                self._bytes += len(repr(event))
            elif isinstance(event, Finish):
                self.over = cfg.policy != "whole"  # all content is there
        self.overfull = self._bytes > cfg.max_bytes
        self.over |= (
            self.overfull
            or (cfg.events is not None and self._contents >= cfg.events)
            or (cfg.chars is not None and self._chars >= cfg.chars)
            or (now >= self._ends and self._contents > before)
        )
