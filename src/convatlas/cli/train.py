"""`convatlas train WHERE`: a folder of images in, a trained network and an honest report out."""

from __future__ import annotations

import logging
import sys
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from convatlas.cli import console, process
from convatlas.cli.launch import follow_agent, is_alone, launch
from convatlas.errors import UsageError

if TYPE_CHECKING:
    from convatlas.infer import Run

# Options that may stand beside --resume.
_GO_ON = (
    "where",
    "data",
    "resume",
    "workers",
    "cache",
    "accelerator",
    "on_nan",
    "checkpoint_steps",
    "convert_world",
)
_PROCESSES = ("devices", "nodes", "strategy", "rendezvous", "restarts")
GO_ON_WITH = (*_GO_ON, *_PROCESSES, "as_json", "quiet")


def train(
    context: typer.Context,
    where: Annotated[
        str | None,
        typer.Argument(
            metavar="WHERE",
            help="Image folder, zip or tar of one, shards, MNIST idx folder, CSV list, or 'digits'.",
            show_default=False,
        ),
    ] = None,
    data: Annotated[
        str | None,
        typer.Option(metavar="WHERE", help="WHERE by a name, as `bench` has it.", show_default=False),
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(help="A network of `convatlas list`; chosen by image size and count if absent."),
    ] = None,
    weights: Annotated[
        str | None,
        typer.Option(
            metavar="none|auto|torchvision|timm|FILE|RUN",
            help="What to start from; torchvision and timm are fetched.  [default: none]",
        ),
    ] = None,
    options: Annotated[
        list[str] | None,
        typer.Option("--option", metavar="KEY=VALUE", help="Setting of the network; may be repeated."),
    ] = None,
    freeze: Annotated[
        str | None,
        typer.Option(metavar="STAGE", help="Hold what comes up to this stage, by name or number, as it is."),
    ] = None,
    recipe: Annotated[
        str | None, typer.Option(help="quick, or the recipe of a paper.  [default: quick]")
    ] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Replace a field of the recipe; may be repeated."),
    ] = None,
    config: Annotated[Path | None, typer.Option(help="TOML file with fields of a recipe.")] = None,
    out: Annotated[
        Path | None, typer.Option(help="Folder of the run; the first free runs/DATA-MODEL if absent.")
    ] = None,
    seed: Annotated[
        int | None,
        typer.Option(help="Of split, first weights, order and augmentation.  [default: 0]", min=0),
    ] = None,
    resume: Annotated[
        Path | None,
        typer.Option(metavar="RUN", help="Go on with this run; WHERE only if the images have moved."),
    ] = None,
    epochs: Annotated[int | None, typer.Option(help="Passes over the training images.")] = None,
    batch_size: Annotated[int | None, typer.Option(help="Images in a step.")] = None,
    lr: Annotated[float | None, typer.Option(help="Highest learning rate.")] = None,
    image_size: Annotated[int | None, typer.Option(help="Side of the network's input, px.")] = None,
    resize: Annotated[
        Literal["crop", "pad", "squash"] | None, typer.Option(help="How an image gets that size.")
    ] = None,
    balance: Annotated[
        Literal["none", "sampling", "weights"] | None,
        typer.Option(help="Make up for rare classes."),
    ] = None,
    early_stopping: Annotated[
        int | None, typer.Option(help="Stop after so many epochs without a better val score.")
    ] = None,
    precision: Annotated[
        Literal["auto", "32", "bf16"],
        typer.Option(help="Of the arithmetic; auto goes by network and device."),
    ] = "auto",
    tune: Annotated[
        Literal["rule", "full"],
        typer.Option(help="How speed settings are found: by rule, or by measuring candidates here."),
    ] = "rule",
    from_run: Annotated[
        Path | None,
        typer.Option(
            metavar="RUN",
            help="Repeat network, recipe, seed and speed settings of this run; options go before it.",
        ),
    ] = None,
    checkpoint_activations: Annotated[
        bool,
        typer.Option("--checkpoint-activations", help="Compute activations again: less memory, more time."),
    ] = False,
    find_lr: Annotated[bool, typer.Option("--find-lr", help="Look for the learning rate first.")] = False,
    group_by: Annotated[
        str | None,
        typer.Option(help="Keep together in one split: a pattern with one group, or a column of the CSV."),
    ] = None,
    on_bad: Annotated[
        Literal["error", "skip"], typer.Option(help="Files that are no good images: stop, or leave out.")
    ] = "error",
    val_share: Annotated[
        float | None,
        typer.Option(
            help="Of the training images, where the data have no val; as the recipe has it (0.1) if absent.",
            min=0,
            max=0.9,
        ),
    ] = None,
    test_share: Annotated[
        float | None,
        typer.Option(help="Set aside as test, where the data have none and one level.", min=0, max=0.9),
    ] = None,
    workers: Annotated[
        int | None, typer.Option(help="Processes that decode; chosen if absent.", min=0)
    ] = None,
    cache: Annotated[
        str | None,
        typer.Option(
            metavar="DIR",
            help="Keep decoded images in this folder, for this run and others; 'auto' is the user's cache folder.",
        ),
    ] = None,
    accelerator: Annotated[str, typer.Option(help="cpu, cuda, mps; auto takes the fastest.")] = "auto",
    devices: Annotated[
        int | None,
        typer.Option(help="Devices of this machine, a process for each.  [default: 1]", min=1),
    ] = None,
    nodes: Annotated[
        int | None, typer.Option(help="Machines, each with as many devices.  [default: 1]", min=1)
    ] = None,
    rendezvous: Annotated[
        str | None,
        typer.Option(metavar="HOST:PORT", help="Where several machines meet; the command runs on each."),
    ] = None,
    restarts: Annotated[
        int, typer.Option(help="Go on by itself so many times after the death of a process.", min=0)
    ] = 0,
    strategy: Annotated[
        Literal["auto", "ddp", "ddp_find_unused_parameters_true"],
        typer.Option(help="Of several devices, as Fabric names it."),
    ] = "auto",
    batch_norm: Annotated[
        Literal["local", "sync"] | None,
        typer.Option(help="Statistics of each process's share, or of the whole batch.  [default: local]"),
    ] = None,
    convert_world: Annotated[
        bool, typer.Option("--convert-world", help="Let --resume go on with another number of processes.")
    ] = False,
    auto_resume: Annotated[
        bool, typer.Option("--auto-resume", help="Go on with the run in --out if this command has begun it.")
    ] = False,
    on_nan: Annotated[
        Literal["stop", "skip", "rollback"] | None,
        typer.Option(help="When a loss or gradient is not finite.  [default: stop]"),
    ] = None,
    checkpoint_steps: Annotated[
        int | None, typer.Option(help="Save every so many steps, beside every epoch's end.", min=0)
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object per line.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Only the result.")] = False,
) -> None:
    """Train a network on images, and write its report.

    The best weights are chosen on val; `convatlas eval RUN` looks at test. A run that was stopped goes on with
    --resume, bit for bit as if it had not been.
    """
    flags = {
        "epochs": epochs,
        "batch_size": batch_size,
        "lr": lr,
        "image_size": image_size,
        "resize": resize,
        "balance": balance,
        "early_stopping": early_stopping,
        "freeze": freeze,
        "batch_norm": batch_norm,
    }
    given = {name: value for name, value in flags.items() if value is not None}
    if where is not None and data is not None:
        raise UsageError(f"the images are named twice, as {where} and as --data {data}: leave one out.")
    where = data if where is None else where
    if where is None and resume is None and from_run is None:
        raise UsageError(
            "there is nothing to train on. Give a folder of images, or 'digits' for the built-in ones."
        )
    if resume is not None:
        _refuse_changes(context)
    elif (restarts or auto_resume) and out is None:
        raise UsageError("--auto-resume and --restarts need the run's folder: give --out.")
    follow_agent()
    if (devices or 1) * (nodes or 1) > 1 and is_alone():
        words = list(context.obj)
        if restarts and resume is None:
            words.insert(words.index("train") + 1, "--auto-resume")
        raise typer.Exit(launch(words, devices or 1, nodes or 1, rendezvous, restarts))
    from convatlas import api
    from convatlas.train import Compute, read_toml

    logging.getLogger("lightning_fabric").setLevel(logging.WARNING)  # it tells how the processes met

    told: list[Mapping[str, Any]] = []  # only the first of several processes is told, and only it prints

    def announce(decided: Mapping[str, Any]) -> None:
        told.append(decided)
        if not quiet:
            (_announce_json if as_json else _announce)(decided)

    common: dict[str, Any] = {
        "compute": Compute(
            devices=devices,
            accelerator=accelerator,
            strategy=strategy,
            workers=workers,
            cache=_cache(cache),
            nodes=nodes,
            convert_world=convert_world,
            precision=precision,
            tune=tune,
            checkpoint_activations=checkpoint_activations,
            own_process=process.is_own(),
        ),
        "safety": _safety({"on_nan": on_nan, "checkpoint_steps": checkpoint_steps}, resume),
        "notify": announce,
    }
    with _watching(as_json=as_json, quiet=quiet) as observer:
        if resume is not None:
            run = api.resume(resume, where, observer=observer, **common)
        else:
            fields = {**(read_toml(config) if config else {}), **console.pairs(settings or ()), **given}
            reading = {
                "group_by": group_by,
                "on_bad": on_bad,
                "test_share": test_share,
                **({} if val_share is None else {"val_share": val_share}),
            }
            if from_run is not None:
                reading = {name: value for name, value in reading.items() if _is_given(context, name)}
            run = api.train(
                where,
                model,
                recipe,
                out,
                seed=seed,
                weights=weights,
                options=console.settings(options or ()),
                settings=fields,
                reading=reading,
                find_lr=find_lr,
                auto_resume=auto_resume,
                from_run=from_run,
                observer=observer,
                **common,
            )
    if told:
        _conclude(run, as_json=as_json)


