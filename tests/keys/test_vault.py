"""The vault of keys: what an attacker who writes to the store can do, and what a rotation may not."""

from __future__ import annotations

import asyncio
import base64
import logging
import os
import pickle
import traceback

import pytest
from attrs import evolve
from hypothesis import given
from hypothesis import strategies as st

from llmpipe.errors import ConfigError, StoreDamaged
from llmpipe.keys import KeyVault, mask_api_key, masters_in
from llmpipe.keys import sealing as sealing_module
from llmpipe.keys.sealing import MasterKey, NotOpened, associated, open_sealed, seal
from llmpipe.secret import Secret
from llmpipe.state import SealedKey
from llmpipe.testing import run
from tests.keys.kit import CANARY, MASTERS, NAMES, NEW, NEW_FIRST, OLD, Halt, Rows

pytest.importorskip("cryptography")


async def filled(rows: Rows, masters=MASTERS) -> KeyVault:
    vault = KeyVault(rows, masters)
    for number, (tenant, provider, name) in enumerate(NAMES):
        await vault.put(provider, f"{CANARY}{number}", tenant=tenant, name=name)
    return vault


async def opened(rows: Rows, masters) -> list[str]:
    """What a process with these master keys reads."""
    vault = KeyVault(rows, masters)
    found = [await vault.get(provider, tenant=tenant, name=name) for tenant, provider, name in NAMES]
    return [each.reveal() for each in found if each is not None]


EXPECTED = [f"{CANARY}{number}" for number in range(len(NAMES))]


async def test_a_key_comes_back_and_its_version_rises():
    vault = KeyVault("memory://", OLD)
    assert await vault.get("openai") is None
    assert [await vault.put("openai", f"{CANARY}{n}") for n in range(3)] == [1, 2, 3]
    assert (await vault.get("openai")).reveal() == f"{CANARY}2"
    assert await vault.delete("openai") is True
    assert await vault.delete("openai") is False
    assert await vault.put("openai", CANARY) == 1
    assert (await vault.get("openai")).reveal() == CANARY
    await vault.aclose()


async def test_two_rows_that_were_swapped_do_not_open():
    for one in NAMES:
        for other in NAMES:
            if one == other:
                continue
            rows = Rows()
            vault = await filled(rows)
            here, there = rows.rows[one], rows.rows[other]
            for taken in (
                {"data_key": there.data_key, "secret": there.secret},
                {"data_key": there.data_key},
                {"secret": there.secret},
            ):
                rows.rows[one] = evolve(here, **taken)
                with pytest.raises(StoreDamaged, match="does not open"):
                    await vault.get(one[1], tenant=one[0], name=one[2])


