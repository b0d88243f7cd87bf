"""What pages say that is made from the code, so that it is never stale: errors, notes, providers, modules."""

from __future__ import annotations

import importlib
import pkgutil
import re
from collections.abc import Iterator
from inspect import getdoc
from pathlib import Path

import llmpipe.middleware
import llmpipe.routing
import llmpipe.tools
from llmpipe import errors
from llmpipe.pipeline.registry import BUILT_IN
from llmpipe.providers.options import speaking
from llmpipe.providers.profiles import PROFILES

__all__ = (
    "capability_table",
    "error_table",
    "error_tree",
    "module_lists",
    "name_tables",
    "note_kinds",
    "note_table",
    "provider_table",
)


# -- errors


def error_types(root: type[errors.LLMError] = errors.LLMError) -> Iterator[type[errors.LLMError]]:
    """`root` and all errors below it that llmpipe itself brings, in the order of the tree."""
    yield root
    for below in root.__subclasses__():
        if below.__module__.startswith("llmpipe."):
            yield from error_types(below)


def error_tree() -> str:
    """The tree, as the docstring of `llmpipe.errors` draws it."""
    lines = (errors.__doc__ or "").splitlines()
    first = next(at for at, line in enumerate(lines) if line.strip() == "LLMError" or "LLMError  " in line)
    last = next(at for at, line in enumerate(lines) if "ConfigError" in line)
    return "\n".join(["```text", *(line[4:] for line in lines[first : last + 1]), "```"])


def error_table() -> str:
    """A row for each error: what it says of itself unless the one who raises it knows better."""
    head = "| error | type | status | retryable | health | rescue | sent | billed | throttled |"
    rows = [head, "| --- " * head.count(" |") + "|"]
    for kind in error_types():
        name = f"`{kind.__name__}`"
        if kind.__module__ != "llmpipe.errors":
            name += f" ({kind.__module__})"
        cells = (
            name,
            f"`{kind.type}`",
            kind.default_status,
            "yes" if kind.default_retryable else "no",
            kind.default_health,
            kind.default_rescue,
            "yes" if kind.default_sent else "no",
            kind.default_billed,
            "yes" if kind.default_throttled else "no",
        )
        rows.append(f"| {' | '.join(map(str, cells))} |")
    return "\n".join(rows)


# -- notes


def note_kinds() -> dict[str, list[tuple[str, str]]]:
    """For each module that writes notes, those that its docstring's table names: kind, and detail."""
    found = {}
    for package in (llmpipe.middleware, llmpipe.routing, llmpipe.tools):
        for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
            if rows := list(_rows(importlib.import_module(module.name).__doc__ or "")):
                found[module.name] = rows
    return found


def _rows(text: str) -> Iterator[tuple[str, str]]:
    """The rows of the simple table whose first column is headed "note"; lines that go on are joined."""
    lines = iter(text.splitlines())
    for line in lines:
        rule = re.fullmatch(r"(=+)(\s+)=+", line)
        if rule is None or not next(lines, "").startswith("note "):
            continue
        next(lines)
        split, kind, detail = len(rule[1] + rule[2]), "", ""
        for row in lines:
            if row == line:
                break
            if row[: len(rule[1])].strip():
                if kind:
                    yield kind, detail
                kind, _, detail = row.partition("`` ")
                kind, detail = kind.strip("` "), detail.strip()
            else:
                detail += " " + row[split:].strip()
        if kind:
            yield kind, detail
        return


def note_table() -> str:
    """All notes, by name."""
    rows = ["| note | detail | written by |", "| --- | --- | --- |"]
    for module, notes in note_kinds().items():
        for kind, detail in notes:
            shown = re.sub(r"``?([^`]+)``?", r"`\1`", detail).replace("|", "\\|")
            rows.append(f"| `{kind}` | {shown} | `{module}` |")
    return "\n".join([*rows[:2], *sorted(rows[2:])])


# -- providers

CAPABILITIES = {
    "tools": "tools",
    "vision": "pictures",
    "documents": "documents",
    "audio": "sound",
    "json_mode": "JSON",
    "json_schema": "schema",
    "reasoning": "reasoning",
    "prefill": "prefill",
    "embeddings": "vectors",
    "rerank": "ranking",
    "count_tokens": "counts",
}
"""The headings of what some have and others lack; all stream, and limits of tokens are the models'."""


