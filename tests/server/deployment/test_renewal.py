"""``fedsteph provision-renew``: the same names and key, a new end; and what stands in its way."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from loopback import make_tls, reissue, web

from fedsteph.common.deployment.tls import ask
from fedsteph.server.deployment.certificates import names_in
from fedsteph.server.deployment.provision import Plan, provision


@pytest.fixture
def folder(tmp_path) -> Path:
    plan = Plan("kidney", "fl.example.org:9092", "127.0.0.1:9091", ("kirp", "kirc"), ("kirp",), 6, ("10.0.0.7",))
    provision(tmp_path / "trial", plan)
    return tmp_path / "trial" / "server"


def certificate(path: Path) -> x509.Certificate:
    return x509.load_pem_x509_certificate(path.read_bytes())


def days_left(path: Path) -> int:
    return round((certificate(path).not_valid_after_utc - datetime.now(UTC)) / timedelta(days=1))


def test_the_new_certificate_is_for_the_same_names_and_key_and_the_old_one_is_kept(cli, folder):
    file, previous = folder / "server.crt", folder / "server.crt.previous"
    file.chmod(0o640)
    before, key, names = file.read_bytes(), (folder / "server.key").read_bytes(), names_in(file)
    code, out, _ = cli("provision-renew", folder, "--days", "100")
    assert code == 0 and all(name in out for name in names) and str(previous) in out
    assert (days_left(file), names_in(file), file.stat().st_mode & 0o777) == (100, names, 0o640)
    assert (previous.read_bytes(), (folder / "server.key").read_bytes()) == (before, key)
    assert certificate(file).public_key() == certificate(previous).public_key()
    assert certificate(file).serial_number != certificate(previous).serial_number
    certificate(file).verify_directly_issued_by(certificate(folder / "ca.crt"))
    # As a site sees it, and again from server.yaml with the default days.
    assert cli("provision-renew", folder / "server.yaml")[0] == 0 and days_left(file) == 397
    tls = make_tls(folder / "unused")
    with web(type(tls)(folder / "ca.crt", tls.ca_key, file, folder / "server.key")) as address:
        assert ask(address, folder / "ca.crt").expires == certificate(file).not_valid_after_utc


def test_without_the_cas_key_it_says_what_to_do_and_changes_nothing(cli, refused, folder):
    before, ca_key = (folder / "server.crt").read_bytes(), folder.parent / "ca" / "ca.key"
    stick = ca_key.rename(folder.parent / "stick.key")
    told = refused("provision-renew", folder)
    assert "the CA's key is not there" in told and "a CA of your own" in told
    other = make_tls(folder.parent / "other")
    assert "is not the key of" in refused("provision-renew", folder, "--ca-key", other.ca_key)
    assert "cannot be read as PEM" in refused("provision-renew", folder, "--ca-key", folder / "server.yaml")
    assert (folder / "server.crt").read_bytes() == before and not (folder / "server.crt.previous").exists()
    assert cli("provision-renew", folder, "--ca-key", stick)[0] == 0


def test_it_holds_no_longer_than_the_ca(cli, refused, folder):
    tls = make_tls(folder / "unused")
    ca = type(tls)(folder / "ca.crt", folder.parent / "ca" / "ca.key", folder / "ca.crt", folder / "server.key")
    reissue(ca, valid=timedelta(days=50))
    assert cli("provision-renew", folder)[0] == 0 and days_left(folder / "server.crt") == 50
    reissue(ca, valid=timedelta(days=-1))
    assert "the CA's own certificate has ended" in refused("provision-renew", folder)
