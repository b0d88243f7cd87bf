"""Log: one record for each call, whatever is in it, and whatever becomes of the record."""

from __future__ import annotations

import asyncio
import io
import json
import logging
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmpipe.errors import ConfigError, InvalidRequest, Overloaded, RateLimited, StreamBroken
from llmpipe.middleware.cost import Cost
from llmpipe.middleware.log import BackgroundHandler, JSONFormatter, Log, json_logging
from llmpipe.middleware.log.fields import clipped
from llmpipe.middleware.log.jsonlog import json_line, printable
from llmpipe.middleware.retry import Retry
from llmpipe.pipeline.chain import Chain
from llmpipe.pipeline.function import layer
from llmpipe.pipeline.registry import build
from llmpipe.providers.mock import MockProvider, Wait
from llmpipe.types import Image, Message, Request, Text, ToolCall, ToolResult, Usage

LOGGER = "llmpipe.call"


class Records(logging.Handler):
    """Keeps the records, and their lines as JSON."""

    def __init__(self) -> None:
        super().__init__()
        self.records: list[logging.LogRecord] = []
        self.setFormatter(JSONFormatter())

    def emit(self, record: logging.LogRecord) -> None:
        self.records.append(record)

    @property
    def fields(self) -> list[dict[str, Any]]:
        found = []
        for record in self.records:
            line = self.format(record)
            assert line.isprintable()
            found.append(json.loads(line))
        return found


@pytest.fixture
def records() -> Iterator[Records]:
    handler, logger = Records(), logging.getLogger(LOGGER)
    logger.addHandler(handler)
    logger.setLevel("DEBUG")
    yield handler
    logger.removeHandler(handler)
    logger.setLevel(logging.NOTSET)


def chain_of(*script: Any, log: Log | None = None, middleware: tuple[Any, ...] = ()) -> Chain:
    provider = MockProvider(script, name="p", model="m", usage=Usage(100, 20, cached_input_tokens=5))
    return Chain(provider, log or Log(), *middleware)


async def read(chain: Chain, prompt: Any = "hi", **options: Any) -> None:
    async with chain.stream(prompt, **options) as reply:
        async for _ in reply:
            pass


async def test_tags_of_any_kind_and_length_are_told_and_stay_short(records: Records):
    tags: Any = {"number": 5, "none": None, "long": "x" * 100_000, 7: "key", "correlation_id": 12}
    await chain_of("ok").complete("hi", tags=tags, user="u" * 100_000)
    (fields,) = records.fields
    assert fields["tags"].items() >= {"number": "5", "none": "None", "7": "key"}.items()
    assert fields["correlation_id"] == "12"
    assert len(fields["tags"]["long"]) == len(fields["user"]) == 1001


@pytest.mark.parametrize("stream", [False, True])
async def test_a_call_that_ends_well_is_one_record(records: Records, stream: bool):
    line = [Wait(2), "one", Wait(1), "two"]
    chain = chain_of(line, middleware=(Cost(prices={"m": {"input": 1, "output": 1, "cached_input": 1}}),))
    options = {"tenant": "acme", "user": "u1", "tags": {"team": "blue"}}
    await (read(chain, **options) if stream else chain.complete("hi", **options))
    (fields,) = records.fields
    call_id = fields.pop("call_id")
    assert call_id.startswith("call-")
    assert fields.pop("correlation_id") == call_id
    assert fields.pop("time").endswith("Z")
    assert fields.pop("message") == (f"chat p/m, ok after 3.000 s, 100 + 20 tokens, 0.000120 USD [{call_id}]")
    assert fields == {
        "level": "INFO",
        "logger": LOGGER,
        "event": "call",
        "operation": "chat",
        "stream": stream,
        "provider": "p",
        "model": "m",
        "tenant": "acme",
        "user": "u1",
        "tags": {"team": "blue"},
        "outcome": "ok",
        "first_content": 2.0 if stream else 3.0,
        "duration": 3.0,
        "input_tokens": 100,
        "output_tokens": 20,
        "cached_input_tokens": 5,
        "cost_usd": 0.00012,
        "finish_reason": "stop",
        "attempts": 1,
    }


