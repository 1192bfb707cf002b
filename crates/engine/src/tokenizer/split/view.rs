//! [`View`]: the piece of text that a step looks at. Nothing outside of it exists for the step.

use crate::tokenizer::class::Class;

/// A piece as code points and their classes. Positions count code points from its start.
#[derive(Debug, Clone, Copy)]
pub(super) struct View<'t> {
    points: &'t [u32],
    classes: &'t [Class],
}

impl<'t> View<'t> {
    /// Both slices have one length.
    pub(super) fn new(points: &'t [u32], classes: &'t [Class]) -> Self {
        Self { points, classes }
    }

    /// Number of code points.
    pub(super) fn len(&self) -> usize {
        self.points.len()
    }

    /// The code point at `at`, or `None` behind the end.
    pub(super) fn point(&self, at: usize) -> Option<u32> {
        self.points.get(at).copied()
    }

    /// The class of the code point at `at`, or `None` behind the end.
    pub(super) fn class(&self, at: usize) -> Option<Class> {
        self.classes.get(at).copied()
    }

    /// Whether the code point at `at` is that ASCII character.
    pub(super) fn is(&self, at: usize, character: u8) -> bool {
        self.point(at) == Some(character.into())
    }

    /// Whether the code point at `at` is a carriage return or a line feed.
    pub(super) fn is_line_end(&self, at: usize) -> bool {
        self.is(at, b'\r') || self.is(at, b'\n')
    }

    /// The end of the run from `at` on whose classes all pass.
    pub(super) fn run(&self, at: usize, passes: impl Fn(Class) -> bool) -> usize {
        self.run_where(at, |_, class| passes(class))
    }

    /// The end of the run from `at` on whose code points, with their classes, all pass.
    pub(super) fn run_where(&self, at: usize, passes: impl Fn(u32, Class) -> bool) -> usize {
        let rest = self.points.iter().zip(self.classes).skip(at);
        at + rest.take_while(|&(&point, &class)| passes(point, class)).count()
    }

    /// Where the white space at the end of the piece starts.
    pub(super) fn space_at_end(&self) -> usize {
        self.classes.iter().rposition(|&class| class != Class::Space).map_or(0, |last| last + 1)
    }

    /// Whether `text` (ASCII) stands at `at`.
    pub(super) fn starts_with(&self, at: usize, text: &str) -> bool {
        text.bytes().enumerate().all(|(index, byte)| self.is(at + index, byte))
    }
}
