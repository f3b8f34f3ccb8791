"""Open packed, piped and partitioned files in any encoding; refuse other kinds by name."""

import bz2
import codecs
import contextlib
import gzip
import io
import lzma
import os
import re
import shlex
import shutil
import stat
import sys
import tempfile
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath
from typing import IO, Any

from recommender.errors import InputError

# First bytes of packed files, and their endings.
_PACKED = {
    b"\x1f\x8b": "gzip",
    b"BZh": "bzip2",
    b"\xfd7zXZ\x00": "xz",
    b"\x28\xb5\x2f\xfd": "zstd",
    b"\x04\x22\x4d\x18": "lz4",
    b"PK\x03\x04": "zip",
}
ENDINGS = ("", ".gz", ".zip", ".zst", ".bz2", ".xz", ".lz4")
# Limit of nested packings.
_LAYERS = 3
_HEAD = 4096

# First bytes of unsupported files: their name, the remedy. {path} is quoted.
_PANDAS = (
    "Write it as Parquet: {python} -c 'import pandas, sys; "
    'pandas.{read}(sys.argv[1]).to_parquet("ratings.parquet")\' {path}'
)
_FOREIGN = {
    b"sqlite format 3\x00": ("an SQLite database", "Say --data sqlite:///{absolute} --table NAME"),
    b"version https://git-lfs": ("a pointer of Git LFS", "Fetch the file itself: git lfs pull"),
    b"<!doctype html": ("a web page", "Download the file itself; some sites want a login first"),
    b"<html": ("a web page", "Download the file itself; some sites want a login first"),
    b"<?xml": ("XML", "Write it as CSV, one rating a line"),
    b"\xd0\xcf\x11\xe0": ("an Excel workbook", "Save it in Excel as 'CSV UTF-8'"),
    b"%pdf": ("a PDF", "Write it as CSV, one rating a line"),
    b"7z\xbc\xaf\x27\x1c": ("a 7-Zip archive", "Unpack it: 7z x {path}"),
    b"rar!": ("a RAR archive", "Unpack it: unrar x {path}"),
    b"\x1f\x9d": ("packed by compress", "Unpack it: uncompress {path}"),
    b"arrow1": ("an Arrow (Feather) file", _PANDAS.replace("{read}", "read_feather")),
    b"orc": ("an ORC file", _PANDAS.replace("{read}", "read_orc")),
    b"obj\x01": ("an Avro file", "Write it as Parquet or CSV"),
    b"\x89hdf": ("an HDF5 file", "Write it as Parquet or CSV"),
    b"\x93numpy": ("a NumPy array", "Write it as CSV, one rating a line"),
    **dict.fromkeys(
        (b"\x80\x02", b"\x80\x03", b"\x80\x04\x95", b"\x80\x05\x95"),
        ("a pickle, which can run code", "Write it as Parquet or CSV where it was made"),
    ),
    b"$fl2@(#)": ("an SPSS file", "Save it in SPSS as CSV"),
    b"<stata_dta>": ("a Stata file", _PANDAS.replace("{read}", "read_stata")),
    b"matlab 5.0 mat-file": ("a MATLAB file", "Write it as CSV, one rating a line"),
    b"matlab 7.3 mat-file": ("a MATLAB file", "Write it as CSV, one rating a line"),
    b"%%matrixmarket": (
        "a Matrix Market file",
        "Write it as CSV: {python} -c 'import pandas, scipy.io, sys; "
        "m = scipy.io.mmread(sys.argv[1]).tocoo(); "
        'pandas.DataFrame({{"userId": m.row + 1, "movieId": m.col + 1, "rating": m.data}})'
        '.to_csv("ratings.csv", index=False)\' {path}',
    ),
}


