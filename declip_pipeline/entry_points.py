"""Installed packages: their versions, and the extensions that they register as entry points."""

import textwrap
from collections.abc import Iterable
from importlib.metadata import EntryPoint, PackageNotFoundError, entry_points, version
from typing import Any

from declip_pipeline.errors import InputError


def entry_point_named(group: str, name: str) -> EntryPoint | None:
    """Return the entry point of this name in `group`, or None.

    Raises `InputError` where several packages have different ones.
    """
    found = {entry.value: entry for entry in entry_points(group=group, name=name)}
    if len(found) > 1:
        several = " and ".join(map(described, found.values()))
        raise InputError(f"{several} have one name; uninstall all but one")
    return next(iter(found.values()), None)


def entry_point_names(group: str) -> list[str]:
    """Return the names in `group`, sorted; nothing of them is imported."""
    return sorted(entry_points(group=group).names)


def load_entry_point(entry: EntryPoint) -> Any:
    """Import the object of an entry point. Raises `InputError` when that fails."""
    try:
        return entry.load()
    except Exception as error:  # importing a package can raise anything
        raise InputError(
            f"{described(entry)} cannot be imported ({one_line(error)}); repair or uninstall it"
        ) from error


def described(entry: EntryPoint) -> str:
    """Return an entry point as messages name it, with the distribution that registers it."""
    distribution = f"{entry.dist.name} {entry.dist.version}" if entry.dist else "no distribution"
    return f"entry point {entry.name!r} of {distribution} ({entry.group}, {entry.value})"


def one_line(error: BaseException) -> str:
    """Return the type and the first line of an error that another package raised."""
    first_line = (str(error).strip() or "no message").splitlines()[0]
    return f"{type(error).__name__}: {textwrap.shorten(first_line, 200, placeholder=' ...')}"


def installed_versions(names: Iterable[str]) -> dict[str, str]:
    """Return the versions of installed packages by name; others are left out."""
    found = {}
    for name in names:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found
