"""The forms of a cell: the reference against complex steps, the compiled loops against the reference."""

import copy
import itertools

import numpy as np
import pytest
from helpers import (
    FUSED,
    WRITEABLE_LAYOUTS,
    InEngine,
    add_gradients,
    allocated,
    assert_close,
    complex_step,
    for_each,
    network,
    with_cell,
)

import pyrnn
from pyrnn import reference

pytestmark = pytest.mark.compiled

NONLINEARITIES = ("tanh", "relu", "identity")
OTHERS = ("softplus", "sigmoid", "retanh", "leaky_relu")
LEAKS = {
    "plain": {},
    "rate": {"alpha": 0.3},
    "rate by unit": {"alpha": np.array([0.1, 0.9, 1.0, 0.0, 0.5, 0.25])},
    "current": {"alpha": 0.3, "form": "current"},
    "current by unit": {"alpha": np.array([0.1, 0.9, 1.0, 0.01, 0.5, 0.25]), "form": "current"},
}
STEPS = {
    "all": {},
    "lengths": {"lengths": np.array([3, 0, 5, 1])},
    "all lengths": {"lengths": np.array([5, 5, 5, 5])},
    "no lengths": {"lengths": np.array([0, 0, 0, 0])},
    "mask": {"mask": np.array([[1, 0, 0, 1], [0, 1, 0, 1], [1, 1, 0, 0], [1, 0, 0, 1], [0, 1, 0, 1]], bool)},
}


# Arguments of forward that say what the cell is, and which steps there are.
every_form = for_each(
    "form",
    {
        (nonlinearity, leak, steps, reverse): {"nonlinearity": nonlinearity, "reverse": reverse}
        | ({"negative_slope": 0.25} if nonlinearity == "leaky_relu" else {})
        | LEAKS[leak]
        | STEPS[steps]
        for nonlinearity, leak, steps, reverse in (
            *itertools.product(NONLINEARITIES, LEAKS, STEPS, (False, True)),
            *itertools.product(OTHERS, LEAKS, ("all", "mask"), (False,)),
            *itertools.product(OTHERS, LEAKS, ("lengths",), (True,)),
        )
    },
)


def run(module, n, form, drive=True, **options):
    """h, rates or None, and the gradients as a dictionary."""
    rates = np.full_like(n["dh"], np.nan) if "alpha" in form else None
    extra = with_cell(form) | options | ({"drive": n["drive"]} if drive else {})
    h = module.forward(n["x"], n["U"], n["W"], n["b"], n["h0"], rates=rates, **extra)
    g = module.backward(n["dh"], h, n["x"], n["U"], n["W"], n["h0"], rates=rates, **extra)
    return h, rates, g._asdict()


@pytest.fixture
def n():
    n = network(T=5, B=4, I=3, H=6)
    return n | {"drive": np.random.default_rng(1).standard_normal(n["dh"].shape)}


@pytest.mark.unsanitized
@every_form
def test_reference_against_complex_steps(n, form):
    gradients = run(reference, n, form)[2]
    varied = {name: n[name] for name in ("x", "U", "W", "b", "h0", "drive")}
    if "alpha" in form:
        varied["alpha"] = np.asarray(form["alpha"])

    def loss(alpha=None, **arguments):
        moved = form if alpha is None else form | {"alpha": alpha}
        return (n["dh"] * reference.forward(**arguments, **with_cell(moved))).sum()

    expected = complex_step(loss, varied)
    for name, e in expected.items():
        np.testing.assert_allclose(
            gradients[name], e, rtol=0, atol=1e-12 * max(1, np.abs(e).max(initial=0)), err_msg=name
        )


@pytest.mark.unsanitized
@every_form
def test_reference_jacobian_against_complex_steps(n, form):
    h, rates, _ = run(reference, n, form, drive=False)
    J = reference.jacobian(h, n["W"], n["h0"], rates=rates, **with_cell(form))
    first = len(n["x"]) - 1 if form["reverse"] else 0

    def one(h0):
        return reference.forward(n["x"], n["U"], n["W"], n["b"], h0, **with_cell(form))[first]

    expected = complex_step(one, {"h0": n["h0"]})["h0"]  # [B, H, B, H]: by sequence and unit before, and after
    for i in range(4):
        np.testing.assert_allclose(J[first, i], expected[i, :, i, :].T, rtol=0, atol=1e-13)


@pytest.mark.unsanitized
@every_form
def test_state_gradients_of_the_reference(n, form):
    """By the chain of Jacobians, and the gradient at h0 at its end."""
    h, rates, gradients = run(reference, n, form, drive=False)
    g = reference.state_gradients(n["dh"], h, n["W"], rates=rates, **with_cell(form))
    J = reference.jacobian(h, n["W"], n["h0"], rates=rates, **with_cell(form))
    exists = np.ones((5, 4, 1), bool)
    if "lengths" in form:
        exists = (np.arange(5)[:, np.newaxis] < form["lengths"])[..., np.newaxis]
    later = np.zeros_like(n["h0"])
    for t in range(5) if form["reverse"] else range(4, -1, -1):
        total = np.where(exists[t], n["dh"][t] + later, later)
        np.testing.assert_allclose(g[t], np.where(exists[t], total, 0), rtol=0, atol=1e-13)
        later = np.where(exists[t], np.einsum("bij,bi->bj", J[t], total), total)
    np.testing.assert_allclose(gradients["h0"], later, rtol=0, atol=1e-13)


