"""SQL over an archive: DuckDB on the Lance tables, without access to anything else."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import duckdb

from dcmark import plugins
from dcmark.archive.schema import FILES, FRAMES, PATHS, TABLES, VOLUMES
from dcmark.archive.store import Archive
from dcmark.archive.volumes import current
from dcmark.errors import QueryError

if TYPE_CHECKING:
    import pyarrow as pa

_HIDDEN = (
    "batch",
    "first_row",
    "parts",
    "segments",
    "header",
    "header_codec",
    "header_length",
    "number",
    "big_endian",
    "check",
    "findings",
)

VIEWS = {
    "files": """
        WITH first AS (
            SELECT sha256, count(*) AS paths, unnest(min_by(
                {{path: path, source: source, dataset: dataset, patient: patient, image: image}},
                (CASE WHEN patient <> '' THEN 0 WHEN dataset <> '' THEN 1 ELSE 2 END, path, source)))
            FROM t_paths WHERE sha256 IS NOT NULL GROUP BY sha256)
        SELECT lower(hex(one.sha256)) AS sha256, first.path, first.source, first.dataset, first.patient, first.image,
               coalesce(first.paths, 0) AS paths, {files}
        FROM t_files one LEFT JOIN first ON one.sha256 = first.sha256""",
    "frames": """
        SELECT lower(hex(f.sha256)) AS sha256, r.number, r.codec, r.length, r.lowest, r.highest
        FROM t_frames r JOIN t_files f ON r.batch = f.batch AND r.first_row = f.first_row AND f.parts > 0
        WHERE r.number >= 0""",
    "paths": """
        SELECT source, path, dataset, patient, image, size, make_timestamp_ns(mtime_ns) AS modified,
               lower(hex(sha256)) AS sha256 FROM t_paths""",
    "findings": """
        SELECT f.level, f.code, f.message, f.action, p.path, lower(hex(t.sha256)) AS sha256, NULL AS volume
        FROM (SELECT sha256, unnest(findings) AS f FROM t_files) t
        LEFT JOIN (SELECT sha256, min(path) AS path FROM t_paths GROUP BY sha256) p ON p.sha256 = t.sha256
        UNION ALL
        SELECT f.level, f.code, f.message, f.action, path, NULL, NULL FROM
            (SELECT path, unnest(findings) AS f FROM t_paths WHERE sha256 IS NULL)
        UNION ALL
        SELECT f.level, f.code, f.message, f.action, p.path, lower(hex(v.first_file)), v.id
        FROM (SELECT id, first_file, unnest(findings) AS f FROM t_volumes) v
        ANTI JOIN (SELECT sha256, unnest(findings) AS f FROM t_files) t
            ON t.sha256 = v.first_file AND t.f.code = v.f.code
        LEFT JOIN (SELECT sha256, min(path) AS path FROM t_paths GROUP BY sha256) p ON p.sha256 = v.first_file""",
    "volumes": """
        SELECT v.id, f.dataset, f.patient, f.image, f.patient_id, f.study_instance_uid, v.series_instance_uid,
               f.series_number, v.number, coalesce(nullif(v.modality, ''), f.modality) AS modality,
               f.series_description AS description, f.body_part_examined AS body_part, v.verdict, v.grid,
               v.shape[1] AS slices, v.shape[2] AS rows, v.shape[3] AS columns, v.spacing, v.affine, v.missing,
               v.phase, v.phases, v.files, v.findings,
               CASE WHEN list_contains(levels, 'error') THEN 'error'
                    WHEN list_contains(levels, 'warning') THEN 'warning' ELSE 'info' END AS level,
               f.kind, f.path, f.sha256
        FROM (SELECT *, [x.level for x in findings] AS levels FROM t_volumes WHERE what = 'volume') v
        JOIN files f ON f.sha256 = lower(hex(v.first_file))""",
    "leftovers": """
        SELECT v.series_instance_uid, v.files, v.findings[1].level AS level, v.findings[1].code AS code,
               v.findings[1].message AS message, v.findings[1].action AS action, lower(hex(v.first_file)) AS sha256
        FROM t_volumes v WHERE what = 'leftover'""",
    "patients": """
        SELECT dataset, patient, patient_id, count(DISTINCT study_instance_uid) AS studies,
               count(DISTINCT series_instance_uid) AS series, count(*) AS files, sum(frames)::BIGINT AS frames,
               sum(size)::BIGINT AS bytes FROM files WHERE kind <> 'opaque' GROUP BY ALL ORDER BY ALL""",
    "studies": """
        SELECT dataset, patient, patient_id, study_instance_uid, any_value(study_date) AS study_date,
               any_value(study_description) AS description,
               string_agg(DISTINCT modality, '/' ORDER BY modality) AS modalities,
               count(DISTINCT series_instance_uid) AS series, count(*) AS files, sum(frames)::BIGINT AS frames
        FROM files WHERE study_instance_uid IS NOT NULL
        GROUP BY dataset, patient, patient_id, study_instance_uid ORDER BY ALL""",
    "series": """
        SELECT dataset, patient, patient_id, any_value(image) AS image, series_instance_uid,
               any_value(series_number) AS number,
               any_value(modality) AS modality, any_value(series_description) AS description,
               any_value(body_part_examined) AS body_part,
               any_value(transfer_syntax) AS transfer_syntax, any_value(rows) AS rows, any_value(columns) AS columns,
               count(*) AS files, sum(frames)::BIGINT AS frames, sum(size)::BIGINT AS bytes
        FROM files WHERE series_instance_uid IS NOT NULL
        GROUP BY dataset, patient, patient_id, series_instance_uid
        ORDER BY dataset, patient, number, series_instance_uid""",
}
"""The views a query may name, in the order they are made. docs/reference/sql.md lists their columns."""

_TABLES = {
    "t_files": ("files", [n for n in FILES.names if n != "header"]),
    "t_frames": ("frames", [n for n in FRAMES.names if n != "data"]),
    "t_paths": ("paths", PATHS.names),
}


_VOLUMES = [n for n in VOLUMES.names if n not in ("frames", "slice_index", "positions")]
_NEED_VOLUMES = re.compile("volumes|leftovers|findings", re.IGNORECASE)


_ONCE = {
    # Two writers at once may both have stored a file, and a place may be seen any number of times.
    "t_files": "row_number() OVER (PARTITION BY sha256 ORDER BY batch)",
    "t_paths": "row_number() OVER (PARTITION BY root, path, path_bytes, sha256, findings ORDER BY seen_ns DESC)",
}
"""Rows of the tables that count: those for which this is 1."""


TABLES_GROUP = "dcmark.tables"
"""Entry-point group of further tables: a function of the archive and the SQL that gives an Arrow table. It is called
where the SQL names the table."""


@contextmanager
def connection(archive: Archive, *, volumes: bool = True, sql: str = "") -> Iterator[duckdb.DuckDBPyConnection]:
    """A DuckDB connection with the views of the archive; it can neither read nor write files.

    The tables are read as far as a query needs them.

    Args:
        volumes: bring the table of volumes up to date first; else it is empty.
        sql: that is going to be run: tables of ``TABLES_GROUP`` that it names are there too.
    """
    with duckdb.connect(":memory:") as database:
        database.execute("SET enable_progress_bar = false; SET python_enable_replacements = false")
        for name, (table, columns) in _TABLES.items():
            stored = f"stored_{name}" if name in _ONCE else name
            # Most questions are about files, and an archive has many more frames.
            idle = table == "frames" and bool(sql) and "frames" not in sql.lower()
            found_rows = TABLES[table].empty_table().select(columns) if idle else archive.read(table, columns)
            database.register(stored, found_rows)
            if name in _ONCE:
                database.execute(f"CREATE VIEW {name} AS SELECT * FROM {stored} QUALIFY {_ONCE[name]} = 1")
        found = current(archive, _VOLUMES) if volumes else VOLUMES.empty_table().select(_VOLUMES)
        database.register("t_volumes", found)
        files = ", ".join(f'one."{n}"' for n in FILES.names if n not in _HIDDEN and n != "sha256")
        for name, text in VIEWS.items():
            database.execute(f"CREATE VIEW {name} AS {text.format(files=files)}")
        for name in plugins.names(TABLES_GROUP):
            if re.search(rf"\b{re.escape(name)}\b", sql, re.IGNORECASE):
                database.register(name, plugins.load(TABLES_GROUP, name)(archive, sql))
        database.execute("SET enable_external_access = false; SET lock_configuration = true")
        yield database


def query(archive: Archive, sql: str) -> pa.Table:
    """The result of one SQL statement over the views of an archive (see ``VIEWS``).

    Raises:
        QueryError: DuckDB refuses the statement; the message is DuckDB's own.
        DamageError: a table cannot be read.
    """
    try:
        with connection(archive, volumes=_NEED_VOLUMES.search(sql) is not None, sql=sql) as database:
            return database.sql(sql).to_arrow_table() if _gives_rows(sql) else _refuse(sql)
    except duckdb.Error as error:
        raise QueryError(
            f"expected SQL over the views {', '.join(VIEWS)}; DuckDB says: {_first_lines(error)}"
        ) from error


def matching_files(archive: Archive, where: str | None) -> set[bytes]:
    """SHA-256 of the files that meet an SQL condition over the view ``files``; all for None."""
    if where is None:
        return set(archive.read("files", ["sha256"])["sha256"].to_pylist())
    rows = query(archive, f"SELECT sha256 FROM files WHERE ({where}\n)")
    return {bytes.fromhex(value) for value in rows["sha256"].to_pylist()}


def _gives_rows(sql: str) -> bool:
    statements = duckdb.extract_statements(sql)
    return len(statements) == 1 and statements[0].type == duckdb.StatementType.SELECT


def _refuse(sql: str) -> Any:
    del sql
    raise QueryError("expected one SELECT statement, found something else; an archive is only read by queries")


def _first_lines(error: Exception) -> str:
    return " ".join(str(error).split("\n")[:3]).strip()
