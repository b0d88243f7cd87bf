"""What is said of each provider, held against what real clients sent there and got an answer to."""

from __future__ import annotations

import json
import re
import runpy
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import orjson
import pytest
from attrs import evolve, fields

from llmpipe import Capabilities, Chain, EmbeddingRequest, Message, Request, RerankRequest, Tool, dialects
from llmpipe.dialects.losses import Losses
from llmpipe.errors import LLMError, Unsupported
from llmpipe.pricing import prices
from llmpipe.providers.factory import provider
from llmpipe.providers.options import speaking
from llmpipe.providers.profiles import PROFILES
from llmpipe.types import Audio, Document, Reasoning, ReasoningOptions, ResponseFormat, ToolCall, ToolResult
from tests.dialects.recordings import WIRE, Exchange, exchanges
from tests.providers.kit import Peer, Server, response

pytestmark = pytest.mark.real_time

# Which profile, in which dialect, stands for a recorded API.
RECORDED = {
    "anthropic.messages": ("anthropic", "anthropic.messages"),
    "azure.anthropic_messages": ("azure-anthropic", "anthropic.messages"),
    "azure.chat": ("azure", "openai.chat"),
    "azure.responses": ("azure", "openai.responses"),
    "cerebras.chat": ("cerebras", "openai.chat"),
    "cohere.chat_v2": ("cohere", "cohere.chat"),
    "deepseek.chat": ("deepseek", "openai.chat"),
    "deepseek.responses": ("deepseek", "openai.responses"),
    "gemini.generate": ("gemini", "gemini.generate"),
    "gemini.stream": ("gemini", "gemini.generate"),
    "groq.chat": ("groq", "openai.chat"),
    "local.chat": ("llama-cpp", "openai.chat"),
    "mistral.chat": ("mistral", "openai.chat"),
    "ollama.chat": ("ollama", "openai.chat"),
    "openai.chat": ("openai", "openai.chat"),
    "openai.responses": ("openai", "openai.responses"),
    "openrouter.chat": ("openrouter", "openai.chat"),
    "openrouter.responses": ("openrouter", "openai.responses"),
    "perplexity.chat": ("perplexity", "openai.chat"),
    "together.chat": ("together", "openai.chat"),
    "vertex.anthropic": ("vertex-anthropic", "anthropic.messages"),
    "vertex.generate": ("vertex", "gemini.generate"),
    "vertex.stream": ("vertex", "gemini.generate"),
    "xai.chat": ("xai", "openai.chat"),
    "xai.responses": ("xai", "openai.responses"),
}
"""``azure.chat`` also has the deployments in the path and Azure's models of others; one wire for all."""

DOCUMENTED = {
    # The newer name of max_tokens, in both providers' API reference.
    "cerebras": {".max_completion_tokens"},
    "groq": {".max_completion_tokens"},
    # As in llama.cpp's README; what was recorded has the newer name, which it also takes.
    "llama-cpp": {".max_tokens"},
    # JSON Schema as it is, in the type definitions of google-genai.
    "gemini": {".tools[].functionDeclarations[].parametersJsonSchema"},
    # The name in the second version of the API, in the type definitions of its SDK.
    "cohere": {".response_format.json_schema"},
    # Always an object, and the recorded pictures are too large to be kept.
    "openai": {".messages[].content[].image_url.url"},
}
"""What is sent though it was not recorded: by whom it is documented."""

OPEN = frozenset(
    ("args", "arguments", "data", "input", "input_schema", "jsonSchema", "json_schema", "labels", "metadata",
     "parameters", "parametersJsonSchema", "responseJsonSchema", "responseSchema", "response", "schema")
)  # fmt: skip
"""Fields whose own fields the user names."""


def dialect_of(kind: str, name: str) -> Any:
    profile = speaking(PROFILES[kind], name)
    plain: Any = dialects.get(name)
    return evolve(plain, **profile.quirks)


def names(value: Any, path: str = "") -> Iterator[str]:
    """The paths of all fields of a JSON body that the wire names, not the user."""
    if isinstance(value, list):
        for item in value:
            yield from names(item, f"{path}[]")
    elif isinstance(value, dict):
        for name, inner in value.items():
            yield f"{path}.{name}"
            if name not in OPEN:
                yield from names(inner, f"{path}.{name}")


