"""Networks: encoders by spec, initialisation, heads."""

import math

import pytest
import torch
from torch import nn
from torchrl.data import Bounded, Categorical

from rlpipe.modules import CNN, MLP, DuelingHead, Flatten, OneHot, Pixels, Shared, computed_once, encoder
from rlpipe.modules.networks import Tanh


def test_encoder_of_a_box_flattens_its_own_dimensions_only():
    first = encoder(Bounded(0, 255, (5, 3, 2), dtype=torch.int16))
    assert isinstance(first, Flatten)
    assert first.features == 6
    observation = torch.arange(2 * 5 * 6, dtype=torch.int16).reshape(2, 5, 3, 2)
    encoded = first(observation)
    assert encoded.dtype == torch.float32
    assert torch.equal(encoded, observation.reshape(2, 5, 6).float())


def test_encoder_scales_features():
    first = encoder(Bounded(-1.0, 1.0, (5, 2)), scale=(0.5, 2.0))
    assert torch.equal(first(torch.tensor([1.0, 1.0], dtype=torch.float64)), torch.tensor([2.0, 0.5]))
    with pytest.raises(ValueError, match="scale has 3 numbers, expected 2"):
        encoder(Bounded(-1.0, 1.0, (5, 2)), scale=(1.0, 1.0, 1.0))


def test_encoder_of_a_discrete_observation_is_one_hot():
    first = encoder(Categorical(3, (5,)))
    assert isinstance(first, OneHot)
    assert torch.equal(first(torch.tensor([[2], [0]])), torch.tensor([[[0.0, 0.0, 1.0]], [[1.0, 0.0, 0.0]]]))
    with pytest.raises(ValueError, match="scale is for Box observations"):
        encoder(Categorical(3, (5,)), scale=(1.0,))


def test_mlp_shapes_and_layers():
    network = MLP(4, 2, (8, 6), activation="silu")
    assert [type(layer).__name__ for layer in network] == ["Linear", "SiLU", "Linear", "SiLU", "Linear"]
    assert network(torch.zeros(3, 5, 4)).shape == (3, 5, 2)
    trunk = MLP(4, None, (8, 6))
    assert trunk.features == 6
    assert trunk(torch.zeros(7, 4)).shape == (7, 6)


def test_layer_norm_is_between_layer_and_activation():
    network = MLP(4, 2, (8,), layer_norm=True)
    assert [type(layer).__name__ for layer in network] == ["Linear", "LayerNorm", "ReLU", "Linear"]


def test_orthogonal_initialisation():
    network = MLP(8, 4, (8,), initialization="orthogonal", gain=0.01)
    hidden, last = network[0], network[-1]
    torch.testing.assert_close(hidden.weight @ hidden.weight.T, 2.0 * torch.eye(8), rtol=0, atol=1e-5)
    torch.testing.assert_close(last.weight @ last.weight.T, 1e-4 * torch.eye(4), rtol=0, atol=1e-8)
    assert hidden.bias.abs().sum() == 0


@pytest.mark.parametrize("gain", [0.01, 1.0])
def test_xavier_initialisation(gain):
    torch.manual_seed(0)
    network = MLP(300, 200, (400,), initialization="xavier", gain=gain)
    for layer, (inputs, outputs) in ((network[0], (300, 400)), (network[-1], (400, 200))):
        limit = math.sqrt(6 / (inputs + outputs))
        assert layer.weight.abs().max() <= limit
        assert layer.weight.std().item() == pytest.approx(limit / math.sqrt(3), rel=0.02)
        assert layer.weight.mean().abs() < 0.02 * limit
        assert layer.bias.abs().sum() == 0
    head = DuelingHead(300, 5, "xavier")
    assert head.advantage.weight.abs().max() <= math.sqrt(6 / 305)
    assert head.value.bias == 0


