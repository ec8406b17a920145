/* SPDX-License-Identifier: MIT */
/* A load for memcached: a fixed number of requests, of which every reply is checked.
 *
 *   memcached_load SOCKET BATCHES
 *
 * One connection per thread stores every key of its own once, and then sends batches of gets and
 * sets, nine to one, each batch as one message. A value's bytes follow from its key and version, so
 * that a wrong or torn one is noticed; a get that misses is an error, for the server has room for
 * all. Prints one line of JSON: requests, seconds, and percentiles of the time for a batch.
 */
#define _GNU_SOURCE
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

enum {
    THREADS = 2,
    KEYS = 30000, /* of each thread */
    BATCH = 32,
    VALUE_MAX_BYTES = 4096,
    LINE_BYTES = 64,
    MESSAGE_BYTES = BATCH * (VALUE_MAX_BYTES + 2 * LINE_BYTES)
};

struct request {
    uint32_t key;
    int is_set;
};

struct client {
    pthread_t thread;
    int socket;
    int number;
    long batches;
    uint64_t random;
    uint64_t *batch_ns;
    uint32_t version[KEYS];
    struct request requests[BATCH];
    char out[MESSAGE_BYTES];
    char in[MESSAGE_BYTES];
    size_t in_start, in_end; /* what was received and not yet looked at */
};

static _Noreturn void fail(const char *what)
{
    perror(what);
    exit(1);
}

static _Noreturn void complain(const char *what)
{
    fprintf(stderr, "memcached_load: %s\n", what);
    exit(1);
}

static uint64_t now_ns(void)
{
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (uint64_t)time.tv_sec * 1000000000u + (uint64_t)time.tv_nsec;
}

static uint32_t next_random(struct client *client, uint32_t bound)
{
    client->random = client->random * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t)(client->random >> 33) % bound;
}

static uint32_t mixed(uint32_t key, uint32_t version)
{
    uint32_t mix = (key * 2654435761u) ^ (version * 40503u);
    return mix ^ mix >> 15;
}

/* 32 bytes to 4 KiB, every power of two as likely as any other. */
static size_t value_bytes(uint32_t key, uint32_t version)
{
    uint32_t mix = mixed(key, version);
    size_t least = (size_t)32 << mix % 7;
    return least + (mix >> 8) % least;
}

static char value_byte(uint32_t key, uint32_t version)
{
    return (char)('a' + mixed(version, key) % 26);
}

static int connected(const char *path)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    snprintf(address.sun_path, sizeof(address.sun_path), "%s", path);
    int descriptor = socket(AF_UNIX, SOCK_STREAM, 0);
    if (descriptor < 0 || connect(descriptor, (struct sockaddr *)&address, sizeof(address)) < 0)
        fail("memcached_load: connect");
    return descriptor;
}

static void send_all(struct client *client, size_t bytes)
{
    for (size_t sent = 0; sent < bytes;) {
        ssize_t part = write(client->socket, client->out + sent, bytes - sent);
        if (part <= 0)
            fail("memcached_load: write");
        sent += (size_t)part;
    }
}

/* More from the server, behind what is there. */
static void receive(struct client *client)
{
    memmove(client->in, client->in + client->in_start, client->in_end - client->in_start);
    client->in_end -= client->in_start;
    client->in_start = 0;
    ssize_t part =
        read(client->socket, client->in + client->in_end, sizeof(client->in) - client->in_end);
    if (part <= 0)
        fail("memcached_load: read");
    client->in_end += (size_t)part;
}

static const char *take_bytes(struct client *client, size_t bytes)
{
    while (client->in_end - client->in_start < bytes)
        receive(client);
    const char *start = client->in + client->in_start;
    client->in_start += bytes;
    return start;
}

static void expect(struct client *client, const char *text)
{
    size_t bytes = strlen(text);
    if (memcmp(take_bytes(client, bytes), text, bytes) != 0)
        complain("the server answered something else");
}

static void expect_value(struct client *client, uint32_t key)
{
    uint32_t version = client->version[key];
    size_t bytes = value_bytes(key, version);
    char line[LINE_BYTES];
    snprintf(line, sizeof(line), "VALUE %d:%u 0 %zu\r\n", client->number, key, bytes);
    expect(client, line);
    const char *value = take_bytes(client, bytes);
    for (size_t i = 0; i < bytes; i++)
        if (value[i] != value_byte(key, version))
            complain("a value has changed");
    expect(client, "\r\nEND\r\n");
}

