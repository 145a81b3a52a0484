"""Text of a file, in UTF-8 or not at all."""

from __future__ import annotations

from pathlib import Path

from transfer.errors import DataError


def read_text(path: Path) -> str:
    """The whole text of a file; a byte order mark at its start is dropped, line ends are kept.

    Raises:
        DataError: the file is not UTF-8, or is not text; names the line of the first bad byte.
    """
    data = path.read_bytes()
    if data.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise DataError(
            f"{path}, line 1: not UTF-8 (it is UTF-16)",
            hint=f"iconv -f UTF-16 -t UTF-8 {path} > utf8{path.suffix}",
        )
    zero = data.find(b"\0")
    if zero >= 0:
        line = data.count(b"\n", 0, zero) + 1
        raise DataError(
            f"{path}, line {line}: not a text file (a zero byte at offset {zero})",
            hint=f"a {path.suffix} file holds text; a renamed parquet or zip file needs its own suffix",
        )
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        # utf-8-sig reports positions after the mark it dropped; counting lines only needs what comes before.
        line = data.count(b"\n", 0, error.start) + 1
        raise DataError(
            f"{path}, line {line}: not UTF-8 (byte 0x{data[error.start]:02x})",
            hint=f"iconv -f WINDOWS-1252 -t UTF-8 {path} > utf8{path.suffix}",
        ) from error
