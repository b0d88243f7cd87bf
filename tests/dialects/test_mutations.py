"""What providers sent, changed at random: keys gone, nulls, other types, events twice or in another order.

Whatever comes, a dialect gives a completion or one LLMError, and the same for every cutting of the
bytes; and a completion that came of it can be sent on to a caller of either dialect.
"""

from __future__ import annotations

import copy
import random
from collections.abc import Callable, Iterable
from contextlib import suppress
from functools import cache
from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmpipe import dialects
from llmpipe.errors import InvalidRequest, LLMError
from llmpipe.types import Completion, Event, Finish, Request, fold, unfold
from tests.dialects.recordings import HERE, WIRE, Exchange, _load, bytes_of

NAMES = ("openai.chat", "anthropic.messages")
SENDERS = {
    "openai.chat": (".chat", ".openai_chat"),
    "anthropic.messages": (".anthropic_messages", "anthropic.messages", "vertex.anthropic"),
}
OTHERS: tuple[Any, ...] = (
    None,
    "",
    "x",
    "null",
    0,
    -1,
    7,
    1.5,
    True,
    [],
    {},
    [None],
    ["x"],
    [[]],
    {"a": None},
)
ASKED = Request("m", stream=True, extra={"stream_options": {"include_usage": True}})
seeds = st.integers(0, 2**32)


@cache
def recorded(name: str) -> list[Exchange]:
    """A few dozen exchanges of a dialect, from everybody who speaks it."""
    found = [
        exchange
        for folder in (HERE, WIRE)
        for exchange in _load(folder)
        if exchange["api"].endswith(SENDERS[name]) and len(orjson.dumps(exchange)) < 30_000
    ]
    chosen = random.Random(7)
    by_kind: dict[object, list[Exchange]] = {}
    for exchange in found:
        by_kind.setdefault((exchange["api"], "body" in exchange, exchange["status"]), []).append(exchange)
    return [exchange for kind in by_kind.values() for exchange in chosen.sample(kind, min(6, len(kind)))]


def places(value: Any, found: list[tuple[Any, Any]]) -> list[tuple[Any, Any]]:
    """Every container and key of some JSON."""
    keys: Iterable[Any] = value if isinstance(value, dict) else range(len(value))
    for key in keys:
        found.append((value, key))
        if isinstance(value[key], (dict, list)):
            places(value[key], found)
    return found


def mutated(value: Any, chance: random.Random) -> Any:
    """`value` with one to three of its places changed."""
    value = copy.deepcopy(value)
    for _ in range(chance.randint(1, 3)):
        all_places = places(value, []) if isinstance(value, (dict, list)) and value else []
        if not all_places:
            return value
        holder, key = chance.choice(all_places)
        change = chance.randrange(4)
        if change == 0:
            del holder[key]
        elif change == 1:
            holder[key] = copy.deepcopy(chance.choice(OTHERS))
        elif change == 2:
            holder[key] = copy.deepcopy((lambda place: place[0][place[1]])(chance.choice(all_places)))
        elif isinstance(holder, list):
            holder.insert(chance.randint(0, len(holder)), copy.deepcopy(holder[key]))
        else:
            holder[f"{key}_new"] = holder.pop(key)
    return value


def mutated_event(event: bytes, chance: random.Random) -> bytes:
    lines = event.split(b"\n")
    for place, line in enumerate(lines):
        field, _, data = line.partition(b":")
        if field == b"data" and data.strip() != b"[DONE]":
            try:
                lines[place] = b"data: " + orjson.dumps(mutated(orjson.loads(data), chance))
            except orjson.JSONDecodeError:
                continue
    return b"\n".join(lines)


def mutated_stream(body: bytes, chance: random.Random) -> bytes:
    """A stream with up to three of its events changed, doubled, dropped or moved."""
    events = body.replace(b"\r\n", b"\n").split(b"\n\n")
    for _ in range(chance.randint(1, 3)):
        place = chance.randrange(len(events))
        change = chance.randrange(6)
        if change < 3:
            events[place] = mutated_event(events[place], chance)
        elif change == 3:
            events.insert(chance.randint(0, len(events)), events[place])
        elif change == 4:
            events.append(events.pop(place))
        elif len(events) > 1:
            del events[place]
    return b"\n\n".join(events)


def outcome(pieces: Iterable[bytes], decoder: Any) -> tuple[list[Event], str | None]:
    """All events of a stream, and the class of the error that ended it."""
    events: list[Event] = []
    try:
        for piece in pieces:
            events += decoder.feed(piece)
        events += decoder.close()
    except LLMError as error:
        return events, type(error).__name__
    return events, None


