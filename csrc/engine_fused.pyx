"""Time, in the fused engine: forward, backward and state gradients by the packed kernels of floor 1.

The same sums as engine_blas.pyx; see there for the letters, the chunks of time and how arrays are passed. What differs:

- Weights are packed once per call. A kernel takes rows at any stride, so that no sequence is ever copied.
- Each product of a row and a column is one chain of multiply-adds from zero, a = (b + U x) + W h of two. The weight
  gradients are sums over chunks, from the last to the first, of chains of 128 rows, db with what its roundings have
  lost. The bits depend neither on the other sequences of the batch nor on the instruction set. Short chains that begin
  with zero are also more accurate: with b or the sum so far first, dW after 10,000 steps had twice PyTorch's error,
  with a chain for each chunk half of it, and now it has a sixth.
- Threads share out the sequences, each with the loop over time inside. In backward the rounds of the team are, for each
  chunk, the sequences and then the rows of dU and dW: no number is summed by two of them.
- Rows that a tile reads side by side must not fall into the same sets of the first-level cache, as they do when they
  lie a multiple of 2 KB apart (measured, H = 512 float32: 119 GF/s became 76). Such states are kept a second time,
  padded.
"""

cimport numpy as cnp
from libc.string cimport memcpy

from pyrnn._core.arrays cimport (
    AS_MATRIX, CONTIGUOUS, IN_ROWS, OPTIONAL, WRITTEN, crowded, data, empty, gather, interrupted, kind_of, line, lines,
    most_block_rows, need, need_panels, padded, pass_on, real, stride,
)
from pyrnn._core.call cimport (
    Call, Job, Rows, add_noise, at, check_output, chunk_steps, end_of_sums, feed, leak_gradient_of, output_results,
    packed_call, places, present, read, rows_before, scattered,
)
from pyrnn._core.profile cimport (
    BACKWARD_RECURRENCE, FORWARD_RECURRENCE, INPUT_GRADIENTS, INPUT_PRODUCT, OUTPUT, OUTPUT_GRADIENTS, PACK,
    WEIGHT_GRADIENTS, begin, lap,
)
from pyrnn._core.scratch cimport Scratch
from pyrnn._core.table cimport flush_subnormals, restore_subnormals
from pyrnn._core.team cimport run, work_function
from pyrnn._core.typed cimport (
    column_sums, fused_backward, fused_forward, gather_rows, leaky_backward, leaky_forward, leaky_step_backward,
    outer, pack, pack_narrow, pack_rows_at, pack_transposed, panels_size, product, product_and_outer, scatter_rows,
    step_backward,
)
from pyrnn._core.wait cimport pyrnn_exchange, pyrnn_load, pyrnn_seconds

cnp.import_array()

cdef enum:
    FEW_OUTPUTS = 4  # the most that product_and_outer takes

cdef Py_ssize_t FEW = 4  # below so many sequences, several steps of one make better tiles than one step of all

cdef inline Py_ssize_t block_rows(Py_ssize_t left, Py_ssize_t H, Py_ssize_t itemsize) noexcept nogil:
    """How many of the sequences that are left go through time together next: an even share of them."""
    cdef Py_ssize_t most = most_block_rows(H, itemsize)
    cdef Py_ssize_t blocks = (left + most - 1) // most
    return (left + blocks - 1) // blocks


# ---- Packed weights -------------------------------------------------------------------------------------------------
cdef Py_ssize_t packed_size(cnp.ndarray M, bint transposed) noexcept:
    cdef Py_ssize_t rows = M.shape[0], n = M.shape[1], size = cnp.PyArray_ITEMSIZE(M)
    return panels_size(n, rows, size) if transposed else panels_size(rows, n, size)


cdef void pack_typed(cnp.ndarray M, bint transposed, real *panels) noexcept:
    cdef Py_ssize_t rows = M.shape[0], n = M.shape[1], ld = stride(M, 0)
    if transposed:
        pack_transposed(n, rows, <const real *>data(M), ld, panels)
    else:
        pack(rows, 0, rows, 1, n, <const real *>data(M), ld, 0, panels)


cdef void pack_into(cnp.ndarray M, bint transposed, void *panels) noexcept:
    cdef long long clock = begin()
    if cnp.PyArray_ITEMSIZE(M) == 4:
        pack_typed(M, transposed, <float *>panels)
    else:
        pack_typed(M, transposed, <double *>panels)
    lap(clock, PACK, 0, cnp.PyArray_ITEMSIZE(M), 0, 2.0 * M.shape[0] * M.shape[1])


cdef void *packed_in(Scratch scratch, cnp.ndarray M, bint transposed) except NULL:
    """Panels of M, or of its transpose, in memory of a call."""
    cdef void *panels = scratch.take(packed_size(M, transposed) * cnp.PyArray_ITEMSIZE(M))
    pack_into(M, transposed, panels)
    return panels


# ---- Forward --------------------------------------------------------------------------------------------------------
cdef void rows_product(Py_ssize_t T, Py_ssize_t B, Py_ssize_t K, Py_ssize_t N, const real *x, Py_ssize_t xt,
                       Py_ssize_t xb, const real *panels, const real *init, Py_ssize_t it, Py_ssize_t ib, real *out,
                       Py_ssize_t ot, Py_ssize_t ob) noexcept nogil:
    """out_t = init_t + U x_t for all t, by steps or by sequences: no sum knows the difference."""
    cdef Py_ssize_t i
    if B >= FEW:
        for i in range(T):
            product(B, K, N, x + i * xt, xb, panels, NULL if init == NULL else init + i * it, ib, out + i * ot, ob)
    else:
        for i in range(B):
            product(T, K, N, x + i * xb, xt, panels, NULL if init == NULL else init + i * ib, it, out + i * ob, ot)


cdef inline Py_ssize_t share(Py_ssize_t n, int task, int tasks) noexcept nogil:
    """Where the share of a task begins, and that of the one before ends."""
    return n * task // tasks


