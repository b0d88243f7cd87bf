"""Stages that rewrite the text of a reply, whole or in pieces, part by part."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Protocol

from llmpipe.middleware.redact.masking import Masking, mask_json
from llmpipe.middleware.redact.scan import Scanner, cover
from llmpipe.middleware.redact.walk import Rewrite, Role, key_of, rewrite_json, rewrite_part
from llmpipe.types import Event, Extra, Finish, ReasoningDelta, RefusalDelta, Start, TextDelta, ToolDelta
from llmpipe.types.copying import replace

__all__ = ("Masker", "Rewriter", "TextStage")

_TEXTS = (TextDelta, ReasoningDelta, RefusalDelta)


class Rewriter(Protocol):
    """Rewrites one text that comes in pieces."""

    @property
    def held(self) -> int:
        """Characters that are held back."""
        ...

    def feed(self, piece: str) -> str:
        """What can be let out now that `piece` has come."""
        ...

    def release(self) -> str:
        """What is held, though more may come."""
        ...

    def flush(self) -> str:
        """The rest: nothing more will come."""
        ...


class TextStage:
    """Runs each part of a reply through a rewriter of its own. An event that stays as it is, stays itself.

    Text is held back no longer than its part goes on: when another part begins, what is held of a
    text goes out before it, so that the order of a reply is kept. Arguments of tool calls, which
    some providers send interleaved, are held until the reply finishes.

    Args:
        rewriter: makes the rewriter of a part; its argument says whether the part is JSON.
        rewrite: what is done with the strings that come whole: in `extra` and in parts.
        json: the text of the reply is JSON too, for that was asked for.
    """

    def __init__(self, rewriter: Callable[[bool], Rewriter], rewrite: Rewrite, *, json: bool = False) -> None:
        self._json = (ToolDelta, TextDelta) if json else (ToolDelta,)
        self._rewriter = rewriter
        self._rewrite = rewrite
        self._parts: dict[tuple[type, int], Rewriter] = {}
        self._holding: tuple[type, int] | None = None  # the text, not the tool call, that may hold something

    def feed(self, event: Event) -> Iterable[Event]:
        """What becomes of `event`."""
        kind = type(event)
        if kind in _TEXTS:
            return self._text(event)  # type: ignore[arg-type]  # the line above says it
        if isinstance(event, ToolDelta):
            return [*self._let_go(None), self._tool(event)]
        if isinstance(event, Finish):
            return [*self.flush(), self._extra(event)]
        if isinstance(event, Extra):
            data = self._whole(event.data)
            part = None if event.part is None else rewrite_part(event.part, self._rewrite)
            same = data is event.data and part is event.part
            before = self._let_go(None) if part is not None else []
            return [*before, event if same else replace(event, data=data, part=part)]
        if isinstance(event, Start):
            return [self._extra(event)]
        return [event]

    def flush(self) -> Iterable[Event]:
        """What was still held back."""
        out: list[Event] = []
        for (kind, index), rewriter in self._parts.items():
            rest = rewriter.flush()
            if rest:
                out.append(ToolDelta(index, arguments=rest) if kind is ToolDelta else kind(rest, index))
        self._parts.clear()
        self._holding = None
        return out

    def _text(self, event: TextDelta | ReasoningDelta | RefusalDelta) -> list[Event]:
        kind, index = type(event), event.index
        key = (kind, index)
        out: list[Event] = []
        if self._holding != key:
            out = self._let_go(key)
            self._holding = key
        rewriter = self._parts.get(key) or self._part(key)
        text = rewriter.feed(event.text)
        if kind is not RefusalDelta and event.extra:  # type: ignore[union-attr]  # only a refusal has none
            event = self._extra(event)
        if text == event.text:
            out.append(event)
        elif _is_text_only(event):
            if text:
                out.append(kind(text, index))
        else:
            out.append(replace(event, text=text))
        return out

    def _tool(self, event: ToolDelta) -> ToolDelta:
        event = self._extra(event)
        arguments = self._part((ToolDelta, event.index)).feed(event.arguments)
        name = None if event.name is None else self._rewrite(event.name, "name")
        if arguments == event.arguments and name == event.name:
            return event
        return replace(event, arguments=arguments, name=name)

    def _part(self, key: tuple[type, int]) -> Rewriter:
        found = self._parts.get(key)
        if found is None:
            found = self._parts[key] = self._rewriter(key[0] in self._json)
        return found

    def _let_go(self, key: tuple[type, int] | None) -> list[Event]:
        """What is held of a text, where the part `key` goes on or begins and is another."""
        holding = self._holding
        if holding is None or holding == key:
            return []
        self._holding = None
        kind, index = holding
        rewriter = self._parts[holding]
        return [kind(rewriter.release(), index)] if rewriter.held else []

    def _extra(self, event: Any) -> Any:
        """The event with its `extra` rewritten."""
        if not event.extra:
            return event
        extra = self._whole(event.extra)
        return event if extra is event.extra else replace(event, extra=extra)

    def _whole(self, data: Mapping[str, Any] | None) -> Mapping[str, Any] | None:
        """Data that comes in one piece, rewritten."""
        return rewrite_json(data, self._rewrite, data=True)


def _is_text_only(event: TextDelta | ReasoningDelta | RefusalDelta) -> bool:
    """Whether there is nothing beside its text."""
    if isinstance(event, RefusalDelta):
        return True
    if isinstance(event, ReasoningDelta) and not (event.signature is None and event.encrypted is None):
        return False
    return event.extra is None


class Masker(TextStage):
    """Masks a reply: whatever the chunks, what comes out is the mask of the whole.

    Log probabilities are taken out: they spell the text a second time, token by token. `tell` is
    called at the end, if something was masked, with how many of each kind.
    """

    def __init__(self, scanner: Scanner, tell: Callable[[Mapping[str, int]], None] | None = None) -> None:
        self._tell = tell
        self._maskings: list[Masking] = []
        self._scanner = scanner
        self._once: Counter[str] = Counter()
        super().__init__(self._masking, self._masked)

    @property
    def found(self) -> Mapping[str, int]:
        """How many of each kind were masked so far."""
        found = Counter(self._once)
        for masking in self._maskings:
            found.update(masking.found)
        return found

    def flush(self) -> Iterable[Event]:
        """What was still held back."""
        out = super().flush()
        if self._tell is not None and (found := self.found):
            self._tell(found)
            self._tell = None
        return out

    def _masking(self, is_json: bool) -> Masking:
        masking = Masking(self._scanner, json=is_json)
        self._maskings.append(masking)
        return masking

    def _whole(self, data: Mapping[str, Any] | None) -> Mapping[str, Any] | None:
        if data is not None and "logprobs" in data:
            data = {name: value for name, value in data.items() if name != "logprobs"}
        return super()._whole(data)

    def _masked(self, text: str, role: Role) -> str:
        findings = self._scanner.scan(text, key_of(role), json=role == "json")
        if not findings:
            return text
        self._once.update([finding.kind for finding in findings])
        return mask_json(self._scanner, text) if role == "json" else cover(text, findings)
