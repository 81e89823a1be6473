"""The page of submissions in a real browser, before a real gateway and a real worker: files in, tickets, answers, downloads."""

from __future__ import annotations

import base64
import contextlib
import csv
import io
import json
import re
import sys
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from playwright.sync_api import Browser, Page, expect

from jobs.submissions.database import Database
from jobs.submissions.tables import SUBMISSIONS
from tests.toy.bits import bits_of
from tests.toy.digits_bundle import digit_files, write_digits_bundle
from tests.toy.hook_sink import hook_sink
from tests.toy.house_bundle import house_wire
from tests.toy.pages import PHONE, accessibility_problems, chromium, opened
from tests.toy.processes import free_port, server, wait_until
from tests.toy.serving import write_store
from tests.toy.workspace import CONF_DIR
from udfs.bundle import load_bundle
from udfs.online import OnlineScorer

N = 250


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as running:
        yield running


@dataclass(frozen=True)
class Gateway:
    """A running gateway.

    Args:
        url: of its page.
        directory: where everything is kept.
        work: the command that starts a worker.
        env: of its processes.
    """

    url: str
    directory: Path
    work: list[str]
    env: dict[str, str]


@contextlib.contextmanager
def gateway_of(model: str, bundle: Path, directory: Path, env: dict[str, str]) -> Iterator[Gateway]:
    """Run a gateway, without a worker."""
    port, output = free_port(), directory / "gateway.log"
    env = env | {"ONESCORE_HOME": str(directory), "ONESCORE_CONF_DIR": str(CONF_DIR), "HOOK_SECRET": "s" * 32}
    shared = ["--model", model, "--bundle", str(bundle)]
    for setting in (
        f"store.url=sqlite:///{directory}/online.db",
        "dashboard.refresh_seconds=0.2",
        "serve.log_flush_seconds=0.3",
        "notify.webhook_secret=env:HOOK_SECRET",
        "notify.webhook_http=true",
        "notify.webhook_private=true",
        "notify.email=env:MAIL_URL",
        "notify.email_domains=[example.org]",
    ):
        shared += ["--set", setting]
    command = [sys.executable, "-m", "jobs.serve_async", *shared, "--port", str(port)]
    with server(command, env=env, cwd=directory, log=output) as process:
        wait_until(lambda: '"gateway_ready"' in output.read_text(), "the gateway", 60, output)
        work = [sys.executable, "-m", "jobs.work_async", *shared, "--scorers", "1"]
        yield Gateway(f"http://127.0.0.1:{port}/", directory, work, env)
        process.terminate()
        assert process.wait(20) == 0


@pytest.fixture(scope="module")
def gateway(
    bundle: Path, process_env: dict[str, str], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Gateway]:
    """A gateway of the toy model, without a worker."""
    directory = tmp_path_factory.mktemp("gateway")
    write_store(directory / "online.db")
    with gateway_of("houses", bundle, directory, process_env) as running:
        yield running


@pytest.fixture
def worker(gateway: Gateway) -> Iterator[None]:
    """A worker while the test runs."""
    log = gateway.directory / "worker.log"
    with server(gateway.work, env=gateway.env, cwd=gateway.directory, log=log):
        yield


@pytest.fixture(scope="module")
def rows() -> list[dict[str, Any]]:
    """Rows that bring every stored field; one in fifty has no area, which is needed. None has an empty text, which CSV cannot say."""
    found = [row | {"town": row["town"] or "town-1"} for row in house_wire(N, seed=4)]
    for row in found[::50]:
        row["area_m2"] = None
    return found


@pytest.fixture(scope="module")
def table(rows: list[dict[str, Any]]) -> bytes:
    """The same as CSV; its numbers have every digit."""
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]))
    writer.writeheader()
    for row in rows:
        writer.writerow({name: "" if v in (None, "NaN") else v for name, v in row.items()})
    return text.getvalue().encode()


def chosen(page: Page, name: str, content: bytes, kind: str = "text/csv") -> None:
    page.locator("#files").set_input_files({"name": name, "mimeType": kind, "buffer": content})


