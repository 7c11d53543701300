"""Python imports this file at start-up in every child process of the tests: it closes the network there too.

Any attempt to reach, or to look up, an address beyond this machine raises; in the test process it is also
noted, so that code which swallows the error fails its test all the same.
"""

import ipaddress
import socket
import sys

attempts = []


def is_local(host):
    if isinstance(host, (bytes, bytearray)):
        host = host.decode("ascii", "replace")
    if host in (None, "", "localhost", "0.0.0.0", "::", socket.gethostname()):
        return True
    try:
        return ipaddress.ip_address(host.partition("%")[0]).is_loopback
    except ValueError:
        return False


def refuse(event, arguments):
    if event in ("socket.connect", "socket.sendto", "socket.sendmsg"):
        address = arguments[1]
        host = address[0] if isinstance(address, tuple) else None  # None: a Unix socket, or a connected one
    elif event in ("socket.getaddrinfo", "socket.gethostbyname"):
        host = arguments[0]
    else:
        return
    if not is_local(host):
        attempts.append(f"{event} {host}")
        raise PermissionError(f"tests do not use the network: {event} {host}")


sys.addaudithook(refuse)
