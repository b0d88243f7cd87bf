"""What of a conversation goes when it is too long: whole turns, never half of one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from llmpipe.tokens import estimate_request
from llmpipe.types import Message, Request, ToolCall, ToolResult
from llmpipe.types.copying import replace

__all__ = ("fitted", "turns_of")


def turns_of(messages: Sequence[Message]) -> list[list[int]]:
    """The places of the messages, turn by turn; system messages belong to none.

    A turn begins with what a user says and goes on with all that follows, tool calls and their results
    included. What stands before the first user's message is a turn too.
    """
    turns: list[list[int]] = []
    for place, message in enumerate(messages):
        if message.role == "system":
            continue
        says = message.role == "user" and not any(type(part) is ToolResult for part in message.parts)
        follows = place > 0 and messages[place - 1].role == "user" and turns and turns[-1][-1] == place - 1
        if not turns or (says and not follows):
            turns.append([])
        turns[-1].append(place)
    return _joined(messages, turns)


def _joined(messages: Sequence[Message], turns: list[list[int]]) -> list[list[int]]:
    """As one turn those of which one has the result of another's tool call."""
    called: dict[str, int] = {}  # the id of a call to the number of its turn
    whole: list[list[int]] = []
    for turn in turns:
        first, own = len(whole), set()
        for place in turn:
            for part in messages[place].parts:
                if isinstance(part, ToolCall):
                    own.add(part.id)
                elif isinstance(part, ToolResult) and part.id not in own:
                    first = min(first, called.get(part.id, first))
        merged = [place for earlier in whole[first:] for place in earlier] + turn
        del whole[first:]
        called = {name: min(number, first) for name, number in called.items()}
        called.update(dict.fromkeys(own, first))
        whole.append(merged)
    return whole


def fitted(request: Request, most: int, policy: Literal["oldest", "middle"]) -> Request:
    """`request` with turns left out until it is at most `most` tokens, estimated, or none can go.

    ``oldest`` leaves out the first turns first; ``middle`` keeps the very first, which often says what
    all is about. System messages and the last turn, from the last user's message on, always stay.
    """
    tokens = estimate_request(request)
    if tokens <= most:
        return request
    messages = request.messages
    turns = turns_of(messages)
    free = turns[1:-1] if policy == "middle" else turns[:-1]
    bare = estimate_request(replace(request, messages=()))
    gone: set[int] = set()
    for turn in free:
        part = replace(request, messages=tuple(messages[place] for place in turn))
        tokens -= estimate_request(part) - bare
        gone.update(turn)
        if tokens <= most:
            left = _without(request, gone)
            tokens = estimate_request(left)  # a sum of estimates may be off by what is rounded
            if tokens <= most:
                return left
    return _without(request, gone)


def _without(request: Request, gone: set[int]) -> Request:
    messages = request.messages
    return replace(request, messages=tuple(m for place, m in enumerate(messages) if place not in gone))
