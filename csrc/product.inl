/* Matrix products with one order of summation, for kernels.inl, which includes this file under its macros.
 *
 * B [K, N] is packed once into panels two registers wide: panel p holds the columns from 2 LANES p on, as
 * [K, 2 LANES]; the last one is one register wide if that is enough, and has zeros beyond column N. A tile of some rows
 * of A and some registers of B keeps its sums in registers while k runs. Each product is one chain of fused
 * multiply-adds in ascending k that begins with zero; what it is added to is added once, at the end, since what is
 * small should be added up first. So the bits depend neither on the tile that a number falls into, nor on the number of
 * rows, nor on the instruction set. */

/* One factor pair of a product: A [rows, K], its rows ld apart, and panels of B [K, N]. */
typedef struct {
    ptrdiff_t K;
    const REAL *A;
    ptrdiff_t ld;
    const REAL *panels;
} V(pair);

/* A product, and what becomes of it: s = A B, forward C D + A B where `before`, C D, has any k. phi is of the cell,
 * phi' its slope from h = phi(a). Every pointer below but alpha leads to [rows, N], the rows ld apart. */
enum {
    V(KEEP),           /* out = init + s */
    V(FORWARD),        /* out = copy = phi(init + s) */
    V(BACKWARD),       /* copy = init + s, out = phi'(h) copy */
    V(LEAKY_FORWARD),  /* rates = phi(init + s), out = copy = (1 - alpha) past + alpha rates;
                        * current: out = (1 - alpha) past + alpha (init + s), copy = rates = phi(out) */
    V(LEAKY_BACKWARD), /* copy = init + (1 - alpha) past + s, out = alpha phi'(h) copy;
                        * current: copy = init + (1 - alpha) past + phi'(h) s, out = alpha copy */
    V(KINDS)
};
typedef struct {
    V(pair) pair, before;
    const REAL *init; /* NULL for zeros; may be out */
    ptrdiff_t ld_init;
    REAL *out;
    ptrdiff_t ld_out;
    REAL *copy; /* or NULL */
    ptrdiff_t ld_copy;
    const REAL *h;
    ptrdiff_t ld_h;
    int phi, current;
    const REAL *alpha; /* [N] */
    const REAL *past;
    ptrdiff_t ld_past;
    REAL *rates; /* or NULL */
    ptrdiff_t ld_rates;
} V(work);

/* sum += A B for a tile of m rows and n registers. A[i, k] is at A + i ld + k, or at A + k ld + i in outer products. */
static inline ALWAYS_INLINE void V(accumulate)(const int m, const int n, const int outer, ptrdiff_t K, const REAL *A,
                                               ptrdiff_t ld, const REAL *panel, ptrdiff_t next_panel,
                                               VEC sum[SUMS / 2][8])
{
    const ptrdiff_t width = n == 1 ? LANES : 2 * LANES;
    VEC b[8];
    for (ptrdiff_t k = 0; k < K; k++) {
        UNROLL for (int j = 0; j < n; j++) b[j] = V(load)(panel + j / 2 * next_panel + k * width + j % 2 * LANES);
        UNROLL for (int i = 0; i < m; i++)
        {
            const VEC a = V(set)(outer ? A[k * ld + i] : A[i * ld + k]);
            UNROLL for (int j = 0; j < n; j++) sum[i][j] = V(fma)(a, b[j], sum[i][j]);
        }
    }
}

/* The product of a pair from row i and column j on. */
static inline ALWAYS_INLINE void V(product_tile)(const int m, const int n, const V(pair) * p, ptrdiff_t i, ptrdiff_t j,
                                                 VEC sum[SUMS / 2][8])
{
    UNROLL for (int r = 0; r < m; r++) UNROLL for (int c = 0; c < n; c++) sum[r][c] = V(set)(0);
    V(accumulate)
    (m, n, 0, p->K, p->A + i * p->ld, p->ld, p->panels + j * p->K, 2 * LANES * p->K, sum);
}

/* A register of memory of which `last` lanes count, if it is the last one of its row. */
static inline VEC V(load_lanes)(int is_last, const REAL *p, ptrdiff_t last)
{
    return is_last && last < LANES ? V(load_part)(p, last) : V(load)(p);
}
static inline void V(store_lanes)(int is_last, REAL *p, ptrdiff_t last, VEC a)
{
    if (is_last && last < LANES)
        V(store_part)(p, last, a);
    else
        V(store)(p, a);
}

/* sum = p + sum; nothing where p is NULL. */
static inline ALWAYS_INLINE void V(add_tile)(const int m, const int n, const REAL *p, ptrdiff_t ld, ptrdiff_t last,
                                             VEC sum[SUMS / 2][8])
{
    if (!p) return;
    UNROLL for (int r = 0; r < m; r++) UNROLL for (int c = 0; c < n; c++) sum[r][c] =
        V(add)(V(load_lanes)(c == n - 1, p + r * ld + c * LANES, last), sum[r][c]);
}

