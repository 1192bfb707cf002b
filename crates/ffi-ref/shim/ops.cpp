// Single ops of the reference's graph on the caller's buffers, run by the reference's own graph evaluator: most of
// its ops are static functions that nothing else can call.
#include "internal.hpp"

#include "tensors.hpp"

#include <cstddef>
#include <vector>

struct bref_ops {
    // Nodes and the graph; their data lies with the caller.
    std::vector<std::max_align_t> arena;
    std::vector<uint8_t> work;
    bref::Pool pool;
    uint32_t threads;
};

namespace {

using bref::fail;
using bref::guarded;

// More than any entry below builds: three inputs, a result and a view.
constexpr size_t MAX_NODES = 8;

struct ContextDeleter {
    void operator()(ggml_context * context) const { ggml_free(context); }
};

// Builds one op on `inputs` (null where the op has an optional input), computes it into `out`. `build` receives the
// context and the input tensors, and returns the result node. The entry has checked that the op will not assert.
template <size_t N, typename Build>
int32_t run(bref_ops * ops, const bref_tensor * const (&inputs)[N], const bref_tensor * out, Build && build) {
    bref::initialise();
    bref::begin_log();
    ggml_init_params parameters = {};
    parameters.mem_buffer = ops->arena.data();
    parameters.mem_size = ops->arena.size() * sizeof(std::max_align_t);
    parameters.no_alloc = true;
    const std::unique_ptr<ggml_context, ContextDeleter> context(ggml_init(parameters));
    if (!context) {
        return bref::fail_with_log("the reference has no graph context left");
    }
    ggml_tensor * nodes[N] = {};
    for (size_t i = 0; i < N; ++i) {
        nodes[i] = inputs[i] ? bref::wrap(context.get(), *inputs[i]) : nullptr;
    }
    ggml_tensor * result = build(context.get(), nodes);
    result->data = out->data;
    ggml_cgraph * graph = ggml_new_graph_custom(context.get(), MAX_NODES, false);
    ggml_build_forward_expand(graph, result);
    ggml_cplan plan = ggml_graph_plan(graph, static_cast<int>(ops->threads), ops->pool.get());
    if (plan.n_threads != static_cast<int>(ops->threads)) {
        // The pool cannot alternate between numbers of threads (see TapScope).
        plan.threadpool = nullptr;
    }
    if (ops->work.size() < plan.work_size) {
        ops->work.resize(plan.work_size);
    }
    plan.work_data = ops->work.data();
    if (ggml_graph_compute(graph, &plan) != GGML_STATUS_SUCCESS) {
        return bref::fail_with_log("the reference cannot compute the op");
    }
    return BREF_OK;
}

// For ops whose result has the dims of their first input: f32 in, contiguous f32 out.
int32_t check_same(const bref_tensor * x, const bref_tensor * out) {
    if (const int32_t status = bref::check_tensor(x, "x", GGML_TYPE_F32, bref::Layout::DenseRows)) {
        return status;
    }
    if (const int32_t status = bref::check_tensor(out, "out", GGML_TYPE_F32, bref::Layout::Contiguous)) {
        return status;
    }
    return bref::check_dims(out, "out", x->dims);
}

template <typename Build>
int32_t run_unary(bref_ops * ops, const bref_tensor * x, const bref_tensor * out, Build && build) {
    return guarded([&]() -> int32_t {
        if (const int32_t status = check_same(x, out)) {
            return status;
        }
        if (!bref::is_contiguous(*x)) {
            return fail(BREF_INVALID, "x: expected a contiguous tensor");
        }
        const bref_tensor * const inputs[] = {x};
        return run(ops, inputs, out, build);
    });
}

template <typename Build>
int32_t run_binary(bref_ops * ops, const bref_tensor * a, const bref_tensor * b, const bref_tensor * out,
                   Build && build) {
    return guarded([&]() -> int32_t {
        if (const int32_t status = check_same(a, out)) {
            return status;
        }
        if (const int32_t status = bref::check_tensor(b, "b", GGML_TYPE_F32, bref::Layout::DenseRows)) {
            return status;
        }
        for (int i = 0; i < 4; ++i) {
            if (a->dims[i] % b->dims[i] != 0) {
                return fail(BREF_INVALID, "b: dim %d is %lld, which does not divide %lld", i,
                            static_cast<long long>(b->dims[i]), static_cast<long long>(a->dims[i]));
            }
        }
        const bref_tensor * const inputs[] = {a, b};
        return run(ops, inputs, out, build);
    });
}

// What the I2_S path of the reference needs to stay inside its buffers (spec §1.3, §2.4).
int32_t check_i2_s(const bref_ops * ops, const bref_tensor * weights, const bref_tensor * x) {
    if (weights->dims[1] % 4 != 0 || weights->dims[2] != 1 || weights->dims[3] != 1 || x->dims[2] != 1 ||
        x->dims[3] != 1) {
        return fail(BREF_INVALID, "I2_S weights: expected two dims and a multiple of 4 rows, found %lld × %lld × %lld × %lld",
                    static_cast<long long>(weights->dims[0]), static_cast<long long>(weights->dims[1]),
                    static_cast<long long>(weights->dims[2]), static_cast<long long>(weights->dims[3]));
    }
    return bref::check_stack(static_cast<uint64_t>(weights->dims[1]), static_cast<uint64_t>(x->dims[1]), ops->threads);
}

}  // namespace

