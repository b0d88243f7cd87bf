"""What a URL names, and what is refused before anything is opened."""

from __future__ import annotations

import os

import pytest

from llmpipe.errors import ConfigError
from llmpipe.state.sqlite import open_sqlite
from llmpipe.state.sqlite.place import read_url


def test_three_slashes_are_relative_and_four_absolute(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "sub").mkdir()
    assert read_url("sqlite:///state.db").path == str(tmp_path / "state.db")
    assert read_url("sqlite:///sub/state.db").path == str(tmp_path / "sub/state.db")
    assert read_url("sqlite:///./state.db").path == str(tmp_path / "state.db")
    assert read_url(f"sqlite:///{tmp_path}/state.db").path == str(tmp_path / "state.db")


def test_three_slashes_before_an_absolute_path_are_understood(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert read_url(f"sqlite://{tmp_path}/state.db").path == str(tmp_path / "state.db")


def test_where_both_readings_exist_the_rule_holds(tmp_path, monkeypatch):
    (tmp_path / "tmp").mkdir()
    monkeypatch.chdir(tmp_path)
    assert read_url("sqlite:///tmp/state.db").path == str(tmp_path / "tmp/state.db")


def test_a_relative_path_stays_where_it_was_when_the_process_goes_elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    place = read_url("sqlite:///state.db")
    monkeypatch.chdir("/")
    assert place.path == str(tmp_path / "state.db")


def test_names_are_unquoted_and_settings_read(tmp_path):
    place = read_url(f"sqlite:///{tmp_path}/a%20b%3F.db?timeout=0.5")
    assert place.path == str(tmp_path / "a b?.db")
    assert place.timeout == 0.5
    assert read_url(f"sqlite:///{tmp_path}/a.db").timeout == 5.0


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("sqlite://", "memory://"),
        ("sqlite:///", "names no file"),
        ("sqlite:////", "names no file"),
        ("sqlite://state.db", "sqlite:///state.db"),
        ("sqlite:///:memory:", "memory://"),
        ("sqlite:///a%00b.db", "names no file"),
        ("sqlite:///no/such/directory/state.db", "is not there"),
        ("sqlite:////no/such/directory/state.db", "is not there"),
        ("sqlite:////tmp", "is a directory"),
        ("sqlite:////dev/null", "no plain file"),
        ("sqlite:///state.db?journal=off", "a setting that is not known; it takes timeout"),
        ("sqlite:///state.db?timeout=soon", "from 0.01 to 3600"),
        ("sqlite:///state.db?timeout=0", "from 0.01 to 3600"),
        ("sqlite:///state.db?timeout=nan", "from 0.01 to 3600"),
        ("sqlite:///state.db?timeout=inf", "from 0.01 to 3600"),
        ("sqlite:///state.db?timeout=1&timeout=2", "twice"),
        ("sqlite:///state.db?timeout", "from 0.01 to 3600"),
        (f"sqlite:////tmp/{'x' * 300}.db", ""),
    ],
)
def test_what_cannot_be_right_is_refused_with_what_would_be(url, says):
    with pytest.raises(ConfigError) as caught:
        open_sqlite(url)
    assert says in str(caught.value)


def test_a_file_or_directory_that_may_not_be_written_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "access", lambda path, mode: not mode & os.W_OK)  # root may write everything
    with pytest.raises(ConfigError, match="may not be written"):
        open_sqlite(f"sqlite:///{tmp_path}/state.db")


def test_opening_makes_no_file_until_something_is_asked(tmp_path):
    open_sqlite(f"sqlite:///{tmp_path}/state.db").queue("q")
    assert list(tmp_path.iterdir()) == []
