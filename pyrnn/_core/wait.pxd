# Atomic numbers, a pause and clocks: csrc/wait.h.
cdef extern from "wait.h":
    ctypedef long pyrnn_atomic
    ctypedef long long pyrnn_atomic64
    long pyrnn_load(pyrnn_atomic *a) noexcept nogil
    long pyrnn_exchange(pyrnn_atomic *a, long v) noexcept nogil
    long pyrnn_add(pyrnn_atomic *a, long v) noexcept nogil
    long long pyrnn_load64(pyrnn_atomic64 *a) noexcept nogil
    void pyrnn_store64(pyrnn_atomic64 *a, long long v) noexcept nogil
    bint pyrnn_replace64(pyrnn_atomic64 *a, long long old, long long v) noexcept nogil
    void pyrnn_yield() noexcept nogil
    void pyrnn_pause() noexcept nogil
    void pyrnn_nap(long microseconds) noexcept nogil
    double pyrnn_seconds() noexcept nogil
    long long pyrnn_nanoseconds() noexcept nogil
    long pyrnn_processor() noexcept nogil
    long pyrnn_thread() noexcept nogil
    void pyrnn_keep_off(long thread, long processor) noexcept nogil
