"""`vigil serve`: pages, files, the API and the figures of a site, without a network."""

import csv
import io
import json
import os
import shutil
from pathlib import Path

import jsonschema
import pytest
from prometheus_client.parser import text_string_to_metric_families
from report_files import parse_call
from starlette.testclient import TestClient
from test_report import make_result, write_folder

from vigil.data.annotations import Annotation, load_annotations
from vigil.extract.errors import UserError
from vigil.pipeline import option_checks
from vigil.pipeline.cli import main
from vigil.pipeline.scores.events import Event, EventClip
from vigil.pipeline.scoring.report.page import PROGRAM
from vigil.pipeline.scoring.results import MANIFEST_NAME
from vigil.pipeline.serving import site as sites
from vigil.pipeline.serving.command import guarded
from vigil.pipeline.serving.site import open_site, site_names
from vigil.pipeline.serving.traffic import HEADERS, MAX_BODY_BYTES

VIDEO = bytes(range(256)) * 40
ODD = "bytes \udcff that are not UTF-8.mp4"


def event(start, peak=0.9, class_name="Fighting", **changes):
    return Event(
        start, start + 10, start / 25, (start + 10) / 25, peak, class_name, 0.25, **changes
    )


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """RESULTS of a video that is there, one that is not, and one that cannot be told in UTF-8."""
    folder = tmp_path_factory.mktemp("prepared")
    source = folder / "cctv" / "a.mp4"
    source.parent.mkdir()
    source.write_bytes(VIDEO)
    place = "clips/gate/a #1.mp4"
    clip = EventClip(f"{place}/1.mp4", f"{place}/1.jpg", 0.0, f"{place}/1-annotated.mp4")
    events = event(0), event(20, 0.8, clip=clip)
    videos = [
        make_result("gate/a.mp4", events=events, source=str(source)),
        make_result("gate/b.mp4", peak=0.7, source="/nowhere/b.mp4"),
        make_result(ODD, peak=0.6),
    ]
    write_folder(folder, videos, [("gate/c.mp4", "no frame can be decoded")])
    for name, content in (
        (clip.path, VIDEO),
        (clip.annotated, VIDEO[:50]),
        ("thumbnails/a.mp4/strip-1.jpg", b"picture"),
        ("clips/secret.txt", b"secret"),
    ):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    return folder


@pytest.fixture
def results(prepared, tmp_path):
    """The same, to change; the video stays where it is."""
    return Path(shutil.copytree(prepared, tmp_path / "monday"))


def client_of(site, token=None, **options):
    app = guarded(site, {"localhost"}, token)
    return TestClient(app, base_url="http://localhost", **options)


@pytest.fixture
def client(results):
    return client_of(open_site([results]))


PLACE = "/results/monday"
API = f"/api{PLACE}"


def verdict(**changes):
    given = {
        "video": "gate/a.mp4",
        "start_frame": 0,
        "stop_frame": 10,
        "reviewer": "Ann",
        "verdict": "right",
        "true_class": "Fighting",
        "note": "",
        "reviewed_at": "2024-05-01T10:00:00Z",
    }
    return given | changes


WRONG = {"verdict": "wrong", "true_class": ""}
OTHER = {"video": "gate/b.mp4", "start_frame": 10, "stop_frame": 20}


def put(client, *verdicts, place=API):
    answer = client.put(f"{place}/verdicts", json={"verdicts": verdicts})
    assert answer.status_code == 200, answer.text
    return answer.json()


