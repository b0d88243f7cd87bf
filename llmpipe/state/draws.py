"""Draws of one amount from several balances: what nearly every call holds, and what it is charged.

The balances are looked at and checked once, for all the calls that draw from the same ones. So what is left
for each call is to see that its amount is money.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import repeat
from typing import overload

from llmpipe.state.checks import check_draws
from llmpipe.state.contracts.ledger import Draw

__all__ = ("Accounts", "EvenDraws", "Share", "shares_of")

Share = tuple[tuple[str, int], int, int | None, int, float | None]
"""A draw as ledgers reckon with it: key of the balance, nano, limit, likely, ends."""

_MOST = 2**63 - 1


class Accounts:
    """Balances that are drawn from together.

    Args: drawn has a draw from each of them, of which only account, period, limit and ends matter.
    Raises: ValueError for what is no balance, and for two that are the same.
    """

    __slots__ = ("ends", "kept", "keys", "limited", "limits")

    def __init__(self, drawn: Sequence[Draw]) -> None:
        check_draws(drawn)
        self.keys = tuple([(draw.account, draw.period) for draw in drawn])
        self.limits = tuple([draw.limit for draw in drawn])
        self.ends = tuple([draw.ends for draw in drawn])
        both = zip(self.keys, self.limits, strict=True)
        self.limited = tuple([(key, limit) for key, limit in both if limit is not None])
        self.kept = tuple(zip(self.keys, self.ends, strict=True))


class EvenDraws(Sequence[Draw]):
    """A draw of `nano`, nano-USD, from each of `accounts`. A `Draw` is made where somebody looks at one."""

    __slots__ = ("accounts", "likely", "nano")

    def __init__(self, accounts: Accounts, nano: int, likely: int = 0) -> None:
        self.accounts, self.nano, self.likely = accounts, nano, likely

    def __len__(self) -> int:
        return len(self.accounts.keys)

    @overload
    def __getitem__(self, place: int) -> Draw: ...
    @overload
    def __getitem__(self, place: slice) -> Sequence[Draw]: ...
    def __getitem__(self, place: int | slice) -> Draw | Sequence[Draw]:
        return [*self][place]

    def __iter__(self) -> Iterator[Draw]:
        for (account, period), nano, limit, likely, ends in self.shares():
            yield Draw(account, period, nano, limit, likely, ends)

    def shares(self) -> list[Share]:
        """What it is, balance by balance."""
        of = self.accounts
        return [*zip(of.keys, repeat(self.nano), of.limits, repeat(self.likely), of.ends)]


def shares_of(draws: Sequence[Draw], *, once: bool = True) -> list[Share]:
    """`draws` as ledgers reckon with them.

    Raises: ValueError as `check_draws` does, which says what `once` is.
    """
    if type(draws) is EvenDraws:
        nano, likely = draws.nano, draws.likely
        if type(nano) is int and type(likely) is int and 0 <= likely <= _MOST and 0 <= nano <= _MOST:
            return draws.shares()
    check_draws(draws, once=once)
    return [((draw.account, draw.period), draw.nano, draw.limit, draw.likely, draw.ends) for draw in draws]
