"""Placeholders: R3, what was hidden comes back, and only from one's own vault."""

from __future__ import annotations

import json
from random import Random

from hypothesis import given
from hypothesis import strategies as st

from llmpipe.middleware.redact import Scanner, Vault
from llmpipe.middleware.redact.vault import _PLACEHOLDER
from llmpipe.types import (
    Extra,
    Finish,
    Message,
    ReasoningDelta,
    RefusalDelta,
    Request,
    TextDelta,
    Tool,
    ToolCall,
    ToolDelta,
    fold,
)

SCANNER = Scanner()
SECRETS = (
    "john.doe@example.com",
    "+1 415 555 2671",
    "4111 1111 1111 1111",
    'password: "a \\ b c d"',
    "ｊｏ@x.org",
)
WORDS = st.sampled_from(
    ["call ", "at ", "say", " ", "\n", "[", "]", "[EMAIL_", "[EMAIL_x7f3a2]", '"', *SECRETS]
)
TEXTS = st.lists(WORDS, max_size=8).map("".join)
APART = st.lists(WORDS, max_size=8).map(" ".join)


def vault(seed: int = 1) -> Vault:
    return Vault(SCANNER, Random(seed))


def restored(stage, text: str, sizes: list[int], make=TextDelta) -> str:
    out, place, n = [], 0, 0
    while place < len(text):
        size = sizes[n % len(sizes)]
        out += stage.feed(make(text[place : place + size]))
        place, n = place + size, n + 1
    out += stage.feed(Finish("stop"))
    return "".join(event.text for event in out if isinstance(event, make))


@given(TEXTS, st.lists(st.integers(1, 9), min_size=1, max_size=4))
def test_r3_what_is_hidden_comes_back_whatever_the_chunks(text, sizes):
    box = vault()
    hidden = box.hide(text)
    assert box.restore(hidden) == text
    for make in (TextDelta, ReasoningDelta, RefusalDelta):
        assert restored(box.restorer(), hidden, sizes, make) == text


@given(st.lists(TEXTS, min_size=1, max_size=4))
def test_r3_holds_for_each_text_of_a_request_even_where_one_quotes_another(texts):
    box = vault()
    first = [box.hide(text) for text in texts]
    again = [box.hide(hidden) for hidden in first]  # somebody hands placeholders of this vault in
    assert [box.restore(hidden) for hidden in first] == texts
    assert [box.restore(hidden) for hidden in again] == first


@given(APART)
def test_nothing_that_is_found_is_left_in_what_is_sent(text):
    hidden = vault().hide(text)
    assert SCANNER.scan(hidden) == ()
    assert not any(secret in hidden for secret in SECRETS)


def test_placeholders_say_the_kind_and_differ_between_requests():
    one, other = vault(1).hide("a@b.org"), vault(2).hide("a@b.org")
    assert one != other
    for hidden in (one, other):
        assert _PLACEHOLDER.fullmatch(hidden)
        assert hidden.startswith("[EMAIL_")


def test_the_same_value_has_the_same_placeholder_in_a_request():
    box = vault()
    a, b, c = (
        box.hide("a@b.org"),
        box.hide("say a@b.org and c@d.org").removeprefix("say "),
        box.hide("c@d.org"),
    )
    assert b == f"{a} and {c}"
    assert a != c
    assert len(box) == 2
    assert box.found == {"email": 4}


def test_a_clean_text_is_the_same_object():
    box, text = vault(), "nothing [to] hide"
    assert box.hide(text) is text
    box.hide("a@b.org")
    assert box.hide(text) is text
    assert box.restore(text) is text


def test_placeholders_that_the_model_invents_are_text():
    box = vault()
    box.hide("a@b.org")
    text = "[EMAIL_aaaaaa] [EMAIL] [EMAIL_] [PHONE_x7f3a2] [EMAIL_x7f3a"
    assert restored(box.restorer(), text, [1]) == text


def test_another_vaults_placeholder_is_text():
    one, other = vault(1), vault(2)
    hidden = one.hide("a@b.org")
    other.hide("c@d.org")
    assert restored(other.restorer(), hidden, [3]) == hidden


@given(
    st.integers(0, 2**32),
    st.lists(st.sampled_from(["own", "other", "invented", " and ", "[", "_", "]", "EMAIL"]), max_size=12),
    st.lists(st.integers(1, 9), min_size=1, max_size=4),
)
def test_s72_only_ones_own_placeholders_come_back_among_others_and_invented_ones(seed, words, sizes):
    mine, other = vault(seed), vault(seed + 1)
    invented = Random(seed + 2)
    said, wanted = "", ""
    for word in words:
        if word == "own":
            said, wanted = said + mine.hide("a@b.org"), wanted + "a@b.org"
            continue
        if word == "other":
            word = other.hide("secret@c.org")
        elif word == "invented":
            word = f"[EMAIL_{invented.choice('abcdef')}{''.join(invented.choices('abc234', k=5))}]"
        said, wanted = said + word, wanted + word
    assert restored(mine.restorer(), said, sizes) == wanted
    assert mine.restore(said) == wanted
    assert "secret" not in wanted