def asked(exchange: Exchange) -> bool:
    return exchange.get("status") == 200 and exchange.get("api") in RECORDED and "elided" not in exchange


@cache
def known(kind: str, name: str) -> frozenset[str]:
    """All field names that this provider is recorded to have taken in this dialect."""
    return frozenset(
        path
        for param in exchanges(asked)
        if RECORDED[param.values[0]["api"]] == (kind, name)
        for path in names(param.values[0]["request"])
    )


@pytest.mark.skipif(not WIRE.is_dir(), reason="no recorded traffic here")
@pytest.mark.parametrize("exchange", exchanges(asked))
def test_nothing_is_sent_that_this_provider_was_never_sent(exchange: Exchange):
    kind, name = RECORDED[exchange["api"]]
    dialect = dialect_of(kind, name)
    body = json.loads(json.dumps(exchange["request"]))
    try:
        sent = dialect.encode_request(dialect.decode_request(body), Losses())
    except Unsupported:
        pytest.fail("what was answered is refused")
    new = set(names(json.loads(orjson.dumps(sent)))) - known(kind, name)
    assert new <= DOCUMENTED.get(kind, set())


def test_what_is_allowed_is_needed():
    """A line of the table that nothing needs would hide the next mistake."""
    if not WIRE.is_dir():
        pytest.skip("no recorded traffic here")
    needed: dict[str, set[str]] = {}
    for param in exchanges(asked):
        kind, name = RECORDED[param.values[0]["api"]]
        dialect = dialect_of(kind, name)
        sent = dialect.encode_request(dialect.decode_request(param.values[0]["request"]), Losses())
        needed.setdefault(kind, set()).update(set(names(json.loads(orjson.dumps(sent)))) - known(kind, name))
    assert {kind: new for kind, new in needed.items() if new} == DOCUMENTED


# -- one with another


def test_each_is_known_to_the_price_table_or_costs_nothing():
    listed = {provider for provider, _ in prices().models()}
    own = {"ollama", "vllm", "llama-cpp", ""}  # whose prices nobody else knows
    assert {profile.prices for profile in PROFILES.values()} - own <= listed


@pytest.mark.parametrize("kind", PROFILES)
def test_a_profile_holds_together_in_all_its_dialects(kind: str):
    for name in (PROFILES[kind].dialect, *PROFILES[kind].also):
        profile = speaking(PROFILES[kind], name)
        dialect, can = dialect_of(kind, name), profile.capabilities
        assert can.embeddings is bool(profile.embeddings_path)
        assert can.embeddings <= hasattr(dialect, "encode_embedding_request")
        assert can.rerank is bool(profile.rerank_path)
        assert can.rerank <= hasattr(dialect, "encode_rerank_request")
        assert can.count_tokens is bool(profile.count_path)
        assert can.count_tokens <= hasattr(dialect, "encode_count_request")
        assert can.parallel_tools <= can.tools
        quirk = getattr(dialect, "json", None)
        if quirk is not None:
            assert can.json_mode is (quirk in ("both", "object"))
            assert can.json_schema is (quirk in ("both", "schema"))
        if hasattr(dialect, "json_schema"):
            assert can.json_schema is dialect.json_schema
        for text in (profile.base_url or "", profile.chat_path, profile.stream_path, profile.count_path):
            for setting in re.findall(r"\{(\w+)\}", text):
                assert setting == "model" or setting in profile.settings


@pytest.mark.parametrize("kind", [kind for kind, one in PROFILES.items() if one.rerank_path])
async def test_documents_are_ranked_by_whoever_can(kind: str):
    said = orjson.dumps(
        {"results": [{"index": 1, "relevance_score": 0.9}, {"index": 0, "relevance_score": 0.1}]}
    )
    heads, bodies = [], []

    async def script(peer: Peer, number: int) -> None:
        while True:
            head, body = await peer.request()
            heads.append(head)
            bodies.append(orjson.loads(body))
            await peer.send(response(said))

    async with Server(script) as server:
        core = provider(kind, api_key="sk-the-key", base_url=server.url, model="m")
        async with Chain(core) as chain:
            done = await chain.rerank("which?", ["a", "b"], top_n=2)
    assert [one.index for one in done.results] == [1, 0]
    assert heads[0].startswith(f"POST /v1{PROFILES[kind].rerank_path} ".encode())
    assert bodies == [{"model": "m", "query": "which?", "documents": ["a", "b"], "top_n": 2}]


