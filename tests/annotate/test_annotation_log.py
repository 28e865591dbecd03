"""The log: nothing is overwritten, any earlier state comes back, two writers both succeed, damage is found."""

from __future__ import annotations

import random
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import drawing
import lance
import numpy as np
import pyarrow as pa
import pytest

import dcmark
from dcmark.annotate.diff import diff
from dcmark.annotate.log import Log, verify
from dcmark.annotate.masks import make_plane
from dcmark.annotate.model import Annotation, Code, Contour, Label, LabelSet, Target, check
from dcmark.archive.events import event_hash
from dcmark.archive.gc import collect
from dcmark.errors import DamageError, UsageError
from dcmark.read.volume_model import FrameId

FRAME = FrameId("ab" * 32, 3)


def label(name: str = "x", **more) -> Annotation:
    return Annotation("label", Target("patient", patient="p"), Label(name), **more)


def empty(folder: Path) -> dcmark.Archive:
    return dcmark.open_archive(folder / "a.dcmark", create=True)


def test_everything_about_an_annotation_comes_back(ct):
    drawn = drawing.everything(ct)
    full = replace(
        drawn["polygon"], author="Ada", tool="hand", tool_version="3", time="2026-01-31T12:00:00+01:00",
        status="reviewed", derived_from=(drawn["line"].id,), origin="1.2.3", text="a remark",
    ).with_properties(b="2", a="1")  # fmt: skip
    drawn["polygon"] = full
    Log(ct).add(drawn.values())
    state = Log(ct).state()
    for one in drawn.values():
        found = state[one.id]
        assert replace(found, mask=()) == replace(one, mask=())
        assert [plane.as_row() for plane in found.mask] == [plane.as_row() for plane in one.mask]
    assert verify(ct) == []


@pytest.mark.parametrize(
    "wrong",
    [
        {"kind": "circle"},
        {"status": "perhaps"},
        {"label": Label("")},
        {"label": Label("x", colour="red")},
        {"value": float("nan")},
        {"id": "../etc"},
        {"kind": "measurement"},
        {"kind": "polygon"},
        {"kind": "mask"},
        {"kind": "line", "contours": (Contour(((1.0, 2.0),), FRAME, False),)},
        {"kind": "box", "contours": (Contour(((1.0, 2.0), (3.0, 4.0), (5.0, 6.0)), FRAME),)},
        {"kind": "polygon", "contours": (Contour(((1.0, 2.0, 3.0),) * 3, FRAME),)},
        {"kind": "polygon", "contours": (Contour(((1.0, 2.0),) * 3, None),)},
        {"kind": "point", "contours": (Contour(((float("inf"), 2.0),), FRAME, False),)},
        {"target": Target("frame", file="x")},
    ],
)
def test_what_cannot_be_is_refused_and_nothing_is_written(tmp_path, wrong):
    archive = empty(tmp_path)
    bad = replace(label(), **wrong)
    with pytest.raises(UsageError):
        check(bad)
    with pytest.raises(UsageError):
        Log(archive).add([label(), bad])
    assert len(Log(archive).state()) == 0


def test_any_earlier_state_is_shown_and_restored(tmp_path):
    log = Log(empty(tmp_path), "ada")
    first, second = label("first"), label("second")
    log.add([first])
    log.add([second])
    log.change(replace(first, label=Label("FIRST")))
    log.remove(second.id)
    names = [sorted(one.label.name for one in log.state(at).annotations()) for at in (-1, 0, 1, 2, 3, None)]
    assert names == [[], ["first"], ["first", "second"], ["FIRST", "second"], ["FIRST"], ["FIRST"]]
    log.restore(1)
    assert sorted(one.label.name for one in log.state().annotations()) == ["first", "second"]
    assert log.restore(1) == []
    assert [event.verb for event in log.events()] == ["add", "add", "change", "remove", "restore", "restore"]
    assert [event.verb for event in log.events(first.id)] == ["add", "change", "restore"]
    assert verify(log.archive) == []


