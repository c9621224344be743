"""Nouns of product titles, for the type reward.

The original tags with a spaCy model, which is not on PyPI under its own name; so the default is TextBlob's tagger,
whose lexicon is inside its wheel, and `tagger="spacy"` uses the model where it is installed. Titles are tagged once,
when the catalogue is built: playing needs neither package. Buying the goal product scores the same with any tagger.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, get_args

from trajectories.errors import UserError

Tagger = Literal["textblob", "spacy"]
TAGGERS: tuple[Tagger, ...] = get_args(Tagger)
SPACY_MODEL = "en_core_web_sm"


def noun_finder(tagger: Tagger) -> Callable[[str], tuple[str, ...]]:
    """A function from a title to its lower-cased nouns, repeats kept. Raises UserError if the tagger is missing."""
    if tagger == "spacy":
        return _spacy_nouns()
    if tagger == "textblob":
        return _textblob_nouns()
    raise UserError(f"no tagger {tagger!r}; choose one of {', '.join(TAGGERS)}")


def _textblob_nouns() -> Callable[[str], tuple[str, ...]]:
    try:
        from textblob.en.taggers import PatternTagger
    except ImportError as error:
        raise UserError(f"the noun tagger is missing ({error}); run `pip install textblob`") from error
    tagger = PatternTagger()

    def nouns(title: str) -> tuple[str, ...]:
        return tuple(word.lower() for word, tag in tagger.tag(title) if tag.startswith("NN")) if title.strip() else ()

    return nouns


def _spacy_nouns() -> Callable[[str], tuple[str, ...]]:
    try:
        import spacy  # pyright: ignore[reportMissingImports]

        model = spacy.load(SPACY_MODEL, disable=["parser", "ner", "lemmatizer"])
    except (ImportError, OSError) as error:
        raise UserError(
            f"the spaCy model {SPACY_MODEL} is not installed; run `python -m spacy download {SPACY_MODEL}` "
            "or leave tagger at textblob"
        ) from error

    def nouns(title: str) -> tuple[str, ...]:
        return tuple(token.text.lower() for token in model(title) if token.pos_ in ("NOUN", "PROPN"))

    return nouns
