"""The two kinds of maps by hand, and where a gradient does not exist."""

from __future__ import annotations

import torch

from tonno_core.encoding.cam import activation_map, gradients_at

# Two channels of 1 x 2 cells.
ACTIVATION = torch.tensor([[[[1.0, 2.0]], [[3.0, -4.0]]]])
GRADIENT = torch.tensor([[[[5.0, -6.0]], [[-1.0, 2.0]]]])


def test_layercam_weighs_each_cell_by_its_own_positive_gradient() -> None:
    # Left: 5 x 1 (the -1 counts as 0). Right: 2 x -4 = -8, cut off at 0.
    assert activation_map(ACTIVATION, GRADIENT, "layercam").tolist() == [[[5.0, 0.0]]]


def test_gradcam_weighs_each_channel_by_its_mean_gradient_and_keeps_the_sign() -> None:
    # Means -0.5 and 0.5: left -0.5 + 1.5, right -1 - 2.
    assert activation_map(ACTIVATION, GRADIENT, "gradcam").tolist() == [[[1.0, -3.0]]]


def test_one_gradient_serves_a_batch() -> None:
    several = torch.cat([ACTIVATION, 2 * ACTIVATION])
    assert activation_map(several, GRADIENT, "gradcam").tolist() == [[[1.0, -3.0]], [[2.0, -6.0]]]


def test_tokens_rearranged_to_an_image_beside_the_path_to_the_logit() -> None:
    # A class token and 1 x 2 tokens of two channels, as a vision transformer has them.
    tokens = torch.arange(6.0).reshape(1, 3, 2).requires_grad_(True) * 1.0
    image = tokens[:, 1:].reshape(1, 1, 2, 2).permute(0, 3, 1, 2).contiguous()
    weights = torch.tensor([[0.0, 0.0], [1.0, 2.0], [3.0, 4.0]])
    (gradient,) = gradients_at((tokens * weights).sum((1, 2)), [image])
    assert gradient is not None
    assert gradient.tolist() == [[[[1.0, 3.0]], [[2.0, 4.0]]]]


def test_several_stages_on_and_beside_the_path_in_one_call() -> None:
    first = torch.arange(1.0, 5.0).reshape(1, 2, 1, 2).requires_grad_(True) * 1.0
    second = first**2
    tokens = second.flatten(2).transpose(1, 2) * 3.0  # 1 x 2 tokens of two channels
    beside = tokens.transpose(1, 2).reshape(1, 2, 1, 2).contiguous()
    gradients = gradients_at((tokens * tokens).sum((1, 2)), [first, beside, second])
    # Logit = 9 x^4: 36 x^3 with respect to x, 18 x^2 to x^2, and 2 t = 6 x^2 to the tokens.
    assert [None if gradient is None else gradient.flatten().tolist() for gradient in gradients] == [
        [36.0, 288.0, 972.0, 2304.0],
        [6.0, 24.0, 54.0, 96.0],
        [18.0, 72.0, 162.0, 288.0],
    ]


def test_activations_off_the_path_have_no_gradient() -> None:
    leaf = torch.ones(1, 2, 1, 1, requires_grad=True)
    beside = torch.ones(1, 2, 1, 1, requires_grad=True) * 2.0
    assert gradients_at((leaf * 3.0).sum((1, 2, 3)), [beside]) == [None]


def test_numbers_that_the_path_never_holds_have_no_gradient() -> None:
    # The activation is made of a tensor on the path, whose gradient belongs to that tensor and not to this one.
    tensor = torch.tensor([-1.0, 2.0]).reshape(1, 2, 1, 1).requires_grad_(True) * 1.0
    assert gradients_at((tensor * 3.0).sum((1, 2, 3)), [tensor.relu()]) == [None]


def test_a_layout_is_followed_where_both_have_the_same_shape() -> None:
    # Channels last of two channels and 2 x 2 cells, which channels first has too.
    last = torch.arange(8.0).reshape(1, 2, 2, 2).requires_grad_(True) * 1.0
    weights = torch.arange(10.0, 18.0).reshape(1, 2, 2, 2)
    (gradient,) = gradients_at((last * weights).sum((1, 2, 3)), [last.permute(0, 3, 1, 2).contiguous()])
    assert gradient is not None
    assert torch.equal(gradient, weights.permute(0, 3, 1, 2))


def test_tokens_in_an_order_of_the_networks_own_are_followed() -> None:
    # Four tokens that go block by block into 2 x 2 cells, as Hiera's, with a step for each view.
    tokens = torch.arange(8.0).reshape(1, 4, 2).requires_grad_(True) * 1.0
    weights = torch.arange(10.0, 18.0).reshape(1, 4, 2)

    def to_image(values: torch.Tensor) -> torch.Tensor:
        return values.view(1, 2, 1, 2, 2).permute(0, 2, 3, 1, 4).reshape(1, 2, 2, 2)[:, :, :].permute(0, 3, 1, 2)

    (gradient,) = gradients_at((tokens * weights).sum((1, 2)), [to_image(tokens)])
    assert gradient is not None
    assert torch.equal(gradient, to_image(weights))
