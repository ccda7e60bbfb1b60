"""How much of what takes very long is tested."""

from __future__ import annotations

import os

WHOLE = os.environ.get("GHCOORD_WHOLE") == "1"
"""``GHCOORD_WHOLE=1 pytest -m slow`` tests at full size what otherwise would keep CI for an hour."""
