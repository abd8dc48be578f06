/* Every kernel for every instruction set that the compiler knows, and the choice between them. The bodies are in
 * kernels.inl, which is included once for each set under the flags of that set. */
#include "kernels.h"

#include <math.h>
#include <stdint.h>
#include <string.h>

#define PYRNN_GLUE_(a, b) a##_##b
#define PYRNN_GLUE(a, b) PYRNN_GLUE_(a, b)
#define SIMD(word) PYRNN_GLUE(word, ISA)
#if defined(__GNUC__) || defined(__clang__)
#define UNROLL _Pragma("GCC unroll 12")
#define NO_UNROLL _Pragma("GCC unroll 1")
#define ALWAYS_INLINE __attribute__((always_inline))
#define PREFETCH(p) __builtin_prefetch(p)
#else
#define UNROLL
#define NO_UNROLL
#define ALWAYS_INLINE
#define PREFETCH(p) (void)(p)
#endif

/* Coefficients of tanh.h and softplus.h, printed by coefficients.py. */
enum { PHI_R_DEGREE_f32 = 6, PHI_P_DEGREE_f32 = 4, PHI_R_DEGREE_f64 = 11, PHI_P_DEGREE_f64 = 9 };
static const float PHI_R_f32[] = {-0x1.555542p-2f, 0x1.110dp-3f,   -0x1.b982c6p-5f, 0x1.60e32ap-6f,
                                  -0x1.073932p-7f, 0x1.36f5eep-9f, -0x1.8f98c8p-12f};
static const float PHI_P_f32[] = {0x1.fffffcp-1f, 0x1.55548ep-1f, 0x1.55599cp-2f, 0x1.123bcap-3f, 0x1.6988eap-5f};
static const double PHI_R_f64[] = {-0x1.5555555555552p-2,  0x1.1111111110c03p-3,   -0x1.ba1ba1b9ce663p-5,
                                   0x1.664f4870375f3p-6,   -0x1.226e32c13007ap-7,  0x1.d6d3584e2d19ap-9,
                                   -0x1.7d9c1d596bf7cp-10, 0x1.350ae18c91b2cp-11,  -0x1.f10cb3c644b2ap-13,
                                   0x1.80061794d163fp-14,  -0x1.fa751cfc25d90p-16, 0x1.9580cd20776c5p-18};
static const double PHI_P_f64[] = {
    0x1.000000000000ap+0, 0x1.55555555554dfp-1, 0x1.55555555507b0p-2,  0x1.111111112f148p-3,  0x1.6c16c18468d36p-5,
    0x1.a01a00feec35dp-7, 0x1.a019994006e18p-9, 0x1.71df8df9171e5p-11, 0x1.28ae47880150ap-13, 0x1.acce4f9b509dcp-16};
enum { PHI_Q_DEGREE_f32 = 4, PHI_A_DEGREE_f32 = 2, PHI_Q_DEGREE_f64 = 9, PHI_A_DEGREE_f64 = 6 };
static const float PHI_Q_f32[] = {0x1.fffffep-4f, -0x1.555462p-8f, 0x1.6bd35p-12f, -0x1.b1bee6p-16f, 0x1.c05986p-20f};
static const float PHI_A_f32[] = {0x1.55556ap-1f, 0x1.997266p-2f, 0x1.2f6a86p-2f};
static const double PHI_Q_f64[] = {0x1.ffffffffffffbp-4,   -0x1.55555555547a6p-8,  0x1.6c16c16b3a6bcp-12,
                                   -0x1.ba1ba14afe673p-16, 0x1.1ea5c35b7a36cp-19,  -0x1.833aa538797b6p-23,
                                   0x1.0cde9b4168739p-26,  -0x1.7a3861ecd72dcp-30, 0x1.fb8e7517cd935p-34,
                                   -0x1.ea3d51c311e14p-38};
static const double PHI_A_f64[] = {0x1.5555555555564p-1, 0x1.9999999991f3cp-2, 0x1.2492492f3a126p-2,
                                   0x1.c71c63b6ede81p-3, 0x1.74620bb7a2bb9p-3, 0x1.3a1eed3001556p-3,
                                   0x1.2955f9ce0f882p-3};
/* tanh is 1 from ONE on, sech² 0 from ZERO on. Whether tanh needs the second part of log(2)/2; sech² does. Below LOWEST
 * exp is subnormal, from HIGHEST on infinite. */