async def test_every_bit_of_a_row_counts():
    rows = Rows()
    vault = await filled(rows)
    names = NAMES[1]
    row = rows.rows[names]
    for part in ("data_key", "secret"):
        whole = getattr(row, part)
        for bit in range(8 * len(whole)):
            broken = bytearray(whole)
            broken[bit // 8] ^= 1 << bit % 8
            rows.rows[names] = evolve(row, **{part: bytes(broken)})
            with pytest.raises(StoreDamaged):
                await vault.get(names[1], tenant=names[0], name=names[2])
        for length in range(len(whole)):
            for cut in (whole[:length], whole[length + 1 :]):
                rows.rows[names] = evolve(row, **{part: cut})
                with pytest.raises(StoreDamaged):
                    await vault.get(names[1], tenant=names[0], name=names[2])
    for change in ({"version": 2}, {"version": 0}, {"master": "new"}, {"master": ""}, {"created_at": 1.0}):
        rows.rows[names] = evolve(row, **change)
        with pytest.raises(StoreDamaged):
            await vault.get(names[1], tenant=names[0], name=names[2])
    rows.rows[names] = row
    assert (await vault.get(names[1], tenant=names[0], name=names[2])).reveal() == EXPECTED[1]


async def test_a_key_does_not_open_in_another_vault():
    rows = Rows()
    await filled(rows)
    with pytest.raises(StoreDamaged):
        await KeyVault(rows, MASTERS, name="staging").get("openai")


async def test_an_older_version_that_is_put_back_is_refused_by_who_knows_better():
    rows = Rows()
    vault = KeyVault(rows, OLD)
    await vault.put("openai", CANARY)
    first = rows.rows["", "openai", "default"]
    await vault.put("openai", f"{CANARY}2")
    assert (await vault.get("openai")).reveal() == f"{CANARY}2"
    rows.rows["", "openai", "default"] = first
    for _ in range(2):
        with pytest.raises(StoreDamaged, match="put an older one back") as refused:
            await vault.get("openai")
    assert refused.value.code == "rolled_back"
    rows.rows["", "openai", "default"] = evolve(first, version=3)  # nor does it pass for a new one
    with pytest.raises(StoreDamaged):
        await vault.get("openai")
    await vault.put("openai", f"{CANARY}4")
    assert (await vault.get("openai")).reveal() == f"{CANARY}4"


async def test_a_key_that_was_deleted_elsewhere_and_stored_anew_is_no_older_version():
    rows, clock = Rows(), [1_700_000_000.0]
    here, there = (KeyVault(rows, OLD, wall=lambda: clock[0]) for _ in range(2))
    for _ in range(3):
        await there.put("openai", CANARY)
    await here.get("openai")
    await there.delete("openai")
    clock[0] += 0.01
    assert await there.put("openai", f"{CANARY}new") == 1
    assert (await here.get("openai")).reveal() == f"{CANARY}new"


@pytest.mark.parametrize("wrong", [NEW, "a passphrase of ours", {"old": NEW}])
async def test_the_wrong_master_opens_nothing_and_the_error_says_which_is_needed(wrong):
    rows = Rows()
    await filled(rows)
    with pytest.raises(StoreDamaged, match="does not open") as refused:
        await KeyVault(rows, wrong).get("openai")
    assert "'old'" in refused.value.message
    assert OLD not in refused.value.message


# -- master secrets


@pytest.mark.parametrize("secret", ["", "short", "x" * 15])
def test_a_short_master_secret_is_refused_without_showing_it(secret):
    with pytest.raises(ConfigError) as refused:
        KeyVault("memory://", secret)
    assert "short" not in str(refused.value)


@pytest.mark.parametrize("masters", [{}, [], {"": OLD}, [OLD, OLD]])
def test_wrong_sets_of_master_secrets_are_refused(masters):
    with pytest.raises(ConfigError):
        KeyVault("memory://", masters)


def test_the_same_32_bytes_are_the_same_key_however_they_are_spelled():
    raw = bytes(range(200, 232))
    spelled = [raw.hex(), base64.b64encode(raw).decode(), base64.urlsafe_b64encode(raw).decode().rstrip("=")]
    wrapped = MasterKey(spelled[0], "m").wrap(b"k" * 32, b"n")
    assert {MasterKey(text).id for text in spelled} == {MasterKey(spelled[0]).id}
    assert all(MasterKey(text, "m").unwrap(wrapped, b"n") == b"k" * 32 for text in spelled)


def test_a_master_key_has_a_fingerprint_of_its_own():
    ids = [MasterKey(text).id for text in (OLD, NEW, "correct horse battery", "correct horse batterz")]
    assert len(set(ids)) == 4
    assert all(len(found) == 8 for found in ids)
    assert MasterKey("correct horse battery").id == ids[2]


async def test_a_passphrase_seals_and_opens():
    rows = Rows()
    await KeyVault(rows, "correct horse battery staple").put("openai", CANARY)
    assert (await KeyVault(rows, "correct horse battery staple").get("openai")).reveal() == CANARY
    with pytest.raises(StoreDamaged):
        await KeyVault(rows, "correct horse battery stable").get("openai")


def test_master_secrets_are_found_in_the_environment_or_in_files(tmp_path):
    found = masters_in({"LLMPIPE_MASTER_KEY": NEW, "LLMPIPE_MASTER_KEY_OLD": f"{OLD}\n"})
    assert [each.reveal() for each in found] == [NEW, OLD]
    path = tmp_path / "master"
    path.write_text(f"{NEW}\n{OLD}\n")
    assert [each.reveal() for each in masters_in({}, file=str(path))] == [NEW, OLD]
    path.write_bytes(b"\xff" + CANARY.encode())
    for wrong in ({"file": str(path)}, {"file": str(tmp_path / "none")}, {}):
        with pytest.raises(ConfigError) as refused:
            masters_in({"LLMPIPE_MASTER_KEY_OLD": OLD}, **wrong)
        assert CANARY not in str(refused.value)


# -- the format


def known(monkeypatch) -> SealedKey:
    """The row that these bytes of chance make."""
    chance = iter([bytes(range(16)), bytes(range(32, 64)), bytes(range(12)), bytes(range(16, 28))])
    monkeypatch.setattr(os, "urandom", lambda size: next(chance))
    rows = Rows()
    vault = KeyVault(rows, {"m1": OLD}, wall=lambda: 1_700_000_000.125)
    run(vault.put("openai", CANARY, tenant="acme"))
    return rows.rows["acme", "openai", "default"]


KNOWN = (
    "000102030405060708090a0b0c0d0e0f01000102030405060708090a0b218aebecdb3a94c026f9a3ee5fef11f337f0383ebd2da34530f3344bd2f2e6e3b056d89482c9ed344a59aed7dd144924",
    "01101112131415161718191a1b53b6d2712e2d73f40a75106ca5facd7615b48e2a015c615ed00a0d87dabb9bc947fc4f9b4cda4bb592814e4e1253",
)


def test_the_format_is_what_it_was(monkeypatch):
    """Rows that are stored somewhere must open in a hundred versions from now."""
    row = known(monkeypatch)
    assert (row.data_key.hex(), row.secret.hex()) == KNOWN


async def test_a_row_of_the_first_version_opens():
    rows = Rows()
    rows.rows["acme", "openai", "default"] = SealedKey(
        tenant="acme",
        provider="openai",
        name="default",
        version=1,
        master="m1",
        data_key=bytes.fromhex(KNOWN[0]),
        secret=bytes.fromhex(KNOWN[1]),
        created_at=1_700_000_000.125,
        hint="",
    )
    assert (await KeyVault(rows, {"m1": OLD}).get("openai", tenant="acme")).reveal() == CANARY


def test_the_format_is_plain_aes_256_gcm(monkeypatch):
    """Opened again with nothing but the primitives, as somebody else would read it."""
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM
    from cryptography.hazmat.primitives.hashes import SHA256
    from cryptography.hazmat.primitives.kdf.hkdf import HKDF

    row = known(monkeypatch)
    names = b"".join(
        len(part).to_bytes(4, "big") + part
        for part in (b"keys", b"acme", b"openai", b"default", b"1", b"1700000000125")
    )
    master = HKDF(SHA256(), 32, row.data_key[:16], b"llmpipe vault").derive(bytes(range(32)))
    assert row.data_key[16:17] == row.secret[:1] == b"\x01"
    data_key = AESGCM(master).decrypt(
        row.data_key[17:29], row.data_key[29:], names + (2).to_bytes(4, "big") + b"m1"
    )
    assert AESGCM(data_key).decrypt(row.secret[1:13], row.secret[13:], names).decode() == CANARY


def test_nonces_are_unique():
    key = bytes(32)
    assert len({seal(key, b"", b"")[1:13] for _ in range(100_000)}) == 100_000


@given(st.lists(st.text(), max_size=5), st.lists(st.text(), max_size=5))
def test_no_two_lists_of_names_are_alike(one, other):
    assert (associated(*one) == associated(*other)) == (one == other)


@given(st.binary(max_size=200), st.binary(max_size=50), st.binary(max_size=50))
def test_what_is_sealed_opens_for_its_names_alone(plain, names, others):
    sealed = seal(bytes(32), plain, names)
    assert open_sealed(bytes(32), sealed, names) == plain
    if names != others:
        with pytest.raises(NotOpened):
            open_sealed(bytes(32), sealed, others)


@given(st.binary(max_size=100))
def test_noise_does_not_open(noise):
    with pytest.raises(NotOpened):
        open_sealed(bytes(32), noise, b"")
    with pytest.raises(NotOpened):
        MasterKey(OLD).unwrap(noise, b"")


# -- rotation


async def test_a_rotation_seals_all_by_the_new_key_and_leaves_the_keys_alone():
    rows = Rows()
    await filled(rows)
    before = {names: row.secret for names, row in rows.rows.items()}
    done = await KeyVault(rows, NEW_FIRST).rotate()
    assert (done.rotated, done.already, done.unreadable, done.complete) == (len(NAMES), 0, (), True)
    assert await opened(rows, {"new": NEW}) == EXPECTED
    assert {names: row.secret for names, row in rows.rows.items()} == before
    again = await KeyVault(rows, NEW_FIRST).rotate()
    assert (again.rotated, again.already) == (0, len(NAMES))
    with pytest.raises(StoreDamaged):
        await opened(rows, {"old": OLD})


async def test_a_rotation_that_is_cut_at_any_operation_loses_nothing_and_can_be_finished():
    whole = Rows()
    await filled(whole)
    whole.operations = 0
    await KeyVault(whole, NEW_FIRST).rotate()
    assert whole.operations > 2 * len(NAMES)
    for step in range(1, whole.operations + 1):
        for side in ("halt_before", "halt_behind"):
            rows = Rows()
            await filled(rows)
            rows.operations = 0
            setattr(rows, side, step)
            with pytest.raises(Halt):
                await KeyVault(rows, NEW_FIRST).rotate()
            setattr(rows, side, None)
            assert await opened(rows, MASTERS) == EXPECTED  # a process that has not changed over yet
            assert await opened(rows, NEW_FIRST) == EXPECTED
            done = await KeyVault(rows, NEW_FIRST).rotate()
            assert done.complete
            assert done.rotated + done.already == len(NAMES)
            assert await opened(rows, {"new": NEW}) == EXPECTED


async def test_two_rotations_at_once_come_to_the_same():
    rows = Rows()
    await filled(rows)
    vaults = [KeyVault(rows, NEW_FIRST) for _ in range(2)]
    rows.between = lambda: asyncio.sleep(0)
    done = await asyncio.gather(*(vault.rotate() for vault in vaults))
    assert all(each.complete for each in done)
    assert sum(each.rotated for each in done) == len(NAMES)
    assert await opened(rows, {"new": NEW}) == EXPECTED


@pytest.mark.parametrize("by", [MASTERS, NEW_FIRST], ids=["a process that is behind", "one that is not"])
async def test_keys_that_are_stored_during_a_rotation_are_neither_lost_nor_forgotten(by):
    for step in range(1, 40):
        rows = Rows()
        await filled(rows)
        writer, count = KeyVault(rows, by), 0

        async def between(writer=writer, step=step) -> None:
            nonlocal count
            count += 1
            if count == step:
                await writer.put("openai", f"{CANARY}late", tenant="acme")
                await writer.put("aaa", f"{CANARY}new", tenant="")  # before where the rotation is
                await writer.delete("b", tenant="a", name="c")

        rows.between = between
        done = await KeyVault(rows, NEW_FIRST).rotate()
        if count < step:
            break
        assert done.complete
        rows.between = None
        vault = KeyVault(rows, NEW_FIRST)
        assert (await vault.get("openai", tenant="acme")).reveal() == f"{CANARY}late"
        assert (await vault.get("aaa")).reveal() == f"{CANARY}new"
        assert await vault.get("b", tenant="a", name="c") is None
    assert step > 10


@pytest.mark.parametrize("by", [MASTERS, NEW_FIRST], ids=["a process that is behind", "one that is not"])
async def test_a_key_that_is_deleted_and_stored_anew_during_a_rotation_does_not_come_back(by):
    tenant, provider, name = NAMES[1]
    for step in range(1, 40):
        rows = Rows()
        await filled(rows)
        writer, count = KeyVault(rows, by), 0

        async def between(writer=writer, step=step) -> None:
            nonlocal count
            count += 1
            if count == step:
                await writer.delete(provider, tenant=tenant, name=name)
                assert await writer.put(provider, f"{CANARY}anew", tenant=tenant, name=name) == 1

        rows.between = between
        done = await KeyVault(rows, NEW_FIRST).rotate()
        if count < step:
            break
        assert done.complete
        rows.between = None
        found = await KeyVault(rows, NEW_FIRST).get(provider, tenant=tenant, name=name)
        assert found.reveal() == f"{CANARY}anew"
    assert step > 10


async def test_a_row_that_does_not_open_is_named_and_left_as_it_is():
    rows = Rows()
    await filled(rows)
    row = rows.rows[NAMES[2]]
    rows.rows[NAMES[2]] = evolve(row, secret=row.secret[:-1] + b"?")  # its data key is well
    rows.rows[NAMES[4]] = evolve(rows.rows[NAMES[4]], master="lost")
    rows.rows[NAMES[5]] = evolve(rows.rows[NAMES[5]], master="new")  # passes for done
    before = dict(rows.rows)
    done = await KeyVault(rows, NEW_FIRST).rotate()
    assert not done.complete
    assert set(done.unreadable) == {NAMES[2], NAMES[4], NAMES[5]}
    assert (done.rotated, done.already) == (3, 0)
    assert all(rows.rows[names] == before[names] for names in done.unreadable)


# -- finding


async def test_the_environment_goes_first_then_the_tenants_own_then_that_of_all(monkeypatch):
    vault = KeyVault("memory://", OLD)
    with pytest.raises(ConfigError, match="set OPENAI_API_KEY, or store one in the vault under 'default'"):
        await vault.find("openai", env="OPENAI_API_KEY", tenant="acme")
    await vault.put("openai", "sk-of-all-000000")
    assert (await vault.find("openai", tenant="acme")).reveal() == "sk-of-all-000000"
    await vault.put("openai", "sk-of-acme-00000", tenant="acme")
    assert (await vault.find("openai", tenant="acme")).reveal() == "sk-of-acme-00000"
    assert (await vault.find("openai", tenant="other")).reveal() == "sk-of-all-000000"
    monkeypatch.setenv("OPENAI_API_KEY", " ")
    assert (await vault.find("openai", env="OPENAI_API_KEY")).reveal() == "sk-of-all-000000"
    monkeypatch.setenv("OPENAI_API_KEY", "sk-of-env-000000")
    assert (await vault.find("openai", env="OPENAI_API_KEY", tenant="acme")).reveal() == "sk-of-env-000000"


async def test_a_key_that_is_too_old_is_due_and_warned_of_once_a_day(caplog):
    clock = [1_700_000_000.0]
    vault = KeyVault("memory://", OLD, max_age_days=90, wall=lambda: clock[0])
    await vault.put("openai", CANARY)
    clock[0] += 90 * 86_400 - 1
    with caplog.at_level(logging.WARNING, "llmpipe.keys"):
        await vault.get("openai")
        assert (await vault.due(), caplog.records) == ([], [])
        clock[0] += 1
        (due,) = await vault.due()
        assert (due.provider, due.age_days, due.due) == ("openai", 90.0, True)
        for _ in range(3):
            await vault.get("openai")
        assert len(caplog.records) == 1
        assert "is 90 days old and should be replaced" in caplog.text
        clock[0] += 86_400
        await vault.get("openai")
        assert len(caplog.records) == 2
        await vault.put("openai", CANARY)
        await vault.get("openai")
    assert len(caplog.records) == 2
    assert await vault.due() == []
    assert CANARY not in caplog.text


@pytest.mark.parametrize("days", [0, -1, float("nan")])
def test_a_wrong_age_is_refused(days):
    with pytest.raises(ConfigError):
        KeyVault("memory://", OLD, max_age_days=days)


def test_without_the_library_it_is_said_how_to_get_it(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "cryptography.hazmat.primitives.ciphers.aead", None)
    with pytest.raises(ConfigError, match=r"pip install 'llmpipe\[vault\]'"):
        sealing_module.seal(bytes(32), b"", b"")


# -- nothing shows a key


def windows(text: str, secret: str, length: int = 12) -> list[str]:
    """What of `secret` stands in `text`, in any plain encoding."""
    raw = secret.encode()
    forms = [secret, secret[::-1], raw.hex(), base64.b64encode(raw).decode().rstrip("=")]
    return [
        form[at : at + length]
        for form in forms
        for at in range(len(form) - length + 1)
        if form[at : at + length] in text
    ]


async def test_no_repr_error_log_or_pickle_shows_a_key_or_a_master(caplog):
    caplog.set_level(logging.DEBUG)
    rows, clock = Rows(), [1_700_000_000.0]
    vault = KeyVault(rows, MASTERS, wall=lambda: clock[0])
    await vault.put("openai", CANARY, tenant="acme")
    source = vault.source("openai", tenant="acme")
    clock[0] += 1e8
    held = await source()
    row = rows.rows["acme", "openai", "default"]
    shown = [vault, vault._masters, source, held, row, await vault.keys(), await vault.due(), vars(vault)]
    told = [repr(each) + str(each) for each in shown]
    rows.rows["acme", "openai", "default"] = evolve(row, secret=bytes(40))
    for work in (vault.get("openai", tenant="acme"), vault.find("none", env="X")):
        with pytest.raises((StoreDamaged, ConfigError)) as failed:
            await work
        told.append(
            "".join(traceback.TracebackException.from_exception(failed.value, capture_locals=True).format())
        )
    with pytest.raises(ConfigError) as failed:
        MasterKey(OLD[:12])
    told += traceback.TracebackException.from_exception(failed.value, capture_locals=True).format()
    for each in (vault, vault._masters, held, source):
        with pytest.raises((TypeError, AttributeError, pickle.PicklingError)) as failed:
            pickle.dumps(each)
        told.append(str(failed.value))
    told.append(caplog.text)
    assert "days old" in caplog.text
    for secret in (CANARY, OLD, NEW):
        assert not [found for text in told for found in windows(text, secret)]
    assert CANARY.encode() not in pickle.dumps(row)


@given(st.text(st.characters(min_codepoint=33, max_codepoint=126), min_size=1, max_size=80))
def test_a_mask_never_shows_more_than_nine_characters_nor_a_short_key(key):
    mask = mask_api_key(key)
    assert mask == mask_api_key(Secret(key))
    if len(key) < 12:
        assert mask == "***"
    else:
        assert len(mask) <= 12
        assert key.startswith(mask[:5])
        assert key.endswith(mask[8:])


def test_the_masks_of_the_specification():
    assert mask_api_key("sk-1234567890abcdef") == "sk-12...cdef"
    assert mask_api_key("sk-1234567890") == "sk-12...90"
