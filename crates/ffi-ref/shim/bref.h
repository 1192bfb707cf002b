/*
 * The C boundary of the reference. Everything that Rust knows about bitnet.cpp passes through here.
 *
 * Conventions
 *   Status     Entries that can fail return an int32_t of enum bref_status. On anything but BREF_OK the text of
 *              bref_last_error() says why. No C++ exception crosses this boundary.
 *   Abort      A failed GGML_ASSERT inside the reference prints its message to stderr and aborts the process: it
 *              cannot be caught. Entries check what they can beforehand; a hostile model file still belongs in a
 *              child process.
 *   Ownership  Handles come from *_open / *_new and go back to the matching *_free, which accepts NULL. Every other
 *              pointer is lent for the duration of the call unless its comment says otherwise.
 *   Threads    A bref_model may be used by several threads at once. A bref_session or bref_ops belongs to one thread
 *              at a time. Error and log texts are per thread.
 *   Dims       ggml's order: dims[0] is contiguous. "Row" means dims[0] consecutive elements. [a, b] is dims[0] = a,
 *              dims[1] = b.
 *   Sources    "spec" is the project's fact specification; ggml, llama are the libraries of the reference.
 */
#ifndef BREF_H
#define BREF_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#if defined(__GNUC__)
#define BREF_API __attribute__((visibility("default")))
#else
#define BREF_API
#endif

/* Raised whenever a prototype, a struct or the meaning of a status below changes. */
#define BREF_ABI_VERSION 2

enum bref_status {
    BREF_OK = 0,
    BREF_NO_SLOT = 1,   /* decode: the KV cache has no room for a micro-batch */
    BREF_STOPPED = 2,   /* decode: a take callback asked to stop */
    BREF_TOO_SMALL = 3, /* the caller's buffer is too small; the needed size was stored */
    BREF_FAILED = -1,   /* the reference reported an error, or threw */
    BREF_INVALID = -2,  /* an argument is out of range: found before the reference was asked */
    BREF_STACK = -3,    /* the calling thread's stack is too small for the reference's scratch */
};

typedef struct bref_model bref_model;
typedef struct bref_session bref_session;
typedef struct bref_ops bref_ops;

/* ---- library -------------------------------------------------------------------------------------------------- */

/* BREF_ABI_VERSION of the header that the library was compiled with. */
BREF_API int32_t bref_abi_version(void);

/* Facts about this build, as NUL-terminated text with static lifetime. `what` is one of
 *   "build"     canonical | upstream | any name that a builder chose
 *   "source"    name of the package or tree that the sources came from
 *   "version"   its version
 *   "digest"    SHA-256 over the list of source files and their hashes, hex
 *   "verified"  "yes" where every file's hash was checked against the manifest, else "no"
 *   "flags"     compiler flags and defines
 *   "compiler"  name and version of the compiler
 *   "isa"       instruction sets that the code may use, space-separated ("avx2 fma f16c …")
 * Returns NULL for any other word. */
BREF_API const char * bref_build_info(const char * what);

/* Why the last call on this thread did not return BREF_OK; empty if it did. Valid until the thread's next call. */
BREF_API const char * bref_last_error(void);

/* Warnings and errors that the reference logged during the last call on this thread that opened, decoded or
 * restored something; at most the last 4 KiB. Valid until the thread's next call. */
BREF_API const char * bref_last_log(void);

/* ---- model ---------------------------------------------------------------------------------------------------- */

/* Loads a GGUF file, weights on the CPU. `use_mmap` != 0 maps the file instead of reading it.
 * On failure *model is NULL and the error text is the loader's own. */
BREF_API int32_t bref_model_open(const char * path, int32_t use_mmap, bref_model ** model);

/* As bref_model_open, but reads the metadata and the vocabulary only, as `vocab_only` does: for the functions on text
 * and tokens below. Works on files of any architecture that the reference knows, with or without tensors. */
BREF_API int32_t bref_vocabulary_open(const char * path, bref_model ** model);

/* Every session of the model must have been freed before. */
BREF_API void bref_model_free(bref_model * model);

