// llama.cpp as its own translation unit, unchanged, followed by the few accessors that need its private types. Its
// public interface fixes the eval callback when a context is created; switching taps on and off per decode, and
// undoing a stopped decode, need the fields themselves.
#include "llama.cpp"

#include "internal.hpp"

namespace bref::inside {

void set_eval_callback(llama_context * context, ggml_backend_sched_eval_callback callback, void * user) {
    context->cparams.cb_eval = callback;
    context->cparams.cb_eval_user_data = user;
    ggml_backend_sched_set_eval_callback(context->sched, callback, user);
}

struct CellSnapshot {
    uint32_t head;
    uint32_t used;
    uint32_t n;
    bool has_shift;
    bool do_defrag;
    std::vector<llama_kv_cell> cells;
};

void CellSnapshotDeleter::operator()(CellSnapshot * snapshot) const {
    delete snapshot;
}

Snapshot snapshot_cells(const llama_context * context) {
    const llama_kv_cache & cache = context->kv_self;
    return Snapshot(new CellSnapshot{cache.head, cache.used, cache.n, cache.has_shift, cache.do_defrag, cache.cells});
}

void restore_cells(llama_context * context, const CellSnapshot & snapshot) {
    llama_kv_cache & cache = context->kv_self;
    cache.head = snapshot.head;
    cache.used = snapshot.used;
    cache.n = snapshot.n;
    cache.has_shift = snapshot.has_shift;
    cache.do_defrag = snapshot.do_defrag;
    cache.cells = snapshot.cells;
}

uint64_t widest_layer_matrix(const llama_model * model) {
    const llama_hparams & parameters = model->hparams;
    uint64_t widest = parameters.n_embd;
    // The head is the embedding; as I2_S it takes the same path as the layers' matrices.
    if (model->tok_embd != nullptr && model->tok_embd->type == GGML_TYPE_I2_S) {
        widest = std::max<uint64_t>(widest, parameters.n_vocab);
    }
    for (uint32_t layer = 0; layer < parameters.n_layer; ++layer) {
        widest = std::max<uint64_t>(widest, parameters.n_ff(layer));
        widest = std::max<uint64_t>(widest, uint64_t(parameters.n_head(layer)) * parameters.n_embd_head_k);
    }
    return widest;
}

bool can_shift(const llama_context * context) {
    return !context->kv_self.recurrent && context->model.arch != LLM_ARCH_DEEPSEEK2 &&
           context->model.hparams.rope_type != LLAMA_ROPE_TYPE_NONE;
}

bool read_cell(const llama_context * context, size_t cell, int32_t & position, int32_t & shift,
               std::vector<int32_t> & sequences) {
    const std::vector<llama_kv_cell> & cells = context->kv_self.cells;
    if (cell >= cells.size()) {
        return false;
    }
    position = cells[cell].pos;
    shift = cells[cell].delta;
    sequences.assign(cells[cell].seq_id.begin(), cells[cell].seq_id.end());
    return true;
}

size_t kv_head(const llama_context * context) {
    return context->kv_self.head;
}

const ggml_tensor * cached_keys(const llama_context * context, size_t layer) {
    const llama_kv_cache & cache = context->kv_self;
    return layer < cache.k_l.size() ? cache.k_l[layer] : nullptr;
}

const ggml_tensor * cached_values(const llama_context * context, size_t layer) {
    const llama_kv_cache & cache = context->kv_self;
    return layer < cache.v_l.size() ? cache.v_l[layer] : nullptr;
}

}  // namespace bref::inside
