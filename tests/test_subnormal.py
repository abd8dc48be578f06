"""Numbers below the smallest normal one: zero in compiled loops, of every function; the state of callers as it was."""

import ctypes
import platform
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from helpers import BLAS, FUSED, InEngine

import pyrnn
from pyrnn import elementwise, reference
from pyrnn._core import table

FLUSHES = platform.machine().lower() in ("x86_64", "amd64", "aarch64", "arm64")
pytestmark = [
    pytest.mark.once,
    pytest.mark.skipif(not FLUSHES, reason="only x86-64 and AArch64 flush subnormal numbers"),
]
H = 8
PLAIN, RELU, LEAKY = pyrnn.Cell(), pyrnn.Cell("relu"), pyrnn.Cell(alpha=0.999)
CURRENT = pyrnn.Cell(alpha=0.999, form="current")
LEARNERS = ("RTRL", "BlockedRTRL", "SnAp1", "RFLO", "UORO")


def fading(dtype, *, driven=False, seed=0):
    """Arguments by name of a network that halves states and gradients at each step, until they are subnormal.

    driven: the input keeps the states at ordinary sizes, and gradients alone vanish.
    """
    rng = np.random.default_rng(seed)
    T, B, I, O = 140 if dtype == np.float32 else 1050, 5, 3, 2
    draw = lambda *shape: rng.standard_normal(shape).astype(dtype)
    W = (0.5 * np.linalg.qr(rng.standard_normal((H, H)))[0]).astype(dtype)
    x = draw(T, B, I) if driven else np.zeros((T, B, I), dtype)
    n = {"x": x, "U": draw(H, I), "W": W, "h0": np.abs(draw(B, H)), "V": (0.1 * draw(O, H)).astype(dtype)}
    n["dh"] = np.zeros((T, B, H), dtype)
    n["dh"][-1] = draw(B, H)
    n["h"] = pyrnn.forward(n["x"], n["U"], W, None, n["h0"])
    n["h_dot"] = draw(B, H)
    n["faint"], n["faint_do"] = (np.finfo(dtype).tiny * (1 + np.abs(draw(7, B, m))) for m in (H, O))
    return n


def subnormals(arrays):
    """How many there are."""
    return sum(int(((a != 0) & (np.abs(a) < np.finfo(a.dtype).tiny)).sum()) for a in arrays if a is not None)


def flat(results):
    """The arrays of a result, in whatever it holds them."""
    return [a for part in results for a in flat(part)] if isinstance(results, tuple) else [results]


# ---- Values ---------------------------------------------------------------------------------------------------------
def forward(m, n, **options):
    return m.forward(n["x"], n["U"], n["W"], None, n["h0"], **options)


def backward(m, n, **options):
    return m.backward(n["dh"], n["h"], n["x"], n["U"], n["W"], n["h0"], **options)


def run_of(n, steps=None, cell=PLAIN):
    """The states as a trajectory, the first steps of them."""
    return pyrnn.Trajectory.of(network_of(n, cell=cell), n["h"][:steps], n["x"][:steps], n["h0"])


def network_of(n, V=None, cell=PLAIN):
    return pyrnn.Network(n["U"], n["W"], None, V, cell=cell)


def backward_jvp(m, n):
    """The tangent along dh_dot alone: backward of it, where the complex step of the reference is too short."""
    if m is reference:
        return backward(m, n)
    return m.backward_jvp(run_of(n), n["dh"], pyrnn.Direction(), dh_dot=n["dh"])


def per_sample_gradients(m, n):
    m = pyrnn.training if m is pyrnn else m
    return m.per_sample_gradients(run_of(n), n["dh"])


