"""One store for the whole session, and an empty prefix for each test."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from itertools import count
from pathlib import Path
from typing import Any, ClassVar

import pytest
from botocore.session import Session

from llmpipe.testing.servers.process import ServerProcess
from llmpipe.testing.state import OpenedStates
from llmpipe_s3 import S3State, open_s3

_NUMBERS = count(1)
_SERVER = Path(__file__).with_name("s3_server.py")


class Server(ServerProcess):
    """A store that can be told to misbehave. See `s3_server`."""

    _program: ClassVar[str] = "s3-server"
    _patience: ClassVar[float] = 60.0  # moto takes seconds to load

    def __init__(self, *tls: Path) -> None:
        super().__init__()
        self._tls = tls

    @property
    def home(self) -> Path:
        """Where it keeps its data, and reads its orders."""
        return self._home

    @property
    def endpoint(self) -> str:
        return f"{'https' if self._tls else 'http'}://127.0.0.1:{self.port}"

    def _launch(self) -> subprocess.Popen[bytes]:
        environ = {name: value for name, value in os.environ.items() if not name.startswith("AWS_")}
        with (self.home / "log").open("ab") as log:
            return subprocess.Popen(
                [sys.executable, str(_SERVER), str(self.home), str(self.port), *map(str, self._tls)],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=environ, start_new_session=True,
            )  # fmt: skip

    def _answers(self) -> bool:
        try:
            socket.create_connection(("127.0.0.1", self.port), timeout=1).close()
        except OSError:
            return False
        return True

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


class Harness(OpenedStates[S3State]):
    """Opens states with a prefix of their own."""

    def __init__(self, server: Server, **settings: object) -> None:
        super().__init__()
        self.server = server
        self._settings = {"timeout": 60, **settings}
        self.prefix = ""

    def url(self, **settings: object) -> str:
        settings = {"endpoint": self.server.endpoint, "region": "us-east-1", **self._settings, **settings}
        return f"s3://trail/{self.prefix}?" + "&".join(f"{name}={value}" for name, value in settings.items())

    async def open(self, **settings: object) -> S3State:
        self.prefix = f"t{next(_NUMBERS)}"
        return await self.reopen(**settings)

    async def reopen(self, **settings: object) -> S3State:
        state = self.keep(open_s3(self.url(**settings)))
        if "profile" not in settings:  # a client takes a busy machine longer to make than some timeouts here
            await asyncio.to_thread(state._here()._made)
        return state


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
def server() -> Iterator[Server]:
    made = Server()
    (made.home / "clock").write_text(str(int(time.time())))
    with made:
        made.make_bucket()
        yield made


@pytest.fixture
async def harness(server: Server) -> AsyncIterator[Harness]:
    made = Harness(server)
    yield made
    await made.aclose()


@pytest.fixture(scope="session")
def victim() -> Iterator[Server]:
    """Another one, to be harmed: moto takes seconds to start."""
    with Server() as made:
        made.make_bucket()
        yield made


@pytest.fixture
async def own(victim: Server) -> AsyncIterator[Harness]:
    """A store that the test may freeze, kill and harm, with a timeout that it can wait for."""
    made = Harness(victim, timeout=3)
    yield made
    victim.order()
    victim.resume()
    victim.start()  # if it was killed
    await made.aclose()