static inline ALWAYS_INLINE void V(store_tile)(const int m, const int n, REAL *p, ptrdiff_t ld, ptrdiff_t last,
                                               VEC sum[SUMS / 2][8])
{
    UNROLL for (int r = 0; r < m; r++) UNROLL for (int c = 0; c < n; c++)
        V(store_lanes)(c == n - 1, p + r * ld + c * LANES, last, sum[r][c]);
}

/* sum = phi(sum), in a loop that is not unrolled: a tile has up to 24 registers. */
static inline ALWAYS_INLINE void V(phi_tile)(const int m, const int n, int phi, VEC sum[SUMS / 2][8])
{
    VEC line[SUMS];
    UNROLL for (int r = 0; r < m; r++) UNROLL for (int c = 0; c < n; c++) line[r * n + c] = sum[r][c];
    if (phi == PYRNN_TANH)
        NO_UNROLL for (int x = 0; x < m * n; x++) line[x] = V(tanh)(line[x]);
    else if (phi == PYRNN_RELU)
        NO_UNROLL for (int x = 0; x < m * n; x++) line[x] = V(relu)(line[x]);
    UNROLL for (int r = 0; r < m; r++) UNROLL for (int c = 0; c < n; c++) sum[r][c] = line[r * n + c];
}

/* sum = phi'(h) sum, h the values of phi. */
static inline ALWAYS_INLINE void V(slope_tile)(const int m, const int n, int phi, const REAL *h, ptrdiff_t ld,
                                               ptrdiff_t last, VEC sum[SUMS / 2][8])
{
    if (phi == PYRNN_TANH) {
        UNROLL for (int r = 0; r < m; r++) UNROLL for (int c = 0; c < n; c++) sum[r][c] =
            V(mul)(V(slope)(V(load_lanes)(c == n - 1, h + r * ld + c * LANES, last)), sum[r][c]);
    } else if (phi == PYRNN_RELU) {
        UNROLL for (int r = 0; r < m; r++) UNROLL for (int c = 0; c < n; c++) sum[r][c] =
            V(where_active)(V(load_lanes)(c == n - 1, h + r * ld + c * LANES, last), sum[r][c]);
    }
}

/* sum = (1 - alpha) past + alpha sum, or with `all` (1 - alpha) past + sum. */
static inline ALWAYS_INLINE void V(leak_tile)(const int m, const int n, const int all, const REAL *alpha,
                                              const REAL *past, ptrdiff_t ld, ptrdiff_t last, VEC sum[SUMS / 2][8])
{
    UNROLL for (int c = 0; c < n; c++)
    {
        const VEC a = V(load_lanes)(c == n - 1, alpha + c * LANES, last), keep = V(sub)(V(set)(1), a);
        UNROLL for (int r = 0; r < m; r++)
        {
            const VEC old = V(load_lanes)(c == n - 1, past + r * ld + c * LANES, last);
            sum[r][c] = all ? V(fma)(keep, old, sum[r][c]) : V(fma)(a, sum[r][c], V(mul)(keep, old));
        }
    }
}

static inline ALWAYS_INLINE void V(scale_tile)(const int m, const int n, const REAL *alpha, ptrdiff_t last,
                                               VEC sum[SUMS / 2][8])
{
    UNROLL for (int c = 0; c < n; c++)
    {
        const VEC a = V(load_lanes)(c == n - 1, alpha + c * LANES, last);
        UNROLL for (int r = 0; r < m; r++) sum[r][c] = V(mul)(a, sum[r][c]);
    }
}

/* The tile of m rows and n registers at row i, column j; `last` lanes of the last register are columns of out. */
typedef void V(tile_function)(const V(work) * w, ptrdiff_t i, ptrdiff_t j, ptrdiff_t last);

