"""Failures that are told more than once: to several callers, or again within seconds."""

from __future__ import annotations

from collections import OrderedDict
from typing import TypeVar

from llmpipe.errors import LLMError

__all__ = ("Faults", "certain", "fresh")

E = TypeVar("E", bound=BaseException)

_STATUSES = (400, 413, 422)


def fresh(error: E) -> E:
    """A copy for one caller; one that is none of ours as it is.

    An error collects a traceback, and what its reader had got, wherever it is raised.
    """
    if not isinstance(error, LLMError):
        return error
    copy = type(error).__new__(type(error), *error.args)
    copy.__dict__.update(error.__dict__)
    copy.metadata = dict(error.metadata)
    return copy


def certain(error: LLMError) -> bool:
    """Whether the same request would fail in the same way: a bad request, or one too long for the model.

    Said by the provider, of the request, for good: never a limit, a refusal of its policy or a failure of
    its own.
    """
    return (
        error.sent
        and error.status in _STATUSES
        and not error.retryable
        and not error.throttled
        and error.health == "success"
        and error.rescue in ("none", "context")
    )


class Faults:
    """The latest failures by key, each for a time; the oldest go first. Times are loop seconds."""

    __slots__ = ("_by_key", "_most")

    def __init__(self, most: int = 1000) -> None:
        self._by_key: OrderedDict[bytes, tuple[float, LLMError]] = OrderedDict()
        self._most = most

    def add(self, key: bytes, error: LLMError, until: float) -> None:
        """Keep a copy of `error`, without frames, for as long as it is not `until`."""
        kept = fresh(error)
        kept.partial, kept.attempt, kept.sent, kept.billed = None, 0, False, "no"
        self._by_key.pop(key, None)
        self._by_key[key] = (until, kept)
        if len(self._by_key) > self._most:
            self._by_key.popitem(last=False)

    def find(self, key: bytes, now: float) -> LLMError | None:
        """A copy of the failure of `key`, to be raised; None where none is known, or no longer."""
        found = self._by_key.get(key)
        if found is None:
            return None
        until, error = found
        if now >= until:
            del self._by_key[key]
            return None
        return fresh(error)

    def drop(self, key: bytes) -> bool:
        """Forget the failure of `key`; whether there was one."""
        return self._by_key.pop(key, None) is not None

    def clear(self) -> None:
        """Forget all of them."""
        self._by_key.clear()

    def __bool__(self) -> bool:
        return bool(self._by_key)
