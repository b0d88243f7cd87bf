"""`RedisTrio`: a Redis, its replica, and three sentinels that make that the master when the other is gone."""

from __future__ import annotations

import time
from contextlib import ExitStack
from types import TracebackType
from typing import Self

from llmpipe.testing.servers.redis import RedisServer

__all__ = ("RedisTrio", "Sentinel")


class Sentinel(RedisServer):
    """A sentinel that watches the Redis on port `watched`, and calls it ``mymaster``. Two have to agree.

    Args: down_after is how long that one is silent, seconds, until it is taken to be gone.
    """

    def __init__(self, watched: int, down_after: float = 0.3) -> None:
        super().__init__()
        config = self._home / "sentinel.conf"  # it writes there what it learns
        config.write_text(
            f"port {self.port}\nbind 127.0.0.1\ndir {self._home}\nlogfile {self._home / 'log'}\n"
            f"sentinel monitor mymaster 127.0.0.1 {watched} 2\n"
            f"sentinel down-after-milliseconds mymaster {down_after * 1000:.0f}\n"
            "sentinel failover-timeout mymaster 1000\n"
        )
        self._command = [self._command[0], str(config), "--sentinel"]


class RedisTrio:
    """Five processes, over before this one is.

        with RedisTrio() as trio:
            state = open_state(trio.url)
            trio.master.kill()

    Attributes: servers are the two with data, of which the first begins as the master; sentinels.
    """

    def __init__(self) -> None:
        self.servers: list[RedisServer] = []
        self.sentinels: list[Sentinel] = []
        self._stack = ExitStack()

    @property
    def url(self) -> str:
        """Where the sentinels are: ``redis+sentinel://127.0.0.1:<port>,…/mymaster/0``."""
        places = ",".join([f"127.0.0.1:{sentinel.port}" for sentinel in self.sentinels])
        return f"redis+sentinel://{places}/mymaster/0"

    @property
    def master(self) -> RedisServer:
        """The one that the sentinels name."""
        answer = self.sentinels[0].ask("SENTINEL", "get-master-addr-by-name", "mymaster")
        port = int(answer.split(b"\r\n")[4])
        return next(server for server in self.servers if server.port == port)

    @property
    def replica(self) -> RedisServer:
        """The other one, whatever it is at the moment."""
        return self.servers[1 - self.servers.index(self.master)]

    def wait_until_whole(self, seconds: float = 30.0) -> None:
        """Until the replica has all data, and each sentinel knows of it and of the other sentinels.

        Raises: TimeoutError.
        """
        end = time.monotonic() + seconds
        while not (all(map(_knows_all, self.sentinels)) and self._is_synced()):
            if time.monotonic() > end:
                raise TimeoutError("the servers and sentinels do not find together")
            time.sleep(0.02)

    def wait_for_failover(self, old: RedisServer, seconds: float = 30.0) -> None:
        """Until `old` is the master no more, and another one knows that it is.

        Raises: TimeoutError.
        """
        end = time.monotonic() + seconds
        while self.master is old or b"role:master" not in self.master.ask("INFO", "replication"):
            if time.monotonic() > end:
                raise TimeoutError("no other became the master")
            time.sleep(0.01)

    def _is_synced(self) -> bool:
        return b"master_link_status:up" in self.replica.ask("INFO", "replication")

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            self.servers = [stack.enter_context(RedisServer()) for _ in range(2)]
            first, second = self.servers
            second.ask("REPLICAOF", "127.0.0.1", str(first.port))
            self.sentinels = [stack.enter_context(Sentinel(first.port)) for _ in range(3)]
            self.wait_until_whole()
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stack.close()


def _knows_all(sentinel: Sentinel) -> bool:
    words = sentinel.ask("SENTINEL", "master", "mymaster").split(b"\r\n")
    said = dict(zip(words[2::4], words[4::4], strict=False))
    known = said[b"num-other-sentinels"], said[b"num-slaves"], said[b"flags"]
    return known == (b"2", b"1", b"master")
