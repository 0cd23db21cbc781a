"""The origin of a request: the sender's own address, even behind a trusted proxy."""

from __future__ import annotations

import ipaddress
from functools import lru_cache
from typing import Final

from flask import request

from webapp.auth.accounts import Visit
from webapp.web.ports import services

Network = ipaddress.IPv4Network | ipaddress.IPv6Network

LOOPBACK: Final = (ipaddress.ip_network("127.0.0.0/8"), ipaddress.ip_network("::1/128"))
FORWARDED: Final = ("Forwarded", "X-Forwarded-For")


def visit() -> Visit:
    """Return what a session records of a request; automatic requests of an open page do not count as use."""
    polls = request.method == "GET" and request.headers.get("HX-Request") == "true"
    return Visit(client_address(), request.user_agent.string, counts=not polls)


def client_address() -> str:
    """Return the sender's address: behind trusted proxies, the nearest address that is not one of theirs."""
    trusted = _networks(services().settings.auth.trusted_proxies)
    address = request.remote_addr or ""
    hops = request.headers.get("X-Forwarded-For", "").split(",")
    while hops and _is_in(address, trusted) and _is_address(hops[-1].strip()):
        address = hops.pop().strip()
    return address


def comes_from_here() -> bool:
    """Whether a program on this machine sent the request, and not on behalf of anybody else through a proxy.

    Without accounts, only this distinguishes the person at this machine from the network behind a proxy or an inherited
    socket.
    """
    address = request.remote_addr or ""  # empty for a unix socket
    return (not address or _is_in(address, LOOPBACK)) and not any(name in request.headers for name in FORWARDED)


def comes_from_proxy() -> bool:
    """Whether a trusted proxy sent the request itself."""
    return _is_in(request.remote_addr or "", _networks(services().settings.auth.trusted_proxies))


@lru_cache(maxsize=4)
def _networks(texts: tuple[str, ...]) -> tuple[Network, ...]:
    return tuple(ipaddress.ip_network(text) for text in texts)


def _is_address(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True


@lru_cache(maxsize=256)
def _is_in(text: str, networks: tuple[Network, ...]) -> bool:
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return False
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None:
        address = address.ipv4_mapped  # from a socket for both versions
    return any(address in network for network in networks)
