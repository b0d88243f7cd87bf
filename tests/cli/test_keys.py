"""`llmpipe keys`, as somebody types it."""

from __future__ import annotations

import io

import pytest

from llmpipe.cli import keys, main
from tests.keys.kit import CANARY, NEW, OLD

pytest.importorskip("cryptography")


@pytest.fixture
def ask(tmp_path, monkeypatch, capsys):
    """Runs the command on one file; its status and what it printed."""
    monkeypatch.setenv("LLMPIPE_MASTER_KEY", OLD)

    def asked(*words: str, typed: str = "", store: str = f"sqlite:///{tmp_path}/keys.db"):
        monkeypatch.setattr("sys.stdin", io.StringIO(typed))
        status = main(["keys", *words, "--store", store])
        told = capsys.readouterr()
        shown = told.out + told.err
        assert not any(secret[at : at + 12] in shown for secret in (CANARY, OLD, NEW) for at in range(16))
        return status, told.out, told.err

    return asked


def test_a_key_is_stored_from_a_pipe_shown_masked_and_deleted(ask):
    assert ask("list")[:2] == (0, "none\n")
    assert ask("put", "openai", typed=f"{CANARY}\n")[:2] == (0, "stored as version 1\n")
    assert ask("put", "openai", "--tenant", "acme", "--name", "second", typed=CANARY)[0] == 0
    assert ask("put", "openai", typed=CANARY)[1] == "stored as version 2\n"
    status, out, _ = ask("list")
    assert status == 0
    head, first, second = out.splitlines()
    assert head.split() == ["tenant", "provider", "name", "version", "master", "age", "key"]
    assert first.split()[:4] == ["-", "openai", "default", "2"]
    assert first.endswith("sk-ca...0KdVs"[:8] + "KdVs")
    assert second.split()[:4] == ["acme", "openai", "second", "1"]
    assert ask("delete", "openai")[:2] == (0, "deleted\n")
    assert ask("delete", "openai")[:2] == (1, "there was none\n")


def test_a_key_is_typed_at_a_prompt_that_shows_nothing(ask, monkeypatch):
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    monkeypatch.setattr(io, "StringIO", Terminal)
    monkeypatch.setattr(keys, "getpass", lambda prompt: CANARY)
    assert ask("put", "openai")[0] == 0
    assert "sk-ca...KdVs" in ask("list")[1]


def test_a_key_among_the_words_is_refused(ask):
    with pytest.raises(SystemExit) as ended:
        ask("put", "openai", "sk-0000")
    assert ended.value.code == 2


def test_no_key_is_wrong_use(ask):
    status, _, err = ask("put", "openai", typed="\n")
    assert status == 2
    assert "no key to store" in err


def test_the_master_is_changed(ask, monkeypatch, tmp_path):
    ask("put", "openai", typed=CANARY)
    ask("put", "anthropic", typed=CANARY)
    monkeypatch.setenv("LLMPIPE_MASTER_KEY", NEW)
    status, out, err = ask("rotate")  # without the old one
    assert (status, out) == (1, "0 sealed anew, 0 were already, 2 do not open\n")
    assert "keep the old master secret" in err
    assert "provider 'anthropic'" in err
    monkeypatch.setenv("LLMPIPE_MASTER_KEY_OLD", OLD)
    assert ask("rotate")[:2] == (0, "2 sealed anew, 0 were already, 0 do not open\n")
    monkeypatch.delenv("LLMPIPE_MASTER_KEY_OLD")
    assert ask("rotate")[:2] == (0, "0 sealed anew, 2 were already, 0 do not open\n")
    monkeypatch.delenv("LLMPIPE_MASTER_KEY")
    (tmp_path / "master").write_text(NEW)
    assert ask("rotate", "--master-file", str(tmp_path / "master"))[0] == 0


def test_old_keys_are_due(ask):
    ask("put", "openai", typed=CANARY)
    assert ask("due")[:2] == (0, "none\n")
    status, out, _ = ask("due", "--max-age", "0.000000001")
    assert status == 1
    assert "(due)" in out


def test_without_a_master_secret_it_says_how_to_make_one(ask, monkeypatch):
    monkeypatch.delenv("LLMPIPE_MASTER_KEY")
    status, _, err = ask("list")
    assert status == 2
    assert "openssl rand -base64 32" in err


def test_a_store_that_keeps_no_keys_is_wrong_use(ask):
    assert ask("list", store="nonsense")[0] == 2