@every_form
def test_compiled_against_reference(n, form, dtype):
    n = {name: a.astype(dtype) if a.dtype.kind == "f" else a for name, a in n.items()}
    form = {k: v.astype(dtype) if k == "alpha" and np.ndim(v) else v for k, v in form.items()}
    exact = {name: a.astype(np.float64) if a.dtype.kind == "f" else a for name, a in n.items()}
    exact_form = {k: np.asarray(v, dtype).astype(float) if k == "alpha" else v for k, v in form.items()}
    expected = run(reference, exact, exact_form)
    tolerance = 1e-13 if dtype == np.float64 else 4e-6
    for engine in ("blas", "fused"):
        h, rates, gradients = run(InEngine(engine), n, form)
        assert_close(h, expected[0], tolerance)
        if rates is not None:
            assert_close(rates, expected[1], tolerance)
        for name, e in expected[2].items():
            if e is None:
                assert gradients[name] is None
                continue
            slack = 20 if name == "alpha" else 1  # of differences of states, over alpha in the current form
            assert np.asarray(gradients[name]).dtype == dtype, name
            assert_close(np.asarray(gradients[name]), np.asarray(e), slack * tolerance)


# ---- Sizes, chunks, threads and bits --------------------------------------------------------------------------------
def random_form(rng, T, B, H, dtype):
    """A form of any kind for a network of these sizes."""
    form = {"nonlinearity": str(rng.choice(NONLINEARITIES)), "reverse": bool(rng.integers(2))}
    leak = rng.integers(4)
    if leak:
        form["alpha"] = 0.3 if leak == 1 else rng.uniform(0.05, 1, H).astype(dtype)
        form["form"] = str(rng.choice(["rate", "current"]))
    steps = rng.integers(4)
    if steps == 1:
        form["lengths"] = rng.integers(0, T + 1, B)
    elif steps == 2:
        form["mask"] = rng.random((T, B)) < rng.random()
    elif steps == 3:
        form["lengths"] = np.sort(rng.integers(0, T + 1, B))[::-1]
    return form


def random_network(rng, dtype, most=40):
    T, B, I, H = rng.integers(1, 12), rng.integers(1, most), rng.integers(1, 6), rng.integers(1, 70)
    n = network(T, B, I, H, dtype=dtype, seed=rng.integers(1 << 30))
    n["drive"] = rng.standard_normal(n["dh"].shape).astype(dtype)
    n["W"] *= dtype(0.7)  # of relu and identity the states would grow
    return n, random_form(rng, T, B, H, dtype)


def double(a):
    return a.astype(np.float64) if isinstance(a, np.ndarray) and a.dtype.kind == "f" else a


@for_each("seed", range(150))
def test_random_forms(set_chunk_bytes, dtype, seed):
    rng = np.random.default_rng(seed)
    n, form = random_network(rng, dtype)
    drive = bool(rng.integers(2))
    set_chunk_bytes(int(rng.integers(1, 5)) * 4000)
    exact = {name: double(a) for name, a in n.items()}
    exact_form = {name: double(np.asarray(a, dtype)) if name == "alpha" else a for name, a in form.items()}
    h, rates, gradients = run(reference, exact, exact_form, drive)
    g = reference.state_gradients(exact["dh"], h, exact["W"], rates=rates, **with_cell(exact_form))
    J = reference.jacobian(h, exact["W"], exact["h0"], rates=rates, **with_cell(exact_form))
    tolerance = 1e-13 if dtype == np.float64 else 2e-5
    for engine in ("blas", "fused"):
        h2, rates2, gradients2 = run(InEngine(engine), n, form, drive)
        assert_close(h2, h, tolerance)
        if rates is not None:
            assert_close(rates2, rates, tolerance)
        for name, e in gradients.items():
            if e is None:
                assert gradients2[name] is None
            else:
                assert_close(np.asarray(gradients2[name]), np.asarray(e), (50 if name == "alpha" else 1) * tolerance)
    assert_close(pyrnn.state_gradients(n["dh"], h2, n["W"], rates=rates2, **with_cell(form)), g, tolerance)
    assert_close(pyrnn.jacobian(h2, n["W"], n["h0"], rates=rates2, **with_cell(form)), J, tolerance)


