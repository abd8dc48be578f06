"""`pyrnn.plots`: what is drawn where. The pictures of fixed points and of gradient flows are tested beside those."""

import sys

import numpy as np
import pytest
from helpers import LAYOUTS, for_each

import pyrnn
from pyrnn.plots import PlotError, eigenvalues, learning_curve, psychometric, trajectories, trial, weights
from pyrnn.plots.trials import fit_curve

pytestmark = pytest.mark.once

RNG = np.random.default_rng(0)
TASK = pyrnn.tasks.PerceptualDecision(batch_size=40, sigma=0)
X, Y, WEIGHTS = TASK.batch(0)
H = pyrnn.simulate(pyrnn.initialize(3, 6, rng=0), X).h
W = RNG.standard_normal((6, 6))
COHERENCE = TASK.trial_info(0)["coherence"]
HISTORY = [{"step": 10 * k, "loss": 2.0**-k} for k in range(6)]
CALLS = {  # of each function, with arrays of float64
    "trial": lambda **more: trial(X[:, 0], Y[:, 0], X[:, 0], H[:, 0], weights=WEIGHTS[:, 0], **more),
    "psychometric": lambda **more: psychometric(COHERENCE, Y[-1] == 2, **more),
    "trajectories": lambda **more: trajectories(H, COHERENCE, **more),
    "weights": lambda **more: weights(W, **more),
    "eigenvalues": lambda **more: eigenvalues(W, **more),
    "learning_curve": lambda **more: learning_curve(HISTORY, **more),
}


@pytest.fixture(autouse=True)
def matplotlib():
    return pytest.importorskip("matplotlib")


def new_axes():
    from matplotlib.figure import Figure

    return Figure(layout="constrained").subplots()


def drawn(ax):
    """The numbers of lines and images."""
    return [np.array(line.get_xydata()) for line in ax.lines] + [np.array(image.get_array()) for image in ax.images]


def labels(ax):
    return ax.get_legend_handles_labels()[1]


# ---- All of them ----------------------------------------------------------------------------------------------------
@for_each("call", CALLS)
def test_axes_are_those_that_were_given(call, tmp_path):
    ax = new_axes()
    assert call(ax=ax) is ax
    assert drawn(ax)
    new = call()
    assert new is not ax
    assert new.figure is not ax.figure
    for one, other in zip(drawn(new), drawn(ax), strict=True):
        np.testing.assert_array_equal(one, other)
    new.figure.savefig(tmp_path / "picture.png", dpi=50)
    assert (tmp_path / "picture.png").stat().st_size > 1000


def test_no_picture_is_left_behind():
    """In pyplot, which holds all figures that it makes."""
    plt = pytest.importorskip("matplotlib.pyplot")
    before = plt.get_fignums()
    for call in CALLS.values():
        call()
    assert plt.get_fignums() == before


@for_each("call", CALLS)
def test_without_matplotlib(call, monkeypatch):
    with monkeypatch.context() as patched:
        patched.setitem(sys.modules, "matplotlib", None)
        with pytest.raises(PlotError, match=r"^it needs matplotlib: python -m pip install 'pyrnn-bptt\[plot\]'"):
            call()


def test_layouts():
    chosen = (Y[-1] == 2).astype(float)
    x, o, h, counted = X[:, 0] * 1.0, H[:, 1, :3] * 1.0, H[:, 0] * 1.0, WEIGHTS[:, 0] * 1.0
    calls = [
        (lambda x, y, o, h, counted: trial(x, y, o, h, weights=counted), [x, Y[:, 0], o, h, counted]),
        (trial, [x, o[:, ::-1] * 1.0, o]),
        (psychometric, [COHERENCE, chosen]),
        (trajectories, [H.astype(float), COHERENCE]),
        (lambda W, signs: weights(W, signs=signs), [W, np.array([1.0, -1, 1, -1, 1, 1])]),
        (lambda W, alpha: eigenvalues(W, alpha=alpha), [W, np.linspace(0.1, 1, 6)]),
    ]
    for function, arrays in calls:
        expected = drawn(function(*arrays))
        for name, layout in LAYOUTS.items():
            for one, other in zip(drawn(function(*map(layout, arrays))), expected, strict=True):
                np.testing.assert_allclose(one, other, rtol=0, atol=1e-9, err_msg=name)


