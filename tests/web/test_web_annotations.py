"""Every stroke that was acknowledged is in the log once, and nobody's work is overwritten unseen."""

from __future__ import annotations

import json
import uuid

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from web_tools import Client, mask

import dcmark
from dcmark.annotate.log import Log, verify
from dcmark.annotate.masks import make_plane
from dcmark.annotate.model import Annotation, Label, Target
from dcmark.annotate.places import Places
from dcmark.errors import UsageError
from dcmark.read.volume_model import FrameId
from dcmark.web import wire

FRAME = FrameId("ab" * 32, 0)


@given(hnp.arrays(bool, hnp.array_shapes(min_dims=2, max_dims=2, max_side=24)), st.integers(0, 5))
def test_runs_and_planes_are_the_same(marked, _):
    plane = make_plane(FRAME, marked)
    if plane is None:
        assert wire.plane_of(FRAME, *marked.shape, []) is None
        return
    runs = wire.runs_of(plane)
    flat = np.zeros(marked.size, int)
    for start, length in zip(runs[::2], runs[1::2], strict=True):
        flat[start : start + length] += 1
    assert np.array_equal(flat.reshape(marked.shape), marked)
    starts, ends = np.array(runs[::2]), np.array(runs[::2]) + np.array(runs[1::2])
    assert (starts[1:] > ends[:-1]).all(), "runs that touch are one"
    again = wire.plane_of(FRAME, *marked.shape, runs)
    assert again is not None
    assert again.as_row() == plane.as_row()


@given(st.lists(st.integers(-3, 40), max_size=6))
def test_runs_that_are_none_are_refused(runs):
    good, last = len(runs) % 2 == 0, 0
    for start, length in zip(runs[::2], runs[1::2], strict=False):
        good = good and start >= last and length >= 1 and start + length <= 30
        last = start + length
    if good:
        wire.plane_of(FRAME, 5, 6, runs)
    else:
        with pytest.raises(UsageError):
            wire.plane_of(FRAME, 5, 6, runs)


def found(client: Client, stack: str, **query: str) -> list[dict]:
    text = "&".join(f"{k}={v}" for k, v in query.items())
    return client.get(f"/api/stacks/{stack}/annotations?{text}").json()["annotations"]


LABEL = {"name": "lesion", "color": "#00aaff", "code": None}
KINDS = {
    "point": {"contours": [{"slice": 1, "closed": False, "points": [[3.5, 4]]}]},
    "line": {"contours": [{"slice": 1, "closed": False, "points": [[3, 4], [10, 12], [3, 20]]}]},
    "box": {"contours": [{"slice": 2, "closed": True, "points": [[3, 4], [10, 12]]}]},
    "ellipse": {"contours": [{"slice": 2, "closed": True, "points": [[12, 10], [20, 26], [20, 16], [12, 20]]}]},
    "polygon": {"contours": [{"slice": 0, "closed": True, "points": [[1, 1], [9, 2], [5, 11]]}]},
    "freehand": {"contours": [{"slice": 0, "closed": False, "points": [[1, 1], [9, 2], [5, 11]]}]},
    "text": {"text": "look here", "contours": [{"slice": 5, "closed": False, "points": [[1, 1]]}]},
    "measurement": {"value": 12.5, "unit": "mm", "contours": []},
    "label": {},
    "mask": {"mask": {"slices": [{"k": 1, "runs": [0, 3]}, {"k": 4, "runs": [50, 1, 60, 100]}]}},
}


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_comes_back(client, ct, kind):
    name = uuid.uuid4().hex
    told = {"id": name, "kind": kind, "label": LABEL, **KINDS[kind]}
    answer = client.act(ct, {"type": "add", "annotation": told})
    assert answer.status == 201, answer.body
    assert answer.json()["saved"] is True
    (one,) = answer.json()["annotations"]
    assert found(client, ct) == [one]
    for key, value in told.items():
        assert one[key] == value
    assert (one["author"], one["status"]) == ("Ada", "draft")
    (stored,) = Log(client.service.archive_now()).state().annotations()
    assert stored.id == name
    assert stored.target.patient == "QX-7411"
    assert stored.target.volume == ct
    assert Client(client.service.catalogue.path).get(f"/api/stacks/{ct}/annotations").json()["annotations"] == [one]
    assert verify(client.service.archive_now()) == []


