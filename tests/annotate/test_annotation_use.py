"""What is done with annotations: measuring, comparing readers, SQL, restoring with them, the command line."""

from __future__ import annotations

from dataclasses import replace

import drawing
import numpy as np
import pydicom
import pytest

import dcmark
from dcmark.annotate.agree import compare, surface_distances
from dcmark.annotate.exchange import export_annotations
from dcmark.annotate.log import Log
from dcmark.annotate.masks import make_plane
from dcmark.annotate.measure import Measures, hull, longest_distance
from dcmark.annotate.model import Annotation, Contour, Label, Target
from dcmark.annotate.places import Places
from dcmark.read.volume_model import FrameId


def ball(archive, centre, radius, label=drawing.LESION, **more) -> Annotation:
    """A ball in mm, as a mask."""
    places = Places(archive)
    volume = next(iter(places.volumes.values()))
    rows, columns = volume.shape[1:]
    planes = []
    for frame in (FrameId(*one) for one in volume.frames):
        points = places.plane(frame).to_mm(np.stack(np.mgrid[:rows, :columns], axis=-1))
        plane = make_plane(frame, np.linalg.norm(points - centre, axis=-1) <= radius)
        planes += [plane] if plane is not None else []
    return Annotation("mask", places.target("volume", list(volume.frames), volume), label, mask=planes, **more)


MIDDLE = np.array([-15.0, 30.0, 107.5])


def test_volume_diameter_and_mean_of_a_ball(ct):
    one = ball(ct, MIDDLE, 7.0)
    found = Measures(Places(ct)).whole(one)
    pixels = sum(int(plane.binary().sum()) for plane in one.mask)
    assert found.pixels == pixels
    assert found.volume_ml == pytest.approx(pixels * 3.0 * 0.9 * 0.7 / 1000)
    assert found.volume_ml == pytest.approx(4 / 3 * np.pi * 0.343, rel=0.15)
    assert 12.5 < found.longest_diameter_mm < 15.5
    values = []
    for plane in one.mask:
        shown = dcmark.frame(ct, plane.frame.file, plane.frame.frame).physical("hu").values
        values.append(shown[plane.binary()])
    assert found.mean_hu == pytest.approx(float(np.concatenate(values).mean()), abs=1e-3)


def test_a_line_measures_its_length(ct):
    places = Places(ct)
    frame = FrameId(*next(iter(places.volumes.values())).frames[0])
    line = Annotation(
        "line", places.target("region", [frame]), Label("x"), (Contour(((2.0, 3.0), (12.0, 13.0)), frame, False),)
    )
    found = Measures(places).whole(line)
    assert found.longest_diameter_mm == pytest.approx(np.hypot(9.0, 7.0))
    assert (found.pixels, found.volume_ml) == (0, None)


def test_the_longest_distance_is_that_of_all_pairs():
    rng = np.random.default_rng(0)
    for count in (2, 3, 10, 200):
        points = rng.normal(size=(count, 2))
        brute = np.linalg.norm(points[:, None] - points[None], axis=2).max()
        assert longest_distance(points) == pytest.approx(brute)
        assert len(hull(points)) <= count
    assert longest_distance(np.array([[1.0, 1.0], [1.0, 1.0]])) == 0


def test_surface_distances_agree_with_a_distance_transform(ct):
    ndimage = pytest.importorskip("scipy.ndimage")
    one, other = ball(ct, MIDDLE, 7.0), ball(ct, MIDDLE + np.array([2.0, 1.0, 1.0]), 6.0)
    places = Places(ct)
    a, b = drawing.pixels([one], ct), drawing.pixels([other], ct)
    forth, back = surface_distances(a, b, places)
    volume = next(iter(places.volumes.values()))

    def array(side):
        return np.stack([side.get(FrameId(*frame), np.zeros(volume.shape[1:], bool)) for frame in volume.frames])

    def surface(full):
        return full & ~ndimage.binary_erosion(full)

    spacing = (3.0, 0.9, 0.7)
    dense_a, dense_b = array(a), array(b)
    far = ndimage.distance_transform_edt(~surface(dense_b), sampling=spacing)[surface(dense_a)]
    near = ndimage.distance_transform_edt(~surface(dense_a), sampling=spacing)[surface(dense_b)]
    assert np.allclose(np.sort(forth), np.sort(far), atol=1e-6)
    assert np.allclose(np.sort(back), np.sort(near), atol=1e-6)


def test_readers_are_compared_by_case_and_over_all(ct):
    places = Places(ct)
    one, other = ball(ct, MIDDLE, 7.0, author="Ada"), ball(ct, MIDDLE + np.array([1.4, 0.0, 0.0]), 7.0, author="Ben")
    found = compare([one], [other], places)
    (overlap,) = found.overlaps
    a, b = drawing.pixels([one], ct), drawing.pixels([other], ct)
    both = sum(int((a[f] & b[f]).sum()) for f in a.keys() & b.keys())
    assert overlap.dice == pytest.approx(2 * both / (overlap.pixels_a + overlap.pixels_b))
    assert overlap.hausdorff_mm == pytest.approx(1.4, abs=0.75)
    assert overlap.surface_mm < overlap.hausdorff95_mm <= overlap.hausdorff_mm
    same = compare([one], [one], places).overlaps[0]
    assert (same.dice, same.hausdorff_mm) == (1.0, 0.0)
    (missing,) = compare([one], [], places).overlaps
    assert (missing.dice, missing.hausdorff_mm) == (0.0, None)


