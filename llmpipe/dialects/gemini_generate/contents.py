"""Our messages as the wire's ``contents`` and ``systemInstruction``."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from llmpipe.dialects.checked import arguments_of, invalid
from llmpipe.dialects.gemini_generate.fields import NAME, generation
from llmpipe.dialects.gemini_generate.media import Media, encode_media
from llmpipe.dialects.gemini_generate.results import encode_result, is_made_up
from llmpipe.dialects.gemini_generate.signatures import NO_SIGNATURE, is_foreign
from llmpipe.dialects.losses import Losses, native, refused
from llmpipe.types import Message, Opaque, Part, Reasoning, Refusal, Text, ToolCall, ToolResult

if TYPE_CHECKING:
    from llmpipe.dialects.gemini_generate.quirks import Quirks

__all__ = ("Conversation",)


class Conversation:
    """The wire's `contents` and `system` parts of a conversation, once every message was added.

    Tool results that follow each other become one content, in the order of the calls that they
    answer: Gemini wants as many responses in the turn after the calls as there were calls. A result
    names its function, so where ours does not, the call with its id does.

    Raises: Unsupported naming the path for a part that Gemini cannot take, InvalidRequest for one
        that lacks what the wire needs.
    """

    def __init__(self, model: str, quirks: Quirks, losses: Losses) -> None:
        self.contents: list[dict[str, Any]] = []
        self.system: list[dict[str, Any]] = []
        self._losses = losses
        age = generation(model)
        self._ids = quirks.call_ids
        self._nested = age is None or age >= 3
        self._demands = quirks.signatures == "always" or (
            quirks.signatures == "auto" and age is not None and age >= 3
        )
        self._names: dict[str, str] = {}  # of all calls so far, by id
        self._order: dict[str, int] = {}  # of the last turn's calls, by id
        self._results: list[tuple[int, dict[str, Any]]] = []
        self._beside: list[dict[str, Any]] = []

    def add_all(self, messages: Iterable[Message]) -> None:
        """Take the messages, in order."""
        begun = False
        for position, message in enumerate(messages):
            path = f"messages[{position}]"
            if message.name is not None:
                self._losses.dropped(f"{path}.name", "Gemini's contents have none")
            if message.role == "system":
                if begun:
                    self._losses.emulated(path, "moved into the system instruction, of which there is one")
                self.system += self._parts(message, path)
                continue
            begun = True
            if message.role == "assistant":
                self._flush()
                self._model(message, path)
            else:
                self._user(message, path)
        self._flush()

    def _user(self, message: Message, path: str) -> None:
        for position, part in enumerate(message.parts):
            if isinstance(part, ToolResult):
                self._result(part, message, f"{path}.parts[{position}]")
        others = self._parts(message, path)
        if message.role == "tool":
            self._beside += others
        elif others:
            self._flush()
            self._content("user", others, message, path)

    def _result(self, result: ToolResult, message: Message, path: str) -> None:
        name = result.name or self._names.get(result.id)
        if name is None:
            raise invalid(
                f"{path}.name",
                "is required: no call of this conversation has the result's id, and Gemini wants "
                "the function's name",
            )
        wire, beside = encode_result(
            result, name, message.dialect, path, self._losses, ids=self._ids, nested=self._nested
        )
        self._results.append((self._order.get(result.id, len(self._order)), wire))
        self._beside += beside

    def _flush(self) -> None:
        """The content of the results so far."""
        if self._results or self._beside:
            self._results.sort(key=lambda found: found[0])
            self.contents.append(
                {"role": "user", "parts": [wire for _, wire in self._results] + self._beside}
            )
            self._results, self._beside = [], []

    def _content(self, role: str, parts: list[dict[str, Any]], message: Message, path: str) -> None:
        extra = native(message.extra, message.dialect, NAME, path, self._losses)
        self.contents.append({"role": role, "parts": parts, **extra})

    def _parts(self, message: Message, path: str) -> list[dict[str, Any]]:
        """The parts of a message of somebody else than the model, but for tool results."""
        found = []
        for position, part in enumerate(message.parts):
            where = f"{path}.parts[{position}]"
            if isinstance(part, ToolCall):
                raise invalid(where, f"a {message.role} message cannot hold a tool call")
            if isinstance(part, Reasoning):
                self._losses.dropped(where, "only the model's own turns have reasoning")
            elif not isinstance(part, ToolResult) and not _says_nothing(part, message):
                found.append(self._part(part, message.dialect, where))
        return found

    def _part(self, part: Part, written_in: str, path: str) -> dict[str, Any]:
        if isinstance(part, Text | Refusal):
            return {"text": part.text, **native(part.extra, written_in, NAME, path, self._losses)}
        if isinstance(part, Media):
            return encode_media(part, written_in, path, self._losses)
        if isinstance(part, Opaque) and part.dialect == NAME:
            return dict(part.data)
        what = f"a part of {part.dialect}" if isinstance(part, Opaque) else f"a {type(part).__name__}"
        raise refused(path, f"Gemini cannot take {what}")

    def _model(self, message: Message, path: str) -> None:
        """A turn of the model. A lone signature goes onto the part that follows it."""
        calls = message.tool_calls
        self._order = {call.id: place for place, call in enumerate(calls)}
        self._names.update({call.id: call.name for call in calls})
        parts: list[dict[str, Any]] = []
        signature: str | None = None
        called = False
        for position, part in enumerate(message.parts):
            where = f"{path}.parts[{position}]"
            if isinstance(part, Reasoning):
                thought = self._thought(part, message.dialect, where)
                if thought is None:
                    continue
                if signature is not None:
                    parts.append(_signed(signature))
                    signature = None
                if _signs_the_next(part):
                    signature = part.signature
                else:
                    parts.append(thought)
                continue
            wire = None if _says_nothing(part, message) else self._of_model(part, message.dialect, where)
            if wire is None:
                signature = None
                continue
            if signature is not None and "thoughtSignature" in wire:  # an opaque part has its own
                parts.append(_signed(signature))
            elif signature is not None:
                wire["thoughtSignature"] = signature
            signature = None
            if "functionCall" in wire:
                # Of parallel calls the first is signed.
                if self._demands and not called and "thoughtSignature" not in wire:
                    wire["thoughtSignature"] = NO_SIGNATURE
                called = True
            parts.append(wire)
        if signature is not None:
            parts.append(_signed(signature))
        if parts:  # an empty content is refused
            self._content("model", parts, message, path)

    def _of_model(self, part: Part, written_in: str, path: str) -> dict[str, Any] | None:
        if isinstance(part, ToolCall):
            return self._call(part, written_in, path)
        if isinstance(part, Opaque) and part.dialect != NAME:
            self._losses.dropped(path, f"a part of {part.dialect}, which Gemini does not know")
            return None
        return self._part(part, written_in, path)

    def _call(self, call: ToolCall, written_in: str, path: str) -> dict[str, Any]:
        extra = dict(native(call.extra, written_in, NAME, path, self._losses))
        inner: dict[str, Any] = {"name": call.name, "args": arguments_of(call, path)}
        if self._ids and call.id and not is_made_up(call.id):
            inner = {"id": call.id, **inner}
        more = extra.pop("functionCall", None)
        return {"functionCall": {**inner, **more} if isinstance(more, Mapping) else inner, **extra}

    def _thought(self, part: Reasoning, written_in: str, path: str) -> dict[str, Any] | None:
        """The wire's part for Gemini's own reasoning, or the user's; None for anybody else's."""
        if is_foreign(part, written_in):
            self._losses.dropped(path, "reasoning of another provider, which Gemini cannot check")
            return None
        if part.encrypted is not None:
            self._losses.dropped(f"{path}.encrypted", "Gemini's thoughts are never encrypted")
        if not part.text and part.signature is None:
            return None
        extra = dict(native(part.extra, written_in, NAME, path, self._losses))
        if extra.pop("field", None) == "text":
            return {**_signed(part.signature or ""), **extra}
        wire: dict[str, Any] = {"text": part.text, "thought": True}
        if part.signature is not None:
            wire["thoughtSignature"] = part.signature
        return {**wire, **extra}


def _says_nothing(part: Part, message: Message) -> bool:
    """Whether it is empty text beside other parts: Vertex AI refuses that, and others' callers send it."""
    return (
        isinstance(part, Text)
        and not part.text
        and message.dialect not in ("", NAME)
        and len(message.parts) > 1
    )


def _signs_the_next(part: Reasoning) -> bool:
    return not part.text and part.signature is not None and "field" not in part.extra


def _signed(signature: str) -> dict[str, Any]:
    """A part that has nothing but a signature, as Gemini itself ends streams."""
    return {"text": "", "thoughtSignature": signature}
