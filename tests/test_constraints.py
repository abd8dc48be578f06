"""`pyrnn.training.Constraint`, and the random matrices with Dale's signs that it is used with."""

import copy
import pickle

import numpy as np
import pytest
from helpers import central_differences, network

import pyrnn

pytestmark = pytest.mark.once

every_dale = pytest.mark.parametrize("dale", ["rectified", "absolute"])


def random_constraint(rng, rows, columns, dale="rectified"):
    """A constraint of all three kinds, and whether each entry is masked or frozen."""
    mask = rng.random((rows, columns)) < 0.7
    signs = rng.integers(-1, 2, columns)
    values = np.where(signs == 0, 1, signs) * rng.uniform(0.5, 1, (rows, columns)) * mask + 0.0
    frozen = np.where(rng.random((rows, columns)) < 0.2, values, np.nan)
    return pyrnn.training.Constraint(mask, frozen, signs, dale), ~mask | ~np.isnan(frozen)


def assert_allowed(constraint, W):
    """By its definition, entry by entry."""
    for (i, j), w in np.ndenumerate(W):
        if constraint.mask is not None and not constraint.mask[i, j]:
            assert w == 0
        elif constraint.frozen is not None and not np.isnan(constraint.frozen[i, j]):
            assert w == W.dtype.type(constraint.frozen[i, j])
        elif constraint.signs is not None:
            assert w * constraint.signs[j] >= 0


# ---- Effective weights ----------------------------------------------------------------------------------------------
@every_dale
def test_effective_weights_by_hand(dale):
    raw = np.array([[1.0, 2.0, 3.0, -4.0], [-5.0, -6.0, -7.0, 8.0]])
    constraint = pyrnn.training.Constraint(
        mask=[[True, True, True, True], [True, True, False, True]],
        frozen=[[np.nan, -9.0, np.nan, np.nan], [np.nan] * 4],
        signs=[1, -1, -1, 0],
        dale=dale,
    )
    below = [0.0, 0.0] if dale == "rectified" else [5.0, -6.0]
    np.testing.assert_array_equal(constraint.apply(raw), [[1.0, -9.0, -3.0, -4.0], [*below, 0.0, 8.0]])


@every_dale
@pytest.mark.parametrize(("rows", "columns"), [(6, 6), (6, 3), (2, 6), (1, 1)])
@pytest.mark.parametrize("seed", range(5))
def test_results_are_allowed(dtype, dale, rows, columns, seed):
    rng = np.random.default_rng(seed)
    constraint, _ = random_constraint(rng, rows, columns, dale)
    a = rng.standard_normal((rows, columns)).astype(dtype)
    for W in (constraint.apply(a), constraint.project(a)):
        assert W.dtype == dtype
        assert W.flags.writeable
        assert_allowed(constraint, W)
        assert not np.signbit(W[W == 0]).any()
        np.testing.assert_array_equal(constraint.project(W), W)
        np.testing.assert_array_equal(constraint.apply(constraint.raw(W)), W)


@pytest.mark.peer
@every_dale
def test_against_the_formulas_of_the_papers(dale):
    """In the order of their code: mask and fixed entries first, then positive, then the signs from the right."""
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(0)
    raw, grad = rng.standard_normal((2, 5, 7))
    mask, fixed = rng.random((2, 5, 7)) < 0.5
    fixed &= mask
    signs = np.repeat([1, -1], [5, 2])
    values = rng.uniform(0, 1, (5, 7))
    positive = torch.relu if dale == "rectified" else torch.abs
    r = torch.tensor(raw, requires_grad=True)
    magnitudes = positive(r * torch.tensor(mask & ~fixed) + torch.tensor(values * fixed))
    W = magnitudes @ torch.diag(torch.tensor(signs, dtype=torch.float64))
    W.backward(torch.tensor(grad))
    constraint = pyrnn.training.Constraint(mask, np.where(fixed, values * signs, np.nan), signs, dale)
    np.testing.assert_array_equal(constraint.apply(raw), W.detach().numpy())
    np.testing.assert_array_equal(constraint.gradient(raw, grad), r.grad.numpy())