class TestPages:
    def test_one_folder_is_the_front_page(self, client):
        answer = client.get("/")
        assert answer.url.path == f"{PLACE}/"
        assert (
            '<meta name="vigil-server" content="../../api/results/monday/verdicts">' in answer.text
        )
        assert answer.text.index("report/verdicts.js") < answer.text.index("report/server.js")

    def test_several_folders_are_listed_with_counts(self, results, tmp_path):
        other = tmp_path / "b" / "monday"
        write_folder(other, [make_result()])
        client = client_of(open_site([results, other]))
        put(client, verdict())
        page = client.get("/").text
        assert [f'href="results/{name}/"' in page for name in ("monday", "monday-2")] == [
            True,
            True,
        ]
        rows = {row["name"]: row for row in client.get("/api/results").json()}
        keys = ("num_videos", "num_events", "num_failures", "num_reviewed")
        assert [rows["monday"][key] for key in keys] == [3, 4, 1, 1]
        assert [rows["monday-2"][key] for key in keys] == [1, 1, 0, 0]

    def test_the_program_is_that_of_this_vigil(self, client, results):
        (results / "report" / "app.js").write_text("an earlier version")
        assert client.get(f"{PLACE}/report/app.js").text == (PROGRAM / "app.js").read_text()
        assert client.get("/app/report.css").headers["content-type"].startswith("text/css")

    def test_details_link_to_what_is_served(self, client):
        index = parse_call(client.get(f"{PLACE}/report/index.js").text)
        names = [row[0] for row in index["videos"]]
        assert names == sorted(["gate/a.mp4", "gate/b.mp4", ODD])
        number = names.index("gate/a.mp4")
        path = f"{PLACE}/report/videos/{number}.js?version={index['version']}"
        details = parse_call(client.get(path).text)
        assert client.get(f"{PLACE}/{details['link']}").content == VIDEO
        assert client.get(f"{PLACE}/{details['clips'][1]['link']}").content == VIDEO
        assert client.get(f"{PLACE}/{details['clips'][1]['annotated']}").content == VIDEO[:50]
        gone = parse_call(client.get(f"{PLACE}/report/videos/{names.index('gate/b.mp4')}.js").text)
        assert gone["link"] is None

    def test_pictures_are_sent_and_kept_until_they_change(self, client, results):
        path = f"{PLACE}/thumbnails/a.mp4/strip-1.jpg"
        first = client.get(path)
        assert (first.content, first.headers["content-type"]) == (b"picture", "image/jpeg")
        known = {"if-none-match": first.headers["etag"]}
        assert client.get(path, headers=known).status_code == 304
        (results / "thumbnails/a.mp4/strip-1.jpg").write_bytes(b"another")
        assert client.get(path, headers=known).content == b"another"

    def test_every_answer_has_the_headers(self, client):
        for path in ("/", "/healthz", f"{PLACE}/video/0", "/nothing", f"{API}/events"):
            headers = client.get(path).headers
            assert {name: headers[name] for name in HEADERS} == HEADERS


class TestChanges:
    @pytest.fixture(autouse=True)
    def _at_once(self, monkeypatch):
        monkeypatch.setattr(sites, "CHECK_SECONDS", 0.0)

    def test_appear_on_reload(self, client, results):
        before = client.get(f"{PLACE}/report/index.js")
        again = client.get(
            f"{PLACE}/report/index.js", headers={"if-none-match": before.headers["etag"]}
        )
        assert again.status_code == 304
        source = str(results / "cctv" / "a.mp4")
        write_folder(
            results, [make_result("a new one.mp4"), make_result("gate/a.mp4", source=source)]
        )
        after = parse_call(client.get(f"{PLACE}/report/index.js").text)
        assert [row[0] for row in after["videos"]] == ["a new one.mp4", "gate/a.mp4"]
        # A page of before still opens the videos that its numbers mean.
        old = parse_call(before.text)
        number = [row[0] for row in old["videos"]].index("gate/a.mp4")
        details = parse_call(
            client.get(f"{PLACE}/report/videos/{number}.js?version={old['version']}").text
        )
        assert len(details["clips"]) == 2
        assert client.get(f"{PLACE}/{details['link']}").content == VIDEO

    def test_a_version_that_is_gone_is_told(self, client):
        for path in ("report/videos/0.js", "video/0"):
            answer = client.get(f"{PLACE}/{path}?version=0123")
            assert answer.status_code == 410
            assert "load the page again" in answer.json()["detail"]
        assert client.get(f"{API}/events?version=0123").status_code == 410

    def test_while_results_are_written_the_last_ones_are_shown_with_a_warning(
        self, client, results
    ):
        (results / MANIFEST_NAME).rename(results / "away")
        page = client.get(f"{PLACE}/").text
        assert "These results are those of before: vigil is writing to the folder" in page
        assert client.get("/api/results").json()[0]["problem"]
        (results / "away").rename(results / MANIFEST_NAME)
        assert "those of before" not in client.get(f"{PLACE}/").text


