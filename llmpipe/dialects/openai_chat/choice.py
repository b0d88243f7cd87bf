"""One choice of a stream: from its deltas to events."""

from __future__ import annotations

from typing import Any

import orjson

from llmpipe.dialects.call_ids import made_up_id
from llmpipe.dialects.openai_chat.content import lenient_part
from llmpipe.dialects.openai_chat.reasoning import block_of, take_string
from llmpipe.dialects.openai_chat.reply import (
    CHOICE_FIELDS,
    MODELLED_OF_CHOICE,
    NOTHING,
    arguments_text,
    finish_reason,
    function_of,
    list_of_calls,
)
from llmpipe.types import (
    Event,
    Extra,
    Finish,
    Ping,
    Reasoning,
    ReasoningDelta,
    RefusalDelta,
    Text,
    TextDelta,
    ToolDelta,
)

__all__ = ("ChoiceDecoder",)

# Fields of a delta that say nothing: its role, which is known, and Together's id of each token.
_EMPTY_FIELDS = frozenset(("role", "token_id"))


class _Call:
    """One tool call under way."""

    __slots__ = ("id", "index", "name", "pieces")

    def __init__(self, index: int) -> None:
        self.index = index
        self.id = self.name = ""
        self.pieces: list[str] = []

    def complete(self) -> bool:
        """Whether its arguments are a whole JSON object already."""
        try:
            return type(orjson.loads("".join(self.pieces))) is dict
        except orjson.JSONDecodeError:
            return False