LENGTHS = np.array([0, 7, 0, 1, 100])
TWINS = {  # of reference.py: the same call of both modules, and whether the network is driven
    "forward": (forward, False),
    "forward of relu": (lambda m, n, **o: forward(m, n, cell=RELU, **o), False),
    "forward of lengths": (lambda m, n: forward(m, n, lengths=len(n["x"]) - LENGTHS), False),
    "forward of a leak": (lambda m, n: forward(m, n, cell=LEAKY), False),
    "backward": (backward, False),
    "backward of driven states": (backward, True),
    "backward of identity": (lambda m, n: backward(m, n, cell=pyrnn.Cell("identity")), True),
    "backward of currents": (lambda m, n: backward(m, n, cell=CURRENT), False),
    "backward of a mask": (lambda m, n: backward(m, n, mask=np.arange(len(n["x"]))[:, None] != [0, 1, 2, 3, 4]), False),
    "state_gradients": (lambda m, n: m.state_gradients(n["dh"], n["h"], n["W"]), True),
    "jvp": (lambda m, n: m.jvp(run_of(n), pyrnn.Direction(h0=n["h_dot"])), True),
    "backward_jvp": (backward_jvp, True),
    "per_sample_gradients": (per_sample_gradients, False),
    "output": (lambda m, n: m.output(n["faint"], n["V"]), True),
    "output_gradients": (lambda m, n: m.output_gradients(n["faint_do"], n["h"][:7], n["V"]), True),
}
ENGINES = ["forward", "forward of relu", "backward", "backward of driven states"]
CASES = [(name, None) for name in TWINS] + [(name, "blas") for name in ENGINES]


@pytest.fixture(params=[name for name in table.available() if name != "avx2"])
def instruction_set(request):
    before = table.selected()
    table.select(request.param)
    yield
    table.select(before)


@pytest.mark.parametrize(("name", "engine"), CASES)
def test_results_are_zero_where_they_would_be_subnormal(name, engine, dtype, instruction_set):
    call, driven = TWINS[name]
    n = fading(dtype, driven=driven)
    ours = flat(call(pyrnn if engine is None else InEngine(engine), n))
    theirs = flat(call(reference, n))
    exact = flat(call(reference, {key: a.astype(np.float64) for key, a in n.items()}))
    assert subnormals(theirs) > 0  # or there would be nothing to see
    assert subnormals(ours) == 0
    limits, steps = np.finfo(dtype), len(n["x"])
    for have, want in zip(ours, exact, strict=True):
        if have is None:
            continue
        sizes = np.abs(want).max(axis=-1, keepdims=True, initial=0)
        allowed = 4 * steps * float(limits.eps) * sizes + 2 * H * float(limits.tiny)
        assert (np.abs(have.astype(np.float64) - want) <= allowed).all()


@pytest.mark.parametrize("n_threads", [2, 3])
def test_threads_of_the_team_flush_too(n_threads, dtype):
    """A thread that kept subnormal numbers would give other rows other bits."""
    rng = np.random.default_rng(0)
    T, B, size = (150, 48, 32) if dtype == np.float32 else (1100, 16, 32)
    W = (0.5 * np.linalg.qr(rng.standard_normal((size, size)))[0]).astype(dtype)
    x, U = np.zeros((T, B, 1), dtype), np.zeros((size, 1), dtype)
    h0, dh = rng.standard_normal((B, size)).astype(dtype), np.zeros((T, B, size), dtype)
    dh[-1] = h0

    def run(n_threads):
        h = FUSED.forward(x, U, W, None, h0, n_threads=n_threads)
        return [h, *flat(FUSED.backward(dh, h, x, U, W, h0, n_threads=n_threads))]

    expected = run(1)
    for _ in range(20):
        results = run(n_threads)
        assert subnormals(results) == 0
        assert all(a is b is None or a.tobytes() == b.tobytes() for a, b in zip(results, expected, strict=True))


def test_relu_of_subnormal_numbers(dtype, instruction_set):
    """They are not active, as zero is not; NaN is passed on."""
    tiny, one, x = np.finfo(dtype).tiny, np.ones((1, 1), dtype), np.zeros((1, 6, 1), dtype)
    h0 = np.array([[tiny, tiny / 2, -tiny, 0, np.nan, 1]], dtype).T
    h = pyrnn.forward(x, one, one, None, h0, cell=RELU)
    np.testing.assert_array_equal(h[0, :, 0], [tiny, 0, 0, 0, np.nan, 1])
    gradients = pyrnn.backward(np.ones_like(x), h, x, one, one, h0, cell=RELU)
    np.testing.assert_array_equal(gradients.h0[:, 0], [1, 0, 0, 0, 1, 1])


