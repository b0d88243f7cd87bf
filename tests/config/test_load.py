"""Chains from files: what is right is built, and what is wrong is told, all of it, without secrets."""

from __future__ import annotations

from typing import Any

import orjson
import pytest

from llmpipe.config import load
from llmpipe.config.load import read_file
from llmpipe.errors import ConfigError
from llmpipe.middleware.fallback import Fallback
from llmpipe.middleware.retry import Retry

chain_from: Any = load.chain_from
load_chain: Any = load.load_chain

SECRET = "sk-canary-0123456789abcdef"

GOOD = {
    "provider": {"use": "openai", "model": "gpt-4o-mini", "api_key": "${KEY}"},
    "middleware": [
        {"use": "retry", "attempts": 4},
        {"use": "fallback", "providers": [{"use": "mock", "default": "ok"}], "cooldown": 5},
    ],
}
TOML = """
[provider]
use = "openai"
model = "gpt-4o-mini"
api_key = "${KEY}"

[[middleware]]
use = "retry"
attempts = 4

[[middleware]]
use = "fallback"
providers = [{ use = "mock", default = "ok" }]
cooldown = 5
"""
YAML = """
provider: {use: openai, model: gpt-4o-mini, api_key: "${KEY}"}
middleware:
  - use: retry
    attempts: 4
  - use: fallback
    providers:
      - {use: mock, default: ok}
    cooldown: 5
"""


def written(tmp_path, name: str, text: str | bytes):
    path = tmp_path / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("c.toml", TOML),
        ("c.json", orjson.dumps(GOOD)),
        ("c.yaml", YAML),
        ("c.YML", YAML),
        ("c.toml", b"\xef\xbb\xbf" + TOML.encode()),
    ],
)
def test_the_same_chain_from_every_kind_of_file(tmp_path, name, text):
    if name.lower().endswith(("yaml", "yml")):
        pytest.importorskip("yaml")
    chain = load_chain(written(tmp_path, name, text), {"KEY": SECRET})
    assert chain.provider.name == "openai"
    assert chain.provider.model == "gpt-4o-mini"
    kinds = {type(item) for item in chain.middleware}
    assert {Retry, Fallback} <= kinds
    assert next(item for item in chain.middleware if isinstance(item, Retry)).attempts == 4
    assert next(item for item in chain.middleware if isinstance(item, Fallback)).cooldown == 5
    assert SECRET not in repr(chain)
    assert SECRET not in str(chain.explain())


def test_an_empty_chain_answers_by_itself():
    assert chain_from({}).provider.name == "mock"


# -- presets


def test_a_preset_is_where_a_chain_starts_from():
    names = {item.name for item in chain_from({"preset": "production"}).middleware}
    assert {"retry", "breaker", "cache", "timeout"} <= names
    changed = chain_from({"preset": "production", "middleware": [{"use": "retry", "attempts": 7}]})
    assert {item.name for item in changed.middleware} == names
    assert next(item for item in changed.middleware if item.name == "retry").attempts == 7
    fewer = chain_from({"preset": "production", "without": ["cache", "redact"]})
    assert {item.name for item in fewer.middleware} == names - {"cache", "redact"}


# -- variables


def test_variables_are_filled_in_everywhere(tmp_path):
    text = b'{"a": "${A}", "b": ["x-${B:-two}-${A}", {"c": "${C:-}"}], "${A}": 1, "d": "$A ${} {A}", "n": 3}'
    assert read_file(written(tmp_path, "v.json", text), {"A": "one"}) == {
        "a": "one",
        "b": ["x-two-one", {"c": ""}],
        "${A}": 1,
        "d": "$A ${} {A}",
        "n": 3,
    }


def test_what_a_variable_holds_is_not_filled_in_again(tmp_path):
    path = written(tmp_path, "v.json", b'{"a": "${A}"}')
    assert read_file(path, {"A": "${B}", "B": "no"}) == {"a": "${B}"}


def test_all_variables_that_are_not_set_are_named(tmp_path):
    path = written(tmp_path, "v.json", b'{"a": "${NO_A}", "b": [{"c": "${NO_C}"}]}')
    with pytest.raises(ConfigError) as caught:
        read_file(path, {})
    assert str(caught.value) == (
        f"{path}: a names the environment variable NO_A, which is not set\n"
        f"{path}: b[0].c names the environment variable NO_C, which is not set"
    )


# -- files


