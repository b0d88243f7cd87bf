"""Scanner: what it finds, what it leaves alone, and where."""

from __future__ import annotations

from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmpipe.errors import ConfigError
from llmpipe.middleware.redact import KINDS, Finding, Scanner, mask
from llmpipe.middleware.redact import scan as scanning
from llmpipe.middleware.redact.scan import counts
from tests.middleware.redact import samples
from tests.middleware.redact.samples import EXAMPLES, LOOK_ALIKES

ALL = Scanner()
AROUND = (
    ("", ""),
    ("My data: ", "."),
    ("(", ")"),
    ('"', '"'),
    ("see ", ", please"),
    ("\n", "\n"),
    ("值", "。"),
)
seeds = st.integers(0, 2**32)


def only(kind: str) -> Scanner:
    return Scanner([kind])


@pytest.mark.parametrize(("kind", "text"), [(kind, text) for kind in EXAMPLES for text in EXAMPLES[kind]])
def test_an_example_is_found_whole_wherever_it_stands(kind, text):
    for before, after in AROUND:
        found = only(kind).scan(before + text + after)
        assert found == (Finding(kind, len(before), len(before) + len(text)),), (before, after)


@pytest.mark.parametrize(("kind", "text"), [(kind, text) for kind in EXAMPLES for text in EXAMPLES[kind]])
def test_with_all_kinds_on_nothing_of_an_example_is_left(kind, text):
    covered = set()
    for finding in ALL.scan(f"say {text} now"):
        covered |= set(range(finding.start - 4, finding.end - 4))
    assert covered >= set(range(len(text)))


@pytest.mark.parametrize(
    ("kind", "text"), [(kind, text) for kind in LOOK_ALIKES for text in LOOK_ALIKES[kind]]
)
def test_what_only_looks_like_it_is_left_alone(kind, text):
    for before, after in AROUND:
        assert only(kind).scan(before + text + after) == (), (before, after)


@pytest.mark.parametrize(
    ("kind", "make"),
    [
        ("email", samples.email),
        ("phone", samples.us_phone),
        ("ssn", samples.ssn),
        ("credit_card", samples.card),
        ("iban", samples.iban),
        ("ip", samples.ip_v4),
        ("ip", samples.ip_v6),
    ],
)
@given(seed=seeds)
def test_everything_valid_is_found_whole(kind, make, seed):
    text = make(Random(seed))
    assert only(kind).scan(f"it is {text}, yes") == (Finding(kind, 6, 6 + len(text)),)


@given(seed=seeds, place=st.integers(0, 30), shift=st.integers(1, 9))
def test_a_card_or_account_with_one_wrong_digit_is_none(seed, place, shift):
    for kind, make in (("credit_card", samples.card), ("iban", samples.iban)):
        text = make(Random(seed))
        digits = [i for i, char in enumerate(text) if char.isdigit() and i > 1]
        wrong = digits[place % len(digits)]
        changed = text[:wrong] + str((int(text[wrong]) + shift) % 10) + text[wrong + 1 :]
        for finding in only(kind).scan(changed):  # a shorter number in it may be valid by chance
            assert finding.end - finding.start < len(text)


def test_what_is_said_to_be_a_number_of_a_kind_may_be_of_any_form():
    assert mask("call 555-1234 or my SSN is 123456789") == "call [PHONE] or my SSN is [SSN]"
    assert mask("Phone: 1234567") == "Phone: [PHONE]"
    assert mask("Social Security Number: 123456789") == "Social Security Number: [SSN]"


