//! Single ops of the reference's graph on the caller's buffers, for tests, benches and the like. Shapes, types and
//! buffer sizes are checked before the reference sees them.

use std::ptr::{self, NonNull};

use crate::bindings::{bref_ops, bref_rope, bref_tensor};
use crate::{Error, Library, Result, TensorMut, TensorRef};

/// A place to run ops: scratch memory and worker threads, kept between calls.
pub struct Ops {
    library: Library,
    handle: NonNull<bref_ops>,
}

// SAFETY: `shim/bref.h` ties it to one thread at a time, not to the thread that made it.
unsafe impl Send for Ops {}

impl Drop for Ops {
    fn drop(&mut self) {
        // SAFETY: the handle came from bref_ops_new and is freed once.
        unsafe { self.library.api().bref_ops_free(self.handle.as_ptr()) }
    }
}

/// Parameters of the rotary position embedding (spec §4.4), without YaRN.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Rope {
    /// Rotated elements per head: even, at most the head's width.
    pub dims: usize,
    /// Pairs `(i, i + dims/2)` if true, as in `bitnet*` models; `(2i, 2i + 1)` if false, as in `llama` models.
    pub neox: bool,
    /// The base of the angles.
    pub freq_base: f32,
    /// A factor of all angles.
    pub freq_scale: f32,
}

impl Ops {
    /// A place with `threads` threads, 1 to 512. A process can have a few dozen of them.
    pub fn new(library: &Library, threads: u32) -> Result<Self> {
        let mut handle = ptr::null_mut();
        // SAFETY: `handle` is a place for a pointer.
        let status = unsafe { library.api().bref_ops_new(threads, &mut handle) };
        library.outcome("prepare for ops", status)?;
        let handle = NonNull::new(handle)
            .ok_or_else(|| Error::Reference { what: "prepare for ops", reason: "no handle".to_owned() })?;
        Ok(Self { library: library.clone(), handle })
    }

    /// Puts the worker threads to sleep until the next op; see [`Session::rest`](crate::Session::rest).
    pub fn rest(&mut self) {
        // SAFETY: the handle is open.
        unsafe { self.library.api().bref_ops_rest(self.handle.as_ptr()) }
    }

    /// `out = weights·x`. `weights`: any type, `[K, M, …]`; `x`: f32 `[K, N, …]`; `out`: f32 `[M, N, …]`. Dims 2 and 3
    /// of `x` are multiples of those of the weights, which are repeated. I2_S weights are 2-D, `M` a multiple of 4.
    pub fn mul_mat(
        &mut self,
        weights: TensorRef<'_>,
        x: TensorRef<'_>,
        out: &mut TensorMut<'_>,
    ) -> Result<()> {
        // SAFETY: see `run`.
        self.run("mul_mat", |library, ops| unsafe {
            library.bref_op_mul_mat(ops, &weights.raw, &x.raw, &out.raw)
        })
    }

    /// `out = x / sqrt(mean(x²) + epsilon)` per row (spec §4.1), f32; `epsilon > 0`.
    pub fn rms_norm(&mut self, x: TensorRef<'_>, epsilon: f32, out: &mut TensorMut<'_>) -> Result<()> {
        // SAFETY: see `run`.
        self.run("rms_norm", |library, ops| unsafe {
            library.bref_op_rms_norm(ops, &x.raw, epsilon, &out.raw)
        })
    }

    /// `out = softmax(x·scale + mask)` per row (spec §4.5). `x`, `out`: f32 `[cells, tokens, heads]`; `mask`: f32
    /// `[cells, tokens or more]`.
    pub fn soft_max(
        &mut self,
        x: TensorRef<'_>,
        mask: Option<TensorRef<'_>>,
        scale: f32,
        out: &mut TensorMut<'_>,
    ) -> Result<()> {
        let mask = optional(mask.as_ref());
        // SAFETY: see `run`; `mask` is NULL or points into `mask` above.
        self.run("soft_max", |library, ops| unsafe {
            library.bref_op_soft_max(ops, &x.raw, mask, scale, &out.raw)
        })
    }

