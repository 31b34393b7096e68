"""All readers of files, on corrupted and malicious files.

A reader either returns a result or raises a one-line error that names the file.
"""

import hashlib
import io
import json
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from builders import MODEL, make_features, rewrite_config, write_checkpoint, write_store
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from test_report import make_result, write_folder

from vigil.data.annotations import load_annotations
from vigil.extract.errors import UserError
from vigil.extract.files import path_below
from vigil.extract.sealed import seal
from vigil.extract.store import feature_path, read_features, read_identity, verify_features
from vigil.pipeline.checkpoint import CheckpointError, ResumeState, config_digest, load_checkpoint
from vigil.pipeline.options import ReportOptions
from vigil.pipeline.recipe import Recipe, load_recipe
from vigil.pipeline.scoring.report_command import run_report
from vigil.pipeline.scoring.results import MANIFEST_NAME, read_results, result_path
from vigil.pipeline.training.learner import new_learner, restore

fuzz = settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
NUMBERS = [True, -1, 0, 3, 1e308, 5e-324, 10**400, 2**63, float("nan")]
TEXTS = ["", "a", "\ud800", "../a", "\0", "x" * 5000]
VALUES = st.sampled_from([None, *NUMBERS, *TEXTS, [], {}, [[]], {"a": {}}, [1, "b"]])
ANNOTATIONS = [
    "Abuse/a.mp4\nArson/b c.mp4\n",
    "a.mp4  Abuse  165  240  -1  -1\nb.mp4 Normal -1 -1\n",
    'video,class,start_frame,end_frame\n"a, b.mp4",Arson,1,2\nc;d,Normal\n',
]
RECIPE = "[model]\nlstm_size = 64\ndropout = 0.5\n[training]\nselection = 'auc'\nepochs = 3\n"


@st.composite
def spoilt(draw, content: bytes) -> bytes:
    """The content with bytes flipped, removed, duplicated or inserted."""
    spoiled = bytearray(content)
    for _ in range(draw(st.integers(1, 4))):
        start = draw(st.integers(0, max(len(spoiled) - 1, 0)))
        stop = start + draw(st.integers(0, 12))
        new = draw(st.one_of(st.binary(max_size=12), st.just(bytes(spoiled[start:stop]) * 2)))
        spoiled[start:stop] = new
    return bytes(spoiled)


@st.composite
def altered(draw, content):
    """A JSON tree in which one part is replaced or removed."""
    if isinstance(content, dict | list) and content and draw(st.integers(0, 9)):
        copy = content.copy()
        key = draw(st.sampled_from(sorted(copy) if isinstance(copy, dict) else range(len(copy))))
        if draw(st.integers(0, 7)):
            copy[key] = draw(altered(copy[key]))
        else:
            del copy[key]
        return copy
    return draw(VALUES)


def signed(content):
    """Return a checkpoint's config with a matching digest."""
    if not isinstance(content, dict):
        return content
    return {**content, "content_digest": config_digest(content)}


def answers_or_refuses(read, path):
    """Return a reader's result, or None if it refuses the file by name."""
    try:
        return read(path)
    except UserError as error:
        message = str(error)
    assert str(path) in message
    assert "\n" not in message
    return None


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    folder = tmp_path_factory.mktemp("results")
    write_folder(folder, [make_result()], [["b.mp4", "why", "pyav", 3]])
    return folder


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return write_checkpoint(tmp_path_factory.mktemp("run"))


class TestAnnotations:
    @staticmethod
    def read(path):
        for annotation in load_annotations([path]):
            stops = [0]
            for interval in annotation.intervals or ():
                assert stops[-1] <= interval.start < interval.stop < 10**15
                stops.append(interval.stop)

    @fuzz
    @given(st.data())
    def test_any_bytes(self, tmp_path, data):
        path = tmp_path / "a.txt"
        source = st.sampled_from([text.encode() for text in ANNOTATIONS])
        path.write_bytes(data.draw(st.one_of(st.binary(), source.flatmap(spoilt))))
        answers_or_refuses(self.read, path)

    @fuzz
    @given(st.text(alphabet='a/.,;"\\ \t\r\n0123-\0\ufeff\x85\u2028é', max_size=60))
    def test_any_text(self, tmp_path, text):
        path = tmp_path / "a.txt"
        path.write_bytes(text.encode())
        answers_or_refuses(self.read, path)

    def test_many_rows_about_one_video_add_up(self, tmp_path):
        path = tmp_path / "a.csv"
        path.write_text("".join(f"a.mp4,Arson,{3 * i},{3 * i + 1}\n" for i in range(30_000)))
        (annotation,) = load_annotations([path])
        assert len(annotation.intervals) == 30_000

    def test_an_endless_file_is_not_read_to_the_end(self):
        with pytest.raises(UserError, match="/dev/zero has more than 16777216 characters"):
            load_annotations([Path("/dev/zero")])


