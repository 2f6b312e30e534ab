"""`python loopback.py SCRIPT ARGUMENTS...`: runs a script that may reach this machine and nothing else.

Whatever it tries to reach beyond loopback, by name or by address, is refused before a byte leaves, and a line about it
goes into the file that `CONTACTS` names. A socket of the file system is no way out.
"""

from __future__ import annotations

import ipaddress
import os
import runpy
import sys

# Where in the arguments of these events the address is, or the host of one.
_PLACES = {
    "socket.connect": 1,
    "socket.sendto": 1,
    "socket.sendmsg": 1,
    "socket.getaddrinfo": 0,
    "socket.gethostbyname": 0,
}


def watch(event: str, arguments: tuple[object, ...]) -> None:
    if event not in _PLACES:
        return
    address = arguments[_PLACES[event]]
    host = address[0] if isinstance(address, tuple) else address if event.startswith("socket.get") else None
    if isinstance(host, bytes):
        host = host.decode()
    if isinstance(host, str) and not is_loopback(host):
        with open(os.environ["CONTACTS"], "a") as contacts:
            contacts.write(f"{event} {host}\n")
        raise PermissionError(f"{host} is not on this machine")


def is_loopback(host: str) -> bool:
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


if __name__ == "__main__":
    sys.addaudithook(watch)
    sys.argv = sys.argv[1:]
    runpy.run_path(sys.argv[0], run_name="__main__")