@dataclass(frozen=True)
class File:
    """A file to read.

    `path` is the place of its bytes, `shown` its name in messages, `name` its name without the packing's
    ending. `layers` are its packings, outermost first. `head` are its first unpacked bytes. `kept` holds a
    temporary file open.
    """

    path: Path
    shown: str
    name: str
    layers: tuple[str, ...] = ()
    head: bytes = b""
    kept: Any = field(default=None, repr=False)

    def open(self) -> IO[bytes]:
        """Open the unpacked bytes."""
        stream: IO[bytes] = self.path.open("rb")
        for layer in self.layers:
            stream = _unpacked(stream, layer)
        return stream

    def text(self, encoding: str) -> IO[str]:
        """Open the text without translating line ends."""
        return io.TextIOWrapper(self.open(), encoding=encoding, newline="")

    def refuse_packed(self) -> None:
        """Raise InputError with the unpacking command if a command in a message would need plain text."""
        if not self.layers:
            return
        quoted, target = shlex.quote(self.shown), "ratings-unpacked.csv"
        command = (
            f"{self.layers[0].replace('zstd', 'zstd -q')} -dc < {quoted} > {target}, then say --data {target}"
        )
        if self.layers[0] == "zip":
            command = f"{shlex.quote(sys.executable)} -m zipfile -e {quoted} ., then give --data the file"
        raise InputError(f"{self.shown}: this file must be changed, but is packed. Unpack it: {command}.")

    def on_disk(self) -> "File":
        """Unpack a packed file into a temporary one: Parquet's end is read first."""
        if not self.layers:
            return self
        with sound(self), self.open() as stream:
            kept = _spooled(stream)
        return replace(self, path=Path(kept.name), layers=(), kept=kept)


def examine(path: Path) -> File:
    """Inspect a file's first bytes. Raises InputError for unreadable and unsupported files."""
    shown = str(path)
    file = File(path, shown, path.name)
    with sound(file):
        # Ratings are read twice (header, then all), a pipe only once.
        if not stat.S_ISREG(path.stat().st_mode) or re.fullmatch(r"/dev/(stdin|fd/\d+)", shown):
            with path.open("rb") as stream:
                if stream.isatty():
                    raise InputError(f"{path}: a terminal. Pipe a file into it, or name one with --data.")
                kept = _spooled(stream)
            file = replace(file, path=Path(kept.name), name="pipe", kept=kept)
        for _ in range(_LAYERS):
            with file.open() as stream:
                head = stream.read(_HEAD)
                layer = next((kind for magic, kind in _PACKED.items() if head.startswith(magic)), None)
                if layer == "bzip2" and head[4:10] != b"1AY&SY":
                    layer = None
                name = file.name
                if layer == "zip":
                    name = _only_member(stream, file)
            file = replace(file, head=head)
            if layer is None:
                break
            if layer != "zip" and PurePosixPath(name).suffix.lower() in ENDINGS[1:]:
                name = PurePosixPath(name).stem
            file = replace(file, name=name, layers=(*file.layers, layer))
    _refuse_foreign(file)
    return file


def _spooled(stream: IO[bytes]) -> Any:
    kept = tempfile.NamedTemporaryFile(prefix="recommender-")  # noqa: SIM115
    shutil.copyfileobj(stream, kept, 2**20)
    kept.flush()
    return kept


def _members(archive: zipfile.ZipFile) -> list[str]:
    """Return the files of an archive, without folders and macOS's additions."""
    return [
        each.filename
        for each in archive.infolist()
        if not each.is_dir()
        and not each.filename.startswith("__MACOSX/")
        and not PurePosixPath(each.filename).name.startswith(".")
    ]


def _only_member(stream: IO[bytes], file: File) -> str:
    with zipfile.ZipFile(stream) as archive:
        members = _members(archive)
        if any(name.startswith("xl/") for name in members):
            raise InputError(f"{file.shown}: an Excel workbook. Save it in Excel as 'CSV UTF-8'.")
        if "content.xml" in members:
            raise InputError(f"{file.shown}: a LibreOffice document. Save it there as CSV.")
        if len(members) != 1:
            folder = Path(file.shown).with_suffix("")
            held = ", ".join(members[:10]) or "nothing"
            inner = {str(PurePosixPath(name).parent) for name in members}
            place = folder / inner.pop() if len(inner) == 1 else folder
            raise InputError(
                f"{file.shown}: {len(members)} files in one archive ({held}), and one is read. Unpack it: "
                f"{shlex.quote(sys.executable)} -m zipfile -e {shlex.quote(file.shown)} "
                f"{shlex.quote(str(folder))}, then say "
                f"--data {shlex.quote(str(place))}, or the ratings file there."
            )
        return PurePosixPath(members[0]).name


