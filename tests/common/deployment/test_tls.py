"""Each fault of a server at an address has an error of its own, and none makes the check hang."""

from __future__ import annotations

import socket
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from each_case import each
from loopback import Tls, address_of, free_port, http_date, make_tls, raw, reissue, web

from fedsteph.common.deployment import tls as tls_module
from fedsteph.common.deployment.tls import ask, require_host, split_address
from fedsteph.common.errors import DeploymentError


@pytest.fixture(scope="module")
def tls(tmp_path_factory) -> Tls:
    return make_tls(tmp_path_factory.mktemp("tls") / "good")


def refusal(address: str, ca: Path) -> DeploymentError:
    with pytest.raises(DeploymentError) as caught:
        ask(address, ca)
    assert caught.value.remedy
    return caught.value


@each("status", [400, 401, 403, 415, 422])
def test_a_refusal_of_an_unsigned_message_is_a_superlink(tls, status):
    asked = []
    with web(tls, status, seen=lambda *request: asked.append(request)) as address:
        answer = ask(address, tls.ca)
    assert asked == [("POST", "/v1/fleet/pull-messages")] and answer.protocol in ("TLSv1.2", "TLSv1.3")
    assert 300 < (answer.expires - datetime.now(UTC)).days <= 397 and answer.ahead_seconds is not None


@each("hours", [-2, 2])
def test_the_clock_is_compared_with_the_servers(tls, hours):
    with web(tls, date=http_date(timedelta(hours=hours))) as address:
        ahead = ask(address, tls.ca).ahead_seconds
    assert ahead is not None and round(-ahead / 3600) == hours


NO_DATES = [None, "yesterday", "Mon, 99 Foo 2026 99:99:99 GMT", "Sat, 21 Nov 2026 10:00:00"]


@each("date", [*NO_DATES, "Sat, 21 Nov 2026 10:00:00 -0000"])
def test_a_server_that_does_not_tell_the_time_has_no_clock(tls, date):
    with web(tls, date=date) as address:
        assert ask(address, tls.ca).ahead_seconds is None


def test_a_closed_port(tls):
    address = f"127.0.0.1:{free_port()}"
    error = refusal(address, tls.ca)
    assert error.where == address and "nothing answers there (Connection refused)" in error.what


def test_a_name_that_nobody_has(tls, monkeypatch):
    def look_up(*_, **__):
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    assert "nothing answers there" in refusal("no-such-host.invalid:9092", tls.ca).what


def test_a_server_without_tls(tls):
    with web(None) as address:
        assert "does not speak TLS" in refusal(address, tls.ca).what


@each("said", [b"SSH-2.0-OpenSSH_9.6\r\n", b"\x00" * 64])
def test_a_server_of_another_protocol(tls, said):
    with raw(None, said) as address:
        assert "does not speak TLS" in refusal(address, tls.ca).what


