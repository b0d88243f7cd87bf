"""Another key when one is refused or used up.

A provider with several keys (`Keys`) brings this middleware into its chain by itself. It sits inside
`Retry`, so that another key is tried at once rather than after a wait, and outside limits, which are
kept for each key.

What an error means for the key, the error says itself:

- A key that is throttled (429) rests for as long as the server said, or `throttle_rest`; the next key
  is tried. When all rest, the error says when the first is ready, and `Retry` waits for that.
- A key that is refused, or has no quota left (401, 402, 403, 429 of a quota) is used no more by this
  call, and by others only after `refused_rest`, or when no other will do. Somebody should hear of that:
  it is logged as a warning, and noted.
- A key that is at one of our own limits is passed over while another is free. When all are, the one that
  has room first is waited for.
- Anything else is no matter of keys, and raised.

A key that a function gives (`FetchedKeys`), such as one of a vault, is looked up anew when it is refused, and
tried at once if it is another.

=========================  ====================================================
note                       detail
=========================  ====================================================
``credential.throttled``   ``provider``, ``key`` (its number), ``seconds``
``credential.refused``     ``provider``, ``key``, ``error`` type, ``status``
``credential.overdue``     ``provider``, ``key``, ``days`` by which it is older than it should get;
                           once each time it was looked up
=========================  ====================================================
"""

from __future__ import annotations

import logging
from math import inf
from typing import TYPE_CHECKING, Any, ClassVar

from attrs import frozen

from llmpipe.errors import AuthenticationFailed, ConfigError, LimitReached, LLMError
from llmpipe.middleware.credentials.fetched import FetchedKeys, KeySource
from llmpipe.middleware.credentials.keys import Key, Keys
from llmpipe.pipeline import bands

if TYPE_CHECKING:
    from llmpipe.pipeline.call import Call
    from llmpipe.pipeline.linker import Handler
    from llmpipe.pipeline.reply import Reply

__all__ = ("Credentials", "FetchedKeys", "Key", "KeySource", "Keys")

_log = logging.getLogger("llmpipe.credentials")
_LONGEST_REST = 3600.0  # seconds; a server's hint may be nonsense
_AT_ONCE = 0.1  # seconds; who has waited for a limit in vain does not wait for that of the next key too


@frozen(kw_only=True)
class Credentials:
    """Rotates the keys of a provider that has several.

    Attributes:
        throttle_rest: seconds a throttled key is passed over where the server does not say how long.
        refused_rest: seconds a refused key is passed over by other calls, where another can be used.
    """

    throttle_rest: float = 1.0
    refused_rest: float = 60.0
    name: str = "credentials"
    priority: int = bands.AGAIN + 40

    why: ClassVar[str] = (
        "inside retry, so that another key needs no wait; outside limits, which are per key, and outside "
        "commit, whose held streams may be refused too"
    )
    traits: ClassVar[frozenset[str]] = frozenset({"retries"})

    def __attrs_post_init__(self) -> None:
        if self.throttle_rest < 0 or self.refused_rest < 0:
            raise ConfigError("credentials: throttle_rest and refused_rest are seconds, not below 0")

    async def __call__(self, call: Call, call_next: Handler) -> Reply:
        """The reply with the first key that is neither refused nor throttled, and has room."""
        keys = getattr(call.target or call.provider, "keys", None)
        if not isinstance(keys, Keys):  # a key of the target before this one, perhaps, is not this one's
            return await call_next(call if call.credential is None else call.evolve(credential=None))
        cfg = call.opt(self)
        refused = _refused(call, call.target_key[0])
        full: dict[str, LimitReached] = {}
        failure: LLMError | None = None
        while True:
            if isinstance(keys, FetchedKeys):
                await _fetched(keys, call)
            now = call.runtime.now()
            key, spare = _next(keys, now, refused, full, call)
            if key is None:
                raise _none_left(keys, refused, now, failure)
            try:
                reply = await call_next(call.evolve(credential=key, spare=spare))
            except LimitReached as error:  # our own: its name tells it from other errors that were not sent
                waited = call.runtime.now() - now
                if error.sent or waited > _AT_ONCE or not spare:
                    raise
                full[key.label] = error
            except LLMError as error:
                if not cfg._matters(error):
                    raise
                failure = _more_useful(failure, error)
                cfg._learn(call, keys, key, error, refused)
            else:
                if failure is not None:
                    failure.survived()
                return reply

    @staticmethod
    def _matters(error: LLMError) -> bool:
        """Whether another key could do better."""
        # A provider in trouble asks to wait too, and does so whatever the key.
        throttled = error.throttled and error.health != "failure"
        return error.sent and (throttled or error.rescue == "credential")

    def _learn(self, call: Call, keys: Keys, key: Key, error: LLMError, refused: set[str]) -> None:
        hint, now, provider = error.retry_after, call.runtime.now(), call.target_key[0]
        if error.rescue == "credential":
            refused.add(key.label)
            if isinstance(keys, FetchedKeys):
                keys.doubt(key)
            rest = self.refused_rest if hint is None or hint < 0 else hint
            _log.warning(
                "key %s of provider %s was refused: %s (status %s)",
                key.label, provider, error.type, error.status,
            )  # fmt: skip
            call.note(
                "credential.refused", provider=provider, key=key.label, error=error.type, status=error.status
            )
        else:
            rest = self.throttle_rest if hint is None or hint < 0 else hint
            call.note("credential.throttled", provider=provider, key=key.label, seconds=rest)
        keys.rest(key, now + min(rest, _LONGEST_REST), refused=error.rescue == "credential")