@pytest.mark.parametrize("cell", [PLAIN, LEAKY, CURRENT], ids=str)
def test_stepper_decays_to_zero(cell, dtype):
    n = fading(dtype)
    stepper = pyrnn.Stepper(network_of(n, cell=cell), n["h0"], batch=5)
    states = np.array([stepper.step(x) for x in n["x"]])
    assert subnormals([states]) == 0
    assert states[-50].any()
    assert not states[-1].any()
    assert subnormals([stepper.run(n["x"])]) == 0


@pytest.mark.parametrize("learner", LEARNERS)
def test_influence_decays_to_zero(learner, dtype):
    """Asked at every step on the way down, for its own gradients: of influences, traces and random vectors."""
    n = fading(dtype)
    online = getattr(pyrnn.online, learner)(
        network_of(n), n["h0"][0]
    )  # of one sequence: those of several are summed by NumPy
    for x in n["x"]:
        gradients = online.step(x[0], n["h_dot"][0])
        assert gradients is None or subnormals(gradients) == 0


def test_what_is_not_flushed():
    """Functions of numbers one by one, and what NumPy computes."""
    tiny = np.finfo(np.float32).tiny
    for function in (elementwise.tanh, elementwise.sech2):
        assert subnormals([function(np.array([tiny / 2, 46.0], np.float32))]) == 1
    assert subnormals([pyrnn.squared_error(np.full((1, 1), tiny), np.zeros((1, 1), np.float32))[1]]) == 0


WINDOW = r"""
#include "floating.h"
#include <stdio.h>
int main(void)
{
    volatile float a = 0x1.000002p-63f, b = 0x1.fffffcp-64f;   /* product: 1 - 2^-46 of the smallest normal number */
    volatile float c = 0x1.fffffep-64f, d = 0x1p-63f;          /* 1 - 2^-24: a number that float32 would hold */
    volatile double tie = (1 - 0x1p-25) * 0x1p-126, below = (1 - 0x1.0000002p-25) * 0x1p-126;
    volatile double e = (1 + 0x1p-52) * 0x1p-511, f = (1 - 0x1p-52) * 0x1p-511;
    const pyrnn_floating state = pyrnn_flush();
    volatile float product = a * b, held = c * d, narrow = (float)tie, narrower = (float)below;
    volatile double of_double = e * f;
    pyrnn_restore(state);
    printf("%a %a %a %a %a\n", product, held, narrow, narrower, of_double);
    return 0;
}
"""


def test_where_x86_and_arm_differ(gcc, tmp_path):
    """The exception to the promise about bits, as docs/bptt.md states it, and its edges."""
    (tmp_path / "window.c").write_text(WINDOW)
    include = f"-I{Path(__file__).parent.parent / 'csrc'}"
    compilers = {platform.machine().lower(): (gcc, None)}
    if shutil.which("aarch64-linux-gnu-gcc") and shutil.which("qemu-aarch64"):
        compilers["aarch64"] = ("aarch64-linux-gnu-gcc", "qemu-aarch64")
    for machine, (compiler, emulator) in compilers.items():
        program = str(tmp_path / machine)
        subprocess.run(
            [compiler, "-static", "-std=c11", include, str(tmp_path / "window.c"), "-o", program], check=True
        )
        command = [program] if emulator is None else [emulator, program]
        found = subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()
        rounds_first = ["0x1p-126", "0x0p+0", "0x1p-126", "0x0p+0", "0x1p-1022"]
        assert found == (rounds_first if machine in ("x86_64", "amd64") else ["0x0p+0"] * 5)


