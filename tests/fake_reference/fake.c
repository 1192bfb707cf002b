/*
 * A library that passes for the reference and fails on demand.
 *
 * It is linked against the genuine library and defines a few of its entries anew; the loader finds all others in
 * the genuine one. Whatever the script does not spoil is therefore what bitnet.cpp computes.
 *
 * The script is the variable FAKE_REFERENCE, words separated by blanks:
 *   FAULT       one of the names below; empty: no fault
 *   at=TAP      the tap at which it happens (default ffn_out-1)
 *   call=N      the decode call with taps in which it happens, from 0 (default 0)
 * When a fault happens, the file that FAKE_REFERENCE_MARK names is made.
 *
 * Faults of the protocol are written into the pipe behind the back of the process that loaded this library: they
 * are what a corrupt memory or a stray write of the reference would do.
 */
#define _GNU_SOURCE
#include "bref.h"

#include <dlfcn.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static char fault[64];
static char tap_name[64] = "ffn_out-1";
static int call_number = 0;

/* Decode calls with taps so far, and whether the current one is the script's. */
static int calls = 0;
static int this_call = 0;
static int32_t vocabulary = 0;
static const char * own_error = NULL;
static int untapped = 0;

static void act(void);

static int is(const char * name) {
    return strcmp(fault, name) == 0;
}

static int starts(const char * prefix) {
    return strncmp(fault, prefix, strlen(prefix)) == 0;
}

__attribute__((constructor)) static void read_script(void) {
    const char * script = getenv("FAKE_REFERENCE");
    char words[256];
    snprintf(words, sizeof words, "%s", script ? script : "");
    for (char * word = strtok(words, " "); word; word = strtok(NULL, " ")) {
        if (strncmp(word, "at=", 3) == 0) {
            snprintf(tap_name, sizeof tap_name, "%s", word + 3);
        } else if (strncmp(word, "call=", 5) == 0) {
            call_number = atoi(word + 5);
        } else {
            snprintf(fault, sizeof fault, "%s", word);
        }
    }
    if (starts("constructor-")) {
        memmove(fault, fault + strlen("constructor-"), strlen(fault + strlen("constructor-")) + 1);
        act();
    }
}

/* The genuine entry behind one of ours. */
static void * genuine(const char * name) {
    void * found = dlsym(RTLD_NEXT, name);
    if (!found) {
        fprintf(stderr, "fake reference: no genuine %s\n", name);
        _exit(90);
    }
    return found;
}

static void mark(void) {
    const char * path = getenv("FAKE_REFERENCE_MARK");
    if (path) {
        close(open(path, O_WRONLY | O_CREAT | O_CLOEXEC, 0600));
    }
}

/* The pipe that the frames are written to: the one that is open for writing and that this process opened itself,
 * which an inherited descriptor can be told from by its missing close-on-exec flag. */
static int frames(void) {
    for (int fd = 3; fd < 256; ++fd) {
        struct stat status;
        if (fstat(fd, &status) == 0 && S_ISFIFO(status.st_mode) && (fcntl(fd, F_GETFL) & O_ACCMODE) == O_WRONLY &&
            (fcntl(fd, F_GETFD) & FD_CLOEXEC) != 0) {
            return fd;
        }
    }
    fprintf(stderr, "fake reference: no pipe\n");
    _exit(91);
}

static void send_bytes(const void * bytes, size_t count) {
    if (write(frames(), bytes, count) != (ssize_t)count) {
        _exit(92);
    }
}

/* Of the frames, see frame.rs. */
enum { VERSION = 3 };

/* The fixed part of a frame. */
static void send_start(uint32_t version, uint32_t header, uint64_t payload) {
    unsigned char bytes[20] = "PCRF";
    memcpy(bytes + 4, &version, 4);
    memcpy(bytes + 8, &header, 4);
    memcpy(bytes + 12, &payload, 8);
    send_bytes(bytes, sizeof bytes);
}

