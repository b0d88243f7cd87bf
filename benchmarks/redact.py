"""`python -m benchmarks.redact [--quick] [--time | --found]`: how slow redaction gets, and how good it is.

The first table has a row for each pattern: milliseconds of CPU for 100,000 characters of the text that
hurt it most, of those made from the pattern itself and of `HURTING`, and how much longer twice the text
takes. Texts in which nothing is found stand apart from those full of findings, which cost so much each.
The second has a row for each disguise: what it takes to read a text that is all disguise, before anything
is looked for. The third has recall and precision by kind on the labelled set, the fourth recall by evasion.
"""

from __future__ import annotations

import argparse
import gc
import sys
from base64 import b64encode
from collections.abc import Callable, Iterable
from functools import partial
from random import Random
from time import process_time

from attrs import frozen

from llmpipe.middleware.redact import Scanner
from llmpipe.middleware.redact.detector import Detector
from llmpipe.middleware.redact.reading import Reading
from llmpipe.testing.evasions import EVASIONS, TRAILING
from llmpipe.testing.hostile import DISGUISED, attacks, repeated
from llmpipe.testing.labelled import INVALID, UNREACHABLE, VALID, Labelled, labelled, score

__all__ = ("HURTING", "Row", "attack", "evaded", "main", "quality")

_ALL = Scanner()
_CHARACTERS = 100_000
_FULL = _CHARACTERS // 1_000  # findings from which on it is they that cost

HURTING: tuple[tuple[str, str], ...] = (
    ("email", "k@h-.K"),
    ("email", "k@h---b.K"),
    ("email", "9-Z-9-Z-9-Z-9-Z-9-Z-9-Z-9-Z-[ @ >5-a---b.c,"),
    ("ssn", "Social Security numbeN is 896720099+9:040092770"),
    ("credit_card", "6."),
    ("credit_card", "6297 2510 2734 6468 692,"),
    ("iban", "NO12 "),
    ("iban", "ES4142079-"),
    ("iban", "YH09A-"),
    ("iban", "MT67566703384916362055841718615\n"),
    ("iban", "RU12 RU12 RU12 RU12 RU12."),
    ("ip", ":\n0:8:,+:9:::,+:9:::,+:9::"),
    ("ip", "a::999.9.9.9 "),
    ("ip", "A/::A:"),
    ("api_key", "ghp_aaaaaaaaaaaaaaaaaaaa-0 "),
    ("api_key", "eyJZzZWW90K93aZ-"),
    ("api_key", "Bearer  ssewi_kej=tj0-"),
    ("api_key", "token\t ="),
    ("api_key", "token=xxxx "),
    ("api_key", 'token="xxxx" '),
    ("api_key", "token:=word "),
    ("api_key", "token='your-api_key' "),
    ("api_key", "token=basic token "),
    ("api_key", "'.Tredential\"] :=\t\t\t'F$X,;LboO3LDzf,HxIH7+q4}yH^5}&+meT$?\tmM"),
    ("api_key", "7/Authorization:\t\t\tbearer    |\t$$$z0n7/"),
    ("postal_address", ": 9o  0st road,"),
    ("postal_address", "59200-9a 990th  H9c0A1Aa0'az0.a9d  T5''  Boulevard  SuiteAN8"),
    ("postal_address", "9  0st Z9An  89st  highway Apt. A0A,\n"),
)
"""By kind the units of the texts that hurt most, of all that a search by small changes has come to."""


@frozen
class Row:
    """What one pattern, or a whole kind, takes at the worst.

    `ms` of CPU for 100,000 characters in which next to nothing is found, of `unit` again and again;
    `ratio` of the time for a megabyte to that for half of one; `each_us` of CPU for a finding in texts
    full of them.
    """

    name: str
    ms: float
    unit: str
    ratio: float
    each_us: float


def _cpu(work: Callable[[], object], rounds: int) -> float:
    """CPU seconds, the least of some rounds."""
    best = float("inf")
    for _ in range(rounds):
        gc.collect()
        began = process_time()
        work()
        best = min(best, process_time() - began)
    return best


def attack(name: str, detectors: Iterable[Detector], units: list[str], rounds: int) -> Row:
    """Some detectors against texts made of `units`."""
    scanner, watched = _ALL, list(detectors)
    worst, hurt, each = 0.0, "", 0.0
    for unit in units:
        text = repeated(unit, _CHARACTERS)
        found = len(scanner._spans(watched, text))  # patterns are compiled now
        seconds = _cpu(lambda text=text: scanner._spans(watched, text), rounds)  # type: ignore[misc]  # its default
        if found > _FULL:
            each = max(each, seconds / found)
        elif seconds > worst:
            worst, hurt = seconds, unit
    half, whole = [repeated(hurt, n) for n in (500_000, 1_000_000)]
    ratio = _cpu(lambda: scanner._spans(watched, whole), rounds) / _cpu(
        lambda: scanner._spans(watched, half), rounds
    )
    return Row(name, worst * 1e3, hurt, ratio, each * 1e6)