cdef inline Py_ssize_t share_of_sequences(const Job *job, int task, int tasks) noexcept nogil:
    """The same for sequences: an even share of their steps."""
    cdef Py_ssize_t low = 0, high = job.B, middle, wanted
    if job.offsets == NULL:
        return share(job.B, task, tasks)
    wanted = share(job.steps_before[job.B], task, tasks)
    while low < high:
        middle = (low + high) // 2
        if job.steps_before[middle] < wanted:
            low = middle + 1
        else:
            high = middle
    return low


cdef Py_ssize_t most_sequences(const Job *job, int tasks) noexcept nogil:
    """The most sequences that a task has."""
    cdef Py_ssize_t most = 0
    cdef int task
    for task in range(tasks):
        most = max(most, share_of_sequences(job, task + 1, tasks) - share_of_sequences(job, task, tasks))
    return most


cdef inline Py_ssize_t most_of(Py_ssize_t n, int tasks) noexcept nogil:
    """The largest share of n that a task has."""
    return (n + tasks - 1) // tasks


cdef inline real *own(void **memory, int task, real tag) noexcept nogil:
    """The scratch memory of a task, NULL where none is needed."""
    return NULL if memory == NULL else <real *>memory[task]


cdef bint stopped(Job *job, int member) noexcept nogil:
    """Whether Ctrl-C was pressed: the caller looks, the others hear of it."""
    if member == 0 and interrupted(&job.since):
        pyrnn_exchange(&job.stop, 1)
    return pyrnn_load(&job.stop) != 0


cdef inline bint driven(const Job *job) noexcept nogil:
    """Whether something is added to the pre-activation of each step."""
    return job.drive.first != NULL or job.noise.given


cdef inline void plus_drive(const Job *job, Py_ssize_t t, Py_ssize_t first, Py_ssize_t rows, const real *b, real *h_t,
                            Py_ssize_t ld) noexcept nogil:
    """h_t = b + drive_t, or b + (drive_t + noise_t), where the sums of a step begin."""
    if job.noise.given:
        if job.drive.first != NULL:
            begin_with_drive(job, t, first, rows, <const real *>NULL, h_t, ld)
        add_noise(job, t, first, rows, <const real *>NULL if job.drive.first == NULL else h_t, ld, b, 0, h_t, ld)
    else:
        begin_with_drive(job, t, first, rows, b, h_t, ld)


cdef inline void begin_with_drive(const Job *job, Py_ssize_t t, Py_ssize_t first, Py_ssize_t rows, const real *b,
                                  real *h_t, Py_ssize_t ld) noexcept nogil:
    """h_t = b + drive_t."""
    cdef Py_ssize_t i, j
    cdef const Rows *a = &job.drive
    cdef const real *drive
    for i in range(rows):
        drive = <const real *>a.first + (places(job, a, t, first)[i] if scattered(job, a) else at(job, a, t, first + i))
        if b == NULL:
            memcpy(h_t, drive, job.H * sizeof(real))
        else:
            for j in range(job.H):
                h_t[j] = b[j] + drive[j]
        h_t += ld


cdef void forward_work(real tag, Job *job, Py_ssize_t round, int task, int tasks, int member) noexcept nogil:
    """One round: each task its sequences."""
    cdef bint in_own = scattered(job, &job.h)  # states are in `own` first
    cdef Py_ssize_t I = job.inputs, H = job.H, ld = job.ld, ld_h = ld if in_own else job.h.sb, ld_x = 0
    cdef Py_ssize_t row = share_of_sequences(job, task, tasks), B = share_of_sequences(job, task + 1, tasks) - row
    cdef Py_ssize_t c, t, start, stop, first, rows, n, ld_previous, ld_past, ld_rates = 0, steps
    # The input product of all steps of a chunk at once; without inputs it would turn a state of -0 into 0.
    cdef bint merged = B < FEW and I > 0 and not in_own
    cdef bint in_h = merged or driven(job)  # the sums of a step begin in h_t
    cdef Py_ssize_t inputs = 0 if merged else I, ld_init = ld_h if in_h else 0
    cdef const real *x = NULL
    cdef const real *previous
    cdef const real *past
    cdef const real *panels_U = <const real *>job.panels_U
    cdef const real *panels_W = <const real *>job.panels_W
    cdef const real *b = <const real *>job.b
    cdef real *state = own(job.state, task, tag)
    cdef real *padded_h = own(job.own, task, tag)
    cdef real *gathered_x = own(job.rows, task, tag)
    cdef real *gathered_rates = own(job.other_rows, task, tag)
    cdef real *copy = NULL
    cdef real *h_t
    cdef real *rates = NULL
    cdef long long clock = begin()
    for c in range(job.chunks):
        start, stop = job.starts[c], job.starts[c + 1]
        steps = 0  # of all sequences
        if merged:
            for t in range(start, stop):
                n = present(job, t, row, B)
                steps += n
                if driven(job):
                    plus_drive(job, t, row, n, b, <real *>job.h.first + at(job, &job.h, t, row), ld_h)
            input_product(tag, job, start, stop, row, B)
            clock = lap(clock, INPUT_PRODUCT, member, sizeof(real), 2.0 * steps * H * I,
                        <double>steps * (I + H) + (H * I if task == start == 0 else 0))
            steps = 0
        first = 0
        while first < B:
            rows = block_rows(B - first, H, sizeof(real))
            for t in range(start, stop):
                # h_t = tanh(b + U x_t + W h_{t-1})                          (10.8, 10.9)
                n = present(job, t, row + first, rows)
                if n == 0:
                    break
                steps += n
                if inputs > 0:
                    ld_x = job.widest
                    x = read(job, &job.x, t, row + first, n, I, gathered_x, &ld_x)
                if in_own:
                    h_t, past = padded_h + (t % 2 * B + first) * ld, padded_h + ((t + 1) % 2 * B + first) * ld
                else:
                    h_t = <real *>job.h.first + at(job, &job.h, t, row + first)
                    past = NULL if t == 0 else <real *>job.h.first + at(job, &job.h, t - 1, row + first)
                if t == 0:
                    previous, ld_previous = <const real *>job.fed0 + (row + first) * job.ld_fed0, job.ld_fed0
                    past, ld_past = <const real *>job.h0 + (row + first) * job.ld_h0, job.ld_h0
                else:
                    previous, ld_previous, ld_past = past, ld_h, ld_h
                    if state != NULL:
                        previous, ld_previous = state + ((t - 1) % 2 * B + first) * ld, ld
                if state != NULL:
                    copy = state + (t % 2 * B + first) * ld
                if driven(job) and not merged:
                    plus_drive(job, t, row + first, n, b, h_t, ld_h)
                if job.cell.leaky:
                    if scattered(job, &job.rates):
                        rates, ld_rates = gathered_rates, ld
                    elif job.rates.first != NULL:
                        rates = <real *>job.rates.first + at(job, &job.rates, t, row + first)
                        ld_rates = job.rates.sb
                    leaky_forward(n, inputs, H, x, ld_x, panels_U, previous, ld_previous, panels_W,
                                  h_t if in_h else b, ld_init, past, ld_past, h_t, ld_h, copy, ld,
                                  rates, ld_rates, <const real *>job.cell.alpha, job.cell.phi, job.cell.current, t % 2)
                    if scattered(job, &job.rates):
                        scatter_rows(n, H, rates, ld, places(job, &job.rates, t, row + first),
                                     <real *>job.rates.first)
                else:
                    fused_forward(n, inputs, H, x, ld_x, panels_U, previous, ld_previous, panels_W,
                                  h_t if in_h else b, ld_init, h_t, ld_h, copy, ld, job.cell.phi, t % 2)
                if in_own:
                    scatter_rows(n, H, h_t, ld, places(job, &job.h, t, row + first), <real *>job.h.first)
            first += rows
        clock = lap(clock, FORWARD_RECURRENCE, member, sizeof(real), 2.0 * steps * H * (inputs + H),
                    steps * (inputs + (2.0 if merged else 1.0) * H) + (B * H if start == 0 else 0) +
                    (H * (inputs + H) if task == start == 0 else 0))
        if stopped(job, member):
            return