def test_a_moment_in_time_names_a_state(tmp_path):
    log = Log(empty(tmp_path))
    log.add([label("early")])
    time.sleep(0.05)
    moment = log.events()[0].time
    time.sleep(0.05)
    log.add([label("late")])
    from datetime import datetime, timedelta

    between = (datetime.fromisoformat(moment) + timedelta(milliseconds=40)).isoformat()
    assert [one.label.name for one in log.state(between).annotations()] == ["early"]
    with pytest.raises(UsageError):
        log.state("yesterday")


def test_undo_and_undo_of_undo(tmp_path):
    log = Log(empty(tmp_path))
    one = label("before")
    (seq,) = log.add([one])
    changed = log.change(replace(one, label=Label("after")))
    (undone,) = log.undo(changed)
    assert log.state()[one.id].label.name == "before"
    log.undo(undone)
    assert log.state()[one.id].label.name == "after"
    with pytest.raises(UsageError, match="undo that one first"):
        log.undo(seq)
    with pytest.raises(UsageError):
        log.undo(99)
    many = [label(str(k)) for k in range(5)]
    seqs = log.add(many)
    log.undo(seqs[2])
    assert len(log.state()) == 1


def test_masks_are_not_stored_again_when_something_else_changes(ct):
    log = Log(ct)
    one = drawing.volume_mask(ct)
    log.add([one])
    before = ct.count("masks")
    log.set_status(one.id, "reviewed")
    log.change(replace(log.state()[one.id], label=Label("spleen")))
    log.undo(2)
    log.restore(0)
    ct.refresh()
    assert ct.count("masks") == before
    assert verify(ct) == []


def test_diff_tells_who_changed_what_and_by_how_much(ct):
    one, other = drawing.volume_mask(ct), label("gone")
    Log(ct, "ada").add([one, other])
    planes = list(one.mask)
    shifted = [make_plane(p.frame, np.roll(p.binary(), 1, axis=1)) for p in planes]
    Log(ct, "ben").change(replace(one, mask=shifted))
    Log(ct, "cem").remove(other.id)
    Log(ct, "dee").add([label("new")])
    found = {change.what: change for change in diff(Log(ct), 1)}
    assert (found["changed"].author, found["changed"].fields) == ("ben", ("mask",))
    a, b = ({p.frame: p.binary() for p in side} for side in (planes, shifted))
    overlap = 2 * sum((a[f] & b[f]).sum() for f in a) / sum(m.sum() for side in (a, b) for m in side.values())
    assert found["changed"].dice == pytest.approx(float(overlap))
    assert (found["removed"].author, found["removed"].label) == ("cem", "gone")
    assert (found["added"].author, found["added"].label) == ("dee", "new")


def test_label_sets_are_kept_and_changed(tmp_path):
    log = Log(empty(tmp_path))
    organs = LabelSet("organs", (Label("liver", Code("10200004", "SCT", "Liver"), None, "#ff0000"), Label("spleen")))
    log.keep_labels(organs)
    assert log.state().label_sets == {"organs": organs}
    log.keep_labels(LabelSet("organs", (Label("liver"),)))
    assert log.state(0).label_sets == {"organs": organs}
    log.undo(1)
    assert log.state().label_sets["organs"] == organs


# Several writers ------------------------------------------------------------------------------------------------------

WRITER = """
import sys
import dcmark
from dcmark.annotate.log import Log
from dcmark.annotate.masks import make_plane
from dcmark.annotate.model import Annotation, Label, Target
from dcmark.read.volume_model import FrameId
import numpy as np
log = Log(dcmark.open_archive(sys.argv[1]), sys.argv[2])
print("ready", flush=True)
sys.stdin.readline()
for k in range(int(sys.argv[3])):
    mask = np.zeros((40, 40), bool)
    mask[k % 30 : k % 30 + 5, 3:9] = True
    plane = make_plane(FrameId("ab" * 32, k), mask)
    one = Annotation("mask", Target("region", patient="p"), Label(f"{sys.argv[2]} {k}"), mask=[plane])
    log.add([one])
    print(one.id, flush=True)
"""


def writer(archive: Path, name: str, count: int) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", WRITER, str(archive), name, str(count)]
    pipe = subprocess.PIPE
    return subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, text=True)


