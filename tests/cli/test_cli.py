"""The command line: what each command prints, and the status it ends with."""

from __future__ import annotations

import asyncio
import io
import os
import re
import signal
import subprocess
import sys
import threading
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from aiohttp import ClientSession

from llmpipe.cli import main
from llmpipe.cli.pick import found_in
from llmpipe.cli.simulate import SERVED, rules_from
from llmpipe.errors import ConfigError
from llmpipe.testing.simulator import Fault, Rule, Simulator
from llmpipe.testing.simulator.doors import DOORS

pytest.importorskip("rich")

ROOT = Path(__file__).parents[2]
COMMANDS = ["audit", "budget", "bulk", "chat", "demo", "doctor", "explain", "keys", "simulate-provider"]


def told(capsys: pytest.CaptureFixture[str]) -> tuple[str, str]:
    captured = capsys.readouterr()
    return captured.out, captured.err


# -- the command itself


def test_help_names_every_command(capsys):
    with pytest.raises(SystemExit) as ended:
        main(["--help"])
    assert ended.value.code == 0
    out, _ = told(capsys)
    assert all(command in out for command in COMMANDS)


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help(command, capsys):
    with pytest.raises(SystemExit) as ended:
        main([command, "--help"])
    assert ended.value.code == 0
    out, _ = told(capsys)
    assert out.startswith(f"usage: llmpipe {command}")


def test_the_version_is_told(capsys):
    from llmpipe import __version__

    with pytest.raises(SystemExit) as ended:
        main(["--version"])
    assert ended.value.code == 0
    assert told(capsys)[0] == f"llmpipe {__version__}\n"


@pytest.mark.parametrize(
    "arguments", [[], ["dance"], ["chat", "--nope"], ["explain"], ["simulate-provider", "--port", "x"]]
)
def test_wrong_use_ends_with_2(arguments, capsys):
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 2
    assert "usage: llmpipe" in told(capsys)[1]


def test_the_bare_command_shows_its_help(capsys):
    with pytest.raises(SystemExit) as ended:
        main([])
    assert ended.value.code == 2
    out, err = told(capsys)
    assert out == ""
    assert all(command in err for command in COMMANDS)


def test_help_imports_no_command():
    code = (
        "import sys\nfrom llmpipe.cli import main\n"
        "try: main(['--help'])\n"
        "except SystemExit: pass\n"
        "assert not {'rich', 'aiohttp'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, stdout=subprocess.DEVNULL, cwd=ROOT)


@pytest.mark.parametrize("command", ["chat", "doctor"])
def test_a_missing_extra_is_named(command, monkeypatch, capsys):
    for name in [
        name for name in sys.modules if name.partition(".")[0] == "rich" or name == f"llmpipe.cli.{command}"
    ]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "rich", None)
    monkeypatch.setitem(sys.modules, "rich.console", None)
    assert main([command]) == 2
    assert told(capsys)[1] == f"llmpipe {command}: needs 'rich.console': pip install 'llmpipe[cli]'\n"


# -- explain


def test_explain_prints_what_a_chain_does(capsys, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "sk-canary-0123456789")
    monkeypatch.setenv("ANTHROPIC_API_KEY", "sk-canary-0123456789")
    assert main(["explain", str(ROOT / "examples/chains/production.toml")]) == 0
    out, err = told(capsys)
    assert "retry" in out
    assert "at worst:" in out
    assert "canary" not in out + err


@pytest.mark.parametrize("before", [None, ""])
def test_explain_needs_no_keys_and_leaves_none_behind(before, capsys, monkeypatch, tmp_path):
    for name in ("OPENAI_API_KEY", "ANTHROPIC_API_KEY"):
        if before is None:
            monkeypatch.delenv(name, raising=False)
        else:
            monkeypatch.setenv(name, before)
    chain = tmp_path / "chain.toml"
    chain.write_text('[provider]\nuse = "openai"\n')  # its key is looked for where nothing is said
    for file in (ROOT / "examples/chains/production.toml", chain):
        assert main(["explain", str(file)]) == 0
        assert "<provider openai at api.openai.com" in told(capsys)[0]
    assert os.environ.get("OPENAI_API_KEY") == before
    assert os.environ.get("ANTHROPIC_API_KEY") == before