int32_t bref_ops_new(uint32_t threads, bref_ops ** ops) {
    return guarded([&]() -> int32_t {
        *ops = nullptr;
        if (const int32_t status = bref::check_threads(threads)) {
            return status;
        }
        bref::initialise();
        const size_t bytes =
            MAX_NODES * ggml_tensor_overhead() + ggml_graph_overhead_custom(MAX_NODES, false) + 1024;
        auto created = std::make_unique<bref_ops>();
        created->arena.resize(bytes / sizeof(std::max_align_t) + 1);
        created->pool = bref::new_pool(threads);
        created->threads = threads;
        *ops = created.release();
        return BREF_OK;
    });
}

void bref_ops_free(bref_ops * ops) {
    delete ops;
}

void bref_ops_rest(bref_ops * ops) {
    if (ops->pool) {
        ggml_threadpool_pause(ops->pool.get());
    }
}

int32_t bref_op_mul_mat(bref_ops * ops, const struct bref_tensor * weights, const struct bref_tensor * x,
                        const struct bref_tensor * out) {
    return guarded([&]() -> int32_t {
        if (const int32_t status = bref::check_tensor(weights, "weights", bref::ANY_TYPE, bref::Layout::DenseRows)) {
            return status;
        }
        if (const int32_t status = bref::check_tensor(x, "x", GGML_TYPE_F32, bref::Layout::DenseRows)) {
            return status;
        }
        if (const int32_t status = bref::check_tensor(out, "out", GGML_TYPE_F32, bref::Layout::Contiguous)) {
            return status;
        }
        const auto type = static_cast<ggml_type>(weights->type);
        const ggml_type_traits * traits = ggml_get_type_traits(type);
        if (traits->vec_dot == nullptr || bref::is_transposed(*weights)) {
            return fail(BREF_INVALID, "weights: the reference cannot multiply by type %s in this layout", traits->type_name);
        }
        if (x->dims[0] != weights->dims[0] || x->dims[2] % weights->dims[2] != 0 ||
            x->dims[3] % weights->dims[3] != 0) {
            return fail(BREF_INVALID, "x: its dims do not fit those of the weights");
        }
        const int64_t expected[4] = {weights->dims[1], x->dims[1], x->dims[2], x->dims[3]};
        if (const int32_t status = bref::check_dims(out, "out", expected)) {
            return status;
        }
        if (type == GGML_TYPE_I2_S) {
            if (const int32_t status = check_i2_s(ops, weights, x)) {
                return status;
            }
        }
        const bref_tensor * const inputs[] = {weights, x};
        return run(ops, inputs, out,
                   [](ggml_context * context, ggml_tensor ** in) { return ggml_mul_mat(context, in[0], in[1]); });
    });
}