enum { PHI_TANH_PRECISE_f32 = 0, PHI_TANH_PRECISE_f64 = 1 };
static const float PHI_LEAST_f32 = 0x1p-126f;
static const double PHI_LEAST_f64 = 0x1p-1022;
static const float PHI_SPLIT_f32 = 0.975f, PHI_ONE_f32 = 10.0f, PHI_ZERO_f32 = 60.0f, PHI_SHIFT_f32 = 0x1.8p23f + 127,
                   PHI_RAISED_f32 = 64, PHI_LOWER_f32 = 0x1p-64f, PHI_TWO_LOG2E_f32 = 0x1.715476p+1f,
                   PHI_HALF_LN2_f32 = 0x1.62e43p-2f, PHI_HALF_LN2_LOW_f32 = -0x1.05c61p-30f,
                   PHI_LOWEST_f32 = -0x1.5d589ep+6f, PHI_HIGHEST_f32 = 89, PHI_LN2_f32 = 0x1.62e43p-1f,
                   PHI_LN2_LOW_f32 = -0x1.05c61p-29f;
static const double PHI_SPLIT_f64 = 0.625, PHI_ONE_f64 = 20.0, PHI_ZERO_f64 = 400.0, PHI_SHIFT_f64 = 0x1.8p52 + 1023,
                    PHI_RAISED_f64 = 512, PHI_LOWER_f64 = 0x1p-512, PHI_TWO_LOG2E_f64 = 0x1.71547652b82fep+1,
                    PHI_HALF_LN2_f64 = 0x1.62e42fefa39efp-2, PHI_HALF_LN2_LOW_f64 = 0x1.abc9e3b39803fp-57,
                    PHI_LOWEST_f64 = -0x1.6232bdd7abcd2p+9, PHI_HIGHEST_f64 = 710, PHI_LN2_f64 = 0x1.62e42fefa39efp-1,
                    PHI_LN2_LOW_f64 = 0x1.abc9e3b39803fp-56;

/* Coefficients of noise.h, printed by coefficients.py, and half of the last bit of a word. */
enum { NOISE_L_DEGREE_f32 = 8, NOISE_S_DEGREE_f32 = 4, NOISE_C_DEGREE_f32 = 4 };
enum { NOISE_L_DEGREE_f64 = 18, NOISE_S_DEGREE_f64 = 9, NOISE_C_DEGREE_f64 = 9 };
static const float NOISE_L_f32[] = {0x1.00001ep+0f, -0x1.5542bap-1f, 0x1.01edbap-1f, -0x1.67ef56p-2f, 0x1.5cd80ep-1f,
                                    0x1.301bdap+0f, 0x1.f944fcp+1f,  0x1.3d4bf6p+2f, 0x1.be8b22p+1f};
static const float NOISE_S_f32[] = {0x1.921fb6p+0f, -0x1.4abbc2p-1f, 0x1.4668aep-4f, -0x1.324cb6p-8f, 0x1.3daedcp-13f};
static const float NOISE_C_f32[] = {0x1p+0f, -0x1.de9e5ep-3f, 0x1.472a56p-6f, -0x1.d474cap-11f, 0x1.8bbc74p-16f};
static const double NOISE_L_f64[] = {
    0x1.0000000000175p+0,  -0x1.555555551b68p-1, 0x1.000000195aa82p-1,  -0x1.99998e4954c24p-2, 0x1.5556d96c995b3p-2,
    -0x1.247004f38d7afp-2, 0x1.021d282a5ebfep-2, -0x1.969999ec5cd38p-3, 0x1.9c78db4d6d103p-2,  0x1.2314ad8521bb1p+0,
    0x1.b01ae10e8b63ap+2,  0x1.93575a972d08dp+4, 0x1.2d98a42a85956p+6,  0x1.54fcb3e52ae0cp+7,  0x1.22b71d3679275p+8,
    0x1.686ccdb595835p+8,  0x1.34b9bf3d705dap+8, 0x1.47681af872006p+7,  0x1.4992d3c4a0b09p+5};
static const double NOISE_S_f64[] = {0x1.921fb54442d18p+0,  -0x1.4abbce625be53p-1,  0x1.466bc6775aae2p-4,
                                     -0x1.32d2cce62bd51p-8, 0x1.50783487ebddcp-13,  -0x1.e3074fdc275d1p-19,
                                     0x1.e8f4337c1684cp-25, -0x1.6fad44234dc5ep-31, 0x1.aabab9a9aae8cp-38,
                                     -0x1.7eb3ea0a605c3p-45};
static const double NOISE_C_f64[] = {0x1p+0,
                                     -0x1.de9e64df22ef3p-3,
                                     0x1.472be122434a5p-6,
                                     -0x1.d4fcd83116a8fp-11,
                                     0x1.9f05cb009eb38p-16,
                                     -0x1.f309e857d27edp-22,
                                     0x1.b26876d35c629p-28,
                                     -0x1.1e75ab1fbc799p-34,
                                     0x1.2803adea03919p-41,
                                     -0x1.dfb6d20ef946fp-49};
static const float NOISE_MINUS_2LN2_f32 = -0x1.62e43p+0f, NOISE_HALF_f32 = 0x1p-33f;
static const double NOISE_MINUS_2LN2_f64 = -0x1.62e42fefa39efp+0, NOISE_HALF_f64 = 0x1p-65;

