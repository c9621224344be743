"""The shop's pages: what is on them, how they read, and where an action leads.

A shopper's whole situation is one immutable `Situation`; `nodes` lists what the page shows, `render` turns that into
the original's `text` or `text_rich` observation, `follow` gives the situation after a search or a click.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Literal, NamedTuple

from envs.webshop.catalogue import Catalogue
from envs.webshop.goals import Goal

ObservationMode = Literal["text", "text_rich"]
MAX_HITS = 50
HITS_PER_PAGE = 10
BACK_TO_SEARCH, NEXT, PREVIOUS, BUY = "back to search", "next >", "< prev", "buy now"


class Page(StrEnum):
    """Which page is shown."""

    SEARCH = "search"
    RESULTS = "results"
    ITEM = "item"
    DESCRIPTION = "description"
    FEATURES = "features"
    REVIEWS = "reviews"
    DONE = "done"


SUB_PAGES = {page.value: page for page in (Page.DESCRIPTION, Page.FEATURES, Page.REVIEWS)}


class Kind(StrEnum):
    """What a piece of a page is."""

    TEXT = "text"
    BUTTON = "button"
    PRODUCT = "product"
    OPTION = "option"


class Node(NamedTuple):
    """A visible piece of a page; `option` is the option's name, `row` the product's row."""

    kind: Kind
    text: str
    option: str = ""
    row: int = -1


@dataclass(frozen=True, slots=True)
class Situation:
    """Where the shopper is.

    Attributes:
        query: the last search, "" before the first.
        hits: product rows it found, best first.
        number: which page of the hits, from 1; the shop lets a shopper page on past the last hit.
        row: the opened product.
        options: chosen (name, value) pairs in order of their first choice.
        seen: rows of the products opened since the last visit to the search page.
    """

    page: Page = Page.SEARCH
    query: str = ""
    hits: tuple[int, ...] = ()
    number: int = 1
    row: int = -1
    options: tuple[tuple[str, str], ...] = ()
    seen: frozenset[int] = frozenset()


def parse_action(action: str) -> tuple[str, str] | None:
    """`search[Red Shoes]` → `("search", "red shoes")`; None where the string is no `name[argument]`.

    Of several brackets the last pair counts, as in the original, whose regular expression `(.+)\\[(.+)\\]` takes time
    in the square of their number.
    """
    line = action.partition("\n")[0]
    end = line.rfind("]")
    start = line.rfind("[", 1, max(0, end - 1))
    return None if start < 0 else (line[:start], line[start + 1 : end].lower())


def follow(
    situation: Situation, name: str, argument: str, page: Sequence[Node], catalogue: Catalogue
) -> Situation | None:
    """The situation after an action on a page with these nodes; None where the action does nothing.

    `search` is accepted on every page; `click` takes the text of a button, product link or option that is shown.
    """
    if name == "search":
        hits = catalogue.search(argument, MAX_HITS)
        return Situation(Page.RESULTS, argument, hits, seen=situation.seen)
    if name != "click" or argument == "search":
        return None
    node = clickables(page).get(argument)
    return None if node is None else _click(situation, argument, node)


def clickables(page: Sequence[Node]) -> dict[str, Node]:
    """What can be clicked, by the text to click: buttons, then product links, then options, as in the original."""
    found = {node.text.lower(): node for node in page if node.kind is Kind.BUTTON}
    found |= {node.text.lower(): node for node in page if node.kind is Kind.PRODUCT}
    found |= {node.text: node for node in page if node.kind is Kind.OPTION}
    return found


def _click(situation: Situation, argument: str, node: Node) -> Situation:
    """The shop goes by the name first: an option called "description" opens the description."""
    if argument == BUY:
        return replace(situation, page=Page.DONE)
    if argument == BACK_TO_SEARCH:
        return Situation()
    if situation.page is Page.RESULTS and argument in (NEXT, PREVIOUS):
        return replace(situation, number=situation.number + (1 if argument == NEXT else -1))
    if argument == PREVIOUS:
        if situation.page is Page.ITEM:
            return replace(situation, page=Page.RESULTS, row=-1, options=())
        return replace(situation, page=Page.ITEM)
    if argument in SUB_PAGES:
        return replace(situation, page=SUB_PAGES[argument])
    if node.kind is Kind.PRODUCT:
        return replace(situation, page=Page.ITEM, row=node.row, seen=situation.seen | {node.row})
    if node.kind is Kind.OPTION:
        return replace(situation, options=tuple((dict(situation.options) | {node.option: argument}).items()))
    return situation


def nodes(situation: Situation, goal: Goal, catalogue: Catalogue, score: float = 0.0) -> list[Node]:
    """The visible pieces of the page, top to bottom. `score` is shown on the page after the purchase."""
    if situation.page is Page.DONE:
        return [Node(Kind.TEXT, text) for text in _receipt(situation, catalogue, score)]
    if situation.page is Page.SEARCH:
        texts = ("WebShop", "Instruction: ", goal.instruction)
        return [*(Node(Kind.TEXT, text) for text in texts if text), Node(Kind.BUTTON, "Search")]
    page = [Node(Kind.TEXT, "Instruction:"), Node(Kind.TEXT, goal.instruction), Node(Kind.BUTTON, "Back to Search")]
    if situation.page is Page.RESULTS:
        page += _results(situation, catalogue)
    else:
        page.append(Node(Kind.BUTTON, "< Prev"))
        page += _item(situation, catalogue) if situation.page is Page.ITEM else _sub_page(situation, catalogue)
    return [node for node in page if _shows(node.text)]


def _results(situation: Situation, catalogue: Catalogue) -> list[Node]:
    page = [Node(Kind.TEXT, f"Page {situation.number} (Total results: {len(situation.hits)})")]
    if situation.number > 1:
        page.append(Node(Kind.BUTTON, "< Prev"))
    page.append(Node(Kind.BUTTON, "Next >"))
    for row in situation.hits[(situation.number - 1) * HITS_PER_PAGE : situation.number * HITS_PER_PAGE]:
        product = catalogue.product(row)
        page += [
            Node(Kind.PRODUCT, product.asin, row=row),
            Node(Kind.TEXT, product.title),
            Node(Kind.TEXT, product.price_tag),
        ]
    return page


def _item(situation: Situation, catalogue: Catalogue) -> list[Node]:
    product = catalogue.product(situation.row)
    page: list[Node] = []
    for name, values in product.options:
        page.append(Node(Kind.TEXT, name))
        page += [Node(Kind.OPTION, value, option=name) for value in values]
    texts = (product.title, f"Price: {product.price_tag}", "Rating: N.A.")
    buttons = ("Description", "Features", "Reviews", "Buy Now")
    return [*page, *(Node(Kind.TEXT, text) for text in texts), *(Node(Kind.BUTTON, text) for text in buttons)]


def _sub_page(situation: Situation, catalogue: Catalogue) -> list[Node]:
    """Description or features; the reviews page is empty, since no reviews come with the data."""
    product = catalogue.product(situation.row)
    if situation.page is Page.DESCRIPTION:
        return [Node(Kind.TEXT, product.description)]
    if situation.page is Page.FEATURES:
        return [Node(Kind.TEXT, f" {bullet}") for bullet in product.bullets]
    return []


def _receipt(situation: Situation, catalogue: Catalogue, score: float) -> list[str]:
    """The original's last page names fields that it never fills in; the empty ones have no text."""
    options = json.dumps(dict(situation.options), sort_keys=True)
    for mark in "<>&'":
        options = options.replace(mark, f"\\u{ord(mark):04x}")
    purchased = ["attrs", "None", "category", "None", "query", "None", "product category", "None"]
    target = ["asin", "options", "attrs", "price upper", "instuction text", "category", "product category", "query"]
    return [
        *("Thank you for shopping with us!", "Your code: ", "None", " (Paste it in your MTurk interface.)"),
        *("Purchased", "asin", catalogue.product(situation.row).asin, "options", options, *purchased),
        *("Target", *target, "Goal ", "None", "Reward"),
        *("Your score (min 0.0, max 1.0)", str(score), "Reward Details ", "None"),
    ]