def test_explain_makes_up_nothing_but_keys(capsys, tmp_path):
    chain = tmp_path / "chain.toml"
    chain.write_text('[provider]\nuse = "mock"\nmodel = "${LLMPIPE_TEST_NOT_SET}"\n')
    assert main(["explain", str(chain)]) == 2
    assert "LLMPIPE_TEST_NOT_SET, which is not set" in told(capsys)[1]


def test_explain_ends_with_1_for_a_dangerous_chain(capsys, tmp_path):
    # A cache outside of redaction would keep what should not be kept.
    chain = tmp_path / "chain.json"
    chain.write_text('{"middleware": [{"use": "cache", "priority": 250}, {"use": "redact"}]}')
    assert main(["explain", str(chain)]) == 1
    assert "error" in told(capsys)[0]


@pytest.mark.parametrize(
    ("name", "text", "says"),
    [
        ("c.toml", 'preset = "prod"', "unknown preset 'prod'"),
        ("c.json", '{"middleware": [{"use": "retry", "attempt": 1}]}', "did you mean 'attempts'?"),
        ("c.yaml", "middleware: [{use: rety}]", "did you mean 'retry'?"),
        ("c.txt", "", "unknown kind of file"),
    ],
)
def test_explain_ends_with_2_for_a_file_that_is_wrong(name, text, says, tmp_path, capsys):
    if name.endswith("yaml"):
        pytest.importorskip("yaml")
    (tmp_path / name).write_text(text)
    assert main(["explain", str(tmp_path / name)]) == 2
    out, err = told(capsys)
    assert out == ""
    assert err.startswith(f"llmpipe explain: {tmp_path / name}: ")
    assert says in err