def test_the_report_says_how_far_readers_agree(ct, tmp_path):
    shift = np.array([1.4, 0.0, 0.0])
    for author, where in (("Ada", MIDDLE), ("Ben <b>", MIDDLE + shift)):
        made = ball(ct, where, 7.0, author=author)
        seen = Annotation("label", made.target, Label("lesion seen"), author=author)
        Log(ct, author).add([made, seen])
    made = [one for one in Log(ct).state().annotations() if one.kind != "label"]
    expected = compare(made[:1], made[1:], Places(ct)).overlaps[0]
    dcmark.report(ct, tmp_path / "report.html")
    page = (tmp_path / "report.html").read_text("utf-8")
    section = page[page.index('<section id="annotations">') : page.index('<section id="what">')]
    assert "Ada and Ben &lt;b&gt;" in section
    assert f">{expected.dice:.3f}<" in section
    assert f">{expected.surface_mm:.2f}<" in section
    assert "Classes: 1 of 1 alike" in section
    assert "<b>" not in section


def test_kappa_of_the_textbook(shared_ct):
    """Twenty yes-yes, fifteen no-no, five and ten apart: 0.4 (Cohen's own kind of table)."""
    pairs = [("yes", "yes")] * 20 + [("yes", "no")] * 5 + [("no", "yes")] * 10 + [("no", "no")] * 15
    sides = [
        [Annotation("label", Target("patient", patient=str(k)), Label(pair[side])) for k, pair in enumerate(pairs)]
        for side in (0, 1)
    ]
    found = compare(*sides, places=Places(shared_ct)).labels
    assert (found.cases, found.agreed) == (50, 35)
    assert found.kappa == pytest.approx(0.4)
    assert compare(sides[0], [], places=Places(shared_ct)).labels.kappa is None


def test_sql_joins_annotations_with_tags(ct):
    log = Log(ct)
    log.add(
        [ball(ct, MIDDLE, 7.0, author="Ada"), drawing.volume_mask(ct, author="Ben"), *drawing.everything(ct).values()]
    )
    rows = dcmark.query(
        ct,
        """SELECT f.patient_id, count(DISTINCT (m.sha256, m.frame)) AS slices FROM frame_measures m
           JOIN annotations a USING (id) JOIN files f USING (sha256)
           WHERE a.label = 'lesion' AND a.kind = 'mask' AND m.longest_diameter_mm > 5 GROUP BY f.patient_id""",
    ).to_pylist()
    expected = [
        p for p in Measures(Places(ct), values=False).frames(ball(ct, MIDDLE, 7.0)) if p.longest_diameter_mm > 5
    ]
    assert rows == [{"patient_id": "PHANTOM-0000", "slices": len(expected)}]
    (row,) = dcmark.query(
        ct, "SELECT m.* FROM measures m JOIN annotations a USING (id) WHERE a.author = 'Ada' AND a.kind = 'mask'"
    ).to_pylist()
    assert row["volume_ml"] > 1
    assert row["mean_hu"] is not None
    chosen = dcmark.query(ct, "SELECT count(*) AS n FROM annotations").to_pylist()[0]["n"]
    assert chosen == len(log.state())
    with pytest.raises(dcmark.DcmarkError):
        dcmark.query(ct, "SELECT * FROM annotations WHERE nonsense = 1")


def test_files_are_selected_by_annotation(ct, tmp_path):
    log = Log(ct)
    one = drawing.volume_mask(ct, skip=4)
    log.add([one])
    report = dcmark.restore(ct, tmp_path / "out", where="sha256 IN (SELECT sha256 FROM annotation_frames)")
    assert report.files == len(one.mask)


# Beside restored originals --------------------------------------------------------------------------------------------


def test_restoring_with_annotations_writes_objects_that_refer_to_the_originals(ct, tmp_path, capsys):
    pytest.importorskip("highdicom")
    drawn = drawing.everything(ct)
    Log(ct).add(drawn.values())
    code, printed = drawing.run("restore", ct.path, tmp_path / "out", "--with-annotations", "-q", capsys=capsys)
    assert code == 0, printed
    folder = tmp_path / "out" / "dcmark-annotations"
    assert {place.name for place in folder.iterdir()} == {"seg", "rtstruct", "sr", "gsps", "csv"}
    originals = {}
    for file in (tmp_path / "out").glob("IM*.dcm"):
        originals[str(pydicom.dcmread(file, stop_before_pixels=True).SOPInstanceUID)] = file
    assert len(originals) == 6
    named = set()
    for file in folder.rglob("*.dcm"):
        written = pydicom.dcmread(file)
        assert written.StudyInstanceUID == pydicom.dcmread(next(iter(originals.values()))).StudyInstanceUID
        named |= {str(e.value) for e in written.iterall() if e.keyword == "ReferencedSOPInstanceUID"}
    assert named - {str(written.StudyInstanceUID)} == set(originals)


