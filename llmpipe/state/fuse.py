"""A breaker for the store itself, so that while it is out of reach not every call waits for its timeout."""

from __future__ import annotations

__all__ = ("Fuse",)


class Fuse:
    """Blows at the first failure; then lets one in each time its pause is over, until that one gets through.

    The pause doubles from 0.25 to 4 seconds. So calls are served again at most 4 seconds after the store
    is, without anybody's doing; and of all calls while it is away only these few wait for it.
    """

    __slots__ = ("_pause", "_probing", "_until")

    FIRST = 0.25
    LAST = 4.0

    def __init__(self) -> None:
        self._pause = 0.0
        self._until = 0.0
        self._probing = False

    def wait(self, now: float) -> float:
        """Seconds until the next may try; 0.0 for this one, who then says how it went."""
        seconds = self.blown(now)
        if self._pause and not seconds:
            self._probing = True
        return seconds

    def blown(self, now: float) -> float:
        """Seconds until the next may try; 0.0 if one may now. Nothing changes by asking."""
        if not self._pause:
            return 0.0
        return self._pause if self._probing else max(0.0, self._until - now)

    def worked(self) -> None:
        """It is there."""
        self._pause = 0.0
        self._probing = False

    def failed(self, now: float) -> None:
        """It is not. Failures of those who set out before it blew change nothing."""
        if self._pause and not self._probing:
            return
        self._pause = min(2 * self._pause, self.LAST) or self.FIRST
        self._until = now + self._pause
        self._probing = False

    def unknown(self) -> None:
        """Whoever tried has left before it knew: the next may try."""
        self._probing = False
