"""What an archive holds, in a few numbers."""

from __future__ import annotations

from typing import Any

from dcmark.archive.gc import stored_bytes
from dcmark.archive.query import query
from dcmark.archive.store import Archive

_COUNTS = """
    SELECT count(*) AS files, count(DISTINCT coalesce(patient_id, patient)) AS patients,
           count(DISTINCT study_instance_uid) AS studies, count(DISTINCT series_instance_uid) AS series,
           coalesce(sum(frames), 0)::BIGINT AS frames, coalesce(sum(size), 0)::BIGINT AS bytes
    FROM files"""


def summary(archive: Archive) -> dict[str, Any]:
    """Counts, bytes as received and as stored, kinds, modalities, transfer syntaxes and findings."""
    (counts,) = query(archive, _COUNTS).to_pylist()
    return {
        "archive": str(archive.path),
        "format_version": archive.info.format_version,
        "id": archive.info.id,
        "hashes_cover": archive.info.hashes_cover,
        **{name: value for name, value in counts.items() if name != "bytes"},
        "bytes_received": counts["bytes"],
        "bytes_stored": stored_bytes(archive),
        "kinds": _by(archive, "files", "kind"),
        "modalities": _by(archive, "files", "modality"),
        "transfer_syntaxes": _by(archive, "files", "transfer_syntax"),
        "codecs": _by(archive, "frames", "codec"),
        "findings": _by(archive, "findings", "level"),
    }


def _by(archive: Archive, view: str, column: str) -> dict[str, int]:
    rows = query(archive, f"SELECT {column} AS name, count(*) AS n FROM {view} GROUP BY ALL ORDER BY n DESC, name")
    return {row["name"] or "": row["n"] for row in rows.to_pylist()}
