#include "taps.hpp"

#include <cstring>

namespace bref {
namespace {

bool only_relabels(const ggml_tensor * tensor) {
    switch (tensor->op) {
        case GGML_OP_NONE:
        case GGML_OP_VIEW:
        case GGML_OP_RESHAPE:
        case GGML_OP_PERMUTE:
        case GGML_OP_TRANSPOSE:
            return true;
        default:
            return false;
    }
}

bref_node describe(const ggml_tensor * tensor) {
    bref_node node = {};
    node.name = tensor->name;
    // For UNARY this is the function's name.
    node.op = ggml_op_desc(tensor);
    node.type_name = ggml_type_name(tensor->type);
    node.type = tensor->type;
    node.is_view = only_relabels(tensor);
    node.is_empty = ggml_is_empty(tensor);
    for (int i = 0; i < GGML_MAX_DIMS; ++i) {
        node.dims[i] = tensor->ne[i];
        node.strides[i] = tensor->nb[i];
    }
    return node;
}

// Copies one row of `count` elements that lie `stride` bytes apart. The sizes that occur in a graph get a loop of
// their own, because a memcpy of unknown size per element is what makes taps slow.
template <typename Element>
void gather_row(const uint8_t * from, size_t stride, int64_t count, uint8_t * to) {
    for (int64_t i = 0; i < count; ++i) {
        memcpy(to + i * sizeof(Element), from + i * stride, sizeof(Element));
    }
}

}  // namespace

bool TapState::trampoline(ggml_tensor * tensor, bool ask, void * user) {
    // The receiver may start threads that outlive the graph.
    const CrewScope no_crew(nullptr);
    auto * state = static_cast<TapState *>(user);
    return ask ? state->ask(tensor) : state->take(tensor);
}

bool TapState::ask(const ggml_tensor * tensor) {
    if (stopped_) {
        // A stop ends one graph; the later micro-batches of the same decode are ended at their first node.
        return true;
    }
    const bref_node node = describe(tensor);
    wanted_ = taps_.ask(taps_.user, &node) != 0;
    // Every node that is computed is asked for, so that each is a graph of its own: what was announced last is then
    // what the reference was busy with when it crashed. What only relabels goes along with the node behind it.
    return wanted_ || !only_relabels(tensor);
}

bool TapState::take(const ggml_tensor * tensor) {
    if (stopped_) {
        return false;
    }
    if (!wanted_) {
        return true;
    }
    const bref_node node = describe(tensor);
    size_t bytes = 0;
    const void * data = contiguous(tensor, &bytes);
    if (taps_.take(taps_.user, &node, data, bytes) == 0 && may_stop_) {
        stopped_ = true;
        return false;
    }
    return true;
}

const void * TapState::contiguous(const ggml_tensor * tensor, size_t * bytes) {
    const auto * base = static_cast<const uint8_t *>(tensor->data);
    if (ggml_is_empty(tensor)) {
        *bytes = 0;
        return base;
    }
    if (ggml_is_contiguous(tensor) || ggml_blck_size(tensor->type) != 1) {
        *bytes = ggml_nbytes(tensor);
        return base;
    }
    const size_t element = ggml_type_size(tensor->type);
    const size_t row = element * static_cast<size_t>(tensor->ne[0]);
    *bytes = element * static_cast<size_t>(ggml_nelements(tensor));
    if (gathered_.size() < *bytes) {
        gathered_.resize(*bytes);
    }
    uint8_t * to = gathered_.data();
    for (int64_t i3 = 0; i3 < tensor->ne[3]; ++i3) {
        for (int64_t i2 = 0; i2 < tensor->ne[2]; ++i2) {
            for (int64_t i1 = 0; i1 < tensor->ne[1]; ++i1, to += row) {
                const uint8_t * from = base + i1 * tensor->nb[1] + i2 * tensor->nb[2] + i3 * tensor->nb[3];
                if (tensor->nb[0] == element) {
                    memcpy(to, from, row);
                } else if (element == 2) {
                    gather_row<uint16_t>(from, tensor->nb[0], tensor->ne[0], to);
                } else if (element == 4) {
                    gather_row<uint32_t>(from, tensor->nb[0], tensor->ne[0], to);
                } else {
                    for (int64_t i0 = 0; i0 < tensor->ne[0]; ++i0) {
                        memcpy(to + i0 * element, from + i0 * tensor->nb[0], element);
                    }
                }
            }
        }
    }
    return gathered_.data();
}

}  // namespace bref
