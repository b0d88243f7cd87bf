"""What a caller is told whose budget is used up: which one, what is left of it, and when it begins anew."""

from __future__ import annotations

from llmpipe.errors import BudgetExceeded
from llmpipe.middleware.budget.plan import Line
from llmpipe.middleware.budget.rule import Rule
from llmpipe.middleware.scopes import Scopes
from llmpipe.state import Shortage

__all__ = ("refusal", "unknown_price", "usd")


def usd(nano: int) -> str:
    """Nano-USD as dollars, with as many digits as it needs, from two."""
    sign, nano = ("-" if nano < 0 else ""), abs(nano)
    whole, rest = divmod(nano, 10**9)
    digits = f"{rest:09d}".rstrip("0")
    return f"{sign}{whole}.{digits.ljust(2, '0')}"


def refusal(line: Line, needed: int, short: Shortage, scopes: Scopes, now: float) -> BudgetExceeded:
    """The error for a call that does not fit, `now` being seconds since the epoch, money nano-USD.

    Its code says what can help. ``exceeded``: the next period, at `retry_after`. ``held``: calls under way
    hold what this one needs, and may give some of it back at any moment. ``never_fits``: the whole budget
    is less than this one call may cost; there is no `retry_after`.
    """
    rule, period = line.rule, line.period
    left = max(0, rule.nano - short.spent - short.held)
    resets = rule.resets_at(period)
    seconds = None if period.end is None else max(0.0, period.end - now)
    if needed > rule.nano:
        code, retry_after, why = "never_fits", None, "which is more than all of it"
    elif short.spent + needed <= rule.nano:
        code, why = "held", f"and calls under way hold {usd(short.held)}"
        retry_after = 1.0 if seconds is None else min(1.0, seconds)
    else:
        code, retry_after, why = "exceeded", seconds, "which does not fit"
    until = "it never begins anew" if resets is None else f"it begins anew at {resets.isoformat()}"
    whose = ", ".join(f"{scope} {scopes.get(scope, '')!r}" for scope in rule.per if scope in scopes)
    return BudgetExceeded(
        f"budget {rule.name!r}{' of ' + whose if whose else ''}: {usd(left)} of {usd(rule.nano)} USD "
        f"is left, this call may cost {usd(needed)}, {why}; {until}",
        code=code,
        retry_after=retry_after,
        phase="admit",
        metadata={
            "rule": rule.name,
            "scope": line.key[0],
            "limit_usd": usd(rule.nano),
            "spent_usd": usd(short.spent),
            "held_usd": usd(short.held),
            "left_usd": usd(left),
            "needed_usd": usd(needed),
            "resets_at": None if resets is None else resets.isoformat(),
        },
    )


def unknown_price(provider: str, model: str, rule: Rule) -> BudgetExceeded:
    """The error for a model that nobody can say the price of, where a budget limits."""
    return BudgetExceeded(
        f"the price of model {model!r} at {provider!r} is not known, and budget {rule.name!r} limits what it "
        f'may cost; say it: prices = {{"{provider}/{model}": {{"input": …, "output": …}}}}, '
        "USD per million tokens",
        code="unknown_price",
        provider=provider,
        model=model,
        phase="admit",
        metadata={"rule": rule.name},
    )
