//! The tokenizer against the reference's: identical tokens for whatever bytes, identical texts back.
//!
//! `TOKENIZER_STRINGS=1000000` sets the number of random texts per pre-tokenizer (300 without it), and
//! `TOKENIZER_ONLY=default,spm` selects some. `TOKENIZER_CODE_POINTS=all` looks at each code point, not at
//! one in seven.

use std::path::Path;

use engine::gguf::File;
use engine::tokenizer::{PreTokenizer, SpecialTokens, Tokenizer};
use ffi_ref::{Library, Model};
use harness::generate::{ModelSpec, Preset, RandomTexts, VocabularyKind, write_vocabulary};

/// The name of SentencePiece in `TOKENIZER_ONLY` and in messages.
const SENTENCE_PIECE: &str = "spm";

/// The pre-tokenizers of the models that this project is about.
const COMMON: [&str; 5] = ["default", "gpt-2", "llama-bpe", "falcon3", SENTENCE_PIECE];

/// Both tokenizers of one vocabulary file.
struct Pair {
    file: File,
    reference: Model,
    name: String,
    _folder: tempfile::TempDir,
}

impl Pair {
    /// A vocabulary of `size` tokens that declares the pre-tokenizer `name`, or is SentencePiece.
    fn new(name: &str, kind: VocabularyKind, size: u32) -> Self {
        let sentence_piece = name == SENTENCE_PIECE;
        let spec = ModelSpec {
            vocabulary: size,
            tokenizer: if sentence_piece { VocabularyKind::SentencePiece } else { kind },
            pre_tokenizer: (!sentence_piece).then(|| name.to_owned()),
            ..ModelSpec::preset(Preset::Tiny)
        };
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = folder.path().join("vocabulary.gguf");
        write_vocabulary(&spec, &path).expect("written");
        Self::open(&path, name, folder)
    }

    fn open(path: &Path, name: &str, folder: tempfile::TempDir) -> Self {
        let library = Library::canonical().expect("the canonical build loads");
        let file = File::open(path).expect("well-formed");
        // Ours first: the reference aborts at a vocabulary that this refuses.
        Tokenizer::of(&file).unwrap_or_else(|error| panic!("{name}: {error}"));
        Self {
            file,
            reference: Model::open_vocabulary(&library, path).expect("the reference loads it"),
            name: name.to_owned(),
            _folder: folder,
        }
    }

    fn tokenizer(&self) -> Tokenizer<'_> {
        Tokenizer::of(&self.file).unwrap_or_else(|error| panic!("{}: {error}", self.name))
    }

    /// Compares the tokens of `text`, and the text that both make of them. Returns the tokens, or `None`
    /// where neither side has any.
    fn compare(&self, tokenizer: &Tokenizer<'_>, text: &[u8], special: SpecialTokens) -> Option<Vec<i32>> {
        let ours = tokenizer.tokenize(text, special);
        let theirs = self.reference.tokenize(text, special.add, special.parse);
        let shown = text.escape_ascii();
        match (ours, theirs) {
            (Ok(ours), Ok(theirs)) => {
                let first = ours.ids.iter().zip(&theirs).position(|(a, b)| a != b);
                assert!(
                    ours.ids == theirs,
                    "{} {special:?}: \"{shown}\": token {first:?}:\n{:?}\n{theirs:?}",
                    self.name,
                    ours.ids
                );
                assert_eq!(ours.starts.len(), ours.ids.len());
                assert!(ours.starts.is_sorted() && ours.starts.iter().all(|&start| start <= text.len()));
                Some(theirs)
            }
            (Err(_), Err(_)) => None,
            (ours, theirs) => panic!("{} {special:?}: \"{shown}\":\n{ours:?}\n{theirs:?}", self.name),
        }
    }

    fn compare_detokenized(&self, tokenizer: &Tokenizer<'_>, tokens: &[i32]) -> Vec<u8> {
        let ours = tokenizer.detokenize(tokens, false, true).expect("in range");
        let theirs = self.reference.detokenize(tokens).expect("in range");
        assert!(
            ours == theirs,
            "{}: {tokens:?}:\n\"{}\"\n\"{}\"",
            self.name,
            ours.escape_ascii(),
            theirs.escape_ascii()
        );
        ours
    }
}

fn special(flags: usize) -> SpecialTokens {
    SpecialTokens { add: flags & 1 != 0, parse: flags & 2 != 0 }
}

fn random_texts() -> usize {
    let count = std::env::var("TOKENIZER_STRINGS").map(|count| count.parse().expect("a number"));
    count.unwrap_or(300)
}

/// The names to test, and how many there are without `TOKENIZER_ONLY`.
fn selected() -> Vec<String> {
    let all = PreTokenizer::known().chain([SENTENCE_PIECE]);
    match std::env::var("TOKENIZER_ONLY") {
        Ok(only) => {
            let names: Vec<String> = only.split(',').map(str::to_owned).collect();
            let known: Vec<&str> = all.collect();
            assert!(names.iter().all(|name| known.contains(&name.as_str())), "unknown name in {names:?}");
            names
        }
        Err(_) => all.map(str::to_owned).collect(),
    }
}

#[test]
fn random_texts_have_the_same_tokens_in_every_pre_tokenizer() {
    let count = random_texts();
    let names = selected();
    for name in &names {
        // Large enough for nearly all pairs of bytes: a wrong cut shows in the tokens.
        let pair = Pair::new(name, VocabularyKind::BpeDense, 70_000);
        let tokenizer = pair.tokenizer();
        let mut texts = RandomTexts::new(0);
        let (mut compared, mut refused, mut tokens) = (0, 0, 0);
        for number in 0..count {
            let text = texts.next_text();
            match pair.compare(&tokenizer, &text, special(number)) {
                Some(ids) => {
                    compared += 1;
                    tokens += ids.len();
                    if number % 16 == 0 {
                        pair.compare_detokenized(&tokenizer, &ids);
                    }
                }
                None => refused += 1,
            }
        }
        assert!(compared > count / 2 && tokens > 10 * compared, "{name}: {compared} texts, {tokens} tokens");
        println!("{name}: {compared} texts, {tokens} tokens, {refused} texts that both refuse");
    }
}
