"""What the tests of annotations draw on: small archives, and masks without any symmetry."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

import dcmark
from dcmark.annotate.log import Log
from dcmark.annotate.masks import make_plane
from dcmark.annotate.model import Annotation, Code, Contour, Label
from dcmark.annotate.places import Places
from dcmark.read.volume_model import FrameId
from dcmark.testing.synthetic import ct_series

LIVER = Label("liver", Code("10200004", "SCT", "Liver"), Code("91723000", "SCT", "Anatomical Structure"), "#cc3311")
LESION = Label(
    "lesion", Code("52988006", "SCT", "Lesion"), Code("49755003", "SCT", "Morphologically Altered Structure")
)
PLAIN = Label("odd thing")


def lopsided(k: int, rows: int, columns: int) -> np.ndarray:
    """A mask that no flip, shift or turn maps to itself, with a hole, different on every slice."""
    mask = np.zeros((rows, columns), bool)
    mask[3 : 3 + rows // 2, 4 : 8 + k % 5] = True
    mask[3 + rows // 3 : 3 + rows // 2, 4 : 4 + columns // 2] = True
    mask[6:8, 5:7] = False
    mask[k % rows, columns - 2] = True
    return mask


def ct_archive(folder: Path, slices: int = 6, rows: int = 40, columns: int = 48, **options) -> dcmark.Archive:
    """An archive of one CT series that is square in nothing."""
    rng = np.random.default_rng(1)
    hu = rng.integers(-200, 300, (slices, rows, columns))
    options = {"spacing_mm": (3.0, 0.9, 0.7), "origin_mm": (-31.0, 12.0, 100.0), **options}
    ct_series(folder / "ct", hu, **options)
    archive = dcmark.open_archive(folder / "ct.dcmark", create=True)
    dcmark.ingest([folder / "ct"], archive)
    return archive


def volume_mask(archive, label=LIVER, skip: int = 1, number: int = 0, **more) -> Annotation:
    """A mask on all slices of a volume but the first ``skip``."""
    places = Places(archive)
    volume = list(places.volumes.values())[number]
    frames = [FrameId(*frame) for frame in volume.frames]
    planes = [make_plane(frame, lopsided(k, *volume.shape[1:])) for k, frame in enumerate(frames) if k >= skip]
    return Annotation("mask", places.target("volume", frames, volume), label, mask=planes, **more)


def everything(archive) -> dict[str, Annotation]:
    """An annotation of every kind."""
    places = Places(archive)
    volume = next(iter(places.volumes.values()))
    frames = [FrameId(*frame) for frame in volume.frames]
    one, two = frames[1], frames[2]

    def on(kind, contours, label=LESION, **more):
        return Annotation(kind, places.target("region", [c.frame for c in contours]), label, tuple(contours), **more)

    ring = ((10.25, 8.5), (10.5, 30.25), (28.75, 31.0), (30.0, 9.5))
    hole = ((14.0, 14.0), (14.0, 20.0), (20.5, 20.0), (21.0, 13.5))
    found = {
        "polygon": on("polygon", [Contour(ring, one)], author="Ada"),
        "polygon with a hole": on("polygon", [Contour(ring, two), Contour(hole, two)], PLAIN),
        "polygon on two slices": on("polygon", [Contour(ring, one), Contour(hole, two)], LIVER),
        "freehand": on("freehand", [Contour((*hole, (17.0, 10.0)), one)]),
        "open freehand": on("freehand", [Contour((*hole, (17.0, 10.0)), one, False)]),
        "box": on("box", [Contour(((4.5, 6.0), (18.5, 20.25)), two)]),
        "ellipse": on("ellipse", [Contour(((12.0, 10.0), (20.0, 26.0), (20.0, 16.0), (12.0, 20.0)), one)]),
        "line": on("line", [Contour(((3.0, 4.0), (22.5, 31.5)), one, False)]),
        "angle": on("line", [Contour(((3.0, 4.0), (12.5, 11.5), (3.0, 30.0)), two, False)]),
        "point": on("point", [Contour(((7.25, 9.75),), two, False)]),
        "points": on("point", [Contour(((7.25, 9.75), (11.0, 3.0)), one, False)]),
        "text": on("text", [Contour(((5.0, 6.0),), one, False)], PLAIN, text="look here"),
        "mask": volume_mask(archive),
        "mask on one frame": Annotation(
            "mask", places.target("region", [one]), PLAIN, mask=[make_plane(one, lopsided(4, *volume.shape[1:]))]
        ),
        "class of a frame": Annotation("label", places.target("frame", [two]), LESION),
        "class of an image": Annotation("label", places.target("instance", [one]), PLAIN),
        "class of a series": Annotation("label", places.target("series", [one]), LESION),
        "class of a study": Annotation("label", places.target("study", [one]), LESION),
        "class of a patient": Annotation("label", places.target("patient", [one]), LESION),
        "measurement": Annotation(
            "measurement", places.target("study", [one]), Label("Volume", Code("118565006", "SCT", "Volume")),
            value=12.5, unit="ml",
        ),
    }  # fmt: skip
    found["length of the line"] = Annotation(
        "measurement", found["line"].target, Label("Length", Code("410668003", "SCT", "Length")), value=27.0 / 7,
        unit="mm", derived_from=(found["line"].id,),
    )  # fmt: skip
    return found


def added(archive, *annotations: Annotation) -> list[Annotation]:
    """The annotations as the log gives them back."""
    log = Log(archive)
    log.add(annotations)
    state = log.state()
    return [state[one.id] for one in annotations]


def pixels(annotations, archive) -> dict:
    """Marked pixels by frame, of all annotations together."""
    from dcmark.annotate.raster import regions

    places = Places(archive)
    found: dict = {}
    for one in annotations:
        for frame, mask in regions(one, places.size).items():
            found[frame] = found[frame] | mask if frame in found else mask
    return {frame: mask for frame, mask in found.items() if mask.any()}


def same_pixels(a: dict, b: dict) -> bool:
    return a.keys() == b.keys() and all(np.array_equal(a[key], b[key]) for key in a)


def run(*arguments, capsys) -> tuple[int, str]:
    """Exit code and printed text of a command line."""
    from dcmark.cli import run as command

    code = command([str(one) for one in arguments])
    printed = capsys.readouterr()
    return code, printed.out + printed.err


def run_json(*arguments, capsys):
    from dcmark.cli import run as command

    code = command([*map(str, arguments), "--json"])
    return code, json.loads(capsys.readouterr().out)
