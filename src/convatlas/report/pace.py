"""How fast a run went, and how long the network waited for its data: from timing.jsonl."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from convatlas.data.batches import SMALL_SIDE

PATIENCE = 0.05  # share of the training time above which waiting is worth a word


def pace(timing: Sequence[Mapping[str, Any]], decided: Mapping[str, Any]) -> dict[str, Any]:
    """For the page: `seconds`, `images_per_second` (of all epochs), `waited` (share) and `waiting_advice`.

    `waited` is None where no epoch tells it, and the advice is empty where there was nothing to wait for.
    """
    epochs = [line for line in timing if line.get("seconds") and "waiting_share" in line]
    trained = sum(line["seconds"] for line in epochs)
    waited = sum(line["seconds"] * line["waiting_share"] for line in epochs) / trained if trained else None
    clocked = [line for line in timing if line.get("seconds") and "images_per_second" in line]
    images = sum(line["seconds"] * line["images_per_second"] for line in clocked)
    return {
        "seconds": sum(line.get("seconds", 0) + line.get("validation_seconds", 0) for line in timing),
        "images_per_second": images / sum(line["seconds"] for line in clocked) if clocked else None,
        "waited": waited,
        "waiting_advice": _advice(decided) if waited is not None and waited > PATIENCE else "",
    }


def _advice(decided: Mapping[str, Any]) -> str:
    """What makes data come faster, as far as it has not been done; of small images, what is waited for."""
    typical = ((decided.get("data") or {}).get("sizes") or {}).get("median")
    input_size = (decided.get("preprocessing") or {}).get("size")
    if typical and input_size and max(*typical, *input_size) <= SMALL_SIDE:
        return "Images this small are kept in memory: what takes the time is to augment them."
    cores = (decided.get("machine") or {}).get("cores")
    workers = decided.get("workers")
    ways = list[str]()
    if workers is not None and (cores is None or workers < cores):
        ways.append(f"more processes that decode (--workers; it had {workers})")
    if not decided.get("cache"):
        ways.append("decoded images kept on disk (--cache DIR)")
    ways.append("images stored not much larger than the network's input")
    *others, last = ways
    return f"Faster would be {', '.join(others)}{', or ' if others else ''}{last}."
