"""URLs: what they say, and that what is wrong in them is refused without a word of them."""

from __future__ import annotations

import tomllib
from importlib import import_module
from pathlib import Path

import pytest

from llmpipe import ConfigError
from llmpipe_redis import RedisState, Settings, open_redis


def test_a_url_says_where_and_how() -> None:
    found = Settings.of("redis://us%40er:p%23ss%2F@[::1]:7000/3?prefix=a%20b&timeout=1.5&connections=4")
    assert found == Settings(
        host="::1",
        port=7000,
        db=3,
        username="us@er",
        password="p#ss/",
        prefix="a b",
        timeout=1.5,
        connections=4,
    )
    assert Settings.of("redis://localhost") == Settings(host="localhost")
    assert Settings.of("rediss://h").tls


def test_a_url_of_sentinels_says_where_they_are_and_what_they_call_the_master() -> None:
    found = Settings.of(
        "redis+sentinel://us:p%2C%40ss@one:7001,two,[::1]:7003/my%20master/3?timeout=1&sentinel_username=s"
        "&sentinel_password=secret-word"
    )
    assert found == Settings(
        sentinels=(("one", 7001), ("two", 26379), ("::1", 7003)),
        master="my master",
        db=3,
        username="us",
        password="p,@ss",
        timeout=1.0,
        sentinel_username="s",
        sentinel_password="secret-word",
    )
    assert found.place == "my master@one:7001,two:26379,::1:7003"
    assert "secret-word" not in repr(found)
    assert "p,@ss" not in repr(found)
    assert Settings.of("redis+sentinel://h/m") == Settings(sentinels=(("h", 26379),), master="m")
    assert Settings.of("rediss+sentinel://h/m").tls


@pytest.mark.parametrize(
    ("url", "match"),
    [
        ("redis+sentinel://h1,h2", "master's name"),
        ("redis+sentinel://h1,h2/", "master's name"),
        ("redis+sentinel:///m", "no host"),
        ("redis+sentinel://h1,/m", "no host"),
        ("redis+sentinel://h1:1,h2:x/m", "port"),
        ("redis+sentinel://u:hush@h1/m/one", "number of a database"),
        ("redis+other://h", "begins with"),
        ("redis://h1,h2", "one host"),
        ("redis://h?sentinel_password=hush", r"needs redis\+sentinel"),
        ("redis+sentinel://h/m?cert=/etc/hosts", "needs rediss"),
    ],
)
def test_a_wrong_url_of_sentinels_is_refused(url: str, match: str) -> None:
    with pytest.raises(ConfigError, match=match) as caught:
        open_redis(url)
    assert "hush" not in f"{caught.value}{caught.value!r}"


def test_all_schemes_are_registered_with_what_opens_them() -> None:
    project = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text())
    points = project["project"]["entry-points"]["llmpipe.state"]
    assert set(points) == {"redis", "rediss", "redis+sentinel", "rediss+sentinel"}
    for scheme, point in points.items():
        module, _, name = point.partition(":")
        state = getattr(import_module(module), name)(f"{scheme}://localhost/{'m' * ('+' in scheme)}")
        assert isinstance(state, RedisState)
        assert state.settings.tls == scheme.startswith("rediss")
        assert bool(state.settings.sentinels) == ("+" in scheme)


@pytest.mark.parametrize(
    "rest",
    [
        "?nonsense=1",
        "?timeout=0",
        "?timeout=nan",
        "?timeout=fast",
        "?timeout=61",
        "?connections=0",
        "?connections=1.5",
        "?prefix=",
        "?timeout=1&timeout=2",
        "?remember=1",
        "?lines=0",
        "?ca=/etc/hosts",
        "/one",
        "/-1",
        "/0/1",
        ":70000",
        ":port",
        "/0#x",
    ],
)
def test_what_is_wrong_is_refused_and_the_password_not_told(rest: str) -> None:
    with pytest.raises(ConfigError) as caught:
        open_redis(f"redis://user:hunter2secret@host{rest}")
    assert "hunter2" not in f"{caught.value}{caught.value!r}"
    assert caught.value.__suppress_context__ or caught.value.__context__ is None


@pytest.mark.parametrize(
    "url", ["redis://", "redis:///0", "http://host", "redis://user:pa#ss@host/0", "redis://[::1"]
)
def test_a_url_of_another_shape_is_refused(url: str) -> None:
    with pytest.raises(ConfigError, match="Redis"):
        open_redis(url)


def test_files_of_tls_have_to_be_there(tmp_path: Path) -> None:
    there = tmp_path / "ca.pem"
    there.write_text("x")
    assert Settings.of(f"rediss://h?ca={there}").ca == str(there)
    with pytest.raises(ConfigError, match="no file"):
        Settings.of(f"rediss://h?ca={there}.gone")
    with pytest.raises(ConfigError, match="together"):
        Settings.of(f"rediss://h?cert={there}")


def test_names_cannot_leave_their_slot_or_meet() -> None:
    settings = Settings(host="h", prefix="a}b")
    bases = [
        settings.base(kind, name) for kind, name in [("ledger", "n"), ("ledger", "n}x"), ("limits", "n")]
    ]
    bases.append(Settings(host="h", prefix="a").base("ledger", "b:ledger:n"))
    assert len(set(bases)) == 4
    for base in bases:
        assert base.startswith("{")
        assert base.index("}") == len(base) - 1
