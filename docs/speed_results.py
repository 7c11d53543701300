"""Write the measured tables of the pages from the newest results: `python docs/speed_results.py`; --check compares.

A table stands between `<!-- speed: NAME -->` and `<!-- end of speed -->`; the prose is by hand.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from statistics import mean, median, stdev
from typing import Any

from convatlas.bench.race import geometric_mean
from convatlas.train.speed import fastest, measurements

HERE = Path(__file__).parent
PAGES = tuple(
    HERE / name
    for name in (
        "speed-results.md",
        "speed.md",
        "data.md",
        "augmentation.md",
        "measure.md",
        "speedrun.md",
        "training.md",
        "design/feeding.md",
        "design/threads.md",
        "design/kernels.md",
    )
)
RESULTS = HERE.parent / "benchmarks" / "results"
BLOCK = re.compile(r"(<!-- speed: (\w+) -->\n).*?(<!-- end of speed -->)", re.DOTALL)
PEERS = ("torchvision", "timm", "lightning")
RECOMPUTE = "recompute"  # in the place of settings
EPOCH, EPOCHS = 50_000, 30  # what is extrapolated to: all training images of CIFAR-10, a usual length
MISSING = "Not measured yet.\n"
PLAIN = "-without-bf16"  # what benchmarks/record.py appends to results of processors without it
OF = {  # which result a table is made of, where it is not `speed`
    **{
        name: name
        for name in ("accuracy", "epochs", "waiting", "startup", "feeding", "augment", "duplicates")
    },
    **dict.fromkeys(("rule", "kept", "threads", "depthwise", "updates"), "rule"),
    "spins": "settings",
    "kernels": "kernels",
    "reports": "inspection",
    "feeding_accuracy": "feeding-accuracy",
    "speedrun": "speedrun-test",
    "transfer_blood": "transfer-blood",
    "transfer_streets": "transfer-streets",
    **dict.fromkeys(("rule_plain", "winograd"), f"rule{PLAIN}"),
    **dict.fromkeys(("default_plain", "memory_plain", "machine_plain"), f"speed{PLAIN}"),
}
Cells = Mapping[str, Mapping[str, Any]]


def newest(what: str, folder: Path = RESULTS) -> Mapping[str, Any] | None:
    """The newest result of `speed` or of one of `OF`; None if there is none."""
    files = sorted(folder.glob(f"{what}-????-??-??.json"))
    return json.loads(files[-1].read_text()) if files else None


def cells(report: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """The result of every cell by its name, `resnet18/synthetic/default`."""
    return {cell["cell"]: cell["result"] for cell in report["cells"]}


def table(header: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    """Markdown; the first two columns are words."""
    names = list(header)
    lines = [names, ["---", "---", *["--:"] * (len(names) - 2)], *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def _rate(images_per_second: float) -> str:
    return f"{images_per_second:,.0f}" if images_per_second >= 1000 else f"{images_per_second:.4g}"


def _ratio(ratio: float) -> str:
    """Two digits, three where these would say 1.00 of what is less."""
    return f"{ratio:.3f}" if 0.995 <= ratio < 1 else f"{ratio:.2f}"


def mean_ratio(found: Cells, settings: str, data: str | None = None) -> float:
    """The geometric mean over networks of our rate over the fastest peer's; of noise and pictures together if None."""
    ratios = [
        result["ratios"][result["fastest_peer"]]["ratio"]
        for name, result in found.items()
        if name.endswith(f"/{settings}")
        and (data is None or (name.split("/")[1] == "synthetic") == (data == "synthetic"))
    ]
    return geometric_mean(ratios)