cdef void input_product(real tag, Job *job, Py_ssize_t start, Py_ssize_t stop, Py_ssize_t row,
                        Py_ssize_t B) noexcept nogil:
    """h_t = b + U x_t, or h_t + U x_t where a drive is there already, of some sequences and the steps of a chunk."""
    cdef const real *x = <const real *>job.x.first + at(job, &job.x, start, row)
    cdef const real *panels_U = <const real *>job.panels_U
    cdef real *h = <real *>job.h.first + at(job, &job.h, start, row)
    cdef const real *init = <const real *>job.b
    cdef Py_ssize_t it = 0, ib = 0, t
    if driven(job):
        init, it, ib = h, job.h.st, job.h.sb
    if job.offsets == NULL:
        rows_product(stop - start, B, job.inputs, job.H, x, job.x.st, job.x.sb, panels_U, init, it, ib, h, job.h.st,
                     job.h.sb)
    elif B == job.B:
        product(rows_before(job, stop) - rows_before(job, start), job.inputs, job.H, x, job.x.sb, panels_U, init, ib, h,
                job.h.sb)
    else:
        for t in range(start, stop):
            x = <const real *>job.x.first + at(job, &job.x, t, row)
            h = <real *>job.h.first + at(job, &job.h, t, row)
            product(present(job, t, row, B), job.inputs, job.H, x, job.x.sb, panels_U,
                    h if driven(job) else init, ib, h, job.h.sb)


# ---- Backward -------------------------------------------------------------------------------------------------------
cdef inline Py_ssize_t first_column(Py_ssize_t N, Py_ssize_t itemsize, int task, int tasks) noexcept nogil:
    """Where a task's share of the panels of N columns begins."""
    cdef Py_ssize_t width = 2 * panels_size(1, 1, itemsize), count = (N + width - 1) // width
    return min(share(count, task, tasks) * width, N)


cdef void pack_share(Py_ssize_t K, Py_ssize_t first, Py_ssize_t steps, Py_ssize_t rows, Py_ssize_t N, const real *B,
                     Py_ssize_t ld_t, Py_ssize_t ld_r, real *panels, int task, int tasks) noexcept nogil:
    """A task's share of the panels, whole ones."""
    cdef Py_ssize_t left = first_column(N, sizeof(real), task, tasks)
    cdef Py_ssize_t right = first_column(N, sizeof(real), task + 1, tasks)
    if left < right:
        pack(K, first, steps, rows, right - left, B + left, ld_t, ld_r, panels + left * K)


cdef void pack_places(Py_ssize_t K, Py_ssize_t first, Py_ssize_t rows, Py_ssize_t N, const real *B,
                      const Py_ssize_t *where, real *panels, int task, int tasks) noexcept nogil:
    """The same of rows that lie as `where` says."""
    cdef Py_ssize_t left = first_column(N, sizeof(real), task, tasks)
    cdef Py_ssize_t right = first_column(N, sizeof(real), task + 1, tasks)
    if left < right:
        pack_rows_at(K, first, rows, right - left, B + left, where, panels + left * K)


cdef void pack_sequence(const Job *job, const Rows *a, Py_ssize_t start, Py_ssize_t stop, Py_ssize_t first,
                        Py_ssize_t K, Py_ssize_t N, real tag, real *panels, int task, int tasks) noexcept nogil:
    """A task's share of the panels of steps `start` to `stop` of a, which are their rows from `first` on."""
    if start >= stop:
        return
    if a.where != NULL:
        pack_places(K, first, rows_before(job, stop) - rows_before(job, start), N, <const real *>a.first,
                    places(job, a, start, 0), panels, task, tasks)
    elif job.offsets == NULL:
        pack_share(K, first, stop - start, job.B, N, <const real *>a.first + start * a.st, a.st, a.sb, panels, task,
                   tasks)
    else:
        pack_share(K, first, 1, rows_before(job, stop) - rows_before(job, start), N,
                   <const real *>a.first + at(job, a, start, 0), 0, a.sb, panels, task, tasks)


