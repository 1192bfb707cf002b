//! The data of the tensors, streamed in chunks.
//!
//! Every tensor draws from the stream of its own name, so its bytes depend on the seed, its name, its
//! dims and its [`Contents`], and on no other tensor.

use std::io::{self, Write};

use engine::quant::i2_s::TAIL_BYTES;
use half::{bf16, f16};
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::Rng;

use super::normal::HalfNormal;
use super::tensors::{Contents, TensorPlan};
use super::{HeadType, stream};

/// Standard deviation of the embedding, far below what a layer adds to it.
///
/// The embedding is the output head too. Were it as large as the layers' contributions, the hidden state
/// would keep pointing at the token that it came from, and greedy decoding would repeat it for ever.
const EMBEDDING_STD: f32 = 0.02;

/// Standard deviation of the biases: small beside the activations of order one that they are added to.
const BIAS_STD: f32 = 0.1;

/// Bytes per write.
const CHUNK: usize = 64 * 1024;

/// Writes the data of `tensor`: exactly as many bytes as its type and dims say.
pub(super) fn write(tensor: &TensorPlan, seed: u64, out: &mut dyn Write) -> io::Result<()> {
    let mut rng = stream::of(seed, &tensor.name);
    let elements = tensor.elements();
    match tensor.contents {
        Contents::Ternary { gain, input } => {
            let columns = tensor.dims.first().copied().unwrap_or(1);
            // Drawn before the codes, so that it does not depend on the number of rows.
            let scale = ternary_scale(gain, input, columns) * (0.8 + 0.4 * stream::unit(&mut rng));
            write_codes(elements / 4, &mut rng, out)?;
            let mut tail = [0; TAIL_BYTES];
            tail[..4].copy_from_slice(&scale.to_le_bytes());
            out.write_all(&tail)
        }
        Contents::Embedding(HeadType::F16) => write_normal_f16(elements, f16::from_f32, &mut rng, out),
        Contents::Embedding(HeadType::F16FromBf16) => {
            let rounded = |value| f16::from_f32(bf16::from_f32(value).to_f32());
            write_normal_f16(elements, rounded, &mut rng, out)
        }
        Contents::Embedding(HeadType::F32) => write_normal_f32(elements, EMBEDDING_STD, &mut rng, out),
        Contents::Bias => write_normal_f32(elements, BIAS_STD, &mut rng, out),
        Contents::NormWeight { level } => write_f32(elements, out, |_| norm_weight(&mut rng) * level),
        Contents::RopeFactors => {
            let last = elements.saturating_sub(1).max(1) as f32;
            write_f32(elements, out, |index| rope_factor(index as f32 / last, &mut rng))
        }
    }
}

/// Scale of a ternary matrix: a sum of `columns` products, of which a third is zero, of inputs with root
/// mean square `input` gets the root mean square `gain`.
///
/// Never 1, and different from tensor to tensor once jittered: a scale that is lost, or taken from
/// another tensor, changes the result.
fn ternary_scale(gain: f32, input: f32, columns: u64) -> f32 {
    gain / (input * (2.0 * columns as f32 / 3.0).sqrt())
}

/// Magnitude in [0.5, 1.5), one in 32 negative.
fn norm_weight(rng: &mut ChaCha8Rng) -> f32 {
    let magnitude = 0.5 + stream::unit(rng);
    if rng.next_u32() < u32::MAX / 32 { -magnitude } else { magnitude }
}

/// Divisor of the frequency at `position` (0 the fastest, 1 the slowest): 1 at first, then at random up
/// to a bound that grows to 8, the order of magnitude of Llama 3.1.
fn rope_factor(position: f32, rng: &mut ChaCha8Rng) -> f32 {
    1.0 + 7.0 * position * stream::unit(rng)
}

/// The bytes that hold four codes of {0, 1, 2}, two bits each: all but those with a code 3.
const TERNARY_BYTES: [u8; 81] = {
    let mut bytes = [0; 81];
    let mut index = 0;
    while index < 81 {
        let i = index as u8;
        bytes[index] = (i / 27) << 6 | (i / 9 % 3) << 4 | (i / 3 % 3) << 2 | (i % 3);
        index += 1;
    }
    bytes
};