static inline ALWAYS_INLINE void V(tile)(const int what, const int m, const int n, const V(work) * w, ptrdiff_t i,
                                         ptrdiff_t j, ptrdiff_t last)
{
    const int leaky = what == V(LEAKY_FORWARD) || what == V(LEAKY_BACKWARD);
    const REAL *init = w->init ? w->init + i * w->ld_init + j : NULL, *alpha = leaky ? w->alpha + j : NULL;
    const REAL *past = leaky ? w->past + i * w->ld_past + j : NULL;
    REAL *out = w->out + i * w->ld_out + j, *copy = what != V(KEEP) && w->copy ? w->copy + i * w->ld_copy + j : NULL;
    REAL *rates = what == V(LEAKY_FORWARD) && w->rates ? w->rates + i * w->ld_rates + j : NULL;
    VEC sum[SUMS / 2][8], line[SUMS];
    if ((what == V(FORWARD) || what == V(LEAKY_FORWARD)) && w->before.K) {
        V(product_tile)(m, n, &w->before, i, j, sum);
        V(add_tile)(m, n, init, w->ld_init, last, sum);
        UNROLL for (int r = 0; r < m; r++) UNROLL for (int c = 0; c < n; c++) line[r * n + c] = sum[r][c];
        V(product_tile)(m, n, &w->pair, i, j, sum);
        UNROLL for (int r = 0; r < m; r++) UNROLL for (int c = 0; c < n; c++) sum[r][c] =
            V(add)(line[r * n + c], sum[r][c]);
    } else {
        V(product_tile)(m, n, &w->pair, i, j, sum);
        if (what != V(LEAKY_BACKWARD)) V(add_tile)(m, n, init, w->ld_init, last, sum);
    }
    switch (what) {
    case V(FORWARD):
        V(phi_tile)(m, n, w->phi, sum);
        if (copy) V(store_tile)(m, n, copy, w->ld_copy, last, sum);
        break;
    case V(BACKWARD):
        if (copy) V(store_tile)(m, n, copy, w->ld_copy, last, sum);
        V(slope_tile)(m, n, w->phi, w->h + i * w->ld_h + j, w->ld_h, last, sum);
        break;
    case V(LEAKY_FORWARD):
        if (w->current) {
            V(leak_tile)(m, n, 0, alpha, past, w->ld_past, last, sum);
            V(store_tile)(m, n, out, w->ld_out, last, sum);
            V(phi_tile)(m, n, w->phi, sum);
            if (rates) V(store_tile)(m, n, rates, w->ld_rates, last, sum);
            if (copy) V(store_tile)(m, n, copy, w->ld_copy, last, sum);
            return;
        }
        V(phi_tile)(m, n, w->phi, sum);
        if (rates) V(store_tile)(m, n, rates, w->ld_rates, last, sum);
        V(leak_tile)(m, n, 0, alpha, past, w->ld_past, last, sum);
        if (copy) V(store_tile)(m, n, copy, w->ld_copy, last, sum);
        break;
    case V(LEAKY_BACKWARD):
        if (w->current) V(slope_tile)(m, n, w->phi, w->h + i * w->ld_h + j, w->ld_h, last, sum);
        V(leak_tile)(m, n, 1, alpha, past, w->ld_past, last, sum);
        V(add_tile)(m, n, init, w->ld_init, last, sum);
        V(store_tile)(m, n, copy, w->ld_copy, last, sum);
        if (!w->current) V(slope_tile)(m, n, w->phi, w->h + i * w->ld_h + j, w->ld_h, last, sum);
        V(scale_tile)(m, n, alpha, last, sum);
        break;
    }
    V(store_tile)(m, n, out, w->ld_out, last, sum);
}

/* A tile of an outer product: C = or, with `add`, += D X once `done`; until then its sums wait in `sums`. Each call is
 * a chain of its own, which begins with zero. */
typedef void V(outer_function)(ptrdiff_t K, const REAL *D, ptrdiff_t ld_d, const REAL *X, VEC *sums, int more, int done,
                               int add, REAL *C, ptrdiff_t ld_c, ptrdiff_t last);

static inline ALWAYS_INLINE void V(outer_tile)(const int m, const int n, ptrdiff_t K, const REAL *D, ptrdiff_t ld_d,
                                               const REAL *X, VEC *sums, int more, int done, int add, REAL *C,
                                               ptrdiff_t ld_c, ptrdiff_t last)
{
    VEC sum[SUMS / 2][8];
    UNROLL for (int r = 0; r < m; r++) UNROLL for (int c = 0; c < n; c++) sum[r][c] = V(set)(0);
    V(accumulate)(m, n, 1, K, D, ld_d, X, 0, sum);
    if (more)
        UNROLL for (int r = 0; r < m; r++) UNROLL for (int c = 0; c < n; c++) sum[r][c] =
            V(add)(sums[r * n + c], sum[r][c]);
    if (done) {
        V(add_tile)(m, n, add ? C : NULL, ld_c, last, sum);
        V(store_tile)(m, n, C, ld_c, last, sum);
    } else {
        UNROLL for (int r = 0; r < m; r++) UNROLL for (int c = 0; c < n; c++) sums[r * n + c] = sum[r][c];
    }
}

