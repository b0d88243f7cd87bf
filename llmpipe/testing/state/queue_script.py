"""Random lives of a queue, step by step beside the memory queue."""

from __future__ import annotations

from random import Random
from typing import Any

from attrs import evolve

from llmpipe.state import Item, Leased, Queue, QueueConflict, QueueFull
from llmpipe.state.memory.queue import MemoryQueue
from llmpipe.testing.state.harness import Harness, ManualClock

__all__ = ("QueueScript",)

# Time passes in whole hundreds of seconds; leases, delays and expiries end between them, each at a distance
# of its own, so that a store whose clock runs on by itself, some seconds, ends the same in the same order.
_LEASES = (133.0, 333.0, 1033.0)
_DELAYS = (0.0, 0.0, 0.0, 155.0, 455.0)
_EXPIRES = (None, None, 277.0, 877.0)
_BOUNDS = {"max_items": 40, "max_bytes": 400}


class QueueScript:
    """One life, drawn from a seed. `run` fails at the first step in which the two differ."""

    def __init__(self, harness: Harness, seed: int) -> None:
        self._harness, self._random, self._clock = harness, Random(seed), ManualClock()  # noqa: S311  no secret
        self._model: Queue = MemoryQueue(_BOUNDS["max_items"], _BOUNDS["max_bytes"], self._clock)
        self._told: list[str] = []
        self._count = 0
        self._leased: list[tuple[Leased, Leased]] = []  # of the store, and of the model
        self._tokens: dict[str, int] = {}

    async def run(self, steps: int) -> None:
        """Do `steps` steps, each on both."""
        self._store = (await self._harness.open()).queue("script", **_BOUNDS)
        for _ in range(steps):
            step = self._random.choices(
                [self._put, self._lease, self._finish, self._pass, self._revive, self._forget, self._reopen],
                [8, 6, 8, 4, 2, 1, 1],
            )[0]
            await step()
            await self._alike()

    async def _alike(self) -> None:
        found, wanted = await self._store.counts(), await self._model.counts()
        assert abs(found.oldest - wanted.oldest) < 40.0, self._told
        assert evolve(found, oldest=0.0) == evolve(wanted, oldest=0.0), self._told
        name = self._name()
        one, other = await self._store.status(name), await self._model.status(name)
        if one is None or other is None:
            assert one == other, (name, self._told)
        else:  # the words for a lease that ended are each store's own
            assert evolve(one, reason="") == evolve(other, reason=""), (name, self._told)
        dead, dead_too = await self._store.dead(limit=5), await self._model.dead(limit=5)
        assert [each[0] for each in dead] == [each[0] for each in dead_too], self._told

    def _name(self) -> str:
        return f"i{self._random.randint(max(0, self._count - 20), self._count)}"

    async def _both(self, told: str, step: Any) -> Any:
        self._told.append(told)
        answers: list[Any] = []
        for queue in (self._store, self._model):
            try:
                answers.append(await step(queue))
            except (QueueConflict, QueueFull) as error:
                answers.append(type(error).__name__)
        assert answers[0] == answers[1], (answers, self._told)
        return answers[0]

    async def _put(self) -> None:
        if self._random.random() < 0.8:
            self._count += 1
            name = f"i{self._count}"
        else:
            name = self._name()
        item = Item(
            id=name,
            payload=b"x" * self._random.choice([0, 1, 10, 10, 10, 30]),
            order=self._random.choice(["", "", "a", "b"]),
            priority=self._random.choice([0, 0, 1, -1]),
            expires_in=self._random.choice(_EXPIRES),
            delay=self._random.choice(_DELAYS),
            attempts=self._random.choice([1, 2, 5]),
        )
        await self._both(f"put({item!r})", lambda queue: queue.put(item))

    async def _lease(self) -> None:
        count, seconds = self._random.randint(1, 4), self._random.choice(_LEASES)
        self._told.append(f"lease({count}, {seconds})")
        found = await self._store.lease("worker", count=count, seconds=seconds)
        wanted = await self._model.lease("worker", count=count, seconds=seconds)
        assert [evolve(each, token=0) for each in found] == [evolve(each, token=0) for each in wanted], (
            self._told
        )
        for one, other in zip(found, wanted, strict=True):
            assert one.token > self._tokens.get(one.id, -1), (one, self._told)
            self._tokens[one.id] = one.token
            self._leased.append((one, other))

    async def _finish(self) -> None:
        if not self._leased:
            return
        # Mostly one of the latest; now and then one whose lease has long been lost.
        latest = max(0, len(self._leased) - 5)
        held = self._leased[self._random.randrange(latest, len(self._leased))]
        tokens = {id(self._store): held[0].token, id(self._model): held[1].token}
        name, final = held[0].id, self._random.random() < 0.1
        delay, seconds = self._random.choice(_DELAYS), self._random.choice(_LEASES)
        what = self._random.choice(["done", "done", "fail", "fail", "renew"])

        async def step(queue: Queue) -> bool:
            token = tokens[id(queue)]
            if what == "done":
                return await queue.done(name, token, b"result")
            if what == "fail":
                return await queue.fail(name, token, "why", delay=delay, final=final)
            return await queue.renew(name, token, seconds)

        await self._both(f"{what}({name!r}, {tokens}, {delay}, {final}, {seconds})", step)

    async def _pass(self) -> None:
        seconds = self._random.randint(1, 4) * 100.0
        self._told.append(f"{seconds} seconds pass")
        await self._harness.pass_time(seconds)
        self._clock.now += seconds

    async def _revive(self) -> None:
        name = self._name()
        await self._both(f"revive({name!r})", lambda queue: queue.revive(name))

    async def _forget(self) -> None:
        older = self._random.choice([0.0, 1e9])
        await self._both(f"forget({older})", lambda queue: queue.forget(older))

    async def _reopen(self) -> None:
        self._told.append("another process goes on")
        self._store = (await self._harness.reopen()).queue("script", **_BOUNDS)
