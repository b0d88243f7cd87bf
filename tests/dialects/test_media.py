"""``data:`` URLs and the beginnings of pictures."""

from __future__ import annotations

from base64 import b64encode

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmpipe.dialects.media import image_type, split_data_url
from tests.dialects.strategies import base64, texts

STARTS = {
    "image/png": b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR",
    "image/jpeg": b"\xff\xd8\xff\xe0",
    "image/gif": b"GIF89a",
    "image/webp": b"RIFF\x24\x00\x00\x00WEBP",
    None: b"BM\x00\x00",
}


@given(st.sampled_from(list(STARTS)), st.binary())
def test_a_picture_is_known_by_how_its_bytes_begin(kind, rest):
    assert image_type(b64encode(STARTS[kind] + rest).decode()) == kind


@given(base64, st.sampled_from(["image/png", "application/pdf", "text/plain;charset=utf-8"]))
def test_a_data_url_is_taken_apart(data, kind):
    assert split_data_url(f"data:{kind};base64,{data}") == (kind, data)


@given(texts)
@pytest.mark.parametrize("form", ["https://{}", "data:{}", "data:;base64,{}", "data:text/plain,{}", "{}"])
def test_any_other_text_stays_whole(form, text):
    url = form.format(text.replace(";base64,", ""))
    assert split_data_url(url) == (None, url)
