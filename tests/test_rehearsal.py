"""The rehearsal of a run on GPUs: what it sees in a small package of our own, and that it passes the installed vLLM."""

from __future__ import annotations

import ast
import zipfile
from pathlib import Path

import pytest

from benchmarks.api import uses as table
from benchmarks.api.builds import imported_packages, read_lock, unpacked
from benchmarks.api.check import MISSING, NAMED, OK, UNSEEN, Checker, Finding
from benchmarks.api.plans import MODELS, argument_faults, engine_arguments, engine_cases, memory_cases, placement_cases
from benchmarks.api.signatures import accepts
from benchmarks.api.sources import Definition, Sources
from benchmarks.api.uses import uses_of
from benchmarks.rehearsal import LOCK, OURS, ROOT, Rehearsal, installed_sources
from cluster.config.loading import load_config
from trajectories.errors import UserError

PACKAGE = {
    "__init__.py": """
        from typing import TYPE_CHECKING
        from .parts import *
        if TYPE_CHECKING:
            from made.engine import Engine as Engine
    """,
    "parts.py": """
        from dataclasses import dataclass
        from typing import Literal
        Mode = Literal["raw", "processed"]
        @dataclass
        class Base:
            model: str
            size: int = 1
        @dataclass
        class Args(Base):
            mode: Mode = "raw"
    """,
    "engine.py": """
        from elsewhere import Strange
        class Engine:
            def __init__(self, args, *, threads=1): self.handler = None
            @classmethod
            def make(cls, args, loggers=None): ...
            async def generate(self, prompt, *, adapter=None): ...
            def _start(self, inline=False): ...
            def pass_on(self, **kwargs): ...
        class Open(Strange): ...
        engine: Engine
        def load(path, /, deep, *, slow): ...
    """,
}
FITTING = """
import made
from made import Args, Engine
from made.engine import Open, engine, load
Args("m", mode="raw"); Args(model="m", size=2)
Engine.make(1, loggers=[]); Engine(1, threads=2)
load("p", deep=1, slow=2); engine.generate("p", adapter=None); made.Args(**{})
class Ours(Engine):
    def _start(self, inline=False): super()._start(); self.handler; self.own = 1; self.own
"""


def tree(root: Path, files: dict[str, str]) -> Path:
    """Files of this text, without its common indentation."""
    for name, text in files.items():
        lines = text.splitlines()
        indent = min((len(line) - len(line.lstrip()) for line in lines if line.strip()), default=0)
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text("\n".join(line[indent:] for line in lines), encoding="utf-8")
    return root


def findings(root: Path, code: str, engine: str = "") -> list[Finding]:
    """What becomes of a file of ours that uses the small package. With another text of its engine, the first one is
    the installed build."""
    files = {f"made/{name}": text for name, text in PACKAGE.items()}
    build = Sources(tree(root / "build", files | ({"made/engine.py": engine} if engine else {})))
    installed = Sources(tree(root / "installed", files)) if engine else None
    ours = tree(root, {"ours/code.py": code})
    return Checker(build, installed).check(uses_of(ours, ["ours"], "made"))


def test_what_fits_is_found_through_star_imports_bases_and_annotations(tmp_path: Path) -> None:
    found = findings(tmp_path, FITTING)
    assert {finding.state for finding in found} == {OK}
    told = {finding.told for finding in found}
    assert {"made.Args(_, mode)", "made.engine.engine.generate(_, adapter)", "override made.Engine._start"} <= told
    assert "made.Engine.handler" in told and "made.Engine.own" not in told
    assert found[0].use.where == "ours/code.py:2"


@pytest.mark.parametrize(
    ("code", "note"),
    [
        ("from made import Nobody", "no such name"),
        ("from made.nowhere import anything", "no such name"),
        ("import made\nmade.engine.Engine.vanish()", "no such name"),
        ("from made import Args\nArgs(model='m', weight=1)", "no parameter weight"),
        ("from made import Args\nArgs(size=1)", "needs model"),
        ("from made import Args\nArgs('m', mode='cooked')", "mode takes no 'cooked'"),
        ("from made.engine import load\nload(path='p', deep=1, slow=1)", "no parameter path"),
        ("from made.engine import load\nload(1, 2, 3, slow=1)", "takes 2 by place, not 3"),
        ("from made import Engine\nclass Ours(Engine):\n    def f(self): self.gone", "no such name"),
        ("from made import Engine\nclass Ours(Engine):\n    def _start(self): ...", "the build calls it with inline"),
    ],
)
def test_what_is_not_there_is_missing_and_says_why(tmp_path: Path, code: str, note: str) -> None:
    assert [finding.note for finding in findings(tmp_path, code) if finding.state == MISSING] == [note]


def test_a_method_that_the_build_renamed_is_overridden_no_more(tmp_path: Path) -> None:
    renamed = PACKAGE["engine.py"].replace("_start", "_begin")
    code = "from made.engine import Engine\nclass Ours(Engine):\n    def _start(self, inline=False): ..."
    (lost,) = (finding for finding in findings(tmp_path, code, renamed) if finding.state == MISSING)
    assert lost.told == "override made.engine.Engine._start" and "overrides nothing" in lost.note


