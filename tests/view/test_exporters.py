"""Every exporter of training sets keeps the contract, and other programs read what it writes."""

from __future__ import annotations

import csv
import io
import json
import shutil
import tarfile
from dataclasses import replace

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

import dcmark
from dcmark.annotate.log import Log
from dcmark.annotate.masks import make_plane
from dcmark.annotate.model import Annotation, Contour, Label
from dcmark.annotate.places import Places
from dcmark.errors import UsageError
from dcmark.read.volume_model import FrameId
from dcmark.testing.exporters import ExporterContract
from dcmark.view.cache import Cache, write_cache
from dcmark.view.export.medmnist import export_medmnist
from dcmark.view.export.npyshards import export_shards
from dcmark.view.export.pairs import export_pairs
from dcmark.view.export.parquet import export_parquet
from dcmark.view.export.pggan import export_pggan
from dcmark.view.export.stylegan3 import export_stylegan3
from dcmark.view.export.webdataset import export_webdataset
from dcmark.view.render import plan
from dcmark.view.view import Splits, View

LABELLED = View(windows=("lung",), size=(32, 32), labels="body_part_examined")
OTHER = replace(LABELLED, windows=("bone",))
PARTS = Splits((("train", 0.5), ("val", 0.25), ("test", 0.25)))


class Contract(ExporterContract):
    view = LABELLED
    unlike = OTHER

    @pytest.fixture
    def archive(self, patients: dcmark.Archive) -> dcmark.Archive:
        return patients


class TestStyleGan3(Contract):
    export = staticmethod(export_stylegan3)


class TestPggan(Contract):
    pytest.importorskip("google_crc32c", reason="the extra formats is not installed")
    export = staticmethod(export_pggan)


class TestCache(Contract):
    export = staticmethod(write_cache)


class TestWebDataset(Contract):
    export = staticmethod(lambda *args, **more: export_webdataset(*args, per_shard=5, **more))


class TestParquet(Contract):
    export = staticmethod(lambda *args, **more: export_parquet(*args, per_shard=5, **more))


class TestShards(Contract):
    export = staticmethod(lambda *args, **more: export_shards(*args, per_shard=5, **more))


class TestMedMnist(Contract):
    export = staticmethod(export_medmnist)
    view = replace(LABELLED, splits=PARTS)
    unlike = replace(OTHER, splits=PARTS)


@pytest.fixture(scope="module")
def marked(patients: dcmark.Archive, tmp_path_factory: pytest.TempPathFactory) -> dcmark.Archive:
    """The same patients, with regions of three kinds on two slices."""
    folder = tmp_path_factory.mktemp("marked")
    shutil.copytree(patients.path, folder / "a.dcmark")
    archive = dcmark.open_archive(folder / "a.dcmark")
    places = Places(archive)
    volume = next(iter(places.volumes.values()))
    one, two = (FrameId(*frame) for frame in volume.frames[1:3])
    whole = np.zeros((48, 64), bool)
    whole[10:20, 30:50] = True
    log = Log(archive, author="A")
    log.add(
        [
            Annotation("mask", places.target("volume", [one], volume), Label("a"), mask=[make_plane(one, whole)]),
            Annotation("box", places.target("frame", [one]), Label("b"), (Contour(((14.0, 40.0), (25.0, 45.0)), one),)),
            Annotation("box", places.target("frame", [two]), Label("b"), (Contour(((1.0, 2.0), (5.0, 9.0)), two),)),
        ]
    )
    return archive


class TestPairs(Contract):
    export = staticmethod(export_pairs)

    @pytest.fixture
    def archive(self, marked: dcmark.Archive) -> dcmark.Archive:
        return marked


def test_masks_lie_on_their_images(marked, tmp_path):
    view = View(windows=("lung",), annotated="*", orientation="standard")
    assert export_pairs(marked, tmp_path / "set", view=view).items == 2
    assert json.loads((tmp_path / "set" / "classes.json").read_text()) == {"background": 0, "a": 1, "b": 2}
    masks = [np.asarray(Image.open(place)) for place in sorted((tmp_path / "set" / "masks").iterdir())]
    expected = np.zeros((48, 64), int)
    expected[10:20, 30:50] = 1
    expected[14:26, 40:46] = 2
    assert np.array_equal(masks[0], expected)
    assert set(np.unique(masks[1])) == {0, 2}
    small = View(windows=("lung",), annotated="a", size=(24, 32))
    assert export_pairs(marked, tmp_path / "small", view=small).items == 1
    (mask,) = [np.asarray(Image.open(place)) for place in (tmp_path / "small" / "masks").iterdir()]
    assert mask.shape == (24, 32) and set(np.unique(mask)) == {0, 1}


def test_masks_need_regions(patients, tmp_path):
    with pytest.raises(UsageError, match="annotate some"):
        export_pairs(patients, tmp_path / "set", view=LABELLED)
    assert not any(tmp_path.iterdir())


