"""`amqps://`: the broker's certificate is checked, against AMQP_CA_FILE where one is named."""

import json
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from container.compose import free_ports
from integration.tools.cli import Place, teardown
from integration.tools.log import Log
from integration.tools.service import service
from support.needs import BROKER, need, need_server

from teardown_lab.own_broker.private_node import PrivateNode

pytestmark = [pytest.mark.rabbitmq, pytest.mark.slow]

ORDERING = "unload-in-destroy"


@dataclass(frozen=True)
class Certificates:
    """A certificate authority's certificate, and a broker's that it has signed, with its key."""

    authority: Path
    broker: Path
    key: Path


def openssl(*arguments: object) -> None:
    done = subprocess.run(
        ["openssl", *map(str, arguments)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def certificates(folder: Path, name: str) -> Certificates:
    """Make an authority and a certificate for 127.0.0.1; nothing of it outlives the test."""
    folder.mkdir()
    made = Certificates(folder / "ca.pem", folder / "broker.pem", folder / "broker.key")
    curve = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2")
    authority_key, asked = folder / "ca.key", folder / "broker.csr"
    openssl(
        *("req", "-x509", *curve, "-keyout", authority_key, "-out", made.authority),
        *("-subj", f"/CN={name}", "-addext", "basicConstraints=critical,CA:TRUE"),
    )
    openssl("req", *curve[:-2], "-keyout", made.key, "-out", asked, "-subj", "/CN=broker")
    more = folder / "broker.ext"
    more.write_text("subjectAltName=IP:127.0.0.1\n", encoding="ascii")
    openssl(
        *("x509", "-req", "-in", asked, "-CA", made.authority, "-CAkey", authority_key),
        *("-CAcreateserial", "-days", "2", "-extfile", more, "-out", made.broker),
    )
    return made


@dataclass(frozen=True)
class TlsBroker:
    """Where the broker takes TLS, and whose certificate it shows."""

    port: int
    certificates: Certificates
    stranger: Certificates

    def url(self, host: str = "127.0.0.1") -> str:
        """Return its URL under a name of this host."""
        return f"amqps://guest:guest@{host}:{self.port}/%2F"


@pytest.fixture(scope="module")
def tls_broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TlsBroker]:
    need_server()
    need(_openssl(), "openssl", BROKER)
    folder = tmp_path_factory.mktemp("tls")
    made = certificates(folder / "ours", "our authority")
    stranger = certificates(folder / "others", "another authority")
    (port,) = free_ports(1)
    config = [
        f"listeners.ssl.1 = 127.0.0.1:{port}",
        f"ssl_options.cacertfile = {made.authority}",
        f"ssl_options.certfile = {made.broker}",
        f"ssl_options.keyfile = {made.key}",
        "ssl_options.verify = verify_none",
    ]
    with PrivateNode(config=config):
        yield TlsBroker(port, made, stranger)


def _openssl() -> str | None:
    return shutil.which("openssl")


def run(
    broker: TlsBroker, place: Place, ca_file: Path | None, host: str = "127.0.0.1"
) -> subprocess.CompletedProcess[str]:
    """Run a teardown over TLS, with services and client alike."""
    more = {"AMQP_CA_FILE": str(ca_file)} if ca_file else {}
    return teardown(place, "run", ORDERING, "--json", "--broker", broker.url(host), **more)


def test_a_whole_run_goes_over_tls(tls_broker: TlsBroker, tmp_path: Path) -> None:
    done = run(tls_broker, Place(tmp_path), tls_broker.certificates.authority)

    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["verdict"] == "safe"


def test_an_authority_that_nobody_named_is_not_trusted(
    tls_broker: TlsBroker, tmp_path: Path
) -> None:
    for ca_file in (None, tls_broker.stranger.authority):
        done = run(tls_broker, Place(tmp_path), ca_file)

        assert done.returncode == 4
        assert "certificate verify failed" in done.stderr.lower()


def test_a_certificate_of_another_host_is_not_taken(tls_broker: TlsBroker, tmp_path: Path) -> None:
    done = run(tls_broker, Place(tmp_path), tls_broker.certificates.authority, host="localhost")

    assert done.returncode == 4
    assert "hostname mismatch" in done.stderr.lower()


@pytest.mark.parametrize("module", ["vm_manager", "vcpu_worker"])
def test_a_service_logs_why_it_does_not_trust_a_broker(tls_broker: TlsBroker, module: str) -> None:
    stranger, host = Log(), Log()
    others, ours = tls_broker.stranger.authority, tls_broker.certificates.authority

    with (
        service(module, tls_broker.url(), stranger, AMQP_CA_FILE=str(others)),
        service(module, tls_broker.url("localhost"), host, AMQP_CA_FILE=str(ours)),
    ):
        stranger.wait(event="broker.connection_lost")
        host.wait(event="broker.connection_lost")

    assert "certificate verify failed" in str(stranger.lines[0]["why"]).lower()
    assert "hostname mismatch" in str(host.lines[0]["why"]).lower()


def test_a_file_that_holds_no_certificate_is_named(tls_broker: TlsBroker, tmp_path: Path) -> None:
    done = run(tls_broker, Place(tmp_path), tmp_path / "no.pem")

    assert done.returncode == 2
    assert f"AMQP_CA_FILE={tmp_path / 'no.pem'}" in done.stderr
