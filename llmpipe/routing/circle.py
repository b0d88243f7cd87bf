"""Calls that come back to where they went out from, found while they are under way."""

from __future__ import annotations

from collections.abc import Hashable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

__all__ = ("once_on_the_way",)

_asking: ContextVar[frozenset[Hashable]] = ContextVar("llmpipe_routing_asking", default=frozenset())


@contextmanager
def once_on_the_way(who: object, what: Hashable) -> Iterator[bool]:
    """Whether `who` has not been asked for `what` yet on the way here. Within the block it has.

    The way is that of the task, and of those it has begun meanwhile.
    """
    mark = id(who), what
    asking = _asking.get()
    if mark in asking:
        yield False
        return
    token = _asking.set(asking | {mark})
    try:
        yield True
    finally:
        _asking.reset(token)