cdef void pack_fed(const Job *job, Py_ssize_t start, Py_ssize_t stop, Py_ssize_t K, real tag, real *panels, int task,
                   int tasks) noexcept nogil:
    """The same of what W multiplies in each step: of the step before, and of that what goes on."""
    cdef Py_ssize_t t, base = rows_before(job, start)
    if start == 0:
        pack_share(K, 0, 1, present(job, 0, 0, job.B), job.H, <const real *>job.fed0, 0, job.ld_fed0, panels, task,
                   tasks)
        start = 1
    if job.offsets == NULL:
        pack_sequence(job, &job.fed, start - 1, stop - 1, start * job.B - base, K, job.H, tag, panels, task, tasks)
        return
    for t in range(start, stop):
        if job.fed.where != NULL:
            pack_places(K, rows_before(job, t) - base, present(job, t, 0, job.B), job.H, <const real *>job.fed.first,
                        places(job, &job.fed, t - 1, 0), panels, task, tasks)
        else:
            pack_share(K, rows_before(job, t) - base, 1, present(job, t, 0, job.B), job.H,
                       <const real *>job.fed.first + at(job, &job.fed, t - 1, 0), 0, job.fed.sb, panels, task, tasks)


cdef void backward_work(real tag, Job *job, Py_ssize_t round, int task, int tasks, int member) noexcept nogil:
    """Two rounds for each chunk, from the last one on: the recurrence, then the weights; and a last one for dh0."""
    cdef Py_ssize_t c = job.chunks - 1 - round // 2
    if stopped(job, member):
        return
    if c < 0:
        initial_gradient(tag, job, task, tasks, member)
    elif round % 2 == 0:
        backward_recurrence(tag, job, job.starts[c], job.starts[c + 1], task, tasks, member)
    else:
        weight_gradients(tag, job, job.starts[c], job.starts[c + 1], task, tasks, member)


cdef void step_back(const Job *job, Py_ssize_t t, Py_ssize_t first, Py_ssize_t n, Py_ssize_t going_on,
                    const real *later, const real *past, Py_ssize_t ld_past, real *grad, Py_ssize_t ld_grad,
                    real *delta, real *memory, real *other_memory) noexcept nogil:
    """Write grad, NULL if not requested, and delta of step t for n sequences; `going_on` of them have a next step.

    later: delta_{t+1}, past: grad_{t+1}; the task's memory for rows, where those are scattered.
    """
    cdef Py_ssize_t H = job.H, ld = job.ld, ld_dh = job.widest, ld_rates = job.widest
    cdef const real *dh = read(job, &job.dh, t, first, n, H, memory, &ld_dh)
    cdef const real *rates = read(job, &job.rates, t, first, n, H, other_memory, &ld_rates)
    # grad_h_t = dh_t + Wᵀ delta_{t+1}    delta_t = (1 - h_t²) ∘ grad_h_t      (10.20, 10.21)
    if going_on > 0 and job.cell.leaky:
        leaky_backward(going_on, H, later, ld, <const real *>job.panels_W, rates, ld_rates, dh, ld_dh, past, ld_past,
                       grad, ld_grad, delta, ld, <const real *>job.cell.alpha, job.cell.phi, job.cell.current, t % 2)
    elif going_on > 0:
        fused_backward(going_on, H, later, ld, <const real *>job.panels_W, rates, ld_rates, dh, ld_dh, grad, ld_grad,
                       delta, ld, job.cell.phi, t % 2)
    if n == going_on:
        return
    dh += going_on * ld_dh
    rates += going_on * ld_rates
    delta += going_on * ld
    if grad != NULL:
        grad += going_on * ld_grad
    if job.cell.leaky:
        leaky_step_backward(n - going_on, H, rates, ld_rates, dh, ld_dh, <const real *>NULL, 0, <const real *>NULL, 0,
                            grad, ld_grad, delta, ld, <const real *>job.cell.alpha, job.cell.phi, job.cell.current)
    else:
        step_backward(n - going_on, H, rates, ld_rates, dh, ld_dh, <const real *>NULL, 0, grad, ld_grad, delta, ld,
                      job.cell.phi)


cdef void backward_recurrence(real tag, Job *job, Py_ssize_t start, Py_ssize_t stop, int task, int tasks,
                              int member) noexcept nogil:
    """delta of the chunk, its rows ld apart, after them the first step of the chunk that follows; with alpha grad too;
    panels of x and h."""
    cdef Py_ssize_t I = job.inputs, H = job.H, ld = job.ld, base = rows_before(job, start)
    cdef Py_ssize_t row = share_of_sequences(job, task, tasks), end = share_of_sequences(job, task + 1, tasks)
    cdef Py_ssize_t t, first = row, rows, n, going_on, K = rows_before(job, stop) - base, steps = 0, products = 0
    cdef Py_ssize_t here, there
    cdef real *delta = <real *>job.delta
    cdef real *grad = <real *>job.grad
    cdef real *panels_x = <real *>job.panels_x
    cdef real *panels_h = <real *>job.panels_h
    cdef real *memory = own(job.rows, task, tag)
    cdef real *other_memory = own(job.other_rows, task, tag)
    cdef long long clock = begin()
    while first < end:
        rows = block_rows(end - first, H, sizeof(real))
        for t in range(stop - 1, start - 1, -1):
            n = present(job, t, first, rows)
            if n == 0:
                continue
            going_on = present(job, t + 1, first, rows)
            here = (rows_before(job, t) - base + first) * ld
            there = ((rows_before(job, t + 1) - base if t < stop - 1 else job.most) + first) * ld
            step_back(job, t, first, n, going_on, delta + there, NULL if grad == NULL else grad + there, ld,
                      NULL if grad == NULL else grad + here, ld, delta + here, memory, other_memory)
            steps += n
            products += going_on
        first += rows
    n = present(job, start, row, end - row)
    memcpy(delta + (job.most + row) * ld, delta + row * ld, n * ld * sizeof(real))
    if grad != NULL:
        memcpy(grad + (job.most + row) * ld, grad + row * ld, n * ld * sizeof(real))
    clock = lap(clock, BACKWARD_RECURRENCE, member, sizeof(real), 2.0 * products * H * H,
                3.0 * steps * H + (H * H if task == start == 0 else 0))
    pack_sequence(job, &job.x, start, stop, 0, K, I, tag, panels_x, task, tasks)
    pack_fed(job, start, stop, K, tag, panels_h, task, tasks)
    lap(clock, PACK, member, sizeof(real), 0, 2.0 * K * (I + H) / tasks)