# ---- A trial --------------------------------------------------------------------------------------------------------
def heights(line):
    return np.array(line.get_ydata())


def test_trial_of_classes():
    logits = RNG.standard_normal((TASK.length, 3))
    ax = trial(X[:, 3], Y[:, 3], logits, H[:, 3], weights=WEIGHTS[:, 3], dt=TASK.dt)
    assert [text.get_text() for text in ax.get_yticklabels()] == [
        "units", "output 0", "output 1", "output 2", "input 0", "input 1", "input 2",
    ]  # fmt: skip
    assert set(labels(ax)) == {"output", "target"}
    np.testing.assert_array_equal(ax.images[0].get_array(), H[:, 3].T)
    assert ax.get_xlim() == (0, 1200)
    assert ax.get_xlabel() == "time (ms)"
    probabilities = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    for k, (output, target) in enumerate(zip(ax.lines[:3], ax.lines[3:6], strict=True)):
        np.testing.assert_array_equal(output.get_xdata(), np.arange(61) * 20)
        bottom = 3.2 + 2 - k + 0.1
        np.testing.assert_allclose(heights(output)[:-1], bottom + 0.8 * probabilities[:, k])
        np.testing.assert_allclose(heights(target)[:-1], bottom + 0.8 * (Y[:, 3] == k))
    for k, line in enumerate(ax.lines[6:]):
        np.testing.assert_allclose(heights(line)[:-1], 6.4 + 2 - k + 0.1 + 0.8 * X[:, 3, k], rtol=1e-6)
    (shaded,) = (path.get_extents() for path in ax.collections[0].get_paths())
    np.testing.assert_allclose(shaded.bounds, [100, 3.2, 800, 3])  # the stimulus, which does not count
    counted = [0, 1, 1, 0, 0, 1, 0]
    paths = trial(X[:7, 3], Y[:7, 3], weights=counted).collections[0].get_paths()
    assert [(path.get_extents().x0, path.get_extents().x1) for path in paths] == [(0, 1), (3, 5), (6, 7)]
    assert not trial(X[:7, 3], Y[:7, 3], weights=[1] * 7).collections[0].get_paths()


def test_trial_of_numbers():
    x, y = RNG.standard_normal((20, 2)), RNG.standard_normal((20, 1))
    ax = trial(x, y, y / 2)
    assert [text.get_text() for text in ax.get_yticklabels()] == ["output", "input 0", "input 1"]
    assert ax.get_xlabel() == "step"
    assert not ax.images
    low, high = min(y.min(), 0), max(y.max(), 0)
    np.testing.assert_allclose(heights(ax.lines[0])[:-1], 0.1 + (y[:, 0] / 2 - low) * 0.8 / (high - low))
    np.testing.assert_allclose(heights(ax.lines[1])[:-1], 0.1 + (y[:, 0] - low) * 0.8 / (high - low))
    assert trial(x, y).get_legend() is None
    assert len(trial(x, [0] * 20).lines) == 3
    assert len(trial(np.zeros((1, 1)), [[0.0]], [[np.nan]], [[0.0]]).lines) == 3
    many = trial(np.zeros((5, 9)), np.arange(5))
    assert [text.get_text() for text in many.get_yticklabels()] == [*(f"output {k}" for k in range(5)), "9 inputs"]


# ---- Choices --------------------------------------------------------------------------------------------------------
def test_psychometric():
    ax = psychometric([-10, -10, -10, -10, 5, 5, 5, 20], [0, 1, 0, 0, 1, 0, 1, 1])
    points = next(line for line in ax.lines if line.get_marker() == "o")
    np.testing.assert_allclose(points.get_xydata(), [[-10, 1 / 4], [5, 2 / 3], [20, 1]])
    bars = np.array([segment[:, 1] for segment in ax.collections[0].get_segments()])
    np.testing.assert_allclose(np.diff(bars)[:, 0] / 2, [np.sqrt(3 / 64), np.sqrt(2 / 27), 0])
    assert len(psychometric([1, 1, 1], [True, False, True]).lines) == 3  # one coherence has no curve
    assert psychometric([-1, 1, 1, -1], [0, 1, 0, 1], fit=None).get_legend() is None


