"""When a failure is answered with another try, and after how long: pure, for chains and functions alike."""

from __future__ import annotations

from collections.abc import Mapping
from difflib import get_close_matches
from math import inf
from random import Random
from typing import Any, NamedTuple

from attrs import field, frozen

from llmpipe.errors import ConfigError, LLMError
from llmpipe.middleware.numeric import check_numbers
from llmpipe.middleware.retry.backoff import spread, strategy_of

__all__ = ("Plan", "Policy", "RetryRules", "Terms", "policies")


class Terms(NamedTuple):
    """What holds for one error: a `Retry` with its `Policy` for that type worked in.

    `base`, `throttled_base` and `cap` are seconds; `attempts` counts those of the whole call.
    """

    attempts: int
    base: float
    throttled_base: float
    cap: float
    strategy: Any
    immediate: bool
    always: bool = False


@frozen(kw_only=True)
class Policy:
    """What differs for one type of error; None means as the `Retry` says.

    `base` holds for throttled errors too. `always` retries errors of this type even where their
    own verdict is that it cannot help.
    """

    attempts: int | None = None
    base: float | None = None
    cap: float | None = None
    strategy: Any = None
    immediate: bool | None = None
    always: bool = False

    def __attrs_post_init__(self) -> None:
        check_numbers(self, "retry policy")
        if self.strategy is not None:
            strategy_of(self.strategy)

    @classmethod
    def of(cls, value: Policy | Mapping[str, Any] | int) -> Policy:
        """From what people write: False or 0 (never), a number of attempts, True (always), fields."""
        if isinstance(value, Policy):
            return value
        if isinstance(value, Mapping):
            return cls(**value)
        if isinstance(value, bool):
            return cls(always=True) if value else cls(attempts=1)
        if isinstance(value, int):
            return cls(attempts=max(1, value))
        raise TypeError(f"{value!r} is none of these")

    def over(self, usual: Terms) -> Terms:
        """`usual`, with what this policy says instead."""
        cap = usual.cap if self.cap is None else self.cap
        base = usual.base if self.base is None else self.base
        return Terms(
            usual.attempts if self.attempts is None else self.attempts,
            base,
            min(cap, usual.throttled_base if self.base is None else base),
            cap,
            usual.strategy if self.strategy is None else self.strategy,
            usual.immediate if self.immediate is None else self.immediate,
            self.always,
        )


class Plan(NamedTuple):
    """What is to be done about a failure: wait `seconds` and try again, or give up for `reason`.

    `reason` is ``""`` when there is another try, ``"fatal"`` when the error says that none can help.
    """

    seconds: float
    reason: str
    cost: int = 0


def policies(value: Mapping[str, Any]) -> Mapping[str, Policy]:
    """Policies by error type, from what people write.

    An upper-case key is the `type` of an LLMError, any other the name of an exception class.
    Raises: ConfigError for a type that no error has, or a value that is no policy.
    """
    known = _error_types(LLMError)
    for name in value:
        if name.isupper() and name not in known:
            near = get_close_matches(name, known, 1)
            raise ConfigError(
                f"retry policy names {name!r}, which is no type of error; "
                + (f"did you mean {near[0]!r}?" if near else f"there are {', '.join(sorted(known))}")
            )
    try:
        return {name: Policy.of(item) for name, item in value.items()}
    except TypeError as error:
        raise ConfigError(
            f"a retry policy is a number of attempts, True, False, or a table of attempts, base, cap, "
            f"strategy, immediate and always: {error}"
        ) from None


def _error_types(root: type[LLMError]) -> set[str]:
    return {root.type}.union(*map(_error_types, root.__subclasses__()))


