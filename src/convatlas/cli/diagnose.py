"""`convatlas diagnose TARGET`: do signals and gradients get through, are units dead, what does a unit answer to?"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from convatlas.cli import console, target
from convatlas.cli.diagnosis import Diagnosis, dead_share, show, to_json
from convatlas.errors import UsageError

if TYPE_CHECKING:
    from convatlas.cli.subject import Subject
    from convatlas.measure.effective import Box, EffectiveField


def diagnose(
    name: Annotated[str, typer.Argument(metavar="TARGET", help=target.HELP)],
    data: Annotated[
        str | None,
        typer.Option(metavar="WHERE", help="Images as for `train`; a run's own, or noise, if absent."),
    ] = None,
    batch: Annotated[int, typer.Option(help="Images to look with.", min=2)] = 16,
    layer: Annotated[
        str | None, typer.Option(help="Whose effective receptive field to measure; the last map's if absent.")
    ] = None,
    picture: Annotated[
        Path | None, typer.Option("--field", metavar="PICTURE.png", help="Draw the effective field there.")
    ] = None,
    image: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Draw it over this image, with --field.")
    ] = None,
    curves: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE.svg", help="Draw the signal over depth; of a run, at its start and later."
        ),
    ] = None,
    image_size: Annotated[int | None, typer.Option(help="Side of the image in pixels.", min=1)] = None,
    channels: Annotated[int | None, typer.Option(help="Channels of the image.", min=1)] = None,
    input_shape: Annotated[
        str | None,
        typer.Option(
            metavar="C,H,W", help="Instead of both: the whole shape without batch, such as 1,16000."
        ),
    ] = None,
    classes: Annotated[int | None, typer.Option(help="Number of classes.", min=2)] = None,
    options: Annotated[
        list[str] | None,
        typer.Option("--option", metavar="KEY=VALUE", help="Setting of the network; may be repeated."),
    ] = None,
    init: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Another initialisation: he-fan-in, small-gaussian, ..."),
    ] = None,
    init_options: Annotated[
        list[str] | None,
        typer.Option("--init-option", metavar="KEY=VALUE", help="Its setting, such as std=0.01."),
    ] = None,
    seed: Annotated[int, typer.Option(help="Of weights, noise and choice of images.")] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON with exact numbers.")] = False,
) -> None:
    """Print each layer's activations and gradients for one batch, with a verdict: vanishing, exploding or healthy."""
    from convatlas.cli.subject import Wish, subject

    _check_pictures(picture, image, curves)
    wish = Wish(
        data,
        batch,
        image_size,
        channels,
        classes,
        console.settings(options or ()) or None,
        init,
        console.settings(init_options or (), "--init-option"),
        seed,
        None if input_shape is None else target.parse_shape(input_shape),
    )
    found = subject(name, wish)
    diagnosis = _diagnosed(found)
    if layer is not None or picture is not None:
        diagnosis.field, diagnosis.box = _field(found, layer)
    if picture is not None and diagnosis.field is not None:
        _draw(found, diagnosis.field, diagnosis.box, image, picture)
    if curves is not None:
        _draw_curves(found, diagnosis, curves)
    if as_json:
        console.write_json(to_json(found, diagnosis))
    else:
        show(found, diagnosis, picture)


def _diagnosed(found: Subject) -> Diagnosis:
    from convatlas.measure.activations import activations
    from convatlas.measure.gradients import gradients, gradients_over

    rows = activations(found.model, found.images)
    if not found.states:
        return Diagnosis(rows, gradients(found.model, found.images, found.labels), [])
    norms = gradients_over(found.states, found.model, found.images, found.labels)
    dead = {
        name: dead_share(activations(found.model, found.images, bins=1, state=state))
        for name, state in found.states
    }
    last = found.states[-1][0]
    return Diagnosis(rows, norms[last], [(name, norms[name], dead[name]) for name, _ in found.states])


# --- the field --------------------------------------------------------------------------------------------------


def _check_pictures(picture: Path | None, image: Path | None, curves: Path | None) -> None:
    if picture is not None and picture.suffix.lower() != ".png":
        raise UsageError(f"--field {picture}: the picture is a PNG; name it so.")
    if image is not None and picture is None:
        raise UsageError("--image is drawn under the effective field; say where to: --field PICTURE.png.")
    if curves is not None and curves.suffix.lower() != ".svg":
        raise UsageError(f"--curves {curves}: the curves are an SVG; name the file so.")


def _field(found: Subject, layer: str | None) -> tuple[EffectiveField, Box | None]:
    from convatlas.measure.effective import effective_field, theoretical_box

    field = effective_field(found.model, found.images, layer)
    return field, theoretical_box(found.model, tuple(found.images.shape[1:]), field.layer, field.unit)


def _draw(found: Subject, field: EffectiveField, box: Box | None, image: Path | None, to: Path) -> None:
    from convatlas.files import make_folder, write_durable
    from convatlas.measure.effective_picture import picture
    from convatlas.plots import png

    ground = found.shown if image is None else _fitted(found, image)
    row, column = field.unit
    title = f"{found.name}, {field.layer}, unit ({row}, {column})"
    make_folder(to.parent)
    write_durable(to, png(picture(field, ground, box, title=title)))


def _fitted(found: Subject, image: Path) -> Any:
    """The image in the size and shape that the network sees."""
    from convatlas.data import Preprocessing
    from convatlas.infer.predict import sources

    _, channels, height, width = found.images.shape
    prepare = found.preprocessing or Preprocessing((height, width), "crop", 1 if channels == 1 else 3)
    return prepare.fit(sources(image)[0].load()).numpy().transpose(1, 2, 0)


def _draw_curves(found: Subject, diagnosis: Diagnosis, to: Path) -> None:
    from convatlas import plots
    from convatlas.files import make_folder, write_durable
    from convatlas.measure.gradient_chart import curves

    lines = {name: norms for name, norms, _ in diagnosis.over} or {found.name: diagnosis.gradients}
    make_folder(to.parent)
    write_durable(to, plots.svg(curves(lines)).encode())
