"""DICOMweb over the archive (PS3.18): QIDO-RS, WADO-RS and STOW-RS under /dicom-web.

What is given are the original files, byte for byte. Where two files carry one SOP Instance UID, the first by path is
the instance.
"""

from __future__ import annotations

from starlette.routing import Route

from dcmark.web.dicomweb import qido, rendered, stow, wado

PREFIX = "/dicom-web"
_STUDY = f"{PREFIX}/studies/{{study}}"
_SERIES = f"{_STUDY}/series/{{series}}"
_INSTANCE = f"{_SERIES}/instances/{{instance}}"

ROUTES = [
    Route(f"{PREFIX}/studies", qido.studies),
    Route(f"{PREFIX}/series", qido.series),
    Route(f"{PREFIX}/instances", qido.instances),
    Route(f"{_STUDY}/series", qido.series),
    Route(f"{_STUDY}/instances", qido.instances),
    Route(f"{_SERIES}/instances", qido.instances),
    Route(f"{PREFIX}/studies", stow.store, methods=["POST"]),
    Route(_STUDY, stow.store, methods=["POST"]),
    Route(_STUDY, wado.retrieve),
    Route(_SERIES, wado.retrieve),
    Route(_INSTANCE, wado.retrieve),
    Route(f"{_STUDY}/metadata", wado.metadata),
    Route(f"{_SERIES}/metadata", wado.metadata),
    Route(f"{_INSTANCE}/metadata", wado.metadata),
    Route(f"{_INSTANCE}/frames/{{frames}}", wado.frames),
    Route(f"{_INSTANCE}/bulkdata/{{path:path}}", wado.bulkdata),
    Route(f"{_INSTANCE}/rendered", rendered.instance),
    Route(f"{_INSTANCE}/frames/{{frames}}/rendered", rendered.instance),
    Route(f"{_INSTANCE}/thumbnail", rendered.thumbnail),
    Route(f"{_SERIES}/thumbnail", rendered.thumbnail),
]