class TestRecipes:
    @fuzz
    @given(st.one_of(st.binary(), spoilt(RECIPE.encode())))
    def test_any_bytes(self, tmp_path, content):
        path = tmp_path / "recipe.toml"
        path.write_bytes(content)
        recipe = answers_or_refuses(load_recipe, path)
        assert recipe is None or isinstance(recipe, Recipe)

    @pytest.mark.parametrize(
        "text",
        [
            "a = " + "[" * 100_000,
            "[training]\nepochs = 0x" + "f" * 5000,
            "[model]\ntemporal = 0x" + "f" * 5000,
        ],
    )
    def test_toml_beyond_pythons_limits(self, tmp_path, text):
        path = tmp_path / "recipe.toml"
        path.write_text(text)
        with pytest.raises(UserError, match=r"recipe\.toml is not a TOML file: "):
            load_recipe(path)


class TestResults:
    @pytest.mark.parametrize("name", [MANIFEST_NAME, "Fighting/a.mp4.json", "failures.csv"])
    @fuzz
    @given(data=st.data())
    def test_any_bytes(self, results, name, data):
        path = results / name
        original = path.read_bytes()
        changes = [spoilt(original)]
        if path.suffix == ".json":
            changes.append(
                altered(json.loads(original)).map(lambda tree: json.dumps(tree).encode())
            )
        try:
            path.write_bytes(data.draw(st.one_of(changes)))
            answers_or_refuses(lambda folder: run_report(ReportOptions(folder)), results)
        finally:
            path.write_bytes(original)

    @pytest.mark.parametrize(
        "content", ["[" * 100_000, '{"a":' * 100_000, "9" * 5000, '{"a": NaN}', '{"a": "\\ud800"}']
    )
    def test_json_that_vigil_never_writes(self, tmp_path, content):
        (tmp_path / MANIFEST_NAME).write_text(content)
        with pytest.raises(UserError, match=r"manifest\.json is damaged \("):
            read_results(tmp_path)

    def test_a_manifest_cannot_name_files_outside(self, tmp_path):
        folder = tmp_path / "results"
        for name in ("../a.mp4", "/etc/passwd", "b/../../a.mp4"):
            write_folder(folder, [])
            content = json.loads((folder / MANIFEST_NAME).read_text())
            (folder / MANIFEST_NAME).write_text(json.dumps({**content, "videos": [name]}))
            with pytest.raises(UserError, match="leads out of"):
                read_results(folder)

    def test_a_field_longer_than_the_csv_reader_allows(self, tmp_path):
        write_folder(tmp_path, [], [["a.mp4", "x" * 200_000]])
        with pytest.raises(UserError, match=r"failures\.csv is damaged \(field larger than"):
            read_results(tmp_path)


class TestCheckpoints:
    @fuzz
    @given(data=st.data())
    def test_any_config(self, run, data):
        path = run / "best" / "config.json"
        original = path.read_bytes()
        tree = altered(json.loads(original)).map(lambda tree: json.dumps(signed(tree)).encode())
        try:
            path.write_bytes(data.draw(st.one_of(spoilt(original), tree)))
            answers_or_refuses(load_checkpoint, run)
        finally:
            path.write_bytes(original)

    def test_tensors_of_another_kind_are_refused(self, tmp_path):
        folder = write_checkpoint(tmp_path) / "best"
        path, config = folder / "model.safetensors", folder / "config.json"
        tensors = load_file(path)
        name = sorted(tensors)[0]
        save_file({**tensors, name: tensors[name].to(torch.int64)}, path)
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        rewrite_config(config, lambda content: content["file_digests"].update({path.name: digest}))
        with pytest.raises(CheckpointError, match=rf"{name} is .* torch\.int64, not .* torch\.flo"):
            load_checkpoint(folder)

    def test_an_optimizer_of_another_model_is_refused(self, run):
        model = load_checkpoint(run).model
        recipe, device = Recipe(model=MODEL), torch.device("cpu")
        learner = new_learner(recipe, model.shape, seed=0, device=device)
        sizes = [(name, tensor.shape) for name, tensor in model.named_parameters()]
        state = {
            f"{name}.{key}": torch.zeros(() if key == "step" else shape)
            for name, shape in sizes
            for key in ("step", "exp_avg", "exp_avg_sq")
        }
        restore(learner, model, ResumeState(state, {}))
        last = f"{sizes[-1][0]}.exp_avg"
        for part, message in (({}, f"lacks '{last}'"), ({last: torch.zeros(7)}, "the wrong shape")):
            others = {name: tensor for name, tensor in state.items() if name != last}
            with pytest.raises(CheckpointError, match=rf"checkpoint is damaged \(.*{message}"):
                restore(learner, model, ResumeState(others | part, {}))


