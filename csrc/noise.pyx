"""Normal noise as arrays: the numbers that the kernel `noise` adds inside of the loops over time."""

cimport numpy as cnp
from libc.stdint cimport uint64_t

from pyrnn._core.arrays cimport CONTIGUOUS, OPTIONAL, WRITTEN, data, interrupted, kind_of, need, pass_on, real
from pyrnn._core.scratch cimport Scratch
from pyrnn._core.table cimport flush_subnormals, restore_subnormals
from pyrnn._core.team cimport run
from pyrnn._core.typed cimport noise as noise_rows
from pyrnn._core.wait cimport pyrnn_atomic, pyrnn_exchange, pyrnn_load, pyrnn_seconds

cnp.import_array()

cdef enum:
    BLOCK = 64          # rows of one call of the kernel, so that few units or sequences fill registers too
    NUMBER = 60         # a number takes about the time of so many flops


cdef struct Noise:
    uint64_t seed
    Py_ssize_t stream, step, sequence, T, B, H
    const void *sigma
    void *out
    double since
    pyrnn_atomic stop


cdef void fill(real tag, Noise *job, int task, int tasks, int member) noexcept nogil:
    """The rows of a task, each a step of a sequence."""
    cdef Py_ssize_t steps[BLOCK]
    cdef Py_ssize_t sequences[BLOCK]
    cdef Py_ssize_t all_rows = job.T * job.B, row = all_rows * task // tasks, end = all_rows * (task + 1) // tasks
    cdef Py_ssize_t rows, i, t, b
    if row >= end:
        return
    t, b = row // job.B, row % job.B
    while row < end:
        rows = min(<Py_ssize_t>BLOCK, end - row)
        for i in range(rows):
            steps[i], sequences[i] = t, b
            b += 1
            if b == job.B:
                t, b = t + 1, 0
        noise_rows(job.seed, job.stream, rows, job.H, job.step, steps, job.sequence, sequences,
                   <const real *>job.sigma, <const real *>NULL, 0, <const real *>NULL, 0,
                   <real *>job.out + row * job.H, job.H)
        row += rows
        if member == 0 and interrupted(&job.since):
            pyrnn_exchange(&job.stop, 1)
        if pyrnn_load(&job.stop):
            return


cdef void fill_f32(void *job, Py_ssize_t round, int task, int tasks, int member) noexcept nogil:
    fill(<float>0, <Noise *>job, task, tasks, member)


cdef void fill_f64(void *job, Py_ssize_t round, int task, int tasks, int member) noexcept nogil:
    fill(<double>0, <Noise *>job, task, tasks, member)


def noise(cnp.ndarray out, uint64_t seed, Py_ssize_t stream, Py_ssize_t step, Py_ssize_t sequence,
          cnp.ndarray sigma=None, n_threads=None):
    """Write noise to out [T, B, H], contiguous, from a step and a sequence on; sigma [H], or None for 1."""
    cdef int kind = kind_of("out", out, 3)
    cdef Noise job
    cdef Scratch scratch = Scratch()
    job.T, job.B, job.H = out.shape[0], out.shape[1], out.shape[2]
    need("out", out, kind, CONTIGUOUS | WRITTEN, 3, job.T, job.B, job.H)
    need("sigma", sigma, kind, CONTIGUOUS | OPTIONAL, 1, job.H)
    job.seed, job.stream, job.step, job.sequence = seed, stream, step, sequence
    job.sigma, job.out, job.stop, job.since = data(sigma), data(out), 0, pyrnn_seconds()
    scratch.divide(n_threads, <double>NUMBER * job.T * job.B * job.H, job.T * job.B)
    with nogil:
        flush_subnormals()
        run(&scratch.shares, fill_f32 if kind == cnp.NPY_FLOAT32 else fill_f64, &job, 1, cnp.PyArray_ITEMSIZE(out),
            &job.stop)
        restore_subnormals()
    scratch.release()
    pass_on(-1 if job.stop else 0)
