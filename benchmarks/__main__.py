"""Measure and write docs/benchmarks.md.

python -m benchmarks [--quick] [--only NAME ...]

Sections measured with ``--only`` take the place of the old ones in the page, with their own machine and date.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

from benchmarks import (
    machine,
    rows_annotate,
    rows_archive,
    rows_deid,
    rows_page,
    rows_scale,
    rows_start,
    rows_train,
    rows_views,
    rows_volumes,
    series,
)
from benchmarks.table import SECTIONS, Row, Setting, markdown

__all__ = [
    "main",
    "rows_annotate",
    "rows_archive",
    "rows_deid",
    "rows_page",
    "rows_scale",
    "rows_start",
    "rows_train",
    "rows_views",
    "rows_volumes",
]  # imported for the sections they enter

PAGE = Path(__file__).parent.parent / "docs" / "benchmarks.md"
LONG = 20_000
HEAD = """# Speed beside other tools

Made by `make bench`; run it on your machine. Ratios carry over from machine to machine, absolute figures do not.
Processor time is user and system time of all threads. Every figure is the median of alternated repeats.
"""


def main() -> int:
    """Run the sections, print the table, write the page when all of it was measured."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__.partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="fewer repeats, no 20,000 slices; writes no page")
    parser.add_argument("--only", nargs="+", metavar="NAME", default=sorted(SECTIONS), choices=sorted(SECTIONS))
    parser.add_argument("--turns", type=int, default=5, help="repeats whose median counts")
    parser.add_argument("--folder", type=Path, help="where to work: about 20 GB (default: the temporary folder)")
    options = parser.parse_args()
    about = machine.describe()
    with tempfile.TemporaryDirectory(dir=options.folder) as scratch:
        setting = _setting(Path(scratch), options.quick, options.turns, "memory" in options.only)
        about.append(f"- {'Real CT slices' if setting.real else 'Generated CT slices, for the real ones are not here'}")
        print("\n".join([HEAD, *about, ""]), flush=True)
        missed = 0
        sections: dict[str, list[str]] = {}
        for name, (title, function) in SECTIONS.items():
            if name not in options.only:
                continue
            rows: list[Row] = []
            for row in function(setting):
                rows.append(row)
                print(f"  {row.what}: {row.value} {row.unit} {row.note}", file=sys.stderr, flush=True)
            missed += sum(row.met is False for row in rows)
            text = list(markdown(title, rows))
            print("\n".join(text), flush=True)
            if not options.quick:
                sections[title] = text
    if sections:
        whole = set(options.only) == set(SECTIONS)
        page = [HEAD, *about, ""] if whole else PAGE.read_text("utf-8").splitlines()
        for title, text in sections.items():
            page = _with_section(page, title, text if whole else [*text[:2], *about, "", *text[2:]])
        PAGE.write_text("\n".join(page).rstrip() + "\n", "utf-8")
        print(f"written to {PAGE}")
    print(f"{missed} targets missed" if missed else "all targets met")
    return 0


def _with_section(page: list[str], title: str, text: list[str]) -> list[str]:
    """The page with a section in the place of the one of that title, or behind the last."""
    heading = f"## {title}"
    if heading not in page:
        return [*page, *([""] if page and page[-1] else []), *text]
    start = page.index(heading)
    end = next((at for at in range(start + 1, len(page)) if page[at].startswith("## ")), len(page))
    return [*page[:start], *text, *page[end:]]


def _setting(folder: Path, quick: bool, turns: int, long: bool) -> Setting:
    real = series.real_slices()
    slices = real or series.generated_slices(folder / "generated", 100)
    places = {count: folder / f"series {count}" for count in (100, 1000)}
    series.copy(slices, places[100])
    series.grow(slices, places[1000], 1000)
    far = folder / "series 20000" if long and not quick else None
    if far is not None:
        series.grow(slices, far, LONG, seed=2)
    return Setting(folder, places, far, bool(real), 2 if quick else turns)


if __name__ == "__main__":
    sys.exit(main())