# ---- The state of the caller ----------------------------------------------------------------------------------------
def control():
    """The bits of the calling thread's register that say what becomes of subnormal numbers, and how to round."""
    library, memory = ctypes.CDLL(None), ctypes.create_string_buffer(64)
    if library.fegetenv(memory):
        pytest.skip("no fegetenv")
    intel = platform.machine().lower() in ("x86_64", "amd64")
    word = int.from_bytes(memory.raw[28:32] if intel else memory.raw[:4], "little")
    return word & ~0x3F if intel else word  # without the flags of exceptions


def set_flush(on):
    """Set or clear the bits that flush, in the calling thread."""
    library, memory = ctypes.CDLL(None), ctypes.create_string_buffer(64)
    library.fegetenv(memory)
    intel = platform.machine().lower() in ("x86_64", "amd64")
    at, bits = (28, 0x8040) if intel else (0, 1 << 24)
    word = int.from_bytes(memory.raw[at : at + 4], "little")
    memory[at : at + 4] = (word | bits if on else word & ~bits).to_bytes(4, "little")
    library.fesetenv(memory)


def keeps_subnormals():
    """Whether NumPy, in the calling thread, makes subnormal numbers and reads them."""
    small = np.array([1e-38], np.float32)
    return bool((small * np.float32(0.1))[0] != 0) and bool((np.array([2e-40], np.float32) * np.float32(1e10))[0] != 0)


@pytest.fixture(params=[False, True], ids=["kept", "flushed by the caller"])
def of_caller(request):
    if sys.platform != "linux":
        pytest.skip("fenv_t is known on Linux alone")
    set_flush(request.param)
    yield request.param
    set_flush(False)


def learn(learner, n):
    for t in range(5):
        learner.step(n["x"][t], n["dh"][-1])
    return learner.gradients(n["dh"][-1])


def train(n):
    rnn = pyrnn.RNN(3, H, 2, bidirectional=True, output_size=2)
    return rnn.loss_and_gradients(n["x"].astype(np.float32), np.zeros(n["x"].shape[:2], int))


def step(n, cell=PLAIN):
    stepper = pyrnn.Stepper(network_of(n, n["V"], cell), batch=5)
    return [stepper.step(n["x"][0]), stepper.run(n["x"])]


def torch_layer(n):
    torch = pytest.importorskip("torch")
    import pyrnn.bridges.torch

    layer = pyrnn.bridges.torch.RNN(3, H, dtype=torch.float64)
    layer(torch.from_numpy(n["x"].astype(np.float64)))[0].sum().backward()


def hessp(n, cell=PLAIN):
    objective = pyrnn.training.Objective(network_of(n, n["V"], cell), n["x"][:4], ZEROS[:4])
    return objective.hessp(objective.first, np.ones_like(objective.first))


