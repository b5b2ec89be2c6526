// Preloaded into a process, this places each aligned allocation (XLA's arrays, oneDNN's working memory) on pages of its
// own between pages that nobody may touch. JDECONV_GUARD or guard_mode says at which of the two it lies.
// Valgrind knows no AVX-512, and its code is not what a user runs. Electric Fence guards the interpreter's own objects
// too, millions of them, and fills nothing with NaN: what a kernel reads within an array's last line stays unseen.
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define PAGE ((size_t)4096)
#define REGION ((size_t)1 << 43)  // of addresses; none is used twice, so what is freed stays out of bounds
#define LEAST_ALIGNMENT 64        // C++'s own objects ask for less and stay where they were
#define FILL 0xff                 // NaN in float32, bfloat16 and float64; -1 in integers

typedef struct {
    char *pages;    // the first page that may be touched
    size_t length;  // of all of these
    size_t size;    // of the allocation
} block;

static char *region;
static block *blocks;  // one for each page of the region; only that of an allocation's first page is ever used
static size_t used;    // pages of the region
static long live, total;
static int at_end = 1;

static void *(*next_malloc)(size_t);
static void (*next_free)(void *);
static void *(*next_realloc)(void *, size_t);
static void *(*next_memalign)(size_t, size_t);
static size_t (*next_usable)(void *);

static void stop(const char *message) {
    ssize_t written = write(2, message, strlen(message));
    (void)written;
    abort();
}

static void *reserve(size_t size) {
    void *at = mmap(NULL, size, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (at == MAP_FAILED) stop("guard: no addresses left\n");
    return at;
}

__attribute__((constructor)) static void start(void) {
    if (region) return;
    next_malloc = dlsym(RTLD_NEXT, "malloc");
    next_free = dlsym(RTLD_NEXT, "free");
    next_realloc = dlsym(RTLD_NEXT, "realloc");
    next_memalign = dlsym(RTLD_NEXT, "memalign");
    next_usable = dlsym(RTLD_NEXT, "malloc_usable_size");
    const char *mode = getenv("JDECONV_GUARD");
    at_end = !mode || strcmp(mode, "start");
    size_t table = REGION / PAGE * sizeof(block);
    blocks = reserve(table);
    if (mprotect(blocks, table, PROT_READ | PROT_WRITE)) stop("guard: no table\n");
    region = reserve(REGION);
}

void guard_mode(int end) { at_end = end; }
long guard_live(void) { return __atomic_load_n(&live, __ATOMIC_RELAXED); }
long guard_total(void) { return __atomic_load_n(&total, __ATOMIC_RELAXED); }

static block *find(const void *p) {
    size_t offset = (size_t)((const char *)p - region);
    return region && (const char *)p >= region && offset < REGION ? &blocks[offset / PAGE] : NULL;
}

// How many bytes were asked for at p; -1 where p is no guarded allocation.
long guard_size(const void *p) {
    block *b = find(p);
    return b && b->pages ? (long)b->size : -1;
}

static void *guarded(size_t alignment, size_t size) {
    if (!region) start();
    size_t wanted = (size + alignment - 1) & ~(alignment - 1);  // what lies at the end must be aligned at its start
    size_t length = (wanted + PAGE - 1) & ~(PAGE - 1);
    if (!length) length = PAGE;
    size_t step = length / PAGE + 1;
    if (alignment > PAGE) step += alignment / PAGE;
    size_t first = __atomic_fetch_add(&used, step, __ATOMIC_RELAXED) + 1;  // the page before stays out of bounds
    if (first + step >= REGION / PAGE) stop("guard: the region is used up\n");
    char *pages = region + first * PAGE;
    if (alignment > PAGE) pages = (char *)(((uintptr_t)pages + alignment - 1) & ~(alignment - 1));
    if (mprotect(pages, length, PROT_READ | PROT_WRITE)) {
        errno = ENOMEM;
        return NULL;
    }
    memset(pages, FILL, length);
    char *p = at_end && alignment <= PAGE ? pages + length - wanted : pages;
    if (!wanted) p = pages;
    block *b = find(p);
    b->size = size;
    b->length = length;
    b->pages = pages;
    __atomic_fetch_add(&live, 1, __ATOMIC_RELAXED);
    __atomic_fetch_add(&total, 1, __ATOMIC_RELAXED);
    return p;
}

static int damaged(const char *from, const char *to) {
    for (; from < to; from++)
        if (*(const unsigned char *)from != FILL) return 1;
    return 0;
}

static void release(char *p, block *b) {
    char *pages = b->pages;
    if (!pages) stop("guard: freed twice, or not where it was allocated\n");
    if (damaged(pages, p)) stop("guard: written before an array\n");
    if (damaged(p + b->size, pages + b->length)) stop("guard: written behind an array\n");
    b->pages = NULL;
    // Fresh, untouchable pages in their place: the memory is given back, and whoever still reads it crashes.
    if (mmap(pages, b->length, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED, -1, 0) == MAP_FAILED)
        stop("guard: can't give pages back\n");
    __atomic_fetch_sub(&live, 1, __ATOMIC_RELAXED);
}

static void *aligned(size_t alignment, size_t size) {
    if (!region) start();
    return alignment >= LEAST_ALIGNMENT ? guarded(alignment, size) : next_memalign(alignment, size);
}

void *aligned_alloc(size_t alignment, size_t size) { return aligned(alignment, size); }
void *memalign(size_t alignment, size_t size) { return aligned(alignment, size); }

int posix_memalign(void **result, size_t alignment, size_t size) {
    if (!(*result = aligned(alignment, size))) return ENOMEM;
    return 0;
}

void free(void *p) {
    block *b = find(p);
    if (b) release(p, b);
    else if (p) {
        if (!next_free) start();
        next_free(p);
    }
}

void *realloc(void *p, size_t size) {
    block *b = find(p);
    if (!b) {
        if (!next_realloc) start();
        return next_realloc(p, size);
    }
    void *moved = next_malloc(size);
    if (moved) {
        memcpy(moved, p, size < b->size ? size : b->size);
        release(p, b);
    }
    return moved;
}

size_t malloc_usable_size(void *p) {
    block *b = find(p);
    return b ? b->size : p ? next_usable(p) : 0;
}
