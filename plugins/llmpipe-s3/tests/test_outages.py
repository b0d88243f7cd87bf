"""A store that is away, frozen, slow, overloaded, forbidding, misnamed or lies."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys

import pytest
import trustme

from llmpipe.errors import ConfigError, StoreUnavailable
from llmpipe.state import Anchor, AuditQuery, AuditRecord
from llmpipe.state.hash_chain import chained, fault
from llmpipe_s3 import open_s3

pytestmark = pytest.mark.real_time

CHILD = """
import asyncio, sys
from llmpipe.state import open_state, AuditRecord
from llmpipe.state.hash_chain import chained

async def main():
    audit = open_state(sys.argv[1]).audit("audit")
    last = await audit.head("w")
    while True:
        record = AuditRecord(writer="w", seq=0, kind="note", at=float(last.seq), body={})
        last = chained(record, last)
        await audit.append([last])
        print(last.seq, flush=True)

asyncio.run(main())
"""


def a_chain(count: int, after: AuditRecord | Anchor | None = None) -> list[AuditRecord]:
    last: AuditRecord | Anchor = after or Anchor()
    records = []
    for number in range(last.seq, last.seq + count):
        last = chained(
            AuditRecord(writer="w", seq=0, kind="note", at=float(number), body={"n": number}), last
        )
        records.append(last)
    return records


async def kept(harness) -> list[AuditRecord]:
    """What a process that starts finds, its chain verified."""
    audit = (await harness.reopen(timeout=30)).audit("audit")
    found = sorted(await audit.query(AuditQuery(), limit=10**6), key=lambda each: each.seq)
    assert fault(found, await audit.anchor("w")) is None
    return found


async def refused(wait, match: str = r"s3://trail at") -> StoreUnavailable:
    """The refusal, which comes within the timeout (and what a busy machine adds), and shows no secret."""
    async with asyncio.timeout(20):
        with pytest.raises(StoreUnavailable, match=match) as caught:
            await wait
    assert "a-secret-of-the-tests" not in repr(caught.value)
    return caught.value


async def until_it_works(ask) -> None:
    """Nobody does anything but try again."""
    async with asyncio.timeout(60):
        while True:
            try:
                return await ask()
            except StoreUnavailable:
                await asyncio.sleep(0.1)


# ------------------------------------------------------------ away, and back


async def test_a_store_that_is_killed_is_refused_at_once_and_used_again_when_it_is_back(own):
    audit, records = (await own.open(timeout=10)).audit("audit"), a_chain(6)
    await audit.append(records[:2])
    own.server.kill()
    await refused(audit.append(records[2:4]))
    own.server.requests()
    error = await refused(audit.append(records[2:4]), "left alone")
    assert error.retry_after is not None
    assert 0 < error.retry_after <= 4
    for call in (audit.head("w"), audit.beat("w", 1.0), audit.query(AuditQuery()), audit.prune(0.0)):
        await refused(call)
    own.server.start()
    await until_it_works(lambda: audit.append(records[2:4]))
    await audit.append(records[4:])
    assert await kept(own) == records


async def test_a_frozen_store_is_given_up_in_time_and_what_it_kept_all_the_same_is_kept_once(own):
    records = a_chain(6)
    await (await own.open(timeout=30)).audit("audit").append(records[:2])
    audit = (await own.reopen(timeout=3)).audit("audit")
    own.server.pause()
    await refused(audit.append(records[2:4]))
    await refused(audit.head("w"))
    own.server.resume()
    await until_it_works(lambda: audit.append(records[2:4]))
    await audit.append(records[4:])
    assert await kept(own) == records


async def test_a_slow_store_is_waited_for_as_long_as_its_timeout(own):
    audit, records = (await own.open(timeout=5)).audit("audit"), a_chain(3)
    await until_it_works(lambda: audit.append(records[:1]))
    own.server.order(delay=0.3)
    await until_it_works(lambda: audit.append(records[1:2]))
    own.server.order(delay=10)
    await refused(audit.append(records[2:]), "in time|not answer")
    own.server.order()
    await until_it_works(lambda: audit.append(records[2:]))
    assert await kept(own) == records


async def test_an_answer_that_was_lost_makes_no_second_object_and_no_conflict(own):
    audit, records = (await own.open(timeout=30)).audit("audit"), a_chain(4)
    await audit.append(records[:2])
    own.server.order(drop=True, method="PUT", times=1)
    await audit.append(records[2:])
    assert await kept(own) == records


# ------------------------------------------------------------ what it says


@pytest.mark.parametrize(
    ("status", "code"),
    [(503, "SlowDown"), (500, "InternalError"), (429, ""), (409, "ConditionalRequestConflict")],
)
async def test_a_store_that_is_busy_for_a_moment_is_asked_again(own, status, code):
    audit, records = (await own.open(timeout=10)).audit("audit"), a_chain(4)
    await audit.append(records[:2])
    own.server.order(status=status, code=code, times=2)
    await audit.append(records[2:])
    assert await kept(own) == records


@pytest.mark.parametrize(
    ("status", "code", "said", "trips"),
    [
        (503, "SlowDown", "more requests than it takes", True),
        (403, "AccessDenied", "does not permit", False),
        (403, "InvalidAccessKeyId", "does not know the access key", True),
        (403, "SignatureDoesNotMatch", "refuses the secret key", True),
        (400, "ExpiredToken", "past their time", True),
        (403, "RequestTimeTooSkewed", "clock is wrong", True),
        (301, "PermanentRedirect", "at another endpoint", True),
        (501, "NotImplemented", "conditional writes", False),
        (507, "XMinioStorageFull", "is full", False),
        (418, "Teapot", "refused: 418 Teapot", False),
    ],
)
async def test_what_the_store_says_is_told(own, status, code, said, trips):
    audit = (await own.open(timeout=10)).audit("audit")
    await audit.append(a_chain(1))
    own.server.order(status=status, code=code)
    error = await refused(audit.append(a_chain(2)), said)
    assert error.code == code
    own.server.requests()
    await refused(audit.append(a_chain(2)))
    assert (own.server.requests() == []) == trips
    own.server.order()
    await until_it_works(lambda: audit.append(a_chain(2)))
    assert await kept(own) == a_chain(2)


async def test_a_bucket_that_is_not_there_is_named(own):
    await own.open()
    state = open_s3(own.url(timeout=10).replace("s3://trail/", "s3://nowhere/"))
    await refused(state.check(), "s3://nowhere at .* make the bucket first")
    own.server.client().create_bucket(Bucket="nowhere")
    await until_it_works(state.check)
    await state.aclose()


async def test_what_is_no_store_is_told_from_one(own):
    state = await own.open(timeout=10)
    own.server.order(body="<html>hello</html>")
    await refused(state.audit("audit").head("w"), "did not answer as a store does")


async def test_a_wrong_endpoint_is_out_of_reach(own):
    await refused((await own.open(endpoint="http://127.0.0.1:9", timeout=5)).check(), "out of reach|in time")


async def test_a_store_that_passes_over_conditions_is_refused_before_anything_is_overwritten(own):
    state = await own.open(timeout=10)
    own.server.order(ignore="If-None-Match")
    await refused(state.check(), "in spite of If-None-Match")
    await refused(state.audit("audit").append(a_chain(1)), "in spite of If-None-Match")
    own.server.order()
    assert await kept(own) == []


async def test_a_certificate_that_nobody_knows_is_refused_and_one_that_is_known_taken(
    tmp_path, own, monkeypatch
):
    authority = trustme.CA()
    certificate = authority.issue_cert("127.0.0.1")
    cert, key, known = tmp_path / "cert", tmp_path / "key", tmp_path / "ca"
    certificate.cert_chain_pems[0].write_to_path(str(cert))
    certificate.private_key_pem.write_to_path(str(key))
    authority.cert_pem.write_to_path(str(known))
    with type(own.server)(cert, key) as server:
        state = await own.open(endpoint=server.endpoint, timeout=10)
        await refused(state.check(), "not to be trusted")
        monkeypatch.setenv("AWS_CA_BUNDLE", str(known))
        server.make_bucket()
        state = await own.open(endpoint=server.endpoint, timeout=10)
        await state.audit("audit").append(a_chain(2))
        assert await state.audit("audit").query(AuditQuery()) == a_chain(2)


# ------------------------------------------------------------ credentials


async def test_without_credentials_it_says_where_they_are_looked_for(own, monkeypatch):
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    await refused((await own.open(timeout=10)).check(), "set AWS_ACCESS_KEY_ID")


async def test_a_profile_gives_credentials_and_one_that_is_not_there_is_named(own, monkeypatch, tmp_path):
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    (tmp_path / "credentials").write_text(
        "[trail]\naws_access_key_id = AKIDFILE\naws_secret_access_key = x\n"
    )
    await (await own.open(profile="trail", timeout=10)).check()
    with pytest.raises(ConfigError, match="nobody"):
        await (await own.open(profile="nobody", timeout=10)).check()


# ------------------------------------------------------------ two writers, kills, cancellation


async def test_of_two_processes_in_one_chain_the_second_is_refused_and_goes_on_behind(own):
    one, records = (await own.open(timeout=30)).audit("audit"), a_chain(3)
    other = (await own.reopen(timeout=30)).audit("audit")
    await one.append(records)
    assert await other.head("w") == records[-1]
    mine, its = a_chain(2, records[-1]), a_chain(1, Anchor(3, records[-1].hash))
    assert mine[0] == its[0]
    (different,) = [
        chained(AuditRecord(writer="w", seq=0, kind="note", at=9.0, body={"by": "other"}), records[-1])
    ]
    await one.append(mine)
    with pytest.raises(ValueError, match="record 4 of writer 'w' is there, and is another one"):
        await other.append([different])
    await other.append(its)  # the same in all changes nothing
    await other.append(a_chain(1, await other.head("w")))
    assert await kept(own) == a_chain(6)


async def test_one_who_is_cancelled_takes_nothing_from_the_others(own):
    audit, records = (await own.open(timeout=30)).audit("audit"), a_chain(3)
    await audit.append(records[:1])
    own.server.order(delay=0.3)
    first = asyncio.ensure_future(audit.append(records[1:2]))
    second = asyncio.ensure_future(audit.append(records[2:3]))
    await asyncio.sleep(0.1)
    first.cancel()
    await second
    with pytest.raises(asyncio.CancelledError):
        await first
    own.server.order()
    assert await kept(own) == records


async def test_what_was_acknowledged_survives_kill_9_of_the_writer_and_of_the_store(own):
    await own.open(timeout=30)
    known = 0
    for number in range(30 if os.environ.get("LLMPIPE_LONG") else 3):
        process = subprocess.Popen(
            [sys.executable, "-c", CHILD, own.url(timeout=30)],
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ},
        )
        assert process.stdout is not None
        for _ in range(3 + number * 7 % 20):
            known = int(await asyncio.to_thread(process.stdout.readline))
        process.send_signal(signal.SIGKILL)
        rest, _ = await asyncio.to_thread(process.communicate)
        known = int(rest.split()[-1]) if rest.endswith("\n") and rest.split() else known
        own.server.kill()
        own.server.start()
        found = await kept(own)
        assert len(found) >= known
    assert known > 12
