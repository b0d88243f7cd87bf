"""Everything that a process tells anybody, kept; and whether a secret shows in it, in any dress."""

from __future__ import annotations

import asyncio
import json
import logging
import secrets
import traceback
from base64 import b64encode, urlsafe_b64encode
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any
from urllib.parse import quote

from attrs import define, field
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from llmpipe.pipeline.call import Call
from llmpipe.pipeline.linker import Handler
from llmpipe.pipeline.outcome import Outcome
from llmpipe.pipeline.reply import Reply

WINDOW = 12
"""Bytes of a secret that are enough to know it by."""


def canary(before: str = "", *, special: str = "") -> str:
    """A secret that is nowhere else: `before`, which may show, and 32 random characters, which may not."""
    return before + secrets.token_hex(8) + special + secrets.token_hex(8)


def dresses(value: str) -> dict[str, bytes]:
    """`value` as it may show: as it is, encoded, backwards."""
    raw = value.encode()
    found = {"raw": raw, "reversed": raw[::-1], "hex": raw.hex().encode(), "HEX": raw.hex().upper().encode()}
    found |= {"url": quote(value, safe="").encode(), "json": json.dumps(value)[1:-1].encode()}
    for shift in range(
        3
    ):  # what stands before moves the groups of six bits; their first and last are cut off
        found[f"base64 {shift}"] = b64encode(b"\0" * shift + raw)[4:-4]
        found[f"base64url {shift}"] = urlsafe_b64encode(b"\0" * shift + raw)[4:-4]
    return found


@define
class Sinks:
    """Named texts, and the secrets that must not show in them."""

    canaries: dict[str, str] = field(factory=dict)
    told: dict[str, list[bytes]] = field(factory=dict)
    spans: InMemorySpanExporter = field(factory=InMemorySpanExporter)
    tracer: TracerProvider = field(factory=TracerProvider)

    def __attrs_post_init__(self) -> None:
        self.tracer.add_span_processor(SimpleSpanProcessor(self.spans))

    def plant(self, slot: str, before: str = "", *, special: str = "") -> str:
        """A new canary for that slot. What stands `before` it is known to all, and no secret."""
        value = canary(before, special=special)
        self.canaries[slot] = value.removeprefix(before)
        return value

    def add(self, sink: str, *texts: Any) -> None:
        """Keep what was told there: text, bytes, or the repr and str of anything else."""
        kept = self.told.setdefault(sink, [])
        for text in texts:
            if isinstance(text, bytes):
                kept.append(text)
            else:
                kept.append((text if isinstance(text, str) else f"{text!r} {text}").encode(errors="replace"))

    def error(self, error: BaseException) -> None:
        """All that can be read off an error and those behind it."""
        self.add("traceback", "".join(traceback.format_exception(error)))
        seen: set[int] = set()
        left: list[BaseException | None] = [error]
        while left:
            one = left.pop()
            if one is None or id(one) in seen:
                continue
            seen.add(id(one))
            names = [name for name in dir(one) if not name.startswith("__")]
            values = [value for name in names if not callable(value := getattr(one, name, None))]
            self.add("error", one, repr(one.args), *[repr(value) for value in values])
            self.add("error", *getattr(one, "__notes__", ()))
            left += [one.__cause__, one.__context__, *getattr(one, "exceptions", ())]

    def files(self, sink: str, home: Path) -> None:
        """The bytes of all files there."""
        for path in home.rglob("*"):
            if path.is_file():
                self.add(sink, path.name, path.read_bytes())

    def finish(self) -> None:
        """Take what was traced."""
        self.add("trace", *[span.to_json() for span in self.spans.get_finished_spans()])

    def shows(self) -> list[str]:
        """Which secrets show where, and how; [] when all is well."""
        found = []
        for sink, texts in self.told.items():
            told = b"\n".join(dict.fromkeys(line for text in texts for line in text.split(b"\n")))
            for slot, value in self.canaries.items():
                for dress, data in dresses(value).items():
                    near = _met(told, data)
                    found += [f"{sink}: {slot}, {dress}: {near!r}"] if near else []
        return found


def _met(text: bytes, secret: bytes) -> bytes:
    """Where `WINDOW` bytes of the secret stand in the text, with what stands around; b"" for nowhere.

    Each such window holds one whole of the blocks of half its size that the secret falls into.
    """
    half = WINDOW // 2
    for block in range(0, len(secret) - half + 1, half):
        at = text.find(secret[block : block + half])
        while at >= 0:
            for start in range(max(0, block - half), min(block, len(secret) - WINDOW) + 1):
                place = at - block + start
                if place >= 0 and text[place : place + WINDOW] == secret[start : start + WINDOW]:
                    return text[max(0, place - 100) : place + 60]
            at = text.find(secret[block : block + half], at + 1)
    return b""


class Ears(logging.Handler):
    """Hears all that is logged, and renders it in every way there is."""

    def __init__(self, sinks: Sinks) -> None:
        super().__init__(logging.DEBUG)
        self._sinks = sinks
        self.setFormatter(logging.Formatter("%(name)s %(levelname)s %(message)s"))

    def emit(self, record: logging.LogRecord) -> None:
        self._sinks.add(
            "log",
            self.format(record),
            repr(record.args),
            repr(record.msg),
            repr(getattr(record, "llmpipe", "")),
        )
        if record.exc_info and record.exc_info[1] is not None:
            self._sinks.error(record.exc_info[1])


class Witness:
    """A middleware that keeps the notes and attempts of each call, and what it was told by others."""

    name = "witness"
    priority = 1

    def __init__(self, sinks: Sinks) -> None:
        self._sinks = sinks

    def __repr__(self) -> str:
        return "Witness()"

    async def __call__(self, call: Call, call_next: Handler) -> AsyncGenerator[Reply, Outcome]:
        try:
            reply = await call_next(call)
        except BaseException:  # goes on
            self._look(call)
            raise
        yield reply
        self._look(call)

    def _look(self, call: Call) -> None:
        ledger = call.ledger
        self._sinks.add("notes", *[repr(note) for note in ledger.notes])
        self._sinks.add("attempts", *[repr(attempt) for attempt in ledger.attempts])
        for attempt in ledger.attempts:
            if attempt.error is not None and not isinstance(attempt.error, asyncio.CancelledError):
                self._sinks.error(attempt.error)