def test_explain_into_a_pipe_that_closes_is_quiet():
    done = subprocess.run(
        f"{sys.executable} -m llmpipe explain examples/chains/mock.toml | true",
        shell=True, cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert "Traceback" not in done.stderr
    assert "BrokenPipe" not in done.stderr


# -- chat


def test_chat_answers_one_question(capsys):
    assert main(["chat", "Say", "hello"]) == 0
    out, err = told(capsys)
    assert out.startswith("You said: 'Say hello'. I am a mock")
    assert re.search(r"\d+ in, \d+ out", err)


def test_chat_holds_a_conversation_until_the_end_of_input(capsys, monkeypatch):
    monkeypatch.setattr("sys.stdin", io.StringIO("first\n\n  \nsecond\n"))
    assert main(["chat", "--system", "Be brief."]) == 0
    out, err = told(capsys)
    assert [line[:19] for line in out.splitlines() if line.startswith("You said")] == [
        "You said: 'first'. ",
        "You said: 'second'.",
    ]
    assert "talking to mock, model mock-1; end with Ctrl-D" in err


@pytest.mark.real_time
async def test_chat_remembers_what_was_said(monkeypatch, capsys):
    seen: list[int] = []

    def answer(request: Any) -> Any:
        from llmpipe.types import Completion, Message

        seen.append(len(request.messages))
        return Completion(
            message=Message("assistant", f"number {len(request.messages)}"), finish_reason="stop"
        )

    async with Simulator(answer=answer) as simulator:
        monkeypatch.setattr("sys.stdin", io.StringIO("one\ntwo\nthree\n"))
        url = f"{simulator.url}/v1"
        status = await asyncio.to_thread(
            main, ["chat", "--system", "s", "--base-url", url, "--model", "gpt-4o-mini"]
        )
        assert status == 0
    assert seen == [2, 4, 6]
    assert told(capsys)[0].splitlines() == ["number 2", "number 4", "number 6"]


@pytest.mark.real_time
async def test_chat_ends_with_1_where_a_question_fails_and_goes_on_in_a_conversation(monkeypatch, capsys):
    rules = [Rule(Fault(status=400, body=b'{"error": {"message": "[red]no[/red] \\u001b[31m"}}'), last=2)]
    async with Simulator(rules) as simulator:
        options = ["chat", "--base-url", f"{simulator.url}/v1", "--model", "gpt-4o-mini"]
        assert await asyncio.to_thread(main, [*options, "hi"]) == 1
        out, err = told(capsys)
        assert out == ""
        assert "InvalidRequest: " in err
        assert len(err.splitlines()) == 1  # told once, and not cut at the width of a terminal
        assert "[red]no[/red]" in err
        assert "\x1b" not in err
        monkeypatch.setattr("sys.stdin", io.StringIO("fails\nworks\n"))
        assert await asyncio.to_thread(main, options) == 0
        out, err = told(capsys)
        assert len(out.splitlines()) == 1
        assert "InvalidRequest" in err


def test_what_went_wrong_is_told_once():
    """Not by the log's record of the call as well, which goes to stderr where nobody set up logging."""
    done = subprocess.run(
        [sys.executable, "-m", "llmpipe", "chat", "--provider", "mock"],
        input="x" * 1_100_000, cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert [line.partition(":")[0] for line in done.stderr.splitlines()] == [
        "talking to mock, model mock-1; end with Ctrl-D",
        "RequestTooLarge",
    ]


def test_what_a_model_says_does_not_command_the_terminal(monkeypatch, capsys):
    evil = "\x1b]0;owned\x07\x1b[2Jhello\x9b31m\nnext\tline"
    monkeypatch.setattr("llmpipe.cli.pick._said", lambda request: evil)
    assert main(["chat", "hi"]) == 0
    out, _ = told(capsys)
    assert not {"\x1b", "\x07", "\x9b"} & set(out)
    assert "hello" in out
    assert "next" in out


@pytest.mark.parametrize(
    ("environ", "arguments", "says"),
    [
        ({}, ["--provider", "openai"], "needs an API key: pass api_key=… or set OPENAI_API_KEY"),
        ({}, ["--provider", "opnai"], "unknown provider 'opnai'"),
        ({}, ["--provider", "opnai", "--model", "m"], "did you mean 'openai'?"),
        ({}, ["--provider", "openai-compatible", "--model", "m"], "Pass --base-url, such as http://"),
        (
            {},
            ["--provider", "openai-compatible"],
            "has no default model; pass --model, or set LLM_DEFAULT_MODEL",
        ),
        ({}, ["--base-url", "ftp://x", "--model", "m"], "base_url must be http(s)://host/…"),
        ({"LLM_BASE_URL": "http://127.0.0.1:1/v1"}, [], "has no default model; pass --model"),
        ({}, ["--provider", "ollama", "--base-url", "http://127.0.0.1:1"], "models, it failed: "),
        ({}, ["--provider", "azure"], "--base-url, such as https://my-resource.openai.azure.com/openai/v1"),
        ({}, ["--provider", "vertex"], "needs project=…, or GOOGLE_CLOUD_PROJECT"),
        ({}, ["--provider", "xai"], "needs an API key: pass api_key=… or set XAI_API_KEY"),
        ({"OPENAI_API_KEY": "sk-“x”"}, [], "an API key must be printable ASCII"),
    ],
)
def test_chat_ends_with_2_where_it_cannot_know_whom_to_ask(monkeypatch, capsys, environ, arguments, says):
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    model = [] if "--model" in arguments or "model" in says else ["--model", "m"]
    assert main(["chat", *arguments, *model, "hi"]) == 2
    out, err = told(capsys)
    assert out == ""
    assert says in err


@pytest.mark.parametrize(
    ("models", "status", "says"),
    [
        (["gpt-only"], 0, "talking to ollama, model gpt-only"),
        (["b", "a"], 2, "set LLM_DEFAULT_MODEL; it offers a, b\n"),
        (list("ihgfedcba"), 2, "it offers a, b, c, d, e, f, g, h, …\n"),
    ],
)
def test_chat_takes_the_only_model_of_a_server_or_names_those_it_has(
    models, status, says, monkeypatch, capsys
):
    async def get_models(self: Any) -> Any:
        from llmpipe.types import ModelInfo

        return tuple(ModelInfo(name) for name in models)

    monkeypatch.setattr("llmpipe.providers.http.HTTPProvider.get_models", get_models)
    monkeypatch.setattr("sys.stdin", io.StringIO(""))
    assert main(["chat", "--provider", "ollama"]) == status
    assert says in told(capsys)[1]


def test_the_provider_is_what_there_is_a_key_for():
    assert found_in({}) is None
    assert found_in({"ANTHROPIC_API_KEY": "x"}) == "anthropic"
    assert found_in({"ANTHROPIC_API_KEY": "x", "OPENAI_API_KEY": "x"}) == "openai"
    assert found_in({"OPENAI_API_KEY": ""}) is None
    assert found_in({"LLM_API_KEY": "x"}) is None  # a key for nobody knows which server
    assert found_in({"AZURE_OPENAI_API_KEY": "x"}) is None  # nor which resource
    assert found_in({"GOOGLE_API_KEY": "x", "OLLAMA_API_KEY": "x"}) is None
    assert found_in({"XAI_API_KEY": "x", "MISTRAL_API_KEY": "x"}) == "mistral"
    assert found_in({"LLM_BASE_URL": "http://localhost:1/v1", "OPENAI_API_KEY": "x"}) == "openai-compatible"


# -- doctor


def test_doctor_examines_the_installation(capsys, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "sk-canary-0123456789")
    assert main(["doctor"]) == 0
    out, _ = told(capsys)
    assert "ok   Python 3." in out
    assert re.search(r"^ok   dialects: anthropic\.messages, .*openai\.chat", out, re.MULTILINE)
    assert "ok   OPENAI_API_KEY is set (openai)" in out
    [missing] = [line for line in out.splitlines() if line.startswith("note not set")]
    assert "ANTHROPIC_API_KEY (anthropic), AZURE_OPENAI_API_KEY (azure, azure-deployments)" in missing
    assert "OPENAI_API_KEY (openai)" not in missing
    assert "VLLM_API_KEY" not in missing  # it needs none
    assert "ok   a call through the standard chain over the mock provider" in out
    assert "canary" not in out


def test_doctor_looks_through_stores(capsys, tmp_path):
    good, damaged = f"sqlite:///{tmp_path}/state.db", f"sqlite:///{tmp_path}/damaged.db"
    (tmp_path / "damaged.db").write_text("this is no database")
    assert main(["doctor", "--store", good]) == 0
    out, _ = told(capsys)
    assert re.search(r"^(ok|note) +SQLite 3\.", out, re.MULTILINE)
    assert f"ok   {good} can be read; it keeps audit, cache, ledger" in out
    far = "nosuch://user:canary@127.0.0.1:1/0"
    assert main(["doctor", "--store", damaged, "--store", far, "--store", "memory://"]) == 1
    out, _ = told(capsys)
    assert re.search(r"^bad .*damaged\.db: SQLite says file is not a database", out, re.MULTILINE)
    assert "bad  no state backend for nosuch://" in out
    assert "ok   memory:// can be read" in out
    assert "canary" not in out


def test_doctor_goes_on_where_a_setting_of_a_store_is_wrong(capsys, tmp_path, monkeypatch):
    """Some are looked at when the store is first asked."""
    monkeypatch.setattr("llmpipe.state.sqlite.opening._MADE_FOR", (99, 0, 0))
    assert main(["doctor", "--store", f"sqlite:///{tmp_path}/state.db", "--store", "memory://"]) == 1
    out, _ = told(capsys)
    assert re.search(r"^bad .*needs SQLite", out, re.MULTILINE)
    assert "ok   memory:// can be read" in out


@pytest.mark.parametrize(("version", "level"), [((3, 51, 2), "note"), ((3, 51, 3), "ok"), ((3, 53, 0), "ok")])
def test_doctor_knows_which_sqlite_may_damage_a_file(version, level, capsys, monkeypatch):
    import sqlite3

    monkeypatch.setattr(sqlite3, "sqlite_version_info", version)
    monkeypatch.setattr(sqlite3, "sqlite_version", ".".join(map(str, version)))
    main(["doctor"])
    out, _ = told(capsys)
    assert re.search(rf"^{level} +SQLite {'.'.join(map(str, version))}", out, re.MULTILINE)


@pytest.mark.real_time
async def test_doctor_asks_providers_whether_their_keys_are_good(capsys, monkeypatch):
    from attrs import evolve

    from llmpipe.providers import profiles

    async with Simulator(keys={"sk-good"}) as simulator:
        for name in ("openai", "anthropic"):
            known = profiles.PROFILES[name]
            monkeypatch.setitem(profiles.PROFILES, name, evolve(known, base_url=f"{simulator.url}/v1"))
        monkeypatch.setenv("OPENAI_API_KEY", "sk-good")
        monkeypatch.setenv("ANTHROPIC_API_KEY", "sk-bad")
        assert await asyncio.to_thread(main, ["doctor", "--online"]) == 1
        out, _ = told(capsys)
        assert "ok   openai accepts its key" in out
        assert "bad  anthropic refuses its key" in out
    monkeypatch.delenv("ANTHROPIC_API_KEY")
    assert await asyncio.to_thread(main, ["doctor", "--online"]) == 1
    assert "bad  openai cannot be asked: " in told(capsys)[0]


def test_doctor_asks_nobody_whose_address_it_does_not_know(capsys, monkeypatch):
    monkeypatch.setenv("AZURE_OPENAI_API_KEY", "sk-canary-0123456789")
    assert main(["doctor", "--online"]) == 0
    out, _ = told(capsys)
    assert "ok   AZURE_OPENAI_API_KEY is set (azure, azure-deployments)" in out
    assert "note azure cannot be asked here: it needs resource=…" in out


@pytest.mark.parametrize("there", [True, False])
def test_doctor_says_what_vertex_needs(there, capsys, monkeypatch):
    from llmpipe.cli import doctor

    monkeypatch.setenv("GOOGLE_CLOUD_PROJECT", "p-1")
    monkeypatch.setattr(doctor, "find_spec", lambda name: object() if there else None)
    assert main(["doctor"]) == 0
    out, _ = told(capsys)
    assert "ok   GOOGLE_CLOUD_PROJECT is set (vertex-anthropic, vertex)" in out
    assert ("pip install 'llmpipe[vertex]'" in out) is not there


def test_doctor_tells_of_a_plugin_that_does_not_load(capsys, monkeypatch):
    from importlib.metadata import EntryPoint

    from llmpipe.cli import doctor

    broken = EntryPoint("broken", "no_such_package:[x]", "llmpipe.middleware")
    monkeypatch.setattr(doctor, "entry_points", lambda group: [broken])
    assert main(["doctor"]) == 1
    out, _ = told(capsys)
    assert "bad  middleware 'broken' of llmpipe does not load: " in out
    assert "bad  provider 'broken' of no_such_package:[x] does not load: " in out


# -- simulate-provider


class Running:
    """`llmpipe simulate-provider` in a process of its own."""

    def __init__(self, *arguments: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "llmpipe", "simulate-provider", "--port", "0", *arguments],
            cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
        )  # fmt: skip
        watchdog = threading.Timer(30, self.process.kill)
        watchdog.daemon = True
        watchdog.start()
        self._watchdog = watchdog
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        found = re.search(r"http://127\.0\.0\.1:\d+/v1", line)
        assert found, (
            line,
            self.process.stderr and self.process.poll() is not None and self.process.stderr.read(),
        )
        self.url = found[0]

    def __enter__(self) -> Running:
        return self

    def stop(self, how: int = signal.SIGTERM) -> str:
        """Its last words."""
        self.process.send_signal(how)
        out, err = self.process.communicate(timeout=20)
        assert "Traceback" not in err
        return out

    def __exit__(self, *_: object) -> None:
        self._watchdog.cancel()
        with suppress(ProcessLookupError):
            self.process.kill()
        self.process.communicate()


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGINT])
def test_simulate_provider_answers_until_it_is_stopped_and_prints_its_books(capsys, how):
    with Running("--key", "sk-one", "--key", "sk-two") as running:
        options = ["chat", "--base-url", running.url, "--model", "gpt-4o-mini"]
        os.environ["LLM_API_KEY"] = "sk-two"
        try:
            assert main([*options, "hi"]) == 0
            os.environ["LLM_API_KEY"] = "sk-three"
            assert main([*options, "hi"]) == 1
        finally:
            del os.environ["LLM_API_KEY"]
        assert "AuthenticationFailed" in told(capsys)[1]
        said = running.stop(how)
        assert re.search(r"2 requests: .*'ok': 1.*; billed \$0\.0000\d+", said)
        assert running.process.returncode == 0


