"""Prints the coefficients of tanh.h and softplus.h: minimax polynomials by the Remez exchange, in 60 digits.

    python csrc/coefficients.py

Four functions are approximated, all in relative error:

    exp(2r) = 1 + 2 (r + r² P(r))                  |r| <= log(2) / 4         (the reduced argument)
    tanh(x) = x + x³ R(x²)                         |x| <= 0.975 (float32), 0.625 (float64)
    log(1 + exp(x)) = log(2) + x / 2 + x² Q(x²)    |x| <= 1
    2 atanh(w) = 2w + w³ A(w²)                     0 < w <= e / (2 + e), e = exp(-1)

Rounding a coefficient costs under 0.1 units in the last place of the result, since the powers that stand before the
polynomials are small; the error printed is that of the rounded polynomial.
"""

import mpmath as mp

mp.mp.dps = 60


def rounded(value, bits):
    """The number with `bits` significant bits nearest to value."""
    if value == 0:
        return value
    m, e = mp.frexp(value)
    return mp.ldexp(mp.nint(m * 2**bits), int(e) - bits)


def remez(f, weight, lo, hi, powers):
    """Coefficients c and the error of the minimax fit  sum c_k z^powers_k ~ f(z),  weighted by weight(z)."""
    n = len(powers) + 1
    z = [(lo + hi) / 2 - (hi - lo) / 2 * mp.cos(mp.pi * (k + mp.mpf(1) / 2) / n) for k in range(n)]
    grid = [lo + (hi - lo) * k / 4000 for k in range(1, 4001)]
    for _ in range(30):
        rows = [[v**p for p in powers] + [(-1) ** k / weight(v)] for k, v in enumerate(z)]
        solution = mp.lu_solve(mp.matrix(rows), mp.matrix([f(v) for v in z]))
        c, level = solution[: n - 1], abs(solution[n - 1])
        error = [(sum(a * v**p for a, p in zip(c, powers, strict=True)) - f(v)) * weight(v) for v in grid]
        peaks, k = [], 0
        while k < len(grid):  # the largest error of each run of one sign
            j = k
            while j < len(grid) and (error[j] > 0) == (error[k] > 0):
                j += 1
            peaks.append(max(range(k, j), key=lambda i: abs(error[i])))
            k = j
        worst = max(abs(e) for e in error)
        if len(peaks) != n or worst < level * mp.mpf("1.001"):
            break
        z = [grid[i] for i in peaks]
    return list(c), worst


def fit(name, f, weight, lo, hi, degree, bits):
    c = [rounded(a, bits) for a in remez(f, weight, lo, hi, list(range(degree + 1)))[0]]
    error = max(
        abs(sum(a * v**k for k, a in enumerate(c)) - f(v)) * weight(v)
        for v in (lo + (hi - lo) * i / 2000 for i in range(1, 2001))
    )
    print(f"/* {name}: degree {degree}, relative error 2^{float(mp.log(error, 2)):.1f} */")
    for k, a in enumerate(c):
        text = float(a).hex() if bits == 53 else f"{float(a).hex()}f"
        print(f"    {text},  /* {k}: {mp.nstr(a, 12)} */")


quarter = mp.log(2) / 4  # the interval is made a little longer on the left, so that no node falls on 0
series = lambda r: (mp.expm1(2 * r) / 2 - r) / r**2 if abs(r) > mp.mpf("1e-20") else mp.mpf(1)
ratio = lambda z: (mp.tanh(mp.sqrt(z)) - mp.sqrt(z)) / (z * mp.sqrt(z)) if z > mp.mpf("1e-30") else -mp.mpf(1) / 3
even = lambda z: mp.log(mp.cosh(mp.sqrt(z) / 2)) / z if z > mp.mpf("1e-20") else mp.mpf(1) / 8
odd = lambda z: 2 * (mp.atanh(mp.sqrt(z)) - mp.sqrt(z)) / (z * mp.sqrt(z)) if z > mp.mpf("1e-30") else mp.mpf(2) / 3
most = (mp.exp(-1) / (2 + mp.exp(-1))) ** 2
for bits, exp_degree, tanh_degree, split, even_degree, odd_degree in (
    (24, 4, 6, "0.975", 4, 2),
    (53, 9, 11, "0.625", 9, 6),
):
    print(f"/* float{32 if bits == 24 else 64} */")
    fit("P", series, lambda r: 2 * r**2 / mp.exp(2 * r), -quarter * mp.mpf("1.01"), quarter, exp_degree, bits)
    weight = lambda z: z * mp.sqrt(z) / mp.tanh(mp.sqrt(z))
    fit("R", ratio, weight, mp.mpf("1e-12"), mp.mpf(split) ** 2, tanh_degree, bits)
    # relative to the least result, at -x
    fit("Q", even, lambda z: z / mp.log1p(mp.exp(-mp.sqrt(z))), mp.mpf("1e-12"), mp.mpf(1), even_degree, bits)
    fit("A", odd, lambda z: z * mp.sqrt(z) / (2 * mp.atanh(mp.sqrt(z))), mp.mpf("1e-12"), most, odd_degree, bits)
    high = rounded(mp.log(2) / 2, bits)
    print(f"/* log(2)/2 in two parts: {float(high).hex()} {float(rounded(mp.log(2) / 2 - high, bits)).hex()} */")
    high = rounded(mp.log(2), bits)
    print(f"/* log(2) in two parts: {float(high).hex()} {float(rounded(mp.log(2) - high, bits)).hex()} */")
    print(f"/* 2/log(2): {float(rounded(2 / mp.log(2), bits)).hex()} */")

# The noise: -2 log(1 + f) = -2f + f² L(f), -1/2 <= f <= 0; sin(πy/2) = y S(y²) and cos(πy/2) = (1 - y²) C(y²),
# |y| <= 1. The last two relative to themselves, so that their zeros stay where they are.
half_turn = mp.pi / 2
logarithm = lambda f: (2 * f - 2 * mp.log1p(f)) / f**2 if abs(f) > mp.mpf("1e-20") else mp.mpf(1)
sine = lambda z: mp.sin(half_turn * mp.sqrt(z)) / mp.sqrt(z) if z > 0 else half_turn
cosine = lambda z: mp.cos(half_turn * mp.sqrt(z)) / (1 - z) if 1 - z > mp.mpf("1e-30") else mp.pi / 4
for bits, log_degree, sine_degree, cosine_degree in ((24, 8, 4, 4), (53, 18, 9, 9)):
    print(f"/* noise, float{32 if bits == 24 else 64} */")
    weight = lambda f: f**2 / (-2 * mp.log1p(f))
    fit("L", logarithm, weight, mp.mpf("-0.5"), mp.mpf("-1e-12"), log_degree, bits)
    fit("S", sine, lambda z: 1 / sine(z), mp.mpf(0), mp.mpf(1), sine_degree, bits)
    fit("C", cosine, lambda z: 1 / cosine(z), mp.mpf(0), mp.mpf(1), cosine_degree, bits)
    print(f"/* -2 log(2): {float(rounded(-2 * mp.log(2), bits)).hex()} */")
