"""The URL of a bucket, and the keys of its objects."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmpipe.errors import ConfigError
from llmpipe.state import open_state
from llmpipe_s3 import S3State, Settings, open_s3
from llmpipe_s3.keys import Keys, folder


def test_the_scheme_is_found_by_its_entry_point_and_only_a_trail_is_kept():
    state = open_state("s3://my-bucket/logs/llm?region=eu-west-1&timeout=2")
    assert isinstance(state, S3State)
    assert state.settings == Settings(bucket="my-bucket", prefix="logs/llm", region="eu-west-1", timeout=2.0)
    with pytest.raises(ConfigError, match="keeps no cache"):
        state.cache("c", max_entries=1, max_bytes=1)


def test_another_endpoint_has_the_bucket_in_the_path_unless_it_is_said():
    url = "s3://my-bucket?endpoint=https://minio.example:9000/"
    assert open_s3(url).settings.endpoint == "https://minio.example:9000"
    assert open_s3(url).settings.path_style
    assert not open_s3(url + "&path_style=false").settings.path_style
    assert not open_s3("s3://my-bucket").settings.path_style


@pytest.mark.parametrize(
    "url",
    [
        "s3://AKIDSECRET:hunter2@bucket/p", "s3://AKIDSECRET@bucket", "s3://bucket?access_key=hunter2",
        "s3://bucket?aws_secret_access_key=hunter2", "s3://bucket?session_token=hunter2",
        "s3://bucket?endpoint=https://user:hunter2@minio.example",
    ],
)  # fmt: skip
def test_credentials_in_the_url_are_refused_and_not_shown(url):
    with pytest.raises(ConfigError, match="credentials do not stand in the URL") as caught:
        open_s3(url)
    assert "hunter2" not in str(caught.value)
    assert "AKIDSECRET" not in str(caught.value)


@pytest.mark.parametrize(
    "url",
    [
        "s3://", "s3:///prefix", "s3://B", "s3://My_Bucket", "s3://bucket/a//b", "s3://bucket/../x",
        "s3://bucket/a%00b", "s3://bucket/" + "x" * 201, "s3://bucket?size=1", "s3://bucket?timeout=0",
        "s3://bucket?timeout=nan", "s3://bucket?connections=1.5", "s3://bucket?connections=1000",
        "s3://bucket?region=a&region=b", "s3://bucket?path_style=perhaps", "s3://bucket?endpoint=minio:9000",
        "s3://bucket?endpoint=https://", "s3://bucket?endpoint=https://a:b", "s3://bucket?endpoint=https://a/path",
        "s3://bucket#x", "gs://bucket",
    ],
)  # fmt: skip
def test_a_url_that_names_no_bucket_is_refused(url):
    with pytest.raises(ConfigError):
        open_s3(url)


@given(st.lists(st.text(st.characters(codec=None), max_size=300), unique=True, max_size=20))
def test_every_name_has_a_folder_of_its_own_in_letters_that_any_store_takes(names):
    folders = [folder(name) for name in names]
    assert len({*folders}) == len(names)
    for each in folders:
        assert 0 < len(each) <= 160
        assert each.isascii()
        assert all(letter.isalnum() or letter in "=_-" for letter in each)


@given(st.text(max_size=80), st.integers(1, 2**63 - 1), st.integers(1, 2**63 - 1))
def test_keys_of_a_writer_sort_as_its_numbers(writer, one, other):
    keys = Keys("p/audit/")
    mine, its = keys.batch(folder(writer), one), keys.batch(folder(writer), other)
    assert (mine < its) == (one < other)
    assert keys.read(mine) == (folder(writer), one)
    assert len(mine) < 1024
