"""Frames of data sets: every way DICOM states where frames stand."""

from __future__ import annotations

import struct

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dcmark.errors import UsageError
from dcmark.read.volumes import FrameRange, FrameTags, frames_of, needs_dataset, split_mosaic
from volume_series import AXIAL, codes, found, only, series


def test_files_whose_columns_do_not_say_enough_are_known():
    rows = series(6)
    rows[1]["number_of_frames"] = 30
    rows[2]["image_type"] = "ORIGINAL\\PRIMARY\\M\\ND\\MOSAIC"
    rows[3] |= {"sop_class_uid": "1.2.840.10008.5.1.4.1.1.20", "image_position_patient": None}
    rows[4]["image_type"] = "ORIGINAL\\PRIMARY\\DIFFUSION"
    rows[5] |= {"image_type": "ORIGINAL\\PRIMARY\\DIFFUSION", "diffusion_b_value": 0}
    assert needs_dataset(FrameTags.from_rows(rows)).tolist() == [False, True, True, True, True, False]


def enhanced(stated: int, per_frame: int, phases: int = 1):
    from pydicom.dataset import Dataset

    def item(**values):
        dataset = Dataset()
        for keyword, value in values.items():
            setattr(dataset, keyword, value)
        return dataset

    dataset = item(
        SOPClassUID="1.2.840.10008.5.1.4.1.1.2.1",
        SOPInstanceUID="1.2.3",
        SeriesInstanceUID="1.2",
        Modality="CT",
        Rows=8,
        Columns=8,
        NumberOfFrames=stated,
        SharedFunctionalGroupsSequence=[
            item(
                PlaneOrientationSequence=[item(ImageOrientationPatient=list(AXIAL))],
                PixelMeasuresSequence=[item(PixelSpacing=[1, 1], SliceThickness=2)],
            )
        ],
        DimensionIndexSequence=[item(DimensionIndexPointer=0x00209057), item(DimensionIndexPointer=0x00189087)],
    )
    dataset.PerFrameFunctionalGroupsSequence = [
        item(
            PlanePositionSequence=[item(ImagePositionPatient=[0, 0, 2 * (i // phases)])],
            FrameContentSequence=[item(DimensionIndexValues=[i // phases + 1, i % phases + 1])],
        )
        for i in range(per_frame)
    ]
    return dataset


def test_an_enhanced_object_is_split_by_a_dimension_that_nothing_else_explains():
    result = found(frames_of(enhanced(12, 12, phases=3), "f"))
    assert [(volume.shape, volume.split[0].attribute) for volume in result.volumes] == [
        ((4, 8, 8), "DimensionIndexValues")
    ] * 3
    assert [frame.frame for frame in result.volumes[1].frames] == [1, 4, 7, 10]


def test_declared_frames_are_never_believed_beyond_their_items():
    rows = frames_of(enhanced(2_000_000_000, 5), "f")
    assert len(rows) == 5
    volume = only(rows)
    assert "frame-count-disagrees" in codes(volume)
    assert len(frames_of(enhanced(3, 5), "f")) == 3


def multiframe(**values):
    from pydicom.dataset import Dataset

    dataset = Dataset()
    for keyword, value in {
        "SOPInstanceUID": "1.2.3",
        "SeriesInstanceUID": "1.2",
        "Rows": 8,
        "Columns": 8,
        "PixelSpacing": [2, 2],
        "ImagePositionPatient": [0, 0, 100],
        "ImageOrientationPatient": list(AXIAL),
        "NumberOfFrames": 5,
        **values,
    }.items():
        setattr(dataset, keyword, value)
    return dataset


def test_a_cine_is_one_row_however_many_frames_it_declares():
    dataset = multiframe(Modality="XA", NumberOfFrames=2_000_000_000, FrameTime=33)
    rows = frames_of(dataset, "f")
    assert len(rows) == 1
    volume = only(rows)
    assert (volume.grid, volume.shape, codes(volume)) == ("none", (2_000_000_000, 8, 8), {"cine"})
    assert isinstance(volume.frames, FrameRange)
    assert volume.frames[-1] == ("f", 1_999_999_999)
    assert volume.as_dict()["frames"] == {"file": "f", "start": 0, "count": 2_000_000_000}


@pytest.mark.parametrize(
    ("offsets", "position", "cosines", "expected", "warned"),
    [
        ([0, 3, 6, 9, 12], 100, AXIAL, [100, 103, 106, 109, 112], False),
        ([0, -3, -6, -9, -12], 100, AXIAL, [88, 91, 94, 97, 100], False),
        ([100, 103, 106, 109, 112], 100, AXIAL, [100, 103, 106, 109, 112], False),
        ([100, 103, 106, 109, 112], 100, (1, 0, 0, 0, -1, 0), [112, 109, 106, 103, 100], False),
        ([7, 10, 13, 16, 19], 100, AXIAL, [100, 103, 106, 109, 112], True),
    ],
)
def test_dose_frames_stand_where_their_offsets_say(offsets, position, cosines, expected, warned):
    dataset = multiframe(
        SOPClassUID="1.2.840.10008.5.1.4.1.1.481.2",
        Modality="RTDOSE",
        GridFrameOffsetVector=offsets,
        ImagePositionPatient=[0, 0, position],
        ImageOrientationPatient=list(cosines),
    )
    volume = only(frames_of(dataset, "f"))
    assert volume.grid == "regular"
    assert volume.positions[:, 2].tolist() == expected
    assert ("dose-offsets-disagree" in codes(volume)) == warned


@pytest.mark.parametrize("between", [4.0, -4.0])
def test_nuclear_slices_lie_on_the_side_of_the_sign_of_their_spacing(between):
    from pydicom.dataset import Dataset

    detector = Dataset()
    detector.ImagePositionPatient, detector.ImageOrientationPatient = [1, 2, 50], list(AXIAL)
    dataset = multiframe(
        SOPClassUID="1.2.840.10008.5.1.4.1.1.20",
        Modality="NM",
        ImageType=["ORIGINAL", "PRIMARY", "RECON TOMO", "EMISSION"],
        SpacingBetweenSlices=between,
        DetectorInformationSequence=[detector],
        SliceVector=[1, 2, 3, 4, 5],
    )
    del dataset.ImagePositionPatient, dataset.ImageOrientationPatient
    volume = only(frames_of(dataset, "f"))
    assert (volume.grid, volume.spacing[0]) == ("regular", pytest.approx(4))
    assert volume.positions[:, 2].tolist() == sorted(50 + between * i for i in range(5))
    assert [frame.frame for frame in volume.frames] == ([0, 1, 2, 3, 4] if between > 0 else [4, 3, 2, 1, 0])
    dataset.ImageType[2] = "STATIC"
    assert only(frames_of(dataset, "f")).grid == "none"


def test_old_multi_frame_objects_are_placed_by_their_spacing_with_a_warning():
    dataset = multiframe(Modality="MR", SpacingBetweenSlices=3)
    volume = only(frames_of(dataset, "f"))
    assert volume.positions[:, 2].tolist() == [100, 103, 106, 109, 112]
    assert "derived-positions" in codes(volume)
    del dataset.SpacingBetweenSlices
    assert codes(only(frames_of(dataset, "f"))) == {"missing-geometry"}


@pytest.mark.parametrize(
    ("group", "creator", "offset", "vr", "value"),
    [
        (0x0019, "SIEMENS MR HEADER", 0x0C, "IS", 1000),
        (0x2001, "Philips Imaging DD 001", 0x03, "FL", 1000.0),
        (0x0043, "GEMS_PARM_01", 0x39, "IS", [1000001000, 8, 0, 0]),
    ],
)
def test_b_values_of_private_attributes_are_read(group, creator, offset, vr, value):
    dataset = multiframe(Modality="MR")
    del dataset.NumberOfFrames
    dataset.private_block(group, creator, create=True).add_new(offset, vr, value)
    (row,) = frames_of(dataset, "f")
    assert row["diffusion_b_value"] == 1000
    dataset.DiffusionBValue = 50.0
    assert frames_of(dataset, "f")[0]["diffusion_b_value"] == 50


def csa_header(**elements: list[str]) -> bytes:
    """A Siemens CSA header of the newer form."""
    out = b"SV10\4\3\2\1" + struct.pack("<II", len(elements), 77)
    for name, values in elements.items():
        out += struct.pack("<64si4siii", name.encode(), len(values), b"FD", 3, len(values), 77)
        for value in values:
            text = value.encode() + b"\0"
            out += struct.pack("<4i", len(text), len(text), 77, len(text)) + text + b"\0" * (-len(text) % 4)
    return out


GOOD_CSA = csa_header(NumberOfImagesInMosaic=["7"], SliceNormalVector=["0.0", "0.0", "1.0"])


def mosaic(header: bytes | None, number: int = 1):
    dataset = multiframe(
        SOPClassUID="1.2.840.10008.5.1.4.1.1.4",
        Modality="MR",
        ImageType=["ORIGINAL", "PRIMARY", "M", "ND", "MOSAIC"],
        Rows=192,
        Columns=192,
        SpacingBetweenSlices=3.3,
        AcquisitionNumber=number,
        InstanceNumber=number,
        SOPInstanceUID=f"1.2.3.{number}",
        # The scanner states the corner of the whole mosaic, centred on the slice.
        ImagePositionPatient=[-192, -192, -20],
    )
    del dataset.NumberOfFrames
    if header is not None:
        dataset.private_block(0x0029, "SIEMENS CSA HEADER", create=True).add_new(0x10, "OB", header)
    return dataset


def test_a_mosaic_is_the_volume_of_its_tiles():
    header = csa_header(EchoLinePosition=["32"], NumberOfImagesInMosaic=["7"], SliceNormalVector=["0.0", "0.0", "1.0"])
    result = found([row for n in (2, 1) for row in frames_of(mosaic(header, n), f"f{n}")])
    first, second = result.volumes
    assert [frame.file for frame in first.frames + second.frames] == ["f1", "f2"]
    assert (first.shape, first.grid, first.phase, first.phases) == ((7, 64, 64), "regular", 1, 2)
    assert first.tiles == (7, 3, 64, 64)
    assert np.allclose(first.affine, [[0, 0, 2, -64], [0, 2, 0, -64], [3.3, 0, 0, -20], [0, 0, 0, 1]])
    picture = np.arange(192 * 192).reshape(192, 192)
    slices = split_mosaic(picture, first)
    assert slices.shape == first.shape
    assert np.array_equal(slices[4], picture[64:128, 64:128])
    assert np.array_equal(slices[6], picture[128:, :64])
    with pytest.raises(UsageError, match="tiles"):
        split_mosaic(picture[:100], first)


def test_a_mosaic_stacked_against_the_normal_keeps_the_order_of_its_tiles():
    header = csa_header(NumberOfImagesInMosaic=["9"], SliceNormalVector=["0.0", "0.0", "-1.0"])
    volume = only(frames_of(mosaic(header), "f"))
    assert volume.affine[2, 0] == pytest.approx(-3.3)


@pytest.mark.parametrize(
    "header",
    [
        None,
        b"",
        b"SV10",
        b"SV10\4\3\2\1\xff\xff\xff\xff",
        csa_header(NumberOfImagesInMosaic=["7"]),
        csa_header(SliceNormalVector=["a"]),
        GOOD_CSA[:-3],
        GOOD_CSA.replace(b"SV10", b"SV09"),
    ],
)
def test_a_mosaic_that_does_not_say_how_it_is_cut_is_an_error_finding(header):
    volume = only(frames_of(mosaic(header), "f"))
    assert (volume.grid, volume.affine) == ("none", None)
    assert [(finding.level, finding.code) for finding in volume.findings] == [("error", "mosaic")]


@given(st.binary(max_size=600))
def test_a_damaged_csa_header_never_raises(noise):
    for header in (noise, b"SV10" + noise, GOOD_CSA[: len(noise)] + noise):
        frames_of(mosaic(header), "f")
