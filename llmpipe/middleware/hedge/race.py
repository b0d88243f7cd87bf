"""Two attempts at one target, and the first content wins.

The first runs in the caller's own task, so that a call which needs no second one costs a timer and
no task. The second has a task of its own; when it wins, the first is cancelled where it waits, the
way a time limit does it, and its cancellation is not the caller's.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from llmpipe.errors import LLMError
from llmpipe.pipeline.reply import Reply

if TYPE_CHECKING:
    from collections.abc import Callable

    from llmpipe.pipeline.call import Attempt, Call
    from llmpipe.pipeline.linker import Handler

__all__ = ("Race", "attempt_of", "settles")

_LAST_WORD = 1.0  # seconds that a loser has to end in, before the winner is handed on without waiting for it


def attempt_of(call: Call, since: int) -> Attempt | None:
    """The first attempt at the call's target among those of the ledger from place `since` on."""
    name, _, model = call.target_key
    for attempt in call.ledger.attempts[since:]:
        if attempt.provider == name and attempt.asked_model == model:
            return attempt
    return None


def settles(error: BaseException) -> bool:
    """Whether `error` says that the request itself can never succeed there, so that no other try matters.

    What was refused before it was sent, such as by our own limits, says nothing about the other attempt.
    """
    return isinstance(error, LLMError) and error.sent and not error.retryable and error.health == "success"


class Race:
    """One call under way, that may be sent a second time.

    Args: delay is seconds from the moment the first attempt is sent (waiting in a queue of ours is no
    reason to send another); pay says whether the second may be sent, and takes what it costs.
    """

    __slots__ = (
        "_begun",
        "_call",
        "_cancelling",
        "_delay",
        "_ended",
        "_error",
        "_loop",
        "_next",
        "_over",
        "_pay",
        "_reply",
        "_second",
        "_since",
        "_stopped",
        "_task",
        "_timer",
    )

    def __init__(self, call: Call, call_next: Handler, delay: float, pay: Callable[[str], bool]) -> None:
        task = asyncio.current_task()
        assert task is not None, "a call runs in a task"
        self._call, self._next, self._delay, self._pay = call, call_next, delay, pay
        self._task, self._cancelling = task, task.cancelling()
        self._loop = task.get_loop()
        self._since = len(call.ledger.attempts)
        self._timer: asyncio.TimerHandle = self._loop.call_later(delay, self._due)
        self._second: asyncio.Task[None] | None = None
        self._begun = 0.0  # when the second attempt was
        self._reply: Reply | None = None
        self._error: Exception | None = None
        self._over = False  # the first attempt has ended, or the whole race
        self._stopped = False  # we have cancelled the first attempt

    @property
    def second_began(self) -> float | None:
        """When the second attempt was begun, loop time; None if there was none."""
        return self._begun if self._second is not None else None

    @property
    def second_won(self) -> bool:
        """Whether the reply is the second attempt's."""
        return self._reply is not None

    async def run(self) -> Reply:
        """The reply that has content first. Raises the error that says most of both."""
        try:
            reply = await self._first()
        finally:  # what both have opened belongs to the linker, which closes what is not handed on
            self._over = True
            self._timer.cancel()
            await self._end_second()
        if isinstance(self._error, LLMError):
            self._error.survived()
        return reply

    async def _first(self) -> Reply:
        try:
            reply = await self._next(self._call)
        except asyncio.CancelledError as error:
            # A cancellation from outside, or ours: then there is something of the second's to give.
            if not self._stopped or self._task.uncancel() > self._cancelling:
                raise
            self._stopped = False
            # The ledger keeps it, and its frames lead to us and to the reply, which could never be dropped.
            error.__traceback__ = None
            return self._taken()
        except LLMError as error:
            self._own_up()
            rescued = await self._rescued(error)
            if rescued is None:
                raise
            error.survived()
            return rescued
        except BaseException:  # goes on; only a cancellation that was ours must not stay behind
            self._own_up()
            raise
        if not self._own_up():  # the reply was in hand at the moment at which the second one's was
            self._reply = None
        return reply

    def _own_up(self) -> bool:
        """Take back a cancellation of ours that came too late to do anything; whether there was none."""
        self._over = True
        if not self._stopped:
            return True
        self._stopped = False
        self._task.uncancel()
        return False

    def _taken(self) -> Reply:
        """What the second attempt has come to."""
        if self._reply is not None:
            return self._reply
        assert self._error is not None
        raise self._error

    async def _rescued(self, error: LLMError) -> Reply | None:
        """The second attempt's reply in spite of the first one's `error`; None where there is none."""
        if settles(error):
            return None
        if self._second is None:
            if error.throttled or error.retry_after or not error.retryable or self._call.spare:
                return None  # asked to wait, or another target stands ready, or no use
            self._timer.cancel()
            if not self._pay(error.type):
                return None
            self._start()
        assert self._second is not None
        await asyncio.wait((self._second,))
        if self._error is not None and settles(self._error):
            raise self._error
        return self._reply

    # ------------------------------------------------------------ the second attempt

    def _due(self) -> None:
        """The timer: begin the second attempt, if the first has been under way for the delay."""
        if self._over:
            return
        first = attempt_of(self._call, self._since)
        when = self._loop.time() + self._delay if first is None else first.started_at + self._delay
        if self._loop.time() < when:
            self._timer = self._loop.call_at(when, self._due)
        elif self._pay(""):
            self._start()

    def _start(self) -> None:
        self._begun = self._loop.time()
        self._second = self._call.runtime.spawn(self._run_second(), "hedge")

    async def _run_second(self) -> None:
        try:
            reply = await self._next(self._call)
        except asyncio.CancelledError as error:
            error.__traceback__ = None  # as above, where the first has won
            raise
        except Exception as error:  # noqa: BLE001  whatever it is, `run` knows what to do with it
            self._error = error
            if not self._over and settles(error):
                self._stop_first()
            return
        self._reply = reply
        if self._second is not None and self._second.cancelling():
            await reply.aclose()  # too late: nobody is there to take it
        elif not self._over:
            self._stop_first()

    def _stop_first(self) -> None:
        self._over = self._stopped = True
        self._task.cancel()

    async def _end_second(self) -> None:
        """Cancel the second attempt where it is still under way, and give it time to write what it cost."""
        second = self._second
        if second is None or second.done():
            return
        second.cancel()
        await asyncio.wait((second,), timeout=_LAST_WORD)
