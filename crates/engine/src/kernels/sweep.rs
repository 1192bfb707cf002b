//! Every kernel against the scalar one on many random rows: widths of 1 to 65 blocks, 1 to 70 tokens,
//! weights and activations at their extremes among them.
//!
//! A product of one row of weights with one token counts as a row. `BITNET_KERNEL_ROWS` says how many
//! there are to be; without it a small number keeps the tests fast. 10 million take some minutes:
//! `BITNET_KERNEL_ROWS=10000000 cargo test --release -p engine --lib kernels::sweep`.

use super::paired::Far;
use super::*;
use crate::quant::{base3, e3m7, i2_s};

/// Rows without a wish for more.
const ROWS: usize = 60_000;

/// The most blocks of a row: beyond 64, because sums of 16 bits are flushed every so many blocks.
const MOST_BLOCKS: u64 = 65;
/// The most tokens: several tiles of each kernel, and what is left over.
const MOST_TOKENS: u64 = 70;

/// SplitMix64: a stream of numbers that depends on the seed alone.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ self.0 >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ mixed >> 31
    }

    /// From 1 to `most`; now and then exactly one of the two.
    fn up_to(&mut self, most: u64) -> usize {
        match self.next() % 16 {
            0 => 1,
            1 => most as usize,
            _ => (1 + self.next() % most) as usize,
        }
    }

    /// Packed codes 0 to 2: random ones, or all alike.
    fn codes(&mut self, bytes: usize) -> Vec<u8> {
        // Each of the four codes of a byte, from the byte's digits in base 3.
        let byte = |digits: u64| (0..4).fold(0, |byte, i| byte << 2 | (digits / 3u64.pow(i) % 3) as u8);
        match self.next() % 8 {
            0 => vec![byte(0); bytes],
            1 => vec![byte(80); bytes],
            _ => (0..bytes).map(|_| byte(self.next() % 81)).collect(),
        }
    }

    /// Activations: random ones, or the largest, the smallest, or both.
    fn activations(&mut self, count: usize) -> Vec<i8> {
        match self.next() % 8 {
            0 => vec![127; count],
            1 => vec![-128; count],
            2 => (0..count).map(|_| if self.next().is_multiple_of(2) { 127 } else { -128 }).collect(),
            _ => (0..count).map(|_| self.next() as i8).collect(),
        }
    }
}

#[test]
fn every_kernel_has_the_scalar_ones_bits_on_random_rows() {
    let wish = std::env::var("BITNET_KERNEL_ROWS").ok();
    let wanted = wish.map_or(ROWS, |rows| rows.parse().expect("BITNET_KERNEL_ROWS: a number"));
    let kernels: Vec<_> = available().into_iter().map(|isa| select(Some(isa)).unwrap()).collect();
    let mut random = Random(158);
    let (mut done, mut products) = (0, 0);
    let (mut widest, mut most_tokens) = (0, 0);
    while done < wanted {
        let (blocks, tokens) = (random.up_to(MOST_BLOCKS), random.up_to(MOST_TOKENS));
        (widest, most_tokens) = (widest.max(blocks), most_tokens.max(tokens));
        // Up to some tiles of four rows and what is left over; many for one token, which is done in
        // another way.
        let rows = random.up_to(if tokens == 1 { 200 } else { 37 });
        let width = blocks * i2_s::BLOCK;
        let (packed, q) = (random.codes(rows * width / 4), random.activations(tokens * width));
        let quantized: Vec<QuantizedRow> = q
            .chunks_exact(width)
            .map(|q| QuantizedRow {
                scale: 0.5 + (random.next() % 1000) as f32,
                sum: q.iter().map(|&q| i32::from(q)).sum(),
            })
            .collect();
        let weights = Ternary::new(&packed, width, 0.37);
        let product = |kernels: &dyn Kernels| {
            let mut out = vec![f32::NAN; rows * tokens];
            kernels.i2_s_gemm(weights, &q, &quantized, &mut out, rows);
            out.into_iter().map(f32::to_bits).collect::<Vec<u32>>()
        };
        let expected = product(&Scalar);
        for kernels in &kernels {
            let found = product(*kernels);
            let wrong = expected.iter().zip(&found).position(|(expected, found)| expected != found);
            assert!(
                wrong.is_none(),
                "{}: {blocks} blocks, {rows} rows, {tokens} tokens: result {wrong:?} (product {products})",
                kernels.isa()
            );
            let found = paired_product(*kernels, weights, &q, &quantized);
            assert!(
                found == expected,
                "{}, pairs: {blocks} blocks, {rows} rows, {tokens} tokens (product {products})",
                kernels.isa()
            );
        }
        done += rows * tokens;
        products += 1;
    }
    if wanted >= ROWS {
        assert_eq!((widest as u64, most_tokens as u64), (MOST_BLOCKS, MOST_TOKENS), "all sizes occur");
    }
}

