"""One side of `convatlas bench`, in a process of its own: builds the network and leads it to the gate.

`python -m convatlas.cli.side NUMBER` is a peer: its process is as its users' processes are. Our own side is `python -m
convatlas bench --side NUMBER`, with all that the command line does for `convatlas train`. NUMBER is the descriptor of
the channel, over which the task comes.
"""

from __future__ import annotations

import sys
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import nn

    from convatlas.bench.cell import Cell


def run(number: str) -> None:
    """Do the task that comes over the channel until nobody asks any more."""
    from convatlas.bench.gate import Gate, Over
    from convatlas.bench.pool import channel

    pipe, task = channel(number)
    gate = Gate(pipe, {})
    with suppress(Over):
        do(task, gate)


def do(task: dict[str, Any], gate: Any) -> None:
    """Train or predict; `task` holds the side's name, the cell, and a folder for what a training writes."""
    import torch

    from convatlas.bench.cell import OURS, Cell
    from convatlas.bench.gate import resident

    name, cell, folder = str(task["side"]), Cell.from_json(task["cell"]), Path(task["folder"])
    if cell.threads is not None:
        torch.set_num_threads(cell.threads)
    torch.manual_seed(0)
    model, whose = network(name, cell)
    gate.facts |= {
        "network": whose,
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "resident_before_bytes": resident("VmRSS"),
    }
    if name == OURS:
        from convatlas.bench import ours
        from convatlas.cli import process

        if cell.train:
            ours.training(model, cell, gate, folder, own_process=process.is_own())
        else:
            process.keep_memory()
            ours.inference(model, cell, gate)
        return
    from convatlas.bench import peers

    if cell.train:
        peers.LOOPS[name](model, cell, gate, str(folder))
    else:
        peers.inference(model, cell, gate)


def network(side: str, cell: Cell) -> tuple[nn.Module, str]:
    """The network with weights, and whose it is: a peer's own where its library has the same one.

    With settings of its own it is ours everywhere, since a library's network has others.
    """
    from convatlas.bench.cell import OURS
    from convatlas.cli import target

    found = target.resolve(cell.network, **cell.wish)
    theirs = side != OURS and found.origin == "canon" and cell.shape[0] == 3 and not cell.wish.get("options")
    if theirs and found.spec is not None:
        library = "torchvision" if side == "lightning" else side
        if library in found.spec.peers:
            own = f"{library}:{found.spec.peers[library]}"
            wish: dict[str, Any] = {"classes": cell.classes} if cell.train else {}
            return target.resolve(own, image_size=cell.shape[-1], real=True, **wish).model, own
    model = target.resolve(cell.network, real=True, **cell.wish).model
    return model, f"convatlas:{cell.network}" if found.origin == "canon" else cell.network


if __name__ == "__main__":
    run(sys.argv[-1])
