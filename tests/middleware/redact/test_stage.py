"""The masking stage: part by part, in order, the same for whole replies and for streams."""

from __future__ import annotations

from collections.abc import Iterable

from hypothesis import given
from hypothesis import strategies as st

from llmpipe.middleware.redact import Masker, Scanner
from llmpipe.middleware.redact.masking import mask_json
from llmpipe.types import (
    Completion,
    Event,
    Extra,
    Finish,
    Message,
    Opaque,
    Ping,
    Reasoning,
    ReasoningDelta,
    Refusal,
    RefusalDelta,
    Start,
    Text,
    TextDelta,
    ToolCall,
    ToolDelta,
    Usage,
    UsageUpdate,
    fold,
    unfold,
)

SCANNER = Scanner()
SECRETS = ("john.doe@example.com", "+1 415 555 2671", "4111 1111 1111 1111", "sk-abcdef1234567890abcdef")
WORDS = st.sampled_from(["call ", "me at ", "say", " ", "\n", "x", ". ", *SECRETS])
TEXTS = st.lists(WORDS, max_size=6).map(" ".join)
PARTS = st.lists(
    st.one_of(
        TEXTS.map(Text),
        TEXTS.map(Reasoning),
        TEXTS.map(Refusal),
        TEXTS.map(
            lambda text: ToolCall(
                "id", "tool", '{"a": "' + text.replace("\n", " ") + '", "n": 4111111111111111}'
            )
        ),
    ),
    max_size=5,
).map(tuple)


def through(events: Iterable[Event]) -> list[Event]:
    masker = Masker(SCANNER)
    return [*(later for event in events for later in masker.feed(event)), *masker.flush()]


def chunked(event: Event, sizes: list[int]) -> list[Event]:
    """`event` as several: its text in pieces of those sizes, what else it has with the first."""
    if not isinstance(event, TextDelta | ReasoningDelta | RefusalDelta | ToolDelta):
        return [event]
    text = event.arguments if isinstance(event, ToolDelta) else event.text
    pieces, place = [], 0
    while place < len(text) or not pieces:
        size = sizes[len(pieces) % len(sizes)]
        pieces.append(text[place : place + size])
        place += size
    if isinstance(event, ToolDelta):
        first = ToolDelta(event.index, event.id, event.name, pieces[0])
        return [first, *(ToolDelta(event.index, arguments=piece) for piece in pieces[1:])]
    return [type(event)(piece, event.index) for piece in pieces]


def masked(part):
    if isinstance(part, ToolCall):
        return ToolCall(part.id, part.name, mask_json(SCANNER, part.arguments))
    return type(part)(SCANNER.mask(part.text))


@given(PARTS, st.lists(st.integers(1, 9), min_size=1, max_size=5))
def test_r1_a_reply_in_any_chunks_is_masked_as_its_parts_are(parts, sizes):
    done = Completion("1", "m", Message("assistant", parts), "stop", Usage(1, 2))
    events = [piece for event in unfold(done) for piece in chunked(event, sizes)]
    wanted = tuple(masked(part) for part in parts)
    assert fold(through(events)).message.parts == wanted
    assert fold(through(unfold(done))).message.parts == wanted
    for secret in SECRETS:
        assert not any(secret in str(event) for event in through(events))


@given(PARTS, st.lists(st.integers(1, 9), min_size=1, max_size=5))
def test_events_keep_their_order_and_finish_comes_after_all_text(parts, sizes):
    done = Completion("1", "m", Message("assistant", parts), "stop", Usage(1, 2))
    events = [piece for event in unfold(done) for piece in chunked(event, sizes)]
    out = through(events)

    def order(stream):  # in which order parts begin, and where what is no text stands
        seen = [(type(e), getattr(e, "index", 0)) for e in stream if getattr(e, "text", " ") != ""]
        return list(dict.fromkeys(seen))

    assert order(out) == order(events)
    assert sum(type(event) is Finish for event in out) == 1


