// What each technique of a loader is worth: a checkpoint's way from a file into a device's memory,
// for which memory that is there stands, with one technique more each time.
//
// ablation STEP FILE OFFSET:LENGTH...
//
// STEP  by-tensor  one buffered read for each tensor, at its OFFSET and of its LENGTH
//       bulk       buffered reads of whole chunks into memory of the file's size
//       direct     the same, past the page cache
//       threads    the same, by several threads
//       pinned     the same, into memory that is there beforehand
//       pipeline   the same, each chunk on its way to the device while others are read
//
// The steps before the last read everything and then copy everything, by one thread.

#define _GNU_SOURCE
#include "reading.h"

#include <pthread.h>
#include <stdatomic.h>
#include <sys/stat.h>

enum { CHUNK_BYTES = 16 << 20, N_THREADS = 4 };

static const char *const STEPS[] = {"by-tensor", "bulk", "direct", "threads", "pinned", "pipeline"};
enum step { BY_TENSOR, BULK, DIRECT, THREADS, PINNED, PIPELINE, N_STEPS };

static const char *path;
static int descriptor;
static bool is_direct;
static size_t file_size, n_chunks;
static char *host, *device;
static _Atomic size_t next_chunk;

// Chunks that were read, in that order, for the copier.
static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t changed = PTHREAD_COND_INITIALIZER;
static size_t *read_chunks, n_read;
static bool tells_copier;

static size_t length_of(size_t chunk) {
    size_t left = file_size - chunk * CHUNK_BYTES;
    return left < CHUNK_BYTES ? left : CHUNK_BYTES;
}

static void *read_all(void *unused) {
    for (;;) {
        size_t chunk = atomic_fetch_add(&next_chunk, 1);
        if (chunk >= n_chunks) {
            return unused;
        }
        size_t offset = chunk * CHUNK_BYTES;
        read_range(descriptor, path, host + offset, offset, length_of(chunk), is_direct);
        if (tells_copier) {
            pthread_mutex_lock(&mutex);
            read_chunks[n_read++] = chunk;
            pthread_cond_signal(&changed);
            pthread_mutex_unlock(&mutex);
        }
    }
}

static void copy_chunk(size_t chunk) {
    size_t offset = chunk * CHUNK_BYTES;
    memcpy(device + offset, host + offset, length_of(chunk));
}

static void copy_as_read(void) {
    for (size_t done = 0; done < n_chunks; ++done) {
        pthread_mutex_lock(&mutex);
        while (n_read <= done) {
            pthread_cond_wait(&changed, &mutex);
        }
        size_t chunk = read_chunks[done];
        pthread_mutex_unlock(&mutex);
        copy_chunk(chunk);
    }
}

static void read_tensors(char **ranges, int n_ranges) {
    for (int i = 0; i < n_ranges; ++i) {
        size_t offset, length;
        if (sscanf(ranges[i], "%zu:%zu", &offset, &length) != 2 || offset + length > file_size) {
            errno = EINVAL;
            fail(ranges[i]);
        }
        char *tensor = malloc(length);
        if (tensor == NULL) {
            fail("memory");
        }
        read_range(descriptor, path, tensor, offset, length, false);
        memcpy(device + offset, tensor, length);
        free(tensor);
    }
}

static void read_and_copy(enum step step) {
    pthread_t threads[N_THREADS];
    size_t n_threads = step >= THREADS ? N_THREADS : 1;
    for (size_t i = 0; i < n_threads; ++i) {
        errno = pthread_create(&threads[i], NULL, read_all, NULL);
        if (errno != 0) {
            fail("a thread");
        }
    }
    if (step == PIPELINE) {
        copy_as_read();
    }
    for (size_t i = 0; i < n_threads; ++i) {
        pthread_join(threads[i], NULL);
    }
    for (size_t chunk = 0; step != PIPELINE && chunk < n_chunks; ++chunk) {
        copy_chunk(chunk);
    }
}

static enum step step_of(const char *name) {
    for (int i = 0; i < N_STEPS; ++i) {
        if (strcmp(STEPS[i], name) == 0) {
            return (enum step)i;
        }
    }
    errno = EINVAL;
    fail(name);
    return N_STEPS;
}

int main(int count, char **arguments) {
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (count < 3) {
        fprintf(stderr, "usage: ablation STEP FILE OFFSET:LENGTH...\n");
        return 2;
    }
    enum step step = step_of(arguments[1]);
    path = arguments[2];
    is_direct = step >= DIRECT;
    struct stat status;
    if (stat(path, &status) != 0) {
        fail(path);
    }
    file_size = (size_t)status.st_size;
    n_chunks = (file_size + CHUNK_BYTES - 1) / CHUNK_BYTES;
    read_chunks = calloc(n_chunks + 1, sizeof *read_chunks);
    tells_copier = step == PIPELINE;
    device = memory_of(file_size, true);
    host = memory_of(file_size, true);
    if (step < PINNED) {
        // Host and page cache get their memory with the clock running; that the machine has it
        // is another matter.
        char *cache = memory_of(file_size, true);
        munmap(cache, file_size);
        munmap(host, file_size);
    }
    struct reading reading = begin_reading();
    descriptor = open_file(path, &is_direct);
    if (step == BY_TENSOR) {
        read_tensors(arguments + 3, count - 3);
    } else {
        host = step < PINNED ? memory_of(file_size, false) : host;
        read_and_copy(step);
    }
    end_reading(reading, file_size, is_direct, "");
    return 0;
}