def _examples(kind: str) -> list[str]:
    random = Random(3)
    return [VALID[kind](random) for _ in range(12)] + [INVALID[kind](random) for _ in range(12)]


def _speed(count: int, rounds: int) -> None:
    print(f"{'pattern':<20}{'ms/100 kB':>10}{'1 MB : ½ MB':>13}{'µs/finding':>12}  worst text, repeated")
    hostile: list[str] = []
    for kind in VALID:
        whole: list[str] = []
        own = [detector for detector in _ALL.detectors if detector.kind == kind]
        for number, detector in enumerate(own):
            units = attacks(detector.pattern, Random(5), count, _examples(kind))
            units += [unit for hurt, unit in HURTING if hurt == kind]
            row = attack(f"{kind} {number + 1}", [detector], units, rounds)
            whole.append(row.unit)
            _print(row)
        hostile += [unit for unit in whole if unit]
        if len(own) > 1:
            _print(attack(f"{kind}, all {len(own)}", own, [unit for unit in whole if unit], rounds))
    encoded = [detector for detector in _ALL.detectors if detector.kind == "base64"]
    units = [unit for d in encoded for unit in attacks(d.pattern, Random(5), count)]
    _print(attack("base64, both", encoded, units, rounds))
    # Whole words of what hurts the others, which are looked for in it.
    units = [b64encode((unit * 99)[:36].encode()).decode() + " " for unit in hostile]
    _print(attack("base64 of all these", encoded, units, rounds))


def _reading(rounds: int) -> None:
    print(f"\n{'disguise':<20}{'ms/100 kB':>10}{'1 MB : ½ MB':>13}{'':>12}  text, repeated")
    for name, kind, unit in DISGUISED:
        Reading(repeated(unit, 100), kind)  # what each character means is known now
        texts = [repeated(unit, count) for count in (_CHARACTERS, 500_000, 1_000_000)]
        seconds = [_cpu(partial(Reading, text, kind), rounds) for text in texts]
        _print(Row(name, seconds[0] * 1e3, unit, seconds[2] / seconds[1], 0))


def _print(row: Row) -> None:
    each = f"{row.each_us:.1f}" if row.each_us else ""
    print(f"{row.name:<20}{row.ms:>10.2f}{row.ratio:>13.2f}{each:>12}  {row.unit[:60]!r}")


def quality(seed: int, each: int) -> list[Labelled]:
    """The labelled set: valid things, such as only look so, and such as no pattern finds."""
    return [
        *labelled(seed, each),
        *labelled(seed + 1, each, INVALID, valid=False),
        *labelled(seed + 2, each, UNREACHABLE),
    ]


def evaded(scanner: Scanner, cases: list[Labelled]) -> dict[str, float]:
    """Of the things found in `cases` as they stand, by evasion how many are found in that disguise too."""
    plain = [
        case for case in cases if case.thing.isascii() and _covered(scanner, case.text, case.start, case.end)
    ]
    recall: dict[str, float] = {}
    for name, change in EVASIONS.items():
        hits = 0
        for case in plain:
            thing = change(case.thing)
            text = case.text[: case.start] + thing + case.text[case.end :]
            hits += _covered(scanner, text, case.start, case.start + len(thing.rstrip(TRAILING)))
        recall[name] = hits / len(plain)
    return recall


def _covered(scanner: Scanner, text: str, start: int, end: int) -> bool:
    places = {place for found in scanner.scan(text) for place in range(found.start, found.end)}
    return places >= set(range(start, end))


def _found(each: int) -> None:
    scanner = Scanner()
    scores = score(lambda text: [(f.kind, f.start, f.end) for f in scanner.scan(text)], quality(1, each))
    print(f"{'kind':<20}{'recall':>8}{'precision':>11}{'strays':>8}{'valid':>7}{'invalid':>9}")
    for kind, got in scores.items():
        note = "  no form a pattern could find: see llmpipe-presidio" if kind in UNREACHABLE else ""
        print(
            f"{kind:<20}{got.recall:>8.3f}{got.precision:>11.3f}{got.strays:>8}{got.valid:>7}{got.invalid:>9}{note}"
        )
    print(f"\n{'evasion':<32}{'recall, of what is found without':>8}")
    recall = evaded(scanner, labelled(4, max(18, each // 10)))
    for name, share in recall.items():
        print(f"{name:<32}{share:>8.3f}")
    print(f"{'all':<32}{sum(recall.values()) / len(recall):>8.3f}")


def main() -> int:
    """Print the tables. Exit status 0 whatever the figures are."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.redact", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="fewer texts and rounds, for a look")
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--time", action="store_true", help="only the first table")
    which.add_argument("--found", action="store_true", help="only the others")
    options = parser.parse_args()
    if not options.found:
        _speed(30 if options.quick else 150, 1 if options.quick else 3)
        _reading(1 if options.quick else 5)
    if not options.found and not options.time:
        print()
    if not options.time:
        _found(100 if options.quick else 1_000)
    return 0


if __name__ == "__main__":
    sys.exit(main())
