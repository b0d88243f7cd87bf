"""Bulk jobs on Ray: each shard is a task, on whichever machine of the cluster has room."""

from __future__ import annotations

import asyncio
import socket
from typing import Any

import ray
from ray.exceptions import RayError, RayTaskError

from llmpipe.bulk import Job, Summary
from llmpipe.errors import ConfigError, StoreUnavailable

__all__ = ("run",)

_RETRIES = 10  # of a shard whose worker, or machine, is lost
_PATIENCE = 10.0  # seconds for the head of a cluster to take a connection


def run(job: Job) -> Summary:
    """Do all shards of `job`; what they came to together.

    A shard whose worker dies is begun again by Ray, elsewhere, and goes on where its file of answers ends. So
    all machines have to see the files, under the same paths.

    Raises: ConfigError where there is no cluster, and for what the job itself says is wrong;
    StoreUnavailable where a shard was lost again and again.
    """
    own = not ray.is_initialized()
    if own:
        _connect(job.address)
    part = ray.remote(num_cpus=1, max_retries=_RETRIES, retry_exceptions=[StoreUnavailable])(_part)
    waiting: list[Any] = []
    try:
        waiting = [part.remote(job, index) for index in range(job.shards)]
        told = [_result(one) for one in waiting]
    finally:
        for one in waiting:
            ray.cancel(one, force=True)  # those that are over are not touched
        if own:
            ray.shutdown()
    return sum(told[1:], told[0])


def _connect(address: str) -> None:
    """Join the cluster at `address`; where none is named, make one of this machine alone."""
    place = address.removeprefix("ray://")
    host, colon, port = place.rpartition(":")
    try:
        if colon and port.isdecimal():  # Ray waits for minutes where nobody listens
            socket.create_connection((host, int(port)), _PATIENCE).close()
        if address:
            ray.init(address=address, log_to_driver=False)
        else:
            ray.init(address="local", include_dashboard=False, log_to_driver=False)
    except (OSError, RuntimeError, ValueError) as error:
        raise ConfigError(f"there is no Ray cluster at {address or 'this machine'}: {error}") from None


def _part(job: Job, index: int) -> Summary:
    return asyncio.run(job.run_part(index))


def _result(waiting: Any) -> Summary:
    try:
        found: Summary = ray.get(waiting)
    except RayTaskError as error:
        raise error.cause from None  # as it was raised there
    except RayError as error:
        raise StoreUnavailable(f"a shard is lost: {str(error).splitlines()[0]}; run the same again") from None
    return found
