# How a thread treats subnormal numbers: csrc/floating.h.
cdef extern from "floating.h":
    ctypedef unsigned long long pyrnn_floating
    pyrnn_floating pyrnn_flush() noexcept nogil
    void pyrnn_restore(pyrnn_floating state) noexcept nogil