def test_a_table_is_sent_watched_shown_and_downloaded(
    gateway: Gateway, browser: Browser, bundle: Path, rows: list[dict[str, Any]], table: bytes
) -> None:
    with opened(browser, gateway.url) as page:
        expect(page.locator("#model")).to_have_text("scored by houses")
        expect(page.locator("#none")).to_contain_text("None yet")
        page.get_by_text("What a row must hold").click()
        expect(page.locator("#fields tbody tr").first).to_contain_text("house_id")
        chosen(page, "houses of may.csv", table)
        ticket = page.locator(".ticket")
        expect(ticket.get_by_role("heading")).to_have_text("houses of may.csv")
        expect(ticket.locator(".pill")).to_have_text("Waiting")
        expect(page.locator("#said")).to_contain_text("houses of may.csv: taken, ticket ")
        assert page.evaluate("document.activeElement.textContent") == "houses of may.csv"
        assert accessibility_problems(page) == []
        page.reload()  # the ticket is still there, under its name
        expect(ticket.get_by_role("heading")).to_have_text("houses of may.csv")
        log = gateway.directory / "worker.log"
        with server(gateway.work, env=gateway.env, cwd=gateway.directory, log=log):
            expect(ticket.locator(".pill")).to_have_text("Done", timeout=120_000)
        expect(page.locator("#said")).to_have_text(f"houses of may.csv: Done, 5 of {N} rows refused")
        expect(ticket.locator(".refused")).to_have_text(f"5 of {N} rows refused")
        expect(ticket.locator(".pill")).to_have_class("pill ok")
        ticket.get_by_role("button", name="Show answers").click()
        expect(ticket.locator("tbody tr")).to_have_count(100)
        expect(ticket.locator("tbody tr").first).to_contain_text("NULL_NOT_ALLOWED")
        assert accessibility_problems(page) == []
        for expected in (200, N):
            ticket.get_by_role("button", name="Show more").click()
            expect(ticket.locator("tbody tr")).to_have_count(expected)
        expect(ticket.locator(".answers .lead")).to_contain_text(f"{N} rows, in the order")
        with page.expect_download() as begun:
            ticket.get_by_role("button", name="Download CSV").click()
        assert begun.value.suggested_filename == "houses_of_may-answers.csv"
        answers = list(csv.DictReader(begun.value.path().read_text().splitlines()))
        with page.expect_download() as begun:
            ticket.get_by_role("button", name="Download JSON lines").click()
        lines = [json.loads(line) for line in begun.value.path().read_text().splitlines()]
    alone = OnlineScorer(load_bundle(bundle), None, clock=lambda: 0).answer(rows)
    assert len(answers) == len(lines) == N
    for row, answer, line, expected in zip(rows, answers, lines, alone, strict=True):
        assert answer["house_id"] == str(row["house_id"])
        if "error" in expected:
            assert answer["error_code"] == line["error"]["code"] == expected["error"]["code"]
        else:
            assert bits_of(float(answer["score"])) == bits_of(line["score"]) == bits_of(expected["score"])


@pytest.mark.usefixtures("worker")
def test_several_files_by_dropping_and_what_is_wrong_in_words(
    gateway: Gateway, browser: Browser, table: bytes
) -> None:
    with opened(browser, gateway.url) as page:
        expect(page.locator("#model")).not_to_be_empty()
        page.evaluate(
            """([text]) => {
              const data = new DataTransfer();
              data.items.add(new File([text], "one.csv", { type: "text/csv" }));
              data.items.add(new File(['{"rows": [{"house_id": 1}]}'], "two.json", { type: "application/json" }));
              const drop = document.getElementById("drop");
              drop.dispatchEvent(new DragEvent("dragenter", { dataTransfer: data, bubbles: true }));
              if (!drop.classList.contains("over")) throw new Error("the place does not show that files may be dropped");
              drop.dispatchEvent(new DragEvent("drop", { dataTransfer: data, bubbles: true }));
            }""",
            [table.decode()],
        )
        names = page.locator(".ticket h3")
        expect(names.filter(has_text=re.compile("^(one.csv|two.json)$"))).to_have_count(2)
        expect(page.locator(".ticket", has_text="two.json").locator(".pill")).to_have_text(
            "Done", timeout=120_000
        )
        expect(page.locator(".ticket", has_text="two.json").locator(".refused")).to_have_text(
            "1 of 1 row refused"
        )
        expect(page.locator(".ticket", has_text="two.json").locator(".pill")).to_have_class("pill warn")
        page.locator(".ticket", has_text="two.json").get_by_role("button", name="Show answers").click()
        expect(page.locator(".ticket", has_text="two.json").locator("tbody tr")).to_contain_text(
            "NULL_NOT_ALLOWED"
        )

        chosen(page, "notes.txt", b"hello", "text/plain")
        expect(page.locator("#problem")).to_have_text("notes.txt is no image, CSV or JSON file.")
        chosen(page, "a.png", b"x", "image/png")
        expect(page.locator("#problem")).to_have_text(
            "The model that is served takes no images; send a CSV or JSON file."
        )
        chosen(page, "ragged.csv", b"house_id,rooms\n1\n")
        line = page.locator(".sending li")
        expect(line).to_contain_text(
            "The file is not as it must be: row 1: it has 1 values, and the header has 2."
        )
        assert accessibility_problems(page) == []
        line.get_by_role("button", name="Dismiss").click()
        expect(line).to_have_count(0)