static void wait_for_ever(void) {
    for (;;) {
        pause();
    }
}

static void send_node(const char * dims, uint32_t checksum_error) {
    char header[256];
    const int length = snprintf(header, sizeof header,
                                "{\"response\":\"node\",\"name\":\"x\",\"layer\":null,\"op\":\"ADD\",\"dtype\":\"f32\","
                                "\"dims\":%s,\"content\":\"values\"}",
                                dims);
    const float payload[2] = {1.0F, 2.0F};
    send_start(VERSION, (uint32_t)length, sizeof payload);
    send_bytes(header, (size_t)length);
    send_bytes(payload, sizeof payload);
    send_bytes(&checksum_error, sizeof checksum_error);
}

/* What ends, stops or garbles the whole process. Returns for faults that do not. */
static void act(void) {
    if (fault[0] == '\0') {
        return;
    }
    mark();
    if (starts("orphan-")) {
        /* Something that the reference started and that holds our pipes. */
        if (fork() == 0) {
            wait_for_ever();
        }
        memmove(fault, fault + strlen("orphan-"), strlen(fault + strlen("orphan-")) + 1);
    }
    if (is("segfault")) {
        *(volatile int *)8 = 1;
    } else if (is("fpe")) {
        raise(SIGFPE);
    } else if (is("abort")) {
        abort();
    } else if (is("assert")) {
        fprintf(stderr, "ggml/src/ggml.c:1234: GGML_ASSERT(fake > 0) failed\n");
        abort();
    } else if (is("exit0")) {
        _exit(0);
    } else if (is("exit1")) {
        exit(1);
    } else if (is("kill")) {
        raise(SIGKILL);
    } else if (is("hang")) {
        wait_for_ever();
    } else if (is("spin")) {
        for (volatile unsigned long n = 0;; ++n) {
        }
    } else if (is("stop")) {
        raise(SIGSTOP);
    } else if (is("memory")) {
        for (;;) {
            memset(malloc(4 << 20), 1, 4 << 20);
        }
    } else if (is("reserve")) {
        if (malloc((size_t)1 << 42) == NULL) {
            fprintf(stderr, "ggml_aligned_malloc: insufficient memory (attempted to allocate 4194304.00 MB)\n");
            abort();
        }
        _exit(93);
    } else if (is("flood")) {
        for (;;) {
            fprintf(stderr, "the same line again and again and again and again and again and again\n");
        }
    } else if (is("chatter")) {
        for (int line = 0; line < 200000; ++line) {
            fprintf(stderr, "the same line again and again and again and again and again and again\n");
        }
        printf("and something on stdout\n");
        fflush(stdout);
    } else if (is("garbage")) {
        send_bytes("llama_decode: something\n", 24);
        wait_for_ever();
    } else if (is("short-write")) {
        send_start(VERSION, 100, 4000);
        _exit(0);
    } else if (is("half-frame")) {
        send_start(VERSION, 100, 4000);
        wait_for_ever();
    } else if (is("version")) {
        send_start(77, 2, 0);
        wait_for_ever();
    } else if (is("long-header")) {
        send_start(VERSION, 0xffffffffU, 0);
        wait_for_ever();
    } else if (is("long-payload")) {
        send_start(VERSION, 2, (uint64_t)1 << 60);
        wait_for_ever();
    } else if (is("wrapping-dims")) {
        send_node("[4294967296,4294967296,4294967296,1]", 0);
        wait_for_ever();
    } else if (is("wrong-length")) {
        send_node("[3,1,1,1]", 0);
        wait_for_ever();
    } else if (is("checksum")) {
        send_node("[2,1,1,1]", 0xdeadbeefU);
        wait_for_ever();
    } else if (is("wrong-answer")) {
        /* `Done` where nodes and logits are expected; CRC-32 of {"response":"done"}. */
        const char * header = "{\"response\":\"done\"}";
        const uint32_t checksum = 0x925fc467U;
        send_start(VERSION, (uint32_t)strlen(header), 0);
        send_bytes(header, strlen(header));
        send_bytes(&checksum, sizeof checksum);
        wait_for_ever();
    } else if (is("close-pipe")) {
        close(frames());
        wait_for_ever();
    }
}

