"""QIDO-RS: search for studies, series and instances (PS3.18 section 10.6)."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from dcmark.errors import UsageError
from dcmark.read.tags import Column
from dcmark.web.dicomweb.model import (
    BY_NAME,
    BY_WORD,
    INSTANCES,
    Json,
    answer,
    attribute,
    base_url,
    instance_url,
    key_of,
    of_column,
    service_of,
    uids,
)
from dcmark.web.limits import LIMITS, whole_number

STUDY = (
    "study_date", "study_time", "accession_number", "patient_name", "patient_id", "patient_birth_date", "patient_sex",
    "study_instance_uid", "study_id", "study_description",
)  # fmt: skip
SERIES = (
    "modality", "series_description", "series_instance_uid", "series_number", "series_date", "series_time",
    "body_part_examined",
)  # fmt: skip
INSTANCE = (
    "sop_class_uid", "sop_instance_uid", "instance_number", "rows", "columns", "bits_allocated", "number_of_frames",
)  # fmt: skip
_CONTROL = frozenset(
    {"limit", "offset", "includefield", "fuzzymatching", "emptyvaluematching", "multiplevaluematching"}
)
_UIDS = frozenset({"study_instance_uid", "series_instance_uid", "sop_instance_uid", "sop_class_uid"})
_MODALITIES = ("ModalitiesInStudy", "00080061")
_TIME = re.compile(r"[0-9.]{0,18}(-[0-9.]{0,18})?")


class Search:
    """What a request searches for.

    Args:
        request: it.
        default: columns given unasked.

    Raises:
        UsageError: values that are none.
    """

    def __init__(self, request: Request, default: Sequence[str]) -> None:
        query = request.query_params
        self.limit = whole_number(query.get("limit", str(LIMITS.query_rows)), "limit", 0, 1 << 31)
        self.limit = min(self.limit, LIMITS.query_rows)
        self.offset = whole_number(query.get("offset", "0"), "offset", 0, 1 << 31)
        self.columns = list(default)
        self.unknown: list[str] = []
        where, values = uids(request)
        self.parts, self.values = [where], [*values]
        for name, value in query.multi_items():
            if name == "includefield":
                self._include(value)
            elif name not in _CONTROL:
                self._match(name, value)

    @property
    def where(self) -> str:
        """The condition."""
        return " AND ".join(self.parts)

    @property
    def headers(self) -> dict[str, str]:
        """A warning where something asked for is not looked at (PS3.18 section 10.6.3)."""
        if not self.unknown:
            return {}
        return {"Warning": f'299 dcmark "{len(self.unknown)} attributes are not indexed and were not matched"'}

    def _include(self, value: str) -> None:
        for word in value.split(","):
            if word == "all":
                self.columns += [name for name in BY_NAME if name not in self.columns]
            elif (column := BY_WORD.get(word) or BY_WORD.get(word.upper())) and column.name not in self.columns:
                self.columns.append(column.name)

    def _match(self, name: str, value: str) -> None:
        if name in _MODALITIES:
            words = [one for one in re.split(r"[\\,]", value) if one]
            if words:
                marks = ", ".join("?" * len(words))
                self.parts.append(
                    f"study_instance_uid IN (SELECT study_instance_uid FROM images WHERE modality IN ({marks}))"
                )
                self.values += words
            return
        column = BY_WORD.get(name) or BY_WORD.get(name.upper())
        if column is None:
            self.unknown.append(name)
        elif value not in ("", "*"):
            part, values = _condition(column, value)
            self.parts.append(part)
            self.values += values


def _condition(column: Column, value: str) -> tuple[str, list[Any]]:
    """A match of one attribute (PS3.4 section C.2.2.2)."""
    quoted = f'"{column.name}"'
    if column.type in ("integer", "number"):
        try:
            return f"{quoted} = ?", [float(value)]
        except ValueError:
            raise UsageError(f"expected a number for {column.keyword}, found something else") from None
    if column.type == "numbers":
        raise UsageError(f"expected an attribute of one value, found {column.keyword}")
    if column.name in _UIDS:
        listed = [one for one in re.split(r"[\\,]", value) if one]
        return f"{quoted} IN ({', '.join('?' * len(listed)) or 'NULL'})", listed
    if column.keyword.endswith(("Date", "Time")):
        return _range(quoted, value, column.keyword)
    if column.name == "patient_name":
        # Matched as text of the whole name, whatever its case; carets stand between its parts.
        return f"lower({quoted}) LIKE lower(?) ESCAPE '~'", [_like(value)]
    if "*" in value or "?" in value:
        return f"{quoted} LIKE ? ESCAPE '~'", [_like(value)]
    return f"{quoted} = ?", [value]


def _range(quoted: str, value: str, keyword: str) -> tuple[str, list[Any]]:
    if not _TIME.fullmatch(value):
        raise UsageError(f"expected digits, or a range with a hyphen, for {keyword}; found something else")
    low, hyphen, high = value.partition("-")
    if not hyphen:
        return f"starts_with({quoted}, ?)" if keyword.endswith("Time") else f"{quoted} = ?", [value]
    parts, values = [f"{quoted} IS NOT NULL"], []
    if low:
        parts.append(f"{quoted} >= ?")
        values.append(low)
    if high:
        parts.append(f"left({quoted}, {len(high)}) <= ?")
        values.append(high)
    return f"({' AND '.join(parts)})", values


def _like(value: str) -> str:
    escaped = "".join(f"~{c}" if c in "%_~" else c for c in value)
    return escaped.replace("*", "%").replace("?", "_")


# Answers --------------------------------------------------------------------------------------------------------------


def studies(request: Request) -> Response:
    """Studies that match."""
    search = Search(request, STUDY)
    rows = _grouped(
        request,
        search,
        "study_instance_uid",
        "list_sort(list_distinct(list(modality))) AS modalities, count(DISTINCT series_instance_uid) AS n_series, "
        "count(*) AS n_instances",
    )
    base = base_url(request)
    found = []
    for row in rows:
        one = _attributes(row, search.columns)
        one["00080061"] = attribute("CS", "\\".join(name for name in row["modalities"] if name))
        one["00081190"] = attribute("UR", f"{base}/studies/{row['study_instance_uid']}")
        one["00201206"] = attribute("IS", row["n_series"])
        one["00201208"] = attribute("IS", row["n_instances"])
        found.append(one)
    return _answer(found, search)


def series(request: Request) -> Response:
    """Series that match, of one study or of all."""
    search = Search(request, (*SERIES, *(() if "study" in request.path_params else STUDY), "study_instance_uid"))
    rows = _grouped(request, search, "series_instance_uid", "count(*) AS n_instances")
    base = base_url(request)
    found = []
    for row in rows:
        one = _attributes(row, search.columns)
        url = f"{base}/studies/{row['study_instance_uid']}/series/{row['series_instance_uid']}"
        one["00081190"] = attribute("UR", url)
        one["00201209"] = attribute("IS", row["n_instances"])
        found.append(one)
    return _answer(found, search)


def instances(request: Request) -> Response:
    """Instances that match, of one series, of one study, or of all."""
    above = (*(() if "series" in request.path_params else SERIES), *(() if "study" in request.path_params else STUDY))
    search = Search(request, (*INSTANCE, *above, "study_instance_uid", "series_instance_uid"))
    sql = (
        f"SELECT * FROM {INSTANCES} WHERE {search.where} ORDER BY study_date, study_instance_uid, series_number, "
        "series_instance_uid, instance_number, sop_instance_uid LIMIT ? OFFSET ?"
    )
    rows = service_of(request).catalogue.now().rows(sql, [*search.values, search.limit, search.offset])
    base = base_url(request)
    found = []
    for row in rows:
        one = _attributes(row, search.columns)
        one["00081190"] = attribute("UR", instance_url(base, row))
        one["00083002"] = attribute("UI", row["transfer_syntax"] or "")
        found.append(one)
    return _answer(found, search)


def _grouped(request: Request, search: Search, key: str, more: str) -> list[Json]:
    """A row for each study or series of which an instance matches; its counts are of all its instances."""
    columns = ", ".join(f'any_value("{name}") AS "{name}"' for name in BY_NAME if name != key)
    order = "study_date, study_instance_uid" if key == "study_instance_uid" else "study_date, series_number"
    sql = f"""
        WITH i AS {INSTANCES}, wanted AS (SELECT DISTINCT {key} FROM i WHERE {search.where})
        SELECT {key}, {columns}, {more} FROM i WHERE {key} IN (FROM wanted)
        GROUP BY {key} ORDER BY {order}, {key} LIMIT ? OFFSET ?"""
    return service_of(request).catalogue.now().rows(sql, [*search.values, search.limit, search.offset])


def _attributes(row: Json, columns: Iterable[str]) -> Json:
    found = {
        "00080005": attribute("CS", "ISO_IR 192"),  # of this answer, whatever the files are written in
        "00080056": attribute("CS", "ONLINE"),
    }
    for name in columns:
        if name != "specific_character_set" and (row[name] is not None or name in STUDY):
            found[key_of(name)] = of_column(BY_NAME[name], row[name])
    return dict(sorted(found.items()))


def _answer(found: list[Json], search: Search) -> Response:
    return answer([dict(sorted(one.items())) for one in found], headers=search.headers)
