"""Python packages as their source files tell them: modules, names, classes and their members. Nothing is imported, so
that a build can be read which this machine could not run.
"""

from __future__ import annotations

import ast
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)
PLAIN_BASES = {"object", "ABC", "Generic", "Protocol", "Enum", "IntEnum", "StrEnum", "Flag", "IntFlag", "Struct"}
"""Bases outside the package that add nothing which anybody would ask for."""


@dataclass(frozen=True, slots=True)
class Definition:
    """What a name stands for.

    Attributes:
        module: where it is defined, or its own name if it is a module.
        nodes: what defines it: several are the overloads of a function; none is a module.
        member: it was found in a class; `instance`: through an object of it.
    """

    module: str
    nodes: tuple[ast.stmt, ...] = ()
    member: bool = False
    instance: bool = False

    @property
    def kind(self) -> str:
        """`module`, `class`, `function` or `value`."""
        if not self.nodes:
            return "module"
        if isinstance(self.nodes[-1], ast.ClassDef):
            return "class"
        return "function" if isinstance(self.nodes[-1], FUNCTIONS) else "value"

    @property
    def class_node(self) -> ast.ClassDef:
        """The statement of a class."""
        node = self.nodes[-1]
        assert isinstance(node, ast.ClassDef)
        return node


class Unseen:
    """The answer where sources do not tell: a name made while the program runs, or in another package."""


UNSEEN = Unseen()
Answer = Definition | Unseen | None
"""None: the sources tell that there is no such name."""


@dataclass(frozen=True, slots=True)
class _Import:
    """`import module`, or `from module import name`."""

    module: str
    name: str = ""


_Binding = ast.stmt | _Import


@dataclass(frozen=True, slots=True)
class _Module:
    bindings: dict[str, list[_Binding]]
    stars: tuple[str, ...]

    @property
    def dynamic(self) -> bool:
        """It makes names on demand."""
        return "__getattr__" in self.bindings