int32_t bref_op_rms_norm(bref_ops * ops, const struct bref_tensor * x, float epsilon, const struct bref_tensor * out) {
    return guarded([&]() -> int32_t {
        if (const int32_t status = check_same(x, out)) {
            return status;
        }
        if (!(epsilon > 0.0f)) {
            return fail(BREF_INVALID, "epsilon: expected more than 0, found %g", static_cast<double>(epsilon));
        }
        const bref_tensor * const inputs[] = {x};
        return run(ops, inputs, out, [epsilon](ggml_context * context, ggml_tensor ** in) {
            return ggml_rms_norm(context, in[0], epsilon);
        });
    });
}

int32_t bref_op_soft_max(bref_ops * ops, const struct bref_tensor * x, const struct bref_tensor * mask, float scale,
                         const struct bref_tensor * out) {
    return guarded([&]() -> int32_t {
        if (const int32_t status = check_same(x, out)) {
            return status;
        }
        if (!bref::is_contiguous(*x)) {
            return fail(BREF_INVALID, "x: expected a contiguous tensor");
        }
        if (mask != nullptr) {
            if (const int32_t status = bref::check_tensor(mask, "mask", GGML_TYPE_F32, bref::Layout::Contiguous)) {
                return status;
            }
            if (mask->dims[0] != x->dims[0] || mask->dims[1] < x->dims[1] || mask->dims[2] != 1 ||
                mask->dims[3] != 1) {
                return fail(BREF_INVALID, "mask: expected [%lld, ≥ %lld]", static_cast<long long>(x->dims[0]),
                            static_cast<long long>(x->dims[1]));
            }
        }
        const bref_tensor * const inputs[] = {x, mask};
        return run(ops, inputs, out, [scale](ggml_context * context, ggml_tensor ** in) {
            return ggml_soft_max_ext(context, in[0], in[1], scale, 0.0f);
        });
    });
}

int32_t bref_op_rope(bref_ops * ops, const struct bref_tensor * x, const struct bref_tensor * positions,
                     const struct bref_tensor * factors, const struct bref_rope * rope,
                     const struct bref_tensor * out) {
    return guarded([&]() -> int32_t {
        if (const int32_t status = check_same(x, out)) {
            return status;
        }
        if (const int32_t status =
                bref::check_tensor(positions, "positions", GGML_TYPE_I32, bref::Layout::Contiguous)) {
            return status;
        }
        const int64_t expected[4] = {x->dims[2], 1, 1, 1};
        if (const int32_t status = bref::check_dims(positions, "positions", expected)) {
            return status;
        }
        if (rope->dims < 2 || rope->dims % 2 != 0 || rope->dims > x->dims[0]) {
            return fail(BREF_INVALID, "rope dims: expected an even number up to %lld, found %d",
                        static_cast<long long>(x->dims[0]), rope->dims);
        }
        if (factors != nullptr) {
            if (const int32_t status =
                    bref::check_tensor(factors, "factors", GGML_TYPE_F32, bref::Layout::Contiguous)) {
                return status;
            }
            if (factors->dims[0] < rope->dims / 2) {
                return fail(BREF_INVALID, "factors: expected at least %d, found %lld", rope->dims / 2,
                            static_cast<long long>(factors->dims[0]));
            }
        }
        const bref_rope settings = *rope;
        const bref_tensor * const inputs[] = {x, positions, factors};
        return run(ops, inputs, out, [settings](ggml_context * context, ggml_tensor ** in) {
            // No YaRN: extrapolation 0, attention factor 1; the betas and the original context then have no effect.
            const int mode = settings.neox ? GGML_ROPE_TYPE_NEOX : 0;
            return ggml_rope_ext(context, in[0], in[1], in[2], settings.dims, mode, 0, settings.freq_base,
                                 settings.freq_scale, 0.0f, 1.0f, 32.0f, 1.0f);
        });
    });
}

int32_t bref_op_silu(bref_ops * ops, const struct bref_tensor * x, const struct bref_tensor * out) {
    return run_unary(ops, x, out, [](ggml_context * context, ggml_tensor ** in) { return ggml_silu(context, in[0]); });
}

