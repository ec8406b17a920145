/* SPDX-License-Identifier: MIT */
/* Threads, time and tables of the workloads. */
#include "workloads.h"

#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

/* Small, so that libc keeps the stacks of ended threads, and hundreds of threads fit. */
enum { STACK_BYTES = 256 * 1024 };

struct options options = {.scale = 1, .seed = 1, .rest_seconds = 2};
struct result result = {.seconds = -1, .rest_kib = -1, .live_kib = -1, .latency = {.max = -1}};

static struct worker team[THREADS_MAX];

_Noreturn void fail(const char *what)
{
    dprintf(STDERR_FILENO, "freehold-workloads: %s\n", what);
    _exit(1);
}

size_t scaled(size_t count)
{
    const double product = (double)count * options.scale;
    return product < 1 ? 1 : (size_t)product;
}

size_t share_of(size_t count)
{
    const size_t share = scaled(count) / options.threads;
    return share < 1 ? 1 : share;
}

/* ---- Workers ---- */

/* Neighbouring seeds and streams must not give alike sequences. */
static uint64_t scramble(uint64_t x)
{
    x = (x ^ (x >> 31)) * UINT64_C(0x7fb5d329728ea185);
    x = (x ^ (x >> 27)) * UINT64_C(0x81dadef4bc2dd44d);
    return (x ^ (x >> 33)) | 1;
}

void worker_reseed(struct worker *self, unsigned stream)
{
    self->random = scramble(options.seed * 1000003 + stream + 1);
}

void worker_init(struct worker *self, unsigned index, void *shared)
{
    *self = (struct worker){.index = index, .shared = shared};
    worker_reseed(self, index);
}

static void start_thread(pthread_t *thread, int detached, void *(*body)(void *), void *argument)
{
    pthread_attr_t attributes;
    pthread_attr_init(&attributes);
    pthread_attr_setstacksize(&attributes, STACK_BYTES);
    pthread_attr_setdetachstate(&attributes, detached);
    if (pthread_create(thread, &attributes, body, argument) != 0)
        fail("a thread could not be started");
    pthread_attr_destroy(&attributes);
}

void start_detached(void *(*body)(void *), void *argument)
{
    pthread_t thread;
    start_thread(&thread, PTHREAD_CREATE_DETACHED, body, argument);
}

static void *run_worker(void *argument)
{
    struct worker *self = argument;
    self->body(self);
    return NULL;
}

void worker_start(struct worker *self, void (*body)(struct worker *self))
{
    self->body = body;
    start_thread(&self->thread, PTHREAD_CREATE_JOINABLE, run_worker, self);
}

void worker_finish(struct worker *self)
{
    pthread_join(self->thread, NULL);
    result.operations += self->operations;
}

static void run_alone(void (*body)(struct worker *self), void *shared)
{
    worker_init(&team[0], 0, shared);
    body(&team[0]);
    result.operations += team[0].operations;
}

void run_team(void (*body)(struct worker *self), void *shared)
{
    if (options.threads == 1) {
        run_alone(body, shared);
        return;
    }
    for (unsigned i = 0; i < options.threads; i++) {
        worker_init(&team[i], i, shared);
        worker_start(&team[i], body);
    }
    for (unsigned i = 0; i < options.threads; i++)
        worker_finish(&team[i]);
}

void barrier_init(pthread_barrier_t *barrier, unsigned threads)
{
    if (pthread_barrier_init(barrier, NULL, threads) != 0)
        fail("no barrier");
}

/* ---- Time and memory ---- */

double now_seconds(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
}

void rest(double seconds)
{
    const time_t whole = (time_t)seconds;
    struct timespec left = {whole, (long)(1e9 * (seconds - (double)whole))};
    while (nanosleep(&left, &left) != 0)
        continue;
}

long long resident_kib(void)
{
    char text[128];
    const int file = open("/proc/self/statm", O_RDONLY | O_CLOEXEC);
    const ssize_t length = file < 0 ? -1 : read(file, text, sizeof(text) - 1);
    if (length <= 0)
        fail("/proc/self/statm could not be read");
    close(file);
    text[length] = '\0';
    char *second;
    (void)strtoll(text, &second, 10); /* the first is the address space */
    return strtoll(second, NULL, 10) * (sysconf(_SC_PAGESIZE) / 1024);
}

void *map_table(size_t bytes)
{
    void *table = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (table == MAP_FAILED)
        fail("mmap failed");
    return table;
}

void unmap_table(void *table, size_t bytes)
{
    munmap(table, bytes);
}
