//! Vocabularies made by hand: what the synthetic ones do not hold, compared with the reference.

use engine::gguf::{Array, Value, Writer};

use super::{Pair, special};

/// A vocabulary file with these keys, and the keys that every file has.
fn pair(name: &str, keys: Vec<(&str, Value)>) -> Pair {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().join("vocabulary.gguf");
    let mut writer = Writer::new();
    writer.metadata("general.architecture", "llama");
    for (key, value) in keys {
        writer.metadata(key, value);
    }
    writer.write_file(&path, &mut |_, _| Ok(())).expect("written");
    Pair::open(&path, name, folder)
}

fn texts(texts: &[&str]) -> Value {
    Value::Array(Array::from(texts.to_vec()))
}

fn types(types: &[i32]) -> Value {
    Value::Array(Array::from(types.to_vec()))
}

fn scores(scores: &[f32]) -> Value {
    Value::Array(Array::from(scores.to_vec()))
}

/// Compares all texts with all settings of special tokens. Returns how many have tokens.
fn compare(pair: &Pair, texts: &[&[u8]]) -> usize {
    let tokenizer = pair.tokenizer();
    let mut with_tokens = 0;
    for text in texts {
        for flags in 0..4 {
            if let Some(ids) = pair.compare(&tokenizer, text, special(flags)) {
                pair.compare_detokenized(&tokenizer, &ids);
                with_tokens += 1;
            }
        }
    }
    for id in 0..tokenizer.len() as i32 {
        let (ours, theirs) = (tokenizer.piece(id), pair.reference.piece(id));
        assert_eq!(ours.expect("in range"), theirs.expect("in range"), "{}: token {id}", pair.name);
    }
    with_tokens
}

/// A SentencePiece vocabulary: `<unk>`, `<s>`, `</s>`, then the given tokens of type 1 with falling scores.
fn sentence_piece<'a>(tokens: &[&'a str], more: Vec<(&'a str, Value)>) -> Vec<(&'a str, Value)> {
    let mut all = vec!["<unk>", "<s>", "</s>"];
    all.extend(tokens);
    let mut kinds = vec![2, 3, 3];
    kinds.resize(all.len(), 1);
    let ranks: Vec<f32> = (0..all.len()).map(|rank| -(rank as f32)).collect();
    let mut keys = vec![
        ("tokenizer.ggml.model", Value::from("llama")),
        ("tokenizer.ggml.tokens", texts(&all)),
        ("tokenizer.ggml.token_type", types(&kinds)),
        ("tokenizer.ggml.scores", scores(&ranks)),
    ];
    for (key, value) in more {
        keys.retain(|(there, _)| *there != key);
        keys.push((key, value));
    }
    keys
}

const SENTENCES: [&[u8]; 10] = [
    b"",
    b"ab",
    b" ab",
    b"aab  b",
    b"b<s>a</s>b",
    b"\xff",
    b"\xf0\x9f",
    b"\xe2\x96\x81a",
    b"abc",
    b"a</s> b",
];

#[test]
fn a_byte_without_a_token_has_none_on_either_side() {
    let pair =
        pair("spm without bytes", sentence_piece(&["\u{2581}", "a", "b", "ab", "\u{2581}a"], Vec::new()));
    let with_tokens = compare(&pair, &SENTENCES);
    assert!((16..30).contains(&with_tokens), "{with_tokens}");
}

#[test]
fn the_keys_of_sentence_piece_count() {
    for (name, key, value) in [
        ("no prefix", "tokenizer.ggml.add_space_prefix", Value::from(false)),
        ("no bos", "tokenizer.ggml.add_bos_token", Value::from(false)),
        ("eos", "tokenizer.ggml.add_eos_token", Value::from(true)),
        ("another bos", "tokenizer.ggml.bos_token_id", Value::from(5u32)),
        ("a bos out of range", "tokenizer.ggml.bos_token_id", Value::from(500u32)),
        ("equal scores", "tokenizer.ggml.scores", scores(&[0.0; 9])),
        ("both zeros", "tokenizer.ggml.scores", scores(&[0.0, 0.0, 0.0, 0.0, 0.0, -0.0, 0.0, 0.0, -0.0])),
        ("infinite scores", "tokenizer.ggml.scores", scores(&[f32::NEG_INFINITY; 9])),
        ("bytes", "tokenizer.ggml.token_type", types(&[2, 3, 3, 6, 6, 1, 0, 5, 4])),
    ] {
        let tokens = ["<0xff>", "<0x5", "\u{2581}", "a", "b", "ab"];
        let pair = pair(name, sentence_piece(&tokens, vec![(key, value)]));
        compare(&pair, &SENTENCES);
    }
}

