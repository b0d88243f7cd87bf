"""What is in a request and where; and what only shows when more than one string is looked at."""

from __future__ import annotations

import pytest
from attrs import field, frozen

from llmpipe import Chain, MockProvider, Redact, Runtime
from llmpipe.errors import ConfigError
from llmpipe.middleware.redact import Finding, Located, Scanner
from llmpipe.middleware.redact.masking import mask_json, mask_rows
from llmpipe.types import (
    EmbeddingRequest,
    Message,
    Opaque,
    Request,
    RerankRequest,
    Text,
    Tool,
    ToolCall,
    ToolResult,
)

SCANNER = Scanner()


def at(request: Request, located: Located) -> str:
    """The text at the place that `located` names, by its path."""
    scope = {name: getattr(request, name) for name in ("messages", "metadata", "tools")}
    path = (
        located.path.replace("[user]", "['user']")
        .replace("[password]", "['password']")
        .replace("[n]", "['n']")
    )
    return str(eval(path.replace(".keys()", ".keys().__iter__().__next__(),"), scope))[
        located.start : located.end
    ]


def test_each_finding_of_a_request_has_its_path_and_positions():
    request = Request(
        messages=[
            Message("user", [Text("mail ann@example.com or"), Text("call +1 415 555 2671")]),
            Message("assistant", [ToolCall("1", "f", '{"to": "bob\\u0040x.org"}')]),
            Message("tool", [ToolResult("1", [Text("ssn 123-45-6789")])]),
        ],
        tools=[Tool("t", "asks c@d.org", {"a": {"b": "e@f.org"}})],
        metadata={"user": "x@y.org", "password": "hunter2", "n": 4111111111111111},
    )
    found = Redact().find(request)
    assert [(each.path, each.kind) for each in found] == [
        ("messages[0].parts[0].text", "email"),
        ("messages[0].parts[1].text", "phone"),
        ("messages[1].parts[0].arguments", "email"),
        ("messages[2].parts[0].content[0].text", "ssn"),
        ("tools[0].description", "email"),
        ("tools[0].parameters[a][b]", "email"),
        ("metadata[user]", "email"),
        ("metadata[password]", "api_key"),
        ("metadata[n]", "credit_card"),
    ]
    texts = [at(request, each) for each in found if "parameters" not in each.path]
    assert texts == [
        *("ann@example.com", "+1 415 555 2671", "bob\\u0040x.org", "123-45-6789", "c@d.org"),
        *("x@y.org", "hunter2", "4111111111111111"),
    ]
    assert Redact(kinds=["phone"]).find(request) == (found[1],)


def test_findings_of_a_text_and_of_other_requests():
    assert Redact().find("to a@b.org") == (Located("", "email", 3, 10),)
    assert Redact().find("nothing") == ()
    assert [f.path for f in Redact().find(EmbeddingRequest("m", ["x", "a@b.org"]))] == ["inputs[1]"]
    assert [f.path for f in Redact().find(RerankRequest("m", "a@b.org", ["c@d.org"]))] == [
        "query",
        "documents[0]",
    ]
    keyed = Request(messages="x", metadata={"a@b.org": 1})
    assert [f.path for f in Redact().find(keyed)] == ["metadata.keys()[0]"]


# ------------------------------------------------------------ split over texts


def parts(*texts: str) -> Request:
    return Request(messages=[Message("user", [Text(text) for text in texts])])


def texts_of(request: Request) -> list[str]:
    return [part.text for message in request.messages for part in message.parts if isinstance(part, Text)]


@pytest.mark.parametrize(
    ("texts", "masked"),
    [
        (["card 4111 1111", " 1111 1111 ok"], ["card [CREDIT_CARD]", "[CREDIT_CARD] ok"]),
        (["ann@", "exam", "ple.com!"], ["[EMAIL]", "[EMAIL]", "[EMAIL]!"]),
        (["a@b.org", " and ", "c@d.org"], ["a@b.org", " and ", "c@d.org"]),  # each by itself: not here
        (["", "x", ""], ["", "x", ""]),
    ],
)
def test_what_reaches_from_one_text_into_the_next_is_masked_in_each(texts, masked):
    assert SCANNER.mask_adjacent(texts) == masked
    assert texts_of(mask_rows(SCANNER, parts(*texts))) == masked


@pytest.mark.parametrize("cut", range(1, 19))
async def test_a_card_cut_in_two_texts_or_two_messages_does_not_leave(cut):
    card = "4111 1111 1111 1111"
    for request in (
        parts(f"my card: {card[:cut]}", f"{card[cut:]}, thanks"),
        Request(messages=[Message("user", card[:cut]), Message("user", f"{card[cut:]} it is")]),
    ):
        for mode in ("wire", "reversible"):
            provider = MockProvider(default=lambda asked: "|".join(texts_of(asked)))
            chain = Chain(provider, Redact(mode=mode), runtime=Runtime(seed=1))
            call = chain.new_call(request)
            said = (await (await chain(call)).full()).text
            sent = "".join(texts_of(provider.requests[0]))
            assert card not in sent.replace("|", "")
            assert "1111 1111 1" not in sent
            assert call.ledger.notes[0].detail["found"]
            if mode == "reversible":
                assert said == "|".join(texts_of(request))
    assert texts_of(request) == [card[:cut], f"{card[cut:]} it is"]  # which the caller keeps