cdef void weight_gradients(real tag, Job *job, Py_ssize_t start, Py_ssize_t stop, int task, int tasks,
                           int member) noexcept nogil:
    cdef Py_ssize_t I = job.inputs, H = job.H, ld = job.ld, base = rows_before(job, start)
    cdef Py_ssize_t K = rows_before(job, stop) - base
    cdef Py_ssize_t unit = share(H, task, tasks), units = share(H, task + 1, tasks) - unit
    cdef Py_ssize_t row = share(K, task, tasks), rows = share(K, task + 1, tasks) - row
    cdef const real *delta = <const real *>job.delta
    cdef const real *D = delta + unit
    cdef Py_ssize_t ld_D = ld
    cdef real *rows_p = own(job.rows, task, tag)
    cdef real *rows_q = own(job.other_rows, task, tag)
    cdef real *panels = own(job.narrow, task, tag)
    cdef bint accumulate = stop < job.T or job.accumulate
    cdef long long clock = begin()
    if panels != NULL:
        D, ld_D = panels, 0
        pack_narrow(K, units, delta + unit, ld, panels)
        clock = lap(clock, PACK, member, sizeof(real), 0, 2.0 * K * units)
    # Each task its units: dU = Σ delta_t x_tᵀ    dW = Σ delta_t h_{t-1}ᵀ    db = Σ delta_t   (10.28, 10.26, 10.23)
    outer(K, units, I, D, ld_D, <const real *>job.panels_x, accumulate, <real *>job.dU + unit * I, I)
    outer(K, units, H, D, ld_D, <const real *>job.panels_h, accumulate, <real *>job.dW + unit * H, H)
    column_sums(K, units, delta + unit, ld, <real *>job.sum_b + unit, <real *>job.lost + unit)
    if job.cell.leaky:
        leak_gradient_of(job, start, stop, unit, units, <const real *>job.grad + unit, ld, rows_p, rows_q,
                         padded(units, sizeof(real)))
    clock = lap(clock, WEIGHT_GRADIENTS, member, sizeof(real), 2.0 * K * units * (I + H),
                <double>K * units + (<double>K * (I + H) if task == 0 else 0) +
                (units * (I + H + 1) if start == 0 else 0))
    # Each task its rows: dx_t = Uᵀ delta_t, and delta itself is the gradient of a drive
    if job.h.where != NULL:
        scattered_input_gradients(job, start, row, rows, delta + row * ld, rows_p)
    else:
        input_gradients(job, start, stop, row, rows, delta + row * ld)
    lap(clock, INPUT_GRADIENTS, member, sizeof(real), 2.0 * rows * H * I,
        <double>rows * (H + I) + (H * I if task == start == 0 else 0))


cdef void scattered_input_gradients(const Job *job, Py_ssize_t start, Py_ssize_t row, Py_ssize_t rows,
                                    const real *delta, real *memory) noexcept nogil:
    """The same where rows are scattered; memory: `most_block_rows` rows of the task's own."""
    cdef Py_ssize_t H = job.H, I = job.inputs, ld = job.ld, n, most = min(job.B, most_block_rows(H, sizeof(real)))
    row += rows_before(job, start)
    while rows > 0:
        n = min(rows, most)
        if job.dx.first != NULL:
            if job.add_x:
                gather_rows(n, I, <const real *>job.dx.first, job.dx.where + row, memory, job.widest)
            product(n, H, I, delta, ld, <const real *>job.panels_U, <const real *>memory if job.add_x else NULL,
                    job.widest, memory, job.widest)
            scatter_rows(n, I, memory, job.widest, job.dx.where + row, <real *>job.dx.first)
        if job.d_drive.first != NULL:
            scatter_rows(n, H, delta, ld, job.d_drive.where + row, <real *>job.d_drive.first)
        delta += n * ld
        row += n
        rows -= n


cdef void input_gradients(const Job *job, Py_ssize_t start, Py_ssize_t stop, Py_ssize_t row, Py_ssize_t rows,
                          const real *delta) noexcept nogil:
    """dx and the gradient of a drive for some of the rows of a chunk."""
    cdef Py_ssize_t H = job.H, I = job.inputs, ld = job.ld, t, n, i, first
    cdef const real *panels_U = <const real *>job.panels_U
    cdef real *out
    cdef bint at_once = job.offsets != NULL or (  # where the rows of all steps lie one after the other
        job.dx.st == job.B * job.dx.sb and job.d_drive.st == job.B * job.d_drive.sb)
    t, first = start, row
    if not at_once and rows > 0:  # without sequences there is nothing to divide by
        t, first = start + row // job.B, row % job.B
    while rows > 0:
        n = rows if at_once else min(rows, job.B - first)
        if job.dx.first != NULL:
            out = <real *>job.dx.first + at(job, &job.dx, t, first)
            product(n, H, I, delta, ld, panels_U, <const real *>out if job.add_x else NULL, job.dx.sb, out, job.dx.sb)
        if job.d_drive.first != NULL:
            out = <real *>job.d_drive.first + at(job, &job.d_drive, t, first)
            for i in range(n):
                memcpy(out + i * job.d_drive.sb, delta + i * ld, H * sizeof(real))
        delta += n * ld
        rows -= n
        t, first = t + 1, 0


