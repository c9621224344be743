"""The learning curve is drawn over minutes of training, with its stages and evaluations where they belong."""

import json
import xml.etree.ElementTree as ElementTree

from cluster.reporting.curve import MARGIN, WIDTH, write_learning_curve
from cluster.reporting.evaluation import write_evaluations
from tests.cluster.reporting.samples import evaluation

RIGHT = WIDTH - 8


def test_stages_and_evaluations_stand_at_their_minutes(tmp_path):
    records = [{"step": 1, "stage": "sft", "step_s": 60.0}]
    records += [{"step": step, "stage": "grpo", "step_s": 90.0, "success": 0.5} for step in (2, 3)]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    (tmp_path / "evaluations").mkdir()
    write_evaluations(tmp_path / "evaluations" / "after_sft.json", (evaluation([True], version=1),))
    picture = ElementTree.fromstring(write_learning_curve(tmp_path).read_text())
    tag = "{http://www.w3.org/2000/svg}"
    _, sft, grpo = picture.findall(f"{tag}rect")
    after_sft = MARGIN + (RIGHT - MARGIN) / 4
    assert (float(sft.attrib["x"]), float(grpo.attrib["x"])) == (MARGIN, after_sft)
    assert float(grpo.attrib["x"]) + float(grpo.attrib["width"]) == RIGHT
    assert float(picture.findall(f"{tag}circle")[0].attrib["cx"]) == after_sft
    assert "4.0 minutes" in [text.text for text in picture.findall(f"{tag}text")]


def test_routing_before_the_first_stage_takes_its_time(tmp_path):
    records = [{"step": 0, "stage": "routing", "routing_s": 60.0}, {"step": 1, "stage": "sft", "step_s": 60.0}]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    _, sft = ElementTree.fromstring(write_learning_curve(tmp_path).read_text()).findall(
        "{http://www.w3.org/2000/svg}rect"
    )
    assert float(sft.attrib["x"]) == MARGIN + (RIGHT - MARGIN) / 2


def test_a_panel_may_have_any_name(tmp_path):
    (tmp_path / "evaluations").mkdir()
    played = evaluation([True], version=0).model_copy(update={"panel": "R&D <1>/valid"})
    write_evaluations(tmp_path / "evaluations" / "base.json", (played,))
    picture = ElementTree.fromstring(write_learning_curve(tmp_path).read_text())
    assert "R&D <1>/valid" in [text.text for text in picture.iter("{http://www.w3.org/2000/svg}text")]
