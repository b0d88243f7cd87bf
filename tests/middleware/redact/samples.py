"""Things to hide, made valid by the rules of their kind, and things that only look like them.

The makers compute check digits by their own arithmetic, not by the package's.
"""

from __future__ import annotations

import string
from random import Random

__all__ = ("EXAMPLES", "LOOK_ALIKES", "card", "email", "iban", "ip_v4", "ip_v6", "ssn", "us_phone")

ALNUM = string.ascii_letters + string.digits


def pick(random: Random, alphabet: str, count: int) -> str:
    return "".join(random.choice(alphabet) for _ in range(count))


def email(random: Random) -> str:
    local = pick(random, ALNUM, random.randint(1, 12))
    if random.random() < 0.5:
        local += random.choice("._+-") + pick(random, ALNUM, random.randint(1, 8))
    labels = [
        pick(random, string.ascii_lowercase, random.randint(2, 10)) for _ in range(random.randint(1, 3))
    ]
    return f"{local}@{'.'.join(labels)}.{random.choice(['com', 'org', 'de', 'co.uk', 'museum'])}"


def us_phone(random: Random) -> str:
    area = random.choice("23456789") + pick(random, string.digits, 2)
    exchange = random.choice("23456789") + pick(random, string.digits, 2)
    line = pick(random, string.digits, 4)
    form = random.choice(
        ["{}-{}-{}", "({}) {}-{}", "{}.{}.{}", "{} {} {}", "+1 {} {} {}", "1-{}-{}-{}", "{}{}{}"]
    )
    return form.format(area, exchange, line)


def ssn(random: Random) -> str:
    area = random.choice([n for n in range(1, 900) if n != 666])
    separator = random.choice("- ")
    return f"{area:03}{separator}{random.randint(1, 99):02}{separator}{random.randint(1, 9999):04}"


def check_digit(payload: str) -> str:
    """The digit that makes `payload` pass Luhn, by the book: double every second from the right."""
    total = 0
    for place, char in enumerate(reversed(payload)):
        value = int(char) * (2 if place % 2 == 0 else 1)
        total += value - 9 if value > 9 else value
    return str(-total % 10)


CARDS = (
    *(
        ("4", 16),
        ("4", 13),
        ("4", 19),
        ("51", 16),
        ("55", 16),
        ("2221", 16),
        ("2720", 16),
        ("34", 15),
        ("37", 15),
    ),
    *(("6011", 16), ("65", 16), ("3528", 16), ("36", 14), ("300", 14), ("62", 16), ("62", 19), ("2200", 16)),
    *(("50", 12), ("67", 18)),
)


def card(random: Random) -> str:
    start, length = random.choice(CARDS)
    payload = start + pick(random, string.digits, length - len(start) - 1)
    number = payload + check_digit(payload)
    separator = random.choice(["", " ", "-"])
    return separator.join(number[i : i + 4] for i in range(0, len(number), 4))


IBAN_LENGTHS = {
    "DE": 22,
    "GB": 22,
    "FR": 27,
    "NL": 18,
    "ES": 24,
    "IT": 27,
    "CH": 21,
    "NO": 15,
    "MT": 31,
    "BR": 29,
}


def iban(random: Random) -> str:
    country = random.choice(sorted(IBAN_LENGTHS))
    account = pick(random, string.digits, IBAN_LENGTHS[country] - 4)
    as_number = "".join(str(int(char, 36)) for char in account + country + "00")
    compact = f"{country}{98 - int(as_number) % 97:02}{account}"
    if random.random() < 0.5:
        return compact
    return " ".join(compact[i : i + 4] for i in range(0, len(compact), 4))


def ip_v4(random: Random) -> str:
    return ".".join(str(random.randint(0, 255)) for _ in range(4))


def ip_v6(random: Random) -> str:
    groups = [f"{random.randint(1, 0xFFFF):x}" for _ in range(8)]
    if random.random() < 0.5:
        return ":".join(groups)
    start = random.randint(1, 4)
    return ":".join(groups[:start]) + "::" + ":".join(groups[6:7]) + ":1"