static size_t put_get(struct client *client, char *out, uint32_t key)
{
    return (size_t)sprintf(out, "get %d:%u\r\n", client->number, key);
}

static size_t put_set(struct client *client, char *out, uint32_t key)
{
    uint32_t version = ++client->version[key];
    size_t bytes = value_bytes(key, version);
    size_t used = (size_t)sprintf(out, "set %d:%u 0 0 %zu\r\n", client->number, key, bytes);
    memset(out + used, value_byte(key, version), bytes);
    memcpy(out + used + bytes, "\r\n", 2);
    return used + bytes + 2;
}

/* Send the requests as one message, and look at each reply. A key is only once in a batch, for the
 * version that a get must find is looked up when its reply comes. */
static void exchange(struct client *client, int count)
{
    size_t bytes = 0;
    for (int i = 0; i < count; i++) {
        struct request *request = &client->requests[i];
        bytes += (request->is_set ? put_set : put_get)(client, client->out + bytes, request->key);
    }
    send_all(client, bytes);
    for (int i = 0; i < count; i++) {
        if (client->requests[i].is_set)
            expect(client, "STORED\r\n");
        else
            expect_value(client, client->requests[i].key);
    }
}

static void fill(struct client *client)
{
    for (uint32_t key = 0; key < KEYS; key += BATCH) {
        int count = 0;
        for (; count < BATCH && key + (uint32_t)count < KEYS; count++)
            client->requests[count] = (struct request){key + (uint32_t)count, 1};
        exchange(client, count);
    }
}

/* Keys of a batch differ: each is from a slice of its own. */
static void choose(struct client *client)
{
    enum { SLICE = KEYS / BATCH };
    for (uint32_t i = 0; i < BATCH; i++)
        client->requests[i] =
            (struct request){i * SLICE + next_random(client, SLICE), next_random(client, 10) == 0};
}

static void *run(void *argument)
{
    struct client *client = argument;
    fill(client);
    for (long batch = 0; batch < client->batches; batch++) {
        choose(client);
        uint64_t start = now_ns();
        exchange(client, BATCH);
        client->batch_ns[batch] = now_ns() - start;
    }
    return NULL;
}

static struct client *start(int number, const char *path, long batches)
{
    struct client *client = calloc(1, sizeof(*client));
    if (client == NULL)
        fail("memcached_load");
    client->number = number;
    client->random = (uint64_t)number + 1;
    client->batches = batches;
    client->batch_ns = calloc((size_t)batches, sizeof(*client->batch_ns));
    client->socket = connected(path);
    if (client->batch_ns == NULL || pthread_create(&client->thread, NULL, run, client) != 0)
        fail("memcached_load");
    return client;
}

static int compare_ns(const void *left, const void *right)
{
    const uint64_t *a = left, *b = right;
    return (*a > *b) - (*a < *b);
}

static void report(uint64_t *batch_ns, long count, double seconds)
{
    qsort(batch_ns, (size_t)count, sizeof(*batch_ns), compare_ns);
    printf("{\"requests\": %ld, \"seconds\": %.6f, \"latency_ns\": {",
           count * BATCH + THREADS * KEYS, seconds);
    printf("\"p50\": %lu, \"p99\": %lu, \"p99_9\": %lu, \"max\": %lu}}\n",
           (unsigned long)batch_ns[count / 2], (unsigned long)batch_ns[count * 99 / 100],
           (unsigned long)batch_ns[count * 999 / 1000], (unsigned long)batch_ns[count - 1]);
}

int main(int argc, char **argv)
{
    long batches = argc == 3 ? atol(argv[2]) : 0;
    if (batches < 1) {
        fprintf(stderr, "usage: memcached_load SOCKET BATCHES\n");
        return 2;
    }
    struct client *clients[THREADS];
    uint64_t begin = now_ns();
    for (int i = 0; i < THREADS; i++)
        clients[i] = start(i, argv[1], batches);
    uint64_t *all_ns = calloc((size_t)batches * THREADS, sizeof(*all_ns));
    if (all_ns == NULL)
        fail("memcached_load");
    for (int i = 0; i < THREADS; i++) {
        pthread_join(clients[i]->thread, NULL);
        memcpy(all_ns + i * batches, clients[i]->batch_ns, (size_t)batches * sizeof(*all_ns));
    }
    report(all_ns, batches * THREADS, (double)(now_ns() - begin) / 1e9);
    return 0;
}
