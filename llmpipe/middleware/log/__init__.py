"""One structured record for each call, when it is over; and, if asked for, one when it begins.

Records go to the logger ``llmpipe.call`` of the standard library, with the fields below as the
attribute ``llmpipe``; `JSONFormatter` writes them as a line of JSON, `json_logging` does so in a
thread. A call that ends well is logged at `level`, one that was cancelled or abandoned too; one
that was refused or could not be served (status below 500) as a WARNING, any other as an ERROR.

====================================  =======================================================
field                                 meaning
====================================  =======================================================
``event``                             ``call``, or ``request`` for the record of its beginning
``correlation_id``, ``call_id``       the call's tag ``correlation_id``, else its id; its id
``operation``, ``stream``             ``chat``, ``embeddings`` or ``rerank``; whether it streams
``provider``, ``model``               what answered, or was asked last; ``asked_model`` if that differs
``tenant``, ``user``, ``tags``        whose call it is; long values are cut
``outcome``                           ``ok``, ``error``, ``cancelled`` or ``abandoned``
``duration``, ``first_content``       seconds to the end and to the first content
``input_tokens`` …                    usage; ``usage_estimated`` where the provider did not say
``cost_usd``                          of all attempts; absent where the price is unknown
``finish_reason``, ``request_id``     of the reply
``attempts``                          how many; ``attempt_list`` where it was not one that succeeded
``notes``                             what happened on the way: how often, by kind
``error``                             type, class, status, code, retryable, phase, sent, message, …
``request_body``, ``response_body``   with `bodies` only, masked; ``…_truncated`` where they were cut
====================================  =======================================================

It writes no notes and never fails a call: what goes wrong in a handler is counted in
`Log.failures`.
"""

from __future__ import annotations

import logging
from typing import ClassVar

from attrs import field, frozen

from llmpipe.errors import ConfigError, LLMError
from llmpipe.middleware.log.fields import ended_fields, line_of, request_fields
from llmpipe.middleware.log.jsonlog import BackgroundHandler, JSONFormatter, json_logging
from llmpipe.pipeline import bands
from llmpipe.pipeline.call import Call
from llmpipe.pipeline.linker import Handler
from llmpipe.pipeline.outcome import Outcome
from llmpipe.pipeline.reply import Reply
from llmpipe.runtime import Runtime

__all__ = ("BackgroundHandler", "JSONFormatter", "Log", "json_logging")


@frozen(kw_only=True)
class Log:
    """Writes a record of every call; see the module for its fields.

    Where the logger does not take the record's level, nothing is built: that costs under 1 µs.

    Attributes:
        logger: the name of the logger.
        level: of calls that ended well: DEBUG, INFO, WARNING or ERROR.
        requests: log the beginning too, with the parameters and the estimated tokens.
        bodies: log what was asked and answered, masked.
        max_body_chars: most characters of each of the two.
        sample: share of the calls that ended well to log, 0 to 1. Failures are always logged.
    """

    logger: str = "llmpipe.call"
    level: str = "INFO"
    requests: bool = False
    bodies: bool = False
    max_body_chars: int = 10_000
    sample: float = 1.0
    name: str = "log"
    priority: int = bands.OBSERVE + 20

    _logger: logging.Logger = field(init=False, repr=False, eq=False)
    _level: int = field(init=False, repr=False, eq=False)

    why: ClassVar[str] = "sees every call as the caller does, refusals and hits included"
    traits: ClassVar[frozenset[str]] = frozenset({"observes"})

    def __attrs_post_init__(self) -> None:
        level = logging.getLevelName(self.level)
        if not isinstance(level, int):
            raise ConfigError(f"log: unknown level {self.level!r}; there are DEBUG, INFO, WARNING, ERROR")
        if not 0 <= self.sample <= 1:
            raise ConfigError(f"log: sample is a share, 0 to 1, not {self.sample}")
        if self.max_body_chars < 1:
            raise ConfigError(f"log: max_body_chars must be at least 1, not {self.max_body_chars}")
        object.__setattr__(self, "_level", level)  # frozen: this is part of the construction
        object.__setattr__(self, "_logger", logging.getLogger(self.logger))

    async def __call__(self, call: Call, call_next: Handler) -> Reply:
        """Log the call when it is over."""
        cfg = call.opt(self)
        if cfg.requests and cfg._logger.isEnabledFor(cfg._level):
            cfg._write(cfg._level, call, None, None)
        try:
            reply = await call_next(call)
        except BaseException as error:  # logged, whatever it is; it goes on
            cfg._failed(call, error, None)
            raise
        return reply.when_over(cfg._ended, call)

    @staticmethod
    def failures(runtime: Runtime, name: str = "log") -> int:
        """How many records could not be made or handed over."""
        return runtime.state("log", name, _Failures).count

    def _ended(self, call: Call, outcome: Outcome) -> None:
        if outcome.status == "error":
            self._failed(call, outcome.error, outcome)
        elif self._logger.isEnabledFor(self._level) and (
            self.sample == 1 or call.runtime.random.random() < self.sample
        ):
            self._write(self._level, call, outcome, None)

    def _failed(self, call: Call, error: BaseException | None, outcome: Outcome | None) -> None:
        if not isinstance(error, Exception):
            level = self._level
        elif isinstance(error, LLMError) and error.status < 500:
            level = logging.WARNING
        else:
            level = logging.ERROR
        if self._logger.isEnabledFor(level):
            self._write(level, call, outcome, error)

    def _write(self, level: int, call: Call, outcome: Outcome | None, error: BaseException | None) -> None:
        chars = self.max_body_chars if self.bodies else 0
        try:
            if outcome is None and error is None:
                fields = request_fields(call, chars)
            else:
                fields = ended_fields(call, outcome, error, chars)
            # Made by hand: `Logger.log` walks the stack to find its caller, which takes 3 µs.
            record = logging.LogRecord(self.logger, level, __file__, 0, line_of(fields), (), None)
            record.created = call.runtime.wall()
            record.llmpipe = fields
            self._logger.handle(record)
        except Exception:  # noqa: BLE001  no handler of a log may fail a call; `failures` tells of it
            call.runtime.state("log", self.name, _Failures).count += 1


class _Failures:
    """Records that got lost on one runtime."""

    def __init__(self) -> None:
        self.count = 0
