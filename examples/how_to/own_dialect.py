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
from llmpipe.dialects.decoding import Decoding
from llmpipe.dialects.losses import Losses, native, refused


class Lines:
    """The client's half of a dialect; the server's half is what the simulator and a gateway need."""

    name = "lines"

    def encode_request(self, request: Request, losses: Losses | None = None) -> dict[str, Any]:
        """The body the server expects; what it cannot say, and can do without, is told to `losses`."""
        losses = Losses() if losses is None else losses
        if request.seed is not None:
            losses.dropped("seed", "this server has none")
        if request.tools:
            raise refused("tools", "this server calls none")
        # The words of another dialect, in which the request may have been read, stay here.
        extra = native(request.extra, request.dialect, self.name, "", losses)
        return {"prompt": request.messages[-1].text, "stream": request.stream, **extra}

    def decode_reply(self, body: dict[str, Any], headers: Mapping[str, str]) -> Completion:
        """The completion in its body."""
        return Completion(message=Message("assistant", body["text"], dialect=self.name), finish_reason="stop")

    def decode_error(self, status: int, headers: Mapping[str, str], body: bytes) -> LLMError:
        """The verdicts are decided here, and nowhere else. Texts of a provider go through `secret.scrub`."""
        return ServiceUnavailable(f"the server answered {status}", status=status, retryable=status >= 500)

    def decoder(self, content_type: str = "application/jsonl") -> "LinesDecoder":
        """A fresh one for each stream."""
        return LinesDecoder()


class LinesDecoder(Decoding):
    """Bytes to events, however they are cut: a line may come in pieces, and so may a character.

    `Decoding` sees to it that events come before errors, and that a broken stream stays broken.
    """

    def __init__(self) -> None:
        super().__init__()
        self._rest = b""

    def _read(self, data: bytes, events: list[Event]) -> None:
        *lines, self._rest = (self._rest + data).split(b"\n")
        for line in filter(None, lines):
            said = orjson.loads(line)
            if said.get("done"):
                self.finished = True
                events.append(Finish("stop"))
            else:
                events.append(TextDelta(said["text"]))

    def _end(self, events: list[Event]) -> None:
        raise StreamBroken("the bytes ended before the line that says done", phase="stream")


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
