"""Every network of the canon, counted as it would be used: for these classes, images and batches.

Networks are built and traced without content, so nothing is computed. What cannot be a candidate is left out for a
reason that is kept: nobody published an error of the kind that ranks here, the network does not take such an image, or
it has many times the parameters that are wanted.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from torch import nn

from convatlas.errors import UsageError
from convatlas.layers.blueprint import blueprint
from convatlas.measure.advice import Budget, Candidate
from convatlas.measure.evidence import Evidence, Kind, crops_gain, evidence
from convatlas.measure.memory import predict
from convatlas.measure.operations import macs
from convatlas.measure.trace import Trace, trace
from convatlas.models import create_model, specs
from convatlas.registry import Spec
from convatlas.weights.official import LIBRARIES, has_official

FAR = 4.0  # times the parameters of the budget: such a network is no near miss, and not counted further
REFERENCE = 224  # the side in pixels that most figures are of


@dataclass(frozen=True, slots=True)
class Use:
    """What the networks are for. `classes` None is each network's own number."""

    side: int
    classes: int | None = None
    channels: int = 3
    batch: int = 1
    train: bool = False


@dataclass(frozen=True, slots=True)
class Canvass:
    """The candidates, and the names of those that are none, by reason."""

    candidates: tuple[Candidate, ...]
    without_evidence: tuple[str, ...]
    too_small_an_image: tuple[str, ...]
    far: Mapping[str, int]  # with their parameters
    gain: float  # how many points a figure of several crops counts worse

    @property
    def total(self) -> int:
        """How many networks were looked at."""
        kept = len(self.candidates) + sum(len(each.same) for each in self.candidates)
        return kept + len(self.without_evidence) + len(self.too_small_an_image) + len(self.far)


def canvass(
    use: Use, kind: Kind, budget: Budget | None = None, own: Mapping[str, Evidence] | None = None
) -> Canvass:
    """Count all networks that have a figure of that kind, or one of their user's `own` by name, for the given use.

    Memory is predicted where parameters and MACs are within the budget; elsewhere it decides nothing.
    """
    budget = budget or Budget()
    everything = [spec for spec in specs() if spec.task == "classification"]
    gain = crops_gain(everything)
    counted: dict[object, Candidate] = {}
    without: list[str] = []
    small: list[str] = []
    far: dict[str, int] = {}
    for spec in everything:
        known = (own or {}).get(spec.name) or evidence(spec, kind, gain)
        if known is None:
            without.append(spec.name)
            continue
        if use.side < spec.smallest:
            small.append(spec.name)
            continue
        with blueprint():
            network = create_model(spec.name, use.classes, use.channels)
        if budget.max_params is not None and (size := _params(network)) > FAR * budget.max_params:
            far[spec.name] = size
            continue
        try:
            traced = trace(network, (use.channels, use.side, use.side))
            candidate = _candidate(spec, known, network, traced)
            if not budget.excess(candidate):
                candidate = replace(candidate, memory_bytes=_memory_bytes(network, use))
        except UsageError:  # also of BatchNorm, which cannot train on a single number
            small.append(spec.name)
            continue
        key = _signature(traced)
        counted[key] = _merged(counted[key], candidate) if key in counted else candidate
    return Canvass(tuple(counted.values()), tuple(without), tuple(small), far, gain)


def _candidate(spec: Spec, known: Evidence, network: nn.Module, traced: Trace) -> Candidate:
    return Candidate(
        name=spec.name,
        evidence=known,
        params=_params(network) - sum(traced.unused.values()),
        macs=sum(macs(op) for op in traced.ops),
        weights=tuple(
            library
            for library in LIBRARIES
            if library in spec.peers and has_official(library, spec.peers[library])
        ),
    )


def _memory_bytes(network: nn.Module, use: Use) -> int:
    """Bytes of the tensors that live at once at the worst moment, in fp32; training is by SGD with momentum."""
    shape = (use.channels, use.side, use.side)
    return predict(network, shape, batch=use.batch, training=use.train, optimizer="momentum").peak


def _params(network: nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


def _signature(traced: Trace) -> object:
    """Equal for networks that do the same: their calls, by name and kind, with the shapes of the outputs."""
    return tuple(
        (call.name, call.class_name, None if call.output is None else tuple(call.output.shape))
        for call in traced.calls
    )


def _merged(one: Candidate, other: Candidate) -> Candidate:
    """One candidate for two names of one network.

    The one that its user has trained stands for both, else that with official weights, then that whose figure is
    nearest to the common size, then that with the lower error.
    """
    kept, dropped = sorted(
        (one, other),
        key=lambda each: (
            each.evidence.kind != "own",
            not each.weights,
            abs(each.evidence.side - REFERENCE),
            each.evidence.counted_pct,
        ),
    )
    return replace(
        kept,
        weights=tuple(library for library in LIBRARIES if library in {*kept.weights, *dropped.weights}),
        same=tuple(sorted({*kept.same, *dropped.same, dropped.name})),
    )