def test_tar_shards_by_tarfile_and_pillow(patients, tmp_path):
    export_webdataset(patients, tmp_path / "set", view=LABELLED, per_shard=10)
    planned = plan(patients, LABELLED)
    names = sorted(place.name for place in (tmp_path / "set").iterdir())
    assert names == ["000000.tar", "000001.tar", "000002.tar", "view.json"]
    index = 0
    for name in names[:3]:
        with tarfile.open(tmp_path / "set" / name) as tar:
            found = {member.name: tar.extractfile(member).read() for member in tar}
        for key in sorted({member.partition(".")[0] for member in found}):
            item = planned.render(index)
            assert key == f"{index:08d}"
            assert np.array_equal(np.asarray(Image.open(io.BytesIO(found[f"{key}.png"]))), item.image)
            assert int(found[f"{key}.cls"]) == item.label
            assert json.loads(found[f"{key}.json"]) == json.loads(json.dumps(item.record))
            index += 1
    assert index == 24


def test_stacks_and_their_table(patients, tmp_path):
    export_shards(patients, tmp_path / "set", view=replace(LABELLED, bits=16), per_shard=10)
    planned = plan(patients, replace(LABELLED, bits=16))
    with (tmp_path / "set" / "items.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    for index, row in enumerate(rows):
        item = planned.render(index)
        stack = np.load(tmp_path / "set" / row["stack"], mmap_mode="r", allow_pickle=False)
        assert np.array_equal(stack[int(row["index"])], item.image)
        assert (int(row["label"]), row["class"]) == (item.label, planned.labels.classes[item.label])
        assert (row["sha256"], int(row["frame"])) == (item.record["sha256"], item.record["frame"])
    assert len(rows) == 24


def test_parquet_by_pyarrow(patients, tmp_path):
    export_parquet(patients, tmp_path / "set", view=replace(LABELLED, splits=PARTS, bits=16), per_shard=10)
    table = pq.read_table(tmp_path / "set" / "000001.parquet")
    features = json.loads(table.schema.metadata[b"huggingface"])["info"]["features"]
    assert features["label"] == {"names": ["ABDOMEN", "CHEST", "HEAD"], "_type": "ClassLabel"}
    assert features["image"] == {"_type": "Image"}
    row = table.to_pylist()[3]
    item = plan(patients, replace(LABELLED, splits=PARTS, bits=16)).render(13)
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(row["image"]["bytes"]))), item.image)
    assert (row["label"], row["part"], row["sha256"]) == (item.label, item.record["part"], item.record["sha256"])


def test_parquet_by_datasets(patients, tmp_path):
    datasets = pytest.importorskip("datasets", reason="Hugging Face datasets is not installed")
    export_parquet(patients, tmp_path / "set", view=LABELLED)
    found = datasets.load_dataset(
        "parquet", data_files=str(tmp_path / "set" / "*.parquet"), cache_dir=str(tmp_path / "cache")
    )["train"]
    assert found.features["label"].names == ["ABDOMEN", "CHEST", "HEAD"]
    assert np.array_equal(np.asarray(found[5]["image"]), plan(patients, LABELLED).render(5).image)


@pytest.mark.parametrize("colour", [False, True])
def test_npz_by_numpy(patients, tmp_path, colour):
    view = replace(LABELLED, splits=PARTS, colour=colour)
    export_medmnist(patients, tmp_path / "set.npz", view=view)
    with np.load(tmp_path / "set.npz") as found:
        for part in ("train", "val", "test"):
            planned = plan(patients, view.of_part(part))
            images = np.stack([planned.render(index).image for index in range(len(planned))])
            assert np.array_equal(found[f"{part}_images"], images)
            assert np.array_equal(found[f"{part}_labels"], np.array(planned.labels.values)[:, None])


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"labels": ""}, "labels"),
        ({"bits": 16}, "8 bits"),
        ({"size": None}, "--size"),
        ({"splits": Splits((("a", 1.0),))}, "'a'"),
    ],
)
def test_what_medmnist_needs(patients, tmp_path, change, words):
    with pytest.raises(UsageError, match=words):
        export_medmnist(patients, tmp_path / "set", view=replace(LABELLED, **change))


@pytest.mark.parametrize("bits", [8, 16, 32])
def test_a_cache_is_a_plain_array(patients, tmp_path, bits):
    view = replace(LABELLED, bits=bits, windows=("lung", "bone"))
    write_cache(patients, tmp_path / "set", view=view)
    planned = plan(patients, view)
    images = np.load(tmp_path / "set.npy", allow_pickle=False)
    assert images.shape == (24, 32, 32, 2)
    cache = Cache(tmp_path / "set.npy")
    for index in (0, 7, 23):
        item = planned.render(index)
        assert np.array_equal(images[index], item.image) and np.array_equal(cache[index], item.image)
        assert np.array_equal(cache.labels[index], np.eye(3)[item.label])


def test_the_trainer_reads_a_cache_with_its_meaning(patients, tmp_path):
    pytest.importorskip("torch", reason="the extra train is not installed")
    from dcmark.train.data import open_images

    write_cache(patients, tmp_path / "set", view=LABELLED)
    data = open_images(tmp_path / "set.npy")
    assert (len(data), data.shape, data.labels) == (24, (1, 32, 32), 3)
    hu = plan(patients, View(windows=(), size=(32, 32), bits=32)).render(3).image
    inside = (hu > -1300) & (hu < 100)
    physical = data.meaning.to_physical(data.meaning.to_model(data[3][0]))[0]
    assert np.abs(physical - hu)[inside].max() < 4 and data.meaning.unit == "HU"