class TestFiles:
    @pytest.mark.parametrize(
        "path",
        [
            "clips/%2e%2e/manifest.json",
            "clips/..%2fmanifest.json",
            "clips/%2Fetc/passwd",
            "clips//etc/passwd",
            "clips/gate%00/1.mp4",
            "clips/a%00.jpg",
            "clips/secret.txt",
            "clips/link.jpg",
            "clips/outside/secret.jpg",
            "clips/circle.jpg",
            "clips/" + "a" * 5000 + ".jpg",
            "clips/%ff.jpg",
            "clips/",
            "clips/gate",
            "clips/..%5c..%5cmanifest.json",
            "clips/%252e%252e/manifest.json",
            "thumbnails/..%2fmanifest.json",
            "report/..%2fmanifest.json",
            "report/%2e%2e%2f%2e%2e%2fpages.py",
            "report/__init__.py",
            "video/-1",
            "video/99999999999999999999",
            "video/%2fetc%2fpasswd",
            "manifest.json",
            "verdicts.sqlite",
            "gate/a.mp4.json",
            "..%2f..%2fetc/passwd",
        ],
    )
    def test_nothing_else_can_be_reached(self, client, results, path):
        secret = results.parent / "outside" / "secret.jpg"
        secret.parent.mkdir()
        secret.write_bytes(b"secret")
        (results / "clips" / "link.jpg").symlink_to(secret)
        (results / "clips" / "outside").symlink_to(secret.parent)
        (results / "clips" / "circle.jpg").symlink_to("circle.jpg")
        answer = client.get(f"{PLACE}/{path}")
        assert answer.status_code == 404
        assert b"secret" not in answer.content

    @pytest.mark.parametrize("name", ["key.pem", "link.mp4", "folder.mp4", "pipe.mp4", "nul\0.mp4"])
    def test_a_source_that_is_no_file_with_the_name_of_a_video(self, tmp_path, name):
        key = tmp_path / "key.pem"
        key.write_bytes(b"secret")
        (tmp_path / "link.mp4").symlink_to(key)
        (tmp_path / "folder.mp4").mkdir()
        os.mkfifo(tmp_path / "pipe.mp4")
        write_folder(tmp_path / "R", [make_result(source=str(tmp_path / name))])
        client = client_of(open_site([tmp_path / "R"]))
        assert client.get("/results/R/video/0").status_code == 404
        assert parse_call(client.get("/results/R/report/videos/0.js").text)["link"] is None

    @pytest.mark.parametrize(
        ("asked", "start", "stop"),
        [
            ("bytes=0-", 0, None),
            ("bytes=0-0", 0, 1),
            ("bytes=100-199", 100, 200),
            ("bytes=100-999999999999", 100, None),
            ("bytes=-5", -5, None),
            ("bytes=-999999", 0, None),
            (f"bytes={len(VIDEO) - 1}-", -1, None),
        ],
    )
    def test_a_range(self, client, asked, start, stop):
        answer = client.get(f"{PLACE}/video/1", headers={"range": asked})
        assert answer.status_code == 206
        assert answer.content == VIDEO[start:stop]
        first = len(VIDEO) - len(VIDEO[start:]) if start else 0
        last = first + len(answer.content) - 1
        assert answer.headers["content-range"] == f"bytes {first}-{last}/{len(VIDEO)}"
        assert answer.headers["content-type"] == "video/mp4"

    @pytest.mark.parametrize(
        "asked",
        [
            "bytes=0-1,2-3",
            "bytes=" + ",".join(f"{i}-" for i in range(2000)),
            "bytes=0-,0-,0-",
            "bytes=-0",
            "bytes=5-4",
            "bytes=--5",
            "bytes=-1-5",
            "bytes=5--3",
            f"bytes={len(VIDEO)}-",
            f"bytes={10**30}-",
            "bytes=" + "9" * 5000 + "-",
            "bytes=٣-٤",
            "bytes=1_0-2_0",
            "bytes=a-b",
            "bytes=",
            "bytes=-",
            "items=0-1",
            "0-1",
        ],
        ids=lambda text: text[:20],
    )
    def test_any_other_range_is_refused(self, client, asked):
        answer = client.get(f"{PLACE}/video/1", headers={"range": asked.encode()})
        assert (answer.status_code, answer.content) == (416, b"")
        assert answer.headers["content-range"] == f"bytes */{len(VIDEO)}"

    def test_head(self, client):
        answer = client.head(f"{PLACE}/video/1")
        assert (answer.status_code, answer.content) == (200, b"")
        assert answer.headers["content-length"] == str(len(VIDEO))