@pytest.mark.real_time
async def test_simulate_provider_serves_what_it_says():
    """Each path that is printed is of the dialect beside it, and each door is printed."""
    async with Simulator() as simulator, ClientSession() as session:
        for dialect, paths in SERVED.items():
            for path in paths:
                async with session.post(f"{simulator.url}{path}", json={}) as response:
                    assert response.status != 404, path
                assert simulator.book.entries[-1].dialect == dialect, path
    printed = [path for paths in SERVED.values() for path in paths]
    for door in DOORS:
        end = re.escape(door.rpartition("}")[2] or "Content")
        assert any(re.search(f"{end}$", path) for path in printed), door


def test_simulate_provider_prints_what_it_serves(capsys):
    assert main(["simulate-provider", "--port", "0", "--seconds", "0.1"]) == 0
    out, _ = told(capsys)
    assert all(path in out for paths in SERVED.values() for path in paths)


def test_simulate_provider_fails_as_it_is_told(capsys, tmp_path):
    rules = tmp_path / "rules.toml"
    rules.write_text('[[rule]]\nlast = 1\n[rule.fault]\nstatus = 400\nbody = "not today"\n')
    with Running("--rules", str(rules), "--seed", "3", "--fail-rate", "0") as running:
        options = ["chat", "--base-url", running.url, "--model", "gpt-4o-mini", "hi"]
        assert main(options) == 1
        assert "not today" in told(capsys)[1]
        assert main(options) == 0


