// From the scheduler's eval callback to the caller's two callbacks.
#pragma once

#include "crew.hpp"
#include "internal.hpp"

#include <vector>

namespace bref {

// Lives as long as one decode. The scheduler calls trampoline() with it as user data.
class TapState {
  public:
    TapState(const bref_taps & taps, bool may_stop) : taps_(taps), may_stop_(may_stop) {}

    bool stopped() const { return stopped_; }

    static bool trampoline(ggml_tensor * tensor, bool ask, void * user);

  private:
    bool ask(const ggml_tensor * tensor);
    bool take(const ggml_tensor * tensor);
    const void * contiguous(const ggml_tensor * tensor, size_t * bytes);

    const bref_taps & taps_;
    const bool may_stop_;
    bool stopped_ = false;
    bool wanted_ = false;
    std::vector<uint8_t> gathered_;
};

// Switches the taps of a context on for one scope, if there are any.
//
// With taps, every node is a graph of its own, and those of views and of single rows take one thread. The persistent
// pool cannot alternate between numbers of threads: a worker that has seen a graph for one thread announced, and is
// held up before it reads the number of threads, reads that of the next graph, computes its part of that, and then,
// because it has not seen it announced, computes it again (ggml_graph_compute_thread_ready). By then the node has been
// handed over, or its memory belongs to another one. So the pool is taken off: each graph then starts threads of its
// own and ends with their end, and nothing of a node is under way when it is handed over. They are lent by a crew, or
// the system would take longer to start them than many a node takes.
class TapScope {
  public:
    TapScope(llama_context * context, TapState * state, ggml_threadpool * pool, Crew & crew)
        : context_(context), pool_(state ? pool : nullptr), crew_(&crew) {
        if (pool_) {
            llama_detach_threadpool(context_);
        }
        inside::set_eval_callback(context, state ? TapState::trampoline : nullptr, state);
    }
    ~TapScope() {
        inside::set_eval_callback(context_, nullptr, nullptr);
        if (pool_) {
            llama_attach_threadpool(context_, pool_, pool_);
        }
    }
    TapScope(const TapScope &) = delete;
    TapScope & operator=(const TapScope &) = delete;

  private:
    llama_context * context_;
    ggml_threadpool * pool_;
    CrewScope crew_;
};

}  // namespace bref
