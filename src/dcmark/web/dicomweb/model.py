"""DICOM JSON (PS3.18 annex F) from columns and headers, and instances by their UIDs."""

from __future__ import annotations

import json
import math
import re
import warnings
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from starlette.requests import Request
from starlette.responses import Response

from dcmark.config import LIMITS as READING
from dcmark.read.tags import COLUMNS, Column
from dcmark.web.limits import LIMITS, HttpError
from dcmark.web.service import Service

if TYPE_CHECKING:
    from pydicom import DataElement, Dataset

JSON = "application/dicom+json"
BULK_FROM = 1024
"""Bytes of a binary value from which it is not given inline."""
_UID = re.compile(r"[0-9.]{1,64}")
_BINARY = frozenset({"OB", "OD", "OF", "OL", "OV", "OW", "UN"})
Json = dict[str, Any]


def service_of(request: Request) -> Service:
    """The state behind a request."""
    found: Service = request.app.state.service
    return found


def answer(content: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """DICOM JSON."""
    body = json.dumps(content, separators=(",", ":"), allow_nan=False).encode()
    return Response(body, status, dict(headers or {}), JSON)


def base_url(request: Request) -> str:
    """Where DICOMweb is reached, by the Host that the guard let in."""
    host, port = request.headers["host"], service_of(request).port
    if not re.search(":[0-9]+$", host) and port not in (0, 80, 443):
        host = f"{host}:{port}"
    return f"{request.url.scheme}://{host}/dicom-web"


# Instances ------------------------------------------------------------------------------------------------------------

INSTANCES = """(
    SELECT *, row_number() OVER (PARTITION BY sop_instance_uid ORDER BY path, sha256) AS occurrence
    FROM images WHERE kind = 'dicom' AND study_instance_uid IS NOT NULL AND series_instance_uid IS NOT NULL
        AND sop_instance_uid IS NOT NULL QUALIFY occurrence = 1)"""


def chosen(request: Request) -> list[Json]:
    """Rows of the instances that the UIDs of a path name, in order.

    Raises:
        HttpError: there is none (404).
    """
    where, values = uids(request)
    order = "ORDER BY series_number, series_instance_uid, instance_number, sop_instance_uid"
    sql = f"SELECT * EXCLUDE (occurrence) FROM {INSTANCES} WHERE {where} {order}"
    rows = service_of(request).catalogue.now().rows(sql, values)
    if not rows:
        raise HttpError(404, "gone", "expected UIDs of a study, series or instance of the archive, found others")
    return rows


def uids(request: Request) -> tuple[str, list[str]]:
    """The condition that the UIDs of a path make, and its values."""
    parts, values = ["true"], []
    for name in ("study", "series", "instance"):
        uid = request.path_params.get(name)
        if uid is not None:
            if not _UID.fullmatch(uid):
                raise HttpError(404, "gone", "expected UIDs of digits and dots, found something else")
            parts.append(f"{'sop' if name == 'instance' else name}_instance_uid = ?")
            values.append(uid)
    return " AND ".join(parts), values


def instance_url(base: str, row: Json) -> str:
    """Where an instance is reached."""
    return (
        f"{base}/studies/{row['study_instance_uid']}/series/{row['series_instance_uid']}"
        f"/instances/{row['sop_instance_uid']}"
    )


# Columns --------------------------------------------------------------------------------------------------------------


def of_column(column: Column, value: Any) -> Json:
    """An attribute from a typed column."""
    from pydicom.datadict import dictionary_VR

    vr = dictionary_VR(column.tag)
    if vr == "US or SS":
        vr = "SS" if isinstance(value, int) and value < 0 else "US"
    return attribute(vr, value)


def attribute(vr: str, value: Any) -> Json:
    """An attribute from a plain value: text (backslashes part several), a number, or a list of numbers."""
    if value is None or value in ("", []):
        return {"vr": vr}
    if isinstance(value, str):
        parts: list[Any] = value.split("\\") if vr not in ("LT", "ST", "UT", "UR") else [value]
        if vr == "PN":
            groups = ("Alphabetic", "Ideographic", "Phonetic")
            parts = [
                {group: text for group, text in zip(groups, one.split("="), strict=False) if text} or None
                for one in parts
            ]
        return {"vr": vr, "Value": [None if one == "" else one for one in parts]}
    numbers = value if isinstance(value, list) else [value]
    exact = [None if isinstance(one, float) and not math.isfinite(one) else one for one in numbers]
    if vr in ("DS", "IS"):
        exact = [int(one) if isinstance(one, float) and one.is_integer() and vr == "IS" else one for one in exact]
    return {"vr": vr, "Value": exact}


BY_NAME = {column.name: column for column in COLUMNS}
BY_WORD = {**{column.keyword: column for column in COLUMNS}, **{f"{column.tag:08X}": column for column in COLUMNS}}


def key_of(name: str) -> str:
    """The eight digits of a column's tag."""
    return f"{BY_NAME[name].tag:08X}"


# Headers --------------------------------------------------------------------------------------------------------------


def of_header(dataset: Dataset, url: Callable[[str], str]) -> Json:
    """A header as DICOM JSON; long binary values by where to get them.

    Args:
        dataset: without pixel data.
        url: gives the address of the bulk data at a path such as ``00540016/0/00181079``.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return _dataset(dataset, url, "", 0, [0])


def _dataset(dataset: Dataset, url: Callable[[str], str], path: str, depth: int, count: list[int]) -> Json:
    found: Json = {}
    for tag in sorted(dataset.keys()):
        key = f"{int(tag):08X}"
        if tag.element == 0:  # group lengths say nothing here
            continue
        count[0] += 1
        if count[0] > 50 * LIMITS.elements:
            raise HttpError(413, "limit", "expected a header of fewer elements; get the file itself")
        try:
            element = dataset[tag]
            found[key] = _element(element, url, f"{path}{key}", depth, count)
        except HttpError:
            raise
        except Exception:  # noqa: BLE001  pydicom raises many kinds of errors for values that are no such values
            found[key] = {"vr": "UN"}
    return found


def _element(element: DataElement, url: Callable[[str], str], path: str, depth: int, count: list[int]) -> Json:
    vr = str(element.VR)
    vr = {"OB or OW": "OW", "US or SS": "US", "US or OW": "US", "US or SS or OW": "US"}.get(vr, vr)
    if vr == "SQ":
        if depth >= READING.depth:
            return {"vr": "SQ"}
        items = [_dataset(item, url, f"{path}/{n}/", depth + 1, count) for n, item in enumerate(element.value or ())]
        return {"vr": "SQ", "Value": items} if items else {"vr": "SQ"}
    value = element.value
    if value is None or (hasattr(value, "__len__") and len(value) == 0):
        return {"vr": vr}
    if vr in _BINARY or isinstance(value, bytes):
        if len(value) > BULK_FROM:
            return {"vr": vr, "BulkDataURI": url(path)}
        import base64

        return {"vr": vr, "InlineBinary": base64.b64encode(bytes(value)).decode()}
    values = list(value) if element.VM != 1 and not isinstance(value, str) else [value]
    return {"vr": vr, "Value": [_value(vr, one) for one in values]}


def _value(vr: str, value: Any) -> Any:
    if value is None or value == "":
        return None
    if vr == "PN":
        groups = {"Alphabetic": value.alphabetic, "Ideographic": value.ideographic, "Phonetic": value.phonetic}
        return {name: text for name, text in groups.items() if text} or None
    if vr == "AT":
        return f"{int(value):08X}"
    if vr in ("DS", "FD", "FL"):
        number = float(value)
        return number if math.isfinite(number) else None
    if vr in ("IS", "SL", "SS", "SV", "UL", "US", "UV"):
        return int(value)
    return str(value)


def bulk_of(dataset: Dataset, path: str) -> bytes | None:
    """The bytes at a path of ``of_header``; None where there are none."""
    parts = path.upper().split("/")
    if len(parts) % 2 == 0 or len(parts) > 2 * READING.depth or not all(parts):
        return None
    try:
        for tag, number in zip(parts[:-1:2], parts[1::2], strict=True):
            if not (number.isdecimal() and len(number) < 10):
                return None
            dataset = dataset[int(tag, 16)].value[int(number)]
        value = dataset[int(parts[-1], 16)].value
    except Exception:  # noqa: BLE001  as in of_header
        return None
    return bytes(value) if isinstance(value, bytes | bytearray) else None
