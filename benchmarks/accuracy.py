"""The two tables of docs/bptt.md, section "Accuracy", against mpmath with 50 digits.

    python -P benchmarks/accuracy.py

Needs mpmath; takes about ten seconds.
"""

import mpmath as mp
import numpy as np

import pyrnn
from pyrnn import reference

mp.mp.dps = 50
EXACT = {np.float64: 40, np.float32: 17}  # decimals that make str -> dtype round once


def slope_table():
    """Greatest relative error of 1 - tanh²(a), by the ways to it, for 2,000 a in [at, at + 0.01]."""
    print("| type | \\|a\\| | slope | u e^(2\\|a\\|) / 4 | from nearest h | `pyrnn` | NumPy | from a |")
    print("|---|---|---|---|---|---|---|---|")
    for dtype, places in ((np.float64, (2, 5, 10, 15)), (np.float32, (2, 5))):
        one = np.ones((1, 1), dtype)
        for at in places:
            a = (at + 0.01 * np.random.default_rng(0).random(2000)).astype(dtype)
            exact = [mp.sech(mp.mpf(float(v))) ** 2 for v in a]
            nearest = np.array([dtype(mp.nstr(mp.tanh(mp.mpf(float(v))), EXACT[dtype])) for v in a])
            e = np.exp(-2 * a)
            ways = (
                [dtype(float(1 - mp.mpf(float(h)) ** 2)) for h in nearest],
                pyrnn.jacobian(pyrnn.forward(a[None, :, None], one, one), one).ravel(),
                1 - np.tanh(a) ** 2,
                4 * e / (1 + e) ** 2,
            )
            errors = [max(float(abs(mp.mpf(float(g)) / x - 1)) for g, x in zip(w, exact, strict=True)) for w in ways]
            estimate = float(np.finfo(dtype).eps / 2 * mp.exp(2 * at) / 4)
            columns = " | ".join(f"{v:.1e}" for v in (float(exact[0]), estimate, *errors))
            print(f"| {dtype.__name__} | {at} | {columns} |")


def network(seed, greatest, dtype, H=6, I=3, T=10):
    """dh, x, U, W, b, h0 whose largest pre-activation is `greatest`: unit i works around ± i/(H - 1) of it."""
    rng = np.random.default_rng(seed)
    U = 0.3 * rng.standard_normal((H, I)) / np.sqrt(I)
    W = 0.4 * rng.standard_normal((H, H)) / np.sqrt(H)
    b = rng.choice([-1, 1], H) * np.linspace(0, 1, H)
    x, dh, h0 = rng.standard_normal((T, I)), rng.standard_normal((T, H)), np.tanh(rng.standard_normal(H))
    low, high = 0.0, 2.0 * greatest
    for _ in range(50):  # bisection for the scale of b
        middle = (low + high) / 2
        h = pyrnn.forward(x, U, W, middle * b, h0)
        below = abs(x @ U.T + np.concatenate([h0[None], h[:-1]]) @ W.T + middle * b).max() < greatest
        low, high = (middle, high) if below else (low, middle)
    return [v.astype(dtype) for v in (dh, x, U, W, low * b, h0)]


def exact_gradients(dh, x, U, W, b, h0):
    """The equations of docs/bptt.md in 50 digits: lists of the entries of x, U, W, b and h0, row by row."""
    column = lambda v: mp.matrix([mp.mpf(float(e)) for e in v])
    U, W = (mp.matrix([[mp.mpf(float(e)) for e in row] for row in M]) for M in (U, W))
    X, D, T, H = [column(v) for v in x], [column(v) for v in dh], len(x), len(b)
    h, slopes = [column(h0)], []
    for v in X:
        a = column(b) + U * v + W * h[-1]
        h.append(a.apply(mp.tanh))
        slopes.append(a.apply(lambda e: mp.sech(e) ** 2))
    delta = [None] * T
    for t in reversed(range(T)):
        grad_h = D[t] + (W.T * delta[t + 1] if t + 1 < T else mp.zeros(H, 1))
        delta[t] = mp.matrix([s * g for s, g in zip(slopes[t], grad_h, strict=True)])
    total = lambda terms: list(sum(terms[1:], terms[0]))
    return {
        "x": [e for d in delta for e in U.T * d],
        "U": total([delta[t] * X[t].T for t in range(T)]),
        "W": total([delta[t] * h[t].T for t in range(T)]),
        "b": total(delta),
        "h0": list(W.T * delta[0]),
    }


def slope_from_a(dh, x, U, W, b, h0):
    """The gradients of U, W and b with the slope 4e/(1 + e)², e = exp(-2|a|)."""
    h = reference.forward(x, U, W, b, h0)
    previous = np.concatenate([h0[None], h[:-1]])
    e = np.exp(-2 * abs(x @ U.T + previous @ W.T + b))
    slope = 4 * e / (1 + e) ** 2
    delta, later = np.empty_like(dh), 0
    for t in reversed(range(len(x))):
        delta[t] = slope[t] * (dh[t] + later)
        later = delta[t] @ W
    return {"U": delta.T @ x, "W": delta.T @ previous, "b": delta.sum(0)}


def error(have, want):
    """Greatest error over greatest entry."""
    difference = max(abs(mp.mpf(float(p)) - q) for p, q in zip(np.ravel(have), want, strict=True))
    return float(difference / max(abs(q) for q in want))


def worst_unit(have, want, x, h):
    """The error of row i of U, W and b taken together, for the worst i."""
    I, H = x.shape[1], h.shape[1]
    rows = np.hstack([have["U"], have["W"], have["b"][:, None]])
    exact = lambda i: [*want["U"][i * I : i * I + I], *want["W"][i * H : i * H + H], want["b"][i]]
    return max(error(rows[i], exact(i)) for i in range(H))


def network_table(seeds=20):
    header = "| type | greatest \\|a\\| | whole gradient: `pyrnn` | reference "
    print(header + "| worst unit: `pyrnn` | reference | slope from a |")
    print("|---|---|---|---|---|---|---|")
    for dtype, reaches in ((np.float64, (2, 5, 10, 15)), (np.float32, (2, 5))):
        for greatest in reaches:
            worst = np.zeros(5)
            for seed in range(seeds):
                dh, x, U, W, b, h0 = network(seed, greatest, dtype)
                want = exact_gradients(dh, x, U, W, b, h0)
                h = pyrnn.forward(x, U, W, b, h0)
                ours = pyrnn.backward(dh, h, x, U, W, h0)._asdict()
                theirs = reference.backward(dh, reference.forward(x, U, W, b, h0), x, U, W, h0)._asdict()
                ways = [max(error(g[k], want[k]) for k in want) for g in (ours, theirs)]
                ways += [worst_unit(g, want, x, h) for g in (ours, theirs, slope_from_a(dh, x, U, W, b, h0))]
                worst = np.maximum(worst, ways)
            columns = " | ".join(f"{v:.0e}" for v in worst)
            print(f"| {dtype.__name__} | {greatest} | {columns} |")


if __name__ == "__main__":
    slope_table()
    print()
    network_table()