struct bref_model_info {
    int32_t vocabulary;     /* tokens */
    int32_t layers;
    int32_t embedding;      /* width of the residual stream, elements */
    int32_t train_context;  /* tokens */
    int32_t token_bos;      /* special ids; -1 where the model has none */
    int32_t token_eos;
    int32_t token_eot;
};

BREF_API int32_t bref_model_info(const bref_model * model, struct bref_model_info * info);

/* One line that describes the model ("bitnet-b1.58 2B I2_S …"). *length receives its bytes (no NUL is counted);
 * BREF_TOO_SMALL where it exceeds `capacity`, and nothing is written. */
BREF_API int32_t bref_model_description(const bref_model * model, char * text, size_t capacity, size_t * length);

/* Text (UTF-8, `text_length` bytes) to token ids. `add_special`: add BOS/EOS as the model asks for.
 * `parse_special`: read "<|eot_id|>" and the like as the control tokens they name.
 * *count receives the number of tokens; BREF_TOO_SMALL where it exceeds `capacity`. */
BREF_API int32_t bref_tokenize(const bref_model * model, const char * text, size_t text_length, int32_t add_special,
                               int32_t parse_special, int32_t * tokens, size_t capacity, size_t * count);

/* Bytes of one token, control tokens as their text. A piece need not be valid UTF-8 on its own.
 * *length receives the bytes; BREF_TOO_SMALL where they exceed `capacity`. */
BREF_API int32_t bref_token_piece(const bref_model * model, int32_t token, char * bytes, size_t capacity,
                                  size_t * length);

/* Bytes of a token sequence, control tokens as their text, none removed. *length and BREF_TOO_SMALL as above. */
BREF_API int32_t bref_detokenize(const bref_model * model, const int32_t * tokens, size_t count, char * bytes,
                                 size_t capacity, size_t * length);

/* 1 if the token ends generation (end of sequence, of turn, of message), 0 if not or if the id is out of range. */
BREF_API int32_t bref_is_end_of_generation(const bref_model * model, int32_t token);

/* ---- session -------------------------------------------------------------------------------------------------- */

struct bref_session_settings {
    uint32_t context;     /* KV cells wanted; 0 = the model's training context */
    uint32_t batch;       /* most tokens per decode; raised to 32 by the reference */
    uint32_t micro_batch; /* most tokens per graph; ≤ 32 unless the stack is large (spec §2.4) */
    uint32_t threads;     /* 1 … 512 */
};

/* F16 KV cache, no flash attention, RoPE settings from the model (spec §3.4). `model` must outlive the session. */
BREF_API int32_t bref_session_new(bref_model * model, const struct bref_session_settings * settings,
                                  bref_session ** session);

BREF_API void bref_session_free(bref_session * session);

/* The settings in force, which the reference may have padded (context to 32, batch to ≥ 32). */
BREF_API int32_t bref_session_settings(const bref_session * session, struct bref_session_settings * settings);

/* Replaces the worker threads. 1 … 512. */
BREF_API int32_t bref_session_set_threads(bref_session * session, uint32_t threads);

/* Puts the worker threads to sleep until the next decode. Without it they spin for about a tenth of a second after
 * each graph, and slow down whatever else is being timed. */
BREF_API void bref_session_rest(bref_session * session);

/* One node of a graph, as the scheduler evaluates it. All pointers are lent for the callback. */
struct bref_node {
    const char * name;      /* ggml's tensor name: "attn_norm-0", "node_57" */
    const char * op;        /* "MUL_MAT", "RMS_NORM", …; for UNARY the function: "SILU", "RELU" */
    const char * type_name; /* "f32", "f16", "i32", … */
    int32_t type;           /* ggml type id, spec §1.2 */
    int32_t is_view;        /* 1: VIEW, RESHAPE, PERMUTE, TRANSPOSE, NONE: shares an earlier node's bytes */
    int32_t is_empty;       /* 1: some dim is 0 */
    int64_t dims[4];        /* elements, trailing dims 1 */
    size_t strides[4];      /* bytes between neighbours along each dim, in the reference's own memory */
};