def test_one_that_waits_is_cancelled_by_keyboard(gateway: Gateway, browser: Browser, table: bytes) -> None:
    with opened(browser, gateway.url) as page:
        page.on("filechooser", lambda _: None)  # from now on no chooser of the system opens
        expect(page.locator("#model")).not_to_be_empty()
        for _ in range(12):
            page.keyboard.press("Tab")
            if page.evaluate("document.activeElement.id") == "files":
                break
        expect(page.locator("#files")).to_be_focused()
        with page.expect_file_chooser() as asked:
            page.keyboard.press("Enter")
        asked.value.set_files({"name": "mistake.csv", "mimeType": "text/csv", "buffer": table})
        ticket = page.locator(".ticket", has_text="mistake.csv")
        expect(ticket.locator(".pill")).to_have_text("Waiting")
        page.keyboard.press("Tab")  # from the ticket's heading, which has the focus
        assert page.evaluate("document.activeElement.textContent") == "Cancel"
        page.keyboard.press("Enter")
        expect(ticket.get_by_role("button", name="Really cancel?")).to_be_focused()
        page.keyboard.press("Enter")
        expect(ticket.locator(".pill")).to_have_text("Cancelled")
        expect(page.locator("#said")).to_have_text(f"mistake.csv: Cancelled, {N} rows")
        page.get_by_label("Show", exact=True).select_option("cancelled")
        expect(page.locator(".ticket")).to_have_count(1)
        page.get_by_label("Show", exact=True).select_option("failed")
        expect(page.locator("#none")).to_have_text("None is failed.")


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("viewport", [{"width": 1280, "height": 900}, PHONE], ids=["desk", "phone"])
def test_everybody_can_use_it(
    gateway: Gateway, browser: Browser, scheme: str, viewport: dict[str, int]
) -> None:
    is_phone = viewport is PHONE
    options = {"viewport": viewport, "has_touch": is_phone, "reduced_motion": "reduce"}
    with opened(browser, gateway.url, color_scheme=scheme, **options) as page:
        expect(page.locator("#model")).not_to_be_empty()
        page.get_by_text("What a row must hold").click()
        page.get_by_text("Tell me when it is done").click()
        page.get_by_label("E-mail").fill("me@example.org")
        chosen(page, "notes.txt", b"hello", "text/plain")
        page.get_by_role("button", name="Use a key").click()
        expect(page.get_by_label("Key", exact=True)).to_be_focused()
        assert accessibility_problems(page, is_touched=is_phone) == []


@pytest.mark.usefixtures("worker")
def test_who_asks_to_be_told_is_told_of_a_table_and_of_a_json_file(
    gateway: Gateway, browser: Browser, rows: list[dict[str, Any]], table: bytes
) -> None:
    with hook_sink() as sink, opened(browser, gateway.url) as page:
        page.get_by_text("Tell me when it is done").click()
        page.get_by_label("Webhook").fill(sink.url)
        expect(page.locator("#tell-title")).to_have_text("Tell me when it is done (on)")
        body = b' \n{"rows": ' + json.dumps(rows[1:3]).encode() + b"}"
        for name, content, kind in [("told.csv", table, "text/csv"), ("told.json", body, "application/json")]:
            chosen(page, name, content, kind)
            expect(page.locator(".ticket", has_text=name).locator(".pill")).to_have_text(
                "Done", timeout=120_000
            )
        wait_until(lambda: len(sink.got) == 2, "both", 30)
        assert sorted(json.loads(text)["data"]["rows"] for _, text in sink.got) == [2, N]
        page.get_by_label("E-mail of example.org").fill("me@éxample.com")
        chosen(page, "refused.csv", table)
        line = page.locator(".sending li")
        expect(line).to_contain_text(
            "It was not sent, because you could not be told: notify.email must be one plain"
        )
        assert accessibility_problems(page) == []


