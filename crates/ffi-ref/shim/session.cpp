// A decoding session: batches in, taps and logits out.
#include "handles.hpp"
#include "taps.hpp"

#include <algorithm>
#include <optional>
#include <vector>

namespace {

using bref::fail;
using bref::guarded;
using bref::TapScope;

// What the reference would answer with a failed assertion, or not notice.
int32_t check_batch(const bref_session * session, size_t count, const int32_t * tokens, const int32_t * positions,
                    const int32_t * sequences) {
    const uint32_t most = llama_n_batch(session->llama.get());
    if (count == 0 || count > most) {
        return fail(BREF_INVALID, "batch: expected 1 to %u tokens, found %zu", most, count);
    }
    const int32_t vocabulary = llama_n_vocab(session->model->llama.get());
    for (size_t i = 0; i < count; ++i) {
        if (tokens[i] < 0 || tokens[i] >= vocabulary) {
            return fail(BREF_INVALID, "token %zu of the batch: expected 0 to %d, found %d", i, vocabulary - 1,
                        tokens[i]);
        }
        if (positions[i] < 0 || sequences[i] < 0) {
            return fail(BREF_INVALID, "token %zu of the batch: position %d and sequence %d must not be negative", i,
                        positions[i], sequences[i]);
        }
    }
    return BREF_OK;
}

int32_t check_decode_stack(const bref_session * session, size_t count) {
    const uint64_t tokens = std::min<uint64_t>(count, llama_n_ubatch(session->llama.get()));
    return bref::check_stack(bref::inside::widest_layer_matrix(session->model->llama.get()), tokens, session->threads);
}

void attach_pool(bref_session * session, uint32_t threads) {
    bref::Pool pool = bref::new_pool(threads);
    llama_set_n_threads(session->llama.get(), static_cast<int32_t>(threads), static_cast<int32_t>(threads));
    llama_attach_threadpool(session->llama.get(), pool.get(), pool.get());
    session->pool = std::move(pool);
    session->threads = threads;
}

}  // namespace

int32_t bref_session_new(bref_model * model, const struct bref_session_settings * settings, bref_session ** session) {
    return guarded([&]() -> int32_t {
        *session = nullptr;
        bref::begin_log();
        if (const int32_t status = bref::check_threads(settings->threads)) {
            return status;
        }
        if (model->vocabulary_only) {
            return fail(BREF_INVALID, "only the vocabulary of this model is loaded: it cannot decode");
        }
        if (settings->batch == 0 || settings->micro_batch == 0) {
            return fail(BREF_INVALID, "batch %u and micro-batch %u must be at least 1", settings->batch,
                        settings->micro_batch);
        }
        llama_context_params parameters = llama_context_default_params();
        parameters.n_ctx = settings->context;
        parameters.n_batch = settings->batch;
        parameters.n_ubatch = settings->micro_batch;
        parameters.n_threads = static_cast<int32_t>(settings->threads);
        parameters.n_threads_batch = static_cast<int32_t>(settings->threads);
        parameters.offload_kqv = false;
        parameters.no_perf = true;
        auto created = std::make_unique<bref_session>();
        created->model = model;
        created->llama.reset(llama_new_context_with_model(model->llama.get(), parameters));
        if (!created->llama) {
            return bref::fail_with_log("the reference cannot create a context");
        }
        attach_pool(created.get(), settings->threads);
        *session = created.release();
        return BREF_OK;
    });
}

void bref_session_free(bref_session * session) {
    delete session;
}

int32_t bref_session_settings(const bref_session * session, struct bref_session_settings * settings) {
    return guarded([&]() -> int32_t {
        const llama_context * context = session->llama.get();
        *settings = {llama_n_ctx(context), llama_n_batch(context), llama_n_ubatch(context), session->threads};
        return BREF_OK;
    });
}

int32_t bref_session_set_threads(bref_session * session, uint32_t threads) {
    return guarded([&]() -> int32_t {
        if (const int32_t status = bref::check_threads(threads)) {
            return status;
        }
        if (threads != session->threads) {
            attach_pool(session, threads);
        }
        return BREF_OK;
    });
}