def test_texts_that_nobody_reads_as_one_are_not_joined():
    apart = Request(
        messages=[
            Message("user", [Text("ann@exam"), ToolCall("1", "f", "{}"), Text("ple.com")]),
            Message("assistant", "bob@exam"),
            Message("user", "ple.org"),
        ]
    )
    assert mask_rows(SCANNER, apart) is apart


# ------------------------------------------------------------ names of fields


@pytest.mark.parametrize(
    ("key", "value", "masked"),
    [
        ("password", "hunter2", "[API_KEY]"),
        ("client_secret", "swordfish", "[API_KEY]"),
        ("ssn", "123456789", "[SSN]"),
        ("phone", "5551234", "[PHONE]"),
        ("phone", 5551234, "[PHONE]"),
        ("card", 4111111111111111, "[CREDIT_CARD]"),
        ("mail", "a@b.org", "[EMAIL]"),
        ("password", "required", "required"),
        ("password", True, True),
        ("count", 123456789, 123456789),
        ("note", "swordfish", "swordfish"),
        ("max_tokens", "4096", "4096"),
    ],
)
async def test_a_value_is_judged_by_what_it_is_called_too(key, value, masked):
    provider = MockProvider(default="ok")
    chain = Chain(provider, Redact(mode="wire"))
    request = Request(
        messages=[Message("user", [Text("hi"), Opaque("d", {"deep": [{key: value}]})])], metadata={key: value}
    )
    await chain.complete(request)
    sent = provider.requests[0]
    assert sent.metadata == {key: masked}
    assert sent.messages[0].parts[1].data == {"deep": [{key: masked}]}


@pytest.mark.parametrize("text", ['{"ssn": "123456789"}', '{"phone":"5551234"}', '{"password": "hunter2"}'])
def test_in_arguments_of_tools_a_value_is_judged_by_its_key(text):
    assert mask_json(SCANNER, text).endswith(']"}')


async def test_settings_of_a_provider_are_not_judged_by_their_names():
    provider = MockProvider(default="ok")
    extra = {"mcp": [{"authorization_token": "letmein"}], "seed": 4155552671}
    await Chain(provider, Redact(mode="wire")).complete(Request(messages="hi", extra=extra))
    assert provider.requests[0].extra == extra


# ------------------------------------------------------------ finders


@frozen
class Words:
    """Finds words."""

    words: tuple[str, ...] = ("Ann", "Oslo")
    thread_above: int = 1_000
    seen: list[str] = field(factory=list, eq=False)

    def find(self, text: str) -> list[Finding]:
        self.seen.append(text)
        return [
            Finding("name", text.index(word), text.index(word) + len(word))
            for word in self.words
            if word in text
        ]


async def test_what_a_finder_finds_is_hidden_and_comes_back():
    provider = MockProvider(default=lambda asked: asked.messages[0].text)
    prompt = "Ann of Oslo, ann@example.com"
    chain = Chain(provider, Redact(finders=[Words()]), runtime=Runtime(seed=2))
    assert (await chain.complete(prompt)).text == prompt
    assert [piece[:4] for piece in provider.requests[0].messages[0].text.split("[")[1:]] == [
        "NAME",
        "NAME",
        "EMAI",
    ]
    assert [found.kind for found in Redact(finders=[Words()]).find(prompt)] == ["name", "name", "email"]


def test_where_a_finder_and_a_pattern_find_the_same_every_character_is_covered():
    scanner = Scanner(["email"], finders=[Words(("mail Ann", "Ann@example"))])
    assert scanner.mask("mail Ann@example.com!") == "[NAME][EMAIL]!"
    assert Scanner([], finders=[Words()]).mask("Ann") == "[NAME]"


def test_in_json_a_finder_reads_each_string_and_no_label():
    words = Words(("Ann", "EMAIL"))
    scanner = Scanner(["email"], finders=[words])
    assert mask_json(scanner, '{"a": "Ann", "b": ["ann@x.org", 5], "Ann": 1}') == (
        '{"a": "[NAME]", "b": ["[EMAIL]", 5], "[NAME]": 1}'
    )
    assert mask_json(scanner, "no JSON of Ann") == "no JSON of [NAME]"
    text = '{"a":  "nobody"}'
    assert mask_json(scanner, text) is text


def test_what_is_no_finder_is_refused():
    with pytest.raises(ConfigError, match="thread_above"):
        Redact(finders=[object()])  # type: ignore[list-item]  # to see it refused
    assert Redact(kinds=[], finders=[Words()]).find("Ann") == (Located("", "name", 0, 3),)
