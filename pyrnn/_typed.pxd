# One name for both types: the kernels of floor 1 and the products of BLAS over the fused type `real`. What each does
# stands in csrc/kernels.h and in _blas.pxd; C and the outputs of a step without a stride of their own share one.
from pyrnn._arrays cimport real
from pyrnn._blas cimport gemm_f32, gemm_f64
from pyrnn._kernels cimport kernels


cdef inline void gemm(bint ta, bint tb, Py_ssize_t M, Py_ssize_t N, Py_ssize_t K, const real *A, Py_ssize_t lda,
                      const real *B, Py_ssize_t ldb, bint accumulate, real *C, Py_ssize_t ldc) noexcept nogil:
    if real is float:
        gemm_f32(ta, tb, M, N, K, A, lda, B, ldb, accumulate, C, ldc)
    else:
        gemm_f64(ta, tb, M, N, K, A, lda, B, ldb, accumulate, C, ldc)


cdef inline void step_forward(Py_ssize_t rows, Py_ssize_t H, const real *b, real *h, Py_ssize_t ld_h,
                              int phi) noexcept nogil:
    if real is float:
        kernels().step_forward_f32(rows, H, b, h, ld_h, phi)
    else:
        kernels().step_forward_f64(rows, H, b, h, ld_h, phi)


cdef inline void leaky_step_forward(Py_ssize_t rows, Py_ssize_t H, const real *b, const real *past, Py_ssize_t ld_past,
                                    real *h, Py_ssize_t ld_h, real *rates, Py_ssize_t ld_rates, const real *alpha,
                                    int phi, bint current) noexcept nogil:
    if real is float:
        kernels().leaky_step_forward_f32(rows, H, b, past, ld_past, h, ld_h, rates, ld_rates, alpha, phi, current)
    else:
        kernels().leaky_step_forward_f64(rows, H, b, past, ld_past, h, ld_h, rates, ld_rates, alpha, phi, current)


cdef inline void step_backward(Py_ssize_t rows, Py_ssize_t H, const real *h, Py_ssize_t ld_h, const real *dh,
                               Py_ssize_t ld_dh, const real *back, Py_ssize_t ld_back, real *grad, Py_ssize_t ld_grad,
                               real *delta, Py_ssize_t ld_delta, int phi) noexcept nogil:
    if real is float:
        kernels().step_backward_f32(rows, H, h, ld_h, dh, ld_dh, back, ld_back, grad, ld_grad, delta, ld_delta, phi)
    else:
        kernels().step_backward_f64(rows, H, h, ld_h, dh, ld_dh, back, ld_back, grad, ld_grad, delta, ld_delta, phi)


cdef inline void leaky_step_backward(Py_ssize_t rows, Py_ssize_t H, const real *rates, Py_ssize_t ld_rates,
                                     const real *dh, Py_ssize_t ld_dh, const real *back, Py_ssize_t ld_back,
                                     const real *past, Py_ssize_t ld_past, real *grad, Py_ssize_t ld_grad, real *delta,
                                     Py_ssize_t ld_delta, const real *alpha, int phi, bint current) noexcept nogil:
    if real is float:
        kernels().leaky_step_backward_f32(rows, H, rates, ld_rates, dh, ld_dh, back, ld_back, past, ld_past, grad,
                                          ld_grad, delta, ld_delta, alpha, phi, current)
    else:
        kernels().leaky_step_backward_f64(rows, H, rates, ld_rates, dh, ld_dh, back, ld_back, past, ld_past, grad,
                                          ld_grad, delta, ld_delta, alpha, phi, current)


cdef inline void column_products(Py_ssize_t steps, Py_ssize_t rows, Py_ssize_t n, const real *g, Py_ssize_t ld_g,
                                 const real *p, Py_ssize_t p_t, Py_ssize_t p_r, const real *q, Py_ssize_t q_t,
                                 Py_ssize_t q_r, real *total, real *lost) noexcept nogil:
    if real is float:
        kernels().column_products_f32(steps, rows, n, g, ld_g, p, p_t, p_r, q, q_t, q_r, total, lost)
    else:
        kernels().column_products_f64(steps, rows, n, g, ld_g, p, p_t, p_r, q, q_t, q_r, total, lost)


