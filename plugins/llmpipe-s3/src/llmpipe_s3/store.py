"""The way to one bucket: requests in a bounded number of threads, each answered or refused in time."""

from __future__ import annotations

import asyncio
import logging
import threading
from base64 import b64encode
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from functools import partial
from hashlib import md5
from random import Random
from typing import Any, TypeVar

from attrs import frozen
from botocore.config import Config
from botocore.exceptions import ClientError
from botocore.parsers import ResponseParserError
from botocore.session import Session

from llmpipe.errors import StoreUnavailable
from llmpipe.state.fuse import Fuse
from llmpipe_s3.faults import ERRORS, Fault, fault
from llmpipe_s3.settings import Settings

__all__ = ("Object", "Page", "Store")

T = TypeVar("T")

_log = logging.getLogger("llmpipe.state.s3")
_TRIES = 4
_SHARE = 0.8
"""Of the timeout, for one request: so whoever asks for several hears from here that the store hangs,
and so does the fuse."""
_PAUSE = 0.05  # seconds before the second try, at most; doubles


@frozen
class Object:
    """What an object holds, and its age in seconds by the store's clock, which counts in whole ones."""

    data: bytes
    age: float


@frozen
class Page:
    """Keys in order of their bytes, and whether more follow."""

    keys: tuple[str, ...]
    more: bool


