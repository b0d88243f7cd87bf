"""Use cases instead of model names: a call says what it is for, and the table says who answers.

Who is chosen, in this order:

1. A request that names a model goes to an entry with that model, the account's own before the global one;
   where no entry has it, to the chain's own target, with the model as it is.
2. The entries of the use case, best first: those of the account before the global ones, then as
   `preferences` list them, then those that are no default, then as they stand in the table.
3. The default entry: the account's own before the global one.
4. The chain's own target.

The use case stands in the call's tag ``use_case``, the account is the call's `tenant`. What there is for no
chat request (embeddings, rankings) goes to the chain's own target.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import AsyncExitStack
from typing import Any, ClassVar

from attrs import evolve, field, frozen

from llmpipe.errors import ConfigError, InvalidRequest
from llmpipe.middleware.fallback import ask
from llmpipe.pipeline import bands
from llmpipe.pipeline.call import Call
from llmpipe.pipeline.checks import called, nearest
from llmpipe.pipeline.linker import Handler
from llmpipe.pipeline.reply import Reply
from llmpipe.types import Request

__all__ = ("Entry", "PREFERENCES", "UseCases")

PREFERENCES: Mapping[str, tuple[str, ...]] = {
    "draft": ("claude-haiku-4-5",),
    "summary": ("claude-haiku-4-5",),
    "complex": ("claude-sonnet-4-5",),
    "vision": ("gpt-4o",),
    "general": ("gpt-4o-mini",),
    "voice": ("gpt-4o-mini",),
}
"""The use cases there are, and the models they prefer: quick and cheap ones for drafts and summaries, one
that reasons for complex tasks, one that sees, and the quickest for voice."""


def _texts(value: Any) -> tuple[str, ...]:
    texts = (value,) if isinstance(value, str) else tuple(value)
    if not all(isinstance(text, str) and text for text in texts):
        raise ConfigError(f"use cases are names, not {texts!r}")
    return texts


@frozen
class Entry:
    """One line of the table: a target and what it is for.

    Attributes:
        target: a provider or a chain, with the model that answers.
        use_cases: what it is for; a default need not be for anything.
        account: the tenant whose own it is; ``""`` for all. Its target has a `name` of its own.
        default: whether it answers where nobody is for the use case.
        max_tokens: the output's bound where a request has none.
        active: False takes it out of the table.
    """

    target: Any
    use_cases: tuple[str, ...] = field(default=(), converter=_texts)
    account: str = field(default="", kw_only=True)
    default: bool = field(default=False, kw_only=True)
    max_tokens: int | None = field(default=None, kw_only=True)
    active: bool = field(default=True, kw_only=True)

    def __attrs_post_init__(self) -> None:
        target = self.target
        parts = ("name", "endpoint", "model")
        if isinstance(target, type) or not callable(target) or not all(hasattr(target, p) for p in parts):
            raise ConfigError(f"the target of a use case is {called(target)}, not a provider or chain")
        if self.max_tokens is not None and self.max_tokens < 1:
            raise ConfigError(f"max_tokens of {target.name!r} is {self.max_tokens}; expected 1 or more")

    def rank(self, use_case: str, preferences: Mapping[str, tuple[str, ...]]) -> tuple[bool, int, bool]:
        """Its place among the entries of a use case; the least comes first."""
        preferred = preferences.get(use_case, ())
        names = (self.target.model, self.target.name)
        place = next((at for at, name in enumerate(preferred) if _names(name, names)), len(preferred))
        return (not self.account, place, self.default)


def _entries(value: Iterable[Any]) -> tuple[Entry, ...]:
    entries = tuple(value)
    for place, entry in enumerate(entries):
        if not isinstance(entry, Entry):
            raise ConfigError(f"entry {place + 1} of the use cases is {called(entry)}; expected an Entry")
    if not entries:
        raise ConfigError("the table of use cases needs an entry: UseCases([Entry(claude, 'draft')])")
    return entries


def _preferences(given: Mapping[str, Any]) -> Mapping[str, tuple[str, ...]]:
    return {case: _texts(models) for case, models in given.items()}


@frozen
class UseCases:
    """Sends each call to the target for its use case: ``UseCases([Entry(claude, ["draft", "summary"])])``.

    Attributes:
        entries: the table.
        preferences: for each known use case the models, or names of targets, that come first. A use case of
            your own is one more key here.
        use_case: of calls that have no tag; ``""`` for none, so that they go to the default.

    Raises: InvalidRequest for a call's use case that is not known, ConfigError for an entry's.
    """

    entries: tuple[Entry, ...] = field(converter=_entries)
    preferences: Mapping[str, tuple[str, ...]] = field(
        default=PREFERENCES, converter=_preferences, kw_only=True
    )
    use_case: str = field(default="", kw_only=True)
    name: str = field(default="use_cases", kw_only=True)
    priority: int = field(default=bands.ROUTE - 20, kw_only=True)

    why: ClassVar[str] = "outside fallback, so that the target it chooses is the first that is asked"
    traits: ClassVar[frozenset[str]] = frozenset({"routes"})

    def __attrs_post_init__(self) -> None:
        for case in (self.use_case, *(case for entry in self.entries for case in entry.use_cases)):
            if case and case not in self.preferences:
                raise ConfigError(self._unknown(case))
        self._refuse_mixed_accounts()

    def _refuse_mixed_accounts(self) -> None:
        """Circuits, rests and limits are kept by name, endpoint and model; no account's are another's."""
        known: dict[tuple[str, str, str], Entry] = {}
        for entry in self.entries:
            target = entry.target
            other = known.setdefault((target.name, target.endpoint, target.model), entry)
            if other.account != entry.account and other.target is not target:
                whose = " and for ".join(
                    repr(one.account) if one.account else "all" for one in (other, entry)
                )
                raise ConfigError(
                    f"the targets {target.name!r} for {whose} would share circuits and limits; give one a "
                    f"name of its own: provider(..., name='{target.name}-of-...')"
                )

    @property
    def targets(self) -> tuple[Any, ...]:
        """Whom it may send calls to; each once."""
        return tuple({id(entry.target): entry.target for entry in self.entries}.values())

    def choose(self, use_case: str = "", *, account: str = "", model: str = "") -> Entry | None:
        """The entry for a use case, or for a model; None where the chain's own target is to answer.

        Raises: InvalidRequest that lists the known use cases, for one that is not.
        """
        if use_case and use_case not in self.preferences:
            raise InvalidRequest(
                self._unknown(use_case), code="use_case", sent=False, health="ignore", phase="validate"
            )
        mine = [one for one in self.entries if one.active and one.account in ("", account)]
        if model:
            return min((one for one in mine if one.target.model == model), key=_own_first, default=None)
        if use_case:
            listed = [one for one in mine if use_case in one.use_cases]
            if listed:
                return min(listed, key=lambda one: one.rank(use_case, self.preferences))
        return min((one for one in mine if one.default), key=_own_first, default=None)

    async def __call__(self, call: Call, call_next: Handler) -> Reply:
        """The reply of the target that is chosen."""
        request = call.request
        if not isinstance(request, Request):
            return await call_next(call)
        cfg = call.opt(self)
        use_case = str(call.tags.get("use_case") or cfg.use_case)
        entry = cfg.choose(use_case, account=call.tenant, model=request.model)
        if entry is None:
            return await call_next(call)
        if entry.max_tokens is not None and request.max_tokens is None:
            call = call.evolve(request=evolve(request, max_tokens=entry.max_tokens))
        return await ask(entry.target, call, call_next, spare=call.spare)

    def _unknown(self, case: str) -> str:
        hint = nearest(case, self.preferences)
        return f"unknown use case {case[:60]!r}; known are {', '.join(self.preferences)}{hint}"

    async def aclose(self) -> None:
        """Close the targets."""
        async with AsyncExitStack() as stack:  # one that fails to close keeps no other from closing
            for target in self.targets:
                stack.push_async_callback(target.aclose)


def _own_first(entry: Entry) -> bool:
    return not entry.account


def _names(preferred: str, names: Iterable[str]) -> bool:
    """Whether a target is the one that is preferred: of that name, or a dated version of that model."""
    return any(name == preferred or _is_dated(name, preferred) for name in names)


def _is_dated(name: str, model: str) -> bool:
    rest = name.removeprefix(f"{model}-")
    return rest != name and rest.replace("-", "").isdigit()