class TestAccess:
    TOKEN = "a token of 20 letters".replace(" ", "-")

    @pytest.mark.parametrize(
        ("host", "is_served"),
        [
            ("localhost", True),
            ("LOCALHOST:8000", True),
            ("localhost.", True),
            ("127.0.0.1:8000", True),
            ("[::1]:8000", True),
            ("192.168.1.5", True),
            ("evil.example", False),
            ("evil.example:8000", False),
            ("127.0.0.1.evil.example", False),
            ("localhost@evil.example", False),
            ("", False),
        ],
    )
    def test_host(self, client, host, is_served):
        answer = client.get("/healthz", headers={"host": host})
        assert answer.status_code == (200 if is_served else 421)

    @pytest.mark.parametrize(
        "path", ["/", f"{PLACE}/", f"{PLACE}/video/1", f"{API}/events", "/metrics"]
    )
    def test_without_the_token_there_is_nothing(self, results, path):
        client = client_of(open_site([results]), self.TOKEN)
        for headers in (
            {},
            {"authorization": "Bearer wrong"},
            {"authorization": "Bearer "},
            {"authorization": "Bearer ÿ".encode("latin-1")},
            {"authorization": self.TOKEN},
            {"cookie": f"vigil={self.TOKEN}"},
            {"cookie": "vigil="},
        ):
            answer = client.get(path, headers=headers)
            assert answer.status_code == 401
            assert answer.headers["www-authenticate"] == "Bearer"
        assert client.get(path, params={"token": "wrong"}).status_code == 401
        assert client.get("/healthz").text == "ok\n"

    def test_a_browser_logs_in_once(self, results):
        client = client_of(open_site([results]), self.TOKEN)
        assert "<form method=get>" in client.get("/", headers={"accept": "text/html"}).text
        answer = client.get(f"{PLACE}/?token={self.TOKEN}&a=%22b")
        assert answer.status_code == 200
        assert 'content="0; url=?a=%22b"' in answer.text
        assert self.TOKEN not in answer.text
        cookie = answer.headers["set-cookie"].lower()
        assert "httponly" in cookie
        assert "samesite=strict" in cookie
        assert self.TOKEN not in cookie
        assert client.get(f"{PLACE}/").status_code == 200  # the cookie
        other = client_of(open_site([results]), self.TOKEN)
        given = {"authorization": f"Bearer {self.TOKEN}"}
        assert other.get(f"{API}/events", headers=given).status_code == 200

    def test_the_way_on_stays_on_this_site(self, results):
        client = client_of(open_site([results]), self.TOKEN)
        for rest in ("//evil.example/?", "/?%22%3E%3Cb%3E&", "/?url=//evil.example&"):
            text = client.get(f"http://localhost{rest}token={self.TOKEN}").text
            assert "; url=?" in text
            assert "<b>" not in text

    @pytest.mark.parametrize(
        ("headers", "status"),
        [
            ({}, 200),
            ({"origin": "http://localhost", "sec-fetch-site": "same-origin"}, 200),
            ({"origin": "http://evil.example"}, 403),
            ({"origin": "http://localhost:9000"}, 403),
            ({"origin": "null"}, 403),
            ({"sec-fetch-site": "cross-site", "sec-fetch-mode": "no-cors"}, 403),
            ({"sec-fetch-site": "cross-site", "sec-fetch-mode": "navigate"}, 403),
            ({"content-type": "text/plain"}, 415),
            ({"content-type": "application/x-www-form-urlencoded"}, 415),
        ],
    )
    def test_pages_of_other_sites_change_nothing(self, client, headers, status):
        content = json.dumps({"verdicts": [verdict()]})
        sent = {"content-type": "application/json", **headers}
        answer = client.put(f"{API}/verdicts", content=content, headers=sent)
        assert answer.status_code == status
        assert len(client.get(f"{API}/verdicts").json()["verdicts"]) == (status == 200)

    def test_pages_of_other_sites_read_nothing_but_may_link(self, client):
        for site in ("cross-site", "same-site"):
            for mode, status in (("no-cors", 403), ("cors", 403), ("navigate", 200)):
                headers = {"sec-fetch-site": site, "sec-fetch-mode": mode}
                assert client.get(f"{PLACE}/report/index.js", headers=headers).status_code == status

    def test_a_body_has_a_limit(self, client):
        headers = {"content-type": "application/json"}
        path = f"{API}/verdicts"
        large = b" " * (MAX_BODY_BYTES + 1)
        assert client.put(path, content=large, headers=headers).status_code == 413
        assert (
            client.put(path, content=iter([large[:-9], large]), headers=headers).status_code == 413
        )


