"""A connection that is encrypted, to a server that is the one it says it is."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import trustme

from llmpipe.errors import StoreUnavailable
from llmpipe.testing.servers.postgres import PostgresServer
from llmpipe_postgres import open_postgres

pytestmark = pytest.mark.real_time


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture(scope="module")
def server(authority: trustme.CA) -> Iterator[PostgresServer]:
    """One whose certificate says that it is ``localhost``."""
    made = PostgresServer(ssl="on", ssl_cert_file="../cert.pem", ssl_key_file="../key.pem")
    certificate = authority.issue_cert("localhost")
    certificate.cert_chain_pems[0].write_to_path(str(made._home / "cert.pem"))
    key = made._home / "key.pem"
    certificate.private_key_pem.write_to_path(str(key))
    key.chmod(0o600)
    owner = made._home.stat()
    os.chown(key, owner.st_uid, owner.st_gid)
    try:
        made.start()
    except RuntimeError as error:
        made.close()
        if "not supported by this build" in str(error):
            pytest.skip("this PostgreSQL was built without TLS")
        raise
    yield made
    made.close()


@pytest.fixture
def ca(authority: trustme.CA, tmp_path: Path) -> Path:
    path = tmp_path / "ca.pem"
    authority.cert_pem.write_to_path(str(path))
    return path


async def encrypted(url: str) -> bool:
    state = open_postgres(url)
    try:
        return bool(await state._link.value("SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()"))
    finally:
        await state.aclose()


async def test_a_server_with_the_right_name_and_authority_is_believed(
    server: PostgresServer, ca: Path
) -> None:
    at = f"postgresql://llmpipe@localhost:{server.port}/postgres?schema=tls&timeout=20"
    assert await encrypted(f"{at}&sslmode=verify-full&sslrootcert={ca}")
    assert await encrypted(f"{at}&sslmode=require")
    assert not await encrypted(f"{at}&sslmode=disable")


@pytest.mark.parametrize("stranger", ["of another authority", "of another name"])
async def test_a_stranger_is_not_believed(
    server: PostgresServer, ca: Path, tmp_path: Path, stranger: str
) -> None:
    host = "localhost"
    if stranger == "of another name":
        host = "127.0.0.1"
    else:
        trustme.CA().cert_pem.write_to_path(str(ca))
    url = f"postgresql://llmpipe@{host}:{server.port}/postgres?schema=tls&timeout=20"
    with pytest.raises(StoreUnavailable, match=r"(?i)certificate"):
        await encrypted(f"{url}&sslmode=verify-full&sslrootcert={ca}")


async def test_a_server_without_tls_is_refused_where_it_is_wanted(tmp_path: Path) -> None:
    with PostgresServer() as plain, pytest.raises(StoreUnavailable, match=r"(?i)ssl"):
        await encrypted(f"{plain.url}?schema=tls&timeout=20&sslmode=require")
