// The reference's kernels on plain buffers, called as its graph calls them.
#include "internal.hpp"

#include "ggml-aarch64.h"
#include "ggml-quants.h"

#include <climits>

namespace {

using bref::fail;
using bref::guarded;

// Elements per block of the I2_S layout on x86 (spec §1.3).
constexpr size_t I2_S_BLOCK = 128;

int32_t check_count(size_t count) {
    if (count == 0 || count > static_cast<size_t>(INT32_MAX)) {
        return fail(BREF_INVALID, "count: expected 1 to %d elements, found %zu", INT32_MAX, count);
    }
    return BREF_OK;
}

int32_t check_blocks(size_t count) {
    if (const int32_t status = check_count(count)) {
        return status;
    }
    if (count % I2_S_BLOCK != 0) {
        return fail(BREF_INVALID, "count: expected a multiple of %zu, found %zu", I2_S_BLOCK, count);
    }
    return BREF_OK;
}

int32_t check_matrix(size_t width, size_t rows) {
    if (const int32_t status = check_blocks(width)) {
        return status;
    }
    if (rows == 0 || rows > static_cast<size_t>(INT32_MAX) / width) {
        return fail(BREF_INVALID, "matrix of %zu × %zu: the reference counts its elements in 31 bits", width, rows);
    }
    return BREF_OK;
}

int32_t dot(ggml_type type, const void * a, const void * b, size_t count, float * result) {
    if (const int32_t status = check_count(count)) {
        return status;
    }
    bref::initialise();
    ggml_get_type_traits(type)->vec_dot(static_cast<int>(count), result, 0, a, 0, b, 0, 1);
    return BREF_OK;
}

}  // namespace

int32_t bref_quantize_activations(const float * x, size_t count, int8_t * quantized, float * scale, int32_t * sum) {
    return guarded([&]() -> int32_t {
        if (const int32_t status = check_count(count)) {
            return status;
        }
        quantize_row_i8_s(x, quantized, static_cast<int64_t>(count), scale, sum);
        return BREF_OK;
    });
}

int32_t bref_dot_i2_s(const uint8_t * row, const int8_t * quantized, size_t count, float * result) {
    return guarded([&]() -> int32_t {
        if (const int32_t status = check_blocks(count)) {
            return status;
        }
        ggml_vec_dot_i2_i8_s(static_cast<int>(count), result, 1, row, count, quantized, 0, 1);
        return BREF_OK;
    });
}

int32_t bref_gemv_i2_s(const uint8_t * weights, const int8_t * quantized, size_t width, size_t rows, float * dots) {
    return guarded([&]() -> int32_t {
        if (const int32_t status = check_matrix(width, rows)) {
            return status;
        }
        ggml_gemv_i2_i8_s(static_cast<int>(width), dots, rows, weights, quantized, 1, static_cast<int>(rows));
        return BREF_OK;
    });
}

int32_t bref_gemm_i2_s(const uint8_t * weights, const int8_t * quantized, size_t width, size_t rows, size_t tokens,
                       float * dots) {
    return guarded([&]() -> int32_t {
        if (const int32_t status = check_matrix(width, rows)) {
            return status;
        }
        if (tokens == 0 || tokens % 4 != 0 || tokens > static_cast<size_t>(INT32_MAX) / width) {
            return fail(BREF_INVALID, "tokens: expected a multiple of 4, found %zu", tokens);
        }
        ggml_gemm_i2_i8_s(static_cast<int>(width), dots, rows, weights, quantized, static_cast<int>(tokens),
                          static_cast<int>(rows));
        return BREF_OK;
    });
}

int32_t bref_quantize_i2_s(const float * weights, size_t width, size_t rows, void * packed, size_t capacity) {
    return guarded([&]() -> int32_t {
        if (const int32_t status = check_matrix(width, rows)) {
            return status;
        }
        const size_t needed = width * rows / 4 + 32;
        if (capacity < needed) {
            return fail(BREF_TOO_SMALL, "%zu bytes needed, room for %zu", needed, capacity);
        }
        quantize_i2_s(weights, packed, static_cast<int64_t>(rows), static_cast<int64_t>(width), nullptr);
        return BREF_OK;
    });
}

int32_t bref_dequantize_i2_s(const uint8_t * packed, size_t count, float scale, float * weights) {
    return guarded([&]() -> int32_t {
        if (const int32_t status = check_blocks(count)) {
            return status;
        }
        dequantize_row_i2_s(packed, weights, static_cast<int64_t>(count), scale);
        return BREF_OK;
    });
}

int32_t bref_dot_f16(const uint16_t * a, const uint16_t * b, size_t count, float * result) {
    return guarded([&] { return dot(GGML_TYPE_F16, a, b, count, result); });
}

int32_t bref_dot_f32(const float * a, const float * b, size_t count, float * result) {
    return guarded([&] { return dot(GGML_TYPE_F32, a, b, count, result); });
}

int32_t bref_f32_to_f16(const float * from, uint16_t * to, size_t count) {
    return guarded([&]() -> int32_t {
        bref::initialise();
        ggml_fp32_to_fp16_row(from, to, static_cast<int64_t>(count));
        return BREF_OK;
    });
}

int32_t bref_f16_to_f32(const uint16_t * from, float * to, size_t count) {
    return guarded([&]() -> int32_t {
        bref::initialise();
        ggml_fp16_to_fp32_row(from, to, static_cast<int64_t>(count));
        return BREF_OK;
    });
}
