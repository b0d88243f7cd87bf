"""One job in many parts, each of which may run on another machine: what engines such as Ray are given."""

from __future__ import annotations

from collections.abc import Callable
from importlib.metadata import entry_points
from pathlib import Path

from attrs import frozen

from llmpipe.bulk.job import Summary, run
from llmpipe.bulk.results import Again, merge
from llmpipe.config.load import load_chain
from llmpipe.errors import ConfigError

__all__ = ("GROUP", "Job", "engine")

GROUP = "llmpipe.bulk"
"""The entry-point group of engines: a name to a function that takes a `Job` and gives a `Summary`."""


@frozen(kw_only=True)
class Job:
    """What an engine is to do: each of `shards` parts of the file, with answers of its own (`part`).

    `address` is where the engine is, "" for this machine. Paths are absolute.
    """

    chainfile: str
    requests: str
    answers: str
    shards: int
    concurrency: int
    again: Again
    tenant: str
    address: str

    def part(self, index: int) -> str:
        """The file of answers of one shard."""
        path = Path(self.answers)
        return str(path.with_name(f"{path.stem}.part-{index:05}-of-{self.shards:05}{path.suffix}"))

    async def run_part(self, index: int, on_progress: Callable[[Summary], None] | None = None) -> Summary:
        """Ask for what one shard has, through a chain of its own. Raises: as `llmpipe.bulk.run`."""
        async with load_chain(self.chainfile) as chain:
            return await run(
                chain,
                self.requests,
                self.part(index) if self.shards > 1 else self.answers,
                concurrency=self.concurrency,
                again=self.again,
                shard=(index, self.shards),
                tenant=self.tenant,
                on_progress=on_progress,
            )

    def gathered(self) -> None:
        """Make one file of those of all shards."""
        if self.shards > 1:
            merge(self.answers, [self.part(index) for index in range(self.shards)])


def engine(name: str) -> Callable[[Job], Summary]:
    """The engine that a package brings under this name.

    Raises: ConfigError that says which there are.
    """
    points = {point.name: point for point in entry_points(group=GROUP)}
    if name not in points:
        known = f"known: {', '.join(sorted(points))}" if points else "none is installed"
        hint = "; pip install llmpipe-ray" if name == "ray" else ""
        raise ConfigError(f"no engine is called {name!r}; {known}{hint}")
    found: Callable[[Job], Summary] = points[name].load()
    return found
