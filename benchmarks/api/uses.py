"""What our own source uses of a package: names it imports, calls it makes, methods it overrides, words it relies on."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

WORKER = "vllm.v1.worker.gpu_worker.Worker"
RUNNERS = ("vllm.v1.worker.gpu_model_runner.GPUModelRunner", "vllm.v1.worker.gpu.model_runner.GPUModelRunner")
HANDLE = "vllm.v1.executor.multiproc_executor.WorkerProcHandle"
OUTPUT, COMPLETION = "vllm.outputs.RequestOutput", "vllm.outputs.CompletionOutput"

OBJECTS: dict[tuple[str, str], tuple[str, ...]] = {
    ("VllmEngine", "self._llm"): ("vllm.v1.engine.async_llm.AsyncLLM",),
    ("VllmEngine.generate", "output"): (COMPLETION,),
    ("VllmEngine.generate", "await self._request('generate', prompt_ids, params, adapter)"): (OUTPUT,),
    ("VllmEngine.score_logprobs", "output"): (OUTPUT,),
    ("VllmEngine._retire", "adapter.request"): ("vllm.lora.request.LoRARequest",),
    ("_tempered", "row[token]"): ("vllm.logprobs.Logprob",),
    ("_tempered", "entry"): ("vllm.logprobs.Logprob",),
    ("ParallelExecutor", "worker"): (HANDLE,),
    ("WorkerExtension", "self.model_runner"): RUNNERS,
    ("WorkerExtension", "method"): ("vllm.model_executor.layers.fused_moe.fused_moe_method_base.FusedMoEMethodBase",),
    ("WorkerExtension", "module.quant_method"): (
        "vllm.model_executor.layers.vocab_parallel_embedding.UnquantizedEmbeddingMethod",
    ),
    ("", "vllm_config.parallel_config"): ("vllm.config.ParallelConfig",),
    ("WorkerExtension", "self.parallel_config"): ("vllm.config.ParallelConfig",),
    ("_own", "config"): ("vllm.config.VllmConfig",),
}
"""Of which class an expression is, by the class or function of ours in which it stands, which no import tells. Only
files that import vLLM have such."""
PASSED_ON: dict[str, tuple[str, ...]] = {f"{WORKER}.reload_weights": (f"{RUNNERS[0]}.reload_weights",)}
"""Methods that pass whatever they are given on to others; the second of `RUNNERS` calls the first one's."""
MIXED_INTO: dict[str, str] = {"WorkerExtension": WORKER}
"""Classes of ours that a package mixes into one of its own: what they only annotate is the other's."""
VARIABLE = re.compile(r"VLLM_[A-Z_]+")
METRIC = re.compile(r"\bray_vllm_(\w+)")


@dataclass(frozen=True, slots=True)
class Use:
    """One thing that a line of ours relies on.

    Attributes:
        what: `import`, `name`, `call`, `override` of a method, `conflict` (a name that must not be there), `variable`
            of the environment, or `metric`.
        target: its dotted name, or the word.
        where: file and line of ours.
        instance: the last name is asked of an object.
        node: the call, or the method of ours.
    """

    what: str
    target: str
    where: str
    instance: bool = False
    node: ast.Call | ast.FunctionDef | ast.AsyncFunctionDef | None = None


def uses_of(root: Path, folders: Iterable[str], package: str) -> list[Use]:
    """All that the files of these folders below `root` use of a package."""
    found: list[Use] = []
    for folder in folders:
        for file in sorted((root / folder).rglob("*.py")):
            text = file.read_text(encoding="utf-8")
            found += _File(file.relative_to(root).as_posix(), ast.parse(text), package).uses()
    return found


