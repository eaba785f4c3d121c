"""Tournaments and leagues on the page, in a real browser."""

from __future__ import annotations

import contextlib
import json
from concurrent.futures import ThreadPoolExecutor
from urllib.parse import parse_qs, urlsplit

import pytest
from contest_runs import ODD, write_elo, write_league, write_tournament
from view_pages import open_browser, serving, watching

from benchmarks.stored_run import write_run
from selfplay.export import Request, export

pytestmark = [pytest.mark.browser, pytest.mark.slow]

NAMES = ("best", ODD, "worst")
MINUS = "\u2212"


@pytest.fixture(scope="module")
def held(tmp_path_factory):
    runs = tmp_path_factory.mktemp("runs")
    found = write_tournament(runs / "cup", NAMES)
    write_elo(runs / "elo", NAMES)
    league = write_league(runs / "league", steps=12)
    write_tournament(runs / "damaged", NAMES)
    (runs / "damaged" / "tournament.json").write_text('{"schema": "<script>alert(1)</script>"}')
    write_run(runs / "chat", conversations=16, steps=2, turns=2, tokens="none")
    return runs, found, league


@pytest.fixture(scope="module")
def browser():
    with open_browser() as found:
        yield found


@pytest.fixture(scope="module")
def address(held):
    with serving(held[0]) as found:
        yield found


@pytest.fixture
def window(browser, address):
    with contextlib.ExitStack() as stack:
        opened = []

        def open_window(place=address, **settings):
            opened.append(stack.enter_context(watching(browser, place, **settings)))
            return opened[-1]

        yield open_window
        assert [watched.complaints for watched in opened] == [[]] * len(opened)
        assert [watched.asked_elsewhere for watched in opened] == [[]] * len(opened)


def cells(page):
    return page.locator(".matrix tbody td")


def shown(value):
    return f"{value:+.2f}".replace("-", MINUS) if value else "0.00"


def test_tournament_shows_ratings_and_every_payoff_with_its_conversations(window, held):
    _, found, _ = held
    page = window().open("/r/cup")
    page.wait_for_selector(".matrix")
    assert page.locator(".standings tbody th").all_inner_texts() == found.names
    wanted = [shown(found.cell(row, column).payoff.value) for row in found.names for column in found.names]
    assert [text.partition("\n")[0] for text in cells(page).all_inner_texts()] == wanted
    # Blue or orange says no more than the sign.
    kinds = [cell.get_attribute("class").split()[1:] for cell in page.locator(".matrix .side").all()]
    assert kinds == [["gain"] if text[0] == "+" else ["loss"] if text[0] == MINUS else [] for text in wanted]
    link = cells(page).nth(1).locator("a")
    assert parse_qs(urlsplit(link.get_attribute("href")).query)["q"] == [found.cell("best", ODD).filter]
    link.click()
    page.get_by_text("4 of 18").first.wait_for()


def test_tournament_shows_one_role_when_it_is_chosen(window, held):
    _, found, _ = held
    page = window().open("/r/cup")
    page.get_by_role("button", name="as buyer").click()
    assert page.get_by_role("button", name="as buyer").get_attribute("aria-pressed") == "true"
    cell = found.cell("worst", "best")
    assert cells(page).nth(6).inner_text().startswith(shown(cell.numbers["game/payoff/buyer"].value))
    href = cells(page).nth(6).locator("a").get_attribute("href")
    assert parse_qs(urlsplit(href).query)["q"] == [cell.role_filters["buyer"]]


def test_every_two_lead_to_their_conversations_and_to_what_was_said_of_them(window):
    page = window().open("/r/elo")
    page.get_by_text("Every two compared").click()
    row = page.locator("details tr", has=page.get_by_role("link", name="best \u2013 worst"))
    assert parse_qs(urlsplit(row.get_by_role("link").get_attribute("href")).query)["q"] == ["player=best,worst"]
    row.get_by_role("button", name="4 comparisons of best and worst").press("Enter")
    judged = page.locator(".judged")
    assert judged.evaluate("place => place === document.activeElement")
    judged.get_by_text("As judge:script said, asked “Which follows the principle better?”").wait_for()
    lines = judged.locator("tbody tr").filter(has_text="seller")
    assert "best, 75.0%" in lines.first.inner_text()
    assert "listens: 87.5% for the first as (A), 62.5% as (B)" in lines.first.inner_text()
    links = lines.first.get_by_role("link")
    # In the order of their names: best, odd, worst; the preferred one is bold.
    assert links.all_inner_texts() == ["000000-p00-0", "000000-p00-2"]
    assert lines.first.locator("b").all_inner_texts() == ["000000-p00-0"]
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    links.nth(1).click()
    page.get_by_text("as ever", exact=True).first.wait_for()


def test_tie_of_equal_texts_says_so(window):
    page = window(viewport={"width": 390, "height": 844}).open("/r/elo")
    page.get_by_text("Every two compared").click()
    page.get_by_role("button", name="comparisons of").last.press("Enter")
    page.locator(".judged").get_by_text("tie: both read the same").first.wait_for()
    assert page.evaluate("document.documentElement.scrollWidth") <= 390


