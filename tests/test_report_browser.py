"""The report in a real browser: Debian's Chromium, driven by Playwright."""

import csv
import importlib.util
from dataclasses import replace
from pathlib import Path
from urllib.parse import quote

import pytest
from report_files import write_album
from test_report import MANIFEST, make_result
from video_files import draw_frames, encode

from vigil.data.annotations import Annotation, Interval, load_annotations
from vigil.extract.errors import FailedVideo
from vigil.pipeline.scores.events import Action, Event, EventClip
from vigil.pipeline.scores.frame_warnings import DamagedFrames
from vigil.pipeline.scoring.report.page import REPORT_NAME, write_report
from vigil.pipeline.scoring.results import Results, SegmentScore, by_peak_score

PATIENCE = 120_000
"""Milliseconds; a busy machine may need many."""
HOSTILE = "gate/<img src=x onerror=alert(1)>.mp4"
SEGMENTS, SEGMENT_FRAMES, FPS = 10, 10, 25.0


def event(first, past, peak, class_name="Fighting", clock=None, **changes):
    """An event of segments first to past; with a clock, from that hour of 1 May on."""
    start, stop = first * SEGMENT_FRAMES, past * SEGMENT_FRAMES
    times = [f"2024-05-01 {clock}:0{number}" for number in (0, 1)] if clock else [None, None]
    clocks = dict(zip(("start_clock", "stop_clock"), times, strict=True))
    return Event(start, stop, start / FPS, stop / FPS, peak, class_name, 0.25, **clocks, **changes)


