"""What no store can keep: refused by every backend alike, before anything is done.

Each raises ValueError that says what is wrong. A duration or a time may be anything but NaN, which compares
with nothing: a lease of it would never end, here, or at once, there. One that is 0 or below is over.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import isfinite, isnan
from operator import attrgetter

import orjson

from llmpipe.state.contracts.audit import AuditQuery, AuditRecord
from llmpipe.state.contracts.breakers import Trip
from llmpipe.state.contracts.ledger import Draw, Spend
from llmpipe.state.contracts.limits import Ask
from llmpipe.state.contracts.providers import ProviderRow
from llmpipe.state.contracts.queue import Item
from llmpipe.state.contracts.vault import SealedKey

__all__ = (
    "at_most",
    "body_json",
    "check_asks",
    "check_balances",
    "check_draws",
    "check_item",
    "check_key",
    "check_query",
    "check_records",
    "check_row",
    "check_spends",
    "check_times",
    "check_trip",
    "check_used",
)

_MOST = 2**63 - 1
"""The largest whole number that a database keeps."""
_EXACT = 2**53
"""Up to here a double has every whole number."""
_WHOLE = {int}
_tokens = attrgetter(
    "input_tokens", "output_tokens", "cached_input_tokens", "cache_write_tokens", "reasoning_tokens"
)
_SHORTEST = 1e-9
"""Of a rate, units and seconds: beyond that a double overflows somewhere."""


def at_most(limit: int) -> int:
    """`limit`, of how many are wanted, as any database takes it; one below 0 wants none."""
    return max(0, min(limit, 2**31 - 1))


def check_times(**times: float | None) -> None:
    """See that each of `times`, durations or moments by what they are, is a number."""
    for name, value in times.items():
        if value is not None and isnan(value):
            raise ValueError(f"{name.replace('_', ' ')} is not a number")


def check_draws(draws: Sequence[Draw], *, once: bool = True) -> None:
    """See that `draws` are money that can be kept; with `once`, to be held, and each of another balance.

    What is charged may be below 0, which is a refund.
    """
    least = 0 if once else -_MOST
    for draw in draws:
        nano, likely, limit = draw.nano, draw.likely, draw.limit
        if type(nano) is not int or not least <= nano <= _MOST:
            raise ValueError(f"{draw.account!r}: nano-USD are whole, from {least} to 2**63 - 1, not {nano}")
        if type(likely) is not int or not 0 <= likely <= _MOST:
            raise ValueError(f"{draw.account!r}: nano-USD are whole, from 0 to 2**63 - 1, not {likely}")
        if limit is not None and not _whole(limit, -_MOST, _MOST):
            raise ValueError(f"{draw.account!r}: a limit is a whole number below 2**63, not {limit}")
        _check_whole(draw.period, draw.account)
        if draw.ends is not None and isnan(draw.ends):
            raise ValueError(f"{draw.account!r}: the end of its period is not a number")
    if once and len(draws) > 1 and len({(draw.account, draw.period) for draw in draws}) < len(draws):
        raise ValueError("two draws of one hold are of the same balance")


def check_balances(keys: Sequence[tuple[str, int]]) -> None:
    """See that `keys` can be those of balances."""
    for account, period in keys:
        _check_whole(period, account)


def check_spends(rows: Sequence[Spend]) -> None:
    """See that `rows` are lines that a journal can keep."""
    for row in rows:
        if not (isfinite(row.at) and isfinite(row.seconds)):
            raise ValueError(f"spend {row.id!r}: at and seconds are finite, not {row.at} and {row.seconds}")
        numbers = (row.nano or 0, row.asked_tokens or 0, *_tokens(row))
        if {*map(type, numbers)} != _WHOLE or min(numbers) < -_MOST or max(numbers) > _MOST:
            raise ValueError(f"spend {row.id!r}: money and tokens are whole numbers of less than 64 bits")


def check_asks(asks: Sequence[Ask]) -> None:
    """See that `asks` are numbers that limits can reckon with, each of another key."""
    for ask in asks:
        if not (0 <= ask.amount <= _EXACT and 0 <= ask.limit <= _EXACT):
            raise ValueError(
                f"{ask.key!r}: amount and limit are from 0 to 2**53, not {ask.amount} and {ask.limit}"
            )
        if ask.period == 0:
            continue
        if not (_SHORTEST <= ask.period <= _EXACT and ask.limit >= _SHORTEST and 0 <= ask.burst <= _EXACT):
            raise ValueError(
                f"{ask.key!r}: of a rate, limit and period are from 1e-9 to 2**53 and burst is from 0, not "
                f"{ask.limit}, {ask.period} and {ask.burst}"
            )
    if len(asks) > 1 and len({ask.key for ask in asks}) < len(asks):
        raise ValueError("two asks of one ticket are of the same key")


def check_used(used: Mapping[str, float]) -> None:
    """See that `used` are units."""
    for key, units in used.items():
        if not 0 <= units <= _EXACT:
            raise ValueError(f"{key!r}: units are from 0 to 2**53, not {units}")


def check_item(item: Item) -> None:
    """See that a queue can keep `item`, and that it may be leased at all."""
    check_times(expires_in=item.expires_in, delay=item.delay)
    if not _whole(item.attempts, 1, _EXACT):
        raise ValueError(f"item {item.id!r}: attempts are from 1 to 2**53, not {item.attempts}")
    if not _whole(item.priority, -_EXACT, _EXACT):
        raise ValueError(f"item {item.id!r}: priority is from -2**53 to 2**53, not {item.priority}")


def check_records(records: Sequence[AuditRecord]) -> None:
    """See that a trail can keep `records`: numbered from 1, each at a time."""
    for record in records:
        if not (_whole(record.seq, 1, _MOST) and isfinite(record.at)):
            raise ValueError(
                f"a record of {record.writer!r}: seq is from 1 on and its time is finite, not {record.seq} "
                f"and {record.at}"
            )


def body_json(record: AuditRecord) -> str:
    """The body of `record` as JSON."""
    try:
        return orjson.dumps(dict(record.body)).decode()
    except TypeError as error:
        raise ValueError(f"record {record.seq} of {record.writer!r}: its body is no JSON: {error}") from None


def check_query(query: AuditQuery) -> None:
    """See that the times of `query` are numbers."""
    check_times(since=query.since, until=query.until)


def check_key(key: SealedKey, expected: SealedKey | None) -> None:
    """See that a vault can keep `key`."""
    _check_whole(key.version, key.name)
    if expected is not None:
        _check_whole(expected.version, key.name)
    if not isfinite(key.created_at):
        raise ValueError(f"key {key.name!r}: when it was stored is {key.created_at}, which is no time")


def check_row(row: ProviderRow) -> None:
    """See that a provider table can keep `row`."""
    _check_whole(row.max_tokens, row.name)


def check_trip(trip: Trip) -> None:
    """See that `trip` is a time and a count."""
    check_times(seconds=trip.seconds)
    if not _whole(trip.reopens, 0, _EXACT):
        raise ValueError(f"a circuit was opened again from 0 to 2**53 times, not {trip.reopens}")


def _check_whole(number: int, of: str) -> None:
    if not _whole(number, -_MOST, _MOST):
        raise ValueError(f"{of!r}: {number} is no whole number of less than 64 bits")


def _whole(number: object, least: int, most: int) -> bool:
    """Whether it is a whole number in that range; who gives it may have no types."""
    return isinstance(number, int) and least <= number <= most