/* ---- entries --------------------------------------------------------------------------------------------------- */

int32_t bref_abi_version(void) {
    return is("abi") ? 99 : BREF_ABI_VERSION;
}

const char * bref_last_error(void) {
    return own_error ? own_error : ((const char * (*)(void))genuine("bref_last_error"))();
}

int32_t bref_model_open(const char * path, int32_t use_mmap, bref_model ** model) {
    if (starts("load-")) {
        memmove(fault, fault + strlen("load-"), strlen(fault + strlen("load-")) + 1);
        act();
        if (is("error")) {
            own_error = "the fake does not like this model";
            *model = NULL;
            return BREF_FAILED;
        }
    }
    const int32_t status =
        ((int32_t(*)(const char *, int32_t, bref_model **))genuine("bref_model_open"))(path, use_mmap, model);
    if (status == BREF_OK) {
        struct bref_model_info info;
        bref_model_info(*model, &info);
        vocabulary = info.vocabulary;
    }
    return status;
}

/* The taps of one decode call: those of the caller, spoiled on the way. */
struct spoiled {
    const struct bref_taps * taps;
};

static int here(const struct bref_node * node) {
    return this_call && strcmp(node->name, tap_name) == 0;
}

static int32_t ask(void * user, const struct bref_node * node) {
    const struct spoiled * spoiled = user;
    return spoiled->taps->ask(spoiled->taps->user, node);
}

/* The tap that was taken last. */
static void * previous = NULL;
static size_t previous_bytes = 0;

static int32_t take(void * user, const struct bref_node * node, const void * data, size_t bytes) {
    const struct bref_taps * taps = ((const struct spoiled *)user)->taps;
    struct bref_node altered = *node;
    float * values = NULL;
    if (is("noise") && strcmp(node->type_name, "f32") == 0) {
        values = malloc(bytes);
        memcpy(values, data, bytes);
        for (size_t i = 0; i < bytes / sizeof *values; ++i) {
            values[i] *= 1.0F + 1e-6F * (float)(i % 3);
        }
        data = values;
    }
    if (here(node)) {
        act();
        if (is("missing")) {
            mark();
            return 1;
        }
        if (is("twice")) {
            taps->take(taps->user, node, data, bytes);
        } else if (is("endless")) {
            while (taps->take(taps->user, node, data, bytes)) {
            }
        } else if (is("dims")) {
            altered.dims[0] = node->dims[1];
            altered.dims[1] = node->dims[0];
        } else if (is("long-dims")) {
            altered.dims[1] += 1;
        } else if (is("dtype")) {
            altered.type_name = "i32";
        } else if (is("narrow-dtype")) {
            altered.type_name = "f16";
        } else if (is("no-dtype")) {
            altered.type_name = "f33";
        } else if (is("op")) {
            altered.op = "SUB";
        } else if (is("no-name")) {
            altered.name = "";
        } else if (is("nan") || is("value")) {
            values = malloc(bytes);
            memcpy(values, data, bytes);
            if (is("value")) {
                ((uint32_t *)values)[5] ^= 1;
            }
            for (size_t i = 0; is("nan") && i < bytes / sizeof *values; ++i) {
                values[i] = 0.0F / 0.0F;
            }
            data = values;
        } else if (is("previous") && bytes == previous_bytes) {
            mark();
            data = previous;
        }
    }
    if (is("previous") && !here(node)) {
        previous = realloc(previous, bytes + 1);
        memcpy(previous, data, bytes);
        previous_bytes = bytes;
    }
    const int32_t goes_on = taps->take(taps->user, &altered, data, bytes);
    free(values);
    return goes_on;
}