async def test_a_correlation_id_is_the_callers_where_he_has_one(records: Records):
    await chain_of("ok").complete("hi", tags={"correlation_id": "req-7"})
    assert records.fields[0]["correlation_id"] == "req-7"
    assert records.fields[0]["call_id"] != "req-7"


@pytest.mark.parametrize(
    ("failure", "level"),
    [
        (InvalidRequest("no"), "WARNING"),
        (RateLimited("slow"), "WARNING"),
        (Overloaded("busy"), "ERROR"),
        (KeyError("a bug"), "ERROR"),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
async def test_a_failure_is_logged_by_whose_fault_it_is(
    records: Records, failure: Exception, level: str, stream: bool
):
    chain = chain_of(failure, log=Log(level="DEBUG"))
    with pytest.raises(type(failure)):
        await (read(chain) if stream else chain.complete("hi"))
    (fields,) = records.fields
    assert (fields["level"], fields["outcome"]) == (level, "error")
    assert fields["error"]["class"] == type(failure).__name__
    assert "first_content" not in fields
    assert "input_tokens" not in fields


async def test_an_error_is_told_with_its_verdicts(records: Records):
    chain = chain_of(RateLimited("slow down", code="rpm", provider="p", retry_after=2.5, request_id="r1"))
    with pytest.raises(RateLimited):
        await chain.complete("hi")
    assert records.fields[0]["error"] == {
        "type": "RATE_LIMIT",
        "class": "RateLimited",
        "status": 429,
        "code": "rpm",
        "retryable": True,
        "sent": True,
        "billed": "no",
        "retry_after": 2.5,
        "provider": "p",
        "model": "m",
        "request_id": "r1",
        "message": "slow down",
    }


async def test_a_stream_that_breaks_is_logged_with_what_it_used(records: Records):
    chain = chain_of(["one", StreamBroken("cut")])
    with pytest.raises(StreamBroken):
        await read(chain)
    (fields,) = records.fields
    assert (fields["level"], fields["outcome"], fields["error"]["type"]) == (
        "ERROR",
        "error",
        "NETWORK_ERROR",
    )
    assert fields["usage_estimated"] is True


async def test_cancelled_and_abandoned_calls_are_no_errors(records: Records):
    chain = chain_of(["one", Wait(9), "two"], [Wait(9), "late"])
    async with chain.stream("hi") as reply:
        await reply.__anext__()
    task = asyncio.create_task(chain.complete("hi"))
    await asyncio.sleep(1)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert [(f["level"], f["outcome"]) for f in records.fields] == [
        ("INFO", "abandoned"),
        ("INFO", "cancelled"),
    ]
    assert all("error" not in f for f in records.fields)


async def test_attempts_and_notes_of_a_retried_call_are_summed_up(records: Records):
    await chain_of(Overloaded("busy"), "ok", middleware=(Retry(),)).complete("hi")
    (fields,) = records.fields
    assert fields["attempts"] == 2
    assert [(a["status"], a.get("error"), a.get("error_status")) for a in fields["attempt_list"]] == [
        ("error", "SERVICE_UNAVAILABLE", 503),
        ("ok", None, None),
    ]
    assert fields["notes"] == {"retry.wait": 1}
    assert "2 attempts" in fields["message"]


async def test_the_beginning_is_logged_where_that_is_asked_for(records: Records):
    chain = chain_of("ok", log=Log(requests=True))
    await chain.complete("hi", temperature=0.5, max_tokens=9)
    begun, ended = records.fields
    assert begun["event"] == "request"
    assert (begun["temperature"], begun["max_tokens"], begun["messages"]) == (0.5, 9, 1)
    assert begun["estimated_input_tokens"] > 0
    assert (begun["provider"], begun["model"]) == ("p", "m")
    assert begun["call_id"] == ended["call_id"]


REQUEST = Request(
    "m",
    [
        Message("user", [Text("my mail"), Image(url="https://x.org/a.png")]),
        Message("assistant", [ToolCall("1", "look", '{"a": 1}')]),
        Message("tool", [ToolResult("1", "a cat")]),
    ],
)


async def test_bodies_are_logged_only_where_that_is_asked_for(records: Records):
    await chain_of("the answer").complete(REQUEST)
    await chain_of("the answer", log=Log(bodies=True)).complete(REQUEST)
    without, with_bodies = records.fields
    assert not any(key.endswith("body") for key in without)
    assert with_bodies["request_body"] == (
        'user: my mail [image]\nassistant: [calls look {"a": 1}]\ntool: [result a cat]'
    )
    assert with_bodies["response_body"] == "the answer"
    assert "response_truncated" not in with_bodies


@given(st.text(max_size=200), st.integers(1, 100))
def test_bodies_are_cut_at_their_limit_and_say_so(text: str, limit: int):
    from llmpipe.middleware.log.fields import _body

    fields: dict[str, Any] = {}
    _body(fields, "request", text, limit)
    assert len(fields["request_body"]) <= limit
    assert fields.get("request_truncated", False) is (len(text) > limit)


async def test_personal_data_in_bodies_errors_and_labels_is_masked(records: Records):
    chain = chain_of(
        "write to jane@example.org", RateLimited("account jane@example.org"), log=Log(bodies=True)
    )
    options = {"user": "jane@example.org", "tags": {"who": "jane@example.org"}}
    await chain.complete("I am jane@example.org, 4111 1111 1111 1111", **options)
    with pytest.raises(RateLimited):
        await chain.complete("hi", **options)
    first, second = records.fields
    assert first["request_body"] == "user: I am [EMAIL], [CREDIT_CARD]"
    assert first["response_body"] == "write to [EMAIL]"
    assert (first["user"], first["tags"]) == ("[EMAIL]", {"who": "[EMAIL]"})
    assert second["error"]["message"] == "account [EMAIL]"
    assert "jane@" not in "".join(records.format(record) for record in records.records)


async def test_a_secret_at_the_cut_is_not_cut_in_half_and_missed(records: Records):
    secret = "sk-proj-" + "a1B2" * 20
    text = "x" * 90 + " " + secret
    await chain_of("ok", log=Log(bodies=True, max_body_chars=110)).complete(text)
    assert "sk-proj" not in records.format(records.records[0])


CANARY = "sk-canary-" + "x7Q9" * 10


async def test_no_secret_of_any_slot_is_in_a_line(records: Records):
    chain = chain_of(
        f"your key is {CANARY}",
        RateLimited(f"bad key {CANARY}"),
        KeyError(f"Bearer {CANARY}"),
        log=Log(bodies=True, requests=True),
    )
    options = {"tenant": CANARY, "user": CANARY, "tags": {"correlation_id": CANARY, "t": CANARY, CANARY: "x"}}
    await chain.complete(f"my key is {CANARY}", **options)
    for _ in range(2):
        with pytest.raises((RateLimited, KeyError)):
            await chain.complete("hi", **options)
    text = "".join(records.format(record) for record in records.records)
    assert len(records.records) == 6
    assert CANARY not in text
    assert CANARY[5:20] not in text


HOSTILE = 'a"b\\c\r\nd\x00e\x1b[31mf\u2028g\u0085h\u202ei\ud800j\U000e0041k\x7fl\x9bm'


async def test_nothing_a_caller_says_breaks_a_line(records: Records):
    failing = InvalidRequest(HOSTILE, code=HOSTILE)

    @layer(priority=300)
    async def noting(call, call_next):
        call.note(HOSTILE, **{HOSTILE: HOSTILE})
        return await call_next(call)

    chain = Chain(
        MockProvider([HOSTILE.replace("\ud800", ""), failing], name=HOSTILE), Log(bodies=True), noting
    )
    options = {"model": HOSTILE, "tenant": HOSTILE, "user": HOSTILE, "tags": {HOSTILE: HOSTILE}}
    await chain.complete(HOSTILE, **options)
    with pytest.raises(InvalidRequest):
        await chain.complete(HOSTILE, **options)
    for record, fields in zip(records.records, records.fields, strict=True):
        line = records.format(record)
        assert line.isascii() or line.isprintable()
        assert len(line.splitlines()) == 1
        assert record.getMessage().isprintable()
        assert fields["model"] == HOSTILE
        assert fields["tags"] == {HOSTILE: HOSTILE}


@given(
    st.recursive(
        st.text() | st.integers() | st.none(),
        lambda inner: st.dictionaries(st.text(), inner) | st.lists(inner),
    )
)
def test_any_json_comes_out_in_one_line_and_back_the_same(value: Any):
    line = json_line(value)
    assert line.isprintable()
    assert json.loads(line) == value


@given(st.text(st.characters()))
def test_printable_prints(text: str):
    assert printable(text).isprintable()
    assert text.isprintable() is (printable(text) == text)


def test_what_json_does_not_know_is_written_as_text():
    assert json.loads(json_line({"a": {"b"}, "c": object, 1: 2**70}))["1"] == 2**70
    assert json.loads(json_line({"a": {"b", "a"}})) == {"a": ["a", "b"]}
    assert "REDACTED" in json_line({"a": Exception("api_key=abcdefgh")})
    # What orjson refuses for one value is JSON by its rules in all others.
    told = json_line({"a": "\ud800\x7f", "b": [float("nan"), {"c": float("-inf")}], "d": (1.5, 2**70)})
    assert told.isprintable()
    assert "NaN" not in told
    assert json.loads(told) == {"a": "\ud800\x7f", "b": [None, {"c": None}], "d": [1.5, 2**70]}


def test_the_formatter_takes_other_records_too():
    record = logging.LogRecord("app", logging.INFO, "f", 1, "hello %s\n", ("you",), None)
    record.correlation_id = "c1"
    fields = json.loads(JSONFormatter().format(record))
    assert (fields["message"], fields["logger"], fields["correlation_id"]) == ("hello you\n", "app", "c1")
    try:
        raise ValueError(f"key {CANARY}")
    except ValueError as error:
        record.exc_info = (ValueError, error, error.__traceback__)
    text = JSONFormatter().format(record)
    assert "Traceback" in json.loads(text)["exception"]
    assert CANARY not in text
    assert len(text.splitlines()) == 1


async def test_a_record_that_nobody_takes_is_not_built(monkeypatch: pytest.MonkeyPatch):
    def forbidden(*_: Any) -> None:
        raise AssertionError("built for nobody")

    monkeypatch.setattr("llmpipe.middleware.log.ended_fields", forbidden)
    monkeypatch.setattr("llmpipe.middleware.log.request_fields", forbidden)
    logging.getLogger(LOGGER).setLevel("WARNING")
    try:
        chain = chain_of("ok", log=Log(requests=True))
        await chain.complete("hi")
        assert Log.failures(chain.runtime) == 0
    finally:
        logging.getLogger(LOGGER).setLevel(logging.NOTSET)


async def test_a_sample_of_the_good_and_all_of_the_bad_is_logged(records: Records):
    script = ["ok"] * 200 + [Overloaded("busy")] * 5
    chain = chain_of(*script, log=Log(sample=0.1))
    for _ in range(200):
        await chain.complete("hi")
    assert 5 < len(records.records) < 45
    before = len(records.records)
    for _ in range(5):
        with pytest.raises(Overloaded):
            await chain.complete("hi")
    assert len(records.records) == before + 5


async def test_a_handler_that_fails_fails_no_call_and_hides_no_error(records: Records, monkeypatch):
    def broken(record: logging.LogRecord) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr(records, "emit", broken)
    chain = chain_of("ok", Overloaded("busy"))
    assert (await chain.complete("hi")).text == "ok"
    with pytest.raises(Overloaded):
        await chain.complete("hi")
    assert Log.failures(chain.runtime) == 2


async def test_embeddings_are_logged(records: Records):
    await chain_of("x", log=Log(bodies=True, requests=True)).embed(["one", "two"], dimensions=4)
    begun, ended = records.fields
    assert begun["dimensions"] == 4
    assert ended["operation"] == "embeddings"
    assert ended["request_body"] == "one\ntwo"
    assert ended["response_body"] == "[2 vectors]"


async def test_options_of_a_call_change_the_log_for_it(records: Records):
    chain = chain_of("ok", "ok")
    await chain.complete("hi", options={Log: {"bodies": True, "level": "WARNING"}})
    await chain.complete("hi")
    assert [("request_body" in f, f["level"]) for f in records.fields] == [(True, "WARNING"), (False, "INFO")]


def test_a_slow_sink_delays_nobody_and_a_full_queue_counts_its_drops():
    gate = threading.Event()
    written: list[str] = []

    class Slow(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            gate.wait()
            written.append(record.getMessage())

    handler = BackgroundHandler(Slow(), max_records=10)
    for number in range(100):
        handler.handle(logging.makeLogRecord({"msg": str(number)}))
    assert 89 <= handler.dropped <= 90  # one may be with the sink already
    assert written == []
    gate.set()
    handler.close()
    assert written == [str(number) for number in range(100 - handler.dropped)]


def test_a_sink_that_fails_is_counted_and_the_rest_is_written():
    class Closed(io.StringIO):
        broken = True

        def write(self, text: str) -> int:
            if self.broken:
                raise BrokenPipeError
            return super().write(text)

    stream = Closed()
    handler = json_logging(stream=stream, logger="llmpipe.test_sink")
    logger = logging.getLogger("llmpipe.test_sink")
    try:
        logger.info("lost")
        while not handler.failed:
            threading.Event().wait(0.001)
        stream.broken = False
        logger.info("kept")
    finally:
        logger.removeHandler(handler)
        handler.close()
    assert handler.failed == 1
    assert json.loads(stream.getvalue())["message"] == "kept"


def test_a_file_is_written_and_begun_anew_at_midnight(tmp_path: Path):
    path = tmp_path / "calls.log"
    handler = json_logging(path=path, retention_days=7, logger="llmpipe.test_file")
    logger = logging.getLogger("llmpipe.test_file")
    logger.info("hello")
    logger.removeHandler(handler)
    target: Any = handler.target
    assert (target.when, target.backupCount, target.utc) == ("MIDNIGHT", 7, True)
    handler.close()
    assert json.loads(path.read_text())["message"] == "hello"


@pytest.mark.parametrize(
    ("settings", "problem"),
    [
        ({"level": "LOUD"}, "unknown level"),
        ({"sample": 1.5}, "share"),
        ({"max_body_chars": 0}, "max_body_chars"),
    ],
)
def test_wrong_settings_are_refused_at_construction(settings: dict[str, Any], problem: str):
    with pytest.raises(ConfigError, match=problem):
        Log(**settings)


def test_wrong_settings_of_the_handler_are_refused():
    with pytest.raises(ConfigError, match="unknown log level"):
        json_logging(level="LOUD")
    with pytest.raises(ConfigError, match="max_records"):
        BackgroundHandler(logging.NullHandler(), max_records=0)


def test_it_is_built_from_a_file():
    assert build("log", {"level": "DEBUG", "bodies": True}) == Log(level="DEBUG", bodies=True)


@pytest.mark.parametrize("chars", [50, 200, 1000])
def test_no_half_of_a_key_is_shown_where_what_was_looked_at_ends(chars):
    """What is hidden makes a text shorter, so that its end comes into sight, which may be in a key."""
    hidden = f"Bearer {'aB3-' * ((chars + 4096) // 4 - 20)} "
    key = "AIza" + "xY7_" * 9
    for shift in range(0, 40, 3):
        text = hidden + "." * (chars + 4096 - len(hidden) - shift) + key + " more" * 100
        shown = clipped(text, chars)
        assert "AIza" not in shown
        assert shown.endswith("…")
        assert len(shown) <= chars + 1
    assert clipped("short", chars) == "short"
    assert clipped("w " * chars, chars) == ("w " * chars)[:chars] + "…"


@pytest.mark.parametrize("before", ["Bearer ", "sk-", "api_key=", "token: ", "eyJhbGciOiJSUzI1NiJ9."])
def test_a_key_is_hidden_to_its_end_however_long(before):
    key = "".join(f"{number:x}Zq-" for number in range(1000, 2000))
    assert clipped(f"it was {before}{key} here", 10_000) in [
        f"it was {kept}{label} here" for kept in ("", before) for label in ("[API_KEY]", "[REDACTED]")
    ]
