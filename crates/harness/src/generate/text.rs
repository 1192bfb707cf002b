//! Random texts that tokenizers disagree about: all planes of Unicode, runs of white space and digits,
//! contractions, scripts without spaces, emoji with joiners, controls, special tokens whole and cut, and
//! bytes that are not UTF-8.

use rand_chacha::ChaCha8Rng;

use super::stream;

/// Most parts of a text.
const MOST_PARTS: usize = 24;

/// One text in this many holds bytes that are not UTF-8.
const BROKEN: usize = 8;

/// Ranges of code points that are drawn from more often than chance would: letters of many scripts,
/// digits of several, marks, punctuation, symbols, emoji, ideographs of the planes 0, 2 and 3.
const BLOCKS: [(u32, u32); 30] = [
    (0x21, 0x7e),
    (0xa0, 0xff),
    (0x100, 0x24f),
    (0x2b0, 0x36f),
    (0x370, 0x3ff),
    (0x400, 0x52f),
    (0x590, 0x6ff),
    (0x900, 0x97f),
    (0xe00, 0xe7f),
    (0x10a0, 0x10ff),
    (0x1380, 0x13ff),
    (0x1c90, 0x1cbf),
    (0x1e00, 0x1fff),
    (0x2000, 0x206f),
    (0x2070, 0x209f),
    (0x2100, 0x218f),
    (0x2460, 0x24ff),
    (0x2c00, 0x2cff),
    (0x3000, 0x30ff),
    (0x4e00, 0x4eff),
    (0x9f90, 0x9fff),
    (0xa640, 0xa7ff),
    (0xab70, 0xac2f),
    (0xd780, 0xd7ff),
    (0xfb00, 0xfb4f),
    (0xff00, 0xffef),
    (0x10400, 0x104ff),
    (0x1d400, 0x1d7ff),
    (0x1f300, 0x1f6ff),
    (0x2ebe0, 0x2ee70),
];

const SPACES: [&str; 14] = [
    " ", " ", " ", "  ", "\n", "\r", "\r\n", "\t", "\u{b}", "\u{85}", "\u{a0}", "\u{2028}", "\u{3000}",
    "\u{200b}",
];

const CONTRACTIONS: [&str; 20] = [
    "'s", "'S", "'t", "'T", "'re", "'RE", "'rE", "'ve", "'Ve", "'ll", "'lL", "'d", "'D", "'m", "'M", "'",
    "''", "’s", "'ſ", "'l",
];

const EMOJI: [&str; 6] = ["👨‍👩‍👧", "❤️‍🔥", "🏳️‍🌈", "🇩🇪", "👍🏽", "1️⃣"];

/// Special tokens of the synthetic vocabularies and of known models, parts of them, and what the
/// patterns of some pre-tokenizers name.
const SPECIALS: [&str; 32] = [
    "<|begin_of_text|>",
    "<|end_of_text|>",
    "<|eot_id|>",
    "<|eot_id",
    "|>",
    "<|",
    "<|user|>",
    "<|user",
    "<|im_end|>",
    "<|reserved_special_token_3|>",
    "<fim-prefix>",
    "<s>",
    "</s>",
    "<unk>",
    "<0x0A>",
    "<unused>",
    "[EMPTY_3]",
    "odd<byte>",
    "<sentinel:12>",
    "<sentinel:>",
    "IMGIMGABIZ",
    "IMGIMGZ",
    "IMGIMGABCDEZ",
    "<|aa",
    "a|a>",
    "|<a>",
    "><|a",
    "a<|>",
    "||||",
    "|a|a",
    "\u{2581}",
    "\u{120}",
];

/// Bytes that are no UTF-8, each in its own way.
const BROKEN_BYTES: [&[u8]; 12] = [
    b"\x80",
    b"\xbf\xbf",
    b"\xc3",
    b"\xe2\x82",
    b"\xf0\x9f\x98",
    b"\xf4\x90\x80\x80",
    b"\xf8\x88\x80\x80\x80",
    b"\xff",
    // The reference reads these: overlong forms, surrogates.
    b"\xc0\x80",
    b"\xe0\x81\x81",
    b"\xed\xa0\x80",
    b"\xf0\x80\x81\x81",
];

/// An endless sequence of texts: the same for the same seed, on every machine.
#[derive(Debug)]
pub struct RandomTexts {
    rng: ChaCha8Rng,
}