cdef inline void gather_rows(Py_ssize_t rows, Py_ssize_t n, const real *a, const Py_ssize_t *where, real *out,
                             Py_ssize_t ld) noexcept nogil:
    if real is float:
        kernels().gather_rows_f32(rows, n, a, where, out, ld)
    else:
        kernels().gather_rows_f64(rows, n, a, where, out, ld)


cdef inline void scatter_rows(Py_ssize_t rows, Py_ssize_t n, const real *a, Py_ssize_t ld, const Py_ssize_t *where,
                              real *out) noexcept nogil:
    if real is float:
        kernels().scatter_rows_f32(rows, n, a, ld, where, out)
    else:
        kernels().scatter_rows_f64(rows, n, a, ld, where, out)


cdef inline void jacobian_step(Py_ssize_t H, const real *h, const real *W, Py_ssize_t ld_w, real *J, const real *alpha,
                               int phi, bint current) noexcept nogil:
    if real is float:
        kernels().jacobian_f32(H, h, W, ld_w, J, alpha, phi, current)
    else:
        kernels().jacobian_f64(H, h, W, ld_w, J, alpha, phi, current)


cdef inline void column_sums(Py_ssize_t rows, Py_ssize_t n, const real *a, Py_ssize_t ld, real *total,
                             real *lost) noexcept nogil:
    if real is float:
        kernels().column_sums_f32(rows, n, a, ld, total, lost)
    else:
        kernels().column_sums_f64(rows, n, a, ld, total, lost)


cdef inline void transpose(Py_ssize_t rows, Py_ssize_t n, const real *a, Py_ssize_t ld, real *out) noexcept nogil:
    if real is float:
        kernels().transpose_f32(rows, n, a, ld, out)
    else:
        kernels().transpose_f64(rows, n, a, ld, out)


# ---- Packed panels --------------------------------------------------------------------------------------------------
cdef inline Py_ssize_t panels_size(Py_ssize_t K, Py_ssize_t N, Py_ssize_t itemsize) noexcept nogil:
    return kernels().panels_size_f32(K, N) if itemsize == 4 else kernels().panels_size_f64(K, N)


cdef inline void pack(Py_ssize_t K, Py_ssize_t first, Py_ssize_t steps, Py_ssize_t rows, Py_ssize_t N, const real *B,
                      Py_ssize_t ld_t, Py_ssize_t ld_r, real *panels) noexcept nogil:
    if real is float:
        kernels().pack_f32(K, first, steps, rows, N, B, ld_t, ld_r, panels)
    else:
        kernels().pack_f64(K, first, steps, rows, N, B, ld_t, ld_r, panels)


cdef inline void pack_rows_at(Py_ssize_t K, Py_ssize_t first, Py_ssize_t rows, Py_ssize_t N, const real *B,
                              const Py_ssize_t *where, real *panels) noexcept nogil:
    if real is float:
        kernels().pack_rows_at_f32(K, first, rows, N, B, where, panels)
    else:
        kernels().pack_rows_at_f64(K, first, rows, N, B, where, panels)


cdef inline void pack_transposed(Py_ssize_t K, Py_ssize_t N, const real *B, Py_ssize_t ld, real *panels) noexcept nogil:
    if real is float:
        kernels().pack_transposed_f32(K, N, B, ld, panels)
    else:
        kernels().pack_transposed_f64(K, N, B, ld, panels)


cdef inline void product(Py_ssize_t rows, Py_ssize_t K, Py_ssize_t N, const real *A, Py_ssize_t ld_a,
                         const real *panels, const real *init, Py_ssize_t ld_init, real *out,
                         Py_ssize_t ld_out) noexcept nogil:
    if real is float:
        kernels().product_f32(rows, K, N, A, ld_a, panels, init, ld_init, out, ld_out)
    else:
        kernels().product_f64(rows, K, N, A, ld_a, panels, init, ld_init, out, ld_out)


cdef inline void pack_narrow(Py_ssize_t K, Py_ssize_t M, const real *D, Py_ssize_t ld_d, real *panels) noexcept nogil:
    if real is float:
        kernels().pack_narrow_f32(K, M, D, ld_d, panels)
    else:
        kernels().pack_narrow_f64(K, M, D, ld_d, panels)