@every_dale
def test_no_constraint_changes_nothing(dtype, dale):
    raw = np.random.default_rng(0).standard_normal((3, 4)).astype(dtype)
    for constraint in (
        pyrnn.training.Constraint(dale=dale),
        pyrnn.training.Constraint(np.ones((3, 4), bool), np.full((3, 4), np.nan), np.zeros(4), dale),
    ):
        for result in (
            constraint.apply(raw),
            constraint.gradient(np.ones_like(raw), raw),
            constraint.project(raw),
            constraint.raw(raw),
        ):
            assert result.dtype == dtype
            assert not np.shares_memory(result, raw)
            np.testing.assert_array_equal(result, raw)


# ---- Gradients ------------------------------------------------------------------------------------------------------
@every_dale
@pytest.mark.parametrize("seed", range(5))
def test_gradient_by_differences(dale, seed):
    rng = np.random.default_rng(seed)
    constraint, fixed = random_constraint(rng, 4, 5, dale)
    raw, weights = rng.standard_normal((2, 4, 5))
    raw += 0.01 * np.sign(raw)  # away from the kink
    expected = central_differences(lambda raw: (weights * constraint.apply(raw) ** 2).sum(), {"raw": raw})["raw"]
    gradient = constraint.gradient(raw, 2 * weights * constraint.apply(raw))
    np.testing.assert_allclose(gradient, expected, rtol=0, atol=1e-9)
    np.testing.assert_array_equal(gradient[fixed], 0)


@every_dale
def test_gradient_of_a_network(dale):
    """Of all three matrices, through loss_and_gradients."""
    n = network(T=4, B=2, I=3, H=5, O=2)
    rng = np.random.default_rng(1)
    signs = [1, 1, 1, -1, -1]
    constraints = {
        "U": pyrnn.training.Constraint(signs=[1, 1, 0], dale=dale),
        "W": pyrnn.training.Constraint(mask=~np.eye(5, dtype=bool), signs=signs, dale=dale),
        "V": pyrnn.training.Constraint(mask=[[True, True, True, False, False]] * 2, signs=signs, dale=dale),
    }
    raw = {name: rng.standard_normal(n[name].shape) for name in constraints}

    def run(**raw):
        effective = {name: constraints[name].apply(a) for name, a in raw.items()}
        made = pyrnn.Network(b=n["b"], c=n["c"], **effective)
        return pyrnn.loss_and_gradients(made, n["x"], n["numbers"], loss="squared_error")

    gradients = run(**raw)[1]
    for name, expected in central_differences(lambda **raw: run(**raw)[0], raw).items():
        actual = constraints[name].gradient(raw[name], getattr(gradients, name))
        np.testing.assert_allclose(actual, expected, rtol=0, atol=1e-7)
        assert np.abs(expected).max() > 0.01


@every_dale
def test_gradient_at_zero_and_below(dtype, dale):
    constraint = pyrnn.training.Constraint(signs=[1, -1, 0], dale=dale)
    raw = np.array([[0.0, 0.0, 0.0], [-0.0, -0.0, -0.0], [-1.0, -1.0, -1.0]], dtype)
    below = [0, 0, 2] if dale == "rectified" else [-2, 2, 2]
    np.testing.assert_array_equal(constraint.gradient(raw, np.full((3, 3), 2, dtype)), [[0, 0, 2], [0, 0, 2], below])


@every_dale
def test_nan_and_inf(dale):
    """Pass through where entries are trained, and are not seen where they are not."""
    constraint = pyrnn.training.Constraint([[True, False, True]], [[np.nan, np.nan, -3.0]], [1, 1, -1], dale)
    bad = np.array([[np.nan] * 3])
    np.testing.assert_array_equal(constraint.apply(bad), [[np.nan, 0, -3]])
    np.testing.assert_array_equal(constraint.project(bad), [[np.nan, 0, -3]])
    np.testing.assert_array_equal(constraint.gradient(np.ones((1, 3)), bad), [[np.nan, 0, 0]])
    np.testing.assert_array_equal(np.isnan(constraint.gradient(bad, np.ones((1, 3)))), [[True, False, False]])
    np.testing.assert_array_equal(constraint.raw([[np.nan, 0.0, -3.0]])[:, 0], [np.nan])
    np.testing.assert_array_equal(constraint.gradient(np.zeros((1, 3)), np.full((1, 3), np.inf)), 0)
    free = pyrnn.training.Constraint(signs=[0, 1], dale=dale)
    for call in (free.apply, free.project, free.raw, lambda W: free.gradient(np.ones((1, 2)), W)):
        np.testing.assert_array_equal(call([[-np.inf, np.inf]]), [[-np.inf, np.inf]])
    signs = pyrnn.training.Constraint(signs=[1, -1], dale=dale)
    np.testing.assert_array_equal(signs.apply([[np.inf, np.inf]]), [[np.inf, -np.inf]])
    np.testing.assert_array_equal(signs.gradient(np.ones((1, 2)), [[np.inf, np.inf]]), [[np.inf, -np.inf]])


