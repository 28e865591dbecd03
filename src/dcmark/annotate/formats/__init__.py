"""Formats that annotations come from and go to; entry-point group ``dcmark.annotation_formats``.

Those of dcmark itself are listed here, so that they are there in whatever way the package was put in place.
"""

from __future__ import annotations

from importlib import import_module
from typing import cast

from dcmark import plugins
from dcmark.annotate.formats.base import AnnotationFormat
from dcmark.errors import MissingExtraError

GROUP = "dcmark.annotation_formats"
_HOME = "dcmark.annotate.formats"
BUILT_IN = {
    "ann": "ann:AnnFormat",
    "coco": "coco:CocoFormat",
    "csv": "table:CsvFormat",
    "cvat": "cvat:CvatFormat",
    "gsps": "gsps:GspsFormat",
    "kos": "kos:KosFormat",
    "labelme": "labelme:LabelMeFormat",
    "labelstudio": "labelstudio:LabelStudioFormat",
    "mha": "masks:MhaFormat",
    "nifti": "masks:NiftiFormat",
    "nnunet": "nnunet:NnUnetFormat",
    "nrrd": "slicer:NrrdFormat",
    "rtstruct": "rtstruct:RtStructFormat",
    "seg": "seg:SegFormat",
    "sr": "sr:SrFormat",
    "voc": "voc:VocFormat",
    "yolo": "yolo:YoloFormat",
}
"""Name: module and class."""


def names() -> list[str]:
    """Names of all formats, sorted."""
    return sorted({*BUILT_IN, *plugins.names(GROUP)})


def load(name: str) -> AnnotationFormat:
    """A format by name.

    Raises:
        UsageError: there is none of that name; the message lists those there are.
        MissingExtraError: it needs a package that is not installed.
    """
    if name not in BUILT_IN:
        if name not in plugins.names(GROUP):
            from dcmark.errors import UsageError

            raise UsageError(f"unknown annotation format {name!r}; expected one of: {', '.join(names())}")
        return cast(AnnotationFormat, plugins.load(GROUP, name)())
    module, _, attribute = BUILT_IN[name].partition(":")
    try:
        return cast(AnnotationFormat, getattr(import_module(f"{_HOME}.{module}"), attribute)())
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        raise MissingExtraError(package, plugins.EXTRA_OF_PACKAGE.get(package, "all"), f"{name!r}") from error
