"""Checkpoints of others: a `.pt` file is a pickle, and a pickle is a program.

It is read by another process (`_convert.py`), under limits of memory and time, and only its numbers come back.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

from torch import Tensor

from convatlas.errors import BadCheckpoint, DataError
from convatlas.files import open_untrusted
from convatlas.weights.tensors import MAX_FILE, printable, read_weights

ALLOWANCE = 200 * 2**20  # bytes that the other process may take beyond twice the file
SUFFIXES = (".pt", ".pth", ".bin", ".ckpt", ".pkl", ".tar")


def read_foreign(path: str | Path, *, seconds: float = 120.0, max_bytes: int = MAX_FILE) -> dict[str, Tensor]:
    """Tensors of a `.pt` or `.pth` file, converted by another process; nothing is unpickled in this one.

    The other process reads with PyTorch's restricted unpickler (`weights_only=True`), may take twice the file's
    size and 200 MB of memory, and is ended after `seconds`. A state dict may stand under "state_dict" or "model",
    and its names may start with "module.".

    Raises `BadCheckpoint` for a file that is not such a checkpoint, or breaks a limit.
    """
    path = Path(path)
    try:
        file = open_untrusted(path, max_bytes=max_bytes)
    except DataError as error:
        raise BadCheckpoint(str(error)) from error
    with file, tempfile.TemporaryDirectory(prefix="convatlas-") as folder:
        limit = 2 * os.fstat(file.fileno()).st_size + ALLOWANCE
        target = Path(folder) / "weights.safetensors"
        script = Path(__file__).with_name("_convert.py")
        # -P: the folder of the script stays out of the module path. The file is passed open, as checked above.
        command = [sys.executable, "-P", str(script), str(target), str(limit)]
        environment = {key: value for key, value in os.environ.items() if not key.startswith("TORCH_")}
        environment |= {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
        try:
            child = subprocess.run(  # noqa: S603 - our interpreter, our script, no shell
                command,
                stdin=file,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                cwd=folder,
                env=environment,
                timeout=seconds,
                check=False,
            )
        except subprocess.TimeoutExpired as error:
            raise BadCheckpoint(f"{path} was not read within {seconds:g} s.") from error
        if child.returncode != 0 or not target.exists():
            reason = printable(child.stdout.decode(errors="replace")) or "the reading process was ended"
            raise BadCheckpoint(f"{path} is not a checkpoint that can be read safely: {reason}")
        return read_weights(target, max_bytes=limit)