cdef void initial_gradient(real tag, Job *job, int task, int tasks, int member) noexcept nogil:
    cdef Py_ssize_t B = job.B, H = job.H, ld = job.ld
    cdef Py_ssize_t row = share(B, task, tasks), rows = share(B, task + 1, tasks) - row
    cdef Py_ssize_t unit = share(H, task, tasks), end = share(H, task + 1, tasks)
    cdef const real *first = <const real *>job.delta + (job.most + row) * ld
    cdef real *dh0 = <real *>job.dh0 + row * H
    cdef long long clock = begin()
    if not job.goes_on:
        end_of_sums(job, sizeof(real), unit, end)
    # dh0 = Wᵀ delta_1, of a leaky cell what its first state would have as grad_h
    if job.cell.leaky:
        leaky_backward(rows, H, first, ld, <const real *>job.panels_W,
                       <const real *>job.fed0 + row * job.ld_fed0, job.ld_fed0, <const real *>job.zeros, 0,
                       <const real *>job.grad + (job.most + row) * ld, ld, dh0, H, own(job.step, task, tag), ld,
                       <const real *>job.cell.alpha, job.cell.phi, job.cell.current, 1)
    else:
        product(rows, H, H, first, ld, <const real *>job.panels_W, <const real *>NULL, 0, dh0, H)
    lap(clock, INPUT_GRADIENTS, member, sizeof(real), 2.0 * rows * H * H,
        2.0 * rows * H + (H * H if task == 0 else 0))


cdef void state_gradients_work(real tag, Job *job, Py_ssize_t round, int task, int tasks, int member) noexcept nogil:
    """One round: each task its sequences."""
    cdef Py_ssize_t T = job.T, H = job.H, ld = job.ld, ld_grad = job.grad_h.sb, t, n, steps = 0, products = 0
    cdef Py_ssize_t row = share_of_sequences(job, task, tasks), end = share_of_sequences(job, task + 1, tasks)
    cdef Py_ssize_t first = row, rows, going_on
    cdef real *delta = own(job.step, task, tag)
    cdef real *grad = <real *>job.grad_h.first
    cdef const real *past
    cdef long long clock = begin()
    while first < end:
        rows = block_rows(end - first, H, sizeof(real))
        for t in range(T - 1, -1, -1):
            n, going_on = present(job, t, first, rows), present(job, t + 1, first, rows)
            if n > 0:
                past = NULL if going_on == 0 else grad + at(job, &job.grad_h, t + 1, first)
                step_back(job, t, first, n, going_on, delta + (t + 1) % 2 * rows * ld, past, ld_grad,
                          grad + at(job, &job.grad_h, t, first), ld_grad, delta + t % 2 * rows * ld, NULL, NULL)
                steps += n
                products += going_on
            if stopped(job, member):
                return
        first += rows
    lap(clock, BACKWARD_RECURRENCE, member, sizeof(real), 2.0 * products * H * H,
        3.0 * steps * H + (H * H if task == 0 else 0))


# Function pointers have no fused types.
cdef void forward_f32(void *job, Py_ssize_t round, int task, int tasks, int member) noexcept nogil:
    forward_work(<float>0, <Job *>job, round, task, tasks, member)


cdef void forward_f64(void *job, Py_ssize_t round, int task, int tasks, int member) noexcept nogil:
    forward_work(<double>0, <Job *>job, round, task, tasks, member)


cdef void backward_f32(void *job, Py_ssize_t round, int task, int tasks, int member) noexcept nogil:
    backward_work(<float>0, <Job *>job, round, task, tasks, member)


cdef void backward_f64(void *job, Py_ssize_t round, int task, int tasks, int member) noexcept nogil:
    backward_work(<double>0, <Job *>job, round, task, tasks, member)


cdef void state_gradients_f32(void *job, Py_ssize_t round, int task, int tasks, int member) noexcept nogil:
    state_gradients_work(<float>0, <Job *>job, round, task, tasks, member)


cdef void state_gradients_f64(void *job, Py_ssize_t round, int task, int tasks, int member) noexcept nogil:
    state_gradients_work(<double>0, <Job *>job, round, task, tasks, member)


# ---- The output layer -----------------------------------------------------------------------------------------------
cdef int output_loop(Py_ssize_t T, Py_ssize_t B, Py_ssize_t H, Py_ssize_t O, const real *h, Py_ssize_t ht,
                     Py_ssize_t hb, const real *panels_V, const real *c, real *o, Py_ssize_t chunk) noexcept nogil:
    cdef Py_ssize_t start = 0, n
    cdef double since = pyrnn_seconds()
    cdef long long clock = begin()
    while start < T:
        n = min(chunk, T - start)
        # o_t = c + V h_t                                                    (10.10)
        rows_product(n, B, H, O, h + start * ht, ht, hb, panels_V, c, 0, 0, o + start * B * O, B * O, O)
        clock = lap(clock, OUTPUT, 0, sizeof(real), 2.0 * n * B * O * H,
                    <double>n * B * (H + O) + (O * H if start == 0 else 0))
        start += n
        if interrupted(&since):
            return -1
    return 0


cdef int output_gradients_loop(Py_ssize_t T, Py_ssize_t B, Py_ssize_t H, Py_ssize_t O, const real *do_, Py_ssize_t dt,
                               Py_ssize_t db_, const real *h, Py_ssize_t ht, Py_ssize_t hb, const real *V,
                               Py_ssize_t ld_v, const real *panels_V, real *dh, real *dV, real *dc, bint accumulate,
                               Py_ssize_t chunk, real *rows, real *panels) noexcept nogil:
    cdef Py_ssize_t start = 0, n
    cdef double since = pyrnn_seconds()
    cdef long long clock = begin()
    while start < T:
        n = min(chunk, T - start)
        gather(n, B, O, do_ + start * dt, dt, db_, rows)
        if panels != NULL:
            pack(n * B, 0, n, B, H, h + start * ht, ht, hb, panels)
        clock = lap(clock, PACK, 0, sizeof(real), 0, 2.0 * n * B * (O + (0 if panels == NULL else H)))
        # dh_t = Vᵀ do_t    dV = Σ do_t h_tᵀ    dc = Σ do_t                  (10.19, 10.24, 10.22)
        if panels == NULL:
            product_and_outer(n * B, O, H, rows, O, V, ld_v, h + start * ht, hb, dh + start * B * H, H,
                              accumulate or start > 0, dV, H)
        else:
            product(n * B, O, H, rows, O, panels_V, <real *>NULL, 0, dh + start * B * H, H)
            outer(n * B, O, H, rows, O, panels, accumulate or start > 0, dV, H)
        column_sums(n * B, O, rows, O, dc, <real *>NULL)
        clock = lap(clock, OUTPUT_GRADIENTS, 0, sizeof(real), 4.0 * n * B * O * H,
                    <double>n * B * (O + 2 * H) + (O * (2 * H + 1) if start == 0 else 0))
        start += n
        if interrupted(&since):
            return -1
    return 0