def speed(found: Cells, settings: str) -> str:
    """Images a second, and how many times faster than each peer; of noise alone where nothing else was measured."""
    rows: list[list[str]] = []
    for name, result in found.items():
        network, data, peers = name.split("/")
        if peers != settings:
            continue
        ours = result["sides"]["convatlas"]
        row = [f"`{network}`", f"{data}, batch {result['cell']['batch']}"]
        row.append(_rate(ours["images_per_second"]["median"]))
        for peer in PEERS:
            each = result["ratios"][peer]
            words = f"{_ratio(each['ratio'])} ({each['low']:.2f} to {each['high']:.2f})"
            row.append(f"**{words}**" if peer == result["fastest_peer"] else words)
        line = result["roofline"]
        row += [line["dtype"], f"{line['reached']:.0%}", f"{line['arithmetic_reached']:.0%}"]
        rows.append(row)
    header = ("network", "data", "images/s", *PEERS, "computes", "of roofline", "of peak")
    there = {"synthetic" if name.split("/")[1] == "synthetic" else "real" for name in found}
    means = ", ".join(
        f"{mean_ratio(found, settings, data):.2f} on {what}"
        for what, data in (("noise", "synthetic"), ("real pictures", "real"), ("both", None))
        if data in there or (data is None and len(there) > 1)
    )
    return (
        table(header, rows)
        + f"\nGeometric mean over the networks of the ratio to the fastest peer (bold): {means}.\n"
    )


def memory(found: Cells) -> str:
    """Largest resident memory of a side's main process, MiB, and ours over torchvision's."""
    rows: list[list[str]] = []
    for name, result in found.items():
        network, data, peers = name.split("/")
        if data != "synthetic" or peers not in ("default", RECOMPUTE):
            continue
        peaks = {side: each["peak_bytes"] for side, each in result["sides"].items()}
        if any(peak is None for peak in peaks.values()):
            continue
        again = ", activations recomputed" if peers == RECOMPUTE else ""
        row = [f"`{network}`{again}", f"batch {result['cell']['batch']}"]
        row += [f"{peaks[side] / 2**20:,.0f}" if side in peaks else "" for side in ("convatlas", *PEERS)]
        rows.append([*row, f"{peaks['convatlas'] / peaks['torchvision']:.2f}"])
    return table(("network", "data", "convatlas", *PEERS, "ours / torchvision"), rows)


def epochs(report: Mapping[str, Any]) -> str:
    """Whole epochs of the standard ResNet-18 on CIFAR-10, as they were timed, and what a training would take so."""
    rows: list[list[str]] = []
    for side, facts in report["facts"].items():
        own = [record for record in report["epochs"] if record["side"] == side]
        rate = median(record["images"] / record["seconds"] for record in own)
        row = [side, f"{facts['precision']}, {facts['layout']}"]
        row.append(", ".join(f"{record['seconds']:.0f}" for record in own))
        row.append(", ".join(f"{100 * record['val']:.2f}" for record in own))
        rows.append([*row, _rate(rate), f"{EPOCHS * EPOCH / rate / 60:.0f}"])
    header = ("loop", "computes", "s of each epoch", "val accuracy after each, %", "images/s")
    rates = [ceiling["conv bf16"] / 1e9 for ceiling in report["ceiling_macs_per_second"]]
    busiest = max(record["others"] or 0.0 for record in report["epochs"])
    return (
        table((*header, f"min for {EPOCHS} epochs of {EPOCH:,} (extrapolated)"), rows)
        + f"\n{report['train_images']:,} training images, {report['val_images']:,} of val; {report['date']}. Beside it "
        f"bf16 convolutions made {min(rates):.0f} to {max(rates):.0f} G multiply-adds/s, "
        f"and others never took more than {busiest:.2f} core.\n"
    )


def machine(report: Mapping[str, Any]) -> str:
    """What it was measured on, when, and how steady the machine was."""
    here, versions = report["machine"], report["versions"]
    rates: dict[str, list[float]] = {}
    for result in cells(report).values():
        for kernel, rate in result["ceiling"]["rates"].items():
            rates.setdefault(kernel, []).append(rate["per_second"] / 1e9)
    lines = [
        f"{here['processor']}, {here['cores']} cores, {here['threads']} threads, "
        f"{here['memory_bytes'] / 2**30:.0f} GiB; {report['date']}.",
        ", ".join(f"{name} {number}" for name, number in versions.items()) + ".",
    ]
    rows = [
        [kernel, "GB/s" if " " not in kernel else "G multiply-adds/s", f"{min(each):.3g}", f"{max(each):.3g}"]
        for kernel, each in rates.items()
    ]
    return "\n\n".join(lines) + "\n\n" + table(("ceiling beside the cells", "unit", "least", "most"), rows)