@pytest.mark.parametrize(
    ("name", "text", "says"),
    [
        ("c.ini", b"", "unknown kind of file '.ini'; use .toml, .json, .yaml or .yml"),
        ("c", b"", "unknown kind of file ''"),
        ("c.toml", b"a = ", "Invalid value"),
        ("c.toml", b"\xff\xfe", "is not UTF-8 text"),
        ("c.toml", b"#" * 1_000_001, "larger than 1000000 bytes"),
        ("c.toml", b"a = " + b"[" * 100_000, "nested too deep"),
        ("c.json", b"{", "unexpected end"),
        ("c.json", b"", "."),
        ("c.json", b"[]", "holds a list; expected a mapping"),
        ("c.json", b'"text"', "holds a str; expected a mapping"),
        ("c.json", b"[" * 100_000, "depth limit"),
        ("c.yaml", b"", "holds a NoneType; expected a mapping"),
        ("c.yaml", b"a: b: c", "mapping values are not allowed here"),
        ("c.yaml", b"\x01", "special characters are not allowed"),
        ("c.yaml", b"[" * 1_500 + b"]" * 1_500, "nested too deep"),
        ("c.yaml", b"!!python/object/apply:os.system [echo]", "could not determine a constructor"),
        ("c.yaml", b"a: &x [1]\nb: *x", "YAML aliases are not taken, such as *x"),
        ("c.yaml", b"a: &a [x,x]\nb: &b [*a,*a]\nc: [*b,*b]", "YAML aliases are not taken"),
        ("c.yaml", b"<<: *x", "."),
    ],
)
def test_a_file_that_is_none_says_so(tmp_path, name, text, says):
    if name.endswith("yaml"):
        pytest.importorskip("yaml")
    path = written(tmp_path, name, text)
    with pytest.raises(ConfigError) as caught:
        load_chain(path, {})
    assert str(caught.value).startswith(f"{path}: ")
    assert says in str(caught.value)
    assert len(str(caught.value)) < 500


def test_a_file_that_is_not_there_says_so(tmp_path):
    with pytest.raises(ConfigError, match="cannot be read: No such file or directory"):
        load_chain(tmp_path / "none.toml")
    with pytest.raises(ConfigError, match="cannot be read: Is a directory"):
        load_chain(tmp_path)


def test_a_device_that_never_ends_is_read_to_the_limit(tmp_path):
    path = tmp_path / "zero.toml"
    path.symlink_to("/dev/zero")
    with pytest.raises(ConfigError, match="larger than"):
        load_chain(path)


def test_stars_and_ampersands_in_yaml_text_are_text(tmp_path):
    pytest.importorskip("yaml")
    path = written(tmp_path, "c.yaml", "provider:\n  use: mock\n  default: 'a **bold** word & more'\n")
    assert load_chain(path).provider.default == "a **bold** word & more"


def test_yaml_without_its_extra_names_it(tmp_path, monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "yaml", None)
    with pytest.raises(ConfigError, match=r"pip install 'llmpipe\[yaml\]'"):
        load_chain(written(tmp_path, "c.yaml", "a: 1"))


@pytest.mark.parametrize("name", ["c.yaml", "c.toml", "c.json"])
def test_what_is_wrong_with_a_file_does_not_show_what_is_in_it(tmp_path, name):
    if name == "c.yaml":
        pytest.importorskip("yaml")
    text = {
        "c.yaml": f"api_key: {SECRET}: {SECRET}",
        "c.toml": f"api_key = {SECRET}",
        "c.json": f'{{"k": {SECRET}}}',
    }
    with pytest.raises(ConfigError) as caught:
        load_chain(written(tmp_path, name, text[name]))
    assert SECRET not in str(caught.value)
    assert SECRET[:12] not in str(caught.value)


# -- shapes


