"""How API keys, tokens, passwords and private keys are written."""

from __future__ import annotations

import re

from llmpipe.middleware.redact import checks, hints
from llmpipe.middleware.redact.detector import Detector

__all__ = ("API_KEY",)

# (what it begins with, what it goes on with, at least, at most). Source: the providers' own formats.
_PREFIXES = (
    ("sk-", "A-Za-z0-9_\\-", 8, 220),  # OpenAI, Anthropic, OpenRouter, DeepSeek, …
    ("gsk_", "A-Za-z0-9", 16, 100),  # Groq
    ("AIza", "A-Za-z0-9_\\-", 30, 60),  # Google
    ("AKIA", "A-Z0-9", 16, 16),  # AWS
    ("ASIA", "A-Z0-9", 16, 16),
    ("ghp_", "A-Za-z0-9", 20, 255),  # GitHub
    ("gho_", "A-Za-z0-9", 20, 255),
    ("ghu_", "A-Za-z0-9", 20, 255),
    ("ghs_", "A-Za-z0-9", 20, 255),
    ("ghr_", "A-Za-z0-9", 20, 255),
    ("github_pat_", "A-Za-z0-9_", 20, 255),
    ("glpat-", "A-Za-z0-9_\\-", 16, 100),  # GitLab
    ("xoxa-", "A-Za-z0-9\\-", 10, 255),  # Slack
    ("xoxb-", "A-Za-z0-9\\-", 10, 255),
    ("xoxe-", "A-Za-z0-9\\-", 10, 255),
    ("xoxp-", "A-Za-z0-9\\-", 10, 255),
    ("xoxr-", "A-Za-z0-9\\-", 10, 255),
    ("xoxs-", "A-Za-z0-9\\-", 10, 255),
    ("xapp-", "A-Za-z0-9\\-", 10, 255),
    ("xai-", "A-Za-z0-9", 16, 100),
    ("hf_", "A-Za-z0-9", 16, 60),  # Hugging Face
    ("r8_", "A-Za-z0-9", 16, 60),  # Replicate
    ("pplx-", "A-Za-z0-9", 16, 100),  # Perplexity
    ("csk-", "A-Za-z0-9", 16, 100),  # Cerebras
    ("nvapi-", "A-Za-z0-9_\\-", 16, 100),
    ("tvly-", "A-Za-z0-9_\\-", 16, 100),
    ("npm_", "A-Za-z0-9", 30, 60),
    ("pypi-", "A-Za-z0-9_\\-", 30, 255),
    ("sk_live_", "A-Za-z0-9", 10, 255),  # Stripe
    ("sk_test_", "A-Za-z0-9", 10, 255),
    ("rk_live_", "A-Za-z0-9", 10, 255),
    ("whsec_", "A-Za-z0-9+/=", 16, 100),
    ("ya29.", "A-Za-z0-9_\\-", 20, 255),  # Google OAuth
    ("SG.", "A-Za-z0-9_\\-.", 30, 100),  # SendGrid
)


def _token_pattern() -> str:
    """All beginnings as one pattern, by first letter: tried at a place are those of its letter only."""
    by_letter: dict[str, list[str]] = {}
    for begin, of, least, most in _PREFIXES:
        by_letter.setdefault(begin[0], []).append(rf"{re.escape(begin[1:])}[{of}]{{{least},{most}}}+")
    ways = [rf"(?<={letter})(?>{'|'.join(rest)})" for letter, rest in by_letter.items()]
    return rf"[{''.join(by_letter)}](?<![A-Za-z0-9\-].)(?>{'|'.join(ways)})"


def _token_sieve() -> str:
    """Where `checks.token` says yes: to a digit, or to a capital letter in 24 characters or more."""
    alike: dict[str, list[str]] = {}
    for begin, of, _, _ in _PREFIXES:
        some, long = f"[{of}]{{0,255}}", f"(?=[{of}]{{{24 - len(begin)}}})"
        capital = f"(?={some}[A-Z])" if begin.islower() else ""
        random = "" if hints.digits(begin) else f"(?:(?={some}[0-9])|{capital}{long})"
        alike.setdefault(random, []).append(re.escape(begin))
    return "|".join([f"(?:{'|'.join(begins)}){random}" for random, begins in alike.items()])


_VALUE = (
    r"""[ \t]{0,4}+(?>"(?P<quoted>[^"\r\n]{4,400}+)"|'(?P<single>[^'\r\n]{4,400}+)'"""
    r"""|["']?+(?P<scheme>(?i:(?>bearer|basic|token))[ ]{1,4}+)?+(?P<bare>[^\s"'&,;<>()\[\]{}]{4,400}+"""
    # A long one is no sentence of a script without spaces, but a private key in base64, for one.
    r"""[A-Za-z0-9+/=_.~%\-]{0,3696}+))"""
)
_GLUE = r"""["'\]]{0,2}+[ \t]{0,3}+(?P<glue>(?>=>|:=|=|:))"""
_KEY_OF = "|".join(
    f"(?<={word}{glue}key)"
    for word in (
        *("api", "access", "secret", "private", "auth", "account", "subscription", "encryption"),
        *("signing", "master", "service", "client"),
    )
    for glue in ("", "[ _-]")
)
_PRIVATE_KEY = "(?:(?>RSA|EC|DSA|OPENSSH|ENCRYPTED|PGP) )?+PRIVATE KEY(?: BLOCK)?+-----"