def test_levels(client, ct):
    item = client.stack(id=ct)
    for level in ("patient", "study", "series", "volume"):
        answer = client.act(ct, {"type": "add", "annotation": {"kind": "label", "label": LABEL, "level": level}})
        assert answer.json()["annotations"][0]["level"] == level
    frame = {"kind": "label", "label": LABEL, "level": "frame", "slice": 3}
    assert client.act(ct, {"type": "add", "annotation": frame}).json()["annotations"][0]["slice"] == 3
    del frame["slice"]
    assert client.act(ct, {"type": "add", "annotation": frame}).status == 400
    state = Log(client.service.archive_now()).state()
    places = Places(client.service.archive_now())
    volume = places.volumes[ct]
    for one in state.annotations():
        frames = [FrameId(*volume.frames[3])] if one.target.level == "frame" else list(volume.frames)
        assert one.target == places.target(one.target.level, frames, volume)
    assert len(found(client, ct)) == 5
    assert item["annotated"] == 0
    assert client.stack(id=ct)["annotated"] == 5


def test_a_stack_without_a_volume(client):
    items = client.get("/api/worklist").json()["items"]
    series = [item for item in items if item["kind"] == "series"]
    assert series
    for item in series:
        last = item["frames"] - 1
        assert client.act(item["id"], mask(last, 0, 5)).status == 201
        assert client.act(item["id"], {"type": "review", "status": "reviewed"}).status == 201
        (one,) = found(client, item["id"])
        assert one["mask"]["slices"] == [{"k": last, "runs": [0, 5]}]
        assert client.stack(id=item["id"])["state"] == "reviewed"
    assert len(list(Log(client.service.archive_now()).state())) == len(series)


def test_a_repeated_request_is_stored_once(client, ct):
    name = str(uuid.uuid4())
    first = client.act(ct, mask(1, 0, 5), client=name)
    again = client.act(ct, mask(1, 0, 5), client=name)
    assert (first.status, again.status) == (201, 201)
    assert again.json()["head"] == first.json()["head"]
    assert again.json()["annotations"] == first.json()["annotations"]
    assert len(found(client, ct)) == 1
    later = Client(client.service.catalogue.path).act(ct, mask(1, 0, 5), client=name)
    assert later.json()["head"] == first.json()["head"]
    assert len(client.service.archive_now().read("annotations", ["seq"])) == 1


def test_partial_masks(client, ct):
    head = client.act(ct, mask(1, 0, 5, id="a" * 32)).json()["head"]

    def change(*slices, partial=True):
        told = {"id": "a" * 32, "mask": {"partial": partial, "slices": list(slices)}}
        return client.act(ct, {"type": "change", "annotation": told}, based_on=head).json()

    def slices(answer):
        return {one["k"]: one["runs"] for one in answer["annotations"][0]["mask"]["slices"]}

    answer = change({"k": 3, "runs": [7, 2]})
    assert slices(answer) == {1: [0, 5], 3: [7, 2]}
    head = answer["head"]
    answer = change({"k": 1, "runs": []})
    assert slices(answer) == {3: [7, 2]}
    head = answer["head"]
    answer = change({"k": 0, "runs": [1, 1]}, partial=False)
    assert slices(answer) == {0: [1, 1]}
    head = answer["head"]
    answer = change({"k": 0, "runs": []})
    assert (answer["annotations"], answer["removed"]) == ([], ["a" * 32])
    assert found(client, ct) == []


def test_two_browsers(client, ct):
    """Changes of different slices merge; of the same one, the later browser is told and nothing of its is stored."""
    start = client.act(ct, mask(1, 0, 5, id="a" * 32)).json()["head"]

    def change(k, *runs, based_on):
        told = {"id": "a" * 32, "mask": {"partial": True, "slices": [{"k": k, "runs": list(runs)}]}}
        return client.act(ct, {"type": "change", "annotation": told}, based_on=based_on)

    assert change(2, 3, 3, based_on=start).status == 201
    merged = change(3, 4, 4, based_on=start)
    assert merged.status == 201
    assert [one["k"] for one in merged.json()["annotations"][0]["mask"]["slices"]] == [1, 2, 3]
    before = client.service.board.journal.head
    refused = change(2, 9, 9, based_on=start)
    assert (refused.status, refused.code) == (409, "conflict")
    assert refused.json()["head"] == before
    assert refused.json()["annotations"] == found(client, ct)
    beside = client.act(
        ct, mask(5, 0, 1), {"type": "remove", "id": "a" * 32}, based_on=start
    )  # one of two cannot be done: none is
    assert beside.status == 409
    assert client.service.board.journal.head == before
    gone = client.act(ct, {"type": "remove", "id": "a" * 32}, based_on=before)
    assert gone.json()["removed"] == ["a" * 32]
    late = change(2, 1, 1, based_on=before)
    assert (late.status, late.json()["removed"]) == (409, ["a" * 32])
    unknown = change(2, 1, 1, based_on="0" * 64)
    assert unknown.status == 400