def plain_apply(constraint, raw):
    """The definition, entry by entry."""
    W = raw.copy()
    if constraint.signs is not None:
        magnitudes = np.where(~(raw <= 0), raw, 0) if constraint.dale == "rectified" else np.abs(raw)
        np.multiply(magnitudes, constraint.signs, out=W, where=constraint.signs != 0)
        W += 0  # -1 times 0 is -0.0
    if constraint.mask is not None:
        W[~constraint.mask] = 0
    if constraint.frozen is not None:
        np.copyto(W, constraint.frozen, where=~np.isnan(constraint.frozen))
    return W


def plain_gradient(constraint, raw, grad):
    moves, slope = constraint.trained(raw.shape), np.ones_like(raw)
    if constraint.signs is not None:
        signed = constraint.signs != 0
        moves = moves & ~(signed & (raw <= 0 if constraint.dale == "rectified" else raw == 0))
        np.multiply(np.sign(raw), constraint.signs, out=slope, where=signed)
    result = np.zeros_like(raw)
    np.multiply(slope, grad, out=result, where=moves)
    return result


def assert_same_bits(a, b):
    """But for the signs of NaN."""
    assert a.dtype == b.dtype
    np.testing.assert_array_equal(a, b)
    np.testing.assert_array_equal(np.signbit(a)[~np.isnan(a)], np.signbit(b)[~np.isnan(b)])


SPECIAL = np.array([0.0, -0.0, np.nan, -np.nan, np.inf, -np.inf, 1e-42, -1e-42, 1.0, -1.0])


@every_dale
def test_bits_are_those_of_the_definition(dtype, dale):
    """Of constraints of all kinds, with zeros of both signs, NaN, infinite and subnormal numbers at all entries."""
    rng = np.random.default_rng(0)
    for _ in range(1000):
        shape = tuple(rng.integers(0, 7, 2))
        columns = shape[1]
        kinds = (
            rng.integers(-1, 2, columns),
            np.where(rng.random(columns) < 0.5, 1, -1),
            np.ones(columns),
            -np.ones(columns),
        )
        signs = (None, np.zeros(columns), *kinds)[rng.integers(6)]
        mask = (None, rng.random(shape) < 0.6, np.ones(shape, bool))[rng.integers(3)]
        values = (1 if signs is None else np.where(signs == 0, -1, signs)) * rng.choice([0.0, 0.5, 1e-42], shape)
        values = values if mask is None else values * mask
        frozen = np.where(rng.random(shape) < 0.4, values, np.nan) if rng.integers(2) else None
        constraint = pyrnn.training.Constraint(mask, frozen, signs, dale)
        raw, grad = rng.standard_normal((2, *shape)).astype(dtype)
        for a in (raw, grad):
            np.copyto(
                a, rng.choice(SPECIAL, shape), where=rng.random(shape) < rng.choice([0, 0.5]), casting="same_kind"
            )
        with np.errstate(all="ignore"):
            expected = plain_apply(constraint, raw), plain_gradient(constraint, raw, grad)
        assert_same_bits(constraint.apply(raw), expected[0])
        assert_same_bits(constraint.gradient(raw, grad), expected[1])


def test_one_constraint_for_matrices_of_several_shapes():
    constraint, rng = pyrnn.training.Constraint(signs=[1, -1, 0]), np.random.default_rng(0)
    for rows in (2, 5, 2):
        raw, grad = rng.standard_normal((2, rows, 3))
        assert_same_bits(constraint.apply(raw), plain_apply(constraint, raw))
        assert_same_bits(constraint.gradient(raw, grad), plain_gradient(constraint, raw, grad))
    with pytest.raises(ValueError, match=r"shape must have shape \(rows, 3\) to match signs \(3,\), got \(2, 2\)"):
        constraint.trained((2, 2))


def test_projection_is_the_nearest():
    """No allowed matrix is nearer, nor does a step along a segment to one come nearer."""
    rng = np.random.default_rng(0)
    constraint, _ = random_constraint(rng, 4, 5)
    W = rng.standard_normal((4, 5))
    nearest = constraint.project(W)
    for _ in range(100):
        other = constraint.project(nearest + rng.standard_normal((4, 5)) * 10.0 ** rng.integers(-3, 1))
        assert np.linalg.norm(W - nearest) <= np.linalg.norm(W - other)
        assert np.sum((W - nearest) * (other - nearest)) <= 1e-12  # the angle at the nearest point of a convex set


