"""One store for the whole session, and an empty prefix for each test."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from botocore.session import Session

from llmpipe_s3 import S3State, open_s3

_NUMBERS = count(1)
_SERVER = Path(__file__).with_name("s3_server.py")


class Server:
    """A store on a free port that can be frozen, killed and told to misbehave. See `s3_server`."""

    def __init__(self, home: Path, *tls: Path) -> None:
        self.home, self._tls = home, tls
        with socket.socket() as listener:
            listener.bind(("127.0.0.1", 0))
            self.port: int = listener.getsockname()[1]
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def endpoint(self) -> str:
        return f"{'https' if self._tls else 'http'}://127.0.0.1:{self.port}"

    def start(self) -> None:
        environ = {name: value for name, value in os.environ.items() if not name.startswith("AWS_")}
        with (self.home / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, str(_SERVER), str(self.home), str(self.port), *map(str, self._tls)],
                stdout=log, stderr=log, env=environ,
            )  # fmt: skip
        end = time.monotonic() + 60
        while True:
            try:
                socket.create_connection(("127.0.0.1", self.port), timeout=1).close()
                return
            except OSError:
                assert self._process.poll() is None, (self.home / "log").read_text()
                assert time.monotonic() < end, "the store did not come up"
                time.sleep(0.05)

    def kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def pause(self) -> None:
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Let it go on, and start it if it was killed."""
        if self._process is None:
            self.start()
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)

    def order(self, **order: Any) -> None:
        """From now on requests go as that says; as they should without one."""
        path = self.home / "orders.json"
        if order:
            path.with_suffix(".new").write_text(json.dumps(order))
            path.with_suffix(".new").replace(path)
        else:
            path.unlink(missing_ok=True)

    def requests(self) -> list[str]:
        """What it was asked since this was called last: method, path and query."""
        path = self.home / "requests"
        lines = path.read_text().splitlines() if path.exists() else []
        path.unlink(missing_ok=True)
        return lines

    def make_bucket(self) -> None:
        self.client().create_bucket(Bucket="trail")

    def client(self) -> Any:
        """A client of its own, with which tests do what others would."""
        return Session().create_client(
            "s3", region_name="us-east-1", endpoint_url=self.endpoint,
            aws_access_key_id="AKIDTEST", aws_secret_access_key="test",
        )  # fmt: skip


class Harness:
    """Opens states with a prefix of their own; the time of all that it opened moves together."""

    def __init__(self, server: Server, **settings: object) -> None:
        self.server = server
        self._settings = {"timeout": 60, **settings}
        self._opened: list[S3State] = []
        self._ahead = 0.0
        self.prefix = ""

    def url(self, **settings: object) -> str:
        settings = {"endpoint": self.server.endpoint, "region": "us-east-1", **self._settings, **settings}
        return f"s3://trail/{self.prefix}?" + "&".join(f"{name}={value}" for name, value in settings.items())

    async def open(self, **settings: object) -> S3State:
        self.prefix = f"t{next(_NUMBERS)}"
        return await self.reopen(**settings)

    async def reopen(self, **settings: object) -> S3State:
        state = open_s3(self.url(**settings))
        state.ahead = self._ahead
        self._opened.append(state)
        if "profile" not in settings:  # a client takes a busy machine longer to make than some timeouts here
            await asyncio.to_thread(state._here()._made)
        return state

    async def pass_time(self, seconds: float) -> None:
        self._ahead += seconds
        for state in self._opened:
            state.ahead = self._ahead

    async def aclose(self) -> None:
        for state in self._opened:
            await state.aclose()


@pytest.fixture(autouse=True)
def credentials(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Nothing of whoever runs the tests."""
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIDTEST")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "a-secret-of-the-tests")


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    made = Server(tmp_path_factory.mktemp("s3"))
    (made.home / "clock").write_text(str(int(time.time())))
    made.start()
    made.make_bucket()
    yield made
    made.kill()


@pytest.fixture
async def harness(server: Server) -> AsyncIterator[Harness]:
    made = Harness(server)
    yield made
    await made.aclose()


@pytest.fixture(scope="session")
def victim(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Another one, to be harmed: moto takes seconds to start."""
    made = Server(tmp_path_factory.mktemp("victim"))
    made.start()
    made.make_bucket()
    yield made
    made.kill()


@pytest.fixture
async def own(victim: Server) -> AsyncIterator[Harness]:
    """A store that the test may freeze, kill and harm, with a timeout that it can wait for."""
    made = Harness(victim, timeout=3)
    yield made
    victim.order()
    victim.resume()
    await made.aclose()
