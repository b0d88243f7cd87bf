"""The laws of a cache at its store: what is given is the last that was put, in its time, within the bounds.

K5 and K6, the part of K1 that is the store's (what is called otherwise is another cache), and of K3: what
could not be kept takes the place of what was there. Every store that keeps replies is held to them,
through two clients of it, one of which may go at any time.
"""

from __future__ import annotations

from math import inf, nan
from typing import Any

from hypothesis import strategies as st
from hypothesis.stateful import initialize, invariant, precondition, rule

from llmpipe.state import Entry
from llmpipe.types import Completion, Message
from tests.state.stores import EPSILON, OnStore, Store, kept_in

KEYS = [b"k%d" % number for number in range(6)]
MAX_ENTRIES, MAX_BYTES = 3, 9_000
UNBOUNDED = frozenset({"redis"})
"""Where bounds are the server's own, its ``maxmemory``: see the documentation of each store."""
keys = st.sampled_from(KEYS)
shelves = st.sampled_from(["wide", "tight"])


def entry(text: str) -> Entry:
    return Entry(Completion(message=Message("assistant", text), finish_reason="stop"), len(text))


def too_deep() -> Entry:
    """What no store keeps."""
    nested: list[Any] = []
    for _ in range(5000):
        nested = [nested]
    return Entry(Completion(extra={"x": nested}))


TOO_DEEP = too_deep()


class Shelves(OnStore):
    """Two caches in which the same keys are put: one has room for all, and one has not."""

    @initialize()
    def begin(self) -> None:
        self.caches = {
            "wide": self.place.thing("cache", max_entries=10_000, max_bytes=1 << 26),
            "tight": self.place.thing("cache", max_entries=MAX_ENTRIES, max_bytes=MAX_BYTES),
        }
        # By cache and key: what was put last, when, and until when it may be given.
        self.last: dict[str, dict[bytes, tuple[Entry, float, float]]] = {"wide": {}, "tight": {}}
        self.number = 0

    def put_there(self, which: str, key: bytes, value: Entry, keep: float) -> None:
        later = self.caches[which].put(key, value, keep)
        if later is not None:
            self.do(later)

    @rule(
        which=shelves,
        key=keys,
        letters=st.sampled_from([0, 0, 10, 3000, 20_000]),
        keep=st.sampled_from([1, 5, 10, 30]),
    )
    def put(self, which: str, key: bytes, letters: int, keep: int) -> None:
        self.number += 1
        value = entry(f"{self.number} " + "x" * letters)
        self.put_there(which, key, value, self.scaled(keep))
        self.last[which][key] = (value, self.now, self.now + keep)
        if letters <= 3000:  # it was used last, so whatever has to go for it, it stays
            found: Any = self.do(self.caches[which].get(key))
            assert found[0] == value

    @rule(which=shelves, key=keys, keep=st.sampled_from([50.0, 0.0, -5.0, nan]))
    def put_what_cannot_be_kept(self, which: str, key: bytes, keep: float) -> None:
        """K3. It is newer all the same: what it would have replaced is not given any more."""
        self.put_there(which, key, TOO_DEEP if keep > 0 else entry("x"), keep)
        self.last[which].pop(key, None)

    @rule(which=shelves, key=keys)
    def delete(self, which: str, key: bytes) -> None:
        there = key in self.last[which] and self.last[which].pop(key)[2] > self.now
        deleted = self.do(self.caches[which].delete(key))
        assert deleted is there or (which == "tight" and not deleted)  # there it may have made room

    @rule(which=shelves)
    def clear(self, which: str) -> None:
        self.do(self.caches[which].clear())
        self.last[which].clear()

    @rule(seconds=st.sampled_from([1, 4, 5, 10]))
    def pass_time(self, seconds: int) -> None:
        self.let_pass(seconds)

    @precondition(lambda self: self.place.again)
    @rule(number=st.integers(0, 1))
    def one_client_goes_and_another_comes(self, number: int) -> None:
        self.place.replace(number)

    def found(self, which: str) -> dict[bytes, Entry]:
        """All that is given now, each of which is the last that was put, and as old as it is (K5)."""
        given: dict[bytes, Entry] = {}
        for key in KEYS:
            found: Any = self.do(self.caches[which].get(key))
            if found is not None:
                value, at, until = self.last[which].get(key, (None, inf, -inf))
                assert found[0] == value
                assert self.now < until
                assert -EPSILON <= found[1] / self.place.scale - (self.now - at) <= self.place.late()
                given[key] = found[0]
        return given

    @invariant()
    def with_room_for_all_everything_is_given_until_its_time_is_over(self) -> None:
        alive = {key for key, (_, _, until) in self.last["wide"].items() if until > self.now}
        assert self.found("wide").keys() == alive

    @invariant()
    def without_there_is_never_more_than_may_be(self) -> None:
        """K6."""
        given = self.found("tight")
        if self.store.name not in UNBOUNDED:
            assert len(given) <= MAX_ENTRIES
            assert sum(one.saved_nano or 0 for one in given.values()) <= MAX_BYTES
        size = self.caches["tight"].size()
        if size is not None:
            assert size[0] == len(given)
            assert size[1] <= MAX_BYTES


@kept_in("memory", "sqlite", "redis")
def test_caches_keep_their_laws(store: Store) -> None:
    store.check(Shelves)