def test_a_ranking_of_fireworks_has_another_name_for_its_results():
    said = {"object": "list", "model": "m", "data": [{"index": 1, "relevance_score": 0.9}]}
    ranking: Any = dialect_of("fireworks", "openai.chat")
    assert [one.index for one in ranking.decode_ranking(said, {}).results] == [1]


async def test_whoever_has_no_ranking_says_so_before_anything_is_sent():
    core = provider("groq", api_key="sk-the-key", base_url="https://nobody.example", model="m")
    with pytest.raises(Unsupported, match="no rerank"):
        await core(Chain(core).new_call(RerankRequest("m", "which?", ["a"])))
    await core.aclose()


# -- the quirks


def sent_to(kind: str, request: Request, name: str = "openai.chat") -> tuple[dict[str, Any], tuple[str, ...]]:
    losses = Losses()
    return dialect_of(kind, name).encode_request(request, losses), losses.warnings


USED_TOOL = [
    Message("user", "And?"),
    Message("assistant", [Reasoning("Hm."), ToolCall("c1", "f", "{}")]),
    Message("tool", ToolResult("c1", "1")),
]
OLLAMAS = evolve(
    USED_TOOL[1], parts=(Reasoning("Hm.", extra={"field": "reasoning"}), *USED_TOOL[1].parts[1:])
)
BOTH = evolve(
    USED_TOOL[1],
    parts=(Reasoning("Hm.", extra={"field": "reasoning+reasoning_content"}), *USED_TOOL[1].parts[1:]),
)
MISTRALS = evolve(USED_TOOL[1], parts=(Reasoning("Hm.", extra={"type": "thinking"}), *USED_TOOL[1].parts[1:]))
ROUTERS = evolve(
    USED_TOOL[1],
    parts=(Reasoning("Hm.", extra={"type": "reasoning.text", "index": 0}), *USED_TOOL[1].parts[1:]),
)


@pytest.mark.parametrize("said", [USED_TOOL[1], OLLAMAS, BOTH, MISTRALS, ROUTERS])
@pytest.mark.parametrize(
    ("kind", "field"),
    [
        ("cerebras", "reasoning"),
        ("deepseek", "reasoning_content"),
        ("fireworks", "reasoning_content"),
        ("groq", "reasoning"),
        ("llama-cpp", "reasoning_content"),
        ("ollama", "reasoning"),
        ("together", "reasoning"),
        ("vllm", "reasoning"),
        ("xai", "reasoning_content"),
    ],
)
def test_reasoning_goes_back_in_the_field_of_the_server_wherever_it_came_from(said, kind, field):
    body, warnings = sent_to(kind, Request("m", [USED_TOOL[0], said, USED_TOOL[2]]))
    message = body["messages"][1]
    fields = {name for name in message if "reasoning" in name or name == "thinking"}
    assert fields == {field}
    assert message[field] == "Hm."
    assert not message["content"]
    assert warnings == ()


@pytest.mark.parametrize("said", [USED_TOOL[1], OLLAMAS, MISTRALS, ROUTERS])
def test_mistral_has_reasoning_in_the_content(said):
    message = sent_to("mistral", Request("m", [USED_TOOL[0], said, USED_TOOL[2]]))[0]["messages"][1]
    assert message["content"] == [{"type": "thinking", "thinking": [{"type": "text", "text": "Hm."}]}]
    assert not {name for name in message if "reasoning" in name}


def test_a_thought_without_text_is_left_out_where_only_text_is_taken():
    secret = Reasoning(encrypted="xx", extra={"type": "reasoning.encrypted"})
    body, warnings = sent_to("cerebras", Request("m", [Message("assistant", [secret, "a"])]))
    assert body["messages"] == [{"role": "assistant", "content": "a"}]
    assert warnings == ("messages[0].parts[0] dropped: this server takes the text of thoughts only",)