def test_names_of_players_stay_text(window):
    page = window().open("/r/cup")
    page.wait_for_selector(".matrix")
    assert page.locator("img, script:not([src])").count() == 0
    assert page.locator(".matrix tbody th").nth(1).inner_text() == ODD


def test_damaged_tournament_is_a_notice(window):
    page = window().open("/r/damaged")
    page.get_by_text("tournament.json: its schema is not").wait_for()
    assert page.locator(".matrix").count() == 0


def test_league_shows_curves_and_what_came_of_each_opponent(window, held):
    league = held[2]
    page = window().open("/r/league")
    page.wait_for_selector(".pool")
    assert page.locator(".charts figure").count() == 3
    assert page.locator(".charts .band").count() == 2
    opponents = page.locator(".pool tbody th").all_inner_texts()
    assert opponents[0] == "itself"
    assert [text for text in opponents if text.startswith("version")] == [f"version {n}" for n in (12, 9, 6, 3)]
    result = league.results["scripted"]["seller"]
    row = page.locator(".pool tr", has=page.get_by_text("the script", exact=True))
    row.get_by_text(f"{result.wins} / {result.ties} / {result.losses}", exact=True).click()
    page.get_by_text(f"{result.num_games} of 96").first.wait_for()


def test_page_of_a_league_follows_its_run(browser, tmp_path):
    write_league(tmp_path / "league", steps=6)
    other = write_league(tmp_path / "longer", steps=9)
    with serving(tmp_path) as address, watching(browser, address) as watched:
        page = watched.open("/r/league")
        page.wait_for_selector(".pool")
        assert page.get_by_text("2 snapshots").count() == 1
        (tmp_path / "league" / "league.json").write_text(json.dumps(other.to_json()))
        lines = (tmp_path / "longer" / "metrics.jsonl").read_text().splitlines(keepends=True)
        with (tmp_path / "league" / "metrics.jsonl").open("a") as file:
            file.writelines(lines[6:])
        page.get_by_text("3 snapshots").wait_for()
        assert watched.complaints == []


@pytest.mark.parametrize("run", ["chat", "league", "cup"])
def test_only_runs_that_have_one_load_the_script(run, window):
    watched = window()
    page = watched.open(f"/r/{run}")
    page.get_by_role("heading", name="The run").wait_for()
    page.wait_for_load_state("networkidle") if run == "chat" else page.wait_for_selector(".matrix, .pool")
    files = {url.rpartition("/")[2] for url in watched.asked if "/static/" in url}
    assert ({"contests.js", "contests.css"} <= files) == (run != "chat")
    assert ("contests.js" in files) == (run != "chat")


@pytest.mark.parametrize("run", ["league", "cup"])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_page_is_no_wider_than_a_phone_and_its_cells_can_be_read(run, scheme, window):
    page = window(viewport={"width": 390, "height": 844}, color_scheme=scheme).open(f"/r/{run}")
    page.wait_for_selector(".matrix, .pool")
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    # Text on the strongest colour, by WCAG's contrast; 4.5 is asked for.
    contrast = """() => {
      const canvas = new OffscreenCanvas(1, 1).getContext("2d", { willReadFrequently: true });
      const rgb = (...layers) => {
        for (const colour of layers) { canvas.fillStyle = colour; canvas.fillRect(0, 0, 1, 1); }
        return [...canvas.getImageData(0, 0, 1, 1).data].slice(0, 3);
      };
      const light = (rgb) => rgb.map((v) => v / 255)
        .map((v) => (v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4))
        .reduce((sum, v, k) => sum + v * [0.2126, 0.7152, 0.0722][k], 0);
      return [...document.querySelectorAll(".matrix .side")].map((cell) => {
        const { color, backgroundColor } = getComputedStyle(cell);
        const under = getComputedStyle(cell.closest(".panel")).backgroundColor;
        const [a, b] = [light(rgb(color)), light(rgb(under, backgroundColor))].sort((x, y) => y - x);
        return (a + 0.05) / (b + 0.05);
      });
    }"""
    assert all(value >= 4.5 for value in page.evaluate(contrast))


@pytest.mark.parametrize("run", ["league", "cup"])
def test_exported_page_shows_them_too(run, held, window, tmp_path):
    out = tmp_path / "page.html"
    # It has a loop of its own, as the browser's has in this thread.
    with ThreadPoolExecutor(1) as threads:
        threads.submit(export, held[0] / run, Request(to="html", out=out)).result(timeout=60)
    page = window(out.as_uri(), offline=True).open("")
    page.get_by_role("link", name=run, exact=True).click()
    page.wait_for_selector(".matrix, .pool")
    if run == "cup":
        cells(page).nth(1).locator("a").click()
        page.get_by_text("4 of 18").first.wait_for()
