/* Matrix products with one order of summation, for kernels.inl, which includes this file under its macros.
 *
 * B [K, N] is packed once into panels two registers wide: panel p holds the columns from 2 LANES p on, as
 * [K, 2 LANES]; the last one is one register wide if that is enough, and has zeros beyond column N. A tile of some rows
 * of A and some registers of B keeps its sums in registers while k runs. Each product is one chain of fused
 * multiply-adds in ascending k that begins with zero; what it is added to is added once, at the end, since what is
 * small should be added up first. So the bits depend neither on the tile that a number falls into, nor on the number of
 * rows, nor on the instruction set. */

/* One factor pair of a sum of products: A [rows, K] and panels of B [K, N]. A[i, k] is at A + i ld + k, or, in outer
 * products, at A + k ld + i. */
typedef struct {
    ptrdiff_t K;
    const REAL *A;
    ptrdiff_t ld;
    const REAL *panels;
} V(pair);

/* sum += A B for the tile of m rows and n registers from this row on and from this column, the first of a panel. */
static inline ALWAYS_INLINE void V(accumulate)(const int m, const int n, const int outer, const V(pair) * p,
                                               ptrdiff_t row, ptrdiff_t column, VEC sum[SUMS / 2][8])
{
    const ptrdiff_t width = n == 1 ? LANES : 2 * LANES, K = p->K, ld = p->ld;
    const REAL *A = p->A + (outer ? row : row * ld), *panel = p->panels + column * K;
    VEC b[8];
    for (ptrdiff_t k = 0; k < K; k++) {
        UNROLL for (int j = 0; j < n; j++) b[j] = V(load)(panel + j / 2 * K * width + k * width + j % 2 * LANES);
        UNROLL for (int i = 0; i < m; i++)
        {
            const VEC a = V(set)(outer ? A[k * ld + i] : A[i * ld + k]);
            UNROLL for (int j = 0; j < n; j++) sum[i][j] = V(fma)(a, b[j], sum[i][j]);
        }
    }
}

static inline ALWAYS_INLINE void V(clear)(const int m, const int n, VEC sum[SUMS / 2][8])
{
    UNROLL for (int i = 0; i < m; i++) UNROLL for (int j = 0; j < n; j++) sum[i][j] = V(set)(0);
}

/* sum += p; nothing where p is NULL. */
static inline ALWAYS_INLINE void V(add_tile)(const int m, const int n, const REAL *p, ptrdiff_t ld, ptrdiff_t last,
                                             VEC sum[SUMS / 2][8])
{
    if (!p) return;
    UNROLL for (int i = 0; i < m; i++) UNROLL for (int j = 0; j < n; j++)
    {
        const REAL *q = p + i * ld + j * LANES;
        sum[i][j] = V(add)(last < LANES && j == n - 1 ? V(load_part)(q, last) : V(load)(q), sum[i][j]);
    }
}

static inline ALWAYS_INLINE void V(store_tile)(const int m, const int n, REAL *p, ptrdiff_t ld, ptrdiff_t last,
                                               VEC sum[SUMS / 2][8])
{
    UNROLL for (int i = 0; i < m; i++) UNROLL for (int j = 0; j < n; j++)
    {
        REAL *q = p + i * ld + j * LANES;
        if (last < LANES && j == n - 1)
            V(store_part)(q, last, sum[i][j]);
        else
            V(store)(q, sum[i][j]);
    }
}

/* One tile of init + A B, and then of (init + A B) + C D. Either product may have no k. `last`: how many lanes of the
 * last register are columns of B. init may be NULL for zeros, and may be out. */
#define TILE_ARGUMENTS                                                                                            \
    const V(pair) * ab, const V(pair) * cd, ptrdiff_t row, ptrdiff_t column, const REAL *init, ptrdiff_t ld_init, \
        REAL *out, ptrdiff_t ld_out, ptrdiff_t last
typedef void V(tile_function)(TILE_ARGUMENTS);

static inline ALWAYS_INLINE void V(tile)(const int m, const int n, const int outer, TILE_ARGUMENTS)
{
    VEC sum[SUMS / 2][8];
    if (outer || ab->K || !cd->K) {
        V(clear)(m, n, sum);
        V(accumulate)(m, n, outer, ab, row, column, sum);
        V(add_tile)(m, n, init, ld_init, last, sum);
        V(store_tile)(m, n, out, ld_out, last, sum);
        init = out, ld_init = ld_out;
        if (outer || !cd->K) return;
    }
    V(clear)(m, n, sum);
    V(accumulate)(m, n, outer, cd, row, column, sum);
    V(add_tile)(m, n, init, ld_init, last, sum);
    V(store_tile)(m, n, out, ld_out, last, sum);
}

