/* A program that uses the kernels without a choice, from many threads at once. Prints the instruction set that they
 * found, then those of the choices that follow.
 *
 *     cc -std=c11 -pthread -ffp-contract=off -Icsrc tests/first_use.c csrc/kernels.c -lm -o first_use && ./first_use */
#define _POSIX_C_SOURCE 200809L /* barriers */
#include "kernels.h"

#include <pthread.h>
#include <stdio.h>
#include <string.h>

enum { THREADS = 16, N = 100 };

static pthread_barrier_t together;
static float results[THREADS][N];
static const pyrnn_kernel_table *found[THREADS];

static void *use(void *at)
{
    const int i = *(const int *)at;
    float x[N];
    for (int k = 0; k < N; k++) x[k] = (float)k / 10 - 5;
    pthread_barrier_wait(&together);
    found[i] = pyrnn_kernels();
    found[i]->tanh_f32(N, x, results[i]);
    return NULL;
}

int main(void)
{
    pthread_t threads[THREADS];
    int numbers[THREADS];
    pthread_barrier_init(&together, NULL, THREADS);
    for (int i = 0; i < THREADS; i++) {
        numbers[i] = i;
        if (pthread_create(&threads[i], NULL, use, &numbers[i])) return 2;
    }
    for (int i = 0; i < THREADS; i++) pthread_join(threads[i], NULL);
    for (int i = 1; i < THREADS; i++)
        if (found[i] != found[0] || memcmp(results[i], results[0], sizeof results[0])) return 1;
    puts(found[0]->name);
    if (pyrnn_select("base")) return 3;
    puts(pyrnn_kernels()->name);
    if (pyrnn_select("no such set") != -1) return 4;
    puts(pyrnn_kernels()->name);
    if (pyrnn_select(NULL)) return 5;
    puts(pyrnn_kernels()->name);
    return 0;
}