@for_each("fit", ["logistic", "normal"])
def test_fit_of_choices(fit):
    """Probabilities of a curve give its parameters back, and no change of them is more likely."""
    from scipy.special import expit, ndtr
    from scipy.stats import binom

    curve = {"logistic": expit, "normal": ndtr}[fit]
    levels = np.array([-51.2, -12.8, -3.2, 0, 3.2, 12.8, 51.2])
    n = np.full(7, 100)
    for m, s in ((2.0, 8.0), (-10.0, 30.0), (0.0, -5.0), (400.0, 200.0)):
        a, b, is_finite = fit_curve(levels, curve((levels - m) / s), n, fit)
        assert is_finite
        np.testing.assert_allclose([-a / b, 1 / b], [m, s], rtol=1e-4, atol=1e-3)
    for seed in range(20):
        rng = np.random.default_rng(seed)
        k = rng.binomial(n, curve((levels - 3) / 10))
        a, b, is_finite = fit_curve(levels, k / n, n, fit)
        assert is_finite
        likelihood = lambda a, b, k=k: binom.logpmf(k, n, curve(a + b * levels)).sum()
        best = likelihood(a, b)
        for da, db in ((0.01, 0), (-0.01, 0), (0, 0.001), (0, -0.001)):
            assert likelihood(a + da, b + db) < best
        assert abs(-a / b - 3) < 5
    assert fit_curve(levels[:4], np.array([0, 0.3, 0.7, 1]), n[:4], fit)[2]  # rises, but no coherence separates it
    assert f"{fit}: m = " in labels(psychometric(np.repeat(levels, 100), rng.random(700) < 0.5, fit=fit))[0]


@for_each("p", [[0, 0, 1, 1], [1, 1, 0, 0], [0, 0.3, 1, 1], [0, 0, 0, 0], [1, 1, 1, 1], [0, 0, 0, 0.5], [1, 0.2, 0, 0]])
def test_fit_of_choices_that_a_coherence_separates(p):
    """The likelihood has no maximum; the curve passes through the points all the same."""
    levels, p = np.array([-3.0, -1.0, 2.0, 7.0]), np.array(p, float)
    for fit in ("logistic", "normal"):
        a, b, is_finite = fit_curve(levels, p, np.full(4, 10), fit)
        assert not is_finite
        from scipy.special import expit, ndtr

        np.testing.assert_allclose({"logistic": expit, "normal": ndtr}[fit](a + b * levels), p, rtol=0, atol=1e-3)
        chosen = np.concatenate([np.arange(10) < 10 * share for share in p])
        assert labels(psychometric(np.repeat(levels, 10), chosen, fit=fit)) == [fit]


# ---- States, matrices, runs -----------------------------------------------------------------------------------------
def test_trajectories():
    """Of the means of each condition, in the plane that an SVD gives."""
    names = np.unique(COHERENCE)
    means = np.stack([H[:, name == COHERENCE].mean(axis=1) for name in names], axis=1)
    _, _, Vt = np.linalg.svd((means - means.mean(axis=(0, 1))).reshape(-1, 6).astype(float))
    ax = trajectories(H, COHERENCE)
    assert labels(ax) == [str(name) for name in names]
    lines = [line for line in ax.lines if line.get_marker() == "None"]
    starts = [line for line in ax.lines if line.get_marker() == "o"]
    for k, (line, start) in enumerate(zip(lines, starts, strict=True)):
        expected = (means[:, k] - means.mean(axis=(0, 1))) @ Vt[:2].T
        np.testing.assert_allclose(np.abs(line.get_xydata()), np.abs(expected), atol=1e-5)
        np.testing.assert_array_equal(start.get_xydata(), line.get_xydata()[:1])
    assert ax.get_xlabel().startswith("component 1 (")


def test_trajectories_of_sequences():
    ax = trajectories(H[:, :4], ["a", "b", "a", "b"], average=False, components=(1, 2))
    assert labels(ax) == ["a", "b"]
    lines = [line for line in ax.lines if line.get_marker() == "None"]
    assert len(lines) == 4
    assert [line.get_color() for line in lines] == [lines[0].get_color(), lines[1].get_color()] * 2
    assert lines[0].get_color() != lines[1].get_color()
    assert ax.get_xlabel().startswith("component 2 (")
    assert len(trajectories(H[:, 0]).lines) == 2
    assert trajectories(H).get_legend() is None
    assert trajectories(H[:, :13], np.arange(13)).get_legend() is None
    assert len(trajectories(H[:, :1], [5]).lines) == 2
    assert not trajectories(H[:, :0]).lines


