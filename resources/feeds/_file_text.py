"""A vendor's file as bytes: plain, gzip or a zip with one member, CSV text or Parquet, in whatever encoding."""

from __future__ import annotations

import gzip
import hashlib
import io
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path

from resources.feeds.protocol import MalformedData, SourceMissing

_UTF16 = {b"\xff\xfe": "utf-16-le", b"\xfe\xff": "utf-16-be"}
_ARCHIVES = (".gz", ".zip")
_JUNK = ("__macosx/", ".ds_store")


@dataclass(frozen=True, slots=True, eq=False)
class Opened:
    """A file's bytes, unpacked. name: of the file itself or of the zip's member, without .gz; packed: "", gzip or zip.

    given: the name it came with; sha256: of the file as it lies there.
    """

    path: Path
    given: str
    name: str
    data: bytes
    packed: str
    sha256: str

    @property
    def kind(self) -> str:
        """``parquet`` or ``csv``, by content."""
        return "parquet" if self.data[:4] == b"PAR1" else "csv"

    @property
    def where(self) -> str:
        """How errors name it."""
        return self.given if self.packed != "zip" else f"{self.given}#{self.name}"


def open_file(path: Path, given: str = "") -> Opened:
    """Read a file whole, unpacked. given: the name it came with, when it has another now.

    Raises SourceMissing, MalformedData when it is torn, empty or holds several files.
    """
    try:
        data = path.read_bytes()
    except FileNotFoundError as error:
        raise SourceMissing(f"{path}: no such file") from error
    except OSError as error:
        raise SourceMissing(f"{path}: cannot be read ({error.strerror})") from error
    given = given or path.name
    name, packed, digest = given, "", hashlib.sha256(data).hexdigest()
    try:
        if data[:2] == b"\x1f\x8b":
            data, packed = gzip.decompress(data), "gzip"
            name = name[:-3] if name.lower().endswith(".gz") else name
        elif data[:4] == b"PK\x03\x04":
            name, data, packed = *_only_member(given, data), "zip"
    except (OSError, EOFError, zlib.error, zipfile.BadZipFile, NotImplementedError, RuntimeError) as error:
        raise MalformedData(f"{given}: not a whole {_packing(path)} file ({error}); fetch it again") from error
    if not data.strip(b"\x00 \t\r\n"):
        raise MalformedData(f"{given}: empty, expected rows of bars")
    return Opened(path, given, name, data, packed, digest)


def _packing(path: Path) -> str:
    return path.suffix.lstrip(".").lower() if path.suffix.lower() in _ARCHIVES else "packed"


def _only_member(given: str, data: bytes) -> tuple[str, bytes]:
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        members = [m for m in archive.namelist() if not m.endswith("/") and not m.lower().startswith(_JUNK[0])]
        members = [m for m in members if not m.lower().endswith(_JUNK[1])]
        if len(members) != 1:
            shown = ", ".join(members[:5]) + (", ..." if len(members) > 5 else "")
            raise MalformedData(
                f"{given}: holds {len(members)} files ({shown or 'none'}), expected one; unpack it and drop those you mean: "
                "reading every member could double the bars"
            )
        return members[0].rpartition("/")[2], archive.read(members[0])


def decode(opened: Opened, encoding: str | None) -> tuple[bytes, str]:
    """(UTF-8 bytes with \\n line ends and no byte order mark, encoding of the file).

    encoding: the profile's, or None to detect it: UTF-16 by its mark or its zero bytes, else UTF-8. Raises MalformedData
    when neither fits, naming the line.
    """
    data = opened.data
    found = encoding or _UTF16.get(data[:2]) or _bare_utf16(data) or "utf-8"
    if found in ("utf-8", "utf-8-sig", "ascii"):
        data = data.removeprefix(b"\xef\xbb\xbf")
        if not data.isascii():
            try:
                data.decode("utf-8")
            except UnicodeDecodeError as error:
                line = data.count(b"\n", 0, error.start) + 1
                hint = "" if encoding else "; add the encoding to the profile, for example `encoding: cp1252`"
                raise MalformedData(
                    f"{opened.where} line {line}: byte {data[error.start]:#04x} is not UTF-8 text{hint}"
                ) from None
    else:
        try:
            data = data.decode(found).lstrip("\ufeff").encode()
        except UnicodeDecodeError as error:
            raise MalformedData(f"{opened.where}: not {found} text ({error.reason} at byte {error.start})") from None
    if b"\x00" in data[:4096]:
        raise MalformedData(f"{opened.where}: not text; expected CSV or Parquet (a Parquet file begins with PAR1)")
    if b"\r" in data:
        data = data.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
    return data, found


def _bare_utf16(data: bytes) -> str | None:
    """UTF-16 of plain text without a mark: every second byte is zero."""
    head = data[:400]
    if len(head) >= 20 and head[1::2].count(0) == len(head[1::2]) and head[::2].count(0) == 0:
        return "utf-16-le"
    return None


def sha256_of(path: Path) -> str:
    """SHA-256 of the file's bytes as they lie there. Raises OSError."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
