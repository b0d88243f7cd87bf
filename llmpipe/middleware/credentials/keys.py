"""Several keys for one provider, and which of them is the next to be used."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from math import inf
from typing import Literal

from attrs import field, frozen

from llmpipe.errors import ConfigError
from llmpipe.secret import Secret

__all__ = ("Key", "Keys")


@frozen(eq=False)
class Key:
    """One key. `label`, its number, is what logs, notes and limits know it by; `owner` the keys it is of."""

    secret: Secret
    label: str
    owner: Keys = field(repr=False)


class Keys:
    """The keys of one provider: ``provider("openai", api_key=Keys("sk-…", "sk-…"))``.

    A list of keys given as `api_key` becomes one of these. Keep it to exchange keys while the provider
    is in use: calls under way finish on the key they have, the next ones take the new keys.

    Args:
        keys: strings or `Secret`.
        order: ``"round_robin"`` spreads calls over all keys, so that their limits add up; ``"first"``
            stays with the first that can be used, so that the provider's prompt cache does.

    Raises: ConfigError for no key, an empty one, or one given twice.
    """

    __slots__ = ("_all", "_made", "_order", "_refused", "_resting", "_turn")

    def __init__(self, *keys: str | Secret, order: Literal["round_robin", "first"] = "round_robin") -> None:
        if order not in ("round_robin", "first"):
            raise ConfigError(f"the order of keys is 'round_robin' or 'first', not {order!r}")
        self._begin(order)
        self.replace(*keys)

    def _begin(self, order: str = "first") -> None:
        self._order = order
        self._made = 0
        self._turn = 0
        self._all: tuple[Key, ...] = ()
        self._resting: dict[Key, float] = {}
        self._refused: set[Key] = set()  # of those that rest

    @classmethod
    def of(cls, keys: Iterable[str | Secret]) -> Keys:
        """`Keys` from a list of them."""
        return cls(*keys)

    @property
    def all(self) -> tuple[Key, ...]:
        """The keys in use now."""
        return self._all

    def replace(self, *keys: str | Secret) -> None:
        """Use `keys` from now on, and no others. One that stays keeps its label and its rest.

        Raises: ConfigError as the constructor does; the keys in use then stay as they are.
        """
        known = {key.secret: key for key in self._all}
        found: dict[Secret, Key] = {}
        made = self._made
        for value in keys:
            secret = Secret(value)
            if secret in found:
                raise ConfigError("the same API key is given twice")
            if secret not in known:
                made += 1
            found[secret] = known.get(secret) or Key(secret, str(made), self)
        if not found:
            raise ConfigError("a provider's keys are at least one; api_key=None means that it needs none")
        self._made, self._all = made, tuple(found.values())
        self._resting = {key: until for key, until in self._resting.items() if key.secret in found}
        self._refused = {key for key in self._refused if key.secret in found}

    def rest(self, key: Key, until: float, *, refused: bool = False) -> None:
        """Pass `key` over until that time, in monotonic seconds, where another can be used.

        `refused`: waiting does not help it, so it is tried all the same where the others are no better.
        """
        if key in self._all:
            self._resting[key] = max(until, self._resting.get(key, 0.0))
            if refused:
                self._refused.add(key)
            else:
                self._refused.discard(key)

    def pick(self, now: float, passed: Collection[str] = ()) -> Key | None:
        """The key for the next attempt; None where none can be used now.

        Where all that are left were refused before, the one of them that has rested longest is tried
        again. Args: `passed` holds the labels that this call has no use for.
        """
        keys, count = self._all, len(self._all)
        start = self._turn if self._order == "round_robin" else 0
        for place in range(start, start + count):
            key = keys[place % count]
            if key.label not in passed and self._resting.get(key, 0.0) <= now:
                self._turn = (place + 1) % count
                return key
        left = [key for key in keys if key.label not in passed]
        if not left or not self._refused.issuperset(left):
            return None
        again = min(left, key=self._resting.__getitem__)
        del self._resting[again]
        self._refused.discard(again)
        return again

    def ready(self, now: float, passed: Collection[str], but: Key) -> bool:
        """Whether there is a key to use at once besides `but` and those of the labels `passed`."""
        resting = self._resting
        return any(
            key is not but and key.label not in passed and resting.get(key, 0.0) <= now for key in self._all
        )

    def wait(self, now: float, passed: Collection[str] = ()) -> float | None:
        """Seconds until `pick` gives a key; None where all are `passed`."""
        waits = [self._resting.get(key, now) - now for key in self._all if key.label not in passed]
        soonest = min(waits, default=inf)
        return None if soonest == inf else max(0.0, soonest)

    def __len__(self) -> int:
        return len(self._all)

    def __repr__(self) -> str:
        return f"<{len(self._all)} keys>"
