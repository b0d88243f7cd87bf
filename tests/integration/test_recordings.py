"""No recorded exchange is passed over, and what the tests of a dialect sample is done here in full."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from llmpipe.errors import LLMError, StreamBroken
from tests.dialects import test_wire as chat
from tests.dialects import test_wire_anthropic as messages
from tests.dialects.recordings import HERE, WIRE

ROOT = Path(__file__).parents[2]
HANDMADE_KINDS = ("REPLIES", "STREAMS", "ERRORS", "REQUESTS")


def protocol(exchange: dict[str, Any]) -> str:
    """Whose protocol an exchange is, by where it was sent and what was said: not by the recorder's word."""
    url, request, provider = exchange["url"].partition("?")[0], exchange["request"], exchange["provider"]
    if url.endswith("/chat/completions") or (provider == "databricks" and "messages" in (request or {})):
        return "openai.chat"
    if not isinstance(request, dict) or url.endswith(("/count_tokens", "/count-tokens")):
        return ""
    if url.endswith("/messages") or "/anthropic/models/" in url:
        return "anthropic.messages"
    # To a model that is none, AWS answers itself; and the binary framing is AWS's too.
    if "anthropic.claude" in url and "messages" in request and url.endswith("/invoke"):
        return "anthropic.messages"
    return ""


def test_every_recorded_exchange_of_the_two_protocols_is_read_by_a_test():
    """By what was sent where; a new recording under another name would be missed here."""
    if not WIRE.is_dir():
        pytest.skip(f"no recordings in {WIRE}")
    listed = {param.id for kind in HANDMADE_KINDS for param in getattr(chat, kind)}
    read = {
        "openai.chat": listed,
        "anthropic.messages": {*messages.EXCHANGES},
    }
    seen: Counter[str] = Counter()
    missed = []
    for path in sorted(WIRE.glob("*/*.json")):
        name = f"{path.parent.name}/{path.stem}"
        spoken = protocol(json.loads(path.read_text("utf-8")))
        if spoken:
            seen[spoken] += 1
            if name not in read[spoken]:
                missed.append((spoken, name))
    assert missed == []
    assert not seen or min(seen["openai.chat"], seen["anthropic.messages"]) > 50


def test_every_reply_stream_and_error_is_in_a_test_of_its_kind():
    """An exchange counts as read where its reply is, not only where its request is."""
    replies = {param.id for kind in ("REPLIES", "STREAMS", "ERRORS") for param in getattr(chat, kind)}
    assert {param.id for param in chat.REQUESTS} - replies == set()
    read = {*messages.FULL, *messages.FAILED, *messages.STREAMS, *messages.UNENDED, *messages.ERRORS}
    unread = {*messages.EXCHANGES} - read
    assert unread == set()


@pytest.mark.parametrize(
    "exchange", [p for p in chat.STREAMS if len(p.values[0]["body"].encode()) > chat.MAX_EVERY_BYTE]
)
def test_a_long_stream_cut_at_any_byte_is_never_a_success(exchange):
    """Where the dialect's test takes every 13th byte: each byte before the end, as a cut."""
    body = exchange["body"].encode()
    if chat.decode([body])[1]:
        pytest.skip("it ends in an error, whole or not")
    decoder = chat.DIALECT.decoder()
    for cut in range(chat.whole_from(body)):
        with pytest.raises(StreamBroken):
            chat.fork(decoder, body[cut - 1 : cut]).close()
        decoder.feed(body[cut : cut + 1])


@pytest.mark.parametrize("where", ["an empty folder", "no folder"])
def test_the_dialects_are_tested_without_recordings_too(where: str, tmp_path: Path):
    """Everything that is parametrised by exchanges has some made by hand."""
    folder = tmp_path if where == "an empty folder" else tmp_path / "nowhere"
    code = (
        "import json\n"
        "from tests.dialects import test_wire as chat, test_wire_anthropic as messages\n"
        "found = {k: len(getattr(chat, k)) for k in ('REPLIES', 'STREAMS', 'ERRORS', 'REQUESTS')}\n"
        "found |= {k + ' (Anthropic)': len(getattr(messages, k)) for k in\n"
        "          ('FULL', 'FAILED', 'STREAMS', 'UNENDED', 'ERRORS', 'COUNTS')}\n"
        "print(json.dumps(found))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        env={**os.environ, "LLMPIPE_WIRE": str(folder), "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=True,
    )
    found = json.loads(done.stdout)
    assert all(found.values()), found


def test_what_is_made_by_hand_goes_wrong_in_every_way():
    """A stream with an error inside, one without its end, an error page, a 200 that is none."""
    made = {path.stem for path in HERE.glob("handmade/*.json")}
    assert {"chat-stream-error", "chat-stream-without-done", "chat-error-page", "chat-error-in-200"} <= made
    names = [name for name in messages.EVERY if name.startswith("made-")]
    assert len(names) > 5
    for param in chat.ERRORS:
        assert issubclass(chat.kind_of(param.values[0]), LLMError)
