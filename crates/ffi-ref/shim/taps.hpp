// From the scheduler's eval callback to the caller's two callbacks.
#pragma once

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

// Switches the taps of a context on for one scope.
class TapScope {
  public:
    TapScope(llama_context * context, TapState * state) : context_(context) {
        inside::set_eval_callback(context, state ? TapState::trampoline : nullptr, state);
    }
    ~TapScope() { inside::set_eval_callback(context_, nullptr, nullptr); }
    TapScope(const TapScope &) = delete;
    TapScope & operator=(const TapScope &) = delete;

  private:
    llama_context * context_;
};

}  // namespace bref