def accuracy(report: Mapping[str, Any]) -> str:
    """Val accuracy of every run of benchmarks/accuracy.py, and the difference of the means."""
    rows: list[list[str]] = []
    for run in report["runs"]:
        side, epochs, seed = run["cell"].split("/")
        rows.append(
            [side, f"{epochs} epochs, seed {seed}", f"{100 * run['val']:.2f}", f"{run['val_images']:,}"]
        )
    means = ", ".join(
        f"{side} {100 * mean:.2f} % (deviation {100 * report['deviation'][side]:.2f})"
        for side, mean in report["mean"].items()
    )
    return (
        table(("loop", "run", "val accuracy, %", "val images"), rows)
        + f"\nMeans: {means}; ours less torchvision's {report['difference_points']:+.2f} points; {report['date']}.\n"
    )


def waiting(report: Mapping[str, Any]) -> str:
    """The share of every epoch that the network waited for its next batch."""
    rows = [
        [
            f"epoch {each['epoch']}",
            f"{each['seconds']:.1f}",
            _rate(each["images_per_second"]),
            f"{each['waiting_share']:.1%}",
        ]
        for each in report["epochs"]
    ]
    header = ("epoch", "s", "images/s", "waited")
    return f"`{report['command']}`; {report['date']}.\n\n" + table(header, rows)


def startup(report: Mapping[str, Any]) -> str:
    """Seconds from the start of Python to the first words of each command."""
    rows = [
        [
            f"`{name}`",
            f"{each['runs']} runs",
            *(f"{each[kind]:.2f}" for kind in ("median", "fastest", "processor")),
        ]
        for name, each in report["seconds"].items()
    ]
    return table(("until", "", "median, s", "fastest, s", "processor's, s"), rows) + f"\n{report['date']}.\n"


def feeding(report: Mapping[str, Any]) -> str:
    """Images a second of processor time from JPEG files to batches, beside torchvision's loader."""
    rows: list[list[str]] = []
    for what, (size, part) in FED.items():
        told, ways = report[f"pictures {size}"], report[f"{part} {size}"]
        ratio = ways["ours"]["ratio"]
        rows.append(
            [
                what.format(kb=told["bytes_per_image"] / 1000),
                *(_spread(ways[way]["per_processor_second"], ",.0f") if way in ways else "" for way in FEEDS),
                f"**{ratio['median']:.2f}** {_range(ratio, '.2f')}",
            ]
        )
    names = (
        "",
        "convatlas",
        "without simplejpeg",
        "with `--cache`",
        "torchvision, PIL",
        "torchvision, tensors",
    )
    clock = [report[f"{part} {size}"]["ours"]["ratio_by_clock"]["median"] for size, part in FED.values()]
    alone = _spread(report["training 500x375"]["ours, Pillow alone"]["ratio"], ".2f")
    lines = [[*names, "convatlas / the faster torchvision"], ["---", *["---:"] * 6], *rows]
    return (
        "".join(f"| {' | '.join(line)} |\n" for line in lines)
        + f"\nBy the clock the ratios are {', '.join(f'{ratio:.2f}' for ratio in clock)}. Without simplejpeg (the "
        f"extra `fast`) the first ratio is {alone}. {report['machine']['cores']} cores, {report['date']}.\n"
    )


FED = {
    "500x375, {kb:.0f} kB each, training": ("500x375", "training"),
    "the same, evaluation": ("500x375", "evaluation"),
    "2000x1500, {kb:.0f} kB each, training": ("2000x1500", "training"),
}
FEEDS = ("ours", "ours, Pillow alone", "ours, --cache", "torchvision, PIL", "torchvision, tensors")


