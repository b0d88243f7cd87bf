"""A store is backed up while calls go on, is destroyed, and recovered: a rehearsal that takes a second."""

import asyncio
import sqlite3
from contextlib import closing
from pathlib import Path
from shutil import copyfile
from tempfile import TemporaryDirectory

from llmpipe import Chain, MockProvider
from llmpipe.middleware.audit import Audit
from llmpipe.middleware.budget import Budget, Rule
from llmpipe.providers.mock import Wait
from llmpipe.state import AuditQuery, AuditRecord, Balance, Spend, open_state
from llmpipe.state.hash_chain import fault

PRICES = {"mock/mock-1": {"input": 1.0, "output": 4.0}}  # USD per million tokens
BUDGET = Rule(usd=100, period="total", name="all")


def chain(file: Path) -> Chain:
    store = f"sqlite:///{file}"
    audit = Audit(store=store, writer="web-1")  # a name that is the same after a restart
    return Chain(
        MockProvider(default=[Wait(0.01), "Hello!"]), audit, Budget(rules=BUDGET, store=store, prices=PRICES)
    )


# region backup
def back_up(file: Path, to: Path) -> None:
    """One moment of the file, whole, while others write to it; it holds nobody up."""
    with closing(sqlite3.connect(file)) as db:
        db.execute("VACUUM INTO ?", (str(to),))


def recover(file: Path, backup: Path) -> None:
    """Nobody may have the file open meanwhile."""
    for part in file.parent.glob(file.name + "*"):  # the file, and -wal and -shm beside it
        part.unlink()
    copyfile(backup, file)


# endregion backup


# region verify
async def verified(file: Path) -> tuple[Balance, list[Spend], list[AuditRecord]]:
    """What is in a file that is whole: the balance, the journal, the trail."""
    state = open_state(f"sqlite:///{file}")
    await state.check()  # StoreDamaged, if it is not
    ledger, trail = state.ledger("budget"), state.audit("audit")

    journal: list[Spend] = []
    while page := await ledger.spends(after=journal[-1] if journal else None):
        journal += page
    (balance,) = await ledger.balances([("all", 0)])
    assert balance.spent == sum(row.nano or 0 for row in journal)

    records: list[AuditRecord] = []
    while more := await trail.query(AuditQuery(), after=records[-1] if records else None):
        records += more
    for writer in await trail.writers():
        chained = sorted((one for one in records if one.writer == writer), key=lambda one: one.seq)
        assert fault(chained, await trail.anchor(writer)) is None
    await state.aclose()
    return balance, journal, records


# endregion verify


async def main(home: Path) -> None:
    file, backup = home / "llmpipe.db", home / "backup.db"

    service = chain(file)
    for _ in range(20):
        await service.complete("Say hello")
    known = {row.call for row in (await verified(file))[1]}

    busy = asyncio.create_task(keep_asking(service))
    await asyncio.sleep(0.1)
    await asyncio.to_thread(back_up, file, backup)
    at_backup = await verified(backup)
    print("in the backup are all calls from before it:", known < {row.call for row in at_backup[1]})

    await asyncio.sleep(0.1)
    busy.cancel()
    await asyncio.wait([busy])
    await service.aclose()
    print("calls went on meanwhile:", len((await verified(file))[1]) > len(at_backup[1]))

    recover(file, backup)
    print("the ledger is what it was at the backup:", await verified(file) == at_backup)

    async with chain(file) as service:
        await service.complete("Say hello")
    _, journal, records = await verified(file)
    begun = {one.call for one in records if one.kind == "begin"}
    print("it goes on:", len(journal) == len(at_backup[1]) + 1)
    print("each call has its end:", begun == {one.call for one in records if one.kind == "end"})


async def keep_asking(service: Chain) -> None:
    while True:
        await asyncio.gather(*(service.complete("Say hello") for _ in range(4)))


with TemporaryDirectory() as name:
    asyncio.run(main(Path(name)))
