"""The joint model against the authors' own program, stage by stage, and under autocast."""

import itertools
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from vigil.model.config import LossConfig, ModelConfig
from vigil.model.joint import JointModel
from vigil.model.settings import InputShape
from vigil.model.stages import DEVIATION_FLOOR, WIDE, Standardize

SMALL = {
    "lstm_size": 5,
    "attention_size": 7,
    "detection_size": 6,
    "second_attention_size": 3,
    "classification_size": 4,
}
SHAPE = InputShape(num_segments=8, time_positions=2, channels=3, num_classes=3)


def small_model(shape: InputShape = SHAPE, **settings: object) -> JointModel:
    torch.manual_seed(0)
    return JointModel(ModelConfig(**{**SMALL, **settings}), LossConfig(), shape).eval()  # type: ignore[arg-type]


def bags(num_bags: int = 4, shape: InputShape = SHAPE) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(num_bags, shape.num_segments, shape.feature_size, generator=generator)


def keras_weights(layers: dict[str, np.ndarray]) -> dict[str, torch.Tensor]:
    """Convert the authors' weights, whose kernels are (in, out) and whose LSTM has one bias."""
    names = {
        "att1_latent": "first_attention.latent",
        "att1_out": "first_attention.out",
        "det_hidden": "detection.hidden",
        "det_out": "detection.out",
        "att2_latent": "second_attention.latent",
        "att2_out": "second_attention.out",
        "cls_hidden": "classification.hidden",
        "cls_out": "classification.out",
    }
    tensors = {
        "temporal.lstm.weight_ih_l0": layers["lstm/kernel"].T,
        "temporal.lstm.weight_hh_l0": layers["lstm/recurrent_kernel"].T,
        "temporal.lstm.bias_ih_l0": layers["lstm/bias"],
        "temporal.lstm.bias_hh_l0": np.zeros_like(layers["lstm/bias"]),
    }
    for theirs, ours in names.items():
        tensors[f"{ours}.weight"] = layers[f"{theirs}/kernel"].T
        tensors[f"{ours}.bias"] = layers[f"{theirs}/bias"]
    return {name: torch.tensor(tensor) for name, tensor in tensors.items()}


def test_forward_equals_the_authors_program(golden: Path) -> None:
    with np.load(golden / "joint_forward.npz") as file:
        figures = dict(file)
    config = ModelConfig(
        lstm_size=16,
        attention_size=24,
        detection_size=12,
        second_attention_size=6,
        classification_size=20,
    )
    model = JointModel(config, LossConfig(), InputShape(32, 1, 48, 14)).eval()
    model.load_state_dict(keras_weights(figures))
    with torch.inference_mode():
        output = model(torch.tensor(figures["in/features"]))
    assert output.alpha is not None
    assert output.beta is not None
    ours = {
        "scores": output.scores,
        "class_probabilities": output.class_logits.softmax(dim=-1),
        "alpha": output.alpha,
        "beta": output.beta,
    }
    for name, tensor in ours.items():
        np.testing.assert_allclose(tensor.numpy(), figures[f"out/{name}"], atol=1e-5, err_msg=name)


@pytest.mark.parametrize("stages", list(itertools.product([False, True], repeat=3)))
def test_every_stage_can_be_switched_off(stages: tuple[bool, bool, bool]) -> None:
    temporal, first, second = stages
    model = small_model(temporal=temporal, first_attention=first, second_attention=second)
    output = model(bags())
    assert output.scores.shape == output.score_logits.shape == (4, 8)
    assert output.class_logits.shape == (4, 3)
    assert (output.alpha is not None) == first
    assert (output.beta is not None) == second
    parameters = " ".join(name for name, _ in model.named_parameters())
    assert ("temporal" in parameters, "first_" in parameters, "second_" in parameters) == stages


def test_without_stages_the_heads_read_the_features_themselves() -> None:
    model = small_model(temporal=False, first_attention=False, second_attention=False)
    features = bags()
    output = model(features)
    torch.testing.assert_close(output.score_logits, model.detection(features)[0])
    torch.testing.assert_close(output.class_logits, model.classification(features))


def test_attentions_have_their_ranges() -> None:
    output = small_model()(bags())
    torch.testing.assert_close(output.alpha.sum(dim=1), torch.ones(4))
    assert ((output.beta > 0) & (output.beta < 1)).all()
    torch.testing.assert_close(output.scores, torch.sigmoid(output.score_logits))


@pytest.mark.parametrize(
    ("lstm_size", "requires_grad", "learns", "by_onednn"),
    [
        (1, False, True, False),
        (1, True, True, True),
        (1, False, False, True),
        (5, False, True, True),
    ],
)
def test_only_wide_inputs_that_need_no_gradient_bypass_onednn(
    monkeypatch: pytest.MonkeyPatch,
    lstm_size: int,
    requires_grad: bool,
    learns: bool,
    by_onednn: bool,
) -> None:
    model, forward = small_model(lstm_size=lstm_size), torch.nn.LSTM.forward
    enabled = []

    def watched(*arguments: torch.Tensor) -> object:
        enabled.append(torch.backends.mkldnn.enabled)
        return forward(*arguments)

    monkeypatch.setattr(torch.nn.LSTM, "forward", watched)
    was_enabled = torch.backends.mkldnn.enabled
    with torch.set_grad_enabled(learns):
        model(bags().requires_grad_(requires_grad))
    assert enabled == [was_enabled and by_onednn]
    assert torch.backends.mkldnn.enabled == was_enabled