def test_writers_at_once_all_succeed_and_the_chain_stays_one_line(tmp_path):
    archive = empty(tmp_path)
    children = [writer(archive.path, name, 15) for name in ("ada", "ben", "cem")]
    for child in children:
        assert child.stdout.readline() == "ready\n"
    for child in children:
        child.stdin.write("go\n")
        child.stdin.flush()
    ids = []
    for child in children:
        out, wrong = child.communicate(timeout=120)
        assert child.returncode == 0, wrong
        ids += out.split()
    archive.refresh()
    state = Log(archive).state()
    assert set(state) == set(ids)
    assert len(ids) == 45
    assert sorted(one.label.name for one in state.annotations())[0] == "ada 0"
    assert verify(archive) == []


def kill_at_random_moments(count: int, folder: Path) -> None:
    archive = empty(folder)
    chance = random.Random(5)
    known: set[str] = set()
    acknowledged = 0
    for _ in range(count):
        child = writer(archive.path, "ada", 1000)
        assert child.stdout.readline() == "ready\n"
        child.stdin.write("go\n")
        child.stdin.flush()
        time.sleep(chance.uniform(0, 0.25))
        child.kill()
        out, _ = child.communicate()
        told = {line for line in out.split("\n")[:-1] if len(line) == 32}
        acknowledged += len(told)
        known |= told
        archive.refresh()
        assert known <= set(Log(archive).state()), "an acknowledged annotation is gone"
        assert [f for f in verify(archive) if f.level == "error"] == []
    assert acknowledged > count // 2
    Log(archive).add([label("and on it goes")])
    collect(archive, exclusive=True)
    assert [
        one for one in Log(archive).state().annotations() if one.kind == "mask" and not one.mask[0].binary().any()
    ] == []
    assert verify(archive) == []


def test_kill_at_a_few_moments(tmp_path):
    kill_at_random_moments(5, tmp_path)


@pytest.mark.long
@pytest.mark.timeout(1800)
def test_kill_at_two_hundred_moments(tmp_path):
    kill_at_random_moments(200, tmp_path)


