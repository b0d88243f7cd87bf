"""How much of the machine is in use: processors, memory, descriptors.

Measured by psutil (the extra ``resources``), or by a function of yours, at an interval. In a container
`cpu` and `memory` are the host's; the process's own figures are what its limits are to be held against.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextvars import Context
from functools import partial
from importlib.util import find_spec
from typing import Any

from attrs import frozen

from llmpipe.errors import ConfigError
from llmpipe.runtime import Runtime

__all__ = ("Resources", "Sample", "check_psutil")

INTERVAL = 10.0
"""Seconds between two samples. One takes some 0.3 ms."""


@frozen(kw_only=True)
class Sample:
    """The resources at one moment.

    Attributes:
        cpu: share of the machine's processors that was busy since the sample before, 0 to 1.
        memory: share of the machine's memory in use, 0 to 1.
        process_cpu: processors this process used since the sample before: 1.5 is one and a half.
        rss_bytes: memory of this process that is in RAM.
        descriptors: files and sockets it has open.
        threads: how many it has.
    """

    cpu: float = 0.0
    memory: float = 0.0
    process_cpu: float = 0.0
    rss_bytes: int = 0
    descriptors: int = 0
    threads: int = 0


class Resources:
    """The samples of one runtime: ``runtime.state("resources", "", Resources)``.

    Attributes:
        latest: the newest sample; None before there is one.
        failed: how many could not be taken.
    """

    def __init__(self) -> None:
        self.latest: Sample | None = None
        self.failed = 0
        self.interval = INTERVAL
        self._sampler: Callable[[], Sample] | None = None
        self._task: asyncio.Task[None] | None = None

    @staticmethod
    def start(
        runtime: Runtime, *, interval: float | None = None, sampler: Callable[[], Sample] | None = None
    ) -> Resources:
        """Those of `runtime`, measured from now on. To be called as often as one likes.

        Args:
            interval: seconds between samples; the shortest that was asked for counts.
            sampler: measures in place of psutil.

        Raises: ConfigError without psutil.
        """
        found = runtime.state("resources", "", Resources)
        if interval is not None:
            found.interval = min(found.interval, interval)
        if sampler is not None:
            found._sampler = sampler
        elif found._sampler is None:
            found._sampler = PsutilSampler()
        task = found._task
        if task is None or task.done() or task.get_loop() is not asyncio.get_running_loop():
            found.measure(runtime)
            # Not in the context of the call that happens to be the first: it outlives that.
            begin = partial(runtime.spawn, found._run(runtime), "samples of resources")
            found._task = Context().run(begin)
        return found

    async def _run(self, runtime: Runtime) -> None:
        while True:
            await asyncio.sleep(self.interval)
            self.measure(runtime)

    def measure(self, runtime: Runtime) -> None:
        """Take a sample now."""
        assert self._sampler is not None
        try:
            self.latest = self._sampler()
        except Exception as error:  # noqa: BLE001  what cannot be measured now may be later; it is told once
            self.failed += 1
            if self.failed == 1:
                runtime.report("measuring resources", error)


class PsutilSampler:
    """Samples by psutil. Raises: ConfigError without it."""

    def __init__(self) -> None:
        check_psutil()
        import psutil

        self._psutil: Any = psutil
        self._process: Any = psutil.Process()
        self()  # shares of time are since the call before

    def __call__(self) -> Sample:
        process = self._process
        with process.oneshot():
            count = getattr(process, "num_fds", None) or process.num_handles  # Windows has handles
            return Sample(
                cpu=self._psutil.cpu_percent() / 100,
                memory=self._psutil.virtual_memory().percent / 100,
                process_cpu=process.cpu_percent() / 100,
                rss_bytes=process.memory_info().rss,
                descriptors=count(),
                threads=process.num_threads(),
            )


def check_psutil() -> None:
    """Raises: ConfigError that says how to install psutil, where it is missing."""
    if find_spec("psutil") is None:
        raise ConfigError('measuring resources needs psutil: pip install "llmpipe[resources]"')
