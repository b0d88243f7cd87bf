"""Texts of which it is known what is in them: to measure what redaction finds, and what it finds wrongly.

Things of each kind are made by the rules of their kind, valid ones and such that break one rule, and
put into sentences of several sorts and languages. All of it is made up from a seed: the same seed
makes the same set, and no text is anybody's.
"""

from __future__ import annotations

import string
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from random import Random

from attrs import frozen

__all__ = (
    "INVALID",
    "Labelled",
    "SENTENCES",
    "Score",
    "UNREACHABLE",
    "VALID",
    "labelled",
    "score",
)

Maker = Callable[[Random], str]
_ALNUM = string.ascii_letters + string.digits


@frozen
class Labelled:
    """A text; of it from `start` up to `end` is something of `kind`, or, not `valid`, what only looks so."""

    text: str
    kind: str
    start: int
    end: int
    valid: bool

    @property
    def thing(self) -> str:
        """The thing itself."""
        return self.text[self.start : self.end]


@frozen
class Score:
    """How well a kind is found.

    Attributes:
        recall: of all valid ones how many were covered whole, by findings of whatever kind; 1.0 is all.
        precision: of what was found of the kind in texts about it, with valid ones and such as only
            look so, how much lies in a valid one; 1.0 where nothing was found.
        strays: findings of the kind in texts about other kinds: of a mistyped account number some
            digits are a card's or a telephone's by chance.
        valid, invalid: of how many.
    """

    recall: float
    precision: float
    strays: int
    valid: int
    invalid: int


def _pick(random: Random, alphabet: str, count: int) -> str:
    return "".join([random.choice(alphabet) for _ in range(count)])


# ------------------------------------------------------------ things


def _email(random: Random) -> str:
    first, last = (
        random.choice(["ann", "j", "li", "omar", "x1"]),
        random.choice(["lee", "o-neil", "k", "b_c"]),
    )
    local = random.choice([f"{first}.{last}", f"{first}{last}", f"{first}+{last}", first.upper()])
    host = random.choice(["example", "mail.example", "xn--bcher-kva", "a-b-c", "sub.dept.example"])
    return f"{local}@{host}.{random.choice(['com', 'org', 'de', 'co.uk', 'museum', 'io'])}"


def _no_email(random: Random) -> str:
    return random.choice(
        ["@decorator.cached", "user@localhost", "me@1.2", "5 @ 3.50", "a@b", "x@", "#@!.com"]
    )


_PHONE_FORMS = (
    *("+1 ({a}) {e}-{l}", "+1{a}{e}{l}", "({a}) {e}-{l}", "{a}-{e}-{l}", "{a}.{e}.{l}", "1-{a}-{e}-{l}"),
    *("{a}-{e}-{l} x12", "+44 20 7946 0{t}", "+49 30 1234{t}", "+33 6 12 34 5{d} 78", "+86 138 0013 8{t}"),
    *(
        "0049 30 12345{t}",
        "020 7946 0{t}",
        "06 12 34 5{d} 78",
        "0151-12345{t}",
        "090-1234-5{t}",
        "138 0013 8{t}",
    ),
    *("98765 43{t}", "+39 06 6982 {t}", "+55 11 9{l}-{l}"),
)


def _phone(random: Random) -> str:
    digits = string.digits
    return random.choice(_PHONE_FORMS).format(
        a=random.choice("23456789") + _pick(random, digits, 2),
        e=random.choice("23456789") + _pick(random, digits, 2),
        l=_pick(random, digits, 4),
        t=_pick(random, digits, 3),
        d=random.choice(digits),
    )


def _no_phone(random: Random) -> str:
    number = _pick(random, string.digits, 12)
    return random.choice(
        [
            f"20{number[:2]}-0{random.randint(1, 9)}-1{number[3]}",
            f"1.{number}",
            f"v{number[:3]}.1.{number[4:7]}",
            f"17{number[:8]}",
            f"#{number[:5]}",
            f"12:30:{number[:2]}",
            f"1{number[:2]}-1{number[2:4]}-{number[4:6]}",
        ]
    )


def _ssn(random: Random) -> str:
    area = random.choice([n for n in range(1, 900) if n != 666])
    sign = random.choice("-- .")
    return f"{area:03}{sign}{random.randint(1, 99):02}{sign}{random.randint(1, 9999):04}"


def _no_ssn(random: Random) -> str:
    serial = _pick(random, "123456789", 4)
    return random.choice(
        [f"000-12-{serial}", f"666-45-{serial}", f"987-00-{serial}", "123-45-0000", f"123-456-{serial}"]
    )


