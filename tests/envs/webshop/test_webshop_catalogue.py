"""Reading, checking and building catalogues."""

from __future__ import annotations

import json
import multiprocessing
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from envs.webshop import Catalogue, Product, open_catalogue
from envs.webshop import catalogue as catalogue_module
from envs.webshop import sources as sources_module
from envs.webshop.catalogue import build_catalogue
from envs.webshop.generator import generate_rows
from envs.webshop.products import HumanInstruction, RowError, parse_product
from envs.webshop.sources import stream_array
from envs.webshop.storage import CACHE_VARIABLE, build_once
from tests.envs.webshop.rows import annotation, product_row, source_rows, write_data
from trajectories.errors import UserError

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)


def test_a_row_becomes_the_originals_product() -> None:
    product = parse_product(product_row(), annotation())
    assert product.options == (("color", ("red", "dark | blue")), ("size", ("9",)))
    assert (product.query, product.listed_prices, product.price_tag) == ("hats", (12.5,), "$12.5")
    assert product.search_text == "Red Wool Hat A hat. Warm color: red, dark | blue, and size: 9"
    assert parse_product(product_row(small_description="one")).bullets == ("one",)
    assert parse_product(product_row()).attributes == ("DUMMY_ATTR",)


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ("text", "must be an object, not str"),
        ({}, "asin must be text"),
        (product_row("nan"), "asin 'nan'"),
        (product_row(""), "asin ''"),
        (product_row("B0000000012"), "not 1 to 10 characters"),
        (product_row(name=None), "name must be text, not NoneType"),
        (product_row(full_description=3), "full_description must be text"),
        (product_row(small_description=None), "small_description must be a list"),
        (product_row(small_description=["a", None]), "small_description must be a list of texts"),
        (product_row(query=[]), "query must be text"),
        (product_row(product_category=None), "product_category must be text"),
        (product_row(pricing="free"), "pricing 'free' is no price"),
        (product_row(pricing="$."), "is no price"),
        (product_row(pricing="$1.2.3"), "is no price"),
        (product_row(pricing="$" + "9" * 400), "is no price"),
        (product_row(pricing=5), "pricing must be text, not int"),
        (product_row(customization_options=["color"]), "customization_options must be an object"),
        (product_row(customization_options={"color": "red"}), "option 'color' must be a list"),
        (product_row(customization_options={"color": ["red"]}), "an option value must be an object"),
        (product_row(customization_options={"color": [{"value": None}]}), "value must be text"),
    ],
)
def test_malformed_rows_are_left_out_and_reported(tmp_path: Path, row: object, reason: str) -> None:
    manifest = build_catalogue(source_rows([product_row("B000000009"), row]), tmp_path)
    assert (manifest.products, manifest.refused) == (1, 1)
    assert manifest.reports[0].startswith("test row 1: ")
    assert reason in manifest.reports[0]


@pytest.mark.parametrize(
    ("note", "reason"),
    [
        ("text", "annotation must be an object"),
        (annotation(attributes="warm"), "attributes must be a list"),
        (annotation(instruction=3), "instruction must be text"),
        (annotation(instruction_attributes=[]), "needs instruction_attributes"),
        (annotation(instruction_attributes=None), "instruction_attributes must be a list"),
    ],
)
def test_malformed_annotations_are_reported(note: object, reason: str) -> None:
    with pytest.raises(RowError, match=reason):
        parse_product(product_row(), note)


@pytest.mark.parametrize("human", ["text", [3], [{"instruction": "x"}], [{"instruction_attributes": ["a"]}]])
def test_malformed_human_instructions_are_reported(human: object) -> None:
    with pytest.raises(RowError):
        parse_product(product_row(), annotation(), human)


def test_human_instructions_without_attributes_are_skipped_as_in_the_original() -> None:
    entry = {"instruction": "x", "instruction_options": []}
    human = [entry | {"instruction_attributes": []}, entry | {"instruction_attributes": ["a"]}]
    assert parse_product(product_row(), None, human).human_instructions == (HumanInstruction("x", ("a",), ()),)


@given(field=st.sampled_from(sorted(product_row())), value=JSON, note=JSON, human=JSON)
def test_any_json_gives_a_product_or_a_reason(field: str, value: Any, note: Any, human: Any) -> None:
    try:
        product = parse_product(product_row(**{field: value}), note, human)
    except RowError as error:
        assert "\n" not in str(error)
    else:
        assert Product.from_json(product.to_json()) == product


def test_repeated_asins_keep_the_first(tmp_path: Path) -> None:
    manifest = build_catalogue(source_rows([product_row(), product_row(name="Other")]), tmp_path)
    assert (manifest.products, manifest.reports) == (1, ("test row 1: asin B000000001 was there before",))
    assert Catalogue(tmp_path).product(0).title == "Red Wool Hat"


def test_half_surrogates_become_question_marks() -> None:
    assert parse_product(product_row(name="hat \ud83d")).title == "hat ?"


def test_only_the_first_hundred_reports_are_kept(tmp_path: Path) -> None:
    manifest = build_catalogue(source_rows([product_row(), *range(150)]), tmp_path)
    assert (manifest.refused, len(manifest.reports)) == (150, 100)


def test_reports_name_file_and_row(tmp_path: Path) -> None:
    catalogue = open_catalogue(write_data(tmp_path, [product_row(), {"asin": 3}], {}))
    assert catalogue.manifest.reports == ("items_shuffle_1000.json row 1: asin must be text, not int",)