def test_gradients_are_the_same_with_and_without_onednn() -> None:
    """Wide inputs are computed by different programs."""
    model = small_model(lstm_size=1)
    assert SHAPE.feature_size > WIDE
    gradients = []
    for requires_grad in (True, False):
        model.zero_grad()
        output = model(bags().requires_grad_(requires_grad))
        (output.scores.square().sum() + output.class_logits.square().sum()).backward()
        gradients.append([weights.grad for weights in model.parameters()])
    torch.testing.assert_close(gradients[1], gradients[0])


def test_bags_do_not_influence_each_other() -> None:
    model, features = small_model(), bags()
    together = model(features)
    for index in range(len(features)):
        alone = model(features[index : index + 1])
        for name in (name for name, value in vars(together).items() if value is not None):
            torch.testing.assert_close(getattr(alone, name)[0], getattr(together, name)[index])


def test_time_pool_is_the_mean_over_time_major_features() -> None:
    pooled_shape = InputShape(8, 1, 3, 3)
    pooling, plain = small_model(time_pool="mean"), small_model(pooled_shape)
    plain.load_state_dict(pooling.state_dict())
    features = bags()
    first, second = features[..., :3], features[..., 3:]  # two time positions of three channels
    torch.testing.assert_close(
        pooling(features).class_logits, plain((first + second) / 2).class_logits
    )


def test_hidden_layer_of_the_detector_can_be_relu() -> None:
    features = bags()
    linear, relu = small_model(), small_model(detection_activation="relu")
    hidden = linear.detection(linear.temporal(features))[1]
    torch.testing.assert_close(relu.detection(relu.temporal(features))[1], hidden.clamp(min=0))
    assert (hidden < 0).any()


@settings(max_examples=25)
@given(st.integers(0, 2**32 - 1), st.integers(1, 4))
def test_standardize_in_batches_equals_numpy_on_all_at_once(seed: int, batch_size: int) -> None:
    generator = np.random.default_rng(seed)
    scale, offset = generator.uniform(0.1, 10, 6), generator.uniform(-50, 50, 6)
    features = (generator.standard_normal((5, 8, 6)) * scale + offset).astype(np.float32)
    standardize = Standardize(6)
    standardize.fit(torch.split(torch.tensor(features), batch_size))
    result = standardize(torch.tensor(features)).numpy().reshape(-1, 6)
    np.testing.assert_allclose(result.mean(axis=0), 0, atol=1e-4)
    np.testing.assert_allclose(result.std(axis=0), 1, rtol=1e-3)


def test_constant_dimensions_do_not_blow_up() -> None:
    features = bags()
    features[..., 0] = 3.0
    standardize = Standardize(SHAPE.feature_size)
    standardize.fit([features])
    assert (standardize(features)[..., 0] == 0).all()
    features[..., 0] = 4.0  # a video unlike any in training
    assert standardize(features)[..., 0].max() <= 1.1 / DEVIATION_FLOOR
    standardize.fit([torch.full_like(features, 2.0)])
    assert (standardize(torch.full_like(features, 2.5)) == 0.5).all()


def test_statistics_are_part_of_the_state() -> None:
    model = small_model(standardize=True, time_pool="mean")
    model.fit(bags(20), torch.zeros(20, dtype=torch.int64))
    pooled = bags(20).reshape(20 * 8, 2, 3).mean(dim=1)
    state = model.state_dict()
    torch.testing.assert_close(state["front.standardize.mean"], pooled.mean(dim=0))
    torch.testing.assert_close(
        state["front.standardize.deviation"], pooled.std(dim=0, correction=0)
    )
    other = small_model(standardize=True, time_pool="mean")
    other.load_state_dict(state)
    torch.testing.assert_close(other(bags()).scores, model(bags()).scores)
    unfitted = small_model()
    unfitted.fit(bags(), torch.zeros(4, dtype=torch.int64))
    assert not any("standardize" in name for name in unfitted.state_dict())


def test_outputs_are_float32_under_autocast_and_of_half_features() -> None:
    model = small_model(standardize=True)
    with torch.autocast("cpu", torch.bfloat16):
        output = model(bags().half())
    assert all(
        tensor.dtype == torch.float32 for tensor in vars(output).values() if tensor is not None
    )
    torch.testing.assert_close(output.scores, model(bags()).scores, atol=0.05, rtol=0)


def test_dropout_works_in_training_only() -> None:
    model, features = small_model(), bags()
    torch.testing.assert_close(model(features).scores, model(features).scores)
    model.train()
    assert not torch.equal(model(features).scores, model(features).scores)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"lstm_size": 0}, "lstm_size = 0 is not allowed: it must be at least 1"),
        ({"dropout": 1.0}, "dropout = 1.0 is not allowed: it must be at least 0 and below 1"),
        ({"time_pool": "max"}, "time_pool = 'max' is not allowed: it must be one of 'none', 'me"),
        ({"detection_activation": "tanh"}, "must be one of 'linear', 'relu'"),
    ],
)
def test_invalid_settings_are_refused(settings: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ModelConfig(**settings)  # type: ignore[arg-type]


def test_empty_shapes_are_refused() -> None:
    with pytest.raises(ValueError, match="num_classes = 1 is not allowed: it must be at least 2"):
        InputShape(32, 1, 48, 1)
    with pytest.raises(ValueError, match="channels = 0 is not allowed"):
        InputShape(32, 1, 0, 2)