cdef inline void outer(Py_ssize_t K, Py_ssize_t M, Py_ssize_t N, const real *D, Py_ssize_t ld_d, const real *X,
                       bint accumulate, real *C) noexcept nogil:
    if real is float:
        kernels().outer_f32(K, M, N, D, ld_d, X, accumulate, C, N)
    else:
        kernels().outer_f64(K, M, N, D, ld_d, X, accumulate, C, N)


cdef inline void fused_forward(Py_ssize_t rows, Py_ssize_t I, Py_ssize_t H, const real *x, Py_ssize_t ld_x,
                               const real *panels_U, const real *previous, Py_ssize_t ld_previous,
                               const real *panels_W, const real *init, Py_ssize_t ld_init, real *h, Py_ssize_t ld_h,
                               real *copy, Py_ssize_t ld_copy, int phi, bint odd) noexcept nogil:
    if real is float:
        kernels().fused_forward_f32(rows, I, H, x, ld_x, panels_U, previous, ld_previous, panels_W, init, ld_init, h,
                                    ld_h, copy, ld_copy, phi, odd)
    else:
        kernels().fused_forward_f64(rows, I, H, x, ld_x, panels_U, previous, ld_previous, panels_W, init, ld_init, h,
                                    ld_h, copy, ld_copy, phi, odd)


cdef inline void leaky_forward(Py_ssize_t rows, Py_ssize_t I, Py_ssize_t H, const real *x, Py_ssize_t ld_x,
                               const real *panels_U, const real *previous, Py_ssize_t ld_previous,
                               const real *panels_W, const real *init, Py_ssize_t ld_init, const real *past,
                               Py_ssize_t ld_past, real *h, Py_ssize_t ld_h, real *copy, Py_ssize_t ld_copy,
                               real *rates, Py_ssize_t ld_rates, const real *alpha, int phi, bint current,
                               bint odd) noexcept nogil:
    if real is float:
        kernels().leaky_forward_f32(rows, I, H, x, ld_x, panels_U, previous, ld_previous, panels_W, init, ld_init, past,
                                    ld_past, h, ld_h, copy, ld_copy, rates, ld_rates, alpha, phi, current, odd)
    else:
        kernels().leaky_forward_f64(rows, I, H, x, ld_x, panels_U, previous, ld_previous, panels_W, init, ld_init, past,
                                    ld_past, h, ld_h, copy, ld_copy, rates, ld_rates, alpha, phi, current, odd)


cdef inline void fused_backward(Py_ssize_t rows, Py_ssize_t H, const real *later, Py_ssize_t ld_later,
                                const real *panels, const real *h, Py_ssize_t ld_h, const real *dh, Py_ssize_t ld_dh,
                                real *grad, Py_ssize_t ld_grad, real *delta, Py_ssize_t ld_delta, int phi,
                                bint odd) noexcept nogil:
    if real is float:
        kernels().fused_backward_f32(rows, H, later, ld_later, panels, h, ld_h, dh, ld_dh, grad, ld_grad, delta,
                                     ld_delta, phi, odd)
    else:
        kernels().fused_backward_f64(rows, H, later, ld_later, panels, h, ld_h, dh, ld_dh, grad, ld_grad, delta,
                                     ld_delta, phi, odd)


cdef inline void leaky_backward(Py_ssize_t rows, Py_ssize_t H, const real *later, Py_ssize_t ld_later,
                                const real *panels, const real *rates, Py_ssize_t ld_rates, const real *dh,
                                Py_ssize_t ld_dh, const real *past, Py_ssize_t ld_past, real *grad, Py_ssize_t ld_grad,
                                real *delta, Py_ssize_t ld_delta, const real *alpha, int phi, bint current,
                                bint odd) noexcept nogil:
    if real is float:
        kernels().leaky_backward_f32(rows, H, later, ld_later, panels, rates, ld_rates, dh, ld_dh, past, ld_past, grad,
                                     ld_grad, delta, ld_delta, alpha, phi, current, odd)
    else:
        kernels().leaky_backward_f64(rows, H, later, ld_later, panels, rates, ld_rates, dh, ld_dh, past, ld_past, grad,
                                     ld_grad, delta, ld_delta, alpha, phi, current, odd)
