"""Where in a text a pattern can match, asked of all its places at once.

`re` tries one place after the other. In a text that is written to be slow, every other place is a
beginning that comes to nothing, at 60 to 500 nanoseconds each, for each pattern. Here a set of
places is one long integer, a bit for each, and to match a character is one `and` and one shift of
it: half a microsecond for 16,000 places (measured). So the whole text is matched at once, from the
last node of a pattern to its first, in an effort that its length alone decides.

What comes out is a superset of the places where the pattern matches, and mostly just these: what is
possessive gives ground here, of a long loop over a group only its characters count and what may
follow each, and word boundaries are passed over. `re` has the last word.

Source: Cameron et al., "Bitwise Data Parallelism in Regular Expression Matching", PACT 2014. It goes
forwards and has loops without bounds; here they have some, and double their steps.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from importlib import import_module
from itertools import compress
from typing import Any

from llmpipe.middleware.redact.classes import CHARACTERS, LOOPS, Class, Tree, classes, folds, union
from llmpipe.middleware.redact.linear import written

__all__ = ("Planes", "Way", "way")

_parser: Any = import_module("re._parser")  # see `linear`

_MOST = 6_000  # operations a pattern may take, of which those on empty sets are left out
_EXACT = 24  # rounds of a loop that are matched one by one; of more, only what they consist of: see `_inside`
_FREQUENT = 16  # to go through all places is cheaper than to look for those that are so near each other
_TRUTH = bytes.maketrans(b"01", b"\0\1")

_FULL = [(1 << (1 << bits)) - 1 for bits in range(8)]  # of as many characters as so many bits tell apart


class Planes:
    """A piece of text, and for each class of characters asked for the set of places where one stands.

    Place i is bit `length` - i of a set, so the place behind the last character has a bit too, the lowest.
    """

    __slots__ = ("_bits", "_done", "_sets", "every", "length", "text")

    def __init__(self, text: str) -> None:
        data = text.encode("ascii", "replace")
        self.text = text
        self.length = len(text)
        self.every = (2 << len(text)) - 1
        # The seven bits of each character; of them all classes are made, at a twentieth of the effort.
        self._bits = [plane << 1 for plane in _transposed(data)]
        self._sets: dict[tuple[int, Class], int] = {}
        self._done: dict[tuple[str, int], tuple[int, int]] = {}

    def of(self, members: Class) -> int:
        """The places where a character of a class stands."""
        return self._set(6, members)

    def _set(self, bit: int, members: Class) -> int:
        """The same, where only `bit` and those below it are not decided yet."""
        if not members:
            return 0
        if members == _FULL[bit + 1]:
            return self.every - 1
        found = self._sets.get((bit, members))
        if found is None:
            plane, high, low = self._bits[bit], members >> (1 << bit), members & _FULL[bit]
            if high == low:
                found = self._set(bit - 1, low)
            elif not low:
                found = plane & self._set(bit - 1, high)
            else:
                off = self._set(bit - 1, low)
                found = off ^ (plane & (off ^ self._set(bit - 1, high)))
            self._sets[bit, members] = found
        return found

    def back(self, key: str, step: Way, ends: int) -> int:
        """`step` from `ends`, done once: what ends alike in many patterns is matched once for all of them."""
        done = self._done.get((key, id(ends)))
        if done is None:
            done = self._done[key, id(ends)] = (ends, step(self, ends))  # `ends` is kept, and so is its id
        return done[1]

    def only(self, found: int, really: Callable[[int], object]) -> int:
        """Of a set the places of which `really` says so."""
        marks = bytearray(b"0" * (self.length + 1))
        for place in self.places(found):
            if really(place):
                marks[place] = ord("1")
        return int(marks, 2)

    def places(self, found: int) -> Iterator[int]:
        """The places of a set, in order."""
        if not found:
            return
        bits = format(found, f"0{self.length + 1}b")
        if found.bit_count() * _FREQUENT > self.length:
            yield from compress(range(self.length + 1), bits.encode().translate(_TRUTH))
            return
        place = bits.find("1")
        while place >= 0:
            yield place
            place = bits.find("1", place + 1)


def _transposed(data: bytes) -> list[int]:
    """Of each byte bit 0, of each bit 1, …: the last byte's is the lowest.

    Eight bytes are a square of bits, whose quarters are exchanged, then those of the quarters, and so on:
    in all such squares at once. Source: Warren, "Hacker's Delight", 2nd edition, 7-3.
    """
    data = bytes(-len(data) % 8) + data
    rows = [int.from_bytes(data[number::8]) for number in range(8)]
    for half, mask in ((4, 0x0F), (2, 0x33), (1, 0x55)):
        low = int.from_bytes(bytes([mask]) * (len(data) // 8))
        for one in [number for number in range(8) if not number & half]:
            other = one + half
            moved = (rows[one] ^ (rows[other] >> half)) & low
            rows[one] ^= moved
            rows[other] ^= moved << half
    return rows[::-1]


Way = Callable[[Planes, int], int]
"""From where one gets to a place of a set: (planes, set) to set."""


def way(pattern: str) -> Way | None:
    """From where `pattern` can match so that it ends at a place of a set; of `Planes.every`, anywhere.

    None for a pattern whose loops within loops take more than `_MOST` operations, of which `re` may be
    the better judge.
    """
    nodes = list(_parser.parse(pattern))
    return None if _effort(nodes) > _MOST else _back(nodes, fold=False)


def _effort(nodes: Tree) -> int:
    """About how many operations on sets it takes."""
    effort = 0
    for op, value in nodes:
        name = str(op)
        if name in LOOPS:
            least, most, body = value
            effort += (min(most - least, _EXACT) + least) * (_effort(list(body)) + 1)
        elif name in ("SUBPATTERN", "ATOMIC_GROUP"):
            effort += _effort(list(value[3] if name == "SUBPATTERN" else value))
        elif name == "BRANCH":
            effort += sum([_effort(list(tree)) + 1 for tree in value[1]])
        else:
            effort += 2 if name in CHARACTERS else _effort(list(value[1])) + 1 if name != "AT" else 0
    return effort


def _back(nodes: Tree, *, fold: bool) -> Way:
    steps = []
    for op, value in reversed(nodes):
        step = _node(str(op), value, fold)
        if step is not None:
            steps.append((f"{fold:d}{written([(op, value)])}", step))

    def back(planes: Planes, ends: int) -> int:
        for key, step in steps:
            ends = planes.back(key, step, ends)
            if not ends:
                return 0
        return ends

    return back


def _node(name: str, value: Any, fold: bool) -> Way | None:
    """The way back over one node; None for one that is passed over."""
    if name in CHARACTERS:
        may, _ = classes(name, value, fold)
        return lambda planes, ends: planes.of(may) & (ends << 1)
    if name in LOOPS:
        least, most, body = value
        return _loop(least, most, list(body), fold)
    if name == "SUBPATTERN":
        return _back(list(value[3]), fold=folds(value, fold))
    if name == "ATOMIC_GROUP":
        return _back(list(value), fold=fold)
    if name == "BRANCH":
        return _any_of([_back(list(tree), fold=fold) for tree in value[1]])
    return _look(name, value, fold) if name in ("ASSERT", "ASSERT_NOT") else None


def _any_of(ways: list[Way]) -> Way:
    def any_of(planes: Planes, places: int) -> int:
        found = 0
        for each in ways:
            found |= each(planes, places)
        return found

    return any_of


def _look(name: str, value: Any, fold: bool) -> Way | None:
    """The places of a set where one looks ahead or behind, and sees what is asked for or does not."""
    direction, nodes = value[0], list(value[1])
    key = f"{fold:d}{direction:d}{name}{written(nodes)}"
    seen: Way | None
    if name == "ASSERT":
        seen = _back(nodes, fold=fold) if direction > 0 else _forth(nodes, fold, sure=False)
    else:
        seen = (_forth if direction < 0 else _ahead)(nodes, fold, sure=True)
    if seen is None:
        return None
    # Where that is so does not depend on the set, so it is asked once, though it stand in a loop.
    if name == "ASSERT":
        return lambda planes, ends: ends & planes.back(key, seen, planes.every)
    # A complement is a negative number, with which an `and` takes three times as long.
    return lambda planes, ends: ends ^ (ends & planes.back(key, seen, planes.every))


def _loop(least: int, most: int, body: Tree, fold: bool) -> Way:
    one, members, inside = _back(body, fold=fold), union(body, fold), _inside(body, fold)
    widths = [_width(op, value) for op, value in body]
    longest = sum([longest for _, longest in widths])
    single = len(body) == 1 and str(body[0][0]) in CHARACTERS

    def loop(planes: Planes, ends: int) -> int:
        if ends is planes.every:
            found = ends
        elif single or most - least > _EXACT:
            found = _over(inside(planes, planes.every), (most - least) * longest, ends)
        else:
            found = ends
            for _ in range(most - least):
                ends = one(planes, ends)
                if not ends:
                    break
                found |= ends
        if single and least > 1:
            return _in_a_row(planes.of(members), least) & (found << least)
        for _ in range(least):
            found = one(planes, found)
        return found

    return loop


def _inside(body: Tree, fold: bool) -> Way:
    """Where a character stands that can be one of the body's, and be followed by the others.

    So a loop over ``-{0,2}[a-z]`` does not go on over three hyphens.
    """
    members, ways = union(body, fold), []
    for number, (op, value) in enumerate(body):
        if not _is_simple(str(op), value):
            return lambda planes, _: planes.of(members)
        ways.append(_back(body[number:], fold=fold))
    rest = _any_of(ways)
    return lambda planes, ends: planes.of(members) & rest(planes, ends)


def _is_simple(name: str, value: Any) -> bool:
    """Whether it takes a character, or some of a class, of which each can be the first."""
    if name in LOOPS:
        least, _, body = value
        return least < 2 and len(body) == 1 and str(body[0][0]) in CHARACTERS
    return name in CHARACTERS


def _width(op: Any, value: Any) -> tuple[int, int]:
    """How many characters a node takes, at least and at most."""
    least, most = _parser.SubPattern(_parser.State(), [(op, value)]).getwidth()
    return int(least), int(most)


def _over(characters: int, most: int, ends: int) -> int:
    """From where one gets to one of `ends` over so many of `characters` at most."""
    if most < 4:
        found = ends
        for _ in range(most):
            ends = characters & (ends << 1)
            if not ends:
                break
            found |= ends
        return found
    found, run = ends, characters  # `run`: where so many of them stand in a row as the step is long
    runs: list[int] = []
    done = 0
    while done + (1 << len(runs)) <= most:  # one, two, four, …: no length is left out
        step = 1 << len(runs)
        runs.append(run)
        found |= run & (found << step)
        done += step
        run &= run << step
        if not run:
            break
    for power in reversed(range(len(runs))):
        if done + (1 << power) <= most:
            found |= runs[power] & (found << (1 << power))
            done += 1 << power
    return found


def _in_a_row(characters: int, count: int) -> int:
    """From where so many of `characters` stand in a row."""
    done = 1
    while done < count:
        step = min(done, count - done)
        characters &= characters << step
        done += step
    return characters


def _forth(nodes: Tree, fold: bool, *, sure: bool) -> Way | None:
    """Where one gets to from places of a set; None where that is not known. `sure`: not by chance."""
    return _in_turn(nodes, fold, sure, forth=True)


def _ahead(nodes: Tree, fold: bool, *, sure: bool) -> Way | None:
    """From where one gets to places of a set, if that is known for sure."""
    return _in_turn(nodes[::-1], fold, sure, forth=False)


def _in_turn(nodes: Tree, fold: bool, sure: bool, *, forth: bool) -> Way | None:
    steps: list[tuple[str, Way]] = []
    for op, value in nodes:
        step = _step(str(op), value, fold, sure, forth=forth)
        if step is None:
            return None
        steps.append((f"{fold:d}{sure:d}{forth:d}{written([(op, value)])}", step))

    def turn(planes: Planes, places: int) -> int:
        for key, step in steps:
            places = planes.back(key, step, places)
            if not places:
                return 0
        return places

    return turn


def _step(name: str, value: Any, fold: bool, sure: bool, *, forth: bool) -> Way | None:
    """Over characters and what consists of them, neither more nor less."""
    go = _forth if forth else _ahead
    if name in CHARACTERS:
        members = classes(name, value, fold)[sure]
        if forth:
            return lambda planes, places: (places & planes.of(members)) >> 1
        return lambda planes, places: planes.of(members) & (places << 1)
    if name == "SUBPATTERN":
        return go(list(value[3]), folds(value, fold), sure=sure)
    if name == "ATOMIC_GROUP" and not sure:
        return go(list(value), fold, sure=sure)
    if name == "BRANCH":
        ways = [go(list(tree), fold, sure=sure) for tree in value[1]]
        known = [each for each in ways if each is not None]
        return _any_of(known) if len(known) == len(ways) else None
    if name in LOOPS and value[0] == value[1]:
        return go(list(value[2]) * value[0], fold, sure=sure)
    return None