class TestVerdicts:
    def test_each_person_has_one_on_an_event_and_the_last_counts(self, client):
        assert put(client, verdict(), verdict(reviewer="Bob", verdict="wrong", true_class="")) == {
            "kept": 2,
            "older": 0,
            "refused": [],
        }
        later = verdict(note="two men", reviewed_at="2024-05-01T12:00:00+01:00")
        earlier = verdict(note="late", reviewed_at="2024-05-01T10:30:00Z")
        assert put(client, later)["kept"] == 1
        assert put(client, earlier) == {"kept": 0, "older": 1, "refused": []}
        found = client.get(f"{API}/verdicts").json()
        assert [(one["reviewer"], one["note"]) for one in found["verdicts"]] == [
            ("Bob", ""),
            ("Ann", "two men"),
        ]
        assert found["verdicts"][1]["reviewed_at"] == "2024-05-01T11:00:00Z"

    def test_changes_can_be_followed(self, client):
        put(client, verdict())
        first = client.get(f"{API}/verdicts").json()
        assert client.get(f"{API}/verdicts?since={first['last']}").json() == {
            "last": first["last"],
            "verdicts": [],
        }
        taken_back = verdict(verdict="", true_class="", reviewed_at="2024-05-02T00:00:00Z")
        put(client, taken_back)
        since = client.get(f"{API}/verdicts?since={first['last']}").json()
        assert [one["verdict"] for one in since["verdicts"]] == [""]
        assert client.get(f"{API}/verdicts").json() == {"last": since["last"], "verdicts": []}

    def test_a_fast_clock_does_not_outrank_later_verdicts(self, client):
        fast = {"reviewed_at": "2999-01-01T00:00:00Z"}
        put(client, verdict(**fast))
        assert put(client, verdict(**fast, **WRONG))["kept"] == 1
        (found,) = client.get(f"{API}/verdicts").json()["verdicts"]
        assert found["verdict"] == "wrong"
        assert found["reviewed_at"] < "2999"

    @pytest.mark.parametrize(
        ("changes", "reason"),
        [
            ({"stop_frame": 11}, "there is no such event"),
            ({"video": "x' OR 1=1; DROP TABLE verdicts; --"}, "there is no such event"),
            ({"true_class": ""}, "a right event needs its true_class"),
            ({"true_class": "Normal"}, "an event that is Normal is wrong, not right"),
            ({"verdict": "wrong"}, "only a right event has a true_class"),
        ],
    )
    def test_what_cannot_be_is_refused_and_the_rest_kept(self, client, changes, reason):
        answer = put(client, verdict(**changes), verdict(reviewer="Bob"))
        assert answer == {"kept": 1, "older": 0, "refused": [{"index": 0, "reason": reason}]}

    @pytest.mark.parametrize(
        "changes",
        [
            {"verdict": "maybe"},
            {"reviewer": ""},
            {"reviewer": " Ann"},
            {"reviewer": "A\nB"},
            {"reviewer": "\ud800"},
            {"video": ODD},
            {"start_frame": -1},
            {"start_frame": 10**30},
            {"note": "x" * 2001},
            {"reviewed_at": "yesterday"},
            {"reviewed_at": "2024-05-01T10:00:00"},
        ],
        ids=str,
    )
    def test_wrong_values_are_named(self, client, changes):
        content = json.dumps({"verdicts": [verdict(**changes)]})
        headers = {"content-type": "application/json"}
        answer = client.put(f"{API}/verdicts", content=content, headers=headers)
        assert answer.status_code == 422
        assert answer.json()["detail"][0]["loc"] == ["body", "verdicts", 0, *changes]

    @pytest.mark.parametrize("content", ["", "[]", "nul", '{"verdicts": 1}', "[" * 100_000])
    def test_what_is_no_list_of_verdicts(self, client, content):
        headers = {"content-type": "application/json"}
        answer = client.put(f"{API}/verdicts", content=content, headers=headers)
        assert answer.status_code in (400, 422)

    def test_the_table_is_that_of_the_page_and_trains(self, client, tmp_path):
        second = {"start_frame": 20, "stop_frame": 30, "true_class": "Arson"}
        put(
            client,
            verdict(note='two, "men"'),
            verdict(**second),
            verdict(**second, reviewer="Bob", note="fire"),
            verdict(**OTHER, **WRONG),
        )
        answer = client.get(f"{PLACE}/verdicts.csv")
        rows = list(csv.DictReader(io.StringIO(answer.text)))
        program = (PROGRAM / "exchange.js").read_text()
        listed = program.split("COLUMNS = [")[1].split("]")[0]
        assert [*rows[0]] == json.loads(f"[{listed.strip().rstrip(',')}]")
        assert [row["note"] for row in rows] == ['two, "men"', "Bob: fire", ""]
        path = tmp_path / "verdicts.csv"
        path.write_bytes(answer.content)
        assert [(one.video, one.class_name) for one in load_annotations([path])] == [
            ("gate/a.mp4", "Fighting"),
            ("gate/b.mp4", "Normal"),
        ]

    def test_without_agreement_there_is_no_verdict(self, client, tmp_path):
        put(
            client,
            verdict(**OTHER),
            verdict(**OTHER, **WRONG, reviewer="Bob"),
        )
        (row,) = csv.DictReader(io.StringIO(client.get(f"{PLACE}/verdicts.csv").text))
        assert (row["verdict"], row["true_class"]) == ("", "")
        assert row["note"] == "no agreement: Ann Fighting, Bob wrong"
        (row,) = csv.DictReader(io.StringIO(client.get(f"{PLACE}/verdicts.csv?reviewer=Bob").text))
        assert row["verdict"] == "wrong"

    def test_lie_beside_the_results_or_in_a_folder(self, results, tmp_path):
        put(client_of(open_site([results])), verdict())
        assert (results / "verdicts.sqlite").is_file()
        assert len(client_of(open_site([results])).get(f"{API}/verdicts").json()["verdicts"]) == 1
        other = tmp_path / "other" / "monday"
        write_folder(other, [make_result("gate/a.mp4", events=(event(0),))])
        site = open_site([results, other], tmp_path / "V")
        client = client_of(site)
        put(client, verdict(note="2"), place=f"{API}-2")
        assert client.get(f"{API}/verdicts").json()["verdicts"] == []
        alone = client_of(open_site([other], tmp_path / "V"))
        assert [one["note"] for one in alone.get(f"{API}/verdicts").json()["verdicts"]] == ["2"]

    def test_a_place_that_cannot_keep_them_is_told(self, results, tmp_path):
        (results / "verdicts.sqlite").mkdir()
        with pytest.raises(UserError, match=r"cannot keep verdicts .*: give a folder for them"):
            open_site([results])
        (results / "verdicts.sqlite").rmdir()
        (results / "verdicts.sqlite").write_text("no database, but a text that is long enough" * 99)
        with pytest.raises(UserError, match="cannot keep verdicts"):
            open_site([results])