int32_t bref_op_relu(bref_ops * ops, const struct bref_tensor * x, const struct bref_tensor * out) {
    return run_unary(ops, x, out, [](ggml_context * context, ggml_tensor ** in) { return ggml_relu(context, in[0]); });
}

int32_t bref_op_sqr(bref_ops * ops, const struct bref_tensor * x, const struct bref_tensor * out) {
    return run_unary(ops, x, out, [](ggml_context * context, ggml_tensor ** in) { return ggml_sqr(context, in[0]); });
}

int32_t bref_op_add(bref_ops * ops, const struct bref_tensor * a, const struct bref_tensor * b,
                    const struct bref_tensor * out) {
    return run_binary(ops, a, b, out,
                      [](ggml_context * context, ggml_tensor ** in) { return ggml_add(context, in[0], in[1]); });
}

int32_t bref_op_mul(bref_ops * ops, const struct bref_tensor * a, const struct bref_tensor * b,
                    const struct bref_tensor * out) {
    return run_binary(ops, a, b, out,
                      [](ggml_context * context, ggml_tensor ** in) { return ggml_mul(context, in[0], in[1]); });
}

int32_t bref_op_copy(bref_ops * ops, const struct bref_tensor * x, const struct bref_tensor * out) {
    return guarded([&]() -> int32_t {
        const bref_tensor * both[] = {x, out};
        const char * names[] = {"x", "out"};
        for (int i = 0; i < 2; ++i) {
            if (const int32_t status =
                    bref::check_tensor(both[i], names[i], bref::ANY_TYPE, bref::Layout::AnyStrides)) {
                return status;
            }
            if (both[i]->type != GGML_TYPE_F32 && both[i]->type != GGML_TYPE_F16) {
                return fail(BREF_INVALID, "%s: expected f32 or f16", names[i]);
            }
        }
        if (bref::elements(*x) != bref::elements(*out)) {
            return fail(BREF_INVALID, "out: expected as many elements as x");
        }
        const bref_tensor * const inputs[] = {x, out};
        return run(ops, inputs, out,
                   [](ggml_context * context, ggml_tensor ** in) { return ggml_cpy(context, in[0], in[1]); });
    });
}

int32_t bref_op_get_rows(bref_ops * ops, const struct bref_tensor * table, const struct bref_tensor * rows,
                         const struct bref_tensor * out) {
    return guarded([&]() -> int32_t {
        if (const int32_t status = bref::check_tensor(table, "table", bref::ANY_TYPE, bref::Layout::DenseRows)) {
            return status;
        }
        if (const int32_t status = bref::check_tensor(rows, "rows", GGML_TYPE_I32, bref::Layout::Contiguous)) {
            return status;
        }
        if (const int32_t status = bref::check_tensor(out, "out", GGML_TYPE_F32, bref::Layout::Contiguous)) {
            return status;
        }
        if (!bref::has_get_rows(static_cast<ggml_type>(table->type)) || table->dims[2] != 1 || table->dims[3] != 1) {
            return fail(BREF_INVALID, "table: the reference has no row look-up for this type or number of dims");
        }
        const int64_t expected[4] = {table->dims[0], rows->dims[0], 1, 1};
        const int64_t list[4] = {rows->dims[0], 1, 1, 1};
        if (const int32_t status = bref::check_dims(rows, "rows", list)) {
            return status;
        }
        if (const int32_t status = bref::check_dims(out, "out", expected)) {
            return status;
        }
        const auto * indices = static_cast<const int32_t *>(rows->data);
        for (int64_t i = 0; i < rows->dims[0]; ++i) {
            if (indices[i] < 0 || indices[i] >= table->dims[1]) {
                return fail(BREF_INVALID, "row %lld of the list: expected 0 to %lld, found %d",
                            static_cast<long long>(i), static_cast<long long>(table->dims[1] - 1), indices[i]);
            }
        }
        const bref_tensor * const inputs[] = {table, rows};
        return run(ops, inputs, out,
                   [](ggml_context * context, ggml_tensor ** in) { return ggml_get_rows(context, in[0], in[1]); });
    });
}