def test_objects_that_came_with_the_images_are_not_written_twice(tmp_path):
    from dcmark.annotate.beside import write_beside
    from dcmark.annotate.exchange import import_from_archive
    from dcmark.testing import standins

    standins.drli(tmp_path / "drli", patients=1, rows=64, columns=64)
    archive = dcmark.open_archive(tmp_path / "a.dcmark", create=True)
    dcmark.ingest([tmp_path / "drli"], archive)
    import_from_archive(archive)
    count = len(Log(archive).state())
    report = write_beside(archive, tmp_path / "out")
    assert (report.already, report.annotations) == (count, 0)
    one = next(one for one in Log(archive).state().annotations() if one.kind == "polygon")
    Log(archive).change(replace(one, label=Label("another")))
    assert write_beside(archive, tmp_path / "out2").annotations >= 1


# The command line -----------------------------------------------------------------------------------------------------


def test_the_whole_way_on_the_command_line(ct, tmp_path, capsys):
    one = drawing.volume_mask(ct, author="Ada")
    export_annotations(ct, "nifti", tmp_path / "masks", annotations=[one])
    path = next((tmp_path / "masks").glob("*.nii.gz"))

    def run(*arguments):
        code, printed = drawing.run("annotations", *arguments, capsys=capsys)
        assert code in (0, 3), printed
        return printed

    assert "1 annotations of 1 files added" in run("import", "nifti", ct.path, path, "--author", "Ada", "-q")
    assert "liver" in run("show", ct.path)
    (name,) = Log(ct).state()
    assert "measured volume ml" in run("show", ct.path, name[:8])
    run("review", ct.path, name[:8], "reviewed", "--author", "Ben")
    assert "status" in run("diff", ct.path, "0")
    run("import", "nifti", ct.path, path, "--author", "Cem", "-q")
    assert "mean Dice over 1 cases and labels: 1.0000" in run("compare", ct.path, "Ada", "Cem")
    assert "read back and found as meant" in run("export", "mha", ct.path, tmp_path / "mha", "--by", "Ada")
    run("remove", ct.path, name)
    run("undo", ct.path, "3")
    run("restore", ct.path, "0")
    assert [event.verb for event in Log(ct).events()] == [
        "add",
        "change",
        "add",
        "remove",
        "undo",
        "restore",
        "restore",
    ]
    (tmp_path / "organs.json").write_text('["liver", {"name": "spleen", "code": ["78961009", "SCT", "Spleen"]}]')
    assert "78961009 SCT Spleen" in run("labels", ct.path, "--keep", tmp_path / "organs.json")
    assert run("formats").split() == sorted(run("formats").split())
    code, events = drawing.run_json("annotations", "log", ct.path, "--last", 2, capsys=capsys)
    assert (code, len(events)) == (0, 2)


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (("import", "nifti", "{a}"), 2, "FORMAT ARCHIVE SOURCE"),
        (("import", "jpeg", "{a}", "{a}"), 2, "unknown annotation format"),
        (("import", "seg", "{a}", "nothing.dcm"), 1, "found nothing"),
        (("export", "seg", "{a}", "out"), 2, "found none"),
        (("compare", "{a}", "Ada", "Ben"), 2, "expected an author"),
        (("undo", "{a}", "7"), 2, "number of an event"),
        (("show", "{a}", "abc"), 2, "id of one annotation"),
        (("diff", "{a}", "yesterday"), 2, "number of an event or a time"),
    ],
)
def test_wrong_commands_say_what_was_expected(shared_ct, tmp_path, monkeypatch, capsys, arguments, code, words):
    monkeypatch.chdir(tmp_path)
    filled = [str(shared_ct.path) if one == "{a}" else one for one in arguments]
    found, printed = drawing.run("annotations", *filled, capsys=capsys)
    assert (found, words in printed) == (code, True), printed


def test_verify_on_the_command_line_finds_a_changed_event(ct, capsys):
    import lance
    import pyarrow as pa

    Log(ct).add([Annotation("label", Target("patient", patient="p"), Label("x"))])
    assert drawing.run("verify", ct.path, "-q", capsys=capsys)[0] == 0
    place = str(ct.path / "annotations.lance")
    table = lance.dataset(place).to_table()
    rows = [{**row, "label": "y"} for row in table.to_pylist()]
    lance.write_dataset(pa.Table.from_pylist(rows, table.schema), place, mode="overwrite")
    code, printed = drawing.run("verify", ct.path, "-q", capsys=capsys)
    assert (code, "event-altered" in printed) == (4, True)


def test_the_command_line_starts_quickly_without_what_annotations_need():
    import subprocess
    import sys

    script = (
        "import sys, dcmark.cli.app; print([m for m in ('lance', 'duckdb', 'pydicom', 'numpy') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