class TestApi:
    def test_answers_are_as_the_schema_says(self, client):
        """And the schema itself is one, by the official schema of OpenAPI's schemas."""
        put(client, verdict())
        schema = client.get("/api/openapi.json").json()
        for model in schema["components"]["schemas"].values():
            jsonschema.Draft202012Validator.check_schema(model)
        for path, answer in {
            "/api/results": client.get("/api/results"),
            "/api/results/{name}/videos": client.get(f"{API}/videos"),
            "/api/results/{name}/videos/{number}": client.get(f"{API}/videos/0"),
            "/api/results/{name}/events": client.get(f"{API}/events"),
            "/api/results/{name}/verdicts": client.get(f"{API}/verdicts"),
        }.items():
            said = schema["paths"][path]["get"]["responses"]["200"]["content"]["application/json"]
            whole = {**said["schema"], "components": schema["components"]}
            jsonschema.validate(answer.json(), whole)

    def test_events_are_filtered_and_paged(self, client):
        everything = client.get(f"{API}/events").json()
        assert everything["total"] == 4
        place = [(one["video"], one["number"]) for one in everything["events"]]
        assert place == [(ODD, 1), ("gate/a.mp4", 1), ("gate/a.mp4", 2), ("gate/b.mp4", 1)]
        page = client.get(f"{API}/events?offset=1&limit=2").json()
        assert (page["total"], page["events"]) == (4, everything["events"][1:3])
        strong = client.get(
            f"{API}/events?min_score=0.8&class_name=Fighting&video=gate/a.mp4"
        ).json()
        assert [one["peak_score"] for one in strong["events"]] == [0.9, 0.8]
        for query in ("limit=0", "limit=1001", "offset=-1", "min_score=2", "min_score=nan"):
            assert client.get(f"{API}/events?{query}").status_code == 422, query

    def test_names_that_are_not_utf8_come_through(self, client):
        names = [one["video"] for one in client.get(f"{API}/videos").json()["videos"]]
        assert ODD in names
        number = names.index(ODD)
        assert client.get(f"{API}/videos/{number}").json()["video"] == ODD

    def test_a_video_is_what_its_file_is(self, client, results):
        for number, name in enumerate(sorted(["gate/a.mp4", "gate/b.mp4", ODD])):
            file = json.loads((results / f"{name}.json").read_bytes())
            assert client.get(f"{API}/videos/{number}").json() == file

    @pytest.mark.parametrize(
        "path", ["/api/results/no/events", f"{API}/videos/99", f"{API}/nothing"]
    )
    def test_what_is_not_there(self, client, path):
        assert client.get(path).status_code == 404


