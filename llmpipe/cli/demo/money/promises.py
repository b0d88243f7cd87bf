"""What the scene of money promises, checked against bills, files and times that were seen from outside."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator

from llmpipe.cli.demo.money.scene import Money
from llmpipe.cli.demo.promises import Promise

__all__ = ("check", "ends_of", "usd")

_PATIENT = 4.0  # times the store's timeout that a call may take while it is away, on a busy machine
_QUIET = 0.25  # of the noisy one's longest wait


def check(scene: Money) -> list[Promise]:
    """All promises."""
    return [found for rule in _RULES for found in rule(scene)]


def usd(nano: int) -> str:
    """Nano-USD as dollars, to the millionth."""
    return f"{nano / 1e9:.6f}"


def ends_of(scene: Money) -> Counter[str]:
    """How the calls that the crashed instance and its successor began have ended, by the audit trail."""
    return Counter(record.outcome for record in scene.crash.records if record.kind == "end")


def _room_for_ten(scene: Money) -> Iterator[Promise]:
    act = scene.crowd
    right = act.answered == act.requests == act.room and act.refused == act.calls - act.room
    yield Promise(
        f"of {act.calls:,} calls at one moment, a budget with room for {act.room} lets in {act.room}",
        right and not act.others,
        f"{act.answered} answered, {act.refused} refused, the provider had {act.requests} requests",
    )
    over = max(0, act.bill - act.limit)
    yield Promise(
        "nothing is overspent, and nothing held beyond the budget on the way",
        not over and act.highest <= act.limit and not act.held and act.spent == act.bill and act.looks > 1,
        f"overspend {usd(over)} USD; of {usd(act.limit)} at most {usd(act.highest)} spent and held",
    )


def _killed(scene: Money) -> Iterator[Promise]:
    act = scene.crash
    costs: Counter[str] = Counter()
    for row in act.journal:
        costs[row.call] += row.nano or 0
    lost = sum(costs[call] != nano for call, nano in act.acknowledged.items())
    killed = act.exits == (-9, 0) and act.under_way > 0 < len(act.acknowledged) - act.after
    yield Promise(
        "an instance that is killed loses nothing that its callers have",
        killed and act.after > 0 and not lost,
        f"{len(act.acknowledged)} answers, {lost} not in the ledger to the nano-dollar; "
        f"{act.under_way} calls under way when it died",
    )
    journal = sum(row.nano or 0 for row in act.journal)
    yield Promise(
        "what it held is free again when its lease ends, and what is likely is charged",
        act.held_at_death > 0 == act.held_in_the_end
        and 0 < act.likely < act.held_at_death
        and act.spent == journal + act.likely,
        f"{usd(act.held_at_death)} USD held when it died, {usd(act.held_in_the_end)} in the end, "
        f"{usd(act.likely)} charged",
    )


def _trail(scene: Money) -> Iterator[Promise]:
    act, ends = scene.crash, ends_of(scene)
    begun = Counter(record.call for record in act.records if record.kind == "begin")
    ended = Counter(record.call for record in act.records if record.kind == "end")
    missing = sum(call not in begun for call in act.acknowledged)
    yield Promise(
        "every call that began has one end in the audit trail",
        begun == ended
        and set(begun.values()) == {1}
        and not missing
        and ends["ok"] + ends["crashed"] == len(begun) >= act.asked
        and ends["crashed"] >= act.under_way,
        f"{len(begun)} begun: {ends['ok']} ok, {ends['crashed']} crashed",
    )
    found = sum(bool(one.found) for one in act.tamperings)
    yield Promise(
        "its chain of hashes is whole, and one bit changed is found",
        act.fault is None and len(act.records) > 0 and found == len(act.tamperings) == 2,
        f"{len(act.records)} records, {act.fault or 'nothing wrong'}; {found} of {len(act.tamperings)} found",
    )


def _fair(scene: Money) -> Iterator[Promise]:
    noisy, quiet = (scene.neighbours.waits[name] for name in ("noisy", "quiet"))
    longest = max(quiet, default=0.0)
    yield Promise(
        "a quiet tenant does not wait behind a noisy one",
        len(noisy) > len(quiet) > 0 and longest < _QUIET * max(noisy),
        f"{len(quiet)} calls, {1000 * longest:.0f} ms at most; the other's {len(noisy)}, {max(noisy):.1f} s",
    )


def _true_retry_after(scene: Money) -> Iterator[Promise]:
    act = scene.neighbours
    first, later = act.busy[:-3], act.busy[-3:]
    refused = later[0]
    kept = [one.admitted for one in later] == [False, False, True] and all(one.admitted for one in first)
    told = "nothing" if refused.retry_after is None else f"{refused.retry_after:.2f} s"
    said = [
        f"{'let in' if one.admitted else 'refused'} after {one.at - refused.at:.2f} s" for one in later[1:]
    ]
    yield Promise(
        "who is over a limit is told truly when there is room",
        kept and all(one.admitted for one in act.calm) and len(act.calm) == len(first) > 0,
        f"told {told}; {', '.join(said)}; "
        f"{sum(one.admitted for one in act.calm)} of {len(act.calm)} calls of another account let in",
    )


def _away(scene: Money) -> Iterator[Promise]:
    act = scene.outage
    alone = sum(act.shares)
    yield Promise(
        "without its store a limit holds: each of two instances keeps to its half",
        0 < alone <= act.limit
        and all(0 < share <= act.limit // 2 for share in act.shares)
        and act.refused > 0,
        f"{' and '.join(map(str, act.shares))} let in, {act.refused} refused, the limit is {act.limit}",
    )
    most = max(act.lent, default=0)
    yield Promise(
        "without its store a budget lends each instance its slack, and no more",
        0 < most <= act.slack and act.unavailable > 0 and not act.others,
        f"{' and '.join(map(usd, act.lent))} USD of {usd(act.slack)} each, {act.unavailable} calls refused",
    )
    yield Promise(
        "no call hangs on a store that is away",
        0 < act.longest < _PATIENT * act.timeout,
        f"{act.longest:.2f} s at most; the store's timeout is {act.timeout:g} s",
    )
    yield Promise(
        "when it is back all is settled, by itself, and our ledger equals the bill",
        act.owed > 0 == act.owed_in_the_end == act.lent_in_the_end == act.held
        and act.spent == act.bill >= sum(act.lent) > 0
        and act.before + act.after <= act.limit,
        f"{act.owed} settlements owed, {act.owed_in_the_end} after {act.recovered_in:.1f} s; "
        f"{usd(act.spent)} and {usd(act.bill)} USD",
    )


def _told_once(scene: Money) -> Iterator[Promise]:
    act = scene.trouble
    told = Counter((alert.rule, alert.state) for alert in act.alerts)
    rules = ("error_rate", "circuit_open")
    right = {(rule, state): 1 for rule in rules for state in ("firing", "resolved")}
    firing = sum(alert.state == "firing" for alert in act.alerts)
    yield Promise(
        "trouble is told of once, and once that it is over",
        told == right and not act.late and act.failed > 2 * len(act.alerts),
        f"{act.failed} calls failed: {firing} alerts, {len(act.alerts) - firing} of them resolved",
    )


def _nothing_left(scene: Money) -> Iterator[Promise]:
    yield Promise("nothing is left behind", not scene.tasks_left, f"{scene.tasks_left} tasks")


_RULES: tuple[Callable[[Money], Iterator[Promise]], ...] = (
    _room_for_ten,
    _killed,
    _trail,
    _fair,
    _true_retry_after,
    _away,
    _told_once,
    _nothing_left,
)
