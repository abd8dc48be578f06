/* Steps of optimisers over one vector, and sums of products for norms, for kernels.inl, which includes this file under
 * its macros. Every operation is rounded on its own, in the order in which PyTorch has them: what a line says is what
 * NumPy would compute from the same line. One pass reads and writes each number once, since memory is the limit. */

/* The gradient that a step takes: g times both scales, with the decay of the weights added. */
static inline ALWAYS_INLINE VEC V(scaled_gradient)(VEC g, VEC p, REAL power, REAL scale, REAL decay)
{
    g = V(mul)(V(mul)(g, V(set)(power)), V(set)(scale));
    return decay != 0 ? V(add)(g, V(mul)(V(set)(decay), p)) : g;
}

/* a + weight (b - a), from the end that is nearer. */
static inline ALWAYS_INLINE VEC V(between)(VEC a, VEC b, REAL weight)
{
    const VEC way = V(sub)(b, a);
    return weight < (REAL)0.5 ? V(add)(a, V(mul)(V(set)(weight), way)) : V(sub)(b, V(mul)(way, V(set)(1 - weight)));
}

/* keep old + weight g². */
static inline ALWAYS_INLINE VEC V(mean_square)(VEC old, VEC g, REAL keep, REAL weight)
{
    return V(add)(V(mul)(old, V(set)(keep)), V(mul)(V(mul)(V(set)(weight), g), g));
}

/* All registers of n numbers: STEP(i, m) is the one from i on, with m numbers in it. */
#define EACH_REGISTER(n, STEP)                                         \
    do {                                                               \
        ptrdiff_t each_ = 0;                                           \
        for (; each_ + LANES <= n; each_ += LANES) STEP(each_, LANES); \
        if (each_ < n) STEP(each_, n - each_);                         \
    } while (0)

static void KERNEL(sgd)(ptrdiff_t n, const REAL *restrict g, REAL power, REAL scale, REAL decay, REAL momentum,
                        REAL weight, REAL rate, int first, int nesterov, REAL *restrict buffer, REAL *restrict p)
{
#define STEP(i, m)                                                                                              \
    do {                                                                                                        \
        const VEC old = V(load_some)(p + (i), m);                                                               \
        VEC s = V(scaled_gradient)(V(load_some)(g + (i), m), old, power, scale, decay);                         \
        if (buffer) {                                                                                           \
            VEC b = s;                                                                                          \
            if (!first)                                                                                         \
                b = V(add)(V(mul)(V(load_some)(buffer + (i), m), V(set)(momentum)), V(mul)(V(set)(weight), s)); \
            V(store_some)(buffer + (i), m, b);                                                                  \
            s = nesterov ? V(add)(s, V(mul)(V(set)(momentum), b)) : b;                                          \
        }                                                                                                       \
        V(store_some)(p + (i), m, V(sub)(old, V(mul)(V(set)(rate), s)));                                        \
    } while (0)
    EACH_REGISTER(n, STEP);
#undef STEP
}

static void KERNEL(adam)(ptrdiff_t n, const REAL *restrict g, REAL power, REAL scale, REAL decay, REAL shrink,
                         REAL weight, REAL keep, REAL square_weight, REAL correction, REAL eps, REAL rate,
                         REAL *restrict mean, REAL *restrict square, REAL *restrict largest, REAL *restrict p)
{
#define STEP(i, m)                                                                            \
    do {                                                                                      \
        const VEC old = V(load_some)(p + (i), m);                                             \
        const VEC s = V(scaled_gradient)(V(load_some)(g + (i), m), old, power, scale, decay); \
        const VEC a = V(between)(V(load_some)(mean + (i), m), s, weight);                     \
        VEC b = V(mean_square)(V(load_some)(square + (i), m), s, keep, square_weight);        \
        V(store_some)(mean + (i), m, a);                                                      \
        V(store_some)(square + (i), m, b);                                                    \
        if (largest) {                                                                        \
            const VEC before = V(load_some)(largest + (i), m);                                \
            b = V(if_less)(b, before, before, b); /* NaN where b is */                        \
            V(store_some)(largest + (i), m, b);                                               \
        }                                                                                     \
        const VEC below = V(add)(V(div)(V(sqrt)(b), V(set)(correction)), V(set)(eps));        \
        const VEC way = V(div)(V(mul)(V(set)(rate), a), below);                               \
        V(store_some)(p + (i), m, V(sub)(V(mul)(old, V(set)(shrink)), way));                  \
    } while (0)
    EACH_REGISTER(n, STEP);
#undef STEP
}

