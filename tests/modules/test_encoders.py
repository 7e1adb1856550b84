"""Encoders: what they make of each kind of space, in which order, and what they refuse."""

import pytest
import torch
from hypothesis import given
from spaces import CAMERA, box, discrete, entries, every_kind, multi_binary, multi_discrete, specs
from tensordict import TensorDict
from torch import nn
from torchrl.data import Categorical, Composite, NonTensor, Unbounded

from rlpipe.modules import CNN, MLP, Critic, Encoder, Flatten, MultiOneHot, Network, OneHot, encoder
from rlpipe.modules.acting import straight

SPEC = every_kind(5)


def tensors(spec, first):
    drawn = TensorDict(spec.rand(), spec.shape[:1]) if isinstance(spec, Composite) else {"observation": spec.rand()}
    # TorchRL draws infinite numbers where a bound is
    return [drawn[key].nan_to_num(posinf=9, neginf=-9) for key in first.in_keys]


def test_each_kind_has_its_encoding():
    kinds = [box(5), discrete(5), multi_discrete(5), multi_binary(5), box(5, CAMERA, 0, 255, torch.uint8)]
    made = [encoder(spec) for spec in kinds]
    assert [type(each) for each in made] == [Flatten, OneHot, MultiOneHot, Flatten, CNN]
    assert [each.features for each in made] == [3, 3, 9, 4, 64]
    assert all(each.in_keys == ["observation"] for each in made)


def test_multi_discrete_is_one_hots_side_by_side():
    first = encoder(multi_discrete(2, [[2, 3], [1, 2]]))
    observation = torch.tensor([[[1, 2], [0, 1]], [[0, 0], [0, 0]]])
    assert first(observation).tolist() == [[0, 1, 0, 0, 1, 1, 0, 1], [1, 0, 1, 0, 0, 1, 1, 0]]
    assert first(observation).dtype == torch.float32


def test_multi_binary_is_floats():
    assert encoder(multi_binary(1))(torch.tensor([[1, 0, 0, 1]], dtype=torch.int8)).tolist() == [[1.0, 0.0, 0.0, 1.0]]


@pytest.mark.parametrize("dtype", [torch.bool, torch.int32, torch.int64])
def test_discrete_may_have_any_type_and_a_dimension_of_its_own(dtype):
    assert encoder(Categorical(2, (3,), dtype=dtype))(torch.tensor([1], dtype=dtype)).tolist() == [[0.0, 1.0]]
    column = encoder(Categorical(2, (3, 1), dtype=dtype))
    assert column(torch.tensor([[1], [0]], dtype=dtype)).tolist() == [[0.0, 1.0], [1.0, 0.0]]


def test_several_entries_are_joined_in_the_order_of_the_spec():
    first = encoder(SPEC)
    assert isinstance(first, Encoder)
    assert first.in_keys == ["position", ("robot", "camera"), ("robot", "mode"), "keys", "dials"]
    assert first.features == 2 + 64 + 3 + 4 + 9
    seen = tensors(SPEC, first)
    alone = [encoder(SPEC[key])(entry) for key, entry in zip(first.in_keys, seen, strict=True) if key[-1] != "camera"]
    features = first(*seen)
    assert torch.equal(torch.cat([features[:, :2], features[:, 66:]], -1), torch.cat(alone, -1))
    assert torch.equal(features[:, 2:66], first.layers[1](seen[1]))


def test_an_observation_of_one_entry_is_encoded_as_that_entry():
    first = encoder(entries(5, position=box(5), step_count=Unbounded((5, 1)), action_mask=multi_binary(5)))
    assert isinstance(first, Flatten)
    assert first.in_keys == ["position"]
    assert Critic(nn.Sequential(first, nn.Linear(3, 1))).in_keys == ["position"]


def test_images_are_scaled_by_their_bounds_and_small_ones_flattened():
    first = encoder(entries(2, depth=box(2, (40, 40, 1), 0.0, 1000.0), tile=box(2, (2, 3), 0, 255, torch.uint8)))
    depth, tile = first.layers
    assert (type(depth), depth.scale) == (CNN, 1000.0)
    assert type(tile) is Flatten
    assert (tile.scale == 255).all()


def test_convolutions_are_initialised_as_asked():
    torch.manual_seed(0)
    first = encoder(box(2, CAMERA, 0, 255, torch.uint8), initialization="orthogonal")
    assert first[0].bias.abs().sum() == 0


@pytest.mark.parametrize(
    ("spec", "scale", "message"),
    [
        (entries(2, told=NonTensor((2,)), x=box(2)), (1.0,), "encoder takes Box, .* 'told' is text or other data"),
        (
            entries(2, a=box(2), b=box(2)),
            (1.0,),
            r"scale is for .* one Box; this one has the entries \['a', 'b'\]",
        ),
        (multi_discrete(2), (1.0,), "scale is for Box observations; this one is MultiDiscrete"),
        (
            box(2, CAMERA),
            (1.0,),
            r"scale is given, and the observation is an image, .* divides by 1 itself",
        ),
        (entries(2, step_count=box(2)), None, "the observation has nothing to encode"),
        (box(2, (0,)), None, r"the observation has shape \[0\], which holds no numbers"),
    ],
)
def test_what_is_refused(spec, scale, message):
    with pytest.raises(ValueError, match=message):
        encoder(spec, scale=scale)


@given(specs(2))
def test_features_are_what_it_says(spec):
    first = encoder(spec)
    seen = tensors(spec, first)
    features = first(*seen)
    assert features.shape == (2, first.features)
    assert features.dtype == torch.float32
    assert features.isfinite().all()
    with torch.inference_mode():
        network = Network(first, *MLP(first.features, 2, (4,)))
        assert torch.equal(straight(network)(*seen), network(*seen))