def test_training_keeps_the_constraint():
    """Raw weights by gradient descent, and weights by projected gradient descent."""
    n = network(T=5, B=4, I=3, H=10, O=2)
    W, signs = pyrnn.training.balanced(10, rng=0)
    frozen = np.full((10, 10), np.nan)
    frozen[0], W[0] = 0.25 * signs, 0.25 * signs
    W = W * ~np.eye(10, dtype=bool)
    frozen[0, 0] = np.nan
    constraint = pyrnn.training.Constraint(~np.eye(10, dtype=bool), frozen, signs)

    def step(W):
        made = pyrnn.Network(n["U"], W, n["b"], n["V"], n["c"])
        loss, gradients = pyrnn.loss_and_gradients(made, n["x"], n["numbers"], loss="squared_error")
        return loss, gradients.W

    raw = constraint.raw(W)
    first = step(W)[0]
    for _ in range(20):
        raw -= 0.01 * constraint.gradient(raw, step(constraint.apply(raw))[1])
        W = constraint.project(W - 0.01 * step(W)[1])
    for trained in (constraint.apply(raw), W):
        assert_allowed(constraint, trained)
        assert step(trained)[0] < 0.99 * first


# ---- The object -----------------------------------------------------------------------------------------------------
def test_frozen_is_rounded_to_the_dtype_of_raw():
    constraint = pyrnn.training.Constraint(frozen=[[0.1, np.nan]])
    assert constraint.apply(np.ones((1, 2), np.float32))[0, 0] == np.float32(0.1)
    assert constraint.apply(np.ones((1, 2)))[0, 0] == 0.1
    assert constraint.raw(np.array([[0.1, 2]], np.float32)).dtype == np.float32


def test_results_have_the_dtype_of_the_arguments():
    constraint = pyrnn.training.Constraint(signs=[1, -1])
    assert constraint.gradient(np.ones((1, 2), np.float32), np.ones((1, 2))).dtype == np.float64
    assert constraint.apply(np.ones((1, 2), np.float16)).dtype == np.float32
    assert constraint.apply([[1, 2]]).dtype == np.float64


@every_dale
def test_layouts(layout, dale):
    rng = np.random.default_rng(0)
    constraint, _ = random_constraint(rng, 4, 5, dale)
    raw, grad = rng.standard_normal((2, 4, 5))
    W = constraint.project(raw)
    before = raw.tobytes(), grad.tobytes(), W.tobytes()
    np.testing.assert_array_equal(constraint.apply(layout(raw)), constraint.apply(raw))
    np.testing.assert_array_equal(constraint.project(layout(raw)), W)
    np.testing.assert_array_equal(constraint.raw(layout(W)), constraint.raw(W))
    np.testing.assert_array_equal(constraint.gradient(layout(raw), layout(grad)), constraint.gradient(raw, grad))
    laid_out = pyrnn.training.Constraint(layout(constraint.mask), layout(constraint.frozen), constraint.signs, dale)
    np.testing.assert_array_equal(laid_out.apply(raw), constraint.apply(raw))
    assert (raw.tobytes(), grad.tobytes(), W.tobytes()) == before


@pytest.mark.parametrize("shape", [(0, 0), (0, 3), (3, 0)])
def test_empty(shape):
    constraint = pyrnn.training.Constraint(np.ones(shape, bool), np.ones(shape), np.ones(shape[1]))
    for result in (
        constraint.apply(np.ones(shape)),
        constraint.gradient(np.ones(shape), np.ones(shape)),
        constraint.project(np.ones(shape)),
        constraint.raw(np.ones(shape)),
    ):
        assert result.shape == shape


@every_dale
def test_immutable_and_copied(dale):
    given = {"mask": np.ones((2, 2), bool), "frozen": np.full((2, 2), np.nan), "signs": np.array([1.0, -1.0])}
    constraint = pyrnn.training.Constraint(**given, dale=dale)
    given["mask"][...], given["frozen"][...], given["signs"][...] = False, 7, 0
    for c in (
        constraint,
        copy.copy(constraint),
        copy.deepcopy(constraint),
        pickle.loads(pickle.dumps(constraint)),
    ):
        below = [0, 0] if dale == "rectified" else [1, -1]
        np.testing.assert_array_equal(c.apply([[1.0, 1.0], [-1.0, -1.0]]), [[1, -1], below])
        assert c.dale == dale
        assert c.signs.dtype == np.int8
        for name in given:
            with pytest.raises(ValueError, match="read-only"):
                getattr(c, name)[...] = 0
            with pytest.raises(AttributeError):
                setattr(c, name, None)
        with pytest.raises(AttributeError):
            c.other = 1


