//! The screen against all products.

use super::*;
use crate::kernels::{available, select};

/// Numbers that look random, the same in each run.
struct Numbers(u64);

impl Numbers {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    /// About normal, by the sum of twelve.
    fn normal(&mut self) -> f32 {
        (0..12).map(|_| (self.next() >> 40) as f32 / (1u64 << 24) as f32).sum::<f32>() - 6.0
    }

    fn halves(&mut self, count: usize, deviation: f32) -> Vec<f16> {
        (0..count).map(|_| f16::from_f32(self.normal() * deviation)).collect()
    }

    fn vector(&mut self, count: usize, deviation: f32) -> Vec<f32> {
        self.halves(count, deviation).into_iter().map(f16::to_f32).collect()
    }
}

/// The choice among all products, as the harness makes it.
fn by_all_products(kernels: &dyn Kernels, values: &[f16], x: &[f32]) -> Option<usize> {
    let mut products = vec![0.0; values.len() / x.len()];
    let rows = products.len();
    kernels.f16_gemm(Rows::packed(values, x.len()), Rows::packed(x, x.len()), &mut products, rows);
    if products.iter().any(|product| product.is_nan()) {
        return None;
    }
    (0..rows).reduce(|best, row| if products[row] > products[best] { row } else { best })
}

/// The screen's choice, and the number of rows it computed; all rows where it gives up.
fn by_screen(isa: crate::kernels::Isa, values: &[f16], x: &[f32], threads: usize) -> (Option<usize>, usize) {
    let (kernels, threads) = (select(Some(isa)).unwrap(), Threads::new(threads).unwrap());
    let mut screen = Screen::new(&threads, values, x.len()).unwrap();
    let all = values.len() / x.len();
    screen.largest(kernels, &threads, values, x).unwrap_or_else(|| (by_all_products(kernels, values, x), all))
}

#[test]
fn the_choice_is_that_of_all_products_and_few_rows_are_computed() {
    let mut numbers = Numbers(7);
    for isa in available() {
        for (width, rows) in [(2560, 1500), (256, 3000), (65, 900), (31, 500), (1, 40)] {
            let values = numbers.halves(width * rows, 0.02);
            for round in 0..4 {
                let x = numbers.vector(width, 1.0 + round as f32);
                let expected = by_all_products(select(Some(isa)).unwrap(), &values, &x);
                let (found, computed) = by_screen(isa, &values, &x, 1 + round % 3);
                assert_eq!(found, expected, "{isa} {width} × {rows}");
                assert!(width < 1000 || computed < rows / 50, "{isa} {width} × {rows}: {computed} computed");
            }
        }
    }
}

/// Every product lies within its bounds, also where values are as far apart as f16 allows.
#[test]
fn products_lie_within_their_bounds() {
    let mut numbers = Numbers(99);
    let threads = Threads::alone();
    for isa in available() {
        let kernels = select(Some(isa)).unwrap();
        for (width, case) in [(2560, 0), (96, 1), (100, 2), (640, 3), (64, 4), (333, 5), (8, 6)] {
            let rows = 200;
            let mut values = numbers.halves(width * rows, if case == 4 { 1e-7 } else { 0.05 });
            let mut x = numbers.vector(width, 2.0);
            match case {
                // An outlier per row, and one in the vector.
                1 => values.iter_mut().step_by(width).for_each(|value| *value = f16::MAX),
                2 => x[3] = 60_000.0,
                // Rows that lose nothing, and a vector that does: whatever is between the steps of its outlier.
                6 => {
                    let whole =
                        |value: &f16| f16::from_f32((value.to_f32() * 900.0).round().clamp(-127.0, 127.0));
                    values = values.iter().map(whole).collect();
                    values.iter_mut().step_by(width).for_each(|value| *value = f16::from_f32(127.0));
                    x[3] = 60_000.0;
                }
                3 => x.iter_mut().step_by(2).for_each(|x| *x = 6e-8),
                _ => {}
            }
            let screen = Screen::new(&threads, &values, width).unwrap();
            let mut products = vec![0.0; rows];
            kernels.f16_gemm(Rows::packed(&values, width), Rows::packed(&x, width), &mut products, rows);
            let mut highest = vec![0.0; rows];
            let reached = screen.bound(kernels, &Probe::new(&x).unwrap(), 0..rows, &mut highest);
            let largest = products.iter().copied().fold(f32::NEG_INFINITY, f32::max);
            assert!(reached <= f64::from(largest), "{isa} case {case}: {reached} and {largest}");
            // The same for the smallest, by the other sign.
            let negated: Vec<f32> = x.iter().map(|x| -x).collect();
            let mut lowest = vec![0.0; rows];
            screen.bound(kernels, &Probe::new(&negated).unwrap(), 0..rows, &mut lowest);
            for (row, &product) in products.iter().enumerate() {
                let (low, high) = (-lowest[row], highest[row]);
                assert!((low..=high).contains(&f64::from(product)), "{isa} case {case} row {row}");
                let norm = |values: &mut dyn Iterator<Item = f64>| values.map(|v| v * v).sum::<f64>().sqrt();
                let weights = values[row * width..][..width].iter().map(|v| v.to_f64());
                let all = norm(&mut weights.into_iter()) * norm(&mut x.iter().map(|&x| f64::from(x)));
                assert!(high - low <= all, "{isa} case {case} row {row}: bounds that say nothing");
            }
        }
    }
}