    /// Rotary position embedding. `x`, `out`: f32 `[head width, heads, tokens]`; `positions`: one per token;
    /// `factors`: divides the angle of each pair, `dims/2` or more.
    pub fn rope(
        &mut self,
        x: TensorRef<'_>,
        positions: &[i32],
        factors: Option<&[f32]>,
        rope: Rope,
        out: &mut TensorMut<'_>,
    ) -> Result<()> {
        let positions = TensorRef::i32(positions, &[positions.len()]);
        let factors = factors.map(|factors| TensorRef::f32(factors, &[factors.len()]));
        let factors = optional(factors.as_ref());
        let rope = bref_rope {
            dims: i32::try_from(rope.dims).unwrap_or(-1),
            neox: i32::from(rope.neox),
            freq_base: rope.freq_base,
            freq_scale: rope.freq_scale,
        };
        // SAFETY: see `run`; `factors` is NULL or points into `factors` above.
        self.run("rope", |library, ops| unsafe {
            library.bref_op_rope(ops, &x.raw, &positions.raw, factors, &rope, &out.raw)
        })
    }

    /// `out = x / (1 + exp(-x))` (spec §4.3), f32.
    pub fn silu(&mut self, x: TensorRef<'_>, out: &mut TensorMut<'_>) -> Result<()> {
        // SAFETY: see `run`.
        self.run("silu", |library, ops| unsafe { library.bref_op_silu(ops, &x.raw, &out.raw) })
    }

    /// `out = max(x, 0)` (spec §4.2), f32.
    pub fn relu(&mut self, x: TensorRef<'_>, out: &mut TensorMut<'_>) -> Result<()> {
        // SAFETY: see `run`.
        self.run("relu", |library, ops| unsafe { library.bref_op_relu(ops, &x.raw, &out.raw) })
    }

    /// `out = x²` (spec §4.2), f32.
    pub fn sqr(&mut self, x: TensorRef<'_>, out: &mut TensorMut<'_>) -> Result<()> {
        // SAFETY: see `run`.
        self.run("sqr", |library, ops| unsafe { library.bref_op_sqr(ops, &x.raw, &out.raw) })
    }

    /// `out = a + b`, f32; each dim of `b` divides that of `a`, and `b` is repeated.
    pub fn add(&mut self, a: TensorRef<'_>, b: TensorRef<'_>, out: &mut TensorMut<'_>) -> Result<()> {
        // SAFETY: see `run`.
        self.run("add", |library, ops| unsafe { library.bref_op_add(ops, &a.raw, &b.raw, &out.raw) })
    }

    /// `out = a·b`, element by element, f32; `b` is repeated as in [`add`](Self::add).
    pub fn mul(&mut self, a: TensorRef<'_>, b: TensorRef<'_>, out: &mut TensorMut<'_>) -> Result<()> {
        // SAFETY: see `run`.
        self.run("mul", |library, ops| unsafe { library.bref_op_mul(ops, &a.raw, &b.raw, &out.raw) })
    }

    /// `out = x`, converted to the type of `out` (f32 or f16 each), in logical order. Both may be strided; elements of
    /// `out` must not share bytes.
    pub fn copy(&mut self, x: TensorRef<'_>, out: &mut TensorMut<'_>) -> Result<()> {
        // SAFETY: see `run`.
        self.run("copy", |library, ops| unsafe { library.bref_op_copy(ops, &x.raw, &out.raw) })
    }

    /// `out[:, i] = table[:, rows[i]]` as f32. `table`: `[width, n]`; `out`: f32 `[width, rows.len()]`.
    pub fn get_rows(&mut self, table: TensorRef<'_>, rows: &[i32], out: &mut TensorMut<'_>) -> Result<()> {
        let rows = TensorRef::i32(rows, &[rows.len()]);
        // SAFETY: see `run`.
        self.run("get_rows", |library, ops| unsafe {
            library.bref_op_get_rows(ops, &table.raw, &rows.raw, &out.raw)
        })
    }

    /// Runs one op. What makes the calls above sound: the handle is open and used by one thread, because the methods
    /// take `&mut self`; each tensor names a buffer that is borrowed, shared for a [`TensorRef`] and exclusively for a
    /// [`TensorMut`], until the op is done; the shim refuses a tensor that reaches beyond its buffer, and writes to
    /// `out` only.
    fn run(
        &mut self,
        what: &'static str,
        op: impl FnOnce(&crate::bindings::BrefApi, *mut bref_ops) -> i32,
    ) -> Result<()> {
        let status = op(self.library.api(), self.handle.as_ptr());
        self.library.outcome(what, status)
    }
}

impl std::fmt::Debug for Ops {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Ops").field("library", &self.library).finish_non_exhaustive()
    }
}

fn optional(tensor: Option<&TensorRef<'_>>) -> *const bref_tensor {
    tensor.map_or(ptr::null(), |tensor| &tensor.raw)
}
