"""What each dialect does with each field of a request; the page that says so is made of what is found."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import attrs
import orjson
import pytest

from llmpipe import dialects
from llmpipe.dialects.losses import Losses
from llmpipe.errors import Unsupported
from llmpipe.providers.factory import provider
from llmpipe.types import Request
from tests.integration.conversions.probes import PROBES, Probe

PAGE = Path(__file__).parents[3] / "docs" / "reference" / "losses.md"
ACCEPT = bool(os.environ.get("LLMPIPE_ACCEPT"))  # here, for tests run without such variables
BEGIN, END = "<!-- made by tests/integration/conversions -->", "<!-- end -->"
MODELS = {
    "openai.chat": "gpt-5.2",
    "openai.responses": "gpt-5.2",
    "anthropic.messages": "claude-opus-4-8",
    "gemini.generate": "gemini-2.5-flash",
    "cohere.chat": "command-a-reasoning-08-2025",
    "bedrock.converse": "anthropic.claude-sonnet-4-5-20250929-v1:0",
    "ollama.chat": "qwen3",
}
SPOKEN: dict[str, Any] = {name: dialects.get(name) for name in MODELS}
SPOKEN["openai.chat"] = vars(provider("openai", api_key="sk-any-key"))["dialect"]  # its own server's quirks
# What is said in the request's address, or is what happens anyway, so that nothing in the body changes.
ELSEWHERE = {
    ("`model`", "gemini.generate"),
    ("`model`", "bedrock.converse"),
    ("`stream`", "gemini.generate"),
    ("`stream`", "bedrock.converse"),
    ("`tool_choice` auto", "cohere.chat"),
    ("`tool_choice` auto", "ollama.chat"),
    ("`Image.detail` auto", ""),
    ("`parallel_tool_calls` True", ""),
    ("`strict` True", ""),
    ("`name`", ""),
    ("`strict`", ""),
    ("`description`", "ollama.chat"),  # of a schema, which has its own
}


def wire(name: str, request: Request, losses: Losses | None = None) -> Any:
    model = MODELS[name] if request.model == "m" else request.model
    body = SPOKEN[name].encode_request(attrs.evolve(request, model=model), losses)
    return orjson.loads(orjson.dumps(body))


def outcome(name: str, probe: Probe) -> tuple[str, tuple[str, ...]]:
    """One word, and the warnings or the reason."""
    before, losses = Losses(), Losses()
    try:
        base = wire(name, probe.base, before)
        body = wire(name, probe.request, losses)
    except Unsupported as error:
        return "refused", (error.message,)
    new = tuple(text for text in losses.warnings if text not in before.warnings)
    if any(" emulated: " in text for text in new):
        return "emulated", new
    if new:
        return "dropped", new
    return "said" if body != base else "not said", ()


@pytest.mark.parametrize("name", MODELS)
def test_nothing_is_left_out_without_a_word(name):
    silent = [probe.name for probe in PROBES if outcome(name, probe)[0] == "not said"]
    allowed = {what for what, where in ELSEWHERE if where in ("", name)}
    assert set(silent) <= allowed


def test_every_field_of_a_request_is_probed():
    changed = {
        field.name
        for probe in PROBES
        for field in attrs.fields(Request)
        if getattr(probe.base, field.name) != getattr(probe.request, field.name)
    }
    assert changed == {field.name for field in attrs.fields(Request)} - {"dialect"}


def test_every_dialect_that_writes_requests_is_probed():
    assert set(MODELS) == {name for name in dialects.names() if name in dialects._BUILT_IN}


def test_the_page_is_what_is_found():
    text = PAGE.read_text(encoding="utf-8")
    head, _, rest = text.partition(BEGIN)
    old, _, tail = rest.partition(END)
    new = table()
    if ACCEPT:
        PAGE.write_text(f"{head}{BEGIN}\n{new}{END}{tail}", encoding="utf-8")
    else:
        assert old.strip() == new.strip(), "run this test with LLMPIPE_ACCEPT=1 and look at the page"


def table() -> str:
    notes: dict[str, int] = {}
    lines: list[str] = []
    group = ""
    for probe in PROBES:
        if probe.group != group:
            group = probe.group
            lines += [f"\n## {group}\n", f"| | {' | '.join(MODELS)} |", "| --- |" + " --- |" * len(MODELS)]
        cells = [shown(*outcome(name, probe), notes) for name in MODELS]
        lines.append(f"| {probe.name} | {' | '.join(cells)} |")
    lines.append("\n## Notes\n")
    lines += [f"{number}. {note}" for note, number in notes.items()]
    return "\n".join(lines) + "\n"


def shown(word: str, why: tuple[str, ...], notes: dict[str, int]) -> str:
    word = "–" if word == "not said" else word
    numbers = [notes.setdefault(text, len(notes) + 1) for text in why]
    return f"{word} ({', '.join(map(str, numbers))})" if numbers else word
