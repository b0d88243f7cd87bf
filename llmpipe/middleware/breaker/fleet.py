"""Open circuits told to other processes, and heard from them, through a store.

What a process decides, it decides for itself: whether a circuit opens, whether its probes succeed. A trip
that another has told opens the circuit here for as long as is left of it, at most for `cap`. A circuit that
is half-open here is left to its own probes. Circuits held open by hand, and those of a dry run, are told to
nobody.

One task of the runtime speaks with the store: at once when a circuit changes, once a second to hear what
others say, and no more when nothing was asked for a minute. No call waits for it. When the store is out of
reach, each process goes by its own eyes.
"""

from __future__ import annotations

import logging
from collections.abc import Hashable
from math import inf
from typing import Any, cast

import orjson
from attrs import evolve

from llmpipe.errors import StoreUnavailable
from llmpipe.middleware.breaker.board import Board
from llmpipe.middleware.breaker.circuit import Circuit
from llmpipe.middleware.breaker.rules import CLOSED, HALF_OPEN, OPEN, Change, CircuitRules
from llmpipe.runtime import Runtime
from llmpipe.state import Breakers, Trip, shared
from llmpipe.state.poller import Poller

__all__ = ("Fleet",)

_log = logging.getLogger("llmpipe.breaker")
_EVERY, _IDLE = 1.0, 60.0  # seconds between two looks, and without a call after which they end
_MOST_KEYS = 1000  # of others that are heeded; a store may hold anything
_LONGEST_KEY = 2048


class Fleet:
    """The circuits of one board and one store, kept together. Raises: ConfigError for a wrong store."""

    def __init__(self, runtime: Runtime, store: str, name: str, board: Board) -> None:
        self._runtime, self._store, self._board = runtime, store, board
        self._breakers: Breakers = shared(runtime, store).breakers(name)
        self._rules: CircuitRules
        self._untold: dict[Hashable, Circuit] = {}  # changed here, and the store does not know it yet
        self._hearing = self._down = False
        self._poller = Poller(
            self._look, self._used, name=f"breaker:{name}", every=_EVERY, idle=_IDLE, stopped=self._park
        )
        board.on_change = self._changed

    def join(self, rules: CircuitRules) -> None:
        """Somebody calls: speak with the store while they do. Circuits that are heard of go by `rules`."""
        self._rules = rules
        self._poller.start(self._runtime)

    # ------------------------------------------------------------ telling

    def _changed(self, circuit: Circuit, change: Change) -> None:
        if self._hearing or change.kind == "half_open" or circuit.isolated:
            return  # what others have said is not said to them again
        if not self._ours(circuit) or not circuit.rules.enforced:
            return
        self._untold[circuit.key] = circuit
        self._poller.nudge()

    async def _tell(self) -> None:
        now = self._runtime.now()
        for key, circuit in [*self._untold.items()]:
            word = _word(key)
            epoch = circuit.epoch
            if word is None:
                pass
            elif circuit.state == CLOSED:
                await self._breakers.close(word)
            elif circuit.state == OPEN and not circuit.isolated and (seconds := circuit.peek(now)) > 0:
                await self._breakers.trip(word, Trip(seconds, circuit.reopens))
            if circuit.epoch == epoch:
                self._untold.pop(key, None)

    # ------------------------------------------------------------ hearing

    async def _look(self, timed: bool) -> None:
        try:
            await self._tell()
            if timed:
                self._hear(await self._breakers.read())
        except StoreUnavailable as error:
            if not self._down:
                self._down = True
                _log.warning("breakers are not shared for now: %s", error.message)
            return
        if self._down:
            self._down = False
            _log.info("breakers are shared again")

    def _hear(self, found: dict[str, Trip]) -> None:
        now, board = self._runtime.now(), self._board
        for word, trip in [*found.items()][:_MOST_KEYS]:
            key = _key(word)
            if key is None or key in self._untold:  # of which we know better, and say so next
                continue
            circuit = board.circuits.get(key)
            if not 0 < trip.seconds < inf or (circuit is not None and circuit.state == HALF_OPEN):
                continue
            if circuit is None:
                circuit = board.make(key, self._rules, self._runtime.random, now)
            self._hearing = True
            try:
                circuit.heard(now, trip.seconds, trip.reopens)
            finally:
                self._hearing = False

    # ------------------------------------------------------------ while there is something to do

    def _ours(self, circuit: Circuit) -> bool:
        return getattr(circuit.rules, "store", "") == self._store

    def _used(self) -> int:
        return sum(circuit.total for circuit in self._board if self._ours(circuit))

    def _park(self) -> None:
        """Have the next call come by here, without a question that every call would have to ask.

        A breaker takes the fast road where a circuit goes by its own rules; these are a copy of them.
        """
        self._untold.clear()
        for circuit in self._board:
            if self._ours(circuit):
                circuit.adopt(evolve(cast("Any", circuit.rules)))


def _word(key: Hashable) -> str | None:
    """`key` as the store has it; None for one that cannot be told."""
    if not isinstance(key, tuple) or not all(isinstance(part, str) for part in key):
        return None
    try:
        word = orjson.dumps(key).decode()
    except orjson.JSONEncodeError:  # half a surrogate, in a caller's model
        return None
    return word if len(word) <= _LONGEST_KEY else None


def _key(word: str) -> tuple[str, str, str] | None:
    if len(word) > _LONGEST_KEY:
        return None
    try:
        parts: Any = orjson.loads(word)
    except orjson.JSONDecodeError:
        return None
    if not isinstance(parts, list) or len(parts) != 3 or not all(isinstance(part, str) for part in parts):
        return None
    return parts[0], parts[1], parts[2]
