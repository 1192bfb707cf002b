// What the files of the shim share: the status and error protocol, the capture of the reference's log, and the few
// things that only the reference's own translation unit can do.
#pragma once

#include "bref.h"

#include "ggml-backend.h"
#include "ggml.h"
#include "llama.h"

#include <cstddef>
#include <cstdint>
#include <exception>
#include <memory>
#include <utility>
#include <vector>

namespace bref {

// ---- errors (library.cpp) ----

// Sets this thread's error text, printf style, and returns `status`.
int32_t fail(int32_t status, const char * format, ...) __attribute__((format(printf, 2, 3)));

// As fail(BREF_FAILED, …), with what the reference logged during the call as the reason.
int32_t fail_with_log(const char * what);

// Starts an entry: clears this thread's error text.
void begin_call();

// Starts capturing the log of this thread anew.
void begin_log();

// Error lines captured since begin_log().
int logged_errors();

// Initialises the reference once per process, and routes its log into the capture.
void initialise();

// Runs the body of an entry. Turns exceptions into a status, because they must not cross the C boundary.
template <typename Body>
int32_t guarded(Body && body) noexcept {
    try {
        begin_call();
        return std::forward<Body>(body)();
    } catch (const std::exception & error) {
        return fail(BREF_FAILED, "%s", error.what());
    } catch (...) {
        return fail(BREF_FAILED, "an exception of unknown type");
    }
}

// As guarded(), for entries that return something else than a status.
template <typename Value, typename Body>
Value guarded_value(Value otherwise, Body && body) noexcept {
    Value value = otherwise;
    guarded([&] {
        value = std::forward<Body>(body)();
        return static_cast<int32_t>(BREF_OK);
    });
    return value;
}

// Hands `length` bytes to a caller who gave room for `capacity`.
int32_t store_bytes(const void * from, size_t length, void * to, size_t capacity, size_t * stored);

// ---- threads and stacks (threads.cpp) ----

struct PoolDeleter {
    void operator()(ggml_threadpool * pool) const { ggml_threadpool_free(pool); }
};
using Pool = std::unique_ptr<ggml_threadpool, PoolDeleter>;

// Worker threads for `threads` ≥ 2; empty for 1, where the caller computes alone.
Pool new_pool(uint32_t threads);

// BREF_OK if `threads` is in range.
int32_t check_threads(uint32_t threads);

// BREF_OK if this thread, and each of the pool's, has room on its stack for the reference's I2_S scratch:
// rows_of_one_thread × tokens f32 (spec §2.4). Without this check the overflow is a segmentation fault.
int32_t check_stack(uint64_t rows, uint64_t tokens, uint32_t threads);

// ---- taps (taps.cpp) ----

// Adapts bref_taps to the scheduler's eval callback. Lives on the stack of one decode.
class TapState;

// ---- inside llama.cpp (llama_unit.cpp) ----

namespace inside {

// Sets the eval callback of a context, which the public interface allows only at its creation. Takes effect on the
// scheduler at once, so that nothing of an earlier decode can be called. NULL switches it off entirely.
void set_eval_callback(llama_context * context, ggml_backend_sched_eval_callback callback, void * user);

// Which cells of the KV cache are in use and by whom; not their contents.
struct CellSnapshot;
struct CellSnapshotDeleter {
    void operator()(CellSnapshot * snapshot) const;
};
using Snapshot = std::unique_ptr<CellSnapshot, CellSnapshotDeleter>;

// Valid as long as no rotation or move is applied: call llama_kv_cache_update first.
Snapshot snapshot_cells(const llama_context * context);
void restore_cells(llama_context * context, const CellSnapshot & snapshot);

// Rows of the widest weight matrix of a layer.
uint64_t widest_layer_matrix(const llama_model * model);

bool can_shift(const llama_context * context);

// Position, pending shift and sequences of a cell; false if there is no such cell.
bool read_cell(const llama_context * context, size_t cell, int32_t & position, int32_t & shift,
               std::vector<int32_t> & sequences);
size_t kv_head(const llama_context * context);

// The cached keys and values of a layer; NULL if there is no such layer.
const ggml_tensor * cached_keys(const llama_context * context, size_t layer);
const ggml_tensor * cached_values(const llama_context * context, size_t layer);

}  // namespace inside
}  // namespace bref