def test_repr():
    assert repr(pyrnn.training.Constraint()) == "Constraint()"
    constraint = pyrnn.training.Constraint(mask=np.ones((2, 3), bool), signs=[1, 1, -1], dale="absolute")
    assert repr(constraint) == "Constraint(mask=<2 x 3>, signs=<3>, dale='absolute')"


nan = np.nan


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"dale": "softplus"}, ValueError, "dale must be one of 'rectified', 'absolute', got 'softplus'"),
        ({"dale": None}, ValueError, "dale must be one of 'rectified', 'absolute', got None"),
        ({"mask": np.ones((2, 2))}, TypeError, "mask must be booleans, True for a connection, got dtype float64"),
        ({"mask": [True, False]}, ValueError, r"mask must have shape \(rows, columns\), got \(2,\)"),
        ({"mask": [[True], [True, False]]}, ValueError, "mask must be an array of numbers: .*"),
        ({"mask": np.ma.array([[True]], mask=[[True]])}, TypeError, "mask must be an array without masked values.*"),
        ({"frozen": np.ones((2, 2), bool)}, TypeError, "frozen must be the values themselves.* got booleans"),
        ({"frozen": [[1j]]}, TypeError, "frozen must be real numbers .* got dtype complex128"),
        ({"frozen": [[None]]}, TypeError, "frozen must be real numbers .* got dtype object"),
        ({"frozen": [1.0]}, ValueError, r"frozen must have shape \(rows, columns\), got \(1,\)"),
        ({"frozen": [[nan, -np.inf]]}, ValueError, r"frozen must be finite or NaN, got -inf at \(0, 1\)"),
        ({"signs": [1, 2]}, ValueError, "signs must be .1, -1 or 0, got 2.0 at 1"),
        ({"signs": [0.5]}, ValueError, "signs must be .1, -1 or 0, got 0.5 at 0"),
        ({"signs": [1, nan]}, ValueError, "signs must be .1, -1 or 0, got nan at 1"),
        ({"signs": [[1, 1]]}, ValueError, r"signs must have shape \(columns,\), got \(1, 2\)"),
        ({"signs": 1}, ValueError, r"signs must have shape \(columns,\), got \(\)"),
        ({"signs": [True, False]}, TypeError, "signs must be numbers, .1, -1 or 0, as .* makes them; got booleans"),
        ({"signs": "+-"}, TypeError, "signs must be real numbers .*"),
        (
            {"mask": [[True, True]], "frozen": [[nan], [nan]]},
            ValueError,
            r"frozen must have shape \(1, 2\) to match mask \(1, 2\), got \(2, 1\)",
        ),
        (
            {"mask": [[True, True]], "signs": [1]},
            ValueError,
            r"signs must have shape \(2,\) to match mask \(1, 2\), got \(1,\)",
        ),
        (
            {"frozen": [[nan, nan]], "signs": [1, 1, 1]},
            ValueError,
            r"signs must have shape \(2,\) to match frozen \(1, 2\), got \(3,\)",
        ),
        (
            {"mask": [[True, False]], "frozen": [[nan, 0.5]]},
            ValueError,
            r"frozen must be 0 or NaN where mask is False, got 0.5 at \(0, 1\)",
        ),
        (
            {"frozen": [[1.0], [-0.5]], "signs": [1]},
            ValueError,
            r"frozen must have the signs of its columns, got -0.5 at \(1, 0\)",
        ),
    ],
)
def test_bad_arguments(arguments, error, message):
    with pytest.raises(error, match=f"^{message}$"):
        pyrnn.training.Constraint(**arguments)


