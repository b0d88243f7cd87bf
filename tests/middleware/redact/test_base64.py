"""Texts in base64, many at once: how much there is to search in what they mean."""

from __future__ import annotations

from base64 import b64encode
from random import Random

import pytest

from llmpipe.middleware.redact.base64 import in_base64
from llmpipe.testing.hostile import repeated


def searched(text: str) -> str:
    """What is searched for all that `text` has in base64."""
    seen: list[str] = []

    def spans(decoded: str) -> list[tuple[int, int, str]]:
        seen.append(decoded)
        return []

    any_text, _ = in_base64(spans)
    assert any_text.places is not None
    assert list(any_text.places(text, 0, len(text))) == []
    return "".join(seen)


def test_between_what_words_mean_stand_a_line_end_and_a_zero():
    words = [b64encode(text).decode() for text in (b"seven 7", b"eight 88", b"nine 9999", b"ten 101010")]
    for padded in (" ".join(words), " ".join([word.rstrip("=") for word in words])):
        assert searched(padded) == "seven 7\n\0eight 88\n\0nine 9999\n\0ten 101010\n\0"


def test_a_sign_too_many_means_nothing():
    word = b64encode(b"nine 9999").decode()
    assert searched(f"{word}A== {word}Q") == "nine 9999\n\0" * 2


def test_what_is_no_text_is_not_searched():
    words = [
        b64encode(text).decode() for text in (b"seven 7\x01", b"eight\t88", b"\0nine 9999", b"ten 1010\0\n")
    ]
    assert searched(" ".join(words)) == "eight 88\n\0"


def test_behind_what_is_no_text_a_finding_has_its_place():
    words = [b64encode(text).decode() for text in (b"seven 7\x01", b"eight 88", b"\0nine 9999", b"ten 1010")]
    any_text, _ = in_base64(lambda decoded: [(at := decoded.index("ten"), at + 3, "number")])
    assert any_text.places is not None
    text = " ".join(words)
    assert list(any_text.places(text, 0, len(text))) == [text.index(words[-1])]


@pytest.mark.parametrize("length", range(7, 40))
def test_there_is_less_to_search_than_there_is_text(length):
    """Each of many words adds two characters to the three quarters of its signs, whatever its length is."""
    random = Random(length)
    for pad in ("", "="):
        text = b"".join([bytes([random.randrange(32, 127)]) for _ in range(length)])
        word = b64encode(text).decode().rstrip("=") + pad
        assert (
            len(searched(repeated(f"{word} ", 5_000))) <= 5_000 * (length + 2) / (len(word) + 1) + length + 2
        )
