# C[M, N] = op(A) op(B), or += where accumulate; row-major, op(A) = A[M, K] or, where ta, the transpose of A[K, M],
# op(B) = B[K, N] or, where tb, the transpose of B[N, K]. ld_*: elements from one row to the next, at least the row's
# length wherever there is more than one row. C does not overlap A or B and is not read unless accumulate.
cdef void gemm_f32(bint ta, bint tb, Py_ssize_t M, Py_ssize_t N, Py_ssize_t K, const float *A, Py_ssize_t lda,
                   const float *B, Py_ssize_t ldb, bint accumulate, float *C, Py_ssize_t ldc) noexcept nogil
cdef void gemm_f64(bint ta, bint tb, Py_ssize_t M, Py_ssize_t N, Py_ssize_t K, const double *A, Py_ssize_t lda,
                   const double *B, Py_ssize_t ldb, bint accumulate, double *C, Py_ssize_t ldc) noexcept nogil

# Whether gemm takes the route by rows, one gemv each, for this many rows.
cdef bint by_rows(Py_ssize_t M, Py_ssize_t N, Py_ssize_t K) noexcept nogil

# For calls of BLAS and LAPACK that are not products, of so many multiply-adds: the lock that products take, where
# OpenBLAS would share such calls out between threads, and its release by what that has returned.
cdef bint hold(double products) noexcept nogil
cdef void let_go(bint held) noexcept nogil