@pytest.mark.parametrize(
    ("data", "says"),
    [
        ({"midleware": []}, "chain: unknown 'midleware'; did you mean 'middleware'?"),
        ({"zzz": 1}, "unknown 'zzz'; it takes middleware, preset, provider, providers, vault, without"),
        ({"preset": "prod"}, "chain: unknown preset 'prod'; known: 'production'"),
        ({"preset": ["production"]}, "chain: unknown preset ['production']; known: 'production'"),
        (
            {"preset": "production", "without": ["cash"]},
            "without names 'cash', which the preset does not have; did you mean 'cache'?",
        ),
        ({"without": ["cache"]}, "without names 'cache', which the preset does not have"),
        ({"without": "cache"}, "without is a str; expected a list"),
        (
            {"provider": "openai"},
            "in [providers]; known: none; a kind of provider stands in a table: { use = 'openai' }",
        ),
        ({"provider": 7}, "chain: provider: expected a table with `use`, the kind of provider"),
        ({"provider": {"model": "m"}}, "chain: provider: expected a table with `use`"),
        ({"provider": {"use": 7}}, "chain: provider: expected a table with `use`"),
        ({"provider": {"use": "opnai"}}, "chain: provider: unknown provider 'opnai'; known: "),
        (
            {"provider": {"use": "openai"}},
            "chain: provider: provider 'openai' needs an API key: pass api_key=… or set OPENAI_API_KEY",
        ),
        (
            {"provider": {"use": "mock", "modle": "m"}},
            "chain: provider: provider 'mock' takes no 'modle'; did you mean 'model'?",
        ),
        (
            {"provider": {"use": "mock", "chunk_chars": "x"}},
            "chain: provider: chunk_chars must be a whole number, at least 1",
        ),
        ({"middleware": {"use": "retry"}}, "chain: middleware is a dict; expected a list"),
        ({"middleware": "retry"}, "chain: middleware is a str; expected a list"),
        (
            {"middleware": ["retry"]},
            "chain: middleware[0]: expected a table with `use`, the name of a middleware",
        ),
        ({"middleware": [{"attempts": 3}]}, "chain: middleware[0]: expected a table with `use`"),
        ({"middleware": [{"use": "rety"}]}, "unknown middleware 'rety'; known: "),
        (
            {"middleware": [{"use": "retry", "attempt": 3}]},
            "middleware[0]: middleware 'retry': no setting 'attempt'; did you mean 'attempts'?",
        ),
        (
            {"middleware": [{"use": "retry", "attempts": "3"}]},
            "middleware 'retry': expected int, not str @ $.attempts",
        ),
        ({"middleware": [{"use": "retry", "attempts": 3.5}]}, "expected int, not float @ $.attempts"),
        ({"middleware": [{"use": "retry", "attempts": True}]}, "expected int, not bool @ $.attempts"),
        ({"middleware": [{"use": "retry", "attempts": 0}]}, "middleware[0]: middleware 'retry': "),
        ({"middleware": [{"use": "timeout", "total": "soon"}]}, "@ $.total"),
        ({"middleware": [{"use": "retry"}, {"use": "retry"}]}, "two middlewares are called 'retry'"),
        (
            {"middleware": [{"use": "fallback"}]},
            "middleware 'fallback': a fallback needs at least one target",
        ),
        ({"middleware": [{"use": "fallback", "providers": "mock"}]}, "providers is a str; expected a list"),
        (
            {"middleware": [{"use": "fallback", "providers": [{"use": "nope"}]}]},
            "middleware[0].providers[0]: unknown provider 'nope'",
        ),
        (
            {"middleware": [{"use": "fallback", "providers": [{"use": "mock"}], "cooldwn": 1}]},
            "no setting 'cooldwn'; did you mean 'cooldown'?",
        ),
    ],
)
def test_what_is_wrong_is_told_with_its_place_and_what_would_be_right(data, says):
    with pytest.raises(ConfigError) as caught:
        chain_from(data)
    assert says in str(caught.value)
    assert str(caught.value).startswith("chain: ")


def test_everything_that_is_wrong_is_told_at_once(tmp_path):
    text = """
        preset = "prod"
        modle = 1
        [provider]
        use = "opnai"
        [[middleware]]
        use = "retry"
        attempt = 3
        colour = "red"
        [[middleware]]
        use = "fallback"
        providers = [{ use = "mock", x = 1 }, { use = "none" }]
    """
    path = written(tmp_path, "c.toml", text)
    with pytest.raises(ConfigError) as caught:
        load_chain(path)
    lines = str(caught.value).splitlines()
    assert [line.removeprefix(f"{path}: ")[:28] for line in lines] == [
        "unknown 'modle'; it takes mi",
        "provider: unknown provider '",
        "middleware[0]: middleware 'r",
        "middleware[1].providers[0]: ",
        "middleware[1].providers[1]: ",
        "unknown preset 'prod'; known",
    ]
    assert "'attempts'" in lines[2]
    assert "'colour'" in lines[2]


def test_a_key_in_a_setting_is_in_no_error():
    for data in (
        {"provider": {"use": "openai", "api_key": SECRET, "modle": "m"}},
        {"provider": {"use": "openai", "api_key": [SECRET, SECRET]}},
        {"provider": {"use": "openai", "api_key": SECRET, "base_url": f"https://u:{SECRET}@host"}},
        {"provider": {"use": "openai", "api_key": SECRET, "wire": 7}},
        {"provider": {"use": "mock", "api_key": SECRET}},
        {"middleware": [{"use": "retry", "api_key": SECRET, "attempts": SECRET}]},
    ):
        with pytest.raises(ConfigError) as caught:
            chain_from(data)
        assert SECRET not in str(caught.value)


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (
            {"preset": "production", "without": [["x"]]},
            r"without names \['x'\], which the preset does not have",
        ),
        ({"preset": ["production"]}, r"unknown preset \['production'\]"),
        ({"without": [{}]}, "without names {}"),
        ({"provider": {"use": "mock", "script": 5}}, "a script is a text or a list of lines, not 5"),
        ({"provider": {"use": "mock", "chunk_chars": "x"}}, "chunk_chars must be a whole number.*not 'x'"),
        (
            {"provider": {"use": "openai", "api_key": SECRET, "model": 7}},
            "provider: model must be text, not 7",
        ),
        (
            {"provider": {"use": "openai", "api_key": SECRET, "transport": {"keepalive": "x"}}},
            "transport: keepalive must be a number, not 'x'",
        ),
    ],
)
def test_values_of_another_kind_are_told_like_any_mistake(data, says):
    with pytest.raises(ConfigError, match=says) as caught:
        chain_from(data)
    assert SECRET not in str(caught.value)


def test_a_list_of_targets_that_is_none_is_told_once():
    with pytest.raises(ConfigError) as caught:
        chain_from({"middleware": [{"use": "fallback", "providers": "mock"}]})
    assert str(caught.value).splitlines() == ["chain: middleware[0]: providers is a str; expected a list"]