def test_no_placeholder_is_chosen_that_stands_in_the_request():
    seen = vault(5).hide("a@b.org")  # what the generator with this seed chooses first
    request = Request(messages=[Message("user", f"mail a@b.org, not {seen}")])
    box = vault(5)
    hidden = box.hide_request(request)
    assert seen in hidden.messages[0].text
    assert hidden.messages[0].text.count(seen) == 1
    assert box.restore(hidden.messages[0].text) == request.messages[0].text


def test_what_is_held_back_can_still_become_a_placeholder():
    box = vault()
    placeholder = box.hide("a@b.org")
    stage = box.restorer()
    assert stage.feed(TextDelta("see [1] and [")) == [TextDelta("see [1] and ")]
    assert stage.feed(TextDelta("2] or [EM")) == [TextDelta("[2] or ")]
    assert stage.feed(TextDelta("ACS] or ")) == [TextDelta("[EMACS] or ")]
    for cut in range(1, len(placeholder)):
        assert list(stage.feed(TextDelta(placeholder[:cut]))) == []
        assert list(stage.feed(TextDelta(placeholder[cut:] + "!"))) == [TextDelta("a@b.org!")]
    clean = TextDelta("nothing here")
    assert next(iter(stage.feed(clean))) is clean


def test_in_tool_arguments_a_value_comes_back_escaped():
    box = vault()
    secret = 'say "x" \\ \n é'
    placeholder = box._place("text", secret)
    arguments = json.dumps({"to": f"<{placeholder}>", "list": [placeholder]})
    for size in (1, 3, 7, 100):
        stage, out = box.restorer(), []
        for place in range(0, len(arguments), size):
            out += stage.feed(ToolDelta(0, "1" if not place else None, None, arguments[place : place + size]))
        out += stage.feed(Finish("tool_calls"))
        assert fold(out).tool_calls[0].args == {"to": f"<{secret}>", "list": [secret]}


@given(
    st.recursive(
        st.one_of(st.none(), st.integers(), WORDS),
        lambda x: st.lists(x) | st.dictionaries(WORDS, x),
        max_leaves=6,
    )
)
def test_json_comes_back_with_the_same_value_but_for_hidden_numbers(value):
    box, text = vault(), json.dumps(value)
    back = json.loads(box.restore(box.hide(text, json=True), json=True))
    assert as_strings(back) == as_strings(value)


def as_strings(value):
    if isinstance(value, dict):
        return {key: as_strings(item) for key, item in value.items()}
    if isinstance(value, list):
        return [as_strings(item) for item in value]
    return value if value is None else str(value)


def test_a_request_is_hidden_in_all_its_strings_and_its_reply_restored():
    request = Request(
        messages=[
            Message("system", "You serve john@example.com."),
            Message("assistant", [ToolCall("c1", "mail", '{"to": "john\\u0040example.com", "n": 1}')]),
        ],
        tools=[
            Tool("mail", "Mails john@example.com", {"properties": {"to": {"default": "john@example.com"}}})
        ],
        metadata={"user": "john@example.com"},
    )
    box = vault()
    hidden = box.hide_request(request)
    assert "john" not in repr(hidden)
    assert len(box) == 1
    placeholder = hidden.metadata["user"]
    assert hidden.messages[1].tool_calls[0].args == {"to": placeholder, "n": 1}
    out = box.restorer().feed(Extra({"note": f"to {placeholder}"}))
    assert out == [Extra({"note": "to john@example.com"})]


def test_a_request_without_anything_to_hide_is_the_same_object():
    request = Request(messages="hello [there]", metadata={"a": "b"})
    assert vault().hide_request(request) is request


def test_a_hidden_name_has_no_brackets_and_comes_back():
    scanner = Scanner([], [("badge", r"EMP\d{4}")])
    box = Vault(scanner, Random(1))
    hidden = box.hide_request(Request(messages="x", tools=[Tool("ask_EMP1234", "asks")]))
    name = hidden.tools[0].name
    assert name.replace("_", "").isalnum()
    assert "EMP1234" not in name
    out = box.restorer().feed(ToolDelta(0, "1", name, "{}"))
    assert out == [ToolDelta(0, "1", "ask_EMP1234", "{}")]


def test_a_vault_does_not_print_what_it_holds():
    box = vault()
    box.hide("john@example.com")
    assert "john" not in repr(box)
    assert "john" not in str(vars(box).keys())
