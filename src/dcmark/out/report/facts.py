"""What the report says in words and numbers, by SQL over the views of the archive."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from dcmark.archive.query import connection

if TYPE_CHECKING:
    import duckdb

    from dcmark.archive.store import Archive

Row = dict[str, Any]

MOST_ROWS = 500
"""Rows of a listing that the page shows; more would make it slow to open. The rest is counted."""
MOST_PATHS = 3
"""Example paths shown with a finding."""
LEVELS = ("error", "warning", "info")

_TYPE_1 = {
    "": ("study_instance_uid", "series_instance_uid", "sop_instance_uid", "modality", "patient_id"),
    "CT": (
        "rescale_slope", "rescale_intercept", "pixel_spacing", "image_position_patient", "image_orientation_patient",
        "slice_thickness", "kvp", "convolution_kernel", "body_part_examined",
    ),
    "MR": (
        "pixel_spacing", "image_position_patient", "image_orientation_patient", "slice_thickness", "repetition_time",
        "echo_time", "body_part_examined",
    ),
    "PT": (
        "rescale_slope", "pixel_spacing", "image_position_patient", "image_orientation_patient", "patient_weight",
        "series_date", "series_time", "acquisition_time",
    ),
}  # fmt: skip
"""Columns that an image of a modality is expected to fill; ``""`` for every DICOM object."""


@dataclass(frozen=True, slots=True)
class Listing:
    """Rows to show, and how many there are in all."""

    rows: list[Row]
    total: int

    @property
    def more(self) -> int:
        """Rows that are not shown."""
        return self.total - len(self.rows)


@dataclass(frozen=True, slots=True)
class Oddity:
    """Something about the tags of a set that deserves a look.

    Attributes:
        what: in words, for the heading.
        why: what goes wrong downstream.
        count: how many patients, series or files it touches.
        unit: what is counted.
        examples: a few of them.
    """

    what: str
    why: str
    count: int
    unit: str
    examples: list[str]


@dataclass(frozen=True, slots=True)
class Facts:
    """All that the page tells beside pictures."""

    patients: Listing
    series: Listing
    volumes: Listing
    findings: dict[str, list[Row]]
    modalities: list[Row]
    syntaxes: list[Row]
    sizes: list[Row]
    missing: list[Row]
    odd: list[Oddity]


def facts(archive: Archive) -> Facts:
    """Gather the facts of an archive.

    Raises:
        DamageError: a table cannot be read.
    """
    with connection(archive) as database:
        return Facts(
            patients=_listing(database, "SELECT * FROM patients ORDER BY ALL"),
            series=_listing(database, _SERIES),
            volumes=_listing(database, _VOLUMES),
            findings={level: _rows(database, _FINDINGS, [level]) for level in LEVELS},
            modalities=_rows(database, _BY_MODALITY),
            syntaxes=_rows(database, _BY_SYNTAX),
            sizes=_rows(database, _BY_SIZE),
            missing=_missing(database),
            odd=[odd for odd in (_oddity(database, *check) for check in _ODD) if odd.count],
        )


def _rows(database: duckdb.DuckDBPyConnection, sql: str, values: list[Any] | None = None) -> list[Row]:
    return list(database.sql(sql, params=values or []).to_arrow_table().to_pylist())


def _listing(database: duckdb.DuckDBPyConnection, sql: str) -> Listing:
    return Listing(_rows(database, f"{sql} LIMIT {MOST_ROWS}"), _total(database, sql))


def _total(database: duckdb.DuckDBPyConnection, sql: str) -> int:
    return int(_rows(database, f"SELECT count(*) AS total FROM ({sql})")[0]["total"])


_FINDINGS = f"""
    SELECT code, count(*) AS count, mode(message ORDER BY message) AS message,
           mode(action ORDER BY action) AS action,
           list_sort(array_agg(DISTINCT path))[:{MOST_PATHS}] AS paths
    FROM findings WHERE level = ? GROUP BY code ORDER BY count DESC, code"""

_SERIES = """
    SELECT * FROM series ORDER BY dataset, patient, patient_id, number, series_instance_uid, description, bytes"""

_VOLUMES = """
    SELECT coalesce(nullif(patient, ''), patient_id) AS patient,
           coalesce(description, series_number::VARCHAR) AS series, modality, rows, columns, verdict,
           list_aggregate([f.level || ': ' || f.message FOR f IN findings IF f.level <> 'info'], 'string_agg', '; ')
               AS said
    FROM volumes ORDER BY level = 'error' DESC, level = 'warning' DESC, dataset, 1, series_number, number, id"""

_BY_MODALITY = """
    SELECT coalesce(modality, kind) AS modality, count(DISTINCT coalesce(patient_id, patient)) AS patients,
           count(DISTINCT series_instance_uid) AS series, count(*) AS files, sum(frames)::BIGINT AS frames,
           sum(size)::BIGINT AS bytes
    FROM files GROUP BY ALL ORDER BY files DESC, modality"""

_BY_SYNTAX = """
    SELECT transfer_syntax, count(*) AS files, sum(frames)::BIGINT AS frames, sum(size)::BIGINT AS bytes
    FROM files WHERE transfer_syntax IS NOT NULL GROUP BY ALL ORDER BY files DESC, transfer_syntax"""

_BY_SIZE = """
    SELECT modality, rows, columns, bits_stored, count(*) AS files, sum(frames)::BIGINT AS frames,
           min(pixel_spacing[1]) AS finest_mm, max(pixel_spacing[1]) AS coarsest_mm,
           min(slice_thickness) AS thinnest_mm, max(slice_thickness) AS thickest_mm
    FROM files WHERE frames > 0 AND rows IS NOT NULL GROUP BY modality, rows, columns, bits_stored
    ORDER BY files DESC, modality, rows, columns, bits_stored LIMIT 40"""


def _missing(database: duckdb.DuckDBPyConnection) -> list[Row]:
    """Expected columns that files of a modality leave empty, with their number."""
    found: list[Row] = []
    for modality, names in _TYPE_1.items():
        chosen = "modality = ? AND frames > 0" if modality else "kind = 'dicom' AND ? = ''"
        counts = ", ".join(f"count(*) - count({name}) AS {name}" for name in names)
        sql = f"SELECT count(*) AS files, {counts} FROM files WHERE {chosen}"
        (row,) = _rows(database, sql, [modality])
        found += [
            {"modality": modality or "all", "tag": _keyword(name), "missing": row[name], "files": row["files"]}
            for name in names
            if row[name]
        ]
    return sorted(found, key=lambda row: (-row["missing"] / row["files"], row["modality"], row["tag"]))


def _keyword(column: str) -> str:
    from dcmark.read.tags import COLUMNS

    return next(c.keyword for c in COLUMNS if c.name == column)


def _oddity(database: duckdb.DuckDBPyConnection, what: str, why: str, unit: str, sql: str) -> Oddity:
    total = _total(database, sql)
    rows = _rows(database, f"SELECT * FROM ({sql}) ORDER BY ALL LIMIT 5") if total else []
    examples = [" · ".join(str(value) for value in row.values() if value not in (None, "")) for row in rows]
    return Oddity(what, why, total, unit, examples)


_ODD = (
    (
        "One SOP Instance UID, different content",
        "two versions of an object are both here; a training set would hold both",
        "instances",
        """SELECT sop_instance_uid, count(*) || ' files' FROM files WHERE sop_instance_uid IS NOT NULL
           GROUP BY sop_instance_uid HAVING count(*) > 1""",
    ),
    (
        "A patient folder with several Patient IDs",
        "a split by folder and a split by ID would differ",
        "folders",
        """SELECT dataset, patient, count(DISTINCT patient_id) || ' IDs' FROM files
           WHERE coalesce(patient, '') <> '' AND patient_id IS NOT NULL
           GROUP BY dataset, patient HAVING count(DISTINCT patient_id) > 1""",
    ),
    (
        "A Patient ID in several patient folders",
        "the same person could stand on both sides of a split",
        "patients",
        """SELECT dataset, patient_id, count(DISTINCT patient) || ' folders' FROM files
           WHERE coalesce(patient, '') <> '' AND coalesce(patient_id, '') <> ''
           GROUP BY dataset, patient_id HAVING count(DISTINCT patient) > 1""",
    ),
    (
        "A series that changes its size or spacing",
        "its slices do not stack into one volume",
        "series",
        """SELECT coalesce(nullif(patient, ''), patient_id), series_instance_uid,
                  count(DISTINCT (rows, columns, pixel_spacing)) || ' grids' FROM files
           WHERE frames > 0 AND series_instance_uid IS NOT NULL
           GROUP BY 1, series_instance_uid HAVING count(DISTINCT (rows, columns, pixel_spacing)) > 1""",
    ),
    (
        "CT without rescale to Hounsfield units",
        "stored values are not HU",
        "series",
        """SELECT coalesce(nullif(patient, ''), patient_id), series_instance_uid, count(*) || ' files' FROM files
           WHERE modality = 'CT' AND frames > 0 AND rescale_slope IS NULL GROUP BY ALL""",
    ),
    (
        "Text burned into the pixels",
        "Burned In Annotation says YES: names may be visible",
        "series",
        """SELECT coalesce(nullif(patient, ''), patient_id), modality, series_instance_uid, count(*) || ' files'
           FROM files WHERE burned_in_annotation = 'YES' GROUP BY ALL""",
    ),
    (
        "Lossy compression at some time",
        "fine texture is the codec's, not the patient's",
        "series",
        """SELECT coalesce(nullif(patient, ''), patient_id), modality, series_instance_uid, count(*) || ' files'
           FROM files WHERE lossy_image_compression = '01' GROUP BY ALL""",
    ),
    (
        "A name stands in Patient's Name",
        "the archive keeps what came in; check that it is a pseudonym (the name itself is not shown here)",
        "patients",
        """SELECT DISTINCT coalesce(nullif(patient, ''), patient_id) FROM files
           WHERE coalesce(patient_name, '') <> '' AND patient_name <> coalesce(patient_id, '')""",
    ),
    (
        "A birth date stands in the header",
        "anonymised sets have none, or only a year",
        "patients",
        """SELECT DISTINCT coalesce(nullif(patient, ''), patient_id) FROM files
           WHERE coalesce(patient_birth_date, '') <> ''""",
    ),
)
"""Checks: heading, why it matters, what a row is, SQL that gives a row for each case."""
