"""The report in a real browser, as a file and served: wide and narrow, light and dark, by mouse and by keyboard."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from rich.console import Console

from cluster.commands.report import write_report
from cluster.reporting.report.server import Library, ReportServer
from tests.cluster.reporting.browser import CHROMIUM, Browser, browser
from tests.cluster.reporting.report_runs import SEEN, write_run

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed (Debian: chromium)")
SIZES = {"wide": (1280, 900), "narrow": (390, 844)}
VIEWS = {
    "summary": "#view=summary",
    "curves": "#view=curves",
    "episodes": "#view=episodes",
    "episode": "#episode=grpo-3-0",
    "settings": "#view=settings",
}
OPEN = "document.querySelector('.detail .episode')"
ROWS = "document.querySelectorAll('.rows li').length"
COUNT = "document.querySelector('.count').textContent"
CONTRAST = (Path(__file__).parent / "data" / "contrast.js").read_text(encoding="utf-8")
CODE = "<img src=x onerror=\"document.title='taken'\"></script><script>document.title='taken'</script>"


@pytest.fixture(scope="module")
def tab() -> Iterator[Browser]:
    with browser() as tab:
        yield tab


@pytest.fixture(autouse=True)
def no_error_and_no_network(tab: Browser) -> Iterator[None]:
    """Whatever a test does: the console stays silent, and nothing is asked for but from this machine."""
    tab.errors, tab.requests = [], []
    yield
    assert tab.errors == []
    foreign = [url for url in tab.requests if not url.startswith(("file://", "data:", "about:", "http://127.0.0.1:"))]
    assert tab.requests and foreign == []


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The address of a report on two runs, the second with texts that try to be code."""
    folder = tmp_path_factory.mktemp("report")
    hostile = write_run(folder / "hostile", seen=CODE, said=CODE, settings=["seed=2"])
    runs = [write_run(folder / "calm", settings=["seed=1"]), hostile]
    write_report(runs, out := folder / "report.html", 24, Console(quiet=True))
    return out.as_uri()


@contextmanager
def served(*runs: Path) -> Iterator[str]:
    with ReportServer(Library(runs), 0) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            yield server.url
        finally:
            server.shutdown()
            thread.join()


def address(tab: Browser) -> dict[str, str]:
    return tab.value("place.read()")


def choose(tab: Browser, field: str, value: str) -> None:
    """An entry of one of the lists above the episodes."""
    tab.value(f"""(() => {{
      const field = document.querySelector('select[aria-label="{field}"]');
      field.value = {value!r};
      field.dispatchEvent(new Event("change"));
    }})()""")


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("view", VIEWS)
def test_all_is_legible_and_within_the_screen(tab, file, view, size, dark):
    width, height = SIZES[size]
    tab.open(file + VIEWS[view], width, height, dark)
    tab.wait({"episode": OPEN, "curves": "document.querySelector('canvas')"}.get(view, "true"))
    assert tab.value("document.documentElement.scrollWidth <= innerWidth")
    assert tab.value(CONTRAST) == []


@pytest.mark.parametrize("size", SIZES)
def test_a_shared_link_opens_its_episode(tab, file, size):
    tab.open(f"{file}#episode=grpo-3-0&run=calm&outcome=solved", *SIZES[size])
    tab.wait(OPEN)
    assert SEEN in tab.value("document.querySelector('.seen').textContent")
    assert tab.value("document.querySelector('.chosen').dataset.id") == "grpo-3-0"
    assert tab.value("[...document.querySelectorAll('.rows .dot')].every((dot) => dot.matches('.solved'))")
    assert tab.value("document.querySelector('.side').offsetParent === null") == (size == "narrow")


def test_on_a_narrow_screen_a_button_leads_back_to_the_list(tab, file):
    tab.open(f"{file}#episode=grpo-3-0", *SIZES["narrow"])
    tab.wait(OPEN)
    tab.value("document.querySelector('.back').click()")
    tab.wait("document.querySelector('.side').offsetParent")
    assert address(tab) == {"view": "episodes"}