/// More tokens than a panel of weights is unpacked for, and the widest rows, whose sums pass the end of an i32 on their way to
/// a result that lies within: large activations, at and beyond the largest factor.
#[test]
fn pairs_have_the_scalar_ones_bits_with_many_tokens_and_in_the_widest_rows() {
    let mut random = Random(32);
    for (width, rows, tokens, extremes) in [
        (i2_s::BLOCK, 33, 277, &[126, 127, -126, i8::MIN][..]),
        (28 * i2_s::BLOCK, 33, 277, &[126]),
        (i2_s::WIDEST_ROW, 1, 1, &[126]),
    ] {
        let packed = random.codes(width * rows / 4);
        for &q in extremes {
            let mut q = vec![q; tokens * width];
            for _ in 0..width {
                let index = random.next() as usize % q.len();
                q[index] = random.next() as i8;
            }
            let sum = |q: &[i8]| q.iter().map(|&q| i32::from(q)).sum();
            let quantized: Vec<_> =
                q.chunks_exact(width).map(|q| QuantizedRow { scale: 1.0, sum: sum(q) }).collect();
            let weights = Ternary::new(&packed, width, 0.37);
            let mut expected = vec![f32::NAN; rows * tokens];
            Scalar.i2_s_gemm(weights, &q, &quantized, &mut expected, rows);
            let expected: Vec<u32> = expected.into_iter().map(f32::to_bits).collect();
            for kernels in available().into_iter().map(|isa| select(Some(isa)).unwrap()) {
                let found = paired_product(kernels, weights, &q, &quantized);
                assert!(found == expected, "{}: width {width}, {tokens} tokens", kernels.isa());
            }
        }
    }
}

/// The bits of a product of pairs, whose factors the kernels have arranged as the scalar ones do.
fn paired_product(
    kernels: &dyn Kernels,
    weights: Ternary<'_>,
    q: &[i8],
    quantized: &[QuantizedRow],
) -> Vec<u32> {
    let (width, tokens) = (weights.width(), quantized.len());
    let arrange = |kernels: &dyn Kernels| {
        let mut paired = PairedTokens::default();
        paired.arrange(kernels, q, width);
        paired
    };
    let (paired, expected) = (arrange(kernels), arrange(&Scalar));
    for (found, expected) in (0..expected.tiles()).map(|index| (paired.tile(index), expected.tile(index))) {
        assert!(found.factors == expected.factors, "{}: factors", kernels.isa());
        assert_eq!(found.sums.sums, expected.sums.sums, "{}", kernels.isa());
        // Of one step, in any order.
        let sorted = |far: &[Far]| {
            let mut far = far.to_vec();
            far.sort_unstable_by_key(|far| (far.step, far.token, far.pair, far.second));
            far
        };
        assert!(found.sums.far.is_sorted_by_key(|far| far.step), "{}", kernels.isa());
        assert_eq!(sorted(&found.sums.far), sorted(&expected.sums.far), "{}", kernels.isa());
    }
    let mut out = vec![f32::NAN; weights.count() * tokens];
    let mut outs: Vec<&mut [f32]> = out.chunks_exact_mut(weights.count()).collect();
    kernels.paired_gemm(weights, &paired, quantized, &mut outs);
    out.into_iter().map(f32::to_bits).collect()
}