ZEROS = np.zeros((9, 5), int)  # classes
EVERYTHING = (
    {name: lambda n, call=call: call(pyrnn, n) for name, (call, _) in TWINS.items()}
    | {
        "forward on threads": lambda n: pyrnn.forward(
            np.zeros((50, 64, 64), np.float32), np.zeros((128, 64)), np.zeros((128, 128)), n_threads=2
        ),
        "forward by BLAS": lambda n: forward(BLAS, n),
        "backward by BLAS": lambda n: backward(BLAS, n),
        "jacobian": lambda n: pyrnn.jacobian(n["h"][:3], n["W"]),
        "output_jacobian": lambda n: pyrnn.training.output_jacobian(network_of(n, n["V"]), n["x"][:4, :2]),
        "hessp": hessp,
        "hessp of currents": lambda n: hessp(n, CURRENT),
        "loss_and_gradients": lambda n: pyrnn.loss_and_gradients(network_of(n, n["V"], LEAKY), n["x"][:9], ZEROS[:9]),
        "norms of gradients": lambda n: pyrnn.training.per_sample_gradients(run_of(n), n["dh"], norms_only=True),
        "gradients of rates": lambda n: pyrnn.simulate(network_of(n, cell=LEAKY), n["x"]).backward(n["dh"], n["dh"]),
        "jacobian_product": lambda n: pyrnn.dynamics.jacobian_product(run_of(n, 9)),
        "push": lambda n: pyrnn.dynamics.push(run_of(n, 9), n["dh"][-1]),
        "pull": lambda n: pyrnn.dynamics.pull(run_of(n), n["dh"][-1]),
        "log_singular_values": lambda n: pyrnn.dynamics.log_singular_values(run_of(n, 9)),
        "preactivations": lambda n: pyrnn.dynamics.preactivations(run_of(n)),
        "gradient_flow": lambda n: pyrnn.dynamics.gradient_flow(network_of(n), n["x"], dh=n["dh"]),
        "lyapunov_spectrum": lambda n: pyrnn.dynamics.lyapunov_spectrum(network_of(n), steps=30, warmup=5),
        "find_fixed_points": lambda n: pyrnn.dynamics.find_fixed_points(network_of(n), starts=n["h0"]),
        "Stepper": step,
        "Stepper with a leak": lambda n: step(n, pyrnn.Cell(alpha=0.5)),
        "RNN": train,
        "torch.RNN": torch_layer,
    }
    | {name: lambda n, name=name: learn(getattr(pyrnn.online, name)(network_of(n), batch=5), n) for name in LEARNERS}
)


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.peer) if name == "torch.RNN" else name for name in EVERYTHING]
)
def test_state_of_the_caller_comes_back(name, of_caller):
    n = fading(np.float32)
    before = control()
    EVERYTHING[name](n)
    assert control() == before
    assert keeps_subnormals() != of_caller


@pytest.mark.parametrize("engine", ["fused", "blas"])
@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="needs a timer that raises a signal")
def test_handlers_of_signals_have_the_state_of_the_caller(engine, of_caller):
    T, size, seen, returned = 30_000, 384, [], []  # half a second of work; looks for signals are 50 ms apart
    x, U, W = np.zeros((T, 1, 1)), np.zeros((size, 1)), np.zeros((size, size))

    def handler(signum, frame):
        seen.append((keeps_subnormals(), control()))
        forward(pyrnn, fading(np.float32))  # which flushes, and ends to
        seen.append((keeps_subnormals(), control()))
        raise KeyboardInterrupt

    def call():
        returned.append(InEngine(engine).forward(x, U, W))
        time.sleep(5)

    before, old = (not of_caller, control()), signal.signal(signal.SIGALRM, handler)
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.02)
        with pytest.raises(KeyboardInterrupt):
            call()
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, old)
    assert not returned
    assert [*seen, (keeps_subnormals(), control())] == [before] * 3


def test_loops_go_on_flushing_after_a_signal(of_caller):
    """A handler that returns leaves what follows of the call with subnormal numbers as zeros."""
    if not hasattr(signal, "setitimer"):
        pytest.skip("needs a timer that raises a signal")
    handled = []
    T, W = 400_000, np.eye(4) * 0.999  # subnormal from step 700,000 on, in the second half
    old = signal.signal(signal.SIGALRM, lambda *_: handled.append(keeps_subnormals()))
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.01, 0.01)
        h = pyrnn.forward(
            np.zeros((2 * T, 4, 1)), np.zeros((4, 1)), W, None, np.ones((4, 4)), cell=pyrnn.Cell("identity")
        )
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, old)
    assert handled
    assert subnormals([h]) == 0
    assert h[T].any()
    assert not h[-1].any()


def test_each_thread_has_its_own_state():
    if sys.platform != "linux":
        pytest.skip("fenv_t is known on Linux alone")
    n, wrong = fading(np.float32), []

    def work(flush):
        set_flush(flush)
        before = control()
        for _ in range(30):
            backward(pyrnn, n)
            step(n)
            if control() != before or keeps_subnormals() == flush:
                wrong.append(flush)

    threads = [threading.Thread(target=work, args=(i % 2 == 1,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
    assert keeps_subnormals()
