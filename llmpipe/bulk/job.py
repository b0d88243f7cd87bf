"""`run`: the requests of a file through a chain, so many at a time."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

from attrs import evolve, frozen

from llmpipe.bulk.lines import Line, check_lines, read_lines
from llmpipe.bulk.results import Again, Results
from llmpipe.errors import ConfigError, LLMError
from llmpipe.pipeline.chain import Chain
from llmpipe.types import Completion, Embeddings

__all__ = ("STOP_ON", "Summary", "run")

STOP_ON = frozenset(("AUTHENTICATION_ERROR", "BUDGET_EXCEEDED", "QUOTA_EXCEEDED"))
"""Types of errors that all others would meet too, so that there is no use in going on."""

_SYNC_SECONDS = 1.0


@frozen(kw_only=True)
class Summary:
    """How a job stands.

    Attributes:
        total: requests in the file, or in its shard.
        before: answered, or failed for good, in earlier runs.
        done, failed: in this one.
        stopped: why it ended before its time; "" where it did not.
        input_tokens, output_tokens: of this run, as far as they were told.
        usd: of this run; None where the price of one was unknown.
    """

    total: int
    before: int = 0
    done: int = 0
    failed: int = 0
    stopped: str = ""
    input_tokens: int = 0
    output_tokens: int = 0
    usd: Decimal | None = Decimal(0)

    @property
    def left(self) -> int:
        """Requests that nobody has asked yet, or that were being asked when the run ended."""
        return self.total - self.before - self.done - self.failed

    def __add__(self, other: Summary) -> Summary:
        return Summary(
            total=self.total + other.total,
            before=self.before + other.before,
            done=self.done + other.done,
            failed=self.failed + other.failed,
            stopped=self.stopped or other.stopped,
            input_tokens=self.input_tokens + other.input_tokens,
            output_tokens=self.output_tokens + other.output_tokens,
            usd=None if self.usd is None or other.usd is None else self.usd + other.usd,
        )


async def run(
    chain: Chain,
    requests: str | Path,
    results: str | Path,
    *,
    concurrency: int = 32,
    again: Again = "retryable",
    shard: tuple[int, int] = (0, 1),
    tenant: str = "",
    stop_on: frozenset[str] = STOP_ON,
    on_progress: Callable[[Summary], None] | None = None,
) -> Summary:
    """Ask `chain` what the file `requests` has, and write the answers to `results`; see `llmpipe.bulk.lines`.

    The whole file is looked through before the first request is sent. A run that was cancelled, killed or
    stopped is gone on with by the same call: who was answered is not asked again. What was under way then
    is asked again, which are `concurrency` requests at most; after a power cut, those of the last second
    too.

    Args:
        concurrency: requests under way at a time.
        again: which failures of an earlier run are tried again: ``retryable``, ``failed`` (all), ``none``.
        shard: which of several parts of the file, from 0, and how many there are. Each has its own `results`.
        tenant: whose calls these are.
        stop_on: types of errors after which no other request is begun; theirs counts as not asked.
        on_progress: told after each answer.

    Raises: ConfigError for files that cannot be used, with all that is wrong; StoreUnavailable where another
    run writes to `results`, or the disk does not take it.
    """
    _check(concurrency, again, shard)
    source = Path(requests)
    wanted = await asyncio.to_thread(check_lines, source, shard)
    with Results(Path(results), again) as kept:
        job = _Job(chain, kept, stop_on, tenant, on_progress)
        lines = (line for line in read_lines(source, shard) if line.custom_id not in kept.known)
        job.summary = Summary(total=len(wanted), before=len(wanted & kept.known))
        syncing = asyncio.create_task(_sync(kept), name="bulk: syncing")
        many = min(concurrency, job.summary.left)
        workers = [asyncio.create_task(job.work(lines), name="bulk") for _ in range(many)]
        try:
            await asyncio.gather(*workers)
        finally:
            for task in (*workers, syncing):
                task.cancel()
            await asyncio.gather(*workers, syncing, return_exceptions=True)
        return job.summary


def _check(concurrency: int, again: str, shard: tuple[int, int]) -> None:
    told: object = concurrency  # of a caller who may not have looked at its type
    if isinstance(told, bool) or not isinstance(told, int) or told < 1:
        raise ConfigError(f"concurrency is requests at a time, at least 1, not {concurrency!r}")
    if again not in ("retryable", "failed", "none"):
        raise ConfigError(f"again is retryable, failed or none, not {again!r}")
    index, count = shard
    if not 0 <= index < count:
        raise ConfigError(f"shard is the number of one, from 0, and how many there are, not {shard!r}")


async def _sync(results: Results) -> None:
    while True:
        await asyncio.sleep(_SYNC_SECONDS)
        await asyncio.to_thread(results.sync)


class _Job:
    """One run: what its workers share."""

    def __init__(
        self,
        chain: Chain,
        results: Results,
        stop_on: frozenset[str],
        tenant: str,
        on_progress: Callable[[Summary], None] | None,
    ) -> None:
        self._chain, self._results = chain, results
        self._stop_on, self._on_progress = stop_on, on_progress
        self._fields: dict[str, Any] = {"tenant": tenant} if tenant else {}
        self.summary = Summary(total=0)

    async def work(self, lines: Iterator[Line]) -> None:
        """Take one line after another until there are no more, or nobody can be asked."""
        for line in lines:
            await self._ask(line)
            if self.summary.stopped:
                return

    async def _ask(self, line: Line) -> None:
        call = self._chain.new_call(line.request, **self._fields)
        try:
            reply = await (await self._chain(call)).full()
            assert isinstance(reply, Completion | Embeddings)
            body = line.encoded(reply)
        except LLMError as error:
            if error.type in self._stop_on:
                self.summary = evolve(self.summary, stopped=f"{error.type}: {error.message}")
                return
            self._failed(line, call.id, error)
        else:
            self._answered(line, call.id, reply, body)
        if self._on_progress is not None:
            self._on_progress(self.summary)

    def _answered(self, line: Line, call: str, reply: Completion | Embeddings, body: dict[str, Any]) -> None:
        response = {"status_code": 200, "request_id": reply.request_id or "", "body": body}
        self._results.add({"id": call, "custom_id": line.custom_id, "response": response, "error": None})
        told, usage, charge = self.summary, reply.usage, reply.cost
        self.summary = evolve(
            told,
            done=told.done + 1,
            input_tokens=told.input_tokens + (usage.input_tokens if usage is not None else 0),
            output_tokens=told.output_tokens + (usage.output_tokens if usage is not None else 0),
            usd=None if told.usd is None or charge is None else told.usd + charge,
        )

    def _failed(self, line: Line, call: str, error: LLMError) -> None:
        status, body = line.refusal(error)
        response = {"status_code": status, "request_id": error.request_id or "", "body": body}
        said = {"code": error.type, "message": error.message, "retryable": error.retryable}
        self._results.fail({"id": call, "custom_id": line.custom_id, "response": response, "error": said})
        self.summary = evolve(self.summary, failed=self.summary.failed + 1)
