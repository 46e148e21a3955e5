"""The trial CA: certificates hold before independent verifiers, and secrets are for their owner alone."""

from __future__ import annotations

import ipaddress
import os
import shutil
import stat
import subprocess
from datetime import UTC, datetime, timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID
from cryptography.x509.verification import PolicyBuilder, Store, VerificationError
from each_case import each
from loopback import Tls, make_tls, reissue

from fedsteph.server.deployment.certificates import (
    make_ca,
    make_node_key,
    make_server_certificate,
    make_token,
    names_in,
)

NAMES = ["fl.example.org", "10.0.0.7", "::1", "localhost", "127.0.0.1"]


def needs(program):
    return pytest.mark.skipif(shutil.which(program) is None, reason=f"{program} is not installed")


def output_of(*words) -> str:
    return subprocess.run([str(word) for word in words], check=True, capture_output=True, text=True).stdout


@pytest.fixture(scope="module")
def tls(tmp_path_factory) -> Tls:
    return make_tls(tmp_path_factory.mktemp("certificates") / "kidney", NAMES)


def certificate(path):
    return x509.load_pem_x509_certificate(path.read_bytes())


def verify(tls: Tls, name: str, at: timedelta = timedelta(0), ca=None):
    """By ``cryptography``'s own verifier of RFC 5280, which has nothing in common with its builder."""
    subject = x509.DNSName(name) if name[0].isalpha() else x509.IPAddress(ipaddress.ip_address(name))
    policy = PolicyBuilder().store(Store([certificate(ca or tls.ca)])).time(datetime.now(UTC) + at)
    return policy.build_server_verifier(subject).verify(certificate(tls.certificate), [])


@each("name", NAMES)
def test_it_is_valid_for_each_of_its_names(tls, name):
    assert len(verify(tls, name)) == 2


@each("name", ["example.org", "evil.fl.example.org", "10.0.0.8", "::2"])
def test_it_is_valid_for_no_other_name(tls, name):
    with pytest.raises(VerificationError):
        verify(tls, name)


@each(("days", "valid"), [(-1, False), (0, True), (396, True), (398, False)])
def test_it_is_valid_for_a_year_and_a_month(tls, days, valid):
    if valid:
        assert verify(tls, "localhost", timedelta(days=days))
    else:
        with pytest.raises(VerificationError):
            verify(tls, "localhost", timedelta(days=days))


def test_a_clock_five_minutes_behind_still_accepts_it(tls):
    assert verify(tls, "localhost", timedelta(minutes=-5))


def test_another_ca_of_the_same_name_does_not_vouch_for_it(tls, tmp_path):
    other = make_tls(tmp_path / "kidney", NAMES)
    assert certificate(other.ca).subject == certificate(tls.ca).subject
    with pytest.raises(VerificationError):
        verify(tls, "localhost", ca=other.ca)


def test_a_servers_key_cannot_sign_further_certificates(tls, tmp_path):
    """Whoever steals the server's key makes a certificate with it; nobody who trusts the CA accepts that."""
    made = tmp_path / "evil.crt", tmp_path / "evil.key"
    make_server_certificate(*made, tls.certificate, tls.key, ["evil.example.org"])
    policy = PolicyBuilder().store(Store([certificate(tls.ca)]))
    with pytest.raises(VerificationError):
        policy.build_server_verifier(x509.DNSName("evil.example.org")).verify(
            certificate(made[0]), [certificate(tls.certificate)]
        )


def test_their_extensions(tls):
    ca, server = certificate(tls.ca).extensions, certificate(tls.certificate).extensions
    basic = ca.get_extension_for_class(x509.BasicConstraints)
    assert (basic.critical, basic.value.ca, basic.value.path_length) == (True, True, 0)
    assert not server.get_extension_for_class(x509.BasicConstraints).value.ca
    assert list(server.get_extension_for_class(x509.ExtendedKeyUsage).value) == [ExtendedKeyUsageOID.SERVER_AUTH]
    usage = server.get_extension_for_class(x509.KeyUsage).value
    assert (usage.digital_signature, usage.key_cert_sign, usage.crl_sign) == (True, False, False)


@needs("openssl")
def test_openssl_agrees(tls, tmp_path):
    said = output_of("openssl", "verify", "-x509_strict", "-purpose", "sslserver", "-CAfile", tls.ca, tls.certificate)
    assert said.strip() == f"{tls.certificate}: OK"
    other = make_tls(tmp_path / "kidney")
    with pytest.raises(subprocess.CalledProcessError):
        output_of("openssl", "verify", "-CAfile", other.ca, tls.certificate)
    text = output_of("openssl", "x509", "-in", tls.certificate, "-noout", "-text")
    for word in ("secp384r1", "ecdsa-with-SHA384", "DNS:fl.example.org", "IP Address:10.0.0.7", "IP Address:127.0.0.1"):
        assert word in text
    ca = output_of("openssl", "x509", "-in", tls.ca, "-noout", "-text")
    assert "CA:TRUE, pathlen:0" in ca and "Certificate Sign, CRL Sign" in ca


