"""The user's data folder, and downloads into it that go on where they stopped."""

from __future__ import annotations

import hashlib
import os
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path

from trajectories.errors import UserError

SOCKET_TIMEOUT_S = 30
CHUNK_BYTES = 1 << 20

Progress = Callable[[int, int], None]
"""Is called with (bytes so far, bytes in all; 0 if unknown)."""


def data_folder(environment: str) -> Path:
    """Where installed data of an environment live: below `$CONCERTO_DATA`, else in the user's data folder."""
    default = Path(os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share") / "concerto"
    return Path(os.environ.get("CONCERTO_DATA") or default) / environment


def download_file(
    url: str, target: Path, *, instead: str, sha256: str | None = None, progress: Progress = lambda done, total: None
) -> None:
    """Fetch `url` to `target`, unless it is there. What an earlier, interrupted call has fetched is not fetched again.

    Args:
        instead: what a user without a network is told to do; the end of the error's line.
        sha256: hexadecimal hash that the file must have; None where none is known.

    Raises:
        UserError: no network, the server refuses, or the file has another hash (it is removed then).
    """
    if target.exists():
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name(f"{target.name}.part")
    try:
        _fetch(url, part, progress)
        if sha256 is not None and (found := _sha256(part)) != sha256:
            part.unlink()
            raise OSError(f"its SHA-256 is {found[:16]}… instead of {sha256[:16]}…")
    except OSError as error:
        reason = getattr(error, "reason", error)
        raise UserError(f"cannot download {target.name} from {url} ({reason}); {instead}") from error
    part.rename(target)


def _fetch(url: str, part: Path, progress: Progress) -> None:
    """Append to `part` what is missing of the file at `url`. Raises OSError."""
    have = part.stat().st_size if part.exists() else 0
    request = urllib.request.Request(url, headers={"Range": f"bytes={have}-"} if have else {})
    try:
        response = urllib.request.urlopen(request, timeout=SOCKET_TIMEOUT_S)
    except urllib.error.HTTPError as error:
        if error.code == 416 and have:  # nothing beyond what we have: it was complete
            return
        raise
    with response:
        if response.headers.get_content_type() == "text/html":  # a page about quotas, viruses or logging in
            raise OSError("the server sent a web page, not the file")
        resumed = response.status == 206
        done = have if resumed else 0
        rest = int(response.headers.get("Content-Length") or 0)
        total = done + rest if rest else 0
        with part.open("ab" if resumed else "wb") as file:
            while chunk := response.read(CHUNK_BYTES):
                file.write(chunk)
                done += len(chunk)
                progress(done, total)
    if done < total:
        raise OSError(f"the connection ended after {done} of {total} bytes; run the same command to go on")


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
