"""The seven design principles of SimpNet as rules on a plan (Hasanpour, Rouhani, Fayyaz, Sabokrou & Adeli, 2018).

The paper states the principles in words and shows them by small tables of networks. A verdict needs a number, so each
principle has a rule here, with thresholds of ours: they are placed between the networks that the paper recommends
(SimpNet, and the better one of each pair of its tables) and the ones that it warns of.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from convatlas.measure.plan import Layer, Plan

Verdict = Literal["follows", "breaks", "does not apply"]

GROWTH = 2.5  # times; SimpNet 8.9M widens by 2.36 at most, the wide end of table IV by 7.88
LARGEST = 0.4  # share; at most 0.29 in SimpNet, 0.52 in the shallow network of table III
ALIKE = 0.75  # share; 0.85 in the networks of table IV, whose last two groups have one layer each
EARLY = 0.5  # share of the depth; table VIII tries 1x1 in first, middle and last layers, and loses in the first two
PLACE = 0.75  # of the even place; 1.15 in the network of table V, 0.69 where it pools early
SMALL = 0.9  # share of multiply-adds
HALF = 0.15  # share of the parameters; 0.18 in SimpNet 8.9M, 0.14 in the wide end of table IV


@dataclass(frozen=True, slots=True)
class Finding:
    """The verdict on one principle.

    `numbers` are what the rule looked at, `says` the same in a sentence, `where` the layers that it is about; `rule` is
    the rule, `source` the section and tables of the paper. `ours` says what in the rule is our choice.
    """

    principle: str
    verdict: Verdict
    says: str
    numbers: dict[str, Any]
    where: tuple[str, ...]
    rule: str
    source: str
    ours: str


# --- the rules ------------------------------------------------------------------------------------------------

Judgement = tuple[Verdict, str, dict[str, Any], Sequence[str]]


def _expansion(plan: Plan) -> Judgement:
    """Widths by resolution, the largest step between a map and the widest before it, and the largest layer."""
    if len(plan.body) < 2:
        return _apart("fewer than two convolutions of maps")
    strides = sorted({width.stride for width in plan.widths})
    widest = [max(width.channels for width in plan.widths if width.stride == stride) for stride in strides]
    falls = [place for place in range(1, len(widest)) if widest[place] < widest[place - 1]]
    narrow = [next(width.name for width in plan.widths if width.stride == strides[place]) for place in falls]
    growth, reached, wide = 1.0, plan.widths[0].channels, ""
    for width in plan.widths[1:]:
        if width.channels / reached > growth:
            growth, wide = width.channels / reached, width.name
        reached = max(reached, width.channels)
    total = sum(layer.params for layer in plan.layers)
    largest = max(plan.layers, key=lambda layer: layer.params)
    share = largest.params / total if total else 0.0
    where = [*narrow, *([wide] if growth > GROWTH else []), *([largest.name] if share > LARGEST else [])]
    says = (
        f"widest maps {_arrows(widest)}; at most {growth:.2f} times the widest map before; "
        f"the largest layer holds {share:.0%}"
    )
    numbers = {
        "widest": widest,
        "largest_growth": round(growth, 3),
        "largest_share": round(share, 3),
        "layers": len(plan.layers),
        "params_per_layer": round(total / len(plan.layers)),
    }
    return _verdict(where), says, numbers, where


def _groups(plan: Plan) -> Judgement:
    """The share of convolutions in groups of one resolution where every kind of layer stands twice on average."""
    if len(plan.body) < 2:
        return _apart("fewer than two convolutions of maps")
    kinds = [{_kind(layer) for layer in group} for group in plan.groups]
    alike = [len(group) >= 2 * len(kind) for group, kind in zip(plan.groups, kinds, strict=True)]
    inside = sum(len(group) for group, good in zip(plan.groups, alike, strict=True) if good)
    share = inside / len(plan.body)
    where = [
        layer.name for group, good in zip(plan.groups, alike, strict=True) for layer in group if not good
    ]
    sizes = [len(group) for group in plan.groups]
    says = (
        f"groups of {_words(sizes)} layers; {inside} of {len(plan.body)} convolutions are in homogeneous ones"
    )
    numbers = {
        "groups": [
            {"stride": group[0].stride, "layers": len(group), "kinds": sorted(kind), "homogeneous": good}
            for group, kind, good in zip(plan.groups, kinds, alike, strict=True)
        ],
        "share_in_homogeneous_groups": round(share, 3),
    }
    broken = share < ALIKE
    return _verdict(where if broken else []), says, numbers, where


def _correlation(plan: Plan) -> Judgement:
    """The first 1x1 convolution that is neither a shortcut nor half of a separable convolution."""
    if not plan.body:
        return _apart("no convolution of maps")
    small = [
        (place, layer) for place, layer in enumerate(plan.body) if layer.pointwise and not layer.completes
    ]
    early = [layer.name for place, layer in small if place < EARLY * len(plan.body)]
    first = small[0][0] + 1 if small else None
    says = (
        f"{len(small)} of {len(plan.body)} convolutions are 1x1, the first is number {first}; "
        f"{len(early)} in the first half"
        if small
        else f"none of {len(plan.body)} convolutions is 1x1"
    )
    numbers = {
        "pointwise": len(small),
        "convolutions": len(plan.body),
        "first": first,
        "in_the_first_half": len(early),
    }
    return _verdict(early), says, numbers, early


def _information(plan: Plan) -> Judgement:
    """Where the resolution halves, beside where it would if it did so evenly; and by what."""
    if not plan.falls:
        return _apart("the resolution never falls")
    count, halvings = len(plan.body), sum(fall.halvings for fall in plan.falls)
    lowest, done = float("inf"), 0
    where: list[str] = []
    for fall in plan.falls:
        ratios: list[float] = []
        for _ in range(fall.halvings):
            done += 1
            ratios.append(fall.after / count / (done / (halvings + 1)))
        lowest = min(lowest, *ratios)
        if min(ratios) < PLACE or not fall.pools:
            where += [*fall.pools, *fall.strided, *fall.others]
    strided = sum(not fall.pools for fall in plan.falls)
    places = [fall.after for fall in plan.falls for _ in range(fall.halvings)]
    says = (
        f"halved after {_words(places)} of {count} convolutions; at the earliest at {lowest:.2f} of the even place; "
        f"{strided} of {len(plan.falls)} times without a pool"
    )
    numbers = {
        "after": places,
        "convolutions": count,
        "earliest_of_even_place": round(lowest, 3),
        "falls_without_a_pool": strided,
        "falls": len(plan.falls),
    }
    return _verdict(where), says, numbers, where


def _performance(plan: Plan) -> Judgement:
    """The share of 3x3 in the multiply-adds of convolutions that are larger than 1x1."""
    spatial = [layer for layer in plan.body if not layer.pointwise and layer.kernel]
    total = sum(layer.macs for layer in spatial)
    if not total:
        return _apart("no convolution larger than 1x1")
    by_kernel: dict[str, int] = {}
    for layer in spatial:
        by_kernel[_kind(layer, plain=True)] = by_kernel.get(_kind(layer, plain=True), 0) + layer.macs
    share = sum(layer.macs for layer in spatial if set(layer.kernel) == {3}) / total
    where = [layer.name for layer in spatial if set(layer.kernel) != {3}]
    shares = sorted(((macs / total, kernel) for kernel, macs in by_kernel.items()), reverse=True)
    says = f"{', '.join(f'{kernel} {part:.0%}' for part, kernel in shares)} of the multiply-adds"
    numbers = {
        "share_3x3": round(share, 3),
        "macs_by_kernel": by_kernel,
        "depthwise": sum(layer.depthwise for layer in spatial),
    }
    return _verdict(where if share < SMALL else []), says, numbers, where


def _balance(plan: Plan) -> Judgement:
    """The shares of the parameters in the first and the second half of the layers."""
    total = sum(layer.params for layer in plan.layers)
    if len(plan.layers) < 3 or not total:
        return _apart("fewer than three layers besides the classifier")
    half, first = len(plan.layers) / 2, 0.0
    for place, layer in enumerate(plan.layers):
        first += layer.params * min(1.0, max(0.0, half - place))
    share = first / total
    ordered = sorted(plan.layers, key=lambda layer: -layer.params)
    where = [layer.name for layer in ordered[:3]] if not HALF <= share <= 1 - HALF else []
    says = f"the first half of {len(plan.layers)} layers holds {share:.0%} of the parameters, the other {1 - share:.0%}"
    numbers = {
        "first_half": round(share, 3),
        "second_half": round(1 - share, 3),
        "largest": {layer.name: layer.params for layer in ordered[:3]},
        "params": total,
    }
    return _verdict(where), says, numbers, where


def _dropout(plan: Plan) -> Judgement:
    """Which groups of layers dropout follows."""
    if not plan.body:
        return _apart("no convolution of maps")
    body = {id(layer): layer.stride for layer in (*plan.body, *plan.shortcuts)}
    covered = {body[id(each.after)] for each in plan.dropouts if each.after and id(each.after) in body}
    bare = [group for group in plan.groups if group[0].stride not in covered]
    followed = len({id(each.after) for each in plan.dropouts if each.after and id(each.after) in body})
    count = len(plan.dropouts)
    says = (
        f"{count} dropout {'module' if count == 1 else 'modules'}; {followed} of {len(plan.body)} convolutions and "
        f"{len(plan.groups) - len(bare)} of {len(plan.groups)} groups have one"
    )
    numbers = {
        "dropouts": {each.name: each.rate for each in plan.dropouts},
        "convolutions_with": followed,
        "groups": len(plan.groups),
        "groups_without": len(bare),
    }
    where = [f"{group[0].name} to {group[-1].name}" if len(group) > 1 else group[0].name for group in bare]
    return _verdict(where), says, numbers, where


def _apart(why: str) -> Judgement:
    return "does not apply", why, {}, ()


def _verdict(broken: Sequence[str]) -> Verdict:
    return "breaks" if broken else "follows"


def _kind(layer: Layer, *, plain: bool = False) -> str:
    word = "depthwise " if layer.depthwise and not plain else ""
    return word + "x".join(str(side) for side in layer.kernel)


def _words(numbers: Sequence[int]) -> str:
    return ", ".join(str(number) for number in numbers)


def _arrows(numbers: Sequence[int]) -> str:
    return " -> ".join(str(number) for number in numbers)


# --- the principles -------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Principle:
    """Its name, the rule in a sentence, what of the paper it rests on, what of the rule is ours."""

    name: str
    rule: str
    source: str
    ours: str
    check: Callable[[Plan], Judgement]

    def judge(self, plan: Plan) -> Finding:
        """The finding on a network."""
        verdict, says, numbers, where = self.check(plan)
        distinct = tuple(dict.fromkeys(where))
        return Finding(self.name, verdict, says, numbers, distinct, self.rule, self.source, self.ours)


PRINCIPLES = (
    Principle(
        "gradual expansion with minimum allocation",
        "No resolution is narrower than a finer one, no map is more than 2.5 times as wide as the widest before it, "
        "and no layer but the classifier holds more than 40 % of the parameters.",
        'section "Gradual Expansion with Minimum Allocation", tables II and III',
        "All three numbers. The saturation (PLS) and deprivation (PLD) of a layer are described in words: too many "
        "parameters in one layer stands for the first, and for the second there is no rule.",
        _expansion,
    ),
    Principle(
        "homogeneous groups of layers",
        "At least 75 % of the convolutions stand in groups of one resolution that have twice as many layers as kinds "
        "of layers (kernel, depthwise or not).",
        'section "Homogeneous Groups of Layers", no table',
        "The whole rule: the paper says that groups be homogeneous, not in what.",
        _groups,
    ),
    Principle(
        "local correlation preservation",
        "No 1x1 convolution in the first half of the convolutions; shortcuts, and 1x1 after a depthwise convolution, "
        "do not count.",
        'section "Local Correlation Preservation", tables VII and VIII and the one of SqueezeNet',
        'Where "early" ends, and the two exceptions.',
        _correlation,
    ),
    Principle(
        "maximum information utilisation",
        "Each halving of the resolution stands at no less than 3/4 of the place that it had if the k halvings were "
        "spread evenly (k + 1 equal parts of the convolutions), and a pool does it, not a stride alone.",
        'section "Maximum Information Utilization", tables V and VI',
        "The even places, so that images of 224 pixels, which need five halvings, are measured as those of 32; and "
        "the 3/4.",
        _information,
    ),
    Principle(
        "maximum performance utilisation",
        "At least 90 % of the multiply-adds of convolutions larger than 1x1 are 3x3.",
        'section "Maximum Performance Utilization" and its table of kernel sizes and minutes',
        "The 90 %; that multiply-adds are counted, not layers; and that depthwise 3x3 is 3x3, though libraries compute "
        "it less well.",
        _performance,
    ),
    Principle(
        "balanced distribution",
        "Each half of the layers, the classifier left out, holds at least 15 % of the parameters.",
        'section "Balanced Distribution Scheme", table IV',
        "The halves and the 15 %.",
        _balance,
    ),
    Principle(
        "dropout utilisation",
        "Every group of convolutions of one resolution contains dropout of units, or is followed by it before the next "
        "layer.",
        'section "Dropout Utilization", figures 3 and 4',
        "Once in a group is enough, as in the released 1M network; the paper speaks of all layers. Dropout that is "
        "called as a function is not seen, and dropped paths are none.",
        _dropout,
    ),
)  # fmt: skip
