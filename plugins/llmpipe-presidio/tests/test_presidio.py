"""Names and places through a real analyzer. A rule-based spaCy pipeline stands in for a trained model.

`AnalyzerEngine`, `SpacyNlpEngine`, `SpacyRecognizer` and spaCy are the real ones; only what the words
mean is told by an entity ruler, for a trained model is a download of its own.
"""

from __future__ import annotations

import threading
from typing import Any

import pytest

from llmpipe import Chain, MockProvider, Redact, Runtime
from llmpipe.errors import ConfigError
from llmpipe.middleware.redact import Finder, Finding
from llmpipe.types import Message, Request, ToolCall

spacy = pytest.importorskip("spacy", reason="presidio-analyzer is not installed")
presidio = pytest.importorskip("presidio_analyzer", reason="presidio-analyzer is not installed")

from llmpipe_presidio import ENTITIES, Presidio  # noqa: E402  what it needs is looked for first

RULES = [
    {"label": "PERSON", "pattern": [{"LOWER": "jane"}, {"LOWER": "doe", "OP": "?"}]},
    {"label": "PERSON", "pattern": "Søren"},
    {"label": "GPE", "pattern": "Springfield"},
]


def analyzer() -> Any:
    nlp = spacy.blank("en")
    nlp.add_pipe("entity_ruler").add_patterns(RULES)

    engines: Any = presidio.nlp_engine

    class Ruled(engines.SpacyNlpEngine):  # type: ignore[misc]  # which lint need not have
        def __init__(self) -> None:
            super().__init__()
            self.nlp = {"en": nlp}

    recognizer = presidio.predefined_recognizers.SpacyRecognizer(supported_language="en")
    registry = presidio.RecognizerRegistry(recognizers=[recognizer], supported_languages=["en"])
    return presidio.AnalyzerEngine(registry=registry, nlp_engine=Ruled(), supported_languages=["en"])


@pytest.fixture(scope="module")
def finder() -> Presidio:
    return Presidio(analyzer=analyzer())


def test_names_and_places_are_found_with_their_places_in_the_text(finder):
    text = "Søren asked Jane Doe in Springfield."
    assert [(text[f.start : f.end], f.kind) for f in finder.find(text)] == [
        ("Søren", "name"),
        ("Jane Doe", "name"),
        ("Springfield", "place"),
    ]
    assert list(finder.find("")) == []
    assert isinstance(finder, Finder)


def test_of_a_long_text_every_piece_is_read_and_nothing_twice(finder):
    text = "x " * 60_000 + "Jane Doe " + "y " * 100_000 + "in Springfield"
    at = text.index("Jane")
    assert set(finder.find(text)) == {
        Finding("name", at, at + 8),
        Finding("place", len(text) - 11, len(text)),
    }
    cut = "x" * 49_995 + " Jane Doe"  # over the end of a window
    assert Finding("name", 49_996, 50_004) in list(finder.find(cut + " y" * 600))


def test_what_is_asked_for_is_found_and_no_more():
    places = Presidio(analyzer=analyzer(), entities={"LOCATION": "city"})
    assert list(places.find("Jane in Springfield")) == [Finding("city", 8, 19)]
    assert ENTITIES["PERSON"] == "name"
    assert list(Presidio(analyzer=analyzer(), score=1.0).find("Jane in Springfield")) == []


@pytest.mark.parametrize("stream", [False, True])
async def test_the_provider_sees_placeholders_and_the_caller_names(finder, stream):
    provider = MockProvider(default=lambda request: request.messages[-1].text)
    chain = Chain(provider, Redact(finders=[finder]), runtime=Runtime(seed=1))
    prompt = "Tell Jane Doe, jane@example.com, in Springfield"
    if stream:
        async with chain.stream(prompt) as reply:
            said = "".join([text async for text in reply.texts()])
    else:
        said = (await chain.complete(prompt)).text
    assert said == prompt
    sent = provider.requests[0].messages[0].text
    assert "Jane" not in sent
    assert "Springfield" not in sent
    assert [part.split("_")[0] for part in sent.split("[")[1:]] == ["NAME", "EMAIL", "PLACE"]


async def test_names_in_arguments_of_tool_calls_are_found_and_the_json_stays_json(finder):
    call = ToolCall("1", "mail", '{"to": "Jane Doe", "at": "jane@example.com", "n": 1}')
    provider = MockProvider(default="ok")
    chain = Chain(provider, Redact(finders=[finder], mode="wire"))
    await chain.complete(
        Request(messages=[Message("user", "go"), Message("assistant", [call]), Message("user", "on")])
    )
    assert provider.requests[0].messages[1].tool_calls[0].args == {"to": "[NAME]", "at": "[EMAIL]", "n": 1}


@pytest.mark.real_time
async def test_a_request_above_its_size_is_read_in_a_worker_thread():
    threads: list[bool] = []
    inner = analyzer()

    class Watched:
        def analyze(self, **asked: Any) -> Any:
            threads.append(threading.current_thread() is threading.main_thread())
            return inner.analyze(**asked)

        def get_supported_entities(self, language: str) -> Any:
            return inner.get_supported_entities(language)

    finder = Presidio(analyzer=Watched(), thread_above=100)
    chain = Chain(MockProvider(default="ok"), Redact(finders=[finder], mode="wire"))
    await chain.complete("Jane")
    assert threads == [True] * len(threads) != []
    threads.clear()
    await chain.complete("Jane " * 30)
    assert threads == [False] * len(threads) != []


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"entities": {}}, "PERSON"),
        ({"entities": {"PERSON": "Full Name"}}, "small letters"),
        ({"entities": {"DIAGNOSIS": "illness"}}, "knows no DIAGNOSIS"),
        ({"score": 2}, "0 to 1"),
        ({"language": "de"}, "de"),
    ],
)
def test_a_wrong_setting_is_refused_at_construction(settings, reason):
    with pytest.raises(ConfigError, match=reason):
        Presidio(analyzer=analyzer(), **settings)


def test_a_model_that_is_not_installed_is_not_downloaded_but_named():
    with pytest.raises(ConfigError, match="spacy download xx_no_such_model"):
        Presidio(model="xx_no_such_model")


async def test_what_the_analyzer_raises_fails_the_call_and_nothing_is_sent():
    class Broken:
        thread_above = 1_000

        def find(self, text: str) -> list[Finding]:
            raise RuntimeError("out of memory")

    provider = MockProvider(default="ok")
    with pytest.raises(RuntimeError, match="out of memory"):
        await Chain(provider, Redact(finders=[Broken()])).complete("Jane")
    assert provider.requests == []