def test_figures_are_read_by_prometheus(client):
    put(client, verdict())
    client.get("/nothing")
    families = {
        one.name: one for one in text_string_to_metric_families(client.get("/metrics").text)
    }
    (reviewed,) = families["vigil_results_reviewed"].samples
    assert (reviewed.labels, reviewed.value) == ({"results": "monday"}, 1)
    requests = {
        (one.labels["method"], one.labels["status"]): one.value
        for one in families["vigil_requests"].samples
    }
    assert requests == {("PUT", "200"): 1, ("GET", "404"): 1}
    assert families["vigil_requests_open"].samples[0].value == 1


def test_annotations_show_in_timelines(results):
    truth = {"gate/a.mp4": Annotation("gate/a.mp4", "Arson", None)}
    client = client_of(open_site([results], find_truth=lambda _results: truth))
    assert parse_call(client.get(f"{PLACE}/report/videos/1.js").text)["truth"] == {
        "classes": ["Arson"],
        "intervals": None,
    }


def test_names_in_addresses():
    paths = [Path(one) for one in ("a/r", "b/r", "c/r-2", "/", "d/ü <x>", "e/..r")]
    assert site_names(paths) == ["r", "r-2", "r-2-2", "results", "x", "r-3"]
    with pytest.raises(UserError, match=r"b/\.\./a is given twice"):
        site_names([Path("a"), Path("b/../a")])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            "{root}/nowhere",
            "manifest.json does not exist: finish vigil score for this folder first",
        ),
        ("{root} --port 65536", "--port 65536 is not a port: use 0 to 65535, such as 8000"),
        ("{root}/monday {root}/monday", "monday is given twice: give each folder once"),
        ("{root}/monday --host nowhere.invalid", "nowhere.invalid port 8000 cannot be used ("),
        (
            "{root}/monday --port 0 --token-file {root}/short",
            "short is not 16 or more ASCII ch",
        ),
        ("{root}/monday --port 0 --token-file {root}/no", "no cannot be read as a token: "),
        ("{root}/monday --annotations {root}/no.csv", "no.csv does not exist: check --anno"),
    ],
)
def test_mistakes_are_told(results, tmp_path, arguments, message, capsys):
    (tmp_path / "short").write_text("0123456789\n")
    assert main(["serve", *arguments.format(root=tmp_path).split()]) == 2
    (said,) = capsys.readouterr().err.splitlines()
    assert message in said


def test_without_the_packages_it_says_what_to_install(results, monkeypatch, capsys):
    monkeypatch.setattr(option_checks, "find_spec", lambda name: None)
    assert main(["serve", str(results)]) == 2
    assert capsys.readouterr().err == (
        "ERROR: vigil serve needs fastapi and uvicorn, not installed here: run pip install "
        "'vigil-video[serve]'\n"
    )
