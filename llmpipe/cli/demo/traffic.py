"""The calls of the demo: mixed, seeded, and each with what it must not give away."""

from __future__ import annotations

from random import Random

from attrs import evolve, frozen

from llmpipe.types import Request, Tool

__all__ = ("Errand", "errands")

_TOPICS = (
    "the harbour",
    "a quarterly report",
    "the night train",
    "solar panels",
    "an old bridge",
    "soil acidity",
)
_VERBS = ("Summarise what we know about", "Write two lines on", "List three risks of", "Explain to a child")
_WEATHER = Tool(
    "get_weather",
    "The weather in a city.",
    {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
)
_CLOCK = Tool(
    "get_time",
    "The time in a city.",
    {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
)


@frozen
class Errand:
    """One call to make: its request, whether it is streamed, and the personal data in it."""

    number: int
    request: Request
    kind: str
    private: tuple[str, ...] = ()


def errands(count: int, random: Random) -> list[Errand]:
    """`count` calls: plain, repeated, with personal data, with tools; about half are streamed."""
    made = []
    for number in range(1, count + 1):
        draw = random.random()
        if draw < 0.15:
            errand = _repeated(number, random)
        elif draw < 0.35:
            errand = _private(number, random)
        elif draw < 0.50:
            errand = _tools(number, random)
        else:
            errand = _plain(number, random)
        # Repeated ones are whole: who shares a stream that breaks after its first word shares that end too.
        stream = random.random() < 0.5 and errand.kind != "repeated"
        made.append(evolve(errand, request=evolve(errand.request, stream=stream)))
    return made


def _plain(number: int, random: Random) -> Errand:
    text = f"{random.choice(_VERBS)} {random.choice(_TOPICS)}, version {number}."
    return Errand(number, Request(messages=text, max_tokens=64), "plain")


def _repeated(number: int, random: Random) -> Errand:
    # Temperature 0 makes it deterministic, so that equal calls under way may share one reply.
    text = f"What are the opening hours of office {random.randrange(6)}?"
    return Errand(number, Request(messages=text, temperature=0, max_tokens=64), "repeated")


def _private(number: int, random: Random) -> Errand:
    mail = f"customer{number}@example.com"
    phone = f"+1 415 555 {random.randrange(10_000):04d}"
    card = _card(random)
    text = f"Echo this back: write to {mail}, call {phone}, and charge card {card}, please."
    return Errand(number, Request(messages=text, max_tokens=64), "private", (mail, card))


def _tools(number: int, random: Random) -> Errand:
    both = random.random() < 0.5
    text = f"Tell me {'both the weather and the time' if both else 'the weather'} in city {number}."
    return Errand(number, Request(messages=text, tools=(_WEATHER, _CLOCK), max_tokens=64), "tools")


def _card(random: Random) -> str:
    """A made-up card number with a right check digit, in the range that is set aside for tests."""
    digits = [4, 0, 0, 0, 0, 0] + [random.randrange(10) for _ in range(9)]
    total = 0
    for place, digit in enumerate(reversed(digits)):
        doubled = digit * 2 if place % 2 == 0 else digit
        total += doubled - 9 if doubled > 9 else doubled
    digits.append(-total % 10)
    return "".join(map(str, digits))
