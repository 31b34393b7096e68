"""JSON and CSV files, lists of failures, and the record of evaluations."""

from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vigil.extract.errors import FailedVideo
from vigil.pipeline.evaluation.records import record_use
from vigil.pipeline.failures import exit_code, read_failures, write_failures
from vigil.pipeline.run_folder import USES_NAME
from vigil.pipeline.text_files import clock_time, read_csv, read_json, write_csv, write_json

CELLS = st.text(st.characters(codec="utf-8", exclude_characters="\0\r"), max_size=8)


@given(rows=st.lists(st.tuples(CELLS, CELLS), max_size=4))
def test_a_table_is_read_as_it_was_written(tmp_path_factory, rows):
    path = tmp_path_factory.mktemp("table") / "a.csv"
    write_csv(path, "one two", rows)
    assert read_csv(path) == [{"one": one, "two": two} for one, two in rows]


@pytest.mark.parametrize("text", ["one,two\n1\n", "one,two\n1,2,3\n", 'one,two\n"1,2\n'])
def test_a_ragged_table_is_refused(tmp_path, text):
    (tmp_path / "a.csv").write_text(text)
    with pytest.raises(ValueError, match=r"row 1 has more or fewer cells|unexpected end of data"):
        read_csv(tmp_path / "a.csv")


def test_json_is_read_as_it_was_written(tmp_path):
    content = {"name": "a\udc80, \u00e9", "values": [1, 0.5, None, True], "empty": {}}
    write_json(tmp_path / "a.json", content)
    assert read_json(tmp_path / "a.json") == content


@pytest.mark.parametrize(
    ("num_failed", "num_done", "code"), [(0, 0, 0), (0, 3, 0), (1, 3, 3), (2, 0, 4)]
)
def test_the_exit_code_tells_some_failures_from_all(num_failed, num_done, code):
    assert exit_code(num_failed, num_done) == code


def test_failures_are_read_as_they_were_written(tmp_path):
    failures = (FailedVideo("a,b.mp4", "no\nframe", "pyav", 7), FailedVideo("c.mp4", "empty"))
    write_failures(tmp_path, failures)
    assert read_failures(tmp_path) == failures


@pytest.mark.parametrize(
    ("seconds", "down", "up"), [(0, "0:00:00", "0:00:00"), (3661.2, "1:01:01", "1:01:02")]
)
def test_a_clock_time_is_rounded_down_or_up(seconds, down, up):
    assert (clock_time(seconds), clock_time(seconds, round_up=True)) == (down, up)


def test_a_damaged_record_of_evaluations_is_kept_and_reported(tmp_path, caplog):
    checkpoint = SimpleNamespace(folder=tmp_path / "best", model_digest="abc")
    record_use(checkpoint, tmp_path / "features", 3)
    record_use(checkpoint, tmp_path / "features", 4)
    path = tmp_path / USES_NAME
    assert [row["num_videos"] for row in read_csv(path)] == ["3", "4"]
    path.write_text("damaged\n1,2\n")
    record_use(checkpoint, tmp_path / "features", 5)
    assert path.read_text() == "damaged\n1,2\n"
    assert "cannot be extended (row 1 has more or fewer cells" in caplog.text