def test_simulate_provider_ends_by_itself():
    with Running("--seconds", "0.1", "--fail-rate", "1") as running:
        out, _ = running.process.communicate(timeout=20)
        assert out.splitlines()[-1].startswith("0 requests")
        assert running.process.returncode == 0


def test_simulate_provider_needs_a_port_that_is_free(capsys):
    with Running() as running:
        port = running.url.split(":")[2].partition("/")[0]
        assert main(["simulate-provider", "--port", port]) == 2
        assert f"cannot listen on port {port}" in told(capsys)[1]
    assert main(["simulate-provider", "--port", "99999999"]) == 2
    assert main(["simulate-provider", "--fail-rate", "2", "--port", "0"]) == 2
    assert "rate must lie between 0 and 1" in told(capsys)[1]


def test_rules_come_from_a_file(tmp_path):
    rules = rules_from(str(ROOT / "examples/how_to/rules.toml"))
    assert rules[0] == Rule(Fault(status=503, headers={"retry-after": "2"}), since=10.0, until=20.0)
    assert len(rules) == 4
    path = tmp_path / "rules.json"
    path.write_text('{"rule": [{"fault": {"body": "text", "status": 500}}]}')
    assert rules_from(str(path))[0].fault.body == b"text"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ('{"rules": []}', "unknown 'rules'; it takes [[rule]] tables"),
        ('{"rule": [7]}', "rule[0]: expected a table, not int"),
        ('{"rule": {"fault": {}, "rate": 3}}', "rule[0]: rate must lie between 0 and 1"),
        ('{"rule": [{}]}', "rule[0]: expected a table [rule.fault]"),
        ('{"rule": [{"fault": {}}, {"fault": 7}]}', "rule[1]: expected a table [rule.fault]"),
        ('{"rule": [{"fault": {"sttus": 500}}]}', "rule[0]: no 'fault.sttus'; did you mean 'status'?"),
        ('{"rule": [{"fault": {}, "frist": 1}]}', "rule[0]: no 'frist'; did you mean 'first'?"),
        ('{"rule": [{"fault": {}, "when": "x"}]}', "rule[0]: no 'when'"),
        ('{"rule": [{"fault": {"status": "500"}}]}', "rule[0]: expected int, not str @ $.fault.status"),
        ('{"rule": [{"fault": {"status": 7}}]}', "status must be an HTTP status, not 7"),
        ('{"rule": [{"fault": {"a": 1}}, {"fault": {"b": 1}}]}', "rule[1]: no 'fault.b'"),
    ],
)
def test_rules_that_are_wrong_say_where(tmp_path, text, says):
    path = tmp_path / "rules.json"
    path.write_text(text)
    with pytest.raises(ConfigError) as caught:
        rules_from(str(path))
    assert says in str(caught.value)
    assert str(caught.value).startswith(f"{path}: ")


def test_ctrl_c_at_the_prompt_ends_a_chat_at_once():
    code = (
        "import builtins, os, signal, sys\n"
        "def typed(prompt=''):\n"
        "    os.kill(os.getpid(), signal.SIGINT)\n"
        "    import time; time.sleep(3600)\n"
        "builtins.input = typed\n"
        "from llmpipe.cli import main\n"
        "sys.exit(main(['chat']))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False, timeout=30
    )
    assert done.returncode == 130, done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("seconds", ["0", "-1", "nan"])
def test_simulate_provider_runs_for_some_time_or_until_it_is_stopped(seconds, capsys):
    assert main(["simulate-provider", "--port", "0", "--seconds", seconds]) == 2
    out, err = told(capsys)
    assert out == ""
    assert err == f"llmpipe simulate-provider: --seconds must be above 0, not {seconds}\n"


def test_a_mock_has_the_model_that_was_asked_for(monkeypatch, capsys):
    monkeypatch.setattr("sys.stdin", io.StringIO(""))
    assert main(["chat", "--provider", "mock", "--model", "small"]) == 0
    assert "talking to mock, model small" in told(capsys)[1]
