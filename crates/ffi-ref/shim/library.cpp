// The library as a whole: facts about the build, error texts, and the capture of the reference's log.
#include "internal.hpp"

#include <cstdarg>
#include <cstdio>
#include <cstring>
#include <mutex>
#include <string>

#if !defined(BREF_BUILD) || !defined(BREF_SOURCE) || !defined(BREF_VERSION) || !defined(BREF_DIGEST) || \
    !defined(BREF_VERIFIED) || !defined(BREF_FLAGS)
#error "the builder defines what bref_build_info reports"
#endif

#if defined(__clang__)
#define BREF_COMPILER "clang " __clang_version__
#elif defined(__GNUC__)
#define BREF_COMPILER "gcc " __VERSION__
#else
#define BREF_COMPILER "unknown"
#endif

namespace bref {
namespace {

constexpr size_t LOG_CAPACITY = 4096;

struct ThreadTexts {
    std::string error;
    std::string log;
    int errors = 0;
    // The level of the line being written, for the pieces of it that follow as LEVEL_CONT.
    ggml_log_level level = GGML_LOG_LEVEL_NONE;
};

ThreadTexts & texts() {
    thread_local ThreadTexts instance;
    return instance;
}

// Called from C and C++ code of the reference alike; nothing may escape from it.
void capture_log(ggml_log_level level, const char * text, void *) noexcept {
    try {
        ThreadTexts & mine = texts();
        if (level != GGML_LOG_LEVEL_CONT) {
            mine.level = level;
            mine.errors += level == GGML_LOG_LEVEL_ERROR;
        }
        if (mine.level != GGML_LOG_LEVEL_ERROR && mine.level != GGML_LOG_LEVEL_WARN) {
            return;
        }
        mine.log += text;
        if (mine.log.size() > LOG_CAPACITY) {
            mine.log.erase(0, mine.log.size() - LOG_CAPACITY);
        }
    } catch (...) {
        // Out of memory for a log line: the line is lost, the call goes on.
    }
}

}  // namespace

int32_t fail(int32_t status, const char * format, ...) {
    char buffer[1024];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(buffer, sizeof buffer, format, arguments);
    va_end(arguments);
    try {
        texts().error = buffer;
    } catch (...) {
        // Out of memory for the text: the status still tells.
    }
    return status;
}

int32_t fail_with_log(const char * what) {
    // One line: the reference's own lines, joined.
    std::string reason;
    for (const char c : texts().log) {
        if (c != '\n') {
            reason += c;
        } else if (!reason.empty() && reason.back() != '\n') {
            reason += c;
        }
    }
    while (!reason.empty() && reason.back() == '\n') {
        reason.pop_back();
    }
    std::string text = what;
    text += reason.empty() ? "" : ": ";
    for (const char c : reason) {
        text += c == '\n' ? std::string("; ") : std::string(1, c);
    }
    texts().error = text;
    return BREF_FAILED;
}

void begin_call() {
    texts().error.clear();
}

void begin_log() {
    texts().log.clear();
    texts().errors = 0;
    texts().level = GGML_LOG_LEVEL_NONE;
}

int logged_errors() {
    return texts().errors;
}

void initialise() {
    static std::once_flag once;
    std::call_once(once, [] {
        llama_log_set(capture_log, nullptr);
        llama_backend_init();
    });
}

int32_t store_bytes(const void * from, size_t length, void * to, size_t capacity, size_t * stored) {
    *stored = length;
    if (length > capacity) {
        return fail(BREF_TOO_SMALL, "%zu bytes needed, room for %zu", length, capacity);
    }
    if (length > 0) {
        memcpy(to, from, length);
    }
    return BREF_OK;
}

}  // namespace bref

int32_t bref_abi_version(void) {
    return BREF_ABI_VERSION;
}

const char * bref_build_info(const char * what) {
    static const char isa[] =
#if defined(__AVX2__)
        "avx2 "
#endif
#if defined(__FMA__)
        "fma "
#endif
#if defined(__F16C__)
        "f16c "
#endif
#if defined(__BMI2__)
        "bmi2 "
#endif
#if defined(__AVX512F__)
        "avx512f "
#endif
#if defined(__AVX512BW__)
        "avx512bw "
#endif
#if defined(__AVX512DQ__)
        "avx512dq "
#endif
#if defined(__AVX512VL__)
        "avx512vl "
#endif
#if defined(__AVX512VBMI__)
        "avx512vbmi "
#endif
#if defined(__AVX512VNNI__)
        "avx512vnni "
#endif
#if defined(__AVX512BF16__)
        "avx512bf16 "
#endif
#if defined(__AVXVNNI__)
        "avxvnni "
#endif
        "";
    static const struct {
        const char * what;
        const char * text;
    } facts[] = {
        {"build", BREF_BUILD},       {"source", BREF_SOURCE},     {"version", BREF_VERSION},
        {"digest", BREF_DIGEST},     {"verified", BREF_VERIFIED}, {"flags", BREF_FLAGS},
        {"compiler", BREF_COMPILER}, {"isa", isa},
    };
    for (const auto & fact : facts) {
        if (what != nullptr && strcmp(what, fact.what) == 0) {
            return fact.text;
        }
    }
    return nullptr;
}

const char * bref_last_error(void) {
    return bref::texts().error.c_str();
}

const char * bref_last_log(void) {
    return bref::texts().log.c_str();
}
