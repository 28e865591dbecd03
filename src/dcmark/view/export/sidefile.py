"""The file ``view.json`` beside exported data: which pixel of which file each item was made from.

It is JSON with one item a line, so that it can be written and read however long it grows:

    {
    "format": "dcmark view",
    ...
    "items": [
    {"item": "a/b.png", "sha256": "...", "frame": 0, "to_original": [[1, 0, 0], [0, 1, 0]]},
    ...
    ]
    }

Items of one file (a stack, a zip) share ``item`` and are told apart by ``index``.
"""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO, TextIO

from dcmark.errors import SourceError, UsageError
from dcmark.view.export import reference

VIEW_FILE = "view.json"
VIEW_VERSION = 1
LONGEST_LINE = 1 << 20
"""Characters of a line of a side file; a longer one was not written by an export."""
SMALL_JSON = 16 << 20
"""JSON up to this many bytes may also be laid out in another way, such as indented by an editor."""
MOST_LOOSE_FILES = 1_000_000
_SHA256 = re.compile("[0-9a-f]{64}")
_ITEMS = '"items": ['
_LEFT_OUT = '"left_out": ['


def beside(out: Path) -> Path:
    """Where the side file of an export lies: inside its folder, or beside its file as ``NAME.view.json``."""
    return out / VIEW_FILE if out.is_dir() else out.with_name(f"{out.name}.{VIEW_FILE}")


def write(place: Path, about: Mapping[str, Any], items: Iterable[str], left_out: Iterable[str] = ()) -> None:
    """Write a side file.

    Args:
        place: the file to write.
        about: what the export is, besides its items.
        items: each a JSON object on one line.
        left_out: findings of frames that could not be exported, likewise.
    """
    with place.open("w", encoding="utf-8", newline="\n") as stream:
        stream.write("{\n" + "".join(f"{json.dumps(k)}: {json.dumps(v)},\n" for k, v in about.items()))
        stream.write(_ITEMS + "\n")
        _write_lines(stream, items)
        stream.write("],\n" + _LEFT_OUT + "\n")
        _write_lines(stream, left_out)
        stream.write("]\n}\n")


def _write_lines(stream: TextIO, lines: Iterable[str]) -> None:
    first = True
    for line in lines:
        stream.write(line if first else ",\n" + line)
        first = False
    if not first:
        stream.write("\n")


def is_view(place: Path) -> bool:
    """Is this a side file that dcmark wrote?"""
    try:
        with place.open("rb") as stream:
            return b'"format": "dcmark view"' in stream.read(1024)
    except OSError:
        return False


def originals(path: Path) -> set[bytes]:
    """SHA-256 of the files that exported data were made from.

    Args:
        path: an export folder or one of its subfolders; any folder of exported images; one exported PNG,
            JPEG, TIFF, .npy stack or zip; a side file; the CSV of an npy export. All of it is taken as
            hostile: read line by line, bounded, and validated.

    Raises:
        UsageError: nothing is there.
        SourceError: it is no export of dcmark, or its side file is not what an export writes.
    """
    if not path.exists():
        raise UsageError(f"expected exported images at {path}, found nothing; check the path")
    try:
        found = set(_of_folder(path) if path.is_dir() else _of_file(path))
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise SourceError(f"expected to read the export at {path}; found it unreadable ({reason})") from error
    if not found:
        raise SourceError(
            f"expected an export of dcmark at {path} (a folder with {VIEW_FILE}, a side file, a CSV of "
            "dcmark export npy, or images that dcmark wrote), found no reference to an original in it"
        )
    return found


def _of_folder(folder: Path) -> Iterator[bytes]:
    if (folder / VIEW_FILE).is_file():
        yield from _of_json(folder / VIEW_FILE)
        return
    for count, place in enumerate(sorted(folder.rglob("*"))):
        if count >= MOST_LOOSE_FILES:
            raise SourceError(
                f"expected at most {MOST_LOOSE_FILES} files in {folder} without {VIEW_FILE}, found more; "
                "name a smaller folder"
            )
        if place.is_file():
            with place.open("rb") as stream:
                yield from _inside(stream)