def test_an_answer_brings_what_others_did(client, ct):
    start = client.act(ct, mask(1, 0, 5, id="a" * 32)).json()["head"]
    client.act(ct, mask(2, 0, 5, id="b" * 32), author="Bob")
    answer = client.act(ct, mask(3, 0, 5, id="c" * 32), based_on=start).json()
    assert {one["id"] for one in answer["annotations"]} == {"b" * 32, "c" * 32}


def test_undo_and_redo_survive_a_restart(path):
    client = Client(path)
    ct = client.stack(patient="Quist^Imogen")["id"]
    client.act(ct, mask(1, 0, 5, id="a" * 32))
    change = {"id": "a" * 32, "mask": {"partial": True, "slices": [{"k": 2, "runs": [3, 3]}]}}
    client.act(ct, {"type": "change", "annotation": change}, mask(4, 1, 1, id="b" * 32))
    whole = found(client, ct)
    states = [whole, None, None]
    client = Client(path)
    assert client.act(ct, {"type": "undo"}).status == 201
    (one,) = states[1] = found(client, ct)
    assert [each["k"] for each in one["mask"]["slices"]] == [1]
    client = Client(path)
    assert client.act(ct, {"type": "undo"}).json()["removed"] == ["a" * 32]
    assert found(client, ct) == []
    assert client.act(ct, {"type": "undo"}).code == "nothing"
    client = Client(path)
    client.act(ct, {"type": "redo"})
    assert found(client, ct) == states[1]
    client.act(ct, {"type": "redo"})
    assert sorted(found(client, ct), key=str) == sorted(whole, key=str)
    assert client.act(ct, {"type": "redo"}).code == "nothing"
    client.act(ct, {"type": "undo"})
    client.act(ct, mask(0, 0, 1, id="c" * 32))
    assert client.act(ct, {"type": "redo"}).code == "nothing", "a new step ends what could be done again"
    assert verify(dcmark.open_archive(path)) == []


def test_undo_is_of_the_author_and_the_stack(client, ct):
    other = client.stack(kind="volume", frames=3)["id"]
    client.act(ct, mask(1, 0, 5, id="a" * 32))
    client.act(other, mask(1, 0, 5, id="b" * 32))
    client.act(ct, mask(2, 0, 5, id="c" * 32), author="Bob")
    assert client.act(ct, {"type": "undo"}).json()["removed"] == ["a" * 32]
    assert client.act(ct, {"type": "undo"}, author="Bob").json()["removed"] == ["c" * 32]
    assert client.act(ct, {"type": "undo"}).code == "nothing"
    assert [one["id"] for one in found(client, other)] == ["b" * 32]


def test_undo_of_what_somebody_changed_since(client, ct):
    client.act(ct, mask(1, 0, 5, id="a" * 32))
    client.act(ct, {"type": "review", "id": "a" * 32, "status": "reviewed"}, author="Bob")
    refused = client.act(ct, {"type": "undo"})
    assert (refused.status, refused.code) == (409, "conflict")
    assert client.act(ct, {"type": "undo"}, mask(1, 0, 1)).status == 400


def test_review(client, ct):
    assert client.stack(id=ct)["state"] == "todo"
    client.act(ct, mask(1, 0, 5, id="a" * 32))
    client.act(ct, mask(2, 0, 5, id="b" * 32))
    assert client.stack(id=ct)["state"] == "draft"
    client.act(ct, {"type": "review", "id": "a" * 32, "status": "rejected", "comment": "outside"})
    client.act(ct, {"type": "review", "id": "b" * 32, "status": "reviewed"})
    item = client.stack(id=ct)
    assert (item["state"], item["annotated"]) == ("reviewed", 1)
    by_id = {one["id"]: one for one in found(client, ct)}
    assert (by_id["a" * 32]["status"], by_id["a" * 32]["comment"]) == ("rejected", "outside")
    before = client.service.archive_now().count("masks")
    client.act(ct, {"type": "review", "status": "draft"})
    assert client.service.archive_now().count("masks") == before, "a mask is not stored again for its status"
    assert {one["status"] for one in found(client, ct)} == {"draft"}
    assert client.act(ct, {"type": "review", "status": "odd"}).status == 400