def test_events_without_anything_to_mask_pass_as_the_same_objects():
    events: list[Event] = [
        Start("1", "m", extra={"a": "b"}),
        TextDelta("The sky is blue. \n"),
        TextDelta("So it is, says he. \n", extra={"citations": []}),
        ReasoningDelta("", signature="abc"),
        Ping(),
        ToolDelta(0, "id", "look", '{"city": "Paris"}'),
        Extra({"x": 1}),
        Extra(part=Opaque("d", {"x": ["y"]})),
        UsageUpdate(Usage(1, 2)),
        Finish("stop"),
    ]
    assert all(one is other for one, other in zip(through(events), events, strict=True))


def test_held_text_goes_out_before_another_part_begins():
    out = through([TextDelta("ask john"), ToolDelta(0, "1", "mail", "{}"), Finish("tool_calls")])
    assert out == [
        TextDelta("ask "),
        TextDelta("john"),
        ToolDelta(0, "1", "mail", "{}"),
        Finish("tool_calls"),
    ]


def test_a_text_that_goes_on_after_another_part_still_hides_the_rest():
    out = through(
        [TextDelta("ask john"), ReasoningDelta("hm "), TextDelta("@example.com now"), Finish("stop")]
    )
    assert fold(out).text == "ask john[EMAIL] now"


def test_arguments_of_interleaved_tool_calls_are_masked_each_by_itself():
    events = [
        ToolDelta(0, "1", "mail", '{"to": "john'),
        ToolDelta(1, "2", "mail", '{"to": "ann@'),
        ToolDelta(0, arguments='@example.com"}'),
        ToolDelta(1, arguments='example.org"}'),
        Finish("tool_calls"),
    ]
    assert [call.arguments for call in fold(through(events)).tool_calls] == ['{"to": "[EMAIL]"}'] * 2


def test_pings_and_usage_do_not_let_go_of_held_text():
    out = through(
        [TextDelta("john@exa"), Ping(), UsageUpdate(Usage(1)), TextDelta("mple.com "), Finish("stop")]
    )
    assert fold(out).text == "[EMAIL] "


def test_what_an_event_carries_beside_its_text_is_kept_and_masked():
    event = TextDelta("john", extra={"citations": [{"url": "https://x.org/?mail=a@b.org"}]})
    out = through([event, TextDelta("@example.com"), Finish("stop", extra={"note": "to a@b.org"})])
    assert fold(out).text == "[EMAIL]"
    assert out[0] == TextDelta("", extra={"citations": [{"url": "https://x.org/?mail=[EMAIL]"}]})
    assert out[-1] == Finish("stop", extra={"note": "to [EMAIL]"})


def test_parts_that_come_whole_are_masked():
    part = Opaque("openai.responses", {"results": [{"text": "a@b.org"}]})
    out = through([Start("1", extra={"echo": "a@b.org"}), Extra({"k": "a@b.org"}, part), Finish("stop")])
    assert out[0] == Start("1", extra={"echo": "[EMAIL]"})
    assert out[1] == Extra({"k": "[EMAIL]"}, Opaque("openai.responses", {"results": [{"text": "[EMAIL]"}]}))


def test_log_probabilities_do_not_spell_out_what_is_masked():
    logprobs = {"content": [{"token": "john"}, {"token": "@example.com"}]}
    out = through([Start("1", extra={"logprobs": logprobs, "a": 1}), Extra({"logprobs": logprobs})])
    assert out == [Start("1", extra={"a": 1}), Extra({})]


def test_a_refusal_is_masked():
    assert (
        fold(through([RefusalDelta("I will not mail a@b."), RefusalDelta("org")])).refusal
        == "I will not mail [EMAIL]"
    )


def test_at_the_end_it_tells_once_what_it_masked():
    told: list[dict[str, int]] = []
    masker = Masker(SCANNER, lambda found: told.append(dict(found)))
    for event in (
        Start("1", extra={"echo": "c@d.org"}),
        TextDelta("a@b.org "),
        ToolDelta(0, "1", "f", '"4111111111111111"'),
    ):
        masker.feed(event)
    masker.feed(Finish("stop"))
    masker.flush()
    assert told == [{"email": 2, "credit_card": 1}]
    clean: list[object] = []
    Masker(SCANNER, clean.append).feed(Finish("stop"))
    assert clean == []
