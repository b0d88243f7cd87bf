"""Asks the members of an ensemble side by side, in time, and leaves none of them at work."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Iterable, Sequence
from functools import partial
from math import inf
from typing import TYPE_CHECKING, Any

from attrs import define, evolve, field, frozen

from llmpipe.errors import LLMError
from llmpipe.pipeline.call import Attempt, Call, Ledger, Note
from llmpipe.pipeline.chain import Chain
from llmpipe.pipeline.outcome import Outcome
from llmpipe.runtime import shielded
from llmpipe.types import Completion, Cost, Event, Request, Usage, fold

if TYPE_CHECKING:
    from llmpipe.pipeline.linker import Handler
    from llmpipe.pipeline.reply import Reply

__all__ = ("Asked", "LATE", "OwnLedger", "SPARED", "ask_all", "charge_of")

LATE = "LATE"
SPARED = "SPARED"


@define(eq=False)
class Asked:
    """A member that was asked, and what came of it: a completion, or why there is none.

    `lost` is the type of its error, LATE where it had not answered in time, SPARED where others had
    answered enough; ``""`` where it answered.
    """

    label: str
    target: Any
    ledger: Ledger = field(factory=Ledger)
    completion: Completion | None = None
    error: LLMError | None = None
    lost: str = ""
    seconds: float = 0.0

    @property
    def charge(self) -> Cost | None:
        """What its attempts cost; None where one has no price, or nobody priced them."""
        return charge_of(self.ledger.attempts)

    def told(self) -> dict[str, Any]:
        """It as JSON, safe to show: no text of the provider's."""
        plain: dict[str, Any] = {"member": self.label, "status": self.lost or "ok"}
        plain["seconds"] = round(self.seconds, 3)
        if self.completion is not None:
            plain["model"] = self.completion.model
            if (usage := self.completion.usage) is not None:
                plain["input_tokens"], plain["output_tokens"] = usage.input_tokens, usage.output_tokens
        charge = self.charge
        if self.ledger.attempts and charge is not None:
            plain["cost_usd"] = f"{charge.usd:f}"
        return plain


def charge_of(attempts: Iterable[Attempt]) -> Cost | None:
    """What `attempts` cost; None where one has no price."""
    total = Cost()
    for attempt in attempts:
        if attempt.charge is None:
            return None
        total += attempt.charge
    return total


async def ask_all(
    asked: Sequence[Asked], call: Call, *, deadline: float, quorum: int, enough: int | None
) -> None:
    """Ask all of `asked`, and write into each what came of it, in time.

    That is within `deadline` seconds, and by the call's own deadline.

    Done as soon as all have answered or failed, `enough` have answered, or too many have failed for `quorum`;
    who is then at work is cancelled, and is done with it when this returns.

    Raises: what a member raises that is no LLMError.
    """
    runtime = call.runtime
    until = runtime.now() + deadline
    if call.deadline is not None:
        until = min(until, call.deadline)
    inner = call.evolve(target=None, deadline=until)
    tasks = {
        asyncio.create_task(_ask(one, inner, call.ledger), name=f"llmpipe:ensemble {one.label}"): one
        for one in asked
    }
    try:
        rest = await _wait(tasks, until, quorum, enough, runtime.now)
        for task, one in tasks.items():
            if not task.done():
                one.lost = rest
    finally:
        await _end(tasks, call)


async def _wait(
    tasks: dict[asyncio.Task[None], Asked], until: float, quorum: int, enough: int | None, now: Any
) -> str:
    """Wait for what is needed; what those are who are still at work."""
    waiting = set(tasks)
    while waiting:
        done, waiting = await asyncio.wait(
            waiting, timeout=max(0.0, until - now()), return_when=asyncio.FIRST_COMPLETED
        )
        for task in done:
            if task.cancelled():  # by itself: nobody else has, and we have not been
                raise RuntimeError(f"member {tasks[task].label} of the ensemble cancelled itself")
            task.result()  # raises what is none of our errors
        answered = sum(one.completion is not None for one in tasks.values())
        if answered >= (enough or inf) or answered + len(waiting) < quorum:
            return SPARED
        if not done:
            return LATE
    return LATE


