"""``ghcoord`` and ``python -m ghcoord``."""

from __future__ import annotations

import sys
from collections.abc import Sequence


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line ``argv`` (default: this process's) and return the exit code."""
    from ghcoord.faces.cli.main import run

    return run(argv)


if __name__ == "__main__":
    sys.exit(main())