@pytest.fixture
def silent():
    """A port that takes connections and never says a word."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield address_of(listener)


def test_a_server_that_says_nothing_is_not_waited_for_for_ever(tls, silent, monkeypatch):
    monkeypatch.setattr(tls_module, "_TIMEOUT_SECONDS", 0.1)
    error = refusal(silent, tls.ca)
    assert (error.where, error.what) == (silent, "something listens there, and says nothing within 0.1 s")


@each("said", [b"220 mail.example.org ESMTP\r\n", b""])
def test_tls_without_http(tls, said):
    with raw(tls, said) as address:
        assert "speaks TLS there, and no HTTP" in refusal(address, tls.ca).what


@each("status", [200, 302, 404, 405, 500])
def test_another_web_server(tls, status):
    with web(tls, status) as address:
        error = refusal(address, tls.ca)
    assert f"no Flower SuperLink (HTTP {status})" in error.what and "/v1/fleet/" in str(error.remedy)


@each("status", [502, 503, 504])
def test_a_proxy_without_its_superlink(tls, status):
    with web(tls, status) as address:
        error = refusal(address, tls.ca)
    assert f"the SuperLink behind it is not (HTTP {status})" in error.what
    assert "Start the SuperLink" in str(error.remedy)


def test_another_authority_of_the_same_name_is_not_trusted(tls, tmp_path):
    other = make_tls(tmp_path / "good")
    asked = []
    with web(other, seen=lambda *request: asked.append(request)) as address:
        error = refusal(address, tls.ca)
    assert "does not hold against ca.crt" in error.what and "do not go on without" in str(error.remedy) and asked == []


def test_an_authority_that_holds_everywhere_else_is_likely_a_proxy_that_inspects_tls(tls, tmp_path, monkeypatch):
    """Its certificate is among this machine's own authorities, as a hospital's IT puts it there."""
    proxy = make_tls(tmp_path / "proxy")
    monkeypatch.setenv("SSL_CERT_FILE", str(proxy.ca))
    with web(proxy) as address:
        error = refusal(address, tls.ca)
    assert "does not hold against ca.crt" in error.what and "likely a proxy on the way inspects TLS" in error.what
    assert f"exempt {address} from TLS inspection; do not go on without" in str(error.remedy)


def test_the_servers_own_certificate_is_no_authority(tls):
    with web(tls) as address:
        assert "does not hold against server.crt" in refusal(address, tls.certificate).what


@pytest.mark.parametrize("names", [["fl.example.org"], ["127.0.0.2"], ["localhost"]])
def test_a_certificate_for_another_name(tmp_path, names):
    tls = make_tls(tmp_path / "tls", names)
    with web(tls) as address:
        error = refusal(address, tls.ca)
    assert "its certificate is not for this name" in error.what and "127.0.0.1" in error.what


def test_a_certificate_that_lists_no_name(tmp_path):
    tls = make_tls(tmp_path / "tls")
    reissue(tls, valid=timedelta(days=9), names=[])
    with web(tls) as address:
        assert "its certificate is not for this name" in refusal(address, tls.ca).what


def test_a_name_of_the_certificate_and_not_only_its_address(tmp_path):
    tls = make_tls(tmp_path / "tls", ["localhost"])
    with web(tls) as address:
        assert ask(f"localhost:{split_address(address)[1]}", tls.ca).protocol


def test_an_expired_certificate(tmp_path):
    tls = make_tls(tmp_path / "tls")
    reissue(tls, valid=timedelta(days=-1))
    with web(tls) as address:
        error = refusal(address, tls.ca)
    assert "expired" in error.what and "clock" in str(error.remedy)


def test_a_certificate_that_is_not_valid_yet(tmp_path):
    tls = make_tls(tmp_path / "tls")
    reissue(tls, valid=timedelta(days=500))
    with web(tls) as address:
        assert "not yet valid" in refusal(address, tls.ca).what


@pytest.mark.parametrize("content", [b"", b"no certificate", b"-----BEGIN CERTIFICATE-----\nAAAA\n", None])
def test_a_ca_file_that_is_none(tmp_path, content):
    ca = tmp_path / "ca.crt"
    if content is not None:
        ca.write_bytes(content)
    error = refusal(f"127.0.0.1:{free_port()}", ca)
    assert (error.where, error.what) == (str(ca), "is no CA certificate in PEM form")


def test_a_key_is_no_certificate(tls):
    assert "no CA certificate" in refusal(f"127.0.0.1:{free_port()}", tls.ca_key).what


@each(
    ("address", "parts"),
    [
        ("fl.example.org:9092", ("fl.example.org", 9092)),
        ("127.0.0.1:1", ("127.0.0.1", 1)),
        ("[::1]:65535", ("::1", 65_535)),
        ("localhost:443", ("localhost", 443)),
    ],
)
def test_an_address_in_two(address, parts):
    assert split_address(address) == parts


NO_ADDRESSES = ["", "fl.example.org", ":9092", "[]:9092", "https://fl.example.org", "https://fl.example.org:9092"]
NO_ADDRESSES += ["fl example org:9092", "x; }:9092", ".example.org:9092", "a" * 64 + ".org:9092"]
NO_ADDRESSES += [f"fl.example.org:{port}" for port in ("", "0", "65536", "-1", "9092/", "http", "²")]


@each("address", NO_ADDRESSES)
def test_what_is_no_address(address):
    with pytest.raises(DeploymentError, match="is not an address") as caught:
        split_address(address)
    assert "host:port" in str(caught.value.remedy)


@each("host", ["a" * 64, "fl..example.org"])
def test_a_name_that_cannot_be_one(tls, host):
    refusal(f"{host}:9092", tls.ca)


@each("name", ["fl.example.org", "localhost", "10.0.0.7", "::1", "a" * 63, "x-1.y"])
def test_a_hosts_name(name):
    require_host(name)


@each(
    "name",
    ["", "ex ample", "höst.example.org", "-x.org", "x-.org", "x.org.", "x\n", "[::1]", "a" * 64, "a." * 126 + "aa"],
)
def test_what_is_no_hosts_name(name):
    with pytest.raises(DeploymentError, match="is no host's name") as caught:
        require_host(name)
    assert "fl.example.org" in str(caught.value.remedy)