def _luhn_digit(payload: str) -> str:
    """By the book: every second digit from the right doubled, its digits added up."""
    doubled = [int(c) * (2 - place % 2) for place, c in enumerate(reversed(payload))]
    return str(-sum([value - 9 if value > 9 else value for value in doubled]) % 10)


_CARDS = (
    *(("4", 16), ("51", 16), ("55", 16), ("2221", 16), ("34", 15), ("37", 15), ("6011", 16), ("65", 16)),
    *(("3528", 16), ("36", 14), ("300", 14), ("62", 16), ("62", 19), ("2200", 16), ("4", 19)),
)


def _grouped(text: str, random: Random) -> str:
    sign = random.choice(["", " ", "-"])
    return sign.join([text[at : at + 4] for at in range(0, len(text), 4)])


def _card_payload(random: Random) -> str:
    start, length = random.choice(_CARDS)
    return start + _pick(random, string.digits, length - len(start) - 1)


def _card(random: Random) -> str:
    payload = _card_payload(random)
    return _grouped(payload + _luhn_digit(payload), random)


def _no_card(random: Random) -> str:
    """No brand begins so; a shorter number in it is a card by chance."""
    payload = "9" + _pick(random, string.digits, 14)
    return _grouped(payload + _luhn_digit(payload), random)


_IBANS = {"DE": 22, "GB": 22, "FR": 27, "NL": 18, "ES": 24, "IT": 27, "CH": 21, "NO": 15, "MT": 31, "BR": 29}


def _iban_with(random: Random, off: int) -> str:
    country = random.choice(sorted(_IBANS))
    account = _pick(random, string.digits, _IBANS[country] - 4)
    number = int("".join([str(int(char, 36)) for char in f"{account}{country}00"]))
    check = (98 - number % 97 + off - 2) % 97 + 2  # 02 to 98
    compact = f"{country}{check:02}{account}"
    return random.choice([compact, " ".join([compact[at : at + 4] for at in range(0, len(compact), 4)])])


def _iban(random: Random) -> str:
    return _iban_with(random, 0)


def _no_iban(random: Random) -> str:
    return _iban_with(random, random.randint(1, 90))


def _ip(random: Random) -> str:
    if random.random() < 0.5:
        return ".".join([str(random.randint(0, 255)) for _ in range(4)])
    groups = [f"{random.randint(1, 0xFFFF):x}" for _ in range(8)]
    cut = random.randint(1, 5)
    return random.choice(
        [":".join(groups), ":".join(groups[:cut]) + "::" + groups[7], "fe80::1:" + groups[0]]
    )


def _no_ip(random: Random) -> str:
    three = f"{random.randint(0, 255)}.{random.randint(0, 255)}.{random.randint(0, 9)}"
    return random.choice(
        [three, f"256.{three}", f"{three}.1.2", "std::string", "a::b", "12:30:45", "00:1a:2b:3c:4d:5e"]
    )


def _api_key(random: Random) -> str:
    body = _pick(random, _ALNUM, 36) + "7"
    return random.choice(
        [
            f"sk-proj-{body}",
            f"sk-ant-api03-{body}",
            f"gsk_{body}",
            f"AIzaSy{body[:33]}",
            f"ghp_{body}",
            f"AKIA{_pick(random, string.ascii_uppercase + string.digits, 15)}7",
            f"xoxb-1234567890-{body}",
            f"glpat-{body[-21:]}",
            f"hf_{body}",
            f"eyJhbGciOiJIUzI1NiJ9.eyJ{body}.{body}",
            f"sk_live_{body}",
        ]
    )


def _no_api_key(random: Random) -> str:
    return random.choice(
        [
            _pick(random, "0123456789abcdef", 32),
            "sk-learn-contrib",
            "bearer of bad news",
            "max_tokens: 4096",
            "api_key=settings.api_key",
            "password: required",
            "task-1234567890abcdef",
            "550e8400-e29b-41d4-a716-446655440000",
        ]
    )


def _address(random: Random) -> str:
    number = random.randint(1, 9999)
    name = random.choice(["Main", "Oak Hill", "Martin Luther King Jr.", "5th", "Evergreen"])
    street = random.choice(["Street", "Ave", "Blvd", "Road", "Terrace", "Ln"])
    tail = random.choice(["", ", Springfield, IL 62704", ", Apt 4B", ", Suite 300, New York, NY 10118"])
    return random.choice(
        [f"{number} {name} {street}{tail}"] * 3
        + [
            f"Hauptstraße {number % 99 + 1}",
            f"Berliner Straße {number % 99 + 1}a, 10115 Berlin",
            f"PO Box {number}",
        ]
        + [
            f"{number % 99 + 1} rue de la Paix, 75002 Paris",
            f"Calle Mayor {number % 99 + 1}",
            f"Via Roma, {number % 99 + 1}",
        ]
        + ["SW1A 2AA", "K1A 0B1", "CA 94105"]
    )


