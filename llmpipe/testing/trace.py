"""Who ran, in which order, and how it ended for each: what a test of a chain's order asks."""

from __future__ import annotations

from collections.abc import Sequence
from types import EllipsisType
from typing import Any

from attrs import Factory, frozen

from llmpipe.pipeline.call import Call
from llmpipe.pipeline.chain import Chain
from llmpipe.pipeline.linker import Handler
from llmpipe.pipeline.outcome import Outcome
from llmpipe.pipeline.reply import Reply

__all__ = ("Recording", "assert_explain", "recorded")


@frozen(eq=False)
class Recording:
    """A chain that writes down who runs.

    Attributes:
        chain: like the one given, with the same middlewares, provider and runtime.
        log: what happened, in order: ``retry in``, ``retry out`` (its reply was there), ``retry ok``
            (or ``error``, ``cancelled``, ``abandoned``: its reply was over), ``retry raised RateLimited``.
            The provider speaks last and under its own name.
    """

    chain: Chain
    log: list[str] = Factory(list)

    @property
    def order(self) -> list[str]:
        """The names of those that were entered, in order; one that was entered twice, twice."""
        return [line.removesuffix(" in") for line in self.log if line.endswith(" in")]


def recorded(chain: Chain) -> Recording:
    """`chain` with an observer round each middleware, and round the provider."""
    log: list[str] = []
    layers: list[Any] = []
    for item in chain.middleware:
        layers += [_Observer(item.name, item.priority, log), item]
    innermost = max((item.priority for item in chain.middleware), default=0)
    layers.append(_Observer(chain.provider.name, innermost, log, "provider "))
    return Recording(Chain(chain.provider, *layers, runtime=chain.runtime), log)


class _Observer:
    """Stands just outside a middleware: same priority, added before it."""

    def __init__(self, watched: str, priority: int, log: list[str], kind: str = "") -> None:
        self.name = f"recorded {kind}{watched}"
        self.priority = priority
        self._watched = watched
        self._log = log

    async def __call__(self, call: Call, call_next: Handler) -> Any:
        watched, log = self._watched, self._log
        log.append(f"{watched} in")
        try:
            reply: Reply = await call_next(call)
        except BaseException as error:  # goes on; it is only written down
            log.append(f"{watched} raised {type(error).__name__}")
            raise
        log.append(f"{watched} out")
        outcome: Outcome = yield reply
        log.append(f"{watched} {outcome.status}")


def assert_explain(chain: Chain, names: Sequence[str | EllipsisType]) -> None:
    """The middlewares of `chain` are `names`, outermost first; ``...`` stands for any others.

    ::

        assert_explain(chain, ["trace", ..., "cache", ..., "retry", "rate_limit", "breaker", ...])

    Raises: AssertionError with both orders, and what the chain says about its own.
    """
    there = [item.name for item in chain.middleware]
    if not _matches(there, list(names)):
        wanted = ", ".join("..." if name is ... else str(name) for name in names)
        raise AssertionError(
            f"the order is not as it should be\n"
            f"  wanted: {wanted}\n  is:     {', '.join(there)}\n\n{chain.explain()}"
        )


def _matches(there: list[str], names: list[str | EllipsisType]) -> bool:
    if not names:
        return not there
    if names[0] is ...:
        return any(_matches(there[at:], names[1:]) for at in range(len(there) + 1))
    return bool(there) and there[0] == names[0] and _matches(there[1:], names[1:])
