// The disk's limit: an independent direct reader of whole files into a buffer of their size that
// has its memory already.
//
// raw_reader THREADS BLOCK_BYTES all|each FILE...
//
// It reads all files at once, or each after the one before.

#define _GNU_SOURCE
#include "reading.h"

#include <pthread.h>
#include <stdatomic.h>
#include <sys/stat.h>

enum { MOST_THREADS = 256, NUMBER_CHARACTERS = 24 };

struct file {
    const char *path;
    size_t size;
    size_t begin;  // where it goes in the buffer
    int descriptor;
};

static struct file *files;
static size_t n_files, n_threads, block;
static char *buffer;
static bool is_direct = true;

// What the readers take their blocks from: those of the files from `from` on, in their order.
static size_t from, n_blocks;
static _Atomic size_t next_block;
static pthread_barrier_t begun, ended;

static size_t blocks_of(const struct file *file) { return (file->size + block - 1) / block; }

static void read_blocks(void) {
    for (;;) {
        size_t number = atomic_fetch_add(&next_block, 1);
        if (number >= n_blocks) {
            return;
        }
        const struct file *file = &files[from];
        while (number >= blocks_of(file)) {
            number -= blocks_of(file);
            ++file;
        }
        size_t offset = number * block;
        size_t left = file->size - offset;
        read_range(file->descriptor, file->path, buffer + file->begin + offset, offset,
                   left < block ? left : block, is_direct);
    }
}

static void *reader(void *unused) {
    for (;;) {
        pthread_barrier_wait(&begun);
        read_blocks();
        pthread_barrier_wait(&ended);
    }
    return unused;
}

// Reads the files [first, last); returns the seconds that took.
static double read_files(size_t first, size_t last) {
    double began = now();
    from = first;
    n_blocks = 0;
    for (size_t i = first; i < last; ++i) {
        files[i].descriptor = open_file(files[i].path, &is_direct);
        n_blocks += blocks_of(&files[i]);
    }
    atomic_store(&next_block, 0);
    pthread_barrier_wait(&begun);
    read_blocks();
    pthread_barrier_wait(&ended);
    for (size_t i = first; i < last; ++i) {
        close(files[i].descriptor);
    }
    return now() - began;
}

// Gives each file its place in the buffer; returns how large that is.
static size_t lay_out(char **paths) {
    size_t total = 0;
    for (size_t i = 0; i < n_files; ++i) {
        struct stat status;
        if (stat(paths[i], &status) != 0) {
            fail(paths[i]);
        }
        files[i] = (struct file){.path = paths[i], .size = (size_t)status.st_size, .begin = total};
        total += rounded_up(files[i].size, ALIGNMENT);
    }
    return total;
}

// This thread is one of the readers.
static void start_readers(void) {
    pthread_barrier_init(&begun, NULL, (unsigned)n_threads);
    pthread_barrier_init(&ended, NULL, (unsigned)n_threads);
    for (size_t i = 1; i < n_threads; ++i) {
        pthread_t thread;
        errno = pthread_create(&thread, NULL, reader, NULL);
        if (errno != 0) {
            fail("a thread");
        }
    }
}

int main(int count, char **arguments) {
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (count < 5) {
        fprintf(stderr, "usage: raw_reader THREADS BLOCK_BYTES all|each FILE...\n");
        return 2;
    }
    n_threads = strtoull(arguments[1], NULL, 10);
    block = strtoull(arguments[2], NULL, 10);
    bool is_each = strcmp(arguments[3], "each") == 0;
    n_files = (size_t)count - 4;
    files = calloc(n_files, sizeof *files);
    char *each = calloc(n_files, NUMBER_CHARACTERS);
    if (files == NULL || each == NULL || block == 0 || block % ALIGNMENT != 0 ||
        n_threads < 1 || n_threads > MOST_THREADS) {
        errno = EINVAL;
        fail("arguments");
    }
    buffer = memory_of(lay_out(arguments + 4), true);
    size_t size = 0;
    for (size_t i = 0; i < n_files; ++i) {
        size += files[i].size;
    }
    start_readers();
    struct reading reading = begin_reading();
    char *end = each;
    for (size_t i = 0; is_each && i < n_files; ++i) {
        double seconds = read_files(i, i + 1);
        end += snprintf(end, NUMBER_CHARACTERS, "%s%.9f", i > 0 ? ", " : "", seconds);
    }
    if (!is_each) {
        read_files(0, n_files);
    }
    end_reading(reading, size, is_direct, each);
    return 0;
}