@pytest.mark.parametrize(
    ("text", "masked"),
    [
        ("api_key=abcd1234efgh", "api_key=[API_KEY]"),
        ("OPENAI_API_KEY=verysecret", "OPENAI_API_KEY=[API_KEY]"),
        ('"api_key": "swordfish"', '"api_key": "[API_KEY]"'),
        ("{'client_secret': 'swordfish'}", "{'client_secret': '[API_KEY]'}"),
        ("password: hunter2!", "password: [API_KEY]"),
        ("PASSWORD=swordfish", "PASSWORD=[API_KEY]"),
        ('passphrase = "correct horse battery"', 'passphrase = "[API_KEY]"'),
        ("https://x.org/?access_token=s3cr3tt0ken&page=2", "https://x.org/?access_token=[API_KEY]&page=2"),
        ("Authorization: Bearer abc123def456", "Authorization: Bearer [API_KEY]"),
        ("Authorization: Basic dXNlcjpwYXNz", "Authorization: Basic [API_KEY]"),
        ("curl -H 'X-Api-Key: abc12345'", "curl -H 'X-Api-Key: [API_KEY]'"),
        ("config['secret_key'] = 'a b c d'", "config['secret_key'] = '[API_KEY]'"),
    ],
)
def test_of_a_named_secret_the_value_is_masked(text, masked):
    assert mask(text) == masked


def test_a_masked_text_has_nothing_more_to_mask():
    text = " | ".join(example for examples in EXAMPLES.values() for example in examples)
    masked = mask(text)
    assert mask(masked) is masked
    for kind in KINDS:
        assert f"[{kind.upper()}]" in masked


def test_after_a_card_what_stands_beside_it_is_left():
    assert mask("4111 1111 1111 1111 12/27 123") == "[CREDIT_CARD] 12/27 123"
    assert mask("4111 1111 1111 1111 1227 123") == "[CREDIT_CARD] 1227 123"
    assert mask("1 4111 1111 1111 1111") == "1 [CREDIT_CARD]"


def test_after_a_phone_number_another_number_may_follow():
    assert mask("+1 415 555 2671 94105") == "[PHONE] 94105"
    assert mask("call 5551234 99 4155552671") == "call [PHONE] [PHONE]"


def test_at_the_end_of_a_sentence_an_email_ends_before_the_dot():
    assert mask("Ask john@example.com. Then wait.") == "Ask [EMAIL]. Then wait."
    assert mask("john@example.com.2") == "[EMAIL].2"
    assert mask("<john@example.com>") == "<[EMAIL]>"


def test_letters_in_the_last_part_of_an_address_are_no_number():
    assert only("ip").scan("see 1::b56.1.2.3 now") == only("ip").scan("see ::1.2.b56.4 now") == ()
    assert only("ip").scan("see ::ffff:1.2.3.4 now") == (Finding("ip", 4, 18),)


def test_where_findings_overlap_every_character_of_each_is_covered():
    scanner = Scanner([], [("one", "abc"), ("two", "cde"), ("three", "bcdef")])
    assert scanner.mask("xabcdefx") == "x[ONE][THREE]x"
    assert scanner.scan("abcde") == (Finding("one", 0, 3), Finding("two", 3, 5))
    same = Scanner([], [("one", "abc"), ("one", "cde")])
    assert same.scan("abcde") == (Finding("one", 0, 5),)


def test_findings_are_in_order_and_counted():
    findings = ALL.scan("a@b.org, +14155552671, c@d.org")
    assert [finding.kind for finding in findings] == ["email", "phone", "email"]
    assert counts(findings) == {"email": 2, "phone": 1}
    starts = [finding.start for finding in findings]
    assert starts == sorted(starts)


def test_positions_are_of_the_original_text():
    text = "é ｊｏｈｎ＠example．com \u200b+１ 415 555 26\u200b71"
    assert [text[f.start : f.end] for f in ALL.scan(text)] == [
        "ｊｏｈｎ＠example．com",
        "+１ 415 555 26\u200b71",
    ]


def test_a_clean_text_comes_back_as_the_same_object():
    text = "Explain in three well-known ways: why is the sky blue? (At 5 o'clock, in 2024.)"
    assert ALL.mask(text) is text
    assert ALL.scan(text) == ()
    assert ALL.scan("") == ()


def test_only_the_kinds_asked_for_are_found():
    text = "a@b.org +14155552671"
    assert Scanner(["phone"]).mask(text) == "a@b.org [PHONE]"
    assert Scanner(["email"]).mask(text) == "[EMAIL] +14155552671"
    assert Scanner([]).mask(text) is text


