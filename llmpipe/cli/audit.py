"""`llmpipe audit verify | show | note | prune URL`."""

from __future__ import annotations

import argparse
import asyncio
import sys
import time
from collections.abc import AsyncIterator, Iterable
from datetime import UTC, datetime
from math import inf, isnan
from pathlib import Path

import orjson

from llmpipe.errors import ConfigError
from llmpipe.middleware.log.jsonlog import printable
from llmpipe.state import Anchor, Audit, AuditQuery, AuditRecord, State, open_state
from llmpipe.state.hash_chain import fault

__all__ = ("add_arguments", "check", "run")

_PAGE = 20_000
_TRIES = 5
_FILTERS = ("tenant", "user", "outcome", "kind", "call", "writer")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of the command."""
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    verify = actions.add_parser("verify", help="see that nothing in the trail was changed, moved or cut out")
    verify.add_argument("--writer", help="only the chain of this one")
    verify.add_argument("--noted", metavar="SEQ:HASH", help="a head that was noted before, of --writer")
    verify.add_argument("--heads", metavar="FILE", help="heads that were noted before: what `note` printed")
    show = actions.add_parser("show", help="print records, the oldest first")
    for name in ("since", "until"):
        show.add_argument(f"--{name}", metavar="TIME", help="2026-01-31, 2026-01-31T12:00Z, or seconds")
    for name in _FILTERS:
        show.add_argument(f"--{name}")
    show.add_argument("--limit", type=int, default=1000, help="at most so many records")
    show.add_argument("--json", action="store_true", help="whole records, one JSON object a line")
    note = actions.add_parser("note", help="print the head of each chain, to be kept elsewhere")
    prune = actions.add_parser("prune", help="drop records of calls that are over, and older than --days")
    prune.add_argument("--days", type=float, required=True)
    for action in (verify, show, note, prune):
        action.add_argument("url", metavar="URL", help="of the store, such as sqlite:///audit.db")
        action.add_argument("--name", default="audit", help="of the trail; that of the middleware")


def run(options: argparse.Namespace) -> int:
    """Do what is asked; 1 if the trail was tampered with."""
    return asyncio.run(_run(options, _opened(options)))


def _opened(options: argparse.Namespace) -> State:
    url: str = options.url
    if url.startswith("memory:"):
        raise ConfigError("memory:// ends with its process: there is nothing to look at")
    if url.startswith("file:") and options.action != "prune" and "read_only=" not in url:
        url += "&read_only=true" if "?" in url else "?read_only=true"  # its process may be writing
    state = open_state(url)
    path: Path | None = getattr(state, "path", None)  # of a store that is a file
    if path is not None and not path.exists():  # it would be made, and found to be in order
        raise ConfigError(f"there is no trail in {path}: that file is not there")
    return state


async def _run(options: argparse.Namespace, state: State) -> int:
    try:
        audit = state.audit(options.name)
        if options.action == "verify":
            return await _verify(audit, options)
        if options.action == "show":
            await _show(audit, options)
        elif options.action == "note":
            for writer in await audit.writers():
                head = await audit.head(writer)
                print(f"{head.seq}:{head.hash} {printable(writer)}")
        else:
            if not options.days > 0:
                raise ConfigError(f"--days is above 0, not {options.days}")
            print(f"{await audit.prune(time.time() - options.days * 86_400)} records dropped")
        return 0
    finally:
        await state.aclose()


# ------------------------------------------------------------ verify


async def _verify(audit: Audit, options: argparse.Namespace) -> int:
    known = dict(_heads(options.heads)) if options.heads else {}
    if options.noted:
        if not options.writer:
            raise ConfigError("--noted is the head of one chain: say whose with --writer")
        known[options.writer] = _head(options.noted)
    there = await audit.writers()
    if options.writer and options.writer not in {*there, *known}:
        print(f"{printable(options.writer)}: there is no chain of this writer", file=sys.stderr)
        return 1
    writers = [options.writer] if options.writer else sorted({*there, *known})
    wrong = 0
    for writer in writers:
        count, said = await check(audit, writer, known.get(writer))
        wrong += said is not None
        print(f"{printable(writer)}: {said or f'{count} records, nothing was changed'}")
    if not writers:
        print("there is nothing in this trail")
    return int(wrong > 0)


async def check(audit: Audit, writer: str, known: Anchor | None = None) -> tuple[int, str | None]:
    """How many records the chain of `writer` has, and what is wrong with it: see `hash_chain.fault`.

    Chains may be of any length: only records whose turn has not come are held, and those are as many as a
    clock that went back has put out of order.
    """
    tries = 0
    while True:
        tries += 1
        anchor, head = await audit.anchor(writer), await audit.head(writer)
        checked = _Checked(anchor, known)
        async for record in _records(audit, writer):
            checked.add(record)
        if await audit.anchor(writer) != anchor:  # some of it was pruned meanwhile
            continue
        wrong = checked.end()
        # Of a chain that grows while it is read, a record with an earlier time may come behind our back.
        if wrong is None or tries == _TRIES or (await audit.head(writer)).hash == head.hash:
            return checked.count, wrong


class _Checked:
    """A chain that is checked as its records come, in about the order of their numbers."""

    def __init__(self, anchor: Anchor, known: Anchor | None) -> None:
        self.count = 0
        self._last, self._known = anchor, known
        self._early: dict[int, AuditRecord] = {}
        self._wrong: str | None = None
        if known is not None and known.seq <= anchor.seq:
            self._wrong = fault((), anchor, known=known)

    def add(self, record: AuditRecord) -> None:
        """Check `record`, or hold it until it follows."""
        self.count += 1
        if self._wrong is not None:
            return
        if record.seq <= self._last.seq or record.seq in self._early:
            self._wrong = f"record {record.seq} of {record.writer!r} is there twice"
            return
        self._early[record.seq] = record
        while (follows := self._early.pop(self._last.seq + 1, None)) is not None:
            self._check(follows)

    def _check(self, record: AuditRecord) -> None:
        known = self._known if self._known is not None and self._known.seq == record.seq else None
        self._wrong = self._wrong or fault([record], self._last, known=known)
        self._last = Anchor(record.seq, record.hash)

    def end(self) -> str | None:
        """What is wrong, when all have come."""
        if self._wrong is None and self._early:
            self._wrong = fault([self._early[min(self._early)]], self._last)
        if self._wrong is None and self._known is not None and self._known.seq > self._last.seq:
            self._wrong = fault((), self._last, known=self._known)
        return self._wrong


async def _records(audit: Audit, writer: str) -> AsyncIterator[AuditRecord]:
    last: AuditRecord | None = None
    query = AuditQuery(writer=writer, since=-inf)
    while page := await audit.query(query, limit=_PAGE, after=last):
        for record in page:
            yield record
        last = page[-1]


def _head(text: str) -> Anchor:
    seq, _, hash_ = text.partition(":")
    if not seq.isdecimal() or len(hash_) != 64:
        raise ConfigError(f"a head is SEQ:HASH, as `llmpipe audit note` prints it, not {text!r}")
    return Anchor(int(seq), hash_)


def _heads(file: str) -> Iterable[tuple[str, Anchor]]:
    try:
        text = sys.stdin.read() if file == "-" else Path(file).read_text("utf-8")
    except OSError as error:
        raise ConfigError(f"--heads {file}: {error.strerror}") from None
    for line in text.splitlines():
        head, _, writer = line.partition(" ")
        yield writer, _head(head)


# ------------------------------------------------------------ show


async def _show(audit: Audit, options: argparse.Namespace) -> None:
    chosen = {
        name: getattr(options, name) for name in ("tenant", "user", "outcome", "kind", "call", "writer")
    }
    query = AuditQuery(since=_time(options.since, -inf), until=_time(options.until, inf), **chosen)
    for record in await audit.query(query, limit=options.limit):
        if options.json:
            print(orjson.dumps({**record.__dict__, "body": dict(record.body)}).decode())
        else:
            print(printable(_line(record)))


def _line(record: AuditRecord) -> str:
    try:
        at = datetime.fromtimestamp(record.at, UTC).strftime("%Y-%m-%dT%H:%M:%S.%f")[:-3] + "Z"
    except (OSError, OverflowError, ValueError):  # beyond the year 9999: shown all the same, as it is
        at = repr(record.at)
    said = f"{at} {record.kind} {record.outcome or '-'} {record.call or '-'}"
    for name in ("tenant", "user"):
        if value := getattr(record, name):
            said += f" {name}={value}"
    for name in ("provider", "model", "duration", "attempts", "ended_late", "begin"):
        if name in record.body:
            said += f" {name}={record.body[name]}"
    error = record.body.get("error")
    if isinstance(error, dict):
        said += f" error={error.get('type')}"
    return f"{said} [{record.writer} {record.seq}]"


def _time(text: str | None, missing: float) -> float:
    if text is None:
        return missing
    try:
        seconds = float(text)
    except ValueError:
        pass  # a date then
    else:
        if not isnan(seconds):
            return seconds
    try:
        told = datetime.fromisoformat(text)
    except ValueError:
        raise ConfigError(f"{text!r} is no time: 2026-01-31, 2026-01-31T12:00Z, or seconds") from None
    return (told if told.tzinfo is not None else told.replace(tzinfo=UTC)).timestamp()
