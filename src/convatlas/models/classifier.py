"""What every classifier of the canon offers, whatever its family.

A classifier is `features`, cut at named `stages`, and a `head`. The members carry the names and the meanings
of timm, so that code written for that library also works here.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import ClassVar, NamedTuple, Self, cast

import torch
from torch import Tensor, nn

from convatlas.errors import UsageError
from convatlas.layers.recompute import recompute


class Stage(NamedTuple):
    """A cut point: the child `name` of `features`, its output channels, and input pixels per output pixel."""

    name: str
    channels: int
    stride: int


class WithAuxiliary(NamedTuple):
    """What a network with auxiliary heads gives in training mode: its logits, and those of each such head."""

    logits: Tensor
    auxiliary: tuple[Tensor, ...]


class Classifier(nn.Module):
    """Images (N, in_channels, H, W) -> logits (N, num_classes), larger meaning likelier.

    `features` is a Sequential whose children include every stage, and the last stage is its output; a family
    with another flow of data overrides `run_features`. `head` is a Sequential with a child `classifier_name`,
    the last layer with weights. `auxiliary` maps children of `features` to further heads, which are Sequentials
    with such a child too. They speak in training mode only: then the network gives `WithAuxiliary`.

    Attributes:
        stages: cut points in order, for detection, segmentation, explanation and transfer.
        num_features: channels that `forward_features` gives.
        head_hidden_size: width of what the classifier receives.
        auxiliary_weight: factor of each auxiliary head's loss.
        frozen: names of the modules that `freeze` holds.
    """

    classifier_name: ClassVar[str] = "fc"

    def __init__(
        self,
        features: nn.Module,
        head: nn.Sequential,
        stages: Sequence[Stage],
        *,
        num_classes: int,
        in_channels: int,
        head_hidden_size: int,
        auxiliary: Mapping[str, nn.Sequential] | None = None,
        auxiliary_weight: float = 0.0,
    ) -> None:
        super().__init__()
        self.features = features
        self.auxiliary = nn.ModuleDict(auxiliary or {})
        self.auxiliary_weight = auxiliary_weight
        self.head = head
        self.stages = tuple(stages)
        self.num_classes = num_classes
        self.in_channels = in_channels
        self.num_features = self.stages[-1].channels
        self.head_hidden_size = head_hidden_size
        self.grad_checkpointing = False
        self.frozen: tuple[str, ...] = ()

    def freeze(self, modules: Sequence[str]) -> None:
        """Hold the modules of these names as they are: no gradients, and evaluation mode whatever `train` says.

        So BatchNorm there normalises by the statistics it has, and does not move them.
        """
        self.frozen = tuple(modules)
        for name in self.frozen:
            self.get_submodule(name).requires_grad_(False)
        self.train(self.training)

    def train(self, mode: bool = True) -> Self:
        """Training or evaluation mode, for all that is not frozen."""
        super().train(mode)
        for name in self.frozen:
            self.get_submodule(name).eval()
        return self

    def forward(self, x: Tensor) -> Tensor | WithAuxiliary:
        """(N, in_channels, H, W) -> (N, num_classes); with auxiliary heads and in training mode theirs too."""
        if not (self.training and self.auxiliary):
            return self.forward_head(self.forward_features(x))
        spoken: list[Tensor] = []
        for name, output in self.run_features(x):
            x = output
            if name in self.auxiliary:
                spoken.append(self.auxiliary[name](x))
        return WithAuxiliary(self.forward_head(x), tuple(spoken))

    def forward_features(self, x: Tensor) -> Tensor:
        """(N, in_channels, H, W) -> (N, num_features, h, w), the output of the last stage, not pooled."""
        if self.grad_checkpointing and torch.is_grad_enabled():
            *_, (_, x) = self.run_features(x)
            return x
        return self.features(x)

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """What `forward_features` gives -> logits, or with `pre_logits` what the classifier receives."""
        if not pre_logits:
            return self.head(x)
        for name, child in self.head.named_children():
            if name == self.classifier_name:
                break
            x = child(x)
        return x

    def run_features(self, x: Tensor) -> Iterator[tuple[str, Tensor]]:
        """Yield each child's name and output, in order; the last output is that of `features`."""
        for name, child in self.features.named_children():
            if self.grad_checkpointing and torch.is_grad_enabled():
                for block in _blocks(child):
                    x = recompute(block, x)
            else:
                x = child(x)
            yield name, x

    def forward_intermediates(
        self,
        x: Tensor,
        indices: int | Sequence[int] | None = None,
        norm: bool = False,
        stop_early: bool = False,
        output_fmt: str = "NCHW",
        intermediates_only: bool = False,
    ) -> list[Tensor] | tuple[Tensor, list[Tensor]]:
        """The outputs of stages, and that of `features`: (x, [stage outputs]), or only the list.

        Args:
            x: images (N, in_channels, H, W).
            indices: positions in `stages`, negative ones from the end; an int n means the last n; None, all.
            norm: no effect: where a family ends in a norm (pre-activation, DenseNet), it belongs to the last stage.
            stop_early: do not compute what follows the last stage asked for; x is then that stage's output.
            output_fmt: only "NCHW".
            intermediates_only: give the list alone.

        Raises:
            UsageError: for a stage that does not exist, or another format.
        """
        if output_fmt != "NCHW":
            raise UsageError(f"output_fmt {output_fmt!r} is not known; convolutional networks give 'NCHW'.")
        wanted = self._stages_at(indices)
        outputs: dict[str, Tensor] = {}
        for name, output in self.run_features(x):
            x = output
            if name in wanted:
                outputs[name] = output
            if stop_early and len(outputs) == len(set(wanted)):
                break
        intermediates = [outputs[name] for name in wanted]
        return intermediates if intermediates_only else (x, intermediates)

    def _stages_at(self, indices: int | Sequence[int] | None) -> list[str]:
        """Names of the stages that `indices` means."""
        count = len(self.stages)
        if indices is None:
            indices = range(count)
        elif isinstance(indices, int):
            if not 1 <= indices <= count:
                raise UsageError(f"the last {indices} stages were asked for; there are {count}.")
            indices = range(count - indices, count)
        names: list[str] = []
        for index in indices:
            if not -count <= index < count:
                raise UsageError(
                    f"stage {index} was asked for; there are {count}: {[s.name for s in self.stages]}."
                )
            names.append(self.stages[index].name)
        return names

    def get_classifier(self) -> nn.Module:
        """The last layer with weights; an Identity after `reset_classifier(0)`."""
        return self.head.get_submodule(self.classifier_name)

    def reset_classifier(self, num_classes: int) -> None:
        """Put a fresh classifier in place, in auxiliary heads too.

        With 0 classes the network gives what the classifier received, and auxiliary heads are dropped for good.
        Raises `UsageError` for what is no number of classes.
        """
        if not isinstance(num_classes, int) or isinstance(num_classes, bool) or num_classes < 0:  # pyright: ignore[reportUnnecessaryIsInstance]
            raise UsageError(
                f"{num_classes!r} classes were asked for; a whole number is expected, 0 (no classifier) or more."
            )
        classifier = self.new_classifier(num_classes) if num_classes else nn.Identity()
        like = next(self.parameters())
        self.head.set_submodule(
            self.classifier_name, classifier.to(like.device, like.dtype).train(self.training)
        )
        for head in self.auxiliary.values():
            layer = head.get_submodule(self.classifier_name)
            fresh = nn.Linear(cast(int, layer.in_features), max(num_classes, 1))
            head.set_submodule(self.classifier_name, fresh.to(like.device, like.dtype).train(self.training))
        if num_classes == 0:
            self.auxiliary = nn.ModuleDict()
        self.num_classes = num_classes

    def set_progress(self, progress: float) -> None:
        """Told by the training loop before each epoch: the share of the training that is done, in [0, 1].

        Networks that change while they are trained (a drop-path that grows, a companion loss that fades) read it.
        """

    def new_classifier(self, num_classes: int) -> nn.Module:
        """A freshly initialised classifier of the family: (N, head_hidden_size) -> (N, num_classes)."""
        return nn.Linear(self.head_hidden_size, num_classes)

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Keep only the outputs of blocks for the backward pass, and compute the rest again.

        A block is a child of `features`, or a child of a stage that is a sequence of blocks.

        Gradients and BatchNorm statistics are those of the ordinary pass (Chen et al., "Training Deep Nets
        with Sublinear Memory Cost", 2016).
        """
        self.grad_checkpointing = enable

    def key_rules(self, origin: str) -> list[tuple[str, str]] | None:
        """Substitutions (pattern, replacement), made in order, from our names to those of `origin`.

        None where the network does not exist there. `load_weights` asks for them.
        """
        del origin
        return None


def _blocks(child: nn.Module) -> Sequence[nn.Module]:
    """The parts of a stage, if it is a sequence of modules that are made of modules; else the child as it is."""
    parts = list(child.children())
    in_order = type(child).forward is nn.Sequential.forward
    return (
        parts if in_order and parts and all(any(True for _ in part.children()) for part in parts) else [child]
    )