def _cache(named: str | None) -> str | None:
    """The folder of decoded images, if there is to be one."""
    if named != "auto":
        return named
    from convatlas.data.sources.archive import cache_folder

    return str(cache_folder() / "pictures")


def _refuse_changes(context: typer.Context) -> None:
    """A run goes on as it began: beside --resume only options that leave the result as it is."""
    given = [name for name in context.params if _is_given(context, name)]
    changes = [name for name in given if name not in GO_ON_WITH]
    if changes:
        options = {param.name: param.opts[0] for param in context.command.params}
        raise UsageError(
            f"a run goes on as it began; --resume does not go with {', '.join(str(options[name]) for name in changes)}."
        )


def _is_given(context: typer.Context, name: str) -> bool:
    source = context.get_parameter_source(name)
    return source is not None and source.name == "COMMANDLINE"


def _safety(stated: Mapping[str, Any], resume: Path | None) -> Any:
    """What was asked for; for a run that goes on, over what it began with."""
    from convatlas.train import RunFolder, Safety

    begun = RunFolder.open(resume).read_run().get("safety", {}) if resume is not None else {}
    return Safety(**{**begun, **{name: value for name, value in stated.items() if value is not None}})


@contextmanager
def _watching(*, as_json: bool, quiet: bool) -> Generator[Any]:
    """The view of the training that fits where the output goes."""
    from convatlas.cli import progress
    from convatlas.train import Observer

    if quiet:
        yield Observer()
    elif as_json:
        yield progress.JsonLines()
    elif not sys.stdout.isatty():
        yield progress.Lines()
    else:
        bars = progress.Bars()
        try:
            yield bars
        finally:
            bars.close()