def _spread(figure: Mapping[str, float], form: str) -> str:
    return f"{figure['median']:{form}} {_range(figure, form)}"


def _range(figure: Mapping[str, float], form: str) -> str:
    return f"({figure['slowest']:{form}}-{figure['fastest']:{form}})"


def rule(report: Mapping[str, Any]) -> str:
    """Images a second of each way to compute a network, and whether the rule's own table says the same."""
    rows: list[list[str]] = []
    there = {_way(way) for row in report["rows"] for way in row["ways"]}
    ways = [way for way in WAYS if way in there]
    for row in report["rows"]:
        rates = {_way(way): median(way["turns"]) for way in row["ways"] if "problem" not in way}
        best = _best(row)
        cells = [_rate(rates[way]) if way in rates else "" for way in ways]
        bold = [f"**{text}**" if way == best else text for way, text in zip(ways, cells, strict=True)]
        rows.append([_of(row), *bold])
    return _numbers(("network, px, batch", *ways), rows) + _where(report) + f"\n{_agrees(report)}\n"


def _way(way: Mapping[str, Any]) -> str:
    """A way as a heading."""
    words = "float32" if way["precision"] == "32" else "bf16"
    words += " cl" * way["channels_last"] + ", compiled" * way.get("compile", False)
    words += ", Winograd" * way.get("winograd", False)
    words += f", {way['float32']} in float32" if "float32" in way else ""
    return words + ", one thread" * ("threads" in way)


WAYS = ("float32", "float32 cl", "float32 cl, Winograd", "float32 cl, compiled", "bf16", "bf16 cl")
WAYS += ("bf16 cl, slow in float32", "bf16 cl, all in float32", "bf16 cl, compiled")


def _agrees(report: Mapping[str, Any]) -> str:
    """How the table that the rule reads stands to this measurement."""
    said = {(row["network"], row["batch"]): row for row in measurements(report["bf16"])["rows"]}
    known = [row for row in report["rows"] if (row["network"], row["batch"]) in said]
    same = sum(_way(fastest(said[row["network"], row["batch"]]["measured"])) == _best(row) for row in known)
    dates = " and ".join(sorted({row["date"] for row in said.values()}))
    return (
        f"The rule reads figures of {dates}. By them {same} of these {len(report['rows'])} rows are computed as was "
        "best here."
    )


def _best(row: Mapping[str, Any]) -> str:
    """What a rule that reads this measurement would take on a processor like that."""
    ways = [{**way, "images_per_second": median(way["turns"])} for way in row["ways"] if "problem" not in way]
    return _way(fastest(ways))


def kept(report: Mapping[str, Any]) -> str:
    """Images a second and peak memory, with freed memory given back, kept and trimmed."""
    rows: list[list[str]] = []
    for row in report["rows"]:
        of = {each["memory"]: each for each in row.get("kinds", ()) if "problem" not in each}
        if of.keys() != set(MEMORIES):
            continue
        rates = [median(of[memory]["turns"]) for memory in MEMORIES]
        peaks = [f"{median(row['peak'][memory]) / 2**20:,.0f}" for memory in MEMORIES]
        ratio = rates[MEMORIES.index("kept")] / rates[MEMORIES.index("usual")]
        rows.append([_of(row), *(_rate(rate) for rate in rates), f"{ratio:.2f}", *peaks])
    header = ("network, px, batch", *MEMORIES, "kept / usual", *(f"{memory}, MiB" for memory in MEMORIES))
    return _numbers(header, rows) + _where(report)


MEMORIES = ("usual", "kept", "trimmed")


def threads(report: Mapping[str, Any]) -> str:
    """Images a second of a small network with one thread and with all of them."""
    rows: list[list[str]] = []
    for row in report["rows"]:
        rates = {_way(way): _rate(median(way["turns"])) for way in row["ways"] if "problem" not in way}
        if {f"{way}, one thread" for way in THREADS} <= rates.keys():
            rows.append(
                [_of(row), *(rates[words] for way in THREADS for words in (way, f"{way}, one thread"))]
            )
    header = (words for way in THREADS for words in (f"{way}, all threads", f"{way}, one thread"))
    return _numbers(("network, px, batch", *header), rows) + _where(report)


