"""Noun taggers."""

from __future__ import annotations

import sys
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from envs.webshop.nouns import noun_finder
from trajectories.errors import UserError

FIND = noun_finder("textblob")


def test_the_default_tagger_finds_nouns_with_repeats() -> None:
    assert FIND("Hat, a warm hat and the Table") == ("hat", "hat", "table")
    assert FIND("") == FIND("  ") == ()


@given(st.text(max_size=60))
def test_any_title_can_be_tagged(title: str) -> None:
    assert all(isinstance(noun, str) for noun in FIND(title))


def test_a_missing_tagger_names_the_fix(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("textblob.en.taggers", "spacy"):
        monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(UserError, match="pip install textblob"):
        noun_finder("textblob")
    with pytest.raises(UserError, match="spacy download en_core_web_sm` or leave tagger at textblob"):
        noun_finder("spacy")


def test_spacy_counts_nouns_and_proper_nouns(monkeypatch: pytest.MonkeyPatch) -> None:
    tags = {"Red": "ADJ", "Hat": "NOUN", "Paris": "PROPN"}
    model = lambda title: [SimpleNamespace(text=word, pos_=tags[word]) for word in title.split()]  # noqa: E731
    monkeypatch.setitem(sys.modules, "spacy", SimpleNamespace(load=lambda name, disable: model))
    assert noun_finder("spacy")("Red Hat Paris") == ("hat", "paris")