def test_weights():
    """Columns of units with positive sums first."""
    order = np.argsort(W.sum(axis=0) <= 0, kind="stable")
    ax = weights(W)
    np.testing.assert_array_equal(ax.images[0].get_array(), W[order][:, order])
    assert ax.images[0].get_clim() == (-np.abs(W).max(), np.abs(W).max())
    assert [text.get_text() for text in ax.get_xticklabels()] == ["excitatory", "inhibitory"]
    ax = weights(W, signs=[-1, 1, 0, 1, -1, 1])
    chosen = np.array([1, 3, 5, 0, 2, 4])
    np.testing.assert_array_equal(ax.images[0].get_array(), W[chosen][:, chosen])
    assert [tuple(line.get_xdata()) for line in ax.lines[1:]] == [(2.5, 2.5)]
    assert [text.get_text() for text in weights(np.abs(W)).get_yticklabels()] == ["excitatory"]
    assert not weights(-np.abs(W)).lines
    assert weights([[0.0]]).images[0].get_clim() == (-1, 1)


@for_each("alpha", [None, 0.3, np.linspace(0.1, 1, 6)])
def test_eigenvalues(alpha):
    ax = eigenvalues(W, alpha=alpha)
    leak = np.broadcast_to(1.0 if alpha is None else alpha, 6)
    expected = np.linalg.eigvals(np.diag(1 - leak) + np.diag(leak) @ W)
    circle, inside, outside = (line.get_xydata() for line in ax.lines)
    np.testing.assert_allclose(np.hypot(*circle.T), 1)
    for points, part in ((inside, expected[np.abs(expected) <= 1]), (outside, expected[np.abs(expected) > 1])):
        np.testing.assert_allclose(np.sort_complex(points @ [1, 1j]), np.sort_complex(part), rtol=0, atol=1e-10)
    assert ax.get_aspect() == 1


def test_eigenvalues_of_several_matrices():
    ax = eigenvalues(W)
    assert eigenvalues(W / 2, ax=ax) is ax
    assert sum(len(line.get_xdata()) for line in ax.lines if line.get_marker() == "o") == 12
    assert eigenvalues([[1.0]]).lines[1].get_xydata().tolist() == [[1, 0]]


def test_learning_curve():
    ax = learning_curve(HISTORY)
    np.testing.assert_array_equal(ax.lines[0].get_xydata(), [[10 * k, 2.0**-k] for k in range(6)])
    assert ax.get_yscale() == "log"
    assert ax.get_legend() is None
    rows = [{**row, "validation_loss": None} for row in HISTORY[:3]]
    rows += [{"step": 30, "loss": 0.5, "validation_loss": 0.6, "accuracy": 0.7}, {"step": 40, "accuracy": 0.9}]
    ax = learning_curve(rows)
    assert ax.get_yscale() == "linear"
    assert {line.get_label(): len(line.get_xdata()) for line in ax.lines} == {"loss": 4, "validation loss": 1}
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["loss", "validation loss", "accuracy"]
    (right,) = [other for other in ax.figure.axes if other is not ax]
    np.testing.assert_array_equal(right.lines[0].get_xydata(), [[30, 0.7], [40, 0.9]])
    assert right.get_ylim() == (0, 1.02)
    assert learning_curve([{"step": 0, "loss": np.nan}]).get_yscale() == "linear"
    assert learning_curve([{"step": 0, "loss": -5.0}, {"step": 1, "loss": 5.0}]).get_yscale() == "linear"


