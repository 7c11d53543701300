"""From paths to samples: `train/CLASS/...`, `val/CLASS/...`, `test/CLASS/...`, or one level `CLASS/...`.

Folders and archives share these rules. Files may lie any number of folders below their class. One or
more folders that wrap everything are passed through. The level above the classes is one of splits if a
folder named like a split holds folders itself; `train/a.jpg` alone is a class named "train".
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Any

from convatlas.data.sources.source import BadFile, Item, Listing, counted, printable
from convatlas.errors import DataError

SPLIT_NAMES = {
    "train": "train",
    "training": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "test": "test",
    "testing": "test",
}
IMAGE_SUFFIXES = (
    *(".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".apng", ".webp", ".gif"),
    *(".bmp", ".dib", ".tif", ".tiff", ".avif", ".ppm", ".pgm", ".pbm", ".pnm"),
)
_JUNK = {"thumbs.db", "ehthumbs.db", "desktop.ini", "__macosx", "$recycle.bin", "icon\r"}
_MAX_DEPTH = 64

Parts = tuple[str, ...]  # a relative path, cut at its slashes, as the system gave it


def is_junk(name: str) -> bool:
    """Whether a file or folder is hidden or a system's own: `.DS_Store`, `Thumbs.db`, `__MACOSX`, ..."""
    return name.startswith(".") or name.casefold() in _JUNK


def looks_like_image(name: str) -> bool:
    """Whether a name ends like an image's. Only used for files outside class folders and for folders."""
    return name.casefold().endswith(IMAGE_SUFFIXES)


def arrange(
    files: Iterable[tuple[Parts, Any]], folders: Iterable[Parts], where: str, junk: int = 0
) -> Listing:
    """Sort files (path, place) and folders into splits and classes; `junk` entries were seen before.

    Raises `DataError` where no file lies in a class folder.
    """
    listing, every = Listing(), list(files)
    kept = [(parts, place) for parts, place in every if not any(map(is_junk, parts))]
    junk += len(every) - len(kept)
    dirs = {parts[:n] for parts, _ in kept for n in range(1, len(parts))}
    dirs |= {parts for parts in folders if not any(map(is_junk, parts))}
    skip = _wrapping(kept, dirs)
    wrapper = next((parts for parts in dirs if len(parts) == skip), ())
    dirs: set[Parts] = {parts[skip:] for parts in dirs if len(parts) > skip}
    tops = {parts[0] for parts in dirs}
    splits = {top: SPLIT_NAMES[top.casefold()] for top in tops if _is_split(top, dirs)}
    depth = 2 if splits else 1

    outside, ignored = list[str](), Counter[str]()
    for parts, place in kept:
        key = "/".join(map(printable, parts))
        inner = parts[skip:] if parts[:skip] == wrapper else ()
        top = inner[0] if len(inner) > 1 else ""
        if splits and top and top not in splits:
            ignored[top] += 1
        elif len(inner) <= depth:
            if looks_like_image(parts[-1]):
                listing.bad.append(BadFile(key, "outside a class folder"))
            else:
                outside.append(key)
        else:
            split = splits[top] if splits else ""
            listing.items.append(Item(key, printable(inner[depth - 1]), place, split))
    listing.folders = {
        (splits[parts[0]] if splits else "", printable(parts[depth - 1]))
        for parts in dirs
        if len(parts) == depth and (not splits or parts[0] in splits)
    }
    if not listing.items:
        raise _nothing(where, listing, bool(outside or ignored))
    listing.items.sort(key=lambda item: item.key)
    if outside:
        named = ", ".join(sorted(outside)[:3])
        were = "was" if len(outside) == 1 else "were"
        told = f"{counted(len(outside), 'file')} outside class folders {were} not looked at ({named})"
        listing.notes.append(told)
    for top, count in sorted(ignored.items()):
        listing.notes.append(
            f"folder {printable(top)!r} is no split: its {counted(count, 'file was', 'files were')} not looked at"
        )
    if junk:
        told = counted(junk, "hidden or system entry was", "hidden or system entries were")
        listing.notes.append(f"{told} not looked at")
    return listing


def _is_split(top: str, dirs: set[Parts]) -> bool:
    """Whether a top folder is named like a split and holds folders."""
    return top.casefold() in SPLIT_NAMES and any(len(parts) == 2 and parts[0] == top for parts in dirs)


def _wrapping(files: list[tuple[Parts, Any]], dirs: set[Parts]) -> int:
    """How many folders wrap everything: each is alone on its level and holds folders, but no picture."""
    for depth in range(_MAX_DEPTH):
        here = {parts for parts in dirs if len(parts) == depth + 1}
        if len(here) != 1:
            return depth
        (only,) = here
        inner = {parts for parts in dirs if len(parts) == depth + 2}
        loose = any(len(parts) == depth + 2 and looks_like_image(parts[-1]) for parts, _ in files)
        if not inner or loose or _is_split(only[-1], {parts[depth:] for parts in dirs}):
            return depth
    raise DataError(f"more than {_MAX_DEPTH} folders lie in one another.")


def _nothing(where: str, listing: Listing, other: bool) -> DataError:
    expected = (
        "Expected are train/CLASS/*.jpg (and val, test), or CLASS/*.jpg; `convatlas data check` says more."
    )
    if listing.bad:
        return DataError(
            f"{where}: {counted(len(listing.bad), 'image lies', 'images lie')} outside class folders. {expected}"
        )
    if other or listing.folders:
        return DataError(f"{where} has no image in a class folder. {expected}")
    return DataError(f"{where} is empty. {expected}")