THREADS = ("float32 cl", "bf16 cl")


def depthwise(report: Mapping[str, Any]) -> str:
    """Time of a depthwise layer in bf16 over that in float32."""
    ratios = {(row["kernel"], row["strided"]): row["bf16_over_float32"] for row in report["depthwise"]}
    rows = [
        [f"{kernel}x{kernel}", *(f"{ratios[kernel, strided]:.2f}" for strided in (False, True))]
        for kernel in sorted({kernel for kernel, _ in ratios})
    ]
    return _numbers(("filter", "stride 1", "stride 2"), rows) + _where(report)


def winograd(report: Mapping[str, Any]) -> str:
    """Time of a 3x3 convolution by Winograd's algorithm over that of the direct sum."""
    rows = [
        [
            f"{row['channels']} to {row['filters']}",
            f"{row['side']}x{row['side']}, {row['batch']}",
            f"{row['winograd_over_direct']:.2f}",
        ]
        for row in report["winograd"]
    ]
    return table(("channels", "map, batch", "Winograd / direct"), rows) + _where(report)


def updates(report: Mapping[str, Any]) -> str:
    """Time of a fused update over that of one that takes a tensor after the other."""
    rows = [
        [f"`{row['network']}`", f"{row['parameters'] / 1e6:.3g} M", f"{row['fused_over_plain']:.2f}"]
        for row in report["updates"]
    ]
    return _numbers(("network", "weights", "fused / tensor by tensor"), rows) + _where(report)


def kernels(report: Mapping[str, Any]) -> str:
    """Milliseconds of a step with compiled loops and without."""
    rows: list[list[str]] = []
    for row in report["rows"]:
        steps = (f"{row[f'ms_{way}']['median']:.0f}" for way in ("with", "without"))
        rows.append([f"{row['pixels']} px", *steps, f"{row['ratio']:.2f}"])
    first = report["rows"][0]
    return _numbers(
        (f"`{first['network']}`, batches of {first['batch']}", "ms with", "ms without", "ratio"), rows
    ) + _where(report)


def resnet50(found: Cells) -> str:
    """Peak memory of resnet50 beside torchvision's loop."""
    rows: list[list[str]] = []
    for name, words in (
        ("resnet50/synthetic/default", "noise, by rule"),
        ("resnet50/photos/default", "photographs, by rule"),
        (f"resnet50/synthetic/{RECOMPUTE}", "noise, with `--checkpoint-activations`"),
    ):
        if name not in found:
            continue
        sides = found[name]["sides"]
        peaks = [sides[side]["peak_bytes"] / 2**20 for side in ("convatlas", "torchvision")]
        rate = sides["convatlas"]["images_per_second"]["median"]
        rows.append([words, *(f"{peak:,.0f}" for peak in peaks), f"{peaks[0] / peaks[1]:.2f}", _rate(rate)])
    header = (
        "",
        "convatlas, MiB",
        "torchvision's loop in float32, MiB",
        "ours / torchvision's",
        "images/s, ours",
    )
    return _numbers(header, rows)


def spins(report: Mapping[str, Any]) -> str:
    """Images a second by how threads wait: the median on an idle machine; on a busy one every turn, as they differ."""
    columns: dict[str, dict[str, str]] = {}
    for row in report["waiting"]:
        busy, rates = row["beside"] == "busy", sorted(row["images_per_second"])
        words = f"`{row['network']}`, batches of {row['batch']}{', busy' if busy else ''}"
        told = ", ".join(f"{rate:.3g}" for rate in rates) if busy else _rate(median(rates))
        columns.setdefault(words, {})[row["way"]] = told
    rows = [[way, *(of[way] for of in columns.values())] for way in next(iter(columns.values()))]
    return _numbers(("", *columns), rows) + _where(report)