def _unpacked(stream: IO[bytes], layer: str) -> Any:
    opened: Any
    if layer == "gzip":
        opened = gzip.GzipFile(fileobj=stream)
    elif layer == "bzip2":
        opened = bz2.BZ2File(stream)
    elif layer == "xz":
        opened = lzma.LZMAFile(stream)  # noqa: SIM115
    elif layer == "zip":
        archive = zipfile.ZipFile(stream)
        opened = archive.open(_members(archive)[0])
    else:
        import pyarrow as pa

        opened = io.BufferedReader(pa.CompressedInputStream(pa.PythonFile(stream, "r"), layer), 2**16)
    return opened


def _refuse_foreign(file: File) -> None:
    head = file.head.removeprefix(codecs.BOM_UTF8).lstrip().lower()
    found = next((known for magic, known in _FOREIGN.items() if head.startswith(magic)), None)
    quoted = shlex.quote(file.shown)
    if file.head[257:262] == b"ustar":
        found = ("a tar archive", "Unpack it: tar -xf {path}, then name the ratings file with --data")
    if found is None:
        return
    what, remedy = found
    remedy = remedy.format(
        path=quoted, absolute=shlex.quote(os.path.abspath(file.shown)), python=shlex.quote(sys.executable)
    )
    raise InputError(f"{file.shown}: this is {what}. {remedy}.")


@contextlib.contextmanager
def sound(file: File) -> Iterator[None]:
    """Turn errors of the system and the unpackers into InputError."""
    try:
        yield
    except (EOFError, zlib.error, lzma.LZMAError, gzip.BadGzipFile, zipfile.BadZipFile) as error:
        raise _damaged(file, error) from error
    except (RuntimeError, NotImplementedError) as error:
        # zipfile's errors for a password and an unknown packing.
        if "zip" not in file.layers and not zipfile.is_zipfile(file.path):
            raise
        raise InputError(
            f"{file.shown}: {error}. Unpack it: unzip {shlex.quote(file.shown)}, then give --data the file."
        ) from error
    except OSError as error:
        if error.errno is None:
            raise _damaged(file, error) from error
        if error.filename is not None and str(error.filename) != str(file.path):
            raise InputError(
                f"{error.filename}: {error.strerror}. Set TMPDIR to a folder with room."
            ) from error
        raise InputError(
            f"{file.shown}: {error.strerror or error}. Give --data a file that you can read."
        ) from error


def _damaged(file: File, error: Exception) -> InputError:
    return InputError(f"{file.shown}: damaged or cut off ({error}). Copy or download it again.")


# Encodings


