"""Annotations: a mask over a thousand slices, from a file into the log."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np

from benchmarks.measure import Cost, cost, in_turns, middle
from benchmarks.table import Row, Setting, section


@section("annotate", "Annotations")
def annotate_rows(setting: Setting) -> Iterator[Row]:
    """A mask of an organ's size and one of the whole body, over 512 x 512 x 1000; numpy reads the same file."""
    import nibabel

    import dcmark
    from dcmark.annotate import import_annotations
    from dcmark.geometry import affine_to_nifti

    archive = dcmark.open_archive(setting.folder / "annotate.dcmark", create=True)
    dcmark.ingest(setting.slices[1000], archive)
    (volume,) = archive.volumes()
    affine = affine_to_nifti(volume.affine)
    for name, mask in (("an organ", _ball(volume.shape, 0.2)), ("the body", _ball(volume.shape, 0.9))):
        for ending in ("nii", "nii.gz"):
            place = setting.folder / f"{name}.{ending}"
            nibabel.save(nibabel.Nifti1Image(mask.transpose(2, 1, 0), affine), place)

            works: dict[str, Callable[[], Cost]] = {
                "import": lambda place=place: cost(lambda: import_annotations(archive, "nifti", place)),
                "read": lambda place=place: cost(lambda: np.asarray(nibabel.load(place).dataobj).sum()),
            }
            costs = in_turns(works, setting.turns)
            ratio = middle(costs["import"]) / middle(costs["read"])
            note = (
                f"{middle(costs['import']):.2f} s and {middle(costs['read']):.2f} s, {100 * mask.mean():.0f} % of all"
            )
            what = f"import of a mask of {name}, .{ending}, beside numpy reading it"
            missed = "numpy only copies such a file; packing and comparing 100 million marked voxels costs more"
            yield Row(what, ratio, "x", 3.0, "most", note, missed)


def _ball(shape: tuple[int, int, int], size: float) -> np.ndarray:
    """An ellipsoid with a wavy surface, uint8 0 and 1, of ``shape`` (slices, rows, columns)."""
    k, j, i = (np.linspace(-1, 1, count, dtype=np.float32) for count in shape)
    k, j, i = k[:, None, None], j[None, :, None], i[None, None, :]
    return (k * k + j * j + i * i + 0.05 * np.sin(9 * i) * np.sin(7 * j) < size * size).astype(np.uint8)
