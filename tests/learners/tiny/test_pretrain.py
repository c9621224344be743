"""Pre-training: what is learned of a batch, copies that need more than one token, and a rebuild that repeats itself."""

import numpy as np
import pytest
import torch
from transformers import AutoTokenizer, Qwen3ForCausalLM

from learners.tiny import embedded_model_path
from learners.tiny.batches import IGNORED, MULTIPLE, Batching, batches, draw_copies
from learners.tiny.build import Shape, build_model
from learners.tiny.corpus import Corpus, Volumes, build_corpus
from learners.tiny.induction import plant_induction
from learners.tiny.pretrain import Progress, Recipe, Trainer, learning_rate_scale, next_token_loss, pretrain

SMALL = Shape(hidden_size=256, layers=2, intermediate_size=128)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory) -> Corpus:
    return build_corpus(Volumes(games=9, sessions=3, drills=20), 0, tmp_path_factory.mktemp("corpus"))


def test_slips_are_read_but_not_learned(corpus):
    assert 0 < (~corpus.learned).sum() < 0.2 * len(corpus.tokens)
    batch = next(batches(corpus, Batching(copied_first=0, copied_share=0.0, size=4096)))
    learned = batch.targets != IGNORED
    assert np.array_equal(batch.targets[:, :-1][learned[:, :-1]], batch.ids[:, 1:][learned[:, :-1]])
    assert batch.ids.shape[1] % MULTIPLE == 0


def test_copies_repeat_and_only_the_repeats_are_learned():
    draws = np.random.default_rng(0)
    for _ in range(20):
        batch = draw_copies(2048, 8192, draws)
        span = int((batch.targets[0] == IGNORED).argmin()) + 1
        assert batch.ids.shape[1] >= 2 * span and batch.ids.size > 8192 - batch.ids.shape[1]
        assert np.array_equal(batch.ids[:, span:], batch.ids[:, :-span])
        assert (batch.targets[:, : span - 1] == IGNORED).all() and (batch.targets[:, span - 1 : -1] != IGNORED).all()


def test_some_copies_are_far_and_some_have_few_letters():
    draws = np.random.default_rng(0)
    rows = [draw_copies(2048, 4096, draws).ids[0] for _ in range(50)]
    assert min(len(row) for row in rows) == MULTIPLE and max(len(row) for row in rows) >= 768
    assert min(len(set(row.tolist())) for row in rows) <= 12 and max(len(set(row.tolist())) for row in rows) >= 100


@pytest.mark.parametrize("shape", [Shape(), Shape(hidden_size=512, layers=2, intermediate_size=256)], ids=str)
def test_a_planted_model_copies_near_and_far_before_it_has_learned_anything(shape):
    tokenizer = AutoTokenizer.from_pretrained(embedded_model_path())
    model, draws = build_model(tokenizer, shape), torch.Generator().manual_seed(0)
    once = [torch.randint(4, len(tokenizer), (4, span), generator=draws) for span in (20, 400)]
    assert max(_share_right(model, tokens) for tokens in once) < 0.02
    plant_induction(model)
    assert min(_share_right(model, tokens) for tokens in once) > 0.6


def _share_right(model: Qwen3ForCausalLM, once: torch.Tensor) -> float:
    """How much of the second of two equal halves is right, from the third token on: two are read to find the place."""
    twice = torch.cat([once, once], dim=1)
    with torch.inference_mode():
        said = model(twice).logits.argmax(-1)
    return (said[:, once.shape[1] + 1 : -1] == twice[:, once.shape[1] + 2 :]).float().mean().item()


def test_a_model_without_room_for_the_circuit_is_refused():
    tokenizer = AutoTokenizer.from_pretrained(embedded_model_path())
    for shape in (Shape(tied=True), Shape(layers=1), Shape(hidden_size=128)):
        with pytest.raises(ValueError, match="untied head, two layers and four query heads"):
            plant_induction(build_model(tokenizer, shape))


def test_the_rates_warm_up_stay_and_fall():
    recipe = Recipe(tokens=1000, warmup_steps=10, decay_share=0.4)
    scales = [learning_rate_scale(recipe, Progress(*at)) for at in ((0, 0), (9, 10), (50, 600), (80, 800), (99, 1000))]
    assert scales == pytest.approx([0.1, 1.0, 1.0, 0.525, 0.05])


def test_an_interrupted_rebuild_gives_the_weights_of_one_that_was_not(corpus, tmp_path, monkeypatch):
    """To bfloat16's noise; batches, rates and moments are those of the run without a break."""
    recipe = Recipe(
        shape=SMALL, volumes=Volumes(9, 3, 20), batching=Batching(size=1024, copied_first=2048), tokens=10_000
    )
    monkeypatch.setattr("learners.tiny.pretrain.build_corpus", lambda *_: corpus)
    monkeypatch.setattr("learners.tiny.pretrain.CHECKPOINT_EVERY", 3)
    pretrain(recipe, tmp_path / "whole", tmp_path)

    real_step, calls = Trainer.step, []

    def dies(self, batch):
        calls.append(batch)
        if len(calls) == 5:
            raise KeyboardInterrupt
        return real_step(self, batch)

    monkeypatch.setattr(Trainer, "step", dies)
    with pytest.raises(KeyboardInterrupt):
        pretrain(recipe, tmp_path / "broken", tmp_path)
    monkeypatch.setattr(Trainer, "step", real_step)
    pretrain(recipe, tmp_path / "broken", tmp_path)
    whole, broken = (torch.load(tmp_path / name / "training.pt") for name in ("whole", "broken"))
    assert whole["progress"] == broken["progress"] and whole["progress"]["step"] > 5
    for name, weights in whole["model"].items():
        torch.testing.assert_close(broken["model"][name], weights, rtol=0.02, atol=2e-3)


def test_a_step_lowers_the_loss(corpus):
    trainer = Trainer(Recipe(shape=SMALL, warmup_steps=1, tokens=10**6), corpus)
    batch = next(batches(corpus, Batching(copied_first=0, copied_share=0.0, size=1024)))
    before = next_token_loss(trainer.model, batch).item()
    for _ in range(5):
        trainer.step(batch)
    assert next_token_loss(trainer.model, batch).item() < before - 0.5
