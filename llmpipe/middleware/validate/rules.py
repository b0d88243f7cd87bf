"""The rules of a request that hold whatever the provider: what is wrong with it, all at once.

Pure functions of a request. A problem is a path (``messages[3].parts[0].id``) and what is wrong
there; no text of the request stands in it but short names, escaped and clipped.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from llmpipe.secret import scrub
from llmpipe.types import (
    Audio,
    Document,
    EmbeddingRequest,
    Image,
    Message,
    NamedTool,
    Opaque,
    Part,
    Reasoning,
    ReasoningOptions,
    Refusal,
    Request,
    RerankRequest,
    ResponseFormat,
    Text,
    Tool,
    ToolCall,
    ToolResult,
)
from llmpipe.types.json_schema import schema_problems

__all__ = (
    "Limits",
    "Problem",
    "SIZE",
    "chat_problems",
    "embedding_problems",
    "rerank_problems",
)

Problem = tuple[str, str]

SIZE = "size"
"""The path of a problem with the size of the whole."""

_ROLES = ("system", "user", "assistant", "tool")
_ROLE_NAMES = "system, user, assistant, tool"
_MISPLACED: dict[str, tuple[type, ...]] = {
    "system": (Image, Audio, Reasoning, Refusal, ToolCall, ToolResult),
    "user": (Reasoning, Refusal, ToolCall),
    "assistant": (ToolResult,),
    "tool": (Reasoning, Refusal, ToolCall),
}
# What a part says beside its text, media and arguments; each has `extra` too. All of it is sent.
_ALSO: dict[type, tuple[str, ...]] = {
    Image: ("media_type", "detail"),
    Document: ("media_type", "name", "file_id"),
    Audio: ("format",),
    Reasoning: ("signature", "encrypted"),
    ToolCall: ("id",),
    ToolResult: ("id", "name"),
    Opaque: ("dialect",),
}
# The widest of the providers' rules: OpenAI and Anthropic take [A-Za-z0-9_-], Gemini also . and :
_TOOL_NAME = re.compile(r"[A-Za-z0-9_.:\-]{1,128}")
_MAX_DEPTH = 64
_MAX_PROBLEMS = 1000  # a request of a million faults need not be read to its end


class Limits(Protocol):
    """The numbers that are a matter of choice: `Validate` has them."""

    @property
    def max_bytes(self) -> int:
        """Of text."""
        ...

    @property
    def max_media_bytes(self) -> int:
        """Of base64."""
        ...

    @property
    def max_stop(self) -> int:
        """Of stop sequences."""
        ...

    @property
    def url_schemes(self) -> tuple[str, ...]:
        """Lower case, without the colon."""
        ...


def chat_problems(request: Request, limits: Limits) -> tuple[Sequence[Problem], bool]:
    """What is wrong with a chat request, and whether it shows the model a picture."""
    check = _Check(limits)
    check.messages(request.messages)
    if request.tools or request.tool_choice is not None:
        check.tools(request)
    if request.max_tokens is not None:
        check.at_least_one("max_tokens", request.max_tokens)
    if (value := request.temperature) is not None:
        check.within("temperature", value, 0, 2)
    if (value := request.top_p) is not None:
        check.within("top_p", value, 0, 1)
    if (value := request.frequency_penalty) is not None:
        check.within("frequency_penalty", value, -2, 2)
    if (value := request.presence_penalty) is not None:
        check.within("presence_penalty", value, -2, 2)
    if request.seed is not None:
        check.is_a("seed", request.seed, int)
    if request.parallel_tool_calls is not None:
        check.is_a("parallel_tool_calls", request.parallel_tool_calls, bool)
    if request.reasoning is not None:
        check.is_a("reasoning", request.reasoning, ReasoningOptions)
    if request.stop:
        check.stop(request.stop)
    if request.response_format is not None:
        check.response_format(request.response_format)
    check.rest(request.model, request.extra, request.metadata)
    return check.found, check.vision


def embedding_problems(request: EmbeddingRequest, limits: Limits) -> Sequence[Problem]:
    """What is wrong with a request for embeddings."""
    check = _Check(limits)
    if not request.inputs:
        check.problem("inputs", "at least one input is needed")
    for at, text in enumerate(request.inputs):
        if isinstance(text, str):
            check.text(f"inputs[{at}]", text)
            if not text:
                check.problem(f"inputs[{at}]", "is empty")
        elif not _are_tokens(text):
            check.problem(f"inputs[{at}]", "must be a text or a list of token ids")
        else:
            check.size += 6 * len(text)  # digits and a comma
    if request.dimensions is not None:
        check.at_least_one("dimensions", request.dimensions)
    check.rest(request.model, request.extra, request.metadata)
    return check.found


def rerank_problems(request: RerankRequest, limits: Limits) -> Sequence[Problem]:
    """What is wrong with a request to rerank."""
    check = _Check(limits)
    if not request.query:
        check.problem("query", "is empty")
    check.text("query", request.query)
    if not request.documents:
        check.problem("documents", "at least one document is needed")
    for at, text in enumerate(request.documents):
        check.text(f"documents[{at}]", text)
    if request.top_n is not None:
        check.at_least_one("top_n", request.top_n)
    check.rest(request.model, request.extra, request.metadata)
    return check.found


class _Check:
    """What was found in one request so far, and how large it is."""

    __slots__ = ("calls", "found", "limits", "media", "size", "vision")

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self.found: list[Problem] = []
        self.size = self.media = 0
        self.vision = False
        self.calls: set[str] = set()

    def problem(self, path: str, what: str) -> None:
        self.found.append((path, what))

    def text(self, path: str, text: Any) -> None:
        """Count a text; lone surrogates cannot be sent as UTF-8 at all."""
        if not isinstance(text, str):
            self.problem(path, f"must be text, not {type(text).__name__}")
            return
        try:
            self.size += len(text) if text.isascii() else len(text.encode())
        except UnicodeEncodeError:
            self.problem(path, "has half a surrogate pair, which is no character")

    def is_a(self, path: str, value: Any, kind: type) -> bool:
        """Whether `value` is a `kind`, of which True and False are no numbers; else it is a problem."""
        if isinstance(value, kind) and (kind is bool or not isinstance(value, bool)):
            return True
        self.problem(path, f"must be a {kind.__name__}, not {_show(value)}")
        return False

    def within(self, path: str, value: Any, low: float, high: float) -> None:
        """Check a number; what is not a number (NaN too) is not within."""
        number = isinstance(value, (int, float)) and not isinstance(value, bool)
        if not number or not low <= value <= high:
            self.problem(path, f"must be between {low} and {high}, not {_show(value)}")

    def at_least_one(self, path: str, value: Any) -> None:
        """Check a count."""
        if not (type(value) is int or _is_int(value)) or value < 1:
            self.problem(path, f"must be an integer of at least 1, not {_show(value)}")

    def messages(self, messages: Sequence[Message]) -> None:
        """Check the conversation."""
        size, found = 0, self.found
        if not messages:
            self.problem("messages", "at least one message is needed")
        for at, message in enumerate(messages):
            role: str = message.role
            if role not in _ROLES:
                self.problem(f"messages[{at}].role", f"must be one of {_ROLE_NAMES}, not {_show(role)}")
                role = ""
            if message.name is not None or message.extra:
                self.more(f"messages[{at}]", message, ("name",))
            empty = True
            for position, part in enumerate(message.parts):
                # Hot path: plain text is what most messages are.
                text = part.text if type(part) is Text and not part.extra else None
                if type(text) is str and text.isascii():
                    if text:
                        empty = False
                        size += len(text)
                elif self.part(f"messages[{at}].parts[{position}]", part, role):
                    empty = False
            if empty and role != "assistant":  # models do answer nothing, and the history repeats it
                self.problem(f"messages[{at}]", "is empty")
            if found and len(found) > _MAX_PROBLEMS:
                break
        self.size += size

    def part(self, path: str, part: Part, role: str) -> bool:
        """Check one part of a message; whether it says anything."""
        if isinstance(part, _MISPLACED.get(role, ())):
            self.problem(path, f"a {role} message takes no {type(part).__name__}")
        self.more(path, part, _ALSO.get(type(part), ()))
        if isinstance(part, Text):
            self.text(path, part.text)
            return bool(part.text)
        if isinstance(part, (Reasoning, Refusal)):
            self.text(path, part.text)
        elif isinstance(part, ToolCall):
            self.calls.add(str(part.id or part.name))  # Gemini's may have no id: the name stands for it
            self.text(f"{path}.arguments", part.arguments)
            if not _is_tool_name(part.name):
                self.problem(f"{path}.name", _BAD_NAME + _show(part.name))
        elif isinstance(part, ToolResult):
            if not {str(part.id or part.name), str(part.name)} & self.calls:
                self.problem(f"{path}.id", f"answers no tool call before it: {_show(part.id or part.name)}")
            for at, inner in enumerate(part.content):
                self.part(f"{path}.content[{at}]", inner, "")
        elif isinstance(part, Opaque):
            self.weigh(path, part.data)
        else:
            self.medium(path, part)
        return True

    def medium(self, path: str, part: Image | Document | Audio) -> None:
        if isinstance(part, Audio):
            if self.is_a(f"{path}.data", part.data, str):
                self.media += len(part.data)
            return
        sources = [part.url, part.data]
        if not all(source is None or self.is_a(path, source, str) for source in sources):
            return
        if isinstance(part, Document):
            sources += [part.text, part.file_id]
            if part.text is not None:
                self.text(path, part.text)
        else:
            self.vision = True
        if sum(source is not None for source in sources) != 1:
            self.problem(path, f"needs exactly one of {'url, data, text, file_id'[: 9 * len(sources) - 9]}")
        if part.data is not None:
            self.media += len(part.data)
            if not part.media_type:
                self.problem(f"{path}.media_type", "is needed with data, such as image/png")
        if part.url is not None:
            scheme = part.url.partition(":")[0].lower()
            if scheme not in self.limits.url_schemes:
                self.problem(f"{path}.url", f"must begin with {' or '.join(self.limits.url_schemes)}:")
            if scheme == "data":
                self.media += len(part.url)
            else:
                self.text(f"{path}.url", part.url)

    def tools(self, request: Request) -> None:
        names: set[str] = set()
        for at, tool in enumerate(request.tools):
            path = f"tools[{at}]"
            if not self.is_a(path, tool, Tool):
                continue
            if tool.extra:
                self.more(path, tool, ())
            if not _is_tool_name(tool.name):
                self.problem(f"{path}.name", _BAD_NAME + _show(tool.name))
            elif tool.name in names:
                self.problem(f"{path}.name", f"{_show(tool.name)} is there twice")
            else:
                names.add(tool.name)
            self.text(f"{path}.description", tool.description)
            self.schema(f"{path}.parameters", tool.parameters, of_object=True)
        choice = request.tool_choice
        if isinstance(choice, NamedTool):
            if choice.name not in names:
                self.problem("tool_choice", f"names {_show(choice.name)}, which is none of the tools")
        elif choice == "required" and not names:
            self.problem("tool_choice", "requires a tool, and there is none")
        elif choice not in (None, "auto", "none", "required"):
            self.problem("tool_choice", f"must be auto, none, required or a NamedTool, not {_show(choice)}")

    def stop(self, stop: Sequence[str]) -> None:
        if len(stop) > self.limits.max_stop:
            self.problem("stop", f"has {len(stop)} sequences; at most {self.limits.max_stop} are allowed")
        for at, text in enumerate(stop[: self.limits.max_stop]):
            self.text(f"stop[{at}]", text)
            if not text:
                self.problem(f"stop[{at}]", "is empty")

    def response_format(self, wanted: Any) -> None:
        if not self.is_a("response_format", wanted, ResponseFormat):
            return
        self.more("response_format", wanted, ("name", "description"))
        if wanted.type not in ("text", "json", "json_schema"):
            self.problem(
                "response_format.type", f"must be text, json or json_schema, not {_show(wanted.type)}"
            )
        if wanted.schema is not None or wanted.type == "json_schema":
            self.schema("response_format.schema", wanted.schema, of_object=False)

    def schema(self, path: str, schema: Any, *, of_object: bool) -> None:
        self.found += (problems := schema_problems(schema, path, of_object=of_object))
        if not problems:
            self.weigh(path, schema)

    def rest(self, model: Any, extra: Mapping[str, Any], metadata: Mapping[str, Any]) -> None:
        """What every kind of request has; and the verdict on the size of it all."""
        # Without this a line break in a model's name travels into URLs, headers and logs.
        if not isinstance(model, str) or not model.isprintable() or len(model) > 256:
            self.problem("model", "must be at most 256 printable characters")
        if extra and self.is_a("extra", extra, Mapping):
            self.weigh("extra", extra)
        if metadata and self.is_a("metadata", metadata, Mapping):
            self.weigh("metadata", metadata)
        if self.size > self.limits.max_bytes:
            self.problem(SIZE, f"{self.size:,} bytes of text; at most {self.limits.max_bytes:,} are allowed")
        if self.media > self.limits.max_media_bytes:
            self.problem(
                SIZE, f"{self.media:,} bytes of media; at most {self.limits.max_media_bytes:,} are allowed"
            )

    def more(self, path: str, owner: Any, names: tuple[str, ...]) -> None:
        """Count the fields `names` of `owner`, and what it passes through."""
        for name in names:
            if (value := getattr(owner, name)) is not None:
                self.text(f"{path}.{name}", value)
        if extra := getattr(owner, "extra", None):
            self.weigh(f"{path}.extra", extra)

    def weigh(self, path: str, value: Any, depth: int = 0) -> None:
        """Count the text in a tree of JSON."""
        if depth > _MAX_DEPTH:
            self.problem(path, f"is nested more than {_MAX_DEPTH} deep")
        elif isinstance(value, str):
            self.text(path, value)
        elif isinstance(value, Mapping):
            for key, item in value.items():
                self.text(path, key)
                self.weigh(path, item, depth + 1)
        elif isinstance(value, (list, tuple)):
            for item in value:
                self.weigh(path, item, depth + 1)
        else:
            self.size += 4  # a number, true or null


_BAD_NAME = "must be 1 to 128 letters, digits, _ - . or :, not "


def _is_tool_name(value: Any) -> bool:
    return isinstance(value, str) and _TOOL_NAME.fullmatch(value) is not None


def _are_tokens(value: Any) -> bool:
    return isinstance(value, Sequence) and bool(value) and all(map(_is_int, value))


def _is_int(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _show(value: Any) -> str:
    """`value` fit for a message: escaped, clipped, without credentials."""
    text = repr(value) if isinstance(value, (str, int, float)) else type(value).__name__
    return scrub(text if len(text) <= 60 else text[:60] + "…")