def _shows(text: str) -> bool:
    """An HTML parser drops empty text, and white space that breaks a line."""
    return bool(text) and not (text.isspace() and "\n" in text)


def render(page: Sequence[Node], situation: Situation, mode: ObservationMode) -> str:
    """The observation.

    `text`: all pieces joined with " [SEP] ". `text_rich`: one piece a line, buttons and options marked, chosen options
    and opened products marked as clicked, and a line "You have clicked X." in front for each chosen option.
    """
    if mode == "text":
        return " [SEP] ".join([node.text.strip() for node in page])
    address = _address(situation)
    clicked: list[str] = []
    lines: list[str] = []
    for node in page:
        if node.kind is Kind.OPTION and f'"{node.text}"' in address:
            clicked.append(f"You have clicked {node.text}.\n")
            lines.append(f"  [clicked button] {node.text} [clicked button_]\n")
        else:
            lines.append(_rich_line(node, situation))
    return "".join([*reversed(clicked), *lines])


def _rich_line(node: Node, situation: Situation) -> str:
    match node.kind:
        case Kind.BUTTON:
            return f"[button] {node.text} [button_]\n"
        case Kind.OPTION:
            return f"  [button] {node.text} [button_]\n"
        case Kind.PRODUCT:
            word = "clicked button" if node.row in situation.seen else "button"
            return f"\n[{word}] {node.text} [{word}_]\n"
    return f"{node.text}\n"


def _address(situation: Situation) -> str:
    """The part of the original's page address in which it looks for quoted option values to see what was clicked."""
    return f"{situation.query.replace(' ', '+')}/{json.dumps(dict(situation.options))}"
