// A loaded model and its tokenizer.
#include "handles.hpp"

#include <climits>
#include <string>
#include <vector>

namespace {

using bref::fail;
using bref::guarded;

bool fits_int(size_t count) {
    return count <= static_cast<size_t>(INT32_MAX);
}

// Most functions of llama's tokenizer return the count, or the needed count negated where the buffer was too small.
size_t needed_count(int32_t returned) {
    return static_cast<size_t>(returned < 0 ? -static_cast<int64_t>(returned) : returned);
}

int32_t open_model(const char * path, bool use_mmap, bool vocabulary_only, bref_model ** model) {
    return guarded([&]() -> int32_t {
        *model = nullptr;
        bref::initialise();
        bref::begin_log();
        llama_model_params parameters = llama_model_default_params();
        parameters.n_gpu_layers = 0;
        parameters.use_mmap = use_mmap;
        parameters.vocab_only = vocabulary_only;
        std::unique_ptr<llama_model, bref::ModelDeleter> loaded(llama_load_model_from_file(path, parameters));
        if (!loaded) {
            return bref::fail_with_log("the reference cannot load the model");
        }
        *model = new bref_model{std::move(loaded), vocabulary_only};
        return BREF_OK;
    });
}

}  // namespace

int32_t bref_model_open(const char * path, int32_t use_mmap, bref_model ** model) {
    return open_model(path, use_mmap != 0, false, model);
}

int32_t bref_vocabulary_open(const char * path, bref_model ** model) {
    return open_model(path, true, true, model);
}

void bref_model_free(bref_model * model) {
    delete model;
}

int32_t bref_model_info(const bref_model * model, struct bref_model_info * info) {
    return guarded([&]() -> int32_t {
        const llama_model * llama = model->llama.get();
        *info = {
            llama_n_vocab(llama),   llama_n_layer(llama),   llama_n_embd(llama),    llama_n_ctx_train(llama),
            llama_token_bos(llama), llama_token_eos(llama), llama_token_eot(llama),
        };
        return BREF_OK;
    });
}

int32_t bref_model_description(const bref_model * model, char * text, size_t capacity, size_t * length) {
    return guarded([&]() -> int32_t {
        char buffer[256];
        const int32_t written = llama_model_desc(model->llama.get(), buffer, sizeof buffer);
        const size_t full = written < 0 ? 0 : static_cast<size_t>(written);
        return bref::store_bytes(buffer, full < sizeof buffer ? full : sizeof buffer - 1, text, capacity, length);
    });
}

int32_t bref_tokenize(const bref_model * model, const char * text, size_t text_length, int32_t add_special,
                      int32_t parse_special, int32_t * tokens, size_t capacity, size_t * count) {
    return guarded([&]() -> int32_t {
        if (!fits_int(text_length)) {
            return fail(BREF_INVALID, "text: %zu bytes are too many for one call", text_length);
        }
        const int32_t room = static_cast<int32_t>(fits_int(capacity) ? capacity : INT32_MAX);
        const int32_t returned = llama_tokenize(model->llama.get(), text, static_cast<int32_t>(text_length), tokens,
                                                room, add_special != 0, parse_special != 0);
        *count = needed_count(returned);
        if (returned < 0) {
            return fail(BREF_TOO_SMALL, "%zu tokens, room for %zu", *count, capacity);
        }
        return BREF_OK;
    });
}

int32_t bref_token_piece(const bref_model * model, int32_t token, char * bytes, size_t capacity, size_t * length) {
    return guarded([&]() -> int32_t {
        const llama_model * llama = model->llama.get();
        if (token < 0 || token >= llama_n_vocab(llama)) {
            return fail(BREF_INVALID, "token %d: expected 0 to %d", token, llama_n_vocab(llama) - 1);
        }
        const int32_t room = static_cast<int32_t>(fits_int(capacity) ? capacity : INT32_MAX);
        const int32_t returned = llama_token_to_piece(llama, token, bytes, room, 0, true);
        *length = needed_count(returned);
        if (returned < 0) {
            return fail(BREF_TOO_SMALL, "%zu bytes needed, room for %zu", *length, capacity);
        }
        return BREF_OK;
    });
}

int32_t bref_detokenize(const bref_model * model, const int32_t * tokens, size_t count, char * bytes, size_t capacity,
                        size_t * length) {
    return guarded([&]() -> int32_t {
        const llama_model * llama = model->llama.get();
        if (!fits_int(count)) {
            return fail(BREF_INVALID, "%zu tokens are too many for one call", count);
        }
        for (size_t i = 0; i < count; ++i) {
            if (tokens[i] < 0 || tokens[i] >= llama_n_vocab(llama)) {
                return fail(BREF_INVALID, "token %zu of the sequence: expected 0 to %d, found %d", i,
                            llama_n_vocab(llama) - 1, tokens[i]);
            }
        }
        const int32_t room = static_cast<int32_t>(fits_int(capacity) ? capacity : INT32_MAX);
        const int32_t returned =
            llama_detokenize(llama, tokens, static_cast<int32_t>(count), bytes, room, false, true);
        *length = needed_count(returned);
        if (returned < 0) {
            return fail(BREF_TOO_SMALL, "%zu bytes needed, room for %zu", *length, capacity);
        }
        return BREF_OK;
    });
}

int32_t bref_is_end_of_generation(const bref_model * model, int32_t token) {
    return bref::guarded_value<int32_t>(0, [&] {
        const llama_model * llama = model->llama.get();
        return token >= 0 && token < llama_n_vocab(llama) && llama_token_is_eog(llama, token) ? 1 : 0;
    });
}
