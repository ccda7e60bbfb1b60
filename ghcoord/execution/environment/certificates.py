"""Whom the installer believes: the certificates that the worker's machine trusts, an own authority's included."""

from __future__ import annotations

import ssl
from functools import lru_cache
from pathlib import Path

_BUNDLES = (
    "/etc/ssl/certs/ca-certificates.crt",  # Debian, Arch, Alpine
    "/etc/pki/tls/certs/ca-bundle.crt",  # Fedora and its kin
    "/etc/ssl/ca-bundle.pem",  # SUSE
    "/etc/ssl/cert.pem",
)


@lru_cache(maxsize=1)
def find_certificates() -> Path | None:
    """The file with the authorities that this machine trusts; ``None`` without one: uv has its own then."""
    for name in (ssl.get_default_verify_paths().cafile, *_BUNDLES):
        if name and Path(name).is_file():
            return Path(name).resolve()
    return None