FULL_DISK = """
import resource, sys, signal
import dcmark
from dcmark.annotate.log import Log
from dcmark.annotate.model import Annotation, Label, Target
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
log = Log(dcmark.open_archive(sys.argv[1]))
log.add([Annotation("label", Target("patient", patient="p"), Label("before"))])
resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
try:
    log.add([Annotation("label", Target("patient", patient="p"), Label(str(k) * 50)) for k in range(5000)])
except dcmark.DcmarkError as error:
    print(type(error).__name__)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="limits on the size of files are POSIX")
def test_storage_that_refuses_loses_nothing(tmp_path):
    archive = empty(tmp_path)
    done = subprocess.run(
        [sys.executable, "-c", FULL_DISK, str(archive.path)], capture_output=True, text=True, check=False
    )
    assert done.stdout == "StorageError\n", done.stderr
    archive.refresh()
    assert [one.label.name for one in Log(archive).state().annotations()] == ["before"]
    assert verify(archive) == []


# Damage ---------------------------------------------------------------------------------------------------------------


def rewrite(archive: dcmark.Archive, name: str, change) -> None:
    """Write a table anew with its rows changed, as an intruder would."""
    place = str(archive.path / f"{name}.lance")
    rows = lance.dataset(place).to_table().to_pylist()
    schema = lance.dataset(place).schema
    lance.write_dataset(pa.Table.from_pylist(change(rows), schema), place, mode="overwrite")
    archive.refresh()


def altered(rows, **values):
    return [{**row, **(values if k == 2 else {})} for k, row in enumerate(rows)]


def hashed_again(rows):
    row = {**rows[2], "label": "other"}
    return [*rows[:2], {**row, "hash": event_hash(row)}, *rows[3:]]


@pytest.mark.parametrize(
    ("change", "code"),
    [
        (lambda rows: altered(rows, label="other"), "event-altered"),
        (lambda rows: altered(rows, body='{"text":"other"}'), "event-altered"),
        (lambda rows: altered(rows, author="someone else"), "event-altered"),
        (lambda rows: altered(rows, time_ns=1), "event-altered"),
        (hashed_again, "event-chain"),
        (lambda rows: rows[:2] + rows[3:], "event-missing"),
        (lambda rows: rows[1:], "event-missing"),
        (lambda rows: [*rows, rows[1]], "event-order"),
    ],
)
def test_an_altered_or_missing_event_is_found(tmp_path, change, code):
    archive = empty(tmp_path)
    Log(archive).add([label(str(k)) for k in range(5)])
    assert dcmark.verify(archive).whole
    rewrite(archive, "annotations", change)
    report = dcmark.verify(archive)
    assert not report.whole
    assert code in {finding.code for finding in report.findings}


def test_events_deleted_through_the_storage_are_found(tmp_path):
    archive = empty(tmp_path)
    Log(archive).add([label(str(k)) for k in range(5)])
    lance.dataset(str(archive.path / "annotations.lance")).delete("seq = 4")
    archive.refresh()
    assert "event-missing" in {finding.code for finding in verify(archive)}


@pytest.mark.parametrize("what", ["altered", "missing"])
def test_a_mask_that_is_not_what_was_drawn_is_found(ct, what):
    Log(ct).add([drawing.volume_mask(ct)])

    def change(rows):
        if what == "missing":
            return rows[1:]
        return [{**rows[0], "top": rows[0]["top"] + 1}, *rows[1:]]

    rewrite(ct, "masks", change)
    assert {finding.code for finding in verify(ct)} == {f"mask-{what}"}
    if what == "missing":
        with pytest.raises(DamageError):
            list(next(iter(Log(ct).state().annotations())).mask)


def test_a_log_of_another_archive_is_found(tmp_path):
    import shutil

    one, other = (dcmark.open_archive(tmp_path / f"{name}.dcmark", create=True) for name in "ab")
    Log(one).add([label()])
    shutil.copytree(one.path / "annotations.lance", other.path / "annotations.lance")
    assert "event-chain" in {finding.code for finding in verify(other)}


# Size -----------------------------------------------------------------------------------------------------------------


def many(count: int, folder: Path) -> dict[str, float]:
    archive = empty(folder)
    drawn = [
        Annotation(
            "box", Target("frame", patient=f"p{k % 100}", file=FRAME.file, frame=k), Label(f"x{k % 10}"),
            (Contour(((1.0, 2.0), (3.0 + k % 7, 4.0)), FrameId(FRAME.file, k)),),
        )
        for k in range(count)
    ]  # fmt: skip
    seconds = {}
    for name, work in (
        ("add", lambda: Log(archive).add(drawn)),
        ("open", lambda: Log(archive).state()),
        ("read all", lambda: sum(1 for _ in Log(archive).state().annotations())),
        ("verify", lambda: verify(archive)),
    ):
        began = time.perf_counter()
        found = work()
        seconds[name] = time.perf_counter() - began
        assert found != [] or name == "verify"
    assert len(Log(archive).state()) == count
    return seconds


def test_many_events_open_quickly_beside_the_time_to_write_them(tmp_path):
    """No absolute times: opening must be a small part of what adding took."""
    seconds = many(10_000, tmp_path)
    assert seconds["open"] < seconds["add"]


@pytest.mark.long
def test_a_hundred_thousand_annotations(tmp_path):
    seconds = many(100_000, tmp_path)
    print(seconds)
    assert seconds["open"] < seconds["add"] / 5


def test_single_events_do_not_slow_each_other_down(tmp_path):
    """A stroke a commit: pieces are joined, so the hundredth is not much slower than the first ones."""
    log = Log(empty(tmp_path))
    took = []
    for k in range(130):
        began = time.perf_counter()
        log.add([label(str(k))])
        took.append(time.perf_counter() - began)
    pieces = lance.dataset(str(log.archive.path / "annotations.lance")).get_fragments()
    assert len(pieces) < 60
    assert [event.seq for event in log.events()] == list(range(130))
    assert np.median(took[-30:]) < 20 * np.median(took[:30])
    assert verify(log.archive) == []