@pytest.mark.parametrize(
    ("kind", "options", "wire", "warned"),
    [
        ("deepseek", ReasoningOptions("high"), {"reasoning_effort": "high"}, False),
        ("deepseek", ReasoningOptions("none"), {"thinking": {"type": "disabled"}}, False),
        ("deepseek", ReasoningOptions(enabled=False), {"thinking": {"type": "disabled"}}, False),
        ("deepseek", ReasoningOptions(enabled=True), {"thinking": {"type": "enabled"}}, False),
        (
            "deepseek",
            ReasoningOptions("max", enabled=True),
            {"reasoning_effort": "max", "thinking": {"type": "enabled"}},
            False,
        ),
        ("deepseek", ReasoningOptions(max_tokens=500), {"reasoning_effort": "low"}, True),
        ("cerebras", ReasoningOptions("medium"), {"reasoning_effort": "medium"}, False),
        ("cerebras", ReasoningOptions("xhigh"), {"reasoning_effort": "high"}, True),
        ("groq", ReasoningOptions("minimal"), {"reasoning_effort": "low"}, True),
        ("groq", ReasoningOptions("default"), {"reasoning_effort": "default"}, False),
        ("together", ReasoningOptions("high"), {"reasoning_effort": "high"}, False),
        ("together", ReasoningOptions(enabled=False), {"reasoning": {"enabled": False}}, False),
        ("mistral", ReasoningOptions("high"), {"reasoning_effort": "high"}, False),
        ("mistral", ReasoningOptions("low"), {"reasoning_effort": "high"}, True),
        ("mistral", ReasoningOptions(enabled=False), {"reasoning_effort": "none"}, False),
        ("perplexity", ReasoningOptions("xhigh"), {"reasoning_effort": "high"}, True),
        ("perplexity", ReasoningOptions("none"), {"reasoning_effort": "minimal"}, True),
        ("openai", ReasoningOptions("xhigh"), {"reasoning_effort": "xhigh"}, False),
        ("openrouter", ReasoningOptions(max_tokens=500), {"reasoning": {"max_tokens": 500}}, False),
    ],
)
def test_thinking_is_asked_for_in_the_words_of_the_server(kind, options, wire, warned):
    body, warnings = sent_to(kind, Request("m", "hi", reasoning=options))
    asked_for = {name: body[name] for name in body if name in ("reasoning", "reasoning_effort", "thinking")}
    assert asked_for == wire
    assert bool(warnings) is warned


@pytest.mark.parametrize(
    ("kind", "message", "request_"),
    [
        ("mistral", {"prefix": True}, {}),
        ("deepseek", {"prefix": True}, {}),
        ("vllm", {}, {"add_generation_prompt": False, "continue_final_message": True}),
        ("groq", {}, {}),
        ("openrouter", {}, {}),
    ],
)
def test_a_beginning_of_an_answer_is_marked_as_the_server_wants_it(kind, message, request_):
    body, _ = sent_to(kind, Request("m", [Message("user", "hi"), Message("assistant", "He")]))
    assert body.pop("messages")[-1] == {"role": "assistant", "content": "He", **message}
    assert body == {"model": "m", **request_}
    for other in (USED_TOOL[:2], USED_TOOL, [Message("user", "hi")]):  # nothing to be continued
        body, _ = sent_to(kind, Request("m", other))
        assert "prefix" not in body["messages"][-1]
        assert "continue_final_message" not in body


