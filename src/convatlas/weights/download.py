"""Fetch one file and know that it is whole: over http(s), by the standard library, never unpickled here.

A proxy is taken from the environment (`https_proxy`, `no_proxy`), as urllib does it. An answer from https may not
lead on to plain http.
"""

from __future__ import annotations

import hashlib
import http.client
from dataclasses import dataclass
from email.message import Message
from pathlib import Path
from typing import IO, Any, BinaryIO
from urllib.error import HTTPError, URLError
from urllib.request import HTTPRedirectHandler, Request, build_opener

from convatlas import __version__
from convatlas.files import write_durable

PIECE = 2**20  # bytes
SILENCE = 30.0  # seconds without a byte, after which a server is given up
MAX_BYTES = 16 * 2**30


class NotFetched(Exception):  # noqa: N818
    """Why a file could not be had, as the end of a sentence."""


@dataclass(frozen=True)
class Received:
    """What arrived: SHA-256 and size of the file, and whether the server's own hash confirms it."""

    sha256: str
    size: int
    confirmed: bool


class _Redirects(HTTPRedirectHandler):
    """Follows redirects, and keeps what the hub says of a large file before it leads to where that lies."""

    def __init__(self) -> None:
        self.linked: dict[str, str] = {}

    def note(self, headers: Message) -> None:
        for name in ("X-Linked-ETag", "X-Linked-Size"):
            if value := headers.get(name):
                self.linked.setdefault(name, value.strip().removeprefix("W/").strip('"'))

    def redirect_request(
        self, req: Request, fp: IO[bytes], code: int, msg: str, headers: Any, newurl: str
    ) -> Request | None:
        problem = ""
        if not newurl.startswith(("https://", "http://")):
            problem = "the server leads to something that is neither http nor https"
        elif req.full_url.startswith("https:") and not newurl.startswith("https:"):
            problem = "the server leads from https to a connection that is not encrypted"
        if problem:
            fp.close()
            raise NotFetched(problem)
        self.note(headers)
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def download(url: str, target: Path, *, sha256: str = "", silence: float = SILENCE) -> Received:
    """Write the file at `url` to `target`, whole and checked, or not at all.

    Args:
        url: http or https.
        target: the file to write, in a folder that exists.
        sha256: how the SHA-256 must begin; where empty, the hash and the size in the hub's headers are held, if
            there are any.
        silence: seconds without a byte before the server is given up.

    Raises:
        NotFetched: no connection, an error of the server, too few bytes, or others than the hash says.
        ResourceError: the disk refuses.
    """
    if not url.startswith(("https://", "http://")):
        raise NotFetched("only http and https are spoken")
    redirects = _Redirects()
    request = Request(url, headers={"User-Agent": f"convatlas/{__version__}", "Accept-Encoding": "identity"})  # noqa: S310
    received: list[Received] = []

    def write(file: BinaryIO) -> None:
        received.append(_receive(response, file, redirects.linked, sha256))

    try:
        with build_opener(redirects).open(request, timeout=silence) as response:
            redirects.note(response.headers)
            write_durable(target, write)
    except HTTPError as error:
        error.close()
        raise NotFetched(f"the server answers {error.code} {error.reason}") from error
    except TimeoutError as error:
        raise NotFetched(f"the server was silent for {silence:g} s") from error
    except URLError as error:
        silent = isinstance(error.reason, TimeoutError)
        raise NotFetched(
            f"the server was silent for {silence:g} s"
            if silent
            else f"there is no connection ({error.reason})"
        ) from error
    except (http.client.HTTPException, ConnectionError) as error:
        raise NotFetched(f"the connection broke ({error or type(error).__name__})") from error
    return received[0]


def _receive(response: Any, file: BinaryIO, linked: dict[str, str], begins: str) -> Received:
    """Copy the answer into the file; raise `NotFetched` unless it is what was announced."""
    announced = linked.get("X-Linked-Size") or response.headers.get("Content-Length") or ""
    size = int(announced) if announced.isdecimal() else None
    if size is not None and size > MAX_BYTES:
        raise NotFetched(f"the file has {size:,} bytes; at most {MAX_BYTES:,} are taken")
    digest, count = hashlib.sha256(), 0
    while piece := response.read(PIECE):
        count += len(piece)
        if count > (MAX_BYTES if size is None else size):
            raise NotFetched("more bytes arrived than were announced")
        digest.update(piece)
        file.write(piece)
    if size is not None and count < size:
        raise NotFetched(f"it was cut short: {count:,} of {size:,} bytes arrived")
    found, theirs = digest.hexdigest(), linked.get("X-Linked-ETag", "").lower()
    expected = begins or (theirs if len(theirs) == 64 else "")
    if not found.startswith(expected):
        raise NotFetched(
            f"its SHA-256 begins with {found[:16]}, not with {expected[:16]}: it is another file"
        )
    return Received(found, count, bool(expected))
