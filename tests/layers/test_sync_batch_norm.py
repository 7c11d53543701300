"""Synchronised BatchNorm in several processes against `nn.BatchNorm` on the whole batch in one."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from convatlas.errors import UsageError
from convatlas.layers.sync_batch_norm import SyncBatchNorm, synchronise
from ranks import Ranks, meet


def whole(kind: str, shape: list[int], dtype: str, passes: int = 2) -> list[torch.Tensor]:
    """The same batches in every process, far from 0 so that sums of squares would lose digits."""
    generator = torch.Generator().manual_seed(len(shape))
    batches = [torch.randn(shape, generator=generator, dtype=torch.float64) * 3 + 40 for _ in range(passes)]
    layout = torch.channels_last if kind == "channels_last" else torch.preserve_format
    return [batch.to(getattr(torch, dtype), memory_format=layout) for batch in batches]


def norm(shape: list[int], momentum: float | None) -> nn.Module:
    torch.manual_seed(1)
    made = {2: nn.BatchNorm1d, 3: nn.BatchNorm1d, 4: nn.BatchNorm2d, 5: nn.BatchNorm3d}[len(shape)](
        shape[1], eps=1e-4, momentum=momentum
    )
    nn.init.normal_(made.weight)
    nn.init.normal_(made.bias)
    return made


def passes(layer: nn.Module, batches: list[torch.Tensor], dtype: str) -> dict[str, Any]:
    """Train on the batches; the last output, its input's gradient and everything the layer holds."""
    if dtype == "float64":
        layer.double()
    for x in batches:
        x.requires_grad_()
        y = layer(x)
        (y * torch.cos(y.detach()) + y.pow(2) / 7).float().sum().backward()
    layer.eval()
    held = {name: value.tolist() for name, value in layer.state_dict().items()}
    grads = {f"grad of {name}": value.grad.tolist() for name, value in layer.named_parameters()}
    return {
        "output": y.detach().double().tolist(),
        "grad of input": batches[-1].grad.double().tolist(),
        "evaluated": layer(batches[0]).detach().double().tolist(),
        **held,
        **grads,
    }


def share(rank: int, kind: str, shape: list[int], dtype: str, cuts: list[int], momentum: float | None) -> Any:
    """One rank's part: rows `cuts[rank]` to `cuts[rank + 1]` of every batch."""
    meet(rank)
    rows = slice(cuts[rank], cuts[rank + 1])
    batches = [batch[rows].clone() for batch in whole(kind, shape, dtype)]
    return passes(synchronise(norm(shape, momentum), accelerator=False), batches, dtype)


TOLERANCE = {"float64": 1e-10, "float32": 1e-5, "bfloat16": 0.02}


@pytest.mark.parametrize(
    ("kind", "shape", "dtype", "cuts", "momentum"),
    [
        ("plain", [8, 5, 4, 3], "float64", [0, 4, 8], 0.1),
        ("channels_last", [8, 5, 4, 3], "float64", [0, 4, 8], 0.1),
        ("uneven", [9, 3, 2, 2], "float64", [0, 6, 7, 9], None),
        ("an empty share", [5, 3, 2, 2], "float64", [0, 5, 5], 0.1),
        ("one value a channel and process", [2, 6], "float64", [0, 1, 2], 0.3),
        ("a sequence", [4, 3, 7], "float64", [0, 2, 4], 0.1),
        ("a volume", [4, 3, 2, 3, 2], "float64", [0, 2, 4], 0.1),
        ("single precision", [16, 4, 3, 3], "float32", [0, 8, 16], 0.1),
        ("half precision", [16, 4, 3, 3], "bfloat16", [0, 8, 16], 0.1),
    ],
)
def test_shares_give_what_the_whole_batch_gives(
    ranks: Ranks, kind: str, shape: list[int], dtype: str, cuts: list[int], momentum: float | None
) -> None:
    expected = passes(norm(shape, momentum), whole(kind, shape, dtype), dtype)
    found = ranks.run(
        "layers.test_sync_batch_norm:share",
        len(cuts) - 1,
        kind=kind,
        shape=shape,
        dtype=dtype,
        cuts=cuts,
        momentum=momentum,
    )
    for name, value in expected.items():
        wanted = torch.tensor(value, dtype=torch.float64)
        parts = [torch.tensor(each[name], dtype=torch.float64) for each in found]
        if name in ("output", "grad of input", "evaluated"):
            ours = torch.cat([part.reshape(-1, *shape[1:]) for part in parts])
        elif name.startswith("grad of"):
            ours = torch.stack(parts).sum(0)
        else:
            ours = parts[0]
            assert all(torch.equal(part, ours) for part in parts), f"{name} differs between processes"
        error = (ours - wanted).abs().max() / (wanted.abs().max() + 1)
        assert error < TOLERANCE[dtype], name


def lone_value(rank: int) -> str:
    meet(rank)
    layer = synchronise(nn.BatchNorm1d(2), accelerator=False)
    with pytest.raises(ValueError, match="more than one value") as caught:
        layer(torch.ones(1 - rank, 2))
    return str(caught.value)


def test_one_value_over_all_processes_is_refused_by_all(ranks: Ranks) -> None:
    assert len(set(ranks.run("layers.test_sync_batch_norm:lone_value"))) == 1


def test_names_parameters_and_state_stay() -> None:
    shared = nn.BatchNorm2d(3)
    model = nn.Sequential(nn.Conv2d(3, 3, 1), shared, nn.Sequential(shared, nn.BatchNorm2d(3, affine=False)))
    names, parameters = list(model.state_dict()), dict(model.named_parameters())
    model.eval()
    model[2][1].running_mean.fill_(4)
    made = synchronise(model, accelerator=False)
    assert list(made.state_dict()) == names
    assert dict(made.named_parameters()) == parameters
    assert made[1] is made[2][0]
    assert isinstance(made[1], SyncBatchNorm)
    assert not any(module.training for module in made.modules())
    x = torch.randn(2, 3, 4, 4)
    assert torch.equal(made[2][1](x), nn.functional.batch_norm(x, torch.full((3,), 4.0), torch.ones(3)))


def test_on_accelerators_it_is_pytorchs_own() -> None:
    made = synchronise(nn.Sequential(nn.BatchNorm2d(3)), accelerator=True)
    assert type(made[0]) is nn.SyncBatchNorm


def test_a_batch_norm_of_another_kind_is_refused() -> None:
    class Own(nn.BatchNorm2d):
        pass

    with pytest.raises(UsageError, match=r"0 is a Own, which cannot be synchronised"):
        synchronise(nn.Sequential(Own(3)), accelerator=False)
