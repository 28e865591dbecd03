"""One DICOM file under a policy: which bytes stay, which go, which become others.

The data set is never decoded and written anew. Elements that stay are copied as runs of the original's bytes, so that
nothing changes but what the policy says; pixel data is not touched. The result is a list of pieces, copies and new
bytes: both the clean file and the way back (``vault``) are made from it.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Callable

from dcmark.config import LIMITS, Limits
from dcmark.deid.mapping import Identities
from dcmark.deid.pieces import Change, Clean, Copy, Draft, Mark, Offset, joined, size
from dcmark.deid.profile import META_KEPT, PATIENT_ID, PATIENT_NAME, Action, Profile
from dcmark.deid.values import IDENTIFYING, dictionary_vr, document, dummy, header, valued
from dcmark.errors import HeldBackError
from dcmark.read.dicom import DEFLATED, data_set_encoding, inflate, read_meta
from dcmark.read.elements import (
    ITEM,
    ITEM_END,
    PIXEL_TAGS,
    SEQUENCE_END,
    UNDEFINED,
    Element,
    Encoding,
    MalformedError,
    read_element,
    skip_items,
)
from dcmark.standard.confidentiality import BASIC, OPTIONS

__all__ = ["Change", "Clean", "Copy", "deidentify", "dictionary_vr", "dummy"]

Seal = Callable[[bytes, str], tuple[bytes, str]]
"""Encrypts a data set in a transfer syntax; gives that and the transfer syntax that it is in now."""
FileId = Callable[[list[str], str], list[str]]
"""Old components of a File ID and a pseudonym to new components."""


def deidentify(
    data: memoryview,
    profile: Profile,
    identities: Identities,
    limits: Limits = LIMITS,
    *,
    patient: str = "",
    file_id: FileId | None = None,
    seal: Seal | None = None,
    pixels_cleaned: bool = False,
) -> Clean:
    """A DICOM file under a policy.

    Args:
        data: the whole file.
        profile: the policy.
        identities: new UIDs, pseudonyms, date shifts.
        patient: who it is where the file says neither Patient ID nor name; his folder, say.
        file_id: the new File ID of a file that a DICOMDIR points at (PS3.3 F.3.2.2.1), from its old one and the
            pseudonym of the patient; None: File IDs stay.
        seal: encrypts; what the policy takes away then goes into the Encrypted Attributes Sequence (PS3.15 E.1.1).
        pixels_cleaned: text in the pixels is taken care of, and the file is to say so.

    Raises:
        HeldBackError: the file cannot be read as elements from end to end, so that what it holds is not known.
    """
    meta = read_meta(data)
    body, start = data, meta.start
    if meta.syntax == DEFLATED:
        inflated, notes = inflate(data[start:], limits)
        if notes:
            raise HeldBackError(f"expected a data set that inflates; {notes[0].message}")
        body = memoryview(bytes(data[:start]) + inflated)
    encoding = data_set_encoding(body, start, meta.syntax)
    try:
        patient = _patient(body, start, encoding, limits) or patient
        run = _Run(body, profile, identities, patient, limits)
        run.file_id, run.seal, run.pixels_cleaned = file_id, seal, pixels_cleaned
        head = run.meta(start)
        pieces = head + run.data_set(start, len(body), encoding)
    except MalformedError as error:
        raise HeldBackError(f"expected elements from end to end; {error.message}") from error
    deflated = sum(map(size, head)) if meta.syntax == DEFLATED else 0
    return Clean(joined(pieces), body, deflated, run.changes, run.pseudonym)


def _patient(body: memoryview, start: int, encoding: Encoding, limits: Limits) -> str:
    """Patient ID, else Patient's Name: what tells patients apart. Empty where neither is filled."""
    found = {PATIENT_ID: "", PATIENT_NAME: ""}
    pos, end = start, len(body)
    while pos < end:
        here = read_element(body, pos, end, encoding)
        if here.tag > PATIENT_ID:
            break
        if here.tag in found and here.length != UNDEFINED:
            found[here.tag] = bytes(body[here.value : here.value + here.length]).decode("latin-1").strip(" \0")
        pos = _behind(body, here, end, encoding, limits)
    return found[PATIENT_ID] or found[PATIENT_NAME]


