"""What the routed scene promises, checked against the books of all four providers."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from llmpipe.cli.demo.promises import Promise
from llmpipe.cli.demo.routed.places import expected
from llmpipe.cli.demo.routed.scene import CALLERS, PRICES, Routed
from llmpipe.pipeline.call import Note

__all__ = ("answered_by", "charged_nano", "check", "notes", "ramp")

_MOST_REQUESTS = 1.2  # for each call


def check(scene: Routed) -> list[Promise]:
    """All promises."""
    return [found for rule in _RULES for found in rule(scene)]


def notes(scene: Routed, kind: str) -> list[Note]:
    """Every note of that kind."""
    return [note for call in scene.calls for note in call.ledger.notes if note.kind == kind]


def charged_nano(scene: Routed, provider: str) -> int:
    """Our own ledger for that provider, in nano-USD."""
    return sum(a.charge.total_nano for a in scene.attempts if a.provider == provider and a.charge is not None)


def answered_by(scene: Routed, dialect: str, provider: str) -> int:
    """How many calls that came in this dialect that provider answered."""
    mine = [
        r.call.ledger.attempts[-1] for r in scene.records if r.errand.kind == dialect and r.outcome == "ok"
    ]
    return sum(attempt.provider == provider for attempt in mine)


def ramp(scene: Routed) -> list[tuple[int, int]]:
    """Of each quarter of the way back: requests to the provider that was dead, and all requests."""
    change = scene.changed("anthropic", "returning")
    if change is None or not change.seconds:
        return []
    found = []
    for quarter in range(4):
        low, high = (change.at + change.seconds * part / 4 for part in (quarter, quarter + 1))
        sent = [a.provider for a in scene.attempts if low <= a.started_at < high]
        found.append((sent.count("anthropic"), len(sent)))
    return found


def _no_call_fails(scene: Routed) -> Iterator[Promise]:
    lost = sum(r.outcome != "ok" for r in scene.records)
    yield Promise(
        "no call fails, whatever happens to a provider", not lost, f"{len(scene.records)} calls, {lost} lost"
    )
    whole = sum(r.text == expected(r.errand.request.messages[-1].text) for r in scene.records)
    yield Promise(
        "every answer is whole, once and word for word",
        whole == len(scene.records),
        f"{whole} of {len(scene.records)}",
    )


def _any_dialect(scene: Routed) -> Iterator[Promise]:
    pairs = [(dialect, name) for dialect in CALLERS for name in scene.places]
    met = sum(answered_by(scene, *pair) > 0 for pair in pairs)
    yield Promise(
        "callers of every dialect are answered by every provider",
        met == len(pairs),
        f"{met} of {len(pairs)} pairs",
    )


def _balanced(scene: Routed) -> Iterator[Promise]:
    for key, text in (
        ("well", "calls are spread evenly over all that are well"),
        ("again", "who was dead has its whole share again"),
    ):
        phase = scene.phases[key]
        even = len(phase.records) / len(scene.places)
        counts = [phase.requests[name] for name in scene.places]
        kept = all(abs(one - even) <= even / 4 for one in counts)
        yield Promise(text, kept, f"{', '.join(map(str, counts))} requests")


def _outage(scene: Routed) -> Iterator[Promise]:
    records = scene.phases["dead"].records
    even = len(records) / len(scene.places)
    tried = sum(a.provider == "anthropic" for r in records for a in r.call.ledger.attempts)
    yield Promise(
        "a dead provider is asked a few times, then left alone",
        0 < tried < even / 2,
        f"{tried} attempts; an even share is {even:.0f}",
    )
    changes = [scene.changed("anthropic", kind) for kind in ("down", "returning", "readmitted")]
    times = [change.at for change in changes if change is not None]
    yield Promise(
        "it is let in again when it has rested, and readmitted in the end",
        len(times) == 3 and times == sorted(times),
        ", ".join(
            f"{change.kind} at {change.at - scene.begun:.1f} s" for change in changes if change is not None
        ),
    )
    quarters = ramp(scene) or [(0, 0)] * 4
    (mine, every), (early, all_early) = _sum(quarters), _sum(quarters[:2])
    yield Promise(
        "on its way back its share is small at first",
        early * 8 < all_early and mine * 16 < every * 3,  # an eighth is half an even share
        f"{early} of {all_early} requests in the first half, {mine} of {every} in all",
    )


def _sum(pairs: list[tuple[int, int]]) -> tuple[int, int]:
    return sum(one for one, _ in pairs), sum(other for _, other in pairs)


def _keys(scene: Routed) -> Iterator[Promise]:
    phase = scene.phases["key"]
    refused, requests = phase.refused["gemini"], phase.requests["gemini"]
    lost = sum(r.outcome != "ok" for r in phase.records)
    yield Promise(
        "when a key is revoked, the provider's other key takes over",
        0 < refused < requests / 2 and not lost,
        f"{refused} of {requests} requests refused, {lost} calls lost",
    )


def _broken_streams(scene: Routed) -> Iterator[Promise]:
    broken = sum(e.end == "broken" for place in scene.places.values() for e in place.entries)
    replaced = len(notes(scene, "commit.broken"))
    lost = sum(r.outcome != "ok" for r in scene.phases["streams"].records)
    yield Promise(
        "a stream that breaks half-way is replaced unseen",
        0 < broken == replaced and not lost,
        f"{broken} broken, {replaced} replaced, {lost} lost",
    )


def _tools(scene: Routed) -> Iterator[Promise]:
    done = [loop for loop in scene.loops if loop.runs and loop.runs[-1].result.text in loop.text]
    wandered = [loop for loop in done if len({step.completion.provider for step in loop.steps}) > 1]
    yield Promise(
        "a tool loop goes on where another provider answers its next step",
        len(wandered) == len(PRICES),
        f"{len(wandered)} of {len(PRICES)} loops, {sum(len(loop.runs) for loop in scene.loops)} tools run",
    )


def _requests(scene: Routed) -> Iterator[Promise]:
    booked = sum(len(place.entries) for place in scene.places.values())
    asked = len(scene.calls)
    yield Promise(
        f"the providers see at most {_MOST_REQUESTS:g} requests for each call",
        asked <= booked <= _MOST_REQUESTS * asked,
        f"{booked} for {asked} calls: {booked / max(1, asked):.2f}",
    )


def _bills_agree(scene: Routed) -> Iterator[Promise]:
    bills = {name: place.simulator.book.billed_nano for name, place in scene.places.items()}
    wrong = [name for name, billed in bills.items() if charged_nano(scene, name) != billed]
    yield Promise(
        "our ledger equals all four bills, each to the nano-dollar",
        not wrong and all(bills.values()),
        f"not that of {', '.join(wrong)}" if wrong else f"${sum(bills.values()) / 1e9:.9f} together",
    )


def _nothing_left(scene: Routed) -> Iterator[Promise]:
    open_attempts = sum(a.status == "open" for a in scene.attempts)
    yield Promise(
        "nothing is left behind",
        scene.tasks_left + scene.connections_left + open_attempts == 0,
        f"{scene.tasks_left} tasks, {scene.connections_left} connections, {open_attempts} open attempts",
    )


_RULES: tuple[Callable[[Routed], Iterator[Promise]], ...] = (
    _no_call_fails,
    _any_dialect,
    _balanced,
    _outage,
    _keys,
    _broken_streams,
    _tools,
    _requests,
    _bills_agree,
    _nothing_left,
)