def test_a_list_that_comes_broken_is_read_again(gateway: Gateway, browser: Browser) -> None:
    with opened(browser, gateway.url + "openapi.json") as page:
        page.route("**/submissions?*", lambda route: route.fulfill(body='{"submissions": ['), times=1)
        page.goto(gateway.url)
        expect(page.locator("#problem")).to_contain_text("The server does not answer; trying again.")
        expect(page.locator("#problem")).to_be_hidden()
        expect(page.locator("#list-title")).to_be_visible()


BREAKS = """
const real = window.fetch;
window.fetch = async (path, options) => {
  const answer = await real(path, options);
  if (!String(path).endsWith("/results.csv")) return answer;
  const text = await answer.text();
  const stream = new ReadableStream({
    start(controller) {
      if (window.atOnce) controller.error(new TypeError("network error"));
      else controller.enqueue(new TextEncoder().encode(text.split("\\n").slice(0, 150).join("\\n")));
      window.breakNow = () => controller.error(new TypeError("network error"));
    },
  });
  return new Response(stream);
};
"""


@pytest.mark.usefixtures("worker")
def test_answers_that_break_off_say_so_and_what_is_shown_stays(
    gateway: Gateway, browser: Browser, table: bytes
) -> None:
    with opened(browser, gateway.url) as page:
        page.evaluate(BREAKS)
        chosen(page, "breaks.csv", table)
        ticket = page.locator(".ticket", has_text="breaks.csv")
        expect(ticket.locator(".pill")).to_have_text("Done", timeout=120_000)
        ticket.get_by_role("button", name="Show answers").click()
        expect(ticket.locator("tbody tr")).to_have_count(100)
        page.evaluate("window.breakNow()")
        ticket.get_by_role("button", name="Show more").click()
        lead = ticket.locator(".answers .lead")
        expect(lead).to_contain_text(
            "of 250 rows: there the answers broke off. Close them and open them again."
        )
        assert ticket.locator("tbody tr").count() >= 100
        expect(ticket.get_by_role("button", name="Show more")).to_be_hidden()
        ticket.get_by_role("button", name="Hide answers").click()
        page.evaluate("window.atOnce = true")
        ticket.get_by_role("button", name="Show answers").click()
        expect(lead).to_have_text("There the answers broke off. Close them and open them again.")


def test_old_submissions_are_shown_with_their_day_and_as_many_as_there_are(
    browser: Browser, bundle: Path, process_env: dict[str, str], tmp_path: Path
) -> None:
    write_store(tmp_path / "online.db")
    with gateway_of("houses", bundle, tmp_path, process_env) as gateway:
        with opened(browser, gateway.url) as page:
            chosen(page, "one.json", b'{"rows": [{}]}', "application/json")
            expect(page.locator(".ticket")).to_have_count(1)
        (file,) = tmp_path.rglob("submissions.db")
        database = Database(f"sqlite:///{file}")
        at, n = 1_700_000_000_000_000, 1_040
        with database.writing() as connection:
            [row] = connection.execute(sa.select(SUBMISSIONS)).mappings()
            old = [
                dict(row)
                | {"id": f"{at + i:014x}{'0' * 18}", "idempotency_key": None, "created_ts": at + i}
                | {"state": "succeeded", "started_ts": at + i, "finished_ts": at + i + 2_000_000}
                for i in range(n)
            ]
            connection.execute(sa.insert(SUBMISSIONS), old)
        database.close()
        with opened(browser, gateway.url) as page:
            tickets = page.locator(".ticket")
            expect(tickets).to_have_count(25)
            meta = tickets.nth(1).locator(".meta")
            expect(meta).to_have_text(
                re.compile("^1 row · sent 15 Nov 2023, 03:58:2\\d · answered within 2 s · houses · 0{8}$")
            )
            assert meta.locator("time").get_attribute("datetime").startswith("2023-11-14T22:13:2")
            for shown in range(50, n + 1, 25):
                page.get_by_role("button", name="Show older ones").click()
                expect(tickets).to_have_count(shown)
            page.get_by_role("button", name="Show older ones").click()
            expect(tickets).to_have_count(n + 1)
            expect(page.get_by_role("button", name="Show older ones")).to_be_hidden()