def test_a_case_without_findings(client, ct):
    answer = client.act(ct, {"type": "review", "status": "reviewed", "comment": "clear"})
    (one,) = answer.json()["annotations"]
    assert (one["kind"], one["label"]["name"], one["level"], one["status"]) == (
        "label", "no finding", "volume", "reviewed",
    )  # fmt: skip
    assert client.stack(id=ct)["state"] == "reviewed"


def test_blind_readers_and_where_they_disagree(client, ct):
    client.act(ct, mask(1, 0, 10, id="a" * 32))
    client.act(ct, mask(1, 5, 10, id="b" * 32), author="Bob")
    assert [one["id"] for one in found(client, ct, author="Bob")] == ["b" * 32]
    answer = client.get(f"/api/review/{ct}?label=liver").json()
    assert answer["authors"] == ["Ada", "Bob"]
    assert answer["slices"] == [{"k": 1, "levels": [{"count": 1, "runs": [0, 5, 10, 5]}]}]
    assert client.get(f"/api/review/{ct}?label=spleen").json()["slices"] == []


def test_label_sets(client):
    assert client.get("/api/labels").json() == {"sets": []}
    labels = [
        {"name": "liver", "color": "#cc3311", "key": "l", "code": {"value": "1", "scheme": "SCT", "meaning": "Liver"}},
        {"name": "<b>", "color": "", "key": "", "code": None},
    ]
    answer = client.ask("PUT", "/api/labels", {"name": "abdomen", "labels": labels})
    assert answer.status == 200
    (one,) = Client(client.service.catalogue.path).get("/api/labels").json()["sets"]
    assert one["name"] == "abdomen"
    assert one["labels"] == [labels[0], {**labels[1], "key": "2"}]
    kept = Log(client.service.archive_now()).state().label_sets["abdomen"]
    assert kept.labels[0].colour == "#cc3311"
    for bad in (
        {"name": "", "labels": []}, {"name": "x", "labels": [{"name": ""}]}, {"name": "x", "labels": labels[:1] * 2},
        {"name": "x", "labels": [{"name": "a", "color": "red"}]}, {"name": "x"},
    ):  # fmt: skip
        assert client.ask("PUT", "/api/labels", bad).status == 400


BAD = [
    {"type": "odd"},
    {"type": "add"},
    {"type": "add", "annotation": {"kind": "odd", "label": LABEL}},
    {"type": "add", "annotation": {"kind": "label"}},
    {"type": "add", "annotation": {"kind": "label", "label": {"name": ""}}},
    {"type": "add", "annotation": {"kind": "label", "label": {"name": "x", "color": "javascript:alert(1)"}}},
    {"type": "add", "annotation": {"kind": "label", "label": LABEL, "id": "../../x"}},
    {"type": "add", "annotation": {"kind": "mask", "label": LABEL}},
    {"type": "add", "annotation": {"kind": "mask", "label": LABEL, "mask": {"slices": [{"k": 6, "runs": [0, 1]}]}}},
    {"type": "add", "annotation": {"kind": "mask", "label": LABEL, "mask": {"slices": [{"k": 0, "runs": [0, 9999]}]}}},
    {
        "type": "add",
        "annotation": {"kind": "mask", "label": LABEL, "mask": {"slices": [{"k": 0, "runs": [5, 2, 4, 2]}]}},
    },
    {
        "type": "add",
        "annotation": {"kind": "mask", "label": LABEL, "mask": {"slices": [{"k": 0, "runs": [1e9, True]}]}},
    },
    {"type": "add", "annotation": {"kind": "mask", "label": LABEL, "mask": {"slices": "x"}}},
    {"type": "add", "annotation": {"kind": "point", "label": LABEL, "contours": []}},
    {"type": "add", "annotation": {"kind": "point", "label": LABEL, "contours": [{"slice": 0, "points": [["x", 1]]}]}},
    {"type": "add", "annotation": {"kind": "point", "label": LABEL, "contours": [{"slice": 0, "points": [[1, 2, 3]]}]}},
    {"type": "add", "annotation": {"kind": "box", "label": LABEL, "contours": [{"slice": 0, "points": [[1, 2]]}]}},
    {"type": "add", "annotation": {"kind": "measurement", "label": LABEL}},
    {"type": "add", "annotation": {"kind": "label", "label": LABEL, "status": "done"}},
    {"type": "add", "annotation": {"kind": "label", "label": LABEL, "text": 5}},
    {"type": "change", "annotation": {"id": "f" * 32, "text": "x"}},
    {"type": "change"},
    {"type": "remove"},
    {"type": "remove", "id": ["x"]},
    {"type": "review", "status": "reviewed", "id": "f" * 32},
]


