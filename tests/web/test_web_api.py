"""What the page gets is what the archive holds."""

from __future__ import annotations

import json

import numpy as np
import pytest
from web_tools import Client

import dcmark
from dcmark.view.frames import frame as frame_of
from dcmark.view.values import stack_stored


def pixels(answer) -> np.ndarray:
    shape = [int(n) for n in answer.headers["x-dcmark-shape"].split(",")]
    return np.frombuffer(answer.body, np.dtype(answer.headers["x-dcmark-dtype"]).newbyteorder("<")).reshape(-1, *shape)


@pytest.fixture
def stack(reader) -> str:
    return f"/api/stacks/{reader.stack(patient='Quist^Imogen')['id']}"


def test_the_archive(reader, made):
    found = reader.get("/api/archive").json()
    archive = dcmark.open_archive(made)
    assert found["id"] == archive.info.id
    assert found["name"] == "a.dcmark"
    assert found["author"] == "Ada"
    assert found["ingest"] is None
    assert found["counts"]["files"] == archive.count("files")
    assert found["counts"]["volumes"] == sum(item["kind"] == "volume" for item in worklist(reader))


def worklist(reader: Client, query: str = "") -> list[dict]:
    return reader.get(f"/api/worklist{query}").json()["items"]


def test_every_image_is_in_one_item(reader, made):
    """Nothing that has frames is missing but segmentations."""
    items = worklist(reader)
    rows = dcmark.query(
        dcmark.open_archive(made), "SELECT sha256, frames FROM files WHERE frames > 0 AND modality <> 'SEG'"
    ).to_pylist()
    seen: dict[str, set[int]] = {}
    for item in items:
        for one in reader.get(f"/api/stacks/{item['id']}").json()["slices"]:
            assert one["frame"] not in seen.setdefault(one["file"], set()), "a frame in two items"
            seen[one["file"]].add(one["frame"])
    assert {row["sha256"]: row["frames"] for row in rows} == {file: len(frames) for file, frames in seen.items()}


def test_searching_the_worklist(reader):
    everything = worklist(reader)
    assert {item["patient"] for item in worklist(reader, "?search=quist")} == {"Quist^Imogen"}
    assert {item["patient"] for item in worklist(reader, "?search=QX-7411+imogen")} == {"Quist^Imogen"}
    assert worklist(reader, "?search=nobody") == []
    modality = everything[-1]["modality"]
    found = worklist(reader, f"?modality={modality}")
    assert found == [item for item in everything if item["modality"] == modality]
    assert worklist(reader, "?state=todo") == everything
    assert worklist(reader, "?state=reviewed") == []
    assert reader.get("/api/worklist?state=odd").status == 400
    page = reader.get("/api/worklist?limit=2&offset=1").json()
    assert page["items"] == everything[1:3]
    assert page["total"] == len(everything)
    assert page["next"] == everything[0]["id"]


def test_a_stack_tells_where_it_stands(reader, stack, made):
    found = reader.get(stack).json()
    (volume,) = dcmark.open_archive(made).volumes("patient_id = 'QX-7411'")
    assert (found["frames"], found["rows"], found["columns"]) == volume.shape == (6, 40, 48)
    assert found["quantity"] == "hu"
    assert found["unit"] == "[hnsf'U]"
    assert found["spacing"] == pytest.approx([3.0, 0.9, 0.7])
    affine = np.array(found["affine"])
    assert affine @ [0, 0, 0, 1] == pytest.approx([-31.0, 12.0, 100.0, 1])
    assert affine @ [1, 0, 0, 0] == pytest.approx([0.7, 0, 0, 0])  # column first
    assert affine @ [0, 0, 1, 0] == pytest.approx([0, 0, 3.0, 0])
    assert [one["position"] for one in found["slices"]] == [
        pytest.approx([-31.0, 12.0, 100.0 + 3 * k]) for k in range(6)
    ]
    assert found["slices"][0]["orientation"] == pytest.approx([1, 0, 0, 0, 1, 0])
    assert found["window"] == {"center": 50.0, "width": 400.0}
    assert found["windows"][0]["center"] == 50.0
    assert [(one["file"], one["frame"]) for one in found["slices"]] == [tuple(key) for key in volume.frames]