class ChoiceDecoder:
    """The state of one choice. `word` is its finish reason in the wire's own word, None before it."""

    __slots__ = (
        "_audio",
        "_blocks",
        "_by_key",
        "_calls",
        "_extra",
        "_said",
        "_text_index",
        "events",
        "index",
        "word",
    )

    def __init__(self, index: int) -> None:
        self.index = index
        self.word: str | None = None
        self.events: list[Event] = []  # of choices other than the first, which have no other place
        self._said = False  # whether any delta had content
        self._text_index = 0
        self._blocks: dict[tuple[str, str], int] = {}
        self._by_key: dict[object, _Call] = {}
        self._calls: list[_Call] = []
        self._extra: dict[str, Any] = {}
        self._audio: dict[str, list[str]] = {}  # the pieces of its sound and of what it says

    def take(self, choice: dict[str, Any], events: list[Event], reply_id: str) -> bool:
        """Append the events of one choice of one chunk; whether it says that it is finished."""
        delta = choice.get("delta")
        if not delta and not self._said:
            delta = choice.get("message")  # a whole reply in one event
        if not delta and choice.get("text"):  # the older API's chunks; Together has it beside a delta
            delta = {"content": choice["text"]}
        if delta:
            content = delta.get("content") if type(delta) is dict else None
            if type(content) is str and len(delta) == 1:
                if content:
                    self._said = True
                    events.append(TextDelta(content, self._text_index))
            elif type(delta) is dict:
                self._delta(dict(delta), events, reply_id)
        word = choice.get("finish_reason")
        if word == "null":
            word = None
        elif word and self.word is None:
            self.word = str(word)
        for name, value in choice.items():
            if value is not None and name not in MODELLED_OF_CHOICE and value not in NOTHING:
                self._unmodelled(name, value, events)
        return bool(word)

    def rest(self) -> list[Event]:
        """What could be told at the end only: sound comes in pieces, and the message has it whole."""
        if not self._audio:
            return []
        return [Extra({"audio": {name: "".join(said) for name, said in self._audio.items()}}, of="message")]

    def finish(self) -> Finish:
        """The end of the choice."""
        reason = finish_reason(self.word, has_calls=bool(self._calls))
        own = self.word if self.word not in (None, reason) else None
        return Finish(reason, None if own is None else {"finish_reason": own})

    def _delta(self, delta: dict[str, Any], events: list[Event], reply_id: str) -> None:
        """A delta with more than text in it: reasoning first, then content, refusal and calls."""
        before = len(events)
        self._reasoning(delta, events)
        self._content(delta.pop("content", None), events)
        refusal = delta.pop("refusal", None)
        if type(refusal) is str and refusal:
            events.append(RefusalDelta(refusal))
        for call in _calls_of(delta):
            self._call(call, events, reply_id)
        if "audio" in delta:
            self._sound(delta, events)
        if len(events) > before:
            self._said = True
        for name, value in delta.items():
            if name not in _EMPTY_FIELDS and value not in NOTHING:
                self._unmodelled_of_message(name, value, events)

    def _sound(self, delta: dict[str, Any], events: list[Event]) -> None:
        """Keep the pieces of OpenAI's sound, whose other fields come whole."""
        audio = delta["audio"]
        if not isinstance(audio, dict):
            return
        fields = delta["audio"] = dict(audio)
        for name in ("data", "transcript"):
            if isinstance(audio.get(name), str):
                self._audio.setdefault(name, []).append(fields.pop(name))
        if not fields:
            events.append(Ping())

    def _content(self, content: object, events: list[Event]) -> None:
        if type(content) is str:
            if content:
                events.append(TextDelta(content, self._text_index))
        elif isinstance(content, list):
            for part in content:
                self._part(part, events)

    def _reasoning(self, delta: dict[str, Any], events: list[Event]) -> None:
        origin, text = take_string(delta)
        details = delta.pop("reasoning_details", None)
        items = details if isinstance(details, list) else []
        blocks = [block_of(item) for item in items if isinstance(item, dict)]
        said = "".join([block.text for block in blocks])
        if text and text != said:
            self._string(text, origin, events)
        for block in blocks:
            self._block(
                block, origin if text and text == said else "", events, silent=bool(text and said != text)
            )

    def _string(self, text: str, origin: str, events: list[Event]) -> None:
        key = ("string", "")
        index = self._blocks.get(key)
        if index is None:
            index = self._blocks[key] = len(self._blocks)
            extra = None if origin == "reasoning_content" else {"field": origin}
            events.append(ReasoningDelta(text, index, extra=extra))
        else:
            events.append(ReasoningDelta(text, index))

    def _block(self, block: Reasoning, origin: str, events: list[Event], *, silent: bool) -> None:
        """One block of `reasoning_details`: those of one type and index are pieces of one part."""
        kind = str(block.extra.get("type"))
        key = (kind, str(block.extra.get("index")))
        if kind == "reasoning.encrypted" and "id" in block.extra:
            key = (kind, str(block.extra["id"]))  # each signs a call of its own, whatever their numbers
        text = "" if silent else block.text  # another string said it already
        index = self._blocks.get(key)
        extra: dict[str, Any] | None = None
        if index is None:
            index = self._blocks[key] = len(self._blocks)
            extra = {**block.extra, "field": origin} if origin else dict(block.extra)
        elif not (text or block.signature or block.encrypted):
            return
        events.append(ReasoningDelta(text, index, block.signature, block.encrypted, extra, block.origin))

    def _part(self, part: object, events: list[Event]) -> None:
        """One part of content that is a list, as Mistral sends it."""
        decoded = lenient_part(part) if isinstance(part, dict) else Text(str(part))
        if isinstance(decoded, Text):
            events.append(TextDelta(decoded.text, self._text_index, decoded.extra or None))
        elif isinstance(decoded, Reasoning):
            known = self._blocks.get(("thinking", ""))
            if known is None:
                known = self._blocks["thinking", ""] = len(self._blocks)
                extra = {name: value for name, value in decoded.extra.items() if name != "summary"}
                signature, whose = decoded.signature, decoded.origin
                events.append(ReasoningDelta(decoded.text, known, signature, None, extra, whose))
            elif decoded.text or decoded.signature:
                events.append(
                    ReasoningDelta(decoded.text, known, decoded.signature, None, None, decoded.origin)
                )
        else:
            self._text_index += 1  # what follows stands after it
            events.append(Extra(part=decoded))

    def _call(self, call: dict[str, Any], events: list[Event], reply_id: str) -> None:
        """A piece of a tool call, or a whole one."""
        kind = call.pop("type", None)
        kind = kind if kind and type(kind) is str else "function"
        function, custom = call.pop("function", None), call.pop("custom", None)
        inner = function_of(call, custom if kind == "custom" and isinstance(custom, dict) else function)
        name = inner.pop("name", None) or ""
        arguments = arguments_text(inner.pop("input" if kind == "custom" else "arguments", None))
        call_id, key = call.pop("id", None), call.pop("index", None)
        if not isinstance(call_id, str) or call_id == "null":
            call_id = ""
        if not isinstance(key, (int, str)):
            key = None
        found = self._which(key, call_id, str(name), arguments)
        extra = {field: value for field, value in call.items() if value not in NOTHING}
        if found is None:
            found = _Call(len(self._calls))
            self._calls.append(found)
            found.id = call_id or made_up_id(
                f"{reply_id}\0{self.index}" if self.index else reply_id, found.index, name
            )
            found.name = str(name)
            if kind != "function":
                extra["type"] = kind
            self._by_key[found.id if key is None else key] = found
            events.append(ToolDelta(found.index, found.id, found.name or None, arguments, extra or None))
        else:
            given = str(name) if name and not found.name else None
            found.name = found.name or str(name)
            if call_id == found.id and name and arguments and found.complete():
                arguments = ""  # the call once more, whole, as some servers end it
            if arguments or given or extra:
                events.append(ToolDelta(found.index, None, given, arguments, extra or None))
        found.pieces.append(arguments)

    def _which(self, key: object, call_id: str, name: str, arguments: str) -> _Call | None:
        """The call that a piece belongs to, or None if it begins another.

        OpenAI numbers them. Ollama and Gemini's endpoint send whole calls all numbered 0, some
        servers send no numbers, some repeat id and name in every piece, some begin a second call
        under the first one's number and go on under its own (agno-agi/agno#8880).
        """
        last = self._calls[-1] if self._calls else None
        if key is None:
            if call_id:
                return self._by_key.get(call_id)
            if name and not (last and arguments and name == last.name and not last.complete()):
                return None
            return last
        found = self._by_key.get(key)
        if found is None and last is not None and not name and not call_id and not last.complete():
            self._by_key[key] = last
            return last
        if found is None or not name:
            return found
        if call_id and call_id != found.id:
            return None
        if not call_id and found.name and found.complete() and arguments.lstrip().startswith("{"):
            return None
        return found

    def _unmodelled(self, name: str, value: object, events: list[Event]) -> None:
        """A field of the choice: where it changed, except log probabilities, of which all are new."""
        if self._extra.get(name) == value and name != "logprobs":
            return
        self._extra[name] = value
        events.append(Extra({name: value} if name in CHOICE_FIELDS else {"choice": {name: value}}))

    def _unmodelled_of_message(self, name: str, value: object, events: list[Event]) -> None:
        """A field of the message. Lists grow piece by piece (annotations); the rest repeats itself."""
        key = f"message.{name}"
        if isinstance(value, list) or self._extra.get(key) != value:
            self._extra[key] = value
            events.append(Extra({name: value}, of="message"))


def _calls_of(delta: dict[str, Any]) -> list[dict[str, Any]]:
    """The pieces of tool calls in a delta, taken out of it; a function of 2023 is one of them."""
    found = list_of_calls(delta.pop("tool_calls", None))
    legacy = delta.get("function_call")
    if isinstance(legacy, dict):
        del delta["function_call"]
        if legacy.get("name") or legacy.get("arguments"):
            found.append({"index": "function_call", "function": legacy, "type": "function_call"})
    return found
