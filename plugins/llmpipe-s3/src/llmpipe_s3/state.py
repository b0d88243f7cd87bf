"""The backend ``s3://``."""

from __future__ import annotations

import asyncio
from typing import ClassVar

from llmpipe.state import Audit, Backend
from llmpipe_s3.appending import Appender
from llmpipe_s3.audit import S3Audit
from llmpipe_s3.settings import Settings, read_url
from llmpipe_s3.store import Store
from llmpipe_s3.trail import Trail

__all__ = ("S3State", "open_s3")


class S3State(Backend):
    """An audit trail in a bucket. Connects on first use.

    Attributes:
        ahead: seconds by which this State takes the store's clock to be later than it is; for tests.
    """

    scheme: ClassVar[str] = "s3"
    offers: ClassVar[frozenset[str]] = frozenset({"audit"})

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.ahead = 0.0
        self._loop: asyncio.AbstractEventLoop | None = None
        self._store = Store(settings)
        self._appenders: dict[str, Appender] = {}

    def __repr__(self) -> str:
        return f"S3State({self.settings.place!r}, prefix={self.settings.prefix!r})"

    def audit(self, name: str) -> Audit:
        """The audit trail called `name`."""
        return S3Audit(lambda: self._appender(name), lambda: self.ahead)

    def _appender(self, name: str) -> Appender:
        """What the running loop knows of that trail; what another loop knew is read anew."""
        store = self._here()
        if name not in self._appenders:
            self._appenders[name] = Appender(Trail(store, name))
        return self._appenders[name]

    def _here(self) -> Store:
        loop = asyncio.get_running_loop()
        if loop is not self._loop:
            self._store.close()
            self._loop, self._appenders, self._store = loop, {}, Store(self.settings)
        return self._store

    async def check(self) -> None:
        """See that the bucket can be listed, and that it makes an object once.

        Raises: StoreUnavailable.
        """
        await self._here().check()

    async def aclose(self) -> None:
        """Put what was asked, and close the connections. Whoever asks again opens them again."""
        if self._loop is asyncio.get_running_loop():
            for appender in self._appenders.values():
                await appender.finish()
        self._store.close()


def open_s3(url: str) -> S3State:
    """The backend of ``s3://bucket/prefix?endpoint=https://minio.example:9000&region=eu-west-1``.

    Settings: endpoint (Amazon's), region (of the environment or the profile), profile, timeout (5 seconds),
    connections (16) and path_style (``true`` with an endpoint).

    Raises: ConfigError; also for credentials, which are taken from the usual places.
    """
    return S3State(read_url(url))