/// The sums of a screen: whole numbers, so that only one value is right.
#[test]
fn every_kernel_has_the_scalar_ones_sums_of_a_screen() {
    let kernels: Vec<_> = available().into_iter().map(|isa| select(Some(isa)).unwrap()).collect();
    let mut random = Random(8);
    let check = |codes: &[u8], planes: [&[i8]; 2]| {
        let rows = codes.len() / planes[0].len();
        let sums = |kernels: &dyn Kernels| {
            let mut out = vec![[i32::MIN; 2]; rows];
            kernels.screen_dots(codes, planes, &mut out);
            out
        };
        let expected = sums(&Scalar);
        let by_hand =
            |plane: &[i8]| codes.iter().zip(plane).map(|(&c, &p)| i64::from(c) * i64::from(p)).sum::<i64>();
        assert_eq!(expected[0].map(i64::from), planes.map(by_hand));
        for kernels in &kernels {
            assert_eq!(sums(*kernels), expected, "{}: width {}, {rows} rows", kernels.isa(), planes[0].len());
        }
    };
    for _ in 0..400 {
        let (width, rows) = (random.up_to(300), random.up_to(9));
        let codes: Vec<u8> = match random.next() % 4 {
            0 => vec![255; width * rows],
            _ => (0..width * rows).map(|_| random.next() as u8).collect(),
        };
        let planes = [random.activations(width), random.activations(width)];
        check(&codes, [&planes[0], &planes[1]]);
    }
    // The widest row at its extremes is next to the end of an i32.
    let width = 1 << 16;
    check(&vec![255; 2 * width], [&vec![-128; width], &vec![127; width]]);
}

/// Rows with five codes to a byte: what the same codes give in I2_S.
#[test]
fn every_kernel_has_the_bits_of_i2_s_with_five_codes_to_a_byte() {
    let wish = std::env::var("BITNET_KERNEL_ROWS").ok();
    let wanted = wish.map_or(ROWS / 4, |rows| rows.parse().expect("BITNET_KERNEL_ROWS: a number"));
    let kernels: Vec<_> = available().into_iter().map(|isa| select(Some(isa)).unwrap()).collect();
    let mut random = Random(3);
    let mut done = 0;
    while done < wanted {
        let (blocks, rows) = (random.up_to(MOST_BLOCKS), random.up_to(200));
        let width = blocks * i2_s::BLOCK;
        let (i2_s_rows, q) = (random.codes(rows * width / 4), random.activations(width));
        let mut packed = vec![0; rows * base3::row_bytes(width)];
        let mut codes = vec![0; width];
        for (row, packed) in
            i2_s_rows.chunks_exact(width / 4).zip(packed.chunks_exact_mut(base3::row_bytes(width)))
        {
            assert!(base3::repack_row(row, &mut codes, packed));
        }
        let sum = q.iter().map(|&q| i32::from(q)).sum();
        let quantized = QuantizedRow { scale: 0.5 + (random.next() % 1000) as f32, sum };
        let mut expected = vec![f32::NAN; rows];
        Scalar.i2_s_gemm(Ternary::new(&i2_s_rows, width, 0.37), &q, &[quantized], &mut expected, rows);
        let expected: Vec<u32> = expected.into_iter().map(f32::to_bits).collect();
        for kernels in &kernels {
            let mut found = vec![f32::NAN; rows];
            kernels.base3_gemv(Base3::new(&packed, width, 0.37), &q, quantized, &mut found);
            let found: Vec<u32> = found.into_iter().map(f32::to_bits).collect();
            assert!(found == expected, "{}: {blocks} blocks, {rows} rows", kernels.isa());
        }
        done += rows;
    }
}

/// The widest rows that may have a copy, with every code and every activation at its extreme; and then those of one lane of a
/// kernel alone, because an overflow that all lanes share may cancel.
#[test]
fn the_widest_rows_have_exact_sums_with_five_codes_to_a_byte() {
    let width = base3::WIDEST / i2_s::BLOCK * i2_s::BLOCK;
    let mut packed = vec![0; base3::row_bytes(width)];
    base3::pack_row(&vec![2; width], &mut packed);
    for (q, bytes) in [i8::MIN, i8::MAX].into_iter().flat_map(|q| [(q, base3::BLOCK_BYTES), (q, 4)]) {
        let extremes = (0..width).map(|i| if i % base3::BLOCK_BYTES < bytes { q } else { 0 });
        let activations: Vec<i8> = extremes.collect();
        let quantized = QuantizedRow { scale: 1.0, sum: 0 };
        let sum: i32 = activations.iter().map(|&q| 2 * i32::from(q)).sum();
        let expected = quantized.rescale(sum, 1.0);
        for isa in available() {
            let mut found = [f32::NAN];
            let weights = Base3::new(&packed, width, 1.0);
            select(Some(isa)).unwrap().base3_gemv(weights, &activations, quantized, &mut found);
            assert_eq!(found, [expected], "{isa}, {q} at {bytes} of {}", base3::BLOCK_BYTES);
        }
    }
}

