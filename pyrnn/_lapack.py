"""Calls of LAPACK that can take a second or more, in a way that lets Ctrl-C through."""

import contextvars
import threading

import numpy as np

from pyrnn import _fixed_points

SHORT = 128  # units, of matrices whose decompositions take a few milliseconds


def interruptible(function, matrix):
    """function(matrix), which gives up the GIL: on a thread of its own if the matrix is large.

    LAPACK cannot be stopped. After Ctrl-C the thread that waits for it goes on at once, and the result is dropped when
    it comes. Python waits for it before it exits, since OpenBLAS hangs if it is shut down while it computes.
    """
    if matrix.shape[-1] <= SHORT or threading.current_thread() is not threading.main_thread():
        return function(matrix)
    result, error, done, context = [], [], threading.Event(), contextvars.copy_context()

    def run():
        try:
            result.append(context.run(function, matrix))
        except BaseException as exception:
            error.append(exception)
        finally:
            done.set()

    threading.Thread(target=run, name="pyrnn LAPACK", daemon=False).start()
    # Not join: a thread whose join is interrupted counts as ended for Python 3.11, which then exits without it. With a
    # limit, since Windows hears no Ctrl-C without.
    while not done.wait(0.05):
        pass
    if error:
        raise error[0]
    return result[0]


def eig(matrix):
    """(w, left, right) of a real matrix of float64, as scipy.linalg.eig, which holds the GIL."""
    real, imaginary, *rows = interruptible(_fixed_points.eig, np.array(matrix.T, order="C"))
    pairs, vectors = np.flatnonzero(imaginary > 0), []
    for v in (a.T.astype(complex) for a in rows):
        v.imag[:, pairs] = v.real[:, pairs + 1]
        v[:, pairs + 1] = v[:, pairs].conj()
        vectors.append(v)
    return real + 1j * imaginary, *vectors