def result(video, *events, **changes):
    scores = [0.1] * SEGMENTS
    for one in events:
        stretch = slice(one.start_frame // SEGMENT_FRAMES, one.stop_frame // SEGMENT_FRAMES)
        scores[stretch] = [one.peak_score] * len(scores[stretch])
    step = SEGMENT_FRAMES / FPS
    return make_result(
        video,
        peak=max(scores),
        events=events,
        segments=tuple(
            SegmentScore(i * SEGMENT_FRAMES, (i + 1) * SEGMENT_FRAMES, i * step, (i + 1) * step, s)
            for i, s in enumerate(scores)
        ),
        segment_class_probabilities={
            "Normal": (0.5,) * SEGMENTS,
            "Arson": (0.1,) * SEGMENTS,
            "Fighting": (0.4,) * SEGMENTS,
        },
        **changes,
    )


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    """The page of four videos, of which one plays, and one that failed."""
    folder = tmp_path_factory.mktemp("results")
    frames = draw_frames(100, 64, 64)
    plays = encode(folder / "videos" / "plays.mp4", frames)
    text = folder / "videos" / "text.mp4"
    text.write_text("no video")
    seen = (Action("<b>wrestling</b>", 0.17),)
    results = [
        result(
            "gate/plays.mp4",
            event(2, 4, 0.7, clock="23:10"),
            event(6, 8, 0.9, "Arson", clock="23:11", actions=seen),
            source=str(plays),
            recorded_at="2024-05-01 23:10:00",
            recorded_at_source="name",
            left_out=(event(9, 10, 0.6),),
            damage=(DamagedFrames(50, 60, 2.0, 2.4),),
            num_frames_damaged=10,
            warnings=("Damaged frames: 10.",),
        ),
        result("yard/text.mp4", event(0, 1, 0.8, clock="08:30"), source=str(text)),
        result(HOSTILE, event(4, 5, 0.95), source="/nowhere/<b>x</b>.mp4"),
        result("yard/quiet.mp4"),
    ]
    failures = (FailedVideo("yard/broken.mp4", "no frame can be decoded", "decord", 3),)
    truth = {"gate/plays.mp4": Annotation("gate/plays.mp4", "Arson", (Interval(55, 80),))}
    write_album(folder, results[0], frames, 5)
    path = folder / REPORT_NAME
    write_report(path, Results(MANIFEST, tuple(by_peak_score(results)), failures), truth)
    return path


@pytest.fixture
def page(chromium, report):
    """The report without verdicts; nothing may be logged, fail, or be asked of a network."""
    context = chromium.new_context(viewport={"width": 1400, "height": 900})
    context.set_default_timeout(PATIENCE)
    page = context.new_page()
    complaints, requests = [], []
    page.on("console", lambda message: complaints.append(message.text))
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("dialog", lambda dialog: complaints.append(dialog.message))
    page.on("request", lambda request: requests.append(request.url))
    page.goto(report.as_uri())
    page.wait_for_selector("html[data-ready]", state="attached")
    yield page
    assert [text for text in complaints if "ERR_FILE_NOT_FOUND" not in text] == []
    assert {url.split(":")[0] for url in requests} <= {"file", "blob"}
    context.close()


def shown(page):
    """Class and score of the cards that are shown, in their order."""
    return [
        (card.locator("strong").inner_text(), card.locator(".first .number").inner_text())
        for card in page.locator(".card").all()
    ]


def until(page, condition):
    """Wait for a condition; Playwright's own polling needs eval, which the page forbids."""
    for _ in range(PATIENCE // 25):
        if page.evaluate(condition):
            return
        page.wait_for_timeout(25)
    raise AssertionError(f"never: {condition}")


def open_event(page, class_name, score):
    page.locator(".card a", has_text=class_name).filter(has_text=score).click()
    page.wait_for_selector("#verdict button")


def test_events_are_sorted_and_filtered_and_the_address_says_how(page):
    all_events = [("Fighting", "0.950"), ("Arson", "0.900"), ("Fighting", "0.800")]
    assert shown(page) == [*all_events, ("Fighting", "0.700")]
    page.select_option("[name=sort]", "newest")
    assert [score for _, score in shown(page)] == ["0.900", "0.700", "0.800", "0.950"]
    page.select_option("#class", "Fighting")
    assert [score for _, score in shown(page)] == ["0.700", "0.800", "0.950"]
    page.fill("[name=from]", "23:00")
    page.fill("[name=to]", "09:00")  # over midnight; a time that is not known is in no range
    assert [score for _, score in shown(page)] == ["0.700", "0.800"]
    page.fill("[name=score]", "0.75")
    assert [score for _, score in shown(page)] == ["0.800"]
    assert page.inner_text("#shown") == "1 of 4 events"
    page.goto(page.url)  # as if somebody had sent it
    page.reload()
    page.wait_for_selector("html[data-ready]", state="attached")
    assert [score for _, score in shown(page)] == ["0.800"]
    assert page.input_value("[name=sort]") == "newest"
    page.click("#clear")
    assert len(shown(page)) == 4
    strange = "#sort=constructor&order=__proto__&reviewed=toString&kind=valueOf&open=9.9&view=x"
    page.goto(page.url.split("#")[0] + strange)
    page.reload()
    page.wait_for_selector("html[data-ready]", state="attached")
    assert shown(page) == [*all_events, ("Fighting", "0.700")]
    assert page.is_hidden("#pane")
    page.goto(page.url.split("#")[0] + "#")
    page.select_option("#camera", "gate")
    page.fill("#q", "PLAYS")
    assert [score for _, score in shown(page)] == ["0.900", "0.700"]
    page.fill("#q", "nowhere")
    assert page.is_visible("#nothing")


def test_videos_are_a_table_with_failures_and_damage(page):
    page.click("#to-videos")
    names = page.locator("#rows .row .name bdi")
    expected = [HOSTILE, "gate/plays.mp4", "yard/text.mp4", "yard/quiet.mp4", "yard/broken.mp4"]
    assert names.all_inner_texts() == expected
    assert "no frame can be decoded (decord, frame 3)" in page.inner_text("#rows")
    page.click("#table-head button >> text=Damaged")
    assert names.first.inner_text() == "gate/plays.mp4"
    assert page.locator("[aria-sort=descending]").inner_text() == "Damaged"
    page.click("#table-head button >> text=Video")
    page.click("#table-head button >> text=Video")
    assert names.all_inner_texts() == sorted(expected, reverse=True)
    for kind, number in [
        ("failed", 1),
        ("damaged", 1),
        ("none", 1),
        ("events", 3),
        ("left_out", 1),
    ]:
        page.select_option("[name=kind]", kind)
        assert names.count() == number
    page.click("#rows a")
    assert "Damaged frames: 10." in page.inner_text("#pane")
    assert "recorded" in page.inner_text("#pane").lower()


def test_an_event_opens_the_player_at_its_moment_and_a_click_seeks(page):
    open_event(page, "Arson", "0.900")
    time = "document.querySelector('video').currentTime"
    until(page, f"{time} > 0")
    assert page.evaluate(time) == pytest.approx(2.4)  # frame 60 at 25 a second
    box = page.locator(".slider").bounding_box()
    page.locator(".slider").click(position={"x": 0.26 * box["width"], "y": 20})
    assert page.evaluate(time) == pytest.approx(1.04, abs=0.02)
    assert page.inner_text("output.hover").startswith("0:00:01, score 0.700")
    page.keyboard.press("ArrowRight")
    assert page.evaluate(time) == pytest.approx(4.0, abs=0.02)  # its end
    text = page.inner_text("#pane")
    assert "the network sees: <b>wrestling</b> 0.17" in text
    assert "1 left out, because the classifier sees nothing unusual" in text
    for kind in ("event", "truth", "damage", "threshold", "area"):
        assert page.locator(f".drawings svg .{kind}").count() >= 1, kind


def test_a_card_shows_the_thumbnails_around_its_peak(page):
    card = page.locator(".card", has_text="Arson")
    until(page, "document.querySelectorAll('.strip img').length === 2")
    picture = card.locator(".strip img")
    until(page, "[...document.querySelectorAll('.strip img')].every((one) => one.complete)")
    assert picture.evaluate("(one) => [one.naturalWidth, one.naturalHeight]") == [5 * 164 - 4, 160]
    assert picture.get_attribute("alt") == "Thumbnails around 0:00:02"
    assert picture.get_attribute("src") == "./thumbnails/gate/plays.mp4/strip-11-15.jpg"
    assert page.locator(".card", has_text="0.950").inner_text().count("No thumbnails") == 1
    heights = page.locator(".card").evaluate_all("(all) => all.map((one) => one.offsetHeight)")
    assert set(heights) == {196}


def test_the_timeline_shows_the_thumbnail_of_a_moment(page):
    open_event(page, "Arson", "0.900")
    preview, picture = page.locator(".preview"), page.locator(".preview img")
    assert preview.is_hidden()
    slider = page.locator(".slider")
    slider.scroll_into_view_if_needed()
    box = slider.bounding_box()
    for share, number in [(0.001, 0), (0.51, 10), (0.999, 19)]:  # of 20, each 0.2 seconds
        slider.hover(position={"x": share * box["width"], "y": 20})
        assert preview.is_visible()
        column, row = number % 8, number // 8
        place = picture.evaluate("(one) => getComputedStyle(one).objectPosition")
        assert place == f"{-160 * column}px {-160 * row}px"
        assert preview.inner_text() == f"0:00:0{int(0.2 * number)}"
        here = preview.bounding_box()
        assert box["x"] - 1 <= here["x"] <= box["x"] + box["width"] - here["width"] + 1
    until(page, "document.querySelector('.preview img').naturalWidth > 0")
    assert picture.evaluate("(one) => [one.naturalWidth, one.naturalHeight]") == [8 * 160, 3 * 160]
    page.hover("#pane-title")
    assert preview.is_hidden()
    slider.press("Home")
    assert preview.inner_text() == "0:00:00"
    page.hover("#pane-title")
    touch = """(one, type) => one.dispatchEvent(new PointerEvent(type, {
      pointerType: "touch", clientX: one.getBoundingClientRect().right - 1}))"""
    slider.evaluate(touch, "pointerdown")
    assert preview.inner_text() == "0:00:03"
    slider.evaluate(touch, "pointerleave")
    assert preview.is_visible()  # until the finger is elsewhere
    page.locator("#note").focus()
    assert preview.is_hidden()
    open_event(page, "Fighting", "0.950")
    assert page.locator(".preview").count() == 0  # it has no album


def test_a_moment_far_from_every_thumbnail_has_none(page):
    found = page.evaluate(
        """() => {
          const album = {columns: 8, sheets: [["a", [0, 1, 2]], ["b", [60, 61]]]};
          const all = vigil.album.places(album);
          return [0.4, 1.6, 4, 30, 59, 99].map((time) => vigil.album.nearest(all, 3, time)?.[0]);
        }"""
    )
    assert found[:2] == [0, 2]
    assert found[2:] == [2, None, 60, None]


@pytest.mark.parametrize(
    ("score", "why", "path"),
    [
        ("0.800", "This browser cannot play this file.", "text.mp4"),
        ("0.950", "The video is not where it was when it was scored.", "/nowhere/<b>x</b>.mp4"),
    ],
)
def test_a_video_that_cannot_be_played_is_named_with_its_moment(page, score, why, path):
    open_event(page, "Fighting", score)
    text = page.locator(".cannot")
    text.wait_for()
    assert why in text.inner_text()
    assert path in text.inner_text()
    assert page.inner_text("#pane-title") in (HOSTILE.removeprefix("gate/"), "text.mp4")
    assert page.locator("img:not(.strip img, .preview img)").count() == 0  # names are text
    page.locator(".slider").press("End")
    assert "Look at 0:00:04" in text.inner_text()


def test_the_clip_of_an_event_plays_where_the_video_cannot(page, tmp_path):
    (tmp_path / "text.mp4").write_text("no video")
    name = "clips/yard #1.mp4/1.mp4"
    (tmp_path / name).parent.mkdir(parents=True)
    encode(tmp_path / name, draw_frames(50, 64, 64))
    one = replace(event(6, 7, 0.8), clip=EventClip(name, f"{name}.jpg", 1.0))
    found = result("yard #1.mp4", one, source=str(tmp_path / "text.mp4"))
    write_report(tmp_path / REPORT_NAME, Results(MANIFEST, (found,), ()), {})
    page.goto((tmp_path / REPORT_NAME).as_uri())
    page.wait_for_selector("html[data-ready]", state="attached")
    open_event(page, "Fighting", "0.800")
    time = "document.querySelector('video').currentTime"
    until(page, f"{time} > 0")
    assert page.evaluate(time) == pytest.approx(1.4)  # 2.4 in the video
    assert "cannot play this file. This is the clip of the event." in page.inner_text("#pane")
    assert page.get_by_role("link", name="Clip").get_attribute("href") == "./" + quote(name)
    assert page.get_by_role("link", name="with a caption").count() == 0
    page.locator(".slider").press("Home")
    assert page.evaluate(time) == 0


@pytest.mark.parametrize("is_only", [False, True])
def test_a_clip_with_a_caption_is_linked_and_said_to_be_one(page, tmp_path, is_only):
    (tmp_path / "text.mp4").write_text("no video")
    plain, annotated = "clips/a.mp4/1.mp4", "clips/a.mp4/1-annotated.mp4"
    (tmp_path / "clips" / "a.mp4").mkdir(parents=True)
    for name in (plain, annotated):
        encode(tmp_path / name, draw_frames(50, 64, 64))
    clip = EventClip(annotated if is_only else plain, "clips/a.mp4/1.jpg", 1.0, annotated)
    found = result("a.mp4", replace(event(6, 7, 0.8), clip=clip), source=str(tmp_path / "text.mp4"))
    write_report(tmp_path / REPORT_NAME, Results(MANIFEST, (found,), ()), {})
    page.goto((tmp_path / REPORT_NAME).as_uri())
    page.wait_for_selector("html[data-ready]", state="attached")
    open_event(page, "Fighting", "0.800")
    until(page, "document.querySelector('video').currentTime > 0")
    said = f"This is the clip of the event{', with a caption' * is_only}."
    assert said in page.inner_text("#pane")
    links = {
        one.inner_text(): one.get_attribute("href") for one in page.locator(".events div a").all()
    }
    one, two = "./" + quote(plain), "./" + quote(annotated)
    expected = {"Clip": one, "with a caption": two}
    assert links == ({"Clip, with a caption": two} if is_only else expected)


def test_every_key(page):
    def verdict():
        return page.locator(".card.open .badge").all_inner_texts()

    page.keyboard.press("j")
    page.keyboard.press("j")
    page.wait_for_selector("video")
    assert page.locator(".card.open strong").inner_text() == "Arson"
    page.keyboard.press("k")
    assert page.locator(".card.open .first .number").inner_text() == "0.950"
    page.keyboard.press("j")
    until(page, "document.querySelector('video')?.readyState >= 2")
    page.keyboard.press(" ")
    until(page, "document.querySelector('video').currentTime > 2.41")
    page.keyboard.press("r")
    assert verdict() == ["✓ right"]
    page.keyboard.press("w")
    assert verdict() == ["✗ wrong"]
    page.keyboard.press("w")
    assert verdict() == []
    page.keyboard.press("c")
    assert page.evaluate("document.activeElement.id") == "true-class"
    page.select_option("#true-class", "Fighting")
    assert verdict() == ["✎ Fighting"]
    page.keyboard.press("Escape")
    page.keyboard.press("n")
    page.keyboard.type("jkrw, a note")
    page.keyboard.press("Escape")
    assert page.input_value("#note") == "jkrw, a note"
    assert verdict() == ["✎ Fighting"]
    page.keyboard.press("x")
    assert page.inner_text("#num-chosen") == "1 chosen"
    page.keyboard.press("/")
    assert page.evaluate("document.activeElement.id") == "q"
    page.keyboard.press("Escape")
    page.keyboard.press("?")
    assert page.is_visible("#help")
    page.uncheck("#keys-on")
    page.keyboard.press("Escape")
    page.keyboard.press("r")
    assert verdict() == ["✎ Fighting"]  # single keys are off now
    page.keyboard.press("Escape")
    assert page.is_hidden("#pane")


def test_verdicts_survive_a_reload_and_train_a_model(page, chromium, report, tmp_path):
    open_event(page, "Arson", "0.900")
    page.keyboard.press("r")
    page.keyboard.press("n")
    page.keyboard.type('two, "lines"')
    page.keyboard.press("Escape")
    open_event(page, "Fighting", "0.700")
    page.keyboard.press("w")
    open_event(page, "Fighting", "0.800")
    page.keyboard.press("w")
    page.reload()
    page.wait_for_selector("html[data-ready]", state="attached")
    assert page.locator(".card .badge").all_inner_texts() == ["✓ right", "✗ wrong", "✗ wrong"]
    page.select_option("[name=reviewed]", "no")
    assert shown(page) == [("Fighting", "0.950")]
    with page.expect_download() as download:
        page.click("#export")
    saved = tmp_path / "verdicts.csv"
    download.value.save_as(saved)

    assert load_annotations([saved]) == [
        Annotation("gate/plays.mp4", "Arson", (Interval(60, 80),)),
        Annotation("yard/text.mp4", "Normal", ()),
    ]
    other = chromium.new_context().new_page()
    other.goto(report.as_uri())
    other.set_input_files("#import", saved)
    other.wait_for_selector(".badge")
    assert other.locator(".card .badge").all_inner_texts() == ["✓ right", "✗ wrong", "✗ wrong"]
    assert other.inner_text("#status") == "3 verdicts imported."
    other.set_input_files("#import", report)
    until(other, "document.querySelector('#status').textContent.includes('nothing')")
    other.context.close()


def test_chosen_events_are_exported_and_marked_together(page, report, tmp_path):
    page.select_option("#class", "Fighting")
    page.click("#choose-all")
    page.locator(".card .choose input").first.uncheck()
    assert page.inner_text("#num-chosen") == "2 chosen"
    page.click("#chosen-wrong")
    with page.expect_download() as download:
        page.click("#export-chosen")
    download.value.save_as(tmp_path / "chosen.csv")
    with (tmp_path / "chosen.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [(row["video"], row["verdict"], row["start_seconds"]) for row in rows] == [
        ("yard/text.mp4", "wrong", "0.000"),
        ("gate/plays.mp4", "wrong", "0.800"),
    ]
    assert rows[1]["events_in_video"] == "2"


@pytest.mark.parametrize(("scheme", "width"), [("light", 1400), ("dark", 390)])
def test_nothing_is_cut_and_axe_finds_nothing_serious(page, scheme, width):
    axe = importlib.util.find_spec("axe_playwright_python")
    page.emulate_media(color_scheme=scheme)
    page.set_viewport_size({"width": width, "height": 844})
    for fragment in ("#view=events", "#view=videos", "#open=1.2"):
        page.goto(page.url.split("#")[0] + fragment)
        until(page, "document.querySelector('.card, .row, .ticks time') !== null")
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        if fragment == "#open=1.2":
            until(page, "document.querySelector('.ticks time') !== null")
            assert page.evaluate(OVERLAPS) == []
        if axe:
            page.evaluate(Path(axe.submodule_search_locations[0], "axe.min.js").read_text())
            found = page.evaluate("axe.run({resultTypes: ['violations'], preload: false})")
            assert [
                (one["id"], one["nodes"][0]["html"])
                for one in found["violations"]
                if one["impact"] in ("serious", "critical")
            ] == []


OVERLAPS = """() => {
  const boxes = [...document.querySelectorAll(".ticks time")].map((tick) =>
    tick.getBoundingClientRect(),
  );
  return boxes.slice(1).filter((box, i) => box.left < boxes[i].right).map((box) => box.left);
}"""


def test_a_long_timeline_hides_no_peak(page):
    """Joined columns have the highest score in them, and cover the same time."""
    joined, scores = page.evaluate(
        """() => {
          const edges = Array.from({length: 43201}, (_, i) => 2 * i);
          const scores = edges.slice(1).map((_, i) => Math.abs(Math.sin(i * i)));
          return [vigil.timeline.columns(edges, scores, [0, 86400]), scores];
        }"""
    )
    assert 500 <= len(joined) <= 1100
    assert (joined[0][0], joined[-1][1]) == (0, 86400)
    for start, stop, score in joined:
        assert score == max(scores[int(start) // 2 : int(stop) // 2])


def test_rows_of_csv_read_back_as_written(page):
    rows = [["a", "", 'b"', "c,\nd"], ["", "é", "=1", ""], ["x", "", "", ""]]
    assert page.evaluate("(rows) => vigil.csv.parse(vigil.csv.format(rows))", rows) == rows