class Sources:
    """The packages that lie in one folder."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._modules: dict[str, _Module | None] = {}
        self._busy: set[tuple[str, str]] = set()

    def find(self, dotted: str, instance: bool = False) -> Answer:
        """What a dotted name stands for, `package.module.Class.method`.

        Args:
            instance: the last name is asked of an object of the class before it.
        """
        first, *rest = dotted.split(".")
        path, found = first, Definition(first) if self._module(first) else UNSEEN
        for name in rest:
            if not isinstance(found, Definition):
                return found
            if found.kind == "function" and self._module(path):
                found = Definition(path)  # `from package.name import` means the module, whatever else has its name
            path, found = f"{path}.{name}", self._inside(found, name)
        if isinstance(found, Definition) and instance:
            return replace(found, instance=True)
        return found

    def evaluate(self, module: str, expression: ast.expr | None) -> Answer:
        """What an expression of names stands for within a module; of `A | None` and `"A"`, what A stands for."""
        if isinstance(expression, ast.Constant) and isinstance(expression.value, str):
            try:
                return self.evaluate(module, ast.parse(expression.value, mode="eval").body)
            except SyntaxError:
                return UNSEEN
        if isinstance(expression, ast.BinOp):
            left = self.evaluate(module, expression.left)
            return left if isinstance(left, Definition) else self.evaluate(module, expression.right)
        if isinstance(expression, ast.Name):
            found = self._global(module, expression.id)
            return UNSEEN if found is None else found
        if isinstance(expression, ast.Attribute):
            owner = self.evaluate(module, expression.value)
            return self._inside(owner, expression.attr) if isinstance(owner, Definition) else owner
        return UNSEEN

    def ancestry(self, owner: Definition) -> tuple[list[Definition], bool]:
        """A class and its bases, in order, and whether these are all of them."""
        found, whole, waiting = [owner], True, [owner]
        while waiting:
            current = waiting.pop(0)
            for expression in current.class_node.bases:
                expression = expression.value if isinstance(expression, ast.Subscript) else expression
                base = self.evaluate(current.module, expression)
                if isinstance(base, Definition) and base.kind == "class":
                    if base not in found:
                        found.append(base)
                        waiting.append(base)
                elif ast.unparse(expression).rpartition(".")[2] not in PLAIN_BASES:
                    whole = False
        return found, whole

    def member(self, owner: Definition, name: str) -> Answer:
        """What a class, or one of its bases, has under this name; what its methods assign to `self` counts too."""
        classes, whole = self.ancestry(owner)
        for current in classes:
            if nodes := class_members(current.class_node).get(name):
                return Definition(current.module, nodes, member=True, instance=owner.instance)
        dynamic = any("__getattr__" in class_members(current.class_node) for current in classes)
        return None if whole and not dynamic and not name.startswith("__") else UNSEEN

    def _inside(self, owner: Definition, name: str) -> Answer:
        if owner.kind == "module":
            return self._global(owner.module, name)
        if owner.kind == "class":
            return self.member(owner, name)
        if owner.kind == "value" and isinstance(node := owner.nodes[-1], ast.AnnAssign):
            kind = self.evaluate(owner.module, node.annotation)
            if isinstance(kind, Definition) and kind.kind == "class":
                return self.member(replace(kind, instance=True), name)
        return UNSEEN

    def _global(self, module: str, name: str) -> Answer:
        """A name of a module: of what binds it, the one that tells most; else a module below it."""
        known = self._module(module)
        if known is None:
            return UNSEEN
        if (module, name) in self._busy:
            return None
        self._busy.add((module, name))
        try:
            bound = known.bindings.get(name, [])
            answers = [self._bound(module, binding) for binding in reversed(bound)]
            answers += [self._global(star, name) for star in known.stars if not bound]
        finally:
            self._busy.discard((module, name))
        if known.dynamic and not bound:
            answers.append(UNSEEN)
        if self._module(f"{module}.{name}"):
            answers.append(Definition(f"{module}.{name}"))
        best = max(answers, key=_telling, default=None)
        return self._with_overloads(best, bound) if isinstance(best, Definition) else best

    def _bound(self, module: str, binding: _Binding) -> Answer:
        if isinstance(binding, _Import):
            if self._module(binding.module.partition(".")[0]) is None:
                return UNSEEN
            if not binding.name:
                return Definition(binding.module) if self._module(binding.module) else UNSEEN
            return self._global(binding.module, binding.name)
        if isinstance(binding, ast.Assign) and isinstance(binding.value, ast.Name | ast.Attribute):
            alias = self.evaluate(module, binding.value)
            return alias if isinstance(alias, Definition) else Definition(module, (binding,))
        return Definition(module, (binding,))

    def _with_overloads(self, best: Definition, bound: list[_Binding]) -> Definition:
        if best.kind != "function" or best.nodes[-1] not in bound:
            return best
        return replace(best, nodes=tuple(node for node in bound if isinstance(node, FUNCTIONS)))

    def _module(self, name: str) -> _Module | None:
        if name not in self._modules:
            self._modules[name] = self._read(name)
        return self._modules[name]

    def _read(self, name: str) -> _Module | None:
        """The names of a module. A stub beside it tells what the module itself only assigns, and more."""
        folder = self.root.joinpath(*name.split("."))
        files = [folder / "__init__", folder]
        base = next((file for file in files if any(map(Path.exists, _forms(file)))), None)
        if base is None:
            return _Module({}, ()) if folder.is_dir() else None
        bindings: dict[str, list[_Binding]] = {}
        stars: list[str] = []
        for form in filter(Path.exists, _forms(base)):
            scan = _Scan(name, base.name == "__init__", ast.parse(form.read_text(encoding="utf-8")).body)
            for key, bound in scan.bindings.items():
                bindings[key] = bindings.get(key, []) + bound
            stars += scan.stars
        return _Module(bindings, tuple(stars))


def _forms(base: Path) -> tuple[Path, Path]:
    return base.with_name(f"{base.name}.py"), base.with_name(f"{base.name}.pyi")


def _telling(answer: Answer) -> int:
    if isinstance(answer, Definition):
        return 2 if answer.kind == "value" else 3
    return 1 if isinstance(answer, Unseen) else 0


class _Scan:
    """What the statements of a module bind, those within `if`, `try` and `with` included."""

    def __init__(self, module: str, package: bool, body: list[ast.stmt]) -> None:
        self._here = module if package else module.rpartition(".")[0]
        self._root = module
        self._body = body
        self.stars: list[str] = []

    @cached_property
    def bindings(self) -> dict[str, list[_Binding]]:
        found: dict[str, list[_Binding]] = {}
        for name, binding in self._all():
            found.setdefault(name, []).append(binding)
        return found

    def _all(self) -> Iterator[tuple[str, _Binding]]:
        for node in _statements(self._body):
            if isinstance(node, ast.Import):
                for alias in node.names:
                    target = alias.name if alias.asname else alias.name.partition(".")[0]
                    yield alias.asname or target, _Import(target)
            elif isinstance(node, ast.ImportFrom):
                yield from self._from(node)
            else:
                yield from ((name, node) for name in _bound_names(node))

    def _from(self, node: ast.ImportFrom) -> Iterator[tuple[str, _Binding]]:
        parents = self._here.split(".")
        parents = parents[: len(parents) - node.level + 1] if node.level else []
        module = ".".join([*parents, *([node.module] if node.module else [])])
        for alias in node.names:
            if alias.name == "*":
                self.stars.append(module)
            else:
                yield alias.asname or alias.name, _Import(module, alias.name)


def _statements(body: Iterable[ast.stmt]) -> Iterator[ast.stmt]:
    for node in body:
        yield node
        if isinstance(node, ast.If | ast.Try | ast.With | ast.For | ast.While):
            for field in ("body", "orelse", "finalbody"):
                yield from _statements(getattr(node, field, ()))
            for handler in getattr(node, "handlers", ()):
                yield from _statements(handler.body)


def _bound_names(node: ast.stmt) -> list[str]:
    if isinstance(node, (*FUNCTIONS, ast.ClassDef)):
        return [node.name]
    if isinstance(node, ast.AnnAssign):
        return [node.target.id] if isinstance(node.target, ast.Name) else []
    if isinstance(node, ast.Assign):
        return [name.id for target in node.targets for name in ast.walk(target) if isinstance(name, ast.Name)]
    return []


def class_members(node: ast.ClassDef) -> dict[str, tuple[ast.stmt, ...]]:
    """The statements that define each member of a class, and each attribute that its methods assign to `self`."""
    found: dict[str, list[ast.stmt]] = {}
    for statement in _statements(node.body):
        for name in _bound_names(statement):
            found.setdefault(name, []).append(statement)
    own = set(found)
    for statement in ast.walk(node):
        targets = statement.targets if isinstance(statement, ast.Assign) else [getattr(statement, "target", None)]
        for target in targets:
            for part in target.elts if isinstance(target, ast.Tuple) else [target]:
                if isinstance(part, ast.Attribute) and ast.unparse(part.value) == "self" and part.attr not in own:
                    assert isinstance(statement, ast.stmt)
                    found.setdefault(part.attr, []).append(statement)
    return {name: tuple(nodes) for name, nodes in found.items()}