/* pyrnn_product_12x2_f32_avx512 and pyrnn_outer_12x2_f32_avx512: 12 rows, 2 registers. */
#define TILE(m, n)                                                               \
    static void KERNEL(product_##m##x##n)(TILE_ARGUMENTS)                        \
    {                                                                            \
        V(tile)(m, n, 0, ab, cd, row, column, init, ld_init, out, ld_out, last); \
    }
#define OUTER(m, n)                                                              \
    static void KERNEL(outer_##m##x##n)(TILE_ARGUMENTS)                          \
    {                                                                            \
        V(tile)(m, n, 1, ab, cd, row, column, init, ld_init, out, ld_out, last); \
    }
#define BOTH(m) TILE(m, 1) TILE(m, 2) OUTER(m, 1) OUTER(m, 2)
/* clang-format off */
BOTH(1) BOTH(2) BOTH(3) BOTH(4) BOTH(5) BOTH(6) TILE(1, 4) TILE(2, 4) TILE(3, 4) TILE(1, 8)
#if SUMS == 24
BOTH(7) BOTH(8) BOTH(9) BOTH(10) BOTH(11) BOTH(12) TILE(4, 4) TILE(5, 4) TILE(6, 4) TILE(2, 8) TILE(3, 8)
#endif
/* clang-format on */
#undef TILE
#undef OUTER
#undef BOTH
#undef TILE_ARGUMENTS

    /* By the binary logarithm of the registers, then by the rows less one. */
    static V(tile_function) *const V(product_tiles)[4][SUMS / 2] = {
#if SUMS == 24
#define ALL(kind, n)                                                                                                   \
    KERNEL(kind##_1x##n), KERNEL(kind##_2x##n), KERNEL(kind##_3x##n), KERNEL(kind##_4x##n), KERNEL(kind##_5x##n),      \
        KERNEL(kind##_6x##n), KERNEL(kind##_7x##n), KERNEL(kind##_8x##n), KERNEL(kind##_9x##n), KERNEL(kind##_10x##n), \
        KERNEL(kind##_11x##n), KERNEL(kind##_12x##n)
        {ALL(product, 1)},
        {ALL(product, 2)},
        {KERNEL(product_1x4), KERNEL(product_2x4), KERNEL(product_3x4), KERNEL(product_4x4), KERNEL(product_5x4),
         KERNEL(product_6x4)},
        {KERNEL(product_1x8), KERNEL(product_2x8), KERNEL(product_3x8)},
#else
#define ALL(kind, n)                                                                                              \
    KERNEL(kind##_1x##n), KERNEL(kind##_2x##n), KERNEL(kind##_3x##n), KERNEL(kind##_4x##n), KERNEL(kind##_5x##n), \
        KERNEL(kind##_6x##n)
        {ALL(product, 1)},
        {ALL(product, 2)},
        {KERNEL(product_1x4), KERNEL(product_2x4), KERNEL(product_3x4)},
        {KERNEL(product_1x8)},
#endif
};
static V(tile_function) *const V(outer_tiles)[2][SUMS / 2] = {{ALL(outer, 1)}, {ALL(outer, 2)}};
#undef ALL

/* Registers from column j of N on that a tile of m rows takes, as a binary logarithm: whole panels, or the last one. */
static inline int V(tile_width)(ptrdiff_t m, ptrdiff_t rest, int widest)
{
    for (int n = widest; n > 0; n--)
        if ((m << n) <= SUMS && rest > (((ptrdiff_t)1 << n) - 1) * LANES) return n;
    return 0;
}

/* What is done with a tile once its sums stand in `out`. */
typedef struct {
    enum { V(KEEP), V(FORWARD), V(BACKWARD) } what;
    REAL *copy; /* FORWARD: a second place for h; BACKWARD: grad; or NULL */
    ptrdiff_t ld_copy;
    const REAL *h; /* BACKWARD */
    ptrdiff_t ld_h;
} V(finish);

static inline void V(finish_tile)(const V(finish) * f, ptrdiff_t m, ptrdiff_t columns, ptrdiff_t i, ptrdiff_t j,
                                  REAL *out, ptrdiff_t ld_out)
{
    if (f->what == V(KEEP)) return;
    for (ptrdiff_t r = 0; r < m; r++) {
        REAL *o = out + r * ld_out, *copy = f->copy ? f->copy + (i + r) * f->ld_copy + j : NULL;
        const REAL *h = f->what == V(BACKWARD) ? f->h + (i + r) * f->ld_h + j : NULL;
        for (ptrdiff_t c = 0; c < columns; c += LANES) {
            const ptrdiff_t n = columns - c;
            if (n >= LANES) {
                const VEC s = V(load)(o + c), d = h ? V(mul)(V(slope)(V(load)(h + c)), s) : V(tanh)(s);
                V(store)(o + c, d);
                if (copy) V(store)(copy + c, h ? s : d);
            } else {
                const VEC s = V(load_part)(o + c, n);
                const VEC d = h ? V(mul)(V(slope)(V(load_part)(h + c, n)), s) : V(tanh)(s);
                V(store_part)(o + c, n, d);
                if (copy) V(store_part)(copy + c, n, h ? s : d);
            }
        }
    }
}

/* Bring rows of the next tile near while this one is computed. They come from memory, a few cache lines of each, which
 * no processor foresees: 2 % of a backward pass. */
static inline void V(fetch)(const REAL *a, ptrdiff_t ld, ptrdiff_t rows, ptrdiff_t columns)
{
    for (ptrdiff_t r = 0; r < rows; r++)
        for (ptrdiff_t c = 0; c < columns; c += 64 / (ptrdiff_t)sizeof(REAL)) PREFETCH(a + r * ld + c);
}

/* out = init + A B + C D, tile by tile, each finished while it is in the nearest cache. A panel stays there for all the
 * rows; rows are shared out evenly between tiles, so that 13 become 7 and 6. */
static void KERNEL(run)(int outer, ptrdiff_t rows, ptrdiff_t N, const V(pair) * ab, const V(pair) * cd,
                        const REAL *init, ptrdiff_t ld_init, REAL *out, ptrdiff_t ld_out, const V(finish) * finish)
{
    const ptrdiff_t tiles = (rows + SUMS / 2 - 1) / (SUMS / 2);
    if (!tiles) return;
    const ptrdiff_t small = rows / tiles, larger = rows % tiles; /* `larger` tiles have one row more */
    for (ptrdiff_t j = 0; j < N;) {
        const int n = V(tile_width)(small + (larger > 0), N - j, outer ? 1 : 3);
        const ptrdiff_t registers = (ptrdiff_t)1 << n, columns = N - j < registers * LANES ? N - j : registers * LANES;
        const ptrdiff_t last = columns - (registers - 1) * LANES;
        for (ptrdiff_t t = 0, i = 0; t < tiles; t++) {
            const ptrdiff_t m = small + (t < larger), next = i + m;
            V(tile_function) *const tile = outer ? V(outer_tiles)[n][m - 1] : V(product_tiles)[n][m - 1];
            if (t + 1 < tiles && init && ld_init) V(fetch)(init + next * ld_init + j, ld_init, small, columns);
            if (t + 1 < tiles && finish->h) V(fetch)(finish->h + next * finish->ld_h + j, finish->ld_h, small, columns);
            tile(ab, cd, i, j, init ? init + i * ld_init + j : NULL, ld_init, out + i * ld_out + j, ld_out, last);
            V(finish_tile)(finish, m, columns, i, j, out + i * ld_out + j, ld_out);
            i = next;
        }
        j += registers * LANES;
    }
}

static ptrdiff_t KERNEL(panels_size)(ptrdiff_t K, ptrdiff_t N) { return K * ((N + LANES - 1) / LANES * LANES); }

static void KERNEL(pack)(ptrdiff_t K, ptrdiff_t first, ptrdiff_t steps, ptrdiff_t rows, ptrdiff_t N, const REAL *B,
                         ptrdiff_t ld_t, ptrdiff_t ld_r, REAL *panels)
{
    for (ptrdiff_t j = 0; j < N; j += 2 * LANES) {
        const ptrdiff_t width = N - j > LANES ? 2 * LANES : LANES;
        REAL *p = panels + first * width;
        for (ptrdiff_t t = 0; t < steps; t++)
            for (ptrdiff_t r = 0; r < rows; r++, p += width)
                for (ptrdiff_t c = 0; c < width; c += LANES) {
                    const REAL *from = B + t * ld_t + r * ld_r + j + c;
                    const ptrdiff_t rest = N - j - c;
                    V(store)(p + c, rest >= LANES ? V(load)(from) : V(load_part)(from, rest));
                }
        panels += K * width;
    }
}

/* The transpose of a square of LANES registers: the first half zipped with the second, as often as that takes. */
static inline ALWAYS_INLINE void V(transpose_square)(VEC *a)
{
    VEC b[LANES];
    for (int round = 1; round < LANES; round *= 2) {
        for (int i = 0; i < LANES / 2; i++) {
            b[2 * i] = V(zip_low)(a[i], a[LANES / 2 + i]);
            b[2 * i + 1] = V(zip_high)(a[i], a[LANES / 2 + i]);
        }
        memcpy(a, b, sizeof b);
    }
}

/* `out` [K, LANES], rows `width` apart: the transpose of n <= LANES rows of B, and zeros. */
static void V(transpose_rows)(ptrdiff_t K, ptrdiff_t n, const REAL *B, ptrdiff_t ld_b, REAL *out, ptrdiff_t width)
{
    for (ptrdiff_t k = 0; k < K; k += LANES) {
        const ptrdiff_t m = K - k < LANES ? K - k : LANES;
        VEC a[LANES];
        if (m == LANES && n == LANES) {
            for (int i = 0; i < LANES; i++) a[i] = V(load)(B + i * ld_b + k);
            V(transpose_square)(a);
            for (int i = 0; i < LANES; i++) V(store)(out + (k + i) * width, a[i]);
        } else {
            for (int i = 0; i < LANES; i++) a[i] = i < n ? V(load_part)(B + i * ld_b + k, m) : V(set)(0);
            V(transpose_square)(a);
            for (int i = 0; i < m; i++) V(store)(out + (k + i) * width, a[i]);
        }
    }
}

static void KERNEL(pack_transposed)(ptrdiff_t K, ptrdiff_t N, const REAL *B, ptrdiff_t ld_b, REAL *panels)
{
    for (ptrdiff_t j = 0; j < N; j += 2 * LANES) {
        const ptrdiff_t width = N - j > LANES ? 2 * LANES : LANES;
        for (ptrdiff_t c = 0; c < width; c += LANES) {
            const ptrdiff_t n = N - j - c < LANES ? N - j - c : LANES;
            V(transpose_rows)(K, n, B + (j + c) * ld_b, ld_b, panels + c, width);
        }
        panels += K * width;
    }
}

static void KERNEL(product)(ptrdiff_t rows, ptrdiff_t K, ptrdiff_t N, const REAL *A, ptrdiff_t ld_a, const REAL *panels,
                            const REAL *init, ptrdiff_t ld_init, REAL *out, ptrdiff_t ld_out)
{
    KERNEL(run)
    (0, rows, N, &(V(pair)){K, A, ld_a, panels}, &(V(pair)){0, A, 0, panels}, init, ld_init, out, ld_out,
     &(V(finish)){.what = V(KEEP)});
}

static void KERNEL(outer)(ptrdiff_t K, ptrdiff_t M, ptrdiff_t N, const REAL *D, ptrdiff_t ld_d, const REAL *panels,
                          int accumulate, REAL *C, ptrdiff_t ld_c)
{
    KERNEL(run)
    (1, M, N, &(V(pair)){K, D, ld_d, panels}, &(V(pair)){0, D, 0, panels}, accumulate ? C : NULL, ld_c, C, ld_c,
     &(V(finish)){.what = V(KEEP)});
}

static void KERNEL(fused_forward)(ptrdiff_t rows, ptrdiff_t inputs, ptrdiff_t H, const REAL *x, ptrdiff_t ld_x,
                                  const REAL *panels_U, const REAL *previous, ptrdiff_t ld_previous,
                                  const REAL *panels_W, const REAL *init, ptrdiff_t ld_init, REAL *h, ptrdiff_t ld_h,
                                  REAL *copy, ptrdiff_t ld_copy)
{
    KERNEL(run)
    (0, rows, H, &(V(pair)){inputs, x, ld_x, panels_U}, &(V(pair)){H, previous, ld_previous, panels_W}, init, ld_init,
     h, ld_h, &(V(finish)){.what = V(FORWARD), .copy = copy, .ld_copy = ld_copy});
}

static void KERNEL(fused_backward)(ptrdiff_t rows, ptrdiff_t H, const REAL *later, ptrdiff_t ld_later,
                                   const REAL *panels, const REAL *h, ptrdiff_t ld_h, const REAL *dh, ptrdiff_t ld_dh,
                                   REAL *grad, ptrdiff_t ld_grad, REAL *delta, ptrdiff_t ld_delta)
{
    KERNEL(run)
    (0, rows, H, &(V(pair)){H, later, ld_later, panels}, &(V(pair)){0, later, 0, panels}, dh, ld_dh, delta, ld_delta,
     &(V(finish)){.what = V(BACKWARD), .copy = grad, .ld_copy = ld_grad, .h = h, .ld_h = ld_h});
}
