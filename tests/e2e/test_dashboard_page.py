"""The dashboard in a real browser, driven by predictions of a real server: what it shows is what the log says."""

from __future__ import annotations

import base64
import json
import math
import re
import signal
import sys
import time
import urllib.request
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest
from playwright.sync_api import Browser, Page, expect

from tests.toy.answered_rows import answered, write_rows
from tests.toy.digits_bundle import digit_files, write_digits_bundle
from tests.toy.pages import PHONE, accessibility_problems, chromium, opened
from tests.toy.processes import free_port, server, wait_until
from tests.toy.serving import Serving, asking, serving, write_store
from tests.toy.workspace import CONF_DIR

N = 1_000
ROUNDED = 0.01
"""How much three digits may be off."""
KEY = "key-of-the-dashboard"


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as running:
        yield running


class Shown:
    """A running dashboard.

    Args:
        url: of its page.
        log: the prediction log that it shows.
        served: the server whose answers these are.
    """

    def __init__(self, url: str, log: Path, served: Serving) -> None:
        self.url, self.log, self.served = url, log, served

    def data(self, **query: Any) -> dict[str, Any]:
        """Return what it says of the last hour."""
        text = "&".join(
            f"{name}={value}" for name, value in ({"window": 3_600, "model": "houses"} | query).items()
        )
        with urllib.request.urlopen(f"{self.url}data?{text}", timeout=20) as answer:
            found: dict[str, Any] = json.loads(answer.read())
        return found

    def rows(self, model: str = "houses") -> list[dict[str, Any]]:
        """Return what the log says of a model."""
        files = sorted((self.log / model).glob("date=*/part-*.parquet"))
        schema = pq.read_schema(files[0])
        return ds.dataset(files, schema=schema).to_table().to_pylist(maps_as_pydicts="strict")


def command(port: int, log: Path, *settings: str) -> list[str]:
    base = [
        sys.executable,
        "-m",
        "jobs.serve_dashboard",
        "--model",
        "houses",
        "--port",
        str(port),
        "--log",
        str(log),
    ]
    return base + [part for setting in settings for part in ("--set", setting)]


@pytest.fixture(scope="module")
def shown(
    bundle: Path, process_env: dict[str, str], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Shown]:
    """A dashboard beside a lean server that has answered 1,000 rows: some alone, some together, some refused."""
    directory = tmp_path_factory.mktemp("dashboard")
    through = write_store(directory / "online.db")
    env = process_env | {"ONESCORE_HOME": str(directory), "ONESCORE_CONF_DIR": str(CONF_DIR)}
    port, output = free_port(), directory / "dashboard.log"
    with serving(
        directory, process_env, "--bundle", str(bundle), settings=("serve.log_flush_seconds=0.3",)
    ) as served:
        rows = asking(N, through)
        for row in rows[::25]:
            row["area_m2"] = None
        for at in range(0, 400, 2):
            served.predictions({"inputs": rows[at : at + 2]})
        for at in range(400, N, 60):
            served.predictions({"inputs": rows[at : at + 60]})
        rules = ("dashboard.refresh_seconds=0.2", "dashboard.alerts.slow=latency_ms.total.p50 > 0 over 1h")
        with server(command(port, served.log, *rules), env=env, cwd=directory, log=output) as process:
            wait_until(lambda: "dashboard_ready" in output.read_text(), "the dashboard", 60, output)
            found = Shown(f"http://127.0.0.1:{port}/dashboard/", served.log, served)
            wait_until(lambda: found.data().get("totals", {}).get("rows") == N, "all answers", 30, output)
            yield found
            process.send_signal(signal.SIGTERM)
            assert process.wait(15) == 0


def tile(page: Page, name: str) -> str:
    text: str = page.locator("#tiles div", has=page.get_by_text(name)).locator("dd").inner_text()
    return text


def microseconds(text: str) -> float:
    number, unit = text.replace(",", "").split()
    return float(number) * {"µs": 1, "ms": 1e3, "s": 1e6}[unit]


