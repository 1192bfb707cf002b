//! The nodes of a running graph, handed to Rust one after the other.

use std::any::Any;
use std::ffi::{CStr, c_char, c_void};
use std::ops::ControlFlow;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::{ptr, slice};

use crate::bindings::{bref_node, bref_taps};

/// A node of the reference's graph, as the scheduler evaluates it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Node<'a> {
    /// ggml's tensor name: `attn_norm-0`, `k_cache_view-0 (copy of Kcur-0)`, `node_57`.
    pub name: &'a str,
    /// The op in ggml's words: `MUL_MAT`, `RMS_NORM`; of a unary op its function: `SILU`, `RELU`.
    pub op: &'a str,
    /// ggml's type id (spec §1.2).
    pub type_id: u32,
    /// ggml's type name: `f32`, `f16`, `i32`.
    pub type_name: &'a str,
    /// Elements along each dim, trailing dims 1.
    pub dims: [usize; 4],
    /// Bytes between neighbours along each dim, in the reference's own memory.
    pub strides: [usize; 4],
    /// Whether the node only re-labels the bytes of an earlier one: view, reshape, permute, transpose.
    pub view: bool,
}

/// Receives the nodes of a decode in their order of evaluation.
///
/// A panic in a visitor stops the decode and goes on in the caller of [`Session::decode`](crate::Session::decode).
pub trait TapVisitor {
    /// Asked for every node before it is computed: are its values wanted? Every node that computes something is a graph
    /// of its own as long as there is a visitor, whatever it wants; without one the reference computes the graph in one
    /// go.
    fn ask(&mut self, node: &Node<'_>) -> bool;

    /// Takes a wanted node once it is computed. `data`: its elements in logical order, `dims[0]` fastest, without
    /// gaps, aligned for its element type. `Break` stops the decode with [`Error::Stopped`](crate::Error::Stopped).
    fn take(&mut self, node: &Node<'_>, data: &[u8]) -> ControlFlow<()>;
}

/// Carries a visitor through the C boundary.
pub(crate) struct Bridge<'a> {
    visitor: &'a mut dyn TapVisitor,
    panic: Option<Box<dyn Any + Send>>,
}

impl<'a> Bridge<'a> {
    pub(crate) fn new(visitor: &'a mut dyn TapVisitor) -> Self {
        Self { visitor, panic: None }
    }

    /// The callbacks for the shim. They borrow the bridge, which must outlive the call that gets them.
    pub(crate) fn taps(&mut self) -> bref_taps {
        bref_taps { user: ptr_of(self), ask: Some(ask), take: Some(take) }
    }

    /// Continues a panic of the visitor, if there was one.
    pub(crate) fn finish(self) {
        if let Some(panic) = self.panic {
            resume_unwind(panic);
        }
    }

    /// Runs the visitor. A panic must not unwind through C++: it is kept, and `otherwise` answers for it from then on.
    fn run<T>(&mut self, otherwise: T, body: impl FnOnce(&mut dyn TapVisitor) -> T) -> T {
        if self.panic.is_some() {
            return otherwise;
        }
        // The visitor is not touched again after a panic, so no broken state of it can be seen here.
        catch_unwind(AssertUnwindSafe(|| body(self.visitor))).unwrap_or_else(|panic| {
            self.panic = Some(panic);
            otherwise
        })
    }
}

fn ptr_of(bridge: &mut Bridge<'_>) -> *mut c_void {
    ptr::from_mut(bridge).cast()
}

unsafe extern "C" fn ask(user: *mut c_void, node: *const bref_node) -> i32 {
    // SAFETY: the shim passes on the pointer of `Bridge::taps`, whose bridge outlives the call and is used by nothing
    // else meanwhile: callbacks come one at a time, on the thread that made the call.
    let bridge = unsafe { &mut *user.cast::<Bridge<'_>>() };
    // SAFETY: the shim lends a valid node for the duration of the callback.
    let node = unsafe { describe(&*node) };
    // After a panic the next node is wanted, so that `take` is called and can stop the decode.
    i32::from(bridge.run(true, |visitor| visitor.ask(&node)))
}

unsafe extern "C" fn take(
    user: *mut c_void,
    node: *const bref_node,
    data: *const c_void,
    bytes: usize,
) -> i32 {
    // SAFETY: as in `ask`.
    let bridge = unsafe { &mut *user.cast::<Bridge<'_>>() };
    // SAFETY: as in `ask`.
    let node = unsafe { describe(&*node) };
    let data = if bytes == 0 {
        &[]
    } else {
        // SAFETY: the shim lends `bytes` initialised bytes for the duration of the callback.
        unsafe { slice::from_raw_parts(data.cast::<u8>(), bytes) }
    };
    i32::from(bridge.run(ControlFlow::Break(()), |visitor| visitor.take(&node, data)).is_continue())
}

/// # Safety
/// The node's texts are NUL-terminated and outlive `'a`.
unsafe fn describe<'a>(node: &bref_node) -> Node<'a> {
    // SAFETY: by this function's contract.
    let text =
        |pointer: *const c_char| unsafe { CStr::from_ptr::<'a>(pointer) }.to_str().unwrap_or("(not UTF-8)");
    Node {
        name: text(node.name),
        op: text(node.op),
        type_id: u32::try_from(node.type_).unwrap_or(u32::MAX),
        type_name: text(node.type_name),
        dims: node.dims.map(|dim| usize::try_from(dim).unwrap_or(0)),
        strides: node.strides,
        view: node.is_view != 0,
    }
}