@pytest.mark.parametrize("action", BAD, ids=lambda action: json.dumps(action)[:60])
def test_bad_actions_store_nothing(client, ct, action):
    answer = client.act(ct, mask(1, 0, 5), action)
    assert answer.status == 400, answer.body
    assert answer.code == "usage"
    assert client.service.archive_now().count("annotations") == 0


def test_bad_requests(client, ct):
    for body in (
        {}, {"client": "x", "actions": []}, {"client": str(uuid.uuid4()), "actions": []},
        {"client": str(uuid.uuid4()), "actions": ["x"]},
        {"client": str(uuid.uuid4()), "actions": [mask(0, 0, 1)], "author": 5},
        {"client": str(uuid.uuid4()), "actions": [mask(0, 0, 1)], "based_on": 5},
    ):  # fmt: skip
        assert client.post(f"/api/stacks/{ct}/events", body).status == 400
    assert client.act("0123456789abcdef", mask(0, 0, 1)).code == "gone"


def test_an_id_is_not_used_twice(client, ct):
    client.act(ct, mask(1, 0, 5, id="a" * 32))
    client.act(ct, {"type": "remove", "id": "a" * 32})
    assert client.act(ct, mask(1, 0, 5, id="a" * 32)).status == 400


def test_other_programs_are_seen(client, ct):
    """What the command line adds stands on the page; masks through frames of no volume too."""
    archive = client.service.archive_now()
    places = Places(archive)
    volume = places.volumes[ct]
    frames = [FrameId(*key) for key in volume.frames]
    plane = make_plane(frames[2], np.eye(40, 48, dtype=bool))
    by_file = Annotation("mask", Target("region"), Label("by file alone"), mask=[plane])
    by_volume = Annotation("label", places.target("volume", frames, volume), Label("by volume"))
    old = Annotation("label", Target("volume", volume="f" * 16), Label("of a volume that is gone"))
    Log(archive, "Bob").add([by_file, by_volume, old])
    assert {one["label"]["name"] for one in found(client, ct)} == {"by file alone", "by volume"}
    assert client.service.board.changed_after(None)["stacks"] == [ct]


def test_export_and_import(client, ct):
    client.act(ct, mask(1, 0, 5, 96, 7, id="a" * 32))
    polygon = {"kind": "polygon", "label": LABEL, **KINDS["polygon"]}
    client.act(ct, {"type": "add", "annotation": polygon})
    before = found(client, ct)
    for name in ("nifti", "rtstruct", "coco", "seg"):
        answer = client.get(f"/api/stacks/{ct}/export?format={name}")
        if answer.status == 501:
            continue  # highdicom is not installed
        assert answer.status == 200, answer.body
        assert answer.headers["content-disposition"].startswith("attachment")
        assert answer.body
    nifti = client.get(f"/api/stacks/{ct}/export?format=nifti")
    if nifti.headers["content-disposition"].endswith((".nii.gz", ".nii")):
        answer = client.post("/api/import?format=nifti", nifti.body)
        assert answer.status == 201, answer.body
        assert answer.json()["added"] == 1
        (new,) = [one for one in found(client, ct) if one["id"] not in {each["id"] for each in before}]
        assert new["mask"] == before[0]["mask"]
    assert client.get(f"/api/stacks/{ct}/export?format=odd").status == 400
    assert client.post("/api/import?format=odd", b"").status == 400
    assert client.post("/api/import?format=coco", b"{").status in (400, 422)
    assert client.post("/api/import?format=nnunet", b"").status == 422
    assert client.post("/api/import?format=nifti", b"no such file").status in (400, 422)
