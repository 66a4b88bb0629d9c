"""The Host headers that the API accepts.

A foreign web page can have its own name resolve to this machine (DNS rebinding). To the browser its requests to the API
are then of the same origin; they carry that name as their Host."""

import ipaddress
import re
from typing import NamedTuple

from bdlab.errors import SettingsInvalid

ANY = "*"
LOOPBACK = ("localhost", "127.0.0.1", "[::1]")
DEFAULT_PORTS = {"http": 80, "https": 443}
_HOST = re.compile(r"(\[[0-9a-f:.]+\]|[0-9a-z_-]+(?:\.[0-9a-z_-]+)*)\.?(?::([0-9]{1,5}))?")


class Host(NamedTuple):
    """A name or address in lower case, IPv6 in brackets; `port` is None if none was named."""

    name: str
    port: int | None


def parse(text: str) -> Host | None:
    """Parse a Host header (RFC 9110, 7.2): a name or address, maybe with a port; else return None."""
    found = _HOST.fullmatch(text.lower())
    if not found:
        return None
    name, port = found[1], int(found[2]) if found[2] else None
    if name.startswith("["):
        try:
            name = f"[{ipaddress.IPv6Address(name[1:-1])}]"
        except ValueError:
            return None
    return Host(name, port) if port is None or 1 <= port <= 65535 else None


def is_loopback(address: str) -> bool:
    """Return whether a socket bound to this numeric `address` can be reached from this machine only."""
    return ipaddress.ip_address(address).is_loopback


def is_this_machine(name: str) -> bool:
    """Return whether a name or address, as in a setting or a URL, can mean nothing but this machine."""
    try:
        return name == "localhost" or is_loopback(name)
    except ValueError:  # another name
        return False


class AllowedHosts:
    """The names of the setting `http.allowed_hosts`; by default those of this machine and the API's address. `bound` is
    the address that the API listens on."""

    def __init__(self, listed: str, *, bound: str, section: str = "http") -> None:
        """Parse the entries of `listed`, separated by commas. Raises SettingsInvalid if one is no host."""
        entries = [entry.strip() for entry in listed.split(",") if entry.strip()]
        self.listed, self._any = bool(entries), ANY in entries
        self._hosts = set()
        for entry in entries or LOOPBACK:
            if host := parse(entry):
                self._hosts.add(host)
            elif entry != ANY:
                raise SettingsInvalid(
                    f"setting {section}.allowed_hosts: {entry!r} is neither a host name nor an address",
                    hint="Write names and addresses with commas, each with or without :port, IPv6 in brackets, "
                    "other letters than ASCII as xn--...: app.example.org,10.0.0.5:8000,[fd00::5]",
                )
        own = parse(f"[{bound}]" if ":" in bound else bound)
        if own and not entries:
            self._hosts.add(own)

    def __contains__(self, host: Host | None) -> bool:
        return host is not None and (self._any or not self._hosts.isdisjoint((host, Host(host.name, None))))