def _behind(body: memoryview, here: Element, end: int, encoding: Encoding, limits: Limits) -> int:
    """First byte behind an element. Raises MalformedError where it reaches past ``end``."""
    if here.length == UNDEFINED:
        inner = Encoding(False, "<") if here.vr == b"UN" else encoding
        return skip_items(body, here.value, end, inner, limits.depth)
    if here.value + here.length > end:
        raise MalformedError("truncated", here.value, "an element reaches past the end of what holds it")
    return here.value + here.length


# The elements added by de-identification, in the order of their tags (PS3.15 E.1.1).
_REMOVED, _METHOD, _METHOD_CODES, _TEMPORAL = 0x00120062, 0x00120063, 0x00120064, 0x00280303
_BURNED_IN = 0x00280301
EXPLICIT = "1.2.840.10008.1.2.1"
_CHARACTER_SET, _ENCRYPTED = 0x00080005, 0x04000500
_DIRECTORY_RECORDS, _FILE_ID = 0x00041220, 0x00041500
_IN_A_RECORD = f"{_DIRECTORY_RECORDS:08X}["
_DIRECTORY_OFFSETS = frozenset({0x00041200, 0x00041202, 0x00041400, 0x00041420})
_TEXT_VRS = frozenset(b"LO LT SH ST UC UR UT PN AE".split())
_AGE = 0x00101010
_STUDY_REFERENCE, _REQUEST = 0x00081110, re.compile(r"0040A370\[\d+\]\.$")
_DOCUMENT, _DOCUMENT_LENGTH = 0x00420011, 0x00420015