def _no_address(random: Random) -> str:
    count = random.randint(2, 90)
    return random.choice(
        [
            f"{count} hours on the road",
            f"{count} people crossed the street",
            f"{count} minutes drive",
            f"ZZ {count + 94000}",
            f"Engineering {count}",
            f"version {count} court",
            f"I have {count} apples",
            "B2B SaaS",
        ]
    )


def _name(random: Random) -> str:
    first = random.choice(["Amina", "Jürgen", "Mary Ann", "Søren", "Li Wei", "Giulia"])
    return f"{first} {random.choice(['Okafor', 'Müller', 'Smith', 'García', 'Nguyen'])}"


def _place(random: Random) -> str:
    return random.choice(
        ["Springfield", "Kraków", "São Paulo", "Nairobi", "上海", "the old mill behind the church"]
    )


VALID: Mapping[str, Maker] = {
    "email": _email,
    "phone": _phone,
    "ssn": _ssn,
    "credit_card": _card,
    "iban": _iban,
    "ip": _ip,
    "api_key": _api_key,
    "postal_address": _address,
}
"""Makers of things, by kind."""

INVALID: Mapping[str, Maker] = {
    "email": _no_email,
    "phone": _no_phone,
    "ssn": _no_ssn,
    "credit_card": _no_card,
    "iban": _no_iban,
    "ip": _no_ip,
    "api_key": _no_api_key,
    "postal_address": _no_address,
}
"""Makers of what breaks one rule of its kind."""

UNREACHABLE: Mapping[str, Maker] = {"name": _name, "place": _place}
"""Makers of what has no form: no pattern finds it, only a model can (plugin ``llmpipe-presidio``)."""

SENTENCES: Sequence[str] = (
    "Please note: {}.",
    "Can you check {} for me, and tell me what you think about it?",
    "It is {}, as I said before; thanks!",
    "Bitte prüfen Sie {} und melden Sie sich.",
    "Merci de vérifier {} avant vendredi, s'il vous plaît.",
    "Por favor, revise {} y avíseme.",
    "Controlla {} per favore.",
    "请检查 {} ，谢谢。",
    "{} を確認してください。",
    "يرجى التحقق من {} اليوم.",
    "Пожалуйста, проверьте {} сегодня.",
    '{{"note": "{}", "ok": true}}',
    "id;value;state\n17;{};open\n",
    "INFO worker-3 handled ({}) in 12 ms",
    "- **item**: {}\n- other: none",
    "value = '{}'  # from the form",
    "<td>{}</td>",
    "{}",
)


def labelled(
    seed: int, each: int = 100, makers: Mapping[str, Maker] = VALID, *, valid: bool = True
) -> list[Labelled]:
    """So many texts of `each` kind of `makers`, in turn through all `SENTENCES`."""
    random = Random(seed)  # noqa: S311  the same every time, and nothing secret
    cases: list[Labelled] = []
    for kind, make in makers.items():
        for turn in range(each):
            thing, sentence = make(random), SENTENCES[turn % len(SENTENCES)]
            text = sentence.format(thing)
            start = text.index(thing)
            cases.append(Labelled(text, kind, start, start + len(thing), valid))
    return cases


def score(
    find: Callable[[str], Iterable[tuple[str, int, int]]], cases: Iterable[Labelled]
) -> dict[str, Score]:
    """How well `find`, which gives (kind, start, end) for a text, does on `cases`, by kind."""
    counts: dict[str, Counter[str]] = defaultdict(Counter)
    for case in cases:
        count = counts[case.kind]
        spans = list(find(case.text))
        count["valid" if case.valid else "invalid"] += 1
        if case.valid:
            covered = {place for _, start, end in spans for place in range(start, end)}
            count["covered"] += covered >= set(range(case.start, case.end))
        for kind, start, end in spans:
            if kind != case.kind:
                counts[kind]["strays"] += 1
                continue
            count["found"] += 1
            count["right"] += case.valid and start < case.end and case.start < end
    return {
        kind: Score(
            count["covered"] / count["valid"] if count["valid"] else 1.0,
            count["right"] / count["found"] if count["found"] else 1.0,
            count["strays"],
            count["valid"],
            count["invalid"],
        )
        for kind, count in counts.items()
    }
