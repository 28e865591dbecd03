"""Which reader takes a file: DICOM first, then plug-ins, else the file is kept whole."""

from __future__ import annotations

from functools import cache

from dcmark import plugins
from dcmark.config import LIMITS, Limits
from dcmark.findings import Finding
from dcmark.read.base import Instance, Reader, Segment
from dcmark.read.dicom import DicomReader

GROUP = "dcmark.readers"
HEAD = 4096


@cache
def readers(limits: Limits = LIMITS) -> tuple[Reader, ...]:
    """All readers in the order they are asked."""
    others = [plugins.load(GROUP, name)() for name in plugins.names(GROUP)]
    return (DicomReader(limits), *others)


def take_apart(data: memoryview, path: str, limits: Limits = LIMITS) -> Instance:
    """The file as segments and tags by the first reader that claims it; never raises for its content.

    Args:
        data: the whole file.
        path: its name, for readers that look at extensions.
        limits: what hostile content may cost.
    """
    if not len(data):
        return Instance(
            kind="opaque",
            segments=(),
            findings=(Finding("warning", "empty", "the file has no bytes", "kept"),),
        )
    head = data[:HEAD]
    for reader in readers(limits):
        if not reader.claims(head, path):
            continue
        try:
            return reader.take_apart(data, path)
        except Exception as error:  # noqa: BLE001 - a reader's fault must not cost the file
            message = f"the reader for {reader.name} failed ({type(error).__name__}); please report this"
            return _opaque(data, Finding("error", "reader-failed", message, "kept whole"))
    return _opaque(data, Finding("warning", "unknown-format", "no reader knows this kind of file", "kept whole"))


def _opaque(data: memoryview, finding: Finding) -> Instance:
    return Instance(kind="opaque", segments=(Segment(-1, len(data)),), findings=(finding,))
