"""How long a network takes here: `latency(model, (3, 224, 224), batch=8)`.

A time is a median of repeated runs after a warm-up, with its quartiles: the mean follows every disturbance, and the
fastest run is what nobody gets. Things that are compared are run in turn, each round beginning with another one, so
that a machine that becomes warm or busy treats all alike.

What is timed is given back as it was: modes, weights, statistics, random generators and the number of threads.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from copy import deepcopy
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn

from convatlas.errors import UsageError, did_you_mean
from convatlas.hooks import eval_mode
from convatlas.measure.refusals import refusals
from convatlas.measure.trace import tensors_in
from convatlas.randomness import preserved

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
WARM_UP = 2  # runs that are not counted: the first ones choose kernels and fill caches
Call = Callable[[], object]


@dataclass(frozen=True, slots=True)
class Timing:
    """Seconds of one run: the median, the first and the third quartile, and of how many runs."""

    median: float
    low: float
    high: float
    runs: int

    @staticmethod
    def of(seconds: Sequence[float]) -> Timing:
        """The summary of at least one run.

        Examples:
            >>> Timing.of([3.0, 1.0, 2.0, 5.0, 4.0])
            Timing(median=3.0, low=2.0, high=4.0, runs=5)
        """
        if len(seconds) == 1:
            return Timing(seconds[0], seconds[0], seconds[0], 1)
        low, median, high = statistics.quantiles(seconds, n=4, method="inclusive")
        return Timing(median, low, high, len(seconds))

    @property
    def spread(self) -> float:
        """The distance of the quartiles as a share of the median: above 0.1 the machine was not quiet."""
        return (self.high - self.low) / self.median

    def to_json(self) -> dict[str, Any]:
        """Plain values, in seconds."""
        return asdict(self)


def alternate(
    calls: Mapping[str, Call], *, seconds: float, rounds: int, clock: Callable[[], float] = time.perf_counter
) -> dict[str, list[float]]:
    """Seconds of each call, run in turn: `rounds` rounds, fewer where `seconds` are over before.

    Every call is run at least once. Round r begins with the r-th call. No round is begun that is not expected to end
    in time, judged by the longest one so far; so only the first round can run over.
    """
    names = list(calls)
    taken: dict[str, list[float]] = {name: [] for name in names}
    begin = clock()
    longest = 0.0
    for number in range(rounds):
        start = clock()
        if number and start - begin + longest > seconds:
            break
        first = number % len(names)
        for name in names[first:] + names[:first]:
            before = clock()
            calls[name]()
            taken[name].append(clock() - before)
        longest = max(longest, clock() - start)
    return taken


def latency(
    model: nn.Module,
    input_shape: tuple[int, ...] = (3, 224, 224),
    *,
    batch: int = 1,
    train: bool = False,
    dtype: str = "fp32",
    channels_last: bool = False,
    threads: int | None = None,
    seconds: float = 5.0,
    runs: int = 30,
) -> Timing:
    """Time of one forward pass, or with `train` of one training step, for a batch of images of `input_shape` (C, H, W).

    Args:
        model: any network with weights; see `prepared` for what is done with it.
        input_shape: of one image.
        batch: images at once.
        train: a step of SGD with momentum, as `prepared` says.
        dtype: "fp32" or "bf16".
        channels_last: lay the tensors out as N, H, W, C.
        threads: of PyTorch, for the time of the measurement; as they are if None.
        seconds: the limit of the whole measurement, warm-up included. It cannot stop a run that has begun: there are
            a run of warm-up and a timed one, however long they take.
        runs: the most that are timed.

    Raises `UsageError` if the network does not take such images, or is a blueprint without weights.
    """
    with (
        threads_set(threads),
        prepared(
            model, input_shape, batch=batch, train=train, dtype=dtype, channels_last=channels_last
        ) as call,
    ):
        begin = time.perf_counter()
        alternate({"warm up": call}, seconds=seconds / 2, rounds=WARM_UP)
        left = seconds - (time.perf_counter() - begin)
        return Timing.of(alternate({"timed": call}, seconds=left, rounds=runs)["timed"])


@contextmanager
def prepared(
    model: nn.Module,
    input_shape: tuple[int, ...],
    *,
    batch: int = 1,
    train: bool = False,
    dtype: str = "fp32",
    channels_last: bool = False,
) -> Generator[Call]:
    """A function that does one forward pass or training step, while the context is open.

    Images are noise. Inference runs in evaluation mode without gradients; in "bf16" the weights are bf16 too.
    A training step is forward, backward and the update of SGD with momentum; "bf16" is autocast over fp32 weights. Its
    loss is the mean square of the outputs and its rate is 0: the same arithmetic, and no weight moves. Whatever
    would change the network is done to a copy.
    """
    if batch < 1:
        raise UsageError(f"a batch has at least one image, not {batch}.")
    if dtype not in DTYPES:
        raise UsageError(
            f"there is no dtype {dtype!r}.{did_you_mean(dtype, DTYPES)} Known: {', '.join(DTYPES)}."
        )
    if any(tensor.is_meta for tensor in (*model.parameters(), *model.buffers())):
        raise UsageError(
            f"{type(model).__name__} is a blueprint without weights; build it outside `blueprint()`."
        )
    layout = torch.channels_last if channels_last else torch.contiguous_format
    with ExitStack() as stack:
        stack.enter_context(preserved())
        if train or dtype != "fp32" or channels_last:
            model = deepcopy(model).to(memory_format=layout)  # pyright: ignore[reportCallIssue, reportArgumentType]
        images = torch.randn(batch, *input_shape)
        if channels_last and images.dim() == 4:
            images = images.contiguous(memory_format=layout)
        if train:
            run = _step(model.train(), images, autocast=dtype != "fp32")
        else:
            stack.enter_context(eval_mode(model))
            run = _forward(model.to(DTYPES[dtype]) if dtype != "fp32" else model, images.to(DTYPES[dtype]))
        yield _first_explained(run, model, images)


def _forward(model: nn.Module, images: Tensor) -> Call:
    def run() -> None:
        with torch.no_grad():
            model(images)

    return run


def _step(model: nn.Module, images: Tensor, *, autocast: bool) -> Call:
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    if not trained:
        raise UsageError(f"{type(model).__name__} has no parameter to train; time its inference.")
    optimiser = torch.optim.SGD(trained, lr=0.0, momentum=0.9)

    def run() -> None:
        with torch.enable_grad():
            with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
                outputs = tensors_in(model(images))
            loss = torch.stack([output.float().square().mean() for output in outputs]).sum()
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()

    return run


def _first_explained(run: Call, model: nn.Module, images: Tensor) -> Call:
    """`run`, whose failure in the first run says what the network was given."""
    ran = False

    def call() -> None:
        nonlocal ran
        with nullcontext() if ran else refusals(model, (images,)):
            run()
        ran = True

    return call


@contextmanager
def threads_set(threads: int | None) -> Generator[None]:
    """PyTorch with so many threads within, and with as many as before afterwards; None changes nothing."""
    before = torch.get_num_threads()
    if threads is not None:
        if threads < 1:
            raise UsageError(f"there is at least one thread, not {threads}.")
        torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)