def augment(report: Mapping[str, Any]) -> str:
    """Images a second of the processor's time, ours by the batch beside torchvision's image by image."""
    rows = [
        [row["case"], *(f"{row[who]:,}" for who in ("ours", "torchvision")), str(row["ratio"])]
        for row in report["rows"]
    ]
    return _numbers(("", "ours", "torchvision", "ratio"), rows) + _where(report)


def duplicates(report: Mapping[str, Any]) -> str:
    """The share of copies that are known as such, and how many different pictures are taken for the same."""
    rows: list[list[str]] = []
    for name, of in report["sources"].items():
        shares = ", ".join(f"{change} {share:.0%}" for change, share in of["found"].items())
        alike = f"{of['taken_for_the_same']:,} pairs of {of['pictures']:,} pictures"
        rows.append([f"{name}, {of['width']}x{of['height']}", shares, alike])
    header = ("pictures", "copies found", "different files taken for the same")
    return table(header, rows) + _where(report)


def feeding_accuracy(report: Mapping[str, Any]) -> str:
    """Val accuracy by the fast way of cutting and by the exact one, of every seed."""
    seeds = range(len(report["per_seed"]["fast"]))
    rows = [
        [way, *(f"{value:.2f}" for value in found), f"{sum(found) / len(found):.2f}"]
        for way, found in report["per_seed"].items()
    ]
    return (
        _numbers(("val accuracy, %", *(f"seed {seed}" for seed in seeds), "mean"), rows)
        + _where(report)
        + f"\nFast less exact: {report['difference_mean']:+.2f} points in the mean, with a standard error of "
        f"{report['difference_standard_error']:.2f}.\n"
    )


RATE = 1.03e12  # operations a second, to which the speedrun's seconds are brought


def speedrun(report: Mapping[str, Any]) -> str:
    """Seconds and test accuracy of every seed of the recipe as it is now, and seconds of the one that it comes from."""
    last = next(run for run in reversed(report["runs"]) if run["recipe"] == "speedrun")
    form = {
        run["seed"]
        for run in report["runs"]
        if run["recipe"] == "speedrun" and run["training_flop"] == last["training_flop"]
    }
    runs = [run for run in report["runs"] if run["seed"] in form]
    rows: list[list[str]] = []
    for run in runs:
        rates = run["ceiling_bf16_flop_per_second"]
        row = [f"`{run['recipe']}`", str(run["seed"]), f"{run['training_seconds']:.0f}"]
        row += [" and ".join(f"{rate / 1e12:.2f}e12" for rate in rates), f"{_brought(run):.0f}"]
        rows.append([*row, *(f"{run[view]:.2f} %" if view in run else "" for view in VIEWS)])
    for recipe in ("speedrun", "speedrun-2024"):
        own = [run for run in runs if run["recipe"] == recipe]
        row = [f"mean of `{recipe}`", "", f"{mean(run['training_seconds'] for run in own):.0f}", ""]
        row.append(f"{mean(map(_brought, own)):.0f}")
        for view in VIEWS:
            found = [run[view] for run in own if view in run]
            row.append(f"{mean(found):.2f}, deviation {stdev(found):.2f}" if found else "")
        rows.append(row)
    header = ("", "seed", "seconds", "operations a second", "seconds at 1.03e12", "one view", "six views")
    day = min(run["when"] for run in runs)[:10]
    here = report["machine"]
    return _numbers(header, rows) + f"\n{here['processor']}, {here['cores']} cores, {day}, in this order.\n"


def transfer(report: Mapping[str, Any]) -> str:
    """Test accuracy of every seed from both starts."""
    source, runs = report["source"], report["runs"]
    starts = {"scratch": "scratch", "transferred": source["images"].split(".")[0]}
    rows = [
        [words, *(f"{100 * run[start]['test']:.1f}" for run in runs), f"{100 * report['mean'][start]:.1f}"]
        for start, words in starts.items()
    ]
    gains = [100 * (run["transferred"]["test"] - run["scratch"]["test"]) for run in runs]
    count = runs[0]["scratch"]["test_images"]
    return (
        _numbers(("test accuracy, %, from", *(f"seed {run['seed']}" for run in runs), "mean"), rows)
        + _where(report)
        + f"\n{count} test images, {report['settings']['epochs']} epochs. The learnt weights had "
        f"{100 * source['val']:.2f} % of their own val images right after {source['epochs']} epochs, and gain "
        f"{100 * report['gain']['mean']:.1f} points in the mean ({min(gains):.1f} to {max(gains):.1f}).\n"
    )