def test_default_initialisation_is_pytorchs():
    torch.manual_seed(0)
    network = MLP(8, 4, (8,))
    torch.manual_seed(0)
    assert torch.equal(network[0].weight, torch.nn.Linear(8, 8).weight)
    assert network[0].weight.abs().max() <= 1 / math.sqrt(8)


def test_dueling_head_by_hand():
    head = DuelingHead(1, 3)
    with torch.no_grad():
        head.value.weight.fill_(2.0)
        head.value.bias.zero_()
        head.advantage.weight.copy_(torch.tensor([[1.0], [2.0], [6.0]]))
        head.advantage.bias.zero_()
    torch.testing.assert_close(head(torch.tensor([[1.0]])).detach(), torch.tensor([[0.0, 1.0, 5.0]]))


def test_a_dueling_head_of_quantiles_is_one_for_each_of_them():
    head = DuelingHead(1, 2, quantiles=2)
    with torch.no_grad():
        head.value.weight.copy_(torch.tensor([[2.0], [4.0]]))
        head.advantage.weight.copy_(torch.tensor([[1.0], [0.0], [3.0], [2.0]]))
        for each in (head.value, head.advantage):
            each.bias.zero_()
    # the means of the advantages are 2 and 1
    expected = torch.tensor([1.0, 3.0, 3.0, 5.0])
    torch.testing.assert_close(head(torch.ones(3, 2, 1)).detach(), expected.expand(3, 2, 4))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_tanh(dtype):
    x = torch.linspace(-12, 12, 1001, dtype=dtype, requires_grad=True)
    (gradient,) = torch.autograd.grad(Tanh()(x).sum(), x)
    assert Tanh()(x).dtype == dtype
    torch.testing.assert_close(Tanh()(x), x.tanh(), rtol=0, atol=2e-7)
    torch.testing.assert_close(gradient, 1 - x.tanh().square(), rtol=0, atol=1e-6)
    assert not Tanh().state_dict()


def test_pixels_are_scaled_and_channels_first():
    image = torch.zeros(2, 3, 4, 5, 3, dtype=torch.uint8)
    image[1, 2, 3, 4, 0], image[..., 1] = 255, 51
    out = Pixels()(image)
    assert (out.shape, out.dtype) == ((2, 3, 3, 4, 5), torch.float32)
    assert out[1, 2, 0, 3, 4] == 1.0
    assert out[:, :, 0].sum() == 1.0
    torch.testing.assert_close(out[:, :, 1], torch.full((2, 3, 4, 5), 0.2))


@pytest.mark.parametrize(("shape", "features"), [((4, 84, 84), 3136), ((1, 36, 47), 128), ((3, 64, 100), 2304)])
def test_convolutions_for_images_of_any_size(shape, features):
    network = CNN(shape)
    assert network.features == features
    for batch in ((), (2,), (2, 3), (0,)):
        assert network(torch.zeros(*batch, *shape, dtype=torch.uint8)).shape == (*batch, features)


def test_convolutions_are_those_of_the_papers():
    network = CNN((4, 84, 84))
    sizes = [(each.in_channels, each.out_channels, each.kernel_size[0], each.stride[0]) for each in list(network)[::2]]
    assert sizes == [(4, 32, 8, 4), (32, 64, 4, 2), (64, 64, 3, 1)]
    assert all(type(each) is torch.nn.ReLU for each in list(network)[1::2])
    image = torch.randint(0, 256, (2, 5, 4, 84, 84), dtype=torch.uint8)
    with torch.no_grad():
        by_hand = torch.nn.Sequential(*network)(image.flatten(0, 1) / 255).flatten(1).unflatten(0, (2, 5))
        torch.testing.assert_close(network(image), by_hand, rtol=0, atol=1e-6)
        for other in (image.float(), image.double()):
            kept = other.clone()
            assert torch.equal(network(other), network(image))
            assert torch.equal(other, kept)


@pytest.mark.parametrize("shape", [(4, 35, 84), (4, 84, 35), (35, 84), (84, 35, 3), (2, 4, 84, 35), (84,), (0, 84, 84)])
def test_images_too_small_for_convolutions(shape):
    assert not CNN.takes(shape)
    with pytest.raises(ValueError, match=r"\[height, width, channels\], where height and width are 36 or more"):
        CNN(shape)


