# One name for both types: the kernels of floor 1 and the products of BLAS over the fused type `real`. What each does
# stands in csrc/kernels.h and in blas.pxd.
from pyrnn._core.arrays cimport real
from pyrnn._core.blas cimport gemm_f32, gemm_f64

include "typed_kernels.pxi"  # every kernel of csrc/kernels.h, with the parameters that it has there


cdef inline void gemm(bint ta, bint tb, Py_ssize_t M, Py_ssize_t N, Py_ssize_t K, const real *A, Py_ssize_t lda,
                      const real *B, Py_ssize_t ldb, bint accumulate, real *C, Py_ssize_t ldc) noexcept nogil:
    if real is float:
        gemm_f32(ta, tb, M, N, K, A, lda, B, ldb, accumulate, C, ldc)
    else:
        gemm_f64(ta, tb, M, N, K, A, lda, B, ldb, accumulate, C, ldc)
