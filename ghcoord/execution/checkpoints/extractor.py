"""The program that unpacks a checkpoint inside the sandbox: a tar stream on stdin becomes files below ``.``.

Its text, with that of the reader, is what the sandbox's Python is given; it
needs the standard library only.  Symbolic links are made when all files are
there, so that nothing is ever written through one.
"""

from __future__ import annotations

import errno
import os
import sys

from ghcoord.coord.sessions.tarstream import FOLDER, LINK, Member, Refused, Tar

PIECE = 1 << 20
ZEROS = bytes(PIECE)
REFUSED, MACHINE = 1, 3
FAULTS = {errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EROFS, errno.ENOMEM, errno.EMFILE, errno.ENFILE}
FLAGS = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


def unpack(tar: Tar) -> str:
    """Unpack every member into the working directory, which is empty; how much that was."""
    os.umask(0o077)
    folders: list[Member] = []
    links: list[Member] = []
    files = size = 0
    while True:
        member = tar.next()
        if member is None:
            break
        if member.kind == LINK:
            links.append(member)
        elif member.kind == FOLDER:
            os.mkdir(member.path, 0o700)
            folders.append(member)
        else:
            write(tar, member)
            files += 1
            size += member.size
    for link in links:
        os.symlink(link.target, link.path)
    for folder in reversed(folders):
        os.utime(folder.path, ns=(folder.mtime_us * 1000,) * 2, follow_symlinks=False)
        # A link cannot have taken the place of a folder: its name was taken.
        os.chmod(folder.path, folder.mode & 0o777)
    return f"{files} files, {len(folders)} folders, {len(links)} links, {size} bytes"


def write(tar: Tar, member: Member) -> None:
    """Write the present member as a new file; long zeros as a hole, or what had holes would take more than it did."""
    fd = os.open(member.path, FLAGS, 0o600)
    try:
        while data := tar.read(PIECE):
            if not data[0] and data == ZEROS[: len(data)]:
                os.lseek(fd, len(data), os.SEEK_CUR)
                continue
            view = memoryview(data)
            while view:
                view = view[os.write(fd, view) :]
        os.ftruncate(fd, member.size)
        os.fchmod(fd, member.mode & 0o777)
        os.utime(fd, ns=(member.mtime_us * 1000,) * 2)
    finally:
        os.close(fd)


def main(argv: list[str]) -> int:
    """Unpack what comes on stdin: at most ``argv[1]`` members of ``argv[2]`` bytes; ``MACHINE`` for its own faults."""
    try:
        with open(0, "rb", buffering=PIECE, closefd=False) as stdin:
            print(unpack(Tar(stdin.read, int(argv[1]), int(argv[2]))))
    except FileExistsError as why:
        print(f"the archive has two members of one name: {str(why.filename)[:80]!a}", file=sys.stderr)
        return REFUSED
    except Refused as why:
        print(why, file=sys.stderr)
        return REFUSED
    except OSError as why:
        where = f": {str(why.filename)[:80]!a}" if why.filename else ""
        print(f"cannot be unpacked{where}: {why.strerror}", file=sys.stderr)
        return MACHINE if why.errno in FAULTS else REFUSED
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv))