# ---- Errors ---------------------------------------------------------------------------------------------------------
x, y = np.zeros((5, 2)), np.zeros((5, 3))
WRONG = [
    (trial, (np.zeros(5), y), {}, ValueError, "x must have shape (T, I), with one step and one input or more"),
    (trial, (np.zeros((0, 2)), y), {}, ValueError, "x must have shape (T, I), with one step and one input or more"),
    (trial, (x, y[:4]), {}, ValueError, "y must have shape (5,) of integers or (5, O), got (4, 3)"),
    (trial, (x, [0, 1]), {}, ValueError, "y must have shape (5,), got (2,)"),
    (trial, (x, np.zeros(5)), {}, ValueError, "y must have shape (5,) of integers or (5, O), got (5,)"),
    (trial, (x, y, x), {}, ValueError, "outputs must have shape (5, 3) to match y (5, 3), got (5, 2)"),
    (trial, (x, y, y[:4]), {}, ValueError, "outputs must have shape (5, O) to match x (5, 2), got (4, 3)"),
    (trial, (x, y, y, np.zeros(5)), {}, ValueError, "units must have shape (5, H) to match x (5, 2), got (5,)"),
    (trial, (x, y), {"weights": x}, ValueError, "weights must have shape (5,) to match x (5, 2), got (5, 2)"),
    (trial, (x, y), {"dt": 0}, ValueError, "dt must be a positive number, got 0"),
    (trial, (x * 1j, y), {}, TypeError, "x must be real numbers"),
    (psychometric, ([], []), {}, ValueError, "coherence must have shape (n,), with one trial or more, got (0,)"),
    (psychometric, ([1, 2], [1]), {}, ValueError, "chosen must have shape (2,) to match coherence (2,), got (1,)"),
    (psychometric, ([1, np.nan], [1, 0]), {}, ValueError, "coherence must be finite, got NaN or inf"),
    (psychometric, ([1, 2], [1, 2]), {}, ValueError, "chosen must be True or False, or 1 or 0, got 2"),
    (psychometric, ([1], [1]), {"fit": "probit"}, ValueError, "fit must be 'logistic', 'normal' or None, got 'probit'"),
    (trajectories, (np.zeros(5),), {}, ValueError, "h must have shape (T, B, H) or (T, H), got (5,)"),
    (trajectories, (x, [1, 2]), {}, ValueError, "conditions must have shape (1,) to match h (5, 1, 2), got (2,)"),
    (trajectories, (x,), {"components": (0, 2)}, ValueError, "components must be from 0 to 1, got (0, 2)"),
    (trajectories, (x,), {"average": 1}, TypeError, "average must be True or False, got 1"),
    (trajectories, (x + np.inf,), {}, ValueError, "h must be finite, got NaN or inf"),
    (weights, (x,), {}, ValueError, "W must have shape (H, H), with one unit or more, got (5, 2)"),
    (weights, (np.zeros((0, 0)),), {}, ValueError, "W must have shape (H, H), with one unit or more, got (0, 0)"),
    (weights, (W,), {"signs": [1]}, ValueError, "signs must have shape (6,) to match W (6, 6), got (1,)"),
    (weights, (W * 1j,), {}, TypeError, "W must be real numbers"),
    (eigenvalues, (x,), {}, ValueError, "matrix must have shape (H, H), with one unit or more, got (5, 2)"),
    (eigenvalues, (W * np.nan,), {}, ValueError, "matrix must be finite, got NaN or inf"),
    (eigenvalues, (W,), {"alpha": 0}, ValueError, "alpha must be greater than 0 and at most 1, got 0"),
    (eigenvalues, (W,), {"alpha": [1]}, ValueError, "alpha must have shape () or (6,) to match matrix (6, 6), got"),
    (learning_curve, ([],), {}, ValueError, 'history must have "loss" in one row or more, got 0 rows without it'),
    (learning_curve, ([{"step": 0, "loss": 1}, {"loss": 1}],), {}, ValueError,
     "history must have \"step\" in every row, got ['loss'] in row 1"),
    (learning_curve, (3,), {}, TypeError, "history must be a sequence of dicts, got 3"),
    (learning_curve, ([1],), {}, TypeError, "history must be a sequence of dicts, got [1]"),
    (learning_curve, ([{"step": 0, "loss": "low"}],), {}, TypeError, "loss must be real numbers"),
]  # fmt: skip


@for_each(("function", "arguments", "options", "error", "message"), WRONG)
def test_wrong_arguments(function, arguments, options, error, message):
    with pytest.raises(error) as caught:
        function(*arguments, **options)
    assert str(caught.value).startswith(message)
