"""Keep personal data and credentials from providers, or out of replies, or just count them.

=====================  ==============================================================
note                   detail
=====================  ==============================================================
``redact.request``     `mode`, and how many of each kind were `found` in the request
``redact.reply``       how many of each kind were `found` in the reply, with `output`
=====================  ==============================================================

What is found is never in a note, a log or an error. `Scanner` finds with positions, for use outside
a chain; `mask` masks a text for a log.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from functools import cache, partial
from typing import Literal, get_args

from anyio import to_thread
from attrs import field, frozen

from llmpipe.errors import ConfigError, LLMError
from llmpipe.middleware.redact.masking import Masking, mask_json
from llmpipe.middleware.redact.scan import KINDS, Finding, Scanner, kinds_of
from llmpipe.middleware.redact.stage import Masker
from llmpipe.middleware.redact.vault import Vault
from llmpipe.middleware.redact.walk import AnyRequest, Role, as_name, rewrite_request, strings_of
from llmpipe.pipeline import bands
from llmpipe.pipeline.call import Call
from llmpipe.pipeline.linker import Handler
from llmpipe.pipeline.outcome import Result
from llmpipe.pipeline.pump import Stage
from llmpipe.pipeline.reply import Reply
from llmpipe.types import Completion

__all__ = ("Finding", "KINDS", "Masker", "Mode", "Redact", "Scanner", "Vault", "mask")

Mode = Literal["log", "wire", "reversible"]


@frozen(kw_only=True)
class Redact:
    """Finds personal data and credentials in everything a request says, and keeps them back.

    Attributes:
        kinds: what to look for, of `KINDS`: ``email``, ``phone``, ``ssn``, ``credit_card``, ``iban``,
            ``ip``, ``api_key``, ``postal_address``.
        mode: ``reversible`` sends placeholders, made anew for each request, and puts the values back
            into the reply; ``wire`` sends ``[EMAIL]`` and the like for good; ``log`` sends the
            request as it is, and only counts.
        output: mask the reply too, in any mode: whatever the model says of these kinds and was not
            told in this request.
        patterns: more to look for, as (kind, regular expression). Every quantifier has a bound.
        thread_above: a request or whole reply of more characters than this is searched in a worker
            thread, so that others are not kept waiting.

    Raises: ConfigError for an unknown kind or mode, and for a pattern that is not right.
    """

    kinds: tuple[str, ...] = field(default=KINDS, converter=kinds_of)
    mode: Mode = "reversible"
    output: bool = False
    patterns: tuple[tuple[str, str], ...] = ()
    thread_above: int = 65_536
    name: str = "redact"
    priority: int = bands.GUARD + 50

    _scanner: Scanner = field(init=False, repr=False, eq=False)

    def __attrs_post_init__(self) -> None:
        if self.mode not in get_args(Mode):
            raise ConfigError(f"redact: unknown mode {self.mode!r}; there are {', '.join(get_args(Mode))}")
        if not self.kinds and not self.patterns:
            raise ConfigError("redact: nothing to look for; give kinds or patterns")
        scanner = Scanner(self.kinds, self.patterns)
        scanner.compile(streams=self.output)
        object.__setattr__(self, "_scanner", scanner)

    @property
    def traits(self) -> frozenset[str]:
        """For `chain.lint`: whether it takes anything out."""
        return frozenset(["masks"] if self.mode != "log" or self.output else ["counts"])

    @property
    def why(self) -> str:
        """For `chain.explain`."""
        if self.mode == "log":
            return "counts personal data in requests, before anything is stored"
        return "outside whatever stores or sends a request, so that none of them has personal data"

    async def __call__(self, call: Call, call_next: Handler) -> Reply:
        """The reply to a request from which everything found is hidden."""
        cfg = call.opt(self)
        strings, length = strings_of(call.request), 0
        for text, _ in strings:  # half the time of a sum over a list
            length += len(text)
        if length <= cfg.thread_above:
            hidden = cfg._hide(call, strings)
        else:
            hidden = await to_thread.run_sync(cfg._hide, call, strings)
        vault = None
        if hidden is not None:
            request, vault, found = hidden
            call.note("redact.request", mode=cfg.mode, found=dict(found))
            if request is not call.request:
                call = call.evolve(request=request)
        try:
            reply = await call_next(call)
        except LLMError as error:
            if isinstance(error.partial, Completion):  # which is no reply, and has passed nobody
                error.partial = (await cfg._shown(Reply.of(error.partial), call, vault)).completion
            raise
        if cfg.output or vault is not None:
            return await cfg._shown(reply, call, vault)
        return reply

    async def _shown(self, reply: Reply, call: Call, vault: Vault | None) -> Reply:
        """The reply as the caller may see it."""
        if self.output:
            tell = partial(_note, call)
            masker = Masker(self._scanner, tell if reply.streamed else None)
            await self._pipe(reply, masker)
            if not reply.streamed and masker.found:
                tell(masker.found)
        if vault is not None:
            await self._pipe(reply, vault.restorer())
        return reply

    def _hide(
        self, call: Call, strings: list[tuple[str, Role]]
    ) -> tuple[AnyRequest, Vault | None, Mapping[str, int]] | None:
        """The request to send, what can restore the reply, and how many of each kind were found.

        None if nothing was.
        """
        found: list[str] = []
        for text, role in strings:
            if role != "json":
                found += [finding.kind for finding in self._scanner.scan(text)]
            elif "\\" in text or not text.isascii() or self._scanner.suspects(text):
                masking = Masking(self._scanner, json=True)
                masking.feed(text)
                masking.flush()
                found += masking.found.elements()
        if not found:
            return None
        request, kinds = call.request, Counter(found)
        if self.mode == "log":
            return request, None, kinds
        if self.mode == "wire":
            return rewrite_request(request, self._mask), None, kinds
        vault = Vault(self._scanner, call.runtime.random)
        return vault.hide_request(request), vault, kinds

    def _mask(self, text: str, role: Role) -> str:
        masked = mask_json(self._scanner, text) if role == "json" else self._scanner.mask(text)
        return as_name(masked) if role == "name" and masked is not text else masked

    async def _pipe(self, reply: Reply, stage: Stage) -> None:
        if not reply.streamed and _length(reply.completion) > self.thread_above:
            await to_thread.run_sync(reply.pipe, stage)
        else:
            reply.pipe(stage)


def mask(text: str) -> str:
    """`text` with ``[EMAIL]`` and the like for everything of `KINDS`: for logs, traces and audits."""
    return _default().mask(text)


@cache
def _default() -> Scanner:
    return Scanner()


def _note(call: Call, found: Mapping[str, int]) -> None:
    call.note("redact.reply", found=dict(found))


def _length(result: Result) -> int:
    if not isinstance(result, Completion):
        return 0
    message = result.message
    return len(message.text) + len(message.reasoning) + sum([len(c.arguments) for c in message.tool_calls])