async def _end(tasks: dict[asyncio.Task[None], Asked], call: Call) -> None:
    """Cancel who is still at work, and wait until nobody is."""
    left = [task for task in tasks if not task.done()]
    for task in left:
        task.cancel()
    try:
        if left:
            await shielded(_settled(left), call.runtime, "cancelling members of an ensemble")
    finally:
        for task in tasks:  # one that nobody asked is warned of
            if task.done() and not task.cancelled():
                task.exception()


async def _settled(tasks: Sequence[asyncio.Task[None]]) -> None:
    await asyncio.wait(tasks)


async def _ask(one: Asked, call: Call, shared: Ledger) -> None:
    """Ask one member, for a whole reply."""
    now = call.runtime.now
    began = now()
    target, request = one.target, call.request
    assert isinstance(request, Request)
    # Its attempts are its own until it is done: else the retries of one would use up those of another.
    entry = _Entry(one.ledger, shared)
    try:
        chain = target if isinstance(target, Chain) else Chain(target, runtime=call.runtime)
        request = evolve(request, stream=False, model=target.model or request.model)
        reply = await chain(call.evolve(provider=chain.provider, request=request, ledger=one.ledger))
        done = await reply.full()
        assert isinstance(done, Completion)
        one.completion = done
    except LLMError as error:
        one.error, one.lost = error, error.type
    finally:
        one.seconds = now() - began
        entry.enter()


class _Entry:
    """Enters one ledger in another: attempts with the numbers they have there, and notes in order of time."""

    __slots__ = ("_into", "_notes", "_numbers", "_own")

    def __init__(self, own: Ledger, into: Ledger) -> None:
        self._own = own
        self._into = into
        self._numbers: dict[int, int] = {}
        self._notes = 0
        own.within = into

    def enter(self) -> None:
        """Enter what is new."""
        for attempt in self._own.attempts[len(self._numbers) :]:
            self._enter_attempt(attempt)
        new = self._own.notes[self._notes :]
        self._notes += len(new)
        if new:
            self._into.notes.extend(map(self._renumbered, new))
            self._into.notes.sort(key=lambda note: note.at)

    def _enter_attempt(self, attempt: Attempt) -> None:
        self._into.attempts.append(attempt)
        number = self._numbers[attempt.number] = len(self._into.attempts)
        if isinstance(attempt.error, LLMError) and attempt.error.attempt == attempt.number:
            attempt.error.attempt = number
        attempt.number = number

    def _renumbered(self, note: Note) -> Note:
        number = note.detail.get("attempt")
        if number not in self._numbers:
            return note
        return Note(note.at, note.kind, {**note.detail, "attempt": self._numbers[number]})


@frozen
class OwnLedger:
    """Counts the attempts inside it by themselves, and enters them in the call's ledger.

    It does so at commit, so that an open attempt is seen, and with what came later at the end. Of a stream
    it notes the tokens, for further out those of the members are added to them.
    """

    name: str = "ensemble.ledger"
    priority: int = 0

    async def __call__(self, call: Call, call_next: Handler) -> AsyncGenerator[Reply, Outcome]:
        """The reply, its attempts entered."""
        own = Ledger()
        entry = _Entry(own, call.ledger)
        try:
            reply = await call_next(call.evolve(ledger=own))
        finally:
            entry.enter()
        if reply.streamed:
            noted = _Noted()
            reply.pipe(noted)
            for attempt in own.attempts:
                if attempt.ended_at is None and attempt.so_far is None:
                    attempt.so_far = partial(noted.usage, attempt)
        yield reply
        entry.enter()


class _Noted:
    """A stage that only looks, and notes what passes."""

    def __init__(self) -> None:
        self._events: list[Event] = []

    def see(self, events: Sequence[Event]) -> None:
        """Note them."""
        self._events.extend(events)

    def feed(self, event: Event) -> tuple[Event, ...]:
        """`event`, noted."""
        self.see((event,))
        return (event,)

    def flush(self) -> tuple[Event, ...]:
        """Nothing is held back."""
        return ()

    def usage(self, attempt: Attempt) -> Usage:
        """The tokens of what has passed: told, or estimated."""
        return Outcome("error", result=fold(self._events), request=attempt.request).usage
