"""`pyrnn.training.schedules` against PyTorch's schedulers, as values, and with wrong arguments."""

import copy
import math
import pickle

import numpy as np
import pytest
from helpers import for_each

from pyrnn.training import SGD, schedules

pytestmark = pytest.mark.once

MADE = [
    schedules.constant(0.3),
    schedules.step(0.3, 7, 0.5),
    schedules.step(0.3, step_size=1),
    schedules.exponential(0.3, 0.9),
    schedules.exponential(0.3, 1),
    schedules.cosine(0.3, 20),
    schedules.cosine(0.3, 13, 0.01),
    schedules.warmup(5, schedules.constant(0.3)),
    schedules.warmup(8, schedules.cosine(0.3, 20), 0.01),
    schedules.warmup(3, schedules.warmup(4, schedules.step(0.3, 5))),
    schedules.warmup(0, schedules.constant(0.3)),
]


def in_torch(made, optimizer, lr_scheduler):
    """PyTorch's scheduler for a schedule."""
    a = made.arguments
    match made.name:
        case "constant":
            return lr_scheduler.ConstantLR(optimizer, factor=1.0)
        case "step":
            return lr_scheduler.StepLR(optimizer, a["step_size"], a["gamma"])
        case "exponential":
            return lr_scheduler.ExponentialLR(optimizer, a["gamma"])
        case "cosine":
            return lr_scheduler.CosineAnnealingLR(optimizer, a["T_max"], a["eta_min"])
        case "warmup":
            first = lr_scheduler.LinearLR(optimizer, a["start_factor"], 1.0, a["steps"])
            then = in_torch(a["then"], optimizer, lr_scheduler)
            return lr_scheduler.SequentialLR(optimizer, [first, then], milestones=[a["steps"]])


@pytest.mark.peer
@for_each("made", [*MADE[:9]])
def test_against_torch(made):
    torch = pytest.importorskip("torch")
    optimizer = torch.optim.SGD([torch.zeros(1)], lr=0.3)
    scheduler = in_torch(made, optimizer, torch.optim.lr_scheduler)
    for k in range(60):
        assert made(k) == pytest.approx(optimizer.param_groups[0]["lr"], rel=1e-12, abs=1e-15), k
        optimizer.step()
        scheduler.step()


@for_each(
    ("made", "formula"),
    [
        (schedules.constant(0.3), lambda k: 0.3),
        (schedules.step(0.3, 7, 0.5), lambda k: 0.3 * 0.5 ** (k // 7)),
        (schedules.exponential(0.3, 0.9), lambda k: 0.3 * 0.9**k),
        (schedules.cosine(0.3, 20, 0.1), lambda k: 0.1 + 0.2 * (1 + math.cos(math.pi * k / 20)) / 2),
        (schedules.warmup(5, lambda k: 2.0 + k, 0.5), lambda k: 2 * (0.5 + 0.1 * k) if k < 5 else k - 3.0),
    ],
)
def test_formulas(made, formula):
    for k in (*range(70), 10**6):
        assert made(k) == pytest.approx(formula(k), rel=1e-9)
    assert made(np.int64(3)) == made(3)


def test_the_ends_are_exact():
    cosine, rise = schedules.cosine(0.3, 20, 0.0), schedules.warmup(5, schedules.constant(0.3), 0.0)
    assert (cosine(0), cosine(20), cosine(40)) == (0.3, 0.0, 0.3)
    assert (rise(0), rise(5)) == (0.0, 0.3)


@for_each("made", MADE)
def test_schedules_are_values(made):
    """Equal after a pickle and a copy, from the printed call, and from name and arguments."""
    others = [pickle.loads(pickle.dumps(made)), copy.deepcopy(made), eval(repr(made), vars(schedules))]
    others.append(getattr(schedules, made.name)(**made.arguments))
    for other in others:
        assert other == made
        assert hash(other) == hash(made)
        assert [other(k) for k in range(30)] == [made(k) for k in range(30)]
    assert all(other != made for other in MADE if other is not made)
    with pytest.raises(AttributeError):
        made.lr = 1


def test_a_step_takes_a_rate():
    p, rate = np.zeros(1), schedules.step(1.0, 2, 0.5)
    optimizer = SGD()
    for k in range(4):
        optimizer.step(p, np.ones(1), lr=rate(k))
    assert p[0] == -3


@for_each(
    ("make", "error", "message"),
    [
        (lambda: schedules.constant(-1), ValueError, "lr must be a finite number and not negative, got -1"),
        (lambda: schedules.constant("a"), TypeError, "lr must be a number, got 'a'"),
        (lambda: schedules.step(0.1, 0), ValueError, "step_size must be a positive integer, got 0"),
        (lambda: schedules.step(0.1, 1.5), TypeError, "step_size must be a positive integer, got 1.5"),
        (lambda: schedules.step(0.1, 2, -1), ValueError, "gamma must be a finite number and not negative, got -1"),
        (lambda: schedules.exponential(0.1, math.inf), ValueError, "gamma must be a finite number and not negative"),
        (lambda: schedules.cosine(0.1, 0), ValueError, "T_max must be a positive integer, got 0"),
        (lambda: schedules.cosine(0.1, 5, None), TypeError, "eta_min must be a number, got None"),
        (lambda: schedules.warmup(-1, schedules.constant(1)), ValueError, "steps must be an integer from 0, got -1"),
        (lambda: schedules.warmup(1, 0.1), TypeError, "then must be a function of the number of a step, got 0.1"),
        (lambda: schedules.constant(1)(-1), ValueError, "step must be an integer from 0, got -1"),
        (lambda: schedules.constant(1)(0.5), TypeError, "step must be an integer from 0, got 0.5"),
    ],
)
def test_errors(make, error, message):
    with pytest.raises(error, match=f"^{message}"):
        make()
