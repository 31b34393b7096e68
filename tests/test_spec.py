"""The feature spec: its digest, its JSON, and what is refused."""

import hashlib
import json
import math
from dataclasses import asdict, fields, replace

import pytest

from vigil.extract.errors import UserError
from vigil.extract.spec import FeatureSpec, difference

SPEC = FeatureSpec(backbone="i3d", endpoint="AvgPool", weights_digest="ab" * 32)
CHANGES = {
    "backbone": "i3d_r50",
    "endpoint": "Mixed_4d",
    "weights_digest": "cd" * 32,
    "time_pool": "mean",
    "clip_frames": 128,
    "clip_stride": 32,
    "num_segments": 16,
    "short_side": None,
    "interpolation": "area",
    "apply_rotation": False,
    "deinterlace": "off",
    "frame_rate": 25.0,
    "static": "skip",
    "origin": "imported from snippets",
}


def test_every_setting_changes_the_digest_and_is_named():
    assert set(CHANGES) == {setting.name for setting in fields(FeatureSpec)}
    digests = {SPEC.digest}
    for name, value in CHANGES.items():
        changed = replace(SPEC, **{name: value})
        digests.add(changed.digest)
        assert difference(SPEC, changed) == [f"{name}: {getattr(SPEC, name)} != {value}"]
    assert len(digests) == 1 + len(CHANGES)
    assert difference(SPEC, replace(SPEC)) == []


def test_the_digest_is_the_sha256_of_the_canonical_json():
    settings = asdict(SPEC)
    for name in ("origin", "deinterlace", "frame_rate", "static"):
        del settings[name]  # older files have none and keep their digest
    text = json.dumps(settings, sort_keys=True)
    assert SPEC.to_json() == text
    assert SPEC.digest == hashlib.sha256(text.encode()).hexdigest()


@pytest.mark.parametrize("name", CHANGES)
def test_a_spec_reads_back_from_json(name):
    spec = replace(SPEC, **{name: CHANGES[name]})
    assert FeatureSpec.from_json(spec.to_json()) == spec


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "{}",
        "3",
        SPEC.to_json().replace('"i3d"', "3"),
        SPEC.to_json().replace('"num_segments": 32', '"num_segments": 0'),
        SPEC.to_json().replace("interpolation", "interpolatiom"),
    ],
)
def test_anything_but_an_exact_spec_is_refused(text):
    with pytest.raises(ValueError, match=r"not a feature spec|Expecting value"):
        FeatureSpec.from_json(text)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"time_pool": "max"}, "time pool 'max' is unknown: use none or mean"),
        *(
            ({"frame_rate": rate}, rf"frame rate {rate:g} is not above 0 and at most 240: use 25")
            for rate in (0.0, -5.0, math.nan, math.inf, 240.5)
        ),
        ({"num_segments": 0}, "0 segments are too few: use 1 or more"),
        ({"clip_stride": 65}, r"clip stride 65 is not in 1\.\.64"),
        ({"short_side": 223}, "short side 223 is smaller than the 224 pixel views: use 256"),
    ],
)
def test_invalid_settings_are_refused(change, message):
    with pytest.raises(UserError, match=message):
        replace(SPEC, **change)
