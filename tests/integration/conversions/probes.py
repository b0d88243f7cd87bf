"""One request for each field that a request has: what a dialect makes of it shows its policy."""

from __future__ import annotations

from typing import Any

from attrs import evolve, frozen

from llmpipe.types import (
    Audio,
    Document,
    Image,
    Message,
    NamedTool,
    Opaque,
    Part,
    Reasoning,
    ReasoningOptions,
    Refusal,
    Request,
    ResponseFormat,
    Text,
    Tool,
    ToolCall,
    ToolResult,
)
from tests.integration.conversions.bodies import CITY, PNG, URL, WEATHER

__all__ = ("PROBES", "Probe")

PDF = "JVBERi0xLjQK"
MARK = {"cache_control": {"type": "ephemeral"}}
USER = Message("user", "Hello")
TOOL = Tool("get_weather", "The weather", WEATHER)
CALL = ToolCall("call_1", "get_weather", '{"city":"Paris"}')
SAID = ToolResult("call_1", "12 degrees", name="get_weather")


@frozen
class Probe:
    """`request` has one thing more than `base`, the one that `name` names."""

    group: str
    name: str
    base: Request
    request: Request


PROBES: list[Probe] = []
BASE = Request("m", [USER], max_tokens=300)
WITH_TOOL = evolve(BASE, tools=[TOOL])


def _add(group: str, label: str, base: Request, /, **fields: Any) -> None:
    PROBES.append(Probe(group, label, base, evolve(base, **fields)))


def _field(name: str, value: Any, base: Request = BASE, label: str = "") -> None:
    _add("Request", label or f"`{name}`", base, **{name: value})


_field("model", "other-model")
_field("tools", [TOOL])
_field("tool_choice", "auto", WITH_TOOL, "`tool_choice` auto")
_field("tool_choice", "none", WITH_TOOL, "`tool_choice` none")
_field("tool_choice", "required", WITH_TOOL, "`tool_choice` required")
_field("tool_choice", NamedTool("get_weather"), WITH_TOOL, "`tool_choice` one tool")
_field("parallel_tool_calls", True, WITH_TOOL, "`parallel_tool_calls` True")
_field("parallel_tool_calls", False, WITH_TOOL, "`parallel_tool_calls` False")
_field("temperature", 0.5)
_field("temperature", 1.5, evolve(BASE, temperature=0.5), "`temperature` above 1")
_field("top_p", 0.5)
_field("max_tokens", 301)
_field("stop", ("END",))
_field("seed", 7)
_field("frequency_penalty", 0.5)
_field("presence_penalty", 0.5)
_field("stream", True)
_field("metadata", {"trace": "1"})
_field("extra", {"zebra": 1}, label="`extra`, in nobody's words")
FOREIGN = evolve(BASE, dialect="another")
_field("extra", {"zebra": 1}, FOREIGN, "`extra`, another dialect's")
_field("extra", {"n": 2}, FOREIGN, "`extra`, another dialect's: `n` above 1")
_field("extra", {"previous_response_id": "r"}, FOREIGN, "`extra`, another's: `previous_response_id`")
_field("response_format", ResponseFormat("json"), label="`response_format` json")
FORM = ResponseFormat("json_schema", CITY)
SCHEMA = evolve(BASE, response_format=FORM)
_field("response_format", ResponseFormat("json_schema", CITY), label="`response_format` json_schema")
for _name, _value in (("name", "city"), ("strict", True), ("description", "A city")):
    _add(
        "ResponseFormat",
        f"`{_name}`",
        SCHEMA,
        response_format=evolve(FORM, **{_name: _value}),
    )
for _label, _options in (
    ("`effort` low", ReasoningOptions("low")),
    ("`effort` none", ReasoningOptions("none")),
    ("`max_tokens`", ReasoningOptions(max_tokens=1024)),
    ("`enabled` True", ReasoningOptions(enabled=True)),
    ("`enabled` False", ReasoningOptions(enabled=False)),
):
    _add("ReasoningOptions", _label, evolve(BASE, max_tokens=3000), reasoning=_options)
for _label, _tool in (
    ("`description`", evolve(TOOL, description="Another")),
    ("`parameters`", evolve(TOOL, parameters=CITY)),
    ("`strict` True", evolve(TOOL, strict=True)),
    ("`extra`, another dialect's", evolve(TOOL, extra={"zebra": 1})),
    ("`extra`, another's: `cache_control`", evolve(TOOL, extra=MARK)),
    ("a tool that another provider runs", Tool("search", extra={"type": "web_search"})),
):
    _add(
        "Tool",
        _label,
        evolve(WITH_TOOL, dialect="openai.chat" if "runs" in _label else "another"),
        tools=[_tool],
    )


