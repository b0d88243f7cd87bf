"""A conversation as the items of a request's input.

What is sent back of an earlier reply depends on who keeps it. A provider that keeps nothing (see
`Quirks.store`) knows no ids: they are left out, because it would look for them, and each item says all
that it has to say. Reasoning then goes back with its ``encrypted_content``, and is left out without.
Where the provider keeps replies, or the request came from a caller who speaks this dialect and decides
that himself, items go back as they came.

Sources: OpenAI's guides "Reasoning" (encrypted reasoning items) and "Conversation state"; recorded
requests of both kinds, which OpenAI, Azure and xAI answered.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from attrs import frozen

from llmpipe.dialects.losses import Losses, native, refused
from llmpipe.dialects.openai_responses.content import encode_content, encode_part
from llmpipe.dialects.openai_responses.items import ITEM, NAME, is_content, made_up_item_id
from llmpipe.dialects.openai_responses.quirks import Quirks
from llmpipe.dialects.openai_responses.reasoning import encode_reasoning
from llmpipe.types import Message, Opaque, Part, Reasoning, Refusal, Text, ToolCall, ToolResult
from llmpipe.types.frozen import EMPTY

__all__ = ("Plan", "encode_input")

_CHAT = "openai.chat"


@frozen
class Plan:
    """How the items of one request are sent.

    Attributes:
        verbatim: the request came from a caller who speaks this dialect, so that items go as they came.
        keeps_ids: the provider keeps replies, and knows the items by their ids.
    """

    verbatim: bool
    keeps_ids: bool
    quirks: Quirks
    losses: Losses


def encode_input(messages: tuple[Message, ...], plan: Plan) -> list[dict[str, Any]]:
    """The items of `messages`.

    Raises: Unsupported for a part that this wire cannot say.
    """
    custom = frozenset(
        part.id
        for message in messages
        for part in message.parts
        if type(part) is ToolCall
        and part.extra.get("type") == "custom"
        and message.dialect in ("", NAME, _CHAT)
    )
    items: list[dict[str, Any]] = []
    for at, message in enumerate(messages):
        if message.name is not None:
            plan.losses.dropped(f"messages[{at}].name", f"{NAME} has no such field")
        _Turn(message, f"messages[{at}]", plan, custom, items).encode()
    return items


class _Turn:
    """One message on its way into items."""

    __slots__ = ("_content", "_custom", "_extra", "_items", "_mark", "_message", "_own", "_path", "_plan")

    def __init__(
        self, message: Message, path: str, plan: Plan, custom: frozenset[str], items: list[dict[str, Any]]
    ) -> None:
        self._message = message
        self._path = path
        self._plan = plan
        self._custom = custom
        self._items = items
        self._own = message.dialect in ("", NAME)
        extra = native(message.extra, message.dialect, NAME, path, plan.losses)
        # Where it came from, which is told only where it goes back there.
        self._extra = {name: value for name, value in extra.items() if name != "field"} if extra else extra
        self._content: list[tuple[int, Part]] = []
        self._mark: Mapping[str, Any] = EMPTY

    def encode(self) -> None:
        """Append the items of the message."""
        for at, part in enumerate(self._message.parts):
            path = f"{self._path}.parts[{at}]"
            if type(part) is ToolResult:
                self._flush()
                self._items.append(self._tool_result(part, path))
            elif isinstance(part, Opaque) and not (
                part.dialect == NAME and is_content(part.data.get("type"))
            ):
                self._flush()
                self._opaque(part, path)
            elif self._message.role == "assistant":
                self._of_assistant(at, part, path)
            elif self._message.role == "tool" or isinstance(part, ToolCall | Reasoning):
                raise refused(path, f"a {self._message.role} message cannot hold a {type(part).__name__}")
            else:
                self._content.append((at, part))
        self._flush()
        if not self._message.parts and self._message.role in ("system", "user"):
            self._items.append({"role": self._role, "content": "", **self._extra})

    @property
    def _role(self) -> str:
        role = self._message.role
        return self._plan.quirks.system_role if role == "system" else role

    def _of_assistant(self, at: int, part: Part, path: str) -> None:
        if isinstance(part, Text | Refusal | Opaque):
            mark = self._mark_of(part)
            if mark.get("id") not in (None, self._mark.get("id")):
                self._flush()
            self._mark = self._mark or mark
            self._content.append((at, part))
        elif isinstance(part, ToolCall):
            self._flush()
            self._items.append(self._tool_call(part, path))
        elif isinstance(part, Reasoning):
            self._flush()
            self._reasoning(part, path)
        else:
            raise refused(path, f"{NAME} takes no {type(part).__name__} of the assistant")

    def _flush(self) -> None:
        """The message item of the content gathered so far."""
        if not self._content:
            return
        parts, mark = [part for _, part in self._content], self._sent_mark(self._mark)
        self._content, self._mark = [], EMPTY
        if self._message.role == "assistant":
            item = self._assistant_item(parts, mark)
        else:
            item = {
                "role": self._role,
                "content": encode_content(parts, self._message.dialect, self._path, self._plan.losses),
            }
        self._items.append({**item, **self._extra})

    def _assistant_item(self, parts: list[Part], mark: Mapping[str, Any]) -> dict[str, Any]:
        content = [self._said(part) for part in parts]
        if len(content) == 1 and content[0].keys() == {"type", "text"} and "id" not in mark:
            return {"role": "assistant", "content": content[0]["text"], **mark}
        if "id" in mark:  # the whole item as it was in the reply, in which a status is required
            for piece in content:
                if piece["type"] == "output_text":
                    piece.setdefault("annotations", [])
            mark = {"status": "completed", **mark}
        return {"type": "message", "role": "assistant", "content": content, **mark}

    def _said(self, part: Part) -> dict[str, Any]:
        """One part of what the assistant said."""
        if not isinstance(part, Text):
            return encode_part(part, self._message.dialect, self._path, self._plan.losses)
        extra = self._native(part.extra, self._path)
        left_out = (ITEM,) if self._plan.verbatim else (ITEM, "logprobs")  # which tell the model nothing
        return {
            "type": "output_text",
            "text": part.text,
            **{name: value for name, value in extra.items() if name not in left_out},
        }

    def _tool_call(self, call: ToolCall, path: str) -> dict[str, Any]:
        mark = self._sent_mark(self._mark_of(call))
        more = {name: value for name, value in call.extra.items() if name not in (ITEM, "custom", "type")}
        rest = {**mark, **self._native(more, path)}
        if call.id in self._custom and call.extra.get("type") == "custom":
            return {
                "type": "custom_tool_call",
                "call_id": call.id,
                "name": call.name,
                "input": call.arguments,
                **rest,
            }
        arguments = call.arguments if self._plan.verbatim else call.arguments or "{}"
        return {
            "type": "function_call",
            "call_id": call.id,
            "name": call.name,
            "arguments": arguments,
            **rest,
        }

    def _tool_result(self, result: ToolResult, path: str) -> dict[str, Any]:
        losses = self._plan.losses
        if result.is_error:
            losses.dropped(f"{path}.is_error", "the text has to say it")
        custom = result.id in self._custom or result.extra.get("type") == "custom"
        mark = self._sent_mark(self._mark_of(result))
        more = {name: value for name, value in result.extra.items() if name not in (ITEM, "type")}
        item = {
            "type": "custom_tool_call_output" if custom else "function_call_output",
            "call_id": result.id,
            "output": encode_content(result.content, self._message.dialect, path, losses) or "",
        }
        if result.name is not None and self._plan.verbatim:  # a new field, and the call has it
            item["name"] = result.name
        extra = self._extra if self._message.role == "tool" else EMPTY
        return {**item, **mark, **self._native(more, path), **extra}

    def _reasoning(self, part: Reasoning, path: str) -> None:
        """The item of a thought, or nothing where it would be refused."""
        plan, mark = self._plan, self._mark_of(part)
        proof = part.encrypted if part.encrypted is not None else part.signature
        if proof is not None and not (part.origin == NAME or (not part.origin and self._own)):
            plan.losses.dropped(path, f"reasoning that {part.origin or self._message.dialect} proved")
            return
        if proof is not None or plan.verbatim or (plan.keeps_ids and "id" in mark):
            self._items.append(encode_reasoning(part, self._sent_mark(mark), proof))
        elif part.text and (mark.get("kind") == "content" or plan.quirks.replay_plain_reasoning):
            # Servers that show the thoughts themselves want them back, under an id that they only look at.
            own = {"id": made_up_item_id("rs", self._path, len(self._items)), **mark, "kind": "content"}
            self._items.append(encode_reasoning(part, own, None))
        else:
            plan.losses.dropped(path, "reasoning that its provider has not encrypted cannot be sent back")

    def _opaque(self, part: Opaque, path: str) -> None:
        if part.dialect == NAME:
            self._items.append(dict(part.data))
        elif self._message.role == "assistant":
            self._plan.losses.dropped(path, f"a part of {part.dialect}")
        else:
            raise refused(path, f"{NAME} cannot say a part of {part.dialect}")

    def _mark_of(self, part: Part) -> Mapping[str, Any]:
        """What the item of a part had besides, where the part is this wire's."""
        mark = EMPTY if isinstance(part, Opaque) or not self._own else part.extra.get(ITEM)
        return mark if isinstance(mark, Mapping) else EMPTY

    def _sent_mark(self, mark: Mapping[str, Any]) -> Mapping[str, Any]:
        if self._plan.verbatim or self._plan.keeps_ids or "id" not in mark:
            return mark
        return {name: value for name, value in mark.items() if name != "id"}

    def _native(self, extra: Mapping[str, Any], path: str) -> Mapping[str, Any]:
        return native(extra, self._message.dialect, NAME, path, self._plan.losses) if extra else EMPTY
