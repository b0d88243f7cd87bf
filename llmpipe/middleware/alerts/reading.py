"""Rules and sinks from a configuration file: tables that say what they are, and how it is set."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from llmpipe.errors import ConfigError
from llmpipe.middleware.alerts.rules import CircuitOpened, ErrorSeen, NoteSeen, ResourceUse, Rule
from llmpipe.middleware.alerts.sinks import Callback, Email, LogSink, PagerDuty, Sink, Slack, Webhook
from llmpipe.middleware.alerts.windowed import CostRate, ErrorRate, Latency
from llmpipe.pipeline.registry import structured

__all__ = ("DEFAULT_RULES", "rules_of", "sinks_of")

DEFAULT_RULES: tuple[Rule, ...] = (
    ErrorSeen(name="authentication", types=("AUTHENTICATION_ERROR",), severity="critical"),
    ErrorSeen(name="quota", types=("QUOTA_EXCEEDED",), severity="critical"),
    CircuitOpened(),
    ErrorRate(),
    Latency(),
    CostRate(),
    NoteSeen(name="budget", kind="budget.alert", key=("account", "share"), severity="warning"),
    NoteSeen(
        name="key_due",
        kind="credential.overdue",
        key=("provider", "key"),
        severity="warning",
        repeat=86_400.0,  # noted whenever the key is looked up, every few minutes for months
    ),
)
"""What `Alerts` watches unless it is told: wrong keys, used-up quotas and open circuits at once, more than
10 % failures, p95 over 5 s, 100 USD an hour, what budgets say, and keys that are older than they should get,
once a day."""

_RULES: dict[str, Any] = {
    kind.when: kind
    for kind in (CircuitOpened, CostRate, ErrorRate, ErrorSeen, Latency, NoteSeen, ResourceUse)
}
_SINKS: dict[str, Any] = {
    "email": Email,
    "log": LogSink,
    "pagerduty": PagerDuty,
    "slack": Slack,
    "webhook": Webhook,
}


def rules_of(told: Any) -> tuple[Rule, ...]:
    """The rules in `told`: `Rule` values, or tables whose ``when`` says which rule.

    Raises: ConfigError for what is neither, a bad setting, or two rules of one name.
    """
    rules = tuple(_made(one, Rule, _RULES, "when", f"rules[{at}]") for at, one in enumerate(_listed(told)))
    names = [rule.name for rule in rules]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise ConfigError(f"alerts: two rules are called {', '.join(twice)}; give one of them a name")
    return rules


def sinks_of(told: Any) -> tuple[Sink, ...]:
    """The sinks in `told`: values, functions, names, or tables whose ``kind`` says which sink.

    Raises: ConfigError for what is none of them, a bad setting, or two sinks of one name.
    """
    sinks = tuple(_sink(one, f"sinks[{at}]") for at, one in enumerate(_listed(told)))
    names = [sink.name for sink in sinks]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise ConfigError(f"alerts: two sinks are called {', '.join(twice)}; give one of them a name")
    return sinks


def _sink(told: Any, where: str) -> Sink:
    if isinstance(told, str):
        told = {"kind": told}
    if not isinstance(told, Mapping):
        if hasattr(told, "send") and not isinstance(told, type):
            sink: Sink = told
            return sink
        if isinstance(told, Callable) and not isinstance(told, type):  # type: ignore[arg-type]  # a special form
            return Callback(told)
    made: Sink = _made(told, (), _SINKS, "kind", where)
    return made


def _listed(told: Any) -> list[Any]:
    if isinstance(told, (str, Mapping)) or not isinstance(told, Iterable):
        return [told]
    return list(told)


def _made(told: Any, own: Any, kinds: Mapping[str, Any], word: str, where: str) -> Any:
    if isinstance(told, own):
        return told
    if not isinstance(told, Mapping):
        raise ConfigError(f"alerts: {where} is a {type(told).__name__}; expected a table with {word!r}")
    kind = told.get(word)
    if not isinstance(kind, str) or kind not in kinds:
        close = difflib.get_close_matches(str(kind), kinds, 1)
        hint = f"; did you mean {close[0]!r}?" if close else ""
        raise ConfigError(f"alerts: {where}.{word} is one of {', '.join(sorted(kinds))}, not {kind!r}{hint}")
    try:
        return structured(kinds[kind], {key: value for key, value in told.items() if key != word})
    except ConfigError as error:
        raise ConfigError(f"alerts: {where} ({kind}): {error}") from None
