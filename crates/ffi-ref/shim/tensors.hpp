// Checks of caller-supplied tensors, and their form as ggml nodes. The reference answers a bad shape with an abort
// and a short buffer with an overrun, so both are found here.
#pragma once

#include "internal.hpp"

namespace bref {

enum class Layout {
    Contiguous,  // no gaps
    DenseRows,   // elements of a row are neighbours; rows may lie anywhere
    AnyStrides,
};

constexpr int32_t ANY_TYPE = -1;

// BREF_OK if `tensor` has a known type (or `type`), dims ≥ 1, the layout, and lies within its buffer.
int32_t check_tensor(const bref_tensor * tensor, const char * name, int32_t type, Layout layout);

// BREF_OK if the dims are the expected ones.
int32_t check_dims(const bref_tensor * tensor, const char * name, const int64_t (&expected)[4]);

// The rest takes tensors that passed check_tensor.

int64_t elements(const bref_tensor & tensor);
bool is_contiguous(const bref_tensor & tensor);
// Rows nearer to each other than elements: the reference refuses such weights.
bool is_transposed(const bref_tensor & tensor);
bool has_get_rows(ggml_type type);

// A leaf of a graph on the tensor's memory.
ggml_tensor * wrap(ggml_context * context, const bref_tensor & tensor);

}  // namespace bref
