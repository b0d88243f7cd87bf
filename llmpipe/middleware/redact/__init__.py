"""Keep personal data and credentials from providers, or out of replies, or just count them.

=====================  ==============================================================
note                   detail
=====================  ==============================================================
``redact.request``     `mode`, and how many of each kind were `found` in the request
``redact.reply``       how many of each kind were `found` in the reply, with `output`
=====================  ==============================================================

What is found is never in a note, a log or an error. `Redact.find` says what and where, of a request or
a text, and `Scanner` does outside of a chain; `mask` masks a text for a log.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from functools import cache, partial
from typing import Literal, get_args

from anyio import to_thread
from attrs import field, frozen

from llmpipe.errors import ConfigError, LLMError
from llmpipe.middleware.redact.escapes import is_encoded
from llmpipe.middleware.redact.finder import Finder, Finding
from llmpipe.middleware.redact.locate import Located, locate
from llmpipe.middleware.redact.masking import mask_json, mask_rows
from llmpipe.middleware.redact.scan import KINDS, Scanner, finders_of, kinds_of
from llmpipe.middleware.redact.stage import Masker
from llmpipe.middleware.redact.vault import Vault
from llmpipe.middleware.redact.walk import (
    AnyRequest,
    Role,
    adjacent,
    as_name,
    key_of,
    rewrite_request,
    strings_of,
)
from llmpipe.pipeline import bands
from llmpipe.pipeline.call import Call
from llmpipe.pipeline.linker import Handler
from llmpipe.pipeline.outcome import Result
from llmpipe.pipeline.pump import Stage
from llmpipe.pipeline.reply import Reply
from llmpipe.types import Completion, Request

__all__ = ("Finder", "Finding", "KINDS", "Located", "Masker", "Mode", "Redact", "Scanner", "Vault", "mask")

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
        finders: what finds more, such as names: see `Finder`, and the plugin ``llmpipe-presidio``. They
            read requests, not replies.
        thread_above: a request or whole reply of more characters than this is searched in a worker
            thread, so that others are not kept waiting.

    Raises: ConfigError for an unknown kind or mode, and for a pattern that is not right.
    """

    kinds: tuple[str, ...] = field(default=KINDS, converter=kinds_of)
    mode: Mode = "reversible"
    output: bool = False
    patterns: tuple[tuple[str, str], ...] = ()
    finders: tuple[Finder, ...] = field(default=(), converter=finders_of)
    thread_above: int = 65_536
    name: str = "redact"
    priority: int = bands.GUARD + 50

    _scanner: Scanner = field(init=False, repr=False, eq=False)
    _at_once: int = field(init=False, repr=False, eq=False)

    def __attrs_post_init__(self) -> None:
        if self.mode not in get_args(Mode):
            raise ConfigError(f"redact: unknown mode {self.mode!r}; there are {', '.join(get_args(Mode))}")
        if not self.kinds and not self.patterns and not self.finders:
            raise ConfigError("redact: nothing to look for; give kinds or patterns")
        scanner = Scanner(self.kinds, self.patterns, self.finders)
        scanner.compile(streams=self.output)
        object.__setattr__(self, "_scanner", scanner)
        object.__setattr__(
            self, "_at_once", min([self.thread_above, *[f.thread_above for f in self.finders]])
        )

    def find(self, what: AnyRequest | str) -> tuple[Located, ...]:
        """All that would be hidden of a text or a request: kind, path and positions, in order."""
        return locate(self._scanner, what)

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
        if length <= cfg._at_once:
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
            if cfg.output:
                await cfg._mask_causes(error)
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
            form = call.request.response_format if isinstance(call.request, Request) else None
            is_json = form is not None and form.type != "text"
            await self._pipe(reply, vault.restorer(json=is_json))
        return reply

    async def _mask_causes(self, error: BaseException) -> None:
        """What had come in the errors behind `error`, masked; not restored, for others may share them."""
        seen, behind = {id(error)}, [error.__cause__, error.__context__]
        while behind:
            cause = behind.pop()
            if cause is None or id(cause) in seen:
                continue
            seen.add(id(cause))
            behind += [cause.__cause__, cause.__context__]
            if isinstance(cause, LLMError) and isinstance(cause.partial, Completion):
                reply = Reply.of(cause.partial)
                await self._pipe(reply, Masker(self._scanner))
                cause.partial = reply.completion

    def _hide(
        self, call: Call, strings: list[tuple[str, Role]]
    ) -> tuple[AnyRequest, Vault | None, Mapping[str, int]] | None:
        """The request to send, what can restore the reply, and how many of each kind were found.

        None if nothing was.
        """
        scanner, request = self._scanner, call.request
        found: list[str] = []
        for text, role in strings:
            if role != "json":
                findings = scanner.scan(text, key_of(role))
                if findings:
                    found += [finding.kind for finding in findings]
            elif (
                scanner.finders
                or "\\" in text
                or not text.isascii()
                or scanner.suspects(text)
                or is_encoded(text)
            ):
                mask_json(scanner, text, partial(_heard, found))
        if len(strings) > 1 and adjacent(request):
            mask_rows(scanner, request, partial(_heard, found))
        if not found:
            return None
        kinds = Counter(found)
        if self.mode == "log":
            return request, None, kinds
        if self.mode == "wire":
            return rewrite_request(mask_rows(scanner, request), self._mask), None, kinds
        vault = Vault(scanner, call.runtime.random)
        return vault.hide_request(request), vault, kinds

    def _mask(self, text: str, role: Role) -> str:
        masked = (
            mask_json(self._scanner, text) if role == "json" else self._scanner.mask(text, key=key_of(role))
        )
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


def _heard(found: list[str], kind: str, value: str) -> str:
    """A label that is only counted."""
    found.append(kind)
    return value


def _note(call: Call, found: Mapping[str, int]) -> None:
    call.note("redact.reply", found=dict(found))


def _length(result: Result) -> int:
    if not isinstance(result, Completion):
        return 0
    message = result.message
    return len(message.text) + len(message.reasoning) + sum([len(c.arguments) for c in message.tool_calls])
