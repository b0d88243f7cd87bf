"""After a provider's 429: a pause, and then not everybody at once."""

from __future__ import annotations

from math import inf

__all__ = ("Ramp",)

_END = 64  # calls on their way at once; from there on the buckets alone decide
_LONGEST = 60.0
_LONGEST_HINT = 86_400.0  # the longest period that providers count in; what is longer is nonsense


class Ramp:
    """A pause of one key, and the slow start behind it: one call, then two, then four.

    A call is on its way until its first content or its failure. Each that gets through makes room
    for itself and one more, so the room doubles with every round.

    Attributes:
        until: monotonic time to which the key is paused.
        room: calls that may be on their way at once; 0: no ramp, all may.
        epoch: of the last pause; a permit remembers the one it was given in.
    """

    __slots__ = ("_strikes", "epoch", "on_way", "room", "until")

    def __init__(self) -> None:
        self.until = -inf
        self.room = self.on_way = self.epoch = self._strikes = 0

    def pause(self, epoch: int, hint: float | None, now: float) -> float:
        """A call of `epoch` was told to slow down, for `hint` seconds if it was told for how long.

        Returns: seconds of the pause from now. Without a hint 1, 2, 4… up to 60, for each in a row; a call
        from before the present pause is its echo, and counts only if it was told of a longer one. A hint
        that is no time to wait (negative, infinite, NaN) is none, and after a day it is asked again anyway.
        """
        if hint is not None and not 0 <= hint < inf:
            hint = None
        if epoch == self.epoch:
            self.epoch += 1
            self._strikes += 1
            self.room, self.on_way = 1, 0
            if hint is None:
                hint = min(_LONGEST, 2.0 ** (self._strikes - 1))
        self.until = max(self.until, now + min(hint or 0.0, _LONGEST_HINT))
        return max(0.0, self.until - now)

    def arrived(self, epoch: int, *, ok: bool) -> bool:
        """A call has got through, or failed; whether that makes room."""
        if not self.room or epoch != self.epoch:
            return False
        self.on_way -= 1
        if ok:
            self.room += 1
            if self.room >= _END:
                self.room = self._strikes = 0
        return True

    def reset(self) -> None:
        """No pause, no ramp."""
        self.until = -inf
        self.room = self.on_way = self._strikes = 0
        self.epoch += 1
