"""A key is shown to nobody, and texts of others are shown without what looks like one."""

from __future__ import annotations

import copy
import json
import logging
import pickle
import time
import traceback
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmpipe.errors import ConfigError
from llmpipe.secret import Secret, hide_password, scrub, shown_url

KEY = "a-key.of/no+known=kind"


def test_a_secret_is_revealed_on_purpose_only(caplog):
    secret = Secret(f"  {KEY} ")
    assert secret.reveal() == KEY
    caplog.set_level(logging.DEBUG)
    logging.getLogger("test").warning("%s %r %s", secret, secret, [secret])
    shown = [
        str(secret),
        repr(secret),
        f"{secret}",
        f"{secret!r:>50}",
        f"{secret}",
        repr([secret]),
        caplog.text,
    ]
    assert not any(KEY in text for text in shown)
    for dump in (json.dumps, orjson.dumps, pickle.dumps):
        with pytest.raises(TypeError) as caught:
            dump(secret)
        assert KEY not in str(caught.value)
    with pytest.raises((TypeError, AttributeError)):
        vars(secret)


def test_a_secret_in_a_traceback_is_not_shown():
    secret: Any = Secret(KEY)
    try:
        secret.nothing  # noqa: B018
    except AttributeError as error:
        text = "".join(traceback.TracebackException.from_exception(error, capture_locals=True).format())
    assert KEY not in text


def test_secrets_compare_and_copy_as_values():
    assert Secret(KEY) == Secret(KEY) == Secret(Secret(KEY))
    assert Secret(KEY) != Secret(KEY + "x")
    assert Secret(KEY) != KEY
    assert len({Secret(KEY), Secret(KEY)}) == 1
    assert copy.deepcopy({"key": Secret(KEY)})["key"] == copy.copy(Secret(KEY)) == Secret(KEY)


@pytest.mark.parametrize(
    "value", ["", "  ", "\n", "a\nb", "a\r", "é", "“x”", "a\0b", "a\tb", None, 7, b"bytes"]
)
def test_what_cannot_be_a_key_is_refused_without_being_shown(value):
    if isinstance(value, str) and value.strip() == "a":
        assert Secret(value).reveal() == "a"
        return
    with pytest.raises(ConfigError, match="API key") as caught:
        Secret(value)
    assert not isinstance(value, str) or len(value.strip()) < 2 or value not in str(caught.value)


def test_a_key_is_hidden_in_whatever_text_it_stands():
    assert Secret(KEY).hidden_in(f"no such key: {KEY}!{KEY}") == "no such key: [REDACTED]![REDACTED]"


@pytest.mark.parametrize(
    "key",
    [
        "sk-proj-0123456789abcdefABCDEF",
        "sk-ant-api03-0123456789abcdef",
        "gsk_0123456789abcdef",
        "xai-0123456789abcdef",
        "AIzaSy0123456789abcdefghijklmnop",
        "hf_0123456789abcdef",
        "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.signature-part",
        "AKIAIOSFODNN7EXAMPLE",
    ],
)
def test_what_looks_like_a_key_is_scrubbed_from_any_text(key):
    for text in (f"key: {key}", f"{key} is wrong", f'{{"key": "{key}"}}', f"Bearer {key}", f"(…{key}…)"):
        assert key not in scrub(text)
        assert "[REDACTED]" in scrub(text)


@pytest.mark.parametrize(
    "text", ["api_key=hunter2hunter2", "x-api-key: abcdef", '"password": "swordfish"', "Bearer abcd.efgh"]
)
def test_what_is_called_a_credential_is_scrubbed(text):
    secret = text.replace('"', " ").split()[-1].rpartition("=")[2]
    assert secret not in scrub(text)


LONG = "".join(f"{number:x}Zq-" for number in range(1000, 2000))  # no twelve characters of it come again


def windows(secret: str, text: str) -> list[str]:
    """What of `secret` can be read in `text`: pieces of twelve characters."""
    return [secret[at : at + 12] for at in range(len(secret) - 11) if secret[at : at + 12] in text]


@pytest.mark.parametrize(
    ("before", "secret"),
    [
        ("", f"sk-{LONG[:300]}"),
        ("access_token=", f"eyJhbGciOiJSUzI1NiJ9.{LONG[:1200]}.{LONG[-300:]}"),
        ("api_key: ", LONG[:1500]),
        ("Bearer ", LONG),
        ("", f"eyJhbGciOiJSUzI1NiJ9.{LONG}.{LONG[:86]}"),
    ],
)
def test_a_key_is_hidden_to_its_last_character_however_long(before, secret):
    assert windows(secret, scrub(f"wrong {before}{secret} here", max_chars=20_000)) == []


