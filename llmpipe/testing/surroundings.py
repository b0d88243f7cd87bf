"""The world a test runs in: its chance and its clock repeatable, its network closed."""

from __future__ import annotations

import asyncio
import ipaddress
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from llmpipe.runtime import Runtime

__all__ = ("NetworkUsed", "no_network", "seeded_runtime")


class NetworkUsed(AssertionError):
    """Something tried to leave this machine; no code under test takes it for a failed connection."""


def seeded_runtime(seed: int, *, wall_start: float = 1_750_000_000.0) -> Runtime:
    """A runtime whose chance, ids and clocks are the same in every run.

    Its wall clock is the loop's time after `wall_start` (seconds since the epoch; by default a day in
    June 2025), so under virtual time dates are virtual too.
    """

    def wall() -> float:
        try:
            return wall_start + asyncio.get_running_loop().time()
        except RuntimeError:  # no loop runs
            return wall_start

    return Runtime(seed=seed, wall=wall)


@contextmanager
def no_network() -> Iterator[None]:
    """A block in which nothing reaches, or looks up, anything but this machine.

    Loopback addresses, ``localhost`` and sockets of files stay open. Works for whatever goes through
    Python's `socket`: asyncio, aiohttp, requests; not for what brings its own (uvloop, curl).

    Raises: NetworkUsed, at the place that tried.
    """
    kept = socket.socket.connect, socket.socket.connect_ex, socket.socket.sendto, socket.getaddrinfo
    connect, connect_ex, sendto, getaddrinfo = kept

    def guarded_connect(self: socket.socket, address: Any) -> None:
        _refuse(self, address)
        connect(self, address)

    def guarded_connect_ex(self: socket.socket, address: Any) -> int:
        _refuse(self, address)
        return connect_ex(self, address)

    def guarded_sendto(self: socket.socket, *args: Any) -> int:
        _refuse(self, args[-1])
        return sendto(self, *args)

    def guarded_getaddrinfo(host: Any, *args: Any, **kwargs: Any) -> Any:
        _refuse_host(host)
        return getaddrinfo(host, *args, **kwargs)

    _install(guarded_connect, guarded_connect_ex, guarded_sendto, guarded_getaddrinfo)
    try:
        yield
    finally:
        _install(*kept)


def _install(connect: Any, connect_ex: Any, sendto: Any, getaddrinfo: Any) -> None:
    kind: Any = socket.socket
    kind.connect, kind.connect_ex, kind.sendto = connect, connect_ex, sendto
    socket.getaddrinfo = getaddrinfo


def _refuse(used: socket.socket, address: Any) -> None:
    if used.family in (socket.AF_INET, socket.AF_INET6):
        _refuse_host(address[0])


def _refuse_host(host: Any) -> None:
    name = host.decode() if isinstance(host, bytes) else str(host or "localhost")
    if name == "localhost" or name.endswith(".localhost"):
        return
    try:
        address = ipaddress.ip_address(name.partition("%")[0])
    except ValueError:
        address = None
    if address is None or not (address.is_loopback or address.is_unspecified):
        raise NetworkUsed(f"{name!r} is not this machine, and the network is closed here (no_network)")