def test_numbers_and_scale_give_the_values(reader, made):
    """number x slope + intercept is what dcmark.values gives, for every grey stack."""
    archive = dcmark.open_archive(made)
    checked = 0
    for item in worklist(reader):
        found = reader.get(f"/api/stacks/{item['id']}").json()
        if found["colour"]:
            continue
        for k in {0, found["frames"] - 1}:
            sent = pixels(reader.get(f"/api/stacks/{item['id']}/frames/{k}"))[0]
            assert sent.dtype in (np.int16, np.uint16)
            assert (sent.dtype == np.int16) == found["signed"]
            one = found["slices"][k]
            values = sent * one["slope"] + one["intercept"]
            real = frame_of(archive, one["file"], one["frame"])
            expected = real.physical(found["quantity"]).values
            room = 0.51 * one["slope"] + 1e-3 * float(np.nanmax(np.abs(expected)))
            known = ~np.isnan(expected)
            assert np.abs(values - expected)[known].max() <= max(room, 1e-4)
            checked += 1
    assert checked >= 8


def test_frames_are_the_stored_ones(reader, stack, made):
    (volume,) = dcmark.open_archive(made).volumes("patient_id = 'QX-7411'")
    stored = stack_stored(dcmark.open_archive(made), volume.frames)
    assert np.array_equal(pixels(reader.get(f"{stack}/frames?from=0&to=6")), stored)
    assert np.array_equal(pixels(reader.get(f"{stack}/frames?from=2&to=5")), stored[2:5])
    one = reader.get(f"{stack}/frames/3")
    assert np.array_equal(pixels(one)[0], stored[3])
    assert "immutable" in one.headers["cache-control"]
    again = reader.get(f"{stack}/frames/3", if_none_match=one.headers["etag"])
    assert (again.status, again.body) == (304, b"")


def test_the_codestream_for_who_wants_it(reader, stack, made):
    import imagecodecs

    plain = pixels(reader.get(f"{stack}/frames/1"))[0]
    answer = reader.get(f"{stack}/frames/1", accept="image/jph, */*")
    assert answer.headers["x-content-type-options"] == "nosniff"
    if answer.headers["content-type"] == "image/jph":
        assert np.array_equal(imagecodecs.jpeg2k_decode(answer.body), plain)
    else:
        assert np.array_equal(pixels(answer)[0], plain)


def test_colours_come_as_rgb(reader):
    count = 0
    for item in worklist(reader):
        found = reader.get(f"/api/stacks/{item['id']}").json()
        if found["colour"]:
            sent = pixels(reader.get(f"/api/stacks/{item['id']}/frames/0"))[0]
            assert sent.shape == (item["rows"], item["columns"], 3)
            assert sent.dtype == np.uint8
            assert found["photometric"] not in ("MONOCHROME1", "MONOCHROME2")
            assert len(np.unique(sent)) > 2
            count += 1
    assert count >= 2


def test_wrong_frames_are_refused(reader, stack):
    for address in ("frames/6", "frames/-1", "frames/x", "frames?from=2&to=2", "frames?from=0&to=7", "frames"):
        assert reader.get(f"{stack}/{address}").status == 400
    assert reader.get("/api/stacks/0123456789abcdef").code == "gone"


def test_too_many_frames_at_once(reader, stack, monkeypatch):
    import dataclasses

    from dcmark.web import api

    monkeypatch.setattr(api, "LIMITS", dataclasses.replace(api.LIMITS, answer_bytes=2 * 40 * 48 * 2))
    assert reader.get(f"{stack}/frames?from=0&to=2").status == 200
    assert reader.get(f"{stack}/frames?from=0&to=3").status == 413


