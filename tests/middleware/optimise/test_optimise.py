"""The prompt optimiser: fewer tokens, the same meaning, and nothing that is not prose is touched."""

from __future__ import annotations

import json
from time import process_time
from typing import Any

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from llmpipe.errors import ConfigError, ContextTooLong
from llmpipe.middleware.optimise import Optimise
from llmpipe.middleware.optimise.prose import squeezed
from llmpipe.middleware.optimise.turns import turns_of
from llmpipe.pipeline.chain import Chain
from llmpipe.pipeline.registry import build
from llmpipe.providers.mock import MockProvider
from llmpipe.testing.conform import conform
from llmpipe.tokens import estimate_request
from llmpipe.types import (
    Document,
    Image,
    Message,
    Opaque,
    Reasoning,
    Request,
    Text,
    Tool,
    ToolCall,
    ToolResult,
)

# ---------------------------------------------------------------- prose


@pytest.mark.parametrize(
    ("text", "short"),
    [
        ("one  two   three", "one two three"),
        ("one \ntwo\t\nthree", "one\ntwo\nthree"),
        ("one\n\n\n\ntwo", "one\n\ntwo"),
        ("one\n  \n \t\n\ntwo", "one\n\ntwo"),
        ("one\r\n\r\n\r\n\r\ntwo  three", "one\r\n\r\ntwo three"),
        ("A sentence.  Another.  A third.\nAnd more.  Yes.", "A sentence. Another. A third.\nAnd more. Yes."),
        ("- a  list\n  - within it", "- a list\n  - within it"),
        ("> quoted  text", "> quoted text"),
        ("ends with a space ", "ends with a space "),
        (" begins with one", " begins with one"),
        ("\n\n\n\nbegins with lines", "\n\nbegins with lines"),
        ("ends with lines\n\n\n\n", "ends with lines\n\n"),
        ("a\u00a0\u00a0b \u3000 c", "a\u00a0\u00a0b \u3000 c"),
        ("", ""),
        (" ", " "),
        ("   ", "   "),
    ],
)
def test_prose_loses_what_says_nothing(text, short):
    assert squeezed(text) == short
    assert squeezed(short) == short


KEPT = [
    "```python\nx  =  1\n\n\n\ny   # end  \n```",
    "~~~\na   b\n```\nc   d\n\n\n~~~",
    "````\n```\na   b\n```\n\n\n````",
    "    indented  code\n\n\n\n    goes  on",
    "\tx  =  1  ",
    "  \ty  =  2  ",
    "- item\n  ```\n  a   b\n\n\n  ```",
    "> ```\n> a   b\n> ```",
    "1. ```\n   a   b\n   ```",
    '```python\ndef f():\n    """\n    ```\n    """\nx  =  1   # one\n```',
    "```yaml\nrun: |\n    ```\nkey:    value\n\n\n\nother:  v\n```",
    "```\n>>> a  = 1\n> ```\nb  = 2\n```",
    "  ```\n      ```\na   b\n  ```",
    "use `a   b` here",
    "| a   | b  |\n|-----|----|\n| 1   | 2  |",
    "PID   USER    CMD\n1     root    init\n200   alice   bash",
    '{"a":   1,\n\n\n "b":  [1,   2]}',
    "so: {\n  1,   2\n\n\n  3   4\n}",
    "[1,   2,\n 3,    4]",
    '{"text": "unbalanced } in  a string",\n  "more":   1}',
    "<pre>\na   b\n\n\n\nc   d\n</pre>",
    '<code class="x">a   b</code>',
    "<SCRIPT>\nvar  a\n\n\n</script>",
    "a\\  b",
    "tab\tseparated  values",
]


@pytest.mark.parametrize("code", KEPT)
def test_what_may_not_be_prose_stays_to_the_byte(code):
    assert squeezed(code, repeats=True) == code
    text = f"Look  at this:\n\n\n\n{code}\n\n\n\nAnd  now?"
    assert squeezed(text, repeats=True) == f"Look at this:\n\n{code}\n\nAnd now?"


@pytest.mark.parametrize("opening", ["```\n", "~~~\n", "<pre>\n", "{", "[ "])
def test_what_is_never_closed_protects_the_rest(opening):
    text = f"before\n{opening}after  it\n\n\n\nall  of it "
    assert squeezed(text) == text


def test_after_the_end_of_a_block_prose_is_prose_again():
    assert squeezed("```\na   b\n```\nc   d") == "```\na   b\n```\nc d"
    assert squeezed("- x\n  ```\na   b\n ```\nc   d") == "- x\n  ```\na   b\n ```\nc d"
    assert squeezed("> ```\n> a   b\n>```\nc   d") == "> ```\n> a   b\n>```\nc d"
    assert squeezed("```a   b```\nc   d") == "```a   b```\nc d"  # inline, and not a fence
    assert squeezed("[1] is a  note\nc   d") == "[1] is a  note\nc d"
    assert squeezed('5" wide {a  b}\nc   d') == '5" wide {a  b}\nc d'


