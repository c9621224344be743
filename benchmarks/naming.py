"""What an action names, and whether that is there: the pure part of `benchmarks.copying`.

Every function counts (right, asked) for some measures; `benchmarks.copying` says what they mean.
"""

from __future__ import annotations

import re

from envs.webshop.pages import BACK_TO_SEARCH, BUY, NEXT, PREVIOUS, SUB_PAGES, parse_action
from learners.tiny.shopping import CODE

MEASURES = ("accepted", "present", "name", "number", "code", "option", "word")
BUTTONS = frozenset((BACK_TO_SEARCH, NEXT, PREVIOUS, BUY, *SUB_PAGES))
SEPARATOR = " [SEP] "

_THING = re.compile(r"\b([a-z]+) (\d+)\b")
_WORD = re.compile(r"\w+")

Counts = dict[str, tuple[int, int]]
"""Measure → (right, asked) of one action."""


def things(text: str) -> list[tuple[str, str]]:
    """Names and numbers of the numbered things in a text.

    >>> things("You see a mug 2, and a desk 12. Your task is to: put a mug in desk.")
    [('mug', '2'), ('desk', '12')]
    """
    return _THING.findall(text)


def judge_names(action: str, told: str) -> Counts:
    """Whether the things that an action names are among those told.

    >>> judge_names("move mug 1 to desk 2", "a desk 1, and a mug 1")
    {'name': (2, 2), 'number': (1, 2), 'present': (0, 1)}
    >>> judge_names("take mag 1 from desk 1", "a desk 1, and a mug 1")
    {'name': (1, 2), 'number': (1, 1), 'present': (0, 1)}
    >>> judge_names("look", "a desk 1")
    {}
    """
    named, known = things(action), set(things(told))
    words = {word for word, _ in known}
    right_names = [thing for thing in named if thing[0] in words]
    right = sum(thing in known for thing in right_names)
    counts = {"name": (len(right_names), len(named)), "number": (right, len(right_names))}
    return counts | {"present": (int(right == len(named)), 1)} if named else {}


def judge_move(action: str, told: str, admissible: tuple[str, ...]) -> Counts:
    """An action in a game, in which the environment has said `told` so far."""
    return {"accepted": (int(action in admissible), 1)} | judge_names(action, told)


def judge_words(searched: str, instruction: str) -> tuple[int, int]:
    """How many words of a search stand in the instruction, of how many.

    >>> judge_words("red wool hats", "Find me wool hats with color: Red")
    (3, 3)
    >>> judge_words("rad wool", "Find me wool hats with color: red")
    (1, 2)
    """
    words, known = _WORD.findall(searched.lower()), set(_WORD.findall(instruction.lower()))
    return sum(word in known for word in words), len(words)


def judge_click(clicked: str, page: str) -> Counts:
    """What is clicked on a result page and is no button is meant as a code, on a product page as an option.

    >>> results = "Page 1 (Total results: 1) [SEP] Next > [SEP] B0X1Y2Z3A4 [SEP] Hat"
    >>> judge_click("B0X1Y2Z3A4", results), judge_click("b0x1y2z3a4", results), judge_click("next >", results)
    ({'code': (1, 1)}, {'code': (0, 1)}, {})
    >>> judge_click("navy", "color [SEP] navy blue [SEP] red [SEP] Buy Now")
    {'option': (0, 1)}
    """
    kind = {"result page": "code", "product page": "option"}.get(shop_page(page))
    if kind is None or clicked.lower() in BUTTONS:
        return {}
    return {kind: (int(clicked in page.split(SEPARATOR)), 1)}


def judge_shopping(action: str, instruction: str, page: str, admissible: tuple[str, ...]) -> Counts:
    """An action in the shop; it names only things present if its code, its option or its words all are.

    >>> judge_shopping("search[red hat]", "Find me hats", "WebShop [SEP] Instruction: [SEP] Find me hats", ())
    {'accepted': (1, 1), 'word': (0, 2), 'present': (0, 1)}
    """
    parsed = parse_action(action)
    name = parsed[0] if parsed else ""
    argument = action[len(name) + 1 :].rpartition("]")[0]  # in its own case
    counts: Counts = {}
    if name == "search":
        counts = {"word": judge_words(argument, instruction)}
    elif name == "click":
        counts = judge_click(argument, page)
    asked = [right == of for right, of in counts.values() if of]
    present: Counts = {"present": (int(all(asked)), 1)} if asked else {}
    return {"accepted": (int(is_accepted(action, admissible)), 1)} | counts | present


def is_accepted(action: str, admissible: tuple[str, ...]) -> bool:
    """In the shop: it is listed, in whatever case, or a search.

    >>> is_accepted("click[B0X1]", ("click[b0x1]",)), is_accepted("click[B0X2]", ("click[b0x1]",))
    (True, False)
    >>> is_accepted("search[hat]", ()), is_accepted("search[]", ())
    (True, False)
    """
    parsed = parse_action(action)
    return action.lower() in {listed.lower() for listed in admissible} or (parsed is not None and parsed[0] == "search")


def shop_page(page: str) -> str:
    """Which kind of page this is; "" for those on which there is nothing to copy.

    >>> shop_page("Instruction: [SEP] Find me a hat [SEP] Page 1 (Total results: 1) [SEP] Next > [SEP] B0X1Y2Z3A4")
    'result page'
    >>> shop_page("Instruction: [SEP] Find me a hat [SEP] Page 1 (Total results: 0) [SEP] Next >")
    ''
    """
    if page.startswith("WebShop"):
        return "search page"
    if "(Total results: " in page:
        return "result page" if CODE.search(page) else ""
    return "product page" if page.endswith("Buy Now") else ""
