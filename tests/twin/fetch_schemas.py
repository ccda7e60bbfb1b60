"""Fetches GitHub's official schemas, as Octokit publishes them on npm, into a folder for :mod:`tests.twin.official`.

Needs no node. From the repository's root::

    python -m tests.twin.fetch_schemas [FOLDER]
"""

from __future__ import annotations

import hashlib
import io
import os
import sys
import tarfile
from dataclasses import dataclass
from pathlib import Path
from urllib.request import urlopen

REGISTRY = "https://registry.npmjs.org"


@dataclass(frozen=True, slots=True)
class Package:
    """One version of an npm package, the SHA-256 of its tarball, and the files of it that are kept."""

    name: str
    version: str
    sha256: str
    files: tuple[str, ...]

    @property
    def url(self) -> str:
        """Where its tarball is."""
        return f"{REGISTRY}/{self.name}/-/{self.name.partition('/')[2]}-{self.version}.tgz"


OPENAPI = Package(
    "@octokit/openapi",
    "23.0.2",
    "71a18407dd5e8464f4e0525daf03deabbe65abd9287d6adc7b5d98f516cd0d0c",
    ("package.json", "LICENSE", "generated/api.github.com.json"),
)
GRAPHQL = Package(
    "@octokit/graphql-schema",
    "15.26.1",
    "053e74249dafce2118fd9b7ae499b067d57c5f910c57745699ac45108bc68d1e",
    ("package.json", "LICENSE.md", "schema.graphql"),
)


def schemas_folder() -> Path:
    """Where the packages are looked for: below ``GHCOORD_SCHEMAS``, else ``~/.cache/ghcoord-schemas``."""
    return Path(os.environ.get("GHCOORD_SCHEMAS") or Path.home() / ".cache" / "ghcoord-schemas")


def unpack(package: Package, tarball: bytes, folder: Path) -> None:
    """Keep what is wanted of a tarball; raises ``ValueError`` for another than the pinned one."""
    found = hashlib.sha256(tarball).hexdigest()
    if found != package.sha256:
        raise ValueError(f"{package.url} has the SHA-256 {found}, not {package.sha256}")
    with tarfile.open(fileobj=io.BytesIO(tarball), mode="r:gz") as archive:
        for name in package.files:
            member = archive.extractfile(f"package/{name}")
            assert member is not None  # the pinned tarball has them
            target = folder / package.name / name
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(member.read())


if __name__ == "__main__":
    where = Path(sys.argv[1]) if len(sys.argv) > 1 else schemas_folder()
    for each in (OPENAPI, GRAPHQL):
        with urlopen(each.url, timeout=120) as answer:
            unpack(each, answer.read(), where)
        print(f"{each.name} {each.version} is in {where / each.name}")
