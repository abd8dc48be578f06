"""Row-major matrix products over scipy.linalg.cython_blas.

The one place that knows Fortran order, the missing const of SciPy's signatures, the integer type of BLAS and how to
split what does not fit it, when a product of few rows is faster as gemv, and that OpenBLAS needs a lock.

A row-major matrix is the transpose of the column-major one in the same memory, so C = A B is asked of BLAS as
Cᵀ = Bᵀ Aᵀ: the operands swap places and nothing is copied.
"""

import ctypes
import os
import sys

cimport cython
from cpython.pythread cimport (
    PyThread_acquire_lock, PyThread_allocate_lock, PyThread_release_lock, PyThread_type_lock, WAIT_LOCK,
)
from libc.string cimport memset
from scipy.linalg.cython_blas cimport dgemm, dgemv, sgemm, sgemv

import scipy.linalg.cython_blas

include "blas_int.pxi"

ctypedef fused real:
    float
    double

ctypedef int (*count_function)() noexcept nogil

cdef Py_ssize_t LARGEST_BLAS_INT = (<Py_ssize_t>1 << (8 * sizeof(blas_int) - 2)) - 1 + (
    <Py_ssize_t>1 << (8 * sizeof(blas_int) - 2))
cdef Py_ssize_t limit = LARGEST_BLAS_INT


# ---- The lock -------------------------------------------------------------------------------------------------------
# OpenBLAS up to 0.3.31 returns silently wrong numbers when two of its multi-threaded gemms of different transpose
# kinds or types run at once (OpenMathLib/OpenBLAS#5836, numpy/numpy#31618): each kind has a lock of its own, and they
# share one pool. Backward mixes kinds, without the GIL. So a product that OpenBLAS would share out between threads
# takes this lock; two of the same kind wait for each other inside OpenBLAS anyway, so nothing is lost. What OpenBLAS
# runs on the calling thread alone takes no lock. The figures are OpenBLAS's own (interface/gemm.c, interface/gemv.c).
cdef double GEMM_THREADED = 262144.0
cdef double GEMV_THREADED = 460800.0

cdef PyThread_type_lock lock = PyThread_allocate_lock()
cdef count_function openblas_threads = NULL
cdef bint always_lock = sys.platform == "win32"  # there the search below cannot see through to OpenBLAS


def _find_openblas_threads():
    """The address of OpenBLAS's own count of threads, or 0 if the BLAS behind SciPy is not an OpenBLAS."""
    library = ctypes.CDLL(scipy.linalg.cython_blas.__file__)
    for name in ("scipy_openblas_get_num_threads", "scipy_openblas_get_num_threads64_", "openblas_get_num_threads",
                 "openblas_get_num_threads64_"):
        if hasattr(library, name):
            return ctypes.cast(getattr(library, name), ctypes.c_void_p).value
    return 0


def _new_lock():
    """A fork copies the lock as it is, perhaps held by a thread that the child does not have."""
    global lock
    lock = PyThread_allocate_lock()


openblas_threads = <count_function><size_t>_find_openblas_threads()
if lock == NULL:
    raise MemoryError("no lock for BLAS could be made")
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_new_lock)


cdef inline bint take_lock(double products, double threaded) noexcept nogil:
    if products <= threaded or not (always_lock or (openblas_threads != NULL and openblas_threads() > 1)):
        return False
    PyThread_acquire_lock(lock, WAIT_LOCK)
    return True


cdef bint hold(double products) noexcept nogil:
    return take_lock(products, GEMM_THREADED)


cdef void let_go(bint held) noexcept nogil:
    if held:
        PyThread_release_lock(lock)


# ---- The products ---------------------------------------------------------------------------------------------------
cdef bint by_rows(Py_ssize_t M, Py_ssize_t N, Py_ssize_t K) noexcept nogil:
    # OpenBLAS's gemm packs the matrix again in every call. Measured with 0.3.30, AVX-512, one thread, float32, GF/s,
    # gemv for each row against gemm: N = K = 32: 36 and 30 (8 rows), 32 and 47 (16 rows); 128: 48 and 33, 49 and 53;
    # 512: 49 and 35, 50 and 54; N = K = 16: 14 and 14 (4 rows), 14 and 22 (8 rows).
    return M <= 4 or (M <= 12 and N * K >= 1024)