def goes_on(completion: Completion) -> None:
    """It can be sent to callers of every dialect, whole and streamed; what cannot be said is an LLMError."""
    for name in NAMES:
        dialect = dialects.get(name)
        with suppress(LLMError):
            orjson.dumps(dialect.encode_reply(completion))
        with suppress(LLMError):
            sent(dialect.encoder(ASKED), unfold(completion))


def sent(encoder: Any, events: Iterable[Event]) -> bytes:
    return b"".join(map(encoder.feed, events)) + encoder.close()


def pick(name: str, wanted: Callable[[Exchange], bool], chance: random.Random) -> Exchange:
    found = [exchange for exchange in recorded(name) if wanted(exchange)]
    if not found:
        pytest.skip("there are no such recordings here")
    return chance.choice(found)


@pytest.mark.parametrize("name", NAMES)
@settings(max_examples=400, deadline=None)
@given(seed=seeds)
def test_a_changed_reply_is_a_completion_or_one_error(name, seed):
    chance = random.Random(seed)
    body = pick(name, lambda one: isinstance(one.get("response"), dict), chance)["response"]
    body = mutated(body, chance)
    if not isinstance(body, dict):
        return
    before = orjson.dumps(body)
    try:
        completion = dialects.get(name).decode_reply(body, {})
    except LLMError:
        return
    assert isinstance(completion, Completion)
    assert orjson.dumps(body) == before
    assert fold(unfold(completion)).text == completion.text
    goes_on(completion)


@pytest.mark.parametrize("name", NAMES)
@settings(max_examples=400, deadline=None)
@given(seed=seeds)
def test_a_changed_stream_is_a_completion_or_one_error_however_it_is_cut(name, seed):
    chance = random.Random(seed)
    stream = pick(name, lambda one: one.get("framing") == "sse", chance)["body"].encode()
    body = mutated_stream(stream, chance)
    dialect = dialects.get(name)
    events, error = outcome([body], dialect.decoder())
    cuts = sorted(chance.sample(range(len(body) + 1), min(9, len(body))))
    pieces = [body[start:end] for start, end in zip([0, *cuts], [*cuts, len(body)], strict=True)]
    again, same = outcome(pieces, dialect.decoder())
    assert same == error
    assert again == events
    if error is None:
        assert sum(type(event) is Finish for event in events) == 1
    completion = fold(events)
    goes_on(completion)
    for other in NAMES:
        with suppress(LLMError):
            sent(dialects.get(other).encoder(ASKED), events)


@pytest.mark.parametrize("name", NAMES)
@settings(max_examples=300, deadline=None)
@given(seed=seeds, status=st.sampled_from([400, 401, 403, 404, 413, 422, 429, 500, 503, 529]))
def test_a_changed_error_is_one_error(name, seed, status):
    chance = random.Random(seed)
    body = bytes_of(pick(name, lambda one: one["status"] >= 400, chance))
    try:
        wire = mutated(orjson.loads(body), chance)
    except orjson.JSONDecodeError:
        wire = {"error": body.decode("utf-8", "replace")}
    dialect = dialects.get(name)
    error = dialect.decode_error(status, {}, orjson.dumps(wire))
    assert isinstance(error, LLMError)
    assert (error.status, bool(error.message)) == (status, True)
    for other in NAMES:
        orjson.dumps(dialects.get(other).encode_error(error)[2])
    if isinstance(wire, dict) and wire:
        _, inside = outcome([b"data: " + orjson.dumps({"error": wire}) + b"\n\n"], dialect.decoder())
        assert inside is not None


@pytest.mark.parametrize("name", NAMES)
@settings(max_examples=400, deadline=None)
@given(seed=seeds)
def test_a_changed_request_is_understood_or_the_field_is_named(name, seed):
    chance = random.Random(seed)
    body = mutated(pick(name, lambda one: isinstance(one.get("request"), dict), chance)["request"], chance)
    request, problem = understood(name, body)
    if problem is not None:
        assert problem.metadata["param"]
        assert problem.sent is False
        return
    for other in NAMES:
        with suppress(LLMError):
            orjson.dumps(dialects.get(other).encode_request(request))


def understood(name: str, body: Any) -> tuple[Request, InvalidRequest | None]:
    try:
        return dialects.get(name).decode_request(body), None
    except InvalidRequest as error:
        return Request(), error
