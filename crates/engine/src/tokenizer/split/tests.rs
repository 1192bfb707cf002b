//! Words as the reference cuts them. The harness compares ids with the reference itself; these few show
//! what each pattern does.

use super::*;

fn words(pre: &str, text: &str) -> Vec<String> {
    let points = CodePoints::of(text.as_bytes(), 0).expect("UTF-8");
    let characters: Vec<char> = text.chars().collect();
    let mut start = 0;
    let ends = PreTokenizer::named(Some(pre)).expect(pre).split(&points);
    ends.into_iter()
        .map(|end| {
            let word = characters[start..end].iter().collect();
            start = end;
            word
        })
        .collect()
}

#[test]
fn every_name_is_there_once_and_only_the_default_needs_none() {
    let mut names: Vec<&str> = PreTokenizer::known().collect();
    assert_eq!(names[0], "default");
    assert_eq!(names.len(), 37);
    names.sort_unstable();
    names.dedup();
    assert_eq!(names.len(), 37);
    for absent in [None, Some("")] {
        assert_eq!(PreTokenizer::named(absent).expect("the default").names, ["default"]);
    }
    assert!(PreTokenizer::named(Some("llama")).is_none());
}

#[test]
fn words_add_up_to_the_text() {
    let text = "It's  12345 a\u{3000}b\r\n\n<sentinel:7>IMGIMGABZ    \tﬀÅé-!?…。$`~ \u{1f468}\u{200d}\u{1f469} ÀbCD  ";
    for name in PreTokenizer::known() {
        let words = words(name, text);
        assert_eq!(words.concat(), text, "{name}");
        assert!(words.iter().all(|word| !word.is_empty()), "{name}");
    }
}

#[test]
fn gpt2_keeps_numbers_and_gives_the_last_space_to_the_word() {
    assert_eq!(words("gpt-2", "We'RE we're  12345 x"), ["We", "'", "RE", " we", "'re", " ", " 12345", " x"]);
    assert_eq!(words("gpt-2", "a\n\n b  "), ["a", "\n\n", " b", "  "]);
}

#[test]
fn llama3_cuts_numbers_in_threes_and_lines_with_their_ends() {
    assert_eq!(
        words("llama-bpe", "We'RE 12345 (x)\r\n\n  y"),
        ["We", "'RE", " ", "123", "45", " (", "x", ")\r\n\n", " ", " y"]
    );
    assert_eq!(words("qwen2", "a1234"), ["a", "1", "2", "3", "4"]);
}

#[test]
fn the_default_cuts_punctuation_first_and_threes_of_digits_last() {
    assert_eq!(
        words("default", "it's 12345678, `a`"),
        ["it", "'", "s", " ", "123", "456", "78", ",", " `", "a", "`"]
    );
    assert_eq!(words("falcon3", "a 12`b`"), ["a", " ", "1", "2", "`", "b", "`"]);
}

#[test]
fn tekken_cuts_where_lower_case_ends() {
    assert_eq!(words("tekken", "HelloWORLDfooÉa BCd AÉB"), ["Hello", "WORLDfooÉa", " BCd", " AÉ", "B"]);
}

#[test]
fn deepseek_and_bloom_and_chameleon_have_lists_of_their_own() {
    assert_eq!(words("deepseek-llm", "ab! 漢字\n12  "), ["ab", "!", " ", "漢字", "\n", "12", "  "]);
    assert_eq!(words("bloom", "a b(c).d"), ["a", " b", "(", "c", ").", "d"]);
    assert_eq!(
        words("chameleon", "<sentinel:12>IMGIMGABCZ     x"),
        ["<", "sentinel", ":", "1", "2", ">", "IMGIMGABCZ", "    ", " x"]
    );
}
