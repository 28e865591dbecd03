"""Annotations: statements about images, kept as a log of events, exchanged in the formats of the field.

    from dcmark.annotate import Log, export_annotations, import_annotations
    import_annotations(archive, "seg", "seg.dcm", author="Ada")
    state = Log(archive).state()

Everything heavy is imported when it is first used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dcmark.annotate.agree import compare
    from dcmark.annotate.exchange import export_annotations, import_annotations, import_from_archive
    from dcmark.annotate.log import Log, verify
    from dcmark.annotate.measure import Measures
    from dcmark.annotate.model import Annotation, Code, Contour, Label, LabelSet, Target
    from dcmark.annotate.places import Places

_HOMES = {
    **dict.fromkeys(("Annotation", "Code", "Contour", "Label", "LabelSet", "Target"), "model"),
    **dict.fromkeys(("Log", "verify"), "log"),
    **dict.fromkeys(("export_annotations", "import_annotations", "import_from_archive"), "exchange"),
    "Measures": "measure",
    "Places": "places",
    "compare": "agree",
}

__all__ = [
    "Annotation",
    "Code",
    "Contour",
    "Label",
    "LabelSet",
    "Log",
    "Measures",
    "Places",
    "Target",
    "compare",
    "export_annotations",
    "import_annotations",
    "import_from_archive",
    "verify",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'dcmark.annotate' has no attribute {name!r}")
    from importlib import import_module

    value = globals()[name] = getattr(import_module(f"dcmark.annotate.{_HOMES[name]}"), name)
    return value
