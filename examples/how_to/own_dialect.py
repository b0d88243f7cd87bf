"""A wire format of one's own as pure functions, here of a server that speaks lines of JSON."""

# region client
from collections.abc import Mapping
from typing import Any

import orjson

from llmpipe import (
    Completion,
    Event,
    Finish,
    LLMError,
    Message,
    Request,
    ServiceUnavailable,
    StreamBroken,
    TextDelta,
)


class Lines:
    """The client's half of a dialect; the server's half is what the simulator and a gateway need."""

    name = "lines"

    def encode_request(self, request: Request) -> dict[str, Any]:
        """The body the server expects."""
        return {"prompt": request.messages[-1].text, "stream": request.stream, **request.extra}

    def decode_reply(self, body: dict[str, Any], headers: Mapping[str, str]) -> Completion:
        """The completion in its body."""
        return Completion(message=Message("assistant", body["text"]), finish_reason="stop")

    def decode_error(self, status: int, headers: Mapping[str, str], body: bytes) -> LLMError:
        """The verdicts are decided here, and nowhere else. Texts of a provider go through `secret.scrub`."""
        return ServiceUnavailable(f"the server answered {status}", status=status, retryable=status >= 500)

    def decoder(self, content_type: str = "application/jsonl") -> "LinesDecoder":
        """A fresh one for each stream."""
        return LinesDecoder()


class LinesDecoder:
    """Bytes to events, however they are cut: a line may come in pieces, and so may a character."""

    def __init__(self) -> None:
        self._rest = b""
        self.finished = False

    def feed(self, data: bytes) -> list[Event]:
        """The events that `data` completes."""
        *lines, self._rest = (self._rest + data).split(b"\n")
        return [event for line in lines if line for event in self._event(orjson.loads(line))]

    def _event(self, line: dict[str, Any]) -> list[Event]:
        if line.get("done"):
            self.finished = True
            return [Finish("stop")]
        return [TextDelta(line["text"])]

    def close(self) -> list[Event]:
        """At the end of the bytes: a stream without its own end is broken."""
        if not self.finished:
            raise StreamBroken("the bytes ended before the line that says done", phase="stream")
        return []


# endregion client


# region use
wire = b'{"text": "Gr\xc3\xbc\xc3\x9fe"}\n{"text": " und mehr"}\n{"done": true}\n'
for size in (1, 7, 1000):
    decoder = Lines().decoder()
    events = [event for at in range(0, len(wire), size) for event in decoder.feed(wire[at : at + size])]
    print(f"{size:4} bytes at a time:", "".join(e.text for e in events if isinstance(e, TextDelta)))

decoder = Lines().decoder()
decoder.feed(wire[:40])
try:
    decoder.close()
except StreamBroken as error:
    print(f"cut: {error}")
# endregion use
