// The KV cache of a session, and its state as bytes.
#include "handles.hpp"
#include "taps.hpp"

#include <algorithm>
#include <optional>
#include <vector>

namespace {

using bref::fail;
using bref::guarded;

int32_t copy_cached(const ggml_tensor * tensor, size_t layer, void * to, size_t bytes) {
    if (tensor == nullptr || ggml_nbytes(tensor) != bytes) {
        return fail(BREF_INVALID, "layer %zu of the KV cache: it is not there, or holds another number of bytes than %zu",
                    layer, bytes);
    }
    ggml_backend_tensor_get(tensor, to, 0, bytes);
    return BREF_OK;
}

}  // namespace

void bref_kv_clear(bref_session * session) {
    guarded([&]() -> int32_t {
        llama_kv_cache_clear(session->llama.get());
        return BREF_OK;
    });
}

int32_t bref_kv_remove(bref_session * session, int32_t sequence, int32_t from, int32_t to) {
    return bref::guarded_value<int32_t>(
        0, [&] { return llama_kv_cache_seq_rm(session->llama.get(), sequence, from, to) ? 1 : 0; });
}

void bref_kv_copy(bref_session * session, int32_t source, int32_t target, int32_t from, int32_t to) {
    guarded([&]() -> int32_t {
        llama_kv_cache_seq_cp(session->llama.get(), source, target, from, to);
        return BREF_OK;
    });
}

void bref_kv_keep(bref_session * session, int32_t sequence) {
    guarded([&]() -> int32_t {
        llama_kv_cache_seq_keep(session->llama.get(), sequence);
        return BREF_OK;
    });
}

void bref_kv_add(bref_session * session, int32_t sequence, int32_t from, int32_t to, int32_t delta) {
    guarded([&]() -> int32_t {
        llama_kv_cache_seq_add(session->llama.get(), sequence, from, to, delta);
        return BREF_OK;
    });
}

int32_t bref_kv_divide(bref_session * session, int32_t sequence, int32_t from, int32_t to, int32_t divisor) {
    return guarded([&]() -> int32_t {
        if (divisor < 1) {
            return fail(BREF_INVALID, "divisor: expected at least 1, found %d", divisor);
        }
        llama_kv_cache_seq_div(session->llama.get(), sequence, from, to, divisor);
        return BREF_OK;
    });
}

void bref_kv_defragment(bref_session * session) {
    guarded([&]() -> int32_t {
        llama_kv_cache_defrag(session->llama.get());
        return BREF_OK;
    });
}

int32_t bref_kv_update(bref_session * session, const struct bref_taps * taps) {
    return guarded([&]() -> int32_t {
        bref::begin_log();
        // The cells' positions are already the new ones: to stop between two layers would leave keys that match
        // neither.
        std::optional<bref::TapState> state;
        if (taps != nullptr) {
            state.emplace(*taps, /* may_stop */ false);
        }
        const bref::TapScope scope(session->llama.get(), state ? &*state : nullptr, session->pool.get(),
                                   session->crew);
        llama_kv_cache_update(session->llama.get());
        return bref::logged_errors() > 0 ? bref::fail_with_log("the update of the KV cache failed") : BREF_OK;
    });
}

int32_t bref_kv_used_cells(const bref_session * session) {
    return bref::guarded_value<int32_t>(0, [&] { return llama_get_kv_cache_used_cells(session->llama.get()); });
}

int32_t bref_kv_tokens(const bref_session * session) {
    return bref::guarded_value<int32_t>(0, [&] { return llama_get_kv_cache_token_count(session->llama.get()); });
}

int32_t bref_kv_last_position(bref_session * session, int32_t sequence) {
    return bref::guarded_value<int32_t>(
        0, [&] { return llama_kv_cache_seq_pos_max(session->llama.get(), sequence); });
}

int32_t bref_kv_can_shift(const bref_session * session) {
    return bref::guarded_value<int32_t>(0, [&] { return bref::inside::can_shift(session->llama.get()) ? 1 : 0; });
}

size_t bref_kv_head(const bref_session * session) {
    return bref::guarded_value<size_t>(0, [&] { return bref::inside::kv_head(session->llama.get()); });
}

int32_t bref_kv_cell(const bref_session * session, size_t cell, int32_t * position, int32_t * shift,
                     int32_t * sequences, size_t capacity, size_t * count) {
    return guarded([&]() -> int32_t {
        std::vector<int32_t> found;
        if (!bref::inside::read_cell(session->llama.get(), cell, *position, *shift, found)) {
            return fail(BREF_INVALID, "cell %zu: the KV cache has no such cell", cell);
        }
        *count = found.size();
        std::copy_n(found.begin(), std::min(capacity, found.size()), sequences);
        return BREF_OK;
    });
}

int32_t bref_kv_layer(const bref_session * session, size_t layer, void * keys, void * values, size_t bytes) {
    return guarded([&]() -> int32_t {
        const llama_context * context = session->llama.get();
        if (const int32_t status = copy_cached(bref::inside::cached_keys(context, layer), layer, keys, bytes)) {
            return status;
        }
        return copy_cached(bref::inside::cached_values(context, layer), layer, values, bytes);
    });
}

int32_t bref_state_size(bref_session * session, int32_t sequence, size_t * bytes) {
    return guarded([&]() -> int32_t {
        llama_context * context = session->llama.get();
        *bytes = sequence < 0 ? llama_state_get_size(context) : llama_state_seq_get_size(context, sequence);
        return BREF_OK;
    });
}

int32_t bref_state_save(bref_session * session, int32_t sequence, void * data, size_t capacity, size_t * written) {
    return guarded([&]() -> int32_t {
        bref::begin_log();
        llama_context * context = session->llama.get();
        auto * to = static_cast<uint8_t *>(data);
        *written = sequence < 0 ? llama_state_get_data(context, to, capacity)
                                : llama_state_seq_get_data(context, to, capacity, sequence);
        return *written == 0 ? bref::fail_with_log("the reference cannot save the state") : BREF_OK;
    });
}

int32_t bref_state_restore(bref_session * session, int32_t sequence, const void * data, size_t bytes) {
    return guarded([&]() -> int32_t {
        bref::begin_log();
        llama_context * context = session->llama.get();
        const auto * from = static_cast<const uint8_t *>(data);
        // The logits that come with the state have no batch that says how many rows they are.
        session->output_rows = 0;
        const size_t read = sequence < 0 ? llama_state_set_data(context, from, bytes)
                                         : llama_state_seq_set_data(context, from, bytes, sequence);
        return read == 0 ? bref::fail_with_log("the reference cannot restore the state") : BREF_OK;
    });
}