#[test]
fn the_lowest_of_equal_rows_is_chosen() {
    let mut numbers = Numbers(3);
    let (width, rows) = (128, 600);
    let mut values = numbers.halves(width * rows, 0.02);
    let x = numbers.vector(width, 1.0);
    let best = by_all_products(select(None).unwrap(), &values, &x).unwrap();
    let copy = values[best * width..][..width].to_vec();
    for row in [599, 411, 17] {
        values[row * width..][..width].copy_from_slice(&copy);
    }
    for isa in available() {
        assert_eq!(by_screen(isa, &values, &x, 2).0, Some(best.min(17)), "{isa}");
    }
}

#[test]
fn values_that_are_not_finite_give_what_all_products_give() {
    let mut numbers = Numbers(5);
    let (width, rows) = (64, 400);
    let clean = numbers.halves(width * rows, 0.02);
    let x = numbers.vector(width, 1.0);
    for isa in available() {
        let kernels = select(Some(isa)).unwrap();
        for bad in [f16::INFINITY, f16::NEG_INFINITY, f16::NAN] {
            let mut values = clean.clone();
            values[77 * width + 5] = bad;
            assert_eq!(
                by_screen(isa, &values, &x, 2).0,
                by_all_products(kernels, &values, &x),
                "{isa} {bad}"
            );
        }
        let two = [vec![f16::ONE; width], vec![f16::INFINITY; width]].concat();
        assert_eq!(by_screen(isa, &two, &vec![0.0; width], 1).0, None, "{isa}: ∞·0 is no number");
        let mut bad_x = x.clone();
        bad_x[9] = f32::INFINITY;
        let mut screen = Screen::new(&Threads::alone(), &clean, width).unwrap();
        assert_eq!(screen.largest(kernels, &Threads::alone(), &clean, &bad_x), None, "{isa}");
    }
}

#[test]
fn a_zero_vector_and_zero_rows_leave_the_choice_to_all_products() {
    let (width, rows) = (96, 100);
    let zeros = vec![f16::ZERO; width * rows];
    let x = Numbers(1).vector(width, 1.0);
    for isa in available() {
        assert_eq!(by_screen(isa, &zeros, &x, 1), (Some(0), rows), "{isa}");
        let values = Numbers(2).halves(width * rows, 1.0);
        assert_eq!(by_screen(isa, &values, &vec![0.0; width], 1).0, Some(0), "{isa}");
    }
}

#[test]
fn rows_too_wide_for_exact_sums_are_refused() {
    let values = vec![f16::ONE; WIDEST + 1];
    assert!(Screen::new(&Threads::alone(), &values, WIDEST + 1).is_none());
    assert!(Screen::new(&Threads::alone(), &values[1..], WIDEST).is_some());
}
