"""Price every attempt of a call, and keep the books: per model, provider, tenant, project and user.

=========================  ==============================================================
note                       detail
=========================  ==============================================================
``cost.unknown_price``     ``provider``, ``model`` and number of the ``attempt`` without a price
=========================  ==============================================================

Three states, as money has them: what was not sent, or not billed, costs nothing; what told its
usage costs that; what was sent and never told costs an estimate of its input, marked as one. So
failed, cancelled, abandoned and hedged attempts are in the sum. An unknown price is None, never 0.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from decimal import Decimal
from functools import partial
from typing import Any, ClassVar

from attrs import Factory, asdict, define, field, fields, frozen

from llmpipe.errors import ConfigError
from llmpipe.middleware.charging import FREE, charge_for, usage_of
from llmpipe.pipeline import bands
from llmpipe.pipeline.call import Attempt, Call
from llmpipe.pipeline.linker import Handler
from llmpipe.pipeline.outcome import Outcome, Result
from llmpipe.pipeline.reply import Reply
from llmpipe.pricing import PriceTable
from llmpipe.pricing import prices as packaged_prices
from llmpipe.runtime import Runtime
from llmpipe.types import Cost as Charge
from llmpipe.types import Usage
from llmpipe.types.copying import recharged

__all__ = ("Cost", "Total", "Totals")

_OTHER = "_other"

_Key = tuple[str, str, str, str, str]
"""Provider, model, tenant, project, user."""


@define
class Total:
    """A sum in the books. Money is nano-USD; `usd` is the same in USD, exact.

    `nano` has all that is known, `estimated_nano` the part of it that rests on estimates.
    `unknown` counts attempts without a price, `hits` the calls that no attempt was needed for and
    `saved_nano` what these would have cost.
    """

    calls: int = 0
    attempts: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    nano: int = 0
    estimated_nano: int = 0
    unknown: int = 0
    hits: int = 0
    saved_nano: int = 0

    @property
    def usd(self) -> Decimal:
        """USD spent."""
        return Decimal(self.nano).scaleb(-9)

    @property
    def saved_usd(self) -> Decimal:
        """USD that hits saved."""
        return Decimal(self.saved_nano).scaleb(-9)

    def add_attempt(self, usage: Usage | None, charge: Charge | None) -> None:
        """Take one attempt into this sum."""
        self.attempts += 1
        if usage is not None:
            self.input_tokens += usage.input_tokens
            self.output_tokens += usage.output_tokens
        if charge is None:
            self.unknown += 1
            return
        nano = charge.input_nano + charge.output_nano
        self.nano += nano
        if charge.estimated:
            self.estimated_nano += nano

    def add(self, other: Total) -> None:
        """Take `other` into this sum."""
        for name in _SUMS:
            setattr(self, name, getattr(self, name) + getattr(other, name))


_SUMS = tuple(a.name for a in fields(Total))


@frozen
class Totals:
    """The books: everything, and the same by one thing at a time. A user is (tenant, user)."""

    all: Total
    by_model: Mapping[str, Total]
    by_provider: Mapping[str, Total]
    by_tenant: Mapping[str, Total]
    by_project: Mapping[str, Total]
    by_user: Mapping[tuple[str, str], Total]


class _Book:
    """One line for each combination that was seen, up to a number; the rest share one."""

    __slots__ = ("_max_lines", "lines")

    def __init__(self, max_lines: int) -> None:
        self._max_lines = max_lines
        self.lines: dict[_Key, Total] = {}

    def line(self, provider: str, model: str, call: Call) -> Total:
        tags = call.tags
        key = (provider, model, call.tenant, str(tags.get("project", "")) if tags else "", call.user)
        found = self.lines.get(key)
        if found is None:
            if len(self.lines) >= self._max_lines:
                key = (_OTHER,) * 5
                found = self.lines.get(key)
            if found is None:
                found = self.lines[key] = Total()
        return found

    def sums(self, key_of: Callable[[_Key], Any]) -> dict[Any, Total]:
        found: dict[Any, Total] = {}
        for key, line in list(self.lines.items()):
            found.setdefault(key_of(key), Total()).add(line)
        return found


@frozen(kw_only=True)
class Cost:
    """Sets `Completion.cost`, `Attempt.charge` and the totals of the runtime.

    A project is what the call's tag ``project`` says. Behind a cache, where it sits by default, it
    never sees a hit: `Metrics` counts what those save. Put it outside the cache and it does both,
    and hits say that they cost nothing.

    Attributes:
        prices: USD per million tokens that go before the packaged table:
            ``{"gpt-4o": {"input": 2.5, "output": 10}}``; see `llmpipe.pricing.PriceTable`.
        max_lines: combinations of provider, model, tenant, project and user that are kept apart.
    """

    prices: Mapping[str, Mapping[str, Any]] = Factory(dict)
    max_lines: int = 10_000
    name: str = "cost"
    priority: int = bands.SPEND + 20

    # The table is made once: every call asks it, and it remembers what it found.
    _table: PriceTable = field(init=False, repr=False, eq=False)

    why: ClassVar[str] = (
        "outside routing and retries, so that it sums all attempts; inside budgets, which settle by it"
    )
    traits: ClassVar[frozenset[str]] = frozenset({"counts"})

    def __attrs_post_init__(self) -> None:
        if self.max_lines < 1:
            raise ConfigError(f"cost: max_lines must be at least 1, not {self.max_lines}")
        table = PriceTable(self.prices) if self.prices else packaged_prices()
        object.__setattr__(self, "_table", table)  # frozen: this is part of the construction

    async def __call__(self, call: Call, call_next: Handler) -> Reply:
        """Price the attempts: of a full reply at once, of a stream when it is over."""
        cfg = call.opt(self)
        book = call.runtime.state("cost", self.name, self._book)
        first = len(call.ledger.attempts)
        try:
            reply = await call_next(call)
        except BaseException:  # goes on: what the attempts cost is known all the same
            cfg._settle(call, first, book, None)
            raise
        if reply.streamed:
            reply.amend(partial(_amended, cfg, call, first))
            return reply.when_over(partial(cfg._streamed, first, book), call)
        return reply.amend(partial(recharged, charge=cfg._settle(call, first, book, reply.completion)))

    def _book(self) -> _Book:
        return _Book(self.max_lines)

    @staticmethod
    def totals(runtime: Runtime, name: str = "cost") -> Totals:
        """The books of the middleware called `name` on that runtime, so far."""
        book = runtime.state("cost", name, lambda: _Book(10_000))
        everything = Total()
        for line in list(book.lines.values()):
            everything.add(line)
        return Totals(
            everything,
            book.sums(lambda key: key[1]),
            book.sums(lambda key: key[0]),
            book.sums(lambda key: key[2]),
            book.sums(lambda key: key[3]),
            book.sums(lambda key: (key[2], key[4])),
        )

    @classmethod
    def snapshot(cls, runtime: Runtime, name: str = "cost") -> dict[str, Any]:
        """`totals` as plain JSON: counts as they are, money as decimal strings in USD.

        A user stands as ``tenant/user``, with ``%2F`` for a slash in either.
        """
        totals = cls.totals(runtime, name)
        sums = {
            group: {
                key if isinstance(key, str) else "/".join(map(_escaped, key)): _plain(total)
                for key, total in found.items()
            }
            for group, found in (
                ("by_model", totals.by_model),
                ("by_provider", totals.by_provider),
                ("by_tenant", totals.by_tenant),
                ("by_project", totals.by_project),
                ("by_user", totals.by_user),
            )
        }
        return {"currency": "USD", **_plain(totals.all), **sums}

    def _streamed(self, first: int, book: _Book, call: Call, outcome: Outcome) -> None:
        # Only a stream that nobody attempted needs its completion: folding it takes time.
        self._settle(call, first, book, None if len(call.ledger.attempts) > first else outcome.completion)

    def _settle(self, call: Call, first: int, book: _Book, result: Result | None) -> Charge | None:
        """Price what has no price yet and write it down; what all attempts cost together.

        `result` is the reply of the attempt that is open, where one is.
        """
        attempts = call.ledger.attempts
        if len(attempts) == first:
            return _free(call, book, result)
        total: Charge | None = None
        line: Total | None = None
        known = True
        usage: Usage | None
        for attempt in attempts[first:] if first else attempts:
            charge = attempt.charge
            if charge is None:
                if attempt.outcome is None and attempt.error is None:
                    if result is None or attempt.committed_at is None:
                        continue  # still under way: of a call that runs beside this one
                    if attempt is not attempts[-1] and attempt is not _live(attempts):
                        continue
                    model = result.model or attempt.asked_model
                    usage = result.usage or _so_far(attempt, result)
                else:
                    model, usage = attempt.model, usage_of(attempt)
                charge = attempt.charge = charge_for(self._table, attempt, model, usage)
                if charge is None:
                    known = False
                    if not _first_told(call, attempt, model):
                        continue
                line = book.line(attempt.provider, model, call)
                line.add_attempt(usage, charge)
                if charge is None:
                    continue
            total = charge if total is None else total + charge
        if line is not None:
            line.calls += 1
        return total if known else None

    def _sum(self, call: Call, first: int, so_far: Result) -> Charge | None:
        """What all attempts cost, those beside this reply aside; `so_far` is what has come of it."""
        total, attempts = FREE, call.ledger.attempts[first:]
        live = _live(attempts)
        for attempt in attempts:
            charge = attempt.charge
            if charge is not None:
                total += charge
                continue
            if attempt is live:
                charge = charge_for(
                    self._table, attempt, so_far.model or attempt.asked_model, _so_far(attempt, so_far)
                )
            elif attempt.outcome is None and attempt.error is None:
                continue
            else:
                charge = charge_for(self._table, attempt, attempt.model, usage_of(attempt))
            if charge is None:
                return None
            total += charge
        return total


_UNKNOWN = "cost.unknown_price"


def _amended(cfg: Cost, call: Call, first: int, completion: Result) -> Result:
    return recharged(completion, cfg._sum(call, first, completion))


def _live(attempts: Sequence[Attempt]) -> Attempt | None:
    """The attempt whose reply is being read: the last that has committed, unless it is over."""
    last = next((one for one in reversed(attempts) if one.committed_at is not None), None)
    return None if last is None or last.outcome is not None or last.error is not None else last


def _so_far(attempt: Attempt, result: Result) -> Usage:
    """The tokens of a reply that is not over: told at its finish, or estimated of what has come."""
    if attempt.so_far is not None:
        return attempt.so_far()
    return Outcome("error", result=result, request=attempt.request).usage


def _first_told(call: Call, attempt: Attempt, model: str) -> bool:
    """Tell of an attempt without a price, unless a chain inside this one has: whether it was told now."""
    number = attempt.number
    if any(note.kind == _UNKNOWN and note.detail["attempt"] == number for note in call.ledger.notes):
        return False
    call.note(_UNKNOWN, provider=attempt.provider, model=model, attempt=number)
    return True


def _free(call: Call, book: _Book, result: Result | None) -> Charge | None:
    """Count a call that needed no attempt: a hit; or a refusal, of which there is nothing to count."""
    if result is None:
        return None
    line = book.line(result.provider, result.model, call)
    line.calls += 1
    for note in call.ledger.notes:
        if note.kind in ("cache.hit", "cache.stale"):
            line.hits += 1
            line.saved_nano += note.detail.get("saved") or 0
    return FREE


def _escaped(part: str) -> str:
    """So that tenant ``a/b`` with user ``c`` is not taken for tenant ``a`` with user ``b/c``."""
    return part.replace("%", "%25").replace("/", "%2F")


def _plain(total: Total) -> dict[str, Any]:
    plain = asdict(total)
    plain["cost"] = f"{total.usd:f}"
    plain["saved"] = f"{total.saved_usd:f}"
    plain["estimated"] = f"{Decimal(plain.pop('estimated_nano')).scaleb(-9):f}"
    del plain["nano"], plain["saved_nano"]
    return plain