EXAMPLES: dict[str, tuple[str, ...]] = {
    "email": (
        "john.doe@example.com",
        "o'brien+news@mail.example.co.uk",
        "x@y.de",
        "JOHN_DOE@EXAMPLE.COM",
        "a.b-c@xn--bcher-kva.example",
        "john%40example.com",
        "john&#64;example.com",
        "john (at) example [dot] com",
        "john[at]example.com",
        "john {at} mail {dot} example {dot} org",
    ),
    "phone": (
        "+1 (415) 555-2671",
        "+14155552671",
        "+44 (0)20 7946 0958",
        "+49 30 123456",
        "+86 138 0013 8000",
        "0049 30 1234567",
        "001-415-555-2671",
        "415-555-2671",
        "(415) 555-2671",
        "415.555.2671 x123",
        "1-800-555-0199",
        "4155552671",
        "020 7946 0958",
        "06 12 34 56 78",
        "0151-12345678",
        "090-1234-5678",
        "13800138000",
        "138 0013 8000",
        "98765 43210",
    ),
    "ssn": ("123-45-6789", "899-99-9999", "001-01-0001", "123 45 6789", "123.45.6789"),
    "credit_card": (
        "4111111111111111",
        "4111 1111 1111 1111",
        "4111-1111-1111-1111",
        "5555555555554444",
        "2223003122003222",
        "378282246310005",
        "3782 822463 10005",
        "6011111111111117",
        "30569309025904",
        "3530111333300000",
        "6200000000000005",
        "4 1 1 1 1 1 1 1 1 1 1 1 1 1 1 1",
    ),
    "iban": (
        "DE89370400440532013000",
        "DE89 3704 0044 0532 0130 00",
        "GB29 NWBK 6016 1331 9268 19",
        "gb29nwbk60161331926819",
        "NL91ABNA0417164300",
        "MT84MALT011000012345MTLCAST001S",
        "NO93 8601 1117 947",
    ),
    "ip": (
        "192.168.1.100",
        "8.8.8.8",
        "255.255.255.255",
        "2001:db8::ff00:42:8329",
        "2001:0db8:0000:0000:0000:ff00:0042:8329",
        "fe80::1ff:fe23:4567:890a",
        "::1",
        "::ffff:192.0.2.128",
        "1:2:3:4:5:6:1.2.3.4",
    ),
    "api_key": (
        "sk-1234567890abcdef",
        "sk-ant-api03-AbCdEf0123456789-AbCdEf_0123",
        "sk-proj-AbCdEf0123456789AbCdEf0123456789",
        "gsk_AbCdEf0123456789AbCdEf01",
        "AIzaSyA0123456789abcdefghijklmnopqrstuv",
        "AKIAIOSFODNN7EXAMPLE",
        "ghp_0123456789abcdefghijABCDEFGHIJ012345",
        "github_pat_11ABCDEFG0123456789_abcdefghij",
        "xoxb-123456789012-abcdefGHIJKL",
        "glpat-abcdefghij0123456789",
        "hf_AbCdEf0123456789AbCdEf",
        "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk",
        "-----BEGIN RSA PRIVATE KEY-----\nMIIEow+/=\nabcd\n-----END RSA PRIVATE KEY-----",
        "aZ3kQ9wLm2XcV8bN5rT7yU1iO4pS6dFgH0",
    ),
    "postal_address": (
        "123 Main Street",
        "1600 Pennsylvania Ave",
        "742 Evergreen Terrace, Springfield, IL 62704",
        "221B Baker Street",
        "350 5th Ave, Suite 3300, New York, NY 10118-0110",
        "12 Martin Luther King Jr. Blvd. Suite 4",
        "77 main street",
        "P.O. Box 1234",
        "PO BOX 77",
        "CA 94105",
        "SW1A 2AA",
        "EC1A 1BB",
        "K1A 0B1",
        "Hauptstraße 5",
        "Berliner Straße 12a, 10115 Berlin",
        "Alexanderplatz 1",
        "12 rue de la Paix, 75002 Paris",
        "8 bis avenue des Champs Elysees",
        "Calle Mayor 5",
        "Via Roma, 12",
    ),
}
"""Each is one finding of its kind, from its first to its last character."""

LOOK_ALIKES: dict[str, tuple[str, ...]] = {
    "email": (
        "john@localhost",
        "@example.com",
        "user@1.2.3",
        "a@b.c",
        "5 @ 3.50 each",
        "@decorator.method",
        "x@y",
    ),
    "phone": (
        "2024-01-15",
        "15.01.2024 10:30",
        "01/15/2024 10:30",
        "2024-01-15T10:30:45.123456",
        "1700000000",
        "1700000000000",
        "3.14159265358979",
        "0.5551234567",
        "12345678901234567890",
        "115-555-2671",
        "415-155-2671",
        "555-1234",
        "order 12345",
        "v4.15.555.2671",
        "x4155552671y",
    ),
    "ssn": (
        "000-12-3456",
        "666-12-3456",
        "900-12-3456",
        "987-65-4321",
        "123-00-4567",
        "123-45-0000",
        "123456789",
        "123-45-67890",
        "1123-45-6789",
        "123-456-789",
    ),
    "credit_card": (
        "4111111111111112",
        "1111111111111117",
        "9111111111111111",
        "41111111111111",
        "4111 1111 1111",
        "0.4111111111111111",
        "41111111111111111111111111",
        "7000000000000000",
    ),
    "iban": (
        "DE88370400440532013000",
        "DE8937040044053201300",
        "XX89370400440532013000",
        "ZZ00 0000 0000 0000",
        "AB12 is a part number",
    ),
    "ip": (
        "256.1.1.1",
        "1.2.3",
        "1.2.3.4.5",
        "01.2.3.4",
        "v1.2.3.4",
        "12:30:45",
        "std::vector",
        "a::b",
        "00:1a:2b:3c:4d:5e",
        "1:2:3:4:5:6:7",
        "1::2::3",
        "12345::1",
        "::",
    ),
    "api_key": (
        "sk-learn-contrib",
        "task-1234567890abcdef",
        "bearer of bad news",
        "Bearer certificates expire",
        "max_tokens: 4096",
        "token: the smallest unit of text",
        "The key: remember to breathe",
        "api_key=settings.api_key",
        "password: required",
        "api_key: ${OPENAI_API_KEY}",
        "key=value1234",
        "d41d8cd98f00b204e9800998ecf8427e",
        "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
        "550e8400-e29b-41d4-a716-446655440000",
        "AKIASHORT",
        "eyJ.is.not",
    ),
    "postal_address": (
        "24 hours on the road",
        "10 minutes drive",
        "3 people crossed the street",
        "2 ways",
        "5 years of my lane",
        "Spring 2024",
        "Engineering 101",
        "ZZ 94105",
        "B2B SaaS",
        "I have 12 apples",
        "version 3 court",
    ),
}
"""None of these is a finding of the kind it stands under."""
