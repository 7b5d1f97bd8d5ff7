"""What a result was made by: a hash of all sources that its modules import, and the versions of the libraries below.

Sources are found by following imports, never listed: those inside functions too, relative ones, and names that a
package hands out lazily (its `__getattr__`; where they come from stands under its `if TYPE_CHECKING`). What is loaded
by its name alone (entry points, `importlib.import_module`) cannot be seen: whoever loads it gives it as a root.

A package above an imported module counts with its own file, since Python runs that too; what it imports in turn counts
only where something is taken from the package itself. Nothing is imported here that is not imported already.
"""

from __future__ import annotations

import ast
import functools
import hashlib
import importlib.util
import sys
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

LIBRARIES = ("torch", "transformers", "numpy", "scipy")  # another version of these can change a number


def code_hash(*roots: str, apart: tuple[str, ...] = ()) -> str:
    """SHA-256 of the sources of these modules and of all that they import, in their own packages and in this one.

    roots: dotted names; apart: packages that are not followed, since nothing of theirs changes the result. Line ends
    do not count. A loaded module without a file (what was typed into an interpreter) equals nothing, not even itself.

    Raises
    ------
    ValueError
        A root is no module.
    """
    found = hashlib.sha256()
    for name, path in sorted(sources(*roots, apart=apart).items()):
        content = uuid.uuid4().bytes if path is None else _content(path)
        found.update(f"{name} {len(content)}\n".encode() + content)
    return found.hexdigest()


def sources(*roots: str, apart: tuple[str, ...] = ()) -> dict[str, Path | None]:
    """The modules behind `code_hash`, by name, with their files."""
    packages = {"snellen", *(root.partition(".")[0] for root in roots)}
    found, waiting, followed = dict[str, Path | None](), list(roots), set[str]()
    for root in roots:
        if _file(root) is None:
            if root not in sys.modules:
                raise ValueError(f"{root}: no such module")
            found[root] = None
    while waiting:
        name = waiting.pop()
        module = _module(name)
        if module is None or module.partition(".")[0] not in packages or _within(module, apart):
            continue
        parts = module.split(".")
        for above in (".".join(parts[:end]) for end in range(1, len(parts) + 1)):
            if (path := _file(above)) is not None:
                found[above] = path
        if (path := _file(module)) is None:
            continue
        imports = _imports(module, path)
        taken, _, further = name[len(module) + 1 :].partition(".")
        if taken in imports.offered:
            waiting.append(".".join(filter(None, (imports.offered[taken], further))))
        if module not in followed:
            followed.add(module)
            waiting += imports.taken
    return found


def versions(*others: str) -> dict[str, str | None]:
    """Of the libraries that numbers come from, and of these besides; None where one is not installed."""
    return {name: _version(name) for name in (*LIBRARIES, *others)}


def distribution(module: str) -> dict[str, str | None]:
    """Name and version of the distributions that bring the module's package; empty where none does."""
    names = metadata.packages_distributions().get(module.partition(".")[0], ())
    return {name: _version(name) for name in sorted(set(names))}


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _within(module: str, packages: tuple[str, ...]) -> bool:
    return any(module == one or module.startswith(f"{one}.") for one in packages)


@functools.cache
def _module(name: str) -> str | None:
    """The module that a dotted name means: all of it, or as much of it from the left as is one."""
    parts = name.split(".")
    for end in range(len(parts), 0, -1):
        if _file(module := ".".join(parts[:end])) is not None:
            return module
    return None


@functools.cache
def _content(path: Path) -> bytes:
    """As it was when first asked for: a process goes on running that, whatever is written later."""
    return path.read_bytes().replace(b"\r\n", b"\n")


@functools.cache
def _file(module: str) -> Path | None:
    loaded = getattr(sys.modules.get(module), "__file__", None)
    if loaded is not None and Path(loaded).is_file():
        return Path(loaded)
    top, *rest = module.split(".")
    own, folders = _top(top)
    if not rest:
        return own
    for folder in folders:
        place = folder.joinpath(*rest)
        for path in (place / "__init__.py", place.with_name(f"{place.name}.py")):
            if path.is_file():
                return path
    return None


@functools.cache
def _top(name: str) -> tuple[Path | None, tuple[Path, ...]]:
    """The file of a module without a dot, and the folders in which those below it lie."""
    try:
        spec = importlib.util.find_spec(name)
    except (ImportError, ValueError):
        spec = None
    if spec is None:
        return None, ()
    own = None if spec.origin is None or not Path(spec.origin).is_file() else Path(spec.origin)
    return own, tuple(map(Path, spec.submodule_search_locations or ()))


@dataclass(frozen=True, kw_only=True)
class _Imports:
    """taken: dotted names that a module imports, or reaches through a module; offered: names that it hands out lazily,
    and where each comes from."""

    taken: tuple[str, ...]
    offered: Mapping[str, str]


@functools.cache
def _imports(module: str, path: Path) -> _Imports:
    if path.suffix != ".py":
        return _Imports(taken=(), offered={})
    tree = ast.parse(_content(path))
    package = module if path.name == "__init__.py" else module.rpartition(".")[0]
    nodes, typed = list(_nodes(tree)), list(_nodes(tree, typed=True))
    bound = [one for node in nodes for one in _bound(node, package)]
    names = {local: target for local, target, whole in bound if whole}
    taken = {target for _, target, _ in bound} | {name for node in nodes if (name := _reached(node, names))}
    lazy = any(isinstance(node, ast.FunctionDef) and node.name == "__getattr__" for node in tree.body)
    offered = {local: target for node in typed for local, target, _ in _bound(node, package)} if lazy else {}
    return _Imports(taken=tuple(sorted(taken)), offered=offered)


def _nodes(tree: ast.AST, *, typed: bool = False) -> Iterator[ast.AST]:
    """All of a tree without what is for type checkers alone, or (`typed`) that alone."""
    waiting = [(tree, False)]
    while waiting:
        node, within = waiting.pop()
        if within == typed:
            yield node
        for name, value in ast.iter_fields(node):
            inner = within or (isinstance(node, ast.If) and name == "body" and _for_types(node.test))
            waiting += [(one, inner) for one in (value if isinstance(value, list) else [value])
                        if isinstance(one, ast.AST)]  # fmt: skip


def _for_types(test: ast.expr) -> bool:
    return "TYPE_CHECKING" in (getattr(test, "id", ""), getattr(test, "attr", ""))


def _bound(node: ast.AST, package: str) -> Iterator[tuple[str, str, bool]]:
    """Of an import: the local name, the dotted name that was asked for, and whether the one stands for the other."""
    if isinstance(node, ast.Import):
        for one in node.names:
            yield one.asname or one.name.partition(".")[0], one.name, one.asname is not None or "." not in one.name
    elif isinstance(node, ast.ImportFrom):
        above = package.split(".")[: len(package.split(".")) + 1 - node.level] if node.level else []
        base = ".".join([*above, *([node.module] if node.module else [])])
        for one in node.names:
            yield one.asname or one.name, base if one.name == "*" else f"{base}.{one.name}", True


def _reached(node: ast.AST, names: Mapping[str, str]) -> str | None:
    """`a.b.c`, where `a` was imported: what is reached through a module."""
    parts = list[str]()
    while isinstance(node, ast.Attribute):
        parts.append(node.attr)
        node = node.value
    if not parts or not isinstance(node, ast.Name) or node.id not in names:
        return None
    return ".".join([names[node.id], *reversed(parts)])
