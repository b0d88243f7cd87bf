"""Move from an old target to the chain's own one, a share of the callers at a time.

Who is moved asks the chain's own target; when that fails, whatever LLMError it is, the old one answers.
Everybody else asks the old one as before. So a rollout cannot make an answer fail that the old target
would have given, except by taking longer.

======================  =================================================================
note                    detail
======================  =================================================================
``migration.returned``  ``error`` type: the new target failed and the old one was asked
======================  =================================================================
"""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, ClassVar
from zlib import crc32

from attrs import field, frozen

from llmpipe.errors import ConfigError, LLMError
from llmpipe.middleware.fallback import ask
from llmpipe.pipeline import bands
from llmpipe.pipeline.call import Call  # cattrs resolves the hints of all fields

if TYPE_CHECKING:
    from llmpipe.pipeline.linker import Handler
    from llmpipe.pipeline.reply import Reply

__all__ = ("Migration",)


@frozen
class Migration:
    """Sends `share` of the callers to the chain's own target and the rest to `old`.

    Attributes:
        old: the provider or chain that is being left, and that answers where the new one fails.
        share: of the callers that are moved, 0 to 1. Who is moved is drawn from tenant and user (from
            the call's id where it has neither), so a caller stays where it is, and a larger share
            only adds to it.
        flag: decides in place of `share`: a function of the call, plain or async, such as a look into
            a feature-flag service.
        min_attempt: seconds the old target needs at the least; it is not asked with less to the deadline.

    Raises: what the old target raises; ConfigError for a share outside 0 to 1.
    """

    old: Any
    share: float = field(default=0.0, kw_only=True)
    flag: Callable[[Call], bool | Awaitable[bool]] | None = field(default=None, kw_only=True)
    min_attempt: float = field(default=0.5, kw_only=True)
    name: str = field(default="migration", kw_only=True)
    priority: int = field(default=bands.ROUTE - 10, kw_only=True)

    why: ClassVar[str] = "chooses the target before anything is tried, and the old one when it fails"

    traits: ClassVar[frozenset[str]] = frozenset({"routes"})

    def __attrs_post_init__(self) -> None:
        if not callable(self.old) or not hasattr(self.old, "model"):
            raise ConfigError(f"migration takes the old provider or chain, not a {type(self.old).__name__}")
        if not 0 <= self.share <= 1:
            raise ConfigError(f"migration share must be between 0 and 1, not {self.share}")

    async def __call__(self, call: Call, call_next: Handler) -> Reply:
        """The new target's reply for who is moved, the old one's for the rest and where it fails."""
        cfg = call.opt(self)
        if await cfg._moved(call):
            try:
                return await call_next(call if call.spare else call.evolve(spare=True))
            except LLMError as error:
                if call.remaining() < cfg.min_attempt:
                    raise
                error.survived()
                call.note("migration.returned", error=error.type)
        return await ask(cfg.old, call, call_next, spare=call.spare)

    async def aclose(self) -> None:
        """Close the old target."""
        await self.old.aclose()

    async def _moved(self, call: Call) -> bool:
        if self.flag is not None:
            said = self.flag(call)
            return bool(await said if inspect.isawaitable(said) else said)
        caller = f"{call.tenant}\0{call.user}" if call.tenant or call.user else call.id
        return crc32(caller.encode(errors="surrogatepass")) < self.share * 2**32