def test_thumbnails_and_proxies(reader, stack):
    from io import BytesIO

    from PIL import Image

    picture = Image.open(BytesIO(reader.get(f"{stack}/thumbnail.jpg").body))
    assert picture.format == "JPEG"
    assert max(picture.size) <= 128
    answer = reader.get(f"{stack}/proxy?max=24")
    small = pixels(answer)[0]
    assert small.shape == (6, 20, 24)
    assert small.dtype == np.uint8
    assert small.std() > 1
    affine = np.array(json.loads(answer.headers["x-dcmark-affine"]))
    # The centre of the first reduced pixel is the centre of the four it was made from.
    assert affine @ [0, 0, 0, 1] == pytest.approx([-31.0 + 0.35, 12.0 + 0.45, 100.0, 1])
    assert affine @ [1, 0, 0, 0] == pytest.approx([1.4, 0, 0, 0])


def test_tags(reader, stack):
    found = {one["keyword"]: one for one in reader.get(f"{stack}/tags?frame=2").json()["elements"]}
    assert found["PatientName"]["value"] == "Quist^Imogen"
    assert found["PatientName"]["vr"] == "PN"
    assert found["PatientName"]["tag"] == "(0010,0010)"
    assert "PixelData" not in found
    for item in worklist(reader):
        for one in reader.get(f"/api/stacks/{item['id']}/tags").json()["elements"]:
            assert isinstance(one["value"], str)
            assert len(one["value"]) <= 1000


def test_assistants(client, ct):
    pytest.importorskip("skimage")
    assert "random-walker" in client.get("/api/assist").json()["names"]
    prompts = {"foreground": [[2, 10, 10], [2, 11, 12]], "background": [[2, 30, 40], [2, 2, 2]]}
    answer = client.post(f"/api/stacks/{ct}/assist/random-walker", {"prompts": prompts})
    assert answer.status == 200
    (one,) = answer.json()["slices"]
    assert one["k"] == 2
    assert one["runs"]
    assert client.post(f"/api/stacks/{ct}/assist/none", {"prompts": prompts}).status == 404
    for bad in (
        {}, {"foreground": [[9, 0, 0]]}, {"foreground": [[0, 0]]}, {"foreground": "x"}, {"foreground": [[0, 0, 0.5]]},
        {"foreground": [[0, 0, 0]], "box": [5, 5, 5, 0, 0, 0]},
    ):  # fmt: skip
        assert client.post(f"/api/stacks/{ct}/assist/random-walker", {"prompts": bad}).status == 400


def test_the_random_walker_finds_a_ball():
    pytest.importorskip("skimage")
    from dcmark.web.assist import AssistVolume, Prompts, random_walker

    shape = (40, 120, 120)
    k, j, i = np.ogrid[:40, :120, :120]
    ball = (k - 20) ** 2 * 4 + (j - 60) ** 2 + (i - 50) ** 2 < 16**2
    noise = np.random.default_rng(0).normal(0, 15, shape)
    data = (100.0 * ball + noise).astype(np.float32)
    volume = AssistVolume(shape, (2.0, 1.0, 1.0), "1", lambda *where: data[where])
    for prompts in (
        Prompts(((20, 60, 50), (20, 65, 52))),
        Prompts(((20, 60, 50),), ((20, 60, 80), (20, 30, 50), (10, 60, 50), (30, 60, 50))),
        Prompts(((20, 60, 50),), (), (10, 40, 30, 30, 80, 70)),
    ):
        found = random_walker(volume, prompts)
        whole = np.zeros(shape, bool)
        whole[tuple(slice(a, a + n) for a, n in zip(found.origin, found.mask.shape, strict=True))] = found.mask
        dice = 2 * (whole & ball).sum() / (whole.sum() + ball.sum())
        assert dice > 0.9, prompts
