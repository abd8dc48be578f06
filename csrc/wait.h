/* What threads need to wait for each other and to measure themselves: atomic numbers, a pause, clocks, variables of
 * one thread. For compilers with and without C11 atomics. Every operation is sequentially consistent. */
#ifndef PYRNN_WAIT_H
#define PYRNN_WAIT_H

#include <time.h>

#if defined(_MSC_VER) && !defined(__clang__)
#include <intrin.h>
#include <windows.h>
#define PYRNN_THREAD_LOCAL __declspec(thread)
typedef volatile long pyrnn_atomic;
static inline long pyrnn_load(pyrnn_atomic *a) { return _InterlockedOr(a, 0); }
static inline long pyrnn_exchange(pyrnn_atomic *a, long v) { return _InterlockedExchange(a, v); }
static inline long pyrnn_add(pyrnn_atomic *a, long v) { return _InterlockedExchangeAdd(a, v) + v; }
typedef volatile long long pyrnn_atomic64;
static inline long long pyrnn_load64(pyrnn_atomic64 *a) { return _InterlockedCompareExchange64(a, 0, 0); }
static inline void pyrnn_store64(pyrnn_atomic64 *a, long long v)
{
    for (long long old = pyrnn_load64(a), now; (now = _InterlockedCompareExchange64(a, v, old)) != old;) old = now;
}
static inline int pyrnn_replace64(pyrnn_atomic64 *a, long long old, long long v)
{
    return _InterlockedCompareExchange64(a, v, old) == old;
}
static inline void pyrnn_yield(void) { SwitchToThread(); }
static inline void pyrnn_nap(long microseconds) { Sleep((microseconds + 999) / 1000); }
#else
#include <sched.h>
#define PYRNN_THREAD_LOCAL __thread
typedef volatile long pyrnn_atomic;
static inline long pyrnn_load(pyrnn_atomic *a) { return __atomic_load_n(a, __ATOMIC_SEQ_CST); }
static inline long pyrnn_exchange(pyrnn_atomic *a, long v) { return __atomic_exchange_n(a, v, __ATOMIC_SEQ_CST); }
static inline long pyrnn_add(pyrnn_atomic *a, long v) { return __atomic_add_fetch(a, v, __ATOMIC_SEQ_CST); }
typedef volatile long long pyrnn_atomic64;
static inline long long pyrnn_load64(pyrnn_atomic64 *a) { return __atomic_load_n(a, __ATOMIC_SEQ_CST); }
static inline void pyrnn_store64(pyrnn_atomic64 *a, long long v) { __atomic_store_n(a, v, __ATOMIC_SEQ_CST); }
static inline int pyrnn_replace64(pyrnn_atomic64 *a, long long old, long long v)
{
    return __atomic_compare_exchange_n(a, &old, v, 0, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST);
}
static inline void pyrnn_yield(void) { sched_yield(); }
static inline void pyrnn_nap(long microseconds) /* less than a second */
{
    struct timespec span = {0, microseconds * 1000};
    nanosleep(&span, NULL);
}
#endif

static inline void pyrnn_pause(void)
{
#if defined(__x86_64__) || defined(__i386__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("yield");
#elif defined(_MSC_VER)
    YieldProcessor();
#endif
}

static inline double pyrnn_seconds(void)
{
    struct timespec now;
    timespec_get(&now, TIME_UTC);
    return (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
}

/* A clock that is never set back; where it begins means nothing. */
static inline long long pyrnn_nanoseconds(void)
{
#if defined(_WIN32)
    LARGE_INTEGER now, rate;
    QueryPerformanceCounter(&now);
    QueryPerformanceFrequency(&rate);
    return now.QuadPart / rate.QuadPart * 1000000000 + now.QuadPart % rate.QuadPart * 1000000000 / rate.QuadPart;
#else
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return now.tv_sec * 1000000000LL + now.tv_nsec;
#endif
}

/* Which processor the calling thread runs on, and which thread it is; -1 where the system does not say. */
#ifdef __linux__
#include <sys/syscall.h>
#include <unistd.h>
static inline long pyrnn_processor(void) { return sched_getcpu(); }
static inline long pyrnn_thread(void) { return syscall(SYS_gettid); }

/* Let a thread of this process run on the processors of the calling one, but not on this. The system likes to wake a
 * thread on the processor of the one that wakes it, where the two then take turns while another processor idles. */
static inline void pyrnn_keep_off(long thread, long processor)
{
    cpu_set_t allowed;
    if (sched_getaffinity(0, sizeof allowed, &allowed) < 0 || CPU_COUNT(&allowed) < 2) return;
    CPU_CLR((size_t)processor, &allowed);
    sched_setaffinity((pid_t)thread, sizeof allowed, &allowed);
}
#else
static inline long pyrnn_processor(void) { return -1; }
static inline long pyrnn_thread(void) { return -1; }
static inline void pyrnn_keep_off(long thread, long processor) { (void)thread, (void)processor; }
#endif

#endif
