"""Values of whole volumes: ``rows_values`` as a section of the table."""

from __future__ import annotations

import math
from collections.abc import Iterator

from benchmarks import rows_values
from benchmarks.table import Row, Setting, section


@section("values", "1,000 CT slices as a volume in HU, wall clock")
def value_rows(setting: Setting) -> Iterator[Row]:
    """Seconds of each contestant, and how fast it is beside the bare codec."""
    for row in rows_values.rows(1000, setting.turns):
        if math.isnan(row.seconds):
            yield Row(row.what, None, "s", note=row.note)
        else:
            yield Row(
                row.what, row.seconds, "s", note=f"{row.ratio:.2f} of the speed of the bare codec {row.note}".strip()
            )
