"""BatchNorm over several processes: mean and variance of the whole batch, not of each process's share.

Statistics of a small share are noisy, and processes that normalise by their own do not compute what one process with
the whole batch does. Here each channel's count, sum and sum of squares are added up over all processes, and so are the
two means of the backward pass (Ioffe & Szegedy, "Batch Normalization", 2015, section 3),

    dx = gamma / sigma (dy - mean(dy) - x̂ mean(dy x̂)),    x̂ = (x - mean(x)) / sigma,

so that the result is that of one process, up to the order of additions. PyTorch's own layer of this kind runs on
accelerators alone; `synchronise` takes it there, for its fused kernels.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm  # pyright: ignore[reportPrivateUsage]

from convatlas.errors import UsageError

LOCAL = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)


class SyncBatchNorm(_BatchNorm):
    """What `nn.BatchNorm2d` and its like do, with the batches of all processes as one: (N, C, ...) -> (N, C, ...).

    Shares may differ in size and be empty, but every process has to take part in every pass. In evaluation mode
    nothing is exchanged. Parameters' gradients are those of the share alone: whoever adds up all others (DDP) adds up
    these too.
    """

    def _check_input_dim(self, input: Tensor) -> None:
        if input.dim() < 2:
            raise ValueError(f"(N, C, ...) was expected, not {input.dim()} dimensions")

    def forward(self, input: Tensor) -> Tensor:
        """(N, C, ...) -> (N, C, ...)."""
        self._check_input_dim(input)
        if not self.training:
            return super().forward(input)
        output, mean, variance, count = _Normalise.apply(input, self.weight, self.bias, self.eps)
        if self.running_mean is not None and self.running_var is not None:
            if self.num_batches_tracked is not None:
                self.num_batches_tracked.add_(1)
            average = 1 / float(self.num_batches_tracked or 1)  # plain, over all batches so far
            share = average if self.momentum is None else self.momentum
            unbiased = variance * count / (count - 1)
            self.running_mean.lerp_(mean.to(self.running_mean), share)
            self.running_var.lerp_(unbiased.to(self.running_var), share)
        return output


class _Normalise(torch.autograd.Function):
    """Gives the output, and mean, variance (C,) and count () over all processes, as doubles."""

    @staticmethod
    def forward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any, x: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        dims = _all_but_channels(x)
        wide = x.to(_wide(x))
        n = x.numel() // x.shape[1]
        if n:
            variance, mean = (value.double() for value in torch.var_mean(wide, dims, correction=0))
        else:
            variance = mean = torch.zeros(x.shape[1], dtype=torch.float64, device=x.device)
        # As doubles, whose square is exact enough that subtracting it below leaves all digits of a float.
        sums = torch.cat([n * mean, n * (variance + mean.square()), mean.new_tensor([n])])
        dist.all_reduce(sums)
        count = sums[-1]
        if count < 2:
            raise ValueError("BatchNorm needs more than one value per channel to train on")
        mean, square = (sums[:-1] / count).chunk(2)
        variance = (square - mean.square()).clamp(min=0)
        ctx.save_for_backward(x, weight, mean, (variance + eps).rsqrt(), count)
        ctx.kinds = [None if each is None else each.dtype for each in (weight, bias)]
        ctx.mark_non_differentiable(mean, variance, count)
        at = mean.to(wide.dtype), variance.to(wide.dtype)
        output = F.batch_norm(x, *at, weight, bias, training=False, eps=eps) if n else torch.empty_like(x)
        return output, mean, variance, count

    @staticmethod
    def backward(ctx: Any, dy: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        x, weight, mean, scale, count = ctx.saved_tensors
        dims, kind = _all_but_channels(x), _wide(x)
        shape = (1, -1, *(1,) * (x.ndim - 2))
        scale, wide = scale.to(kind).view(shape), dy.to(kind)
        normal = (x.to(kind) - mean.to(kind).view(shape)) * scale
        own = torch.stack([wide.sum(dims), (wide * normal).sum(dims)])
        dx = None
        if ctx.needs_input_grad[0]:
            means = own.to(torch.float64, copy=True)
            dist.all_reduce(means)
            first, second = (means / count).to(kind).view(2, *shape)
            dx = (wide - first - normal * second) * scale
            if weight is not None:
                dx = dx * weight.to(kind).view(shape)
            dx = dx.to(x.dtype)
        dbias, dweight = own
        return (
            dx,
            None if ctx.kinds[0] is None else dweight.to(ctx.kinds[0]),
            None if ctx.kinds[1] is None else dbias.to(ctx.kinds[1]),
            None,
        )


def _all_but_channels(x: Tensor) -> list[int]:
    return [0, *range(2, x.ndim)]


def _wide(x: Tensor) -> torch.dtype:
    return torch.promote_types(x.dtype, torch.float32)


def synchronise(model: nn.Module, *, accelerator: bool) -> nn.Module:
    """Let every BatchNorm of `model` use the statistics of all processes; parameters, buffers and names stay.

    The default group of `torch.distributed` has to exist when it runs. Raises `UsageError` for a kind of BatchNorm of
    its own, whose arithmetic is not known here.
    """
    for name, module in model.named_modules():
        if isinstance(module, _BatchNorm) and type(module) not in LOCAL:
            raise UsageError(
                f"{name} is a {type(module).__name__}, which cannot be synchronised over processes; use "
                "--batch-norm local."
            )
    if accelerator:
        return nn.SyncBatchNorm.convert_sync_batchnorm(model)
    if isinstance(model, LOCAL):
        return _converted(model)
    made: dict[nn.Module, SyncBatchNorm] = {}  # a module that hangs in the network twice stays one
    for name, module in list(model.named_modules(remove_duplicate=False)):
        if isinstance(module, LOCAL):
            made.setdefault(module, _converted(module))
            model.set_submodule(name, made[module])
    return model


def _converted(norm: _BatchNorm) -> SyncBatchNorm:
    """The same parameters and buffers, not copies."""
    made = SyncBatchNorm(norm.num_features, norm.eps, norm.momentum, affine=False, track_running_stats=False)
    made.weight, made.bias = norm.weight, norm.bias
    made.affine, made.track_running_stats = norm.affine, norm.track_running_stats
    for name in ("running_mean", "running_var", "num_batches_tracked"):
        setattr(made, name, getattr(norm, name))
    return made.train(norm.training)
