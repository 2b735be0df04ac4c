"""Files that appear whole or not at all: written beside, flushed to disk, renamed."""

import json
import os
from pathlib import Path


def write_bytes(path: Path, content: bytes) -> None:
    """Replaces a file; a reader, or a kill at any moment, finds the old content or the new one."""
    beside = path.with_name(f".{path.name}.{os.getpid()}.partial")
    with beside.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    beside.replace(path)
    flush(path.parent)


def write_json(path: Path, document: object) -> None:
    """Replaces a file with a JSON document, keys sorted."""
    write_bytes(path, (json.dumps(document, indent=2, sort_keys=True, allow_nan=False) + "\n").encode())


def flush_tree(directory: Path) -> None:
    """Flushes every file and folder below a directory, and itself, to disk."""
    for path in directory.rglob("*"):
        flush(path)
    flush(directory)


def flush(path: Path) -> None:
    """Flushes one file, or a folder's entries, to disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
