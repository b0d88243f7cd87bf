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
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from attrs import Factory, field, frozen

from llmpipe.errors import ConfigError
from llmpipe.middleware.budget.desk import Desk
from llmpipe.middleware.budget.purse import Purse
from llmpipe.middleware.budget.rule import Rule
from llmpipe.middleware.numeric import check_numbers
from llmpipe.pipeline import bands
from llmpipe.pipeline.call import Call
from llmpipe.pricing import PriceTable
from llmpipe.pricing import prices as packaged_prices
from llmpipe.runtime import Runtime, at_once, shielded

if TYPE_CHECKING:
    from llmpipe.pipeline.linker import Handler, Middleware
    from llmpipe.pipeline.outcome import Outcome
    from llmpipe.pipeline.reply import Reply

__all__ = ("Budget", "BudgetStatus", "Rule")


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


def _rules(value: Any) -> tuple[Rule, ...]:
    return (value,) if isinstance(value, Rule) else tuple(value)


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

    Raises: BudgetExceeded; StoreUnavailable while the store is out of reach and the slack used up.
    """

    rules: tuple[Rule, ...] = field(default=(), converter=_rules)
    prices: Mapping[str, Mapping[str, Any]] = Factory(dict)
    output_tokens: int = 4096
    strict: bool = False
    unknown_price: Literal["refuse", "allow"] = "refuse"
    store: str = "memory://"
    lease: float = 600.0
    slack_usd: float = 0.0
    name: str = "budget"
    priority: int = bands.SPEND + 10
    table: PriceTable = field(init=False, repr=False, eq=False)

    why: ClassVar[str] = (
        "outside routing and retries, for it pays for all attempts; inside the cache, for a hit is free"
    )
    traits: ClassVar[frozenset[str]] = frozenset({"counts"})

    def __attrs_post_init__(self) -> None:
        check_numbers(self, f"{self.name}:")
        for setting in ("output_tokens", "lease"):
            if not getattr(self, setting) > 0:
                raise ConfigError(f"{self.name}: {setting} must be above 0, not {getattr(self, setting)}")
        if not self.slack_usd >= 0:
            raise ConfigError(f"{self.name}: slack_usd is dollars, at least 0, not {self.slack_usd}")
        if self.unknown_price not in ("refuse", "allow"):
            raise ConfigError(f"{self.name}: unknown_price is refuse or allow, not {self.unknown_price!r}")
        table = PriceTable(self.prices) if self.prices else packaged_prices()
        object.__setattr__(self, "table", table)  # frozen: this is part of the construction
        seen: set[str] = set()
        for rule in self.rules:
            if rule.name in seen:
                raise ConfigError(
                    f"{self.name}: two rules are called {rule.name!r}; give one a name of its own"
                )
            seen.add(rule.name)

    def rings(self) -> tuple[Middleware, ...]:
        """The middleware that a chain takes in place of this one, by how its store works."""
        settled = _Quick if self.store.startswith("memory:") else _Durable
        return (settled(config=self, name=self.name, priority=self.priority),)

    async def __call__(self, call: Call, call_next: Handler) -> AsyncGenerator[Reply, Outcome]:
        """For those who link it by hand."""
        purse = self.open(call)
        try:
            reply = await call_next(purse.call)
        except BaseException:
            await shielded(purse.settle(), call.runtime, "budget: settling")
            raise
        yield reply
        await purse.settle()

    def open(self, call: Call) -> Purse:
        """The purse of `call`, with the call that is to go on in its place."""
        runtime = call.runtime
        cfg = call.opt(self)
        purse = Purse(
            cfg, cfg.desk(runtime), call, runtime.new_id("hold-"), runtime.wall(), len(call.ledger.attempts)
        )
        purse.call = call.evolve(guards=(*call.guards, purse.admit))
        return purse

    def desk(self, runtime: Runtime) -> Desk:
        """What all calls on `runtime` share."""
        return runtime.state(
            "budget",
            self.name,
            lambda: Desk(runtime, self.store, self.name, self.lease, int(self.slack_usd * 10**9)),
        )

    async def status(self, runtime: Runtime, **scopes: str) -> list[BudgetStatus]:
        """How the budgets stand that a call of these scopes is paid from: ``account="acme", model="gpt-4o"``.

        Tags are scopes called as in a rule: ``**{"tag:team": "search"}``.
        """
        at = runtime.wall()
        known = {"account": scopes.get("tenant", ""), **scopes}
        rules = [rule for rule in self.rules if rule.applies(known, at)]
        keys = [(rule.account(known), rule.period_at(at).start) for rule in rules]
        balances = await self.desk(runtime).ledger.balances(keys)
        found = []
        for rule, (account, _), balance in zip(rules, keys, balances, strict=True):
            resets = rule.resets_at(rule.period_at(at))
            told = None if resets is None else resets.isoformat()
            found.append(
                BudgetStatus(
                    rule=rule.name,
                    account=account,
                    limit=rule.nano,
                    spent=balance.spent,
                    held=balance.held,
                    resets_at=told,
                )
            )
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
    """Of a store in memory, which never waits: so this awaits nothing after its yield, which is cheap."""

    async def __call__(self, call: Call, call_next: Handler) -> AsyncGenerator[Reply, Outcome]:
        purse = self.config.open(call)
        try:
            reply = await call_next(purse.call)
        except BaseException:  # goes on; what was spent is known all the same
            at_once(purse.settle())
            raise
        yield reply
        at_once(purse.settle())


@frozen(kw_only=True)
class _Durable(_Ring):
    """Of any other: settled before the caller has the last of the reply."""

    async def __call__(self, call: Call, call_next: Handler) -> AsyncGenerator[Reply, Outcome]:
        purse = self.config.open(call)
        try:
            reply = await call_next(purse.call)
        except BaseException:  # goes on; what was spent is known all the same
            await shielded(purse.settle(), call.runtime, "budget: settling")
            raise
        yield reply
        await purse.settle()
