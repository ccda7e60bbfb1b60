"""The names of lines: tasks of equal needs stand in one, which is called by what they need."""

from __future__ import annotations

import hashlib
from functools import lru_cache

from ghcoord.ids import decode_component, encode_component
from ghcoord.model.requirements import Need
from ghcoord.model.tier import Tier

MAX_CLASS = 180
"""Longest name of a line of tasks with equal needs."""


@lru_cache(4096)
def class_of(need: Need) -> str:
    """The name of the line for ``need``: ``build``, ``build+make``, ``train@c=4,m=2048,gpu,os%3dlinux``.

    Type, tool where it is another, cores, MiB, a sandbox that its submitter
    named (``s=none``), capabilities.  One that would be
    longer than a file system takes is cut and ends in ``%-`` and a digest.
    """
    name = encode_component(need.type)
    if need.tool != need.type:
        name += "+" + encode_component(need.tool)
    parts = [f"{sign}={value}" for sign, value in (("c", need.cpu_cores), ("m", need.memory_mb)) if value]
    if need.sandbox is not None:
        parts.append(f"s={need.sandbox}")
    parts += map(encode_component, need.capabilities)
    if parts:
        name += "@" + ",".join(parts)
    if len(name) <= MAX_CLASS:
        return name
    digest = hashlib.sha256(name.encode()).hexdigest()[:32]
    return f"{name[: MAX_CLASS - 34]}%-{digest}"


_TIERS = {str(tier): tier for tier in Tier}


@lru_cache(4096)
def parse_need(component: str) -> Need | None:
    """The need behind a line's name; ``None`` where only its tasks know it, and for names that are not ours."""
    name, _, rest = component.partition("@")
    kind, _, tool = name.partition("+")
    type_name = decode_component(kind)
    tool_name = decode_component(tool) if tool else type_name
    least = {"c": 0, "m": 0}
    sandbox: Tier | None = None
    capabilities = []
    for part in rest.split(",") if rest else ():
        sign, equals, value = part.partition("=")
        if equals and sign in least and value.isascii() and value.isdigit() and len(value) <= 16:
            least[sign] = int(value)
        elif equals and sign == "s" and value in _TIERS:
            sandbox = _TIERS[value]
        else:
            capabilities.append(decode_component(part))
    if type_name is None or tool_name is None or None in capabilities:
        return None
    need = Need(type_name, tool_name, least["c"], least["m"], tuple(filter(None, capabilities)), sandbox)
    return need if class_of(need) == component else None