struct bref_taps {
    void * user; /* handed to both callbacks */
    /* Called for every node in order of evaluation, before it is computed. != 0: its values are wanted. Every node is
     * computed as a graph of its own while there are taps, whatever is wanted. */
    int32_t (*ask)(void * user, const struct bref_node * node);
    /* Called once the wanted node is computed, before the next one is. `data`: its elements in logical order,
     * dims[0] fastest and without gaps (a strided tensor is gathered), `bytes` in all; a block-quantised tensor is
     * handed over as stored. Returning 0 stops the decode. */
    int32_t (*take)(void * user, const struct bref_node * node, const void * data, size_t bytes);
};

/* Runs `count` tokens through the model. All arrays have `count` entries: token id, position (≥ 0), sequence (≥ 0),
 * and whether logits are wanted (0 or 1). `taps` may be NULL: the scheduler's callback is then off.
 *   BREF_NO_SLOT  micro-batches before the one that did not fit stay in the cache, as in the reference.
 *   BREF_STOPPED  the cache's cells are as before the call; there are no logits. */
BREF_API int32_t bref_decode(bref_session * session, size_t count, const int32_t * tokens, const int32_t * positions,
                             const int32_t * sequences, const int8_t * outputs, const struct bref_taps * taps);

/* As bref_decode, with tokens that belong to further sequences: the token of index further_tokens[i] also belongs to
 * further_sequences[i] (≥ 0), for `further` pairs. It looks at the cells of its own sequence only. */
BREF_API int32_t bref_decode_shared(bref_session * session, size_t count, const int32_t * tokens,
                                    const int32_t * positions, const int32_t * sequences, const int8_t * outputs,
                                    size_t further, const size_t * further_tokens, const int32_t * further_sequences,
                                    const struct bref_taps * taps);

/* Logits of the last successful decode: f32 [vocabulary, *rows], one row per token with output = 1, in batch order.
 * Lent until the session's next decode, restore or free; another bref_logits returns the same. NULL and *rows = 0 if
 * there are none. */
BREF_API const float * bref_logits(bref_session * session, size_t * rows);

/* ---- KV cache ------------------------------------------------------------------------------------------------- */
/* Positions are half-open ranges [from, to); from < 0 means 0, to < 0 means unbounded. */

BREF_API void bref_kv_clear(bref_session * session);
/* Removes positions of a sequence (< 0: of any). Returns 0 if a part of a sequence cannot be removed, else 1. */
BREF_API int32_t bref_kv_remove(bref_session * session, int32_t sequence, int32_t from, int32_t to);
/* Lets `target` share the cells of `source`. */
BREF_API void bref_kv_copy(bref_session * session, int32_t source, int32_t target, int32_t from, int32_t to);
/* Removes every sequence but one. */
BREF_API void bref_kv_keep(bref_session * session, int32_t sequence);
/* Shifts positions by `delta`; the keys are rotated by the next bref_kv_update or decode. */
BREF_API void bref_kv_add(bref_session * session, int32_t sequence, int32_t from, int32_t to, int32_t delta);
/* Divides positions by `divisor` ≥ 1; the keys are rotated by the next bref_kv_update or decode. */
BREF_API int32_t bref_kv_divide(bref_session * session, int32_t sequence, int32_t from, int32_t to, int32_t divisor);
/* Asks for the cells to be moved together by the next bref_kv_update or decode. */
BREF_API void bref_kv_defragment(bref_session * session);
/* Applies pending rotations and moves now. `taps` (may be NULL) sees the nodes of the rotation; `take` cannot stop
 * it. A decode applies them unseen. */
BREF_API int32_t bref_kv_update(bref_session * session, const struct bref_taps * taps);
/* Cells that belong to a sequence. */
BREF_API int32_t bref_kv_used_cells(const bref_session * session);
/* Tokens in the cache; a cell shared by two sequences counts twice. */
BREF_API int32_t bref_kv_tokens(const bref_session * session);
/* Largest position of a sequence; 0 (the reference's answer) where it has none. */
BREF_API int32_t bref_kv_last_position(bref_session * session, int32_t sequence);
/* 1 if keys can be rotated to new positions. */
BREF_API int32_t bref_kv_can_shift(const bref_session * session);

/* Where the next search for free cells begins. */
BREF_API size_t bref_kv_head(const bref_session * session);
/* What cell `cell` holds: position (-1: it is free), pending change of position, and its sequences, ascending:
 * `*count` of them, of which the first `capacity` are stored. */