@for_each("seed", range(60))
def test_state_gradients_and_inputs_stay_as_they_are(dtype, monkeypatch, seed):
    """Of both engines, and no argument is written to."""
    rng = np.random.default_rng(seed)
    n, form = random_network(rng, dtype)
    h, rates, _ = run(FUSED, n, form)
    before = {name: a.tobytes() for name, a in (n | form | {"h": h}).items() if isinstance(a, np.ndarray)}
    results = []
    for engine in ("blas", "fused"):
        monkeypatch.setattr("pyrnn._engines.automatic", lambda engine=engine: engine)
        results.append(pyrnn.state_gradients(n["dh"], h, n["W"], rates=rates, **with_cell(form)))
        run(pyrnn, n, form)
    assert_close(*results, 1e-13 if dtype == np.float64 else 2e-5)
    for name, a in (n | form | {"h": h}).items():
        if isinstance(a, np.ndarray):
            assert a.tobytes() == before[name], name


@for_each("seed", range(60))
def test_bits_do_not_depend_on_threads_chunks_or_batch(set_chunk_bytes, dtype, monkeypatch, seed):
    set_chunk_bytes(0)  # the usual rule, also after another seed
    rng = np.random.default_rng(seed)
    n, form = random_network(rng, dtype, most=80)
    B = n["dh"].shape[1]
    monkeypatch.setattr("pyrnn._engines.automatic", lambda: "fused")
    one = run(pyrnn, n, form, n_threads=1)
    for n_threads in (2, 3, 7):
        more = run(pyrnn, n, form, n_threads=n_threads)
        for a, b in zip(flat(one), flat(more), strict=True):
            np.testing.assert_array_equal(a, b)
    i = int(rng.integers(B))
    alone = {name: n[name][:, i : i + 1] for name in ("x", "dh", "drive")} | {"h0": n["h0"][i : i + 1]}
    part = {k: v[:, i : i + 1] if k == "mask" else v[i : i + 1] if k == "lengths" else v for k, v in form.items()}
    set_chunk_bytes(2000)
    h, rates, gradients = run(pyrnn, n | alone, part)
    np.testing.assert_array_equal(h[:, 0], one[0][:, i])
    np.testing.assert_array_equal(gradients["x"][:, 0], one[2]["x"][:, i])
    np.testing.assert_array_equal(gradients["drive"][:, 0], one[2]["drive"][:, i])
    np.testing.assert_array_equal(gradients["h0"][0], one[2]["h0"][i])
    g = pyrnn.state_gradients(n["dh"], one[0], n["W"], rates=one[1], **with_cell(form))
    g1 = pyrnn.state_gradients(alone["dh"], h, n["W"], rates=rates, **with_cell(part))
    np.testing.assert_array_equal(g1[:, 0], g[:, i])
    if "lengths" in form:  # and as the sequence itself, without a length
        end = int(part["lengths"][0])
        cut = n | {name: a[:end] for name, a in alone.items() if name != "h0"} | {"h0": alone["h0"]}
        h, _, gradients = run(pyrnn, cut, {k: v for k, v in part.items() if k != "lengths"})
        np.testing.assert_array_equal(h[:, 0], one[0][:end, i])
        np.testing.assert_array_equal(gradients["x"][:, 0], one[2]["x"][:end, i])


@pytest.mark.parametrize("leak", LEAKS)
@pytest.mark.parametrize("H", [7, 64, 512])  # of the last, rows lie in few sets of a cache
@pytest.mark.parametrize("n_threads", [1, 2, 3])
def test_order_of_sequences_leaves_the_bits(set_chunk_bytes, leak, H, n_threads):
    """Sorted by length, rows are read as they lie; in any other order one by one."""
    rng = np.random.default_rng(H)
    T, B = 9, 13
    n, form = network(T=T, B=B, I=5, H=H, dtype=np.float32), dict(LEAKS[leak])
    if np.ndim(form.get("alpha")):
        form["alpha"] = rng.uniform(0.1, 1, H)
    form = {k: v.astype(np.float32) if isinstance(v, np.ndarray) else v for k, v in form.items()}
    set_chunk_bytes(4 * 30 * H)
    lengths = np.sort(rng.integers(0, T + 1, B))[::-1]
    lengths[-2:] = 0
    order = rng.permutation(B)
    n["drive"] = rng.standard_normal(n["dh"].shape).astype(np.float32)
    mixed = n | {name: n[name][:, order] for name in ("x", "dh", "drive")} | {"h0": n["h0"][order]}
    h, rates, gradients = run(FUSED, n, form | {"lengths": lengths}, n_threads=n_threads)
    h2, rates2, gradients2 = run(FUSED, mixed, form | {"lengths": lengths[order]}, n_threads=n_threads)
    np.testing.assert_array_equal(h[:, order], h2)
    if rates is not None:
        np.testing.assert_array_equal(rates[:, order], rates2)
    for name in ("x", "drive"):
        np.testing.assert_array_equal(gradients[name][:, order], gradients2[name])
    np.testing.assert_array_equal(gradients["h0"][order], gradients2["h0"])
    for name in ("U", "W", "b"):  # sums over the sequences, in another order
        np.testing.assert_allclose(gradients[name], gradients2[name], rtol=0, atol=2e-5 * np.abs(gradients[name]).max())


def flat(results):
    h, rates, gradients = results
    return [a for a in (h, rates, *gradients.values()) if a is not None]