def _announce_json(decided: Mapping[str, Any]) -> None:
    console.write_json({"event": "decided", **decided}, indent=None)


def _announce(decided: Mapping[str, Any]) -> None:
    """What was decided, before the first step: data, network and why, recipe, processes."""
    from convatlas.train.processes import sentences

    data, recipe = decided["data"], decided["recipe"]
    facts = [
        ("data", data_line(decided["where"], data)),
        *(("", note) for note in data["notes"]),
        ("network", decided["model"]),
        *([("", decided["choice"])] if decided["choice"] else []),
        *start_lines(decided),
        ("recipe", f"{decided['recipe_name']}: {_recipe_line(recipe)}"),
        *(("", note) for note in decided["notes"]),
        *speed_lines(decided),
        *(("", line) for line in sentences(decided)),
        ("run", decided["path"]),
    ]
    for label, text in facts:
        console.write(f"{label:8} {console.printable(text)}\n")


def start_lines(decided: Mapping[str, Any]) -> list[tuple[str, str]]:
    """What the run starts from, what of it was not taken, and what is held."""
    from convatlas.train.origin import sentences

    start = decided.get("start") or {"kind": "scratch", "title": "random weights"}
    title = start["title"].upper() if start["kind"] == "scratch" else start["title"]
    lines = [("start", title), *(("", sentence) for sentence in sentences(decided))]
    if start.get("held"):
        lines.append(("", f"Held as they are: {', '.join(start['held'])}."))
    return lines


