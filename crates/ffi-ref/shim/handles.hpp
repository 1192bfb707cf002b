// The contents of the opaque handles of models and sessions.
#pragma once

#include "crew.hpp"
#include "internal.hpp"

namespace bref {

struct ModelDeleter {
    void operator()(llama_model * model) const { llama_free_model(model); }
};

struct ContextDeleter {
    void operator()(llama_context * context) const { llama_free(context); }
};

}  // namespace bref

struct bref_model {
    std::unique_ptr<llama_model, bref::ModelDeleter> llama;
    // Nothing but the vocabulary was loaded: there are no weights to decode with.
    bool vocabulary_only;
};

struct bref_session {
    // Freed after the context, which computes on it.
    bref::Pool pool;
    // Lends the threads of graphs that have taps.
    bref::Crew crew;
    std::unique_ptr<llama_context, bref::ContextDeleter> llama;
    bref_model * model;
    uint32_t threads;
    // Rows of logits of the last decode; 0 after a decode that failed.
    size_t output_rows;
};
