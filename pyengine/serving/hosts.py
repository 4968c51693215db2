"""The name that a client called the server by, and whether it is one of the server's own.

A page of another site may have its own name resolve to this machine (DNS rebinding). To the browser
the server is that site's then, and neither CORS nor the origin keeps the page out: only the Host
header tells.
"""

import ipaddress
import re
from collections.abc import Collection
from functools import lru_cache

_HOST = re.compile(r"(\[[0-9A-Fa-f:.]{2,45}\]|[^\s\[\]/@:]{1,253})(?::\d{0,5})?", re.ASCII)


@lru_cache(1024)
def name_in(header: str) -> str:
    """The name or address of a Host header, in lower case, without port and final dot; "" where it
    is none.
    """
    found = _HOST.fullmatch(header.strip())
    return found[1].strip("[]").removesuffix(".").lower() if found else ""


@lru_cache(1024)
def is_loopback(address: str) -> bool:
    """Whether it is an address that only this machine reaches."""
    try:
        found = ipaddress.ip_address(address)
    except ValueError:
        return False
    mapped = getattr(found, "ipv4_mapped", None)  # of an IPv4 client at an IPv6 socket
    return (mapped or found).is_loopback


def is_known(name: str, allowed: Collection[str]) -> bool:
    """Whether a server may be called so: an address, which no page can have resolved to another;
    localhost; or one of those that are allowed, of which "*" is any.
    """
    if "*" in allowed or name == "localhost" or name.endswith(".localhost"):
        return True
    return _is_address(name) or name in {other.lower() for other in allowed}


@lru_cache(1024)
def _is_address(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True