@pytest.mark.parametrize(
    ("before", "secret", "after"),
    [
        ("https://svc:", "hunter2hunter2hunter2", "@host:443/v1"),
        ("postgresql://svc:", "hunter2hunter2hunter2", "@host/db"),
        ("GET /v1/models?key=", "0a1b2c3d4e5f6a7b8c9d", "&alt=sse"),
        ("GET /o?a=1&X-Amz-Signature=", "0a1b2c3d4e5f6a7b8c9d", "&x=1"),
        ("Authorization: Basic ", "dXNlcjpodW50ZXIyaHVudGVyMg==", ""),
        ('"Authorization\\": \\"Key ', "0a1b2c3d4e5f6a7b8c9d", '\\"'),
        ("API_KEY=", "0a1b2c3d4e5f6a7b8c9d", " x"),
        ('{\\"api_key\\": \\"', "0a1b2c3d4e5f6a7b8c9d", '\\"}'),
        ("aws_secret_access_key = ", "wJalrXUtnFEMI/K7MDENG/bPxRfiCY", ""),
        ("token=", "0a1b2c3d4e5f6a7b8c9d", ""),
        ("sk\\u002d", "0a1b2c3d4e5f6a7b8c9d", ""),
        ("", "ghp_0a1b2c3d4e5f6a7b8c9d0a1b2c3d4e5f6a7b", ""),
        ("", "github_pat_0a1b2c3d4e5f6a7b8c9d", ""),
        ("", "xoxb-0a1b2c3d4e5f-6a7b8c9d", ""),
        ("", "nvapi-0a1b2c3d4e5f6a7b8c9d", ""),
        ("", "sk_live_0a1b2c3d4e5f6a7b8c9d", ""),
    ],
)
def test_a_credential_is_hidden_in_the_form_in_which_it_travels(before, secret, after):
    assert windows(secret, scrub(f"no: {before}{secret}{after}")) == []


@pytest.mark.parametrize(
    "secret", [f"AIza{LONG[:35]}", f"sk-{LONG[:48]}", f"Bearer {LONG[:3000]}", "AKIAIOSFODNN7EXAMPLE"]
)
def test_a_key_over_which_the_cut_goes_is_hidden_too(secret):
    for ahead in range(1, len(secret), 3):
        shown = scrub("." * (2000 - ahead) + secret + " and more " * 300)
        assert "AIza" not in shown
        assert windows(secret, shown) == [], ahead
        assert shown.endswith("…")
        assert len(shown) <= 2012


@pytest.mark.parametrize(
    "text",
    [
        "The task-force asked for a risk-assessment.",
        "disk-usage is high",
        "Incorrect API key",
        "",
        "unexpected token: identifier",
        "max_tokens=4096000000000000",
        "https://host:8080/a@b",
        "mask_test",
    ],
)
def test_words_are_left_alone(text):
    assert scrub(text) == text or "risk" in text


@given(st.text(max_size=300), st.integers(1, 50))
def test_a_text_is_cut_at_its_limit(text, limit):
    assert len(scrub(text, max_chars=limit)) <= limit + 1 + 10 * limit


def test_scrubbing_takes_linear_time():
    def seconds(text: str) -> float:
        began = time.process_time()
        scrub(text, max_chars=len(text))
        return time.process_time() - began

    for pattern in (
        "sk-",
        "eyJ" + "a" * 9 + ".",
        "bearer ",
        "api_key = ",
        "A" * 7,
        "api_key" + " " * 5,
        "-eyJ",
        "://a:",
        "?a_",
        "token=a",
        "authorization: a",
    ):
        small = max(min(seconds(pattern * (20_000 // len(pattern))) for _ in range(3)), 1e-4)
        large = seconds(pattern * (160_000 // len(pattern)))
        assert large < 40 * small, pattern  # quadratic would be 64


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("redis://:pa55@host:6379/0", "redis://:…@host:6379/0"),
        ("postgresql://me:p@ss/w@h/db?x=1", "postgresql://me:…@h/db?x=1"),
        ("redis://me@host/0", "redis://me@host/0"),
        ("postgresql://h/db?user=me&password=hunter2&ssl=1", "postgresql://h/db?user=me&password=…&ssl=1"),
        ("postgresql://me:pw@h/db?Password=hunter2", "postgresql://me:…@h/db?Password=…"),
        (
            "s3://bucket/a?secret_access_key=s/3+x&region=eu#x",
            "s3://bucket/a?secret_access_key=…&region=eu#x",
        ),
        ("postgresql://h/db?password=hun@ter2", "postgresql://h/db?password=…"),
        ("redis://h:6379/0?auth_token=t&key_prefix=a", "redis://h:6379/0?auth_token=…&key_prefix=a"),
        ("redis://:pa55", "redis://:…"),
        ("redis://h:6379/0", "redis://h:6379/0"),
        ("redis://[::1]/0", "redis://[::1]/0"),
        ("redis://[::1]:6379/0", "redis://[::1]:6379/0"),
        ("sqlite:////var/lib/state:1.db", "sqlite:////var/lib/state:1.db"),
        ("memory://", "memory://"),
        ("round_robin", "round_robin"),
    ],
)
def test_a_url_is_shown_without_its_password(url: str, shown: str) -> None:
    assert hide_password(url) == shown
    assert shown_url(url) == repr(shown)


def test_what_is_no_text_is_shown_as_it_is() -> None:
    assert shown_url(None) == "None"
