// Worker threads that outlive a graph, and the room that the reference's scratch needs on their stacks.
#include "internal.hpp"

#include <pthread.h>

namespace bref {
namespace {

// Frames of the reference below its scratch, and of the caller's callbacks: an ample guess, not a measurement.
constexpr uint64_t STACK_MARGIN = 256 * 1024;

// Bytes of this thread's stack below the current frame; 0 if the system does not say.
uint64_t stack_left() {
#if defined(__linux__)
    // Constant per thread, and slow to ask for on the main thread (it reads a file).
    thread_local const uintptr_t lowest = [] {
        pthread_attr_t attributes;
        if (pthread_getattr_np(pthread_self(), &attributes) != 0) {
            return static_cast<uintptr_t>(0);
        }
        void * address = nullptr;
        size_t size = 0;
        size_t guard = 0;
        pthread_attr_getstack(&attributes, &address, &size);
        pthread_attr_getguardsize(&attributes, &guard);
        pthread_attr_destroy(&attributes);
        return reinterpret_cast<uintptr_t>(address) + guard;
    }();
    const auto here = reinterpret_cast<uintptr_t>(__builtin_frame_address(0));
    return lowest != 0 && here > lowest ? here - lowest : 0;
#else
    return 0;
#endif
}

// Stack of a thread that ggml starts; 0 if the system does not say.
uint64_t worker_stack() {
#if defined(__linux__)
    pthread_attr_t attributes;
    size_t size = 0;
    if (pthread_attr_init(&attributes) == 0) {
        pthread_attr_getstacksize(&attributes, &size);
        pthread_attr_destroy(&attributes);
    }
    return size;
#else
    return 0;
#endif
}

}  // namespace

int32_t check_threads(uint32_t threads) {
    if (threads < 1 || threads > GGML_MAX_N_THREADS) {
        return fail(BREF_INVALID, "threads: expected 1 to %d, found %u", GGML_MAX_N_THREADS, threads);
    }
    return BREF_OK;
}

Pool new_pool(uint32_t threads) {
    if (threads < 2) {
        return {};
    }
    ggml_threadpool_params parameters = ggml_threadpool_params_default(static_cast<int>(threads));
    return Pool(ggml_threadpool_new(&parameters));
}

int32_t check_stack(uint64_t rows, uint64_t tokens, uint32_t threads) {
    // The reference rounds the rows of a thread up to a multiple of 4, at both ends of its range.
    const uint64_t rows_of_one = rows / threads + 8;
    const uint64_t needed = rows_of_one * tokens * sizeof(float) + STACK_MARGIN;
    const uint64_t left = stack_left();
    if (left != 0 && left < needed) {
        return fail(BREF_STACK, "the reference needs %llu KiB of stack for %llu rows × %llu tokens, this thread has %llu KiB left",
                    static_cast<unsigned long long>(needed / 1024), static_cast<unsigned long long>(rows_of_one),
                    static_cast<unsigned long long>(tokens), static_cast<unsigned long long>(left / 1024));
    }
    const uint64_t worker = worker_stack();
    if (threads > 1 && worker != 0 && worker < needed) {
        return fail(BREF_STACK, "the reference needs %llu KiB of stack for %llu rows × %llu tokens, its worker threads have %llu KiB",
                    static_cast<unsigned long long>(needed / 1024), static_cast<unsigned long long>(rows_of_one),
                    static_cast<unsigned long long>(tokens), static_cast<unsigned long long>(worker / 1024));
    }
    return BREF_OK;
}

}  // namespace bref