def speed_lines(decided: Mapping[str, Any]) -> list[tuple[str, str]]:
    """How the run is computed; and what came of measuring, where that was asked for."""
    from convatlas.train.speed import Speed

    speed = Speed.of_run(decided)
    return [("speed", speed.words()), *([("", speed.reason)] if "tuning" in decided else [])]


def _recipe_line(recipe: Mapping[str, Any]) -> str:
    return (
        f"{recipe['epochs']} epochs, batches of {recipe['batch_size']}, {recipe['optimizer']}, lr {recipe['lr']:g}, "
        f"images of {recipe['image_size']} px ({recipe['resize']})"
    )


def data_line(where: str, summary: Mapping[str, Any]) -> str:
    """The data in a sentence: "digits: 1,294 train, 143 val and 360 test images of 10 classes"."""
    counts = [
        f"{sum(split.values()) if isinstance(split, dict) else split:,} {name}"
        for name, split in summary["counts"].items()
    ]
    return f"{where}: {', '.join(counts)} images of {len(summary['classes'])} classes"


def _conclude(run: Run, *, as_json: bool) -> None:
    """Accuracy on val, how close to the machine's limit it was trained, and where the report lies."""
    from convatlas.train.limit import limit_of

    folder = run.folder
    val, limit = folder.evaluation("val"), limit_of(folder.limit())
    if as_json:
        result = (
            {key: val[key] for key in ("split", "count", "loss", "top1", "top5", "top1_interval")}
            if val
            else None
        )
        console.write_json(
            {
                "event": "done",
                "run": str(folder.path),
                "report": str(folder.report_path),
                "val": result,
                "limit": limit.to_json() if limit else None,
            },
            indent=None,
        )
        return
    if val:
        console.write(f"{accuracy(val)}; they chose the weights (epoch {run.spec.epoch})\n")
    if limit:
        console.write(f"speed    {limit.images_per_second:,.0f} images/s, {limit.words()}\n")
    console.write(f"report   {console.printable(folder.report_path)}\n")
    console.write(f"test     convatlas eval {console.printable(folder.path)}\n")


def accuracy(evaluation: Mapping[str, Any]) -> str:
    """A rate with its interval and its split: "accuracy on val: 98.60 % (95 % interval 95.0 to 99.6 %, 143 images)"."""
    from convatlas.infer.views import VIEWS

    low, high = (100 * bound for bound in evaluation["top1_interval"])
    shown = VIEWS[evaluation["views"]].says
    return (
        f"accuracy on {evaluation['split']}: {100 * evaluation['top1']:.2f} % "
        f"(95 % interval {low:.1f} to {high:.1f} %, {evaluation['count']:,} images{', ' * bool(shown)}{shown})"
    )
