"""Checkpoints are whole or absent, old ones go, and damage is named."""

import asyncio
import json

import pytest
import yaml

from cluster.config.loading import load_config
from cluster.inputs.run_plan import plan_run
from cluster.loop.checkpoint import (
    FORMAT,
    CheckpointWriter,
    Frontier,
    Manifest,
    PendingGroup,
    Played,
    checkpoint_steps,
    load_manifest,
    set_aside,
    sound_checkpoint,
    step_dir,
)
from trajectories.errors import UserError

FRONTIER = Frontier(
    cursor=6,
    trained=(0, 1),
    filtered=(2,),
    skipped=(5,),
    pending=(PendingGroup(position=3, attempts=1),),
    ready=(4,),
    skips=1,
    skipped_play={"shop": Played(episodes=8, successes=8, turns=9)},
)


class Learner:
    """Writes a file when it is asked to end."""

    broken = False

    async def begin_save(self, folder):
        folder.mkdir()
        self.folder = folder

    async def end_save(self):
        if self.broken:
            raise OSError("disk full")
        (self.folder / "weights").write_text("w")


async def save_data(folder):
    folder.mkdir()
    (folder / "4").write_text("tables")


def save(run_dir, step, keep=2, panels=(), learner=None):
    async def begin_and_end():
        writer = CheckpointWriter(run_dir, keep, learner or Learner())
        await writer.begin(Manifest(step=step, version=step, frontier=FRONTIER, panels=dict(panels)), save_data)
        await writer.end()

    asyncio.run(begin_and_end())
    return step_dir(run_dir, step)


def test_what_is_saved_is_read_back(tmp_path):
    folder = save(tmp_path, 7)
    assert sound_checkpoint(tmp_path)[0] == folder
    assert load_manifest(folder) == Manifest(step=7, version=7, frontier=FRONTIER)
    assert (folder / "learner" / "weights").read_text() == "w"
    assert (folder / "ready" / "4").read_text() == "tables"


async def test_a_checkpoint_has_its_name_when_it_is_written_and_the_next_waits_for_it(tmp_path):
    writer = CheckpointWriter(tmp_path, 1, Learner())
    await writer.begin(Manifest(step=1), save_data)
    assert checkpoint_steps(tmp_path) == []
    await writer.begin(Manifest(step=2), save_data)
    assert checkpoint_steps(tmp_path) == [1]
    for _ in range(2):
        await writer.end()
        assert checkpoint_steps(tmp_path) == [2], "and the one before it goes only then"


def test_only_the_newest_are_kept(tmp_path):
    for step in (1, 2, 10, 11):
        save(tmp_path, step)
    assert sorted(folder.name for folder in (tmp_path / "checkpoints").iterdir()) == ["step-000010", "step-000011"]


def test_a_crash_while_saving_leaves_the_earlier_checkpoint(tmp_path):
    save(tmp_path, 1)

    learner = Learner()
    learner.broken = True
    with pytest.raises(OSError, match="disk full"):
        save(tmp_path, 2, learner=learner)
    assert [folder.name for folder in (tmp_path / "checkpoints").iterdir()] == ["step-000001"]
    assert load_manifest(sound_checkpoint(tmp_path)[0]).step == 1
    save(tmp_path, 2)
    assert load_manifest(sound_checkpoint(tmp_path)[0]).step == 2


def test_no_checkpoint_and_a_damaged_one_are_named(tmp_path):
    with pytest.raises(UserError, match="no checkpoint to resume from"):
        sound_checkpoint(tmp_path)[0]
    folder = save(tmp_path, 1)
    (folder / "manifest.json").write_text("{")
    with pytest.raises(UserError, match="no readable checkpoint"):
        load_manifest(folder)


@pytest.mark.parametrize("name", ["learner/weights", "ready/4", "manifest.json", "digests.json"])
def test_a_checkpoint_in_which_a_file_has_changed_gives_way_to_the_one_before(tmp_path, name):
    first, second = save(tmp_path, 1), save(tmp_path, 2)
    assert sound_checkpoint(tmp_path) == (second, {})
    content = bytearray((second / name).read_bytes())
    content[-1] ^= 1
    (second / name).write_bytes(content)
    assert sound_checkpoint(tmp_path) == (first, {second: f"{name} is not as it was written"})


def test_a_checkpoint_that_lacks_a_file_gives_way_and_is_not_counted_once_it_is_set_aside(tmp_path):
    first, second = save(tmp_path, 1), save(tmp_path, 2)
    (second / "learner" / "weights").unlink()
    _, damaged = sound_checkpoint(tmp_path)
    assert damaged == {second: "learner/weights: No such file or directory"}
    assert set_aside(second).name == "step-000002.damaged"
    assert checkpoint_steps(tmp_path) == [1]
    third = save(tmp_path, 3, keep=1)
    assert sound_checkpoint(tmp_path) == (third, {}) and not first.exists()


def test_where_no_checkpoint_is_sound_the_newest_is_told_of(tmp_path):
    for step in (1, 2):
        (save(tmp_path, step) / "ready" / "4").write_text("other")
    with pytest.raises(
        UserError, match=r"no checkpoint of .* is sound \(step-000002: ready/4 is not as it was written"
    ):
        sound_checkpoint(tmp_path)


def test_a_checkpoint_without_digests_is_taken_as_it_is(tmp_path):
    folder = save(tmp_path, 1)
    (folder / "digests.json").unlink()
    (folder / "learner" / "weights").write_text("of an earlier version")
    assert sound_checkpoint(tmp_path) == (folder, {})


def test_a_checkpoint_of_an_earlier_format_is_refused(tmp_path):
    folder = save(tmp_path, 1)
    manifest = Manifest(format=2, step=1).model_dump(exclude={"frontier": {"skipped", "skips", "skipped_play"}})
    (folder / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(UserError, match=f"checkpoint format 2, not {FORMAT}: use the version that wrote it"):
        load_manifest(folder)


def test_a_run_that_ended_before_its_first_checkpoint_begins_anew_when_resumed(tmp_path):
    config = load_config("local", None, ["evaluation.panels=[]"])
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config.model_dump(mode="json")))
    plan = plan_run(config, tmp_path, resume=True)
    assert plan.checkpoint is None and plan.manifest.step == 0


def test_a_resumed_run_may_change_only_what_does_not_decide_what_is_trained(tmp_path):
    config = load_config("local", None, ["evaluation.panels=[]"])
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config.model_dump(mode="json")))
    panels = {panel.name: panel.hash for panel in plan_run(config, tmp_path / "new", resume=False).tasks.panels}
    save(tmp_path, 1, panels=panels)
    freely = ["evaluation.panels=[]", "evaluation.every=3", "reward.constant_limit=9", "placement.wait_s=5"]
    assert plan_run(load_config("local", None, freely), tmp_path, resume=True)
    with pytest.raises(UserError, match="the section 'reward' differs from that of the run"):
        plan_run(load_config("local", None, [*freely, "reward.outcome=progress"]), tmp_path, resume=True)