def test_what_sources_do_not_tell_is_no_fault(tmp_path: Path) -> None:
    code = "from made.engine import Open, engine\nOpen.anything()\nengine.pass_on(x=1)\nengine.later"
    found = findings(tmp_path, code, engine=PACKAGE["engine.py"].replace("threads", "cores"))
    by_name = {finding.told: finding.state for finding in found}
    assert by_name["made.engine.Open.anything()"] == UNSEEN
    assert by_name["made.engine.engine.pass_on(x)"] == NAMED
    assert by_name["made.engine.engine.later"] == UNSEEN, "it runs with the installed build, which tells no more"


def test_a_value_fits_its_annotation(tmp_path: Path) -> None:
    sources = Sources(tree(tmp_path, {f"made/{name}": text for name, text in PACKAGE.items()}))

    def fits(annotation: str, value: object) -> bool | None:
        return accepts(sources, "made.parts", ast.parse(annotation, mode="eval").body, value)

    assert fits("Mode", "raw") is True and fits("Mode", "cooked") is False
    assert fits("int | None", None) is True and fits("int", True) is False and fits("'list[str]'", ["a"]) is True
    assert fits("Optional[int]", "3") is False and fits("Base | str", 3) is None


def test_only_sources_are_kept_of_a_wheel_and_only_of_the_right_one(tmp_path: Path) -> None:
    wheel = tmp_path / "made-1.0-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr("made/__init__.py", "")
        archive.writestr("made/kernels.so", "binary")
    folder = unpacked("made", "1.0", tmp_path / "cache", wheel)
    assert [file.name for file in folder.rglob("*") if file.is_file()] == ["__init__.py"]
    assert unpacked("made", "1.0", tmp_path / "cache") == folder, "nothing is fetched again"
    with pytest.raises(UserError, match=r"is not the wheel of made 2\.0"):
        unpacked("made", "2.0", tmp_path / "cache", wheel)
    assert [path.name for path in (tmp_path / "cache").iterdir()] == ["made-1.0"]


def test_every_package_that_differs_between_the_locks_is_compared() -> None:
    pairs = imported_packages(ROOT, OURS, read_lock(LOCK.read_text(encoding="utf-8")))
    assert len(pairs) > 20
    assert {pair.package for pair in pairs if not pair.same} <= {"torch", "vllm"}


def test_the_installed_vllm_has_all_that_is_used() -> None:
    build = installed_sources("vllm")
    assert build is not None
    found = Checker(build).check(uses_of(ROOT, OURS, "vllm"))
    assert len(found) > 90
    assert [finding for finding in found if finding.state in (MISSING, UNSEEN)] == []
    assert not any(case.faults for case in engine_cases(build))


def test_every_line_of_the_table_of_objects_is_of_use(monkeypatch: pytest.MonkeyPatch) -> None:
    entries = dict(table.OBJECTS)
    monkeypatch.setattr(table, "OBJECTS", {})
    least = len(uses_of(ROOT, ["actors"], "vllm"))
    for key, classes in entries.items():
        monkeypatch.setattr(table, "OBJECTS", {key: classes})
        assert len(uses_of(ROOT, ["actors"], "vllm")) > least, key


def test_engine_arguments_are_those_of_a_gpu(tmp_path: Path) -> None:
    arguments = engine_arguments(load_config("cluster", None, ["placement.rollout_gpus=2", "policy.lora.rank=16"]))
    assert arguments["tensor_parallel_size"] == 2 and arguments["max_lora_rank"] == 16
    assert not {"kv_cache_memory_bytes", "block_size"} & set(arguments), "these are a CPU's"
    small = "class AsyncEngineArgs:\n    model: str\n    dtype: int\n"
    build = Sources(
        tree(tmp_path, {"vllm/engine/arg_utils.py": f"from dataclasses import dataclass\n@dataclass\n{small}"})
    )
    assert isinstance(build.find("vllm.engine.arg_utils.AsyncEngineArgs"), Definition)
    faults = argument_faults(build, arguments)
    assert "no argument max_lora_rank" in faults and "dtype takes no 'bfloat16'" in faults
    assert not any(fault.startswith("no argument model") for fault in faults)
    assert argument_faults(Sources(tmp_path / "engine"), arguments)[0].startswith("the build has no")


def test_presets_fit_what_they_are_made_for_and_a_shortfall_counts() -> None:
    memory, placed = memory_cases(), placement_cases()
    assert len(memory) == 2 * len(MODELS)
    assert Rehearsal([], [], [], memory, placed).faults == 0
    short = next(case for case in placed if not case.plan.feasible)
    assert short.as_promised and (short.preset, short.machine) == ("cluster", "1 GPU")
    lost = [case for case in memory if case.plan.mends]
    assert lost and all(case.mended is not None and not case.mended.complaints() for case in lost)
