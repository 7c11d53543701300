"""`convatlas recommend`: which networks fit a budget, the most accurate first, timed on this machine."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from convatlas.cli import console
from convatlas.cli.own_runs import own_evidence
from convatlas.cli.sizes import byte_size
from convatlas.errors import ConvAtlasError, UsageError, did_you_mean

if TYPE_CHECKING:
    from convatlas.measure.advice import Advice, Budget, Candidate, Ranked
    from convatlas.measure.canvass import Canvass, Use
    from convatlas.measure.evidence import Kind
    from convatlas.measure.timing import Timing

EACH = 2.0  # seconds for timing one network
RESTLESS = 0.2  # a spread of times above it is told
KINDS = ("imagenet", "cifar10")


def recommend(
    classes: Annotated[
        int | None, typer.Option(help="Number of classes; each network's own if absent.", min=1)
    ] = None,
    image: Annotated[
        int, typer.Option("--image", "--image-size", help="Side of the images in pixels.", min=1)
    ] = 224,
    channels: Annotated[int, typer.Option(help="Channels of the images.", min=1)] = 3,
    max_params: Annotated[str | None, typer.Option(help="At most so many parameters, such as 5M.")] = None,
    max_macs: Annotated[str | None, typer.Option(help="At most so many MACs an image, such as 300M.")] = None,
    max_ms: Annotated[
        float | None, typer.Option(help="At most so many milliseconds a batch, on this machine.", min=0)
    ] = None,
    max_memory: Annotated[str | None, typer.Option(help="At most so much memory, such as 2GB.")] = None,
    batch: Annotated[int, typer.Option(help="Images at once.", min=1)] = 1,
    train: Annotated[
        bool, typer.Option("--train", help="Time and memory are those of a training step.")
    ] = False,
    evidence: Annotated[
        str | None,
        typer.Option(
            help="Rank by published errors on imagenet or cifar10; cifar10 for images up to 64 pixels if absent.",
            show_default=False,
        ),
    ] = None,
    runs: Annotated[
        Path | None,
        typer.Option(
            metavar="FOLDER",
            help="Networks with runs in this folder come first, by their own error on val.",
            file_okay=False,
            exists=True,
        ),
    ] = None,
    threads: Annotated[int | None, typer.Option(help="Threads of PyTorch.", min=1)] = None,
    top: Annotated[int, typer.Option(help="Stop timing when so many fit.", min=1)] = 8,
    most: Annotated[int, typer.Option(help="Time at most so many networks.", min=1)] = 24,
    seconds: Annotated[float, typer.Option(help="Spend at most so many seconds on timing.", min=0)] = 60.0,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON with exact numbers.")] = False,
    markdown: Annotated[bool, typer.Option("--markdown", help="Print Markdown.")] = False,
) -> None:
    """Rank the networks that fit a budget, and say why. Exit code 1 if none does."""
    if as_json and markdown:
        raise UsageError("--json and --markdown exclude each other.")
    if evidence is not None and evidence not in KINDS:
        raise UsageError(
            f"there is no evidence {evidence!r}.{did_you_mean(evidence, KINDS)} Known: {', '.join(KINDS)}."
        )
    limits = (
        None if max_params is None else console.quantity(max_params),
        None if max_macs is None else console.quantity(max_macs),
        None if max_memory is None else byte_size(max_memory),
        max_ms,
    )
    from convatlas.measure.advice import Budget, advise
    from convatlas.measure.canvass import Use, canvass
    from convatlas.measure.evidence import kind_for
    from convatlas.measure.timing import threads_set

    use, budget = Use(image, classes, channels, batch, train), Budget(*limits)
    kind: Kind = kind_for(image) if evidence is None else evidence  # pyright: ignore[reportAssignmentType]
    own = {} if runs is None else own_evidence(runs)
    console.say("counting the networks")
    found = canvass(use, kind, budget, own)

    def timed(candidate: Candidate) -> Timing:
        from convatlas.measure.timing import latency
        from convatlas.models import create_model

        console.say(f"timing {candidate.name}")
        network = create_model(candidate.name, use.classes, use.channels)
        shape = (use.channels, use.side, use.side)
        return latency(network, shape, batch=use.batch, train=use.train, seconds=EACH)

    with threads_set(threads):
        advice = advise(found.candidates, budget, timed, enough=top, most=most, seconds=seconds)
        bounds = {"top": top, "most": most, "seconds": seconds, "seconds_each": EACH}
        if as_json:
            console.write_json(_told(use, kind, budget, found, advice, bounds))
        elif markdown:
            console.write(_markdown(use, kind, found, advice))
        else:
            _shown(use, kind, found, advice)
    if not advice.ranked:
        raise ConvAtlasError(f"no network fits. {_nothing(found, advice)}")


# --- words ----------------------------------------------------------------------------------------------


def _title(use: Use) -> str:
    from convatlas.measure.machine import machine

    here = machine()
    classes = f"{use.classes} classes" if use.classes else "each network's own classes"
    what = "a training step" if use.train else "inference"
    return (
        f"For {classes} and images of {use.channels} x {use.side} x {use.side}: {what} with a batch of {use.batch} "
        f"in fp32, on {here['processor']} with {here['threads']} threads"
    )


HEADER = ("", "network", "error", "published", "params", "MACs", "memory", "ms", "weights", "remark")


def _cells(place: int, ranked: Ranked) -> tuple[str, ...]:
    from convatlas.measure.table import count_text

    each = ranked.candidate
    known = each.evidence
    counted = "" if known.counted_pct == known.error_pct else f" (as {known.counted_pct:.4g})"
    remark = f"dominated by {ranked.dominated_by}" if ranked.dominated_by else ""
    source = "your run" if known.kind == "own" else known.source
    return (
        str(place),
        each.name,
        f"{known.error_pct:.4g} %{counted}",
        f"{source} {known.side} px",
        count_text(each.params),
        count_text(each.macs),
        "" if each.memory_bytes is None else f"{each.memory_bytes / 1e6:,.1f} MB",
        "" if each.milliseconds is None else f"{each.milliseconds:.3g}",
        ", ".join(each.weights),
        remark,
    )


def _rows(advice: Advice) -> list[tuple[str, ...]]:
    return [_cells(place, ranked) for place, ranked in enumerate(advice.ranked, 1)]


def _why(use: Use, kind: Kind, found: Canvass, advice: Advice) -> list[str]:
    """The sentences below the table: why the first is first, what is near, what was left out, and how it was ranked."""
    from convatlas.measure.evidence import TITLES

    lines: list[str] = []
    if advice.ranked:
        best = advice.ranked[0].candidate
        own = best.evidence.kind == "own"
        lines.append(
            f"{best.name} is first: its {'error' if own else f'published {TITLES[kind]}'} of "
            f"{best.evidence.error_pct:.4g} % ({best.evidence.test}) is the lowest of what "
            f"{'has a run, fits' if own else 'fits'} and was timed."
        )
        if not best.weights and (
            start := next((each.candidate for each in advice.ranked if each.candidate.weights), None)
        ):
            lines.append(
                f"{start.name} is the first that can start from official weights ({start.weights[0]}), "
                "which with few images usually counts for more than a place in this table."
            )
    lines += [
        f"{each.candidate.name} is the same network as {' and '.join(each.candidate.same)}."
        for each in advice.ranked
        if each.candidate.same
    ]
    restless = [
        each.candidate.name
        for each in advice.ranked
        if each.candidate.timing is not None and each.candidate.timing.spread > RESTLESS
    ]
    if restless:
        lines.append(
            f"The machine was not quiet: the quartiles of {', '.join(restless)} are over {RESTLESS:.0%} apart."
        )
    lines += _left_out(use, kind, found, advice)
    return lines + _rule(use, kind, found)


def _near(advice: Advice) -> list[str]:
    from convatlas.measure.advice import sentence

    return [sentence(miss) for miss in advice.nearest]


def _left_out(use: Use, kind: Kind, found: Canvass, advice: Advice) -> list[str]:
    from convatlas.measure.canvass import FAR
    from convatlas.measure.evidence import TITLES

    reasons = [
        (len(advice.misses), "over the budget"),
        (len(found.far), f"with over {FAR:.0f} times the parameters"),
        (len(found.too_small_an_image), f"for images larger than {use.side} pixels"),
        (len(found.without_evidence), f"without a published {TITLES[kind]}"),
        (
            len(advice.untimed),
            f"not timed (from {advice.untimed[0].name} on; see --top, --most and --seconds)",
        )
        if advice.untimed
        else (0, ""),
        (sum(len(each.same) for each in found.candidates), "that are another name of one that was counted"),
    ]
    told = "; ".join(f"{count} {why}" for count, why in reasons if count)
    return [f"Ranked: {len(advice.ranked)} of {found.total} networks. Left out: {told}."] if told else []


def _rule(use: Use, kind: Kind, found: Canvass) -> list[str]:
    lines = [
        "Ranked by the error as it was published, on other images than yours and at the size given; differences below "
        "a point mean little. Dominated: a better ranked network costs no more of anything.",
    ]
    if kind == "imagenet":
        lines.append(
            f"Errors averaged over several crops count {found.gain:.1f} points worse, the mean difference of the "
            "papers that print both. Networks with figures on CIFAR-10 alone are not ranked: --evidence cifar10 does."
        )
    else:
        lines.append("Networks with figures on ImageNet alone are not ranked: --evidence imagenet does.")
    lines.append(MEMORY)
    return lines


MEMORY = (
    "Memory: all tensors that live at once at the worst moment, predicted; the libraries themselves, scratch memory "
    "and what an allocator keeps in reserve come on top."
)


def _nothing(found: Canvass, advice: Advice) -> str:
    """What to do where nothing fits."""
    if advice.untimed:
        return f"{len(advice.untimed)} were not timed: allow more with --most and --seconds."
    if near := _near(advice):
        return f"The nearest: {near[0]}."
    if found.far:
        name, size = min(found.far.items(), key=lambda item: item[1])
        return (
            f"All {len(found.far)} that could be candidates have many times the parameters; the smallest, {name}, "
            f"has {size:,}."
        )
    return "No network with a published error takes such images; try --evidence or another --image."


# --- formats --------------------------------------------------------------------------------------------


def _shown(use: Use, kind: Kind, found: Canvass, advice: Advice) -> None:
    console.show(_title(use))
    if advice.ranked:
        console.show("")
        console.show(console.table(HEADER, _rows(advice)))
    if near := _near(advice):
        console.show("\nNearest misses" + (" that would be first" if advice.ranked else "") + ":")
        for line in near:
            console.show(f"  {line}")
    console.show("")
    for line in _why(use, kind, found, advice):
        console.show(line)


def _markdown(use: Use, kind: Kind, found: Canvass, advice: Advice) -> str:
    parts = [_title(use)]
    if advice.ranked:
        parts.append("\n".join(map(_line, [HEADER, ("---",) * len(HEADER), *_rows(advice)])))
    if near := _near(advice):
        parts.append("Nearest misses" + (" that would be first" if advice.ranked else "") + ":")
        parts.append("\n".join(f"- {line}" for line in near))
    return "\n\n".join([*parts, *_why(use, kind, found, advice)]) + "\n"


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _told(
    use: Use, kind: Kind, budget: Budget, found: Canvass, advice: Advice, bounds: dict[str, Any]
) -> dict[str, Any]:
    from dataclasses import asdict

    from convatlas.measure.advice import to_json
    from convatlas.measure.machine import machine, versions

    return {
        "use": asdict(use),
        "budget": asdict(budget),
        "evidence": kind,
        "several_crops_count_worse_by": found.gain,
        "timing_bounds": bounds,
        "ranked": [{**to_json(each.candidate), "dominated_by": each.dominated_by} for each in advice.ranked],
        "misses": [
            {**to_json(each.candidate), "times_the_budget": dict(each.excess)} for each in advice.misses
        ],
        "untimed": [each.name for each in advice.untimed],
        "left_out": {
            "far": list(found.far),
            "image": list(found.too_small_an_image),
            "without_evidence": list(found.without_evidence),
        },
        "machine": machine(),
        "versions": versions(),
    }