def test_nothing_readable_is_a_data_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"not one product could be read: items_shuffle_1000\.json row 0: "):
        open_catalogue(write_data(tmp_path, [{}], {}))


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({}, "no products file"),
        ({"items_shuffle_1000.json": "[]"}, "items_ins_v2_1000.json is missing"),
        ({"items_shuffle_1000.json": "[]", "items_shuffle.json": "[]"}, "keep one of them"),
        ({"items_shuffle_1000.json": "{}", "items_ins_v2_1000.json": "{}"}, "must hold one JSON list"),
        ({"items_shuffle_1000.json": "", "items_ins_v2_1000.json": "{}"}, "must hold one JSON list"),
        ({"items_shuffle_1000.json": "[{", "items_ins_v2_1000.json": "{}"}, "damaged or cut off"),
        ({"items_shuffle_1000.json": "[]", "items_ins_v2_1000.json": "{}"}, "not one product"),
        ({"items_shuffle.json": "[]", "items_ins_v2.json": "[]"}, "must hold one JSON object"),
        ({"items_shuffle.json": "[]", "items_ins_v2.json": "x"}, "cannot read .*items_ins_v2.json"),
    ],
)
def test_unusable_folders_say_what_to_do(tmp_path: Path, files: dict[str, str], message: str) -> None:
    for name, content in files.items():
        (tmp_path / name).write_text(content)
    with pytest.raises(UserError, match=message) as caught:
        open_catalogue(tmp_path)
    assert "\n" not in str(caught.value)


def test_a_missing_folder_is_a_data_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="it is not a folder"):
        open_catalogue(tmp_path / "nowhere")


def test_an_unknown_tagger_is_a_data_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no tagger"):
        open_catalogue(write_data(tmp_path, [product_row()], {}), tagger="guess")  # type: ignore[arg-type]


@given(st.lists(JSON, max_size=12), st.integers(1, 40), st.sampled_from([None, 2]))
def test_arrays_are_streamed_whatever_the_chunk_size(
    tmp_path_factory: pytest.TempPathFactory, elements: list[Any], chunk: int, indent: int | None
) -> None:
    elements = [{"element": element} for element in elements]  # rows are objects; a bare number may be cut in two
    file = tmp_path_factory.mktemp("stream") / "array.json"
    file.write_text(json.dumps(elements, indent=indent))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sources_module, "CHUNK", chunk)
        assert list(stream_array(file)) == elements


def test_a_changed_file_is_built_anew(tmp_path: Path) -> None:
    write_data(tmp_path, [product_row()], {})
    assert len(open_catalogue(tmp_path)) == 1
    write_data(tmp_path, [product_row(), product_row("B000000002")], {})
    assert len(open_catalogue(tmp_path)) == 2


def test_the_same_process_shares_one_catalogue(tmp_path: Path) -> None:
    write_data(tmp_path, [product_row()], {})
    assert open_catalogue(tmp_path) is open_catalogue(str(tmp_path))


def test_a_failed_build_leaves_nothing(tmp_path: Path) -> None:
    def build(folder: Path) -> None:
        (folder / "half").write_text("x")
        raise RuntimeError("power cut")

    with pytest.raises(RuntimeError, match="power cut"):
        build_once(tmp_path / "target", build)
    assert [path.name for path in tmp_path.iterdir()] == ["target.lock"]


def _count_builds(target: Path, log: Path) -> None:
    def build(folder: Path) -> None:
        with log.open("a") as file:
            file.write(f"{os.getpid()}\n")
        (folder / "done").write_text("x")

    build_once(target, build)
    assert (target / "done").is_file()


def test_many_processes_build_once(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    processes = [context.Process(target=_count_builds, args=(tmp_path / "target", tmp_path / "log")) for _ in range(3)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(timeout=60)
    assert [process.exitcode for process in processes] == [0, 0, 0]
    assert len((tmp_path / "log").read_text().splitlines()) == 1


def test_waiting_for_another_builder_ends(tmp_path: Path) -> None:
    def wait(folder: Path) -> None:
        build_once(tmp_path / "target", lambda _: None, timeout_s=0.2)

    with pytest.raises(UserError, match=r"another process has been building .*target for 0 s"):
        build_once(tmp_path / "target", wait)


def test_generated_rows_are_valid_different_and_reproducible() -> None:
    rows = list(generate_rows(300, 7))
    products = [parse_product(row.product, row.annotation) for row in rows]
    assert len({product.asin for product in products}) == 300
    assert 0.3 < sum(product.instruction is not None for product in products) / 300 < 0.6
    assert rows[:100] == list(generate_rows(100, 7))
    assert rows[0] != next(generate_rows(1, 8))


def test_a_changed_generator_is_not_served_from_the_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path))
    before = open_catalogue("generated").directory
    monkeypatch.setattr(catalogue_module, "fingerprint", lambda: "another")
    assert open_catalogue("generated").directory != before


def test_the_generated_catalogue_needs_no_other_files(tmp_path: Path) -> None:
    """Fresh process, empty cache, no data: playing works."""
    code = "from envs import make_environment; print(make_environment('webshop').reset('0').can_search)"
    variables = {**os.environ, "CONCERTO_CACHE": str(tmp_path)}
    played = subprocess.run(
        [sys.executable, "-c", code], env=variables, capture_output=True, text=True, timeout=120, check=True
    )
    assert played.stdout.strip() == "True"
