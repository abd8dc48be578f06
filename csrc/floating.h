/* How the calling thread treats subnormal numbers, those below the smallest normal one: 1.2e-38 in float32, 2.2e-308 in
 * float64. Intel's processors take some hundred cycles for each instruction that meets or makes one, which gradients
 * that vanish do all the time. */
#ifndef PYRNN_FLOATING_H
#define PYRNN_FLOATING_H

/* pyrnn_flush: from now on subnormal operands and results count as zeros of their sign, in vectors and in scalars.
 * Returns the state before, for pyrnn_restore. The register is written only where that changes it: reading it takes a
 * nanosecond or two, writing it serialises what is under way.
 *
 *   x86-64   FTZ and DAZ of MXCSR; a result is tiny if it is below the smallest normal number after rounding
 *   AArch64  FZ of FPCR, which does both; a result is tiny if it is below that number before rounding
 *   others   nothing: they keep subnormal numbers
 *
 * The flags of exceptions that MXCSR holds become what they were before, too. */
#if defined(__x86_64__) || (defined(_M_X64) && !defined(_M_ARM64EC))
typedef unsigned pyrnn_floating;
enum { PYRNN_FLUSH = 0x8040 };
#if defined(_MSC_VER) && !defined(__clang__)
#include <xmmintrin.h>
static inline pyrnn_floating pyrnn_read_floating(void) { return _mm_getcsr(); }
static inline void pyrnn_write_floating(pyrnn_floating state) { _mm_setcsr(state); }
#else /* not the intrinsics, past which GCC moves loads and stores */
static inline pyrnn_floating pyrnn_read_floating(void)
{
    pyrnn_floating state;
    __asm__ volatile("stmxcsr %0" : "=m"(state) : : "memory");
    return state;
}
static inline void pyrnn_write_floating(pyrnn_floating state)
{
    __asm__ volatile("ldmxcsr %0" : : "m"(state) : "memory");
}
#endif
#elif defined(__aarch64__) || defined(_M_ARM64)
typedef unsigned long long pyrnn_floating;
enum { PYRNN_FLUSH = 1 << 24 };
#if defined(_MSC_VER) && !defined(__clang__)
#include <intrin.h>
static inline pyrnn_floating pyrnn_read_floating(void) { return (pyrnn_floating)_ReadStatusReg(ARM64_FPCR); }
static inline void pyrnn_write_floating(pyrnn_floating state) { _WriteStatusReg(ARM64_FPCR, (__int64)state); }
#else
static inline pyrnn_floating pyrnn_read_floating(void)
{
    pyrnn_floating state;
    __asm__ volatile("mrs %0, fpcr" : "=r"(state) : : "memory");
    return state;
}
static inline void pyrnn_write_floating(pyrnn_floating state)
{
    __asm__ volatile("msr fpcr, %0" : : "r"(state) : "memory");
}
#endif
#else
typedef unsigned pyrnn_floating;
enum { PYRNN_FLUSH = 0 };
static inline pyrnn_floating pyrnn_read_floating(void) { return 0; }
static inline void pyrnn_write_floating(pyrnn_floating state) { (void)state; }
#endif

static inline pyrnn_floating pyrnn_flush(void)
{
    const pyrnn_floating state = pyrnn_read_floating();
    if ((state & PYRNN_FLUSH) != PYRNN_FLUSH) pyrnn_write_floating(state | PYRNN_FLUSH);
    return state;
}

static inline void pyrnn_restore(pyrnn_floating state)
{
    if ((state & PYRNN_FLUSH) != PYRNN_FLUSH) pyrnn_write_floating(state);
}

#endif