def encoding_of(file: File, named: str, setting: str) -> str:
    """Return Python's name of the encoding; a byte order mark decides unless `named` disagrees.

    `setting` is the flag in messages.
    Raises InputError for an unknown encoding, and for UTF-16 without a mark read as UTF-8.
    """
    try:
        known = codecs.lookup(named)
        "".encode(named)
        if not getattr(known, "_is_text_encoding", True):
            raise LookupError
    # A custom encoding may raise anything.
    except (LookupError, UnicodeError, ValueError) as error:
        raise InputError(
            f"{named!r} is not an encoding that Python knows. Name one, as "
            f"{setting} utf-8 or latin-1 ({_key(setting)})."
        ) from error
    name, head = known.name, file.head
    if name in ("utf-8", "utf-8-sig"):
        # Otherwise a spreadsheet's mark becomes part of a column's name.
        if head.startswith((codecs.BOM_UTF32_LE, codecs.BOM_UTF32_BE)):
            return "utf-32"
        if head.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
            return "utf-16"
        if b"\0" in head[:2] and len(head) > 3:
            # Latin text in UTF-16: every other byte is NUL
            ends = "be" if head[0] == 0 else "le"
            if set(head[0 if ends == "be" else 1 : 64 : 2]) == {0}:
                raise InputError(
                    f"{file.shown}: UTF-16 without its mark. Say {setting} utf-16-{ends} ({_key(setting)})."
                )
        return "utf-8-sig"
    for family in ("utf-16", "utf-32"):
        marks = [codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE]
        if family == "utf-32":
            marks = [codecs.BOM_UTF32_LE, codecs.BOM_UTF32_BE]
        if name.startswith(family) and head.startswith(tuple(marks)):
            return family
    return name


def binary(file: File) -> InputError:
    """Return the error for a binary file."""
    return InputError(f"{file.shown}: a binary file. Write it as CSV or Parquet where it was made.")


def _key(setting: str) -> str:
    return f"data.{setting.removeprefix('--').replace('-', '_')}"


def undecodable(file: File, encoding: str, setting: str) -> InputError:
    """Return the error for the first line with invalid bytes."""
    if b"\0" in file.head.partition(b"\n")[0] and not encoding.startswith(("utf-16", "utf-32")):
        return binary(file)
    shown = "utf-8" if encoding == "utf-8-sig" else encoding
    with file.open() as stream, contextlib.suppress(UnicodeError):
        for number, line in enumerate(stream, start=1):
            try:
                line.decode(encoding)
            except UnicodeDecodeError as error:
                return InputError(
                    f"{file.shown}, line {number}: byte 0x{line[error.start]:02x} is not {shown}. "
                    f"Name the file's encoding, for instance {setting} latin-1 ({_key(setting)}), or save it "
                    "as UTF-8."
                )
    return InputError(
        f"{file.shown}: not {shown}. Name the file's encoding, "
        f"for instance {setting} latin-1 ({_key(setting)})."
    )


# Folders written by Spark, Dask and similar tools


# Tables with a log, by the log's folder.
_LOGS = {"_delta_log": "delta", ".hoodie": "hudi"}


def is_marked(folder: Path) -> bool:
    """Check that a folder's name or its marker files show a table."""
    return folder.suffix in (".parquet", ".pq", ".csv", ".json") or any(
        (folder / name).exists() for name in ("_SUCCESS", "_metadata", "_common_metadata", "_temporary")
    )


def parts(folder: Path) -> list[Path]:
    """Return the files of a table written as a folder, in order; empty for other folders.

    Raises InputError for an unfinished table, and for one whose log selects the files.
    """
    for log, kind in _LOGS.items():
        if (folder / log).is_dir():
            raise InputError(
                f"{folder}: a {kind.capitalize()} table, where files of older versions are kept. Write it "
                f"as plain Parquet, in Spark by spark.read.format({kind!r}).load({os.path.abspath(folder)!r})"
                ".write.parquet('ratings.parquet'), then say --data ratings.parquet."
            )
    found = list(_visible(folder))
    marked = is_marked(folder)
    partitioned = any(path.parent != folder for path in found)
    named = [path for path in found if path.name.startswith(("part-", "part."))]
    chosen = named or (found if marked or partitioned else [])
    if (folder / "_temporary").exists() and not (folder / "_SUCCESS").exists():
        raise InputError(f"{folder}: the job that writes it has not finished. Wait for it, or run it again.")
    # Spark writes empty files for empty parts.
    return [path for path in chosen if path.stat().st_size] or chosen[:1]


def _visible(folder: Path) -> Iterator[Path]:
    for path in sorted(folder.iterdir()):
        if path.name.startswith(("_", ".")):
            continue
        if path.is_file():
            yield path
        elif path.is_dir() and "=" in path.name:
            yield from _visible(path)