BREF_API int32_t bref_kv_cell(const bref_session * session, size_t cell, int32_t * position, int32_t * shift,
                              int32_t * sequences, size_t capacity, size_t * count);
/* All keys and values of a layer as the cache stores them, f16: keys [width, cells], values [cells, width]. `bytes` is
 * the size of each buffer: width · cells · 2. */
BREF_API int32_t bref_kv_layer(const bref_session * session, size_t layer, void * keys, void * values, size_t bytes);

/* ---- state ---------------------------------------------------------------------------------------------------- */
/* `sequence` ≥ 0: the cells of one sequence. -1: the whole session (logits, cells of all sequences). The format is
 * the reference's own. Restore only what the same model and settings saved: the reference trusts it. A whole session is
 * restored only if every sequence is below the number of cells. */

BREF_API int32_t bref_state_size(bref_session * session, int32_t sequence, size_t * bytes);
BREF_API int32_t bref_state_save(bref_session * session, int32_t sequence, void * data, size_t capacity,
                                 size_t * written);
BREF_API int32_t bref_state_restore(bref_session * session, int32_t sequence, const void * data, size_t bytes);

/* ---- kernels on plain buffers --------------------------------------------------------------------------------- */

/* Activation quantizer (spec §2.1): s = 127 / max(1e-5, max|x|), quantized[i] = rint(x[i]·s) clamped to i8,
 * *scale = s (a multiplier), *sum = Σ quantized. x: f32 [count]. */
BREF_API int32_t bref_quantize_activations(const float * x, size_t count, int8_t * quantized, float * scale,
                                           int32_t * sum);

/* I2_S dot of one row (spec §2.2): *dot = Σ code·quantized with code ∈ {0,1,2}, not centred, in the reference's
 * wrapping 16-bit arithmetic. row: count/4 bytes; count a multiple of 128. */
BREF_API int32_t bref_dot_i2_s(const uint8_t * row, const int8_t * quantized, size_t count, float * dot);

/* I2_S matrix × one vector: dots[r] as bref_dot_i2_s. weights: [width, rows], rows·width/4 bytes. */
BREF_API int32_t bref_gemv_i2_s(const uint8_t * weights, const int8_t * quantized, size_t width, size_t rows,
                                float * dots);

/* I2_S matrix × `tokens` vectors (a multiple of 4): dots[t·rows + r]. quantized: i8 [width, tokens]. */
BREF_API int32_t bref_gemm_i2_s(const uint8_t * weights, const int8_t * quantized, size_t width, size_t rows,
                                size_t tokens, float * dots);

/* Packs f32 [width, rows] into I2_S (spec §1.3): sign codes, then one f32 scale = max|w|. Writes width·rows/4 + 4
 * of the `capacity` ≥ width·rows/4 + 32 bytes; the reference leaves the last 28 as they are. width a multiple of 128. */
BREF_API int32_t bref_quantize_i2_s(const float * weights, size_t width, size_t rows, void * packed, size_t capacity);

/* Unpacks `count` elements (a multiple of 128): weights[i] = scale·{-1, 0, +1, 0}[code]. packed: count/4 bytes. */
BREF_API int32_t bref_dequantize_i2_s(const uint8_t * packed, size_t count, float scale, float * weights);

/* Σ a[i]·b[i] in the reference's order (spec §4.6); f16 values as their bits. */
BREF_API int32_t bref_dot_f16(const uint16_t * a, const uint16_t * b, size_t count, float * dot);
BREF_API int32_t bref_dot_f32(const float * a, const float * b, size_t count, float * dot);

/* f32 → f16, round to nearest even; and back, exact. */
BREF_API int32_t bref_f32_to_f16(const float * from, uint16_t * to, size_t count);
BREF_API int32_t bref_f16_to_f32(const uint16_t * from, float * to, size_t count);

/* ---- single graph ops on plain buffers ------------------------------------------------------------------------ */

/* A tensor on the caller's memory. `strides` all 0: contiguous. Inputs are read only. */
struct bref_tensor {
    void * data;
    size_t bytes;      /* size of the buffer behind data */
    int32_t type;      /* ggml type id */
    int64_t dims[4];   /* each ≥ 1 */
    size_t strides[4]; /* bytes; or all 0 */
};

