// What the bench's own readers have in common: clocks, counters, memory that is there.
#pragma once

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>

enum { ALIGNMENT = 4096, HUGE_PAGE = 2 << 20 };

struct reading {
    double began, cpu_before;
    unsigned long long read_before;
};

// Says why there will be no answer, and ends.
static void fail(const char *what) {
    printf("{\"mishap\": \"%s: %s\"}\n", what, strerror(errno));
    fflush(stdout);
    exit(1);
}

static size_t rounded_up(size_t size, size_t unit) { return (size + unit - 1) / unit * unit; }

static double now(void) {
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (double)time.tv_sec + (double)time.tv_nsec * 1e-9;
}

static double cpu_seconds(void) {
    struct rusage usage;
    getrusage(RUSAGE_SELF, &usage);
    return (double)(usage.ru_utime.tv_sec + usage.ru_stime.tv_sec) +
           (double)(usage.ru_utime.tv_usec + usage.ru_stime.tv_usec) * 1e-6;
}

// What this process has fetched from disks.
static unsigned long long bytes_read(void) {
    unsigned long long count = 0;
    char line[128];
    FILE *io = fopen("/proc/self/io", "r");
    while (io != NULL && fgets(line, sizeof line, io) != NULL) {
        sscanf(line, "read_bytes: %llu", &count);
    }
    if (io != NULL) {
        fclose(io);
    }
    return count;
}

// Memory with huge pages where the kernel has them; all of it is there where that is asked for.
static char *memory_of(size_t size, bool is_ready) {
    size_t room = rounded_up(size, HUGE_PAGE) + HUGE_PAGE;
    char *memory = mmap(NULL, room, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED) {
        fail("memory");
    }
    if (is_ready) {
        memory += HUGE_PAGE - (uintptr_t)memory % HUGE_PAGE;
        madvise(memory, room - HUGE_PAGE, MADV_HUGEPAGE);
        memset(memory, 1, room - HUGE_PAGE);
    }
    return memory;
}

// Reads a whole range; a direct read of a file's end asks for whole sectors, and gets what there is.
static void read_range(int descriptor, const char *path, char *target, size_t offset, size_t size,
                       bool is_direct) {
    while (size > 0) {
        size_t asked = is_direct ? rounded_up(size, ALIGNMENT) : size;
        ssize_t got = pread(descriptor, target, asked, (off_t)offset);
        if (got < 0 && errno == EINTR) {
            continue;
        }
        if (got <= 0) {
            errno = got < 0 ? errno : EIO;
            fail(path);
        }
        offset += (size_t)got;
        target += got;
        size = (size_t)got < size ? size - (size_t)got : 0;
    }
}

// Opens past the page cache where `is_direct` says so, and notes there where that is refused.
static int open_file(const char *path, bool *is_direct) {
    int descriptor = open(path, O_RDONLY | O_CLOEXEC | (*is_direct ? O_DIRECT : 0));
    if (descriptor < 0 && errno == EINVAL && *is_direct) {
        *is_direct = false;
        return open_file(path, is_direct);
    }
    if (descriptor < 0) {
        fail(path);
    }
    return descriptor;
}

// Says that all is ready, and waits for the word; then the clock starts.
static struct reading begin_reading(void) {
    printf("{\"type\": \"Ready\"}\n");
    fflush(stdout);
    if (getchar() == EOF) {
        exit(0);
    }
    return (struct reading){
        .began = now(), .cpu_before = cpu_seconds(), .read_before = bytes_read()};
}

// Says how it went; `each` are the seconds of single files, as JSON has them.
static void end_reading(struct reading reading, size_t size, bool is_direct, const char *each) {
    double seconds = now() - reading.began;
    printf("{\"type\": \"Loaded\", \"load_seconds\": %.9f, \"total_seconds\": %.9f, "
           "\"cpu_seconds\": %.6f, \"bytes_read\": %llu, \"size_bytes\": %zu, "
           "\"is_direct\": %s, \"each_seconds\": [%s]}\n",
           seconds, seconds, cpu_seconds() - reading.cpu_before,
           bytes_read() - reading.read_before, size, is_direct ? "true" : "false", each);
    fflush(stdout);
}