/// Writes `len` bytes of uniform codes. All codes are alike, so the order in which the format lays them
/// out plays no part.
///
/// Eight bytes come from each 64 random bits, read as a fraction whose digits in base 81 they are; the
/// last digit is uneven by 81⁸/2⁶⁴, less than 1 in 9000.
fn write_codes(len: u64, rng: &mut ChaCha8Rng, out: &mut dyn Write) -> io::Result<()> {
    in_chunks(len, 1, out, |chunk| {
        for group in chunk.chunks_mut(8) {
            let mut fraction = rng.next_u64();
            for byte in group {
                let product = u128::from(fraction) * 81;
                *byte = TERNARY_BYTES[(product >> 64) as usize];
                fraction = product as u64;
            }
        }
    })
}

/// Values of the embedding, `rounded` to f16.
fn write_normal_f16(
    elements: u64,
    rounded: impl Fn(f32) -> f16,
    rng: &mut ChaCha8Rng,
    out: &mut dyn Write,
) -> io::Result<()> {
    let table = HalfNormal::new();
    let value = |bits: u16| rounded(table.value_of_16_bits(bits) * EMBEDDING_STD).to_le_bytes();
    let values: Vec<[u8; 2]> = (0..=u16::MAX).map(value).collect();
    in_chunks(elements, 2, out, |chunk| {
        rng.fill_bytes(chunk);
        for element in chunk.chunks_exact_mut(2) {
            let bits = u16::from_le_bytes([element[0], element[1]]);
            element.copy_from_slice(&values[usize::from(bits)]);
        }
    })
}

fn write_normal_f32(elements: u64, std: f32, rng: &mut ChaCha8Rng, out: &mut dyn Write) -> io::Result<()> {
    let table = HalfNormal::new();
    write_f32(elements, out, |_| table.value_of_32_bits(rng.next_u32()) * std)
}

fn write_f32(elements: u64, out: &mut dyn Write, mut value: impl FnMut(u64) -> f32) -> io::Result<()> {
    let mut index = 0;
    in_chunks(elements, 4, out, |chunk| {
        for element in chunk.chunks_exact_mut(4) {
            element.copy_from_slice(&value(index).to_le_bytes());
            index += 1;
        }
    })
}

