"""What is wrong now: who was told of it and when, so that nobody is told twice, and that it is over."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Mapping
from math import inf
from typing import Any

from llmpipe.middleware.alerts.alert import Alert, span
from llmpipe.middleware.alerts.rules import Reading, Rule

__all__ = ("Case", "Cases")

OTHER = "_other"


class Case:
    """One trouble: a rule, and what it is about.

    Attributes:
        rule, key: which.
        active: whether it is wrong now.
        told: whether sinks know that it is.
        since: wall seconds since when it is.
        seen_at, sent_at: loop seconds: when it was seen last, when a firing notice last went out.
        count: how often it was seen since then.
        about: what its rule needs to see that it is over.
    """

    __slots__ = ("about", "active", "count", "details", "key", "rule", "seen_at", "sent_at", "since",
                 "summary", "told", "value")  # fmt: skip

    def __init__(self, rule: Rule, key: str) -> None:
        self.rule = rule
        self.key = key
        self.active = self.told = False
        self.since = 0.0
        self.seen_at = self.sent_at = -inf
        self.count = 0
        self.about: Hashable = None
        self.summary = ""
        self.value: float | None = None
        self.details: Mapping[str, Any] = {}


class Cases:
    """The troubles of one runtime. Bounded: beyond `max_cases` new ones of a rule are one.

    A firing notice of a case goes out at once, and not again within the rule's `repeat` seconds; if it
    is then still wrong, or wrong again, it goes out anew. That it is right again is told to whom it was
    told that it was wrong. So one that comes and goes makes two notices in `repeat` seconds at most.
    """

    def __init__(self, send: Callable[[Alert], None], max_cases: int) -> None:
        self.by_id: dict[tuple[str, str], Case] = {}
        self._send = send
        self._max_cases = max_cases

    def __iter__(self) -> Iterator[Case]:
        return iter([*self.by_id.values()])

    def get(self, rule: Rule, key: str) -> Case | None:
        """The case of that rule and key, if there is one."""
        return self.by_id.get((rule.name, key))

    def fire(
        self,
        rule: Rule,
        key: str,
        summary: str,
        *,
        repeat: float,
        now: float,
        wall: float,
        value: float | None = None,
        details: Mapping[str, Any] | None = None,
        about: Hashable = None,
        again: bool = False,
    ) -> None:
        """It was seen; or, if `again`, it has been all along."""
        case = self.by_id.get((rule.name, key))
        if case is None:
            if len(self.by_id) >= self._max_cases:
                key = OTHER
            case = self.by_id.setdefault((rule.name, key), Case(rule, key))
        case.rule = rule
        if not case.active:
            case.active, case.since = True, wall
        case.summary, case.value, case.about = summary, value, about
        case.details = details or {}
        if not again:
            case.seen_at = now
            case.count += 1
        if now - case.sent_at >= repeat:
            case.sent_at, case.told = now, True
            self._send(self.alert(case, wall))
            case.count = 0

    def resolve(self, case: Case, wall: float, reading: Reading) -> None:
        """It is right again: `reading` is how it is now."""
        if case.told:
            self._send(self.alert(case, wall, reading))
        case.active = case.told = False

    def close(self, case: Case) -> None:
        """It was an event, which has no end to be told."""
        case.active = case.told = False

    def forget(self, case: Case) -> None:
        """Keep nothing of it."""
        self.by_id.pop((case.rule.name, case.key), None)

    @staticmethod
    def alert(case: Case, wall: float, over: Reading | None = None) -> Alert:
        """The notice of `case`: that it is wrong, or that it is `over` and how it is now."""
        summary, value, details = over or Reading(case.summary, case.value, case.details)
        if over is not None:
            summary = f"{summary}; over after {span(wall - case.since)}"
        return Alert(
            rule=case.rule.name,
            key=case.key,
            severity=case.rule.severity,
            state="firing" if over is None else "resolved",
            summary=summary,
            was="" if over is None else case.summary,
            value=value,
            limit=getattr(case.rule, "above", None),
            at=wall,
            since=case.since,
            count=max(1, case.count),
            details=details,
        )