def provider_table() -> str:
    """A row for each kind: what it needs to be told, where it is and what it speaks."""
    rows = ["| kind | key from | settings | address | dialects |", "| --- | --- | --- | --- | --- |"]
    for profile in PROFILES.values():
        key = f"`{profile.key_env}`" if profile.key_env else "Google Cloud"
        if not profile.key_required:
            key += ", if it needs one"
        settings = [
            f"`{name}`" if default is None else f"`{name}` (`{default}`)"
            for name, default in profile.settings.items()
        ]
        spoken = ", ".join(f"`{name}`" for name in (profile.dialect, *profile.also))
        where = f"`{profile.base_url}`" if profile.base_url else "`base_url` says"
        rows.append(f"| `{profile.name}` | {key} | {', '.join(settings)} | {where} | {spoken} |")
    return "\n".join(rows)


def capability_table() -> str:
    """A row for each kind and dialect: what there is, with the right model."""
    head = f"| kind | {' | '.join(CAPABILITIES.values())} |"
    rows = [head, "| --- " * head.count(" |") + "|"]
    for profile in PROFILES.values():
        for dialect in (profile.dialect, *profile.also):
            can = speaking(profile, dialect).capabilities
            name = f"`{profile.name}`" + (f" as `{dialect}`" if dialect != profile.dialect else "")
            cells = ["yes" if getattr(can, field) else "" for field in CAPABILITIES]
            rows.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(rows)


# -- modules

MODULES = Path(__file__).parent / "reference" / "modules"  # written by conf.py

GROUPS = (
    ("Values and errors", r"llmpipe\.(errors|types|secret|tokens)\b"),
    ("The pipeline", r"llmpipe\.(pipeline|runtime)\b"),
    ("Middlewares", "|".join(rf"{re.escape(place.partition(':')[0])}\Z" for place in BUILT_IN.values())),
    ("What middlewares are made of", r"llmpipe\.(middleware|state|pricing)\b"),
    ("Routing and tools", r"llmpipe\.(routing|tools)\b"),
    ("Providers and dialects", r"llmpipe\.(providers|dialects)\b"),
    ("Configuration and command line", r"llmpipe\.(config|cli)\b"),
    ("Testing", r"llmpipe\.testing\b"),
    ("Others", ""),
)


FACE = (
    (
        "Chains and providers",
        r"llmpipe\.(providers|config|dialects|runtime|secret|pipeline\.(chain|provider))\b",
    ),
    ("Middlewares", r"llmpipe\.middleware\b"),
    ("State and keys", r"llmpipe\.(state|keys)\b"),
    ("Routing and tools", r"llmpipe\.(routing|tools)\b"),
    ("To write your own", r"llmpipe\.pipeline\b"),
    ("Requests and messages", r"llmpipe\.types\.(requests|messages)\b"),
    ("Replies", r"llmpipe\.types\.(replies|fold)\b"),
    ("Events of a stream", r"llmpipe\.types\.events\b"),
    ("Errors", r"llmpipe\.errors\b"),
)


def name_tables() -> str:
    """What `llmpipe` itself offers, in groups: each name, linked to the page of its module, in a line."""
    homes = {**llmpipe._MODULES, **llmpipe._MODULE_OF}
    left = list(llmpipe.__all__)
    lines = []
    for title, pattern in FACE:
        found = [name for name in left if re.match(pattern, homes[name])]
        left = [name for name in left if name not in found]
        lines += [f"### {title}", "", "| name | what it is |", "| --- | --- |"]
        lines += [f"| [`{name}`]({_page_of(homes[name])}) | {_line_of(name)} |" for name in found]
        lines.append("")
    assert not left, f"in no group: {left}"
    others = ("llmpipe.testing", "llmpipe.testing.simulator", "llmpipe.config.load")
    links = ", ".join(f"[`{name}`]({_page_of(name)})" for name in others)
    lines.append(f"For tests and chain files there are {links}.")
    return "\n".join([*lines, ""])


def _page_of(module: str) -> str:
    """The page that shows the module's names: its own, or that of the package that offers them."""
    while not (MODULES / f"{module}.md").exists():
        module = module.rpartition(".")[0]
    return f"modules/{module}.md"


ALIASES = {
    "Event": "Any of the others in this table.",
    "Handler": "Anything that answers a call: a provider, a chain, the rest of a chain.",
}


def _line_of(name: str) -> str:
    """The first line of the docstring; aliases have none."""
    line = ALIASES.get(name) or (getdoc(getattr(llmpipe, name)) or "").splitlines()[0]
    return re.sub(r"``?([^`]+)``?", r"`\1`", line).replace("|", "\\|")


def module_lists() -> str:
    """The pages of all modules, in groups; each in the first one that it fits."""
    left = sorted(page.stem for page in MODULES.glob("*.md"))
    lines = []
    for title, pattern in GROUPS:
        found = [name for name in left if re.match(pattern, name)]
        left = [name for name in left if name not in found]
        if found:
            lines += [f"## {title}", "", "```{toctree}", ":maxdepth: 1", ""]
            lines += [*(f"modules/{name}" for name in found), "```", ""]
    return "\n".join(lines)
