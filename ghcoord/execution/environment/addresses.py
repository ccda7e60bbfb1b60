"""Resolve names so that a public name never leads into a private network."""

from __future__ import annotations

import socket
from collections.abc import Callable
from ipaddress import IPv4Address, IPv6Address, IPv6Network, ip_address

Resolve = Callable[[str, int], list[str]]
"""The addresses of a host, for a port. Raises ``OSError``."""

_NAT64 = (IPv6Network("64:ff9b::/96"), IPv6Network("64:ff9b:1::/48"))


class AddressRefused(Exception):
    """A name that leads where it must not."""


def resolve(host: str, port: int) -> list[str]:
    """As the system resolves it."""
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return [str(address[0]) for _, _, _, _, address in found]


def is_public(text: str) -> bool:
    """Whether ``text`` is an address of the public internet, also of the IPv4 one that an IPv6 one stands for."""
    try:
        address = ip_address(text.partition("%")[0])
    except ValueError:
        return False
    if isinstance(address, IPv6Address):
        inner = _inner(address)
        if inner is not None:
            return is_public(str(inner))
        if any(address in network for network in _NAT64) or address.is_site_local:
            return False
    return address.is_global and not address.is_multicast and not address.is_reserved and not address.is_unspecified


def _is_somewhere(text: str) -> bool:
    """Whether a private address may be that of a service: one of this machine or of a network."""
    address = ip_address(text.partition("%")[0])
    inner = _inner(address) if isinstance(address, IPv6Address) and not address.is_loopback else None
    if inner is not None:
        return _is_somewhere(str(inner))
    return not (address.is_link_local or address.is_multicast or address.is_unspecified or _is_metadata(address))


def _is_metadata(address: IPv4Address | IPv6Address) -> bool:
    return str(address) == "fd00:ec2::254"


def _inner(address: IPv6Address) -> IPv4Address | None:
    """The IPv4 address in a mapped, 6to4, Teredo, NAT64 or compatible one."""
    if address.ipv4_mapped or address.sixtofour:
        return address.ipv4_mapped or address.sixtofour
    if address.teredo:
        return address.teredo[1]
    if address in _NAT64[0] or int(address) >> 32 == 0:
        return IPv4Address(int(address) & 0xFFFFFFFF)
    return None


def usable(host: str, port: int, private: bool, ask: Resolve = resolve) -> list[str]:
    """The addresses of ``host`` that may be connected to; ``private`` ones only where that is allowed.

    Link-local ones, where clouds keep a machine's credentials, never for a name.

    All of them must be fit: a name with a public and a private address is
    refused, since whoever made it wants the private one.  Raises
    :class:`AddressRefused`, and ``OSError`` when the name is not known.
    """
    addresses = list(dict.fromkeys(ask(host, port)))
    if not addresses:
        raise OSError(f"{host} has no address")
    for each in addresses:
        if not is_public(each) and not (private and (each == host or _is_somewhere(each))):
            raise AddressRefused(
                f"{host} has the address {each}, which is not of the public internet: "
                "where that is meant, add the host to packages.private in the worker's ghcoord.toml"
            )
    return addresses


def connect(addresses: list[str], port: int, timeout: float) -> socket.socket:
    """A connection to the first address that answers within ``timeout`` seconds. Raises ``OSError``."""
    failure: OSError = OSError("no address")
    for address in addresses:
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        connection = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
        try:
            connection.settimeout(timeout)
            connection.connect((address, port))
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            return connection
        except OSError as why:
            connection.close()
            failure = why
    raise failure
