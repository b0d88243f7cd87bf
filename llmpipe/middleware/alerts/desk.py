"""What `Alerts` keeps on a runtime: the meters, the cases, the way to the sinks."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from math import inf
from typing import TYPE_CHECKING, Any, Literal

from llmpipe.errors import LLMError
from llmpipe.middleware.alerts.cases import OTHER, Case, Cases
from llmpipe.middleware.alerts.ending import closed, ending, unwatched
from llmpipe.middleware.alerts.meter import Meter
from llmpipe.middleware.alerts.post import Post
from llmpipe.middleware.alerts.rules import CircuitOpened, ErrorSeen, NoteSeen, Reading, ResourceUse, Rule
from llmpipe.middleware.alerts.usage import Uses
from llmpipe.middleware.alerts.windowed import CostRate, ErrorRate, Latency, Windowed
from llmpipe.middleware.log.fields import clipped
from llmpipe.middleware.metrics.counted import Counted
from llmpipe.runtime import Runtime

if TYPE_CHECKING:
    from llmpipe.middleware.alerts import Alerts
    from llmpipe.middleware.alerts.alert import Alert
    from llmpipe.pipeline.call import Attempt, Call, Ledger, Note
    from llmpipe.pipeline.outcome import Outcome

__all__ = ("Desk",)

_MAX_LANES = 1000  # of providers, models and tenants that are kept apart
_FLUSH_SECONDS = 4.0  # at the end; less than what a runtime has for it
_REFUSED = frozenset(("breaker.opened", "breaker.refused"))  # notes of a circuit that is open
_MAX_CHARS = 300  # of an error's message, or of a note


class _Lane:
    """The meters that an attempt at one target writes to, found with one look-up."""

    __slots__ = ("means", "meters", "purses", "rates", "slow", "timed")

    def __init__(self, meters: list[Meter]) -> None:
        self.rates = [meter for meter in meters if isinstance(meter.rule, ErrorRate)]
        self.timed = [meter for meter in meters if isinstance(meter.rule, Latency)]
        self.purses = [meter for meter in meters if isinstance(meter.rule, CostRate)]
        self.means = [m for m in self.timed if isinstance(m.rule, Latency) and m.rule.statistic == "mean"]
        self.meters = self.rates + self.timed
        self.slow = min((meter.rule.above for meter in self.timed), default=inf)


class Desk:
    """At work on one runtime. Survives a chain that is built anew with other rules and sinks."""

    def __init__(self) -> None:
        self.active: set[Ledger] = set()
        self.counted = Counted()
        self.adopted: Alerts | None = None
        self.cases = Cases(self._send, _MAX_LANES)
        self.posts: dict[str, Post] = {}
        self._cfg: Alerts
        self._runtime: Runtime
        self._lanes: dict[tuple[str, str, str | Literal[False]], _Lane] = {}
        self._meters: dict[tuple[str, str], Meter] = {}
        self._few: set[Meter] = set()
        self._due = -inf
        self._noted = False  # whether a note of the call that is looked at tells that a circuit is open
        self._timer: asyncio.TimerHandle | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._uses = Uses()

    def adopt(self, cfg: Alerts, runtime: Runtime) -> None:
        """Go by `cfg` from now on. Meters of rules that count the same as before go on; so do cases."""
        self.adopted = self._cfg = cfg
        self._runtime = runtime
        kept = {rule.name: rule for rule in cfg.rules}
        self._lanes.clear()
        self._few.clear()
        self._meters = {key: meter for key, meter in self._meters.items() if meter.follows(kept.get(key[0]))}
        self._windowed = [rule for rule in cfg.rules if isinstance(rule, Windowed)]
        self._errors = [rule for rule in cfg.rules if isinstance(rule, ErrorSeen)]
        self._circuits = [rule for rule in cfg.rules if isinstance(rule, CircuitOpened)]
        self._notes = [rule for rule in cfg.rules if isinstance(rule, NoteSeen)]
        self._resources = [rule for rule in cfg.rules if isinstance(rule, ResourceUse)]
        self._tenants = any(rule.per == "tenant" for rule in self._windowed)
        windows = [rule.window for rule in self._windowed]
        self._step = max(min(windows) / 20, max(windows) / 1000) if windows else 15.0
        for case in self.cases:
            rule = kept.get(case.rule.name)
            if rule is not None and type(rule) is type(case.rule):
                case.rule = rule
            else:
                self.cases.resolve(case, self._runtime.wall(), unwatched(case.key))
                self.cases.forget(case)
        for sink in cfg.sinks:
            post = self.posts.get(sink.name)
            if post is None:
                self.posts[sink.name] = Post(sink, self._runtime, cfg.max_queue)
            else:
                post.sink, post.max_queue = sink, cfg.max_queue
        self.posts = {sink.name: self.posts[sink.name] for sink in cfg.sinks}
        if self._resources:
            self._uses.start(self._runtime, cfg.sampler, self._resources)
            self._arm(self._runtime.now())

    # ------------------------------------------------------------ calls

    def ended(self, call: Call, outcome: Outcome) -> None:
        """A call had a reply, which is over."""
        ledger = call.ledger
        self.active.discard(ledger)
        if outcome.ended_at >= self._due:
            self._turn(outcome.ended_at)
        attempts = self.counted.attempts(ledger) if self.counted.begun else ledger.attempts
        if len(attempts) != 1 or ledger.notes or outcome.status != "ok":
            self._looked_at(call, attempts, outcome.error, outcome.ended_at)
            return
        attempt = attempts[0]
        key = (attempt.provider, attempt.asked_model, self._tenants and call.tenant)
        lane = self._lanes.get(key)
        if lane is None:
            lane = self._lane(*key)
        for meter in lane.meters:
            meter.calls += 1
        wait = attempt.committed_at - attempt.started_at  # type: ignore[operator]  # it has answered
        if wait > lane.slow or lane.means:
            self._slow(lane, wait, outcome.ended_at)
        charge = attempt.charge
        if charge is not None:
            for purse in lane.purses:
                purse.calls += 1
                purse.sum += charge.input_nano + charge.output_nano
                if purse.sum > purse.trip:
                    self._judge(purse, outcome.ended_at)
        if self._few:
            self._judge_again(outcome.ended_at)

    def failed(self, call: Call, error: BaseException) -> None:
        """A call ended without a reply."""
        self.active.discard(call.ledger)
        now = call.runtime.now()
        if now >= self._due:
            self._turn(now)
        self._looked_at(call, self.counted.attempts(call.ledger), error, now)

    def _looked_at(
        self, call: Call, attempts: Sequence[Attempt], error: BaseException | None, now: float
    ) -> None:
        """A call on which something happened."""
        notes = self.counted.notes(call.ledger)
        self._noted = any(note.kind in _REFUSED for note in notes)
        for attempt in attempts:
            self._attempt(attempt, call, now)
        if self._few:
            self._judge_again(now)
        for note in notes:
            self._note(note, now)
        if isinstance(error, LLMError) and all(attempt.error is not error for attempt in attempts):
            provider, endpoint, model = call.target_key
            key = (error.provider or provider, endpoint, error.model or model)
            self._error(error, key, now)

    def _attempt(self, attempt: Attempt, call: Call, now: float) -> None:
        lane = self._lane(attempt.provider, attempt.asked_model, self._tenants and call.tenant)
        error = attempt.error
        if attempt.status == "error" and getattr(error, "health", "failure") != "success":
            for meter in lane.rates:
                meter.calls += 1
                meter.bad += 1
                self._judge(meter, now)
        elif attempt.status in ("ok", "error"):
            for meter in lane.rates:
                meter.calls += 1
        if attempt.committed_at is not None:
            wait = attempt.committed_at - attempt.started_at
            for meter in lane.timed:
                meter.calls += 1
            self._slow(lane, wait, now)
        if attempt.charge is not None:
            for purse in lane.purses:
                purse.calls += 1
                purse.sum += attempt.charge.input_nano + attempt.charge.output_nano
                self._judge(purse, now)
        if isinstance(error, LLMError) and attempt.status == "error":
            self._error(error, (attempt.provider, "", attempt.asked_model), now)

    def _slow(self, lane: _Lane, wait: float, now: float) -> None:
        for meter in lane.means:
            meter.sum += wait
        if wait > lane.slow:
            for meter in lane.timed:
                if wait > meter.rule.above:
                    meter.bad += 1
                    self._judge(meter, now)

    # ------------------------------------------------------------ what rules say of it

    def _error(self, error: LLMError, key: tuple[str, str, str], now: float) -> None:
        if error.type == "CIRCUIT_OPEN" and not self._noted:
            self._circuit(key, "it refused a call", now)
        for rule in self._errors:
            if error.type in rule.types:
                model = f"/{key[2]}" if key[2] else ""
                summary = f"{key[0]}{model}: {error.type}: {error.message}"
                details = {"model": _plain(key[2]), "status": error.status, "code": _plain(error.code)}
                self._fire(rule, key[0], summary, now, details=details)

    def _note(self, note: Note, now: float) -> None:
        kind, detail = note.kind, note.detail
        if self._circuits:
            if kind in _REFUSED:
                self._circuit(detail["key"], detail.get("reason") or "it refused a call", now)
            elif kind == "breaker.closed":
                self._closed(detail["key"])
        for rule in self._notes:
            if kind not in (rule.kind, rule.resolved_by):
                continue
            key = "/".join(str(detail.get(name)) for name in rule.key) or "all"
            told = ", ".join(f"{name} {value}" for name, value in detail.items() if value is not None)
            summary = f"{kind}: {told}" if told else kind
            details = {name: _plain(value) for name, value in detail.items()}
            if kind == rule.kind:
                self._fire(rule, key, summary, now, details=details)
            elif (case := self.cases.get(rule, _word(key))) is not None and case.active:
                reading = Reading(_line(summary), details=details)
                self.cases.resolve(case, self._runtime.wall(), reading)

    def _circuit(self, key: Any, reason: str, now: float) -> None:
        provider, endpoint, model = key if isinstance(key, tuple) and len(key) == 3 else ("", "", str(key))
        name = "/".join(part for part in (provider, model) if part)
        for rule in self._circuits:
            told = {"provider": provider, "endpoint": endpoint, "model": model}
            details = {what: _plain(value) for what, value in told.items()}
            summary = f"{name}: the circuit is open: {reason}"
            self._fire(rule, name, summary, now, details=details, about=(provider, model))

    def _closed(self, key: Any) -> None:
        for rule in self._circuits:
            name = "/".join(part for part in (key[0], key[2]) if part) if isinstance(key, tuple) else str(key)
            case = self.cases.get(rule, _word(name))
            if case is not None and case.active:
                self.cases.resolve(case, self._runtime.wall(), closed(case.key))

    def _judge(self, meter: Meter, now: float, *, again: bool = False) -> None:
        value = meter.rule.judge(meter.window)
        if value is not None:
            summary, details = meter.rule.told(meter.key, meter.window, value)
            self._fire(meter.rule, meter.key, summary, now, value=value, details=details, again=again)
        elif meter.window[0] < meter.rule.minimum and meter.window[1]:
            self._few.add(meter)

    def _judge_again(self, now: float) -> None:
        """There were too few calls to judge by, and now there is another."""
        for meter in [*self._few]:
            if meter.window[0] >= meter.rule.minimum:
                self._few.discard(meter)
                self._judge(meter, now)

    def _fire(
        self,
        rule: Rule,
        key: str,
        summary: str,
        now: float,
        *,
        value: float | None = None,
        details: Mapping[str, Any] | None = None,
        about: Any = None,
        again: bool = False,
    ) -> None:
        self.cases.fire(
            rule,
            _word(key),
            _line(summary),
            repeat=self._cfg.repeat if rule.repeat is None else rule.repeat,
            now=now,
            wall=self._runtime.wall(),
            value=value,
            details=details,
            about=about,
            again=again,
        )
        if self._timer is None:
            self._arm(now)

    def _send(self, alert: Alert) -> None:
        for post in self.posts.values():
            post.put(alert)

    # ------------------------------------------------------------ time passes

    def _lane(self, provider: str, model: str, tenant: str | Literal[False]) -> _Lane:
        """The lane of a target, and of a tenant where some rule tells tenants apart."""
        lane = self._lanes.get((provider, model, tenant))
        if lane is None:
            if len(self._lanes) >= _MAX_LANES:
                provider = model = tenant = OTHER
                if (lane := self._lanes.get((provider, model, tenant))) is not None:
                    return lane
            words = {
                "all": "all",
                "provider": provider,
                "target": f"{provider}/{model}",
                "tenant": tenant or "",
            }
            meters = []
            for rule in self._windowed:
                key = _word(words[rule.per]) or "(none)"
                meter = self._meters.get((rule.name, key))
                if meter is None:
                    meter = self._meters[rule.name, key] = Meter(rule, key)
                meters.append(meter)
            lane = self._lanes[provider, model, tenant] = _Lane(meters)
        return lane

    def _turn(self, now: float) -> None:
        """Move all windows on to `now`, and see what is over."""
        ended = min(now, self._due)  # nothing was counted since, or there would have been a turn
        self._due = now + self._step
        idle = []
        for key, meter in self._meters.items():
            meter.turn(now, ended)
            if meter.empty:
                idle.append(key)
            self._judge(meter, now, again=True)
        if idle:
            for key in idle:
                self._few.discard(self._meters.pop(key))
            self._lanes.clear()
        self._uses.look(now, self._fire)
        for case in self.cases:
            self._look(case, now)

    def _look(self, case: Case, now: float) -> None:
        """See whether `case` is over."""
        rule = case.rule
        repeat = self._cfg.repeat if rule.repeat is None else rule.repeat
        if case.active:
            if isinstance(rule, NoteSeen) and rule.quiet is None and not rule.resolved_by:
                if now - case.seen_at >= repeat:
                    self.cases.close(case)
                return
            over = ending(case, now, meters=self._meters, uses=self._uses, runtime=self._runtime)
            if over is not None:
                self.cases.resolve(case, self._runtime.wall(), over)
        elif now - case.sent_at >= repeat:
            self.cases.forget(case)

    def _arm(self, now: float) -> None:
        """Look again in a while: nobody may call, and something must be told to be over."""
        loop = asyncio.get_running_loop()
        if self._timer is not None and self._loop is loop:
            return
        self._loop = loop
        self._timer = loop.call_at(now + self._step, self._tick)

    def _tick(self) -> None:
        assert self._loop is not None
        self._timer = None
        now = self._loop.time()
        self._turn(now)
        if self.cases.by_id or self._resources:
            self._arm(now)

    async def aclose(self) -> None:
        """Deliver what waits, in a few seconds, and stop. It goes on when it is needed."""
        if self._timer is not None and self._loop is asyncio.get_running_loop():
            self._timer.cancel()
        self._timer = None
        self._uses.rest()
        try:
            async with asyncio.timeout(_FLUSH_SECONDS):
                await asyncio.gather(*(post.flush() for post in self.posts.values()))
        except TimeoutError:
            pass  # said by `abandon`, for each sink that has something left
        finally:
            for post in self.posts.values():
                post.abandon()
        self.adopted = None  # so that the next call, if there is one, begins with what a first one does


def _word(key: str) -> str:
    """A key for people: names in it come from callers."""
    return _printable(clipped(key, 200))


def _line(text: str) -> str:
    """One line, without credentials or personal data."""
    return _printable(" ".join(clipped(text, _MAX_CHARS).split()))


def _printable(text: str) -> str:
    """Without what no sink could write, such as half a surrogate pair, or what would colour a terminal."""
    return text if text.isprintable() else "".join(char if char.isprintable() else "\ufffd" for char in text)


def _plain(value: Any) -> Any:
    if value is None or isinstance(value, (bool, int, float)):
        return value
    return _line(str(value))
