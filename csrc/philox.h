/* Philox 4x32-10 on the vector words of one instruction set; included by kernels.inl. Salmon, Moraes, Dror, Shaw,
 * "Parallel random numbers: as easy as 1, 2, 3", SC 2011: four random words of 32 bits of a counter of four words and a
 * key of two, by ten rounds of two products. There is no state. tests/philox.c has the published vectors. */

/* The keys of the ten rounds. */
static inline void SIMD(philox_keys)(uint64_t seed, uint64_t key[20])
{
    for (uint32_t i = 0; i < 10; i++) {
        key[2 * i] = (uint32_t)seed + i * 0x9E3779B9u;
        key[2 * i + 1] = (uint32_t)(seed >> 32) + i * 0xBB67AE85u;
    }
}

/* The words of one counter a lane, in its place, for `count` registers of counters, whose rounds take turns: a round
 * waits for the one before. A word is the low half of a lane: what is above has no meaning. */
static inline ALWAYS_INLINE void SIMD(philox)(const uint64_t key[20], const int count, SIMD(vec_u64) (*c)[4])
{
    const SIMD(vec_u64) m0 = SIMD(set_u64)(0xD2511F53), m1 = SIMD(set_u64)(0xCD9E8D57);
    UNROLL for (int i = 0; i < 10; i++)
    {
        const SIMD(vec_u64) k0 = SIMD(set_u64)(key[2 * i]), k1 = SIMD(set_u64)(key[2 * i + 1]);
        UNROLL for (int j = 0; j < count; j++)
        {
            const SIMD(vec_u64) p = SIMD(multiply_u64)(c[j][0], m0), q = SIMD(multiply_u64)(c[j][2], m1);
            c[j][0] = SIMD(xor3_u64)(SIMD(high_u64)(q), c[j][1], k0);
            c[j][2] = SIMD(xor3_u64)(SIMD(high_u64)(p), c[j][3], k1);
            c[j][1] = q;
            c[j][3] = p;
        }
    }
}