class _Run:
    """The walk over one file."""

    def __init__(
        self, body: memoryview, profile: Profile, identities: Identities, patient: str, limits: Limits
    ) -> None:
        self.body, self.profile, self.identities, self.limits = body, profile, identities, limits
        self.patient = patient
        self.pseudonym = identities.pseudonym(patient) if patient else "UNKNOWN"
        self.changes: list[Change] = []
        self.strict = 0
        self.creators: dict[tuple[str, int, int], str] = {}
        self.document = 0
        self.file_id: FileId | None = None
        self.seal: Seal | None = None
        self.pixels_cleaned = False

    # -- file meta information ------------------------------------------------------------------

    def meta(self, end: int) -> list[Draft]:
        """Preamble and file meta information: what is needed to read the file, and no more."""
        body = self.body
        mark = 132 if bytes(body[128:132]) == b"DICM" else 4 if bytes(body[:4]) == b"DICM" else 0
        pieces: list[Draft] = []
        if mark == 132:
            # 128 bytes for any use: nobody knows what stands there.
            pieces.append(Copy(0, 128) if not any(body[:128]) else b"\0" * 128)
            if any(body[:128]):
                self.changes.append(Change("preamble", "remove"))
        pieces.append(Copy(mark - 4, mark) if mark else b"")
        kept: list[Draft] = []
        length: Element | None = None
        pos = mark
        encoding = data_set_encoding(body, pos, "") if end > mark else Encoding(True, "<")
        while pos < end:
            here = read_element(body, pos, end, encoding)
            behind = _behind(body, here, end, encoding, self.limits)
            if here.tag == 0x00020000:
                length = here
            elif here.tag in META_KEPT:
                action = self.profile.action(here.tag) or "keep"
                kept += self._element(pos, here, behind, encoding, action, "", 0)
            else:
                self.changes.append(Change(f"{here.tag:08X}", "remove"))
            pos = behind
        if length is not None:
            length_kept = struct.pack(encoding.order + "I", sum(map(size, kept)))
            pieces += [header(0x00020000, b"UL", 4, encoding) + length_kept]
        return pieces + kept

    # -- the data set ---------------------------------------------------------------------------

    def data_set(self, start: int, end: int, encoding: Encoding) -> list[Draft]:
        """The top level, with the elements added that say what was done."""
        added = self._added(encoding)
        said = {_REMOVED, _METHOD, _METHOD_CODES, _TEMPORAL, *(tag for tag, _ in added)}
        pieces: list[Draft] = []
        taken: list[Copy] = []
        place: int | None = None
        pos = start
        while pos < end:
            here = read_element(self.body, pos, end, encoding)
            if here.tag >> 16 == 0xFFFE or here.tag >> 16 == 0x0000:
                raise MalformedError("malformed", pos, "a delimiter stands where an element should")
            if here.tag in PIXEL_TAGS and here.length != UNDEFINED and here.value + here.length > end:
                behind = end  # pixels cut short: what is there stays
            else:
                behind = _behind(self.body, here, end, encoding, self.limits)
            while added and added[0][0] <= here.tag:
                tag, element = added.pop(0)
                pieces.append(element)
                self.changes.append(Change(f"{tag:08X}", "add"))
            if place is None and here.tag >= _ENCRYPTED:
                place = len(pieces)
            before = len(self.changes)
            replaced = here.tag in said
            if not replaced:
                pieces += self._treated(pos, here, behind, encoding, "", 0)
            changed = replaced or len(self.changes) > before or here.tag == _CHARACTER_SET
            if self.seal is not None and changed and here.tag != _ENCRYPTED:
                taken.append(Copy(pos, behind))
            pos = behind
        for tag, element in added:
            pieces.append(element)
            self.changes.append(Change(f"{tag:08X}", "add"))
        if self.seal is not None:
            pieces.insert(len(pieces) if place is None else place, self._encrypted(taken, encoding))
            self.changes.append(Change(f"{_ENCRYPTED:08X}", "add"))
        return pieces

    def _encrypted(self, taken: list[Copy], encoding: Encoding) -> bytes:
        """The Encrypted Attributes Sequence with the originals of what was changed (PS3.3 C.12.1.1.4.1)."""
        assert self.seal is not None
        values = b"".join(bytes(self.body[one.start : one.end]) for one in taken)
        plain = valued(0x04000550, b"SQ", valued(ITEM, b"", values, encoding), encoding)
        sealed, syntax = self.seal(plain, _SYNTAXES[encoding.explicit, encoding.order])
        item = valued(0x04000510, b"UI", syntax.encode("ascii"), encoding)
        item += valued(0x04000520, b"OB", sealed, encoding)
        return valued(_ENCRYPTED, b"SQ", valued(ITEM, b"", item, encoding), encoding)

    def _added(self, encoding: Encoding) -> list[tuple[int, bytes]]:
        # A file says that its pixels are clean where they are, and only there.
        options = self.profile.options - {"pixels", "faces"} | ({"pixels"} if self.pixels_cleaned else set())
        codes = [BASIC, *(OPTIONS[name] for name in sorted(options))]
        names = "+".join(["basic", *sorted(options)])
        dates = "MODIFIED" if "dates-modified" in options else "UNMODIFIED" if "dates-full" in options else "REMOVED"
        items = b"".join(
            valued(ITEM, b"", b"".join(
                valued(tag, vr, text.encode("ascii"), encoding)
                for tag, vr, text in ((0x00080100, b"SH", code), (0x00080102, b"SH", "DCM"), (0x00080104, b"LO", name))
            ), encoding)
            for code, name in codes
        )  # fmt: skip
        return [
            (_REMOVED, valued(_REMOVED, b"CS", b"YES", encoding)),
            (_METHOD, valued(_METHOD, b"LO", f"dcmark {names}"[:64].encode("ascii"), encoding)),
            (_METHOD_CODES, valued(_METHOD_CODES, b"SQ", items, encoding)),
            *([(_BURNED_IN, valued(_BURNED_IN, b"CS", b"NO", encoding))] if self.pixels_cleaned else []),
            (_TEMPORAL, valued(_TEMPORAL, b"CS", dates.encode("ascii"), encoding)),
        ]

    def _treated(self, pos: int, here: Element, behind: int, encoding: Encoding, path: str, depth: int) -> list[Draft]:
        """The pieces of one element of a data set or an item."""
        tag = here.tag
        if tag & 0xFFFF == 0 and tag != 0x00020000:
            return []  # a group length, retired, and wrong once anything changes
        if (tag >> 16) % 2:
            return self._private(pos, here, behind, encoding, path, depth)
        action = self.profile.action(tag)
        if tag >> 24 == 0x60 and self.profile.action(tag & 0xFFFF0000 | 0x3000) == "remove":
            action = "remove"  # the module of an overlay without its data would be invalid
        if action is None:
            known = dictionary_vr(tag)
            action = "keep" if known or tag in PIXEL_TAGS else "remove"
        if tag == _STUDY_REFERENCE and action == "empty" and not _REQUEST.search(path):
            action = "remove"  # it may be empty in a request that is referred to, and nowhere else (PS3.3 C.17.2)
        if self.strict and _is_free_text(here) and action in ("keep", "clean"):
            action = "replace"
        return self._element(pos, here, behind, encoding, action, path, depth)

    def _private(self, pos: int, here: Element, behind: int, encoding: Encoding, path: str, depth: int) -> list[Draft]:
        """Private elements stay only where the profile names them as safe (PS3.15 E.3.10)."""
        group, element = here.tag >> 16, here.tag & 0xFFFF
        if self.profile.private and "private" in self.profile.options:
            if 0x10 <= element <= 0xFF and here.length != UNDEFINED:
                name = bytes(self.body[here.value : here.value + here.length]).decode("latin-1").strip(" \0")
                if name in self.profile.private:
                    self.creators[(path, group, element)] = name
                    return [Copy(pos, behind)]
            creator = self.creators.get((path, group, element >> 8))
            if creator and (group, element & 0xFF) in self.profile.private[creator]:
                return self._element(pos, here, behind, encoding, "keep", path, depth)
        self.changes.append(Change(f"{path}{here.tag:08X}", "remove"))
        return []

    def _element(
        self, pos: int, here: Element, behind: int, encoding: Encoding, action: Action, path: str, depth: int
    ) -> list[Draft]:
        tag, where = here.tag, f"{path}{here.tag:08X}"
        if path.startswith(_IN_A_RECORD) and depth == 1 and here.vr != b"SQ":
            # Keys of directory records must be there, and most of them filled (PS3.3 F.5).
            action = {"remove": "empty", "empty": "replace"}.get(action, action)  # type: ignore[assignment]
        if action == "remove":
            self.changes.append(Change(where, "remove"))
            return []
        vr = here.vr if here.vr not in (b"", b"UN") else dictionary_vr(tag)
        if tag in PIXEL_TAGS:
            return [Copy(pos, behind)]
        if tag == _FILE_ID and self.file_id is not None and path.startswith(_IN_A_RECORD):
            return self._renamed(pos, here, behind, encoding, where)
        if tag in _DIRECTORY_OFFSETS and here.length == 4:
            (old,) = struct.unpack(encoding.order + "I", self.body[here.value : behind])
            return [Copy(pos, here.value), Offset(old, encoding.order)]
        items = self._items_of(here, vr)
        if items is not None:
            if action == "empty":
                self.changes.append(Change(where, "empty"))
                return [valued(tag, here.vr, b"", encoding)]
            return self._sequence(pos, here, behind, items, encoding, where, depth, strict=action == "replace")
        if tag == _DOCUMENT_LENGTH and self.document and here.length == 4:
            if struct.unpack(encoding.order + "I", self.body[here.value : behind])[0] == self.document:
                return [Copy(pos, behind)]
            self.changes.append(Change(where, "replace"))
            return [valued(tag, here.vr, struct.pack(encoding.order + "I", self.document), encoding)]
        if action == "keep":
            return self._kept(pos, here, behind, encoding, vr, where)
        value = self._value(here, behind, vr, action)
        if value is None:
            return [Copy(pos, behind)]
        if tag == _DOCUMENT and action == "replace":
            value = document(bytes(self.body[here.value : here.value + 8]))
            self.document = len(value)
            if value == bytes(self.body[here.value : behind]):
                return [Copy(pos, behind)]
        self.changes.append(Change(where, action))
        return [valued(tag, here.vr, value, encoding)]

    def _kept(self, pos: int, here: Element, behind: int, encoding: Encoding, vr: bytes, where: str) -> list[Draft]:
        """An element that stays; ages are capped."""
        if here.tag == _AGE and vr == b"AS":
            found = re.fullmatch(rb"(\d{3})Y", bytes(self.body[here.value : behind]).strip(b" \0"))
            if found and int(found[1]) > self.profile.largest_age:
                self.changes.append(Change(where, "cap"))
                return [valued(here.tag, here.vr, b"%03dY" % self.profile.largest_age, encoding)]
        return [Copy(pos, behind)]

    def _renamed(self, pos: int, here: Element, behind: int, encoding: Encoding, where: str) -> list[Draft]:
        """The File ID of a directory record: what the file it points at is called now."""
        assert self.file_id is not None
        old = bytes(self.body[here.value : behind]).decode("latin-1").strip(" \0")
        if not old:
            return [Copy(pos, behind)]
        new = "\\".join(self.file_id([part.strip(" ") for part in old.split("\\")], self.pseudonym))
        if new == old:
            return [Copy(pos, behind)]
        self.changes.append(Change(where, "rename"))
        return [valued(here.tag, here.vr, new.encode("ascii", "replace"), encoding)]

    def _value(self, here: Element, behind: int, vr: bytes, action: Action) -> bytes | None:
        """The new value of an element that is no sequence; None: it may stay as it is."""
        tag, old = here.tag, bytes(self.body[here.value : behind])
        if tag in (PATIENT_ID, PATIENT_NAME) and action == "replace":
            return self.pseudonym.encode("ascii", "replace")
        if not old.strip(b" \0"):
            return None  # nothing stands there
        if action == "empty":
            return b""
        if action == "uid" and vr == b"UI":
            new = b"\\".join(
                self.identities.uid(part.strip(b" \0").decode("latin-1")).encode("latin-1") for part in old.split(b"\\")
            )
            return None if new == old.rstrip(b" \0") else new
        if action == "shift":
            if vr == b"TM":
                return None
            parts = [self.identities.shifted(part.decode("latin-1"), self.patient) for part in old.split(b"\\")]
            return "\\".join(part or "" for part in parts).encode("ascii")
        other = self._cleaned(old, vr) if action == "clean" else dummy(vr)
        return None if other is None or other == old.strip(b" \0") else other

    def _cleaned(self, old: bytes, vr: bytes) -> bytes | None:
        """A text without dates, long numbers and what looks like an address; anything else by a dummy."""
        if vr not in _TEXT_VRS and vr != b"CS":
            return dummy(vr)
        if vr == b"PN":
            return dummy(vr)
        new = IDENTIFYING.sub(b"***", old)
        for word in re.split(r"[\W_]+", self.patient):
            if len(word) >= 3:
                new = re.sub(re.escape(word.encode("latin-1")), b"***", new, flags=re.IGNORECASE)
        return None if new == old else new.rstrip(b" \0")

    # -- sequences --------------------------------------------------------------------------------

    def _items_of(self, here: Element, vr: bytes) -> Encoding | None:
        """The encoding of the items of a sequence; None: this is no sequence."""
        if here.length == UNDEFINED:
            return Encoding(False, "<") if here.vr == b"UN" else _SAME
        # A private sequence of implicit VR, or under UN, says nowhere that it is one; its first item does.
        untold = vr in (b"", b"UN") and bytes(self.body[here.value : here.value + 4]) in _ITEM_TAGS
        if (vr == b"SQ" or untold) and here.length:
            return Encoding(False, "<") if here.vr == b"UN" else _SAME
        return None

    def _sequence(
        self,
        pos: int,
        here: Element,
        behind: int,
        inner: Encoding,
        encoding: Encoding,
        path: str,
        depth: int,
        *,
        strict: bool,
    ) -> list[Draft]:
        """A sequence, its items treated one by one; copied whole where nothing in it changes."""
        if depth >= self.limits.depth:
            raise MalformedError("too-deep", pos, f"sequences are nested more than {self.limits.depth} levels deep")
        inner = encoding if inner is _SAME else inner
        undefined = here.length == UNDEFINED
        before = len(self.changes)
        pieces: list[Draft] = []
        at, number = here.value, 0
        end = behind - 8 if undefined else behind
        while at < end:
            item = read_element(self.body, at, behind, inner)
            if item.tag == SEQUENCE_END:
                break
            if item.tag != ITEM:
                raise MalformedError("malformed", at, "an item was expected in a sequence")
            if here.tag == _DIRECTORY_RECORDS and item.length != UNDEFINED:
                self._directory_record(item, inner)
            self.strict += strict
            inside, at_next = self._item(at, item, behind, inner, f"{path}[{number}].", depth)
            self.strict -= strict
            if here.tag == _DIRECTORY_RECORDS:
                pieces.append(Mark(at))
            if item.length == UNDEFINED:
                pieces += [Copy(at, at + 8), *inside, Copy(at_next - 8, at_next)]
            else:
                pieces += [header(ITEM, b"", sum(map(size, inside)), inner), *inside]
            at, number = at_next, number + 1
        if len(self.changes) == before and here.tag != _DIRECTORY_RECORDS:
            return [Copy(pos, behind)]
        if undefined:
            return [Copy(pos, here.value), *pieces, Copy(behind - 8, behind)]
        return [header(here.tag, here.vr, sum(map(size, pieces)), encoding), *pieces]

    def _directory_record(self, item: Element, encoding: Encoding) -> None:
        """A DICOMDIR holds several patients; the records of one follow his own (PS3.3 F.3.2.2)."""
        patient = _patient(self.body[: item.value + item.length], item.value, encoding, self.limits)
        if patient:
            self.patient, self.pseudonym = patient, self.identities.pseudonym(patient)

    def _item(
        self, at: int, item: Element, end: int, encoding: Encoding, path: str, depth: int
    ) -> tuple[list[Draft], int]:
        """The elements of an item, and the first byte behind it."""
        pieces: list[Draft] = []
        pos = item.value
        stop = end if item.length == UNDEFINED else item.value + item.length
        if stop > end:
            raise MalformedError("truncated", at, "an item reaches past the end of its sequence")
        while pos < stop:
            here = read_element(self.body, pos, stop, encoding)
            if here.tag == ITEM_END and item.length == UNDEFINED:
                return pieces, pos + 8
            behind = _behind(self.body, here, stop, encoding, self.limits)
            pieces += self._treated(pos, here, behind, encoding, path, depth + 1)
            pos = behind
        if item.length == UNDEFINED:
            raise MalformedError("truncated", stop, "an item has no end")
        return pieces, stop


def _is_free_text(here: Element) -> bool:
    """Free text in content that the profile wants replaced; codes stay, they say what the content is."""
    vr = here.vr if here.vr not in (b"", b"UN") else dictionary_vr(here.tag)
    return vr in (b"PN", b"LT", b"ST", b"UT", b"UC") or here.tag == 0x0040A160


_SYNTAXES = {(False, "<"): "1.2.840.10008.1.2", (True, "<"): EXPLICIT, (True, ">"): "1.2.840.10008.1.2.2"}
_ITEM_TAGS = (b"\xfe\xff\x00\xe0", b"\xff\xfe\xe0\x00")
_SAME = Encoding(True, "=")
"""Stands for: as what holds it."""