def _said(
    group: str, label: str, *parts: Part, role: Any = "user", base: Part | None = None, **more: Any
) -> None:
    """`parts` after a text, in a message of that role."""
    first: tuple[Part, ...] = (Text("Look:"),) if base is None else (base,)
    before = Message(role, first, dialect=more.get("dialect", ""))
    messages = [USER] if role == "assistant" else []
    after = [USER] if role in ("assistant", "system") else []
    whole = first + parts if base is None else parts
    _add(
        group,
        label,
        evolve(BASE, messages=[*messages, before, *after]),
        messages=[*messages, Message(role, whole, **more), *after],
    )


_said("Message", "role `system` at the start", Text("Be brief."), role="system")
_add(
    "Message",
    "role `system` later",
    BASE,
    messages=[USER, Message("assistant", "Hi"), Message("system", "Be brief."), USER],
)
_said("Message", "`name`", Text("Look:"), base=Text("Look:"), name="ann")
_said(
    "Message",
    "`extra`, another dialect's",
    Text("Look:"),
    base=Text("Look:"),
    extra={"zebra": 1},
    dialect="another",
)
_said("User's parts", "`Text`", Text("more"))
_said(
    "User's parts",
    "`Text.extra`, another's: `cache_control`",
    Text("Look:", MARK),
    base=Text("Look:"),
    dialect="another",
)
_said("User's parts", "`Image` by `url`", Image(URL))
_said("User's parts", "`Image` by `data`", Image(data=PNG, media_type="image/png"))
_said("User's parts", "`Image.detail` auto", Image(data=PNG, detail="auto"), base=Image(data=PNG))
_said("User's parts", "`Image.detail` low", Image(data=PNG, detail="low"), base=Image(data=PNG))
_said(
    "User's parts", "`Document` by `url`", Document("https://x.example/a.pdf", media_type="application/pdf")
)
_said("User's parts", "`Document` by `data`", Document(data=PDF, media_type="application/pdf"))
_said("User's parts", "`Document` of `text`", Document(text="Once upon a time"))
_said("User's parts", "`Document` by `file_id`", Document(file_id="file-1", media_type="application/pdf"))
_said("User's parts", "`Document.name`", Document(data=PDF, name="a.pdf"), base=Document(data=PDF))
_said("User's parts", "`Audio`", Audio(PDF, "wav"))
_said("User's parts", "`Opaque`, another dialect's", Opaque("another", {"type": "zebra"}))
_said("Assistant's parts", "`Text`", Text("more"), role="assistant")
_said("Assistant's parts", "`Reasoning` without a proof", Reasoning("hm"), role="assistant")
_said(
    "Assistant's parts",
    "`Reasoning` that another signed",
    Reasoning("hm", "c2ln", origin="another"),
    role="assistant",
    dialect="another",
)
_said(
    "Assistant's parts",
    "`Reasoning` that another encrypted",
    Reasoning("", None, "c2ln", origin="another"),
    role="assistant",
    dialect="another",
)
_said("Assistant's parts", "`Refusal`", Refusal("No."), role="assistant")
_said("Assistant's parts", "`Image`", Image(data=PNG, media_type="image/png"), role="assistant")
_said(
    "Assistant's parts", "`Opaque`, another dialect's", Opaque("another", {"type": "zebra"}), role="assistant"
)


def _called(
    name: str,
    *,
    call: ToolCall = CALL,
    base: ToolResult = SAID,
    result: ToolResult = SAID,
    group: str = "Tools' parts",
) -> None:
    def talk(one: ToolResult) -> list[Message]:
        return [USER, Message("assistant", call), Message("tool", one)]

    _add(group, name, evolve(WITH_TOOL, messages=talk(base)), messages=talk(result))


_add(
    "Assistant's parts",
    "`ToolCall`",
    WITH_TOOL,
    messages=[USER, Message("assistant", CALL), Message("tool", SAID)],
)
_called("`ToolResult.content`", result=evolve(SAID, content="13 degrees"))
_called("`ToolResult.is_error`", result=evolve(SAID, is_error=True))
_called(
    "`ToolResult` with an `Image`",
    result=evolve(SAID, content=(Text("12 degrees"), Image(data=PNG, media_type="image/png"))),
)
_called(
    "`ToolResult` with a `Document`",
    result=evolve(SAID, content=(Text("12 degrees"), Document(data=PDF, media_type="application/pdf"))),
)
