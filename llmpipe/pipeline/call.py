"""One logical call, and what all its copies share."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, TypeVar

from attrs import define, evolve, field, frozen

from llmpipe.errors import LLMError
from llmpipe.runtime import Runtime
from llmpipe.tokens import estimate_request
from llmpipe.types import AnyRequest, Cost, Usage

if TYPE_CHECKING:
    from llmpipe.pipeline.outcome import Outcome
    from llmpipe.pipeline.share import Share
    from llmpipe.pipeline.target import Target

__all__ = ("Attempt", "Barrier", "Call", "Guard", "Ledger", "Note")

C = TypeVar("C")

_new = object.__new__
_set = object.__setattr__  # a frozen value refuses its own


@frozen
class Note:
    """Something that happened on the way, at monotonic loop time `at`, such as ``retry.wait``."""

    at: float
    kind: str
    detail: Mapping[str, Any]


@define(eq=False)
class Attempt:
    """One request to one provider: begun by the chain, ended when its reply is over.

    `sold_as` is the name that price tables know the provider by, where it says one. Times are monotonic
    loop seconds. `error` says why it failed, `outcome` how its reply ended
    (None where there was none); `charge` is set by whoever knows prices. `holds` are those of the call it
    was made of. `share` says what part of the request this is, where it was sent for several calls.
    `so_far` gives the tokens of a reply that is being read, where the reply of the call is more than that.
    """

    number: int
    provider: str
    asked_model: str
    request: AnyRequest = field(repr=False)
    started_at: float
    committed_at: float | None = None
    ended_at: float | None = None
    status: str = "open"
    error: BaseException | None = None
    outcome: Outcome | None = None
    charge: Cost | None = None
    sold_as: str = ""
    holds: tuple[str, ...] = ()
    share: Share | None = None
    so_far: Callable[[], Usage] | None = field(default=None, repr=False)

    def fail(self, error: BaseException, now: float) -> None:
        """The attempt ended without a reply."""
        self.ended_at, self.error = now, error
        self.status = "cancelled" if isinstance(error, asyncio.CancelledError) else "error"
        self.sign(error)

    def sign(self, error: BaseException) -> None:
        """Write into `error` whose it is, unless somebody has."""
        if isinstance(error, LLMError) and not error.attempt:
            error.attempt = self.number
            error.provider = error.provider or self.provider
            error.model = error.model or self.asked_model

    def settle(self, outcome: Outcome) -> None:
        """The attempt's reply is over."""
        self.ended_at, self.error, self.status = outcome.ended_at, outcome.error, outcome.status
        self.outcome = outcome

    @property
    def usage(self) -> Usage | None:
        """Tokens of this attempt, told or estimated; None where no reply had begun."""
        return None if self.outcome is None else self.outcome.usage

    @property
    def model(self) -> str:
        """The model that answered, or else the one that was asked."""
        return (self.outcome.completion.model if self.outcome is not None else "") or self.asked_model


@define(eq=False)
class Ledger:
    """What all copies of one call share: its attempts, and notes of what happened, in order.

    `within` is the ledger that all of it is entered in, where it is a branch's own: whoever counts that one
    has counted this.
    """

    attempts: list[Attempt] = field(factory=list)
    notes: list[Note] = field(factory=list)
    _estimated: tuple[AnyRequest, int] | None = None
    within: Ledger | None = field(default=None, repr=False)

    def estimated_tokens(self, request: AnyRequest) -> int:
        """About how many input tokens `request` is; worked out once for all who ask, one after another."""
        known = self._estimated
        if known is None or known[0] is not request:
            known = self._estimated = (request, estimate_request(request))
        return known[1]

    def note(self, kind: str, **detail: Any) -> None:
        """Write down that `kind` happened now. Metrics, traces and logs read it at the end."""
        self.notes.append(Note(asyncio.get_running_loop().time(), kind, detail))


Guard = Callable[["Call"], Awaitable["Call"]]
"""What is asked before each attempt of a call, wherever it is made: in a chain within the chain, by a
router, a hedge or a member of an ensemble. It gives the call back, changed or not, or refuses by an error."""