class Store:
    """Requests to one bucket. After a failure that would meet others too it refuses at once for a while.

    Every request may be repeated: objects are made only where there is none, and what is overwritten is
    overwritten with the same.

    Raises, all: StoreUnavailable; ConfigError for a profile that is not there.
    """

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self._random = Random()  # noqa: S311  spreads tries
        self._fuse = Fuse()
        self._making = threading.Lock()
        self._client: Any = None
        self._threads: ThreadPoolExecutor | None = None
        self._conditional = False  # whether the store was seen to refuse a second put

    async def put_new(self, key: str, data: bytes) -> bool:
        """Make an object; False if there is one."""
        if not self._conditional:
            await self._see_that_puts_are_conditional()
        return await self._put(key, data, IfNoneMatch="*")

    async def put(self, key: str, data: bytes) -> None:
        """Make an object, or put another in its place."""
        await self._put(key, data)

    async def get(self, key: str) -> Object | None:
        """What is there, if anything."""

        def get(client: Any) -> Object | None:
            try:
                answer = client.get_object(Bucket=self.settings.bucket, Key=key)
            except ClientError as error:
                if error.response.get("Error", {}).get("Code") in ("NoSuchKey", "404"):
                    return None
                raise
            with answer["Body"] as body:
                data: bytes = body.read()
            headers = answer["ResponseMetadata"]["HTTPHeaders"]
            now = parsedate_to_datetime(headers["date"]) if "date" in headers else datetime.now(UTC)
            made: datetime = answer["LastModified"]  # both are of UTC, whether or not they say so
            return Object(data, (now.replace(tzinfo=UTC) - made.replace(tzinfo=UTC)).total_seconds())

        return await self._ask(get)

    async def page(self, prefix: str, after: str = "") -> Page:
        """Up to a thousand keys that begin with `prefix` and are behind `after`."""

        def list_(client: Any) -> Page:
            behind = {"StartAfter": after} if after else {}
            answer = client.list_objects_v2(Bucket=self.settings.bucket, Prefix=prefix, **behind)
            if "IsTruncated" not in answer:  # botocore takes any page of HTML for an empty listing
                raise ResponseParserError("no listing")
            keys = tuple([each["Key"] for each in answer.get("Contents", ())])
            return Page(keys, bool(answer.get("IsTruncated")) and bool(keys))

        return await self._ask(list_)

    async def folders(self, prefix: str) -> list[str]:
        """What begins with `prefix` up to the next slash, a thousand with each request."""
        found: list[str] = []
        token: str | None = ""
        while token is not None:
            some, token = await self._ask(partial(self._folders, prefix, token))
            found += some
        return found

    def _folders(self, prefix: str, token: str, client: Any) -> tuple[list[str], str | None]:
        more = {"ContinuationToken": token} if token else {}
        answer = client.list_objects_v2(Bucket=self.settings.bucket, Prefix=prefix, Delimiter="/", **more)
        if "IsTruncated" not in answer:  # as above
            raise ResponseParserError("no listing")
        found = [each["Prefix"] for each in answer.get("CommonPrefixes", ())]
        return found, answer.get("NextContinuationToken") if answer["IsTruncated"] else None

    async def delete(self, key: str) -> None:
        """See that there is no such object."""
        await self._ask(lambda client: client.delete_object(Bucket=self.settings.bucket, Key=key))

    async def check(self) -> None:
        """See that the bucket can be listed, and that it makes an object once."""
        prefix = self.settings.prefix
        _ = await self.page(f"{prefix}/" if prefix else "")
        await self._see_that_puts_are_conditional()

    async def _put(self, key: str, data: bytes, **conditions: str) -> bool:
        # The sum sees the body through any store, and buckets with Object Lock want one.
        sum_ = b64encode(md5(data, usedforsecurity=False).digest()).decode()

        def put(client: Any) -> bool:
            try:
                client.put_object(
                    Bucket=self.settings.bucket, Key=key, Body=data, ContentMD5=sum_, **conditions
                )
            except ClientError as error:
                if error.response.get("ResponseMetadata", {}).get("HTTPStatusCode") == 412:
                    return False
                raise
            return True

        return await self._ask(put)

    async def _see_that_puts_are_conditional(self) -> None:
        """A store that knows no conditions, or passes over them, would let records be overwritten."""
        key = f"{self.settings.prefix}/conditional.txt".lstrip("/")
        for _ in range(2):
            if not await self._put(key, b"The store makes an object once.\n", IfNoneMatch="*"):
                self._conditional = True
                return
        raise StoreUnavailable(
            f"{self.settings.place} overwrites what is there in spite of If-None-Match, which a trail needs"
        )

    # ------------------------------------------------------------ asking

    async def _ask(self, request: Callable[[Any], T]) -> T:
        loop = asyncio.get_running_loop()
        pause = self._fuse.wait(loop.time())
        if pause:
            raise StoreUnavailable(
                f"{self.settings.place} failed, and is left alone for a moment", retry_after=pause
            )
        told = False
        try:
            answer = await self._try(request, loop.time() + _SHARE * self.settings.timeout)
            self._fuse.worked()
            told = True
            return answer
        except _Met as met:
            told = True
            found = met.fault
            if found.trips:
                _log.warning("%s", found.error)
                self._fuse.failed(loop.time())
            else:
                self._fuse.worked()  # it answers
            raise found.error from met.__cause__
        finally:
            if not told:  # cancelled
                self._fuse.unknown()

    async def _try(self, request: Callable[[Any], T], until: float) -> T:
        loop, pause = asyncio.get_running_loop(), _PAUSE
        for left in reversed(range(_TRIES)):
            try:
                async with asyncio.timeout_at(until):
                    return await loop.run_in_executor(self._pool(), self._run, request)
            except ERRORS as error:  # TimeoutError among them
                found = fault(error, self.settings.place)
                wait = self._random.uniform(0.5, 1.0) * pause
                if not left or not found.again or loop.time() + wait >= until:
                    raise _Met(found) from error
            await asyncio.sleep(wait)
            pause *= 2
        raise AssertionError("the last try raises")

    def _run(self, request: Callable[[Any], T]) -> T:
        return request(self._made())

    def _made(self) -> Any:
        with self._making:
            if self._client is None:
                settings = self.settings
                session = Session(profile=settings.profile or None)
                config = Config(
                    connect_timeout=settings.timeout,
                    read_timeout=settings.timeout,
                    max_pool_connections=settings.connections,
                    retries={"total_max_attempts": 1},  # tries are made here, where they end in time
                    s3={"addressing_style": "path" if settings.path_style else "auto"},
                    # The newer sums are unknown to many stores; MD5 goes with each body.
                    request_checksum_calculation="when_required",
                    response_checksum_validation="when_required",
                )
                self._client = session.create_client(
                    "s3",
                    region_name=settings.region or session.get_config_variable("region") or "us-east-1",
                    endpoint_url=settings.endpoint or None,
                    config=config,
                )
            return self._client

    def _pool(self) -> ThreadPoolExecutor:
        if self._threads is None:
            self._threads = ThreadPoolExecutor(self.settings.connections, "llmpipe-s3")
        return self._threads

    def close(self) -> None:
        """Close connections. What is under way in threads ends by its own timeout."""
        threads, self._threads = self._threads, None
        client, self._client = self._client, None
        if threads is not None:
            threads.shutdown(wait=False, cancel_futures=True)
        if client is not None:
            client.close()


class _Met(Exception):
    """A request has failed for good."""

    def __init__(self, fault: Fault) -> None:
        super().__init__(str(fault.error))
        self.fault = fault
