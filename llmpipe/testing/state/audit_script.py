"""Random lives of an audit trail, step by step beside the memory trail."""

from __future__ import annotations

from random import Random

from llmpipe.state import Audit, AuditQuery, AuditRecord
from llmpipe.state.hash_chain import chained, fault
from llmpipe.state.memory.audit import MemoryAudit
from llmpipe.testing.state.harness import Harness, ManualClock

__all__ = ("AuditScript",)

_WRITERS = ("B", "a", "é")
_LEASES = (0.0, 133.0, 433.0)  # seconds; time passes in whole hundreds


class AuditScript:
    """One life, drawn from a seed. `run` fails at the first step in which the two differ."""

    def __init__(self, harness: Harness, seed: int) -> None:
        self._harness, self._random, self._clock = harness, Random(seed), ManualClock()  # noqa: S311  no secret
        self._model: Audit = MemoryAudit(self._clock)
        self._written: list[AuditRecord] = []
        self._calls = 0

    async def run(self, steps: int) -> None:
        """Do `steps` steps, each on both."""
        self._store = (await self._harness.open()).audit("script")
        for _ in range(steps):
            step = self._random.choices(
                [self._append, self._again, self._beat, self._pass, self._prune, self._reopen],
                [10, 2, 3, 2, 1, 1],
            )[0]
            await step()
            await self._alike()

    async def _alike(self) -> None:
        store, model = self._store, self._model
        assert await store.writers() == await model.writers()
        assert await store.unended() == await model.unended()
        assert await store.lost() == await model.lost()
        writer = self._random.choice(_WRITERS)
        assert await store.head(writer) == await model.head(writer)
        anchor = await store.anchor(writer)
        assert anchor == await model.anchor(writer)
        records = await store.query(AuditQuery(writer=writer), limit=10_000)
        assert fault(sorted(records, key=lambda each: each.seq), anchor) is None
        query = AuditQuery(
            since=float(self._random.randint(0, 30)),
            until=float(self._random.randint(20, 60)),
            kind=self._random.choice([None, "begin", "end"]),
            tenant=self._random.choice([None, "t", "u"]),
            outcome=self._random.choice([None, None, "failed"]),
        )
        after = self._random.choice([None, *self._written])
        limit = self._random.randint(1, 20)
        assert await store.query(query, limit=limit, after=after) == await model.query(
            query, limit=limit, after=after
        )

    async def _append(self) -> None:
        writer = self._random.choice(_WRITERS)
        last = await self._model.head(writer)
        batch = []
        for _ in range(self._random.randint(1, 5)):
            kind = self._random.choice(["begin", "begin", "end", "note"])
            self._calls += kind == "begin"
            call = self._calls if kind == "begin" else self._random.randint(1, max(1, self._calls))
            last = chained(
                AuditRecord(
                    writer=writer,
                    seq=0,
                    kind=kind,
                    at=float(self._random.randint(len(self._written) // 8, len(self._written) // 8 + 20)),
                    call="" if kind == "note" else f"c{call}",
                    tenant=self._random.choice("tu"),
                    outcome=self._random.choice(["ok", "failed"]) if kind == "end" else "",
                    body={"n": self._calls},
                ),
                last,
            )
            batch.append(last)
        self._written += batch
        await self._store.append(batch)
        await self._model.append(batch)

    async def _again(self) -> None:
        batch = self._random.choices(self._written, k=3) if self._written else []
        await self._store.append(batch)
        await self._model.append(batch)

    async def _beat(self) -> None:
        writer, lease = self._random.choice(_WRITERS), self._random.choice(_LEASES)
        await self._store.beat(writer, lease)
        await self._model.beat(writer, lease)

    async def _pass(self) -> None:
        seconds = self._random.randint(1, 4) * 100.0
        await self._harness.pass_time(seconds)
        self._clock.now += seconds

    async def _prune(self) -> None:
        before = float(self._random.randint(0, 20) + len(self._written) // 10)
        assert await self._store.prune(before) == await self._model.prune(before)

    async def _reopen(self) -> None:
        self._store = (await self._harness.reopen()).audit("script")