def test_frozen_and_masked_may_agree():
    constraint = pyrnn.training.Constraint([[False, False]], [[0.0, nan]], [1, -1])
    np.testing.assert_array_equal(constraint.apply([[1.0, 1.0]]), [[0, 0]])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"mask": np.ones((2, 3), bool)}, r"must have shape \(2, 3\) to match mask \(2, 3\), got \(3, 3\)"),
        ({"frozen": np.full((2, 3), nan)}, r"must have shape \(2, 3\) to match frozen \(2, 3\), got \(3, 3\)"),
        ({"signs": [1, 1]}, r"must have shape \(rows, 2\) to match signs \(2,\), got \(3, 3\)"),
    ],
)
def test_weights_of_another_shape(arguments, message):
    constraint, W = pyrnn.training.Constraint(**arguments), np.ones((3, 3))
    for name, call in (
        ("raw", constraint.apply),
        ("raw", lambda W: constraint.gradient(W, W)),
        ("W", constraint.project),
        ("W", constraint.raw),
    ):
        with pytest.raises(ValueError, match=f"^{name} {message}$"):
            call(W)


@pytest.mark.parametrize("name", ["apply", "project", "raw"])
def test_weights_that_are_none(name):
    call = getattr(pyrnn.training.Constraint(), name)
    for bad, error in ((None, TypeError), (np.ones((2, 2), complex), TypeError), ("a", TypeError), ([1.0], ValueError)):
        with pytest.raises(error, match=f"^{'raw' if name == 'apply' else 'W'} must "):
            call(bad)


def test_gradient_of_another_shape():
    with pytest.raises(
        ValueError, match=r"^grad_effective must have shape \(2, 2\) to match raw \(2, 2\), got \(2,\)$"
    ):
        pyrnn.training.Constraint().gradient(np.ones((2, 2)), np.ones(2))
    with pytest.raises(TypeError, match=r"^grad_effective must be .* None$"):
        pyrnn.training.Constraint().gradient(np.ones((2, 2)), None)


@pytest.mark.parametrize(
    ("arguments", "W", "where"),
    [
        ({"mask": [[True, False]]}, [[1.0, 2.0]], r"2.0 at \(0, 1\)"),
        ({"mask": [[True, False]]}, [[1.0, nan]], r"nan at \(0, 1\)"),
        ({"frozen": [[nan, 3.0]]}, [[1.0, 2.0]], r"2.0 at \(0, 1\)"),
        ({"signs": [1, -1]}, [[1.0, 2.0]], r"2.0 at \(0, 1\)"),
    ],
)
def test_raw_of_weights_that_are_not_allowed(arguments, W, where):
    with pytest.raises(ValueError, match=rf"^W must be allowed by the constraint, as project\(W\) is, got {where}$"):
        pyrnn.training.Constraint(**arguments).raw(W)


# ---- Spectral radius ------------------------------------------------------------------------------------------------
def test_spectral_radius_of_matrices_that_are_known():
    c, s = np.cos(0.3), np.sin(0.3)
    for W, radius in (
        (np.diag([0.5, -2.0, 1.0]), 2.0),
        (3 * np.array([[c, -s], [s, c]]), 3.0),
        (np.ones((7, 7)), 7.0),
        (np.eye(4, k=1), 0.0),
        (np.roll(np.eye(5), 1, axis=0), 1.0),
        (np.zeros((0, 0)), 0.0),
        ([[-4]], 4.0),
    ):
        actual = pyrnn.training.spectral_radius(W)
        assert isinstance(actual, np.float64)
        np.testing.assert_allclose(actual, radius, rtol=1e-14)


def test_spectral_radius_is_the_growth_of_powers():
    """By Gelfand's formula."""
    W = np.random.default_rng(0).standard_normal((6, 6))
    growth = np.linalg.norm(np.linalg.matrix_power(W / 3, 512)) ** (1 / 512) * 3
    np.testing.assert_allclose(pyrnn.training.spectral_radius(W), growth, rtol=0.01)


def test_spectral_radius_of_float32_is_computed_in_float64():
    W = np.random.default_rng(0).standard_normal((30, 30)).astype(np.float32)
    assert pyrnn.training.spectral_radius(W) == pyrnn.training.spectral_radius(W.astype(np.float64))


@pytest.mark.parametrize("radius", [0, 0.9, 1, np.float32(1.5), 1e-300])
@pytest.mark.parametrize("scale", [1e-300, 1.0, 1e300])
def test_scaled(radius, scale):
    W = np.random.default_rng(0).standard_normal((20, 20)) * scale
    before = W.tobytes()
    scaled = pyrnn.training.scale_spectral_radius(W, radius)
    np.testing.assert_allclose(pyrnn.training.spectral_radius(scaled), radius, rtol=1e-12)
    np.testing.assert_allclose(scaled * (W[0, 0] / scale), W / scale * scaled[0, 0], rtol=1e-13)
    assert W.tobytes() == before


