"""Dividing images into training, validation and test parts by person, never by slice.

Files belong to one person where they agree in the patient ID, in the patient's folder of a dataset, in the study or
series they are of, or in what the user says (``Splits.same_person``). Persons are drawn into parts within their
stratum, so that each part gets its share of every stratum as nearly as whole persons allow.
"""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Hashable, Iterable, Mapping, Sequence

from dcmark.archive.query import query
from dcmark.archive.store import Archive
from dcmark.errors import LeakError
from dcmark.view.view import Splits

_KEYS = (
    "nullif(patient_id, '')",
    "CASE WHEN patient <> '' THEN [coalesce(source, ''), coalesce(dataset, ''), patient] END",
    "nullif(study_instance_uid, '')",
    "nullif(series_instance_uid, '')",
)
"""What makes files one person's, as SQL over the view ``files``; beside the SHA-256, which is theirs alone."""


def parts_of(archive: Archive, splits: Splits, where: str | None = None) -> dict[str, str]:
    """The part of every file of a selection, by SHA-256.

    Args:
        splits: how to divide.
        where: SQL condition over ``files``; the draw is among its persons.

    Raises:
        QueryError: an expression is refused.
        LeakError: a person would stand in two parts; this is checked whatever the draw did.
    """
    names = [*_KEYS, *splits.same_person]
    keys = ", ".join(f"({text}\n) AS k{number}" for number, text in enumerate(names))
    rows = query(
        archive,
        f"SELECT sha256, ({splits.stratify or 'NULL'}\n)::VARCHAR AS stratum, {keys} FROM files "
        f"WHERE ({where or 'true'}\n) AND frames > 0 ORDER BY sha256",
    ).to_pylist()
    stated = [[_key(number, row[f"k{number}"]) for number in range(len(names))] for row in rows]
    persons = same([key for key in one if key is not None] for one in stated)
    strata: dict[int, Counter[str]] = defaultdict(Counter)
    # A person is named by the least of the hashes of its files, so that the draw does not go by names or order.
    name_of: dict[int, str] = {}
    for person, row in zip(persons, rows, strict=True):
        strata[person][row["stratum"] or ""] += 1
        name_of[person] = min(name_of.get(person, row["sha256"]), row["sha256"])
    stratum_of = {person: min(found, key=lambda one: (-found[one], one)) for person, found in strata.items()}
    drawn = draw({name_of[person]: stratum for person, stratum in stratum_of.items()}, splits)
    parts = [drawn[name_of[person]] for person in persons]
    check_leaks([[row["sha256"], *one] for row, one in zip(rows, stated, strict=True)], parts)
    return {row["sha256"]: part for row, part in zip(rows, parts, strict=True)}


def _key(number: int, value: object) -> Hashable | None:
    return None if value is None else (number, repr(value))


def same(keys: Iterable[Sequence[Hashable]]) -> list[int]:
    """Number of the group that each item is in: items that share a key are in one, directly or through others."""
    parent: list[int] = []
    first: dict[Hashable, int] = {}

    def root(one: int) -> int:
        while parent[one] != one:
            parent[one] = parent[parent[one]]
            one = parent[one]
        return one

    for number, own in enumerate(keys):
        parent.append(number)
        for key in own:
            a, b = root(first.setdefault(key, number)), root(number)
            parent[max(a, b)] = min(a, b)
    return [root(one) for one in range(len(parent))]


def draw(persons: Mapping[str, str], splits: Splits) -> dict[str, str]:
    """A part for every person, from its stratum; the same whatever the order they are given in.

    Within a stratum persons are put in an order drawn with the seed. Each then goes to the part that is furthest behind
    its share, counted in the stratum first and over all of them where that is a tie.
    """
    chosen: dict[str, str] = {}
    whole: Counter[str] = Counter()
    by_stratum: dict[str, list[str]] = defaultdict(list)
    for person, stratum in persons.items():
        by_stratum[stratum].append(person)
    for stratum in sorted(by_stratum):
        own: Counter[str] = Counter()
        for person in sorted(by_stratum[stratum], key=lambda one: _drawn(splits.seed, one)):
            here, all_so_far = own.total() + 1, whole.total() + 1
            part = max(
                splits.fractions,
                key=lambda part: (
                    round(part[1] * here - own[part[0]], 9),
                    round(part[1] * all_so_far - whole[part[0]], 9),
                ),
            )[0]
            chosen[person] = part
            own[part] += 1
            whole[part] += 1
    return chosen


def _drawn(seed: int, person: str) -> bytes:
    return hashlib.sha256(f"{seed}\0{person}".encode()).digest()


def check_leaks(keys: Sequence[Sequence[Hashable | None]], parts: Sequence[str]) -> None:
    """No key may stand in two parts.

    Args:
        keys: of each item; None says nothing.
        parts: of each item.

    Raises:
        LeakError: one does; the message counts them and names none.
    """
    seen: dict[Hashable, str] = {}
    leaks: dict[Hashable, set[str]] = {}
    for own, part in zip(keys, parts, strict=True):
        for key in own:
            if key is not None and seen.setdefault(key, part) != part:
                leaks.setdefault(key, {seen[key]}).add(part)
    if leaks:
        spread = sorted({" and ".join(sorted(one)) for one in leaks.values()})
        raise LeakError(
            f"expected every patient, study and file in one part; found {len(leaks)} in several ({'; '.join(spread)}); "
            "divide again with dcmark, by person"
        )