@pytest.mark.parametrize(
    ("kind", "model", "goes_on"),
    [
        ("anthropic", "", True),  # with the right model
        ("anthropic", "claude-3-haiku-20240307", True),
        ("anthropic", "claude-opus-4-20250514", True),
        ("anthropic", "claude-opus-4-1", True),
        ("anthropic", "claude-haiku-4-5-20251001", True),
        ("anthropic", "claude-opus-4-5", True),
        ("anthropic", "claude-opus-4-6", False),
        ("anthropic", "claude-sonnet-4-6", False),
        ("anthropic", "claude-opus-4-8", False),
        ("anthropic", "claude-opus-5", False),
        ("anthropic", "claude-haiku-5-5", False),
        ("anthropic", "claude-fable-5-1", False),
        ("anthropic", "claude-not-yet-made-20270101", False),
        ("azure-anthropic", "claude-sonnet-4-5", True),
        ("azure-anthropic", "a-deployment", False),  # nobody knows of what
        ("vertex-anthropic", "claude-sonnet-4@20250514", True),
        ("vertex-anthropic", "claude-opus-4-6@default", False),
        ("openrouter", "anthropic/claude-haiku-4.5", True),
        ("openrouter", "anthropic/claude-sonnet-4", True),
        ("openrouter", "anthropic/claude-opus-4.6", False),
        ("openrouter", "openai/gpt-5.1", False),
        ("mistral", "anything", True),
        ("openai", "gpt-5.1", False),
    ],
)
def test_what_goes_on_from_a_beginning_depends_on_the_model(kind, model, goes_on):
    assert PROFILES[kind].capabilities_of(model).prefill is goes_on
    assert evolve(PROFILES[kind].capabilities_of(model), prefill=False) == evolve(
        PROFILES[kind].capabilities, prefill=False
    )


async def test_a_provider_tells_its_models_apart_until_it_is_told_better():
    plain: Any = provider("anthropic", api_key="sk-k", model="claude-opus-5")
    told: Any = provider(
        "anthropic", api_key="sk-k", model="claude-opus-5", capabilities=Capabilities(prefill=True)
    )
    routed: Any = provider("openrouter", api_key="sk-k", dialect="anthropic.messages", model="m")
    try:
        assert plain.capabilities.prefill
        assert not plain.capabilities_of("claude-opus-5").prefill
        assert told.capabilities_of("claude-opus-5") == Capabilities(prefill=True)
        assert routed.capabilities_of("anthropic/claude-haiku-4.5").prefill
        assert not routed.capabilities_of("anthropic/claude-opus-5").prefill
    finally:
        for one in (plain, told, routed):
            await one.aclose()


@pytest.mark.parametrize("kind", ["cerebras", "groq", "openai"])
def test_a_tool_call_without_text_has_no_content(kind):
    """Cerebras' gpt-oss overlooks the calls beside an empty text: langchain-ai/langchainjs, issue 8643."""
    call = Message("assistant", ToolCall("c1", "f", "{}"))
    body, _ = sent_to(kind, Request("m", [USED_TOOL[0], call, USED_TOOL[2]]))
    assert body["messages"][1]["content"] is None


def test_mistral_takes_sound_and_files_in_its_own_form():
    parts = [
        Audio("UklG", "wav"),
        Document(data="JVBERi0=", media_type="application/pdf", name="a.pdf"),
        Document(url="https://x.example/a.pdf"),
        Document(file_id="f-1"),
    ]
    assert sent_to("mistral", Request("m", [Message("user", parts)]))[0]["messages"][0]["content"] == [
        {"type": "input_audio", "input_audio": "UklG"},
        {
            "type": "document_url",
            "document_url": "data:application/pdf;base64,JVBERi0=",
            "document_name": "a.pdf",
        },
        {"type": "document_url", "document_url": "https://x.example/a.pdf"},
        {"type": "file", "file_id": "f-1"},
    ]
    with pytest.raises(Unsupported, match=r"messages\[0\].parts\[0\]: .* cannot say where this document is"):
        sent_to("mistral", Request("m", [Message("user", [Document(name="a.pdf")])]))


@pytest.mark.parametrize(
    ("kind", "role"),
    [("openai", "developer"), ("openrouter", "developer"), ("mistral", "system"), ("groq", "system")],
)
def test_a_developer_is_the_system_where_nobody_knows_that_role(kind, role):
    request = dialects.get("openai.chat").decode_request(
        {"model": "m", "messages": [{"role": "developer", "content": "Be brief."}]}
    )
    assert sent_to(kind, request)[0]["messages"] == [{"role": role, "content": "Be brief."}]


