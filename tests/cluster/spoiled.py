"""Inputs of every kind that a command takes, and what can be wrong with each: a fault makes of a good one a bad one.

Root may write and read anything, so what only permissions would hinder is shown by places that the kernel refuses.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import yaml
from rich.console import Console

from cluster.config.loading import load_config
from cluster.inputs.models import TINY, resolve_model
from cluster.inputs.probe_files import METRIC
from cluster.inputs.recorded import import_demonstrations
from cluster.inputs.run_folder import save_config
from cluster.loop.checkpoint import Manifest, step_dir
from envs import training_panel
from envs.alfworld.pack import PackSource
from envs.webshop.catalogue import open_catalogue
from envs.webshop.prices import PRICES_FILE
from experience.memory import Memory
from experience.records import TaskType
from router.tables import MEASURED, ROUTES
from tests.envs.test_recordings import shop_record
from tests.envs.webshop.rows import annotation, product_row, write_data
from tests.experience.scripted import WordEmbedder
from tests.learners.samples import make_sequences
from trajectories.ids import demonstration_id
from trajectories.schema import sequences_to_table

Fault = Callable[[Path, Path], object]
"""Makes at the second path what is wrong with the good input at the first."""

NOWHERE = "/proc/concerto"
"""Where the kernel lets nobody make anything, root neither."""
FAILING = "/proc/self/mem"
"""A file whose first byte nobody can read."""
BINARY = bytes(range(256)) * 8


def torn(good: Path, place: Path) -> None:
    """Cut within the first word of a line, where it has lines: cut behind a value, YAML would still be whole."""
    content = good.read_bytes()
    end = len(content) * 2 // 3 - 2
    if (line := content.rfind(b"\n", 0, end)) >= 0:
        rest = content[line + 1 :]
        end = line + 1 + len(rest) - len(rest.lstrip(b" -")) + 2
    place.write_bytes(content[:end])


def written(content: str | bytes) -> Fault:
    data = content.encode() if isinstance(content, str) else content
    return lambda good, place: place.write_bytes(data)


def table_with(change: Callable[[pa.Table], pa.Table]) -> Fault:
    return lambda good, place: pq.write_table(change(pq.read_table(good)), place)


def as_texts(table: pa.Table) -> pa.Table:
    """The same columns, each of which holds words."""
    columns = {name: pa.array(["x"] * table.num_rows) for name in table.column_names}
    return pa.table(columns).replace_schema_metadata(table.schema.metadata)


def inside(name: str, fault: Fault) -> Fault:
    """A folder in which one file has this fault."""

    def spoil(good: Path, place: Path) -> None:
        shutil.copytree(good, place, copy_function=os.link)
        files = [file for file in place.rglob(name) if file.is_file()]
        assert files
        for file in files:
            original = good / file.relative_to(place)
            file.unlink()
            fault(original, file)

    return spoil


def absent(good: Path, place: Path) -> None:
    """Nothing is there."""


FILE: dict[str, Fault] = {
    "missing": absent,
    "folder": lambda good, place: place.mkdir(),
    "empty": written(""),
    "binary": written(BINARY),
    "torn": torn,
    "failing": lambda good, place: place.symlink_to(FAILING),
}
FOLDER: dict[str, Fault] = {
    "missing": absent,
    "file": written("a file"),
    "empty": lambda good, place: place.mkdir(),
}
PARQUET = {
    **FILE,
    "json": written('{"a": 1}\n'),
    "other columns": table_with(lambda table: pa.table({"other": list(range(table.num_rows))})),
    "other types": table_with(as_texts),
    "no rows": table_with(lambda table: table.slice(0, 0)),
}
YAML = {
    **FILE,
    "list": written("[1, 2]"),
    "text": written("just words"),
    "nested": written("[" * 500),
    "no such day": written("seed: 2024-13-45"),
    "number as a key": written("1: 2"),
    "key in a list": written("? [1]\n: 2"),
    "unknown key": written("seeed: 1"),
    "wrong type": written("seed: [x]\nseeds: x"),
    "unknown preset": written("preset: locl\narms: {a: {}}"),
}
JSON_LINES = {
    **FILE,
    "list": written("[1, 2]\n"),
    "other keys": written('{"a": 1}\n{"a": 2}\n'),
    "wrong type": written('{"text": 1, "question": 2, "answer": [], "item_id": 3, "conversations": 4}\n'),
    "numbers": written("1\n2\n"),
    "nested": written("[" * 100_000),
}
MODEL = {
    **FOLDER,
    "no weights": inside("*.safetensors", absent),
    "no tokenizer": inside("token*", absent),
    "no config": inside("config.json", absent),
    **{
        f"{fault} {name}": inside(name, FILE[fault])
        for name in ("config.json", "tokenizer.json", "tokenizer_config.json")
        for fault in ("torn", "empty", "binary", "folder")
    },
    **{f"{fault} weights": inside("*.safetensors", FILE[fault]) for fault in ("torn", "empty", "binary", "folder")},
    "config.json is a list": inside("config.json", written("[]")),
    "config.json of nothing known": inside("config.json", written('{"model_type": "tuba"}')),
    "tokenizer.json is a list": inside("tokenizer.json", written("[]")),
    "tokenizer_config.json is a list": inside("tokenizer_config.json", written("[]")),
    "missing shard": inside(
        "generation_config.json",
        lambda good, place: (place.parent / "model.safetensors.index.json").write_text(
            json.dumps({"metadata": {}, "weight_map": {"lm_head.weight": "model-00002-of-00002.safetensors"}})
        ),
    ),
}
WEBSHOP = {
    **FOLDER,
    **{
        f"{fault} {name}": inside(f"items_{name}_1000.json", FILE[fault])
        for name in ("shuffle", "ins_v2")
        for fault in ("missing", "folder", "empty", "binary", "torn", "failing")
    },
    "products of another kind": inside("items_shuffle_1000.json", written('{"a": 1}')),
    "annotations of another kind": inside("items_ins_v2_1000.json", written("[1]")),
    "torn prices": inside("prices.json", torn),
    "prices of another kind": inside("prices.json", written("[]")),
}
GAMES = {
    **FOLDER,
    **{f"{fault} game": inside("game.tw-pddl", FILE[fault]) for fault in ("folder", "empty", "binary", "torn")},
    "failing game": inside("game.tw-pddl", FILE["failing"]),
    "game of another kind": inside("game.tw-pddl", written('{"a": 1}')),
    "binary archive": written(BINARY),
    "torn archive": lambda good, place: torn(Path(shutil.make_archive(f"{place}-whole", "zip", good)), place),
}
MEMORY = {
    **FOLDER,
    "table without content": inside("*.manifest", absent),
    "torn table": inside("*.manifest", torn),
    "torn rows": inside("*.lance", torn),
    "binary table": inside("*.manifest", written(BINARY)),
}
RUN = {
    **{f"{fault} config.yaml": inside("config.yaml", FILE[fault]) for fault in FILE},
    "config.yaml is a list": inside("config.yaml", written("[1]")),
    **{f"{fault} manifest": inside("manifest.json", FILE[fault]) for fault in FILE},
    "manifest of another kind": inside("manifest.json", written("[]")),
}
NEW_FILE: dict[str, Fault] = {
    "taken by a file": written("mine"),
    "taken by a folder": lambda good, place: place.mkdir(),
    "below a file": absent,
    "read-only": absent,
    "full disk": absent,
}
NEW_FOLDER: dict[str, Fault] = dict(NEW_FILE)
del NEW_FOLDER["taken by a folder"]

FAULTS: dict[str, dict[str, Fault]] = {
    "config": YAML,
    "matrix": YAML,
    "questions": JSON_LINES,
    "texts": JSON_LINES,
    "recordings": JSON_LINES,
    "corpus": PARQUET,
    "scores": PARQUET,
    "routes": PARQUET,
    "demonstrations": PARQUET,
    "model": MODEL,
    "products": WEBSHOP,
    "games": GAMES,
    "memory": MEMORY,
    "run": RUN,
    "sources": {fault: FOLDER[fault] for fault in ("missing", "file")},
    "new_file": NEW_FILE,
    "new_folder": NEW_FOLDER,
}
"""What can be wrong with an input, by its name in a command."""


def good_inputs(root: Path) -> dict[str, Path]:
    """One of each, as a command takes it."""
    places = {
        "config": root / "config.yaml",
        "matrix": root / "matrix.yaml",
        "questions": root / "questions.jsonl",
        "texts": root / "texts.jsonl",
        "recordings": root / "recordings.jsonl",
        "corpus": root / "corpus.parquet",
        "scores": root / "scores.parquet",
        "routes": root / "routes.parquet",
        "demonstrations": root / "demonstrations.parquet",
        "model": root / "model",
        "products": root / "products",
        "games": root / "games",
        "memory": root / "memory",
        "run": root / "run",
        "sources": root / "sources",
    }
    places["sources"].mkdir()
    places["config"].write_text("seed: 3\nlearner: {lr: 1.0e-5, warmup_steps: 0}\n")
    places["matrix"].write_text(yaml.safe_dump({"preset": "local", "seeds": [0], "arms": {"one": {}}}))
    rows = [{"question": f"Which of {number}?", "answer": str(number)} for number in range(30)]
    places["questions"].write_text("".join(json.dumps(row) + "\n" for row in rows))
    places["texts"].write_text("".join(json.dumps({"text": f"text {number}"}) + "\n" for number in range(6)))
    places["recordings"].write_text("\n".join(json.dumps(shop_record(task)) for task in ("1500", "1501")))
    pq.write_table(sequences_to_table(make_sequences(4)), places["corpus"])
    _write_scores(places["scores"], places["routes"])
    shutil.copytree(resolve_model(TINY), places["model"])
    shop = load_config("local", None, ["data.webshop=generated", f"policy.model={places['model']}"])
    import_demonstrations(shop, "webshop", places["recordings"], places["demonstrations"], Console(quiet=True))
    write_data(places["products"], [product_row()], {"B000000001": annotation()})
    shutil.copy(open_catalogue(places["products"]).directory / PRICES_FILE, places["products"])
    _write_games(places["games"])
    memory = Memory.open(str(places["memory"]), WordEmbedder("all-MiniLM-L6-v2"))
    memory.write(TaskType.new("sums", "adding numbers"))
    _write_run(places["run"])
    return places


def _write_scores(scores: Path, routes: Path) -> None:
    names = [demonstration_id("webshop", task) for task in ("1500", "1501")]
    measured = [
        {"trajectory": name, "tokens": 5, "trained_tokens": 2, "loss": 1.0, "norms": [1.0, 2.0, 3.0 + row]}
        for row, name in enumerate(names)
    ]
    table = pa.Table.from_pylist(measured, schema=MEASURED).replace_schema_metadata({METRIC: b"gini"})
    pq.write_table(table, scores)
    weights = [
        {"trajectory": name, "route": route, "rl_weight": 1.0 - row, "ce_weight": float(row)}
        for row, (name, route) in enumerate(zip(names, ("grpo", "sft"), strict=True))
    ]
    pq.write_table(pa.Table.from_pylist(weights, schema=ROUTES), routes)


def _write_games(folder: Path) -> None:
    pack = PackSource()
    game = pack.read(pack.task_ids("generated/heldout")[0])
    assert game is not None
    file = folder / "json_2.1.1" / "valid_seen" / "pick_and_place_simple-Mug-None-Desk-308" / "trial_1" / "game.tw-pddl"
    file.parent.mkdir(parents=True)
    content = {"pddl_domain": game.domain, "pddl_problem": game.problem, "grammar": game.grammar, "solvable": True}
    file.write_text(json.dumps(content))


def _write_run(folder: Path) -> None:
    config = load_config("local")
    save_config(config, folder)
    panel = training_panel("alfworld", *config.opening("alfworld"))
    checkpoint = step_dir(folder, 1)
    checkpoint.mkdir(parents=True)
    (checkpoint / "manifest.json").write_text(Manifest(step=1, panels={panel.name: panel.hash}).model_dump_json())