# ---- For floor 3: checked arrays in, memory allocated here, and the GIL given up ------------------------------------
cpdef cnp.ndarray packed(cnp.ndarray M, bint transposed):
    """Panels of M, or of its transpose, in an array of their own, from the address that `line` finds."""
    need("M", M, kind_of("M", M, 2), AS_MATRIX, 2, M.shape[0], M.shape[1])
    cdef cnp.ndarray out = lines(M, packed_size(M, transposed))
    pack_into(M, transposed, line(out))
    return out


cdef int finish(work_function work, Job *job, Py_ssize_t rounds, Py_ssize_t itemsize, Scratch scratch) except -1:
    """Let a team do the job without the GIL; raise what a signal handler has raised."""
    job.since, job.stop = pyrnn_seconds(), 0
    with nogil:
        flush_subnormals()
        run(&scratch.shares, work, job, rounds, itemsize, &job.stop)
        restore_subnormals()
    scratch.release()
    return pass_on(-1 if job.stop else 0)


cdef int take_rows(Job *job, Scratch scratch, Py_ssize_t size, Py_ssize_t units) except -1:
    """Take what each task gathers scattered rows in: whole rows of a block, or B rows of `units` numbers."""
    cdef Py_ssize_t numbers
    job.widest = padded(max(job.H, job.inputs), size)
    numbers = max(min(job.B, most_block_rows(job.H, size)) * job.widest, job.B * padded(units, size))
    job.rows = scratch.take_by_task(numbers * size)
    job.other_rows = scratch.take_by_task(numbers * size)
    return 0


def forward(Call call not None):
    """Compute a call of `Call.forward`."""
    call.begin_forward(FEW)
    call.job.panels_U, call.job.panels_W = packed_in(call.scratch, call.U, True), packed_in(call.scratch, call.W, True)
    run_forward(call)


def forward_packed(cnp.ndarray x not None, cnp.ndarray panels_U, cnp.ndarray panels_W, cnp.ndarray b,
                   cnp.ndarray h0 not None, cell, cnp.ndarray rates, n_threads):
    """h [T, B, H], a new array, with panels of Uᵀ and Wᵀ; rates are written, or None."""
    cdef int kind = kind_of("x", x, 3)
    cdef Py_ssize_t T = x.shape[0], B = x.shape[1], I = x.shape[2], size = cnp.PyArray_ITEMSIZE(x)
    cdef Py_ssize_t H = h0.shape[1] if kind_of("h0", h0, 2) else 0
    need("x", x, kind, IN_ROWS, 3, T, B, I)
    need_panels("panels_U", panels_U, kind, panels_size(I, H, size))
    need_panels("panels_W", panels_W, kind, panels_size(H, H, size))
    need("b", b, kind, CONTIGUOUS | OPTIONAL, 1, H)
    need("h0", h0, kind, AS_MATRIX, 2, B, H)
    need("rates", rates, kind, IN_ROWS | WRITTEN | OPTIONAL, 3, T, B, H)
    cdef Call call = packed_call(x, b, h0, cell, empty(x, (T, B, H)), rates, n_threads)
    call.begin_forward(FEW)
    call.job.panels_U, call.job.panels_W = line(panels_U), line(panels_W)
    run_forward(call)
    return call.h


cdef int run_forward(Call call) except -1:
    cdef Job *job = &call.job
    cdef Scratch scratch = call.scratch
    cdef Py_ssize_t size = call.size, H = job.H, most
    job.ld = padded(H, size)
    scratch.divide(call.n_threads, 2.0 * rows_before(job, job.T) * H * (H + job.inputs), job.B)
    most = most_sequences(job, scratch.shares.tasks)
    if job.h.where != NULL:
        job.own = scratch.take_by_task(2 * most * job.ld * size)
        take_rows(job, scratch, size, 0)
    if job.cell.current or (not scattered(job, &job.h) and job.B >= FEW and crowded(job.h.sb, size)):
        job.state = scratch.take_by_task(2 * most * job.ld * size)
    if job.cell.current:
        feed(job, size, scratch.take(job.B * H * size))
    finish(forward_f32 if size == 4 else forward_f64, job, 1, size, scratch)
    return call.end_forward()


def backward(Call call not None):
    """Compute a call of `Call.backward`."""
    cdef Job *job = &call.job
    cdef Scratch scratch = call.scratch
    cdef Py_ssize_t size = call.size, H = job.H
    cdef int tasks
    call.begin_backward(FEW)
    scratch.divide(call.n_threads, 4.0 * rows_before(job, job.T) * H * (H + job.inputs), job.B)
    tasks = scratch.shares.tasks
    job.ld = padded(H, size)
    if job.h.where != NULL:
        take_rows(job, scratch, size, most_of(H, tasks) if job.cell.leaky else 0)
    if job.cell.current:
        feed(job, size, scratch.take(job.B * H * size))
    job.panels_U, job.panels_W = packed_in(scratch, call.U, False), packed_in(scratch, call.W, False)
    job.delta = scratch.take((job.most + job.B) * job.ld * size)
    if job.cell.leaky:
        job.grad = scratch.take((job.most + job.B) * job.ld * size)
        job.step = scratch.take_by_task(most_of(job.B, tasks) * job.ld * size)
    job.panels_x = scratch.take(panels_size(job.most, job.inputs, size) * size)
    job.panels_h = scratch.take(panels_size(job.most, H, size) * size)
    if job.ld * size >= APART:
        job.narrow = scratch.take_by_task(job.most * most_of(H, tasks) * size)
    finish(backward_f32 if size == 4 else backward_f64, job, 2 * job.chunks + 1 if job.T > 0 else 0, size, scratch)
    call.end_backward()


