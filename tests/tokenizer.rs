//! The tokenizer against the reference's: identical tokens for whatever bytes, identical texts back.
//!
//! `TOKENIZER_STRINGS=1000000` sets the number of random texts per pre-tokenizer (100 without it), and
//! `TOKENIZER_ONLY=default,spm` selects some. `TOKENIZER_CODE_POINTS=all` looks at each code point, not at
//! one in seventeen.

#[path = "tokenizer/cli.rs"]
mod cli;
mod common;
#[path = "tokenizer/difference.rs"]
mod difference;
#[path = "fake_reference/setup.rs"]
mod setup;
#[path = "tokenizer/vocabularies.rs"]
mod vocabularies;

use std::path::{Path, PathBuf};

use engine::gguf::File;
use engine::tokenizer::{PreTokenizer, SpecialTokens, TokenKind, Tokenizer};
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

/// Runs `work` with the stack of the reference's child: `std::regex` takes a frame for each character of
/// a match.
fn with_large_stack(work: fn()) {
    let thread = std::thread::Builder::new().stack_size(64 << 20).spawn(work).expect("a thread");
    if let Err(panic) = thread.join() {
        std::panic::resume_unwind(panic);
    }
}

fn special(flags: usize) -> SpecialTokens {
    SpecialTokens { add: flags & 1 != 0, parse: flags & 2 != 0 }
}

fn random_texts() -> usize {
    let count = std::env::var("TOKENIZER_STRINGS").map(|count| count.parse().expect("a number"));
    count.unwrap_or(100)
}

/// The names to test: those of `TOKENIZER_ONLY`, or all.
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
    with_large_stack(compare_random_texts);
}

fn compare_random_texts() {
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
        eprintln!("{name}: {compared} texts, {tokens} tokens, {refused} texts that both refuse");
    }
}

/// Texts in which a code point stands beside a letter, a digit, a sign and white space: whether it is cut
/// from them, and from which, says its class.
fn neighbourhood(text: &mut Vec<u8>, point: u32) {
    let mut form = Vec::new();
    match char::from_u32(point) {
        Some(character) => form.extend_from_slice(character.encode_utf8(&mut [0; 4]).as_bytes()),
        // A surrogate: the reference reads its three bytes.
        None => form.extend([0xed, 0x80 | (point >> 6 & 0x3f) as u8, 0x80 | (point & 0x3f) as u8]),
    }
    for (before, after) in
        [("a", "a"), ("1", "1"), ("$", "$"), (",", ","), ("\t", "\t"), (" ", "  "), ("'", "S")]
    {
        text.extend_from_slice(before.as_bytes());
        text.extend_from_slice(&form);
        text.extend_from_slice(after.as_bytes());
    }
}

#[test]
fn every_code_point_is_of_the_class_that_the_reference_has_it_in() {
    with_large_stack(compare_every_code_point);
}

fn compare_every_code_point() {
    let step = if std::env::var("TOKENIZER_CODE_POINTS").is_ok_and(|value| value == "all") { 1 } else { 17 };
    for name in ["gpt-2", "default", "deepseek-coder"] {
        let pair = Pair::new(name, VocabularyKind::BpeDense, 70_000);
        let tokenizer = pair.tokenizer();
        let mut compared = 0;
        for block in (0..0x11_0000).step_by(512 * step) {
            let mut text = Vec::new();
            for point in (block..0x11_0000.min(block + 512 * step as u32)).step_by(step) {
                neighbourhood(&mut text, point);
                compared += 1;
            }
            pair.compare(&tokenizer, &text, special(0)).expect("both read it");
        }
        assert_eq!(compared, 0x11_0000_usize.div_ceil(step), "{name}");
    }
}

/// The files of the repository that are text, and some that are not.
fn repository_files() -> Vec<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let mut folders = vec![root];
    let mut files = Vec::new();
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).expect("listable") {
            let path = entry.expect("an entry").path();
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            if path.is_dir() && !path.is_symlink() {
                if name != ".git" && name != "target" {
                    folders.push(path);
                }
            } else if ["rs", "md", "toml", "txt", "cpp", "h", "hpp", "yml", "snap", "lock"]
                .iter()
                .any(|extension| path.extension().is_some_and(|found| found == *extension))
            {
                files.push(path);
            }
        }
    }
    files.sort();
    files
}

#[test]
fn the_text_files_of_the_repository_have_the_same_tokens() {
    with_large_stack(compare_repository_files);
}

fn compare_repository_files() {
    let files = repository_files();
    assert!(files.len() > 150, "{} files", files.len());
    let texts: Vec<Vec<u8>> = files.iter().map(|path| std::fs::read(path).expect("readable")).collect();
    for name in COMMON {
        let pair = Pair::new(name, VocabularyKind::Bpe, 32_768);
        let tokenizer = pair.tokenizer();
        let mut tokens = 0;
        for text in &texts {
            let ids = pair.compare(&tokenizer, text, special(3)).expect("text");
            pair.compare_detokenized(&tokenizer, &ids);
            tokens += ids.len();
        }
        assert!(tokens > 100_000, "{name}: {tokens}");
        eprintln!("{name}: {} files, {tokens} tokens", files.len());
    }
}

#[test]
fn text_comes_back_where_the_vocabulary_allows_it() {
    // These do not remove spaces; SentencePiece takes its own prefix away again.
    for name in
        ["qwen2", "smollm", "tekken", "deepseek-llm", "deepseek-coder", "viking", "poro-chat", SENTENCE_PIECE]
    {
        let pair = Pair::new(name, VocabularyKind::Bpe, 8192);
        let tokenizer = pair.tokenizer();
        let mut texts = RandomTexts::new(1);
        let mut compared = 0;
        for _ in 0..300 {
            let text = texts.next_text();
            // U+2581 stands for a space in SentencePiece and comes back as one.
            let escape =
                name == SENTENCE_PIECE && text.windows(3).any(|window| window == "\u{2581}".as_bytes());
            if std::str::from_utf8(&text).is_err() || escape {
                continue;
            }
            let tokens = tokenizer.tokenize(&text, special(0)).expect("UTF-8");
            // Behind a token that is read as a whole SentencePiece puts another space.
            let whole = |id: &i32| tokenizer.kind(*id).expect("in range") == TokenKind::UserDefined;
            if name == SENTENCE_PIECE && tokens.ids.iter().any(whole) {
                continue;
            }
            let back = tokenizer.detokenize(&tokens.ids, false, true).expect("in range");
            assert!(back == text, "{name}: \"{}\"\n\"{}\"", text.escape_ascii(), back.escape_ascii());
            compared += 1;
            // Each token starts where the pieces before it end.
            let mut start = 0;
            for (&id, &found) in tokens.ids.iter().zip(&tokens.starts).filter(|_| name != SENTENCE_PIECE) {
                assert_eq!(found, start, "{name}: \"{}\"", text.escape_ascii());
                start += tokenizer.piece(id).expect("in range").len();
            }
        }
        assert!(compared > 150, "{name}: {compared}");
    }
}