LONG = "A paragraph that says something at length, and then says it again."


def test_a_paragraph_that_comes_again_is_left_out_where_that_is_asked_for():
    text = f"{LONG}\n\nAnother.\n\n{LONG}\n\nThe end."
    assert squeezed(text, repeats=True) == f"{LONG}\n\nAnother.\n\nThe end."
    assert squeezed(text) == text
    assert squeezed(text, spaces=False, repeats=True) == f"{LONG}\n\nAnother.\n\n\nThe end."


@pytest.mark.parametrize(
    "text",
    [
        "Short.\n\nShort.",
        f"{LONG[:-1]}:\n\n`a`\n\n{LONG[:-1]}:\n\n`b`",
        f"```\n{LONG}\n\n{LONG}\n```",
        f"{LONG}\n\n{LONG}\n```\ncode\n```",
    ],
)
def test_headings_introductions_and_code_may_come_again(text):
    assert squeezed(text, repeats=True) == text


prose = st.lists(
    st.sampled_from(
        ["word", "two  words", "end. ", " lead", "", "  ", "a\tb", LONG, "x:", "\r", "{", "]", "`"]
    ),
    max_size=8,
).map("\n".join)
blocks = st.sampled_from(KEPT)
texts = st.one_of(st.text(" \n\t\r`~{}[]\"'\\|<>ab.:-#>", max_size=60), prose)


@settings(max_examples=400)
@given(texts | st.lists(blocks | prose, max_size=6).map("\n\n".join), st.booleans(), st.booleans())
def test_squeezing_twice_changes_nothing_and_no_word_is_lost(text, spaces, repeats):
    short = squeezed(text, spaces=spaces, repeats=repeats)
    assert squeezed(short, spaces=spaces, repeats=repeats) == short
    assert len(short) <= len(text)
    if not repeats:
        assert short.split() == text.split()


@settings(max_examples=200)
@given(st.lists(st.tuples(st.text("ab. \n", max_size=20), blocks), min_size=1, max_size=5))
def test_every_block_of_code_is_still_there_in_its_order(pieces):
    text = "".join(f"{before}\n\n{code}\n\nand\n\n" for before, code in pieces)
    short, at = squeezed(text, repeats=True), 0
    for _, code in pieces:
        at = short.index(code, at) + len(code)


@settings(max_examples=100)
@given(
    st.recursive(
        st.integers() | st.text(max_size=8) | st.none(),
        lambda inner: st.lists(inner, min_size=1) | st.dictionaries(st.text(max_size=5), inner, min_size=1),
        max_leaves=8,
    ),
    st.integers(0, 6),
    st.booleans(),
)
def test_json_in_prose_stays_as_it_is(value, indent, inline):
    assume(isinstance(value, list | dict))
    told = json.dumps(value, indent=indent)
    text = f"Data:  see{' ' if inline else chr(10)}{told}\n\n\n\nThanks  all"
    short = squeezed(text)
    assert told in short
    assert short.endswith("Thanks all")


