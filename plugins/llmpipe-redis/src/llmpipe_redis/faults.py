"""What an answer of Redis that is an error means for whoever asked.

Redis begins an error with a word in capitals, which is its code; one that a command inside a script
met stands further back (Redis 6: ``ERR Error running script … -OOM …``). Codes: the comments of
``shared`` in Redis' ``server.c``.
"""

from __future__ import annotations

import re

from attrs import frozen
from redis.exceptions import InvalidResponse, RedisError, ResponseError

from llmpipe.errors import StoreDamaged, StoreUnavailable
from llmpipe.secret import scrub

__all__ = ("Fault", "fault")


@frozen
class Fault:
    """How an error is taken.

    Attributes:
        error: what is raised.
        trips: whether the store is to be left alone for a while.
    """

    error: StoreUnavailable
    trips: bool


# code: what is wrong; whether nothing else would be answered now either
_CODES: dict[str, tuple[str, bool]] = {
    "ASK": ("is moving this key to another node of its cluster", False),
    "BUSY": ("is busy with somebody's long script", True),
    "CLUSTERDOWN": ("is part of a cluster that is down", True),
    "CROSSSLOT": ("keeps keys of one thing in several slots", False),
    "LOADING": ("is loading its data", True),
    "MASTERDOWN": ("has lost its master", True),
    "MISCONF": ("cannot save to its disk and accepts no change", False),
    "MOVED": ("is a node of a cluster, and this key lies on another; name that one, or a proxy", False),
    "NOAUTH": ("wants a password", True),
    "NOPERM": ("does not permit this user what is needed", False),
    "NOREPLICAS": ("has too few replicas to accept a change", False),
    "OOM": ("is at its maxmemory and accepts no change", False),
    "READONLY": ("is a replica and accepts no change", True),
    "TRYAGAIN": ("is moving these keys to another node of its cluster", False),
    "WRONGPASS": ("refuses user name and password", True),
}
_CODE = re.compile(r"(?<![A-Za-z])(" + "|".join(_CODES) + r"|WRONGTYPE)(?![A-Za-z])")
# A right that lacks inside a script has no code in Redis 6.
_RIGHT = re.compile(r"The user executing the script can't|ACL failure in script")
_SCRIPT = re.compile(r"user_script|Error running script|Error compiling script")


def fault(error: RedisError | ValueError, place: str) -> Fault:
    """How `error`, an answer of the Redis at `place`, is taken.

    Values of the wrong type, and values that a script cannot reckon with, are `StoreDamaged`; all else
    is `StoreUnavailable`, for what was asked was not done.
    """
    if isinstance(error, (InvalidResponse, ValueError)):
        message = f"what is at {place} does not speak as a Redis does"
        return Fault(StoreUnavailable(message), trips=True)
    text = str(error)
    said = scrub(text, max_chars=300)
    code = getattr(error, "status_code", None) or ""
    if code not in _CODES:
        found = _CODE.search(text)
        code = found.group(1) if found else _BY_CLASS.get(type(error).__name__, "")
        code = "NOPERM" if not code and _RIGHT.search(text) else code
    if code in _CODES:
        what, trips = _CODES[code]
        return Fault(StoreUnavailable(f"Redis at {place} {what}", code=code), trips)
    if not isinstance(error, ResponseError):  # ConnectionError or TimeoutError
        return Fault(StoreUnavailable(f"Redis at {place} is out of reach"), trips=True)
    if code == "WRONGTYPE":
        message = f"Redis at {place} has a value of another type under a key of llmpipe's"
        return Fault(StoreDamaged(message, code=code), trips=False)
    if _SCRIPT.search(text):
        message = f"Redis at {place} has a value under a key of llmpipe's that cannot be read: {said}"
        return Fault(StoreDamaged(message), trips=False)
    return Fault(StoreUnavailable(f"Redis at {place} refused: {said}"), trips=False)


# Before redis-py 6 its errors do not carry the code, and it cuts the code off the text.
_BY_CLASS = {
    "AskError": "ASK",
    "AuthenticationError": "WRONGPASS",
    "AuthenticationWrongNumberOfArgsError": "WRONGPASS",
    "BusyLoadingError": "LOADING",
    "ClusterCrossSlotError": "CROSSSLOT",
    "ClusterDownError": "CLUSTERDOWN",
    "MasterDownError": "MASTERDOWN",
    "MovedError": "MOVED",
    "NoPermissionError": "NOPERM",
    "OutOfMemoryError": "OOM",
    "ReadOnlyError": "READONLY",
    "TryAgainError": "TRYAGAIN",
}
