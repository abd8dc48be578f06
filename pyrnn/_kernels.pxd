cdef extern from "kernels.h":
    ctypedef struct pyrnn_kernel_table:
        const char *name
        void (*tanh_f32)(Py_ssize_t n, const float *x, float *y) noexcept nogil
        void (*tanh_f64)(Py_ssize_t n, const double *x, double *y) noexcept nogil
        void (*sech2_f32)(Py_ssize_t n, const float *x, float *y) noexcept nogil
        void (*sech2_f64)(Py_ssize_t n, const double *x, double *y) noexcept nogil
        void (*step_forward_f32)(Py_ssize_t rows, Py_ssize_t H, const float *b, float *h, Py_ssize_t ld_h,
                                 int phi) noexcept nogil
        void (*step_forward_f64)(Py_ssize_t rows, Py_ssize_t H, const double *b, double *h, Py_ssize_t ld_h,
                                 int phi) noexcept nogil
        void (*step_backward_f32)(Py_ssize_t rows, Py_ssize_t H, const float *h, Py_ssize_t ld_h, const float *dh,
                                  Py_ssize_t ld_dh, const float *back, Py_ssize_t ld_back, float *grad,
                                  Py_ssize_t ld_grad, float *delta, Py_ssize_t ld_delta, int phi) noexcept nogil
        void (*step_backward_f64)(Py_ssize_t rows, Py_ssize_t H, const double *h, Py_ssize_t ld_h, const double *dh,
                                  Py_ssize_t ld_dh, const double *back, Py_ssize_t ld_back, double *grad,
                                  Py_ssize_t ld_grad, double *delta, Py_ssize_t ld_delta, int phi) noexcept nogil
        void (*jacobian_f32)(Py_ssize_t H, const float *h, const float *W, Py_ssize_t ld_w, float *J,
                             const float *alpha, int phi, int current) noexcept nogil
        void (*jacobian_f64)(Py_ssize_t H, const double *h, const double *W, Py_ssize_t ld_w, double *J,
                             const double *alpha, int phi, int current) noexcept nogil
        void (*column_sums_f32)(Py_ssize_t rows, Py_ssize_t n, const float *a, Py_ssize_t ld_a, float *sum,
                                float *lost) noexcept nogil
        void (*column_sums_f64)(Py_ssize_t rows, Py_ssize_t n, const double *a, Py_ssize_t ld_a, double *sum,
                                double *lost) noexcept nogil
        float (*sum_f32)(Py_ssize_t times, Py_ssize_t n, const float *a) noexcept nogil
        double (*sum_f64)(Py_ssize_t times, Py_ssize_t n, const double *a) noexcept nogil
        void (*transpose_f32)(Py_ssize_t rows, Py_ssize_t n, const float *a, Py_ssize_t ld_a, float *out) noexcept nogil
        void (*transpose_f64)(Py_ssize_t rows, Py_ssize_t n, const double *a, Py_ssize_t ld_a,
                              double *out) noexcept nogil
        Py_ssize_t (*panels_size_f32)(Py_ssize_t K, Py_ssize_t N) noexcept nogil
        void (*pack_f32)(Py_ssize_t K, Py_ssize_t first, Py_ssize_t steps, Py_ssize_t rows, Py_ssize_t N,
                         const float *B, Py_ssize_t ld_t, Py_ssize_t ld_r, float *panels) noexcept nogil
        void (*pack_rows_at_f32)(Py_ssize_t K, Py_ssize_t first, Py_ssize_t rows, Py_ssize_t N, const float *B,
                                 const Py_ssize_t *at, float *panels) noexcept nogil
        void (*pack_transposed_f32)(Py_ssize_t K, Py_ssize_t N, const float *B, Py_ssize_t ld_b,
                                    float *panels) noexcept nogil
        void (*product_f32)(Py_ssize_t rows, Py_ssize_t K, Py_ssize_t N, const float *A, Py_ssize_t ld_a,
                            const float *panels, const float *init, Py_ssize_t ld_init, float *out,
                            Py_ssize_t ld_out) noexcept nogil
        void (*pack_narrow_f32)(Py_ssize_t K, Py_ssize_t M, const float *D, Py_ssize_t ld_d,
                                float *panels) noexcept nogil
        void (*outer_f32)(Py_ssize_t K, Py_ssize_t M, Py_ssize_t N, const float *D, Py_ssize_t ld_d, const float *X,
                          int accumulate, float *C, Py_ssize_t ld_c) noexcept nogil
        void (*fused_forward_f32)(Py_ssize_t rows, Py_ssize_t inputs, Py_ssize_t H, const float *x, Py_ssize_t ld_x,
                                  const float *panels_U, const float *previous, Py_ssize_t ld_previous,
                                  const float *panels_W, const float *init, Py_ssize_t ld_init, float *h,
                                  Py_ssize_t ld_h, float *copy, Py_ssize_t ld_copy, int phi, int odd) noexcept nogil
        void (*fused_backward_f32)(Py_ssize_t rows, Py_ssize_t H, const float *later, Py_ssize_t ld_later,
                                   const float *panels, const float *h, Py_ssize_t ld_h, const float *dh,
                                   Py_ssize_t ld_dh, float *grad, Py_ssize_t ld_grad, float *delta, Py_ssize_t ld_delta,
                                   int phi, int odd) noexcept nogil
        Py_ssize_t (*panels_size_f64)(Py_ssize_t K, Py_ssize_t N) noexcept nogil
        void (*pack_f64)(Py_ssize_t K, Py_ssize_t first, Py_ssize_t steps, Py_ssize_t rows, Py_ssize_t N,
                         const double *B, Py_ssize_t ld_t, Py_ssize_t ld_r, double *panels) noexcept nogil
        void (*pack_rows_at_f64)(Py_ssize_t K, Py_ssize_t first, Py_ssize_t rows, Py_ssize_t N, const double *B,
                                 const Py_ssize_t *at, double *panels) noexcept nogil
        void (*pack_transposed_f64)(Py_ssize_t K, Py_ssize_t N, const double *B, Py_ssize_t ld_b,
                                    double *panels) noexcept nogil
        void (*product_f64)(Py_ssize_t rows, Py_ssize_t K, Py_ssize_t N, const double *A, Py_ssize_t ld_a,
                            const double *panels, const double *init, Py_ssize_t ld_init, double *out,
                            Py_ssize_t ld_out) noexcept nogil
        void (*pack_narrow_f64)(Py_ssize_t K, Py_ssize_t M, const double *D, Py_ssize_t ld_d,
                                double *panels) noexcept nogil
        void (*outer_f64)(Py_ssize_t K, Py_ssize_t M, Py_ssize_t N, const double *D, Py_ssize_t ld_d, const double *X,
                          int accumulate, double *C, Py_ssize_t ld_c) noexcept nogil
        void (*fused_forward_f64)(Py_ssize_t rows, Py_ssize_t inputs, Py_ssize_t H, const double *x, Py_ssize_t ld_x,
                                  const double *panels_U, const double *previous, Py_ssize_t ld_previous,
                                  const double *panels_W, const double *init, Py_ssize_t ld_init, double *h,
                                  Py_ssize_t ld_h, double *copy, Py_ssize_t ld_copy, int phi, int odd) noexcept nogil
        void (*fused_backward_f64)(Py_ssize_t rows, Py_ssize_t H, const double *later, Py_ssize_t ld_later,
                                   const double *panels, const double *h, Py_ssize_t ld_h, const double *dh,
                                   Py_ssize_t ld_dh, double *grad, Py_ssize_t ld_grad, double *delta,
                                   Py_ssize_t ld_delta, int phi, int odd) noexcept nogil
        void (*leaky_step_forward_f32)(Py_ssize_t rows, Py_ssize_t H, const float *b, const float *past,
                                       Py_ssize_t ld_past, float *h, Py_ssize_t ld_h, float *rates, Py_ssize_t ld_rates,
                                       const float *alpha, int phi, int current) noexcept nogil
        void (*leaky_step_backward_f32)(Py_ssize_t rows, Py_ssize_t H, const float *rates, Py_ssize_t ld_rates,
                                        const float *dh, Py_ssize_t ld_dh, const float *back, Py_ssize_t ld_back,
                                        const float *past, Py_ssize_t ld_past, float *grad, Py_ssize_t ld_grad,
                                        float *delta, Py_ssize_t ld_delta, const float *alpha, int phi,
                                        int current) noexcept nogil
        void (*column_products_f32)(Py_ssize_t steps, Py_ssize_t rows, Py_ssize_t n, const float *g, Py_ssize_t ld_g,
                                    const float *p, Py_ssize_t p_t, Py_ssize_t p_r, const float *q, Py_ssize_t q_t,
                                    Py_ssize_t q_r, float *sum, float *lost) noexcept nogil
        void (*gather_rows_f32)(Py_ssize_t rows, Py_ssize_t n, const float *a, const Py_ssize_t *at, float *out,
                                Py_ssize_t ld) noexcept nogil
        void (*scatter_rows_f32)(Py_ssize_t rows, Py_ssize_t n, const float *a, Py_ssize_t ld, const Py_ssize_t *at,
                                 float *out) noexcept nogil
        void (*leaky_forward_f32)(Py_ssize_t rows, Py_ssize_t inputs, Py_ssize_t H, const float *x, Py_ssize_t ld_x,
                                  const float *panels_U, const float *previous, Py_ssize_t ld_previous,
                                  const float *panels_W, const float *init, Py_ssize_t ld_init, const float *past,
                                  Py_ssize_t ld_past, float *h, Py_ssize_t ld_h, float *copy, Py_ssize_t ld_copy,
                                  float *rates, Py_ssize_t ld_rates, const float *alpha, int phi, int current,
                                  int odd) noexcept nogil
        void (*leaky_backward_f32)(Py_ssize_t rows, Py_ssize_t H, const float *later, Py_ssize_t ld_later,
                                   const float *panels, const float *rates, Py_ssize_t ld_rates, const float *dh,
                                   Py_ssize_t ld_dh, const float *past, Py_ssize_t ld_past, float *grad,
                                   Py_ssize_t ld_grad, float *delta, Py_ssize_t ld_delta, const float *alpha, int phi,
                                   int current, int odd) noexcept nogil
        Py_ssize_t (*multiply_adds_f32)(Py_ssize_t n, float *a) noexcept nogil
        void (*leaky_step_forward_f64)(Py_ssize_t rows, Py_ssize_t H, const double *b, const double *past,
                                       Py_ssize_t ld_past, double *h, Py_ssize_t ld_h, double *rates,
                                       Py_ssize_t ld_rates, const double *alpha, int phi, int current) noexcept nogil
        void (*leaky_step_backward_f64)(Py_ssize_t rows, Py_ssize_t H, const double *rates, Py_ssize_t ld_rates,
                                        const double *dh, Py_ssize_t ld_dh, const double *back, Py_ssize_t ld_back,
                                        const double *past, Py_ssize_t ld_past, double *grad, Py_ssize_t ld_grad,
                                        double *delta, Py_ssize_t ld_delta, const double *alpha, int phi,
                                        int current) noexcept nogil
        void (*column_products_f64)(Py_ssize_t steps, Py_ssize_t rows, Py_ssize_t n, const double *g, Py_ssize_t ld_g,
                                    const double *p, Py_ssize_t p_t, Py_ssize_t p_r, const double *q, Py_ssize_t q_t,
                                    Py_ssize_t q_r, double *sum, double *lost) noexcept nogil
        void (*gather_rows_f64)(Py_ssize_t rows, Py_ssize_t n, const double *a, const Py_ssize_t *at, double *out,
                                Py_ssize_t ld) noexcept nogil
        void (*scatter_rows_f64)(Py_ssize_t rows, Py_ssize_t n, const double *a, Py_ssize_t ld, const Py_ssize_t *at,
                                 double *out) noexcept nogil
        void (*leaky_forward_f64)(Py_ssize_t rows, Py_ssize_t inputs, Py_ssize_t H, const double *x, Py_ssize_t ld_x,
                                  const double *panels_U, const double *previous, Py_ssize_t ld_previous,
                                  const double *panels_W, const double *init, Py_ssize_t ld_init, const double *past,
                                  Py_ssize_t ld_past, double *h, Py_ssize_t ld_h, double *copy, Py_ssize_t ld_copy,
                                  double *rates, Py_ssize_t ld_rates, const double *alpha, int phi, int current,
                                  int odd) noexcept nogil
        void (*leaky_backward_f64)(Py_ssize_t rows, Py_ssize_t H, const double *later, Py_ssize_t ld_later,
                                   const double *panels, const double *rates, Py_ssize_t ld_rates, const double *dh,
                                   Py_ssize_t ld_dh, const double *past, Py_ssize_t ld_past, double *grad,
                                   Py_ssize_t ld_grad, double *delta, Py_ssize_t ld_delta, const double *alpha, int phi,
                                   int current, int odd) noexcept nogil
        Py_ssize_t (*multiply_adds_f64)(Py_ssize_t n, double *a) noexcept nogil
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