def test_page_of_another_origin_can_do_nothing(gateway: Gateway, browser: Browser) -> None:
    def taken() -> int:
        with urllib.request.urlopen(f"{gateway.url}submissions?limit=1000", timeout=20) as answer:
            return len(json.loads(answer.read())["submissions"])

    before = taken()
    context = browser.new_context()
    page = context.new_page()
    page.goto(
        gateway.url.replace("127.0.0.1", "localhost") + "ping"
    )  # another origin, though the same machine
    status = page.evaluate(
        """async (url) => {
          const form = new FormData();
          form.append("files", new File(["x"], "x.csv", { type: "text/csv" }));
          try { return (await fetch(url + "submissions", { method: "POST", body: form })).status; } catch { return 0; }
        }""",
        gateway.url,
    )
    context.close()
    assert status == 0  # the answer may not be read
    assert taken() == before


@pytest.mark.usefixtures("worker")
def test_what_the_worker_answers_shows_on_the_dashboard(
    gateway: Gateway, browser: Browser, table: bytes
) -> None:
    with opened(browser, gateway.url) as page:
        expect(page.locator("#model")).not_to_be_empty()
        chosen(page, "live.csv", table)
        expect(page.locator(".ticket", has_text="live.csv").locator(".pill")).to_have_text(
            "Done", timeout=120_000
        )
        page.get_by_role("link", name="Dashboard").click()
        expect(page.locator("#title")).to_have_text("houses")
        expect(page.get_by_role("link", name="Submissions")).to_be_visible()


def test_pictures_are_shown_with_what_the_model_says_of_each(
    browser: Browser, process_env: dict[str, str], tmp_path: Path
) -> None:
    bundle = tmp_path / "bundle"
    write_digits_bundle(bundle)
    pictures = [*digit_files(15, 500), ("no-picture.png", b"this is no picture")]
    rows = [{"image_id": name, "image": base64.b64encode(png).decode()} for name, png in pictures]
    expected = OnlineScorer(load_bundle(bundle), None, clock=lambda: 0).answer(rows)
    with (
        gateway_of("digits", bundle, tmp_path, process_env) as gateway,
        server(gateway.work, env=gateway.env, cwd=tmp_path, log=tmp_path / "worker.log"),
        opened(browser, gateway.url) as page,
        hook_sink() as sink,
    ):
        page.get_by_text("Tell me when it is done").click()
        page.get_by_label("Webhook").fill(sink.url)
        expect(page.locator("#drop-text")).to_contain_text("Images, or one CSV or JSON file")
        page.locator("#files").set_input_files(
            [{"name": name, "mimeType": "image/png", "buffer": png} for name, png in pictures]
        )
        ticket = page.locator(".ticket")
        expect(ticket.get_by_role("heading")).to_have_text("16 images")
        expect(ticket.locator(".pill")).to_have_text("Done", timeout=120_000)
        wait_until(lambda: len(sink.got) == 1, "the webhook", 30)
        ticket.get_by_role("button", name="Show answers").click()
        shown = ticket.locator(".gallery li")
        expect(shown).to_have_count(len(pictures))
        expect(shown.last).to_contain_text("cannot be shown")
        for i, (answer, (name, _)) in enumerate(zip(expected, pictures, strict=True)):
            expect(shown.nth(i)).to_contain_text(name)
            if "error" in answer:
                expect(shown.nth(i)).to_contain_text(answer["error"]["code"])
                continue
            expect(shown.nth(i).locator("strong")).to_have_text(answer["label"])
            share = "100 %" if answer["score"] == 1 else f"{100 * answer['score']:.1f} %"
            expect(shown.nth(i)).to_contain_text(share)
        assert {len(answer) > 1 for answer in expected} == {True, False}
        pictured = shown.locator("img")
        wait_until(
            lambda: pictured.evaluate_all("images => images.map(image => image.naturalWidth)") == [8] * 15,
            "the pictures",
            20,
        )
        assert accessibility_problems(page) == []
        page.reload()
        ticket.get_by_role("button", name="Show answers").click()
        expect(ticket.locator("tbody tr")).to_have_count(len(pictures))
        assert str(tmp_path) not in page.content()