static void KERNEL(rmsprop)(ptrdiff_t n, const REAL *restrict g, REAL power, REAL scale, REAL decay, REAL keep,
                            REAL weight, REAL momentum, REAL eps, REAL rate, REAL *restrict square, REAL *restrict mean,
                            REAL *restrict buffer, REAL *restrict p)
{
#define STEP(i, m)                                                                                   \
    do {                                                                                             \
        const VEC old = V(load_some)(p + (i), m);                                                    \
        const VEC s = V(scaled_gradient)(V(load_some)(g + (i), m), old, power, scale, decay);        \
        VEC b = V(mean_square)(V(load_some)(square + (i), m), s, keep, weight);                      \
        V(store_some)(square + (i), m, b);                                                           \
        if (mean) {                                                                                  \
            const VEC a = V(between)(V(load_some)(mean + (i), m), s, weight);                        \
            V(store_some)(mean + (i), m, a);                                                         \
            b = V(sub)(b, V(mul)(a, a));                                                             \
        }                                                                                            \
        const VEC below = V(add)(V(sqrt)(b), V(set)(eps));                                           \
        VEC way;                                                                                     \
        if (buffer) {                                                                                \
            way = V(add)(V(mul)(V(load_some)(buffer + (i), m), V(set)(momentum)), V(div)(s, below)); \
            V(store_some)(buffer + (i), m, way);                                                     \
            way = V(mul)(V(set)(rate), way);                                                         \
        } else                                                                                       \
            way = V(div)(V(mul)(V(set)(rate), s), below);                                            \
        V(store_some)(p + (i), m, V(sub)(old, way));                                                 \
    } while (0)
    EACH_REGISTER(n, STEP);
#undef STEP
}
#undef EACH_REGISTER

/* s + (f a) (f b). */
static inline SIMD(vec_f64) V(add_product)(SIMD(vec_f64) s, SIMD(vec_f64) f, const REAL *a, const REAL *b)
{
    const SIMD(vec_f64) x = SIMD(mul_f64)(f, V(load_double)(a)), y = SIMD(mul_f64)(f, V(load_double)(b));
    return SIMD(add_f64)(s, SIMD(mul_f64)(x, y));
}

/* Sixteen sums side by side, in as many registers of double as they take: the same order on every instruction set. */
static double KERNEL(dot)(ptrdiff_t n, const REAL *a, const REAL *b, double factor)
{
    enum {
        SIDE_BY_SIDE = 16,
        DOUBLES = SIMD(lanes_f64),
        REGISTERS = SIDE_BY_SIDE / DOUBLES,
        BLOCK = 64 * SIDE_BY_SIDE
    };
    const SIMD(vec_f64) f = SIMD(set_f64)(factor);
    SIMD(vec_f64) total[REGISTERS], s[REGISTERS];
    UNROLL for (int r = 0; r < REGISTERS; r++) total[r] = SIMD(set_f64)(0);
    for (ptrdiff_t begin = 0; begin < n; begin += BLOCK) {
        const ptrdiff_t end = begin + BLOCK < n ? begin + BLOCK : n;
        UNROLL for (int r = 0; r < REGISTERS; r++) s[r] = SIMD(set_f64)(0);
        ptrdiff_t i = begin;
        for (; i + SIDE_BY_SIDE <= end; i += SIDE_BY_SIDE)
            UNROLL for (int r = 0; r < REGISTERS; r++) s[r] =
                V(add_product)(s[r], f, a + i + r * DOUBLES, b + i + r * DOUBLES);
        if (i < end) {
            REAL p[SIDE_BY_SIDE] = {0}, q[SIDE_BY_SIDE] = {0};
            memcpy(p, a + i, (size_t)(end - i) * sizeof *p), memcpy(q, b + i, (size_t)(end - i) * sizeof *q);
            UNROLL for (int r = 0; r < REGISTERS; r++) s[r] = V(add_product)(s[r], f, p + r * DOUBLES, q + r * DOUBLES);
        }
        UNROLL for (int r = 0; r < REGISTERS; r++) total[r] = SIMD(add_f64)(total[r], s[r]);
    }
    double sum[SIDE_BY_SIDE];
    UNROLL for (int r = 0; r < REGISTERS; r++) SIMD(store_f64)(sum + r * DOUBLES, total[r]);
    for (int half = SIDE_BY_SIDE / 2; half > 0; half /= 2)
        for (int k = 0; k < half; k++) sum[k] += sum[k + half];
    return sum[0];
}

static void KERNEL(add_multiple)(ptrdiff_t n, REAL factor, const REAL *restrict x, REAL *restrict y)
{
    ptrdiff_t i = 0;
    for (; i + LANES <= n; i += LANES) V(store)(y + i, V(fma)(V(set)(factor), V(load)(x + i), V(load)(y + i)));
    if (i < n)
        V(store_part)(y + i, n - i, V(fma)(V(set)(factor), V(load_part)(x + i, n - i), V(load_part)(y + i, n - i)));
}
