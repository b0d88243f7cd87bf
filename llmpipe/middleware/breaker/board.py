"""The circuits of all targets of a runtime, and what has happened to them."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Hashable, Iterator
from random import Random

from llmpipe.errors import ConfigError
from llmpipe.middleware.breaker.circuit import Circuit
from llmpipe.middleware.breaker.rules import CLOSED, Change, CircuitRules, CircuitStats

__all__ = ("Board",)

_DEFAULT = CircuitRules()


class Board:
    """Circuits by key. Bounded: the longest unused go first, those held open by hand never.

    A breaker's board is ``runtime.state("breaker", breaker.name, Board)``. Routers `peek` at it, so
    that a dead target is passed over without a permit being spent. Times are monotonic loop seconds.

    Args:
        max_circuits: how many are kept.
        idle: seconds after which an unused one may be dropped.
        history: how many changes are remembered.

    Attributes:
        troubled: the circuits that are not closed, by key; empty while all is well.
        history: the latest changes of all circuits, oldest first.
        on_change: told of each change of a circuit that is kept here.
    """

    def __init__(self, *, max_circuits: int = 1000, idle: float = 3600.0, history: int = 200) -> None:
        if max_circuits < 1 or idle <= 0 or history < 1:
            raise ConfigError("a board's max_circuits and history count from 1, idle is seconds above 0")
        self.troubled: dict[Hashable, Circuit] = {}
        self.history: deque[Change] = deque(maxlen=history)
        self.on_change: Callable[[Circuit, Change], None] | None = None
        self._max_circuits = max_circuits
        self._idle = idle
        self._swept = 0.0
        self.circuits: dict[Hashable, Circuit] = {}
        """All of them, by key."""

    def make(self, key: Hashable, rules: CircuitRules, random: Random, now: float) -> Circuit:
        """The circuit of `key`, closed if it is new."""
        circuit = self.circuits.get(key)
        if circuit is None:
            if len(self.circuits) >= self._max_circuits or now - self._swept > self._idle:
                self._sweep(now)
            circuit = self.circuits[key] = Circuit(key, rules, random, self._changed)
            circuit.used_at = now
        elif circuit.rules is not rules:
            circuit.adopt(rules)
        return circuit

    def peek(self, key: Hashable, now: float) -> float:
        """Seconds until the circuit of `key` admits a call; 0 when it does now, or is not known."""
        circuit = self.troubled.get(key)
        return 0.0 if circuit is None or not circuit.rules.enforced else circuit.peek(now)

    def isolate(self, key: Hashable, now: float, reason: str = "isolated by hand") -> None:
        """Refuse all calls to `key` until `reset`."""
        chance = Random()  # noqa: S311  jitter, nothing secret
        circuit = self.circuits.get(key) or self.make(key, _DEFAULT, chance, now)
        circuit.isolate(now, reason)

    def reset(self, now: float, key: Hashable | None = None) -> None:
        """Close the circuit of `key`, or all of them, and forget what was counted."""
        for circuit in [*self.circuits.values()] if key is None else [self.circuits.get(key)]:
            if circuit is not None:
                circuit.reset(now)

    def stats(self, now: float) -> tuple[CircuitStats, ...]:
        """Each circuit's figures at `now`; their `gauge` is the metric ``circuit.state``."""
        return tuple(circuit.stats(now) for circuit in self.circuits.values())

    def __iter__(self) -> Iterator[Circuit]:
        return iter(self.circuits.values())

    def _changed(self, circuit: Circuit, change: Change) -> None:
        self.history.append(change)
        if self.circuits.get(circuit.key) is not circuit:
            return  # dropped while a call was under way
        if circuit.state == CLOSED:
            self.troubled.pop(circuit.key, None)
        else:
            self.troubled[circuit.key] = circuit
        if self.on_change is not None:
            self.on_change(circuit, change)

    def _sweep(self, now: float) -> None:
        """Drop the idle ones, and a tenth at once when there is no room, so that it happens rarely."""
        self._swept = now
        room = len(self.circuits) - self._max_circuits + max(1, self._max_circuits // 10)
        free = [c for c in self.circuits.values() if not c.isolated]
        free.sort(key=lambda c: (c.state != CLOSED, c.used_at))
        for place, circuit in enumerate(free):
            if place < room or now - circuit.used_at > self._idle:
                del self.circuits[circuit.key]
                self.troubled.pop(circuit.key, None)
