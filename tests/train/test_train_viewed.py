"""Training straight from a view of an archive."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import typer.testing

import dcmark
from dcmark.cli.app import app
from dcmark.errors import DcmarkError, UsageError
from dcmark.testing.synthetic import ct_series
from dcmark.train.data import ImageData, open_images
from dcmark.train.viewed import ViewImages
from dcmark.view.cache import write_cache
from dcmark.view.render import plan
from dcmark.view.view import View

VIEW = View(windows=("lung",), size=(16, 16), labels="instance_number % 2", bits=16)


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> dcmark.Archive:
    folder = tmp_path_factory.mktemp("viewed")
    ct_series(folder / "in", np.random.default_rng(0).integers(-900, 300, (6, 32, 32)))
    archive = dcmark.open_archive(folder / "a.dcmark", create=True)
    dcmark.ingest([folder / "in"], archive).raise_for_errors()
    return archive


def test_the_images_are_those_of_the_cache(archive: dcmark.Archive, tmp_path: Path) -> None:
    data = ViewImages(archive.path, VIEW)
    assert isinstance(data, ImageData)
    write_cache(archive, tmp_path / "cache", view=VIEW)
    cached = open_images(tmp_path / "cache.npy")
    assert (len(data), data.shape, data.labels) == (len(cached), cached.shape, cached.labels) == (6, (1, 16, 16), 2)
    assert data.meaning == cached.meaning
    for index in range(6):
        for mine, theirs in zip(data[index], cached[index], strict=True):
            assert np.array_equal(mine, theirs)
    assert data.hash == ViewImages(archive.path, VIEW).hash
    assert data.hash != ViewImages(archive.path, replace(VIEW, every=2)).hash
    assert data.archive_version == plan(archive, VIEW).version


def test_a_view_without_a_size(archive: dcmark.Archive) -> None:
    with pytest.raises(UsageError, match="--size"):
        ViewImages(archive.path, replace(VIEW, size=None))


def test_train_goes_on_with_its_view_and_refuses_another(archive: dcmark.Archive, tmp_path: Path) -> None:
    run = tmp_path / "run"
    view = tmp_path / "view.json"
    replace(VIEW, labels="").save(view)
    words = ["train", "pggan", str(archive.path), str(run), "--batch", "4", "--threads", "1", "--quiet"]
    words += ["--set", "widest=8", "--set", "latent=8", "--set", "group=2"]

    def call(*more: str) -> typer.testing.Result:
        return typer.testing.CliRunner().invoke(app, [*words, *more])

    named = call("--kimg", "0.008")
    assert isinstance(named.exception, UsageError) and "--view" in str(named.exception)
    first = call("--view", str(view), "--kimg", "0.008")
    assert first.exception is None, first.exception
    again = call("--kimg", "0.016")
    assert again.exception is None, again.exception
    replace(VIEW, labels="", windows=("bone",)).save(view)
    other = call("--view", str(view), "--kimg", "0.024")
    assert isinstance(other.exception, DcmarkError), other.output