def test_patterns_of_ones_own_are_found_beside_the_others():
    scanner = Scanner(["email"], [("badge", r"\bEMP-\d{4,6}\b"), ("project", "(?i:project )[A-Z]{2,10}")])
    assert scanner.mask("EMP-12345 of PROJECT XY: a@b.org") == "[BADGE] of [PROJECT]: [EMAIL]"
    assert scanner.mask("EMP-1234567") == "EMP-1234567"


def test_a_pattern_of_ones_own_may_be_of_any_script():
    scanner = Scanner([], [("customer", "客户号[0-9]{6}"), ("café", "x")][:1])
    assert scanner.mask("我的客户号１２３４５６。") == "我的[CUSTOMER]。"
    assert Scanner([], [("cafe", "café [a-z]{1,9}+")]).mask("le café noir") == "le [CAFE]"


@pytest.mark.parametrize(
    ("pattern", "reason"),
    [
        (("x", "a+"), "repeats without end"),
        (("x", ".*"), "repeats without end"),
        (("x", "a{3,}"), "repeats without end"),
        (("x", "(?:a{1,30}){1,30}b"), "possessive"),
        (("x", "(?:a|a){1,40}b"), "possessive"),
        (("x", "[a-z]{1,30000}+"), "at most"),
        (("x", "^a"), "anchored"),
        (("x", "a$"), "anchored"),
        (("x", r"(a)\1"), "refers back"),
        (("x", "a("), "no regular expression"),
        (("x", "(?i)a"), "flags"),
        (("x", "a{0,3}"), "empty text"),
        (("x", "(?<=" + "a" * 40 + ")b"), "looks back"),
        (("X-1", "a"), "no name"),
        (("", "a"), "no name"),
        (("x",), "is \\(kind, regular expression\\)"),
        ("xy", "is \\(kind, regular expression\\)"),
        (("x", 5), "is \\(kind, regular expression\\)"),
    ],
)
def test_a_pattern_that_is_not_right_is_refused_with_what_to_change(pattern, reason):
    with pytest.raises(ConfigError, match=reason):
        Scanner([], [pattern])


def test_an_unknown_kind_is_refused_with_the_known_ones():
    with pytest.raises(ConfigError, match=r"'emial'.*email, ssn"):
        Scanner(["emial"])
    with pytest.raises(ConfigError, match=r"\['email'\]"):
        Scanner("email")


@given(st.text())
def test_findings_lie_in_the_text_and_apart(text):
    end = 0
    for finding in ALL.scan(text):
        assert end <= finding.start < finding.end <= len(text)
        end = finding.end


@given(
    st.lists(
        st.sampled_from([e for examples in EXAMPLES.values() for e in examples] + [" ", "a", "7"]), max_size=6
    ),
    st.integers(0, 200),
    st.integers(0, 20),
)
def test_up_to_a_near_limit_the_same_is_found_as_by_a_search(texts, start, width):
    """Place by place, so that of much that is held back no more is looked at than what can be let out."""
    seen = "".join(texts) + " " + "eyJZzZWW90K93aZ-" * 20
    found: list[object] = []
    for times in (0, 10**9):  # always near if there is anything behind it, and never
        with pytest.MonkeyPatch.context() as patched:
            patched.setattr(scanning, "_NEAR", times)
            resume: dict[object, int] = {}
            found.append((ALL.spans(seen, start, start + width, resume), resume))
    assert found[0] == found[1]


def test_where_much_is_held_back_only_what_can_be_let_out_is_tried(monkeypatch):
    tried: list[int] = []
    match_before = scanning._match_before

    def counting(limit, regex, seen, place):
        tried.append(limit - place)
        return match_before(limit, regex, seen, place)

    monkeypatch.setattr(scanning, "_match_before", counting)
    seen = "eyJZzZWW90K93aZ-" * 100
    ALL.spans(seen, 160, 176)
    assert tried
    assert set(tried) == {16}
    tried.clear()
    ALL.spans(seen, 160)
    assert not tried
