"""A DICOMweb client that others wrote, unmodified, against the server."""

from __future__ import annotations

import io
import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pydicom
import pytest

pytestmark = [pytest.mark.long, pytest.mark.filterwarnings("default")]


@pytest.fixture
def client(served: tuple[str, str]) -> Iterator[object]:
    api = pytest.importorskip("dicomweb_client.api", reason="dicomweb-client is not installed")
    requests = pytest.importorskip("requests")
    session = requests.Session()
    session.headers["Authorization"] = f"Bearer {served[1]}"
    yield api.DICOMwebClient(served[0], session=session)
    session.close()


def test_search_and_retrieve(client, originals: list[Path]) -> None:
    """Every instance is found on the way down from its study, and is what came in."""
    by_uid = {}
    for file in originals:
        dataset = pydicom.dcmread(file)
        by_uid[str(dataset.SOPInstanceUID)] = dataset
    studies = client.search_for_studies(fields=["StudyDescription"])
    assert {one["0020000D"]["Value"][0] for one in studies} == {str(d.StudyInstanceUID) for d in by_uid.values()}
    found = {}
    for study in studies:
        uid = study["0020000D"]["Value"][0]
        for series in client.search_for_series(uid):
            series_uid = series["0020000E"]["Value"][0]
            metadata = client.retrieve_series_metadata(uid, series_uid)
            instances = client.retrieve_series(uid, series_uid)
            assert len(metadata) == len(instances) == len(client.search_for_instances(uid, series_uid))
            for told, dataset in zip(metadata, instances, strict=True):
                assert told["00080018"]["Value"][0] in {str(one.SOPInstanceUID) for one in instances}
                found[str(dataset.SOPInstanceUID)] = dataset
    assert set(found) == set(by_uid)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for uid, dataset in found.items():
            assert dataset == by_uid[uid]


def test_frames_and_pictures(client, originals: list[Path]) -> None:
    from PIL import Image

    looked_at = 0
    for file in originals:
        dataset = pydicom.dcmread(file)
        if "PixelData" not in dataset:
            continue
        uids = dataset.StudyInstanceUID, dataset.SeriesInstanceUID, dataset.SOPInstanceUID
        picture = client.retrieve_instance_rendered(*uids, media_types=("image/png",))
        assert Image.open(io.BytesIO(picture)).size == (dataset.Columns, dataset.Rows)
        (frame,) = client.retrieve_instance_frames(*uids, [1])
        if not dataset.file_meta.TransferSyntaxUID.is_compressed and dataset.BitsAllocated >= 8:
            assert dataset.PixelData.startswith(bytes(frame))
        if dataset.file_meta.TransferSyntaxUID.is_compressed:
            coded = pydicom.encaps.get_frame(
                dataset.PixelData, 0, number_of_frames=int(dataset.get("NumberOfFrames", 1) or 1)
            )
            (stored,) = client.retrieve_instance_frames(*uids, [1], media_types=(("application/octet-stream", "*"),))
            assert stored.rstrip(b"\0") == coded.rstrip(b"\0")
            if dataset.get("SamplesPerPixel") == 1:
                pixels = np.frombuffer(frame, f"u{dataset.BitsAllocated // 8}")
                assert pixels.size == dataset.Rows * dataset.Columns
        looked_at += 1
    assert looked_at >= 8


def test_store(client, originals: list[Path]) -> None:
    dataset = pydicom.dcmread(originals[0])
    dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID + ".1"
    answer = client.store_instances([dataset])
    assert answer.ReferencedSOPSequence[0].ReferencedSOPInstanceUID == dataset.SOPInstanceUID
    back = client.retrieve_instance(dataset.StudyInstanceUID, dataset.SeriesInstanceUID, dataset.SOPInstanceUID)
    assert back == dataset
    found = client.search_for_instances(search_filters={"SOPInstanceUID": dataset.SOPInstanceUID})
    assert len(found) == 1