void bref_session_rest(bref_session * session) {
    if (session->pool) {
        ggml_threadpool_pause(session->pool.get());
    }
}

int32_t bref_decode(bref_session * session, size_t count, const int32_t * tokens, const int32_t * positions,
                    const int32_t * sequences, const int8_t * outputs, const struct bref_taps * taps) {
    return bref_decode_shared(session, count, tokens, positions, sequences, outputs, 0, nullptr, nullptr, taps);
}

int32_t bref_decode_shared(bref_session * session, size_t count, const int32_t * tokens, const int32_t * positions,
                           const int32_t * sequences, const int8_t * outputs, size_t further,
                           const size_t * further_tokens, const int32_t * further_sequences,
                           const struct bref_taps * taps) {
    return guarded([&]() -> int32_t {
        bref::begin_log();
        session->output_rows = 0;
        if (const int32_t status = check_batch(session, count, tokens, positions, sequences)) {
            return status;
        }
        if (const int32_t status = check_decode_stack(session, count)) {
            return status;
        }
        llama_context * context = session->llama.get();

        std::vector<std::vector<llama_seq_id>> sequence_ids(count);
        for (size_t i = 0; i < count; ++i) {
            sequence_ids[i].push_back(sequences[i]);
        }
        for (size_t i = 0; i < further; ++i) {
            if (further_tokens[i] >= count || further_sequences[i] < 0) {
                return fail(BREF_INVALID, "further sequence %zu: expected one of %zu tokens and 0 or more, found %zu and %d",
                            i, count, further_tokens[i], further_sequences[i]);
            }
            sequence_ids[further_tokens[i]].push_back(further_sequences[i]);
        }
        std::vector<int32_t> sequence_counts(count);
        std::vector<llama_seq_id *> sequence_lists(count);
        for (size_t i = 0; i < count; ++i) {
            sequence_counts[i] = static_cast<int32_t>(sequence_ids[i].size());
            sequence_lists[i] = sequence_ids[i].data();
        }
        llama_batch batch = {};
        batch.n_tokens = static_cast<int32_t>(count);
        // The reference takes these as mutable and only reads them.
        batch.token = const_cast<int32_t *>(tokens);
        batch.pos = const_cast<int32_t *>(positions);
        batch.n_seq_id = sequence_counts.data();
        batch.seq_id = sequence_lists.data();
        batch.logits = const_cast<int8_t *>(outputs);

        std::optional<bref::TapState> state;
        bref::inside::Snapshot before;
        if (taps != nullptr) {
            // Pending rotations are applied first: they are no part of the batch's graph, and a snapshot taken
            // before them could not be restored.
            llama_kv_cache_update(context);
            before = bref::inside::snapshot_cells(context);
            state.emplace(*taps, /* may_stop */ true);
        }
        const TapScope scope(context, state ? &*state : nullptr, session->pool.get(), session->crew);
        const int32_t returned = llama_decode(context, batch);
        if (state && state->stopped()) {
            bref::inside::restore_cells(context, *before);
            return fail(BREF_STOPPED, "stopped by the receiver of the taps");
        }
        if (returned == 1) {
            return fail(BREF_NO_SLOT, "the KV cache has no room for the batch");
        }
        // A graph that could not be computed is logged, and not returned.
        if (returned != 0 || bref::logged_errors() > 0) {
            return bref::fail_with_log("decode failed");
        }
        session->output_rows = count - static_cast<size_t>(std::count(outputs, outputs + count, 0));
        return BREF_OK;
    });
}

const float * bref_logits(bref_session * session, size_t * rows) {
    *rows = 0;
    return bref::guarded_value<const float *>(nullptr, [&]() -> const float * {
        if (session->output_rows == 0) {
            return nullptr;
        }
        const float * logits = llama_get_logits(session->llama.get());
        *rows = logits ? session->output_rows : 0;
        return logits;
    });
}