/// Rows with 11 bits to a weight: what the same weights give in f16. Weights of every magnitude and zeros are among them;
/// activations too, and such as are not finite.
#[test]
fn every_kernel_has_the_bits_of_f16_with_11_bits_to_a_weight() {
    let kernels: Vec<_> = available().into_iter().map(|isa| select(Some(isa)).unwrap()).collect();
    let held: Vec<f16> =
        (0..=u16::MAX).map(f16::from_bits).filter(|value| e3m7::far_bytes(&[*value]).is_some()).collect();
    let near_one: Vec<f16> =
        held.iter().copied().filter(|x| (0.25..4.0).contains(&x.to_f32().abs())).collect();
    let tiny: Vec<f16> = held.iter().copied().filter(|x| x.to_f32().abs() < 1e-3).collect();
    let [smallest, largest] = [f16::from_bits(1), f16::from_f32(127.5)];
    // Which of several NaN is left is the CPU's choice, by the order of its operands.
    let bits = |value: f32| if value.is_nan() { f32::NAN.to_bits() } else { value.to_bits() };
    let finite = |bits: u16| {
        let value = f16::from_bits(bits);
        if value.is_finite() { value } else { f16::from_bits(bits & 0x83ff) }
    };
    let mut random = Random(11);
    for round in 0..600 {
        let (blocks, rows) = (random.up_to(65), random.up_to(30));
        let width = blocks * e3m7::BLOCK;
        let mut weights: Vec<f16> = match random.next() % 8 {
            0 => vec![f16::NEG_ZERO; rows * width],
            1 => (0..rows * width).map(|i| if i % 3 == 0 { smallest } else { largest }).collect(),
            2 => (0..rows * width).map(|_| held[random.up_to(held.len() as u64) - 1]).collect(),
            // Every third block is far from the others.
            3 => (0..rows * width)
                .map(|i| {
                    if i / e3m7::BLOCK % 3 == 1 { tiny[i % tiny.len()] } else { near_one[i % near_one.len()] }
                })
                .collect(),
            _ => (0..rows * width).map(|_| near_one[random.up_to(near_one.len() as u64) - 1]).collect(),
        };
        // One row of zeros between others.
        weights[rows / 2 * width..][..width].fill(f16::ZERO);
        let mut x: Vec<f32> = match random.next() % 8 {
            0 => vec![65504.0; width],
            1 => vec![-0.0; width],
            2 => (0..width).map(|_| finite(random.next() as u16).to_f32()).collect(),
            _ => (0..width).map(|_| f16::from_f32(random.next() as i16 as f32 / 9000.0).to_f32()).collect(),
        };
        match round % 10 {
            7 => x[random.up_to(width as u64) - 1] = f32::INFINITY,
            8 => x[random.up_to(width as u64) - 1] = f32::NAN,
            6 => [x[0], x[width - 1], x[width / 2]] = [-f32::NAN, f32::NAN, f32::NEG_INFINITY],
            9 => x[random.up_to(width as u64) - 1] = smallest.to_f32(),
            _ => {}
        }
        let mut expected = vec![f32::NAN; rows];
        Scalar.f16_gemm(Rows::packed(&weights, width), Rows::packed(&x, width), &mut expected, rows);
        let expected: Vec<u32> = expected.into_iter().map(bits).collect();
        let (packed, far, lists) = pack_e3m7(&weights, width);
        let scaled: Vec<f32> = x.iter().map(|x| x * e3m7::SCALE).collect();
        for kernels in &kernels {
            let mut found = vec![f32::NAN; rows];
            kernels.e3m7_gemv(E3m7::new(&packed, &far, &lists, width), &scaled, &mut found);
            let found: Vec<u32> = found.into_iter().map(bits).collect();
            assert!(found == expected, "{}: {blocks} blocks, {rows} rows, round {round}", kernels.isa());
        }
    }
}

/// Rows with 11 bits to a weight, the lists of their far values, and their bounds.
fn pack_e3m7(weights: &[f16], width: usize) -> (Vec<u8>, Vec<u8>, Vec<u32>) {
    let (mut packed, mut far, mut lists) = (Vec::new(), Vec::new(), vec![0]);
    for row in weights.chunks_exact(width) {
        let (mut bytes, mut list) = (vec![0; e3m7::row_bytes(width)], vec![0; e3m7::far_bytes(row).unwrap()]);
        assert!(e3m7::pack_row(row, &mut bytes, &mut list));
        packed.append(&mut bytes);
        far.append(&mut list);
        lists.push(u32::try_from(far.len()).unwrap());
    }
    // What lies behind the lists does not matter.
    far.resize(far.len() + e3m7::most_far_bytes(width), 0xff);
    (packed, far, lists)
}