def state_gradients(Call call not None):
    """Compute a call of `Call.state_gradients`."""
    cdef Job *job = &call.job
    cdef Scratch scratch = call.scratch
    cdef Py_ssize_t size = call.size, H = job.H
    call.begin_state_gradients()
    job.ld = padded(H, size)
    job.panels_W = packed_in(scratch, call.W, False)
    scratch.divide(call.n_threads, 2.0 * rows_before(job, job.T) * H * H, job.B)
    job.step = scratch.take_by_task(2 * min(job.B, most_block_rows(H, size)) * job.ld * size)
    finish(state_gradients_f32 if size == 4 else state_gradients_f64, job, 1, size, scratch)
    call.end_state_gradients()


cdef cnp.ndarray run_output(real tag, cnp.ndarray h, const void *panels_V, Py_ssize_t O, cnp.ndarray c, cnp.ndarray o):
    cdef Py_ssize_t T = h.shape[0], B = h.shape[1], H = h.shape[2]
    cdef Py_ssize_t ht = stride(h, 0), hb = stride(h, 1)
    cdef const real *ph = <const real *>data(h)
    cdef const real *pc = <const real *>data(c)
    cdef real *po = <real *>data(o)
    cdef Py_ssize_t chunk = chunk_steps(T, B, max(H, O), sizeof(real))
    cdef int status
    with nogil:
        flush_subnormals()
        status = output_loop(T, B, H, O, ph, ht, hb, <const real *>panels_V, pc, po, chunk)
        restore_subnormals()
    pass_on(status)
    return o


cdef tuple run_output_gradients(real tag, cnp.ndarray do_, cnp.ndarray h, cnp.ndarray V, cnp.ndarray dh, cnp.ndarray dV,
                                cnp.ndarray dc, bint accumulate):
    cdef Scratch scratch = Scratch()
    cdef Py_ssize_t T = h.shape[0], B = h.shape[1], H = h.shape[2], O = V.shape[0]
    cdef Py_ssize_t dt = stride(do_, 0), db_ = stride(do_, 1), ht = stride(h, 0), hb = stride(h, 1)
    cdef Py_ssize_t chunk = chunk_steps(T, B, max(H, O), sizeof(real)), ld_v = stride(V, 0)
    # Without panels of h and V, which take longer than the products where there are few outputs.
    cdef bint in_place = 0 < O <= FEW_OUTPUTS and (B == 1 or ht == B * hb)
    cdef const real *pdo = <const real *>data(do_)
    cdef const real *ph = <const real *>data(h)
    cdef const real *pV = <const real *>data(V)
    cdef const real *panels_V = NULL if in_place else <const real *>packed_in(scratch, V, False)
    cdef real *pdh = <real *>data(dh)
    cdef real *pdV = <real *>data(dV)
    cdef real *pdc = <real *>data(dc)
    cdef real *rows = <real *>scratch.take(chunk * B * O * sizeof(real))
    cdef real *panels = NULL
    cdef int status
    if in_place:
        hb = ht if B == 1 else hb
    else:
        panels = <real *>scratch.take(panels_size(chunk * B, H, sizeof(real)) * sizeof(real))
    with nogil:
        flush_subnormals()
        status = output_gradients_loop(T, B, H, O, pdo, dt, db_, ph, ht, hb, pV, ld_v, panels_V, pdh, pdV, pdc,
                                       accumulate, chunk, rows, panels)
        restore_subnormals()
    pass_on(status)
    return dh, dV, dc


def output(cnp.ndarray h not None, cnp.ndarray V, cnp.ndarray c, cnp.ndarray out=None):
    """Write o [T, B, O] to out, contiguous, and return it; out is new if None, and c may be None."""
    cdef Scratch scratch = Scratch()
    kind_of("V", V, 2)
    check_output(h, V.shape[0], c, out)
    need("V", V, cnp.PyArray_TYPE(h), AS_MATRIX, 2, V.shape[0], h.shape[2])
    return output_with(h, packed_in(scratch, V, True), V.shape[0], c, out)


def output_packed(cnp.ndarray h not None, cnp.ndarray panels_V, Py_ssize_t O, cnp.ndarray c):
    """output with panels of Vᵀ."""
    check_output(h, O, c, None)
    need_panels("panels_V", panels_V, cnp.PyArray_TYPE(h), panels_size(h.shape[2], O, cnp.PyArray_ITEMSIZE(h)))
    return output_with(h, line(panels_V), O, c, None)


cdef cnp.ndarray output_with(cnp.ndarray h, const void *panels_V, Py_ssize_t O, cnp.ndarray c, cnp.ndarray out):
    if out is None:
        out = empty(h, (h.shape[0], h.shape[1], O))
    if cnp.PyArray_TYPE(h) == cnp.NPY_FLOAT32:
        return run_output(<float>0, h, panels_V, O, c, out)
    return run_output(<double>0, h, panels_V, O, c, out)


def output_gradients(cnp.ndarray do, cnp.ndarray h, cnp.ndarray V, tuple results=None, bint accumulate=False):
    """(dh, dV, dc), new arrays, or results, which are contiguous; accumulate: dV and dc are added to those given."""
    cdef cnp.ndarray dh, dV, dc
    dh, dV, dc = output_results(do, h, V, results, accumulate)
    if cnp.PyArray_TYPE(h) == cnp.NPY_FLOAT32:
        return run_output_gradients(<float>0, do, h, V, dh, dV, dc, accumulate)
    return run_output_gradients(<double>0, do, h, V, dh, dV, dc, accumulate)