@pytest.mark.parametrize(
    "unit",
    ["a  b \n\n\n", "[", "{\n", "```\n", "    x\n\n", '"', "<pre", "\n", " ", "a   b\n", LONG + "\n\n"],
)
def test_the_time_it_takes_grows_with_the_length_only(unit):
    def spent(size: int) -> float:
        text, best = unit * (size // len(unit)), 1e9
        for _ in range(3):
            begun = process_time()
            squeezed(text, repeats=True)
            best = min(best, process_time() - begun)
        return best

    assert spent(400_000) < 40 * spent(40_000) + 0.02  # ten times is linear, a hundred is quadratic


# ---------------------------------------------------------------- messages


def optimised(*messages: Message, **options: Any) -> Any:
    return Optimise(**options).optimised(Request("m", messages))


WIDE = "wide   text \n\n\n\nwith  room"


def test_only_text_of_messages_changes():
    messages = (
        Message("system", WIDE),
        Message(
            "user",
            [
                Text(WIDE, {"cache_control": {"type": "ephemeral"}}),
                Image(url="https://a/b"),
                Document(text=WIDE),
            ],
        ),
        Message("assistant", [Reasoning(WIDE), Text(WIDE), ToolCall("1", "f", '{"a":   1}')]),
        Message("tool", [ToolResult("1", WIDE)]),
        Message("user", [Opaque("openai.chat", {"text": WIDE})]),
    )
    request = Request("m", messages, tools=[Tool("f", WIDE, {"description": WIDE})])
    short = Optimise().optimised(request)
    assert short.tools == request.tools
    for old, new in zip(messages, short.messages, strict=True):
        for part, told in zip(old.parts, new.parts, strict=True):
            if type(part) is Text:
                assert told == Text("wide text\n\nwith room", part.extra)
            else:
                assert told is part


@pytest.mark.parametrize("proof", [Reasoning("", "signature"), Reasoning(encrypted="x")])
def test_a_message_with_a_proof_is_left_alone(proof):
    message = Message("assistant", [proof, Text(WIDE)])
    assert optimised(message).messages[0] is message
    assert len(optimised(message, message).messages) == 2


def test_a_request_without_anything_to_save_is_the_same_object():
    request = Request("m", [Message("system", "Be brief."), Message("user", "Hello.\n\nHow are you?")])
    assert Optimise(max_input_tokens=1000).optimised(request) is request


def test_a_message_that_is_said_twice_is_sent_once():
    hi, ho = Message("user", "hi"), Message("assistant", "ho")
    assert optimised(hi, hi, ho, hi).messages == (hi, ho, hi)
    assert optimised(hi, Message("user", "hi "), hi, repeated_messages=False).messages[0] is hi
    assert len(optimised(hi, hi, repeated_messages=False).messages) == 2
    call = Message("assistant", [ToolCall("1", "f")])
    result = Message("tool", [ToolResult("1", "x")])
    assert len(optimised(hi, call, call, result, result).messages) == 5


def test_paragraphs_are_compared_in_system_messages_only_unless_asked():
    text = f"{LONG}\n\n{LONG}"
    short = optimised(Message("system", text), Message("user", text))
    assert [message.text for message in short.messages] == [f"{LONG}\n", text]
    both = optimised(Message("user", text), repeated_paragraphs=("user",))
    assert both.messages[0].text == f"{LONG}\n"


# ---------------------------------------------------------------- the budget


def said(role: Any, text: str) -> Message:
    return Message(role, text)


CONVERSATION = (
    said("system", "Be brief."),
    said("user", "first question " * 20),
    said("assistant", "first answer " * 20),
    said("user", "second question " * 20),
    Message("assistant", [ToolCall("1", "look", "{}")]),
    Message("tool", [ToolResult("1", "found " * 20)]),
    said("assistant", "second answer " * 20),
    said("user", "third question " * 20),
    said("assistant", "third answer " * 20),
    said("user", "last question"),
)


def tokens(*messages: Message) -> int:
    return estimate_request(Request("m", messages))


def test_the_oldest_turns_go_first_and_whole():
    most = tokens(*CONVERSATION) - 1
    short = optimised(*CONVERSATION, max_input_tokens=most)
    assert short.messages == (CONVERSATION[0], *CONVERSATION[3:])
    short = optimised(*CONVERSATION, max_input_tokens=tokens(*short.messages) - 1)
    assert short.messages == (CONVERSATION[0], *CONVERSATION[7:])
    short = optimised(*CONVERSATION, max_input_tokens=tokens(*short.messages) - 1)
    assert short.messages == (CONVERSATION[0], CONVERSATION[9])


def test_from_the_middle_the_first_turn_stays():
    most = tokens(*CONVERSATION) - 1
    short = optimised(*CONVERSATION, max_input_tokens=most, truncate="middle")
    assert short.messages == (*CONVERSATION[:3], *CONVERSATION[7:])


def test_what_cannot_be_shortened_is_refused_or_sent_as_it_was_asked():
    with pytest.raises(ContextTooLong, match="about") as caught:
        optimised(*CONVERSATION, max_input_tokens=3)
    assert (caught.value.sent, caught.value.code, caught.value.rescue) == (
        False,
        "max_input_tokens",
        "context",
    )
    short = optimised(*CONVERSATION, max_input_tokens=3, overflow="send")
    assert short.messages == (CONVERSATION[0], CONVERSATION[9])


def test_the_last_turn_keeps_its_tool_calls():
    messages = (*CONVERSATION[:9], said("user", "go"), *CONVERSATION[4:6])
    short = optimised(*messages, max_input_tokens=1, overflow="send")
    assert short.messages == (CONVERSATION[0], said("user", "go"), *CONVERSATION[4:6])


def test_a_result_that_comes_a_turn_later_binds_the_turns():
    messages = [
        said("user", "a"),
        Message("assistant", [ToolCall("1", "f"), ToolCall("2", "g")]),
        said("user", "wait"),
        Message("tool", [ToolResult("1", "x")]),
        said("user", "b"),
        Message("user", [ToolResult("2", "y")]),
        said("assistant", "ok"),
        said("user", "c"),
    ]
    assert turns_of(messages) == [[0, 1, 2, 3, 4, 5, 6], [7]]


roles = st.sampled_from(["system", "user", "assistant", "call", "result"])


@settings(max_examples=200)
@given(
    st.lists(st.tuples(roles, st.integers(0, 3), st.sampled_from(["a", "b  c", LONG])), max_size=14),
    st.integers(1, 120),
    st.sampled_from(["oldest", "middle"]),
)
def test_any_conversation_keeps_its_frame_and_its_pairs(script, most, policy):
    messages, calls = [], set()
    for role, number, text in script:
        if role == "call":
            calls.add(str(number))
            messages.append(Message("assistant", [Text(text), ToolCall(str(number), "f")]))
        elif role == "result":
            if str(number) in calls:
                messages.append(Message("tool", [ToolResult(str(number), text)]))
        else:
            messages.append(Message(role, text))
    optimiser = Optimise(max_input_tokens=most, truncate=policy, overflow="send")
    request = Request("m", messages)
    short = optimiser.optimised(request)
    assert optimiser.optimised(short) == short
    assert estimate_request(short) <= estimate_request(request)
    plain = Optimise().optimised(request).messages
    if messages:  # the last turn
        assert short.messages[-1] == plain[-1]
    last = next((m for m in reversed(plain) if m.role == "user"), None)
    assert last is None or last in short.messages
    systems = {m.text for m in plain if m.role == "system"}
    assert {m.text for m in short.messages if m.role == "system"} == systems
    there = {part.id for m in short.messages for part in m.parts if isinstance(part, ToolCall)}
    for message in short.messages:
        for part in message.parts:
            assert not isinstance(part, ToolResult) or part.id in there
    if estimate_request(short) > most:
        kept = turns_of(short.messages)
        assert len(kept) <= (1 if policy == "oldest" else 2)


# ---------------------------------------------------------------- in a chain


async def test_the_provider_gets_the_shorter_request_and_the_ledger_says_what_was_saved():
    seen: list = []

    class Watch:
        name, priority = "watch", 100

        async def __call__(self, call, call_next):
            seen.append(call.ledger)
            return await call_next(call)

    chain: Any = Chain(MockProvider(default="ok"), Optimise(max_input_tokens=100), Watch())
    request = Request("m", CONVERSATION)
    await chain.complete(request)
    sent = chain.provider.requests[0]
    assert sent.messages == (CONVERSATION[0], CONVERSATION[9])
    (note,) = seen[0].notes
    saved = estimate_request(request) - estimate_request(sent)
    assert (note.kind, dict(note.detail)) == ("optimise.saved", {"tokens": saved, "messages": 8})
    await chain.complete("Nothing to save.")
    assert seen[1].notes == []


async def test_embeddings_and_rankings_are_data():
    chain: Any = Chain(MockProvider(default="ok"), Optimise())
    await chain.embed([WIDE])
    await chain.rerank(WIDE, [WIDE])
    assert chain.provider.requests[0].inputs == (WIDE,)
    assert chain.provider.requests[1].documents == (WIDE,)


@pytest.mark.real_time
async def test_a_long_request_is_worked_on_in_a_thread(monkeypatch):
    import threading

    threads: list[bool] = []
    plain = Optimise.optimised

    def watched(self, request):
        threads.append(threading.current_thread() is threading.main_thread())
        return plain(self, request)

    monkeypatch.setattr(Optimise, "optimised", watched)
    chain: Any = Chain(MockProvider(default="ok"), Optimise(thread_above=1000))
    await chain.complete("a  b " * 200)
    await chain.complete("a  b " * 201)
    assert threads == [True, False]
    assert chain.provider.requests[1].messages[0].text == ("a b " * 201).removesuffix(" ") + " "


async def test_it_keeps_the_laws_of_the_pipeline():
    requests = [Request("m", [Message("user", WIDE)]), Request("m", CONVERSATION)]
    report = await conform(lambda: Optimise(max_input_tokens=100), requests=requests)
    assert report.cancellations > 100


@pytest.mark.parametrize(
    "options",
    [
        {"max_input_tokens": 0}, {"truncate": "newest"}, {"overflow": "cut"}, {"thread_above": "x"},
        {"repeated_paragraphs": ("tool",)},
    ],
)  # fmt: skip
def test_wrong_settings_are_refused(options):
    with pytest.raises(ConfigError, match=next(iter(options))):
        Optimise(**options)


def test_it_is_built_by_name():
    built = build("optimise", {"max_input_tokens": 10, "repeated_paragraphs": ["user"]})
    assert built == Optimise(max_input_tokens=10, repeated_paragraphs=("user",))