@needs("openssl")
@pytest.mark.parametrize("which", [("certificate", "key"), ("ca", "ca_key")])
def test_openssl_finds_each_key_to_be_its_certificates(tls, which):
    cert, key = (getattr(tls, name) for name in which)
    assert output_of("openssl", "x509", "-in", cert, "-noout", "-pubkey") == output_of(
        "openssl", "pkey", "-in", key, "-pubout"
    )


def test_names_in(tls):
    assert sorted(names_in(tls.certificate)) == sorted(NAMES)


def test_names_in_a_certificate_without_any(tmp_path):
    tls = make_tls(tmp_path / "tls")
    reissue(tls, valid=timedelta(days=9), names=[])
    assert names_in(tls.certificate) == []


@pytest.mark.parametrize("content", [b"", b"junk"])
def test_names_in_what_is_no_certificate(tmp_path, content):
    (tmp_path / "server.crt").write_bytes(content)
    with pytest.raises(ValueError, match="PEM"):
        names_in(tmp_path / "server.crt")


def test_a_long_first_name_stands_in_the_sans_whole(tls, tmp_path):
    name = ".".join(["a" * 40, "b" * 40, "example", "org"])
    make_server_certificate(tmp_path / "s.crt", tmp_path / "s.key", tls.ca, tls.ca_key, [name])
    assert names_in(tmp_path / "s.crt") == [name]


@pytest.fixture
def node(tmp_path):
    make_node_key(tmp_path / "auth.key", tmp_path / "auth.pub")
    return tmp_path / "auth.key", tmp_path / "auth.pub"


def test_a_node_key_is_p384_in_openssh_form(node):
    secret, public = node
    loaded = serialization.load_ssh_private_key(secret.read_bytes(), password=None)
    shown = serialization.load_ssh_public_key(public.read_bytes())
    assert isinstance(loaded, ec.EllipticCurvePrivateKey) and loaded.curve.name == "secp384r1"
    assert loaded.public_key() == shown


@needs("ssh-keygen")
def test_ssh_keygen_reads_a_node_key(node):
    secret, public = node
    assert output_of("ssh-keygen", "-y", "-f", secret).split() == public.read_text().split()
    size, *_, kind = output_of("ssh-keygen", "-l", "-f", public).split()
    assert (size, kind) == ("384", "(ECDSA)")


def test_a_token_is_random_hexadecimal(tmp_path):
    tokens = set()
    for i in range(3):
        make_token(tmp_path / str(i))
        tokens.add((tmp_path / str(i)).read_text())
    assert len(tokens) == 3 and all(len(bytes.fromhex(token)) == 32 for token in tokens)


def make_all(folder):
    """Every file that this module writes: the secret ones."""
    ca, ca_key = folder / "ca.crt", folder / "ca.key"
    make_ca(ca, ca_key, "kidney")
    make_server_certificate(folder / "server.crt", folder / "server.key", ca, ca_key, ["localhost"])
    make_node_key(folder / "auth.key", folder / "auth.pub")
    make_token(folder / "superexec.secret")
    return [ca_key, folder / "server.key", folder / "auth.key", folder / "superexec.secret"]


@pytest.mark.parametrize("mask", [0o000, 0o022])
def test_secrets_are_their_owners_alone_whatever_the_umask(tmp_path, mask):
    before = os.umask(mask)
    try:
        secrets = make_all(tmp_path)
    finally:
        os.umask(before)
    assert [stat.S_IMODE(path.stat().st_mode) for path in secrets] == [0o600] * 4


@pytest.mark.parametrize("link", [False, True])
def test_a_secret_is_never_overwritten_nor_written_through_a_link(tmp_path, link):
    made, planted = tmp_path / "made", tmp_path / "planted"
    made.mkdir()
    names = [path.name for path in make_all(made)]
    ca, ca_key = made / "ca.crt", made / "ca.key"
    for name in names:
        if link:
            (tmp_path / name).symlink_to(planted)
        else:
            (tmp_path / name).write_text("old")
    makers = {
        "ca.key": lambda path: make_ca(tmp_path / "x.crt", path, "kidney"),
        "server.key": lambda path: make_server_certificate(tmp_path / "x.crt", path, ca, ca_key, ["localhost"]),
        "auth.key": lambda path: make_node_key(path, tmp_path / "x.pub"),
        "superexec.secret": make_token,
    }
    assert sorted(makers) == sorted(names)
    for name, make in makers.items():
        with pytest.raises(FileExistsError):
            make(tmp_path / name)
        assert not planted.exists()
        assert link or (tmp_path / name).read_text() == "old"
    assert not (tmp_path / "x.crt").exists()
