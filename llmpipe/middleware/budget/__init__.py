"""Keep what calls cost within budgets: hold the worst case before each attempt, settle what it really was.

=====================  =====================================================================================
note                   detail
=====================  =====================================================================================
``budget.alert``       ``rule``, ``account`` (the balance), ``share`` that is used up, ``spent_usd``,
                       ``limit_usd``, ``resets_at``
``budget.downgrade``   ``rule``, the ``model`` that was asked for, and ``to`` which one it went
``budget.refused``     ``rule``, and the ``code`` of the error
=====================  =====================================================================================

A hold is taken over all budgets of a call in one atomic step, is a lease that expires, and is settled once.
So calls that run at the same time never spend more than there is together, and a process that dies
blocks nothing for longer than a lease.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from attrs import Factory, field, frozen

from llmpipe.errors import ConfigError
from llmpipe.middleware.budget.desk import Desk
from llmpipe.middleware.budget.forecast import Forecast, forecast
from llmpipe.middleware.budget.journal import read
from llmpipe.middleware.budget.meter import Meter
from llmpipe.middleware.budget.periods import Period
from llmpipe.middleware.budget.plan import Plans
from llmpipe.middleware.budget.purse import Purse
from llmpipe.middleware.budget.reconcile import tellings_of_line
from llmpipe.middleware.budget.rule import Rule
from llmpipe.middleware.numeric import check_numbers
from llmpipe.middleware.scopes import asked
from llmpipe.middleware.tables import tables
from llmpipe.pipeline import bands
from llmpipe.pipeline.call import Call
from llmpipe.pricing import PriceTable
from llmpipe.pricing import prices as packaged_prices
from llmpipe.runtime import Runtime, shielded
from llmpipe.secret import shown_url

if TYPE_CHECKING:
    from llmpipe.pipeline.linker import Handler, Middleware
    from llmpipe.pipeline.outcome import Outcome
    from llmpipe.pipeline.reply import Reply

__all__ = ("Budget", "BudgetStatus", "Forecast", "Rule")

_MOST_SLACK = 1_000_000


@frozen(kw_only=True)
class BudgetStatus:
    """How one budget stands: nano-USD, and `resets_at` in ISO 8601, None for one that never ends."""

    rule: str
    account: str
    limit: int
    spent: int
    held: int
    resets_at: str | None

    @property
    def left(self) -> int:
        """What may still be spent."""
        return max(0, self.limit - self.spent - self.held)

    @property
    def share(self) -> float:
        """What of it is spent, 0 to 1, and above where a call was dearer than was thought."""
        return self.spent / self.limit


def _rules(told: Any) -> tuple[Rule, ...]:
    return tables(Rule, told, "budget: rules")


@frozen(kw_only=True)
class Budget:
    """Refuses, or sends to a cheaper model, what does not fit a budget any more.

    It is asked before each attempt, wherever that is made, so retries, fallbacks and hedges are paid for
    too. What was not sent costs nothing, a stream that was left costs what came of it.

    Attributes:
        rules: the budgets; all that apply to a call must have room for it.
        prices: as `Cost` takes them; give both the same.
        output_tokens: `max_tokens` of requests that say none, where a budget limits.
        strict: hold a token for each byte of the prompt, which no tokenizer exceeds, instead of an estimate.
        unknown_price: ``refuse`` or ``allow`` what nobody knows the price of, where a budget limits.
        store: URL of the backend; see `llmpipe.state.open_state`.
        lease: seconds that a hold lasts if this process dies; while it lives, it renews them.
        slack_usd: what this process may spend while the store is out of reach; 0 refuses. That is how much
            each process can overspend by.
        cut: end a stream that goes far beyond the `max_tokens` that was held; see `Meter` for how far.
        digests: write digests of prompts into the journal, by which `advise` finds what is asked again.

    Raises: BudgetExceeded; StoreUnavailable while the store is out of reach and the slack used up.
    """

    rules: tuple[Rule, ...] = field(default=(), converter=_rules)
    prices: Mapping[str, Mapping[str, Any]] = Factory(dict)
    output_tokens: int = 4096
    strict: bool = False
    unknown_price: Literal["refuse", "allow"] = "refuse"
    store: str = field(default="memory://", repr=shown_url)
    lease: float = 600.0
    slack_usd: float = 0.0
    cut: bool = True
    digests: bool = False
    name: str = "budget"
    priority: int = bands.SPEND + 10
    table: PriceTable = field(init=False, repr=False, eq=False)
    plans: Plans = field(init=False, repr=False, eq=False)
    _place: str = field(init=False, repr=False, eq=False)

    why: ClassVar[str] = (
        "outside routing and retries, for it pays for all attempts; inside the cache, for a hit is free"
    )
    traits: ClassVar[frozenset[str]] = frozenset({"rations"})

    def __attrs_post_init__(self) -> None:
        self._check()
        table = PriceTable(self.prices) if self.prices else packaged_prices()
        _set = object.__setattr__  # frozen: this is part of the construction
        _set(self, "table", table)
        _set(self, "plans", Plans(self.rules))
        _set(self, "_place", f"{self.name} {self.store}")
        seen: set[str] = set()
        for rule in self.rules:
            if rule.name in seen:
                raise ConfigError(
                    f"{self.name}: two rules are called {rule.name!r}; give one a name of its own"
                )
            seen.add(rule.name)
            if rule.downgrade_to and self.unknown_price == "refuse" and not self._priced(rule.downgrade_to):
                raise ConfigError(
                    f"{self.name}: rule {rule.name!r}: downgrade_to is {rule.downgrade_to!r}, a model that "
                    "nobody knows the price of, which would be refused; say it in prices, or allow it"
                )

    def _check(self) -> None:
        check_numbers(self, f"{self.name}:")
        if isinstance(self.output_tokens, bool) or not 0 < self.output_tokens < 10**9:
            raise ConfigError(f"{self.name}: output_tokens is tokens, above 0, not {self.output_tokens}")
        if not 0 < self.lease < float("inf"):
            raise ConfigError(f"{self.name}: lease is seconds, above 0, not {self.lease}")
        if not 0 <= self.slack_usd <= _MOST_SLACK:
            raise ConfigError(
                f"{self.name}: slack_usd is dollars, from 0 to {_MOST_SLACK:,}, not {self.slack_usd}"
            )
        if self.unknown_price not in ("refuse", "allow"):
            raise ConfigError(f"{self.name}: unknown_price is refuse or allow, not {self.unknown_price!r}")

    def _priced(self, model: str) -> bool:
        return self.table.find("", model) is not None or any(
            key.lower().rpartition("/")[2] == model.lower() for key in self.prices
        )

    def rings(self) -> tuple[Middleware, ...]:
        """The middleware that a chain takes in place of this one, by how its store works."""
        settled = _Quick if self.store.startswith("memory:") else _Durable
        return (settled(config=self, name=self.name, priority=self.priority),)

    def __call__(self, call: Call, call_next: Handler) -> AsyncGenerator[Reply, Outcome]:
        """For those who link it by hand."""
        return _Durable(config=self, name=self.name, priority=self.priority)(call, call_next)

    def open(self, call: Call) -> Purse:
        """The purse of `call`, which is to be asked before each of its attempts.

        Raises: ConfigError for a call with a store of its own.
        """
        cfg = call.opt(self) if call.options else self
        if cfg.store != self.store:  # which decides how the chain was linked
            raise ConfigError(f"{self.name}: the store is that of all calls, and cannot be changed for one")
        return Purse(cfg, cfg.desk(call.runtime), call)

    def pays(self, call: Call) -> bool:
        """Whether `call` is paid from these budgets already, in a chain further out."""
        for guard in call.guards:
            purse = getattr(guard, "__self__", None)
            if isinstance(purse, Purse) and purse.is_of(self):
                return True
        return False

    def desk(self, runtime: Runtime) -> Desk:
        """What all calls on `runtime` share."""
        return runtime.state("budget", self._place, partial(Desk, runtime, self.store, self.name))

    async def status(self, runtime: Runtime, **scopes: str) -> list[BudgetStatus]:
        """How the budgets stand that a call of these scopes is paid from: ``account="acme", model="gpt-4o"``.

        Tags are scopes called as in a rule: ``**{"tag:team": "search"}``. A budget that is only of certain
        values of a scope which is not given is there too.

        Raises: ConfigError for a scope that there is not; StoreUnavailable.
        """
        return [status for _, _, status in await self._standing(runtime, scopes)]

    async def forecast(self, runtime: Runtime, **scopes: str) -> dict[str, Forecast]:
        """What the same budgets will have spent when their periods end, by the name of the rule.

        From the journal of the four weeks before; see `llmpipe.middleware.budget.forecast.forecast`.
        Raises: as `status`.
        """
        found: dict[str, Forecast] = {}
        now = runtime.wall()
        standing = await self._standing(runtime, scopes)
        begun = min([now, *[period.start for _, period, _ in standing if period.end is not None]])
        rows = await read(self.desk(runtime).ledger, since=begun - 28 * 86_400, until=now)
        for rule, period, status in standing:
            mine = [
                row
                for row in rows
                if any(
                    rule.applies(told, row.at) and rule.account(told) == status.account
                    for told in tellings_of_line(row)
                )
            ]
            found[rule.name] = forecast(
                spent=status.spent, limit=rule.nano, period=period, now=now, zone=rule.zone, history=mine
            )
        return found

    async def _standing(
        self, runtime: Runtime, scopes: Mapping[str, str]
    ) -> list[tuple[Rule, Period, BudgetStatus]]:
        at = runtime.wall()
        known = asked(scopes, f"{self.name}: status")
        rules = [rule for rule in self.rules if rule.stands(known, at)]
        periods = [rule.period_at(at) for rule in rules]
        keys = [(rule.account(known), period.start) for rule, period in zip(rules, periods, strict=True)]
        balances = await self.desk(runtime).ledger.balances(keys)
        found = []
        for rule, period, (account, _), balance in zip(rules, periods, keys, balances, strict=True):
            resets = rule.resets_at(period)
            status = BudgetStatus(
                rule=rule.name,
                account=account,
                limit=rule.nano,
                spent=balance.spent,
                held=balance.held,
                resets_at=None if resets is None else resets.isoformat(),
            )
            found.append((rule, period, status))
        return found


@frozen(kw_only=True)
class _Ring:
    config: Budget
    name: str
    priority: int

    why: ClassVar[str] = Budget.why
    traits: ClassVar[frozenset[str]] = Budget.traits


@frozen(kw_only=True)
class _Quick(_Ring):
    """Of a store in memory, which never waits: so neither does this when the reply is over."""

    async def __call__(self, call: Call, call_next: Handler) -> Reply:
        if call.guards and self.config.pays(call):
            return await call_next(call)
        purse = self.config.open(call)
        try:
            reply = await call_next(purse.guarded())
        except BaseException:  # goes on; what was spent is known all the same
            purse.settle_at_once()
            raise
        if reply.streamed and purse.meters:
            reply.pipe(Meter(purse.allowed))
        return reply.when_over(purse.ended, call)


@frozen(kw_only=True)
class _Durable(_Ring):
    """Of any other: settled before the caller has the last of the reply."""

    async def __call__(self, call: Call, call_next: Handler) -> AsyncGenerator[Reply, Outcome]:
        if call.guards and self.config.pays(call):
            yield await call_next(call)
            return
        purse = self.config.open(call)
        try:
            reply = await call_next(purse.guarded())
        except GeneratorExit:  # we are being dropped and cannot wait
            purse.leave()
            raise
        except BaseException:  # goes on; what was spent is known all the same
            await shielded(purse.settle(), call.runtime, "budget: settling")
            raise
        if reply.streamed and purse.meters:
            reply.pipe(Meter(purse.allowed))
        yield reply
        await purse.settle()