def to_a_file(file, path):
    file["segments/features"] = h5py.ExternalLink(str(path), "segments/features")


def to_itself(file, path):
    file["segments/features"] = h5py.SoftLink("/segments/features")


def bytes_of_a_file(file, path):
    place = [(str(path), 0, h5py.h5f.UNLIMITED)]
    file.create_dataset("segments/features", (2, 8, 6), "f4", external=place)


def put_together_from_files(file, path):
    layout = h5py.VirtualLayout((2, 8, 6), "f4")
    layout[:] = h5py.VirtualSource(str(path), "segments/features", (2, 8, 6))
    file.create_virtual_dataset("segments/features", layout)


def never_written(file, path):
    file.create_dataset("segments/features", (2, 8, 1 << 40), "f4", chunks=(1, 1, 1 << 10))


def compressed(file, path):
    zeros = np.zeros((2, 8, 1 << 12), np.float32)
    file.create_dataset("segments/features", data=zeros, compression="gzip")


def may_grow(file, path):
    file.create_dataset("segments/features", (2, 8, 6), "f4", maxshape=(None, 8, 6))


class TestFeatureFiles:
    """With a valid digest, because whoever makes such a file can compute it."""

    @pytest.mark.parametrize(
        "hostile",
        [
            to_a_file,
            to_itself,
            bytes_of_a_file,
            put_together_from_files,
            never_written,
            compressed,
            may_grow,
        ],
    )
    @pytest.mark.parametrize("read", [read_features, read_identity, verify_features])
    def test_features_stored_outside_the_file_are_not_read(self, tmp_path, hostile, read):
        store = write_store(tmp_path, make_features("a.mp4"), make_features("other.mp4"))
        path, other = (feature_path(store, name) for name in ("a.mp4", "other.mp4"))
        content = io.BytesIO(path.read_bytes())
        with h5py.File(content, "r+") as file:
            del file["segments/features"]
            hostile(file, other)
        seal(content.getbuffer())
        path.write_bytes(content.getbuffer())
        with pytest.raises(
            UserError, match=r"a\.mp4\.h5 is damaged \(segments/features (is a li|does)"
        ):
            read(path)

    @pytest.mark.parametrize(
        "changes",
        [
            {"features": np.zeros((1, 8, 6), np.float32)},
            {"features": np.zeros((2, 8), np.float32)},
            {"features": np.zeros((2, 8, 6), np.int64)},
            {"segment_frames": np.zeros((8, 2), np.int64)},
            {"segment_seconds": np.zeros((2, 2))},
            {"segment_seconds": np.full((8, 2), np.nan)},
            {"fps": np.inf},
            {"num_frames_decoded": -1},
        ],
    )
    def test_parts_that_do_not_fit_are_refused(self, tmp_path, changes):
        store = write_store(tmp_path, make_features("a.mp4", **changes))
        with pytest.raises(UserError, match=r"a\.mp4\.h5 is damaged \("):
            read_features(feature_path(store, "a.mp4"))

    @fuzz
    @given(data=st.data())
    def test_any_bytes(self, tmp_path, data):
        path = feature_path(write_store(tmp_path, make_features("a.mp4")), "a.mp4")
        path.write_bytes(data.draw(spoilt(path.read_bytes())))
        answers_or_refuses(read_features, path)


class TestNames:
    @given(st.text(alphabet="./a\\~\n\0é", max_size=12))
    def test_no_name_leads_out_of_the_folder(self, name):
        root = Path("/outputs")
        for place in (path_below, feature_path, result_path):
            try:
                path = place(root, name)
            except UserError:
                assert name.startswith("/") or ".." in name.split("/")
            else:
                assert ".." not in path.parts
                assert path.is_relative_to(root)