Barrier = Callable[["Call"], Awaitable[None]]
"""What an attempt waits for when all guards have let it pass. It may refuse by an error too; nothing was sent
then."""


# With a dict instead of slots a frozen instance is made, and copied, four times as fast (measured).
@frozen(eq=False, slots=False)
class Call:
    """A request on its way through a chain. Immutable: `evolve` makes a changed copy.

    Attributes:
        request: what is asked.
        runtime: clock, randomness, ids, tasks and state.
        id: unique for each logical call; retries and fallbacks share it.
        started_at: monotonic loop seconds.
        tenant: whose data this is; caches and limits never mix tenants.
        user: who asks, within the tenant.
        priority: higher is served first where calls queue.
        deadline: monotonic loop time at which the call must be over, or None.
        tags: labels for logs, metrics and routing.
        options: settings changed for this call only: middleware class to changed fields.
        without: names of middlewares this call skips.
        target: the provider to use instead of the chain's own; set by routing.
        provider: the chain's own provider.
        credential: which of the provider's keys to use, where it has several; it has a `label`.
        connect_timeout: seconds a new connection may take; None leaves it to the provider.
        spare: whether another target stands ready, so that waiting for this one is pointless.
        guards: what is asked before each attempt, in this order.
        barriers: what each attempt then waits for, before it is made.
        holds: ids of what is held for the attempt, by which a guard finds it again among all attempts.
        ledger: attempts and notes, shared by all copies.
    """

    request: AnyRequest
    runtime: Runtime = field(repr=False)
    id: str = ""
    started_at: float = 0.0
    tenant: str = ""
    user: str = ""
    priority: int = 0
    deadline: float | None = None
    tags: Mapping[str, str] = MappingProxyType({})
    options: Mapping[type, Mapping[str, Any]] = MappingProxyType({})
    without: frozenset[str] = frozenset()
    target: Target | None = None
    provider: Target | None = field(default=None, repr=False)
    spare: bool = False
    credential: Any = field(default=None, repr=False)
    connect_timeout: float | None = None
    guards: tuple[Guard, ...] = field(default=(), repr=False)
    barriers: tuple[Barrier, ...] = field(default=(), repr=False)
    holds: tuple[str, ...] = field(default=(), repr=False)
    ledger: Ledger = field(factory=Ledger, repr=False)

    @property
    def stream(self) -> bool:
        """Whether the caller wants a stream. Never a reason for a middleware to fork."""
        return self.request.stream

    @property
    def target_key(self) -> tuple[str, str, str]:
        """Provider, endpoint and model this call is going to now: the key of breakers and limits."""
        target = self.target or self.provider
        if target is None:
            return ("", "", self.request.model)
        return (target.name, target.endpoint, self.request.model or target.model)

    @property
    def account_key(self) -> tuple[str, str, str]:
        """`target_key`, with the number of the key where the provider has several: limits are of accounts."""
        if self.credential is None:
            return self.target_key
        name, endpoint, model = self.target_key
        return (f"{name}#{self.credential.label}", endpoint, model)

    def evolve(self, **changes: Any) -> Call:
        """A copy with `changes`, sharing the ledger."""
        fields = self.__dict__.copy()
        known = len(fields)
        fields.update(changes)
        if len(fields) != known:
            raise TypeError(f"a Call lacks one of the fields {', '.join(changes)}")
        copy = _new(Call)
        _set(copy, "__dict__", fields)
        return copy

    def remaining(self) -> float:
        """Seconds to the deadline; infinite without one, never below zero."""
        if self.deadline is None:
            return float("inf")
        return max(0.0, self.deadline - self.runtime.now())

    def opt(self, config: C) -> C:
        """`config`, a middleware, with the fields this call changes in it."""
        if not self.options:
            return config
        changes = self.options.get(type(config))
        if not changes:
            return config
        changed: C = evolve(config, **changes)  # type: ignore[misc]  # middlewares are attrs classes
        return changed

    def note(self, kind: str, **detail: Any) -> None:
        """Write `kind` into the ledger, with the loop's time."""
        self.ledger.notes.append(Note(self.runtime.now(), kind, detail))
