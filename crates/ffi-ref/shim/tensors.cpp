#include "tensors.hpp"

#include <cstring>

namespace bref {
namespace {

// Padding behind the packed part of an I2_S tensor, whose first 4 bytes are the scale (spec §1.3).
constexpr size_t I2_S_TAIL = 32;

struct Strides {
    size_t bytes[4];
};

bool given(const bref_tensor & tensor) {
    return tensor.strides[0] != 0 || tensor.strides[1] != 0 || tensor.strides[2] != 0 || tensor.strides[3] != 0;
}

// As ggml sets them for a new tensor. False on overflow.
bool contiguous_strides(const bref_tensor & tensor, Strides * strides) {
    const auto type = static_cast<ggml_type>(tensor.type);
    strides->bytes[0] = ggml_type_size(type);
    size_t blocks = static_cast<size_t>(tensor.dims[0] / ggml_blck_size(type));
    for (int i = 1; i < 4; ++i) {
        if (__builtin_mul_overflow(strides->bytes[i - 1], blocks, &strides->bytes[i])) {
            return false;
        }
        blocks = static_cast<size_t>(tensor.dims[i]);
    }
    size_t end = 0;
    return !__builtin_mul_overflow(strides->bytes[3], blocks, &end);
}

Strides strides_of(const bref_tensor & tensor) {
    Strides strides = {};
    if (given(tensor)) {
        memcpy(strides.bytes, tensor.strides, sizeof strides.bytes);
    } else {
        contiguous_strides(tensor, &strides);
    }
    return strides;
}

// Bytes from the start of the data to the end of its last element. False on overflow.
bool extent(const bref_tensor & tensor, const Strides & strides, size_t * bytes) {
    const auto type = static_cast<ggml_type>(tensor.type);
    if (type == GGML_TYPE_I2_S) {
        *bytes = static_cast<size_t>(elements(tensor)) / 4 + I2_S_TAIL;
        return true;
    }
    const size_t blocks = static_cast<size_t>(tensor.dims[0] / ggml_blck_size(type));
    size_t end = ggml_type_size(type);
    for (int i = 0; i < 4; ++i) {
        const size_t steps = (i == 0 ? blocks : static_cast<size_t>(tensor.dims[i])) - 1;
        size_t distance = 0;
        if (__builtin_mul_overflow(steps, strides.bytes[i], &distance) ||
            __builtin_add_overflow(end, distance, &end)) {
            return false;
        }
    }
    *bytes = end;
    return true;
}

size_t alignment(ggml_type type) {
    switch (type) {
        case GGML_TYPE_F32:
        case GGML_TYPE_I32:
        case GGML_TYPE_I2_S:  // its scale
            return 4;
        case GGML_TYPE_I8:
            return 1;
        default:  // f16 and bf16 values, and the f16 scales of the block formats
            return 2;
    }
}

// The reference keeps removed ids in its table with a block size of 0. The ids above I2_S (packed activations and the
// look-up-table formats) have kernels that this build leaves out.
bool known(int32_t type) {
    return type >= 0 && type <= GGML_TYPE_I2_S && ggml_blck_size(static_cast<ggml_type>(type)) > 0 &&
           ggml_type_size(static_cast<ggml_type>(type)) > 0;
}

}  // namespace

int32_t check_tensor(const bref_tensor * tensor, const char * name, int32_t type, Layout layout) {
    if (!known(tensor->type) || (type != ANY_TYPE && tensor->type != type)) {
        return fail(BREF_INVALID, "%s: type %d is not the one expected", name, tensor->type);
    }
    const auto own = static_cast<ggml_type>(tensor->type);
    int64_t count = 1;
    for (int i = 0; i < 4; ++i) {
        if (tensor->dims[i] < 1 || __builtin_mul_overflow(count, tensor->dims[i], &count)) {
            return fail(BREF_INVALID, "%s: dim %d is %lld", name, i, static_cast<long long>(tensor->dims[i]));
        }
    }
    if (tensor->dims[0] % ggml_blck_size(own) != 0) {
        return fail(BREF_INVALID, "%s: rows of %lld elements are no multiple of the block of %lld", name,
                    static_cast<long long>(tensor->dims[0]), static_cast<long long>(ggml_blck_size(own)));
    }
    Strides dense = {};
    if (!contiguous_strides(*tensor, &dense)) {
        return fail(BREF_INVALID, "%s: its size overflows", name);
    }
    const Strides strides = strides_of(*tensor);
    const bool rows_are_dense = strides.bytes[0] == dense.bytes[0];
    if ((layout == Layout::Contiguous && !is_contiguous(*tensor)) ||
        (layout == Layout::DenseRows && !rows_are_dense) || (own == GGML_TYPE_I2_S && given(*tensor))) {
        return fail(BREF_INVALID, "%s: its strides do not fit the op", name);
    }
    size_t needed = 0;
    if (!extent(*tensor, strides, &needed) || needed > tensor->bytes) {
        return fail(BREF_INVALID, "%s: needs %zu bytes, its buffer has %zu", name, needed, tensor->bytes);
    }
    const size_t align = alignment(own);
    bool aligned = reinterpret_cast<uintptr_t>(tensor->data) % align == 0;
    for (int i = 0; i < 4; ++i) {
        aligned = aligned && (tensor->dims[i] == 1 || own == GGML_TYPE_I2_S || strides.bytes[i] % align == 0);
    }
    if (!aligned) {
        return fail(BREF_INVALID, "%s: its data is not aligned to %zu bytes", name, align);
    }
    return BREF_OK;
}

int32_t check_dims(const bref_tensor * tensor, const char * name, const int64_t (&expected)[4]) {
    for (int i = 0; i < 4; ++i) {
        if (tensor->dims[i] != expected[i]) {
            return fail(BREF_INVALID, "%s: dim %d: expected %lld, found %lld", name, i,
                        static_cast<long long>(expected[i]), static_cast<long long>(tensor->dims[i]));
        }
    }
    return BREF_OK;
}

int64_t elements(const bref_tensor & tensor) {
    return tensor.dims[0] * tensor.dims[1] * tensor.dims[2] * tensor.dims[3];
}

bool is_contiguous(const bref_tensor & tensor) {
    Strides dense = {};
    if (!contiguous_strides(tensor, &dense)) {
        return false;
    }
    const Strides strides = strides_of(tensor);
    for (int i = 0; i < 4; ++i) {
        // The stride of a dim of 1 is never used.
        if ((i == 0 || tensor.dims[i] != 1) && strides.bytes[i] != dense.bytes[i]) {
            return false;
        }
    }
    return true;
}

bool is_transposed(const bref_tensor & tensor) {
    const Strides strides = strides_of(tensor);
    return strides.bytes[0] > strides.bytes[1];
}

bool has_get_rows(ggml_type type) {
    switch (type) {
        case GGML_TYPE_F32:
        case GGML_TYPE_F16:
        case GGML_TYPE_BF16:
        case GGML_TYPE_I2_S:
        case GGML_TYPE_Q4_0:
        case GGML_TYPE_Q4_1:
        case GGML_TYPE_Q5_0:
        case GGML_TYPE_Q5_1:
        case GGML_TYPE_Q8_0:
        case GGML_TYPE_Q2_K:
        case GGML_TYPE_Q3_K:
        case GGML_TYPE_Q4_K:
        case GGML_TYPE_Q5_K:
        case GGML_TYPE_Q6_K:
        case GGML_TYPE_IQ4_NL:
        case GGML_TYPE_IQ4_XS:
        case GGML_TYPE_TQ1_0:
        case GGML_TYPE_TQ2_0:
            return true;
        default:
            return false;
    }
}

ggml_tensor * wrap(ggml_context * context, const bref_tensor & tensor) {
    ggml_tensor * node = ggml_new_tensor(context, static_cast<ggml_type>(tensor.type), 4, tensor.dims);
    const Strides strides = strides_of(tensor);
    memcpy(node->nb, strides.bytes, sizeof node->nb);
    node->data = tensor.data;
    return node;
}

}  // namespace bref
