"""Whether a call fits what is called, and a value its annotation, as far as sources tell."""

from __future__ import annotations

import ast
from dataclasses import dataclass, field
from typing import Any

from benchmarks.api.sources import FUNCTIONS, Definition, Sources, class_members

FIELD_BASES = {"Struct", "BaseModel", "NamedTuple", "TypedDict"}
"""Classes whose subclasses are made of their annotated fields."""
PLAIN: dict[str, tuple[type, ...]] = {"str": (str,), "int": (int,), "bool": (bool,), "float": (int, float)}
ALIASES = (ast.Assign, ast.AnnAssign)
OUTER: dict[str, tuple[type, ...]] = {
    "list": (list, tuple), "List": (list, tuple), "Sequence": (list, tuple), "tuple": (list, tuple),
    "dict": (dict,), "Dict": (dict,), "Mapping": (dict,), "type": (type,), "Type": (type,),
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Signature:
    """What a call may pass.

    Attributes:
        positional: parameters that may be passed by place, in order; `names`: by name; `required`: without a default.
        more_places, more_names: it takes any number of them.
        annotations: of each parameter, behind the module in which it is written.
    """

    positional: tuple[str, ...] = ()
    names: frozenset[str] = frozenset()
    required: frozenset[str] = frozenset()
    more_places: bool = False
    more_names: bool = False
    annotations: dict[str, tuple[str, ast.expr]] = field(default_factory=dict)


def signatures_of(sources: Sources, what: Definition) -> list[Signature]:
    """Those of a function, one for each overload, or of a class; none where sources do not tell."""
    if what.kind == "function":
        nodes = [node for node in what.nodes if isinstance(node, FUNCTIONS)]
        if any(_decorated(node, "property", "cached_property") for node in nodes):
            return []
        return [_signature(what, node) for node in nodes]
    return _constructors(sources, what) if what.kind == "class" else []


def fields_of(sources: Sources, owner: Definition) -> list[Signature]:
    """The constructor that is made of a class's annotated fields and those of its bases; none if it has no fields."""
    order: dict[str, tuple[str, ast.AnnAssign]] = {}
    for current in reversed(sources.ancestry(owner)[0]):
        for node in current.class_node.body:
            if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name) and _is_field(node):
                order[node.target.id] = current.module, node
    if not order:
        return []
    names = frozenset(order)
    required = frozenset(name for name, (_, node) in order.items() if node.value is None)
    annotations = {name: (module, node.annotation) for name, (module, node) in order.items()}
    return [Signature(tuple(order), names, required, annotations=annotations)]


def misfit(signature: Signature, call: ast.Call) -> str:
    """Why a call does not fit; empty if it does."""
    given = {keyword.arg for keyword in call.keywords if keyword.arg}
    spread = any(keyword.arg is None for keyword in call.keywords)
    starred = any(isinstance(argument, ast.Starred) for argument in call.args)
    if (unknown := sorted(given - signature.names)) and not signature.more_names:
        return f"no parameter {', '.join(unknown)}"
    if not (starred or signature.more_places) and len(call.args) > len(signature.positional):
        return f"takes {len(signature.positional)} by place, not {len(call.args)}"
    lacking = sorted(signature.required - given - set(signature.positional[: len(call.args)]))
    return f"needs {', '.join(lacking)}" if lacking and not (spread or starred) else ""


def accepts(sources: Sources, module: str, annotation: ast.expr | None, value: Any) -> bool | None:
    """Whether a value fits an annotation written in a module; None where that cannot be told."""
    if isinstance(annotation, ast.Constant):
        if annotation.value is None:
            return value is None
        return accepts(sources, module, ast.parse(str(annotation.value), mode="eval").body, value)
    if isinstance(annotation, ast.BinOp):
        return _any(accepts(sources, module, side, value) for side in (annotation.left, annotation.right))
    if isinstance(annotation, ast.Subscript):
        return _accepts_subscript(sources, module, annotation, value)
    name = ast.unparse(annotation).rpartition(".")[2] if annotation is not None else ""
    if name == "Any":
        return True
    if name in PLAIN or name in OUTER:
        return isinstance(value, (PLAIN | OUTER)[name]) and (name == "bool" or not isinstance(value, bool))
    found = sources.evaluate(module, annotation)
    if isinstance(found, Definition) and found.kind == "value":  # a name for another annotation
        alias = found.nodes[-1]
        return accepts(sources, found.module, alias.value, value) if isinstance(alias, ALIASES) else None
    return None


def _accepts_subscript(sources: Sources, module: str, annotation: ast.Subscript, value: Any) -> bool | None:
    outer = ast.unparse(annotation.value).rpartition(".")[2]
    inner = annotation.slice
    parts = inner.elts if isinstance(inner, ast.Tuple) else [inner]
    if outer == "Literal":
        return value in [part.value for part in parts if isinstance(part, ast.Constant)]
    if outer in ("Optional", "Union"):
        if outer == "Optional" and value is None:
            return True
        return _any(accepts(sources, module, part, value) for part in parts)
    if outer in ("Annotated", "ClassVar", "Final"):
        return accepts(sources, module, parts[0], value)
    return isinstance(value, OUTER[outer]) if outer in OUTER else None


def _any(answers: Any) -> bool | None:
    told = list(answers)
    return True if True in told else None if None in told else False


def _signature(what: Definition, node: ast.FunctionDef | ast.AsyncFunctionDef) -> Signature:
    spec = node.args
    places = [*spec.posonlyargs, *spec.args]
    optional = {argument.arg for argument in places[len(places) - len(spec.defaults) :]}
    optional |= {key.arg for key, default in zip(spec.kwonlyargs, spec.kw_defaults, strict=True) if default is not None}
    bound = _decorated(node, "classmethod") or (what.instance and not _decorated(node, "staticmethod"))
    places = places[1:] if what.member and bound else places
    everything = [*places, *spec.kwonlyargs]
    return Signature(
        positional=tuple(argument.arg for argument in places),
        names=frozenset(argument.arg for argument in everything if argument not in spec.posonlyargs),
        required=frozenset(argument.arg for argument in everything) - optional,
        more_places=spec.vararg is not None,
        more_names=spec.kwarg is not None,
        annotations={one.arg: (what.module, one.annotation) for one in everything if one.annotation is not None},
    )


def _constructors(sources: Sources, what: Definition) -> list[Signature]:
    classes, _ = sources.ancestry(what)
    for current in classes:
        for name in ("__init__", "__new__"):
            if nodes := class_members(current.class_node).get(name):
                return signatures_of(sources, Definition(current.module, nodes, member=True, instance=True))
        bases = {ast.unparse(base).rpartition(".")[2] for base in current.class_node.bases}
        if _decorated(current.class_node, "dataclass", "config") or bases & FIELD_BASES:
            return fields_of(sources, what)
    return []


def _decorated(node: ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef, *names: str) -> bool:
    calls = (decorator.func if isinstance(decorator, ast.Call) else decorator for decorator in node.decorator_list)
    return any(ast.unparse(call).rpartition(".")[2] in names for call in calls)


def _is_field(node: ast.AnnAssign) -> bool:
    told = ast.unparse(node.annotation)
    made = isinstance(node.value, ast.Call) and any(
        keyword.arg == "init" and ast.unparse(keyword.value) == "False" for keyword in node.value.keywords
    )
    return not told.startswith(("ClassVar", "typing.ClassVar")) and not made