@pytest.mark.parametrize(
    ("shape", "order", "like"),
    [
        ((40, 48, 3), (2, 0, 1), (3, 40, 48)),
        ((48, 40, 1), (2, 0, 1), (1, 48, 40)),
        ((60, 50, 40), (2, 0, 1), (40, 60, 50)),
        ((40, 48), (0, 1), (1, 40, 48)),
        ((4, 40, 48, 3), (0, 3, 1, 2), (12, 40, 48)),
        ((4, 3, 40, 48), (0, 1, 2, 3), (12, 40, 48)),
        # as many on either side are first
        ((40, 48, 40), (0, 1, 2), (40, 48, 40)),
    ],
)
@pytest.mark.parametrize("learning", [True, False])
def test_channels_are_first_or_last(shape, order, like, learning):
    network, plain = CNN(shape), CNN(like)
    plain.load_state_dict(network.state_dict())
    image = torch.randint(0, 256, (2, 3, *shape), dtype=torch.uint8)
    moved = image.permute(0, 1, *(2 + place for place in order)).reshape(2, 3, *like)
    with torch.set_grad_enabled(learning):
        assert torch.equal(network(image), plain(moved))
        assert network(image[:0]).shape == (0, 3, network.features)


def test_images_of_other_numbers_are_divided_by_theirs():
    network, bytes_of = CNN((1, 40, 40), scale=1000.0), CNN((1, 40, 40))
    bytes_of.load_state_dict(network.state_dict())
    depth = torch.randint(0, 1000, (2, 1, 40, 40), dtype=torch.int32)
    torch.testing.assert_close(network(depth), bytes_of(depth.double() * 0.255))


def test_convolutions_refuse_other_channels():
    with pytest.raises(RuntimeError, match="to have 4 channels"):
        CNN((4, 84, 84))(torch.zeros(2, 84, 84, 4))


def test_initialisation_of_convolutions():
    first = CNN((1, 36, 36), "orthogonal")[0]
    matrix = first.weight.flatten(1)
    torch.testing.assert_close(matrix @ matrix.T, 2.0 * torch.eye(32), rtol=0, atol=1e-5)
    assert first.bias.abs().sum() == 0
    last = CNN((1, 36, 36), "xavier")[-2]
    limit = math.sqrt(6 / (2 * 64 * 9))
    assert 0.99 * limit < last.weight.abs().max() <= limit
    assert last.bias.abs().sum() == 0
    torch.manual_seed(0)
    plain = CNN((1, 36, 36))[0]
    torch.manual_seed(0)
    assert torch.equal(plain.weight, torch.nn.Conv2d(1, 32, 8, 4).weight)
    assert plain.bias.abs().sum() > 0
    with pytest.raises(ValueError, match="initialization is 'x'; allowed are 'default'"):
        CNN((1, 36, 36), "x")


def test_shared_layers_are_computed_once_where_that_is_asked_for_and_never_with_older_weights():
    calls, layer, x = [], nn.Linear(3, 2), torch.randn(4, 3)
    layer.register_forward_hook(lambda *_: calls.append(1))
    shared = Shared(layer)
    one, two = nn.Sequential(shared, nn.ReLU()), nn.Sequential(shared, nn.Tanh())
    both = nn.ModuleList([one, two])
    with computed_once(both):
        features = one(x), two(x)
        assert len(calls) == 1
        assert torch.equal(one(2 * x), layer(2 * x).relu())
    assert torch.equal(features[0], layer(x).relu())
    assert torch.equal(features[1], layer(x).tanh())
    with torch.no_grad():
        layer.weight.mul_(2)
    with computed_once(both):
        assert torch.equal(one(x), layer(x).relu())
    calls.clear()
    one(x), one(x)
    assert len(calls) == 2
