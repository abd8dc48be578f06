/* Prints the words that Philox 4x32-10 makes of the counters and keys of the published vectors, one line each, on one
 * instruction set: by the lane that counts, with other counters in the others.
 *
 *     cc -O2 -std=c11 -Icsrc -DISA=avx2 -mavx2 -mfma tests/philox.c -lm -o philox && ./philox */
#include <inttypes.h>
#include <math.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#define PYRNN_GLUE_(a, b) a##_##b
#define PYRNN_GLUE(a, b) PYRNN_GLUE_(a, b)
#define SIMD(word) PYRNN_GLUE(word, ISA)
#define UNROLL
#define ALWAYS_INLINE
#if defined(__AVX512F__)
#include <immintrin.h>
#include "simd_avx512.h"
#elif defined(__AVX2__)
#include <immintrin.h>
#include "simd_avx2.h"
#elif defined(NEON)
#include <arm_neon.h>
#include "simd_neon.h"
#else
#include "simd_base.h"
#endif
#include "philox.h"

int main(void)
{
    static const uint32_t counters[3][4] = {
        {0}, {~0u, ~0u, ~0u, ~0u}, {0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344}};
    static const uint64_t seeds[3] = {0, ~(uint64_t)0, 0x299f31d0a4093822};
    enum { LANES = SIMD(lanes_f64) };
    for (int i = 0; i < 3; i++)
        for (int lane = 0; lane < LANES; lane++) {
            uint64_t key[20], word[LANES];
            SIMD(vec_u64) c[1][4];
            SIMD(philox_keys)(seeds[i], key);
            for (int w = 0; w < 4; w++) {
                for (int k = 0; k < LANES; k++)
                    word[k] = (uint64_t)(k == lane ? counters[i][w] : (uint32_t)(17 * k + w));
                c[0][w] = SIMD(load_u64)(word);
            }
            SIMD(philox)(key, 1, c);
            for (int w = 0; w < 4; w++) {
                memcpy(word, &c[0][w], sizeof word);
                printf("%08" PRIx32 "%c", (uint32_t)word[lane], w < 3 ? ' ' : '\n');
            }
        }
    return 0;
}