def _next(
    keys: Keys, now: float, refused: set[str], full: dict[str, LimitReached], call: Call
) -> tuple[Key | None, bool]:
    """The key to use, and whether another stands ready, so that a limit of this one is not waited for.

    When all are `full` it is the one that has room first, and that is waited for. Raises: LimitReached
    where another target stands ready, for the caller of us to go there.
    """
    passed = refused.union(full) if full else refused
    key = keys.pick(now, passed)
    if key is not None:
        return key, call.spare or bool(full) or keys.ready(now, passed, key)
    if not full:
        return None, False
    label = min(full, key=lambda one: _wait(full[one]))
    if call.spare:
        raise full[label]
    del full[label]
    return next((key for key in keys.all if key.label == label), None), False


async def _fetched(keys: FetchedKeys, call: Call) -> None:
    await keys.fetch()
    days = keys.overdue()
    if days is not None:
        call.note(
            "credential.overdue", provider=call.target_key[0], key=keys.all[0].label, days=round(days, 1)
        )


def _wait(error: LimitReached) -> tuple[float, int]:
    """How long a limit would be waited for, and behind how many, where nobody knows the former."""
    seconds = error.retry_after
    return inf if seconds is None else seconds, error.metadata.get("waiting", 0)


def _more_useful(before: LLMError | None, error: LLMError) -> LLMError:
    """Of two failures the one to raise: one that passes tells more than a refusal; of equals the later."""
    if before is None:
        return error
    if error.rescue == "credential" and before.rescue != "credential":
        before, error = error, before
    before.survived()
    return error


def _refused(call: Call, provider: str) -> set[str]:
    """The keys that earlier attempts of this call found refused: `Retry` comes here anew for each."""
    return {
        note.detail["key"]
        for note in call.ledger.notes
        if note.kind == "credential.refused" and note.detail["provider"] == provider
    }


def _none_left(keys: Keys, refused: set[str], now: float, failure: LLMError | None) -> LLMError:
    """What to raise when no key can be used: the last failure, or that all rest."""
    wait: Any = keys.wait(now, refused)
    if failure is None or (failure.rescue == "credential" and wait is not None):
        if wait is None:  # an earlier attempt of this call has said what is wrong
            return AuthenticationFailed(
                f"all {len(keys)} keys were refused", status=502, sent=False, code="credentials_exhausted"
            )
        return LimitReached(
            f"all {len(keys)} keys rest or were refused; the first is ready in {wait:.3g} s",
            retryable=True, retry_after=wait, code="credentials_resting",
        )  # fmt: skip
    failure.metadata["keys"] = {"tried": len(keys), "refused": len(refused)}
    if failure.throttled and failure.rescue != "credential" and wait is not None:
        failure.retry_after = wait
    return failure
