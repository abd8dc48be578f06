"""The loop over layers and directions alone: pyrnn.layers.forward_layers and backward_layers."""

import itertools

import numpy as np
import pytest
from helpers import for_each

import pyrnn
from pyrnn.layers import backward_layers, forward_layers

pytestmark = pytest.mark.once

CELLS = [{}, {"alpha": 0.3}, {"alpha": 0.3, "form": "current"}]


def layers_of(rnn):
    return [[rnn.network(layer, d) for d in range(1 + rnn.bidirectional)] for layer in range(rnn.num_layers)]


@for_each(["L", "bidirectional", "cell", "lengths"], itertools.product([1, 3], [False, True], CELLS, [None, [4, 0, 6]]))
def test_new_arrays_hold_what_an_rnn_adds_to_its_own(L, bidirectional, cell, lengths):
    """`RNN` is tested against the reference and PyTorch; here the same loop returns new arrays."""
    rnn = pyrnn.RNN(2, 5, L, bidirectional=bidirectional, dtype=np.float64, rng=0, **cell)
    rng = np.random.default_rng(1)
    x, h0 = rng.standard_normal((6, 3, 2)), rng.standard_normal((L * (1 + bidirectional), 3, 5))
    out, h_n = rnn(x, h0, lengths)
    dout, dh_n = rng.standard_normal(out.shape), rng.standard_normal(h_n.shape)
    expected, given = rnn.backward(dout, dh_n), dout.copy()
    tape = forward_layers(x, layers_of(rnn), h0, lengths=None if lengths is None else np.array(lengths))
    np.testing.assert_array_equal(tape.sent(), out)
    np.testing.assert_array_equal(tape.last_states(), h_n)
    for _ in range(2):  # a tape may be used again
        gradients = backward_layers(tape, dout, dh_n)
        np.testing.assert_allclose(gradients.x, expected.x, rtol=1e-12, atol=1e-12)
        np.testing.assert_allclose(gradients.h0, expected.h0, rtol=1e-12, atol=1e-12)
        named = dict(rnn.named_gradients())
        for layer, d in itertools.product(range(L), range(1 + bidirectional)):
            g, end = gradients.layers[layer][d], f"_l{layer}" + "_reverse" * d
            np.testing.assert_allclose(g.U, named["weight_ih" + end], rtol=1e-12, atol=1e-12)
            np.testing.assert_allclose(g.W, named["weight_hh" + end], rtol=1e-12, atol=1e-12)
            np.testing.assert_allclose(g.b, named["bias_hh" + end], rtol=1e-12, atol=1e-12)
        if cell:
            alphas = [g.alpha for layer in gradients.layers for g in layer]
            np.testing.assert_allclose(sum(alphas), expected.alpha, rtol=1e-10)
    np.testing.assert_array_equal(dout, given)
    run = tape.run(L - 1, int(bidirectional))
    np.testing.assert_array_equal(run.read, tape.sent()[..., -5:])


def test_dropout_multiplies_the_input_of_a_layer():
    rng = np.random.default_rng(0)
    layers = [[pyrnn.initialize(2, 4, rng=0)], [pyrnn.initialize(4, 4, rng=1)]]
    x, factors, d = rng.standard_normal((5, 3, 2)), rng.standard_normal((5, 3, 4)), rng.standard_normal((5, 3, 4))
    tape = forward_layers(x, layers, dropout=[None, factors])
    below = pyrnn.simulate(layers[0][0], x)
    above = pyrnn.simulate(layers[1][0], below.h * factors)
    np.testing.assert_array_equal(tape.sent(), above.h)
    gradients, expected = backward_layers(tape, d), above.backward(d)
    np.testing.assert_array_equal(gradients.layers[1][0].W, expected.W)
    np.testing.assert_array_equal(gradients.x, below.backward(expected.x * factors).x)
    assert gradients.h0 is None
    np.testing.assert_array_equal(backward_layers(tape, d, x_gradient=False).layers[0][0].U, gradients.layers[0][0].U)
    assert backward_layers(tape, d, x_gradient=False).x is None
    assert not backward_layers(tape, None).x.any()


def test_one_direction_backwards():
    network, x = pyrnn.initialize(2, 4, rng=0), np.random.default_rng(0).standard_normal((5, 3, 2))
    tape = forward_layers(x, [[network]], reverse=[True])
    np.testing.assert_array_equal(tape.sent(), pyrnn.simulate(network, x, reverse=True).h)
    np.testing.assert_array_equal(tape.last_states()[0], tape.sent()[0])
    dh_n = np.ones((1, 3, 4))
    dh = np.zeros((5, 3, 4))
    dh[0] = 1
    np.testing.assert_array_equal(backward_layers(tape, None, dh_n).x, backward_layers(tape, dh).x)


def test_errors():
    network = pyrnn.initialize(2, 4, rng=0)
    x = np.ones((5, 3, 2))
    for wrong, layers in ((x[0], [[network]]), (x, [])):
        with pytest.raises(ValueError, match=r"x must have shape \(T, B, I\) and layers at least one layer"):
            forward_layers(wrong, layers)
    tape = forward_layers(x, [[network]], recurrent=[np.ones((1, 3, 4))])
    np.testing.assert_allclose(tape.sent(), pyrnn.forward(x, *network[:3]), rtol=1e-12)
    with pytest.raises(ValueError, match="out must be given for a pass with recurrent dropout, got None"):
        backward_layers(tape, x)
