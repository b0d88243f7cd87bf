"""Asks targets how they are, now and then, where calls do not tell.

A target that is well and has answered a call within the interval is not asked: its answers say more,
and cost nothing. All others are, once in each interval and a little, at an endpoint that is free.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from math import inf
from typing import TYPE_CHECKING, Any
from weakref import ref

from attrs import frozen

from llmpipe.errors import ConfigError, LLMError, Unsupported
from llmpipe.middleware.numeric import check_numbers
from llmpipe.pipeline.call import Call
from llmpipe.pipeline.checks import called, nearest
from llmpipe.routing.lane import Lane
from llmpipe.routing.route import innermost
from llmpipe.types import Request

if TYPE_CHECKING:
    from llmpipe.runtime import Runtime

__all__ = ("Checks",)

_KINDS = ("models", "key", "completion")
_JITTER = 0.1


@frozen(kw_only=True)
class Checks:
    """How targets are checked.

    Attributes:
        check: ``"models"`` lists the models (free), ``"key"`` validates the key (free), ``"completion"``
            sends a request for one token, which is paid for; or an async function of the target, which
            raises, or returns False, for one that is not well. None: never.
        interval: seconds between two checks of a target, at least; up to a tenth more.
        timeout: seconds a check may take.

    Raises: ConfigError for settings out of range.
    """

    check: str | Callable[[Any], Awaitable[object]] | None = "models"
    interval: float = 30.0
    timeout: float = 5.0

    def __attrs_post_init__(self) -> None:
        check_numbers(self, "checks")
        if isinstance(self.check, str) and self.check not in _KINDS:
            hint = nearest(self.check, _KINDS) or f"; there are {', '.join(_KINDS)}"
            raise ConfigError(f"there is no check {self.check!r}{hint}")
        if not (self.check is None or isinstance(self.check, str) or callable(self.check)):
            raise ConfigError(f"a check is a name or an async function, not {called(self.check)}")
        if not (0 < self.interval < inf and 0 < self.timeout < inf):
            raise ConfigError("checks interval and timeout are seconds above 0")

    def applies(self, lane: Lane) -> bool:
        """Whether there is something to ask the target of `lane`."""
        core = innermost(lane.route.target)
        if self.check is None:
            return False
        if self.check == "models":
            return hasattr(core, "get_models")
        return self.check != "key" or hasattr(core, "validate_api_key")

    async def run(self, lanes: Sequence[Lane], runtime: Runtime) -> None:
        """Check `lanes` until cancelled, or until they are gone: who waits holds none of them."""
        found = [(lane.name, ref(lane)) for lane in lanes if self.applies(lane)]
        del lanes
        async with asyncio.TaskGroup() as group:
            for name, lane in found:
                _ = group.create_task(self._watch(lane, runtime), name=f"llmpipe:checks of {name}")

    async def _watch(self, found: ref[Lane], runtime: Runtime) -> None:
        # The first one somewhere in the interval, so that many processes do not ask together.
        await asyncio.sleep(self.interval * runtime.random.random())
        while (lane := found()) is not None:
            now, health = runtime.now(), lane.health
            fresh = health.state == "healthy" and now - health.answered_at < self.interval
            if not fresh and now - health.checked_at >= self.interval:
                health.checked_at = now
                if not await self._check(lane, runtime):
                    return
            del lane
            await asyncio.sleep(self.interval * (1.0 + _JITTER * runtime.random.random()))

    async def _check(self, lane: Lane, runtime: Runtime) -> bool:
        """Check once; False where the target turns out to have nothing that could be asked."""
        problem = ""
        try:
            async with asyncio.timeout(self.timeout):
                if await self._ask(lane, runtime) is False:
                    problem = "check refused"
        except Unsupported:
            return False
        except TimeoutError:
            problem = f"check took {self.timeout:g} s"
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if task is None or task.cancelling():
                raise
            problem = "check was cancelled"  # by itself; nobody has ended us
        except LLMError as error:
            if error.health == "failure":
                problem = error.type
        except Exception as error:  # noqa: BLE001  the user's own function: whatever it raises is its answer
            problem = type(error).__name__
        if self.check == "completion":
            return True  # it went through the meter like any other call
        now = runtime.now()
        if problem:
            again = self.interval * (1.0 + _JITTER) + self.timeout
            lane.health.check_failed(now, problem, again)
        else:
            lane.health.check_passed(now)
        return True

    async def _ask(self, lane: Lane, runtime: Runtime) -> object:
        target = innermost(lane.route.target)
        if not isinstance(self.check, str):
            assert self.check is not None
            return await self.check(target)
        if self.check == "models":
            for model in await target.get_models():
                if model.id == lane.model and model.context_tokens:
                    lane.health.context_tokens = model.context_tokens
            return True
        if self.check == "key":
            return await target.validate_api_key()
        request = Request(lane.model, "Say yes.", max_tokens=1)
        call = Call(request, runtime, runtime.new_id("check-"), runtime.now(), provider=lane.chain.provider)
        reply = await lane.chain(call)
        return await reply.full()
