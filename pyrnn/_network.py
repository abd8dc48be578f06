"""The check of a whole network, its input and its targets, before anything is computed."""

from pyrnn import _checks, losses
from pyrnn.parameters import Parameters


def as_parameters(params):
    """Any five arrays or None as a `Parameters`."""
    return as_named(Parameters, params)


def as_named(cls, params):
    """The values as a named tuple of this class."""
    try:
        return cls(*params)
    except TypeError:
        count = f"{len(params)} values" if hasattr(params, "__len__") else repr(params)
        names = ", ".join(cls._fields)
        raise TypeError(f"params must be a {cls.__name__} or a tuple ({names}), got {count}") from None


def check_network(x, U, W, b, V, c, h0, targets, loss, weights):
    """Check the shapes of real arrays, and all that the loss checks; returns targets and weights as arrays."""
    shape = check_shapes(x, U, W, b, V, c, h0)
    return losses.check_targets(loss, shape, x.dtype, targets, weights)


def check_shapes(x, U, W, b, V, c, h0):
    """Check the shapes of real arrays; returns that of the outputs."""
    _checks.check_sequence("x", "I", x)
    _checks.check_columns("U", "H", U, x.shape[-1], "x", x)
    H = O = U.shape[0]
    _checks.check_shape("W", W, (H, H), "U", U)
    _checks.check_shape("h0", h0, (*x.shape[1:-1], H), "x", x, "U", U)
    _checks.check_shape("b", b, (H,), "U", U)
    if V is not None:
        _checks.check_columns("V", "O", V, H, "U", U)
        O = V.shape[0]
        _checks.check_shape("c", c, (O,), "V", V)
    elif c is not None:
        raise ValueError("params must have V where it has c, got V None")
    return *x.shape[:-1], O
