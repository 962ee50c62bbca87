"""Write docs/api.md from the signatures and docstrings of the public names.

python docs/make_api.py [--check]

With `--check` nothing is written, and the exit code is 1 where the page is not up to date.
"""

import inspect
import re
import sys
import textwrap
from collections.abc import Iterator
from dataclasses import is_dataclass
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, get_args, get_origin, get_type_hints

import declip_pipeline as dp
from declip_pipeline.options import Option

PAGE = Path(__file__).parent / "api.md"
WIDTH = 88
SECTION = re.compile(r"^(Args|Attributes|Returns|Yields|Raises|Example):$")
ENTRY = re.compile(r"^(\*{0,2}[\w.]+)(?: \([^)]*\))?: (.*)$")

INTRODUCTION = """# API

The public names of `declip_pipeline`, usually imported as `dp`. Written by
`python docs/make_api.py` from the code; a test compares them. A name is imported when it
is first used, so `import declip_pipeline` costs next to nothing.

Conventions: images are (height, width, 3) uint8 RGB, batches of images (N, 3, height, width); masks
are bool, or uint8 with 255 for fake; probabilities are float32 in [0, 1]; IoU is in percent, F1, AP
and AUC are in [0, 1]. Every error is a `DeclipError` whose text says what was found, what was
expected and what to do. `progress(done, total)` and `notice(line)` are called while something runs;
nothing is printed."""


def annotation_text(annotation: Any) -> str:
    """Return an annotation without the modules of its names and without metadata."""
    if get_origin(annotation) is Annotated:
        return annotation_text(get_args(annotation)[0])
    text = annotation if isinstance(annotation, str) else inspect.formatannotation(annotation)
    text = re.sub(r"ForwardRef\('([^']+)'[^)]*\)", r"\1", text)
    text = re.sub(r"Optional\[(.*)\]$", r"\1 | None", text)
    if "Literal" not in text:
        text = text.replace("'", "")
    return re.sub(r"\b(?:[a-z_]\w*\.)+(?=\w)", "", text).replace("NoneType", "None")


def parameter_text(parameter: inspect.Parameter) -> str:
    """Return a parameter as source code; a default that has no short form is `...`."""
    stars = {parameter.VAR_POSITIONAL: "*", parameter.VAR_KEYWORD: "**"}.get(parameter.kind, "")
    text = stars + parameter.name
    if parameter.annotation is not parameter.empty:
        text += f": {annotation_text(parameter.annotation)}"
    if parameter.default is not parameter.empty:
        default = repr(parameter.default)
        default = "..." if default.startswith("<") or "object at 0x" in default else default
        text += f" = {default}" if parameter.annotation is not parameter.empty else f"={default}"
    return text


def signature_text(name: str, signature: inspect.Signature, *, bound: bool = False) -> str:
    """Return `name(parameters) -> type`, on one line where it fits."""
    parameters = list(signature.parameters.values())[1 if bound else 0 :]
    parts: list[str] = []
    before: Any = None
    for parameter in parameters:
        if parameter.kind is parameter.KEYWORD_ONLY and before not in (
            parameter.KEYWORD_ONLY,
            parameter.VAR_POSITIONAL,
        ):
            parts.append("*")
        if before is parameter.POSITIONAL_ONLY and parameter.kind is not before:
            parts.append("/")
        parts.append(parameter_text(parameter))
        before = parameter.kind
    if before is inspect.Parameter.POSITIONAL_ONLY:
        parts.append("/")
    end = ")"
    if signature.return_annotation not in (inspect.Signature.empty, None):
        end += f" -> {annotation_text(signature.return_annotation)}"
    line = f"{name}({', '.join(parts)}{end}"
    if len(line) <= WIDTH:
        return line
    return "\n".join([f"{name}(", *(f"    {part}," for part in parts), end])


def markdown(docstring: str) -> str:
    """Return a Google-style docstring as Markdown: sections with bold names, lists and code."""
    parts: list[tuple[str, list[str]]] = [("", [])]
    for line in docstring.splitlines():
        found = SECTION.match(line)
        if found:
            parts.append((found[1], []))
        elif line and not line.startswith(" ") and parts[-1][0]:
            parts.append(("", [line]))
        else:
            parts[-1][1].append(line)
    return "\n\n".join(_part(name, lines) for name, lines in parts if name or any(lines))