int32_t bref_decode(bref_session * session, size_t count, const int32_t * tokens, const int32_t * positions,
                    const int32_t * sequences, const int8_t * outputs, const struct bref_taps * taps) {
    typedef int32_t decode(bref_session *, size_t, const int32_t *, const int32_t *, const int32_t *, const int8_t *,
                           const struct bref_taps *);
    own_error = NULL;
    untapped = taps == NULL;
    this_call = taps != NULL && calls == call_number;
    calls += taps != NULL;
    if (this_call && (is("error") || is("bad-alloc"))) {
        mark();
        own_error = is("error") ? "the fake does not like this batch" : "std::bad_alloc";
        return BREF_FAILED;
    }
    const struct spoiled spoiled = {taps};
    const struct bref_taps ours = {(void *)&spoiled, ask, take};
    return ((decode *)genuine("bref_decode"))(session, count, tokens, positions, sequences, outputs,
                                               taps ? &ours : NULL);
}

/* Ids of a text: another last one, one more or fewer, one that no vocabulary has, none at all. */
int32_t bref_tokenize(const bref_model * model, const char * text, size_t text_length, int32_t add_special,
                      int32_t parse_special, int32_t * tokens, size_t capacity, size_t * count) {
    typedef int32_t tokenize(const bref_model *, const char *, size_t, int32_t, int32_t, int32_t *, size_t, size_t *);
    if (starts("tokens-")) {
        memmove(fault, fault + strlen("tokens-"), strlen(fault + strlen("tokens-")) + 1);
        act();
    }
    own_error = NULL;
    if (is("refused")) {
        own_error = "the fake does not like this text";
        return BREF_FAILED;
    }
    const int32_t status = ((tokenize *)genuine("bref_tokenize"))(model, text, text_length, add_special,
                                                                  parse_special, tokens, capacity, count);
    if (status != BREF_OK || *count == 0) {
        return status;
    }
    if (is("other")) {
        tokens[*count - 1] ^= 1;
    } else if (is("foreign")) {
        tokens[*count - 1] = 1 << 30;
    } else if (is("negative")) {
        tokens[*count - 1] = -1;
    } else if (is("fewer")) {
        *count -= 1;
    } else if (is("more") && *count < capacity) {
        tokens[*count] = tokens[*count - 1];
        *count += 1;
    }
    return status;
}

/* The text of every token: its first byte is another one. */
int32_t bref_token_piece(const bref_model * model, int32_t token, char * bytes, size_t capacity, size_t * length) {
    typedef int32_t piece(const bref_model *, int32_t, char *, size_t, size_t *);
    const int32_t status = ((piece *)genuine("bref_token_piece"))(model, token, bytes, capacity, length);
    if (status == BREF_OK && is("pieces-other") && *length > 0) {
        bytes[0] ^= 1;
    }
    return status;
}

const float * bref_logits(bref_session * session, size_t * rows) {
    static float * altered = NULL;
    const float * logits = ((const float * (*)(bref_session *, size_t *))genuine("bref_logits"))(session, rows);
    const int spoil = (this_call && starts("logits-")) || (untapped && is("taps-matter")) || is("noise");
    if (!spoil || logits == NULL) {
        return logits;
    }
    mark();
    const size_t count = *rows * (size_t)vocabulary;
    free(altered);
    altered = calloc(count + (size_t)vocabulary, sizeof *altered);
    memcpy(altered, logits, count * sizeof *altered);
    if (is("logits-short")) {
        *rows -= 1;
    } else if (is("logits-long")) {
        *rows += 1;
    } else if (is("logits-none")) {
        *rows = 0;
        return NULL;
    } else if (is("logits-nan")) {
        altered[3] = 0.0F / 0.0F;
    } else if (is("taps-matter")) {
        ((uint32_t *)altered)[7] ^= 1;
    } else {
        for (size_t i = 0; i < count; ++i) {
            altered[i] *= 1.0F + 1e-6F * (float)(i % 3);
        }
    }
    return altered;
}
