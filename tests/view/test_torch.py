"""PyTorch data sets: the same images in every process, in the order asked for."""

from __future__ import annotations

import pickle

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="the extra train is not installed")

from torch.utils.data import DataLoader, DistributedSampler  # noqa: E402

from dcmark.torch import Cached, Frames, View, Volumes  # noqa: E402
from dcmark.view.cache import write_cache  # noqa: E402
from dcmark.view.render import plan  # noqa: E402

VIEW = View(windows=("lung",), size=(32, 32), labels="body_part_examined")


def test_an_item_is_the_image_of_the_view(patients):
    frames = Frames(patients, VIEW)
    planned = plan(patients, VIEW)
    assert len(frames) == 24 and frames.classes == ("ABDOMEN", "CHEST", "HEAD")
    image, label = frames[5]
    item = planned.render(5)
    assert image.dtype == torch.float32 and image.shape == (1, 32, 32)
    assert np.array_equal(np.rint(image[0].numpy() * 255), item.image)
    assert label.dtype == torch.int64 and int(label) == item.label
    assert torch.equal(frames[-1][0], frames[23][0])
    with pytest.raises(IndexError):
        frames[24]
    assert len(list(frames)) == 24


def test_batches_are_the_single_items(patients):
    frames = Frames(patients, VIEW, transform=lambda tensor: tensor * 2)
    order = [3, 1, 23, 7]
    for (image, label), index in zip(frames.__getitems__(order), order, strict=True):
        assert torch.equal(image, frames[index][0]) and label == frames[index][1]


@pytest.mark.filterwarnings("ignore:.*fork.*")
@pytest.mark.parametrize("how", ["spawn", "forkserver", "fork"])
def test_workers_started_in_any_way(patients, how):
    if how not in torch.multiprocessing.get_all_start_methods():
        pytest.skip(f"{how} is not of this system")
    frames = Frames(patients, VIEW)
    expected = torch.stack([frames[index][0] for index in range(len(frames))])
    loader = DataLoader(frames, batch_size=5, num_workers=2, multiprocessing_context=how, timeout=120)
    assert torch.equal(torch.cat([images for images, _ in loader]), expected)


def test_every_machine_gets_its_share(patients):
    frames = pickle.loads(pickle.dumps(Frames(patients, VIEW)))
    seen = []
    for rank in range(3):
        sampler = DistributedSampler(frames, num_replicas=3, rank=rank, shuffle=True, seed=1)
        seen += list(sampler)
        for images, _ in DataLoader(frames, batch_size=4, sampler=sampler):
            assert images.shape[1:] == (1, 32, 32)
    assert sorted(seen) == list(range(24))


def test_volumes_with_their_place(patients):
    volumes = Volumes(patients, "slices = 4", "hu")
    assert len(volumes) == 6
    item = pickle.loads(pickle.dumps(volumes))[2]
    (volume,) = [one for one in patients.volumes() if one.id == item["id"]]
    import dcmark

    assert np.array_equal(item["image"][0].numpy(), dcmark.values(volume).values)
    assert np.array_equal(item["affine"].numpy(), volume.affine)
    assert (item["quantity"], item["unit"]) == ("hu", "[hnsf'U]")


def test_a_cache_gives_the_same_images(patients, tmp_path):
    write_cache(patients, tmp_path / "set", view=VIEW)
    cached, frames = Cached(tmp_path / "set.npy"), Frames(patients, VIEW)
    for index in (0, 11, 23):
        assert torch.equal(cached[index][0], frames[index][0])
        assert int(cached[index][1].argmax()) == int(frames[index][1])
    loader = DataLoader(cached, batch_size=6, num_workers=1, multiprocessing_context="spawn")
    assert sum(len(images) for images, _ in loader) == 24


def test_monai_takes_volumes(patients):
    transforms = pytest.importorskip("monai.transforms", reason="MONAI is not installed")
    scaled = transforms.ScaleIntensityRanged(["image"], -1000, 1000, 0, 1, clip=True)
    item = Volumes(patients, transform=scaled)[0]
    assert float(item["image"].min()) >= 0 and float(item["image"].max()) <= 1


def test_torchio_takes_volumes(patients):
    tio = pytest.importorskip("torchio", reason="TorchIO is not installed")
    item = Volumes(patients)[0]
    affine = np.diag([-1, -1, 1, 1]) @ item["affine"].numpy()
    image = tio.ScalarImage(tensor=item["image"], affine=affine)
    assert image.spacing == pytest.approx((2.0, 0.8, 0.6), abs=1e-6)


@pytest.mark.filterwarnings("ignore:.*fork.*")
def test_a_fork_never_touches_lance(patients):
    """It would crash or hang there now and then; the data sets read elsewhere, and everything else says so."""
    if "fork" not in torch.multiprocessing.get_all_start_methods():
        pytest.skip("fork is not of this system")
    import os

    from dcmark.errors import UsageError

    frames, volumes = Frames(patients, VIEW), Volumes(patients, "slices = 4", "hu")
    expected, whole = frames[7][0], volumes[1]["image"]
    child = os.fork()
    if child == 0:
        code = 1
        try:
            same = torch.equal(frames[7][0], expected) and torch.equal(volumes[1]["image"], whole)
            with pytest.raises(UsageError, match="forkserver"):
                patients.count("files")
            code = 0 if same else 2
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
