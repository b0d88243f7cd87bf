"""Any dialect in, any provider out: each cell holds, or is refused by the name of a field.

The table in the documentation is made from what is found here (``LLMPIPE_ACCEPT=1`` writes it).
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.integration.conversions.bodies import DIALECTS, FEATURES
from tests.integration.conversions.matrix import PROVIDERS, Cell, run

pytestmark = pytest.mark.real_time

PAGE = Path(__file__).parents[3] / "docs" / "reference" / "conversions.md"
ACCEPT = bool(os.environ.get("LLMPIPE_ACCEPT"))  # here, for tests run without such variables
BEGIN, END = "<!-- made by tests/integration/conversions -->", "<!-- end -->"


@pytest.mark.parametrize("stream", [False, True], ids=["full", "stream"])
@pytest.mark.parametrize("feature", FEATURES)
@pytest.mark.parametrize("outbound", PROVIDERS)
@pytest.mark.parametrize("inbound", DIALECTS)
async def test_a_cell_holds_or_is_refused_by_name(inbound, outbound, feature, stream):
    await run(inbound, outbound, feature, stream=stream)


async def test_the_table_in_the_documentation_is_what_is_found():
    found = {
        (inbound, outbound, feature): await run(inbound, outbound, feature, stream=False)
        for feature in FEATURES
        for outbound in PROVIDERS
        for inbound in DIALECTS
    }
    text = PAGE.read_text(encoding="utf-8")
    head, _, rest = text.partition(BEGIN)
    old, _, tail = rest.partition(END)
    new = table(found)
    if ACCEPT:
        PAGE.write_text(f"{head}{BEGIN}\n{new}{END}{tail}", encoding="utf-8")
    else:
        assert old.strip() == new.strip(), "run this test with LLMPIPE_ACCEPT=1 and look at the page"


def table(found: dict[tuple[str, str, str], Cell]) -> str:
    """A table for each feature: callers down, providers across; with the warnings as numbered notes."""
    notes: dict[str, int] = {}
    lines: list[str] = []
    for feature in FEATURES:
        lines += [
            f"\n## {feature}\n",
            f"| caller | {' | '.join(PROVIDERS)} |",
            "| --- |" + " --- |" * len(PROVIDERS),
        ]
        for inbound in DIALECTS:
            cells = [shown(found[inbound, outbound, feature], notes) for outbound in PROVIDERS]
            lines.append(f"| `{inbound}` | {' | '.join(cells)} |")
    lines.append("\n## Notes\n")
    lines += [f"{number}. {note}" for note, number in notes.items()]
    return "\n".join(lines) + "\n"


def shown(cell: Cell, notes: dict[str, int]) -> str:
    if cell.refused is not None:
        return f"refused: `{cell.refused}`"
    numbers = [notes.setdefault(warning, len(notes) + 1) for warning in cell.warnings]
    return f"yes ({', '.join(map(str, numbers))})" if numbers else "yes"