def test_scaled_keeps_dtype_and_signs(layout):
    W, _ = pyrnn.training.balanced(20, density=0.5, rng=0, dtype=np.float32)
    scaled = pyrnn.training.scale_spectral_radius(layout(W), 1.5)
    assert scaled.dtype == np.float32
    np.testing.assert_allclose(pyrnn.training.spectral_radius(scaled), 1.5, rtol=1e-5)
    np.testing.assert_array_equal(np.sign(scaled), np.sign(W))


def test_radius_of_nan_and_inf():
    for bad in (nan, np.inf, -np.inf):
        W = np.array([[1.0, bad], [0.0, 1.0]])
        assert np.isnan(pyrnn.training.spectral_radius(W))
        assert np.isnan(pyrnn.training.scale_spectral_radius(W, 1.0)).all()


def test_scaling_beyond_the_dtype():
    scaled = pyrnn.training.scale_spectral_radius(np.array([[1.0, 1e30], [0.0, 1.0]], np.float32), 1e10)
    np.testing.assert_array_equal(scaled, np.array([[1e10, np.inf], [0, 1e10]], np.float32))


@pytest.mark.parametrize("W", [np.zeros((3, 3)), np.eye(3, k=1), [[0]]])
def test_nothing_to_scale(W):
    with pytest.raises(ValueError, match=r"^W must have an eigenvalue other than 0, got a matrix that has none$"):
        pyrnn.training.scale_spectral_radius(W, 1.0)


def test_scaling_an_empty_matrix():
    assert pyrnn.training.scale_spectral_radius(np.zeros((0, 0)), 1.0).shape == (0, 0)


@pytest.mark.parametrize("radius", [-1, nan, np.inf, None, "1", 1j, [1.0]])
def test_bad_radius(radius):
    with pytest.raises(ValueError, match=r"^radius must be a finite number from 0, got "):
        pyrnn.training.scale_spectral_radius(np.eye(2), radius)


@pytest.mark.parametrize(
    ("W", "error", "message"),
    [
        (np.ones((2, 3)), ValueError, r"W must have shape \(H, H\), got \(2, 3\)"),
        (np.ones(4), ValueError, r"W must have shape \(H, H\), got \(4,\)"),
        (np.ones((1, 2, 2)), ValueError, r"W must have shape \(H, H\), got \(1, 2, 2\)"),
        (None, TypeError, "W must be .* None"),
        (np.eye(2) * 1j, TypeError, "W must be real .* complex128"),
    ],
)
def test_bad_matrix(W, error, message):
    for call in (pyrnn.training.spectral_radius, lambda W: pyrnn.training.scale_spectral_radius(W, 1.0)):
        with pytest.raises(error, match=f"^{message}$"):
            call(W)


# ---- Balanced matrices ----------------------------------------------------------------------------------------------
@pytest.mark.parametrize("H", [2, 3, 10, 101])
@pytest.mark.parametrize("excitatory", [0.01, 0.5, 0.8, 0.99])
@pytest.mark.parametrize("density", [0.001, 0.2, 1.0])
def test_balanced(dtype, H, excitatory, density):
    W, signs = pyrnn.training.balanced(H, excitatory=excitatory, density=density, gain=1.3, rng=0, dtype=dtype)
    assert W.shape == (H, H)
    assert W.dtype == dtype
    E = min(max(round(excitatory * H), 1), H - 1)
    np.testing.assert_array_equal(signs, [1] * E + [-1] * (H - E))
    assert (W * signs >= 0).all()
    assert not np.signbit(W[W == 0]).any()
    scale = np.abs(W).sum(axis=1)
    assert (np.abs(W.sum(axis=1, dtype=np.float64)) <= 2 * np.finfo(dtype).eps * scale).all()
    np.testing.assert_array_equal((W[:, :E] != 0).sum(axis=1), max(round(density * E), 1))
    np.testing.assert_array_equal((W[:, E:] != 0).sum(axis=1), max(round(density * (H - E)), 1))
    pyrnn.training.Constraint(signs=signs).raw(W)  # is allowed


