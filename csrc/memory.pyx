"""Memory of large arrays that are gone, kept for the next ones.

malloc gives large blocks back to the system, which clears and maps each page of a new one when it is first written. It
can take as long as all sums (measured, a step of training with H = 32, B = 128, T = 100: 3.0 ms, and 1.9 with this).
NumPy lets the maker of an array choose where its memory comes from (NEP 49), so that these arrays are like all others:
they own it, and come back here whoever drops them last. They begin with a cache line, so that no vector lies in two.

At most 64 MB are kept, the oldest are given up first. A block serves arrays of its size, or up to an eighth smaller.
"""

cimport numpy as cnp
from cpython.pycapsule cimport PyCapsule_GetPointer, PyCapsule_New
from libc.string cimport memcpy, memset

from pyrnn._core.wait cimport pyrnn_atomic, pyrnn_exchange

import numpy as np

cnp.import_array()

cdef extern from *:
    """
    #ifdef __SANITIZE_ADDRESS__ /* each array alone, so that it sees who writes beyond one */
    enum { pyrnn_most_kept = 0 };
    #else
    enum { pyrnn_most_kept = 64 << 20 };
    #endif
    """
    enum: MOST "pyrnn_most_kept"  # bytes kept

cdef extern from "numpy/arrayobject.h":
    ctypedef struct PyDataMemAllocator:
        void *ctx
        void *(*malloc)(void *ctx, size_t size) noexcept nogil
        void *(*calloc)(void *ctx, size_t n, size_t size) noexcept nogil
        void *(*realloc)(void *ctx, void *memory, size_t size) noexcept nogil
        void (*free)(void *ctx, void *memory, size_t size) noexcept nogil
    ctypedef struct PyDataMem_Handler:
        char name[127]
        unsigned char version
        PyDataMemAllocator allocator
    object PyDataMem_SetHandler(object handler)
    object PyDataMem_GetHandler()

cdef enum:
    LEAST = 1 << 16  # bytes of an array worth it: smaller ones malloc keeps itself
    BLOCKS = 64

cdef struct Header:  # what lies before the memory of an array
    void *raw
    size_t size

cdef Header *kept[BLOCKS]  # the oldest first
cdef int count = 0
cdef size_t kept_bytes = 0
cdef pyrnn_atomic busy = 0
cdef PyDataMem_Handler handler
cdef object capsule = None
cdef object below = PyDataMem_GetHandler()  # where the blocks come from
cdef PyDataMemAllocator system = (<PyDataMem_Handler *>PyCapsule_GetPointer(below, "mem_handler")).allocator


cdef inline void *memory_of(Header *block) noexcept nogil:
    return <char *>block + 64


cdef inline Header *block_of(void *memory) noexcept nogil:
    return <Header *>(<char *>memory - 64)


cdef Header *remove(int i) noexcept nogil:
    """One of the kept."""
    global count, kept_bytes
    cdef Header *block = kept[i]
    count -= 1
    kept_bytes -= block.size
    for i in range(i, count):
        kept[i] = kept[i + 1]
    return block


cdef Header *new_block(size_t size) noexcept nogil:
    cdef void *raw = system.malloc(system.ctx, size + 128)
    cdef Header *block
    if raw == NULL:
        return NULL
    block = <Header *>((<size_t>raw + 63) & ~<size_t>63)
    block.raw, block.size = raw, size
    return block


cdef void give_up(Header *block) noexcept nogil:
    system.free(system.ctx, block.raw, block.size + 128)


cdef void *take(void *ctx, size_t size) noexcept nogil:
    cdef Header *block = NULL
    cdef int i, best = -1
    if size <= MOST and pyrnn_exchange(&busy, 1) == 0:
        for i in range(count):
            if size <= kept[i].size <= size + size // 8 and (best < 0 or kept[i].size <= kept[best].size):
                best = i
        if best >= 0:
            block = remove(best)
        pyrnn_exchange(&busy, 0)
    if block == NULL:
        block = new_block(size)
    return NULL if block == NULL else memory_of(block)


cdef void put(void *ctx, void *memory, size_t size) noexcept nogil:
    global count, kept_bytes
    cdef Header *block
    if memory == NULL:
        return
    block = block_of(memory)
    if block.size < LEAST or block.size > MOST or pyrnn_exchange(&busy, 1) != 0:
        give_up(block)
        return
    while count == BLOCKS or kept_bytes + block.size > MOST:
        give_up(remove(0))
    kept[count] = block
    count += 1
    kept_bytes += block.size
    pyrnn_exchange(&busy, 0)


cdef void *take_zeros(void *ctx, size_t n, size_t size) noexcept nogil:
    cdef void *memory = take(ctx, n * size)
    if memory != NULL:
        memset(memory, 0, n * size)
    return memory


cdef void *resize(void *ctx, void *memory, size_t size) noexcept nogil:
    """What ndarray.resize asks for."""
    cdef void *larger = take(ctx, size)
    if larger != NULL and memory != NULL:
        memcpy(larger, memory, min(block_of(memory).size, size))
        put(ctx, memory, 0)
    return larger


handler.version = 1
handler.allocator.ctx = NULL
handler.allocator.malloc, handler.allocator.calloc = take, take_zeros
handler.allocator.realloc, handler.allocator.free = resize, put
memcpy(handler.name, b"pyrnn", 6)
capsule = PyCapsule_New(&handler, "mem_handler", NULL)


cdef cnp.ndarray new_array(int ndim, const cnp.npy_intp *shape, int kind, bint zero):
    """A new contiguous array."""
    cdef cnp.npy_intp size = 8
    cdef int i
    for i in range(ndim):
        size *= shape[i]
    if size < LEAST:
        return made(ndim, shape, kind, zero)
    old = PyDataMem_SetHandler(capsule)
    try:
        return made(ndim, shape, kind, zero)
    finally:
        PyDataMem_SetHandler(old)


cdef cnp.ndarray made(int ndim, const cnp.npy_intp *shape, int kind, bint zero):
    cdef cnp.npy_intp *n = <cnp.npy_intp *>shape
    return cnp.PyArray_ZEROS(ndim, n, kind, 0) if zero else cnp.PyArray_EMPTY(ndim, n, kind, 0)


def empty(shape, dtype):
    """numpy.empty."""
    old = PyDataMem_SetHandler(capsule)
    try:
        return np.empty(shape, dtype)
    finally:
        PyDataMem_SetHandler(old)


def release():
    """Give up what is kept; returns how many bytes those were."""
    cdef size_t before
    if pyrnn_exchange(&busy, 1) != 0:
        return 0
    before = kept_bytes
    while count > 0:
        give_up(remove(0))
    pyrnn_exchange(&busy, 0)
    return before
