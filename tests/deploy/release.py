"""Deploys what .ci/release has made, as somebody does who has no Rust: the zip and its template, to an emulated cloud.

    PYTHONPATH=.tools/aws-sam-cli:.tools/ministack python3 tests/deploy/release.py target/release-files

No build takes place: the binary comes from the zip.
"""

import hashlib
import os
import shutil
import sys
import tempfile
from pathlib import Path

from main import DOMAIN, NATIVE, ORIGIN, bridge_template, delete, emulated_cloud, passed, step, use


def check_sums(folder):
    """What `sha256sum --check` does."""
    lines = (folder / "SHA256SUMS").read_text(encoding="utf-8").splitlines()
    named = dict(reversed(line.split("  ")) for line in lines)
    for name, expected in named.items():
        assert hashlib.sha256((folder / name).read_bytes()).hexdigest() == expected, name
    assert set(named) == {path.name for path in folder.iterdir()} - {"SHA256SUMS"}, named
    passed(f"SHA256SUMS agrees with {len(named)} files")


def main():
    if len(sys.argv) != 2:
        sys.exit("usage: release.py FOLDER")
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        del os.environ[name]
    folder = Path(sys.argv[1]).resolve()
    step("checksums")
    check_sums(folder)
    with tempfile.TemporaryDirectory() as scratch:
        copy = Path(scratch) / "downloads"
        copy.mkdir()
        shutil.copy(folder / f"template-{NATIVE}.yaml", copy / "template.yaml")
        for package in folder.glob(f"*-{NATIVE}.zip"):
            shutil.copy(package, copy)
        with emulated_cloud(scratch) as cloud:
            step("sam deploy --template-file with the zip")
            certificate = cloud.client("acm").request_certificate(DomainName=DOMAIN)["CertificateArn"]
            stack = cloud.deploy(
                bridge_template(copy),
                "released",
                Architecture=NATIVE,
                AllowedOrigins=ORIGIN,
                DomainName=DOMAIN,
                CertificateArn=certificate,
            )
            stack.bridge_methods()
            step("calls through the gateway")
            use(stack)
            delete(stack)


if __name__ == "__main__":
    main()