class _File:
    """One file of ours."""

    def __init__(self, name: str, tree: ast.Module, package: str) -> None:
        self._name = name
        self._tree = tree
        self._package = package
        self._parents = {child: node for node in ast.walk(tree) for child in ast.iter_child_nodes(node)}
        self._names: dict[str, str] = {}

    def uses(self) -> list[Use]:
        found = list(self._imports())
        for node in ast.walk(self._tree):
            if isinstance(node, ast.Name | ast.Attribute):
                found += self._chain(node)
            if isinstance(node, ast.Attribute) and self._package == "vllm" and self._names:
                found += self._of_objects(node)
            if isinstance(node, ast.ClassDef):
                found += self._of_subclass(node)
            if isinstance(node, ast.Constant) and isinstance(node.value, str) and self._package == "vllm":
                found += self._words(node, node.value)
        return found

    def _imports(self) -> Iterator[Use]:
        for node in ast.walk(self._tree):
            if isinstance(node, ast.Import):
                for alias in node.names:
                    if self._ours(alias.name):
                        self._names[alias.asname or self._package] = alias.name if alias.asname else self._package
                        yield self._use("import", alias.name, node)
            if isinstance(node, ast.ImportFrom) and not node.level and self._ours(node.module or ""):
                for alias in node.names:
                    self._names[alias.asname or alias.name] = f"{node.module}.{alias.name}"
                    yield self._use("import", f"{node.module}.{alias.name}", node)

    def _chain(self, node: ast.Name | ast.Attribute) -> Iterator[Use]:
        """A name of the package with all that is asked of it, where it is more than an annotation of its own."""
        parent = self._parents[node]
        if isinstance(parent, ast.Attribute):
            return
        head: ast.expr = node
        names: list[str] = []
        while isinstance(head, ast.Attribute):
            names.insert(0, head.attr)
            head = head.value
        if not isinstance(head, ast.Name) or head.id not in self._names:
            return
        target = ".".join([self._names[head.id], *names])
        if isinstance(parent, ast.Call) and parent.func is node:
            yield self._use("call", target, node, call=parent)
        elif names:
            yield self._use("name", target, node)

    def _of_objects(self, node: ast.Attribute) -> Iterator[Use]:
        owner, inside = ast.unparse(node.value), self._scope(node)
        for (scope, expression), classes in OBJECTS.items():
            if owner == expression and f"{inside}.".startswith(f"{scope}." if scope else ""):
                yield from (self._asked(node, one) for one in classes)

    def _of_subclass(self, node: ast.ClassDef) -> Iterator[Use]:
        """What a class of ours asks of its base in the package, and what it overrides of it."""
        mixed = MIXED_INTO.get(node.name) if self._package == "vllm" else None
        own, methods = _own_names(node)
        for base in [mixed] if mixed else [self._dotted(base) for base in node.bases]:
            if base is None:
                continue
            for method in methods:
                if mixed and method.name == "__new__":  # is given what the other's constructor is given
                    yield Use("override", f"{base}.__init__", self._where(method), True, method)
                elif not mixed and not method.name.startswith("__"):
                    yield Use("override", f"{base}.{method.name}", self._where(method), True, method)
            for name in sorted(own) if mixed else []:
                if not name.startswith("__"):
                    yield Use("conflict", f"{base}.{name}", self._where(node), True)
            yield from self._of_base(node, base, own, bool(mixed))

    def _of_base(self, node: ast.ClassDef, base: str, own: set[str], mixed: bool) -> Iterator[Use]:
        """What the methods of a class ask of `self` and `super()` that is not their own class's."""
        for inner in ast.walk(node):
            if isinstance(inner, ast.Attribute) and isinstance(inner.ctx, ast.Load):
                owner = ast.unparse(inner.value)
                if (owner == "super()" and not mixed) or (owner == "self" and inner.attr not in own):
                    use = self._asked(inner, base)
                    yield from (use, *(replace(use, target=other) for other in PASSED_ON.get(use.target, ())))

    def _words(self, node: ast.Constant, text: str) -> Iterator[Use]:
        if VARIABLE.fullmatch(text):
            yield self._use("variable", text, node)
        for name in METRIC.findall(text):
            yield self._use("metric", name.removesuffix("_total"), node)

    def _asked(self, node: ast.Attribute, owner: str) -> Use:
        parent = self._parents[node]
        call = parent if isinstance(parent, ast.Call) and parent.func is node else None
        return Use("call" if call else "name", f"{owner}.{node.attr}", self._where(node), True, call)

    def _use(self, what: str, target: str, node: ast.AST, call: ast.Call | None = None) -> Use:
        return Use(what, target, self._where(node), False, call)

    def _where(self, node: ast.AST) -> str:
        return f"{self._name}:{getattr(node, 'lineno', 0)}"

    def _dotted(self, expression: ast.expr) -> str | None:
        head, _, rest = ast.unparse(expression).partition(".")
        return f"{self._names[head]}{'.' if rest else ''}{rest}" if head in self._names else None

    def _scope(self, node: ast.AST) -> str:
        names: list[str] = []
        while (node := self._parents.get(node, self._tree)) is not self._tree:
            if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
                names.insert(0, node.name)
        return ".".join(names)

    def _ours(self, module: str) -> bool:
        return module.partition(".")[0] == self._package


def _own_names(node: ast.ClassDef) -> tuple[set[str], list[ast.FunctionDef | ast.AsyncFunctionDef]]:
    """Names that a class of ours defines itself (what it only annotates is another's), and its methods."""
    methods = [one for one in node.body if isinstance(one, ast.FunctionDef | ast.AsyncFunctionDef)]
    names = {method.name for method in methods}
    for one in node.body:
        if isinstance(one, ast.AnnAssign) and one.value is not None:
            names.add(ast.unparse(one.target))
        if isinstance(one, ast.Assign):
            names |= {ast.unparse(target) for target in one.targets}
    for one in ast.walk(node):
        if isinstance(one, ast.Attribute) and isinstance(one.ctx, ast.Store) and ast.unparse(one.value) == "self":
            names.add(one.attr)
    return names, methods
