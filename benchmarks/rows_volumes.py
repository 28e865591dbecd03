"""Values of whole volumes: ``rows_values`` as a section of the table."""

from __future__ import annotations

import math
from collections.abc import Iterator

from benchmarks import rows_values
from benchmarks.table import Row, Setting, section

TARGETS = {"dcmark, one thread, memory at hand": 0.8, "dcmark, two threads, memory at hand": 0.8 * 1.6}
"""Speed beside the bare codec on one thread."""


@section("values", "1,000 CT slices as a volume in HU, wall clock")
def value_rows(setting: Setting) -> Iterator[Row]:
    """How fast each contestant is beside the bare codec."""
    for row in rows_values.rows(1000, setting.turns):
        if math.isnan(row.seconds):
            yield Row(row.what, None, "s", note=row.note)
        else:
            yield Row(
                f"{row.what}: speed of the bare codec",
                row.ratio,
                target=TARGETS.get(row.what),
                at="least",
                note=f"{row.seconds:.2f} s {row.note}".strip(),
            )