VIEWS = ("test_top1_pct_one", "test_top1_pct_shift")


def _brought(run: Mapping[str, Any]) -> float:
    """Seconds that a training would have taken at `RATE`."""
    return run["training_seconds"] * mean(run["ceiling_bf16_flop_per_second"]) / RATE


def reports(report: Mapping[str, Any]) -> str:
    """Seconds and memory of the first report on a network, by tool."""
    tools = list(next(iter(report["medians"].values())))
    rows = [
        [
            f"`{network}`",
            *(f"{found[tool]['seconds']:.3f} s, {found[tool]['extra_mib']:.0f} MiB" for tool in tools),
        ]
        for network, found in report["medians"].items()
    ]
    canon = report["canon"]
    return (
        _numbers(("network", *tools), rows)
        + _where(report)
        + f"\nMedians of {report['runs']} runs in turn. All {canon['networks']:.0f} networks of the canon, built "
        f"without content and measured in one process: {canon['seconds']:.1f} s.\n"
    )


def _of(row: Mapping[str, Any]) -> str:
    return f"`{row['network']}`, {row['pixels']}, {row['batch']}"


def _numbers(header: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    """Markdown; the first column is words."""
    names = list(header)
    lines = [names, ["---", *["--:"] * (len(names) - 1)], *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def _where(report: Mapping[str, Any]) -> str:
    here = report["machine"]
    return f"\n{here['processor']}, {here['cores']} cores, {report['date']}.\n"


TABLES: dict[str, Callable[[Mapping[str, Any]], str]] = {
    "default": lambda report: speed(cells(report), "default"),
    "amp": lambda report: speed(cells(report), "amp"),
    "memory": lambda report: memory(cells(report)),
    "epochs": epochs,
    "waiting": waiting,
    "startup": startup,
    "machine": machine,
    "accuracy": accuracy,
    "feeding": feeding,
    "rule": rule,
    "kept": kept,
    "threads": threads,
    "depthwise": depthwise,
    "updates": updates,
    "rule_plain": rule,
    "winograd": winograd,
    "default_plain": lambda report: speed(cells(report), "default"),
    "memory_plain": lambda report: memory(cells(report)),
    "machine_plain": machine,
    "resnet50": lambda report: resnet50(cells(report)),
    "spins": spins,
    "kernels": kernels,
    "augment": augment,
    "reports": reports,
    "feeding_accuracy": feeding_accuracy,
    "speedrun": speedrun,
    "transfer_blood": transfer,
    "transfer_streets": transfer,
    "duplicates": duplicates,
}


def filled(page: str, reports: Mapping[str, Mapping[str, Any] | None]) -> str:
    """A page with its tables; `reports` holds the newest result of each kind, or None where there is none."""

    def fill(match: re.Match[str]) -> str:
        report = reports[OF.get(match[2], "speed")]
        return match[1] + (TABLES[match[2]](report) if report else MISSING) + match[3]

    return BLOCK.sub(fill, page)


def main(check: bool) -> int:
    """Write, or compare; 1 if a page is not what the results say."""
    reports = {what: newest(what) for what in ("speed", *OF.values())}
    wrong = 0
    for file in PAGES:
        page = file.read_text()
        now = filled(page, reports)
        if now == page:
            continue
        if check:
            print(f"{file.name} is not what benchmarks/results says: python docs/speed_results.py")
            wrong = 1
        else:
            file.write_text(now)
    return wrong


if __name__ == "__main__":
    raise SystemExit(main("--check" in sys.argv))
