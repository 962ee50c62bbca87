"""An installed package with entry points, as an installer leaves it."""

import importlib
from pathlib import Path


def install(folder: Path, name: str, group: str, *entries: str) -> None:
    """Write the metadata of version 1.2 of a package into a folder of `sys.path`."""
    info = folder / f"{name.replace('-', '_')}-1.2.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.2\n")
    (info / "entry_points.txt").write_text(f"[{group}]\n" + "\n".join(entries) + "\n")
    importlib.invalidate_caches()
