"""`Presidio`, a finder for `Redact`."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from importlib import import_module
from threading import Lock
from typing import Any

from attrs import Factory, field, frozen

from llmpipe.errors import ConfigError
from llmpipe.middleware.redact import Finding

__all__ = ("ENTITIES", "Presidio")

ENTITIES: Mapping[str, str] = {
    "PERSON": "name",
    "LOCATION": "place",
    "NRP": "group",
    "ORGANIZATION": "organization",
}
"""Presidio's entities that need a model, and what llmpipe calls them."""

_WINDOW, _OVERLAP = 50_000, 500  # spaCy refuses a text of a million characters, and takes memory by length
_KIND = re.compile(r"[a-z][a-z0-9_]{0,31}")


@frozen(kw_only=True)
class Presidio:
    """Finds names and places with a language model of spaCy, through presidio-analyzer.

        Redact(finders=[Presidio(model="en_core_web_lg")])

    Attributes:
        model: an installed spaCy model of `language`, loaded at construction; nothing is downloaded.
        language: of the texts, as Presidio names it.
        entities: what to look for, as Presidio names it, and the kind it is called in labels.
        score: what the analyzer is less sure of is left alone, 0 to 1.
        thread_above: characters of a request above which it is read in a worker thread: a small
            model reads some 100,000 characters a second.
        analyzer: an `AnalyzerEngine` of one's own, with other recognizers or another model; `model` is
            then not used.

    Raises: ConfigError where the model is not installed, and for settings that are not right.
    """

    model: str = "en_core_web_sm"
    language: str = "en"
    entities: Mapping[str, str] = field(default=Factory(lambda: {"PERSON": "name", "LOCATION": "place"}))
    score: float = 0.5
    thread_above: int = 2_000
    analyzer: Any = field(default=None, repr=False)

    # Of one analyzer one text at a time: neither Presidio nor spaCy says that several are safe.
    _lock: Lock = field(factory=Lock, init=False, repr=False, eq=False)

    def __attrs_post_init__(self) -> None:
        wrong = [kind for kind in self.entities.values() if not _KIND.fullmatch(kind)]
        if wrong or not self.entities:
            raise ConfigError(
                f"presidio: entities name kinds of small letters, digits and _, such as "
                f"{{'PERSON': 'name'}}, not {dict(self.entities)!r}"
            )
        if not 0 <= self.score <= 1:
            raise ConfigError(f"presidio: score is from 0 to 1, not {self.score!r}")
        analyzer = self.analyzer or _analyzer(self.model, self.language)
        try:
            known = set(analyzer.get_supported_entities(self.language))
        except ValueError as error:  # as it says that there is nothing for a language
            raise ConfigError(f"presidio: the analyzer has nothing for {self.language!r}: {error}") from error
        if unknown := sorted(set(self.entities) - known):
            raise ConfigError(
                f"presidio: the analyzer knows no {', '.join(unknown)} in {self.language!r}; "
                f"it knows {', '.join(sorted(known))}"
            )
        object.__setattr__(self, "analyzer", analyzer)

    def find(self, text: str) -> Iterable[Finding]:
        """Names and places in `text`, with their places in it."""
        found: dict[Finding, None] = {}
        for start, piece in _windows(text):
            with self._lock:
                results = self.analyzer.analyze(
                    text=piece,
                    language=self.language,
                    entities=list(self.entities),
                    score_threshold=self.score,
                )
            for result in results:
                kind = self.entities[result.entity_type]
                found[Finding(kind, start + result.start, start + result.end)] = None
        return list(found)


def _windows(text: str) -> Iterator[tuple[int, str]]:
    """Pieces of a long text, with where they start. They overlap, so that no name is cut in both."""
    start = 0
    while start + _WINDOW < len(text):
        yield start, text[start : start + _WINDOW]
        start += _WINDOW - _OVERLAP
    if text[start:].strip():
        yield start, text[start:]


def _analyzer(model: str, language: str) -> Any:
    """An analyzer with the recognizer of what a spaCy model tells, and no other."""
    spacy, presidio = import_module("spacy"), import_module("presidio_analyzer")
    engines = import_module("presidio_analyzer.nlp_engine")
    # Presidio would download a model that is not there: not in the middle of somebody's service.
    if not spacy.util.is_package(model):
        raise ConfigError(
            f"presidio: the spaCy model {model!r} is not installed; run: python -m spacy download {model}"
        )
    engine = engines.SpacyNlpEngine(models=[{"lang_code": language, "model_name": model}])
    engine.load()
    recognizer = presidio.predefined_recognizers.SpacyRecognizer(supported_language=language)
    registry = presidio.RecognizerRegistry(recognizers=[recognizer], supported_languages=[language])
    return presidio.AnalyzerEngine(registry=registry, nlp_engine=engine, supported_languages=[language])
