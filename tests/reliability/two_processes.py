"""What each of two processes runs under torchrun: train digits, and write down what this rank saw."""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

from convatlas.data import Batches
from convatlas.errors import ConvAtlasError
from convatlas.train import Compute, Safety, begin, resume
from convatlas.train.loop import Loop


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("out", type=Path)
    parser.add_argument("--kill-rank", type=int)
    parser.add_argument("--resume", action="store_true")
    parser.add_argument("--resume-if-there", action="store_true")
    parser.add_argument("--slow", action="store_true")
    options = parser.parse_args()
    rank = int(os.environ["RANK"])
    seen: list[list[int]] = []
    orders: list[list[int]] = []
    loops: list[Loop] = []
    step = Loop._step

    def watched(self: Loop, batch: Any, epoch: int) -> None:
        seen.append(batch.ids.tolist())
        loops.append(self)
        if options.slow:
            time.sleep(0.2)
        first_life = os.environ.get("TORCHELASTIC_RESTART_COUNT") == "0"
        if rank == options.kill_rank and self.state.step == 7 and first_life:
            os.kill(os.getpid(), signal.SIGKILL)
        step(self, batch, epoch)

    Loop._step = watched
    order = Batches.order

    def noted(self: Batches, epoch: int) -> Any:
        rows = order(self, epoch)
        if self.shuffle:
            orders.extend(self.split.ids[row].tolist() for row in rows)
        return rows

    Batches.order = noted
    common: dict[str, Any] = {
        "compute": Compute(accelerator="cpu", workers=0),
        "safety": Safety(checkpoint_steps=5),
    }
    settings = {"epochs": 2, "batch_size": 128, "image_size": 16, "optimizer": "sgd", "lr": 0.05, "ema": 0.9}
    try:
        if options.resume or (options.resume_if_there and (options.out / "run.json").exists()):
            resume(options.out, **common)
        else:
            begin("digits", model="resnet20_cifar", out=options.out, seed=7, settings=settings, **common)
    except ConvAtlasError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    digest = hashlib.sha256()
    for name, value in sorted(loops[-1].plain.state_dict().items()):
        digest.update(name.encode() + value.numpy().tobytes())
    told = {
        "seen": seen,
        "order": orders,
        "weights": digest.hexdigest(),
        "wrote": loops[-1].logs.writes,
    }
    options.out.with_suffix(f".rank-{rank}.json").write_text(json.dumps(told))
    return 0


if __name__ == "__main__":
    sys.exit(main())
