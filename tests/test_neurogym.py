"""A Dataset of NeuroGym is data for pyrnn.fit as it is; the lines of docs/training.md that say so are run here."""

import textwrap
import warnings
from pathlib import Path

import numpy as np
import pytest

import pyrnn

neurogym = pytest.importorskip("neurogym")
pytestmark = [
    pytest.mark.neurogym,
    pytest.mark.filterwarnings("ignore"),  # gymnasium 0.29 warns of what NeuroGym does with it
]
PAGE = Path(__file__).parents[1] / "docs" / "training.md"


def dataset(**options):
    options = {"env_kwargs": {"dt": 100}, "batch_size": 16, "seq_len": 40} | options
    return neurogym.Dataset("PerceptualDecisionMaking-v0", **options)


def test_batches_need_no_conversion():
    x, y = dataset()()
    assert (x.shape, x.dtype) == ((40, 16, 3), np.float32)
    assert (y.shape, y.dtype) == ((40, 16), np.int64)
    rnn = pyrnn.RNN(3, 8, output_size=3, rng=0)
    o, _ = rnn(x)
    assert o.shape == (40, 16, 3)
    history = pyrnn.fit(rnn, lambda: (x, y), loss="softmax_cross_entropy", steps=1)
    value, *_ = pyrnn.softmax_cross_entropy(o, y)
    assert history[0]["loss"] == pytest.approx(value / y.size, rel=1e-5)


@pytest.mark.parametrize("batch_first", [False, True])
def test_the_loss_falls(batch_first):
    rnn = pyrnn.RNN(3, 32, output_size=3, batch_first=batch_first, rng=0)
    optimizer = pyrnn.training.Adam(lr=1e-2)
    history = pyrnn.fit(
        rnn,
        dataset(batch_first=batch_first),
        loss="softmax_cross_entropy",
        steps=60,
        optimizer=optimizer,
        clip_norm=1.0,
    )
    loss = np.array([record["loss"] for record in history])
    assert loss[0] > 0.9
    assert loss[-10:].mean() < 0.35
    assert loss[-10:].mean() < 0.7 * loss[:10].mean()


def test_the_page():
    """The network of the page chooses what it saw more often than by chance."""
    page = PAGE.read_text("utf-8")
    lines = page.split("### NeuroGym")[1].split("\n###")[0].split("\n##")[0].splitlines()
    names = {"np": np, "pyrnn": pyrnn}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        exec(textwrap.dedent("\n".join(line for line in lines if line.startswith("    ") or not line)), names)
    assert names["history"].stopped == "steps"
    assert 0 <= names["accuracy"] <= 1
    right, all_ = 0, 0
    for _ in range(20):  # a batch has some 30 choices
        x, y = names["data"]()
        chosen = names["rnn"](x)[0].argmax(axis=-1)
        right, all_ = right + (chosen == y)[y > 0].sum(), all_ + (y > 0).sum()
    assert right > 0.6 * all_