def _of_file(place: Path) -> Iterator[bytes]:
    view = beside(place)
    if view.is_file():
        yield from _of_json(view)
        return
    with place.open("rb") as stream:
        inside = list(_inside(stream))
        stream.seek(0)
        head = stream.read(4096)
    if inside:
        yield from inside
    elif head.lstrip()[:1] == b"{":
        yield from _of_json(place)
    elif place.suffix.lower() == ".csv":
        yield from _of_csv(place)
    elif place.with_name(place.name + ".json").is_file():
        yield from _of_json(place.with_name(place.name + ".json"))
    elif (place.parent / VIEW_FILE).is_file():
        yield from _of_json(place.parent / VIEW_FILE, place.name)


def _inside(stream: BinaryIO) -> Iterator[bytes]:
    found = reference.find(stream)
    if isinstance(found, dict) and "sha256" in found:
        yield _sha256(found["sha256"], "the reference inside an image")


def _of_json(place: Path, item: str | None = None) -> Iterator[bytes]:
    """SHA-256 named by a side file; only of items of one name where ``item`` is given."""
    what = place.name
    for record in _records(place):
        if item is None or record.get("item") == item:
            if "sha256" not in record:
                raise SourceError(f"expected sha256 in every item of {what}, found an item without it")
            yield _sha256(record["sha256"], what)


def _records(place: Path) -> Iterator[dict[str, Any]]:
    what = place.name
    if place.stat().st_size <= SMALL_JSON:
        parsed = _parsed(place.read_bytes(), what)
        items = parsed.get("items") if "items" in parsed else [parsed]
        if not isinstance(items, list) or not all(isinstance(item, dict) for item in items):
            raise SourceError(f"expected a list of items in {what}, found something else")
        yield from items
        return
    with place.open("rb") as stream:
        inside = False
        while line := stream.readline(LONGEST_LINE):
            text = line.strip()
            if not inside:
                inside = text == _ITEMS.encode()
            elif text.startswith(b"]"):
                return
            else:
                yield _parsed(text.removesuffix(b","), what)
    raise SourceError(f"expected {what} to hold one item a line and to end, found neither; it may be cut off")


def _parsed(text: bytes, what: str) -> dict[str, Any]:
    try:
        parsed = json.loads(text)
    except (ValueError, RecursionError):
        parsed = None
    if not isinstance(parsed, dict):
        raise SourceError(f"expected a JSON object in {what}, found something else; it may be cut off or edited")
    return parsed


def _of_csv(place: Path) -> Iterator[bytes]:
    what = place.name
    with place.open(encoding="utf-8-sig", errors="replace", newline="") as stream:
        rows = csv.reader(_bounded_lines(stream, what), strict=True)
        try:
            header = next(rows, [])
            if "sha256" not in header:
                raise SourceError(f"expected a column sha256 in {what}, found none; is it of dcmark export npy?")
            column = header.index("sha256")
            for row in rows:
                if row:
                    yield _sha256(row[column] if column < len(row) else None, what)
        except csv.Error as error:
            raise SourceError(f"expected CSV in {what}, found a line that is none ({error})") from error


def _bounded_lines(stream: TextIO, what: str) -> Iterator[str]:
    while line := stream.readline(LONGEST_LINE):
        if len(line) >= LONGEST_LINE:
            raise SourceError(f"expected lines of at most {LONGEST_LINE} characters in {what}, found a longer one")
        yield line


def _sha256(value: Any, what: str) -> bytes:
    if not isinstance(value, str) or not _SHA256.fullmatch(value):
        raise SourceError(f"expected 64 hexadecimal digits for sha256 in {what}, found something else")
    return bytes.fromhex(value)
