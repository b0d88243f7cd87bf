"""What a failure of the driver or the server means: one table, by SQLSTATE.

===========  ========================================================================================
verdict      what it means
===========  ========================================================================================
``again``    two transactions stood in each other's way; nothing was done: say it again
``lost``     the connection went; whether it was done is not known
``down``     the server is there, but not for us: full, starting, stopping, read-only, wrong password
``damaged``  tables are missing or broken
``value``    a value that the database has no room for
===========  ========================================================================================
"""

from __future__ import annotations

from typing import Literal

import asyncpg

__all__ = ("ERRORS", "Verdict", "judge")

Verdict = Literal["again", "lost", "down", "damaged", "value"]

ERRORS = (
    asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError, OSError, EOFError,
)  # fmt: skip
"""What asyncpg raises; OSError has TimeoutError and all that sockets and TLS raise."""

_BY_STATE: dict[str, Verdict] = {
    "40001": "again",  # serialization_failure
    "40P01": "again",  # deadlock_detected
    "55P03": "again",  # lock_not_available: the role has a lock_timeout
    "57P01": "lost",  # admin_shutdown: may come after the commit
    "57P02": "lost",  # crash_shutdown
    "42501": "down",  # insufficient_privilege
    "3F000": "damaged",  # invalid_schema_name
    "LP001": "value",  # ours: a record of the trail is there, and is another
}
_BY_CLASS: dict[str, Verdict] = {
    "08": "lost",
    "22": "value",
    "23": "value",
    "54": "value",
    "42": "damaged",
    "XX": "damaged",
}
# Of class 54 is a name that is too long for an index (2,700 bytes, where they do not compress).
# Of class 42 are a table, a column or a function that is not there, or is not as it was made.


def judge(error: BaseException) -> Verdict:
    """What `error`, one of `ERRORS`, means."""
    state = getattr(error, "sqlstate", None)
    if state is not None:
        return _BY_STATE.get(state) or _BY_CLASS.get(state[:2], "down")
    if isinstance(error, asyncpg.DataError | OverflowError):
        return "value"  # refused by the driver, before it was sent
    return "lost"