cdef void blas_call(bint ta, bint tb, Py_ssize_t M, Py_ssize_t N, Py_ssize_t K, const real *A, Py_ssize_t lda,
                    const real *B, Py_ssize_t ldb, bint accumulate, real *C, Py_ssize_t ldc) noexcept nogil:
    cdef blas_int m, n = <blas_int>N, k = <blas_int>K, ld_a = <blas_int>lda, ld_b = <blas_int>ldb
    cdef blas_int ld_c = <blas_int>ldc, one = 1
    cdef real alpha = 1, beta = 1 if accumulate else 0
    cdef char trans_a = b'T' if ta else b'N', trans_b = b'T' if tb else b'N'
    cdef real *a = <real *>A
    cdef real *b = <real *>B
    cdef bint locked
    cdef Py_ssize_t i
    if not ta and by_rows(M, N, K):
        # Row i of C is op(B)ᵀ times row i of A.
        locked = take_lock(<double>N * K, GEMV_THREADED)
        for i in range(M):
            if real is float and tb:
                sgemv(&trans_b, &k, &n, &alpha, b, &ld_b, a + i * lda, &one, &beta, C + i * ldc, &one)
            elif real is float:
                sgemv(&trans_b, &n, &k, &alpha, b, &ld_b, a + i * lda, &one, &beta, C + i * ldc, &one)
            elif tb:
                dgemv(&trans_b, &k, &n, &alpha, b, &ld_b, a + i * lda, &one, &beta, C + i * ldc, &one)
            else:
                dgemv(&trans_b, &n, &k, &alpha, b, &ld_b, a + i * lda, &one, &beta, C + i * ldc, &one)
    else:
        m = <blas_int>M
        locked = take_lock(<double>M * N * K, GEMM_THREADED)
        if real is float:
            sgemm(&trans_b, &trans_a, &n, &m, &k, &alpha, b, &ld_b, a, &ld_a, &beta, C, &ld_c)
        else:
            dgemm(&trans_b, &trans_a, &n, &m, &k, &alpha, b, &ld_b, a, &ld_a, &beta, C, &ld_c)
    if locked:
        PyThread_release_lock(lock)


cdef void gemm(bint ta, bint tb, Py_ssize_t M, Py_ssize_t N, Py_ssize_t K, const real *A, Py_ssize_t lda,
               const real *B, Py_ssize_t ldb, bint accumulate, real *C, Py_ssize_t ldc) noexcept nogil:
    cdef Py_ssize_t half, i
    if M == 0 or N == 0:
        return
    if K == 0:
        for i in range(0 if accumulate else M):  # an empty sum; gemv would leave C as it is
            memset(C + i * ldc, 0, N * sizeof(real))
        return
    # A single row has no distance to the next; BLAS wants to see one all the same.
    if (K if ta else M) == 1:
        lda = M if ta else K
    if (N if tb else K) == 1:
        ldb = K if tb else N
    if M == 1:
        ldc = N
    if M <= limit and N <= limit and K <= limit and lda <= limit and ldb <= limit and ldc <= limit:
        blas_call(ta, tb, M, N, K, A, lda, B, ldb, accumulate, C, ldc)
    elif M > 1 and (M > limit or ldc > limit or (not ta and lda > limit)):
        half = M // 2
        gemm(ta, tb, half, N, K, A, lda, B, ldb, accumulate, C, ldc)
        gemm(ta, tb, M - half, N, K, A + (half if ta else half * lda), lda, B, ldb, accumulate, C + half * ldc, ldc)
    elif N > 1 and (N > limit or (tb and ldb > limit)):
        half = N // 2
        gemm(ta, tb, M, half, K, A, lda, B, ldb, accumulate, C, ldc)
        gemm(ta, tb, M, N - half, K, A, lda, B + (half * ldb if tb else half), ldb, accumulate, C + half, ldc)
    else:
        half = K // 2
        gemm(ta, tb, M, N, half, A, lda, B, ldb, accumulate, C, ldc)
        gemm(ta, tb, M, N, K - half, A + (half * lda if ta else half), lda,
             B + (half if tb else half * ldb), ldb, True, C, ldc)


cdef void gemm_f32(bint ta, bint tb, Py_ssize_t M, Py_ssize_t N, Py_ssize_t K, const float *A, Py_ssize_t lda,
                   const float *B, Py_ssize_t ldb, bint accumulate, float *C, Py_ssize_t ldc) noexcept nogil:
    gemm(ta, tb, M, N, K, A, lda, B, ldb, accumulate, C, ldc)


cdef void gemm_f64(bint ta, bint tb, Py_ssize_t M, Py_ssize_t N, Py_ssize_t K, const double *A, Py_ssize_t lda,
                   const double *B, Py_ssize_t ldb, bint accumulate, double *C, Py_ssize_t ldc) noexcept nogil:
    gemm(ta, tb, M, N, K, A, lda, B, ldb, accumulate, C, ldc)


# ---- For the tests --------------------------------------------------------------------------------------------------
@cython.boundscheck(True)
def multiply(real[:, :] A, real[:, :] B, real[:, :] C, bint ta=False, bint tb=False, bint accumulate=False,
             Py_ssize_t largest=LARGEST_BLAS_INT):
    """C = op(A) op(B), or +=, where BLAS may see no number above `largest`. For tests; rows are contiguous."""
    global limit
    M, K = (A.shape[1], A.shape[0]) if ta else (A.shape[0], A.shape[1])
    if C.shape[0] != M or B.shape[1 if tb else 0] != K or B.shape[0 if tb else 1] != C.shape[1]:
        raise ValueError("shapes do not fit")
    if ((A.shape[1] > 1 and A.strides[1] != sizeof(real)) or (B.shape[1] > 1 and B.strides[1] != sizeof(real))
            or (C.shape[1] > 1 and C.strides[1] != sizeof(real))):
        raise ValueError("rows must be contiguous")
    limit = largest
    try:
        gemm(ta, tb, M, C.shape[1], K, &A[0, 0] if A.size else NULL, A.strides[0] // sizeof(real),
             &B[0, 0] if B.size else NULL, B.strides[0] // sizeof(real), accumulate,
             &C[0, 0] if C.size else NULL, C.strides[0] // sizeof(real))
    finally:
        limit = LARGEST_BLAS_INT