# Where a check can say yes: `_is_random`, and a value that is none of the words which stand in its place.
_RANDOM = "(?=[{0}]{{0,255}}[0-9])|(?=[{0}]{{0,255}}[A-Z])(?=[{0}]{{24}})"
_ENDS_BARE = r"\s\"'&,;<>()\[\]{}"
_BARE = f"[^{_ENDS_BARE}]"
_OPEN = r"[ \t]{0,4}[\"']?"
_ITS_NAME = (
    r"(?i:(?:your|my|the|some|an|a|)(?:[ _\-]|)(?:api|access|secret|)(?:[ _\-]|)"
    r"(?:key|token|secret|password|passwd)(?:s|))"
)


def _a_secret(ends: str) -> str:
    """Looks ahead at a value up to one of `ends`: no word, name, variable or mask that stands for one."""
    return (
        rf"(?!(?:{checks.NO_WORDS}|{_ITS_NAME})[{ends}])(?![*]{{2}}|[$]|[{{]|<|\[|%[(])"
        rf"(?=[*xX.\u2026\u2022]{{0,4095}}[^*xX.\u2026\u2022{ends}])"
    )


_IN_DOUBLE, _IN_SINGLE, _IN_BARE = [_a_secret(ends) for ends in ('"', "'", _ENDS_BARE)]
# A name and its value: in quotes, with a scheme, with a sign in it, or a plain word after `=`.
_NAMED = (
    r"[A-Za-z]{3,13}[\"'\]]{0,2}[ \t]{0,3}(?:(?:=>|:=|=|:(?!=))(?:"
    rf"[ \t]{{0,4}}(?:\"{_IN_DOUBLE}[^\"\r\n]{{4}}|'{_IN_SINGLE}[^'\r\n]{{4}})"
    rf"|{_OPEN}(?:(?i:bearer|basic|token)[ ]{{1,4}}{_IN_BARE}{_BARE}{{4}}"
    rf"|{_IN_BARE}(?={_BARE}{{4}}){_BARE}{{0,4096}}[^A-Za-z_.{_ENDS_BARE}]"
    rf"|(?=[.]{{0,4095}}_)[_.]{{4,4096}}(?![^{_ENDS_BARE}])))"
    rf"|={_OPEN}{_IN_BARE}[A-Za-z_]{{4,4096}}(?![A-Za-z_.]))"
)

API_KEY = (
    Detector(
        "api_key",
        _token_pattern(),
        checks.token,
        hint=hints.token,
        lettered=True,
        sieves=(_token_sieve(),),
    ),
    Detector(  # JWT
        "api_key",
        r"eyJ(?<![A-Za-z0-9]eyJ)[A-Za-z0-9_\-]{8,1024}+\.[A-Za-z0-9_\-]{4,6144}+(?:\.[A-Za-z0-9_\-]{0,1024}+)?+",
        hint=hints.jwt,
        lettered=True,
        runs_on=True,
    ),
    Detector(
        "api_key",
        rf"-----BEGIN {_PRIVATE_KEY}[A-Za-z0-9+/=\s\\:,]{{1,8192}}+(?:-----END {_PRIVATE_KEY})?+",
        hint=hints.private_key,
    ),
    Detector(
        "api_key",
        r"[Bb](?<![A-Za-z0-9].)earer[ \t]{1,4}+(?P<value>[A-Za-z0-9._~+/\-]{8,2048}+={0,2}+)",
        checks.bearer,
        hint=hints.bearer,
        lettered=True,
        sieves=(r"[Bb]earer[ \t]{1,4}(?:" + _RANDOM.format(r"A-Za-z0-9._~+/\-") + ")",),
    ),
    # A key that is no key of a keyboard or a mapping.
    Detector(
        "api_key",
        rf"[Kk](?i:ey(?>{_KEY_OF})){_GLUE}{_VALUE}",
        checks.secret,
        hint=hints.named,
        sieves=(_NAMED,),
    ),
    Detector(
        "api_key",
        rf"[TtSsPpAaCc](?>(?<=[Tt])(?i:oken)|(?<=[Ss])(?i:ecret)|(?<=[Pp])(?i:(?>assword|asswd|wd|assphrase))"
        rf"|(?<=[Aa])(?i:uthorization)|(?<=[Cc])(?i:redentials?)){_GLUE}{_VALUE}",
        checks.secret,
        hint=hints.named,
        sieves=(_NAMED,),
    ),
    # A long random word, whatever it opens. Not in base64, where it would be one of many.
    Detector(
        "api_key",
        r"[A-Za-z0-9](?<![A-Za-z0-9+/=_.\-].)[A-Za-z0-9]{31,127}+(?![A-Za-z0-9+/=_\-])",
        checks.scrambled,
        3,
        probe="[0-9](?<=[A-Za-z0-9]{8}.)",
        sieves=("(?=(?:[A-Za-z]{0,127}[0-9]){3})(?=(?:[a-z0-9]{0,127}[A-Z]){3})",),
    ),
)