@pytest.mark.parametrize("form", ["rate", "current"])
def test_alpha_of_one_is_no_leak(dtype, form):
    n = network(T=6, B=9, H=20, dtype=dtype)
    plain = FUSED.forward(n["x"], n["U"], n["W"], n["b"], n["h0"])
    rates = np.empty_like(plain)
    if form == "rate":
        h = FUSED.forward(n["x"], n["U"], n["W"], n["b"], n["h0"], cell=pyrnn.Cell(alpha=1.0), rates=rates)
        np.testing.assert_array_equal(h, plain)
        np.testing.assert_array_equal(rates, plain)
        a = FUSED.backward(n["dh"], h, n["x"], n["U"], n["W"], n["h0"], cell=pyrnn.Cell(alpha=1), rates=rates)
        b = FUSED.backward(n["dh"], h, n["x"], n["U"], n["W"], n["h0"])
        for one, other in zip(a._replace(alpha=None), b, strict=True):
            np.testing.assert_array_equal(one, other)
    else:  # the rates of currents without leak are the states of the plain cell
        a0 = np.arctanh(n["h0"])
        FUSED.forward(n["x"], n["U"], n["W"], n["b"], a0, cell=pyrnn.Cell(alpha=1, form="current"), rates=rates)
        np.testing.assert_allclose(rates, plain, rtol=0, atol=1e-13 if dtype == np.float64 else 1e-5)


@pytest.mark.parametrize("form", [{}, {"alpha": 0.4}, {"alpha": 0.4, "form": "current"}])
@pytest.mark.parametrize("steps", [{}, {"reverse": True}, {"lengths": 3}, {"mask": [True, False, True, True, False]}])
def test_without_a_batch_axis(form, steps):
    n = network(T=5, B=1, I=3, H=6)
    form = form | {"nonlinearity": "relu"}
    with_batch = {
        k: np.array([v]) if k == "lengths" else np.array(v)[:, None] if k == "mask" else v for k, v in steps.items()
    }
    n["drive"] = n["dh"][::-1]
    h, rates, gradients = run(pyrnn, n, form | with_batch)
    flat_n = {name: n[name][:, 0] if name in ("x", "dh", "drive") else n[name] for name in n} | {"h0": n["h0"][0]}
    h1, rates1, gradients1 = run(pyrnn, flat_n, form | steps)
    np.testing.assert_array_equal(h1, h[:, 0])
    for name in ("x", "drive"):
        np.testing.assert_array_equal(gradients1[name], gradients[name][:, 0])
    for name in ("U", "W", "b"):
        np.testing.assert_array_equal(gradients1[name], gradients[name])
    np.testing.assert_array_equal(gradients1["h0"], gradients["h0"][0])
    g = pyrnn.state_gradients(flat_n["dh"], h1, n["W"], rates=rates1, **with_cell(form | steps))
    np.testing.assert_array_equal(
        g, pyrnn.state_gradients(n["dh"], h, n["W"], rates=rates, **with_cell(form | with_batch))[:, 0]
    )
    J = pyrnn.jacobian(h1, n["W"], flat_n["h0"], rates=rates1, **with_cell(form | steps))
    np.testing.assert_array_equal(
        J, pyrnn.jacobian(h, n["W"], n["h0"], rates=rates, **with_cell(form | with_batch))[:, 0]
    )