@pytest.mark.parametrize(
    ("excitatory", "density", "gain"), [(0.5, 1, 1.0), (0.8, 1, 1.5), (0.8, 0.1, 1), (0.9, 0.5, 2)]
)
def test_balanced_fills_the_circle_of_rajan_and_abbott(excitatory, density, gain):
    """Up to what a matrix of finite size throws out."""
    W, _ = pyrnn.training.balanced(600, excitatory=excitatory, density=density, gain=gain, rng=0)
    assert 0.95 * gain < pyrnn.training.spectral_radius(W) < 1.15 * gain


def test_balance_is_what_keeps_eigenvalues_within_the_circle():
    W, signs = pyrnn.training.balanced(600, gain=1.0, rng=0)
    excitation = W[:, signs > 0].sum(axis=1).mean()
    half_the_inhibition = W * np.where(signs > 0, 1, 0.5)
    assert pyrnn.training.spectral_radius(half_the_inhibition) == pytest.approx(excitation / 2, rel=0.05)
    assert excitation / 2 > 1.3


def test_eigenvalues_of_equal_variances_are_uniform_in_the_circle():
    """The circular law: a quarter of them within half the radius."""
    W, _ = pyrnn.training.balanced(600, excitatory=0.5, gain=2.0, rng=0)
    area = (np.abs(np.linalg.eigvals(W)) / 2) ** 2
    np.testing.assert_allclose(np.quantile(area, [0.1, 0.25, 0.5, 0.75, 0.9]), [0.1, 0.25, 0.5, 0.75, 0.9], atol=0.02)


def test_balanced_has_the_variances_of_its_gain():
    """The sum over a row of the variances over many draws is gain², less what the exact balance of a row takes."""
    rng = np.random.default_rng(0)
    draws = np.array([pyrnn.training.balanced(200, density=0.5, gain=1.5, rng=rng)[0] for _ in range(100)])
    assert np.sqrt(draws.var(axis=0).sum(axis=1).mean()) == pytest.approx(1.5, rel=0.02)
    assert (draws != 0).mean(axis=0).std() < 0.06  # no place is better than another; 0.05 is that of fair coins


def test_gain_of_balanced_scales():
    one, other, none = (pyrnn.training.balanced(10, gain=gain, rng=1)[0] for gain in (1.0, np.float32(2.5), 0))
    np.testing.assert_array_equal(other, 2.5 * one)
    np.testing.assert_array_equal(none, 0)
    assert not np.signbit(none).any()


def test_balanced_is_reproducible():
    draw = lambda rng: pyrnn.training.balanced(8, rng=rng)[0]
    np.testing.assert_array_equal(draw(5), draw(np.random.default_rng(5)))
    assert not np.array_equal(draw(5), draw(6))
    assert not np.array_equal(draw(None), draw(None))
    np.testing.assert_array_equal(pyrnn.training.balanced(8, rng=5, dtype=np.float32)[0], draw(5).astype(np.float32))
    assert draw(5).dtype == np.float64


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"H": 1}, ValueError, "H must be at least 2, one unit of each kind, got 1"),
        ({"H": 0}, ValueError, "H must be a positive integer, got 0"),
        ({"H": 2.0}, TypeError, "H must be a positive integer, got 2.0"),
        ({"excitatory": 0}, ValueError, "excitatory must be a finite number between 0 and 1, got 0"),
        ({"excitatory": 1.0}, ValueError, "excitatory must be a finite number between 0 and 1, got 1.0"),
        ({"excitatory": nan}, ValueError, "excitatory must be a finite number between 0 and 1, got nan"),
        ({"excitatory": None}, ValueError, "excitatory must be a finite number between 0 and 1, got None"),
        ({"gain": -1}, ValueError, "gain must be a finite number from 0, got -1"),
        ({"gain": np.inf}, ValueError, "gain must be a finite number from 0, got inf"),
        ({"gain": "1"}, ValueError, "gain must be a finite number from 0, got '1'"),
        ({"density": 0}, ValueError, "density must be a finite number above 0, up to 1, got 0"),
        ({"density": 1.1}, ValueError, "density must be a finite number above 0, up to 1, got 1.1"),
        ({"density": [0.5]}, ValueError, r"density must be a finite number above 0, up to 1, got \[0.5\]"),
        ({"dtype": np.float16}, TypeError, "dtype must be float32 or float64, got float16"),
        ({"dtype": int}, TypeError, "dtype must be float32 or float64, got int64"),
    ],
)
def test_balanced_rejects(arguments, error, message):
    with pytest.raises(error, match=f"^{message}$"):
        pyrnn.training.balanced(**{"H": 5} | arguments)