/* pyrnn_forward_12x2_f32_avx512, pyrnn_outer_12x2_f32_avx512 and so on: 12 rows, 2 registers. */
#define TILE(kind, KIND, m, n)                                                                        \
    static void KERNEL(kind##_##m##x##n)(const V(work) * w, ptrdiff_t i, ptrdiff_t j, ptrdiff_t last) \
    {                                                                                                 \
        V(tile)(V(KIND), m, n, w, i, j, last);                                                        \
    }
#define EACH(m, n)                           \
    TILE(product, KEEP, m, n)                \
    TILE(forward, FORWARD, m, n)             \
    TILE(backward, BACKWARD, m, n)           \
    TILE(leaky_forward, LEAKY_FORWARD, m, n) \
    TILE(leaky_backward, LEAKY_BACKWARD, m, n)
#define OUTER(m, n)                                                                                           \
    static void KERNEL(outer_##m##x##n)(ptrdiff_t K, const REAL *D, ptrdiff_t ld_d, const REAL *X, VEC *sums, \
                                        int more, int done, int add, REAL *C, ptrdiff_t ld_c, ptrdiff_t last) \
    {                                                                                                         \
        V(outer_tile)(m, n, K, D, ld_d, X, sums, more, done, add, C, ld_c, last);                             \
    }
#define ALL(m) EACH(m, 1) EACH(m, 2) OUTER(m, 1) OUTER(m, 2)
/* clang-format off */
ALL(1) ALL(2) ALL(3) ALL(4) ALL(5) ALL(6) EACH(1, 4) EACH(2, 4) EACH(3, 4) EACH(1, 8)
#if SUMS == 24
ALL(7) ALL(8) ALL(9) ALL(10) ALL(11) ALL(12) EACH(4, 4) EACH(5, 4) EACH(6, 4) EACH(2, 8) EACH(3, 8)
#endif
#undef TILE
#undef EACH
#undef OUTER
#undef ALL

#define T(kind, m, n) KERNEL(kind##_##m##x##n)
#define UP_TO_3(kind, n) T(kind, 1, n), T(kind, 2, n), T(kind, 3, n)
#define UP_TO_6(kind, n) UP_TO_3(kind, n), T(kind, 4, n), T(kind, 5, n), T(kind, 6, n)
#if SUMS == 24
#define MOST(kind, n) UP_TO_6(kind, n), T(kind, 7, n), T(kind, 8, n), T(kind, 9, n), T(kind, 10, n), T(kind, 11, n), T(kind, 12, n)
#define HALF(kind) UP_TO_6(kind, 4)
#define QUARTER(kind) UP_TO_3(kind, 8)
#else
#define MOST(kind, n) UP_TO_6(kind, n)
#define HALF(kind) UP_TO_3(kind, 4)
#define QUARTER(kind) T(kind, 1, 8)
#endif
#define SHAPES(kind) {{MOST(kind, 1)}, {MOST(kind, 2)}, {HALF(kind)}, {QUARTER(kind)}}
/* By what becomes of them, the binary logarithm of the registers, and the rows less one. */
static V(tile_function) *const V(tiles)[V(KINDS)][4][SUMS / 2] = {SHAPES(product), SHAPES(forward), SHAPES(backward),
                                                                  SHAPES(leaky_forward), SHAPES(leaky_backward)};
static V(outer_function) *const V(outer_tiles)[2][SUMS / 2] = {{MOST(outer, 1)}, {MOST(outer, 2)}};
/* clang-format on */
#undef T
#undef UP_TO_3
#undef UP_TO_6
#undef MOST
#undef HALF
#undef QUARTER
#undef SHAPES

/* Bring near what a tile reads and writes once its sums are there: a few cache lines of each of some rows from memory,
 * which no processor foresees. Both ends count, since rows begin where they like. */
static inline void V(fetch)(const REAL *a, ptrdiff_t ld, ptrdiff_t rows, ptrdiff_t columns)
{
    for (ptrdiff_t r = 0; r < rows; r++) {
        for (ptrdiff_t c = 0; c < columns; c += 64 / (ptrdiff_t)sizeof(REAL)) PREFETCH(a + r * ld + c);
        PREFETCH(a + r * ld + columns - 1);
    }
}

/* The columns of 2^n registers from column j on, for all the rows. They are shared out evenly between tiles, so that 13
 * become 7 and 6: `larger` tiles have one more than `small`. */
static inline void V(run_columns)(const int what, ptrdiff_t tiles, ptrdiff_t small, ptrdiff_t larger, ptrdiff_t N,
                                  const V(work) * w, ptrdiff_t j, int n)
{
    const ptrdiff_t most = LANES << n, columns = N - j < most ? N - j : most;
    for (ptrdiff_t t = 0, i = 0; t < tiles; t++) {
        const ptrdiff_t m = small + (t < larger);
        if (what != V(KEEP)) V(fetch)(w->out + i * w->ld_out + j, w->ld_out, m, columns);
        if (what == V(LEAKY_FORWARD) || what == V(LEAKY_BACKWARD))
            V(fetch)(w->past + i * w->ld_past + j, w->ld_past, m, columns);
        if (what == V(BACKWARD) || what == V(LEAKY_BACKWARD)) {
            V(fetch)(w->h + i * w->ld_h + j, w->ld_h, m, columns);
            V(fetch)(w->init + i * w->ld_init + j, w->ld_init, m, columns);
        }
        V(tiles)[what][n][m - 1](w, i, j, columns - (most - LANES));
        i += m;
    }
}

/* All the work [rows, N], tile by tile. A panel stays in the nearest cache for all the rows. Tiles are as wide as their
 * rows allow; what is left has one of each smaller width that it takes.
 *
 * One to three rows read each panel once a step, and all panels together may be more than a cache holds. So every other
 * step begins with the last panel: what the step before has left is used before it is replaced. Measured (AVX2, 1 row):
 * up to 1.05 times as fast at H = 128 and 256, 1.1 to 1.2 times at H = 512; with 8 rows and more it is no faster, and
 * in float64 at H = 256 slower. */
static void V(run)(const int what, ptrdiff_t rows, ptrdiff_t N, const V(work) * w, int odd)
{
    const int from_right = odd && rows < 4;
    const ptrdiff_t tiles = (rows + SUMS / 2 - 1) / (SUMS / 2), registers = (N + LANES - 1) / LANES;
    if (!tiles || !registers) return;
    const ptrdiff_t small = rows / tiles, larger = rows % tiles, m = small + (larger > 0);
    int widest = 3;
    while (m << widest > SUMS || (ptrdiff_t)1 << widest > registers) widest--;
#define COLUMNS(r, n) V(run_columns)(what, tiles, small, larger, N, w, (r)*LANES, n)
    if (from_right) {
        ptrdiff_t r = registers;
        for (int n = 0; n < widest; n++)
            if (registers >> n & 1) COLUMNS(r -= (ptrdiff_t)1 << n, n);
        while (r > 0) COLUMNS(r -= (ptrdiff_t)1 << widest, widest);
    } else {
        ptrdiff_t r = 0;
        for (; r + ((ptrdiff_t)1 << widest) <= registers; r += (ptrdiff_t)1 << widest) COLUMNS(r, widest);
        for (int n = widest - 1; n >= 0; n--)
            if (registers >> n & 1) COLUMNS(r, n), r += (ptrdiff_t)1 << n;
    }
#undef COLUMNS
}

static ptrdiff_t KERNEL(panels_size)(ptrdiff_t K, ptrdiff_t N) { return K * ((N + LANES - 1) / LANES * LANES); }

/* Rows that are packed together: they stay in the nearest cache while their columns go to one panel after the other. */
enum { V(PACKED_TOGETHER) = 16 };

/* Rows of one matrix, ld_r or as `at` says apart, all to their places in the panels. */
static inline ALWAYS_INLINE void V(pack_rows)(ptrdiff_t K, ptrdiff_t first, ptrdiff_t rows, ptrdiff_t N, const REAL *B,
                                              ptrdiff_t ld_r, const ptrdiff_t *at, REAL *panels)
{
    ptrdiff_t j = 0;
    for (; j + 2 * LANES <= N; j += 2 * LANES, panels += K * 2 * LANES)
        for (ptrdiff_t r = 0; r < rows; r++) {
            const VEC a = V(load)(B + (at ? at[r] : r * ld_r) + j),
                      b = V(load)(B + (at ? at[r] : r * ld_r) + j + LANES);
            V(store)(panels + (first + r) * 2 * LANES, a);
            V(store)(panels + (first + r) * 2 * LANES + LANES, b);
        }
    if (j == N) return;
    const ptrdiff_t width = N - j > LANES ? 2 * LANES : LANES;
    for (ptrdiff_t r = 0; r < rows; r++)
        for (ptrdiff_t c = 0; c < width; c += LANES) {
            const ptrdiff_t rest = N - j - c;
            const REAL *from = B + (at ? at[r] : r * ld_r) + j + c;
            V(store)
            (panels + (first + r) * width + c, rest >= LANES ? V(load)(from) : V(load_part)(from, rest));
        }
}

static void KERNEL(pack)(ptrdiff_t K, ptrdiff_t first, ptrdiff_t steps, ptrdiff_t rows, ptrdiff_t N, const REAL *B,
                         ptrdiff_t ld_t, ptrdiff_t ld_r, REAL *panels)
{
    if (rows == 1) { /* one row a step is one step of so many rows */
        rows = steps, ld_r = ld_t;
        steps = 1;
    }
    for (ptrdiff_t t = 0; t < steps; t++)
        for (ptrdiff_t r = 0; r < rows; r += V(PACKED_TOGETHER)) {
            const ptrdiff_t n = rows - r < V(PACKED_TOGETHER) ? rows - r : V(PACKED_TOGETHER);
            V(pack_rows)(K, first + t * rows + r, n, N, B + t * ld_t + r * ld_r, ld_r, NULL, panels);
        }
}

static void KERNEL(pack_rows_at)(ptrdiff_t K, ptrdiff_t first, ptrdiff_t rows, ptrdiff_t N, const REAL *B,
                                 const ptrdiff_t *at, REAL *panels)
{
    for (ptrdiff_t r = 0; r < rows; r += V(PACKED_TOGETHER)) {
        const ptrdiff_t n = rows - r < V(PACKED_TOGETHER) ? rows - r : V(PACKED_TOGETHER);
        V(pack_rows)(K, first + r, n, N, B, 0, at + r, panels);
    }
}

static void KERNEL(pack_narrow)(ptrdiff_t K, ptrdiff_t M, const REAL *D, ptrdiff_t ld_d, REAL *panels)
{
    enum { WIDTH = SUMS / 2 };
    for (ptrdiff_t k0 = 0; k0 < K; k0 += V(PACKED_TOGETHER)) {
        const ptrdiff_t end = K - k0 < V(PACKED_TOGETHER) ? K : k0 + V(PACKED_TOGETHER);
        ptrdiff_t i = 0;
        for (; i + WIDTH <= M; i += WIDTH)
            for (ptrdiff_t k = k0; k < end; k++)
                memcpy(panels + i * K + k * WIDTH, D + k * ld_d + i, WIDTH * sizeof(REAL));
        for (ptrdiff_t k = k0; i < M && k < end; k++)
            memcpy(panels + i * K + k * (M - i), D + k * ld_d + i, (size_t)(M - i) * sizeof(REAL));
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
    V(run)
    (V(KEEP), rows, N,
     &(V(work)){.pair = {K, A, ld_a, panels}, .init = init, .ld_init = ld_init, .out = out, .ld_out = ld_out}, 0);
}

/* What the four kernels below do where phi is behind PYRNN_IDENTITY: the tiles compute as with the identity, and a body
 * of kernels.inl makes the rest of the step of the rows, which are still in a cache. In the tiles, one for each shape,
 * those functions would make the library twice as large. The bits are those that tiles would compute. */
static void V(copy_rows)(ptrdiff_t rows, ptrdiff_t H, const REAL *from, ptrdiff_t ld_from, REAL *to, ptrdiff_t ld_to)
{
    for (ptrdiff_t r = 0; r < rows; r++) memcpy(to + r * ld_to, from + r * ld_from, (size_t)H * sizeof(REAL));
}

static void KERNEL(fused_forward)(ptrdiff_t rows, ptrdiff_t inputs, ptrdiff_t H, const REAL *x, ptrdiff_t ld_x,
                                  const REAL *panels_U, const REAL *previous, ptrdiff_t ld_previous,
                                  const REAL *panels_W, const REAL *init, ptrdiff_t ld_init, REAL *h, ptrdiff_t ld_h,
                                  REAL *copy, ptrdiff_t ld_copy, pyrnn_phi phi, int odd)
{
    const int others = phi.kind > PYRNN_IDENTITY;
    V(run)
    (V(FORWARD), rows, H,
     &(V(work)){.pair = {H, previous, ld_previous, panels_W},
                .before = {inputs, x, ld_x, panels_U},
                .init = init,
                .ld_init = ld_init,
                .out = h,
                .ld_out = ld_h,
                .copy = others ? NULL : copy,
                .ld_copy = ld_copy,
                .phi = others ? PYRNN_IDENTITY : phi.kind},
     odd);
    if (!others) return;
    V(step_forward)(1, rows, H, NULL, h, ld_h, phi);
    if (copy) V(copy_rows)(rows, H, h, ld_h, copy, ld_copy);
}

static void KERNEL(leaky_forward)(ptrdiff_t rows, ptrdiff_t inputs, ptrdiff_t H, const REAL *x, ptrdiff_t ld_x,
                                  const REAL *panels_U, const REAL *previous, ptrdiff_t ld_previous,
                                  const REAL *panels_W, const REAL *init, ptrdiff_t ld_init, const REAL *past,
                                  ptrdiff_t ld_past, REAL *h, ptrdiff_t ld_h, REAL *copy, ptrdiff_t ld_copy,
                                  REAL *rates, ptrdiff_t ld_rates, const REAL *alpha, pyrnn_phi phi, int current,
                                  int odd)
{
    const int others = phi.kind > PYRNN_IDENTITY;
    V(run)
    (others ? V(FORWARD) : V(LEAKY_FORWARD), rows, H,
     &(V(work)){.pair = {H, previous, ld_previous, panels_W},
                .before = {inputs, x, ld_x, panels_U},
                .init = init,
                .ld_init = ld_init,
                .past = past,
                .ld_past = ld_past,
                .out = h,
                .ld_out = ld_h,
                .copy = others ? NULL : copy,
                .ld_copy = ld_copy,
                .rates = rates,
                .ld_rates = ld_rates,
                .alpha = alpha,
                .phi = others ? PYRNN_IDENTITY : phi.kind,
                .current = current},
     odd);
    if (!others) return;
    if (current && !rates) rates = copy, ld_rates = ld_copy, copy = NULL;
    V(leaky_step_forward)(1, rows, H, NULL, past, ld_past, h, ld_h, rates, ld_rates, alpha, phi, current);
    if (copy) V(copy_rows)(rows, H, current ? rates : h, current ? ld_rates : ld_h, copy, ld_copy);
}

static void KERNEL(fused_backward)(ptrdiff_t rows, ptrdiff_t H, const REAL *later, ptrdiff_t ld_later,
                                   const REAL *panels, const REAL *h, ptrdiff_t ld_h, const REAL *dh, ptrdiff_t ld_dh,
                                   REAL *grad, ptrdiff_t ld_grad, REAL *delta, ptrdiff_t ld_delta, pyrnn_phi phi,
                                   int odd)
{
    const int others = phi.kind > PYRNN_IDENTITY;
    V(run)
    (V(BACKWARD), rows, H,
     &(V(work)){.pair = {H, later, ld_later, panels},
                .init = dh,
                .ld_init = ld_dh,
                .out = delta,
                .ld_out = ld_delta,
                .copy = grad,
                .ld_copy = ld_grad,
                .h = h,
                .ld_h = ld_h,
                .phi = others ? PYRNN_IDENTITY : phi.kind},
     odd);
    if (others) V(step_backward)(1, rows, H, h, ld_h, delta, ld_delta, NULL, 0, NULL, 0, delta, ld_delta, phi);
}

static void KERNEL(leaky_backward)(ptrdiff_t rows, ptrdiff_t H, const REAL *later, ptrdiff_t ld_later,
                                   const REAL *panels, const REAL *rates, ptrdiff_t ld_rates, const REAL *dh,
                                   ptrdiff_t ld_dh, const REAL *past, ptrdiff_t ld_past, REAL *grad, ptrdiff_t ld_grad,
                                   REAL *delta, ptrdiff_t ld_delta, const REAL *alpha, pyrnn_phi phi, int current,
                                   int odd)
{
    const int others = phi.kind > PYRNN_IDENTITY;
    V(run)
    (others ? V(KEEP) : V(LEAKY_BACKWARD), rows, H,
     &(V(work)){.pair = {H, later, ld_later, panels},
                .init = others ? NULL : dh,
                .ld_init = ld_dh,
                .past = past,
                .ld_past = ld_past,
                .out = delta,
                .ld_out = ld_delta,
                .copy = grad,
                .ld_copy = ld_grad,
                .h = rates,
                .ld_h = ld_rates,
                .alpha = alpha,
                .phi = phi.kind,
                .current = current},
     odd);
    if (others) V(leaky_step_backward)
    (1, rows, H, rates, ld_rates, dh, ld_dh, delta, ld_delta, past, ld_past, grad, ld_grad, delta, ld_delta, alpha, phi,
     current);
}

/* Blocks as those of any fast matrix product (Goto and van de Geijn 2008): DEPTH rows of a wide panel stay in the first
 * cache while those of some narrow ones come from the second. The sums of a block of tiles wait for the next DEPTH.
 * That the chains end there costs no time and keeps digits that a chain over a thousand rows would lose. */
static void KERNEL(outer)(ptrdiff_t K, ptrdiff_t M, ptrdiff_t N, const REAL *D, ptrdiff_t ld_d, const REAL *X,
                          int accumulate, REAL *C, ptrdiff_t ld_c)
{
    enum { ROWS = SUMS / 2, TILES = 72 / ROWS, DEPTH = 128 };
    VEC sums[TILES][SUMS];
    for (ptrdiff_t first = 0; first < M; first += TILES * ROWS)
        for (ptrdiff_t j = 0; j < N; j += 2 * LANES) {
            const int n = N - j > LANES;
            const ptrdiff_t width = n ? 2 * LANES : LANES, columns = N - j < width ? N - j : width;
            ptrdiff_t k = 0, depth;
            do {
                depth = K - k < DEPTH ? K - k : DEPTH;
                const int done = k + depth == K;
                for (ptrdiff_t t = 0, i = first; t < TILES && i < M; t++, i += ROWS) {
                    const ptrdiff_t m = M - i < ROWS ? M - i : ROWS;
                    if (done && accumulate) V(fetch)(C + i * ld_c + j, ld_c, m, columns);
                    V(outer_tiles)
                    [n][m - 1](depth, ld_d ? D + k * ld_d + i : D + i * K + k * m, ld_d ? ld_d : m,
                               X + j * K + k * width, sums[t], k > 0, done, accumulate, C + i * ld_c + j, ld_c,
                               columns - n * LANES);
                }
                k += depth;
            } while (k < K);
        }
}

/* n registers of columns; the last register holds `last` numbers. The sums have the order of those of `outer`. */
static inline ALWAYS_INLINE void V(few_rows)(const int m, const int n, ptrdiff_t K, const REAL *D, ptrdiff_t ld_d,
                                             const REAL *A, ptrdiff_t ld_a, const REAL *X, ptrdiff_t ld_x, REAL *P,
                                             ptrdiff_t ld_p, int accumulate, REAL *C, ptrdiff_t ld_c, ptrdiff_t last)
{
    enum { DEPTH = 128 };
    VEC total[4][4];
    ptrdiff_t k = 0;
    do {
        const ptrdiff_t begin = k, end = K - k < DEPTH ? K : k + DEPTH;
        VEC sum[4][4];
        UNROLL for (int r = 0; r < m; r++) UNROLL for (int c = 0; c < n; c++) sum[r][c] = V(set)(0);
        for (; k < end; k++, D += ld_d, X += ld_x, P += ld_p) UNROLL for (int c = 0; c < n; c++)
            {
                const ptrdiff_t lanes = c < n - 1 ? LANES : last;
                const VEC x = V(load_some)(X + c * LANES, lanes);
                VEC product = V(set)(0);
                UNROLL for (int r = 0; r < m; r++)
                {
                    const VEC d = V(set)(D[r]);
                    product = V(fma)(d, V(load_some)(A + r * ld_a + c * LANES, lanes), product);
                    sum[r][c] = V(fma)(d, x, sum[r][c]);
                }
                V(store_some)(P + c * LANES, lanes, product);
            }
        UNROLL for (int r = 0; r < m; r++) UNROLL for (int c = 0; c < n; c++) total[r][c] =
            begin ? V(add)(total[r][c], sum[r][c]) : sum[r][c];
    } while (k < K);
    UNROLL for (int r = 0; r < m; r++) UNROLL for (int c = 0; c < n; c++)
    {
        const ptrdiff_t lanes = c < n - 1 ? LANES : last;
        REAL *at = C + r * ld_c + c * LANES;
        V(store_some)(at, lanes, accumulate ? V(add)(V(load_some)(at, lanes), total[r][c]) : total[r][c]);
    }
}

static inline ALWAYS_INLINE void V(few_rows_of)(const int m, ptrdiff_t K, ptrdiff_t N, const REAL *D, ptrdiff_t ld_d,
                                                const REAL *A, ptrdiff_t ld_a, const REAL *X, ptrdiff_t ld_x, REAL *P,
                                                ptrdiff_t ld_p, int accumulate, REAL *C, ptrdiff_t ld_c)
{
#define COLUMNS(n, last) \
    V(few_rows)(m, n, K, D, ld_d, A + j, ld_a, X + j, ld_x, P + j, ld_p, accumulate, C + j, ld_c, last)
    ptrdiff_t j = 0;
#if SUMS == 24
    for (; N - j > 3 * LANES; j += 4 * LANES) COLUMNS(4, N - j < 4 * LANES ? N - j - 3 * LANES : LANES);
#endif
    for (; N - j > LANES; j += 2 * LANES) COLUMNS(2, N - j < 2 * LANES ? N - j - LANES : LANES);
    if (j < N) COLUMNS(1, N - j);
#undef COLUMNS
}

static void KERNEL(product_and_outer)(ptrdiff_t K, ptrdiff_t M, ptrdiff_t N, const REAL *D, ptrdiff_t ld_d,
                                      const REAL *A, ptrdiff_t ld_a, const REAL *X, ptrdiff_t ld_x, REAL *P,
                                      ptrdiff_t ld_p, int accumulate, REAL *C, ptrdiff_t ld_c)
{
    switch (M) {
    case 1:
        V(few_rows_of)(1, K, N, D, ld_d, A, ld_a, X, ld_x, P, ld_p, accumulate, C, ld_c);
        break;
    case 2:
        V(few_rows_of)(2, K, N, D, ld_d, A, ld_a, X, ld_x, P, ld_p, accumulate, C, ld_c);
        break;
    case 3:
        V(few_rows_of)(3, K, N, D, ld_d, A, ld_a, X, ld_x, P, ld_p, accumulate, C, ld_c);
        break;
    default:
        V(few_rows_of)(4, K, N, D, ld_d, A, ld_a, X, ld_x, P, ld_p, accumulate, C, ld_c);
    }
}