@pytest.mark.parametrize(
    "steps",
    [
        {"lengths": np.array([2, 0, 5])},
        {"lengths": np.array([2, 0, 5, 4, 1, 3])},  # so many are read where they lie
        {"lengths": np.array([3, 3, 3])},
        {"mask": np.arange(15).reshape(5, 3) % 3 != 1},
    ],
)
@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("engine", ["blas", "fused"])
def test_what_does_not_exist_is_never_read(steps, reverse, engine):
    n = network(T=5, B=len(steps.get("lengths", "xyz")), I=3, H=6)
    steps = steps | {"reverse": reverse}
    n["drive"] = n["dh"].copy()
    missing = ~steps["mask"] if "mask" in steps else np.arange(5)[:, np.newaxis] >= steps["lengths"]
    expected = run(InEngine(engine), n, steps)
    poisoned = n | {name: n[name].copy() for name in ("x", "drive", "dh")}
    for name in ("x", "drive", "dh") if "lengths" in steps else ("x", "drive"):
        poisoned[name][missing] = np.nan
    for a, b in zip(flat(expected), flat(run(InEngine(engine), poisoned, steps)), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("steps", [{}, {"lengths": np.array([2, 0, 5, 4])}, {"lengths": np.array([2, 1, 5, 4])}])
@for_each("writeable_layout", WRITEABLE_LAYOUTS)
def test_out_and_rates_of_any_layout(writeable_layout, reverse, steps):
    n = network(T=5, B=4, I=3, H=6)
    arguments = [n[name] for name in ("x", "U", "W", "b", "h0")]
    form = {"alpha": 0.3, "reverse": reverse} | steps
    plain = np.empty_like(n["dh"])
    expected = pyrnn.forward(*arguments, rates=plain, **with_cell(form))
    out, rates = writeable_layout(np.zeros_like(n["dh"])), writeable_layout(np.zeros_like(n["dh"]))
    assert pyrnn.forward(*arguments, rates=rates, out=out, **with_cell(form)) is out
    np.testing.assert_array_equal(out, expected)
    np.testing.assert_array_equal(rates, plain)


# ---- Bad arguments --------------------------------------------------------------------------------------------------
BAD = [
    (
        {"nonlinearity": "elu"},
        ValueError,
        "nonlinearity must be one of 'tanh', 'relu', 'identity', 'softplus', 'sigmoid'",
    ),
    ({"nonlinearity": None}, ValueError, "nonlinearity must be one of"),
    ({"nonlinearity": np.ones(3)}, ValueError, "nonlinearity must be one of"),
    ({"form": "leaky"}, ValueError, "form must be one of 'rate', 'current', got 'leaky'"),
    ({"form": "current"}, ValueError, "alpha must be given with form 'current'"),
    ({"alpha": np.ones(5)}, ValueError, r"alpha must be a number or have shape \(6,\), got \(5,\)"),
    ({"alpha": np.ones((1, 6))}, ValueError, "alpha must be a number or have shape"),
    ({"alpha": "0.5"}, TypeError, "alpha must be real numbers"),
    ({"drive": np.ones((5, 4, 5))}, ValueError, r"drive must have shape \(5, 4, 6\)"),
    ({"drive": np.ones((4, 6))}, ValueError, "drive must have shape"),
    ({"drive": [object()]}, TypeError, "drive must be"),
    ({"lengths": [1, 2, 3]}, ValueError, r"lengths must have shape \(4,\)"),
    ({"lengths": 5}, ValueError, r"lengths must have shape \(4,\)"),
    ({"lengths": [1.0, 2.0, 3.0, 4.0]}, TypeError, "lengths must be integers, got dtype float64"),
    ({"lengths": [True, True, False, True]}, TypeError, "lengths must be integers"),
    ({"lengths": [1, 2, 3, 6]}, ValueError, "lengths must be from 0 to 5, got 1 to 6"),
    ({"lengths": [1, -2, 3, 5]}, ValueError, "lengths must be from 0 to 5, got -2 to 5"),
    ({"mask": np.ones((5, 4))}, TypeError, "mask must be booleans, got dtype float64"),
    ({"mask": np.ones((4, 5), bool)}, ValueError, r"mask must have shape \(5, 4\)"),
    (
        {"mask": np.ones((5, 4), bool), "lengths": [1, 2, 3, 4]},
        ValueError,
        "lengths and mask must not be given together",
    ),
    ({"reverse": 1}, TypeError, "reverse must be True or False, got 1"),
    ({"reverse": None}, TypeError, "reverse must be True or False"),
]


@pytest.mark.parametrize(("bad", "error", "message"), BAD)
@pytest.mark.parametrize("function", ["forward", "backward", "state_gradients", "jacobian"])
def test_bad_arguments(function, bad, error, message):
    n = network(T=5, B=4, I=3, H=6)
    names = {
        "forward": ("x", "U", "W", "b", "h0"),
        "backward": ("dh", "h", "x", "U", "W", "h0"),
        "state_gradients": ("dh", "h", "W"),
        "jacobian": ("h", "W", "h0"),
    }[function]
    if "drive" in bad and function in ("state_gradients", "jacobian"):
        pytest.skip("no such argument")
    given = [n[name] for name in names]
    more = {"rates": n["h"]} if "alpha" in bad and function != "forward" else {}
    out = {"out": np.full_like(n["dh"], 7)} if function == "forward" else {}
    with pytest.raises(error, match=message):
        getattr(pyrnn, function)(*given, **with_cell(bad), **more, **out)
    assert (out.get("out", np.array(7)) == 7).all()


def test_bad_rates():
    n = network(T=5, B=4, I=3, H=6)
    arguments = [n[name] for name in ("x", "U", "W", "b", "h0")]
    with pytest.raises(ValueError, match="rates must be None without alpha"):
        pyrnn.forward(*arguments, rates=np.empty_like(n["dh"]))
    with pytest.raises(ValueError, match=r"rates must have shape \(5, 4, 6\)"):
        pyrnn.forward(*arguments, cell=pyrnn.Cell(alpha=0.5), rates=np.empty((5, 4, 7)))
    with pytest.raises(ValueError, match="rates must have dtype float64"):
        pyrnn.forward(*arguments, cell=pyrnn.Cell(alpha=0.5), rates=np.empty((5, 4, 6), np.float32))
    with pytest.raises(TypeError, match="rates must be a NumPy array, got list"):
        pyrnn.forward(*arguments, cell=pyrnn.Cell(alpha=0.5), rates=[1.0])
    out = np.empty_like(n["dh"])
    with pytest.raises(ValueError, match="out must not overlap an input, but shares memory with rates"):
        pyrnn.forward(*arguments, cell=pyrnn.Cell(alpha=0.5), rates=out, out=out)
    with pytest.raises(ValueError, match="rates must not overlap an input, but shares memory with drive"):
        pyrnn.forward(*arguments, cell=pyrnn.Cell(alpha=0.5), rates=out, drive=out)
    for function, given in (
        (pyrnn.backward, ("dh", "h", "x", "U", "W", "h0")),
        (pyrnn.state_gradients, ("dh", "h", "W")),
        (pyrnn.jacobian, ("h", "W")),
    ):
        with pytest.raises(ValueError, match="rates must be the array that forward wrote"):
            function(*(n[name] for name in given), cell=pyrnn.Cell(alpha=0.5))
        with pytest.raises(ValueError, match="rates must be None without alpha"):
            function(*(n[name] for name in given), rates=n["h"])
        with pytest.raises(ValueError, match="rates must have shape"):
            function(*(n[name] for name in given), cell=pyrnn.Cell(alpha=0.5), rates=n["h"][1:])


def test_gradients_are_seven_fields():
    import pickle

    n = network(T=5, B=4, I=3, H=6)
    h, rates, _ = run(pyrnn, n | {"drive": n["dh"]}, {"alpha": 0.5})
    g = pyrnn.backward(
        n["dh"], h, n["x"], n["U"], n["W"], n["h0"], cell=pyrnn.Cell(alpha=0.5), rates=rates, drive=n["dh"]
    )
    assert g._fields == ("x", "U", "W", "b", "h0", "drive", "alpha")
    assert g.drive.shape == h.shape
    assert np.shape(g.alpha) == ()
    for other in (copy.copy(g), copy.deepcopy(g), pickle.loads(pickle.dumps(g)), g._replace(x=None)):
        np.testing.assert_array_equal(other.drive, g.drive)
        assert other.alpha == g.alpha
        assert type(other) is pyrnn.Gradients
    plain = pyrnn.backward(n["dh"], n["h"], n["x"], n["U"], n["W"])
    assert plain.drive is None
    assert plain.alpha is None


def test_gradients_without_that_of_x():
    """The reference too leaves out that of x alone."""
    n = network(T=5, B=4, I=3, H=6)
    options = {"cell": pyrnn.Cell(alpha=0.5), "drive": n["dh"], "rates": np.empty_like(n["dh"])}
    h = pyrnn.forward(n["x"], n["U"], n["W"], n["b"], n["h0"], **options)
    arguments = (n["dh"], h, n["x"], n["U"], n["W"], n["h0"])
    for module in (pyrnn, reference):
        with_x = module.backward(*arguments, **options)
        without = module.backward(*arguments, **options, x_gradient=False)
        assert without.x is None
        for a, b in zip(without[1:], with_x[1:], strict=True):
            np.testing.assert_array_equal(a, b)


# ---- Gradients that are overwritten, or not wanted ------------------------------------------------------------------
@for_each("seed", range(60))
def test_overwritten_gradients(dtype, seed):
    rng = np.random.default_rng(seed)
    n, form = random_network(rng, dtype)
    inside = InEngine(("blas", "fused")[seed % 2])
    drive = {"drive": n["drive"]} if rng.integers(2) else {}
    rates = np.empty_like(n["dh"]) if "alpha" in form else None
    h = inside.forward(n["x"], n["U"], n["W"], n["b"], n["h0"], rates=rates, **with_cell(form), **drive)
    arguments = [n["dh"], h, n["x"], n["U"], n["W"], n["h0"]]
    options = with_cell(form) | drive | {"rates": rates}
    expected = inside.backward(*arguments, **options)
    again = inside.backward(*arguments, **options)
    for a in again:
        if np.ndim(a):
            a[...] = np.nan
    without = inside.backward(*arguments, **options, x_gradient=False)
    assert without.x is None
    for out, wanted in ((again, expected), (without, expected._replace(x=None))):
        result = inside.backward(*arguments, **options, out=out)
        assert type(result) is pyrnn.Gradients
        assert (result is out) == ("alpha" not in form or np.ndim(form["alpha"]) > 0)
        for a, k, e in zip(result, out, wanted, strict=True):
            assert a is k or (np.ndim(k) == 0 and a is not None)
            if e is None:
                assert a is None
            else:
                np.testing.assert_array_equal(a, e)


@for_each("seed", range(120))
def test_added_gradients(dtype, seed):
    """What layers do: the loops add to the gradients of the weights, to that of x, or to both."""
    rng = np.random.default_rng(seed)
    n, form = random_network(rng, dtype)
    n = {k: v if v is None else np.ascontiguousarray(v) for k, v in n.items()}
    cell = with_cell(form).get("cell", pyrnn.Cell())
    drive = n["drive"] if rng.integers(2) else None
    engine = ("blas", "fused")[seed % 2]
    rates = None if cell.alpha is None else np.empty_like(n["dh"])
    steps = {k: v for k, v in with_cell(form).items() if k != "cell"}
    network_ = (n["x"], n["U"], n["W"], n["b"], n["h0"])
    h = InEngine(engine).forward(*network_, cell=cell, rates=rates, drive=drive, **steps)
    if n["x"].ndim == 2 or n["h0"] is None:
        return
    arguments = [n["dh"], h, n["x"], n["U"], n["W"], n["h0"]]
    options = {"cell": cell, "drive": drive, "rates": rates} | steps
    expected = InEngine(engine).backward(*arguments, **options)
    weights, x_too = bool(rng.integers(2)), bool(rng.integers(2))
    filled = lambda a: rng.standard_normal(a.shape).astype(dtype)
    before = [None if a is None else filled(np.zeros(len(n["W"])) if np.ndim(a) == 0 else a) for a in expected]
    if before[6] is not None:
        before[6][...] = 0  # in the current form the sum is divided at the end
    out = [None if a is None else a.copy() for a in before]
    result = add_gradients(*arguments, out, weights=weights, x_too=x_too, engine=engine, **options)
    added = dict(zip(pyrnn.Gradients._fields, (x_too, weights, weights, weights, False, False, True), strict=True))
    eps = np.finfo(dtype).eps
    for name, a, b, actual in zip(pyrnn.Gradients._fields, out, before, result, strict=True):
        e = getattr(expected, name)
        if e is None:
            assert actual is None
            continue
        if np.ndim(e) == 0:
            actual = actual.sum()
        else:
            assert actual is a
        if added[name]:
            scale = np.abs(e).max(initial=1) + np.abs(b).max(initial=1)
            np.testing.assert_allclose(actual, e + (b.sum() if np.ndim(e) == 0 else b), rtol=0, atol=20 * eps * scale)
        else:
            np.testing.assert_array_equal(actual, e)


@pytest.mark.parametrize("alpha", [0.5, np.full(6, 0.5)])
@pytest.mark.parametrize("plain", [True, False])
def test_gradients_of_a_call_with_other_arguments(alpha, plain):
    """drive and alpha of `out` that this call does not have are left alone, and absent from the result."""
    n = network(T=5, B=4, I=3, H=6)
    rates = np.empty_like(n["dh"])
    cell = pyrnn.Cell(alpha=alpha)
    h = pyrnn.forward(n["x"], n["U"], n["W"], n["b"], n["h0"], cell=cell, rates=rates)
    W = n["W"] if plain else n["W"].tolist()
    arguments = (n["dh"], h, n["x"], n["U"], W, n["h0"])
    leaky = {"cell": cell, "rates": rates}
    with_both = pyrnn.backward(*arguments, **leaky, drive=n["dh"])
    for options in ({}, leaky):
        before = copy.deepcopy(with_both)
        result = pyrnn.backward(*arguments, **options, out=with_both)
        expected = pyrnn.backward(*arguments, **options)
        assert result.W is with_both.W
        assert result.drive is None
        for a, e in zip(result, expected, strict=True):
            assert (a is None) == (e is None)
            if e is not None:
                np.testing.assert_array_equal(a, e)
        np.testing.assert_array_equal(with_both.drive, before.drive)
    kept = pyrnn.backward(*arguments)
    with pytest.raises(TypeError, match=r"out\.drive must be a NumPy array, got NoneType"):
        pyrnn.backward(*arguments, drive=n["dh"], out=kept)
    if np.ndim(alpha):
        with pytest.raises(TypeError, match=r"out\.alpha must be a NumPy array, got NoneType"):
            pyrnn.backward(*arguments, **leaky, out=kept)
    else:
        np.testing.assert_array_equal(pyrnn.backward(*arguments, **leaky, out=kept).alpha, with_both.alpha)


def test_bad_gradients_to_overwrite():
    n = network(T=5, B=4, I=3, H=6)
    arguments = [n[name] for name in ("dh", "h", "x", "U", "W", "h0")]
    good = pyrnn.backward(*arguments)

    def changed(**arrays):
        return pyrnn.Gradients(**good._asdict() | arrays)

    cases = [
        (tuple(good), TypeError, "out must be a pyrnn.Gradients, as backward returns it, got tuple"),
        (
            changed(U=np.empty((6, 4))),
            ValueError,
            r"out\.U must have shape \(6, 3\)",
        ),
        (changed(b=None), TypeError, "out.b must be a NumPy array, got NoneType"),
        (changed(W=np.empty((6, 6), np.float32)), ValueError, "out.W must have dtype float64"),
        (changed(W=n["W"]), ValueError, "out.W must not overlap an input, but shares memory with W"),
        (changed(h0=good.x.reshape(-1)[:24].reshape(4, 6)), ValueError, "out.h0 must not share memory with out.x"),
    ]
    for out, error, message in cases:
        before = [None if a is None else a.copy() for a in out]
        with pytest.raises(error, match=message):
            pyrnn.backward(*arguments, out=out)
        for a, b in zip(out, before, strict=True):
            assert b is None or a.tobytes() == b.tobytes()
    strided = changed(x=np.empty((5, 4, 6))[..., ::2])
    np.testing.assert_array_equal(pyrnn.backward(*arguments, out=strided).x, good.x)
    read_only = changed(W=good.W.copy())
    read_only.W.flags.writeable = False
    with pytest.raises(ValueError, match="W must be writeable, got a read-only array"):
        pyrnn.backward(*arguments, out=read_only)
    with pytest.raises(TypeError, match="x_gradient must be True or False, got 'no'"):
        pyrnn.backward(*arguments, x_gradient="no")


@pytest.mark.parametrize("B", [1, 3, 6])
@pytest.mark.parametrize("cut", ["lengths", "mask", "mask with holes"])
def test_gradients_of_h0_keep_the_sign_of_zero(dtype, B, cut):
    """A product that underflows to -0 is -0, whatever other sequences there are."""
    H, T = 5, 4
    W = np.full((H, H), -np.finfo(dtype).smallest_normal, dtype)
    h, x, U = np.zeros((T, B, H), dtype), np.zeros((T, B, 1), dtype), np.zeros((H, 1), dtype)
    dh, h0 = np.full((T, B, H), 0.1, dtype), np.zeros((B, H), dtype)
    lengths = T - np.arange(B) % 2
    mask = np.arange(T)[:, np.newaxis] < lengths
    if cut == "mask with holes":
        mask[1] = False
    alone = FUSED.backward(dh[:, 0], h[:, 0], x[:, 0], U, W, h0[0]).h0
    np.testing.assert_array_equal(np.signbit(alone), True)
    steps = {"lengths": lengths} if cut == "lengths" else {"mask": mask}
    together = FUSED.backward(dh, h, x, U, W, h0, **steps).h0
    assert together.tobytes() == np.tile(alone, (B, 1)).tobytes()


FORMS_OF_A_STEP = [{}, {"nonlinearity": "relu"}, {"alpha": 0.5}, {"alpha": 0.5, "form": "current"}]


@pytest.mark.unsanitized
@pytest.mark.parametrize("form", FORMS_OF_A_STEP)
@pytest.mark.parametrize("engine", ["blas", "fused"])
def test_steps_of_training_allocate_nothing(form, engine):
    n = network(T=50, B=8, I=16, H=64)
    h = np.empty_like(n["dh"])
    options = with_cell(form) | {"rates": np.empty_like(h) if "alpha" in form else None}
    arguments = [n[name] for name in ("x", "U", "W", "b", "h0")]
    gradients, inside = None, InEngine(engine)

    def step():
        inside.forward(*arguments, out=h, **options)
        return inside.backward(n["dh"], h, *arguments[:3], n["h0"], out=gradients, **options)

    for _ in range(3):
        gradients = step()
    _, most = allocated(step)
    assert most < (4096 if engine == "fused" else 1 << 20), form


@pytest.mark.parametrize("leak", ["plain", "rate", "current by unit"])
@pytest.mark.parametrize("n_threads", [1, 2])
def test_pieces_of_time_have_the_bits_of_the_whole(set_chunk_bytes, dtype, leak, n_threads):
    """backward from the end in pieces of whole chunks, with the dh0 of each in the dh of the one before."""
    n = network(T=43, B=9, I=3, H=6, dtype=dtype)
    set_chunk_bytes(5 * 9 * 6 * n["x"].itemsize)
    form = {k: v.astype(dtype) if isinstance(v, np.ndarray) else v for k, v in LEAKS[leak].items()}
    h, rates, _ = run(FUSED, n | {"drive": n["dh"]}, form)
    cell = with_cell(form).get("cell", pyrnn.Cell())
    U, W = n["U"], n["W"]
    options = {"cell": cell, "drive": n["dh"], "n_threads": n_threads}
    whole = pyrnn.backward(n["dh"], h, n["x"], U, W, n["h0"], **options, rates=rates)
    d_alpha = None if cell.alpha is None else np.empty(6, dtype)

    dh, lost, sums, end = n["dh"].copy(), np.zeros((3, 6), dtype), None, 43
    for start in (33, 13, 8, 0):
        part = slice(start, end)
        first = n["h0"] if start == 0 else h[start - 1]
        results = [None if a is None else np.empty_like(a) for a in whole[:5]]
        results = (np.empty_like(n["x"][part]), *results[1:5], np.empty_like(dh[part]), d_alpha)
        if sums is not None:
            results = (results[0], *sums[1:4], *results[4:6], sums[6])
        r = None if rates is None else rates[part]
        arrays, pieces = (dh[part], h[part], n["x"][part], U, W, first), {"lost": lost, "goes_on": start > 0}
        options["drive"] = n["dh"][part]
        sums = add_gradients(*arrays, results, weights=end < 43, x_too=False, rates=r, **pieces, **options)
        end = start
        np.testing.assert_array_equal(sums[0], whole[0][part])
        np.testing.assert_array_equal(sums[5], whole[5][part])
        if start:
            dh[start - 1] += sums[4]
    for name, a, b in zip(("U", "W", "b", "h0"), sums[1:5], whole[1:5], strict=True):
        np.testing.assert_array_equal(a, b, err_msg=name)
    if cell.alpha is not None:
        total = sums[6] if np.ndim(cell.alpha) else sums[6].sum()
        np.testing.assert_allclose(total, whole.alpha, rtol=1e-4 if dtype == np.float32 else 1e-12)