/// Writes `elements` × `size` bytes that `fill` makes, a chunk of whole elements at a time.
fn in_chunks(
    elements: u64,
    size: u64,
    out: &mut dyn Write,
    mut fill: impl FnMut(&mut [u8]),
) -> io::Result<()> {
    let mut buffer = [0; CHUNK];
    let mut left = elements * size;
    while left > 0 {
        let chunk = &mut buffer[..left.min(CHUNK as u64) as usize];
        fill(chunk);
        out.write_all(chunk)?;
        left -= chunk.len() as u64;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn data(name: &str, dims: &[u64], contents: Contents, seed: u64) -> Vec<u8> {
        let plan = TensorPlan { name: name.to_owned(), dims: dims.to_vec(), contents };
        let mut bytes = Vec::new();
        write(&plan, seed, &mut bytes).unwrap();
        assert_eq!(Some(bytes.len() as u64), plan.tensor_type().byte_len(dims), "{name}");
        bytes
    }

    fn floats(bytes: &[u8]) -> Vec<f32> {
        bytes.chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect()
    }

    const TERNARY: Contents = Contents::Ternary { gain: 1.0, input: 1.0 };

    #[test]
    fn codes_are_uniform_and_never_3() {
        let bytes = data("blk.0.attn_q.weight", &[512, 512], TERNARY, 0);
        let mut counts = [0u32; 4];
        for byte in &bytes[..512 * 512 / 4] {
            for shift in [0, 2, 4, 6] {
                counts[usize::from(byte >> shift & 3)] += 1;
            }
        }
        // 262144 codes: five standard deviations are 1207.
        assert_eq!(counts[3], 0);
        assert!(counts[..3].iter().all(|count| count.abs_diff(262_144 / 3) < 1207), "{counts:?}");
    }

    #[test]
    fn the_tail_is_a_scale_that_keeps_activations_of_order_one() {
        let bytes = data("blk.0.attn_q.weight", &[512, 256], TERNARY, 0);
        let (codes, tail) = bytes.split_at(512 * 256 / 4);
        let scale = f32::from_le_bytes(tail[..4].try_into().unwrap());
        // A row of 512 codes times inputs of ±1: a sum of about 341 terms of ±1, times the scale.
        let rms = scale * (512.0f32 * 2.0 / 3.0).sqrt();
        assert!((0.8..=1.2).contains(&rms), "{rms}");
        assert!(tail[4..].iter().all(|byte| *byte == 0));
        assert_eq!((codes.len(), tail.len()), (32_768, TAIL_BYTES));
    }

    #[test]
    fn the_stream_depends_on_seed_and_name_only() {
        let first = data("a", &[128, 4], TERNARY, 0);
        assert_eq!(first, data("a", &[128, 4], TERNARY, 0));
        assert_ne!(first, data("a", &[128, 4], TERNARY, 1));
        assert_ne!(first, data("b", &[128, 4], TERNARY, 0));
        let longer = data("a", &[128, 8], TERNARY, 0);
        assert_eq!(longer[..128], first[..128], "more rows do not change the first ones");
    }

    #[test]
    fn embeddings_are_normal_in_both_types() {
        for head in HeadType::ALL {
            let bytes = data("token_embd.weight", &[256, 300], Contents::Embedding(head), 3);
            let values: Vec<f64> = match head {
                HeadType::F32 => floats(&bytes).into_iter().map(f64::from).collect(),
                HeadType::F16 | HeadType::F16FromBf16 => {
                    bytes.chunks_exact(2).map(|b| f16::from_le_bytes([b[0], b[1]]).to_f64()).collect()
                }
            };
            let variance = values.iter().map(|v| v * v).sum::<f64>() / values.len() as f64;
            let std = f64::from(EMBEDDING_STD);
            assert!((variance.sqrt() / std - 1.0).abs() < 0.02, "{head}: {}", variance.sqrt());
            let within = values.iter().filter(|v| v.abs() < std).count() as f64 / values.len() as f64;
            assert!((within - 0.6827).abs() < 0.01, "{head}: {within}");
        }
    }

    #[test]
    fn embeddings_from_bf16_lose_nothing_as_bf16_and_the_others_do() {
        for (head, lossless) in [(HeadType::F16FromBf16, true), (HeadType::F16, false)] {
            let bytes = data("token_embd.weight", &[256, 4], Contents::Embedding(head), 3);
            let values = bytes.chunks_exact(2).map(|b| f16::from_le_bytes([b[0], b[1]]).to_f32());
            let mut kept = values.map(|value| bf16::from_f32(value).to_f32() == value);
            assert_eq!(kept.all(|kept| kept), lossless, "{head}");
        }
    }

    #[test]
    fn norm_weights_have_both_signs_and_keep_their_level() {
        let weights =
            floats(&data("blk.0.attn_norm.weight", &[2560], Contents::NormWeight { level: 0.02 }, 0));
        assert!(weights.iter().all(|w| (0.01..=0.03).contains(&w.abs())));
        let negative = weights.iter().filter(|w| **w < 0.0).count();
        assert!((40..=120).contains(&negative), "{negative} of 2560");
    }

    #[test]
    fn rope_factors_start_at_1_and_vary() {
        let factors = floats(&data("rope_freqs.weight", &[64], Contents::RopeFactors, 0));
        assert_eq!(factors[0], 1.0);
        assert!(factors.iter().all(|factor| (1.0..8.0).contains(factor)));
        assert!(factors.iter().any(|factor| *factor > 2.0));
        assert_eq!(floats(&data("rope_freqs.weight", &[1], Contents::RopeFactors, 0)), [1.0]);
    }

    #[test]
    fn biases_are_not_zero() {
        let biases = floats(&data("blk.0.attn_q.bias", &[256], Contents::Bias, 0));
        assert!(biases.iter().all(|bias| *bias != 0.0 && bias.abs() < 0.5));
    }
}