def test_keys_go_through_episodes_and_turns(tab, file):
    tab.open(f"{file}#view=episodes")
    tab.wait(ROWS)
    for key, episode in (("j", "grpo-5-1"), ("j", "grpo-5-0"), ("j", "grpo-4-1"), ("k", "grpo-5-0")):
        tab.press(key)
        tab.wait(f"document.querySelector('.chosen')?.dataset.id === '{episode}' && {OPEN}")
    for key, turn in (("ArrowRight", 1), ("ArrowRight", 2), ("ArrowRight", 2), ("ArrowLeft", 1)):
        tab.press(key)
        assert tab.value("document.activeElement.querySelector('.marks .count')?.textContent") == f"turn {turn}"
    tab.press("/")
    assert tab.value("document.activeElement.type") == "search"
    tab.press("Escape")
    tab.press("Escape")
    tab.wait(f"!{OPEN}")


def test_filters_stand_in_the_address_and_can_be_shared(tab, file):
    tab.open(f"{file}#view=episodes")
    tab.wait(f"{ROWS} === 12")
    choose(tab, "outcome", "solved")
    tab.wait(f"{ROWS} === 6")
    choose(tab, "type", "look_at")
    tab.wait(f"{ROWS} === 3")
    tab.value("document.querySelector('.filters input[type=text]').focus()")
    tab.type("2-3")
    tab.press("Enter")
    tab.wait(f"{ROWS} === 2")
    assert tab.value(COUNT) == "2 episodes"
    shared = tab.value("location.href")
    assert address(tab) == {"view": "episodes", "outcome": "solved", "type": "look_at", "step": "2-3"}
    tab.value("history.back()")
    tab.wait(f"{ROWS} === 3")
    tab.open(shared)
    tab.wait(f"{ROWS} === 2")


def test_a_step_that_is_none_is_told_and_not_raised(tab, file):
    tab.open(f"{file}#view=episodes&step=soon")
    tab.wait(f"{COUNT}.includes('is no step')")


def test_a_search_finds_words_and_says_when_there_are_none(tab, file):
    tab.open(f"{file}#view=episodes")
    tab.wait(ROWS)
    tab.press("/")
    tab.type("SEE A MUG")
    tab.press("Enter")
    tab.wait(f"{COUNT} === '12 episodes' && {ROWS} === 12")
    tab.open(f"{file}#view=episodes&text=nowhere+said")
    tab.wait(f"{COUNT} === '0 episodes'")


def test_words_of_an_episode_stay_words(tab, file):
    tab.open(f"{file}#episode=grpo-3-0&run=hostile")
    tab.wait(OPEN)
    assert CODE in tab.value("document.querySelector('.seen').textContent")
    assert tab.value("document.title") == "calm, hostile · Concerto"
    assert tab.value("document.querySelectorAll('main img, main script').length") == 0


def test_curves_are_drawn_and_redrawn_in_the_dark(tab, file):
    tab.open(f"{file}#view=curves")
    tab.wait("document.querySelectorAll('.chart canvas').length === document.querySelectorAll('.chart').length")
    picture = "document.querySelector('canvas').toDataURL()"
    light = tab.value(picture)
    tab.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": "dark"}])
    tab.wait(f"{picture} !== {light!r}")
    assert len(light) > 2000


def test_a_punishment_does_not_look_like_a_reward(tab, file):
    tab.open(file)
    marks = "turnItem({...%s, reward: -0.1}, 0).querySelector('.marks').innerHTML"
    said = tab.value(marks % "{advantage: null, valid: true, truncated: false, tokens: [], logprobs: [], seen: []}")
    assert 'class="chip warn">reward -0.1' in said


def test_the_served_page_lists_searches_and_opens(tab, tmp_path):
    with served(write_run(tmp_path / "run", steps=30)) as url:
        tab.open(f"{url}#view=episodes")
        tab.wait(f"{ROWS} === 100")
        tab.value("document.querySelector('.more').click()")
        tab.wait(f"{ROWS} === 120 && document.querySelector('.more').hidden")
        tab.press("/")
        tab.type("mug 1 from")
        tab.press("Enter")
        tab.wait(f"{COUNT}.includes('episodes found in the newest')")
        tab.open(f"{url}#episode=grpo-1-0")
        tab.wait(OPEN)
        assert SEEN in tab.value("document.querySelector('.seen').textContent")


def test_an_episode_that_is_not_in_the_file_is_told_where_to_find(tab, file):
    tab.open(f"{file}#episode=grpo-99-0")
    tab.wait("document.querySelector('.empty')?.textContent.includes('concerto report --serve has all')")