@frozen(kw_only=True)
class RetryRules:
    """When a failure is answered with another try, and after how long.

    Attributes:
        attempts: how many the whole call may make, fallbacks and hedges included; each target gets
            its first in any case. 1 means no retry.
        base: seconds of the first wait, before jitter.
        cap: seconds the wait grows to at most. A server's hint may be longer.
        throttled_base: the same as `base`, after an error that asks us to slow down.
        strategy: how the wait grows: ``"exponential"``, ``"linear"``, ``"fibonacci"``, ``"adaptive"``
            or a callable; see `llmpipe.middleware.retry.backoff`.
        multiplier: growth for each retry of exponential and adaptive.
        jitter: None is full jitter, uniform in [0, wait]; j in [0, 1] is wait ± j·wait.
        policy: what differs by error type: ``{"TIMEOUT": False, "RATE_LIMIT": {"attempts": 6}}``.
        max_hint: seconds; a server that wants us to wait longer is not waited for.
        min_attempt: seconds an attempt needs at the least; none is begun, nor waited for, with less
            to the deadline.
        budget: capacity of the quota of each target; 0 means unlimited. See `llmpipe.middleware.retry.quota`.
        cost, throttled_cost: what one retry takes from it.
        only_unsent: do not repeat what may have taken effect: errors that were `sent`, unless the
            provider certainly did nothing (`billed` is "no", as in a 429). Off, because a repeated
            generation harms nobody; but it may be paid for twice.
        immediate: where another target stands ready (`call.spare`), retry once, at once, before
            leaving this one. Off: leave at once.

    Raises: ConfigError for settings out of range.
    """

    attempts: int = 4
    base: float = 0.5
    cap: float = 8.0
    throttled_base: float = 1.0
    strategy: Any = "exponential"
    multiplier: float = 2.0
    jitter: float | None = None
    policy: Mapping[str, Any] = field(factory=dict, converter=policies)
    max_hint: float = 120.0
    min_attempt: float = 0.5
    budget: int = 500
    cost: int = 14
    throttled_cost: int = 5
    only_unsent: bool = False
    immediate: bool = False

    def __attrs_post_init__(self) -> None:
        check_numbers(self, "retry")
        if self.attempts < 1:
            raise ConfigError(
                f"retry attempts must be at least 1 (the first one counts), not {self.attempts}"
            )
        if self.jitter is not None and not 0 <= self.jitter <= 1:
            raise ConfigError(
                f"retry jitter must be between 0 and 1, or None for full jitter, not {self.jitter}"
            )
        if min(self.max_hint, self.min_attempt, self.budget, self.cost, self.throttled_cost) < 0:
            raise ConfigError("retry max_hint, min_attempt, budget and costs must not be negative")
        if self.throttled_base <= 0:
            raise ConfigError(f"retry throttled_base must be above 0 seconds, not {self.throttled_base}")
        for kind in ("", *self.policy):
            terms = self._terms(kind)
            strategy_of(terms.strategy, self.multiplier)
            if not 0 < terms.base <= terms.cap < inf:
                raise ConfigError(
                    f"retry base and cap are seconds, 0 < base <= cap, not {terms.base} and {terms.cap}"
                    + (f" (policy for {kind})" if kind else "")
                )

    def plan(
        self,
        error: Exception,
        tries: int,
        used: int,
        *,
        left: float = inf,
        spare: bool = False,
        recovery: float = 0.5,
        random: Random,
    ) -> Plan:
        """What to do about `error`. Pure but for `random`; the quota is the caller's to ask.

        Args:
            tries: failures at this target in this call, this one included.
            used: attempts of the whole call.
            left: seconds to the deadline.
            spare: whether another target stands ready.
            recovery: what was learned of retries like this one, for adaptive strategies.
        """
        throttled, hint = False, None
        if isinstance(error, LLMError):
            terms = self._terms(error.type)
            if not (error.retryable or terms.always):
                return _FATAL
            if self.only_unsent and error.sent and error.billed != "no":
                return Plan(0.0, "sent")
            throttled, hint = error.throttled, error.retry_after
        else:
            terms = self._terms(type(error).__name__)
        if used >= terms.attempts:
            return Plan(0.0, "attempts" if terms.attempts > 1 or self.attempts == 1 else "policy")
        if hint is not None and hint > self.max_hint:
            return Plan(0.0, "hint")
        if spare:
            if not terms.immediate or tries > 1 or throttled or hint:
                return Plan(0.0, "spare")
            wait = 0.0
        else:
            base = terms.throttled_base if throttled else terms.base
            wait = self._wait(terms, base, tries, hint, recovery=recovery, random=random)
        if wait + self.min_attempt > left:
            return Plan(0.0, "deadline")
        return Plan(wait, "", self.throttled_cost if throttled else self.cost)

    def _wait(
        self, terms: Terms, base: float, tries: int, hint: float | None, *, recovery: float, random: Random
    ) -> float:
        """Seconds before the next try at a target that nobody stands behind."""
        ceiling = strategy_of(terms.strategy, self.multiplier)(tries, base, terms.cap, recovery)
        wait = spread(min(terms.cap, max(0.0, ceiling)), self.jitter, random)
        if hint is None or not hint >= 0:
            return wait
        # Who is sent away together must not come back together.
        told = hint + random.random() * (0.1 * hint + 0.1)
        # A hint shorter than the base ("0", "20ms") means now, and is no reason to wait less than without it.
        return told if hint >= base else max(wait, told)

    def _terms(self, kind: str) -> Terms:
        """What holds for errors of type `kind`."""
        base = max(self.base, self.throttled_base)
        usual = Terms(self.attempts, self.base, min(base, self.cap), self.cap, self.strategy, self.immediate)
        return self.policy[kind].over(usual) if kind in self.policy else usual


_FATAL = Plan(0.0, "fatal")
