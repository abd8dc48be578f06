cdef extern from "kernels.h":
    enum: PYRNN_TANH, PYRNN_RELU, PYRNN_IDENTITY, PYRNN_SOFTPLUS, PYRNN_SIGMOID, PYRNN_RETANH, PYRNN_LEAKY_RELU
    ctypedef struct pyrnn_phi:
        int kind                   # one of those
        double slope               # of PYRNN_LEAKY_RELU, below 0

include "kernel_table.pxi"  # pyrnn_kernel_table, with every kernel of csrc/kernels.h

cdef extern from "kernels.h":
    const pyrnn_kernel_table *pyrnn_kernels() noexcept nogil
    int pyrnn_select(const char *name) noexcept nogil
    const char *pyrnn_available(int i) noexcept nogil
    const char *pyrnn_compiler

cdef const pyrnn_kernel_table *in_use

cdef inline const pyrnn_kernel_table *kernels() noexcept nogil:
    """The table of kernels in use. A call of pyrnn_kernels instead takes 1 % of a step of Stepper."""
    return in_use

# Around the loops of a call, without the GIL: subnormal numbers count as zeros (csrc/floating.h) until the caller's
# state is restored. restore_subnormals returns whether there was a state to restore. The two do not nest.
cdef void flush_subnormals() noexcept nogil
cdef bint restore_subnormals() noexcept nogil