impl RandomTexts {
    /// The sequence of `seed`.
    pub fn new(seed: u64) -> Self {
        Self { rng: stream::of(seed, "random texts") }
    }

    /// The next text, which need not be UTF-8 and may be empty.
    pub fn next_text(&mut self) -> Vec<u8> {
        let parts = self.below(MOST_PARTS + 1);
        let broken = self.below(BROKEN) == 0;
        let mut text = Vec::new();
        for _ in 0..parts {
            if broken && self.below(8) == 0 {
                text.extend_from_slice(self.pick(&BROKEN_BYTES));
            } else {
                self.add_part(&mut text);
            }
        }
        text
    }

    /// A number below `len`, 0 where `len` is 0.
    pub fn below(&mut self, len: usize) -> usize {
        stream::below(&mut self.rng, len)
    }

    fn add_part(&mut self, text: &mut Vec<u8>) {
        match self.below(16) {
            0..=2 => {
                let block = self.pick(&BLOCKS);
                for _ in 0..=self.below(4) {
                    self.add_character(text, block);
                }
            }
            3 => self.add_character(text, (0, 0x10_ffff)),
            4..=5 => self.add_run(text, 8, |texts| texts.pick(&SPACES)),
            6 => text.extend_from_slice(self.pick(&SPACES).as_bytes()),
            7 => self.add_characters(text, 9, b'0', b'9'),
            8..=9 => self.add_characters(text, 8, b'a', b'z'),
            10 => self.add_characters(text, 4, b'A', b'Z'),
            11 => text.extend_from_slice(self.pick(&CONTRACTIONS).as_bytes()),
            12 => self.add_characters(text, 4, b'!', b'@'),
            13 => self.add_characters(text, 2, 0, 0x1f),
            14 => self.add_run(text, 3, |texts| texts.pick(&EMOJI)),
            _ => self.add_run(text, 2, |texts| texts.pick(&SPECIALS)),
        }
    }

    fn add_run(&mut self, text: &mut Vec<u8>, most: usize, draw: impl Fn(&mut Self) -> &'static str) {
        for _ in 0..=self.below(most) {
            let part = draw(self);
            text.extend_from_slice(part.as_bytes());
        }
    }

    fn add_characters(&mut self, text: &mut Vec<u8>, most: usize, first: u8, last: u8) {
        for _ in 0..=self.below(most) {
            text.push(first + self.below(usize::from(last - first) + 1) as u8);
        }
    }

    /// One character of a block; a surrogate is drawn again.
    fn add_character(&mut self, text: &mut Vec<u8>, (first, last): (u32, u32)) {
        let character = loop {
            let point = first + self.below((last - first + 1) as usize) as u32;
            if let Some(character) = char::from_u32(point) {
                break character;
            }
        };
        text.extend_from_slice(character.encode_utf8(&mut [0; 4]).as_bytes());
    }

    fn pick<T: Copy>(&mut self, of: &[T]) -> T {
        of[self.below(of.len())]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_cover_what_they_promise() {
        let mut texts = RandomTexts::new(1);
        let all: Vec<Vec<u8>> = (0..5000).map(|_| texts.next_text()).collect();
        let share = |passes: &dyn Fn(&[u8]) -> bool| all.iter().filter(|text| passes(text)).count();
        assert!(share(&|text| text.is_empty()) > 50);
        assert!(share(&|text| std::str::from_utf8(text).is_err()) > 200);
        assert!(share(&|text| std::str::from_utf8(text).is_ok()) > 4000);
        for part in SPACES.iter().chain(&CONTRACTIONS).chain(&EMOJI).chain(&SPECIALS) {
            let holds = |text: &[u8]| text.windows(part.len()).any(|window| window == part.as_bytes());
            assert!(share(&holds) > 0, "{part:?}");
        }
        for plane in 0..=16u32 {
            let holds = |text: &[u8]| {
                let text = String::from_utf8_lossy(text);
                text.chars().any(|character| character as u32 >> 16 == plane)
            };
            assert!(share(&holds) > 0, "plane {plane}");
        }
    }

    #[test]
    fn a_seed_stands_for_its_texts() {
        let first = |seed| RandomTexts::new(seed).next_text();
        assert_eq!(first(3), first(3));
        assert!((0..20).any(|seed| first(seed) != first(seed + 1)));
    }
}
