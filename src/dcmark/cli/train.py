"""train, generate, evaluate, models: the commands about generative models. PyTorch is loaded when one runs."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from dcmark.cli import draw
from dcmark.cli.options import Json, Quiet

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from dcmark.progress import Progress
    from dcmark.train.data import ImageData
    from dcmark.train.sampling import Sampler

RunPath = Annotated[Path, typer.Argument(metavar="RUN", help="A run directory, or a file of dcmark models import.")]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1, mps.")]
Label = Annotated[str | None, typer.Option(help="What to make: a class such as 1, or a vector such as 0.2,0.8.")]

models = typer.Typer(name="models", help="Generative models and their checkpoints.", no_args_is_help=True)


def register(app: typer.Typer) -> None:
    """Add all commands of this module to the command line."""
    app.command()(train)
    app.command()(generate)
    app.command()(evaluate)
    app.add_typer(models)


def _ready() -> None:
    from dcmark.train import base

    base.find("pggan")  # says what to install where PyTorch is missing


def train(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="stylegan3, pggan, or a plug-in's name.")],
    data: Annotated[
        Path, typer.Argument(metavar="DATA", help="Folder of PNG files, zip of them, .npy; or an archive with --view.")
    ],
    run: Annotated[Path, typer.Argument(metavar="RUN", help="Run directory; an existing one goes on exactly.")],
    view: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Images of an archive; see: dcmark view save.")
    ] = None,
    kimg: Annotated[float, typer.Option(help="Real images to show in all, in thousands.")] = 25_000,
    preset: Annotated[str | None, typer.Option(help="Settings by name; see: dcmark models list.")] = None,
    settings: Annotated[
        list[str] | None, typer.Option("--set", metavar="NAME=VALUE", help="One setting; may be repeated.")
    ] = None,
    batch: Annotated[int, typer.Option(min=1, help="Images a step, over all processes.")] = 32,
    rounds: Annotated[int, typer.Option(min=1, help="Parts a batch is worked through in, to save memory.")] = 1,
    seed: Annotated[int, typer.Option(min=0, help="Of everything random.")] = 0,
    augment: Annotated[bool, typer.Option("--augment", help="Adaptive augmentation, for little data.")] = False,
    mirror: Annotated[bool, typer.Option("--mirror", help="Show images mirrored too.")] = False,
    pad: Annotated[bool, typer.Option("--pad", help="Pad to a square of a power of two, masked.")] = False,
    checkpoint_kimg: Annotated[float, typer.Option(help="From checkpoint to checkpoint, thousand images.")] = 50,
    keep: Annotated[int, typer.Option(min=1, help="Checkpoints that stay.")] = 2,
    device: Device = "auto",
    threads: Annotated[int | None, typer.Option(min=1, help="Threads of PyTorch on the CPU.")] = None,
    compiled: Annotated[bool, typer.Option("--compile", help="Let torch.compile work on the generator.")] = False,
    channels_last: Annotated[
        bool, typer.Option("--channels-last", help="Channels innermost in memory; may be faster on a GPU.")
    ] = False,
    quiet: Quiet = False,
    json: Json = False,
) -> None:
    """Train a model, or go on exactly where the run stopped: the same command does both."""
    _ready()
    import torch

    from dcmark.train import base, loop
    from dcmark.train.augment import AugmentSettings

    if threads:
        torch.set_num_threads(threads)
    every = max(round(checkpoint_kimg * 1000), 1)
    options = loop.Options(
        images=max(round(kimg * 1000), 1),
        batch=batch,
        rounds=rounds,
        seed=seed,
        mirror=mirror,
        augment=AugmentSettings(flip=mirror) if augment else None,
        pad=pad,
        checkpoint_images=every,
        sheet_images=every,
        report_images=max(every // 10, 1),
        keep=keep,
        compiled=compiled,
        channels_last=channels_last,
    )
    first = _is_first()
    given = _preset(base.find(model), preset) | _pairs(settings or [])
    found = loop.train(
        model,
        given,
        _data_at(data, view, run),
        run,
        options,
        device=device,
        progress=draw.progress(quiet or not first),
        source=str(data.resolve()),
    )
    if not first:
        return
    told = {"run": str(run), "images": found.images_seen, "resumed_at": found.resumed_at} | found.last_report
    if json:
        draw.as_json(told)
        return
    begun = f" (went on at {found.resumed_at})" if found.resumed_at else ""
    draw.line(f"{found.images_seen} images shown{begun}; samples in {run / 'sheets'}; next: dcmark generate {run}")


def _is_first() -> bool:
    """Is this the process that writes and speaks, of those that torchrun started?"""
    from os import environ

    return environ.get("RANK", "0") == "0"


def _preset(model: Any, name: str | None) -> dict[str, Any]:
    from dcmark.errors import UsageError

    if name is None:
        return {}
    if name not in model.presets:
        raise UsageError(f"expected one of the presets {', '.join(model.presets)} of {model.name}, found {name!r}")
    return dict(model.presets[name])


def _pairs(texts: list[str]) -> dict[str, str]:
    from dcmark.errors import UsageError

    for text in texts:
        if "=" not in text:
            raise UsageError(f"expected --set NAME=VALUE, found {text!r}")
    return {text.partition("=")[0].strip(): text.partition("=")[2].strip() for text in texts}


def _label(text: str | None) -> list[float] | int | None:
    from dcmark.errors import UsageError

    if text is None:
        return None
    try:
        return [float(part) for part in text.split(",")] if "," in text else int(text)
    except ValueError:
        raise UsageError(f"expected --label to be a class or numbers with commas, found {text!r}") from None


def generate(
    run: RunPath,
    out: Annotated[Path, typer.Option("--out", "-o", help="A new or empty folder.")] = Path("generated"),
    count: Annotated[int, typer.Option("-n", min=1, help="How many images.")] = 50,
    seed: Annotated[int, typer.Option(min=0, help="Of the first image; the next ones count up.")] = 0,
    form: Annotated[
        Literal["png", "png16", "npy", "dicom"], typer.Option("--format", "-f", help="png, png16, npy, dicom.")
    ] = "png",
    label: Label = None,
    truncation: Annotated[float, typer.Option(help="Below 1: more typical, less varied (stylegan3).")] = 1.0,
    walk: Annotated[int, typer.Option(min=0, help="One walk through this many seeds, as slices; 0 for none.")] = 0,
    rotate: Annotated[float, typer.Option(help="Degrees to turn what is made by (stylegan3).")] = 0.0,
    template: Annotated[
        Path | None, typer.Option(help="DICOM file or archive that lends geometry, for --format dicom.")
    ] = None,
    series: Annotated[str | None, typer.Option(help="SeriesInstanceUID of the template in the archive.")] = None,
    device: Device = "cpu",
    quiet: Quiet = False,
    json: Json = False,
) -> None:
    """Make images with a trained model: PNG, npy in physical units, or DICOM that says it is synthetic."""
    _ready()
    from dcmark.errors import OutputExistsError, UsageError
    from dcmark.train.sampling import open_sampler, rotation

    if walk == 1 or (walk and rotate):
        raise UsageError("expected --walk through at least 2 seeds and without --rotate, found others")
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise OutputExistsError(f"expected a new or empty folder at {out}, found something in it")
    sampler = open_sampler(run, device=device)
    seeds = list(range(seed, seed + (walk or count)))
    if walk:
        images = sampler.walk(seeds, count, _label(label), truncation=truncation)
        words = [f"slice {i + 1} of {count} of a walk through seeds {seeds[0]} to {seeds[-1]}" for i in range(count)]
    else:
        turn = rotation(rotate) if rotate else None
        images = sampler.images(seeds, _label(label), truncation=truncation, transform=turn)
        words = [f"seed {s}" for s in seeds]
    told = {
        "synthetic": True,
        "model": sampler.origin.model,
        "weights_sha256": sampler.origin.run,
        "images_seen": sampler.origin.images_seen,
        "data": sampler.origin.data_hash,
        "seeds": seeds,
        "truncation": truncation,
        "walk": bool(walk),
        "rotate": rotate,
        "label": label,
        "meaning": sampler.meaning.as_dict(),
    }
    shown = _counted(images, count, draw.progress(quiet))
    if form == "dicom":
        paths = _as_dicom(shown, out, sampler, run.name, words, template, series, bool(walk))
    else:
        paths = _as_images(shown, out, sampler, form, told)
    if json:
        draw.as_json(told | {"files": [str(path) for path in paths]})
    else:
        draw.line(f"{count} synthetic images in {out}")


def _counted(images: Any, total: int, progress: Progress) -> Any:
    progress.start("generate", total, "images")
    for image in images:
        progress.advance()
        yield image
    progress.finish()


def _as_images(images: Any, out: Path, sampler: Sampler, form: str, told: dict[str, Any]) -> list[Path]:
    import json

    import imagecodecs
    import numpy as np

    out.mkdir(parents=True, exist_ok=True)
    paths = []
    if form == "npy":
        stack = np.stack([sampler.meaning.to_physical(image) for image in images])
        paths.append(out / "images.npy")
        np.save(paths[0], stack)
    else:
        deepest, kind = (255, np.uint8) if form == "png" else (65535, np.uint16)
        for number, image in enumerate(images):
            if image.shape[0] not in {1, 3}:
                from dcmark.errors import UsageError

                raise UsageError(f"expected 1 or 3 channels for {form}, found {image.shape[0]}; use --format npy")
            stored = np.rint((np.clip(image, -1, 1) + 1) / 2 * deepest).astype(kind)
            picture = stored[0] if len(stored) == 1 else np.ascontiguousarray(np.moveaxis(stored, 0, 2))
            paths.append(out / f"{number:06}.png")
            paths[-1].write_bytes(imagecodecs.png_encode(picture))
    (out / "generated.json").write_text(json.dumps(told, indent=1), encoding="utf-8")
    return paths


def _as_dicom(
    images: Any,
    out: Path,
    sampler: Sampler,
    run_name: str,
    words: list[str],
    template: Path | None,
    series: str | None,
    volume: bool,
) -> list[Path]:
    from dcmark.errors import UsageError
    from dcmark.out import synthetic
    from dcmark.out import template as templates

    header = None
    if template is not None and template.is_dir():
        import dcmark

        if series is None:
            raise UsageError("expected --series with the SeriesInstanceUID of the template in the archive, found none")
        header = templates.template_from_archive(dcmark.open_archive(template), series)
    elif template is not None:
        header = templates.template_from_file(template)
    meaning, origin = sampler.meaning, sampler.origin
    ends = (meaning.low * meaning.slope + meaning.intercept, meaning.high * meaning.slope + meaning.intercept)
    look = synthetic.Look(meaning.unit, min(ends), max(ends), meaning.spacing_mm, meaning.modality)
    made_by = synthetic.Provenance(origin.model, origin.run, run_name, origin.images_seen, origin.data_hash)
    physical = (meaning.to_physical(image) for image in images)
    return synthetic.write(physical, out, look, made_by, made_from=words, template=header, volume=volume)


def evaluate(
    run: RunPath,
    data: Annotated[Path | None, typer.Option(help="What it learned from; by default where the run found it.")] = None,
    held_out: Annotated[Path | None, typer.Option(help="Images of patients it was not shown.")] = None,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="HTML page; RUN/evaluation.html by default.")] = None,
    count: Annotated[int, typer.Option("-n", min=16, help="Images of each kind.")] = 500,
    seed: Annotated[int, typer.Option(min=0, help="Of the images made and of the subsets.")] = 0,
    extractor: Annotated[
        Path | None, typer.Option(help="Own features: safetensors of dcmark, or TorchScript that you trust.")
    ] = None,
    features: Annotated[
        Literal["random", "trained"], typer.Option(help="Without --extractor: fixed random, or trained on DATA.")
    ] = "random",
    label: Label = None,
    device: Device = "cpu",
    quiet: Quiet = False,
    json: Json = False,
) -> int:
    """Judge a model: distances, diversity, values, and whether it copies. Exit 3 when it does."""
    _ready()
    from json import dumps

    import numpy as np

    from dcmark.errors import UsageError
    from dcmark.out import evaluation_page
    from dcmark.out import features as extractors
    from dcmark.out.evaluate import evaluate as judge
    from dcmark.train.sampling import open_sampler

    sampler = open_sampler(run, device=device)
    learned = _data_of(run, data)
    if sampler.origin.data_hash and data is None and learned.hash != sampler.origin.data_hash:
        raise UsageError("expected the data that the run learned from, found them changed since; name them with --data")
    real = _some(learned, count)
    others = None if held_out is None else _some(_data_at(held_out), count)
    made = np.stack(list(sampler.images(range(seed, seed + count), _label(label))))
    channels = real.shape[1]
    if extractor is not None:
        chosen = extractors.load_extractor(extractor, channels)
    elif features == "trained":
        chosen = extractors.trained_features(real, seed=seed)
    else:
        chosen = extractors.random_features(channels)
    found = judge(
        real,
        made,
        held_out=others,
        extractor=chosen,
        to_physical=sampler.meaning.to_physical,
        unit=sampler.meaning.unit,
        seed=seed,
        progress=draw.progress(quiet),
    )
    found.about = {
        "model": sampler.origin.model,
        "weights sha256": sampler.origin.run,
        "images shown": sampler.origin.images_seen,
        "data": learned.hash,
    }
    page = out or (run / "evaluation.html" if run.is_dir() else run.with_suffix(".evaluation.html"))
    evaluation_page.write_page(found, real, made, page, title=f"Evaluation of {run.name}")
    page.with_suffix(".json").write_text(dumps(found.as_dict(), indent=1), encoding="utf-8")
    if json:
        draw.as_json(found.as_dict())
    else:
        rows = [(s.name, f"{s.value:.4g}", f"{s.low:.4g} to {s.high:.4g}", f"{s.floor:.4g}") for s in found.scores]
        draw.table(["measure", "value", "interval", "floor"], rows)
        draw.line(f"{len(found.memorisation.near_copies)} near copies of training images; page: {page}")
    return draw.NEEDS_A_LOOK if found.memorisation.alarm else draw.NO_LOOK


def _data_at(path: Path, view: Path | None = None, run: Path | None = None) -> ImageData:
    """Images of a set, or of a view of an archive; the view of a run stands in its directory."""
    from dcmark.errors import UsageError
    from dcmark.train.data import open_images
    from dcmark.train.run import VIEW_FILE
    from dcmark.train.viewed import ViewImages
    from dcmark.view.view import load_view

    kept = None if run is None else run / VIEW_FILE
    if view is None and kept is not None and kept.is_file():
        view = kept
    if not (path / "archive.json").is_file():
        if view is not None and view != kept:
            raise UsageError("expected an archive beside --view; found another place; leave --view out for a set")
        return open_images(path)
    if view is None:
        raise UsageError(
            "expected --view FILE beside an archive, found none; make one: dcmark view save ARCHIVE FILE --size 256"
        )
    found = load_view(view)
    images = ViewImages(path, found)
    if kept is not None and not kept.is_file() and _is_first():
        kept.parent.mkdir(parents=True, exist_ok=True)
        found.save(kept)
    return images


def _data_of(run: Path, data: Path | None) -> ImageData:
    from dcmark.errors import UsageError
    from dcmark.train.data import Padded
    from dcmark.train.run import Run

    source = Run(run).config.get("source") if run.is_dir() else None
    if data is None and not source:
        raise UsageError("expected --data with the images that the model learned from, found none")
    opened = _data_at(data or Path(str(source)), run=run)
    if run.is_dir() and data is None and Run(run).config["data"].get("within"):
        # What was padded is judged without the padding; the hash is that of the padded images.
        opened.hash = Padded(opened).hash
    return opened


def _some(data: ImageData, count: int) -> NDArray[np.float32]:
    import numpy as np

    chosen = np.linspace(0, len(data) - 1, min(count, len(data))).astype(int)
    return np.stack([data.meaning.to_model(data[int(i)][0]) for i in chosen])


@models.command("list")
def list_models(json: Json = False) -> None:
    """The models that can be trained."""
    _ready()
    from dataclasses import asdict

    from dcmark.train import base

    found = [base.find(name) for name in base.names()]
    if json:
        rows = [
            {"name": m.name, "summary": m.summary, "presets": m.presets, "capabilities": asdict(m.capabilities)}
            for m in found
        ]
        draw.as_json(rows)
        return
    draw.table(["name", "summary", "presets"], [(m.name, m.summary, " ".join(m.presets)) for m in found])


@models.command("import")
def import_model(
    source: Annotated[Path, typer.Argument(metavar="FILE.pkl", help="Official checkpoint of StyleGAN2/3 or PGGAN.")],
    out: Annotated[Path | None, typer.Argument(metavar="OUT", help="FILE.safetensors by default.")] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace what is in the way.")] = False,
    json: Json = False,
) -> None:
    """Turn an official checkpoint into safetensors; nothing in it is executed."""
    _ready()
    from dcmark.errors import OutputExistsError
    from dcmark.train.checkpoint import import_official, save

    target = out or source.with_suffix(".safetensors")
    if target.exists() and not overwrite:
        raise OutputExistsError(f"expected nothing at {target}, found a file; choose another name or --overwrite")
    imported = import_official(source)
    save(imported, target)
    counts = {name: len(tensors) for name, tensors in imported.tensors.items()}
    if json:
        draw.as_json({"file": str(target), "tensors": counts, **imported.config})
    else:
        words = ", ".join(f"{name} {n} tensors" for name, n in counts.items())
        draw.line(f"{words}; written to {target}; next: dcmark generate {target}")


@models.command("export")
def export_model(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="A run directory.")],
    out: Annotated[Path, typer.Argument(metavar="OUT.safetensors", help="A new file.")],
) -> None:
    """Write the networks of a run as safetensors under the official tensor names."""
    _ready()
    from dcmark.errors import OutputExistsError
    from dcmark.train import base
    from dcmark.train.checkpoint import Imported, save
    from dcmark.train.run import Run

    if out.exists():
        raise OutputExistsError(f"expected nothing at {out}, found a file; choose another name")
    opened = Run(run)
    data, kind = opened.config["data"], base.find(opened.config["model"])
    channels, rows, columns = data["shape"]
    shape = base.ImageShape(channels, rows, columns, labels=data["labels"])
    learner = kind.learner(kind.settings(shape, opened.config["settings"]), shape)
    learner.load_state_dict(opened.last_checkpoint().tensors())
    save(Imported.of(learner.networks()), out)
    draw.line(f"written to {out}")