@pytest.mark.parametrize(
    ("kind", "form", "wire"),
    [
        ("deepseek", ResponseFormat("json"), "json_object"),
        ("deepseek", ResponseFormat("json_schema", {"type": "object"}), "json_object"),
        ("perplexity", ResponseFormat("json_schema", {"type": "object"}), "json_schema"),
        ("perplexity", ResponseFormat("json"), None),
        ("groq", ResponseFormat("json_schema", {"type": "object"}), "json_schema"),
    ],
)
def test_json_is_asked_for_in_the_way_that_the_server_has(kind, form, wire):
    body, warnings = sent_to(kind, Request("m", "hi", response_format=form))
    assert body.get("response_format", {}).get("type") == wire
    emulated = wire is None or (form.type, wire) == ("json_schema", "json_object")
    assert bool(warnings) is emulated


@pytest.mark.parametrize("kind", [kind for kind, one in PROFILES.items() if one.dialect == "openai.chat"])
def test_a_tool_that_must_be_called_is_required_everywhere(kind):
    """Mistral's own word is "any", and it takes this one too."""
    body, _ = sent_to(kind, Request("m", "hi", tools=[Tool("f")], tool_choice="required"))
    assert body["tool_choice"] == "required"


def test_vertex_has_its_own_ways_with_embeddings_labels_and_counts():
    dialect = dialect_of("vertex", "gemini.generate")
    assert "instances" in dialect.encode_embedding_request(EmbeddingRequest("m", ["a"]))
    assert dialect.encode_request(Request("m", "hi", metadata={"team": "a"}))["labels"] == {"team": "a"}
    assert "contents" in dialect.encode_count_request(Request("m", "hi"))
    plain = dialect_of("gemini", "gemini.generate")
    assert "requests" in plain.encode_embedding_request(EmbeddingRequest("m", ["a"]))
    assert "labels" not in plain.encode_request(Request("m", "hi", metadata={"team": "a"}))
    assert "generateContentRequest" in plain.encode_count_request(Request("m", "hi"))


async def test_openai_counts_tokens_where_it_speaks_responses():
    async def script(peer: Peer, number: int) -> None:
        head, _ = await peer.request()
        assert head.startswith(b"POST /v1/responses/input_tokens ")
        await peer.send(response(b'{"object": "response.input_tokens", "input_tokens": 7}'))

    async with Server(script) as server:
        core: Any = provider(
            "openai", api_key="sk-k", base_url=server.url, model="m", dialect="openai.responses"
        )
        assert core.capabilities == Capabilities(count_tokens=True)
        assert await core.count_tokens("hi") == 7
        await core.aclose()


@pytest.mark.parametrize("name", ["anthropic.messages", "openai.responses"])
@pytest.mark.parametrize("kind", ["deepseek", "ollama", "vllm", "llama-cpp", "openrouter"])
async def test_what_only_the_first_dialect_has_is_told_in_another(kind, name):
    core = provider(kind, api_key="sk-k", base_url="https://nobody.example", model="m", dialect=name)
    with pytest.raises(LLMError, match="no embeddings"):
        await core(Chain(core).new_call(EmbeddingRequest("m", ["a"])))
    await core.aclose()


# -- the page about them

TABLES = runpy.run_path(str(Path(__file__).parents[2] / "docs" / "tables.py"))


def test_the_page_has_a_row_for_each_and_for_what_each_speaks():
    rows = TABLES["provider_table"]().splitlines()[2:]
    assert [row.split("`")[1] for row in rows] == list(PROFILES)
    assert (
        "| `groq` | `GROQ_API_KEY` |  | `https://api.groq.com/openai/v1` |"
        in rows[list(PROFILES).index("groq")]
    )
    can = TABLES["capability_table"]().splitlines()
    assert len(can) == 2 + sum(1 + len(profile.also) for profile in PROFILES.values())
    assert "| `perplexity` |  | yes |  |  |  | yes | yes |  |  |  |  |" in can
    assert set(TABLES["CAPABILITIES"]) == {field.name for field in fields(Capabilities)} - {
        "streaming",
        "parallel_tools",
        "context_tokens",
    }