/* The instruction sets, best first. GCC and Clang compile a function for a set that the build's flags do not allow
 * when a pragma says so; other compilers get plain C, as does ThreadSanitizer, which does not see vector loads and
 * stores under a mask. */
#if (defined(__x86_64__) || defined(__i386__)) && (defined(__GNUC__) || defined(__clang__)) && !defined(PYRNN_PLAIN_C)
#define PYRNN_X86 1
#include <immintrin.h>
#ifdef __clang__
#pragma clang attribute push(__attribute__((target("avx512f,avx512dq,avx2,fma"))), apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx512f,avx512dq,avx2,fma")
#endif
#define ISA avx512
#define SUMS 24
#include "simd_avx512.h"
#include "kernels.inl"
#undef ISA
#undef SUMS
#ifdef __clang__
#pragma clang attribute pop
#pragma clang attribute push(__attribute__((target("avx2,fma"))), apply_to = function)
#else
#pragma GCC pop_options
#pragma GCC push_options
#pragma GCC target("avx2,fma")
#endif
#define ISA avx2
#define SUMS 12
#include "simd_avx2.h"
#include "kernels.inl"
#undef ISA
#undef SUMS
#ifdef __clang__
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif
#endif

#if defined(__aarch64__) && (defined(__GNUC__) || defined(__clang__))
#define PYRNN_NEON 1
#include <arm_neon.h>
#define ISA neon
#define SUMS 24
#include "simd_neon.h"
#include "kernels.inl"
#undef ISA
#undef SUMS
#endif

#define ISA base
#define SUMS 12
#include "simd_base.h"
#include "kernels.inl"
#undef ISA
#undef SUMS

static int supported(const char *name)
{
#ifdef PYRNN_X86
    __builtin_cpu_init();
    if (!strcmp(name, "avx512"))
        return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") &&
               __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
    if (!strcmp(name, "avx2")) return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
#endif
    return !strcmp(name, "base") || !strcmp(name, "neon");
}

static const pyrnn_kernel_table *const tables[] = {
#ifdef PYRNN_X86
    &table_avx512,
    &table_avx2,
#endif
#ifdef PYRNN_NEON
    &table_neon,
#endif
    &table_base,
};

/* The table in use; NULL until the first use. Tables are constants, so a thread needs nothing but the whole pointer.
 * MSVC has no C11 atomics in its C11 mode; its volatile pointers are loaded and stored whole. */
#if defined(_MSC_VER) && !defined(__clang__)
#include <intrin.h>
static void *volatile chosen;
#define LOAD_CHOSEN() ((const pyrnn_kernel_table *)chosen)
#define STORE_CHOSEN(table) (void)_InterlockedExchangePointer(&chosen, (void *)(table))
#define CHOOSE_FIRST(table) (void)_InterlockedCompareExchangePointer(&chosen, (void *)(table), NULL)
#else
static const pyrnn_kernel_table *chosen;
#define LOAD_CHOSEN() __atomic_load_n(&chosen, __ATOMIC_ACQUIRE)
#define STORE_CHOSEN(table) __atomic_store_n(&chosen, table, __ATOMIC_RELEASE)
#define CHOOSE_FIRST(table)                                                                        \
    do {                                                                                           \
        const pyrnn_kernel_table *none = NULL;                                                     \
        __atomic_compare_exchange_n(&chosen, &none, table, 0, __ATOMIC_ACQ_REL, __ATOMIC_ACQUIRE); \
    } while (0)
#endif

#if defined(__clang__)
const char *const pyrnn_compiler = __VERSION__;
#elif defined(__GNUC__)
const char *const pyrnn_compiler = "GCC " __VERSION__;
#else
const char *const pyrnn_compiler = "unknown";
#endif

/* The named table, or the best if name is NULL; NULL if there is none. */
static const pyrnn_kernel_table *find(const char *name)
{
    for (size_t i = 0; i < sizeof tables / sizeof tables[0]; i++)
        if (supported(tables[i]->name) && (!name || !strcmp(name, tables[i]->name))) return tables[i];
    return NULL;
}

int pyrnn_select(const char *name)
{
    const pyrnn_kernel_table *table = find(name);
    if (!table) return -1;
    STORE_CHOSEN(table);
    return 0;
}

const pyrnn_kernel_table *pyrnn_kernels(void)
{
    const pyrnn_kernel_table *table = LOAD_CHOSEN();
    if (!table) {
        CHOOSE_FIRST(find(NULL)); /* unless another thread was quicker; plain C is always there */
        table = LOAD_CHOSEN();
    }
    return table;
}

const char *pyrnn_available(int i)
{
    for (size_t k = 0; k < sizeof tables / sizeof tables[0]; k++)
        if (supported(tables[k]->name) && i-- == 0) return tables[k]->name;
    return NULL;
}
