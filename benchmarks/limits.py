"""What the machine can do at most, measured in the run that speaks of it: multiply-adds and reads a second."""

from pyrnn._core import table


def multiply_add_peak(dtype):
    """Operations a second of one thread that does multiply-adds in registers and nothing else, a multiply-add being
    two; None where the kernels do not measure it."""
    measure = getattr(table, "multiply_add_peak", None)
    return measure(dtype) if measure else None


def read_bandwidth(nbytes, dtype):
    """Bytes a second at which one thread reads so many bytes again and again."""
    return table.read_bandwidth(nbytes, dtype)


def operations(work, H, B, T, I):
    """Additions and multiplications in the matrix products of forward, or of forward and all gradients.

    Forward: U x_t and W h_{t-1}. The gradients take twice as many more: Uᵀ delta, Wᵀ delta, dU and dW.
    """
    return {"forward": 1, "both": 3}[work] * 2 * T * B * H * (H + I)
