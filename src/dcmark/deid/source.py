"""A source whose files are made clean on the way out of it, so that nothing behind it sees an original."""

from __future__ import annotations

import io
from collections.abc import Iterator

from dcmark.config import LIMITS, Limits
from dcmark.deid.apply import CleanFile, Deidentifier
from dcmark.errors import DcmarkError, HeldBackError, StorageError
from dcmark.findings import Finding
from dcmark.read import layouts
from dcmark.read.base import Item, Source
from dcmark.read.containers import load

GATHERED_FILES, GATHERED_BYTES = 64, 64 << 20
"""Clean files held until the vault is durable: only then are they handed on."""


class DeidentifiedSource:
    """The clean files of another source.

    Names are clean ones; a file that is held back is a finding without its name. Modification times are left out, since
    they tell when somebody was examined.

    Args:
        source: where the originals come from.
        deidentifier: policy, key and vault.
        layout: as for ``ingest``: which folder is the patient's.
    """

    def __init__(
        self, source: Source, deidentifier: Deidentifier, layout: str | None = None, limits: Limits = LIMITS
    ) -> None:
        self._source, self._deidentifier, self._limits = source, deidentifier, limits
        self._layout = layouts.Layout(layout, source)
        self.label = deidentifier.name(f"{source.label}/x").split("/")[0]
        self.root = ""

    def items(self) -> Iterator[Item | Finding]:
        """Clean files, and findings in the place of those that are held back.

        Raises:
            StorageError: the vault cannot be written.
        """
        gathered: list[CleanFile] = []
        for found in self._source.items():
            clean = self._clean(found)
            if isinstance(clean, Finding):
                yield clean
                continue
            gathered.append(clean)
            if len(gathered) >= GATHERED_FILES or sum(len(one.data) for one in gathered) >= GATHERED_BYTES:
                yield from self._handed_on(gathered)
        yield from self._handed_on(gathered)

    def _clean(self, found: Item | Finding) -> CleanFile | Finding:
        if isinstance(found, Finding):
            name = self._deidentifier.name(found.path) if found.path else ""
            return Finding(found.level, found.code, "a file of the source could not be given", found.action, name)
        name = self._deidentifier.name(found.path)
        try:
            with load(found, self._limits) as buffer:
                patient = self._layout.place(found.path).patient
                return self._deidentifier.file(
                    buffer.data, found.path, patient, lambda path: self._layout.place(path).patient
                )
        except HeldBackError as error:
            return Finding("error", error.code, str(error), "held back", name)
        except StorageError:
            raise
        except (DcmarkError, OSError) as error:
            code = getattr(error, "code", "unreadable")
            return Finding("error", code, "the file cannot be read", "held back", name)

    def _handed_on(self, gathered: list[CleanFile]) -> Iterator[Item]:
        self._deidentifier.sync()
        for clean in gathered:
            data = clean.data
            yield Item(self.label, clean.path, len(data), None, False, lambda d=data: io.BytesIO(d), "")  # type: ignore[misc]
        gathered.clear()