def assert_time(text: str, times: list[int], share: float) -> None:
    """A quantile as the page shows it: at most 1/16 below the log's, and rounded."""
    exact = times[math.ceil(share * len(times)) - 1]
    assert exact * 16 / 17 * (1 - ROUNDED) <= microseconds(text) <= exact * (1 + ROUNDED)


def test_figures_are_those_of_the_log(shown: Shown, browser: Browser) -> None:
    rows, data = shown.rows(), shown.data()
    assert len(rows) == N
    refused = [row["error_code"] for row in rows if row["error_code"] is not None]
    scores = np.array([row["score"] for row in rows if row["score"] is not None])
    calls = {
        (row["process"], row["served_ts"], row["lookup_us"], row["features_us"], row["model_us"])
        for row in rows
    }
    assert len(refused) >= N // 25
    assert data["totals"] == {
        "rows": N,
        "scored": len(scores),
        "refused": len(refused),
        "calls": len(calls),
        "rows_per_second": N / 3_600,
    }
    assert {one["code"]: one["rows"] for one in data["errors"]} == Counter(refused)
    for one in data["scores"]["bins"]:
        assert one["rows"] == int(((scores >= one["from"]) & (scores < one["to"])).sum())
    assert (data["scores"]["min"], data["scores"]["max"]) == (scores.min(), scores.max())
    statuses = Counter(row["statuses"]["rates"] for row in rows if row["error_code"] is None)
    [view] = data["views"]
    assert (view["name"], view["statuses"]) == ("rates", dict(statuses))
    assert {"PRESENT", "NOT_FOUND", "NULL"} <= set(statuses)
    ages = [
        (row["as_of_ts"] - row["event_ts"]["rates"]).total_seconds()
        for row in rows
        if row["error_code"] is None and row["statuses"]["rates"] == "PRESENT"
    ]
    assert view["age_seconds"]["max"] == max(ages)
    total = sorted(sum(call[2:]) for call in calls)
    assert data["latency_us"]["total"]["max"] == total[-1]
    assert (
        data["latency_us"]["total"]["p50"]
        <= total[(len(total) + 1) // 2 - 1]
        <= data["latency_us"]["total"]["p50"] * 17 / 16
    )
    assert (data["log"]["lost_rows"], data["log"]["unreadable_files"]) == (0, 0)
    assert sum(data["series"]["rows"]) == N

    with opened(browser, f"{shown.url}?window=3600") as page:
        expect(page.locator("#live")).to_have_text("Live")
        expect(page.locator("#title")).to_have_text("houses")
        assert tile(page, "Rows answered") == "1,000"
        assert tile(page, "refused") == f"{100 * len(refused) / N:.1f} %"
        assert_time(tile(page, "Half of the calls within"), total, 0.5)
        assert_time(tile(page, "99 % of the calls within"), total, 0.99)
        parts = {"store": 2, "features": 3, "model": 4}
        for part, at in parts.items():
            times = sorted(call[at] for call in calls)
            line = page.locator("#latency-table tr", has=page.get_by_role("rowheader", name=part, exact=True))
            _, half, _, most, longest = line.locator("td").all_inner_texts()
            assert_time(half, times, 0.5)
            assert_time(most, times, 0.99)
            assert microseconds(longest) == pytest.approx(times[-1], rel=ROUNDED)
        statuses_text = page.locator("#views .statuses").inner_text()
        assert {f"{name} {n:,}" for name, n in statuses.items()} == set(statuses_text.split("\n"))
        page.locator("#scores .as-table summary").click()
        expect(page.locator("#scores .as-table tbody tr")).not_to_have_count(0)
        cells = page.locator("#scores .as-table tbody td").all_inner_texts()
        assert [cell.partition(" row")[0] for cell in cells] == [
            f"{one['rows']:,}" for one in data["scores"]["bins"] if one["rows"]
        ]
        newest = sorted(rows, key=lambda row: (row["served_ts"], row["sequence"]))[-1]
        first = page.locator("#recent tbody tr").first
        expect(first.locator("th")).to_have_text(newest["request"]["house_id"])
        first.get_by_role("button").click()
        expect(page.locator("#recent tr.more")).to_contain_text(str(newest["score"]))
        expect(page.locator("#skew")).to_contain_text("Not compared yet")
        expect(page.locator("#verdict-title")).to_have_text("1 alert")
        expect(page.locator("#firing li").first).to_contain_text("latency_ms.total.p50 > 0 over 1h")


def test_new_answers_appear_by_themselves_and_not_while_paused(shown: Shown, browser: Browser) -> None:
    with opened(browser, f"{shown.url}?window=3600") as page:
        before = shown.data()["totals"]["rows"]
        expect(page.locator("#tiles dd").first).to_have_text(f"{before:,}")
        shown.served.predictions({"inputs": asking(7, int(time.time() * 1e6))})
        expect(page.locator("#tiles dd").first).to_have_text(f"{before + 7:,}")
        page.get_by_role("button", name="Pause").click()
        expect(page.locator("#live")).to_have_text("Paused")
        shown.served.predictions({"inputs": asking(5, int(time.time() * 1e6))})
        wait_until(lambda: shown.data()["totals"]["rows"] == before + 12, "the rows", 20)
        assert page.locator("#tiles dd").first.inner_text() == f"{before + 7:,}"
        page.get_by_role("button", name="Go on").click()
        expect(page.locator("#tiles dd").first).to_have_text(f"{before + 12:,}")


def test_everything_can_be_done_by_keyboard(shown: Shown, browser: Browser) -> None:
    with opened(browser, shown.url) as page:
        expect(page.locator("#live")).to_have_text("Live")
        page.keyboard.press("Tab")
        assert page.evaluate("document.activeElement.className") == "skip"
        page.keyboard.press("Enter")
        assert page.evaluate("document.activeElement.id") == "main"
        reached = []
        for _ in range(30):
            page.keyboard.press("Tab")
            reached.append(
                page.evaluate(
                    "document.activeElement.name || document.activeElement.getAttribute('aria-label') || ''"
                )
            )
            if reached[-1] == "window":
                page.keyboard.press("ArrowRight")
                break
        expect(page.locator("#windows input:checked")).to_have_value("3600")
        assert "window=3600" in page.url
        page.locator("#scores svg").focus()
        page.keyboard.press("ArrowRight")
        expect(page.locator("#scores .readout")).to_contain_text(re.compile(r"^[\d.,]+ to [\d.,]+: .*row"))
        page.keyboard.press("Escape")
        expect(page.locator("#scores .readout")).to_contain_text("mean")
        page.locator("#recent tbody button").first.focus()
        page.keyboard.press("Enter")
        expect(page.locator("#recent tr.more")).to_have_count(1)
        assert page.evaluate("document.activeElement.getAttribute('aria-expanded')") == "true"


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("viewport", [{"width": 1280, "height": 900}, PHONE], ids=["desk", "phone"])
def test_everybody_can_use_it(shown: Shown, browser: Browser, scheme: str, viewport: dict[str, int]) -> None:
    is_phone = viewport is PHONE
    options = {"viewport": viewport, "has_touch": is_phone, "reduced_motion": "reduce"}
    with opened(browser, f"{shown.url}?window=3600", color_scheme=scheme, **options) as page:
        expect(page.locator("#recent tbody tr").first).to_be_visible()
        page.locator("#traffic .as-table summary").click()
        page.locator("#recent tbody button").first.click()
        assert accessibility_problems(page, is_touched=is_phone) == []
        background = page.evaluate("getComputedStyle(document.body).backgroundColor")
        assert (max(map(int, re.findall(r"\d+", background)[:3])) < 60) == (scheme == "dark")


def test_classes_are_those_of_the_log_and_models_told_apart(
    shown: Shown, browser: Browser, process_env: dict[str, str], tmp_path: Path
) -> None:
    """A thousand pictures, answered by a real server beside the other model's."""
    write_digits_bundle(tmp_path / "bundle")
    pictures = [{"image_id": name, "image": base64.b64encode(png).decode()} for name, png in digit_files(N)]
    settings = (f"serve.log_directory={shown.log}", "serve.log_flush_seconds=0.3")
    options = ("--bundle", str(tmp_path / "bundle"))
    with serving(tmp_path, process_env, *options, model="digits", settings=settings) as served:
        for at in range(0, N, 50):
            served.predictions({"inputs": pictures[at : at + 50]})
    wait_until(lambda: shown.data(model="digits").get("totals", {}).get("rows") == N, "the pictures", 30)
    rows = shown.rows("digits")
    mix = Counter(row["class_label"] for row in rows)
    scores = np.array([row["score"] for row in rows])
    assert len(rows) == N
    assert len(mix) == 10
    assert {one["label"]: one["rows"] for one in shown.data(model="digits")["classes"]} == mix
    with opened(browser, f"{shown.url}?model=houses&window=3600") as page:
        expect(page.locator("#t-classes")).to_have_text("Mean score")
        page.get_by_label("Model", exact=True).select_option("digits")
        expect(page.locator("#t-classes")).to_have_text("Classes")
        expect(page.locator("#classes .readout")).to_have_text("1,000 rows with a class, of 10")
        expect(page.locator("#mix li")).to_have_text(
            [f"{label}{n} {100 * n / N:.1f} %" for label, n in sorted(mix.items())]
        )
        expect(page.locator("#scores .readout")).to_contain_text(f"mean {scores.mean():.3g}")
        expect(page.locator("#t-views + p")).to_contain_text("the model has no stored features")
        assert accessibility_problems(page) == []


def test_a_key_is_asked_for_and_kept_in_the_tab_alone(
    shown: Shown, browser: Browser, process_env: dict[str, str], tmp_path: Path
) -> None:
    port, output = free_port(), tmp_path / "dashboard.log"
    env = process_env | {
        "ONESCORE_HOME": str(tmp_path),
        "ONESCORE_CONF_DIR": str(CONF_DIR),
        "DASHBOARD_KEY": KEY,
    }
    with server(
        command(port, shown.log, "dashboard.key=env:DASHBOARD_KEY", "dashboard.refresh_seconds=0.2"),
        env=env,
        cwd=tmp_path,
        log=output,
    ) as process:
        wait_until(lambda: "dashboard_ready" in output.read_text(), "the dashboard", 60, output)
        with opened(browser, f"http://127.0.0.1:{port}/dashboard/") as page:
            expect(page.locator("#live")).to_have_text("Key needed")
            assert page.evaluate("document.activeElement.id") == "key"
            assert accessibility_problems(page) == []
            page.keyboard.type("wrong")
            page.keyboard.press("Enter")
            expect(page.locator("#key-note")).to_have_text(
                "The server does not know this key. Check it and try again."
            )
            page.get_by_label("Key", exact=True).fill(KEY)
            page.keyboard.press("Enter")
            expect(page.locator("#live")).to_have_text("Live")
            expect(page.locator("#tiles")).to_be_visible()
            assert (
                page.evaluate(
                    "Object.values(sessionStorage).join() + '|' + localStorage.length + document.cookie"
                )
                == f"{KEY}|0"
            )
            assert KEY not in page.content() + page.url

            process.send_signal(signal.SIGTERM)  # with a reader whose stream is open
            assert process.wait(10) == 0
            expect(page.locator("#live")).to_have_text("Not connected")
            expect(page.get_by_role("alert")).to_contain_text(
                "The server does not answer; trying again. The figures below are of"
            )
    assert KEY not in output.read_text()


def test_before_there_is_a_log_it_says_so_and_shows_it_when_it_comes(
    browser: Browser, process_env: dict[str, str], tmp_path: Path
) -> None:
    port, output = free_port(), tmp_path / "dashboard.log"
    env = process_env | {"ONESCORE_HOME": str(tmp_path), "ONESCORE_CONF_DIR": str(CONF_DIR)}
    with server(
        command(port, tmp_path / "log", "dashboard.refresh_seconds=0.2"), env=env, cwd=tmp_path, log=output
    ):
        wait_until(lambda: "dashboard_ready" in output.read_text(), "the dashboard", 60, output)
        with opened(browser, f"http://127.0.0.1:{port}/") as page:
            expect(page.locator("#empty-title")).to_have_text("There is no prediction log yet")
            assert accessibility_problems(page) == []
            write_rows(tmp_path / "log", [answered(1, int(time.time() * 1e6))], "houses")
            expect(page.locator("#tiles dd").first).to_have_text("1")