#[test]
fn phi_3_strips_white_space_behind_its_special_tokens() {
    let tokens = ["<|endoftext|>", "\u{2581}", "a", "b", "\n", "<|user|>", "<|end|>"];
    let kinds = types(&[2, 3, 3, 3, 1, 1, 1, 1, 4, 1]);
    let more = vec![("tokenizer.ggml.token_type", kinds), ("general.name", Value::from("My Phi-3 mini"))];
    let pair = pair("phi-3", sentence_piece(&tokens, more));
    let with_tokens = compare(
        &pair,
        &[
            b"<|user|>  a\n<|end|>\t b",
            b"<s> a</s>  ",
            b"<|user|>   ",
            b"a <|end|><|end|> <|endoftext|> b",
            b"<unk> a",
        ],
    );
    assert_eq!(with_tokens, 12, "a control token that is not read is text, and `<` has no token");
}

/// A BPE vocabulary over a few letters.
fn byte_pairs<'a>(
    tokens: &[&'a str],
    kinds: &[i32],
    merges: &[&'a str],
    pre: &'a str,
) -> Vec<(&'a str, Value)> {
    vec![
        ("tokenizer.ggml.model", Value::from("gpt2")),
        ("tokenizer.ggml.pre", Value::from(pre)),
        ("tokenizer.ggml.tokens", texts(tokens)),
        ("tokenizer.ggml.token_type", types(kinds)),
        ("tokenizer.ggml.merges", texts(merges)),
        // The defaults are 11, which these small vocabularies do not have.
        ("tokenizer.ggml.bos_token_id", Value::from(0u32)),
        ("tokenizer.ggml.eos_token_id", Value::from(1u32)),
    ]
}

#[test]
fn what_has_no_token_is_dropped_or_falls_apart() {
    // "ab" merges to no token and falls apart; "c" has none; "Ġ" is a token, but not of its bytes.
    let tokens = ["a", "b", "Ġ", "bĠ", "<x>", "<|eot_id|>"];
    let keys = byte_pairs(&tokens, &[1, 1, 1, 1, 4, 1], &["a b", "b Ġ", "ab Ġ", "a  b", "c c"], "gpt-2");
    let pair = pair("gaps", keys);
    let with_tokens = compare(
        &pair,
        &[
            b"ab",
            b"abab ab",
            b"cab c",
            b"ccc",
            b"a b<x>b",
            b"<|eot_id|>a",
            b"",
            b" ",
            "é漢".as_bytes(),
            b"\xc1\xa1b",
        ],
    );
    assert_eq!(with_tokens, 40);
}

#[test]
fn a_zero_byte_ends_a_text() {
    let tokens = ["a", "b\0x", "\0", "ab\0", "<x>\0<"];
    let keys = byte_pairs(&tokens, &[1, 1, 1, 1, 4], &["a b\0c", "b a"], "gpt-2\0x");
    let with_tokens = compare(&pair("zeros", keys), &[b"ab", b"b<x>a", b"a\0b", b"[EMPTY_2]"]);
    assert_eq!(with_tokens, 16);
}

#[test]
fn a_mask_takes_the_white_space_before_it() {
    let tokens = ["a", "b", "Ġ", "Ċ", "<mask>"];
    let keys = byte_pairs(&tokens, &[1, 1, 1, 1, 4], &["Ġ a"], "jina-v2-de");
    compare(&pair("jina", keys), &[b"a \n <mask> b", b"  <mask><mask>", b"<mask>", b"a<mask>b  <mask>"]);
}

#[test]
fn clean_up_removes_the_same_spaces() {
    let tokens = ["a", "Ġ", "'", "s", "m", "t", "r", "e", "v", "?", "!", ".", ",", "l", "d", "x"];
    let keys = byte_pairs(&tokens, &[1; 16], &["Ġ Ġ"], "gpt-2");
    let mut texts: Vec<Vec<u8>> = Vec::new();
    // Every short text over the characters that the three passes look at.
    let letters = b" 's re.v";
    for number in 0..letters.len().pow(5) {
        texts.push((0..5).map(|place| letters[number / letters.len().pow(place) % letters.len()]).collect());
    }
    let pair = pair("clean", keys);
    let tokenizer = pair.tokenizer();
    for text in &texts {
        let ids = pair.compare(&tokenizer, text, special(2)).expect("ASCII");
        pair.compare_detokenized(&tokenizer, &ids);
    }
}