def _part(name: str, lines: list[str]) -> str:
    if not name:
        return "\n".join(lines).strip()
    inside = textwrap.dedent("\n".join(lines)).strip()
    if name == "Example":
        return f"**Example**\n\n```pycon\n{inside}\n```"
    if name in ("Args", "Attributes", "Raises"):
        entries = [
            f"- `{entry[1]}`: {entry[2]}" if (entry := ENTRY.match(line)) else line.rstrip()
            for line in inside.splitlines()
        ]
        # Lines that continue an entry stand under its text.
        inside = re.sub(r"^ {4}", "  ", "\n".join(entries), flags=re.MULTILINE)
    return f"**{name}**\n\n{inside}"


def option_lines(thing: Any) -> list[str]:
    """Return the help of the fields of a dataclass of options, as a list."""
    hints = get_type_hints(thing, include_extras=True) if is_dataclass(thing) else {}
    return [
        f"- `{name}`: {option.help}"
        for name, hint in hints.items()
        for option in getattr(hint, "__metadata__", ())
        if isinstance(option, Option)
    ]


def documentation(thing: Any, name: str) -> str:
    """Return the docstring of a public thing. Raises `SystemExit` where it has none."""
    text = inspect.getdoc(thing)
    if not text:
        raise SystemExit(f"{name} has no docstring")
    return markdown(text)


def members(kind: type) -> Iterator[tuple[str, Any]]:
    """Return the public methods and properties that this project gives a class."""
    seen = set()
    for base in kind.__mro__:
        if not base.__module__.startswith("declip_pipeline"):
            continue
        for name, member in vars(base).items():
            is_member = isinstance(
                member, property | cached_property | classmethod | staticmethod
            ) or inspect.isfunction(member)
            is_public = not name.startswith("_") or name in ("__call__", "__len__", "__getitem__")
            if is_member and is_public and name not in seen:
                seen.add(name)
                yield name, member


def member_section(kind: str, name: str, member: Any) -> str:
    """Return the section of a method or property."""
    title = f"{kind}.{name}"
    if isinstance(member, property | cached_property):
        getter = member.fget if isinstance(member, property) else member.func
        returned = inspect.signature(getter).return_annotation  # type: ignore[arg-type]
        code = f"{name}: {annotation_text(returned)}"
        return f"#### {title}\n\n```python\n{code}\n```\n\n{documentation(member, title)}"
    is_static = isinstance(member, staticmethod)
    function = member.__func__ if isinstance(member, classmethod | staticmethod) else member
    code = signature_text(name, inspect.signature(function), bound=not is_static)
    code = f"@classmethod\n{code}" if isinstance(member, classmethod) else code
    text = inspect.getdoc(function)
    if not text and name == "__len__":
        text = "Return the number of items."
    body = markdown(text) if text else documentation(function, title)
    return f"#### {title}\n\n```python\n{code}\n```\n\n{body}"


def section(name: str) -> str:
    """Return the section of a public name."""
    thing = getattr(dp, name)
    title = f"### {name}"
    if not inspect.isclass(thing):
        if not callable(thing):
            return f"{title}\n\n```python\n{name} = {thing!r}\n```"
        code = signature_text(name, inspect.signature(thing))
        return f"{title}\n\n```python\n{code}\n```\n\n{documentation(thing, name)}"
    if issubclass(thing, Exception):
        bases = ", ".join(base.__name__ for base in thing.__bases__)
        return f"{title}\n\n```python\nclass {name}({bases})\n```\n\n{documentation(thing, name)}"
    code = signature_text(f"class {name}", inspect.signature(thing))
    parts = [
        f"{title}\n\n```python\n{code.removesuffix(' -> None')}\n```",
        documentation(thing, name),
    ]
    if options := option_lines(thing):
        parts.append("\n".join(["**Args**", "", *options]))
    parts += [member_section(name, one, member) for one, member in members(thing)]
    return "\n\n".join(parts)


def first_line(name: str) -> str:
    """Return the first sentence of a name's docstring, for the table of contents."""
    return (inspect.getdoc(getattr(dp, name)) or "").partition("\n\n")[0].replace("\n", " ")


def page() -> str:
    """Return docs/api.md."""
    names = [name for name in dp.__all__ if not name.startswith("__")]
    names.sort(key=lambda name: (inspect.isclass(getattr(dp, name)), dp.__all__.index(name)))
    rows = [f"| [{name}](#{name.lower()}) | {first_line(name)} |" for name in names]
    contents = "\n".join(["| name | what |", "|---|---|", *rows])
    return "\n\n".join([INTRODUCTION, contents, *map(section, names)]) + "\n"


def main() -> int:
    """Write the page, or check it; return the exit code."""
    text = page()
    is_stale = not PAGE.exists() or PAGE.read_text() != text
    if "--check" in sys.argv[1:]:
        print("docs/api.md is not up to date" if is_stale else "docs/api.md is up to date")
        return int(is_stale)
    if is_stale:
        PAGE.write_text(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
