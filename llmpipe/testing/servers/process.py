"""`ServerProcess`: a program that serves on a port of this machine, and is over before the tests are."""

from __future__ import annotations

import atexit
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from abc import ABC, abstractmethod
from pathlib import Path
from types import TracebackType
from typing import ClassVar, Self

__all__ = ("ServerProcess",)


class ServerProcess(ABC):
    """What all servers for tests have: a free port, a directory of their own, a start that waits, an end.

    A shell beside the server reads until this process is gone, however it went, and then does what
    `_on_orphaned` says; a word ends only the watch.

    Attributes: port is on 127.0.0.1, the same whenever it is started again.
    """

    _program: ClassVar[str]
    """What errors call it."""
    _on_orphaned: ClassVar[str] = 'kill -9 "$0"'
    """Ends the process ``$0``."""
    _patience: ClassVar[float] = 20.0
    """Seconds for it to answer after it was started: on a busy machine with data to load it takes some."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None
        self._watch: subprocess.Popen[bytes] | None = None
        self._home = Path(tempfile.mkdtemp(prefix=f"llmpipe-{self._program}-"))
        self.port = _free_port()
        atexit.register(self.close)

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
        self._process = self._launch()
        self._watch = subprocess.Popen(  # noqa: S603  the shell, which every machine has
            [
                "/bin/sh",
                "-c",
                f'read word || {{ {self._on_orphaned}; rm -rf "$1"; }}',
                str(self._process.pid),
                str(self._home),
            ],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        end = time.monotonic() + self._patience
        while not self._answers():
            if self._process.poll() is not None or time.monotonic() > end:
                self.kill()
                raise RuntimeError(
                    f"{self._program} on port {self.port} did not come up:\n{self.log[-2000:]}"
                )
            time.sleep(0.01)

    def kill(self) -> None:
        """End it as a power cut would (SIGKILL)."""
        if self._process is not None and self._process.poll() is None:
            self._process.kill()
            self._process.wait()
        self._unwatch()

    def stop(self) -> None:
        """End it as an operator would: it writes what it has to write."""
        self._end(signal.SIGTERM)

    def restart(self) -> None:
        """Stop it and start it, on the same port with the same data."""
        self.stop()
        self.start()

    def pause(self) -> None:
        """Freeze it (SIGSTOP): its port still takes connections, and nobody answers."""
        assert self._process is not None, "it was never started"
        self._process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Let it go on (SIGCONT)."""
        assert self._process is not None, "it was never started"
        self._process.send_signal(signal.SIGCONT)

    def close(self) -> None:
        """End it, and drop its data."""
        self.kill()
        shutil.rmtree(self._home, ignore_errors=True)
        atexit.unregister(self.close)

    @abstractmethod
    def _launch(self) -> subprocess.Popen[bytes]:
        """Start the program, in a session of its own: a Ctrl-C at the terminal reaches the tests first."""
        ...

    @abstractmethod
    def _answers(self) -> bool:
        """Whether it is up."""
        ...

    def _end(self, how: signal.Signals) -> None:
        process = self._process
        if process is not None and process.poll() is None:
            self.resume()  # a frozen one hears nothing
            process.send_signal(how)
            try:
                process.wait(self._patience)
            except subprocess.TimeoutExpired:
                self.kill()
        self._unwatch()

    def _unwatch(self) -> None:
        if self._watch is not None:
            self._watch.communicate(b"over\n")
            self._watch = None

    def __enter__(self) -> Self:
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
