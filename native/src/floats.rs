//! What `understudy/coding/lowrank.py` does to floats, word by word, before and after its matrices are multiplied.

use crate::words::Word;

/// Words of floats that adapters are merged into; what is done in numpy alone (float16) is not here.
pub trait Float: Word {
    /// All bits of the exponent. Where none of them is set there is a subnormal or a zero, where all are, no number.
    const EXPONENT: Self;
    /// What differences are held as.
    type Wide: Copy + Default + Into<f64>;
    fn is_wild(self) -> bool;
    /// The word nearest to its value (a subnormal's is +0) and what is added.
    fn rounded(self, product: f64) -> Self;
    fn minus(self, other: Self) -> Self::Wide;
}

impl Float for u16 {
    const EXPONENT: u16 = 0x7F80;
    type Wide = f32;
    #[inline(always)]
    fn is_wild(self) -> bool {
        self & Self::EXPONENT == Self::EXPONENT
    }
    #[inline(always)]
    fn rounded(self, product: f64) -> u16 {
        let plain = if self & Self::EXPONENT == 0 { 0 } else { self };
        let bits = (product as f32 + f32::from_bits(u32::from(plain) << 16)).to_bits();
        let rounded = (bits.wrapping_add(0x7FFF + (bits >> 16 & 1)) >> 16) as u16;
        if self.is_wild() {
            self
        } else {
            rounded
        }
    }
    #[inline(always)]
    fn minus(self, other: u16) -> f32 {
        let value = |word: u16| f32::from_bits(u32::from(word) << 16);
        let difference = value(self) - value(other);
        if difference.is_finite() {
            difference
        } else {
            0.0
        }
    }
}

impl Float for u32 {
    const EXPONENT: u32 = 0x7F80_0000;
    type Wide = f64;
    #[inline(always)]
    fn is_wild(self) -> bool {
        self & Self::EXPONENT == Self::EXPONENT
    }
    #[inline(always)]
    fn rounded(self, product: f64) -> u32 {
        let plain = if self & Self::EXPONENT == 0 { 0 } else { self };
        let rounded = ((product + f64::from(f32::from_bits(plain))) as f32).to_bits();
        if self.is_wild() {
            self
        } else {
            rounded
        }
    }
    #[inline(always)]
    fn minus(self, other: u32) -> f64 {
        let difference = f64::from(f32::from_bits(self)) - f64::from(f32::from_bits(other));
        if difference.is_finite() {
            difference
        } else {
            0.0
        }
    }
}

/// round(words + product), NaN and infinities as they are.
#[inline(always)]
pub fn rounded<W: Float>(words: &[u8], product: &[f64], out: &mut [u8]) {
    let words = words.chunks_exact(W::BYTES).zip(product);
    for ((word, product), out) in words.zip(out.chunks_exact_mut(W::BYTES)) {
        W::read(word).rounded(*product).write(out);
    }
}

const LANES: usize = 16;

/// after - before, 0 where that is no number; gives the sum of the squares.
#[inline(always)]
pub fn difference<W: Float>(after: &[u8], before: &[u8], out: &mut [W::Wide]) -> f64 {
    let mut sums = [0.0; LANES];
    let bytes = LANES * W::BYTES;
    for ((after, before), out) in after.chunks(bytes).zip(before.chunks(bytes)).zip(out.chunks_mut(LANES)) {
        let words = after.chunks_exact(W::BYTES).zip(before.chunks_exact(W::BYTES));
        for (((after, before), out), sum) in words.zip(out).zip(&mut sums) {
            *out = W::read(after).minus(W::read(before));
            let wide: f64 = (*out).into();
            *sum += wide * wide;
        }
    }
    sums.iter().sum()
}
