from __future__ import annotations

from urllib.parse import parse_qs, unquote, urlsplit

import pytest
from attrs import evolve
from hypothesis import given
from hypothesis import strategies as st

from llmpipe.errors import ConfigError
from llmpipe.state import open_state
from llmpipe_postgres import PostgresState, open_postgres
from llmpipe_postgres.settings import read_url
from llmpipe_postgres.text import escape, unescape

GOOD = "postgresql://user:hunter%402@db.example:5432/app"


def test_a_url_alone_has_settings_that_can_be_defended():
    found = read_url(GOOD)
    assert (found.schema, found.pool, found.timeout, found.pgbouncer) == ("llmpipe", 10, 2.0, False)
    assert found.place == "postgresql://db.example:5432/app"
    assert found.password == "hunter@2"


def test_settings_of_ours_are_read_and_those_of_the_driver_passed_on():
    found = read_url(
        GOOD + "?schema=money&pool=3&timeout=0.5&pgbouncer=true&sslmode=require&target_session_attrs=any"
    )
    assert (found.schema, found.pool, found.timeout, found.pgbouncer) == ("money", 3, 0.5, True)
    assert found.url == GOOD + "?sslmode=require&target_session_attrs=any"


def test_of_several_hosts_the_one_is_wanted_that_can_be_written_to():
    assert read_url("postgresql://u@a:5432,b:5433/app").url.endswith("?target_session_attrs=read-write")
    assert read_url("postgresql://u@[::1]:5432/app").place == "postgresql://[::1]:5432/app"
    assert read_url("postgresql://u@/app?host=/var/run/db").place == "postgresql:///var/run/db/app"


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("postgresql://user:hunter2@host", "no database"),
        ("postgresql://user:hunter2@host/", "no database"),
        ("postgresql://user:hunter2@/db", "no host"),
        ("postgresql://user:hunter2@host:0/db", "port"),
        ("postgresql://user:hunter2@host:five/db", "port"),
        ("postgresql://user:hunter2@:5432/db", "host"),
        ("postgresql://user:hunter2@::1:5432/db", "brackets"),
        ("postgresql://user:hunter2@host/db?pools=3", "setting that is not known; did you mean .pool."),
        ("postgresql://user:hunter2@host/db?pool=3&pool=4", "twice"),
        ("postgresql://user:hunter2@host/db?pool=0", "pool"),
        ("postgresql://user:hunter2@host/db?pool=2.5", "pool"),
        ("postgresql://user:hunter2@host/db?pool=", "pool"),
        ("postgresql://user:hunter2@host/db?timeout=nan", "timeout"),
        ("postgresql://user:hunter2@host/db?timeout=0", "timeout"),
        ("postgresql://user:hunter2@host/db?schema=Big", "schema"),
        ("postgresql://user:hunter2@host/db?schema=a;drop", "schema"),
        ("postgresql://user:hunter2@host/db?schema=pg_catalog", "schema"),
        ("postgresql://user:hunter2@host/db?sslmode=on", "sslmode"),
        ("postgresql://user:hunter2@host/db?pgbouncer=perhaps", "pgbouncer"),
        ("postgresql://user:hunter2@host/db?target_session_attrs=master", "target_session_attrs"),
        ("postgresql://user:hunter2@host/db#here", "%23"),
        ("mysql://user:hunter2@host/db", "postgresql://"),
        ("postgresql://user:hun/ter2@host/db", "%2F"),
        ("postgresql://user:hun@ter2@host/db", "%40"),
        ("postgresql://user:hun[ter2@host/db", "%5B"),
        ("postgresql://us@er:hunter2@host/db", "%40"),
        ("postgresql://user:hunter2@[::1:5432/db", "bracket"),
        ("postgresql://user:hunter2@::1]:5432/db", "bracket"),
        ("postgresql://user:hunter2@a,db..example:5432/db", "no name of a host"),
        (f"postgresql://user:hunter2@{'h' * 64}.example/db", "no name of a host"),
    ],
)
def test_a_wrong_url_is_refused_when_it_is_opened_and_its_password_is_not_shown(url, says):
    with pytest.raises(ConfigError, match=says) as caught:
        open_postgres(url)
    error: BaseException | None = caught.value
    while error is not None:
        assert "hun" not in str(error)
        assert "ter2" not in str(error)
        error = error.__cause__ or error.__context__


@pytest.mark.parametrize("password", ["p%zz", "100%", "a:b", "%ff%00", "sch\u00f6n", "%40%2F%3a"])
def test_what_is_read_of_a_url_the_driver_reads_the_same(password):
    found = read_url(
        f"postgresql://us%40er:{password}@host:5433/d%2Fb?sslmode=disable&sslcert=/a%26b%2Bc%25/%20d"
    )
    parts = urlsplit(found.url)
    assert unquote(parts.password or "") == found.password == unquote(password)
    assert (parts.username, parts.hostname, parts.port, parts.path) == ("us%40er", "host", 5433, "/d%2Fb")
    assert parse_qs(parts.query, strict_parsing=True)["sslcert"] == ["/a&b+c%/ d"]


def test_the_password_is_in_no_repr():
    state = open_postgres(GOOD)
    for shown in (repr(state), str(state), repr(state.settings), repr(evolve(state.settings, pool=2))):
        assert "hunter" not in shown


def test_both_schemes_lead_here():
    for scheme in ("postgresql", "postgres"):
        assert isinstance(open_state(f"{scheme}://u@host/db"), PostgresState)


STRANGE = "\0\1\ud7ff\ud800\udfff"


@given(st.text(alphabet=st.one_of(st.characters(), st.sampled_from(STRANGE + "\2\u0100\ue000a0"))))
def test_any_text_is_kept_and_comes_back(text):
    kept = escape(text)
    assert unescape(kept) == text
    assert "\0" not in kept
    kept.encode()


@given(
    st.lists(st.text(alphabet=st.one_of(st.characters(), st.sampled_from(STRANGE + "\2\ue000"))), max_size=9)
)
def test_texts_are_kept_in_their_order(texts):
    # As UTF-8, by which the collation "C" goes.
    assert sorted(texts) == [unescape(kept) for kept in sorted(map(escape, texts), key=str.encode)]


@given(st.text(st.characters(codec="utf-8", exclude_characters=STRANGE)))
def test_ordinary_text_is_kept_as_it_is(text):
    assert escape(text) == text
