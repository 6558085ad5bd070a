"""Finding data files: in the user's own folder, in the cache, or on a public mirror."""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from hybridopt.core import DataError

DATA_VARIABLE = "HYBRIDOPT_DATA"
"""Environment variable that names a folder with data files that are already there."""

_TIMEOUT = 30.0


@dataclass(frozen=True)
class DataFile:
    """A published file, known by its checksum.

    Args:
        folder: Sub-folder that it lies in, below ``HYBRIDOPT_DATA`` and below the cache, e.g. ``"mnist"``.
        name: Its canonical file name.
        sha256: SHA-256 of its bytes, in hexadecimal.
        mirrors: Base URLs, each ending in a slash, tried in this order.
    """

    folder: str
    name: str
    sha256: str
    mirrors: tuple[str, ...] = ()


def locate(file: DataFile, *, cache: Path | None = None) -> Path:
    """Returns the path of a verified copy of the file, fetching it when it is not at hand.

    With the environment variable ``HYBRIDOPT_DATA=DIR`` set, the file is ``DIR/<folder>/<name>`` and nothing is
    ever fetched. Otherwise it comes from the cache, or from the first mirror that has it.

    Args:
        file: Which file.
        cache: Folder to keep fetched files in; default: the user's cache folder for this package.

    Raises:
        DataError: If the file is missing, has another checksum, or no mirror could be reached.
    """
    given = os.environ.get(DATA_VARIABLE)
    return _given(file, Path(given).expanduser()) if given else _fetched(file, cache)


def _given(file: DataFile, directory: Path) -> Path:
    path = directory / file.folder / file.name
    if not path.is_file():
        raise DataError(
            f"{path} does not exist, and {DATA_VARIABLE}={directory} says that the data is there. Put {file.name} "
            f"into the sub-folder {file.folder}, or unset {DATA_VARIABLE} to have it fetched."
        )
    try:
        with path.open("rb") as stream:
            found = hashlib.file_digest(stream, "sha256").hexdigest()
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error.strerror}). Check its permissions.") from error
    if found != file.sha256:
        raise DataError(
            f"{path} is damaged or another version: its SHA-256 is {found}, not {file.sha256}. Replace it by the "
            f"canonical file, or unset {DATA_VARIABLE} to have that fetched."
        )
    return path


def _fetched(file: DataFile, cache: Path | None) -> Path:
    # Imported here: tasks that need no file must not pay for it, nor need it.
    import pooch
    import requests

    folder = (Path(pooch.os_cache("hybridopt")) if cache is None else cache) / file.folder
    reasons = []
    for mirror in file.mirrors:
        url = mirror + file.name
        try:
            with _quiet():
                downloader = pooch.HTTPDownloader(progressbar=False, timeout=_TIMEOUT)
                return Path(pooch.retrieve(url, f"sha256:{file.sha256}", file.name, folder, downloader=downloader))
        # Before OSError and ValueError, of which requests' own errors are kinds.
        except requests.RequestException as error:
            reasons.append(f"{url}: {_reason(error)}")
        except OSError as error:
            raise DataError(
                f"{folder} cannot be written ({error.strerror or error}), so {file.name} cannot be kept there. Make "
                f"it writable, or set {DATA_VARIABLE}=DIR to a folder that holds {file.folder}/{file.name}."
            ) from error
        except ValueError as error:
            if "hash" not in str(error):
                raise
            reasons.append(f"{url}: wrong checksum, not kept")
    tried = "; ".join(reasons) or "it has no mirror"
    raise DataError(
        f"{file.name} of {file.folder} is not in {folder} and could not be fetched ({tried}). Without a network, put "
        f"the file at DIR/{file.folder}/{file.name} and set {DATA_VARIABLE}=DIR; otherwise check the connection or "
        "proxy and try again."
    )


def _reason(error: Exception) -> str:
    response = getattr(error, "response", None)
    if response is not None:
        return f"HTTP status {response.status_code}"
    return "timed out" if "timed out" in str(error).lower() else "no connection"


@contextmanager
def _quiet() -> Iterator[None]:
    """Keeps pooch's announcements out of the console, and leaves its logger as it was."""
    import pooch

    logger = pooch.get_logger()
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)