/* A place to run ops: scratch memory, reused, and `threads` (1 … 512) worker threads, kept. */
BREF_API int32_t bref_ops_new(uint32_t threads, bref_ops ** ops);
BREF_API void bref_ops_free(bref_ops * ops);
/* As bref_session_rest. */
BREF_API void bref_ops_rest(bref_ops * ops);

/* y = W·x: weights of any type [K, M, …], x f32 [K, N, …] → out f32 [M, N, …], contiguous; dims 2 and 3 of x are
 * multiples of those of the weights, which are repeated. I2_S weights are 2-D with M a multiple of 4 (spec §1.3). */
BREF_API int32_t bref_op_mul_mat(bref_ops * ops, const struct bref_tensor * weights, const struct bref_tensor * x,
                                 const struct bref_tensor * out);

/* out = x / sqrt(mean(x²) + epsilon) per row (spec §4.1). f32, out contiguous and of x's dims; epsilon > 0. */
BREF_API int32_t bref_op_rms_norm(bref_ops * ops, const struct bref_tensor * x, float epsilon,
                                  const struct bref_tensor * out);

/* out = softmax(x·scale + mask) per row (spec §4.5). x, out: f32 [cells, tokens, heads], contiguous.
 * mask: f32 [cells, ≥ tokens], contiguous, or NULL. */
BREF_API int32_t bref_op_soft_max(bref_ops * ops, const struct bref_tensor * x, const struct bref_tensor * mask,
                                  float scale, const struct bref_tensor * out);

struct bref_rope {
    int32_t dims;        /* rotated elements per head: even, ≤ head width */
    int32_t neox;        /* 1: pairs (i, i + dims/2); 0: pairs (2i, 2i + 1) */
    float freq_base;
    float freq_scale;
};

/* Rotary position embedding (spec §4.4), no YaRN. x, out: f32 [head width, heads, tokens]; positions: i32 [tokens];
 * factors: f32 [≥ dims/2], divides the angle of each pair, or NULL. */
BREF_API int32_t bref_op_rope(bref_ops * ops, const struct bref_tensor * x, const struct bref_tensor * positions,
                              const struct bref_tensor * factors, const struct bref_rope * rope,
                              const struct bref_tensor * out);

/* out = x / (1 + exp(-x)) (spec §4.3), max(x, 0), x² (spec §4.2). f32, contiguous. */
BREF_API int32_t bref_op_silu(bref_ops * ops, const struct bref_tensor * x, const struct bref_tensor * out);
BREF_API int32_t bref_op_relu(bref_ops * ops, const struct bref_tensor * x, const struct bref_tensor * out);
BREF_API int32_t bref_op_sqr(bref_ops * ops, const struct bref_tensor * x, const struct bref_tensor * out);

/* out = a + b, a · b, element by element; f32. Each dim of b divides that of a, and b is repeated. out has a's dims. */
BREF_API int32_t bref_op_add(bref_ops * ops, const struct bref_tensor * a, const struct bref_tensor * b,
                             const struct bref_tensor * out);
BREF_API int32_t bref_op_mul(bref_ops * ops, const struct bref_tensor * a, const struct bref_tensor * b,
                             const struct bref_tensor * out);

/* out = x, converted to out's type (f32 or f16 each), in logical order; both may be strided. */
BREF_API int32_t bref_op_copy(bref_ops * ops, const struct bref_tensor * x, const struct bref_tensor * out);

/* out[:, i] = table[:, rows[i]] as f32. table: [width, n] of f32, f16, bf16, I2_S, Q4_0, Q4_1, Q5_0, Q5_1, Q8_0, Q2_K
 * to Q6_K, IQ4_NL, IQ4_XS, TQ1_0 or TQ2_0; rows: i32 [count], each in 0 … n-1; out: f32 [width, count], contiguous. */
BREF_API int32_t bref_op_get_rows(bref_ops * ops, const struct bref_tensor * table, const struct bref_tensor * rows,
                                  const struct bref_tensor * out);

#ifdef __cplusplus
}
#endif

#endif
