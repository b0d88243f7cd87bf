"""The tree of errors: one place to import from, whatever files it is written in."""

from __future__ import annotations

import pickle
from importlib import import_module
from pkgutil import iter_modules

import pytest

import llmpipe
from llmpipe import errors
from llmpipe.errors import LLMError
from llmpipe.middleware import cache

KINDS = [getattr(errors, name) for name in errors.__all__]


def test_every_class_of_every_file_is_public_and_says_where_it_is_imported_from():
    written = {
        thing
        for module in iter_modules(errors.__path__, "llmpipe.errors.")
        for thing in vars(import_module(module.name)).values()
        if isinstance(thing, type) and issubclass(thing, Exception)
    }
    assert written == set(KINDS)
    assert {kind.__module__ for kind in KINDS} == {"llmpipe.errors"}


@pytest.mark.parametrize("kind", [kind for kind in KINDS if issubclass(kind, LLMError)])
def test_an_error_survives_a_pickle_with_its_verdicts(kind):
    error = kind("why", provider="p", retry_after=2.0, retryable=True, metadata={"param": "n"})
    again = pickle.loads(pickle.dumps(error))
    assert type(again) is kind
    assert vars(again) == vars(error)
    assert str(again) == "p: why"


def test_what_is_not_cached_is_also_a_failed_lookup_and_was_not_sent():
    assert llmpipe.NotCached is errors.NotCached is cache.NotCached
    error = llmpipe.NotCached("nothing stored")
    assert isinstance(error, LookupError)
    assert (error.status, error.sent, error.retryable, error.rescue) == (504, False, False, "none")
