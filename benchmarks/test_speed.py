"""A few networks under pytest-benchmark, for day-to-day work: `python -P -m pytest benchmarks/test_speed.py`.

Every contender that is installed, one thread, one group a network. `--benchmark-save` and `--benchmark-compare` show
what a change did; run.py, which times the contenders in turn, has the figures to quote.
"""

import os

import contenders
import pytest
import timing

pytest.importorskip("pytest_benchmark")
os.environ |= timing.environment(1)  # for those that are not imported yet; set OPENBLAS_NUM_THREADS=1 for NumPy

NETWORKS = [(32, 1), (64, 8), (128, 32), (512, 8)]  # H, B


@pytest.fixture(autouse=True, scope="module")
def one_processor():
    before = timing.pin(1)
    yield
    if before:
        os.sched_setaffinity(0, before)


@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("work", ["forward", "both"])
@pytest.mark.parametrize(("H", "B"), NETWORKS)
@pytest.mark.parametrize("name", contenders.CONTENDERS)
def test_speed(benchmark, name, H, B, work, dtype):
    net = contenders.network(H, B, 100, min(H, 64), dtype)
    contender = contenders.ready(net, 1, only=[name]).get(name)
    function = contender and getattr(contender, work)
    if not function:
        pytest.skip(f"{name} is not installed or cannot do this")
    benchmark.group = f"{work}, {dtype}, H={H} B={B}"
    benchmark(function)
