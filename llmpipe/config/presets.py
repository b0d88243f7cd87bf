"""The standard middlewares, each replaceable.

::

    chain = Chain(openai, *presets.production(retry=Retry(attempts=2), cache=None), Fallback(claude))
"""

from __future__ import annotations

from difflib import get_close_matches
from typing import Any

from llmpipe.errors import ConfigError
from llmpipe.pipeline import registry
from llmpipe.pipeline.linker import Middleware

__all__ = ("STANDARD", "production")

STANDARD = ("metrics", "log", "timeout", "validate", "redact", "cache", "cost", "retry", "breaker")
"""What `production` has by default. In each case leaving it out has a price that is seen too late:

- **metrics, log**: without them nobody knows how often the others act. The log is silent until
  the application configures logging.
- **timeout**: a provider that hangs holds its caller for as long as it likes.
- **validate**: a request that cannot succeed is refused for nothing, with all its faults.
- **redact**: what identifies a person does not leave.
- **cache**: the same question is paid for once, for each tenant.
- **cost**: what failed, cancelled and abandoned attempts cost is in no provider's reply.
- **retry**: most failures of providers are over in a second.
- **breaker**: while one lasts, calls fail at once instead of after a minute each.
"""

# Those that need to be told something first, or that only some applications want.
_OPTIONAL = (
    "trace",
    "otel_metrics",
    "audit",
    "alerts",
    "shed",
    "hooks",
    "optimise",
    "coalesce",
    "limits",
    "budget",
    "batch",
    "fallback",
    "hedge",
    "rate_limit",
    "adaptive_limit",
)


def production(**replace: Middleware | None) -> tuple[Middleware, ...]:
    """The middlewares of `STANDARD` with their defaults, for ``Chain(provider, *production())``.

    A keyword puts another one in the place of the standard one of that name, or None to leave it
    out. Also taken, and not there by default: ``rate_limit``, ``limits`` and ``budget`` (what they allow is
    yours to name), ``fallback`` (so are its targets), ``audit`` (so is where its trail is kept), ``alerts``
    (so is who hears of it), ``coalesce`` (a request under way is only shared where the same answer is
    meant), ``hedge`` (what may be sent twice costs twice), ``batch``, ``optimise``, ``adaptive_limit``,
    ``shed``, ``trace`` and ``otel_metrics`` (need an extra) and ``hooks``.

    Raises: ConfigError for a keyword that is none of these names, and for a value that is no middleware.
    """
    known = (*STANDARD, *_OPTIONAL)
    for name, given in replace.items():
        if name not in known:
            near = [other for other in known if other[:3] == name[:3]] or get_close_matches(name, known, 1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            raise ConfigError(f"production has no middleware {name!r}; it takes {', '.join(known)}{hint}")
        if given is not None and not _is_middleware(given):
            raise ConfigError(
                f"production({name}=…) takes a middleware, or None to leave it out, not {given!r}"
            )
    made = [replace[name] if name in replace else registry.get(name)() for name in STANDARD]
    made += [replace.get(name) for name in _OPTIONAL]
    return tuple([item for item in made if item is not None])


def _is_middleware(given: Any) -> bool:
    # A class has the attributes too: `retry=Retry` for `retry=Retry()` is an easy slip.
    return callable(given) and not isinstance(given, type) and isinstance(getattr(given, "name", None), str)
